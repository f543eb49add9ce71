"""BucketedStream: what comes out is what went in, row by row, once, padded right.

Each stream traces graphs for a third of a second, so that most of these tests are in the layer of `fit`.
"""

import functools
import gc
import itertools
import json
import tracemalloc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BackupAndRestoreSequence, BucketedStream, PaddingStatsCallback, bucketed_stream

STRUCTURES = ("x", "labels", "timestep labels", "weights", "own labels", "two sequences")
KINDS = ("list", "function", "rows", "ragged batches", "padded batches", "PyDataset")


class Rows:
    """Rows that tell which they are: the oracle.

    Each holds the entries of `x`, `y` and `sample_weight` by name, and "id", its number.
    """

    def __init__(self, lengths, structure):
        self.lengths = np.array(lengths)
        self.structure = structure
        self.elements = [self._element(row, length) for row, length in enumerate(lengths)]

    def _element(self, row, length):
        steps = np.arange(1, length + 1, dtype=np.int32)
        x = {"tokens": steps + 100 * row, "id": np.int32(row)}
        if self.structure == "two sequences":
            x["vectors"] = np.stack([np.arange(self._second(row)) + row + 0.5] * 2, axis=1).astype(np.float32)
        if self.structure in ("x", "two sequences"):
            return x
        if self.structure == "labels":
            return x, np.float64(row)
        if self.structure == "own labels":
            return x, np.arange(1, self._second(row) + 1, dtype=np.int32) * (row + 1)
        labels = (steps * 2).astype(np.float64)
        if self.structure == "timestep labels":
            return x, labels
        return x, labels, np.full(length, row + 1, np.float32)

    def _second(self, row):
        return row % 4 + 1

    def spec(self):
        def spec(array):
            shape = (None, *np.shape(array)[1:]) if np.ndim(array) else ()
            return tf.TensorSpec(shape, np.asarray(array).dtype)

        return tf.nest.map_structure(spec, self.elements[0])

    def source(self, kind, rows_at_once=3):
        if kind == "list":
            return self.elements
        if kind == "function":
            return lambda: iter(self.elements)
        dataset = tf.data.Dataset.from_generator(lambda: iter(self.elements), output_signature=self.spec())
        if kind == "rows":
            return dataset
        if kind == "ragged batches":
            return dataset.ragged_batch(rows_at_once)
        padded = dataset.padded_batch(rows_at_once)
        return padded if kind == "padded batches" else Padded(list(padded.as_numpy_iterator()))

    def cut(self, maxlen=None, truncating="post", **others):
        """The same rows, none of which is longer than that; labels of their own length are not cut."""
        if maxlen is None:
            return self

        def cut_leaf(leaf):
            return leaf if not np.ndim(leaf) else leaf[:maxlen] if truncating == "post" else leaf[-maxlen:]

        rows = Rows([], self.structure)
        rows.lengths = np.minimum(self.lengths, maxlen)
        for element in self.elements:
            x, *rest = element if isinstance(element, tuple) else (element,)
            rest = rest if self.structure == "own labels" else tf.nest.map_structure(cut_leaf, rest)
            x = tf.nest.map_structure(cut_leaf, x)
            rows.elements.append((x, *rest) if rest else x)
        return rows

    def check_batch(self, batch, minlen=1, padding_value=0, label_padding_value=0, **others):
        """Checks a batch of `include_lengths=True` entry by entry; returns which rows it has."""
        x, *rest = batch if isinstance(batch, tuple) else (batch,)
        x = {name: entry.numpy() for name, entry in x.items()}
        rest = [part.numpy() for part in rest]
        longest = [self.lengths[row] for row in x["id"]]
        if self.structure == "two sequences":
            longest = np.maximum(longest, [len(self.elements[row]["vectors"]) for row in x["id"]])
        assert x["lengths"].tolist() == list(longest)
        assert x["tokens"].shape[1] == max(minlen, *(self.lengths[row] for row in x["id"]))
        for at, row in enumerate(x["id"]):
            expected_x, *expected = (
                self.elements[row] if isinstance(self.elements[row], tuple) else (self.elements[row],)
            )
            for name, entry in expected_x.items():
                check_row(x[name][at], entry, padding_value)
            for part, entry, padding in zip(rest, expected, (label_padding_value, 0), strict=False):
                check_row(part[at], entry, padding)
        if self.structure == "timestep labels":
            is_real = np.arange(x["tokens"].shape[1]) < np.array(longest)[:, np.newaxis]
            assert np.array_equal(rest[1], is_real)
        return x["id"].tolist()


