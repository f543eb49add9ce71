"""Predictions back in the order of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.planning.epoch_plan import EpochPlan


def restore_order(outputs: Any, plan: EpochPlan, lengths: np.ndarray) -> Any:
    """Undoes the order in which an epoch yields the rows.

    Args:
        outputs: Array `(num_rows, ...)`, `tf.RaggedTensor` of as many rows, or a dict or list of them, in the plan's
            order.
        plan: The epoch that was predicted.
        lengths: Int array `(num_given,)`, the timesteps of the input's rows, what ragged outputs are cut to.

    Raises:
        ValueError: If the outputs are not one for each row of the plan, or the plan does not cover the whole input.
    """
    num_given = len(lengths)
    missing = np.setdiff1d(np.arange(num_given), plan.rows)
    if missing.size:
        raise ValueError(
            f"The input's order cannot be restored: {missing.size} of {num_given} rows were not yielded, the first of "
            f'them x[{missing[0]}]. For predictions use remainder="spill" or "keep", on_empty="raise" or "keep", '
            "batch_size_multiple=1 and num_shards=1."
        )
    position = np.empty(num_given, np.int64)
    position[plan.rows] = np.arange(num_given)

    def restore(output: Any) -> Any:
        if not hasattr(output, "shape"):
            raise TypeError(
                f"`outputs` must be an array, or a dict or list of arrays. Received {type(output).__name__}. Pass "
                "what model.predict(dataset) returned."
            )
        rows = output.shape[0] if len(output.shape) else 0
        if rows != num_given:
            raise ValueError(
                f"`outputs` must have one row for each sequence. Expected {num_given}, received {rows}. Pass what "
                "model.predict(dataset) returned for one whole pass."
            )
        if isinstance(output, tf.RaggedTensor):
            return _cut_to_lengths(tf.gather(output, position), lengths)
        return np.asarray(output)[position]

    return tf.nest.map_structure(restore, outputs)


def _cut_to_lengths(ragged: tf.RaggedTensor, lengths: np.ndarray) -> tf.RaggedTensor:
    """Per-timestep outputs, cut to the timesteps that are real."""
    within = tf.ragged.range(ragged.row_lengths())
    return tf.ragged.boolean_mask(ragged, within < tf.cast(lengths, within.dtype)[:, tf.newaxis])
