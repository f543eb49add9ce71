"""MaskedPooling: what padded timesteps hold makes no difference."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_bucketing.layers.masked_pooling import POOLINGS, MaskedPooling
from tests.support.default_layer import examples

FEATURES = 2


@pytest.fixture(scope="module")
def attention():
    """One layer, with a bias: its weights are drawn once."""
    layer = MaskedPooling("attention")
    layer.build((None, None, FEATURES))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    return layer


def pool_in_numpy(pooling, timesteps, layer):
    """The definition, on one unpadded sequence (time, features)."""
    if pooling == "mean":
        return timesteps.mean(axis=0)
    if pooling == "max":
        return timesteps.max(axis=0)
    kernel, bias, context = layer.get_weights()
    scores = np.exp(np.tanh(timesteps @ kernel + bias) @ context)
    return (scores / scores.sum() * timesteps).sum(axis=0)


@st.composite
def batches(draw):
    shape = draw(npst.array_shapes(min_dims=2, max_dims=2, max_side=4))
    x = draw(npst.arrays(np.float32, (*shape, FEATURES), elements=st.floats(-3, 3, width=16)))
    return x, draw(npst.arrays(np.int32, shape[0], elements=st.integers(1, shape[1])))


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=examples(30), deadline=None)
@given(batch=batches(), padding=st.sampled_from([0, 9, -9, np.nan, np.inf]))
def test_only_real_timesteps_are_pooled(pooling, attention, batch, padding):
    x, lengths = batch
    mask = np.arange(x.shape[1]) < lengths[:, None]
    layer = attention if pooling == "attention" else MaskedPooling(pooling)
    padded = tf.constant(np.where(mask[..., None], x, padding).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(padded)
        pooled = layer(padded, mask=mask)
    expected = [pool_in_numpy(pooling, row[:n], layer) for row, n in zip(x, lengths, strict=True)]
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    gradient = np.array(tape.gradient(pooled, padded))
    assert np.isfinite(gradient).all()
    assert not gradient[~mask].any()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_mask_that_a_tensor_carries_is_used_and_not_handed_on(pooling):
    x = np.array([[[1.0, 2.0], [3.0, -1.0], [0.0, 0.0]]], "float32")
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.Masking(), MaskedPooling(pooling)])
    np.testing.assert_allclose(model(x), model(x[:, :2]), atol=1e-6)
    assert model.layers[-1].compute_mask(x, mask=np.ones((1, 3), bool)) is None


def test_the_mean_of_many_timesteps_is_exact_in_half_precision():
    x = np.ones((1, 5000, 1), "float16")
    assert float(MaskedPooling("mean", dtype="mixed_float16")(x)[0, 0]) == 1.0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_is_rebuilt_from_its_config(pooling):
    layer = MaskedPooling(pooling, name="here")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (copy.pooling, copy.name) == (pooling, "here")


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match=r"`pooling` is unknown\. Expected one of .*, received 'sum'"):
        MaskedPooling("sum")
