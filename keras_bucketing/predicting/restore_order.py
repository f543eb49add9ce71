"""Predictions that exist already, back in the order of the input."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.data import tree
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.predicting.output_lengths import (
    OutputLengths,
    Sequences,
    check_is_long_enough,
    check_output_lengths,
    lengths_of_outputs,
)

Array = NDArray[Any]


def restore_order(
    outputs: Any, plan: EpochPlan, sequences: Sequences, lengths: object = None, was_read: bool = True
) -> Any:
    """Undoes the order in which an epoch yields the rows, and cuts outputs per timestep to their rows.

    Args:
        outputs: Array `(num_rows, ...)`, `tf.RaggedTensor` of as many rows, or a dict or list of them, in the plan's
            order.
        plan: The epoch that was predicted.
        sequences: The sequences in `x`.
        lengths: As in `BucketedSequence.restore_order`.
        was_read: Whether the pass over that epoch has yielded its last batch, so that the outputs belong to it.

    Raises:
        ValueError: If the outputs are not one for each row of the plan, or the plan does not cover the whole input; if
            the pass was not read; if it is not certain how long the rows of an output are.
    """
    choices = check_output_lengths(lengths, sequences)
    _check_covers_input(plan, sequences.num_rows)
    position = np.empty(sequences.num_rows, np.int64)
    position[plan.rows] = np.arange(sequences.num_rows)

    def restore(name: str, output: Any, own: OutputLengths) -> Any:
        rows = output.shape[0] if len(output.shape) else 0
        if rows != sequences.num_rows:
            raise ValueError(
                f"`outputs` must have one row for each sequence. Expected {sequences.num_rows}, received {rows}. Pass "
                "what model.predict(dataset) returned for one whole pass."
            )
        _check_was_read(was_read)
        if isinstance(output, tf.RaggedTensor):
            return _restore_ragged(name, output, own, plan, sequences, position)
        array = np.asarray(output)
        if own.lengths is not None:
            return _cut(name, array, own.lengths, sequences, position)
        if not own.are_values:
            _refuse_one_length(name, array, plan, sequences)
        return array[position]

    flat = keras.tree.flatten(outputs)
    for output in flat:
        if not hasattr(output, "shape"):
            raise TypeError(
                f"`outputs` must be an array, or a dict or list of arrays. Received {type(output).__name__}. Pass "
                "what model.predict(dataset) returned."
            )
    names = [tree.name_of("outputs", tuple(path)) for path, _ in keras.tree.flatten_with_path(outputs)]
    parts = zip(names, flat, lengths_of_outputs(choices, outputs), strict=True)
    return keras.tree.pack_sequence_as(outputs, [restore(*part) for part in parts])


def _check_covers_input(plan: EpochPlan, num_rows: int) -> None:
    missing = np.setdiff1d(np.arange(num_rows), plan.rows)
    if missing.size:
        raise ValueError(
            f"The input's order cannot be restored: {missing.size} of {num_rows} rows were not yielded, the first of "
            f'them x[{missing[0]}]. For predictions use remainder="spill" or "keep", on_empty="raise" or "keep", '
            "batch_size_multiple=1 and num_shards=1. dataset.predict(model) predicts every row, whatever `remainder` "
            "and `batch_size_multiple` are."
        )


def _check_was_read(was_read: bool) -> None:
    if not was_read:
        raise ValueError(
            "The dataset shuffles, and its newest pass was not read to its end, so `outputs` are those of another "
            "pass, in an order that is gone. Use dataset.predict(model), which needs no order to be restored; or call "
            "restore_order right after model.predict(dataset); or pass shuffle=False to BucketedSequence."
        )


def _restore_ragged(
    name: str, output: tf.RaggedTensor, own: OutputLengths, plan: EpochPlan, sequences: Sequences, position: RowIndices
) -> list[Array]:
    if own.are_values:
        raise ValueError(
            f"`{name}` is a RaggedTensor, so it holds no values of a row. Expected lengths: {sequences.names()}; "
            "received False."
        )
    sizes = np.asarray(output.row_lengths())[position]
    lengths = own.lengths
    if lengths is None:
        padded = _padded_lengths(plan, sequences, position)
        lengths = _followed_lengths(name, sizes, padded, sequences)
        if all((sizes > of_sequence).all() for of_sequence in padded):
            raise ValueError(
                f"`{name}` is longer than its rows are padded. Expected at most {int(padded[0][0])} timesteps for row "
                f"0 of the input, received {int(sizes[0])}. Pass the lengths of its rows as `lengths`: "
                f"{sequences.names()}."
            )
    too_short = np.flatnonzero(sizes < lengths)
    if too_short.size:
        first = too_short[:1]
        check_is_long_enough(name, int(sizes[first[0]]), lengths[first], first, sequences)
    rows = []
    starts, values = np.asarray(output.row_starts()), output.values
    flat = None if isinstance(values, tf.RaggedTensor) else np.asarray(values)
    for row, place in enumerate(position.tolist()):
        start, stop = int(starts[place]), int(starts[place] + lengths[row])
        rows.append(np.asarray(values[start:stop].to_tensor()) if flat is None else flat[start:stop].copy())
    return rows


def _padded_lengths(plan: EpochPlan, sequences: Sequences, position: RowIndices) -> list[Lengths]:
    """The padded length of each row, for each sequence, in the order of the input."""
    batch_sizes = np.diff(plan.batch_splits)
    of_leaves = list(plan.leaf_padded_lengths.values())[: len(sequences.paths)]
    return [np.repeat(of_batches, batch_sizes)[position] for of_batches in of_leaves]


def _followed_lengths(name: str, sizes: Lengths, padded: list[Lengths], sequences: Sequences) -> Lengths:
    """The lengths of the sequence that a ragged output was padded like, if only one is possible."""
    distinct = _distinct(sequences.lengths)
    if len(distinct) == 1:
        return distinct[0]
    pairs = zip(sequences.lengths, padded, strict=True)
    fitting = _distinct([lengths for lengths, of_sequence in pairs if np.array_equal(sizes, of_sequence)])
    if len(fitting) == 1:
        return fitting[0]
    raise ValueError(
        f"`{name}` could follow {'several sequences' if fitting else 'none of the sequences'} of x, by what their rows "
        f"are padded to. Pass the lengths of its rows as `lengths`: {sequences.names()}."
    )


def _distinct(arrays: list[Lengths]) -> list[Lengths]:
    found: list[Lengths] = []
    for array in arrays:
        if not any(np.array_equal(array, known) for known in found):
            found.append(array)
    return found


def _cut(name: str, output: Array, lengths: Lengths, sequences: Sequences, position: RowIndices) -> list[Array]:
    if output.ndim < 2:
        raise ValueError(
            f"`lengths` says how long the rows of `{name}` are, but it has no time axis. Expected shape "
            f"(num_sequences, time, ...), received {output.shape}. Pass a list or dict like the outputs, with "
            "False for this one."
        )
    check_is_long_enough(name, output.shape[1], lengths, np.arange(len(lengths)), sequences)
    return [output[place, :length].copy() for place, length in zip(position.tolist(), lengths.tolist(), strict=True)]


def _refuse_one_length(name: str, output: Array, plan: EpochPlan, sequences: Sequences) -> None:
    """Refuses an axis as long as all batches are padded: it may hold timesteps, or values of a row."""
    if output.ndim < 2:
        return
    for of_batches in list(plan.leaf_padded_lengths.values())[: len(sequences.paths)]:
        if (of_batches == output.shape[1]).all():
            raise ValueError(
                f"`{name}` has {output.shape[1]} in its second axis, and all batches are padded to as many timesteps, "
                f"so it could hold one value per timestep. Pass `lengths`: {sequences.names()}, to cut each row "
                "to its own; or False for values of a row."
            )
