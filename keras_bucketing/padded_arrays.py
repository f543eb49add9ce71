"""Arrays that are already padded, back to sequences of their own length."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.checks import check_choice, check_lengths, check_number
from keras_bucketing.host_tensor import standard_dtype
from keras_bucketing.ragged import Ragged, as_regular_array, row_splits_of


def ragged_from_padded(x: Any, lengths: Any, mask_value: Any, padding: str, name: str = "x") -> Ragged:
    """Takes the real timesteps out of a padded array.

    Args:
        x: Array `(num_rows, time, *features)`.
        lengths: Ints `(num_rows,)`, or None: all but the run of `mask_value` timesteps at the padded end.
        mask_value: Number that the padding holds; a timestep is padding if all of its features equal it.
        padding: "post" or "pre", the end that is padded.
        name: What to call the array in an error message.
    """
    check_choice("padding", padding, ("post", "pre"))
    mask_value = check_number("mask_value", mask_value)
    if isinstance(x, dict):
        raise TypeError(
            f"`{name}` must be one padded array. Received a dict. Pass sequences that are not padded, in a dict, to "
            "BucketedSequence itself."
        )
    array = as_regular_array(x, name, "Pass sequences that are not padded to BucketedSequence itself.")
    if array.dtype.kind not in "biuf":
        standard_dtype(array.dtype, name)
    if array.ndim < 2:
        raise ValueError(
            f"`{name}` must be padded. Expected an array of shape (num_sequences, time, ...), received shape "
            f"{array.shape}. Pass sequences that are not padded to BucketedSequence itself."
        )
    if not len(array):
        raise ValueError(f"`{name}` has no sequences. Expected at least one.")
    num_rows, time = array.shape[:2]
    if lengths is None:
        lengths = _lengths_of(array, mask_value, padding)
    else:
        lengths = check_lengths(lengths, minimum=0)
        if len(lengths) != num_rows:
            raise ValueError(
                f"`lengths` must have one entry for each sequence. Expected {num_rows} as in `{name}`, received "
                f"{len(lengths)}."
            )
        if lengths.max() > time:
            at = int(np.argmax(lengths))
            raise ValueError(
                f"`lengths` must not exceed the padded length. Expected at most {time}, received {lengths[at]} at "
                f"lengths[{at}]."
            )
    from_real_end = np.arange(time) if padding == "post" else np.arange(time)[::-1]
    values = array[from_real_end < lengths[:, np.newaxis]]
    return Ragged(values.astype(standard_dtype(values.dtype, name), copy=False), row_splits_of(lengths))


def labels_from_padded(labels: Any, padded_shape: tuple[int, ...], lengths: np.ndarray, padding: str) -> Any:
    """Makes those leaves ragged that are padded like the sequences: `(num_rows, time, ...)`."""
    if isinstance(labels, dict):
        return {key: labels_from_padded(leaf, padded_shape, lengths, padding) for key, leaf in labels.items()}
    if isinstance(labels, tuple):
        return tuple(labels_from_padded(leaf, padded_shape, lengths, padding) for leaf in labels)
    if hasattr(labels, "shape") and tuple(labels.shape)[:2] == tuple(padded_shape):
        return ragged_from_padded(labels, lengths, 0, padding, name="y")
    return labels


def _lengths_of(array: np.ndarray, mask_value: Any, padding: str) -> np.ndarray:
    is_padding = np.isnan(array) if mask_value != mask_value else array == mask_value
    real = ~is_padding.reshape(*array.shape[:2], -1).all(axis=2)
    from_padded_end = real[:, ::-1] if padding == "post" else real
    padded = np.where(real.any(axis=1), np.argmax(from_padded_end, axis=1), array.shape[1])
    lengths: np.ndarray = (array.shape[1] - padded).astype(np.int64)
    return lengths
