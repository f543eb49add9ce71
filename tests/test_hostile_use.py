"""Use that nobody planned for: any arguments, several iterators, threads, garbage collection, copies, many epochs."""

import copy
import json
import pickle
import re
import threading
import traceback
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier
from tests.support.default_layer import examples

LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
SEQUENCES = [np.arange(length, dtype=np.float32) + 1 for length in LENGTHS]
SIZES = st.sampled_from([None, None, 1, 2, 3, 4, 8, 0, -1, 2.5, "4", True, 10**30, np.int64(4)])
OPTIONS = {
    "batch_size": SIZES,
    "bucket_batch_sizes": st.sampled_from([None, None, [4, 2], [4, 4, 2], [], [0], 3, "ab", [[1], [2, 3]]]),
    "max_timesteps_per_batch": st.sampled_from([None, None, 9, 20, 64, 8, 0, -3, 1.5, "many"]),
    "batch_size_multiple": st.sampled_from([1, 1, 2, 4, 13, 0, None, "2", 2**31 - 1, 2**40]),
    "bucket_boundaries": st.sampled_from([None, None, [4], [2, 5], [5, 5], [7, 3], [100], [], "4", [1.5], [None], 4]),
    "num_buckets": st.sampled_from([None, None, 1, 2, 3, 100, 0, "2"]),
    "pad_to_bucket_boundary": st.sampled_from([False, True, None, 1]),
    "padding_value": st.sampled_from([0, -1, 0.5, float("nan"), None, "0", [0], 10**400]),
    "label_padding_value": st.sampled_from([0, -1, 0.5, None, "0", 10**400]),
    "maxlen": st.sampled_from([None, None, 4, 1, 0, -2, 3.5, "5"]),
    "truncating": st.sampled_from(["post", "pre", "middle", None]),
    "minlen": st.sampled_from([None, None, 4, 1, 12, 0, -2, 3.5, "5", 2**31, True]),
    "align_labels": st.sampled_from([True, False, None, "no"]),
    "timestep_weights": st.sampled_from([True, False, None, 1]),
    "on_empty": st.sampled_from(["raise", "drop", "keep", "ignore", 3]),
    "include_lengths": st.sampled_from([False, True, "yes"]),
    "remainder": st.sampled_from(["spill", "keep", "drop", "lose", None]),
    "shuffle": st.sampled_from([True, False, None]),
    "largest_first": st.sampled_from([True, False, None]),
    "seed": st.sampled_from([None, 0, 7, 2**40, -1, 1.5, "seed"]),
    "sampling_weights": st.sampled_from(
        [
            None,
            None,
            None,
            np.arange(12),
            [2.5] * 12,
            [1] * 13,
            [0] * 12,
            [True] * 12,
            [-1] * 12,
            [np.nan] * 12,
            "abc",
            1,
        ]
    ),
    "rows_per_epoch": st.sampled_from([None, None, None, 8, 40, 1, 0, 2.5, "9", 2**31 - 1 << 2]),
    "num_shards": st.sampled_from([1, 1, 2, 3, 0, None, 2**31 - 1]),
    "shard_index": st.sampled_from([0, 0, 1, 2, -1, None]),
}


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(
    options=st.fixed_dictionaries({}, optional=OPTIONS),
    empty=st.booleans(),
)
def test_any_arguments_give_a_sound_dataset_or_an_error_of_ours(options: dict, empty: bool):
    sequences = [*SEQUENCES, np.empty(0, np.float32)] if empty else SEQUENCES
    try:
        dataset = BucketedSequence(sequences, np.arange(len(sequences)), **options)
    except (ValueError, TypeError) as error:
        check_error(error)
        return
    check_one_epoch(dataset, sequences, options)


