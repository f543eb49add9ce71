"""The pipeline: passes over epochs, epochs cut into batches, batches gathered. All in graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bucketing.pipeline.batch_gather import BatchGatherer
from keras_bucketing.pipeline.no_checkpoint import endless_dataset_never_read, stateful
from keras_bucketing.pipeline.pass_counter import PassCounter, PassStart
from keras_bucketing.planning.epoch_plan import EpochPlanner

# Gathering one batch is a few hundred microseconds of work; two at once keep up with a training step on any machine,
# and a fixed number spares the autotuner's start.
_PARALLEL_GATHERS = 2
_PREFETCHED_BATCHES = 8


def batch_stream(counter: PassCounter, planner: EpochPlanner, gatherer: BatchGatherer) -> tf.data.Dataset:
    """One pass over one epoch: known length, and the epoch is the next one each time.

    After `seek(epoch, batch)` fewer batches are left, and the pass must end early although its length was declared:
    `tf.data.experimental.assert_cardinality` would fail the run, every other way to end early makes the length unknown.
    But `choose_from_datasets` counts as endless as soon as one of its inputs is, even one that is never chosen, and
    ends with the input it draws from; `take` then declares the length.
    """
    one_pass = tf.data.Dataset.range(1).flat_map(
        _as_it_is(lambda _: _one_by_one(*_batches_of_pass(planner, counter.begin_pass())))
    )
    always_the_second = tf.data.Dataset.from_tensors(tf.constant(1, tf.int64)).repeat()
    # What is never chosen comes first, since TensorFlow gives the first reason why it cannot checkpoint an iterator.
    endless = tf.data.Dataset.choose_from_datasets(
        [endless_dataset_never_read(one_pass.element_spec), one_pass], always_the_second
    )
    cuts = endless.take(planner.num_batches)
    gather = stateful(lambda rows, cut: gatherer(rows, cut), counter.variable)
    batches = cuts.map(_as_it_is(gather), num_parallel_calls=_PARALLEL_GATHERS, deterministic=True)
    return batches.prefetch(_PREFETCHED_BATCHES).with_options(_without_rewriting())


def _batches_of_pass(planner: EpochPlanner, start: PassStart) -> tuple[tf.Tensor, tf.Tensor]:
    return planner.batches(start.epoch, start.first_batch, start.seed)


def _without_rewriting() -> tf.data.Options:
    """Spares the rewriting of the graph, which finds nothing to improve here.

    It copies all the data into the rewritten graph, where they stay as long as the dataset does, and every new iterator
    waits for it and for the start of the autotuner, longer than an epoch of a small dataset takes.
    """
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    return options


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """Spares AutoGraph the conversion of a function that has no Python control flow for tensors."""
    converted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(function)
    return converted


def _one_by_one(rows: tf.Tensor, cuts: tf.Tensor) -> tf.data.Dataset:
    """The cuts of an epoch, each with the rows it is a cut of (the same tensor every time, not a copy)."""
    return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(rows).repeat(), tf.data.Dataset.from_tensor_slices(cuts)))
