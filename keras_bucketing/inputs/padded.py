"""Arrays that are already padded, back to sequences of their own length."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.checks import check_choice, check_lengths, check_number
from keras_bucketing.inputs.arrays import as_regular_array
from keras_bucketing.inputs.ragged import Ragged
from keras_bucketing.inputs.row_splits import row_splits_of
from keras_bucketing.inputs.storage import standard_dtype
from keras_bucketing.inputs.structures import map_structure


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
    if isinstance(x, (dict, tuple)):
        raise TypeError(
            f"`{name}` must be one padded array. Received a {type(x).__name__}. For several inputs pass a dict or "
            "tuple of sequences that are not padded to BucketedSequence itself, e.g. "
            'x={"a": tf.RaggedTensor.from_tensor(a, lengths), ...}.'
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
    values = array[_is_real(lengths, time, padding)]
    return Ragged(values.astype(standard_dtype(values.dtype, name), copy=False), row_splits_of(lengths))


def labels_from_padded(
    labels: Any, lengths: np.ndarray, time: int, padding: str, timestep_labels: bool | None, name: str
) -> Any:
    """Makes those leaves ragged that hold one label a timestep: `(num_rows, time, ...)`, padded like the sequences.

    Args:
        labels: A leaf, or a dict or tuple of leaves.
        lengths: Int array `(num_rows,)`.
        time: Int, the padded length of the sequences.
        padding: "post" or "pre".
        timestep_labels: Whether leaves of that shape hold one label a timestep. None: if what they hold behind the ends
            of the sequences is one constant, as padding is.
        name: What to call them in an error message.

    Raises:
        ValueError: If a leaf has that shape but no padding, so that its second axis may be classes or outputs.
    """

    def convert(leaf: Any, name: str) -> Any:
        if timestep_labels is False or tuple(getattr(leaf, "shape", ()))[:2] != (len(lengths), time):
            return leaf
        array = as_regular_array(leaf, name, "Give every row the same shape.")
        if timestep_labels is None:
            _check_constant_padding(array, ~_is_real(lengths, time, padding), name)
        return ragged_from_padded(array, lengths, 0, padding, name)

    return map_structure(convert, labels, name)


def _check_constant_padding(array: np.ndarray, is_padding: np.ndarray, name: str) -> None:
    padded = array[is_padding]
    if not len(padded) or (padded != padded[0]).any():
        time = array.shape[1]
        raise ValueError(
            f"`{name}` may hold one label a timestep, or {time} values a row, as one-hot labels do: received shape "
            f"{array.shape} for sequences padded to {time}, {'with no' if not len(padded) else 'without one'} constant "
            "in the padding. Say which it is: timestep_labels=True or timestep_labels=False."
        )


def _is_real(lengths: np.ndarray, time: int, padding: str) -> np.ndarray:
    """Bool array `(num_rows, time)`: whether a timestep is real."""
    from_real_end = np.arange(time) if padding == "post" else np.arange(time)[::-1]
    is_real: np.ndarray = from_real_end < lengths[:, np.newaxis]
    return is_real


def _lengths_of(array: np.ndarray, mask_value: Any, padding: str) -> np.ndarray:
    is_padding = np.isnan(array) if mask_value != mask_value else array == mask_value
    real = ~is_padding.all(axis=tuple(range(2, array.ndim)))
    if not array.shape[1]:
        return np.zeros(len(array), np.int64)
    from_padded_end = real[:, ::-1] if padding == "post" else real
    padded = np.where(real.any(axis=1), np.argmax(from_padded_end, axis=1), array.shape[1])
    lengths: np.ndarray = (array.shape[1] - padded).astype(np.int64)
    return lengths
