"""Calls that mean something else: each is answered with the call that is meant, shortly, before anything is read."""

import copy
import inspect
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import (
    BackupAndRestoreSequence,
    BucketedSequence,
    BucketedStream,
    PaddingStatsCallback,
    save_sequences,
)
from keras_bucketing.call_errors import _HINTS, _HINTS_FOR_STREAMS
from keras_bucketing.checks import list_some, shorten, show
from keras_bucketing.streams import progress
from tests.support.default_layer import examples

X, Y = [[1, 2, 3], [4], [5, 6]], [0, 1, 0]
LIMIT = 700


def error_of(function, *arguments, **options):
    with pytest.raises((TypeError, ValueError)) as raised:
        function(*arguments, **options)
    message = str(raised.value)
    assert len(message) < LIMIT, message
    return message


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"drop_remainder": True}, ['remainder="drop"']),
        ({"drop_remainder": False}, ['remainder="spill"']),
        ({"drop_last": True}, ['remainder="drop"']),
        ({"batch": 8}, ["batch_size="]),
        ({"padded_shapes": ([None], [])}, ["`padded_shapes`", "leave it out"]),
        ({"max_len": 5}, ["maxlen"]),
        ({"max_length": 5}, ["maxlen="]),
        ({"pad_to_multiple_of": 8}, ["pad_to_bucket_boundary=True", "range(9, longest + 9, 8)"]),
        ({"collate_fn": len}, ["dataset.map(function)"]),
        ({"padding_values": 0}, ["padding_value=", "label_padding_value="]),
        ({"shufle": True}, ["`shuffle`"]),
        ({"nothing_like_it": 1}, ["Expected some of x, y"]),
        ({"drop_last": True, "bs": 3, "random_state": 4}, ['remainder="drop"', "batch_size=", "seed="]),
        ({f"option_{index}": index for index in range(5000)}, ["4997 more are unknown"]),
        ({"a" * 100_000: 1}, ["aaa ... aaa"]),
    ],
)
@pytest.mark.parametrize("call", [BucketedSequence, BucketedSequence.from_padded, BucketedSequence.from_dataset])
def test_options_by_other_names(call, options, texts):
    message = error_of(call, X, **options)
    assert all(text in message for text in texts), message


def test_no_hint_is_for_an_option_of_ours():
    ours = inspect.signature(BucketedSequence).parameters
    assert not _HINTS.keys() & {name.replace("_", "") for name in ours} - {"batchsize"}


def test_what_a_stream_is_told_to_pass_it_takes():
    """Also for every option that only a BucketedSequence has."""
    known = inspect.signature(BucketedStream).parameters
    of_ours = inspect.signature(BucketedSequence).parameters.keys() - known.keys()
    for name in {*_HINTS_FOR_STREAMS, *of_ours} - {name.replace("_", "") for name in known}:
        message = error_of(BucketedStream, X, **{name: 1})
        assert f"`{name}` is not an option of BucketedStream." in message
        hint = message.partition(".")[2]
        assert hint
        assert "Expected some of" not in hint
        advised = re.findall(r"(\w+)=", re.sub(r"BucketedSequence\.\w+\(.*?\)|fit\(.*?\)", "", hint))
        assert set(advised) <= known.keys(), message


def test_hosts_and_labels_of_a_stream():
    for option in ("num_shards", "shard_index", "process_count"):
        message = error_of(BucketedStream, X, **{option: 2})
        assert "source.shard(num_hosts, host)" in message
        assert "equally many rows" in message
        assert "steps_per_epoch" in message
    for arguments, options in (((X, Y), {}), ((X,), {"y": Y}), ((X, 32), {})):
        assert "let `source` yield (x, y)" in error_of(BucketedStream, *arguments, **options)
    assert "batch_size=32" in error_of(BucketedStream, X, 32)