class Padded(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def check_row(padded, row, padding):
    if not np.ndim(row):
        assert padded == row
        return
    assert np.array_equal(padded[: len(row)], row)
    assert (padded[len(row) :] == padding).all()


def is_served(kind, structure):
    """Padded batches with a second sequence or labels of their own length need lengths to be read."""
    return kind not in ("padded batches", "PyDataset") or structure not in ("own labels", "two sequences")


def check_passes(rows, kind, passes=2, **options):
    options = {"align_labels": rows.structure != "own labels", **options}
    reading = {"batched": True, "timestep_labels": True} if "atch" in kind or kind == "PyDataset" else {}
    if kind == "ragged batches" or rows.structure in ("x", "labels", "two sequences"):
        reading.pop("timestep_labels", None)
    stream = BucketedStream(rows.source(kind), include_lengths=True, **reading, **options)
    rows = rows.cut(**options)
    for _ in range(passes):
        batches = list(stream)
        seen = [rows.check_batch(batch, **options) for batch in batches]
        assert sorted(itertools.chain(*seen)) == list(range(len(rows.elements)))
        tokens = [(batch[0] if isinstance(batch, tuple) else batch)["tokens"] for batch in batches]
        stats = stream.pass_stats(stream.newest_pass(), 0, len(batches))
        assert stats.num_sequences == len(rows.elements)
        assert sum(bucket.num_batches for bucket in stats.buckets) == len(batches)
        if not stats.leaves:
            assert stats.real_timesteps == rows.lengths.sum()
            assert stats.total_timesteps == sum(int(tf.size(each)) for each in tokens)
        check_sizes(seen, tokens, options)
    return stream


def check_sizes(seen, tokens, options):
    budget, size = options.get("max_timesteps_per_batch"), options.get("batch_size")
    if budget is not None:
        assert all(int(tf.size(each)) <= budget for each in tokens)
    elif size is not None:
        assert [len(batch) for batch in seen[:-1]] == [size] * (len(seen) - 1)
        assert len(seen[-1]) <= size


@pytest.mark.parametrize(
    ("kind", "structure", "options"),
    [
        ("rows", "weights", {"max_timesteps_per_batch": 30, "buffer_size": 16}),
        ("padded batches", "labels", {"bucket_batch_sizes": [4, 2], "bucket_boundaries": [5], "buffer_size": 10}),
        # Of these the property below has as much to say.
        pytest.param("list", "timestep labels", {"batch_size": 3, "buffer_size": 8}, marks=pytest.mark.fit),
        pytest.param(
            "ragged batches",
            "own labels",
            {"batch_size": 4, "buffer_size": 16, "shuffle": False},
            marks=pytest.mark.fit,
        ),
    ],
)
def test_a_pass_has_every_row_once(kind, structure, options):
    lengths = np.random.default_rng(1).integers(1, 12, 29)
    check_passes(Rows(lengths, structure), kind, seed=1, passes=1, **options)


sizings = st.one_of(
    st.fixed_dictionaries({"batch_size": st.integers(1, 6)}),
    st.fixed_dictionaries({"max_timesteps_per_batch": st.integers(12, 60)}),
    st.fixed_dictionaries({"max_timesteps_per_batch": st.integers(12, 60), "batch_size": st.integers(1, 6)}),
    st.just({"bucket_batch_sizes": [6, 3, 2], "bucket_boundaries": [4, 9]}),
)


@pytest.mark.fit
@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=40),
    st.sampled_from([(kind, each) for kind in KINDS for each in STRUCTURES if is_served(kind, each)]),
    sizings,
    st.integers(12, 50),
    st.booleans(),
    st.integers(0, 3),
    st.fixed_dictionaries(
        {},
        optional={
            "maxlen": st.integers(3, 9),
            "truncating": st.sampled_from(["pre", "post"]),
            "minlen": st.integers(1, 3),
            "padding_value": st.just(7),
            "label_padding_value": st.just(-1),
        },
    ),
)
def test_whatever_the_source_and_the_sizes(lengths, kind_and_structure, sizing, buffer_size, shuffle, seed, more):
    kind, structure = kind_and_structure
    # That a second pass begins with nothing of the first is what the random runs of passes are about.
    options = {"buffer_size": buffer_size, "shuffle": shuffle, "seed": seed, **more}
    check_passes(Rows(lengths, structure), kind, passes=1, **options, **sizing)


LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
ROWS = Rows([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], "labels")


def ids(stream):
    return [batch[0]["id"].numpy().tolist() for batch in stream]


@pytest.fixture(scope="module")
def stream():
    return BucketedStream(ROWS.source("rows"), batch_size=2, buffer_size=8, seed=3)


def test_the_same_seed_gives_the_same_boundaries_and_batches_and_epochs_differ(stream):
    stream.seek(0)
    first, second = ids(stream), ids(stream)
    assert first != second
    stream.seek(1)
    assert ids(stream) == second
    fresh = BucketedStream(lambda: iter(ROWS.elements), batch_size=2, buffer_size=8, seed=3)
    assert fresh.bucket_boundaries is None
    batches = iter(fresh)
    again = [next(batches)]
    found = fresh.bucket_boundaries  # in the first window, and they stay
    again += batches
    assert [batch[0]["id"].numpy().tolist() for batch in again] == first
    assert found == fresh.bucket_boundaries == stream.bucket_boundaries


def test_it_shows_in_a_line_what_is_known():
    stream = BucketedStream([[1, 2], [3], [4, 5, 6]], batch_size=2, buffer_size=2000, seed=1)
    shown = "<BucketedStream: list of 3 rows, 2 rows a batch, a buffer of 2,000 rows, {}, 2 batches>"
    assert repr(stream) == shown.format("buckets not found yet")
    list(stream)
    assert repr(stream) == shown.format("1 bucket")


@pytest.mark.fit
@pytest.mark.parametrize(
    ("source", "options", "texts"),
    [
        (lambda: iter([[1]]), {"max_timesteps_per_batch": 90}, ["function, batches of at most 90 timesteps, a"]),
        (
            [[1]],
            {"max_timesteps_per_batch": 90, "batch_size": 3},
            ["batches of at most 3 rows of at most 90"],
        ),
        ([[1]], {"bucket_batch_sizes": [4, 2], "bucket_boundaries": [3]}, ["4, 2 rows a batch", "2 buckets>"]),
        (tf.data.Dataset.from_tensors([1]).repeat(), {}, ["tf.data.Dataset without end, 32 rows a batch"]),
    ],
)
def test_it_shows_what_its_batches_are(source, options, texts):
    shown = repr(BucketedStream(source, **options))
    assert all(text in shown for text in texts), shown


@pytest.mark.fit
def test_a_list_gives_the_batches_of_a_dataset(stream):
    stream.seek(0)
    assert ids(BucketedStream(ROWS.source("list"), batch_size=2, buffer_size=8, seed=3)) == ids(stream)


@functools.cache
def within_a_budget(seed):
    return BucketedStream(ROWS.source("list"), max_timesteps_per_batch=18, buffer_size=8, seed=seed)


@pytest.mark.fit
@settings(max_examples=4)
@given(st.integers(0, 2), st.integers(0, 7))
def test_a_resumed_pass_has_the_rest(epoch, batch):
    stream, resumed = within_a_budget(seed=3), within_a_budget.__wrapped__(seed=None)
    stream.seek(epoch)
    batches = ids(stream)
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict(epoch, batch))))
    assert resumed.bucket_boundaries == stream.bucket_boundaries
    assert ids(resumed) == batches[batch:]
    counted = resumed.pass_stats(resumed.newest_pass(), 0, len(batches) - batch)  # from where the pass began
    assert counted.num_sequences == sum(map(len, batches[batch:]))
    assert resumed.epoch == epoch + 1


