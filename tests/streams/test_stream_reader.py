"""Streams of every kind: what is read is what went in, row by row."""

import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing.inputs.collect import collect_inputs
from keras_bucketing.inputs.ragged import Ragged
from keras_bucketing.streams.batch_layout import BatchOptions
from keras_bucketing.streams.saved_sequences import read_dataset
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

properties = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def read(stream, cache=None, **options):
    return collect_inputs(*read_dataset(stream, cache, BatchOptions(**options)))


def contents(inputs):
    """All that there is to know about the leaves, bit for bit."""

    def content(leaf):
        array = leaf.values if isinstance(leaf, Ragged) else leaf
        lengths = leaf.lengths.tolist() if isinstance(leaf, Ragged) else None
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
