"""KeepMask: the mask goes in and out, padding is zero, and rows alone give what they give in a batch."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_bucketing import KeepMask, SequenceMasking
from tests.support.default_layer import examples

pytestmark = pytest.mark.filterwarnings("error:Layer .* was passed an input with a mask:UserWarning")

RNG = np.random.default_rng(0)
ROWS = [RNG.normal(size=(length, 3)).astype("float32") for length in (7, 4, 1, 9)]


@keras.saving.register_keras_serializable(package="tests")
class Own(layers.Layer):
    """A layer that knows nothing of masks, and has no compute_output_shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3, bias_initializer="ones")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return ops.tanh(self.dense(inputs))


class ReadsTheMask(layers.Layer):
    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        self.inputs, self.mask = ops.convert_to_numpy(inputs), None if mask is None else ops.convert_to_numpy(mask)
        return inputs

    def compute_output_shape(self, shape):
        return shape


def padded(rows, time):
    return np.stack([np.pad(row, [(0, time - len(row)), (0, 0)]) for row in rows])


def mask_of(tensor):
    reader = ReadsTheMask()
    reader(tensor)
    return reader.mask


LAYERS = {
    "conv": lambda: layers.Conv1D(4, 3, padding="same", bias_initializer="ones"),
    "dilated": lambda: layers.Conv1D(4, 3, padding="same", dilation_rate=2, bias_initializer="ones"),
    "separable": lambda: layers.SeparableConv1D(3, 4, padding="same", bias_initializer="ones"),
    "lstm": lambda: layers.LSTM(3, return_sequences=True),
    "backwards": lambda: layers.GRU(3, return_sequences=True, go_backwards=True),
    "bidirectional": lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    "inside": lambda: layers.Bidirectional(KeepMask(layers.LSTM(3, return_sequences=True))),
    "einsum": lambda: layers.EinsumDense("btf,fg->btg", (None, 5), bias_axes="g", bias_initializer="ones"),
    "dense": lambda: layers.Dense(4, bias_initializer="ones"),
    "own": Own,
    "stack": lambda: keras.Sequential([layers.LSTM(3, return_sequences=True), layers.LSTM(3, return_sequences=True)]),
}
ENDS = {
    "steps": lambda: layers.Dense(2),
    "mean": lambda: layers.GlobalAveragePooling1D(),
    "last": lambda: KeepMask(layers.LSTM(2)),
    "both": lambda: KeepMask(layers.Bidirectional(layers.GRU(2))),
    "inside": lambda: KeepMask(layers.Bidirectional(KeepMask(layers.GRU(2)))),
}


def check_rows(model):
    for time in (9, 13):
        outputs = ops.convert_to_numpy(model(padded(ROWS, time)))
        for row, output in zip(ROWS, outputs, strict=True):
            alone = ops.convert_to_numpy(model(row[np.newaxis]))[0]
            real = output if alone.shape == output.shape else output[: len(row)]
            np.testing.assert_allclose(real, alone, atol=1e-5)


@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=2), st.sampled_from(sorted(ENDS)))
@settings(max_examples=examples(6))
def test_rows_alone_give_what_they_give_in_a_batch(names, end):
    check_rows(keras.Sequential([SequenceMasking(), *(KeepMask(LAYERS[name]()) for name in names), ENDS[end]()]))


# One of each kind that KeepMask tells apart: to export takes longer than all the rest.
EXPORTED = {"conv", "backwards", "inside", "own", "stack"}


@pytest.mark.fit
@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_twice_is_saved_loaded_and_exported(name, tmp_path):
    model = keras.Sequential(
        [SequenceMasking(), KeepMask(LAYERS[name]()), KeepMask(LAYERS[name]()), layers.GlobalAveragePooling1D()]
    )
    check_rows(model)
    expected = ops.convert_to_numpy(model(padded(ROWS, 13)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(padded(ROWS, 9))), expected, atol=1e-5)
    if name in EXPORTED and keras.config.backend() == "tensorflow":
        import tensorflow as tf

        signature = [keras.InputSpec(shape=(None, None, 3), dtype="float32")]
        model.export(tmp_path / "exported", input_signature=signature, verbose=False)
        served = tf.saved_model.load(tmp_path / "exported")
        np.testing.assert_allclose(served.serve(padded(ROWS, 20)), expected, atol=1e-5)