@pytest.mark.fit
def test_lengths_are_known_where_rows_and_sizes_are(stream):
    three = BucketedStream(ROWS.source("list"), batch_size=5)
    assert len(three) == three.num_batches == 3
    assert len(BucketedStream(ROWS.source("list"), batch_size=5, remainder="drop")) == 2
    assert len(BucketedStream(ROWS.source("list")[:11], batch_size=5)) == 3
    assert int(stream.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    endless = tf.data.Dataset.from_tensors(tf.ones([3])).repeat().map(lambda x: tf.ensure_shape(x, [None]))
    assert int(BucketedStream(endless).cardinality()) == tf.data.INFINITE_CARDINALITY
    assert BucketedStream(endless).num_batches is None


@pytest.mark.fit
def test_padding_to_the_boundary_bounds_the_shapes():
    rows = Rows([3, 1, 4, 1, 5, 9, 2, 6], "own labels")
    options = {"bucket_boundaries": [4, 10], "pad_to_bucket_boundary": True, "align_labels": False}
    stream = BucketedStream(rows.source("list"), batch_size=2, buffer_size=4, **options)
    shapes = {(x["tokens"].shape[1], y.shape[1]) for x, y in stream}
    assert {tokens for tokens, _ in shapes} <= {3, 9}
    assert {labels for _, labels in shapes} <= {1, 2, 4}
    too_short = BucketedStream(rows.source("list"), batch_size=2, **{**options, "bucket_boundaries": [4, 9]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="shorter than the last of `bucket_boundaries`"):
        list(too_short)


@pytest.mark.fit
@pytest.mark.parametrize(
    ("rows_at_once", "most"), [(1, 64), (8, 8)]
)  # with the element that the next window begins with
def test_no_more_is_read_than_the_buffer_holds(rows_at_once, most):
    read = []

    def elements():
        for row in range(400):
            read.append(row)
            yield np.ones((rows_at_once, 1)) if rows_at_once > 1 else np.ones(1)

    options = {"bucket_batch_sizes": [2, 1], "bucket_boundaries": [5], "buffer_size": 64}
    stream = BucketedStream(elements, batched=rows_at_once > 1, **options)
    read.clear()
    next(iter(stream))
    assert len(read) <= most


@pytest.mark.fit
def test_each_window_has_an_order_of_its_own():
    rows = [([1], row) for row in range(40)]
    first, second = (labels.numpy() for _, labels in BucketedStream(rows, batch_size=20, buffer_size=20, seed=1))
    assert sorted(first) == sorted(second - 20) == list(range(20))
    assert (first != second - 20).any()


@pytest.mark.fit
def test_maxlen_minlen_and_empty_rows():
    source = [[1, 2, 3, 4, 5], [], [6, 7], [8]]
    options = {"batch_size": 4, "shuffle": False}
    assert next(
        iter(BucketedStream(source[:1] + source[2:], maxlen=3, truncating="pre", **options))
    ).numpy().tolist() == [
        [8, 0, 0],
        [6, 7, 0],
        [3, 4, 5],
    ]
    kept = BucketedStream(source, minlen=7, on_empty="keep", **options)
    assert next(iter(kept)).shape == (4, 7)
    assert kept.pass_stats(kept.newest_pass(), 0, 1).real_timesteps == 5 + 1 + 2 + 1
    assert next(iter(BucketedStream(source, on_empty="drop", **options))).shape == (3, 5)
    labeled = BucketedStream([(row, len(row)) for row in source], on_empty="drop", **options)
    assert next(iter(labeled))[1].numpy().tolist() == [1, 2, 5]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Sequences must not be empty"):
        list(BucketedStream(lambda: iter([[1]] * 9 + source), **options))


@pytest.mark.fit
def test_a_multiple_leaves_out_less_than_one_of_it():
    stream = BucketedStream(ROWS.source("list")[:11], batch_size=4, batch_size_multiple=2, seed=1)
    assert [len(batch) for batch in ids(stream)] == [4, 4, 2]


@pytest.mark.fit
def test_rows_of_hugging_face_go_on_after_a_stop():
    datasets = pytest.importorskip("datasets")
    lengths = np.random.default_rng(0).integers(1, 12, 60).tolist()
    rows = ({"ids": [row + 1] * length, "label": row} for row, length in enumerate(lengths))
    dataset = datasets.Dataset.from_list(list(rows)).to_iterable_dataset()
    x = next(iter(BucketedStream(dataset, batch_size=4)))
    assert x["ids"][:, 0].numpy().tolist() == (x["label"].numpy() + 1).tolist()

    class RowsOfEpoch:
        def __len__(self):
            return 60

        def __call__(self, epoch):
            shuffled = dataset.shuffle(seed=1, buffer_size=100)
            shuffled.set_epoch(epoch)
            return ((row["ids"], row["label"]) for row in shuffled)

    def labels(stream):
        return [labels.numpy().tolist() for _, labels in stream]

    stream, resumed = (BucketedStream(RowsOfEpoch(), batch_size=4, buffer_size=16, seed=1) for _ in range(2))
    assert len(stream) == 15
    assert "RowsOfEpoch of 60 rows" in repr(stream)
    first, second = labels(stream), labels(stream)
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(60))
    assert first != second
    resumed.load_state_dict(stream.state_dict(1, 4))
    assert labels(resumed) == second[4:]


BUFFERS = {
    "array": (lambda: np.zeros(3, np.float32), lambda buffer: buffer, {}),
    "view": (lambda: np.zeros((1, 3), np.float32), lambda buffer: buffer[0], {}),
    "list": (lambda: [0] * 3, lambda buffer: buffer, {}),
    "dict": (lambda: np.zeros(3, np.float32), lambda buffer: {"a": buffer}, {}),
    "batch": (lambda: np.zeros((1, 3), np.float32), lambda buffer: buffer, {"batched": True, "mask_value": -1}),
    "batch of lists": (lambda: [0] * 3, lambda buffer: [buffer], {"batched": True}),
    "memory": (lambda: memoryview(bytearray(3)), lambda buffer: buffer, {}),
}


@pytest.mark.fit
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_that_is_filled_again_and_again_is_copied(kind):
    make, element_of, options = BUFFERS[kind]

    def elements():
        buffer = make()
        element = element_of(buffer)
        for row in range(30):
            for at in range(len(buffer)):
                buffer[at] = row
            yield element

    batches = list(BucketedStream(elements, batch_size=2, buffer_size=4, **options))
    rows = np.concatenate([tf.nest.flatten(batch)[0] for batch in batches])
    assert sorted(rows[:, 0]) == list(range(30))
    assert rows.shape == (30, 3)


@pytest.mark.fit
@pytest.mark.parametrize(
    ("first", "others"),
    [
        ([1, 2], [(([1, 2], 1), "Expected `x` as when the stream was made, received `x`, `y`")]),
        (
            ([1, 2], 1),
            [
                ([1, 2], "Expected `x`, `y` as when the stream was made, received `x`"),
                (([1, 2], [1, 2, 3]), "`y` must have one dtype and shape"),
            ],
        ),
        (
            {"a": [1], "b": [1]},
            [
                ({"a": [1], "c": [1]}, r"received `x\['a'\]`, `x\['c'\]`"),
                ({"a": [1], "b": 1}, r"Expected a sequence in `x\['b'\]`"),
            ],
        ),
    ],
)
def test_passes_have_rows_of_one_structure(first, others):
    elements = [first] * 3
    stream = BucketedStream(lambda: iter(elements), batch_size=2)
    for later, message in others:
        elements[:] = [later] * 3
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            list(stream)
    elements[:] = [first] * 3
    assert len(list(stream)) == 2


@pytest.mark.fit
@pytest.mark.parametrize("kind", ["rows", "ragged batches", "list"])
def test_without_the_rewriting_of_graphs_nothing_differs(kind):
    stream = BucketedStream(ROWS.source(kind), batch_size=2, buffer_size=8, seed=3)
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    batches = ids(stream)
    stream.seek(0)
    assert ids(stream.with_options(options)) == batches
    preview = stream._stream.preview(stream._windows, 0, 0, 3).map(lambda _, batch: batch)
    assert ids(preview.with_options(options)) == ids(preview) == batches


@pytest.mark.fit
@settings(max_examples=6)
@given(st.integers(1, 40), st.integers(1, 6), st.booleans(), st.booleans(), st.sampled_from([1, -1]))
def test_batches_larger_than_the_buffer_and_padded_on_the_left(rows_at_once, batch_size, is_left, shuffle, order):
    rows = [np.full(length, row + 1, np.int32) for row, length in enumerate(sorted(LENGTHS)[::order])]
    padded = [
        keras.utils.pad_sequences(rows[start : start + rows_at_once], padding="pre" if is_left else "post")
        for start in range(0, len(rows), rows_at_once)
    ]
    options = {"batched": True, "padding": "pre" if is_left else "post", "shuffle": shuffle, "seed": 1}
    stream = BucketedStream(padded, batch_size=batch_size, buffer_size=8, **options)
    received = [row[row > 0] for batch in stream for row in batch.numpy()]
    assert sorted(map(tuple, received)) == sorted(map(tuple, rows))


def test_inherited_constructors_and_other_names_are_refused():
    with pytest.raises(TypeError, match="BucketedStream"):
        BucketedStream.from_generator(lambda: iter([[1]]))
    with pytest.raises(TypeError, match="remainder"):
        BucketedStream([[1]], drop_remainder=True)


def ragged(*lengths):
    return [np.ones(length) for length in lengths]


def disk_gone():
    yield from ragged(*[1] * 10)
    raise OSError("disk gone")


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (iter([[1]]), {}, TypeError, "finished after the first"),
        ([], {}, ValueError, "no sequences"),
        (lambda: iter([]), {}, ValueError, "no sequences"),
        (tf.data.Dataset.range(0).map(lambda each: tf.ones([each])), {}, ValueError, "no sequences"),
        (ragged(1, 2), {"remainder": "keep"}, ValueError, "'spill' or 'drop'"),
        (ragged(1, 2), {"batch_size": 8, "buffer_size": 7}, ValueError, "`buffer_size` is too small"),
        (ragged(1, 2), {"bucket_batch_sizes": [2, 4]}, ValueError, "must not grow"),
        (ragged(1, 2), {"pad_to_bucket_boundary": True}, ValueError, "Pass maxlen"),
        (ragged(1, 2), {"bucket_boundaries": [3], "num_buckets": 3}, ValueError, "Expected 2"),
        (ragged(1, 2), {"batch_size": 3, "remainder": "drop"}, ValueError, 'Received 2 rows. .*remainder="spill"'),
        (ragged(1), {"batch_size": 2, "batch_size_multiple": 2}, ValueError, "at least batch_size_multiple=2"),
        (["text"], {}, TypeError, "numbers"),
        (7, {}, TypeError, "cannot be read"),
        (lambda epoch, other: iter([[1]]), {}, TypeError, r"the epoch, as in source\(epoch\)\. .*\(epoch, other\)"),
        (lambda *, epoch: iter([[1]]), {}, TypeError, r"the epoch, as in source\(epoch\)"),
    ],
)
def test_bad_input_is_refused_at_the_door(source, options, error, message):
    with pytest.raises(error, match=message):
        BucketedStream(source, **options)