def test_what_the_hint_for_multiples_says():
    lengths = [1, 7, 8, 9, 20, 24, 25]
    longest = max(lengths)
    dataset = BucketedSequence(
        [[1] * length for length in lengths],
        pad_to_bucket_boundary=True,
        bucket_boundaries=list(range(9, longest + 9, 8)),
        batch_size=1,
    )
    assert {batch.shape[1] for batch in dataset} == {8, 16, 24, 32}


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ((X, Y, 32), ["batch_size=32"]),
        ((X, 32), ["batch_size=32"]),
        ((X, Y, None, 32), ["by name", "batch_size=32"]),
        ((X, {"a": Y, "b": Y}, {"a": Y}), ["sample_weight['b']", "np.ones(len(x))"]),
        ((X, (Y, Y), (Y, None)), ["`sample_weight[1]` is None", "np.ones(len(x))"]),
        (([[[1, 2], [3]], [[4]]],), ["pad_sequences", "inner axis"]),
        (([[[1, 2], [3, 4]], [[5]]],), ["pad_sequences", "inner axis"]),
        ((tf.ragged.constant([[[1, 2], [3]], [[4]]]),), ["inner axis", "pad_sequences"]),
        ((tf.sparse.from_dense([[1, 0], [2, 3]]),), ["tf.RaggedTensor.from_sparse(x)"]),
        ((iter(X),), ["from_dataset(x)"]),
        ((lambda: iter(X),), ["from_dataset(x)"]),
        ((tf.data.Dataset.range(3),), ["from_dataset(x)"]),
        ((X, {"a": Y, 1: Y}), ["strings as keys"]),
    ],
)
def test_calls_that_mean_something_else(arguments, texts):
    message = error_of(BucketedSequence, *arguments)
    assert all(text in message for text in texts), message


@settings(max_examples=examples(30))
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_lengths_where_splits_are_meant(lengths):
    values = np.arange(sum(lengths))
    assert "np.cumsum([0, *lengths])" in error_of(BucketedSequence.from_row_splits, values, lengths)
    assert BucketedSequence.from_row_splits(values, np.cumsum([0, *lengths])).lengths.tolist() == lengths


@pytest.mark.parametrize("name", ["DataFrame", "groups", "column groups"])
@pytest.mark.parametrize("door", [BucketedSequence, BucketedSequence.from_dataset])
def test_tables_of_pandas(door, name):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": [0, 0, 1], "a": [1.0, 2.0, 3.0]})
    groups = frame.groupby("id")
    table = {"DataFrame": frame, "groups": groups, "column groups": groups["a"]}[name]
    message = error_of(door, table)
    assert "is a table" in message
    assert "from_row_splits" in message or "from_dataframe" in message


@pytest.mark.parametrize("door", [BucketedSequence, BucketedSequence.from_dataset])
def test_tables_of_polars_and_arrow(door):
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    frame = polars.DataFrame({"id": [0, 0, 1]})
    for table in (frame, frame.lazy(), frame.group_by("id"), pyarrow.table({"id": [1]})):
        assert "is a table" in error_of(door, table)
    assert next(iter(BucketedSequence(X, frame)))[1].shape == (3, 1)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_matrices(form):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix(np.array([[1, 0], [2, 3], [0, 4]])).asformat(form)
    for door in (BucketedSequence, BucketedSequence.from_dataset):
        assert "from_row_splits(m.data, m.indptr)" in error_of(door, matrix)
    dataset = BucketedSequence([matrix, matrix.tocsr()[:1]], matrix.tocsr()[:2], shuffle=False)
    x, y = next(iter(dataset))
    assert x.numpy().tolist() == [[[1, 0], [0, 0], [0, 0]], [[1, 0], [2, 3], [0, 4]]]
    assert y.numpy().tolist() == [[2, 3], [1, 0]]


# Inherited constructors.


def inherited_constructors():
    methods = {name: method for base in reversed(tf.data.Dataset.__mro__) for name, method in vars(base).items()}
    kinds = (staticmethod, classmethod)
    return [name for name, method in methods.items() if isinstance(method, kinds) and not name.startswith("_")]


@pytest.mark.parametrize("name", [*inherited_constructors(), "from_sparse_tensor_slices"])
def test_inherited_constructors_are_refused(name):
    message = error_of(getattr(BucketedSequence, name), [1, 2])
    assert f"BucketedSequence.{name} would make a plain tf.data.Dataset" in message
    assert "BucketedSequence(" in message or "BucketedSequence.from_" in message
    message = error_of(getattr(BucketedStream, name), [1, 2])
    assert f"BucketedStream.{name} would make a plain tf.data.Dataset" in message
    assert "BucketedStream(" in message


