"""The progress line: silent at first, one line on a terminal, a line now and then in a file."""

import io
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, load_sequences, save_sequences
from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.data.rows import Rows
from keras_bucketing.streams.progress import Progress
from keras_bucketing.streams.saved_sequences import read_dataset
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.default_layer import examples
from tests.support.streams import (
    Batches,
    Sequences,
    batched_generator,
    datasets,
    has_timestep_labels,
    map_leaves,
    pad,
    rows_of,
    single_rows,
    with_lengths,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines_of(stream, seconds, total=None, step=10, hint=None):
    """What 100 updates in so many seconds write."""
    clock = Clock()
    progress = Progress("Reading", "rows", total, stream, clock, hint)
    for count in range(1, 101):
        clock.now += seconds / 100
        progress.update(count * step)
    progress.finish(100 * step)
    return stream.getvalue()


def test_short_work_is_silent():
    assert lines_of(Terminal(), 2.9) == ""


def test_a_terminal_shows_a_bar_that_is_written_over():
    text = lines_of(Terminal(), 25, total=1000)
    assert text.startswith("\rReading [##..................] 120 of 1,000 rows, 3 s\r")
    assert text.endswith("\rReading [####################] 1,000 of 1,000 rows, 25 s\n")
    assert text.count("\n") == 1


def test_without_a_total_there_is_a_count():
    assert "\rReading: 120 rows, 3 s\r" in lines_of(Terminal(), 25)


def test_a_log_file_gets_few_lines():
    lines = lines_of(io.StringIO(), 100).splitlines()
    assert lines == [
        "Reading: 30 rows, 3 s",
        "Reading: 330 rows, 33 s",
        "Reading: 630 rows, 63 s",
        "Reading: 930 rows, 93 s",
        "Reading: 1,000 rows, 100 s",
    ]


def test_more_than_was_announced_is_no_error():
    assert "[####################] 1,000 of 500 rows" in lines_of(Terminal(), 10, total=500)


HINT = "It may be without end."


def test_what_takes_a_minute_may_be_without_end():
    assert lines_of(io.StringIO(), 100, hint=HINT).splitlines() == [
        "Reading: 30 rows, 3 s",
        "Reading: 330 rows, 33 s",
        "Reading: 630 rows, 63 s",
        HINT,
        "Reading: 930 rows, 93 s",
        "Reading: 1,000 rows, 100 s",
    ]
    assert f" rows, 60 s\n{HINT}\n\rReading: 610 rows" in lines_of(Terminal(), 100, hint=HINT)


def test_so_do_a_million_rows():
    text = lines_of(Terminal(), 20, step=15_000, hint=HINT)
    assert text.count(HINT) == 1
    assert f"Reading: 1,005,000 rows, 13 s\n{HINT}\n" in text
    assert HINT in lines_of(Terminal(), 4, step=15_000, hint=HINT)


def test_nothing_is_said_of_what_is_short_or_of_known_size():
    assert lines_of(Terminal(), 2.9, step=10**6, hint=HINT) == ""
    assert HINT not in lines_of(Terminal(), 59, hint=HINT)
    assert HINT not in lines_of(Terminal(), 1000, total=1000, hint=HINT)


# Streams of every kind: what is read is what went in, row by row.


properties = settings(
    max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def read(stream, cache=None, max_rows=None, **options):
    return collect_inputs(*read_dataset(stream, cache, BatchOptions(**options), max_rows))


def contents(inputs):
    """All that there is to know about the leaves, bit for bit."""

    def content(leaf):
        array = leaf.values if isinstance(leaf, Rows) else leaf
        lengths = leaf.lengths.tolist() if isinstance(leaf, Rows) else None
        return array.dtype, array.shape, lengths, array.tobytes()

    return map_leaves(lambda leaf: [content(leaf)], (inputs.x, inputs.y, inputs.sample_weight))


def check_same(triple, stream, **options):
    """What is read from a stream of rows is what the lists of these rows hold."""
    as_lists = map_leaves(lambda leaf: list(leaf) if isinstance(leaf, Sequences) else leaf, triple)
    assert contents(read(stream, **options)) == contents(collect_inputs(*as_lists))


@properties
@given(datasets(vectors_in_x=False), st.sampled_from([iter, list, lambda rows: lambda: iter(rows)]))
def test_rows_of_an_iterable(triple, container):
    check_same(triple, container(rows_of(triple)), batched=False)


@properties
@given(datasets(), st.sampled_from(["single", "ragged"]), st.integers(1, 5))
def test_rows_and_ragged_batches_of_tf_data(triple, form, batch_size):
    stream = single_rows(triple)
    if form == "ragged":
        stream = stream.ragged_batch(batch_size)
    check_same(triple, stream, batched=form == "ragged")


@properties
@given(datasets(several_sequences=False), st.integers(1, 5), st.booleans())
def test_padded_batches_of_tf_data(triple, batch_size, known_lengths):
    if known_lengths and isinstance(triple[0], dict) and "b" in triple[0]:
        stream = single_rows(with_lengths(triple, ["b"]))
    else:
        stream = single_rows(triple)
    check_same(triple, stream.padded_batch(batch_size), batched=True)


@properties
@given(
    datasets(several_sequences=False, vectors_in_x=False),
    st.integers(1, 5),
    st.sampled_from(["list", "post", "pre"]),
)
def test_batches_of_a_py_dataset(triple, batch_size, form):
    options = {}
    if has_timestep_labels(triple):
        options["timestep_labels"] = True
    convert = list
    if form in ("post", "pre"):
        options["padding"] = form

        def convert(rows):
            return pad(rows, form)

    check_same(triple, Batches(triple, batch_size, convert), **options)
    check_same(triple, batched_generator(triple, batch_size, convert), batched=True, **options)


@properties
@given(datasets(), st.integers(1, 5))
def test_a_cache_holds_what_was_read(tmp_path_factory, triple, batch_size):
    folder = tmp_path_factory.mktemp("caches") / "cache"
    stream = single_rows(triple).ragged_batch(batch_size)
    check_same(triple, stream, batched=True, cache=folder)

    def read_again():
        raise AssertionError("the cache was not used")
        yield

    other = tf.data.Dataset.from_generator(read_again, output_signature=stream.element_spec)
    check_same(triple, other, batched=True, cache=str(folder))


FORMS = ("rows", "generator", "tf.data rows", "ragged", "padded", "PyDataset", "batched generator")


@properties
@given(datasets(several_sequences=False, vectors_in_x=False), st.sampled_from(FORMS), st.data(), st.booleans())
def test_so_many_rows_are_the_first_ones(triple, form, data, repeats):
    rows = rows_of(triple)
    max_rows = data.draw(st.integers(1, 2 * len(rows)))
    batch_size = data.draw(st.integers(1, 5))
    options = {"batched": form not in ("rows", "generator", "tf.data rows")}
    if options["batched"] and form != "ragged" and has_timestep_labels(triple):
        options["timestep_labels"] = True
    whole = {
        "rows": lambda: rows,
        "generator": lambda: lambda: iter(rows),
        "tf.data rows": lambda: single_rows(triple),
        "ragged": lambda: single_rows(triple).ragged_batch(batch_size),
        "padded": lambda: single_rows(triple).padded_batch(batch_size),
        "PyDataset": lambda: Batches(triple, batch_size, list),
        "batched generator": lambda: list(batched_generator(triple, batch_size, list)),
    }[form]()
    if repeats and isinstance(whole, tf.data.Dataset):
        source = whole.repeat()
    elif repeats and isinstance(whole, list):
        source = itertools.cycle(whole)
    else:
        repeats, source = False, whole
    expected = contents(read(whole, **options))
    if len(rows) < max_rows and not repeats:
        assert contents(read(source, max_rows=max_rows, **options)) == expected
        return
    got = read(source, max_rows=max_rows, **options)
    number = min(max_rows, len(rows)) if not repeats else max_rows
    assert len(got.lengths.longest) == number
    as_lists = map_leaves(lambda leaf: list(leaf), triple)
    first = map_leaves(lambda leaf: (leaf * 3)[:number], as_lists)
    assert contents(got) == contents(collect_inputs(*first))


class Counting:
    """Batches of two rows without end, which count how many were asked for."""

    def __init__(self):
        self.asked = 0

    def __iter__(self):
        while True:
            self.asked += 1
            yield np.full((2, 3), self.asked)


def test_no_more_is_read_than_is_needed():
    source = Counting()
    read(source, batched=False, max_rows=20)
    assert source.asked == 20
    source = Counting()
    assert read(source, batched=True, max_rows=41).x.values[-1] == 21
    assert source.asked == 21


def test_a_cache_of_so_many_rows_is_not_that_of_others(tmp_path):
    rows = [[1, 2, 3], [4], [5, 6]]
    for name, read_first, read_then in (("two", 2, None), ("all", None, 2), ("two again", 2, 1)):
        folder = tmp_path / name
        first = contents(read(rows, cache=folder, max_rows=read_first))
        assert contents(read(rows, cache=folder, max_rows=read_first)) == first
        with pytest.raises(ValueError, match="`cache` belongs to another dataset"):
            read(rows, cache=folder, max_rows=read_then)
    description = json.loads((tmp_path / "all" / "description.json").read_text())
    del description["source"]["max_rows"]  # as of version 0.2.0
    (tmp_path / "all" / "description.json").write_text(json.dumps(description))
    assert contents(read(rows, cache=tmp_path / "all")) == contents(read(rows))
    with pytest.raises(ValueError, match="`cache` belongs to another dataset"):
        read(rows, cache=tmp_path / "all", max_rows=2)


@pytest.mark.parametrize(
    ("max_rows", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_a_number_of_rows_is_one_or_more(tmp_path, max_rows, error):
    with pytest.raises(error, match="`max_rows`"):
        BucketedSequence.from_dataset([[1]], max_rows=max_rows)
    with pytest.raises(error, match="`max_rows`"):
        save_sequences(tmp_path / "folder", [[1]], max_rows=max_rows)
    save_sequences(tmp_path / "folder", itertools.cycle([[1], [2, 3]]), max_rows=3)
    assert load_sequences(tmp_path / "folder").lengths.tolist() == [1, 2, 1]
