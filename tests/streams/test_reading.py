"""The progress line: silent at first, one line on a terminal, a line now and then in a file."""

import io

import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.data.rows import Rows
from keras_bucketing.streams.reading import Progress
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


def lines_of(stream, seconds, total=None):
    """What 100 updates in so many seconds write."""
    clock = Clock()
    progress = Progress("Reading", "rows", total, stream, clock)
    for count in range(1, 101):
        clock.now += seconds / 100
        progress.update(count * 10)
    progress.finish(1000)
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


# Streams of every kind: what is read is what went in, row by row.


properties = settings(
    max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def read(stream, cache=None, **options):
    return collect_inputs(*read_dataset(stream, cache, BatchOptions(**options)))


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
