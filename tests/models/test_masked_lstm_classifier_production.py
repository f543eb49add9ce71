"""MaskedLSTMClassifier outside of the process that trained it: saved, exported, cloned, compiled, in half precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing import KeepMask, MaskedLSTMClassifier, SequenceMasking
from tests.support.paths import SUPPORT
from tests.support.processes import run_python

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(4, 6, 2)).astype("float32")
TOKEN_IDS = RNG.integers(0, 10, size=(4, 6)).astype("int32")
LENGTHS = np.array([6, 3, 1, 4], "int32")
LABELS = np.array([0, 1, 2, 0])

MODELS = {
    "vectors": {"units": 3, "bidirectional": True, "pooling": "attention", "dropout": 0.1},
    "token-ids": {"units": (3, 2), "pooling": "max", "vocabulary_size": 10, "embedding_dim": 3},
}


def data(name, extra=0):
    """A batch with lengths; `extra` appends timesteps, to lengths that no training has seen."""
    x = TOKEN_IDS if name == "token-ids" else VECTORS
    return {"sequences": np.concatenate([x, x[:, :extra]], axis=1), "lengths": LENGTHS + extra}


@pytest.fixture(scope="module", params=MODELS)
def trained(request):
    """A compiled model after one step, and its name. It runs eagerly: to trace it takes longer."""
    model = MaskedLSTMClassifier(3, **MODELS[request.param])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    model.fit(data(request.param), LABELS, verbose=0)
    return model, request.param


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    model, name = trained
    path = tmp_path_factory.mktemp(name) / "model.keras"
    model.save(path)
    return path


@pytest.mark.fit
def test_a_saved_model_comes_back_with_weights_optimizer_and_loss(trained, saved):
    model, name = trained
    loaded = keras.saving.load_model(saved)
    inputs = data(name, extra=5)
    np.testing.assert_allclose(loaded(inputs), model(inputs), atol=1e-6)
    for variable, original in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, original)
    assert loaded.evaluate(data(name), LABELS, verbose=0) == pytest.approx(
        model.evaluate(data(name), LABELS, verbose=0)
    )
    assert loaded.get_config() == model.get_config()


@pytest.mark.fit
def test_a_new_process_needs_nothing_but_keras_and_the_package(tmp_path):
    expected = {}
    for name in MODELS:
        model = MaskedLSTMClassifier(3, **MODELS[name])
        expected[name] = model(data(name, extra=2))
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", **data(name, extra=2))
    script = """
import pathlib, keras, keras_bucketing, numpy as np
for path in pathlib.Path().glob("*.keras"):
    model = keras.saving.load_model(path)
    np.save(path.with_suffix(".npy"), model(dict(np.load(path.with_suffix(".npz")))))
