"""MaskedLSTMClassifier: a recurrent classifier that padding cannot influence."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal

import keras
from keras import ops

from keras_bucketing.checks import check_choice, check_flag, check_integer, show, show_typed
from keras_bucketing.layers.keep_mask import support_masking
from keras_bucketing.layers.masked_pooling import POOLINGS, MaskedPooling
from keras_bucketing.layers.sequence_masking import (
    Config,
    Inputs,
    SequenceMasking,
    Shape,
    Tensor,
    check_mask_value,
    split_lengths,
    split_pair,
    zero_padding,
)

Activation = Callable[[Tensor], Tensor]


@keras.saving.register_keras_serializable(package="keras_bucketing")
class MaskedLSTMClassifier(keras.Model):
    """Classifies sequences of different lengths: [embedding], masking, LSTM layers, pooling, dense layer.

    Outputs and gradients do not depend on the amount of padding in a batch. With lengths, they do not depend on the
    values of padding either; without lengths, the `mask_value` timesteps at the end of a row count as padding (see
    `SequenceMasking`).

    Inputs are sequences `(batch, time, features)`; or, with `vocabulary_size`, token ids `(batch, time)`; or a dict
    `{"sequences": ..., "lengths": ...}` as from `BucketedSequence(..., include_lengths=True)`. The time axis may differ
    from batch to batch; under TensorFlow this needs no new trace.

    For token ids, `summary()` shows real shapes at once; for vectors, it does after `build((None, None, features))` or
    the first batch. Before that Keras prints "?", since the number of features is unknown.

    `compile(jit_compile=True)` permanently takes the LSTM layers off cuDNN, which XLA cannot compile (Keras would
    ignore `jit_compile` with a warning). XLA compiles once per shape of batch: use `pad_to_bucket_boundary=True`.

    `get_weights()` has the order of the equivalent stack of Keras layers, so `set_weights(other.get_weights())` moves
    weights either way: [`Embedding`], `SequenceMasking`, an `LSTM` per entry of `units`, each in a `Bidirectional` if
    asked for, [`MaskedPooling`], `Dense`. All LSTM layers have `return_sequences=True`, except the last one with
    `pooling="last"`.

    Args:
        num_classes: Int, number of outputs; 1 for a binary classifier with `classifier_activation="sigmoid"`.
        units: Int, or one int per LSTM layer, from the input upwards. Defaults to 64.
        vocabulary_size: Int, number of token ids, which run from 0 to `vocabulary_size - 1`. Makes the model take token
            ids. Defaults to None.
        embedding_dim: Int, size of the vector learned per token id. Goes with `vocabulary_size`.
        bidirectional: Bool, whether to read each sequence both ways and concatenate. "last" then means the last
            timestep of the forward and the first of the backward direction. Defaults to False.
        pooling: "last", "mean", "max" or "attention", how timesteps become one vector. Defaults to "last".
        dropout: Float in [0, 1), rate after the embedding, between LSTM layers and before the dense layer. Defaults to
            0.0.
        recurrent_dropout: Float in [0, 1), rate on the state that an LSTM passes on from timestep to timestep. Above 0,
            Keras' generic loop replaces the fast cuDNN kernel. Defaults to 0.0.
        mask_value: Number, the value of padding; only used without lengths. Defaults to 0.0.
        classifier_activation: Activation of the dense layer; None for logits. Defaults to "softmax".
        **kwargs: `name`, `dtype`, as for every Keras model. Under mixed precision the dense layer computes in float32,
            as Keras recommends for outputs.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If an argument has a wrong value, or two do not go together.

    Example:
        >>> import numpy as np
        >>> model = MaskedLSTMClassifier(9, units=8, bidirectional=True, pooling="max")
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> x = np.random.default_rng(0).normal(size=(2, 7, 12)).astype("float32")
        >>> model.predict({"sequences": x, "lengths": np.array([7, 4])}, verbose=0).shape
        (2, 9)
    """

    def __init__(
        self,
        num_classes: int,
        units: int | Sequence[int] = 64,
        *,
        vocabulary_size: int | None = None,
        embedding_dim: int | None = None,
        bidirectional: bool = False,
        pooling: Literal["last", "mean", "max", "attention"] = "last",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        mask_value: float = 0.0,
        classifier_activation: str | Config | Activation | None = "softmax",
        **kwargs: object,
    ) -> None:
        # Autocasting to float16 would round timesteps and lengths before SequenceMasking compares them.
        super().__init__(**{"autocast": False, **kwargs})
        self.num_classes = check_integer("num_classes", num_classes)
        self.units = _check_units(units)
        self.mask_value = check_mask_value(mask_value)
        self.vocabulary_size, self.embedding_dim = _check_embedding(vocabulary_size, embedding_dim, self.mask_value)
        self.bidirectional = check_flag("bidirectional", bidirectional)
        self.pooling = check_choice("pooling", pooling, ("last", *POOLINGS))
        self.dropout = _check_rate("dropout", dropout)
        self.recurrent_dropout = _check_rate("recurrent_dropout", recurrent_dropout)
        self.classifier_activation = _check_activation(classifier_activation, self.num_classes)
        self.num_features: int | None = None  # of vector sequences; known once built
        self._takes_lengths = False  # in the last call
        self._make_layers()

    @property
    def takes_token_ids(self) -> bool:
        """Whether the inputs are token ids `(batch, time)` rather than vectors `(batch, time, features)`."""
        return self.vocabulary_size is not None

    def _make_layers(self) -> None:
        """Makes the layers in the order in which they are applied, which is also that of the weights."""
        dtype = self.dtype_policy
        self.embedding = None
        if self.takes_token_ids:
            size = (self.vocabulary_size, self.embedding_dim)
            self.embedding = keras.layers.Embedding(*size, dtype=dtype, name="embedding")
        self.masking = SequenceMasking(self.mask_value, dtype=dtype, name="masking")
        self.recurrent_layers = [self._make_recurrent_layer(depth) for depth in range(len(self.units))]
        self.pooling_layer = None
        if self.pooling != "last":
            self.pooling_layer = MaskedPooling(self.pooling, dtype=dtype, name="pooling")
        self.dropout_layer = None
        if self.dropout:
            self.dropout_layer = keras.layers.Dropout(self.dropout, dtype=dtype, name="dropout")
        self.classifier = keras.layers.Dense(
            self.num_classes, self.classifier_activation, dtype=self.variable_dtype, name="classifier"
        )

    def _make_recurrent_layer(self, depth: int) -> keras.layers.Layer:
        is_last = depth == len(self.units) - 1
        lstm = keras.layers.LSTM(
            self.units[depth],
            recurrent_dropout=self.recurrent_dropout,
            return_sequences=not is_last or self.pooling != "last",
            dtype=self.dtype_policy,
            name=f"lstm_{depth}",
        )
        layer = lstm
        if self.bidirectional:
            layer = keras.layers.Bidirectional(lstm, dtype=self.dtype_policy, name=f"bidirectional_{depth}")
        support_masking(layer)  # not KeepMask, which would change the paths of weights in saved models
        return layer

    def build(self, input_shape: Shape | dict[str, Shape]) -> None:
        """Makes the weights.

        Args:
            input_shape: `(batch, time, features)` or, for token ids, `(batch, time)`; or a dict of the shapes of
                "sequences" and "lengths". Batch and time always count as unknown.
        """
        shape, lengths_shape = split_pair(input_shape)
        _check_inputs_shape(shape, self.takes_token_ids)
        self.num_features = None if self.takes_token_ids else int(shape[2])
        # A symbolic call, so that every layer knows the output shape that `summary` shows.
        self.call(self._symbolic_inputs(takes_lengths=lengths_shape is not None))

    def _symbolic_inputs(self, takes_lengths: bool) -> Inputs:
        """Returns shape and dtype of the inputs, with batch and time unknown."""
        shape = (None,) if self.takes_token_ids else (None, self.num_features)
        dtype = "int32" if self.takes_token_ids else keras.config.floatx()
        sequences = keras.Input(shape, dtype=dtype, name="sequences")
        if not takes_lengths:
            return sequences
        return {"sequences": sequences, "lengths": keras.Input((), dtype="int32", name="lengths")}

    def call(self, inputs: Inputs, training: bool | None = None) -> Tensor:
        """Returns `(batch, num_classes)` for a tensor, or for a dict with lengths."""
        sequences, lengths = split_lengths(inputs)
        _check_inputs_shape(sequences.shape, self.takes_token_ids, self.num_features)
        self._takes_lengths = lengths is not None
        mask = self.masking.compute_mask(inputs)
        lengths = self.masking.sequence_lengths(inputs)
        if self.embedding is not None:
            # Padding may hold ids outside of the vocabulary, on which a lookup fails.
            sequences = self._drop(self.embedding(zero_padding(sequences, mask)), training)
        outputs = ops.cast(self.masking(sequences, lengths=lengths), self.compute_dtype)
        for depth, layer in enumerate(self.recurrent_layers):
            # The mask is passed on by hand: not every layer passes on the one that tensors carry.
            outputs = layer(self._drop(outputs, training) if depth else outputs, mask=mask, training=training)
        if self.pooling_layer is not None:
            outputs = self.pooling_layer(outputs, mask=mask)
        return self.classifier(self._drop(outputs, training))

    def _drop(self, outputs: Tensor, training: bool | None) -> Tensor:
        return outputs if self.dropout_layer is None else self.dropout_layer(outputs, training=training)

    @property
    def jit_compile(self) -> bool:
        """Whether the train, test and predict functions are compiled with XLA."""
        return bool(keras.Model.jit_compile.fget(self))

    @jit_compile.setter
    def jit_compile(self, value: bool) -> None:
        # keras/src/layers/rnn/lstm.py marks every LSTM that could use cuDNN as one that XLA cannot compile;
        # the setter in keras/src/trainers/trainer.py would then turn an explicit jit_compile=True into False.
        if value and keras.config.backend() == "tensorflow":
            for layer in self.recurrent_layers:
                for lstm in (layer.forward_layer, layer.backward_layer) if self.bidirectional else (layer,):
                    lstm.use_cudnn = False
                    lstm.supports_jit = True
        keras.Model.jit_compile.fset(self, value)

    def summary(self, *args: object, **kwargs: object) -> None:
        """As `keras.Model.summary`; a model of token ids is built first, since its shapes are known."""
        if self.takes_token_ids and not self.built:
            self.build((None, None))
        super().summary(*args, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike[str],
        format: str = "tf_saved_model",  # noqa: A002 - Keras' name for it
        verbose: bool | None = None,
        input_signature: Any = None,
        **kwargs: object,
    ) -> None:
        """As `keras.Model.export`, for batches and sequences of any length.

        Without `input_signature`, the exported model takes what the model was last called with: a tensor, or a dict
        with lengths. (Keras would fix the time axis to that of the first batch.)

        Raises:
            ValueError: If the model has no weights yet, or under PyTorch, whose exporter fixes the number of timesteps.
        """
        if keras.config.backend() == "torch":
            raise ValueError(
                "Under PyTorch, Keras exports a masked LSTM for one number of timesteps only. Received "
                f"format={show(format)}. Save the model as .keras, load it with KERAS_BACKEND=tensorflow and export it "
                "there."
            )
        if input_signature is None:
            if not self.built:
                raise ValueError(
                    "Only a model with weights can be exported. Received one that was neither built nor called. Call "
                    "fit, or build((None, None, features)), or build((None, None)) for token ids."
                )
            input_signature = [self._symbolic_inputs(self._takes_lengths)]
        super().export(filepath, format=format, verbose=verbose, input_signature=input_signature, **kwargs)

    def compute_output_shape(self, input_shape: Shape | dict[str, Shape]) -> tuple[int | None, int]:
        """Returns (batch, num_classes)."""
        return (split_pair(input_shape)[0][0], self.num_classes)

    def get_config(self) -> Config:
        """Returns what `from_config` needs."""
        names = ["num_classes", "vocabulary_size", "embedding_dim", "bidirectional", "pooling", "dropout"]
        names += ["recurrent_dropout", "mask_value"]
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in names},
            "units": list(self.units),
            "classifier_activation": keras.activations.serialize(self.classifier_activation),
        }


def _check_units(units: int | Sequence[int]) -> tuple[int, ...]:
    """Returns one int per LSTM layer."""
    if isinstance(units, str) or not isinstance(units, Sequence):
        return (check_integer("units", units),)
    if not units:
        raise ValueError("`units` is empty. Expected an int, or one int per LSTM layer. Pass, for example, (128, 64).")
    return tuple(check_integer(f"units[{depth}]", count) for depth, count in enumerate(units))


def _check_rate(name: str, rate: float) -> float:
    """Returns a dropout rate as a float."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"`{name}` must be a number. Expected 0 <= rate < 1, received {show_typed(rate)}.")
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be a fraction of the values. Expected 0 <= rate < 1, received {show(rate)}.")
    return float(rate)