def test_the_methods_of_tf_data_still_work():
    dataset = BucketedSequence(X, Y, batch_size=1, shuffle=False)
    assert len(list(dataset.enumerate())) == 3
    assert len(list(tf.data.Dataset.zip((dataset, dataset)))) == 3
    assert len(list(dataset.concatenate(dataset))) == 6
    assert len(list(dataset.interleave(lambda x, y: tf.data.Dataset.from_tensors(x)))) == 3
    assert len(list(dataset.window(2))) == 2


# What is wrong is said before anything is read.

WRONG_OPTIONS = [
    {"y": Y},
    {"x": X},
    {"sample_weight": Y},
    {"foo": 1},
    {"batch_size": 0},
    {"batch_size": 2, "bucket_batch_sizes": [1]},
    {"bucket_boundaries": [3, 2]},
    {"bucket_boundaries": [3], "num_buckets": 3},
    {"bucket_batch_sizes": [3, 4], "num_buckets": 3},
    {"bucket_batch_sizes": [3, 4], "bucket_boundaries": [3, 4]},
    {"num_buckets": 0},
    {"on_empty": "skip"},
    {"padding_value": "a"},
    {"label_padding_value": None},
    {"minlen": 3, "maxlen": 2},
    {"num_shards": 2},
    {"include_lengths": 3},
    {"align_labels": "no"},
    {"copy": 1},
    {"cache": 3},
    {"mask_value": "0"},
    {"padding": "left"},
    {"batched": 1},
    {"timestep_labels": "no"},
    {"remainder": "pad"},
    {"truncating": "end"},
    {"shuffle": None},
    {"seed": -1},
]


def refuse_to_be_read():
    pytest.fail("The source was read.")
    yield


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
def test_wrong_options_are_refused_before_reading(options):
    message = error_of(BucketedSequence.from_dataset, refuse_to_be_read, **options)
    assert any(f"`{name}" in message for name in [*options, "seed"])


def test_labels_belong_to_the_elements():
    assert "(x, y)" in error_of(BucketedSequence.from_dataset, refuse_to_be_read, y=Y)
    assert "zip(x, y)" in error_of(BucketedSequence.from_dataset, refuse_to_be_read, Y)
    assert "zip(x, y)" in error_of(save_sequences, "somewhere", refuse_to_be_read, Y)
    assert "zip(x, y)" in error_of(save_sequences, "somewhere", refuse_to_be_read, labels=Y)


@pytest.mark.parametrize("options", [{"overwrite": 1}, {"padding": "left"}, {"mask_value": "a"}, {"batched": 0}])
def test_wrong_options_of_save_sequences(tmp_path, options):
    error_of(save_sequences, tmp_path / "s", refuse_to_be_read, **options)
    error_of(save_sequences, 3, refuse_to_be_read)
    assert not list(tmp_path.iterdir())


# Streams.


class Sized:
    """An iterable whose length nobody may ask for."""

    def __iter__(self):
        return iter(X)

    def __len__(self):
        raise NotImplementedError


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_neither_a_length_nor_standard_error_is_needed(monkeypatch, tmp_path, stderr):
    if stderr == "closed":
        stderr = (tmp_path / "closed").open("w")
        stderr.close()
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert BucketedSequence.from_dataset(Sized()).lengths.tolist() == [3, 1, 2]


def test_a_data_loader_over_an_iterable_dataset():
    data = pytest.importorskip("torch.utils.data")
    import torch

    class Rows(data.IterableDataset):
        def __iter__(self):
            return ((torch.tensor(row), torch.tensor(label)) for row, label in zip(X, Y, strict=True))

    dataset = BucketedSequence.from_dataset(data.DataLoader(Rows(), batch_size=None), shuffle=False)
    assert next(iter(dataset))[1].numpy().tolist() == [1, 0, 0]


SPARSE = tf.SparseTensorSpec((None,), tf.int32)
SCALAR = tf.TensorSpec((), tf.int32)


