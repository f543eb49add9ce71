"""SequenceMasking and PaddingMask: the mask is the padding, exactly."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from keras_bucketing import BucketedSequence, KeepMask, SequenceMasking
from tests.support.default_layer import examples

pytestmark = pytest.mark.filterwarnings("error:Layer .* was passed an input with a mask:UserWarning")

quick = settings(max_examples=examples(60), deadline=None)


def mask_of(inputs, mask_value=0.0, **kwargs):
    return np.array(SequenceMasking(mask_value, **kwargs).compute_mask(inputs))


def trailing_run_mask(x, mask_value):
    """The definition, row by row and timestep by timestep."""
    mask = np.ones(x.shape[:2], bool)
    for row, timesteps in zip(mask, x, strict=True):
        for t in reversed(range(1, len(timesteps))):
            if not np.all(timesteps[t] == mask_value):
                break
            row[t] = False
    return mask


# Few different values, so that genuine timesteps equal to mask_value are common.
batches = st.one_of(
    npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=st.sampled_from([0, 1])),
    npst.arrays(np.int32, npst.array_shapes(min_dims=2, max_dims=3, max_side=5), elements=st.integers(0, 1)),
)


@st.composite
def batches_with_lengths(draw):
    x = draw(batches)
    return x, draw(npst.arrays(np.int32, x.shape[0], elements=st.integers(0, x.shape[1] + 1)))


@quick
@given(x=batches, mask_value=st.sampled_from([0, 1]))
def test_without_lengths_only_the_trailing_run_of_mask_value_is_masked(x, mask_value):
    np.testing.assert_array_equal(mask_of(x, mask_value), trailing_run_mask(x, mask_value))


@quick
@given(batch=batches_with_lengths())
def test_with_lengths_the_values_do_not_matter(batch):
    x, lengths = batch
    expected = np.arange(x.shape[1]) < np.maximum(lengths, 1)[:, None]
    np.testing.assert_array_equal(mask_of({"sequences": x, "lengths": lengths}), expected)
    layer = SequenceMasking()
    np.testing.assert_array_equal(layer.sequence_lengths({"sequences": x, "lengths": lengths}), expected.sum(1))


def assert_cudnn_takes(mask):
    """The conditions of _assert_valid_mask in keras/src/backend/tensorflow/rnn.py; cuDNN stops the run on others."""
    assert mask.any(axis=1).all(), "a fully masked row"
    assert not (~mask[:, :-1] & mask[:, 1:]).any(), "a hole: real timesteps after a masked one"


@quick
@given(batch=batches_with_lengths(), give_lengths=st.booleans())
def test_every_mask_is_one_that_cudnn_takes(batch, give_lengths):
    x, lengths = batch
    assert_cudnn_takes(mask_of({"sequences": x, "lengths": lengths} if give_lengths else x))


@pytest.mark.parametrize("remainder", ["spill", "keep", "drop"])
@pytest.mark.parametrize("include_lengths", [True, False])
def test_every_batch_of_the_package_gets_a_mask_that_cudnn_takes(remainder, include_lengths):
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 2, size=(length, 1)).astype("float32") for length in rng.integers(0, 9, size=50)]
    dataset = BucketedSequence(
        x, batch_size=4, num_buckets=3, remainder=remainder, include_lengths=include_lengths, on_empty="keep", seed=0
    )
    for batch in dataset:
        assert_cudnn_takes(mask_of(batch))


@quick
@given(batch=batches_with_lengths(), padding=st.sampled_from([7, np.nan, np.inf, -np.inf]))
def test_padding_comes_out_as_zeros_and_the_rest_as_it_was(batch, padding):
    x, lengths = batch
    x = x.astype("float32")
    mask = np.arange(x.shape[1]) < np.maximum(lengths, 1)[:, None]
    padded = np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, padding).astype("float32")
    outputs = np.array(SequenceMasking()(padded, lengths=lengths))
    np.testing.assert_array_equal(outputs[mask], x[mask])
    np.testing.assert_array_equal(outputs[~mask], 0)


def test_nan_in_the_padding_reaches_neither_outputs_nor_gradients():
    x = np.array([[[1.0, 2.0], [3.0, 4.0], [np.nan, np.inf]]], "float32")
    lstm = KeepMask(keras.layers.LSTM(3))

    def output_and_gradients(x, lengths):
        with tf.GradientTape() as tape:
            output = lstm(SequenceMasking()(x, lengths=lengths))
        return [output, *tape.gradient(output, lstm.trainable_variables)]

    output_and_gradients(x, [2])  # builds
    for padded, alone in zip(output_and_gradients(x, [2]), output_and_gradients(x[:, :2], [2]), strict=True):
        np.testing.assert_allclose(padded, alone, atol=1e-6)


def test_a_genuine_zero_timestep_survives_where_keras_masking_drops_it():
    x = np.array([[[1.0], [0.0], [2.0], [0.0]]], "float32")
    assert np.array(keras.layers.Masking().compute_mask(x)).tolist() == [[True, False, True, False]]
    assert mask_of(x).tolist() == [[True, True, True, False]]


def test_nan_can_be_the_mask_value():
    x = np.array([[[np.nan, 1], [np.nan, np.nan], [0, 1], [np.nan, np.nan]]], "float32")
    assert mask_of(x, np.nan).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("lengths", [[3, 2], np.array([3, 2], "int64"), np.array([[3], [2]]), np.array([3.0, 2.0])])
def test_keras_own_numbers_for_a_masked_lstm(lengths):
    # keras/src/layers/rnn/lstm_test.py, test_masking: masks TTTF and TTFF.
    x = np.arange(24, dtype="float32").reshape(2, 4, 3)
    constant = keras.initializers.Constant
    lstm = keras.layers.LSTM(
        2,
        kernel_initializer=constant(0.01),
        recurrent_initializer=constant(0.02),
        bias_initializer=constant(0.03),
    )
    expected = [[0.11755939] * 2, [0.28556206] * 2]
    np.testing.assert_allclose(KeepMask(lstm)(SequenceMasking()(x, lengths=lengths)), expected, rtol=1e-5)


# In the three kinds of models.

X = np.array([[[1.0], [0.0], [2.0], [0.0]], [[1.0], [2.0], [3.0], [4.0]]], "float32")
LENGTHS = np.array([3, 2], "int32")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.masking = SequenceMasking()
        self.lstm = KeepMask(keras.layers.LSTM(3))

    def call(self, inputs):
        return self.lstm(self.masking(inputs))


def functional():
    sequences, lengths = keras.Input((None, 1), name="sequences"), keras.Input((), dtype="int32", name="lengths")
    outputs = KeepMask(keras.layers.LSTM(3))(SequenceMasking()(sequences, lengths=lengths))
    return keras.Model({"sequences": sequences, "lengths": lengths}, outputs)


@pytest.mark.fit
@pytest.mark.parametrize(
    "make_model",
    [Subclassed, functional, lambda: keras.Sequential([SequenceMasking(), KeepMask(keras.layers.LSTM(3))])],
    ids=["subclassed", "functional", "sequential"],
)
def test_the_lengths_reach_the_next_layer(make_model):
    model = make_model()
    outputs = model({"sequences": X, "lengths": LENGTHS})
    lstm = model.layers[-1]
    mask = tf.sequence_mask(LENGTHS, 4)
    np.testing.assert_allclose(outputs, lstm(X, mask=mask), atol=1e-6)
    model.compile("sgd", "mse")
    model.fit({"sequences": X, "lengths": LENGTHS}, np.zeros((2, 3)), verbose=0)
    predictions = model.predict({"sequences": X, "lengths": LENGTHS}, verbose=0)
    np.testing.assert_allclose(predictions, lstm(X, mask=mask), atol=1e-6)


@pytest.mark.parametrize("next_layer", [KeepMask(keras.layers.GRU(2)), keras.layers.GlobalAveragePooling1D()])
def test_in_a_sequential_model_without_lengths_the_trailing_zeros_are_masked(next_layer):
    model = keras.Sequential([keras.Input((None, 1)), SequenceMasking(), next_layer])
    np.testing.assert_allclose(model(X)[:1], model(X[:1, :3]), atol=1e-6)


def test_a_functional_model_is_rebuilt_from_its_config_with_one_row_for_the_mask():
    model = functional()
    # The layer and its mask; from Keras 3.16 on a mask that travels with its tensor is no part of the graph.
    assert sum("mask" in layer.name for layer in model.operations if not isinstance(layer, KeepMask)) in (1, 2)
    copy = keras.Model.from_config(json.loads(json.dumps(model.get_config())))
    copy.set_weights(model.get_weights())
    inputs = {"sequences": X, "lengths": LENGTHS}
    np.testing.assert_array_equal(copy(inputs), model(inputs))


def test_the_docstrings_replacement_for_embedding_keeps_a_genuine_id_0():
    token_ids = keras.Input((None,), dtype="int32")
    masking, embedding, lstm = SequenceMasking(0), keras.layers.Embedding(9, 4), KeepMask(keras.layers.LSTM(3))
    vectors = masking(embedding(token_ids), lengths=masking.sequence_lengths(token_ids))
    model = keras.Model(token_ids, lstm(vectors))
    np.testing.assert_allclose(model(np.array([[5, 0, 7, 0, 0]])), lstm(embedding(np.array([[5, 0, 7]]))), atol=1e-6)


def test_one_trace_for_every_shape():
    layer = SequenceMasking()
    traced = tf.function(lambda x: (layer(x), layer.compute_mask(x)), input_signature=[tf.TensorSpec([None, None, 2])])
    for shape in [(1, 1, 2), (3, 5, 2), (2, 9, 2)]:
        outputs, mask = traced(tf.zeros(shape))
        assert outputs.shape == shape
        assert np.array(mask).tolist() == [[True] + [False] * (shape[1] - 1)] * shape[0]
    assert traced.experimental_get_tracing_count() == 1
