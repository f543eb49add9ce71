"""PaddingMask: which timesteps of a padded batch are real. The one place where that is decided."""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bucketing.checks import can_hold, show_typed

Tensor = Any  # A tensor of the active Keras backend, or a symbolic keras.KerasTensor.


@keras.saving.register_keras_serializable(package="keras_bucketing")
class PaddingMask(keras.Operation):
    """Computes the boolean mask `(batch, time)`, True = real, by the rules of `SequenceMasking`.

    An operation of its own, so that it is a single row in the summary of a functional model.

    Args:
        mask_value: Number that padding holds; only used without lengths.
        name: String, optional.

    Call arguments:
        inputs: `(batch, time, *features)` sequences, or a dict of "sequences" and "lengths".

    Example:
        >>> import numpy as np
        >>> print(np.array(PaddingMask(0)(np.array([[5, 0, 7, 0, 0]]))))
        [[ True  True  True False False]]
    """

    def __init__(self, mask_value: float = 0.0, name: str | None = None) -> None:
        super().__init__(name=name)
        self.mask_value = check_mask_value(mask_value)

    def call(self, inputs: Any) -> Tensor:
        """Returns the mask."""
        sequences, lengths = split_lengths(inputs)
        sequences = ops.convert_to_tensor(sequences)
        positions = ops.expand_dims(ops.arange(1, ops.shape(sequences)[1] + 1, dtype="int32"), 0)
        if lengths is None:
            lengths = ops.max(ops.where(self._differs_from_mask_value(sequences), positions, 0), axis=1, initial=0)
        lengths = ops.cast(ops.reshape(lengths, (-1, 1)), "int32")
        return ops.less_equal(positions, ops.maximum(lengths, 1))  # a row is never fully masked

    def _differs_from_mask_value(self, sequences: Tensor) -> Tensor:
        """Returns (batch, time): whether any feature of the timestep is something else than mask_value."""
        differs = ops.logical_not(self._equals_mask_value(sequences))
        feature_axes = tuple(range(2, len(sequences.shape)))
        return ops.any(differs, axis=feature_axes) if feature_axes else differs

    def _equals_mask_value(self, sequences: Tensor) -> Tensor:
        dtype = keras.backend.standardize_dtype(sequences.dtype)
        if not keras.backend.is_float_dtype(dtype):
            return ops.equal(sequences, ops.convert_to_tensor(self._whole_mask_value(dtype), dtype=dtype))
        if math.isnan(self.mask_value):
            return ops.isnan(sequences)
        # Half precision by way of float32, as the data came: what was -999.1 is then found after rounding, too.
        exact = dtype if dtype in ("float32", "float64") else "float32"
        return ops.equal(sequences, ops.cast(ops.convert_to_tensor(self.mask_value, dtype=exact), dtype))

    def _whole_mask_value(self, dtype: str) -> int:
        if not can_hold(np.dtype(dtype), self.mask_value):
            raise ValueError(
                f"`mask_value` must be a value that padding can hold. Expected one of dtype {dtype}, received "
                f"{self.mask_value!r}. Pass lengths, or what the padding holds, for example 0."
            )
        return int(self.mask_value)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns shape and dtype of the mask without computing it."""
        sequences, _ = split_lengths(inputs)
        return keras.KerasTensor(sequences.shape[:2], dtype="bool")

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {"mask_value": self.mask_value, "name": self.name}


def check_mask_value(mask_value: float) -> float:
    """Returns `mask_value` as a Python number."""
    if isinstance(mask_value, bool) or not isinstance(mask_value, numbers.Real):
        raise TypeError(
            f"`mask_value` must be a number. Expected an int or a float, received {show_typed(mask_value)}. Pass "
            "the value that the padding holds, for example 0.0."
        )
    return int(mask_value) if isinstance(mask_value, numbers.Integral) else float(mask_value)


def split_lengths(inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Returns `(sequences, lengths or None)` of a tensor, or of a dict of the two, having checked them."""
    sequences, lengths = split_pair(inputs)
    if not hasattr(sequences, "shape"):
        raise TypeError(_not_one_tensor(sequences))
    if hasattr(sequences, "row_splits"):
        raise TypeError(
            "Sequences must be padded. Received a RaggedTensor. Pass its to_tensor() as sequences and its "
            "row_lengths() as lengths."
        )
    if len(sequences.shape) < 2:
        raise ValueError(
            "Sequences must come in a batch. Expected shape (batch, time) or (batch, time, *features), received "
            f"{tuple(sequences.shape)}. Add the batch axis, for example x[None]."
        )
    if lengths is not None and not hasattr(lengths, "shape"):
        raise TypeError(
            f"`lengths` must be a tensor. Expected one of shape (batch,), received {_kind_of(lengths)}. Pass "
            "np.array(lengths)."
        )
    if lengths is not None and not is_one_per_row(lengths, sequences):
        raise ValueError(
            f"`lengths` must hold one number per row. Expected shape ({sequences.shape[0]},) for sequences of shape "
            f"{tuple(sequences.shape)}, received {tuple(lengths.shape)}."
        )
    return sequences, lengths


def split_pair(inputs: Any) -> tuple[Any, Any | None]:
    """Returns `(sequences, lengths or None)`, be they tensors or shapes, having checked that each is one."""
    if not isinstance(inputs, dict):
        return _check_one(inputs), None
    if set(inputs) not in ({"sequences"}, {"sequences", "lengths"}):
        raise ValueError(
            'A dict of inputs must have the keys "sequences" and "lengths", and no others. Received '
            f'{sorted(map(str, inputs))}. Pass {{"sequences": inputs[...], "lengths": inputs["lengths"]}}.'
        )
    return _check_one(inputs["sequences"]), inputs.get("lengths")


def _check_one(sequences: Any) -> Any:
    """Refuses several tensors, and several shapes, where there should be one."""
    # A shape is a tuple or list as well, but one of sizes.
    if isinstance(sequences, (tuple, list)) and any(
        isinstance(entry, (tuple, list, dict)) or hasattr(entry, "shape") for entry in sequences
    ):
        raise TypeError(_not_one_tensor(sequences))
    return sequences


def _not_one_tensor(sequences: Any) -> str:
    return (
        "Sequences must be one tensor. Expected (batch, time) or (batch, time, *features), received "
        f'{_kind_of(sequences)}. Pass lengths as lengths=n, or as {{"sequences": x, "lengths": n}} to a model; several '
        "batches of sequences one by one; and Python lists as np.array(x)."
    )


def _kind_of(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, (tuple, list)) else kind


def is_one_per_row(lengths: Tensor, sequences: Tensor) -> bool:
    """Whether the shape of lengths is (batch,) or (batch, 1), as far as the batch sizes are known."""
    shape = tuple(lengths.shape)
    if len(shape) != 1 and shape[1:] != (1,):
        return False
    return shape[0] is None or sequences.shape[0] is None or shape[0] == sequences.shape[0]


def zero_padding(sequences: Tensor, mask: Tensor) -> Tensor:
    """Returns `(batch, time, *features)` sequences with zeros where the `(batch, time)` mask is False."""
    for _ in sequences.shape[2:]:
        mask = ops.expand_dims(mask, -1)
    # Selecting, not multiplying: NaN * 0 is NaN.
    return ops.where(mask, sequences, ops.zeros_like(sequences))