@pytest.mark.parametrize(
    ("spec", "function"),
    [
        (SPARSE, "lambda x: tf.sparse.to_dense(x)"),
        ((SPARSE, SCALAR), "lambda x, y: (tf.sparse.to_dense(x), y)"),
        (({"a": SPARSE, "b": SCALAR}, SCALAR), "lambda x, y: ({**x, 'a': tf.sparse.to_dense(x['a'])}, y)"),
        (((SCALAR, SPARSE), SCALAR), "lambda x, y: ((x[0], tf.sparse.to_dense(x[1])), y)"),
        ((SCALAR, SPARSE, SCALAR), "lambda x, y, w: (x, tf.sparse.to_dense(y), w)"),
    ],
)
def test_sparse_elements_keep_their_labels(spec, function):
    def element(part):
        return tf.sparse.from_dense([1, 2]) if part is SPARSE else tf.constant(3)

    made = tf.nest.map_structure(element, spec)
    dataset = tf.data.Dataset.from_generator(lambda: iter([made]), output_signature=spec)
    assert function in error_of(BucketedSequence.from_dataset, dataset)
    converted = eval(function)(*made) if isinstance(made, tuple) else eval(function)(made)
    tf.nest.assert_same_structure(converted, spec, expand_composites=False)


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __getitem__(self, index):
        return self.batches[index]

    @property
    def num_batches(self):
        return len(self.batches)


@pytest.mark.parametrize("empty", [np.ones((0, 3)), []])
def test_an_empty_batch(empty):
    batches = Batches([(np.ones((2, 3)), np.ones(2)), (empty, np.ones(0))])
    assert "at least one row. Received none for `x` in batch 1" in error_of(BucketedSequence.from_dataset, batches)


@pytest.mark.parametrize("at", [0, 1])
def test_mixed_keys(at):
    elements = [({"a": [1, 2]}, 0), ({"a": [1, 2]}, 1)]
    elements[at][0][1] = 3
    message = error_of(BucketedSequence.from_dataset, elements)
    assert "strings as keys" in message
    assert f"element {at}" in message


def test_batched_is_not_said_where_it_was_passed():
    rows = [np.ones((2, 3, 4)), np.ones((2, 3, 5))]
    assert "batched=True" in error_of(BucketedSequence.from_dataset, [row[0] for row in rows])
    assert "pass batched=True" not in error_of(BucketedSequence.from_dataset, rows, batched=True)
    assert "batched=True" not in error_of(BucketedSequence.from_dataset, [row[0] for row in rows], batched=False)


def test_one_error_asks_for_everything():
    x, y = np.array([[0, 1, 2], [3, 4, 0]]), np.array([[1, 2, 3], [4, 5, 6]])
    dataset = tf.data.Dataset.from_tensors((x, y))
    message = error_of(BucketedSequence.from_dataset, dataset)
    for argument in ("batched=True", "batched=False", "timestep_labels=True", "timestep_labels=False", "padding='pre'"):
        assert argument in message, message
    message = error_of(BucketedSequence.from_dataset, dataset, batched=True)
    assert "timestep_labels=True" in message
    assert "padding='post'" in message
    answered = BucketedSequence.from_dataset(dataset, batched=True, timestep_labels=False, padding="pre")
    assert answered.lengths.tolist() == [2, 3]


# However large the data.

LARGE = [
    "a" * 100_000,
    b"a" * 100_000,
    list(range(50_000)),
    [["word" * 5000] * 3] * 3,
    {f"key {index}" * 50: [1] for index in range(3000)},
    np.arange(50_000),
    np.array(["a" * 5000] * 3),
    10**5000,
    {"k" * 5000: ["a" * 5000]},
    tuple([1] * 5000),
    {"a": [[1], [2]], "b" * 9000: "c" * 9000},
]


class Unprintable:
    def __repr__(self):
        raise RuntimeError

    __str__ = __repr__


@settings(max_examples=examples(60))
@given(st.integers(0, len(LARGE)), st.integers(0, 3))
def test_shown_values_are_short(index, depth):
    value = [*LARGE, Unprintable()][index]
    for _ in range(depth):
        value = [value, {"key": value}]
    assert len(show(value)) < 250
    assert "\n" not in show(value)
    assert len(shorten(str(LARGE[0]))) < 250
    assert len(list_some(["a" * 9000] * 9)) < 600


