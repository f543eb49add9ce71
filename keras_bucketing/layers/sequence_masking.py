"""SequenceMasking: masks the padding of a batch, and only the padding.

`PaddingMask` alone decides which timesteps are real, for the layer and for `MaskedLSTMClassifier`.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bucketing.checks import can_hold, show, show_typed

Tensor = Any  # of the active Keras backend, or a symbolic keras.KerasTensor
Inputs = Tensor | dict[str, Tensor]  # sequences `(batch, time, *features)`, or a dict of "sequences" and "lengths"
Shape = tuple[int | None, ...]
Config = dict[str, Any]


@keras.saving.register_keras_serializable(package="keras_bucketing")
class SequenceMasking(keras.layers.Layer):
    """Masks the padding at the end of each sequence, for all layers behind it.

    A safe replacement for `keras.layers.Masking`, which masks every timestep that equals `mask_value`, even a real one
    in the middle of a sequence; on a GPU such a hole stops training ("not right-padded"). Here the mask comes from the
    lengths. Without lengths, it is the run of `mask_value` timesteps at the *end* of each row.

    Padded timesteps are output as zeros, even if they were NaN, so they cannot reach an output or a gradient. Floats
    are output in the layer's compute dtype, integers in their own.

    A row keeps at least its first timestep, even if every timestep equals `mask_value` or its length is 0, since cuDNN
    refuses a fully masked row. A length beyond the time axis masks nothing. A mask that the input already carries is
    replaced.

    Args:
        mask_value: Number, the value of padding; only used without lengths. Compared in the dtype of the sequences,
            *before* any cast to the compute dtype, since float16 would turn small values into 0. May be NaN. Must be a
            whole number if the sequences are integers. Defaults to 0.0.
        **kwargs: `name`, `dtype` and so on, as for every Keras layer.

    Call arguments:
        sequences: Tensor `(batch, time, *features)`, or token ids `(batch, time)`; or a dict
            `{"sequences": ..., "lengths": ...}` as from `BucketedSequence(..., include_lengths=True)`.
        lengths: Optional tensor `(batch,)` or `(batch, 1)`, in timesteps.

    Returns:
        A tensor of the shape of `sequences` that carries a boolean mask `(batch, time)`: True = real.

    Raises:
        TypeError: If `mask_value` is not a number. When called with a tuple or list in place of a tensor, such as
            `[x, lengths]`, since the order of its entries is not defined.
        ValueError: When called with a dict of other keys, with lengths of another shape, without a time axis, or with
            integers that cannot hold `mask_value`.

    Example:
        The zero in the middle is data, the one at the end is padding, unless the lengths say otherwise:

        >>> import numpy as np
        >>> x = np.array([[[1.0], [0.0], [2.0], [0.0]]], "float32")
        >>> print(np.array(SequenceMasking().compute_mask(x)))
        [[ True  True  True False]]
        >>> print(np.array(SequenceMasking().compute_mask({"sequences": x, "lengths": np.array([4])})))
        [[ True  True  True  True]]

        In place of `Masking`:

        >>> recurrent = keras_bucketing.KeepMask(keras.layers.LSTM(8))
        >>> model = keras.Sequential([SequenceMasking(), recurrent, keras.layers.Dense(3)])
        >>> model({"sequences": x, "lengths": np.array([4])}).shape
        TensorShape([1, 3])

        In place of `Embedding(mask_zero=True)`, which takes every id 0 for padding. `Embedding` does not pass
        masks on, so this layer comes after it. Without lengths, compute them from the ids:

        >>> token_ids = keras.Input((None,), dtype="int32")
        >>> vectors = keras.layers.Embedding(100, 8)(token_ids)
        >>> masking = SequenceMasking(mask_value=0)
        >>> vectors = masking(vectors, lengths=masking.sequence_lengths(token_ids))
        >>> model = keras.Model(token_ids, keras_bucketing.KeepMask(keras.layers.LSTM(8))(vectors))
    """

    def __init__(self, mask_value: float = 0.0, **kwargs: object) -> None:
        # Keras casts inputs to the compute dtype before `call` unless told not to: mask_value would be
        # compared with rounded timesteps, and in float16 lengths above 2048 would be rounded as well.
        super().__init__(**{"autocast": False, **kwargs})
        self.padding_mask = PaddingMask(mask_value)
        self.mask_value: float = self.padding_mask.mask_value
        self.supports_masking = True
        # It has no weights, so that it is built at once, as `keras.layers.Masking`. A subclass may have some.
        self.built = type(self).build is keras.layers.Layer.build

    def __call__(self, sequences: Inputs, lengths: Tensor | None = None, **kwargs: object) -> Tensor:
        """Masks `sequences`; see the class for the arguments."""
        # Keras hands the first call argument alone to `compute_mask`, so sequences and lengths travel as one.
        if lengths is not None:
            if isinstance(sequences, dict):
                raise ValueError(
                    "Give the lengths once. Expected a tensor next to `lengths`, received a dict with "
                    f'{sorted(map(str, sequences))}. Pass (x, lengths=n) or {{"sequences": x, "lengths": n}}.'
                )
            if not hasattr(lengths, "shape"):
                lengths = ops.convert_to_tensor(lengths, dtype="int32")
            sequences = {"sequences": sequences, "lengths": lengths}
        return super().__call__(sequences, **kwargs)

    def call(self, inputs: Inputs) -> Tensor:
        """Returns the sequences with zeros for padding."""
        sequences, _ = split_lengths(inputs)
        return ops.cast(zero_padding(sequences, self.padding_mask(inputs)), self._output_dtype(sequences))

    def compute_mask(self, inputs: Inputs, mask: Tensor | None = None) -> Tensor:
        """Returns the boolean mask `(batch, time)` of a tensor, or of a dict with lengths; True = real."""
        return self.padding_mask(inputs)

    def sequence_lengths(self, inputs: Inputs) -> Tensor:
        """Returns the int32 lengths `(batch,)`, the unmasked timesteps, of a tensor or a dict with lengths."""
        return ops.sum(ops.cast(self.padding_mask(inputs), "int32"), axis=1)

    def compute_output_shape(self, input_shape: Shape | dict[str, Shape]) -> Shape:
        """Returns the shape of the sequences."""
        return tuple(split_pair(input_shape)[0])

    def compute_output_spec(self, inputs: Inputs) -> keras.KerasTensor:
        """Returns shape and dtype of the output without computing it."""
        sequences, _ = split_lengths(inputs)
        return keras.KerasTensor(sequences.shape, dtype=self._output_dtype(sequences))

    def _output_dtype(self, sequences: Tensor) -> str:
        dtype = keras.backend.standardize_dtype(sequences.dtype)
        return str(self.compute_dtype if keras.backend.is_float_dtype(dtype) else dtype)

    def get_config(self) -> Config:
        """Returns what `from_config` needs."""
        return {**super().get_config(), "mask_value": self.mask_value}


@keras.saving.register_keras_serializable(package="keras_bucketing")
class PaddingMask(keras.Operation):
    """Computes the boolean mask `(batch, time)`, True = real, by the rules of `SequenceMasking`.

    It is a separate operation, so that it is a single row in the summary of a functional model.

    Args:
        mask_value: Number, the value of padding; only used without lengths.
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

    def call(self, inputs: Inputs) -> Tensor:
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
                f"{show(self.mask_value)}. Pass lengths, or what the padding holds, for example 0."
            )
        return int(self.mask_value)

    def compute_output_spec(self, inputs: Inputs) -> keras.KerasTensor:
        """Returns shape and dtype of the mask without computing it."""
        sequences, _ = split_lengths(inputs)
        return keras.KerasTensor(sequences.shape[:2], dtype="bool")

    def get_config(self) -> Config:
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


