"""SequenceMasking: marks the padding of a batch, and nothing but the padding."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_bucketing.layers.padding_mask import PaddingMask, split_lengths, split_pair, zero_padding

Tensor = Any  # A tensor of the active Keras backend, or a symbolic keras.KerasTensor.


@keras.saving.register_keras_serializable(package="keras_bucketing")
class SequenceMasking(keras.layers.Layer):
    """Masks the padding at the end of each sequence, for every layer that comes after.

    A safe replacement for `keras.layers.Masking`, which masks every timestep that equals `mask_value`,
    genuine ones in the middle of a sequence included; on a GPU such a hole stops training ("not
    right-padded"). Here the mask comes from the lengths. Without lengths, it is the run of `mask_value`
    timesteps at the *end* of each row.

    Padded timesteps come out as zeros whatever they held, NaN included, so that nothing in them can reach an
    output or a gradient. Floats come out in the layer's compute dtype, integers in their own.

    A row keeps at least its first timestep, even where every timestep equals `mask_value` or its length is 0:
    cuDNN refuses a fully masked row. A length beyond the time axis masks nothing. A mask that the input
    already carries is replaced.

    Args:
        mask_value: Number that padding holds; only used without lengths. Compared in the dtype of the
            sequences, *before* any cast to the compute dtype: float16 would turn small values into 0. May be
            NaN. Has to be a whole number where the sequences are integers. Defaults to 0.0.
        **kwargs: `name`, `dtype` and so on, as for every Keras layer.

    Call arguments:
        sequences: Tensor `(batch, time, *features)`, or token ids `(batch, time)`; or a dict
            `{"sequences": ..., "lengths": ...}` as `BucketedSequence(..., include_lengths=True)` yields.
        lengths: Optional tensor `(batch,)` or `(batch, 1)`, in timesteps.

    Returns:
        A tensor of the shape of `sequences` that carries a boolean mask `(batch, time)`: True = real.

    Raises:
        TypeError: If `mask_value` is not a number. When called with a tuple or list in place of a tensor, such as `[x,
            lengths]`: which entry means what would be a guess.
        ValueError: When called with a dict of other keys, with lengths of another shape, without a time axis,
            or with integers that cannot hold `mask_value`.

    Example:
        The zero in the middle is data, the one at the end is padding, unless the lengths say otherwise:

        >>> import numpy as np
        >>> x = np.array([[[1.0], [0.0], [2.0], [0.0]]], "float32")
        >>> print(np.array(SequenceMasking().compute_mask(x)))
        [[ True  True  True False]]
        >>> print(np.array(SequenceMasking().compute_mask({"sequences": x, "lengths": np.array([4])})))
        [[ True  True  True  True]]

        In place of `Masking`:

        >>> model = keras.Sequential([SequenceMasking(), keras.layers.LSTM(8), keras.layers.Dense(3)])
        >>> model({"sequences": x, "lengths": np.array([4])}).shape
        TensorShape([1, 3])

        In place of `Embedding(mask_zero=True)`, which takes every id 0 for padding. `Embedding` does not pass
        masks on, so this layer comes after it. Where there are no lengths, the ids tell them:

        >>> token_ids = keras.Input((None,), dtype="int32")
        >>> vectors = keras.layers.Embedding(100, 8)(token_ids)
        >>> masking = SequenceMasking(mask_value=0)
        >>> vectors = masking(vectors, lengths=masking.sequence_lengths(token_ids))
        >>> model = keras.Model(token_ids, keras.layers.LSTM(8)(vectors))
    """

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        # Keras casts inputs to the compute dtype before `call` unless told not to: mask_value would be
        # compared with rounded timesteps, and in float16 lengths above 2048 would be rounded as well.
        super().__init__(**{"autocast": False, **kwargs})
        self.padding_mask = PaddingMask(mask_value)
        self.mask_value: float = self.padding_mask.mask_value
        self.supports_masking = True
        self.built = True  # it has no weights, as `keras.layers.Masking`

    def __call__(self, sequences: Any, lengths: Any = None, **kwargs: Any) -> Tensor:
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

    def call(self, inputs: Any) -> Tensor:
        """Returns the sequences with zeros for padding."""
        sequences, _ = split_lengths(inputs)
        return ops.cast(zero_padding(sequences, self.padding_mask(inputs)), self._output_dtype(sequences))

    def compute_mask(self, inputs: Any, mask: Tensor | None = None) -> Tensor:
        """Returns the boolean mask `(batch, time)` of a tensor, or of a dict with lengths; True = real."""
        return self.padding_mask(inputs)

    def sequence_lengths(self, inputs: Any) -> Tensor:
        """Returns the int32 lengths `(batch,)`, timesteps not masked, of a tensor or a dict with lengths."""
        return ops.sum(ops.cast(self.padding_mask(inputs), "int32"), axis=1)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the sequences."""
        return tuple(split_pair(input_shape)[0])

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Returns shape and dtype of the output without computing it."""
        sequences, _ = split_lengths(inputs)
        return keras.KerasTensor(sequences.shape, dtype=self._output_dtype(sequences))

    def _output_dtype(self, sequences: Tensor) -> str:
        dtype = keras.backend.standardize_dtype(sequences.dtype)
        return str(self.compute_dtype if keras.backend.is_float_dtype(dtype) else dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {**super().get_config(), "mask_value": self.mask_value}