@pytest.mark.fit
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (disk_gone, {}, "OSError at element 10: disk gone"),
        (lambda: iter([*ragged(*[1] * 10), ["a"]]), {}, r"x\[10\]"),
        (
            lambda: iter([*np.ones((10, 3), int), np.ones(3)]),
            {"batch_size": 2, "buffer_size": 4},
            r"one dtype and shape.*float32 of shape \(\) at x\[10\]",
        ),
        (
            lambda: iter([*ragged(*[3] * 10), np.ones((3, 4))]),
            {"batch_size": 2, "buffer_size": 4},
            r"\(4,\) at x\[10\]",
        ),
        (
            lambda: iter([*[(row, 1) for row in ragged(*[3] * 10)], ([1.0], [1, 2])]),
            {"batch_size": 2, "buffer_size": 4},
            r"\(2,\) at y\[10\]",
        ),
        (
            # In the third window, after rows have waited.
            tf.data.Dataset.range(1, 13).map(lambda size: (tf.ones([size]), tf.ones([tf.minimum(size, 9)]))),
            {"bucket_batch_sizes": [3, 2], "bucket_boundaries": [4], "buffer_size": 6},
            r"align_labels=False.*\[9\] \[10\] \[9\]",
        ),
        (lambda: iter([*[(row, 1) for row in ragged(1, 2)] * 5, ([1], [1, 2])]), {}, r"y\[10\]"),
        (
            lambda: iter([(np.ones(size), np.ones(min(size, 3))) for size in (0, 1, 2, 0, *[1] * 9, 4)]),
            {"on_empty": "drop"},
            r"Row, without those that were dropped as empty.*\[11\] \[4\] \[3\]",
        ),
        (lambda: iter(ragged(1, 2)), {"batch_size": 3, "remainder": "drop"}, "Received 2 rows"),
        (lambda: iter(ragged(0, 0)), {"on_empty": "drop"}, 'on_empty=."drop." has left out all'),
        (ragged(9), {"max_timesteps_per_batch": 8}, "at least 9"),
        (lambda: iter([*ragged(*[1] * 20), *ragged(9)]), {"max_timesteps_per_batch": 8, "buffer_size": 16}, "at least"),
    ],
)
def test_what_is_wrong_later_is_said_with_its_row(source, options, message):
    with pytest.raises(tf.errors.OpError, match=message):
        list(BucketedStream(source, **options))


