"""What check_padding compares, what it leaves as it was, and what it says."""

import dataclasses
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_bucketing
from keras_bucketing import BucketedSequence, KeepMask, SequenceMasking, check_padding, monitor_padding
from tests.support.padding_models import (
    CLASSES,
    LENGTHS,
    STEP_LABELS,
    TOKENS,
    VECTORS,
    beside,
    compiled,
    cross_entropy,
    dataset,
    dict_model,
    mean,
    on_tokens,
    on_vectors,
    stack,
    untraced,
)
from tests.support.paths import EXAMPLES

# Keras warns of masks that are lost when a model is made, not only when it runs.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask:UserWarning")


def padded(rows, time=None, left=False):
    time = time or max(map(len, rows))
    result = np.zeros((len(rows), time, *np.shape(rows[0])[1:]), rows[0].dtype)
    for row, values in zip(result, rows, strict=True):
        row[time - len(values) if left else 0 :][: len(values)] = values
    return result


# What most of these tests are about is the same in a graph, and to trace one takes longer than to run the model.


def right():
    return untraced(stack(layers.Dense(3), layers.GlobalAveragePooling1D()))


def leaking():
    return untraced(keras.Sequential([layers.Dense(3), layers.GlobalAveragePooling1D()]))


# The oracle: each row alone, computed here.

PARTS = {
    "dense": lambda: layers.Dense(2),
    "tanh": lambda: layers.Activation("tanh"),
    "shifted": lambda: layers.Rescaling(1.0, offset=1.0),
    "norm": lambda: layers.LayerNormalization(),
    "groups": lambda: layers.GroupNormalization(1),
    "conv": lambda: layers.Conv1D(2, 3, padding="same"),
    "kept conv": lambda: KeepMask(layers.Conv1D(2, 3, padding="same")),
    "causal": lambda: layers.Conv1D(2, 2, padding="causal"),
    "gru": lambda: KeepMask(layers.GRU(2, return_sequences=True)),
    "backwards": lambda: layers.GRU(2, return_sequences=True, go_backwards=True),
    "kept backwards": lambda: KeepMask(layers.GRU(2, return_sequences=True, go_backwards=True)),
    "lambda": lambda: layers.Lambda(lambda x: x * 2),
    "kept lambda": lambda: KeepMask(layers.Lambda(lambda x: x * 2)),
    "pooled": lambda: layers.AveragePooling1D(2, strides=1, padding="same"),
}
ENDS = {
    "steps": lambda: layers.Dense(2),
    "mean": lambda: layers.GlobalAveragePooling1D(),
    "max": lambda: layers.GlobalMaxPooling1D(),
    "last": lambda: KeepMask(layers.GRU(2)),
}


def oracle(model, rows):
    """By how much a row alone differs from the row in a batch, and in one that is padded further."""
    alone = [ops.convert_to_numpy(model(row[np.newaxis]))[0] for row in rows]
    apart = 0.0
    for time in (None, max(map(len, rows)) + 8):
        outputs = ops.convert_to_numpy(model(padded(rows, time)))
        for row, output in zip(alone, outputs, strict=True):
            real = output if row.shape == output.shape else output[: len(row)]
            apart = max(apart, float(np.abs(row - real).max()))
    return apart


def check_stack(parts, end, masks, lengths, seed):
    random.seed(seed)  # of Keras' seeds; to seed TensorFlow as well empties its caches
    names = [*parts, end]
    model = keras.Sequential([*([SequenceMasking()] if masks else []), *(PARTS[name]() for name in parts), ENDS[end]()])
    model.run_eagerly = True
    rows = [np.random.default_rng(seed + i).normal(size=(size, 2)).astype("float32") for i, size in enumerate(lengths)]
    model(rows[0][np.newaxis])
    for variable in model.trainable_variables:  # as trained: zero biases hide what is in the padding
        variable.assign_add(np.random.default_rng(seed).normal(scale=0.1, size=variable.shape))
    apart = oracle(model, rows)
    assume(not 1e-6 < apart < 1e-3)  # neither equal nor different
    check = check_padding(model, BucketedSequence(rows, batch_size=2, seed=0))
    assert check.passed == (apart < 1e-4), (names, apart, check.text)
    assert check.passed or check.layer is not None, (names, check.text)


STACKS = {
    "parts": st.lists(st.sampled_from(sorted(PARTS)), max_size=3),
    "end": st.sampled_from(sorted(ENDS)),
    "masks": st.booleans(),
    "lengths": st.lists(st.integers(1, 6), min_size=2, max_size=4, unique=True),
    "seed": st.integers(0, 1000),
}


