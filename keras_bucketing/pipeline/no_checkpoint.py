"""Refusal of checkpoints: TensorFlow's checkpoint of an iterator would bring back other rows, so none is made.

Which epoch a pass reads is decided by a counter outside of the iterator, and a checkpoint of the iterator does not hold
it: after a restart the restored iterator, or its next pass under `.repeat()`, would read another epoch. The position
belongs in `BucketedSequence.state_dict()`. There are three ways to checkpoint an iterator, and each is refused:

- As it is, TensorFlow asks the functions of the pipeline for stateful operations, as long as the stage that calls them
  lives. `stateful` makes one of the last stage so: "ReadVariableOp is stateful."
- With `experimental_symbolic_checkpoint` it does not ask; it calls the functions again when it restores, and the pass
  would begin anew as the next epoch. But nothing is saved where a `GeneratorDataset` is part of the iterator, even one
  that is never read: "GeneratorDataset does not support checkpointing."
- With `experimental_external_state_policy` the user says that state in functions is to be ignored. The same refuses, as
  long as the pass is not read to its end.

TensorFlow makes these messages of the names of operations alone (tensorflow/core/framework/dataset.h,
tensorflow/core/kernels/data/generator_dataset_op.cc), so that no pipeline can put a sentence of its own there: the
README explains them. What a stage above has taken out of the pass already (`shuffle` with a buffer for all of it) is
saved with that stage, and comes back as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def stateful(function: Callable[..., Any], state: tf.Variable) -> Callable[..., Any]:
    """The same function, formally dependent on a variable."""

    def reading(*arguments: Any) -> Any:
        with tf.control_dependencies([state.read_value()]):
            return function(*arguments)

    return reading


def endless_dataset_never_read(element_spec: Any) -> tf.data.Dataset:
    """An endless dataset of such elements whose iterator cannot be checkpointed.

    Its elements are as small as can be: they are part of every iterator's graph.

    Args:
        element_spec: Nested structure of `tf.TensorSpec`.

    Example:
        >>> dataset = endless_dataset_never_read(tf.TensorSpec([None], tf.int32))
        >>> bool(dataset.cardinality() == tf.data.INFINITE_CARDINALITY)
        True
    """
    specs = tf.nest.flatten(element_spec)
    of_state = [tf.TensorSpec([], tf.int64)]

    def concrete(function: Callable[..., Any], signature: list[tf.TensorSpec]) -> Any:
        return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()

    variant = tf.raw_ops.GeneratorDataset(
        init_func_other_args=[],
        next_func_other_args=[],
        finalize_func_other_args=[],
        init_func=concrete(lambda: tf.constant(0, tf.int64), []),
        next_func=concrete(
            lambda state: [tf.zeros([size or 0 for size in spec.shape], spec.dtype) for spec in specs], of_state
        ),
        finalize_func=concrete(lambda state: state, of_state),
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
    )
    return tf.data.experimental.from_variant(variant, element_spec).repeat()
