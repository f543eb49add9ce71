"""Passes over epochs: whoever iterates, however far, and after seek()."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import func_graph

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.pipeline.stream import traced_passes
from tests.support.default_layer import examples
from tests.support.processes import run_python

NUM_ROWS = 23
X = [[row] * (1 + row % 7) for row in range(NUM_ROWS)]


def make(**options):
    return BucketedSequence(X, np.arange(NUM_ROWS), **{"batch_size": 3, "seed": 1, "num_buckets": 3, **options})


def rows_of(batches):
    return [labels.numpy().tolist() for _, labels in batches]


def planned(dataset, epoch, first_batch=0):
    return [rows.tolist() for rows in dataset.epoch_plan(epoch)][first_batch:]


WRAPPERS = {
    "plain": lambda dataset: dataset,
    "prefetch": lambda dataset: dataset.prefetch(2),
    "map": lambda dataset: dataset.map(lambda x, y: (x, y), num_parallel_calls=2),
    "map, prefetch": lambda dataset: dataset.map(lambda x, y: (x, y)).prefetch(tf.data.AUTOTUNE),
    "options": lambda dataset: dataset.with_options(tf.data.Options()),
}


@pytest.mark.parametrize(
    "wrapper",
    [name if name in ("plain", "map, prefetch") else pytest.param(name, marks=pytest.mark.fit) for name in WRAPPERS],
)
def test_a_sought_pass_is_the_rest_of_its_epoch_and_the_next_ones_are_whole(wrapper):
    dataset = make()
    wrapped = WRAPPERS[wrapper](dataset)
    assert rows_of(wrapped) == planned(dataset, 0)
    for first_batch in (0, 3, len(dataset) - 1):
        dataset.seek(5, first_batch)
        assert len(wrapped) == len(dataset) == dataset.num_batches
        assert rows_of(wrapped) == planned(dataset, 5, first_batch)
        assert rows_of(wrapped) == planned(dataset, 6)
    dataset.seek(5, len(dataset))
    assert rows_of(wrapped) == planned(dataset, 6)


def test_repeating_reads_one_epoch_after_the_other():
    dataset = make()
    dataset.seek(2, 4)
    expected = planned(dataset, 2, 4) + planned(dataset, 3) + planned(dataset, 4)
    assert rows_of(dataset.repeat().take(len(expected))) == expected


def test_an_iterator_that_is_never_read_takes_no_epoch():
    dataset = make()
    unread = [iter(dataset) for _ in range(3)]
    assert dataset.newest_pass().number == 0
    assert rows_of(dataset) == planned(dataset, 0)
    assert dataset.newest_pass().number == 1
    assert (dataset.epoch, dataset.newest_pass().epoch) == (1, 0)
    assert rows_of(unread[1]) == planned(dataset, 1)


def test_an_abandoned_pass_is_over():
    dataset = make()
    for epoch in range(3):
        assert rows_of(dataset.take(2)) == planned(dataset, epoch)[:2]
    iterator = iter(dataset)
    next(iterator)
    del iterator
    assert rows_of(dataset) == planned(dataset, 4)


def test_two_passes_at_once_read_different_epochs():
    dataset = make()
    first, second = iter(dataset), iter(dataset)
    interleaved = [(rows_of([next(first)]), rows_of([next(second)])) for _ in range(len(dataset))]
    assert [one[0] for one, _ in interleaved] == planned(dataset, 0)
    assert [other[0] for _, other in interleaved] == planned(dataset, 1)


@pytest.mark.parametrize("attempt", range(examples(5)))
def test_of_threads_that_begin_at_once_only_one_gets_the_rest_of_the_epoch(attempt):
    dataset, num_threads = make(), 4
    dataset.seek(7, 5)
    barrier = Barrier(num_threads)

    def read(_):
        iterator = iter(dataset)
        barrier.wait()
        return rows_of(iterator)

    with ThreadPoolExecutor(num_threads) as threads:
        passes = sorted(threads.map(read, range(num_threads)))
    expected = [planned(dataset, 7, 5), *(planned(dataset, epoch) for epoch in (8, 9, 10))]
    assert passes == sorted(expected)


def test_the_declared_length_is_that_of_every_epoch():
    for remainder in ("spill", "keep", "drop"):
        dataset = make(remainder=remainder)
        assert int(dataset.cardinality()) == dataset.num_batches == len(dataset)
        assert [len(list(dataset)) for _ in range(3)] == [len(dataset)] * 3


def test_iterating_does_not_copy_the_data():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc to measure memory")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in BucketedSequence([[1, 2], [3]], batch_size=2):  # what the first dataset of a process loads
        pass
    values = np.ones(32_000_000, np.int32)
    dataset = BucketedSequence.from_row_splits(values, np.arange(0, values.size + 1, 1000), batch_size=32)
    before = resident()
    for _ in range(3):
        next(iter(dataset))
    assert resident() - before < values.nbytes / 2


# The graphs that a construction traces, which take most of its time.


KINDS = {
    "tokens": lambda rows: make(),
    "other sizes": lambda rows: BucketedSequence(X[:rows], batch_size=2 + rows % 5),
    "vectors": lambda rows: BucketedSequence([np.ones((1 + row % 3, 4), np.float32) for row in range(rows)]),
    "labels of each timestep": lambda rows: BucketedSequence(X, X, num_buckets=1, label_padding_value=-1),
    "several leaves": lambda rows: BucketedSequence({"a": X, "b": X[::-1]}, include_lengths=True),
    "labels of their own length": lambda rows: BucketedSequence(X, X[::-1], align_labels=False),
    "sorted": lambda rows: make(shuffle=False),
    "one shape a bucket": lambda rows: make(pad_to_bucket_boundary=True, minlen=3),
    "a shard, spare rows": lambda rows: make(num_shards=2, batch_size=4),
    "many buckets": lambda rows: make(bucket_boundaries=range(1, 40), num_buckets=None),
    "loaded": lambda rows: BucketedSequence.from_loader(
        lambda row: X[row], list(map(len, X)), output_signature=tf.TensorSpec((None,), tf.int32)
    ),
}


@pytest.fixture
def traced(monkeypatch):
    """The names of the graphs that are traced."""
    names = []
    init = func_graph.FuncGraph.__init__

    def noting_init(self, name, *args, **kwargs):
        names.append(name)
        init(self, name, *args, **kwargs)

    monkeypatch.setattr(func_graph.FuncGraph, "__init__", noting_init)
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_a_construction_traces_four_graphs_and_all_others_like_it_one(kind, traced):
    traced_passes.cache_clear()
    KINDS[kind](20)
    assert len(traced) == 4, traced
    for rows in (17, 23):
        del traced[:]
        KINDS[kind](rows)
        assert len(traced) == 1, traced


def test_plans_and_previews_trace_nothing(traced):
    dataset = make()
    del traced[:]
    dataset.epoch_plan(3)
    dataset.padding_stats()
    next(dataset._preview())
    assert traced == []


def test_datasets_that_share_a_graph_share_nothing_else():
    first, other = make(), make(seed=2, batch_size=4)
    first.seek(4, 2)
    passes = iter(first), iter(other)
    for epoch, first_batch in ((4, 2), (5, 0)):
        assert rows_of(first) == planned(first, epoch, first_batch)
    assert (other.epoch, other.newest_pass().number) == (0, 0)
    assert rows_of(passes[1]) == planned(other, 0)
    assert rows_of(passes[0]) == planned(first, 6)


def test_a_pass_outlives_the_dataset():
    dataset = make()
    expected, batches = planned(dataset, 0), dataset.map(lambda x, y: (x, y))
    variant, spec = tf.data.experimental.to_variant(batches), batches.element_spec
    del dataset, batches
    gc.collect()
    make()
    assert rows_of(tf.data.experimental.from_variant(variant, spec)) == expected


DEBUGGED = """
import numpy as np, tensorflow as tf
from keras_bucketing import BucketedSequence
tf.data.experimental.enable_debug_mode()
dataset = BucketedSequence([[1, 2], [3], [4, 5, 6]], np.arange(3), batch_size=2, seed=1)
planned = [rows.tolist() for epoch in (0, 1) for rows in dataset.epoch_plan(epoch)]
assert [labels.numpy().tolist() for _ in range(2) for _, labels in dataset] == planned
"""


@pytest.mark.fit
def test_the_debug_mode_of_tf_data_can_be_used():
    run_python("-c", DEBUGGED, check=True)


def test_the_options_are_turned_on_again_without_a_warning_by_way_of_a_variant(caplog):
    dataset = make()
    options = tf.data.Options()
    options.autotune.enabled = True
    options.experimental_optimization.apply_default_optimizations = True
    variant = tf.data.experimental.to_variant(dataset)
    handed_on = tf.data.experimental.from_variant(variant, dataset.element_spec)
    with caplog.at_level("WARNING", logger="absl"):
        tuned = handed_on.map(lambda x, y: (x, y), num_parallel_calls=tf.data.AUTOTUNE).with_options(options)
    assert caplog.messages == []
    in_graph = [tf.raw_ops.GetOptions(input_dataset=tf.data.experimental.to_variant(of)) for of in (dataset, tuned)]
    assert (
        in_graph[0]
        != in_graph[1]
        == tf.raw_ops.GetOptions(
            input_dataset=tf.data.experimental.to_variant(tf.data.Dataset.range(1).with_options(options))
        )
    )
    assert len(tuned) == len(dataset)
    assert rows_of(tuned) == planned(dataset, 0)
    with caplog.at_level("WARNING", logger="absl"):
        dataset.with_options(options)
    assert len(caplog.messages) == 2