def split_lengths(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Returns `(sequences, lengths or None)` of a tensor, or of a dict of the two, after checking them."""
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
            f"`lengths` must be a tensor. Expected one of shape (batch,), received {_describe_type(lengths)}. Pass "
            "np.array(lengths)."
        )
    if lengths is not None and not _are_one_per_row(lengths, sequences):
        raise ValueError(
            f"`lengths` must hold one number per row. Expected shape ({sequences.shape[0]},) for sequences of shape "
            f"{tuple(sequences.shape)}, received {tuple(lengths.shape)}."
        )
    return sequences, lengths


def split_pair(inputs: Inputs | Shape | dict[str, Shape]) -> tuple[Any, Any | None]:
    """Returns `(sequences, lengths or None)`, both tensors or both shapes, after checking that each is a single one."""
    if not isinstance(inputs, dict):
        return _check_one(inputs), None
    if set(inputs) not in ({"sequences"}, {"sequences", "lengths"}):
        raise ValueError(
            'A dict of inputs must have the keys "sequences" and "lengths", and no others. Received '
            f'{sorted(map(str, inputs))}. Pass {{"sequences": inputs[...], "lengths": inputs["lengths"]}}.'
        )
    return _check_one(inputs["sequences"]), inputs.get("lengths")


def _check_one(sequences: Tensor | Shape) -> Tensor | Shape:
    """Refuses several tensors or shapes in place of one."""
    # A shape is a tuple or list as well, but one of sizes.
    if isinstance(sequences, (tuple, list)) and any(
        isinstance(entry, (tuple, list, dict)) or hasattr(entry, "shape") for entry in sequences
    ):
        raise TypeError(_not_one_tensor(sequences))
    return sequences


def _not_one_tensor(sequences: object) -> str:
    return (
        "Sequences must be one tensor. Expected (batch, time) or (batch, time, *features), received "
        f"{_describe_type(sequences)}. Pass lengths as lengths=n, or as "
        '{"sequences": x, "lengths": n} to a model; several batches of sequences one by one; and Python lists as '
        "np.array(x)."
    )


def _describe_type(value: object) -> str:
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, (tuple, list)) else kind


def _are_one_per_row(lengths: Tensor, sequences: Tensor) -> bool:
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