@pytest.mark.fit
@given(**STACKS)
@settings(max_examples=10)
def test_a_stack_of_layers_passes_where_each_row_alone_gives_the_same(parts, end, masks, lengths, seed):
    check_stack(parts, end, masks, lengths, seed)


# What it returns.


def test_the_result_is_frozen_true_where_it_passed_and_prints_lines():
    models = right(), leaking()
    for model in models:
        model.run_eagerly = False
    good, bad = (check_padding(model, dataset("vectors")) for model in models)
    assert good
    assert not bad
    assert good.layer is None
    assert good.max_difference < 1e-6
    assert bad.max_difference > 1e-3
    assert bad.loss_difference is None
    assert str(good).startswith("Padding does not reach the outputs: 8 rows of 1 to 12 timesteps")
    assert 2 <= len(str(bad).splitlines()) <= 6
    assert "\nWhere: " in str(bad)
    assert "\nInstead: " in str(bad)
    with pytest.raises(dataclasses.FrozenInstanceError):
        good.passed = False
    assert repr(good).startswith("PaddingCheck(passed=True, max_difference=")


def test_few_rows_are_the_shortest_and_the_longest():
    check = check_padding(right(), dataset("vectors"), num_rows=2)
    assert "2 rows of 1 to 12 timesteps" in check.text


def test_a_difference_below_the_tolerance_passes():
    assert check_padding(leaking(), dataset("vectors"), tolerance=100.0)


# Which datasets it takes.


def test_a_tf_data_dataset_of_padded_batches():
    batches = tf.data.Dataset.from_tensor_slices((padded(VECTORS), CLASSES)).batch(4)
    assert check_padding(right(), batches)
    assert not check_padding(leaking(), batches)


def test_a_monitored_dataset_is_read_without_a_trace():
    batches = monitor_padding(tf.data.Dataset.from_tensor_slices((padded(VECTORS), CLASSES)).batch(4))
    assert not check_padding(leaking(), batches)
    assert batches.newest_pass().number == 0


def test_a_bucketed_sequence_stands_where_it_stood():
    data = dataset("vectors")
    next(iter(data))
    position, state = data.newest_pass(), data.state_dict()
    check_padding(right(), data)
    assert (data.newest_pass(), data.state_dict()) == (position, state)


@pytest.mark.parametrize("labels", [True, False])
def test_arrays_as_in_fit(labels):
    arrays = (padded(VECTORS), CLASSES) if labels else padded(VECTORS)
    assert check_padding(right(), arrays)
    assert not check_padding(leaking(), arrays)


def test_a_py_dataset():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            rows = slice(4 * index, 4 * index + 4)
            return padded(VECTORS[rows]), CLASSES[rows]

    assert check_padding(right(), Batches())
    assert not check_padding(leaking(), Batches())


@pytest.mark.fit
def test_batches_with_lengths_are_padded_behind_them():
    x = {"sequences": padded(VECTORS, 14), "lengths": np.array(LENGTHS)}
    assert check_padding(dict_model(masks=True), (x, CLASSES))
    assert not check_padding(dict_model(masks=False), (x, CLASSES))


def test_batches_with_a_mask():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="bool", name="padding_mask")
    h = layers.Embedding(20, 4)(ids)
    inputs = {"token_ids": ids, "padding_mask": mask}
    x = {"token_ids": padded(TOKENS), "padding_mask": padded([np.ones(n, bool) for n in LENGTHS])}
    assert check_padding(keras.Model(inputs, layers.GlobalAveragePooling1D()(h, mask=mask)), x)
    check = check_padding(keras.Model(inputs, beside(layers.GlobalAveragePooling1D()(h), mask[:, :1])), x)
    assert not check
    assert 'mask=inputs["padding_mask"]' in check.text


def test_rows_that_are_padded_at_their_beginning_stay_so():
    assert check_padding(stack_of_masking(), padded(VECTORS, left=True))
    last = keras.Sequential([layers.Masking(), layers.Dense(3), layers.Lambda(lambda x: x[:, -1])])
    assert check_padding(untraced(last), padded(VECTORS, left=True))  # the last timestep is a real one
    assert not check_padding(last, padded(VECTORS))


def stack_of_masking():
    return untraced(keras.Sequential([layers.Masking(), layers.Dense(3), layers.GlobalAveragePooling1D()]))


def test_a_nested_structure_of_several_inputs_and_outputs():
    source, target = keras.Input((None, 3), name="source"), keras.Input((None,), dtype="int32", name="target")
    one = mean(SequenceMasking()(source))
    two = layers.Embedding(20, 4)(target)
    for mask_zero in (True, False):
        two = mean(layers.Embedding(20, 4, mask_zero=mask_zero)(target))
        model = keras.Model({"source": source, "target": target}, {"a": one, "b": [two, one]})
        assert check_padding(untraced(model), dataset("pairs")).passed == mask_zero


