"""Labels and weights of padded sequences: which of them hold one value a timestep, and those without their padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.data import tree
from keras_bucketing.data.arrays import as_regular_array
from keras_bucketing.data.rows import rows_from_padded
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.arrays import PaddedSequences
from keras_bucketing.unpadding.batches import Batch, BatchOptions, PaddedGroup, Spans, leaf_name
from keras_bucketing.unpadding.spans import Span


def labels_from_padded(
    labels: Structure, padded: list[PaddedSequences], timestep_labels: bool | None, root: str
) -> Structure:
    """Makes those leaves ragged that hold one label a timestep: `(num_rows, time, ...)`, padded like the sequences.

    Args:
        labels: A leaf, or a dict or tuple of leaves.
        padded: The sequences of `x`.
        timestep_labels: Whether leaves of that shape hold one label a timestep. None: if what they hold behind the ends
            of the sequences is one constant, as padding is.
        root: What to call them in an error message.

    Raises:
        ValueError: If a leaf has that shape but no padding, so that its second axis may be classes or outputs; or if it
            may belong to either of two entries of `x`.
    """

    def convert(path: Path, leaf: Any) -> Any:
        shape = tuple(getattr(leaf, "shape", ()))[:2]
        labeled = [sequences for sequences in padded if sequences.array.shape[:2] == shape]
        if timestep_labels is False or not labeled:
            return leaf
        name = name_of(root, path)
        array = as_regular_array(leaf, name, "Give every row the same shape.")
        distinct = _distinct(labeled)
        fitting = [sequences for sequences in distinct if _has_constant_padding(array, sequences)]
        if timestep_labels is None and not fitting:
            raise ValueError(_unclear(array, distinct, name))
        sequences = _only_one(array, fitting or distinct, name)
        return rows_from_padded(array, sequences.span.start, sequences.lengths)

    tree.check_structure(labels, root)
    return tree.map_leaves(convert, labels)


def _distinct(padded: list[PaddedSequences]) -> list[PaddedSequences]:
    """One for each padding, where entries of `x` are padded alike."""
    distinct: list[PaddedSequences] = []
    for sequences in padded:
        if not any((sequences.span.is_real == known.span.is_real).all() for known in distinct):
            distinct.append(sequences)
    return distinct


def _has_constant_padding(array: np.ndarray, sequences: PaddedSequences) -> bool:
    padding = array[~sequences.span.is_real]
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
    padding = array[~sequences.span.is_real]
    rows = np.flatnonzero((sequences.lengths > 0) & (sequences.lengths < sequences.time))
    if not len(padding) or not len(rows):
        return False
    last = sequences.span.stop[rows] - 1 if sequences.side == "post" else sequences.span.start[rows]
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


# Labels and weights of timesteps in padded batches: which sequences they belong to, and where they end.


class PaddedLabels:
    """Finds the leaf of `x` whose lengths the padded labels have.

    Args:
        padded: Paths of the padded leaves of `y` and `sample_weight`.
        sequences: Paths of the leaves of `x` that are not padded.
        groups: Those that are.
        options: What the caller said.
        lengths: Path of the leaf of `x` with the lengths of labels that have their own, or None.
    """

    def __init__(
        self,
        padded: list[Path],
        sequences: list[Path],
        groups: list[PaddedGroup],
        options: BatchOptions,
        lengths: Path | None,
    ):
        self._padded = padded
        self._candidates = [*sequences, *(group.paths[0] for group in groups)]
        self._owners: dict[Path, Path] = {}
        self._own = {path: PaddedGroup([path], lengths=lengths) for path in padded}
        self._options = options
        self._label_options = BatchOptions(mask_value=options.label_mask_value, padding=options.padding or "post")

    def align(self, batches: list[tuple[Batch, Spans]]) -> None:
        """Chooses the leaf of `x` for each of the labels, by what the first batches look like.

        Args:
            batches: The leaves, and what is real in the padded ones of `x`.

        Raises:
            ValueError: If there is none, or none is certain.
        """
        for path in self._padded:
            fitting = self._fitting(path, batches)
            if fitting and _all_equal(fitting, batches):
                self._owners[path] = fitting[0]
            elif fitting or self._options.labels_align:
                raise ValueError(
                    f"`{leaf_name(path)}` seems to be padded, but {'several leaves' if fitting else 'no leaf'} of `x` "
                    f"may be what its timesteps belong to. Received shape {np.shape(batches[0][0][path])} in element "
                    "0. Pass timestep_labels=False if it holds values of a row, align_labels=False if it has lengths "
                    "of its own, as transcripts and translations do, or single sequences instead of padded batches."
                )

    def _fitting(self, path: Path, batches: list[tuple[Batch, Spans]]) -> list[Path]:
        """The leaves of `x` of the labels' shape; of unlike ones, those beyond whose ends the labels are constant."""
        fitting = [
            owner
            for owner in self._candidates
            if all(_span(owner, *batch).is_real.shape == np.shape(batch[0][path])[:2] for batch in batches)
        ]
        if _all_equal(fitting, batches):
            return fitting
        return [
            owner
            for owner in fitting
            if all(_span(owner, *batch).leaves_a_constant(batch[0][path]) for batch in batches)
        ]

    def span(self, path: Path, batch: Batch, spans: Spans, first_row: int) -> Span:
        """What is real in the labels of a batch.

        Raises:
            ValueError: If they hold something where their sequences have ended.
        """
        owner = self._owners.get(path)
        if owner is None:
            return self._own[path].span(batch, self._label_options, first_row)
        span = _span(owner, batch, spans)
        if batch[path].shape[1] == span.time and not span.leaves_a_constant(batch[path]):
            raise ValueError(
                f"`{leaf_name(path)}` holds labels where `{leaf_name(owner)}` is padded, in the batch at row "
                f"{first_row}. Received more than one value there. If timesteps of x that look like padding are real, "
                "say what padding holds, mask_value=..., or add an entry 'lengths' to x; if these are values of a row, "
                "pass timestep_labels=False."
            )
        return span


def _span(owner: Path, batch: Batch, spans: Spans) -> Span:
    if owner in spans:
        return spans[owner]
    leaf = batch[owner]
    lengths = leaf.row_lengths().numpy() if isinstance(leaf, tf.RaggedTensor) else np.array([len(row) for row in leaf])
    return Span(np.zeros_like(lengths), lengths, int(lengths.max(initial=0)))


def _all_equal(owners: list[Path], batches: list[tuple[Batch, Spans]]) -> bool:
    return all(
        np.array_equal(_span(owner, *batch).is_real, _span(owners[0], *batch).is_real)
        for owner in owners[1:]
        for batch in batches
    )
