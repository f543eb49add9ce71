"""Labels and weights of timesteps in padded batches: which sequences they belong to, and where they end."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.streams.batch_layout import BatchOptions
from keras_bucketing.streams.unpadding import PaddedGroup, Span


class PaddedLabels:
    """Finds the leaf of `x` whose lengths the padded labels have.

    Args:
        names: The padded leaves of `y` and `sample_weight`.
        sequences: The leaves of `x` that are not padded.
        groups: Those that are.
        options: What the caller said.
        lengths: The leaf of `x` with the lengths of labels that have their own, or None.
    """

    def __init__(
        self,
        names: list[str],
        sequences: list[str],
        groups: list[PaddedGroup],
        options: BatchOptions,
        lengths: str | None,
    ):
        self._candidates = {name: [*sequences, *(group.names[0] for group in groups)] for name in names}
        self._owners: dict[str, str] = {}
        self._own = {name: PaddedGroup([name], lengths=lengths) for name in names}
        self._options = options
        self._label_options = BatchOptions(mask_value=options.label_mask_value, padding=options.padding or "post")

    def align(self, batches: list[tuple[dict[str, Any], dict[str, Span]]]) -> None:
        """Chooses the leaf of `x` for each of the labels, by what the first batches look like.

        Args:
            batches: The leaves by name, and what is real in the padded leaves of `x`.

        Raises:
            ValueError: If there is none, or none is certain.
        """
        for name, candidates in self._candidates.items():
            fitting = [
                owner
                for owner in candidates
                if all(_span(owner, *batch).is_real.shape == np.shape(batch[0][name])[:2] for batch in batches)
            ]
            if len(fitting) > 1 and not _all_equal(fitting, batches):
                fitting = [
                    owner
                    for owner in fitting
                    if all(_span(owner, *batch).leaves_a_constant(batch[0][name]) for batch in batches)
                ]
            if fitting and _all_equal(fitting, batches):
                self._owners[name] = fitting[0]
            elif fitting or self._options.labels_align:
                raise ValueError(
                    f"`{name}` seems to be padded, but {'several leaves' if fitting else 'no leaf'} of `x` may be what "
                    f"its timesteps belong to. Received shape {np.shape(batches[0][0][name])} in element 0. Pass "
                    "timestep_labels=False if it holds values of a row, align_labels=False if it has lengths of its "
                    "own, as transcripts and translations do, or single sequences instead of padded batches."
                )

    def span(self, name: str, leaves: dict[str, Any], spans: dict[str, Span], first_row: int) -> Span:
        """What is real in the labels of a batch.

        Raises:
            ValueError: If they hold something where their sequences have ended.
        """
        owner = self._owners.get(name)
        if owner is None:
            return self._own[name].span(leaves, self._label_options, first_row)
        span = _span(owner, leaves, spans)
        if leaves[name].shape[1] == span.time and not span.leaves_a_constant(leaves[name]):
            raise ValueError(
                f"`{name}` holds labels where `{owner}` is padded, in the batch at row {first_row}. Received more than "
                "one value there. If timesteps of x that look like padding are real, say what padding holds, "
                "mask_value=..., or add an entry 'lengths' to x; if these are values of a row, pass "
                "timestep_labels=False."
            )
        return span


def _span(owner: str, leaves: dict[str, Any], spans: dict[str, Span]) -> Span:
    if owner in spans:
        return spans[owner]
    leaf = leaves[owner]
    lengths = leaf.row_lengths().numpy() if isinstance(leaf, tf.RaggedTensor) else np.array([len(row) for row in leaf])
    return Span(np.zeros_like(lengths), lengths, int(lengths.max(initial=0)))


def _all_equal(owners: list[str], batches: list[tuple[dict[str, Any], dict[str, Span]]]) -> bool:
    return all(
        np.array_equal(_span(owner, *batch).is_real, _span(owners[0], *batch).is_real)
        for owner in owners[1:]
        for batch in batches
    )