def test_shards_are_taken_for_what_they_hold():
    data = BucketedSequence(VECTORS, CLASSES, batch_size=4, num_shards=2, shard_index=1, seed=0)
    assert check_padding(right(), data)
    assert not check_padding(leaking(), data)


# What it leaves as it was.


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables, *(v for m in model.metrics for v in m.variables)]
    return [np.array(ops.convert_to_numpy(ops.copy(variable.value))) for variable in variables]


@pytest.mark.fit
def test_weights_optimizer_metrics_seeds_and_states_stay():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, None, 3)),
            SequenceMasking(),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=1),
            KeepMask(layers.GRU(3, stateful=True)),
            layers.Dense(2),
        ]
    )
    model.compile("adam", cross_entropy(), metrics=["accuracy"])
    model.fit(
        BucketedSequence(VECTORS, CLASSES, batch_size=4, remainder="drop", num_buckets=1), verbose=0, shuffle=False
    )
    before, layer = state_of(model), model.layers[-2]
    random_state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert any(np.any(ops.convert_to_numpy(ops.copy(state.value))) for state in layer.states)
    check = check_padding(model, dataset("vectors"))
    assert check.passed, check.text
    assert check.loss_difference == pytest.approx(0, abs=1e-6)
    after = state_of(model)
    assert len(before) == len(after)
    assert all(np.array_equal(one, two) for one, two in zip(before, after, strict=True))
    assert (np.random.get_state()[1] == random_state).all()  # noqa: NPY002
    assert keras.layers.Layer.__call__.__module__.startswith("keras.")
    assert keras.Operation.__call__.__module__.startswith("keras.")


def test_a_model_without_weights_is_built():
    model = right()
    assert not model.built
    check_padding(model, dataset("vectors"))
    assert model.built


def test_warnings_of_lost_masks_are_results_and_no_errors():
    model = on_vectors(lambda h: h)
    model = keras.Sequential([model, layers.Conv1D(2, 3, padding="same"), layers.GlobalAveragePooling1D()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not check_padding(model, dataset("vectors"))


# What it refuses, and what it says besides.


def test_a_model_that_is_random_at_inference_is_refused_by_name():
    @keras.saving.register_keras_serializable("tests")
    class Noise(layers.Layer):
        def __init__(self):
            super().__init__(name="noise")
            self.generator = keras.random.SeedGenerator(0)

        def call(self, inputs):
            return inputs + keras.random.normal(ops.shape(inputs), seed=self.generator)

    with pytest.raises(ValueError, match=r"random at inference: .* first in the layer 'noise'"):
        check_padding(stack(Noise(), layers.GlobalAveragePooling1D()), dataset("vectors"))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"model": 3}, TypeError, "`model` must be a Keras model"),
        ({"dataset": 3}, TypeError, "`dataset` cannot be read"),
        ({"num_rows": 0}, ValueError, "`num_rows` is too small"),
        ({"extra_timesteps": 1.5}, TypeError, "`extra_timesteps` must be an integer"),
        ({"tolerance": 0}, ValueError, "`tolerance` must be positive"),
        ({"dataset": np.zeros(3)}, TypeError, "must be a list of sequences"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, text):
    arguments = {"model": right(), "dataset": dataset("vectors"), **arguments}
    with pytest.raises(error, match=text):
        check_padding(arguments.pop("model"), arguments.pop("dataset"), **arguments)


