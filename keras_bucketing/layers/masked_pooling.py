"""MaskedPooling: one vector per sequence, from its real timesteps only."""

from __future__ import annotations

import keras
from keras import ops

from keras_bucketing.checks import check_choice
from keras_bucketing.layers.sequence_masking import Config, Shape, Tensor, zero_padding

POOLINGS = ("mean", "max", "attention")
LOWEST = -1e30  # below anything a recurrent layer puts out


@keras.saving.register_keras_serializable(package="keras_bucketing")
class MaskedPooling(keras.layers.Layer):
    """Pools `(batch, time, features)` over the timesteps that the mask marks as real.

    The values of padded timesteps do not matter. This is necessary: if the input of a recurrent layer is masked, its
    output repeats the last one on Keras' generic path and is 0 on cuDNN's. (`keras.layers.GlobalMaxPooling1D` ignores
    masks, so a padded 0 beats every negative maximum.)

    "attention" is the word attention of Yang et al., "Hierarchical Attention Networks for Document Classification"
    (NAACL 2016): a timestep's weight is the softmax, over the real timesteps, of `context · tanh(kernel · h + bias)`.

    Args:
        pooling: "mean", "max" or "attention".
        **kwargs: `name`, `dtype` and so on, as for every Keras layer.

    Call arguments:
        sequences: Tensor `(batch, time, features)`.
        mask: Optional boolean tensor `(batch, time)`, True = real, at least one per row. Keras passes the one that the
            sequences carry. Without a mask, all timesteps are real.

    Returns:
        Tensor `(batch, features)`.

    Raises:
        ValueError: If `pooling` is none of the three.

    Example:
        >>> import numpy as np
        >>> x = np.array([[[-1.0], [-3.0], [0.0]]], "float32")
        >>> print(np.array(MaskedPooling("max")(x, mask=np.array([[True, True, False]]))))
        [[-1.]]
    """

    def __init__(self, pooling: str, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.pooling = check_choice("pooling", pooling, POOLINGS)
        self.supports_masking = True

    def build(self, sequences_shape: Shape) -> None:
        """Makes the attention's weights."""
        features = sequences_shape[-1]
        if self.pooling == "attention":
            self.kernel = self.add_weight((features, features), "glorot_uniform", name="kernel")
            self.bias = self.add_weight((features,), "zeros", name="bias")
            self.context = self.add_weight((features, 1), "glorot_uniform", name="context")

    def call(self, sequences: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns one vector per row."""
        if mask is None:
            mask = ops.ones_like(sequences[:, :, 0], dtype="bool")
        sequences = zero_padding(sequences, mask)
        # In float32 at least: float16 cannot count beyond 2048 timesteps.
        wide = ops.cast(sequences, keras.backend.result_type(self.compute_dtype, "float32"))
        if self.pooling == "max":
            pooled = ops.max(ops.where(ops.expand_dims(mask, -1), wide, LOWEST), axis=1)
        else:
            weights = ops.cast(mask, wide.dtype)
            if self.pooling == "attention":
                weights = self._attention(sequences, mask, wide.dtype)
            weights = weights / ops.sum(weights, axis=1, keepdims=True)
            pooled = ops.sum(wide * ops.expand_dims(weights, -1), axis=1)
        return ops.cast(pooled, self.compute_dtype)

    def _attention(self, sequences: Tensor, mask: Tensor, dtype: str) -> Tensor:
        """Returns weights (batch, time), 1 at the best real timestep and 0 at padding."""
        # Not ops.softmax, which warns about every batch of one timestep.
        scores = ops.matmul(ops.tanh(ops.matmul(sequences, self.kernel) + self.bias), self.context)
        scores = ops.where(mask, ops.cast(ops.squeeze(scores, axis=-1), dtype), LOWEST)
        return ops.exp(scores - ops.max(scores, axis=1, keepdims=True))

    def compute_mask(self, sequences: Tensor, mask: Tensor | None = None) -> None:
        """Returns None: no time axis is left to mask."""
        return

    def compute_output_shape(self, sequences_shape: Shape) -> Shape:
        """Returns (batch, features)."""
        return (sequences_shape[0], sequences_shape[-1])

    def get_config(self) -> Config:
        """Returns what `from_config` needs."""
        return {**super().get_config(), "pooling": self.pooling}