def test_the_layer_gets_the_mask_and_zeros_and_the_output_carries_the_mask():
    x = np.array([[[1.0], [2.0], [np.nan]], [[3.0], [np.nan], [np.nan]]], "float32")
    mask = np.array([[True, True, False], [True, False, False]])
    reader = ReadsTheMask()
    outputs = KeepMask(reader)(x, mask=mask)
    assert (reader.mask == mask).all()
    assert reader.inputs[..., 0].tolist() == [[1, 2, 0], [3, 0, 0]]
    assert (mask_of(outputs) == mask).all()
    assert mask_of(KeepMask(layers.Lambda(lambda x: x * 2))(x)) is None  # there was none


def test_token_ids_are_set_to_zero_and_stay_integers():
    ids, mask = np.array([[5, 6, 7]]), np.array([[True, False, False]])
    embedding = layers.Embedding(3, 2)  # 6 and 7 are beyond it
    assert KeepMask(embedding)(np.minimum(ids, 2), mask=mask).shape == (1, 3, 2)


def test_a_recurrent_layer_without_sequences_gets_the_mask_which_ends_there():
    outputs = KeepMask(layers.LSTM(3))(SequenceMasking()(padded(ROWS, 9)))
    assert mask_of(outputs) is None


def test_both_directions_and_states():
    x = SequenceMasking()(padded(ROWS, 9))
    one, two = KeepMask(layers.Bidirectional(layers.GRU(2, return_sequences=True), merge_mode=None))(x)
    assert (mask_of(one) == mask_of(two)).all()
    sequences, state = KeepMask(layers.GRU(2, return_sequences=True, return_state=True))(x)
    assert mask_of(sequences) is not None
    assert mask_of(state) is None


def test_outputs_of_a_reversed_layer_stand_where_their_inputs_stood():
    layer = layers.GRU(3, return_sequences=True, go_backwards=True)
    kept = ops.convert_to_numpy(KeepMask(layer)(SequenceMasking()(padded(ROWS, 9))))
    for row, output in zip(ROWS, kept, strict=True):
        reversed_outputs = ops.convert_to_numpy(layer(row[np.newaxis]))[0]
        np.testing.assert_allclose(output[: len(row)], reversed_outputs[::-1], atol=1e-6)


def test_beside_an_initial_state_keras_forgets_the_mask_and_this_layer_does_not():
    state = [np.ones((4, 3), "float32")]
    layer = layers.GRU(3)
    masked = KeepMask(layer)(SequenceMasking()(padded(ROWS, 9)), initial_state=[ops.convert_to_tensor(state[0])])
    for row, output in zip(ROWS, ops.convert_to_numpy(masked), strict=True):
        alone = layer(row[np.newaxis], initial_state=[ops.convert_to_tensor(state[0][:1])])
        np.testing.assert_allclose(output, ops.convert_to_numpy(alone)[0], atol=1e-6)


def test_stateful_layers_keep_their_state_and_are_reset():
    layer = KeepMask(layers.LSTM(3, stateful=True))
    model = keras.Sequential([keras.Input(batch_shape=(4, None, 3)), SequenceMasking(), layer])
    first, second = (ops.convert_to_numpy(model(padded(ROWS, 9))) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    layer.reset_state()
    np.testing.assert_allclose(ops.convert_to_numpy(model(padded(ROWS, 9))), first, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv1D(3, 3),
        lambda: layers.Conv1D(3, 3, strides=2, padding="same"),
        lambda: layers.MaxPooling1D(),
        lambda: layers.GlobalMaxPooling1D(),
        lambda: layers.UpSampling1D(),
        lambda: layers.Lambda(lambda x: x[:, 1:]),
    ],
)
@pytest.mark.parametrize("time", [None, 8])
def test_a_layer_that_changes_the_time_axis_is_refused(layer, time):
    with pytest.raises(ValueError, match=r"keeps the time axis\. Expected \(batch, \d+, \.\.\.\) from '"):
        keras.Sequential([keras.Input((time, 3)), KeepMask(layer())])


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match=r"`layer` must be a Keras layer\. .* Wrap a function in keras\.layers\.Lambda"):
        KeepMask(ops.relu)


def test_half_precision_is_the_layers():
    layer = KeepMask(layers.Conv1D(4, 3, padding="same", dtype="mixed_float16"))
    outputs = layer(SequenceMasking(dtype="mixed_float16")(padded(ROWS, 9)))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert layer.layer.kernel.dtype == "float32"
    again = KeepMask.from_config(layer.get_config())
    assert again.compute_dtype == again.layer.compute_dtype == "float16"


def test_recurrent_layers_bring_no_warning_on_any_keras():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = keras.Sequential(
            [
                SequenceMasking(),
                KeepMask(layers.LSTM(3, return_sequences=True)),
                KeepMask(layers.Bidirectional(layers.GRU(3, return_sequences=True))),
                KeepMask(layers.LSTM(3)),
            ]
        )
        model(padded(ROWS, 9))