def test_positions_that_end_leave_fewer_timesteps_to_pad_with():
    @keras.saving.register_keras_serializable("tests")
    class Positions(layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking = True

        def build(self, shape):
            self.table = self.add_weight((14, 3), "random_normal")

        def call(self, inputs):
            time = inputs.shape[1]
            if time is not None and time > 14:
                raise ValueError("no more positions")
            return inputs + self.table[: ops.shape(inputs)[1]]

    model = stack(Positions(), layers.GlobalAveragePooling1D())
    model.run_eagerly = True
    check = check_padding(model, dataset("vectors"))
    assert check.passed, check.text
    assert "padded by 2 more" in check.text


def test_a_model_of_one_number_of_timesteps():
    model = keras.Sequential([keras.Input((12, 3)), SequenceMasking(), layers.Flatten(), layers.Dense(2)])
    check = check_padding(model, BucketedSequence(VECTORS, CLASSES, batch_size=4, minlen=12))
    assert check.passed
    assert "not padded further, which it refuses" in check.text


def test_minlen_is_respected():
    model = stack(layers.Lambda(lambda x: x[:, :5]), layers.Flatten(), layers.Dense(2))
    model.run_eagerly = True
    assert check_padding(model, BucketedSequence([x[:5] for x in VECTORS], CLASSES, batch_size=4, minlen=5))


@pytest.mark.fit
def test_a_loss_that_counts_padding_is_found_and_one_with_weights_is_not():
    model = keras.Sequential([layers.GRU(3, return_sequences=True)])
    check = check_padding(compiled(model, loss=cross_entropy()), dataset("steps"))
    assert not check
    assert check.loss_difference > 0.01
    assert check.max_difference < 1e-6
    exact = compiled(model, loss=cross_entropy(reduction="mean_with_sample_weight"))
    check = check_padding(exact, dataset("steps"))
    assert check
    assert check.loss_difference < 1e-6
    unweighted = BucketedSequence(VECTORS, STEP_LABELS, batch_size=4, timestep_weights=False)
    assert "sample weights that are 0 there" in check_padding(exact, unweighted).text


@pytest.mark.skipif(tuple(map(int, keras.version().split(".")[:2])) >= (3, 16), reason="Keras selects by name")
def test_inputs_that_are_fed_by_position_are_seen():
    inputs = {
        "source": keras.Input((None, 3), name="source"),
        "target": keras.Input((None,), dtype="int32", name="target"),
    }
    lengths = keras.Input((), dtype="int32", name="source_lengths")
    h = SequenceMasking()(inputs["source"], lengths=lengths)
    outputs = layers.Add()([mean(h), layers.Dense(3)(mean(layers.Embedding(20, 4, mask_zero=True)(inputs["target"])))])
    model = keras.Model({**inputs, "source_lengths": lengths}, outputs)
    x = {"source": VECTORS, "target": TOKENS[::-1]}
    check = check_padding(model, BucketedSequence(x, CLASSES, batch_size=4, include_lengths=True))
    assert not check
    assert "its input 'source' gets the entry 'lengths'" in check.text


@pytest.mark.fit
def test_fully_masked_rows_and_nan_are_said():
    data = BucketedSequence([[], *TOKENS], batch_size=4, on_empty="keep")
    assert "masked as a whole" in check_padding(on_tokens(lambda h: KeepMask(layers.GRU(3))(h)), data).text
    rows = [VECTORS[0] * np.nan, *VECTORS]
    check = check_padding(right(), BucketedSequence(rows, batch_size=4))
    assert "The data hold NaN, in 1 of 9 rows" in check.text
    assert "Outputs are NaN" in check.text


@pytest.mark.fit
@pytest.mark.skipif(tuple(map(int, keras.version().split(".")[:2])) >= (3, 16), reason="recurrent layers end masks")
def test_no_false_alarm_on_the_examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import ctc_keypad
    import encoder_decoder
    import tagger

    x, y = encoder_decoder.make_data(40, seed=0)
    check = check_padding(encoder_decoder.make_model(8), BucketedSequence(x, y, batch_size=8, seed=0))
    assert check.passed, check.text
    assert check.loss_difference < 1e-5
    recognizer = ctc_keypad.Recognizer(4)
    recognizer.compile("adam")
    calls = sorted(zip(*ctc_keypad.make_data(20, seed=0), strict=True), key=lambda call: len(call[0]))[:8]
    frames, keys = map(list, zip(*calls, strict=True))
    data = BucketedSequence(frames, keys, align_labels=False, include_lengths=True, batch_size=8)
    check = check_padding(recognizer, data)
    assert check.passed, check.text
    assert check.loss_difference < 1e-3
    labels = [row % 2 for row in TOKENS]
    check = check_padding(tagger.make_model(20), BucketedSequence(TOKENS, labels, batch_size=4, seed=0))
    assert check.passed, check.text


# Mixed precision.


@pytest.mark.fit
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_raises_no_alarm_and_hides_no_leak(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        good = stack(KeepMask(layers.Conv1D(4, 3, padding="same")), KeepMask(layers.GRU(4)), layers.Dense(2))
        bad = stack(layers.Conv1D(4, 3, padding="same"), layers.GlobalAveragePooling1D(), layers.Dense(2))
    finally:
        keras.config.set_dtype_policy(before)
    check = check_padding(good, dataset("vectors"))
    assert check.passed, check.text
    assert policy.removeprefix("mixed_") in check.text
    assert good.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    if policy.startswith("mixed"):
        assert not check_padding(bad, dataset("vectors"))


def test_it_is_public():
    assert {"check_padding", "PaddingCheck", "KeepMask"} <= set(keras_bucketing.__all__)