"""
    run_python("-c", script, cwd=tmp_path, check=True)
    for name, outputs in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), outputs, atol=1e-6)


@pytest.mark.fit
def test_a_saved_model_exported_after_loading_takes_lengths_never_seen(trained, saved, tmp_path):
    model, name = trained
    keras.saving.load_model(saved).export(tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    for extra in (0, 5):
        inputs = data(name, extra)
        outputs = served.serve({key: tf.constant(value) for key, value in inputs.items()})
        np.testing.assert_allclose(outputs, model(inputs), atol=1e-6)


def test_exported_for_inputs_without_lengths(tmp_path):
    model = MaskedLSTMClassifier(3, 2, pooling="mean")
    with pytest.raises(ValueError, match="Only a model with weights can be exported"):
        model.export(tmp_path)
    model.build((None, None, 2))
    model.export(tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    for x in (VECTORS, VECTORS[:1, :1]):
        np.testing.assert_allclose(served.serve(tf.constant(x)), model(x), atol=1e-6)


@pytest.mark.fit
@pytest.mark.onnx
@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.filterwarnings("ignore:In the future .np.object.:FutureWarning")  # keras/src/export/tf2onnx_lib.py
def test_onnx_takes_batches_and_lengths_never_seen(trained, with_lengths, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs the `onnx` extra: tf2onnx, onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the `onnx` extra: tf2onnx, onnxruntime")
    model, name = trained
    model(data(name) if with_lengths else data(name)["sequences"])
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for extra in (0, 5):
        inputs = data(name, extra) if with_lengths else {"sequences": data(name, extra)["sequences"]}
        wanted = [put.name for put in session.get_inputs()]
        feed = inputs if with_lengths else {wanted[0]: inputs["sequences"]}
        (outputs,) = session.run(None, feed)
        np.testing.assert_allclose(outputs, model(inputs), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_clone_and_config(name):
    model = MaskedLSTMClassifier(
        3, **MODELS[name], recurrent_dropout=0.25, mask_value=-1, classifier_activation=None, name="here"
    )
    clone = keras.models.clone_model(model)
    assert clone.get_config() == model.get_config()
    model(data(name))
    clone(data(name))
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(data(name)), model(data(name)), atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
def doubled(x):
    return 2 * x


@pytest.mark.parametrize("activation", ["sigmoid", None, keras.activations.softmax, doubled])
def test_activations_survive_the_config(activation):
    model = MaskedLSTMClassifier(3, 2, classifier_activation=activation)
    copy = MaskedLSTMClassifier.from_config(model.get_config())
    assert copy.classifier.activation is keras.activations.get(activation)


@pytest.mark.fit
def test_a_binary_model_and_logits():
    binary = MaskedLSTMClassifier(1, 2, classifier_activation="sigmoid")
    binary.compile("adam", "binary_crossentropy", metrics=["accuracy"], run_eagerly=True)
    binary.fit(VECTORS, LABELS > 0, verbose=0)
    assert ((binary.predict(VECTORS, verbose=0) > 0) & (binary.predict(VECTORS, verbose=0) < 1)).all()
    logits = MaskedLSTMClassifier(1, 2, classifier_activation=None)
    logits.build((None, None, 2))
    logits.set_weights(binary.get_weights())
    np.testing.assert_allclose(keras.ops.sigmoid(logits(VECTORS)), binary(VECTORS), atol=1e-6)


@pytest.mark.fit
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_predicts_in_float32_and_is_saved_with_its_policy(policy, tmp_path):
    model = MaskedLSTMClassifier(3, 4, pooling="mean", dtype=policy)
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    history = model.fit(data("vectors"), LABELS, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.recurrent_layers[0].compute_dtype == policy.removeprefix("mixed_")
    outputs = model.predict(data("vectors", extra=3), verbose=0)
    assert outputs.dtype == "float32"
    exact = MaskedLSTMClassifier(3, 4, pooling="mean")
    exact.build((None, None, 2))
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(outputs, exact(data("vectors", extra=3)), atol=0.02)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == policy
    np.testing.assert_allclose(loaded.predict(data("vectors", extra=3), verbose=0), outputs, atol=1e-6)


def test_the_padding_stays_out_in_half_precision_as_well():
    model = MaskedLSTMClassifier(3, 4, pooling="max", dtype="mixed_float16")
    x = data("vectors")["sequences"].copy()
    for row, length in zip(x, LENGTHS, strict=True):
        row[length:] = 1e30  # infinite in float16
    expected = [model(x[i : i + 1, :n])[0] for i, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(model({"sequences": x, "lengths": LENGTHS}), expected, atol=0.01)


def test_small_genuine_timesteps_count_in_half_precision_as_well():
    model = MaskedLSTMClassifier(3, 4, classifier_activation=None, dtype="mixed_float16")
    x = np.array([[[1.0], [1e-9], [1e-9]]], "float32")
    with_lengths = model({"sequences": x, "lengths": np.array([3])})
    np.testing.assert_array_equal(model(x), with_lengths)
    assert np.abs(np.array(model(x[:, :1]) - with_lengths)).max() > 1e-3


@pytest.mark.fit
def test_xla_gives_the_same_outputs_and_is_really_used(tmp_path):
    model = MaskedLSTMClassifier(3, 2, pooling="max")
    model.build((None, None, 2))
    expected = np.array(model(data("vectors")))
    (lstm,) = model.recurrent_layers
    lstm.supports_jit = False  # as Keras sets it where there is a GPU; it then warns and goes without XLA
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=True)
    assert model.jit_compile
    assert lstm.use_cudnn is False
    np.testing.assert_allclose(model.predict(data("vectors"), verbose=0), expected, atol=1e-5)
    model.fit(data("vectors"), LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").jit_compile


def test_it_is_a_layer_of_a_functional_model_too():
    inputs = keras.Input((None, 2))
    scores = MaskedLSTMClassifier(3, 4)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(scores))
    np.testing.assert_allclose(model(np.pad(VECTORS, [(0, 0), (0, 3), (0, 0)])), model(VECTORS), atol=1e-6)


def test_a_functional_model_with_the_layer_is_saved_and_loaded(tmp_path):
    sequences, lengths = keras.Input((None, 2), name="sequences"), keras.Input((), dtype="int32", name="lengths")
    hidden = KeepMask(keras.layers.GRU(3))(SequenceMasking()(sequences, lengths=lengths))
    model = keras.Model({"sequences": sequences, "lengths": lengths}, hidden)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(data("vectors")), model(data("vectors")), atol=1e-6)


@pytest.mark.fit
def test_a_model_that_version_0_1_0_saved_loads_and_predicts_the_same():
    model = keras.models.load_model(SUPPORT.parent / "models" / "fixtures" / "masked_lstm_classifier_0.1.0.keras")
    x = np.random.default_rng(5).normal(size=(3, 5, 2)).astype("float32")
    predicted = model.predict({"sequences": x, "lengths": np.array([5, 2, 3])}, verbose=0)
    expected = [
        [0.3159525692462921, 0.32067421078681946, 0.3633732497692108],
        [0.31775975227355957, 0.3214021325111389, 0.3608381450176239],
        [0.31934159994125366, 0.3336685001850128, 0.3469899296760559],
    ]
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
