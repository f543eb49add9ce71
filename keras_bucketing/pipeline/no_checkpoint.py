"""Refusal of checkpoints: TensorFlow's checkpoint of an iterator would bring back other rows.

Which epoch a pass reads is decided by a counter outside of the iterator, and a checkpoint of the iterator does not hold
it: after a restart the restored iterator, or its next pass under `.repeat()`, would read another epoch. The position
belongs in `BucketedSequence.state_dict()`. There are three ways to checkpoint an iterator:

- As it is, TensorFlow asks the functions of the pipeline for stateful operations before it saves, as long as the stage
  that calls them lives. `stateful` makes one of the last stage so: "ReadVariableOp is stateful." TensorFlow makes this
  message of the names of operations alone (tensorflow/core/framework/dataset.h), so that no pipeline can put a sentence
  of its own there: the documentation explains it.
- With `experimental_symbolic_checkpoint` it does not ask. It saves how far the sources have got, calls the functions
  again when it restores, and the pass would begin anew as the next epoch. `batches_unless_restored` notices that and
  fails with a sentence. `BucketedSequence.with_options` refuses the option before anything is saved.
- With `experimental_external_state_policy` the user says that state in functions is to be ignored. Then the elements
  that the functions got are saved too, and the pass goes on with its own rows; in another process it is refused.

What a stage above has taken out of the pass already (`shuffle` with a buffer for all of it) is saved with that stage,
and comes back as it was.

A `GeneratorDataset` in the pipeline, even one that is never read, would refuse the second way when it is saved. But
TensorFlow 2.21 sets `M_TRIM_THRESHOLD` of the C library for the whole process wherever it makes one
(tensorflow/core/kernels/data/generator_dataset_op.cc), after which batches of more than 128 KB are given back to the
system each time and an epoch takes about twice the processor time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bucketing.pipeline.as_it_is import as_it_is
from keras_bucketing.pipeline.pass_counter import PassStart

NO_CHECKPOINT = (
    "The iterator of a BucketedSequence cannot be restored from a checkpoint: it does not hold which epoch is read. "
    "Save dataset.state_dict() and restore it with dataset.load_state_dict(state), or use BackupAndRestoreSequence."
)


def stateful(function: Callable[..., Any], state: tf.Variable) -> Callable[..., Any]:
    """The same function, formally dependent on a variable."""

    def reading(*arguments: Any) -> Any:
        with tf.control_dependencies([state.read_value()]):
            return function(*arguments)

    return reading


def batches_unless_restored(
    begin: Callable[[], PassStart], batches: Callable[[PassStart, tf.Tensor], tf.data.Dataset]
) -> tf.data.Dataset:
    """The batches of the pass that `begin` begins. An iterator of them that TensorFlow restores fails.

    A pass has two tickets with numbers of its own. The first has no batches, so that the second is taken where a
    checkpoint has something to save: the range it comes from goes on in a restored iterator where it was, though it now
    begins with a number of another pass. A number that is not of its pass betrays the checkpoint. One of another
    process does, too, since numbers begin at random.

    Args:
        begin: Begins a pass, in graph. Called by each iterator.
        batches: The batches of a pass, as a function of its start alone; none where the bool scalar is False.

    Raises:
        tf.errors.InvalidArgumentError: From `tf.train.Checkpoint.restore` or the next element.
    """
    first_number = secrets.randbits(60)

    def tickets(_: tf.Tensor) -> tf.data.Dataset:
        start = begin()
        # The range has no end, for TensorFlow would miss the numbers of another process beyond it in words of its own.
        numbers = tf.data.Dataset.range(first_number + 2 * start.number, tf.int64.max)
        return tf.data.Dataset.zip((numbers, tf.data.Dataset.from_tensors(start).repeat())).take(2)

    def batches_of(ticket: tf.Tensor, start: PassStart) -> tf.data.Dataset:
        nth = ticket - (first_number + 2 * start.number)
        with tf.control_dependencies([tf.debugging.Assert((nth == 0) | (nth == 1), [NO_CHECKPOINT])]):
            return batches(start, nth == 1)

    return tf.data.Dataset.range(1).flat_map(as_it_is(tickets)).flat_map(as_it_is(batches_of))