def batches_of_padded(kind, number):
    """Batches of two rows, padded to five timesteps, with a fault that no single row shows."""
    generator = np.random.default_rng(0)
    for _ in range(number):
        is_real = np.arange(5) < generator.integers(2, 5, (2, 1))
        tokens = np.where(is_real, generator.integers(1, 50, (2, 5)), 0)
        if kind == "inverted mask":
            yield {"tokens": tokens, "padding_mask": ~is_real}
        elif kind == "sliced labels":
            yield tokens[:, :-1], tokens[:, 1:]
        else:
            yield np.where(is_real, tokens, 77)


FAULTS = [
    ("inverted mask", {}, "~mask"),
    ("sliced labels", {"timestep_labels": True}, "sliced after padding"),
]


@pytest.mark.parametrize(("kind", "options", "message"), FAULTS)
def test_faults_of_a_short_source_of_padded_batches_are_refused_at_the_door(kind, options, message):
    options = {"batched": True, "batch_size": 2, "bucket_boundaries": [5], **options}
    with pytest.raises(ValueError, match=message):
        BucketedStream(lambda: batches_of_padded(kind, 6), **options)


@pytest.mark.fit
@pytest.mark.parametrize(("kind", "options", "message"), FAULTS)
def test_faults_of_padded_batches_are_refused_when_a_pass_has_seen_them_all(kind, options, message):
    options = {"batched": True, "batch_size": 2, "bucket_boundaries": [5], "buffer_size": 6, **options}
    stream = BucketedStream(lambda: batches_of_padded(kind, 12), **options)
    with pytest.raises(tf.errors.OpError, match=message):
        list(stream)


