"""Labels and weights of padded batches: which sequences they belong to, and where they end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from keras_bucketing.data.tree import Path
from keras_bucketing.unpadding.batches import Batch, BatchOptions, Spans
from keras_bucketing.unpadding.entries import leaf_name
from keras_bucketing.unpadding.labels import LabelPadding, OwnLengths, labels_beyond, span_of_weights
from keras_bucketing.unpadding.spans import Span


class PaddedLabels:
    """Finds the leaf of `x` whose lengths the padded labels have.

    Args:
        padded: Paths of the padded leaves of `y` and `sample_weight`.
        candidates: Paths of the leaves of `x` that they may belong to.
        options: What the caller said.
        lengths: The paths of the lengths of labels that have their own.
        is_weighted: Whether there is a sample weight of each timestep.
    """

    def __init__(
        self,
        padded: list[Path],
        candidates: list[Path],
        options: BatchOptions,
        lengths: Mapping[Path, Path],
        is_weighted: bool,
    ):
        self._padded, self._candidates = padded, candidates
        self._owners: dict[Path, list[Path]] = {}  # those that fit all batches so far; the first one is used
        self._own = {path: OwnLengths(path, options.label_mask_value, options.padding) for path in padded}
        self._own_lengths = lengths
        self._own_spans: dict[Path, Span] = {}  # of the labels of a batch
        self._options = options
        self.padding = LabelPadding(is_weighted)

    def align(self, batches: list[tuple[Batch, Spans]]) -> None:
        """Chooses the leaf of `x` for each of the labels, by what the first batches look like.

        Args:
            batches: The leaves, and what is real in the padded ones of `x`.

        Raises:
            ValueError: If there is none, or none is certain.
        """
        for path in self._padded:
            if path in self._own_lengths or not self._options.labels_align:
                continue
            fitting = self._fitting(path, batches)
            if fitting and _all_equal(fitting, batches):
                self._owners[path] = fitting
            else:
                raise self._unclear(path, bool(fitting), np.shape(batches[0][0][path]))

    def _unclear(self, path: Path, are_several: bool, shape: tuple[int, ...]) -> ValueError:
        return ValueError(
            f"`{leaf_name(path)}` seems to be padded, but its timesteps may belong to "
            f"{'several leaves' if are_several else 'no leaf'} of `x`. Received shape {shape} in element 0. Pass "
            "timestep_labels=False if it holds values of a row, align_labels=False if it has lengths of its own, as "
            "transcripts and translations do, or single sequences instead of padded batches."
        )

    def _fitting(self, path: Path, batches: list[tuple[Batch, Spans]]) -> list[Path]:
        """The leaves of `x` of the labels' shape; of unlike ones, those beyond whose ends the labels are constant."""
        fitting = [
            owner
            for owner in self._candidates
            if all(_shape(_span(owner, *batch)) == np.shape(batch[0][path])[:2] for batch in batches)
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
        if path not in self._owners:
            return self._own_span(path, batch, first_row)
        if len(self._owners[path]) > 1 and not _all_equal(self._owners[path], [(batch, spans)]):
            used, fitting = self._owners[path], self._fitting_of(path, batch, spans)
            if not fitting or not _all_equal(fitting, [(batch, spans)]) or used[0] not in fitting:
                raise self._unclear(path, True, np.shape(batch[path]))
            self._owners[path] = fitting
        owner = self._owners[path][0]
        span = _span(owner, batch, spans)
        if batch[path].shape[1] != span.time:
            return span
        if not span.leaves_a_constant(batch[path]):
            raise labels_beyond(leaf_name(path), leaf_name(owner), f", in the batch at row {first_row}")
        self.padding.add(path, batch[path], span, batch[owner] if owner in spans else None)
        return span

    def _own_span(self, path: Path, batch: Batch, first_row: int) -> Span:
        if path[0] != "y":
            span = span_of_weights(path, batch[path], self._own_spans)
            if span is not None:
                return span
        at = self._own_lengths.get(path)
        lengths = None if at is None else batch[at]
        span = self._own_spans[path] = self._own[path].span(batch[path], lengths, first_row)
        return span

    def _fitting_of(self, path: Path, batch: Batch, spans: Spans) -> list[Path]:
        return [owner for owner in self._owners[path] if _span(owner, batch, spans).leaves_a_constant(batch[path])]

    def finish(self) -> list[str]:
        """Checks what only all batches show, and returns warnings of padding that was not noticed.

        Raises:
            ValueError: If labels were sliced after padding.
        """
        self.padding.check()
        return [message for own in self._own.values() if (message := own.message()) is not None]


def _span(owner: Path, batch: Batch, spans: Spans) -> Span:
    if owner in spans:
        return spans[owner]
    leaf = batch[owner]
    lengths = leaf.row_lengths().numpy() if isinstance(leaf, tf.RaggedTensor) else np.array([len(row) for row in leaf])
    return Span(np.zeros_like(lengths), lengths, int(lengths.max(initial=0)))


def _shape(span: Span) -> tuple[int, int]:
    return len(span.start), span.time


def _all_equal(owners: list[Path], batches: list[tuple[Batch, Spans]]) -> bool:
    return all(_span(owner, *batch).is_like(_span(owners[0], *batch)) for owner in owners[1:] for batch in batches)