ROWS = [[1, 2], [3]]
LISTS = [ROWS, [], [[]], [[], []], [1, 2], [[1], "a"], [["a"], ["b"]], [[1], None], [None, None], [[1], [[2]]]]
LABELS = [[0, 1], [0.5, None], ["a", "b"], [[1, 2], [1]], [[1], [1, 2]], [[1j], [2]], [[2**70], [1]], [{"a": 1}, 2]]
STRUCTURES = [{}, (), {1: ROWS}, {"a": {}}, {"a": ROWS, "b": [1]}, {"a": [1, 2]}, (ROWS, ROWS), (ROWS, [0, 1])]
SCALARS = ["text", b"bytes", 5, None, True, object(), np.array(3), tf.constant("text")]
ARRAYS = [np.zeros((2, 3)), np.zeros(0), np.array(["a", "b"]), np.array([[1], None], object), tf.zeros((2, 3))]
RAGGED = [tf.ragged.constant(ROWS), tf.ragged.constant([["a"], ["b"]]), [np.zeros((2, 3)), np.zeros((1, 4))]]
DATA = st.sampled_from([*LISTS, *LABELS, *STRUCTURES, *SCALARS, *ARRAYS, *RAGGED])


@settings(max_examples=examples(300), suppress_health_check=[HealthCheck.too_slow])
@given(x=DATA, y=st.none() | DATA, sample_weight=st.none() | DATA)
def test_any_data_give_a_sound_dataset_or_an_error_of_ours(x: object, y: object, sample_weight: object):
    try:
        dataset = BucketedSequence(x, y, sample_weight)
    except (ValueError, TypeError) as error:
        check_error(error)
        return
    assert sorted(np.concatenate([*dataset.epoch_plan(0)])) == list(range(dataset.num_sequences))
    assert len(list(dataset)) == len(dataset)


FLOATS = tf.TensorSpec([None], tf.float32)
LOADER = {
    "lengths": st.sampled_from(
        [LENGTHS, np.array(LENGTHS), [], [LENGTHS], "abc", [-1] * 12, LENGTHS[:5], 7, None, [2.5] * 12]
    ),
    "output_signature": st.sampled_from(
        [
            FLOATS,
            FLOATS,
            FLOATS,
            None,
            "float32",
            [],
            {"a": FLOATS},
            tf.TensorSpec([3]),
            tf.TensorSpec([]),
            tf.TensorSpec([None], tf.string),
        ]
    ),
    "length_tolerance": st.sampled_from([0, 0, 1, 2**40, -1, 2.5, "2", None, True]),
    "num_parallel_loads": st.sampled_from([1, 4, 0, -1, None, "many", 2.5]),
}


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(load=st.sampled_from([SEQUENCES.__getitem__, SEQUENCES.__getitem__, None, "load"]), **LOADER)
def test_any_arguments_of_a_loader_give_a_sound_dataset_or_an_error_of_ours(load: object, **arguments: object):
    try:
        dataset = BucketedSequence.from_loader(load, y=np.arange(len(SEQUENCES)), batch_size=4, **arguments)
    except (ValueError, TypeError) as error:
        check_error(error)
        return
    if isinstance(arguments["output_signature"], tf.TensorSpec):
        check_one_epoch(dataset, SEQUENCES, {})
    else:  # the loader does not return what it announced
        with pytest.raises(tf.errors.OpError, match="output_signature"):
            list(dataset)


