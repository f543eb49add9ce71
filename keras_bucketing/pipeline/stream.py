"""The pipeline: passes over epochs, epochs cut into batches, batches gathered. All in graph."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.pipeline.gather import BatchGatherer
from keras_bucketing.pipeline.passes import (
    PassCounter,
    PassStart,
    begin_pass,
    depend_on,
    outside_of_scopes,
    refuse_restored_iterators,
    without_autograph,
)
from keras_bucketing.planning.epoch_plan import Cut, EpochPlanner, EpochTensors

# Gathering one batch is a few hundred microseconds of work; two at once keep up with a training step on any machine,
# and a fixed number spares the autotuner's start.
PARALLEL_GATHERS = 2
PREFETCHED_BATCHES = 8


def batch_stream(counter: PassCounter, planner: EpochPlanner, gatherer: BatchGatherer) -> tf.data.Dataset:
    """One pass over one epoch: known length, and the epoch is the next one each time."""
    with tf.device("CPU:0"):
        first_number = tf.constant(secrets.randbits(60), tf.int64)
        cuts = traced_passes(_spec_of(planner.tensors))(counter.variable, first_number, planner.tensors)
    return _gather_ahead(cuts, depend_on(counter.variable, gatherer.__call__))


def _cuts_of_passes(state: tf.Variable, first_number: tf.Tensor, tensors: EpochTensors) -> tf.data.Dataset:
    """The cuts of one pass over one epoch, each with its rows; fewer after `seek(epoch, batch)`."""

    def batches(start: PassStart, has_batches: tf.Tensor) -> tf.data.Dataset:
        rows, cuts = tensors.batches(start.epoch, start.first_batch, start.seed, tf.cast(has_batches, tf.int32))
        return _cuts_with_rows(rows, cuts, start.epoch)

    one_pass = refuse_restored_iterators(lambda: begin_pass(state), batches, first_number)
    return declare_length(one_pass, tf.size(tensors.cuts.start, tf.int64))


def declare_length(one_pass: tf.data.Dataset, num_batches: tf.Tensor | int | None) -> tf.data.Dataset:
    """The same elements in a dataset that declares their number, or, if that is None, that it is endless.

    A pass may end early although its length was declared: `tf.data.experimental.assert_cardinality` would fail the run,
    and every other way to end early makes the length unknown. But `choose_from_datasets` counts as endless as soon as
    one of its inputs is, even one that is never chosen, and ends with the input it draws from; `take` then declares the
    length.
    """
    always_the_first = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()
    endless = tf.data.Dataset.choose_from_datasets([one_pass, _unused_branch(one_pass)], always_the_first)
    return endless if num_batches is None else endless.take(num_batches)


@functools.cache
def traced_passes(spec: EpochTensors) -> Callable[[tf.Variable, tf.Tensor, EpochTensors], tf.data.Dataset]:
    """`_cuts_of_passes` as one graph for all datasets with tensors of the same kind.

    Tracing its functions takes longer than all other steps of making a dataset.
    """

    def trace() -> tf.types.experimental.ConcreteFunction:
        function = tf.function(_cuts_of_passes, autograph=False)
        return function.get_concrete_function(PassCounter().variable, tf.TensorSpec([], tf.int64), spec)

    traced = outside_of_scopes(trace)
    functions = traced.graph.as_graph_def().library.function
    # In tf.data's debug mode Python calls the functions of a pipeline, and these know nothing but tensors of the graph.
    is_debugged = any(node.op == "EagerPyFunc" for function in functions for node in function.node_def)
    return _cuts_of_passes if is_debugged else traced


def _spec_of(tensors: EpochTensors) -> EpochTensors:
    """The structure with specs instead of tensors, for any number of rows and batches."""

    def spec(value: Any) -> Any:
        if not tf.is_tensor(value):
            return value
        return tf.TensorSpec([None, *value.shape[1:]] if value.shape.rank else [], value.dtype)

    return EpochTensors(*(tf.nest.map_structure(spec, value) for value in tensors))


def chosen_batches(gatherer: BatchGatherer, rows: np.ndarray | tf.Tensor, cuts: Cut) -> tf.data.Dataset:
    """Batches of the rows `(num_rows,)`, gathered like those of a pass, but outside any pass."""
    with tf.device("CPU:0"):
        in_memory = Cut(*(tf.constant(part, tf.int32) for part in cuts))
        cuts_with_rows = _cuts_with_rows(tf.constant(rows, tf.int32), in_memory, tf.constant(0, tf.int64))
    return _gather_ahead(cuts_with_rows, gatherer.__call__)


def _gather_ahead(cuts: tf.data.Dataset, gather: Callable[[tf.Tensor, Cut, tf.Tensor], Any]) -> tf.data.Dataset:
    """Gathers batches before they are asked for."""

    def gather_cut(of_epoch: tuple[tf.Tensor, tf.Tensor], cut: Cut) -> Any:
        rows, epoch = of_epoch
        return gather(rows, cut, epoch)

    batches = cuts.map(without_autograph(gather_cut), num_parallel_calls=PARALLEL_GATHERS, deterministic=True)
    return batches.prefetch(PREFETCHED_BATCHES).with_options(_no_graph_optimizations())


def _no_graph_optimizations() -> tf.data.Options:
    """Turns off the rewriting of the graph, which finds nothing to improve here.

    It copies all the data into the rewritten graph, where they stay as long as the dataset does, and every new iterator
    waits for it and for the start of the autotuner, which takes longer than an epoch of a small dataset.
    """
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    return options


def _cuts_with_rows(rows: tf.Tensor, cuts: Cut, epoch: tf.Tensor) -> tf.data.Dataset:
    """The cuts of an epoch, each with its rows (the same tensor every time, no copy) and the epoch."""
    of_epoch = tf.data.Dataset.from_tensors((rows, epoch)).repeat()
    return tf.data.Dataset.zip((of_epoch, tf.data.Dataset.from_tensor_slices(cuts)))


def _unused_branch(like: tf.data.Dataset) -> tf.data.Dataset:
    """An endless dataset with elements of that kind, as small as possible: it is part of every iterator's graph."""

    def empty(spec: tf.TensorSpec) -> tf.Tensor:
        return tf.zeros([size or 0 for size in spec.shape], spec.dtype)

    return tf.data.Dataset.from_tensors(tf.nest.map_structure(empty, like.element_spec)).repeat()
