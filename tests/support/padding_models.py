"""Models through which padding leaks, each with the layer that lets it in, and the same model cured."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_bucketing import BucketedSequence, KeepMask, MaskedLSTMClassifier, SequenceMasking
from keras_bucketing.predicting.batch_runs import layers_inside

RNG = np.random.default_rng(0)
LENGTHS = [2, 7, 4, 1, 9, 12, 5, 5]
VECTORS = [RNG.normal(size=(length, 3)).astype("float32") for length in LENGTHS]
TOKENS = [RNG.integers(1, 20, size=length) for length in LENGTHS]
STEP_LABELS = [RNG.integers(0, 3, size=length) for length in LENGTHS]
CLASSES = np.arange(8) % 2


def dataset(kind):
    """The rows as a dataset: what `kind` says of the model's inputs and labels."""
    options = {"batch_size": 4, "seed": 0}
    if kind == "vectors":
        return BucketedSequence(VECTORS, CLASSES, **options)
    if kind == "tokens":
        return BucketedSequence(TOKENS, CLASSES, **options)
    if kind == "lengths":
        return BucketedSequence(VECTORS, CLASSES, include_lengths=True, **options)
    if kind == "steps":
        return BucketedSequence(VECTORS, STEP_LABELS, **options)
    if kind == "masks":
        x = {"token_ids": TOKENS, "padding_mask": [np.ones(len(row), bool) for row in TOKENS]}
        return BucketedSequence(x, CLASSES, **options)
    if kind == "pairs":
        return BucketedSequence({"source": VECTORS, "target": TOKENS[::-1]}, CLASSES, **options)
    if kind == "minus one":
        return BucketedSequence(VECTORS, CLASSES, padding_value=-1, **options)
    raise KeyError(kind)


def stack(*parts):
    """A sequential model behind SequenceMasking."""
    return keras.Sequential([SequenceMasking(), *parts])


def untraced(model):
    """The model, to be run eagerly unless it has a loop over timesteps, which is faster, or another one, in a graph."""
    if not any(isinstance(layer, (layers.RNN, layers.TimeDistributed)) for layer in layers_inside(model)):
        model.run_eagerly = True
    return model


def on_vectors(function):
    """A functional model of masked vectors `(batch, time, 3)`."""
    inputs = keras.Input((None, 3))
    return keras.Model(inputs, function(SequenceMasking()(inputs)))


def on_tokens(function, mask_zero=True):
    """A functional model of masked embeddings `(batch, time, 4)`."""
    inputs = keras.Input((None,), dtype="int32")
    return keras.Model(inputs, function(layers.Embedding(20, 4, mask_zero=mask_zero)(inputs)))


def mean(h):
    return layers.GlobalAveragePooling1D()(h)


def residual(h):
    """Attention on a tensor of its own: MultiHeadAttention takes the mask off what it is called with."""
    normalized = layers.LayerNormalization()(h)
    return layers.Add()([h, layers.MultiHeadAttention(1, 4)(normalized, normalized)])


def gru(h, **options):
    """A recurrent layer with a mask on every version of Keras."""
    return KeepMask(layers.GRU(3, **options))(h)


def keep(layer):
    return KeepMask(layer)


@keras.saving.register_keras_serializable(package="tests")
class Doubled(layers.Layer):
    """A layer of somebody's own that knows nothing of masks."""

    def call(self, inputs):
        return inputs * 2


class OwnAttention(layers.Layer):
    def __init__(self, adds):
        super().__init__()
        self.attention = layers.MultiHeadAttention(1, 4)
        self.add = layers.Add() if adds else None
        self.supports_masking = True

    def call(self, inputs, mask=None):
        attended = self.attention(inputs, inputs)
        return inputs + attended if self.add is None else self.add([inputs, attended])


