"""Which batches to measure: real rows, a few lengths times a few sizes. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_LENGTHS = 4  # from short to the longest, each so many times the one before
_SIZES = 3  # the same from the least rows to the most
_SHORT = 0.05  # the share of the sequences that are shorter than the shortest batch


class ProbeBatch(NamedTuple):
    """A batch to measure.

    Attributes:
        rows: Int array: positions in the lengths.
        padded_length: Int, the longest of them, in timesteps.
    """

    rows: np.ndarray
    padded_length: int

    @property
    def cells(self) -> int:
        """Int, rows x padded length."""
        return len(self.rows) * self.padded_length


def probe_batches(
    lengths: np.ndarray, min_rows: int, max_rows: int, multiple: int = 1, max_cells: int | None = None
) -> list[ProbeBatch]:
    """Chooses batches that span what could be proposed, the one with the fewest cells first.

    Each takes neighbors in the order of the lengths, as the batches of a bucket do.

    Args:
        lengths: Int array `(num_sequences,)`, increasing, in timesteps.
        min_rows: Int, a multiple of `multiple`.
        max_rows: Int, a multiple of `multiple`, not more than there are sequences.
        multiple: Int. Every batch has a multiple of it.
        max_cells: Int, the most cells of a batch, or None. Longer batches have fewer rows, `multiple` at least.

    Example:
        >>> lengths = np.arange(1, 101)
        >>> batches = probe_batches(lengths, min_rows=2, max_rows=8)
        >>> [(len(batch.rows), batch.padded_length) for batch in batches[:5]]
        [(2, 6), (4, 6), (2, 16), (8, 8), (4, 16)]
    """
    shortest = int(lengths[int(_SHORT * len(lengths))])
    # Rounded up to whole timesteps, and to the next length that there is.
    padded_lengths = np.ceil(np.geomspace(shortest, int(lengths[-1]), _LENGTHS) - 1e-9)
    ends = np.searchsorted(lengths, padded_lengths, side="right")
    sizes = np.rint(np.geomspace(min_rows, max_rows, _SIZES) / multiple).astype(np.int64) * multiple
    chosen = {}
    for end in ends.tolist():
        for size in sizes.tolist():
            rows = size
            if max_cells is not None:
                rows = max(min(size, max_cells // int(lengths[max(end, size) - 1]) // multiple * multiple), multiple)
            stop = max(end, rows)
            chosen[stop, rows] = ProbeBatch(np.arange(stop - rows, stop), int(lengths[stop - 1]))
    return sorted(chosen.values(), key=lambda batch: (batch.cells, batch.padded_length))