def _check_embedding(
    vocabulary_size: int | None, embedding_dim: int | None, mask_value: float
) -> tuple[int | None, int | None]:
    """Refuses half of an embedding, and a padding value that no token id can have."""
    if vocabulary_size is None and embedding_dim is None:
        return None, None
    if vocabulary_size is None or embedding_dim is None:
        raise ValueError(
            f"`vocabulary_size` and `embedding_dim` go together. Received vocabulary_size={show(vocabulary_size)} and "
            f"embedding_dim={show(embedding_dim)}. Give both for token ids, for example vocabulary_size=20_000, "
            "embedding_dim=128, and neither for vectors."
        )
    if mask_value != mask_value // 1:
        raise ValueError(
            f"`mask_value` must be a whole number where the model takes token ids. Received {show(mask_value)} next to "
            f"vocabulary_size={vocabulary_size}. Pass the id that the padding holds, for example 0."
        )
    return check_integer("vocabulary_size", vocabulary_size), check_integer("embedding_dim", embedding_dim)


def _check_activation(activation: str | Config | Activation | None, num_classes: int) -> Activation:
    """Returns the activation as a function, refusing unknown ones and a softmax over a single class."""
    try:
        function: Activation = keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        if isinstance(activation, dict):  # out of a saved model: Keras says best what it does not load
            raise
        raise ValueError(
            "`classifier_activation` is unknown. Expected None, or an activation such as 'softmax', received "
            f"{show(activation)}."
        ) from error
    if num_classes == 1 and function is keras.activations.softmax:
        raise ValueError(
            "A softmax over one class is always 1. Received num_classes=1 and classifier_activation='softmax' (the "
            "default). Pass classifier_activation='sigmoid' for a binary model, or num_classes=2."
        )
    return function


def _check_inputs_shape(shape: Shape, takes_token_ids: bool, num_features: int | None = None) -> None:
    """Refuses vectors where the model takes token ids, and the reverse; and another number of features."""
    if takes_token_ids and len(shape) != 2:
        raise ValueError(
            f"Expected token ids (batch, time), received shape {tuple(shape)}. For vectors, make the model without "
            "vocabulary_size and embedding_dim."
        )
    if not takes_token_ids and (len(shape) != 3 or shape[2] is None):
        raise ValueError(
            f"Expected vectors (batch, time, features), received shape {tuple(shape)}. For token ids, make the model "
            "with vocabulary_size and embedding_dim; for one number per timestep, pass x[..., None]."
        )
    if num_features is not None and shape[2] != num_features:
        raise ValueError(
            f"Expected vectors of {num_features} features, as this model was built for, received shape {tuple(shape)}."
        )