class OwnModel(keras.Model):
    """A subclassed model; `tail` says what comes behind the embedding."""

    def __init__(self, tail):
        super().__init__()
        self.embedding = layers.Embedding(20, 4, mask_zero=True)
        self.attention = layers.MultiHeadAttention(1, 4)
        self.add = layers.Add()
        self.normalization = layers.LayerNormalization()
        self.recurrent = KeepMask(layers.GRU(3, return_sequences=True))
        self.pooling = layers.GlobalAveragePooling1D()
        self.dense = layers.Dense(2)
        self.tail = tail

    def call(self, inputs):
        h = self.embedding(inputs)
        if self.tail == "plus":
            return self.pooling(self.recurrent(h + self.attention(h, h)))
        if self.tail == "add":
            return self.pooling(self.recurrent(self.add([h, self.attention(h, h)])))
        if self.tail == "normalized":
            n = self.normalization(h)
            return self.pooling(self.recurrent(self.add([h, self.attention(n, n)])))
        if self.tail == "mean":
            return self.dense(ops.mean(self.recurrent(h), axis=1))
        if self.tail == "last mean":
            return ops.mean(self.recurrent(h), axis=1)
        return self.dense(self.pooling(self.recurrent(h)))


class SumOverTime(layers.Layer):
    """A sum of the real timesteps, or, without looking at the mask, of all."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def call(self, inputs, mask=None):
        shifted = inputs + 1.0
        if self.looks and mask is not None:
            shifted = ops.where(mask[..., None], shifted, 0.0)
        return ops.sum(shifted, axis=1)


class MaxOverTime(layers.Layer):
    def call(self, inputs, mask=None):
        return ops.max(inputs if mask is None else ops.where(mask[..., None], inputs, -1e9), axis=1)


class WeightsOverTime(layers.Layer):
    """Attention pooling: a softmax over time."""

    def __init__(self, looks):
        super().__init__()
        self.scores, self.softmax, self.looks = layers.Dense(1), layers.Softmax(axis=1), looks

    def build(self, shape):
        self.scores.build(shape)

    def call(self, inputs, mask=None):
        scores = self.scores(inputs)
        weights = self.softmax(scores, mask=mask[..., None]) if self.looks else ops.softmax(scores, axis=1)
        return ops.sum(weights * inputs, axis=1)


def normalization():
    return layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 1.0])


def compiled(model, **options):
    model.compile("sgd", **options)
    return model


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def beside(outputs, unused):
    """The outputs, led to by an input that nobody needs: Keras 3.11 refuses one that leads nowhere."""
    return outputs + 0.0 * ops.cast(unused, "float32")


def dict_model(masks):
    """A functional model of the dict that include_lengths=True yields."""
    inputs = {
        "sequences": keras.Input((None, 3), name="sequences"),
        "lengths": keras.Input((), dtype="int32", name="lengths"),
    }
    if masks:
        outputs = mean(SequenceMasking()(inputs["sequences"], lengths=inputs["lengths"]))
    else:
        outputs = beside(layers.GRU(3)(inputs["sequences"]), ops.expand_dims(inputs["lengths"], 1))
    return keras.Model(inputs, layers.Dense(2)(outputs))


def hub_model(masks):
    """As KerasHub has it: token ids and their mask, no mask on tensors."""
    ids, mask = (
        keras.Input((None,), dtype="int32", name="token_ids"),
        keras.Input((None,), dtype="bool", name="padding_mask"),
    )
    h = layers.Embedding(20, 4)(ids)
    attention = layers.MultiHeadAttention(1, 4)
    if masks:
        h = layers.Add()([h, attention(h, h, attention_mask=ops.expand_dims(mask, 1))])
        outputs = layers.GlobalAveragePooling1D()(h, mask=mask)
    else:
        outputs = beside(mean(layers.Add()([h, attention(h, h)])), mask[:, :1])
    return keras.Model({"token_ids": ids, "padding_mask": mask}, outputs)


def with_state(keeps):
    def function(h):
        state = layers.Dense(3)(mean(h))
        layer = layers.GRU(3)
        return KeepMask(layer)(h, initial_state=[state]) if keeps else layer(h, initial_state=[state])

    return on_vectors(function)


def before_316():
    return tuple(map(int, keras.version().split(".")[:2])) < (3, 16)


def on_tensorflow():
    return keras.config.backend() == "tensorflow"


class Case(NamedTuple):
    """A leaking model: what it is called, how it is made, which data it takes, and what the text must name."""

    name: str
    data: str
    leaking: Callable
    layer: str  # what the reported name begins with
    cure: str
    cured: Callable
    where: Callable = lambda: True


CASES = [
    Case(
        "a residual with +",
        "tokens",
        lambda: on_tokens(lambda h: mean(h + layers.MultiHeadAttention(1, 4)(h, h))),
        "add",
        "keras.layers.Add()",
        lambda: on_tokens(lambda h: mean(residual(h))),
    ),
    Case(
        "the sum of two embeddings",
        "tokens",
        lambda: on_tokens(lambda h: mean(h + layers.Dense(4)(h))),
        "add",
        "keras.layers.Add()([a, b])",
        lambda: on_tokens(lambda h: mean(layers.Add()([h, layers.Dense(4)(h)]))),
    ),
    Case(
        "a residual with + in a subclassed model",
        "tokens",
        lambda: OwnModel("plus"),
        "multi_head_attention",
        "keras.layers.Add()([x, attention(n, n)])",
        lambda: OwnModel("normalized"),
    ),
    Case(
        "Add behind attention in a subclassed model",
        "tokens",
        lambda: OwnModel("add"),
        "add",
        "keras.layers.Add()([x, attention(n, n)])",
        lambda: OwnModel("normalized"),
    ),
    Case(
        "Normalization before the masking",
        "vectors",
        lambda: keras.Sequential([normalization(), SequenceMasking(), keep(layers.GRU(3))]),
        "sequence_masking",
        "SequenceMasking first",
        lambda: keras.Sequential([SequenceMasking(), normalization(), keep(layers.GRU(3))]),
    ),
    Case(
        "Rescaling before Masking",
        "vectors",
        lambda: keras.Sequential([layers.Rescaling(1.0, offset=3.0), layers.Masking(), keep(layers.GRU(3))]),
        "masking",
        "Masking first",
        lambda: keras.Sequential([layers.Masking(), layers.Rescaling(1.0, offset=3.0), keep(layers.GRU(3))]),
    ),
    Case(
        "TimeDistributed",
        "vectors",
        lambda: stack(layers.TimeDistributed(layers.Dense(4)), keep(layers.GRU(3))),
        "time_distributed",
        "without TimeDistributed",
        lambda: stack(layers.Dense(4), keep(layers.GRU(3))),
        on_tensorflow,
    ),
    Case(
        "times two",
        "tokens",
        lambda: on_tokens(lambda h: gru(h * 2)),
        "multiply",
        "KeepMask(keras.layers.Lambda(lambda x: x * ...))",
        lambda: on_tokens(lambda h: gru(keep(layers.Lambda(lambda x: x * 2))(h))),
    ),
    Case(
        "keras.ops",
        "tokens",
        lambda: on_tokens(lambda h: gru(ops.relu(h))),
        "relu",
        "KeepMask(keras.layers.Lambda(lambda x: keras.ops.relu(",
        lambda: on_tokens(lambda h: gru(keep(layers.Lambda(lambda x: ops.relu(x)))(h))),
    ),
    Case(
        "Lambda",
        "vectors",
        lambda: stack(layers.Lambda(lambda x: x * 2), keep(layers.GRU(3))),
        "lambda",
        "KeepMask(keras.layers.Lambda",
        lambda: stack(keep(layers.Lambda(lambda x: x * 2)), keep(layers.GRU(3))),
    ),
    Case(
        "some of the features",
        "tokens",
        lambda: on_tokens(lambda h: gru(h[..., :2])),
        "get_item",
        "KeepMask(keras.layers.Lambda(lambda x: x[..., ...]))",
        lambda: on_tokens(lambda h: gru(keep(layers.Lambda(lambda x: x[..., :2]))(h))),
    ),
    Case(
        "ops.concatenate",
        "tokens",
        lambda: on_tokens(lambda h: gru(ops.concatenate([h, layers.Dense(2)(h)], axis=-1))),
        "concatenate",
        "keras.layers.Concatenate()",
        lambda: on_tokens(lambda h: gru(layers.Concatenate()([h, layers.Dense(2)(h)]))),
    ),
    Case(
        "Reshape",
        "tokens",
        lambda: on_tokens(lambda h: gru(layers.Reshape((-1, 4))(h))),
        "reshape",
        "KeepMask(keras.layers.Reshape",
        lambda: on_tokens(lambda h: gru(keep(layers.Reshape((-1, 4)))(h))),
        lambda: keras.config.backend() != "jax",  # which returns the same array, with its mask
    ),
    Case(
        "GroupNormalization",
        "tokens",
        lambda: on_tokens(lambda h: gru(layers.GroupNormalization(2)(h))),
        "group_normalization",
        "keras.layers.LayerNormalization()",
        lambda: on_tokens(lambda h: gru(layers.LayerNormalization()(h))),
    ),
    Case(
        "UnitNormalization over time",
        "tokens",
        lambda: on_tokens(lambda h: gru(layers.UnitNormalization(axis=1)(h))),
        "unit_normalization",
        "keras.layers.LayerNormalization()",
        lambda: on_tokens(lambda h: gru(layers.LayerNormalization()(h))),
    ),
    Case(
        "EinsumDense",
        "vectors",
        lambda: stack(layers.EinsumDense("btf,fg->btg", (None, 5)), keep(layers.GRU(3))),
        "einsum_dense",
        "KeepMask(keras.layers.EinsumDense",
        lambda: stack(keep(layers.EinsumDense("btf,fg->btg", (None, 5))), keep(layers.GRU(3))),
    ),
    Case(
        "go_backwards",
        "vectors",
        lambda: stack(layers.GRU(3, go_backwards=True, return_sequences=True), keep(layers.GRU(3))),
        "gru",
        "KeepMask(keras.layers.GRU(",
        lambda: stack(keep(layers.GRU(3, go_backwards=True, return_sequences=True)), keep(layers.GRU(3))),
    ),
    Case(
        "an own layer",
        "vectors",
        lambda: stack(Doubled(), keep(layers.GRU(3))),
        "doubled",
        "KeepMask(Doubled",
        lambda: stack(keep(Doubled()), keep(layers.GRU(3))),
    ),
    Case(
        "two recurrent layers",
        "vectors",
        lambda: stack(layers.LSTM(3, return_sequences=True), layers.LSTM(3)),
        "lstm",
        "KeepMask(keras.layers.LSTM",
        lambda: stack(keep(layers.LSTM(3, return_sequences=True)), keep(layers.LSTM(3))),
        lambda: not before_316(),
    ),
    Case(
        "a pooling behind Bidirectional",
        "vectors",
        lambda: stack(layers.Bidirectional(layers.GRU(3, return_sequences=True)), layers.GlobalAveragePooling1D()),
        "bidirectional",
        "KeepMask(keras.layers.Bidirectional",
        lambda: stack(
            keep(layers.Bidirectional(layers.GRU(3, return_sequences=True))), layers.GlobalAveragePooling1D()
        ),
        lambda: not before_316(),
    ),
    Case(
        "an initial state",
        "vectors",
        lambda: with_state(False),
        "gru",
        "KeepMask(keras.layers.GRU(...))(x, initial_state=...)",
        lambda: with_state(True),
    ),
    Case(
        "a convolution",
        "vectors",
        lambda: stack(layers.Conv1D(4, 3, padding="same"), layers.GlobalAveragePooling1D()),
        "conv1d",
        "KeepMask(keras.layers.Conv1D",
        lambda: stack(keep(layers.Conv1D(4, 3, padding="same")), layers.GlobalAveragePooling1D()),
    ),
    Case(
        "two convolutions, the mask handed on by hand",
        "vectors",
        lambda: on_vectors(lambda h: layers.Conv1D(4, 3, padding="same")(layers.Conv1D(4, 3, padding="same")(h))),
        "conv1d",
        "KeepMask(keras.layers.Conv1D",
        lambda: on_vectors(
            lambda h: keep(layers.Conv1D(4, 3, padding="same"))(keep(layers.Conv1D(4, 3, padding="same"))(h))
        ),
    ),
    Case(
        "a convolution behind an embedding",
        "tokens",
        lambda: on_tokens(lambda h: layers.SeparableConv1D(4, 3, padding="same")(h)),
        "separable_conv1d",
        "KeepMask(keras.layers.SeparableConv1D",
        lambda: on_tokens(lambda h: keep(layers.SeparableConv1D(4, 3, padding="same"))(h)),
    ),
    Case(
        "a depthwise convolution",
        "tokens",
        lambda: on_tokens(lambda h: mean(layers.DepthwiseConv1D(3, padding="same")(h))),
        "depthwise_conv1d",
        "KeepMask(keras.layers.DepthwiseConv1D",
        lambda: on_tokens(lambda h: mean(keep(layers.DepthwiseConv1D(3, padding="same"))(h))),
    ),
    Case(
        'a convolution with padding="valid"',
        "vectors",
        lambda: stack(layers.Conv1D(4, 2), layers.GlobalAveragePooling1D()),
        "conv1d",
        'strides=1, padding="same"',
        lambda: stack(keep(layers.Conv1D(4, 2, padding="same")), layers.GlobalAveragePooling1D()),
    ),
    Case(
        "a stride",
        "vectors",
        lambda: stack(layers.Conv1D(4, 3, strides=2, padding="same"), layers.GRU(3)),
        "conv1d",
        'strides=1, padding="same"',
        lambda: stack(keep(layers.Conv1D(4, 3, padding="same")), keep(layers.GRU(3))),
    ),
    Case(
        "MaxPooling1D",
        "vectors",
        lambda: stack(layers.MaxPooling1D(2, padding="same"), layers.GRU(3)),
        "max_pooling1d",
        "no MaxPooling1D",
        lambda: stack(keep(layers.Conv1D(4, 2, padding="same")), keep(layers.GRU(3))),
    ),
    Case(
        "AveragePooling1D",
        "vectors",
        lambda: stack(layers.AveragePooling1D(3, strides=1, padding="same"), layers.GlobalAveragePooling1D()),
        "average_pooling1d",
        "no AveragePooling1D",
        lambda: stack(keep(layers.Conv1D(3, 3, padding="same")), layers.GlobalAveragePooling1D()),
    ),
    Case(
        "GlobalMaxPooling1D",
        "tokens",
        lambda: on_tokens(lambda h: layers.GlobalMaxPooling1D()(layers.Dense(9)(h))),
        "global_max_pooling1d",
        "ops.max(ops.where(mask",
        lambda: on_tokens(lambda h: MaxOverTime()(layers.Dense(9)(h))),
    ),
    Case(
        "ops.mean over time",
        "tokens",
        lambda: on_tokens(lambda h: ops.mean(h, axis=1)),
        "mean",
        "GlobalAveragePooling1D",
        lambda: on_tokens(mean),
    ),
    Case(
        "ops.max over time",
        "tokens",
        lambda: on_tokens(lambda h: ops.max(h, axis=1)),
        "max",
        "ops.max(ops.where(mask",
        lambda: on_tokens(lambda h: MaxOverTime()(h)),
    ),
    Case(
        "ops.mean in a subclassed model",
        "tokens",
        lambda: OwnModel("mean"),
        "keep_mask",
        "GlobalAveragePooling1D",
        lambda: OwnModel("pooling"),
    ),
    Case(
        "ops.mean at its end",
        "tokens",
        lambda: OwnModel("last mean"),
        "keep_mask",
        "GlobalAveragePooling1D",
        lambda: OwnModel("pooling"),
    ),
    Case(
        "a softmax over time",
        "vectors",
        lambda: stack(WeightsOverTime(False)),
        "dense",
        "mask",
        lambda: stack(WeightsOverTime(True)),
    ),
    Case(
        "ops.softmax over time",
        "tokens",
        lambda: on_tokens(lambda h: ops.sum(ops.softmax(h, axis=1) * h, axis=1)),
        "softmax",
        "keras.layers.Softmax(axis=1)",
        lambda: on_tokens(lambda h: WeightsOverTime(True)(h)),
    ),
    Case(
        "an own layer that sums over time",
        "vectors",
        lambda: stack(SumOverTime(False)),
        "sum_over_time",
        "an argument `mask` of `call`",
        lambda: stack(SumOverTime(True)),
    ),
    Case(
        "no mask at all",
        "vectors",
        lambda: keras.Sequential([layers.GRU(3)]),
        "gru",
        "SequenceMasking() as the first layer",
        lambda: stack(keep(layers.GRU(3))),
    ),
    Case(
        "no mask and a pooling",
        "vectors",
        lambda: keras.Sequential([layers.Dense(3), layers.GlobalAveragePooling1D()]),
        "global_average_pooling1d",
        "SequenceMasking() as the first layer",
        lambda: stack(layers.Dense(3), layers.GlobalAveragePooling1D()),
    ),
    Case(
        "no mask_zero",
        "tokens",
        lambda: on_tokens(lambda h: layers.GRU(3)(h), mask_zero=False),
        "gru",
        "mask_zero=True",
        lambda: on_tokens(gru),
    ),
    Case(
        "attention without a mask",
        "tokens",
        lambda: on_tokens(lambda h: layers.MultiHeadAttention(1, 4)(h, h), mask_zero=False),
        "multi_head_attention",
        "mask_zero=True",
        lambda: on_tokens(lambda h: layers.MultiHeadAttention(1, 4)(h, h)),
    ),
    Case(
        "another mask_value",
        "minus one",
        lambda: keras.Sequential([layers.Masking(0.0), keep(layers.GRU(3))]),
        "masking",
        "mask_value",
        lambda: keras.Sequential([layers.Masking(-1.0), keep(layers.GRU(3))]),
    ),
    Case(
        "lengths that nobody asks for",
        "lengths",
        lambda: dict_model(False),
        "gru",
        'SequenceMasking()(x, lengths=inputs["lengths"])',
        lambda: dict_model(True),
    ),
    Case(
        "a padding_mask that nobody asks for",
        "masks",
        lambda: hub_model(False),
        "multi_head_attention",
        'mask=inputs["padding_mask"]',
        lambda: hub_model(True),
    ),
    Case(
        "reversed by ops.flip",
        "tokens",
        lambda: on_tokens(lambda h: layers.GRU(3)(ops.flip(h, axis=1)[:, :])),
        "flip",
        "go_backwards=True",
        lambda: on_tokens(lambda h: gru(h, go_backwards=True)),
    ),
    Case(
        "the mean of the loss",
        "steps",
        lambda: compiled(keras.Sequential([layers.GRU(3, return_sequences=True)]), loss=cross_entropy()),
        "",
        'reduction="mean_with_sample_weight"',
        lambda: compiled(
            keras.Sequential([layers.GRU(3, return_sequences=True)]),
            loss=cross_entropy(reduction="mean_with_sample_weight"),
        ),
    ),
    Case(
        "a penalty on activities",
        "vectors",
        lambda: compiled(
            stack(layers.Dense(3, activity_regularizer="l2", bias_initializer="ones"), keep(layers.GRU(2))),
            loss=cross_entropy(),
        ),
        "",
        "a penalty on weights",
        lambda: compiled(stack(layers.Dense(3, kernel_regularizer="l2"), keep(layers.GRU(2))), loss=cross_entropy()),
    ),
]


# Models without a fault, beside those that are cured.


def encoder_decoder():
    source, target = keras.Input((None, 3), name="source"), keras.Input((None,), dtype="int32", name="target")
    state = gru(SequenceMasking()(source))
    h = layers.Embedding(20, 4, mask_zero=True)(target)
    decoded = KeepMask(layers.GRU(3, return_sequences=True))(h, initial_state=[state])
    return keras.Model({"source": source, "target": target}, {"steps": layers.Dense(5)(decoded), "row": mean(decoded)})


def in_batch(h):
    """Scores of every row against every other, as in contrastive learning."""
    vectors = mean(h)
    return ops.matmul(vectors, ops.transpose(vectors))


RIGHT = {
    "recurrent": ("vectors", lambda: stack(keep(layers.LSTM(3)))),
    "causal convolutions without a mask": (
        "vectors",
        lambda: keras.Sequential([layers.Conv1D(3, 3, padding="causal"), layers.Conv1D(3, 2, padding="causal")]),
    ),
    "one direction without a mask": (
        "vectors",
        lambda: keras.Sequential([layers.GRU(3, return_sequences=True), layers.Dense(2)]),
    ),
    "normalized, dropped": (
        "tokens",
        lambda: on_tokens(
            lambda h: mean(layers.Dropout(0.5)(layers.BatchNormalization()(layers.LayerNormalization()(h))))
        ),
    ),
    "a Transformer": ("tokens", lambda: on_tokens(lambda h: mean(layers.LayerNormalization()(OwnAttention(True)(h))))),
    "Attention": ("tokens", lambda: on_tokens(lambda h: mean(layers.Attention()([h, h])))),
    "a classifier": ("vectors", lambda: MaskedLSTMClassifier(2, (3, 2), bidirectional=True, pooling="attention")),
    "a classifier with lengths": ("lengths", lambda: MaskedLSTMClassifier(2, 3, pooling="max")),
    "a classifier of tokens": ("tokens", lambda: MaskedLSTMClassifier(2, 3, vocabulary_size=20, embedding_dim=3)),
    "an encoder and a decoder": ("pairs", encoder_decoder),
    "by design": ("tokens", lambda: on_tokens(in_batch)),
    "a model in a model": (
        "vectors",
        lambda: keras.Sequential([stack(keep(layers.GRU(3, return_sequences=True))), layers.GlobalAveragePooling1D()]),
    ),
}
