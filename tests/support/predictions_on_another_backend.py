"""Run by test_predict_backends.py in a process of its own, with KERAS_BACKEND set: what models predict."""

import warnings

import keras
import numpy as np
from keras import layers

from keras_bucketing import BucketedSequence

RNG = np.random.default_rng(0)
LENGTHS, TARGET_LENGTHS = RNG.integers(1, 9, (2, 13))
X, TARGET = ([RNG.integers(1, 20, length) for length in lengths] for lengths in (LENGTHS, TARGET_LENGTHS))


class Positions(layers.Layer):
    """A vector for each of 8 positions; more are refused."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=(8, shape[-1]))

    def call(self, inputs):
        if isinstance(inputs.shape[1], int) and inputs.shape[1] > 8:
            raise ValueError("positions end at 8")
        return inputs + self.vectors[None, : keras.ops.shape(inputs)[1]]

    def compute_output_shape(self, shape):
        return shape


def ids(name="ids"):
    return keras.Input((None,), name=name)


def classifier():
    tokens = ids()
    return keras.Model(tokens, layers.Dense(8)(layers.LSTM(4)(layers.Embedding(20, 4, mask_zero=True)(tokens))))


def tagger():
    tokens = ids()
    return keras.Model(tokens, layers.Dense(3)(layers.Embedding(20, 4, mask_zero=True)(tokens)))


def unbuilt():
    return keras.Sequential([layers.Embedding(20, 4, mask_zero=True), layers.GlobalAveragePooling1D(), layers.Dense(2)])


def several_outputs():
    tokens = ids()
    vectors = layers.Embedding(20, 4, mask_zero=True)(tokens)
    return keras.Model(tokens, {"tags": [layers.Dense(3)(vectors)], "class": layers.Dense(2)(layers.GRU(3)(vectors))})


def strided():
    tokens = ids()
    return keras.Model(tokens, layers.Conv1D(2, 1, strides=2)(layers.Embedding(20, 4)(tokens)))


def encoder_decoder():
    source, target = ids("source"), ids("target")
    embedding = layers.Embedding(20, 4, mask_zero=True)
    _, *states = layers.LSTM(4, return_state=True)(embedding(source))
    decoded = layers.LSTM(4, return_sequences=True)(embedding(target), initial_state=states)
    return keras.Model({"source": source, "target": target}, layers.Dense(5)(decoded))


def positional():
    tokens = ids()
    return keras.Model(tokens, layers.Dense(8)(Positions()(layers.Embedding(20, 4)(tokens))))


def scores():
    tokens = ids()
    vectors = layers.Embedding(20, 4, mask_zero=True)(tokens)
    return keras.Model(tokens, layers.MultiHeadAttention(2, 2)(vectors, vectors, return_attention_scores=True)[1])


def stateful():
    inputs = keras.Input((None,), batch_size=4)
    return keras.Sequential([inputs, layers.Embedding(20, 4, mask_zero=True), layers.LSTM(3, stateful=True)])


def alone(model, x, size):
    """What the model predicts for a row alone; for as many copies as a stateful model wants."""
    if size > 1:
        for layer in model.layers:
            if hasattr(layer, "reset_state"):
                layer.reset_state()
    outputs = model.predict_on_batch(keras.tree.map_structure(lambda row: np.stack([row] * size), x))
    return keras.tree.map_structure(lambda output: np.asarray(output)[0], outputs)


def assert_same(predicted, expected):
    """An array of values of rows, or a list of arrays for each row."""
    if isinstance(predicted, np.ndarray):
        np.testing.assert_allclose(predicted, np.stack(expected), rtol=1e-4, atol=1e-5)
        return
    assert isinstance(predicted, list)
    for one, other in zip(predicted, expected, strict=True):
        assert one.shape == other.shape, (one.shape, other.shape)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def check(make, x=X, lengths=None, size=1, is_list=False, **options):
    model = make()
    dataset = BucketedSequence(x, **{"batch_size": 4, "seed": 1, "num_buckets": 2, **options})
    before = dataset.state_dict()
    predicted = dataset.predict(model, lengths=lengths, verbose=0)
    rows = [{key: leaf[row] for key, leaf in x.items()} if isinstance(x, dict) else x[row] for row in range(len(X))]
    expected = [alone(model, row, size) for row in rows]
    if isinstance(predicted, dict):
        assert_same(predicted["tags"][0], [row["tags"][0] for row in expected])
        assert_same(predicted["class"], [row["class"] for row in expected])
        assert isinstance(predicted["tags"][0], list)
        assert isinstance(predicted["class"], np.ndarray)
    else:
        assert isinstance(predicted, list) == is_list, make.__name__
        assert_same(predicted, expected)
    assert dataset.state_dict() == before
    assert dataset.newest_pass().number == 0


def main():
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="(jax|torch|keras|tensorflow).*")
    for shuffle in (True, False):
        check(classifier, shuffle=shuffle)
        check(tagger, is_list=True, shuffle=shuffle, pad_to_bucket_boundary=True)
        check(encoder_decoder, {"source": X, "target": TARGET}, "target", is_list=True, shuffle=shuffle)
    check(encoder_decoder, {"source": X, "target": TARGET}, is_list=True)
    check(unbuilt)
    check(several_outputs, minlen=3)
    check(strided, lengths=[-(-length // 2) for length in LENGTHS], is_list=True)
    check(positional, is_list=True)
    check(positional, [np.full(8, row + 1) for row in range(13)], is_list=True)
    check(classifier, [np.full(8, row + 1) for row in range(13)])
    check(scores, is_list=True)
    check(stateful, size=4)
    print(keras.config.backend(), "done")


if __name__ == "__main__":
    main()