def check_error(error: Exception) -> None:
    """It was raised by this package, and names the argument."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    assert "keras_bucketing" in Path(raised_in).parts, f"raised in {raised_in}: {error}"
    message = str(error)
    assert len(message) < 1000
    assert "`" in message or re.search(r"\b(x|y|sample_weight)\[|\w+=", message), f"names no argument: {message}"


def check_one_epoch(dataset: BucketedSequence, sequences: list[np.ndarray], options: dict) -> None:
    plan = dataset.epoch_plan(0)
    batches = list(dataset)
    assert len(batches) == len(plan) == len(dataset)
    num_shards = options.get("num_shards") or 1
    if options.get("sampling_weights") is not None or options.get("rows_per_epoch") is not None:
        assert len(plan.rows) * num_shards == dataset.num_sequences
    elif num_shards == 1:
        assert sorted([*plan.rows, *plan.left_out]) == list(range(len(sequences)))
    maxlen, multiple = options.get("maxlen"), options.get("batch_size_multiple", 1)
    for (x, rows), planned, padded_length in zip(batches, plan, plan.padded_lengths, strict=True):
        np.testing.assert_array_equal(rows, planned)
        x = x["sequences"] if isinstance(x, dict) else x
        assert x.shape == (len(planned), padded_length)
        assert padded_length >= (options.get("minlen") or 1)
        assert len(planned) % multiple == 0
        if options.get("max_timesteps_per_batch"):
            assert len(planned) * num_shards * padded_length <= options["max_timesteps_per_batch"]
        for values, row in zip(x.numpy(), planned, strict=True):
            expected = sequences[row]
            if maxlen is not None:
                expected = expected[-maxlen:] if options.get("truncating") == "pre" else expected[:maxlen]
            np.testing.assert_array_equal(values[: len(expected)], expected)
            np.testing.assert_array_equal(values[len(expected) :], options.get("padding_value", 0))


def rows_of(batches) -> list[list[int]]:
    return [rows.numpy().tolist() for _, rows in batches]


def make_dataset(**options) -> BucketedSequence:
    return BucketedSequence(SEQUENCES, np.arange(len(SEQUENCES)), batch_size=2, **{"seed": 1, **options})


def planned(dataset: BucketedSequence, epoch: int) -> list[list[int]]:
    return [rows.tolist() for rows in dataset.epoch_plan(epoch)]


def test_two_iterators_at_once_read_an_epoch_each():
    dataset = make_dataset()
    first, second = iter(dataset), iter(dataset)
    interleaved = [(next(first), next(second)) for _ in range(len(dataset))]
    assert rows_of(batch for batch, _ in interleaved) == planned(dataset, 0)
    assert rows_of(batch for _, batch in interleaved) == planned(dataset, 1)


@pytest.mark.fit
def test_predicting_in_the_middle_of_an_iteration_disturbs_neither():
    dataset = make_dataset(shuffle=False)
    model = keras.Sequential([keras.layers.Lambda(lambda x: x[:, :1])])
    iterator = iter(dataset)
    beginning = [next(iterator) for _ in range(2)]
    predicted = dataset.restore_order(model.predict(dataset, verbose=0))
    assert predicted.tolist() == [[1.0]] * len(SEQUENCES)
    assert rows_of([*beginning, *iterator]) == planned(dataset, 0)


def test_several_threads_read_an_epoch_each():
    dataset = make_dataset()
    passes: list[list[list[int]]] = []
    threads = [threading.Thread(target=lambda: passes.append(rows_of(dataset))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(passes) == sorted(planned(dataset, epoch) for epoch in range(6))


def test_an_iterator_outlives_its_dataset(collect_garbage):
    dataset = make_dataset()
    expected = planned(dataset, 0)
    iterator = iter(dataset)
    first = next(iterator)
    del dataset
    collect_garbage()
    assert rows_of([first, *iterator]) == expected


@pytest.mark.parametrize("copy_it", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copying_says_why_not(copy_it):
    with pytest.raises(TypeError, match=r"cannot be pickled or copied.*state_dict"):
        copy_it(make_dataset())


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`:UserWarning")
def test_a_saved_model_from_a_stranger_runs_no_code(tmp_path: Path):
    model, trace = MaskedLSTMClassifier(2, 2), tmp_path / "code was run"
    model.build((None, None, 1))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config["config"]["classifier_activation"] = keras.saving.serialize_keras_object(
        lambda x, path=str(trace): (Path(path).touch(), x)[1]
    )
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "tampered.keras", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="safe_mode"):
        keras.saving.load_model(tmp_path / "tampered.keras")
    assert not trace.exists()


@pytest.mark.fit
def test_many_epochs_do_not_grow(collect_garbage):
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc to measure memory")
    dataset = make_dataset()

    def resident_after(epochs: int) -> int:
        for _ in range(epochs):
            for _batch in dataset:
                pass
        collect_garbage()
        return int(statm.read_text().split()[1]) * 4096

    before = resident_after(30)
    growth = resident_after(90) - before
    # An iterator with its threads and graph is tens of kilobytes, one epoch's order of 12 rows a hundred bytes.
    assert growth < 10_000 * 90, f"{growth / 1e6:.1f} MB in 90 epochs"
    assert dataset.epoch == 120
