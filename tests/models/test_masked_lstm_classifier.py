"""MaskedLSTMClassifier: its numbers, its shapes, what it refuses."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_bucketing import MaskedLSTMClassifier, SequenceMasking
from tests.support.classifier_configs import CLASSES, CONFIGS, FEATURES, make_model

pytestmark = pytest.mark.filterwarnings("error:Layer .* was passed an input with a mask:UserWarning")


def test_keras_own_numbers_for_a_masked_lstm():
    # keras/src/layers/rnn/lstm_test.py, test_masking: masks TTTF and TTFF.
    constant = keras.initializers.Constant
    lstm = layers.LSTM(
        2,
        kernel_initializer=constant(0.01),
        recurrent_initializer=constant(0.02),
        bias_initializer=constant(0.03),
    )
    lstm.build((None, None, 3))
    model = MaskedLSTMClassifier(2, 2, classifier_activation=None)
    model.build((None, None, 3))
    model.set_weights([*lstm.get_weights(), np.eye(2), np.zeros(2)])
    x = np.arange(24, dtype="float32").reshape(2, 4, 3)
    outputs = model({"sequences": x, "lengths": np.array([3, 2])})
    np.testing.assert_allclose(outputs, [[0.11755939] * 2, [0.28556206] * 2], rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_cudnn_can_run_it_unless_recurrent_dropout_is_asked_for(name):
    # The conditions of keras/src/layers/rnn/lstm.py and of cudnn_ok in keras/src/backend/tensorflow/rnn.py; those on
    # the mask (right-padded, no fully masked row) are in test_sequence_masking.py.
    model = make_model(**CONFIGS[name])
    for layer in model.recurrent_layers:
        for lstm in (layer.forward_layer, layer.backward_layer) if model.bidirectional else (layer,):
            assert lstm.activation is keras.activations.tanh
            assert lstm.recurrent_activation is keras.activations.sigmoid
            assert lstm.use_bias
            assert not lstm.unroll
            assert lstm.use_cudnn == "auto"
            assert lstm.recurrent_dropout == CONFIGS[name].get("recurrent_dropout", 0)


def test_dropout_is_applied_in_training_only():
    x = np.ones((64, 3, FEATURES), "float32")
    for arguments in ({"dropout": 0.5}, {"recurrent_dropout": 0.5}):
        model = make_model((4, 4), **arguments)
        assert np.ptp(np.array(model(x)), axis=0).max() == 0
        assert np.ptp(np.array(model(x, training=True)), axis=0).max() > 0.001


def test_integer_vectors_are_taken_as_numbers():
    model = make_model(3)
    x = np.array([[[1, 2], [0, 3]]])
    np.testing.assert_array_equal(model(x), model(x.astype("float32")))


def test_another_mask_value():
    x = np.array([[[0.0, 0.0], [-1.0, -1.0], [-1.0, -1.0]]], "float32")
    model = make_model(3, mask_value=-1)
    np.testing.assert_allclose(model(x), model(x[:, :1]), atol=1e-6)
    ids = make_model(3, ids=True, mask_value=-1)  # -1 is no row of the embedding
    np.testing.assert_allclose(ids(np.array([[0, 0, -1]])), ids(np.array([[0, 0]])), atol=1e-6)


# Shapes, traces.


def summary_of(model):
    lines = []
    model.summary(print_fn=lines.append, line_length=120)
    return "\n".join(lines)


def test_the_summary_shows_shapes_before_training():
    text = summary_of(make_model((3, 2), bidirectional=True, pooling="max"))
    for shape in ["(None, None, 2)", "(None, None, 6)", "(None, None, 4)", "(None, 4)", "(None, 3)"]:
        assert shape in text
    assert "?" not in text


def test_the_summary_of_a_model_of_token_ids_needs_no_build():
    text = summary_of(MaskedLSTMClassifier(3, 4, vocabulary_size=10, embedding_dim=2))
    assert "(None, None, 2)" in text
    assert "?" not in text


def test_the_summary_of_an_unbuilt_model_of_vectors_says_so():
    assert "?" in summary_of(MaskedLSTMClassifier(3))


class CountsTraces(MaskedLSTMClassifier):
    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


@pytest.mark.fit
@pytest.mark.parametrize("with_lengths", [False, True])
def test_no_new_trace_whatever_the_shapes(with_lengths):
    sequences = tf.TensorSpec([None, None, FEATURES])
    x_spec = {"sequences": sequences, "lengths": tf.TensorSpec([None], tf.int32)} if with_lengths else sequences
    shapes = [(2, 3), (1, 5), (3, 1), (2, 4)]

    def batches():
        for rows, time in shapes:
            x = np.ones((rows, time, FEATURES), "float32")
            yield {"sequences": x, "lengths": np.full(rows, time, "int32")} if with_lengths else x, np.zeros(rows)

    dataset = tf.data.Dataset.from_generator(batches, output_signature=(x_spec, tf.TensorSpec([None])))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(shapes)))
    model = CountsTraces(CLASSES, 2, bidirectional=True, pooling="attention")
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(dataset.take(1), shuffle=False, verbose=0)
    after_one_shape = model.traces
    model.fit(dataset, epochs=2, shuffle=False, verbose=0)
    assert after_one_shape > 0
    # From Keras 3.16 on (keras/src/backend/tensorflow/trainer.py) batches are taken outside of the graph, so that the
    # first trace knows the shape of its batch, and the second shape brings one for all others.
    takes_batches_outside = tuple(map(int, keras.version().split(".")[:2])) >= (3, 16)
    assert model.traces == after_one_shape + takes_batches_outside


# Errors.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "`num_classes` is too small"),
        ({"num_classes": 2.5}, TypeError, "`num_classes` must be an integer"),
        ({"num_classes": 1}, ValueError, "A softmax over one class is always 1"),
        ({"units": 0}, ValueError, "`units` is too small"),
        ({"units": "64"}, TypeError, "`units` must be an integer"),
        ({"units": ()}, ValueError, "`units` is empty"),
        ({"units": (4, 0)}, ValueError, "`units[1]` is too small"),
        ({"units": (4, "5")}, TypeError, "`units[1]` must be an integer"),
        ({"vocabulary_size": 10}, ValueError, "`vocabulary_size` and `embedding_dim` go together"),
        ({"embedding_dim": 10}, ValueError, "`vocabulary_size` and `embedding_dim` go together"),
        ({"vocabulary_size": 0, "embedding_dim": 2}, ValueError, "`vocabulary_size` is too small"),
        ({"vocabulary_size": 9, "embedding_dim": 0.5}, TypeError, "`embedding_dim` must be an integer"),
        (
            {"vocabulary_size": 9, "embedding_dim": 2, "mask_value": 0.5},
            ValueError,
            "`mask_value` must be a whole number where the model takes token ids. Received 0.5",
        ),
        ({"mask_value": "0"}, TypeError, "`mask_value` must be a number"),
        ({"bidirectional": "yes"}, TypeError, "`bidirectional` must be a boolean"),
        ({"pooling": "sum"}, ValueError, "Expected one of ['last', 'mean', 'max', 'attention'], received 'sum'"),
        ({"pooling": None}, TypeError, "`pooling` must be a string"),
        ({"dropout": 1.0}, ValueError, "`dropout` must be a fraction of the values. Expected 0 <= rate < 1"),
        ({"dropout": "0.5"}, TypeError, "`dropout` must be a number"),
        ({"recurrent_dropout": -0.1}, ValueError, "`recurrent_dropout` must be a fraction"),
        ({"classifier_activation": "sotfmax"}, ValueError, "`classifier_activation` is unknown"),
        ({"classifier_activation": 3}, ValueError, "`classifier_activation` is unknown"),
    ],
)
def test_arguments_that_cannot_work_are_refused_when_the_model_is_made(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        MaskedLSTMClassifier(**{"num_classes": 3, **arguments})


@pytest.mark.parametrize(
    ("ids", "x", "message"),
    [
        (False, np.ones((2, 3)), "Expected vectors (batch, time, features), received shape (2, 3)"),
        (False, np.ones((2, 3, 4, 5)), "received shape (2, 3, 4, 5)"),
        (True, np.ones((2, 3, 4), "int32"), "Expected token ids (batch, time), received shape (2, 3, 4)"),
        (False, {"tokens": np.ones((2, 3, 4))}, 'must have the keys "sequences" and "lengths"'),
    ],
)
@pytest.mark.parametrize("built", [False, True])
def test_inputs_of_another_kind_are_refused(ids, x, message, built):
    model = make_model(2, ids=ids)
    if not built:
        model = MaskedLSTMClassifier.from_config(model.get_config())
    with pytest.raises(ValueError, match=re.escape(message)):
        model(x)


def test_an_unknown_number_of_features_is_refused():
    with pytest.raises(ValueError, match=r"received shape \(None, None, None\)"):
        MaskedLSTMClassifier(3).build((None, None, None))


def test_it_masks_as_the_layer_does():
    model = make_model(3)
    assert isinstance(model.masking, SequenceMasking)
    x = np.array([[[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]], "float32")
    holes = np.array(keras.layers.Masking()(x))  # what the safe replacement avoids
    np.testing.assert_allclose(model(x), model(holes[:, :3]), atol=1e-6)


def test_another_number_of_features_is_refused():
    model = MaskedLSTMClassifier(3, 4)
    model.build((None, None, 2))
    with pytest.raises(
        ValueError, match=r"Expected vectors of 2 features, as this model was built for, received shape"
    ):
        model(np.ones((2, 3, 5), "float32"))


def test_the_output_shape_is_known_without_a_batch():
    assert MaskedLSTMClassifier(3).compute_output_shape((None, None, 2)) == (None, 3)
    shapes = {"sequences": (8, None, 2), "lengths": (8,)}
    assert MaskedLSTMClassifier(3).compute_output_shape(shapes) == (8, 3)


@pytest.mark.parametrize(
    ("arguments", "inputs", "times"),
    [
        ({"units": 2}, np.ones((1, 3, 2), "float32"), 1),  # before the dense layer
        ({"units": (2, 2)}, np.ones((1, 3, 2), "float32"), 2),  # and between the LSTM layers
        (
            {"units": 2, "vocabulary_size": 5, "embedding_dim": 2},
            np.ones((1, 3), "int32"),
            2,
        ),  # and after the embedding
        ({"units": (2, 2), "vocabulary_size": 5, "embedding_dim": 2}, np.ones((1, 3), "int32"), 3),
    ],
)
def test_dropout_falls_where_the_documentation_says(arguments, inputs, times, monkeypatch):
    model = MaskedLSTMClassifier(3, dropout=0.5, **arguments)
    model(inputs)
    shapes = []
    call = model.dropout_layer.call
    monkeypatch.setattr(model.dropout_layer, "call", lambda x, **options: shapes.append(x.shape) or call(x, **options))
    model(inputs, training=True)
    assert len(shapes) == times
    assert tuple(shapes[-1]) == (1, 2)  # before the dense layer


def test_a_sequence_that_ends_in_a_genuine_zero_step_after_the_embedding_is_masked_by_its_ids():
    x = np.array([[[1, 2], [0, 3], [0, 0], [0, 0]]], "float32")
    model = MaskedLSTMClassifier(3, 4)
    np.testing.assert_allclose(model(x), model(x[:, :2]), atol=1e-6)


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_pair_of_sequences_and_lengths_says_how_lengths_are_passed(kind, built):
    model = MaskedLSTMClassifier(2, 3)
    x, lengths = np.ones((2, 4, 1), "float32"), np.array([3, 2])
    if built:
        model({"sequences": x, "lengths": lengths})
    with pytest.raises(TypeError, match=rf"Sequences must be one tensor.*received a {kind.__name__} of 2.*lengths"):
        model(kind([x, lengths]))
    assert model({"sequences": x, "lengths": lengths}).shape == (2, 2)