@pytest.mark.fit
def test_padding_that_was_not_noticed_is_pointed_out_once():
    stream = BucketedStream(
        lambda: batches_of_padded("unnoticed padding", 12), batched=True, batch_size=2, bucket_boundaries=[6]
    )
    with pytest.warns(UserWarning, match="mask_value=77") as warned:
        assert len(list(stream)) == len(list(stream))
    assert len(warned) == 1


def test_iterators_cannot_be_saved(tmp_path, stream):
    iterator = iter(stream)
    next(iterator)
    with pytest.raises(tf.errors.FailedPreconditionError, match="stateful"):
        tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))


def test_backups_need_a_length(tmp_path, stream):
    assert stream.num_batches is None
    with pytest.raises(ValueError, match=r"how many batches a pass has.*state_dict\(epoch, batch\)"):
        BackupAndRestoreSequence(stream, tmp_path)


def test_a_state_of_other_options_is_refused(stream):
    other = BucketedStream(ROWS.source("rows"), batch_size=3, buffer_size=8)
    with pytest.raises(ValueError, match="another"):
        other.load_state_dict(stream.state_dict())


def small_model():
    layers = [keras.layers.Masking(), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    return model


def augmented():
    for row in itertools.count():
        yield np.ones((row % 7 + 1, 2), np.float32), np.float32(row % 2)


@pytest.mark.fit
def test_fit_on_a_stream_without_end_counts_its_padding():
    stream = BucketedStream(augmented, batch_size=4, buffer_size=64, seed=1)
    callback = PaddingStatsCallback(stream)
    small_model().fit(stream, steps_per_epoch=10, epochs=3, callbacks=[callback], verbose=0)
    assert [stats.num_sequences for stats in callback.history] == [40] * 3
    assert stream.newest_pass().number == 1
    assert all(stats.padding_efficiency > 0.9 for stats in callback.history)


@pytest.mark.fit
def test_fit_and_validation_on_streams():
    rows = list(itertools.islice(augmented(), 30))
    stream, validation = (BucketedStream(rows, batch_size=8, seed=seed) for seed in (1, 2))
    callback = PaddingStatsCallback(stream, validation)
    small_model().fit(stream, epochs=2, validation_data=validation, callbacks=[callback], verbose=0)
    assert [stats.num_sequences for stats in [*callback.history, *callback.val_history]] == [30] * 4
    assert stream.epoch == 2


# What is in memory.


class Alive:
    """Counts the rows of a generator that somebody holds."""

    def __init__(self):
        self.number = self.most = 0

    def rows(self):
        for row in itertools.count():
            array = np.ones(row % 7 + 1)
            weakref.finalize(array, self.free)
            self.number += 1
            self.most = max(self.most, self.number)
            yield array

    def free(self):
        self.number -= 1


def read_and_measure(batches, number):
    """Python's memory in bytes, after so many batches more."""
    for _ in range(number):
        next(batches)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.fit
def test_memory_stays_flat_over_a_generator_without_end(monkeypatch):
    monkeypatch.setattr(bucketed_stream, "_KEPT_BATCHES", 40)
    alive = Alive()
    stream = BucketedStream(alive.rows, batch_size=8, buffer_size=64, seed=1)
    batches = iter(stream)
    tracemalloc.start()
    try:
        before, after = (read_and_measure(batches, number) for number in (200, 800))
    finally:
        tracemalloc.stop()
    assert after - before < 50 * 800  # a batch leaves nothing; but a buffer of rows more may be alive
    assert alive.most <= 2 * 64 + 8
    assert int(stream._log._table.size()) <= 2 * 40 + 8 + 8 + 2  # those of a window, prefetched, and being made
    newest = stream.newest_pass()
    assert stream.pass_stats(newest, 980, 1000).num_sequences == 160
    whole = stream.pass_stats(newest, 0, 1000)
    assert (whole.num_batches, whole.num_sequences) == (1000, 8000)
    with pytest.raises(ValueError, match=r"batches of this pass have been added up.*received 1 and 1000"):
        stream.pass_stats(newest, 1, 1000)


@pytest.mark.fit
def test_a_pass_that_is_asked_about_keeps_all_batches(monkeypatch):
    monkeypatch.setattr(bucketed_stream, "_KEPT_BATCHES", 4)
    stream = BucketedStream(Alive().rows, batch_size=8, buffer_size=64, seed=1)
    callback = PaddingStatsCallback(stream)
    model = keras.Sequential(
        [keras.layers.Rescaling(1.0), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    labeled = stream.map(lambda x: (x[..., tf.newaxis], tf.zeros([tf.shape(x)[0]])))
    model.fit(labeled, steps_per_epoch=30, epochs=2, callbacks=[callback], verbose=0)
    assert [stats.num_sequences for stats in callback.history] == [240, 240]


# Padded batches: the rules of from_dataset.


def test_labels_of_padded_batches_keep_what_they_were_padded_with():
    batches = [(np.array([[1, 2], [3, 0]]), np.array([[5, 6], [7, -100]]))]
    options = {"batch_size": 2, "shuffle": False, "timestep_labels": True}
    assert next(iter(BucketedStream(Padded(batches), **options)))[1].numpy().tolist() == [[7, -100], [5, 6]]
    stream = BucketedStream(Padded(batches), label_padding_value=9, **options)
    assert next(iter(stream))[1].numpy().tolist() == [[7, 9], [5, 6]]


def test_batches_that_are_padded_with_a_symbol_are_padded_with_it_again():
    symbol = [0.0, 0.0, 1.0]
    batch = np.array([[[1, 0, 0], symbol], [[0, 1, 0], [1, 0, 0]]], np.float32)
    options = {"mask_value": symbol, "batch_size": 2, "shuffle": False, "seed": 1}
    streams = [BucketedStream(Padded([batch]), **options) for _ in range(2)]
    assert next(iter(streams[0])).numpy().tolist() == batch.tolist()
    streams[1].load_state_dict(streams[0].state_dict())
    zeros = BucketedStream(Padded([batch]), padding_value=0, **options)
    assert next(iter(zeros)).numpy()[0, 1].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="belongs to another dataset"):
        zeros.load_state_dict(streams[0].state_dict())


@pytest.mark.fit
def test_labels_may_be_padded_with_a_class_of_their_own():
    rows = [([1] * length, np.eye(3, dtype=int)[[1] * length]) for length in (1, 2)]
    streams = [BucketedStream(rows, batch_size=2, label_padding_value=np.eye(3, dtype=int)[end]) for end in (0, 2)]
    _, labels, _ = next(iter(streams[0]))
    assert sorted(np.argmax(labels, axis=-1).tolist()) == [[1, 0], [1, 1]]
    state = json.loads(json.dumps(streams[0].state_dict()))
    streams[0].load_state_dict(state)
    with pytest.raises(ValueError, match="another"):
        streams[1].load_state_dict(state)


def test_masks_of_padded_batches_are_not_padded_with_true():
    x = {"tokens": np.array([[5, 6], [7, 1]]), "padding_mask": np.array([[True, True], [True, False]])}
    with pytest.raises(ValueError, match="`padding_value` must be 0 where `x` has a mask"):
        BucketedStream(Padded([x]), mask_value=1, batch_size=2)
