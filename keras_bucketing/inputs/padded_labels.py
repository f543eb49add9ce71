"""Labels and weights of padded sequences: which of them hold one value a timestep, and those without their padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_bucketing.inputs.arrays import as_regular_array
from keras_bucketing.inputs.padded import PaddedSequences
from keras_bucketing.inputs.structures import map_structure


def labels_from_padded(labels: Any, padded: list[PaddedSequences], timestep_labels: bool | None, name: str) -> Any:
    """Makes those leaves ragged that hold one label a timestep: `(num_rows, time, ...)`, padded like the sequences.

    Args:
        labels: A leaf, or a dict or tuple of leaves.
        padded: The sequences of `x`.
        timestep_labels: Whether leaves of that shape hold one label a timestep. None: if what they hold behind the ends
            of the sequences is one constant, as padding is.
        name: What to call them in an error message.

    Raises:
        ValueError: If a leaf has that shape but no padding, so that its second axis may be classes or outputs; or if it
            may belong to either of two entries of `x`.
    """

    def convert(leaf: Any, name: str) -> Any:
        shape = tuple(getattr(leaf, "shape", ()))[:2]
        labeled = [sequences for sequences in padded if sequences.array.shape[:2] == shape]
        if timestep_labels is False or not labeled:
            return leaf
        array = as_regular_array(leaf, name, "Give every row the same shape.")
        distinct = _distinct(labeled)
        fitting = [sequences for sequences in distinct if _has_constant_padding(array, sequences)]
        if timestep_labels is None and not fitting:
            raise ValueError(_unclear(array, distinct, name))
        sequences = _only_one(array, fitting or distinct, name)
        return PaddedSequences(name, array, sequences.lengths, sequences.side, found=False).ragged()

    return map_structure(convert, labels, name)


def _distinct(padded: list[PaddedSequences]) -> list[PaddedSequences]:
    """One for each padding, where entries of `x` are padded alike."""
    distinct: list[PaddedSequences] = []
    for sequences in padded:
        if not any((sequences.is_real == known.is_real).all() for known in distinct):
            distinct.append(sequences)
    return distinct


def _has_constant_padding(array: np.ndarray, sequences: PaddedSequences) -> bool:
    padding = array[~sequences.is_real]
    return bool(len(padding)) and bool((padding == padding[0]).all())


def _only_one(array: np.ndarray, fitting: list[PaddedSequences], name: str) -> PaddedSequences:
    """The only padding that fits; of several, the one that is followed to the last timestep."""
    if len(fitting) == 1:
        return fitting[0]
    exact = [sequences for sequences in fitting if _ends_with_data(array, sequences)]
    if len(exact) == 1:
        return exact[0]
    raise ValueError(
        f"`{name}` may hold one label a timestep of `{fitting[0].name}` or of `{fitting[1].name}`, which have the same "
        f"shape but other lengths. Received shape {array.shape}. Pass it without its padding, as a tf.RaggedTensor or "
        "a list of arrays, or timestep_labels=False if it holds one value a row."
    )


def _ends_with_data(array: np.ndarray, sequences: PaddedSequences) -> bool:
    """Whether the labels next to the padding are, in every row, other than the padding."""
    padding = array[~sequences.is_real]
    rows = np.flatnonzero((sequences.lengths > 0) & (sequences.lengths < sequences.time))
    if not len(padding) or not len(rows):
        return False
    last = sequences.lengths[rows] - 1 if sequences.side == "post" else sequences.time - sequences.lengths[rows]
    is_padding = array[rows, last] == padding[0]
    return not is_padding.reshape(len(rows), -1).all(axis=1).any()


def _unclear(array: np.ndarray, padded: list[PaddedSequences], name: str) -> str:
    time = array.shape[1]
    is_padded = any((sequences.lengths < time).any() for sequences in padded)
    return (
        f"`{name}` may hold one label a timestep, or {time} values a row, as one-hot labels do: received shape "
        f"{array.shape} for sequences padded to {time}, {'without one' if is_padded else 'with no'} constant in the "
        "padding. Say which it is: timestep_labels=True or timestep_labels=False."
    )