OPTIONS = ["batch_size", "remainder", "bucket_boundaries", "padding_value", "include_lengths", "truncating", "on_empty"]


def text_of_any_error(door, arguments, options):
    try:
        door(*arguments, **options)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", LARGE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("door", [BucketedSequence, BucketedSequence.from_padded, BucketedSequence.from_dataset])
def test_messages_are_short_whatever_the_data(door, value):
    # Some of these are sequences, others are refused: then shortly, and never by TensorFlow or NumPy.
    calls = [((value,), {}), ((X, value), {}), ((X, Y, value), {})] + [((X,), {name: value}) for name in OPTIONS]
    for arguments, options in calls:
        assert len(text_of_any_error(door, arguments, options)) < 1000


# Copies of callbacks.


class Noting(PaddingStatsCallback):
    def __init__(self, dataset, notes):
        super().__init__(dataset)
        self.notes, self.read = notes, dataset


def test_copies_share_the_dataset(tmp_path):
    dataset = BucketedSequence(X, Y)
    noting = Noting(dataset, [1])
    noting.set_model(keras.Sequential())
    backup = BackupAndRestoreSequence(dataset, tmp_path / "backup")
    copies = copy.deepcopy([noting, backup, noting])
    assert copies[0] is copies[2] is not noting
    assert type(copies[0]) is Noting
    assert copies[0].dataset is copies[0].read is dataset
    assert copies[0].notes == [1]
    assert copies[0].notes is not noting.notes
    assert copies[0].model is None
    assert type(copies[1]) is BackupAndRestoreSequence
    assert not list(tmp_path.iterdir())


def small_model():
    model = keras.Sequential([keras.Input((None, 1)), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


@pytest.mark.fit
@pytest.mark.parametrize("other", ["copy", "copy of a copy", "another", "another path"])
def test_one_callback_in_a_process_has_a_directory(tmp_path, other):
    dataset = BucketedSequence([np.ones((length, 1)) for length in (1, 2, 3)], np.zeros(3), batch_size=1, seed=1)
    first = BackupAndRestoreSequence(dataset, tmp_path / "backup", delete_checkpoint=False)
    (tmp_path / "link").symlink_to(tmp_path)
    second = {
        "copy": lambda: copy.deepcopy(first),
        "copy of a copy": lambda: copy.deepcopy(copy.deepcopy(first)),
        "another": lambda: BackupAndRestoreSequence(dataset, tmp_path / "backup"),
        "another path": lambda: BackupAndRestoreSequence(dataset, tmp_path / "link" / "backup"),
    }[other]()
    small_model().fit(dataset, epochs=1, verbose=0, shuffle=False, callbacks=[first])
    message = error_of(small_model().fit, dataset, epochs=2, verbose=0, shuffle=False, callbacks=[second])
    assert "`backup_dir` belongs to another" in message
    assert "directory of its own" in message
    again = small_model().fit(dataset, epochs=2, verbose=0, shuffle=False, callbacks=[first])
    assert again.epoch == [1], "the same callback goes on"


@pytest.mark.fit
def test_copies_that_are_gone_keep_their_directory(tmp_path):
    dataset = BucketedSequence([np.ones((length, 1)) for length in (1, 2, 3)], np.zeros(3), batch_size=1, seed=1)
    original = BackupAndRestoreSequence(dataset, tmp_path / "backup")

    def trial():
        small_model().fit(dataset, epochs=1, verbose=0, shuffle=False, callbacks=copy.deepcopy([original]))

    trial()
    assert "`backup_dir` belongs to another" in error_of(trial)


@pytest.mark.fit
def test_the_copy_of_a_callback_that_has_trained_trains(tmp_path):
    dataset = BucketedSequence([np.ones((length, 1)) for length in (1, 2, 3)], np.zeros(3), batch_size=1, seed=1)
    trained = PaddingStatsCallback(dataset)
    small_model().fit(dataset, epochs=2, verbose=0, shuffle=False, callbacks=[trained])
    copied = copy.deepcopy(trained)
    assert copied.history == []
    small_model().fit(dataset, epochs=1, verbose=0, shuffle=False, callbacks=[copied])
    assert (len(trained.history), len(copied.history)) == (2, 1)
