"""Evidence from the batches of a monitored dataset about their padding, and the errors for contradictions.

`graph.measure_rows` counts it batch by batch, in graph; the counts of a pass are added up, and judged here by the rules
of `batches.Unpadder`.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import show
from keras_bucketing.data.tree import Path
from keras_bucketing.unpadding.entries import EntryTable, leaf_name, unclear_longest, unclear_rivals
from keras_bucketing.unpadding.pairs import NUM_COUNTS, PairOfLeaves, owners_of
from keras_bucketing.unpadding.sides import SideOfRuns
from keras_bucketing.unpadding.spans import Side, show_mask_value

COUNTS = NUM_COUNTS + 1  # the most that is counted of anything


class Evidence:
    """What is counted: of each leaf, each pair of leaves, each mask, each leaf of several masks, and all lengths.

    Args:
        paths: The leaves of `x` that are sequences, without the "x" that their paths begin with elsewhere.
        table: What tells their lengths.
        is_named: Whether the caller has named the sequences, so that each shows its own padding.

    Attributes:
        pairs: Leaves, by their indices, whose values tell where they stop.
        masked: Leaves with their masks.
        rivals: Leaves with all masks that may be theirs.
        lengths: Leaves with the entries of their lengths.
        measured_by_values: All leaves whose values are looked at.
        num_counted: How many rows of counts there are.
    """

    def __init__(self, paths: list[Path], table: EntryTable, is_named: bool):
        self.paths, self.table, self._is_named = paths, table, is_named
        in_x = [("x", *path) for path in paths]
        by_values = [index for index, path in enumerate(in_x) if not table.tells(path)]
        self.pairs = [] if is_named else list(combinations(by_values, 2))
        self.masked = [
            (index, table.masks[path]) for index, path in enumerate(in_x) if table.masks.get(path, path) != path
        ]
        self.rivals = [
            (index, found)
            for index, path in enumerate(in_x)
            if len(found := table.rivals.get(path, [])) > 1 and path not in found and not is_named
        ]
        lengths = {**table.longest, **table.lengths}
        self.lengths = [(index, lengths[path]) for index, path in enumerate(in_x) if path in lengths]
        told_by_longest = {index for index, path in enumerate(in_x) if path in table.longest}
        self.measured_by_values = {*by_values, *told_by_longest}
        self.num_counted = len(paths) + len(self.pairs) + len(self.masked) + len(self.rivals) + len(self.lengths)

    def beside(self, index: int) -> list[int]:
        """The other leaves that "lengths" may be the lengths of."""
        if self._is_named:
            return []
        told = [other for other, path in enumerate(self.paths) if self.table.tells(("x", *path))]
        return [other for other in told if other != index and not self.table.is_mask(("x", *self.paths[other]))]

    def judge(
        self,
        counts: NDArray[np.int64],
        names: list[str],
        mask_value: Any,
        padding: Side | None,
        unnoticed: Collection[int] = (),
    ) -> list[int]:
        """For each leaf the one whose lengths are its own: itself, or another that it is padded like.

        Args:
            counts: What was counted of a pass, `(num_counted, COUNTS)`.
            names: What messages call the leaves.
            mask_value: What padding holds.
            padding: The end that is said to be padded, or None.
            unnoticed: Leaves whose padding holds something else, which say nothing about others.

        Raises:
            ValueError: If it is not certain what the lengths are.
        """
        rows = iter(counts.tolist())
        runs = [next(rows) for _ in self.paths]
        owners = self._owners([next(rows) for _ in self.pairs], mask_value, unnoticed)
        for index, (ends, begins, ending, beginning, *_) in enumerate(runs):
            evidence = SideOfRuns(names[index], mask_value, padding)
            evidence.add_counts({"post": ends, "pre": begins}, {"post": ending, "pre": beginning})
            if owners[index] == index:
                evidence.decide()
        for index, mask in self.masked:
            self._check_mask(names[index], mask, next(rows), padding)
        for index, masks in self.rivals:
            if next(rows)[0]:
                raise unclear_rivals(("x", *self.paths[index]), masks)
        for index, at in self.lengths:
            negative, unclear, *beyond = next(rows)[:6]
            self._check_lengths(("x", *self.paths[index]), at, negative, unclear)
            self._check_cut(names[index], at, beyond, mask_value, padding)
        return owners

    @staticmethod
    def _check_lengths(path: Path, at: Path, negative: int, unclear: int) -> None:
        if negative:
            raise ValueError(
                f"`{leaf_name(at)}` must be at least 0. Received {negative} rows with less. Correct it, or rename the "
                "entry if it is not a length."
            )
        if unclear:
            raise unclear_longest(path, at, f"{unclear} rows in which the two differ")

    @staticmethod
    def _check_cut(name: str, at: Path, counts: list[int], mask_value: Any, padding: Side | None) -> None:
        """Checks that rows whose lengths say that they were cut have no padding, as `batches.Unpadder` does."""
        ending, beginning, *contradictions = counts
        side = padding or ("pre" if beginning > ending else "post")
        if contradictions[side == "pre"]:
            where = "end" if side == "post" else "begin"
            raise ValueError(
                f"`{leaf_name(at)}` must not exceed the padded length where a row has padding. Received "
                f"{contradictions[side == 'pre']} such rows of `{name}`, which {where} in "
                f"mask_value={show_mask_value(mask_value)}. Correct the lengths."
            )

    def _owners(self, counts: list[list[int]], mask_value: Any, unnoticed: Collection[int]) -> list[int]:
        pairs = []
        for (one, other), (*differences, unlike) in zip(self.pairs, counts, strict=True):
            if one in unnoticed or other in unnoticed:
                continue
            pair = PairOfLeaves(("x", *self.paths[one]), ("x", *self.paths[other]))
            pair.add_counts(differences, bool(unlike))
            pairs.append(pair)
        in_x = [("x", *path) for path in self.paths]
        owners = owners_of(in_x, pairs, mask_value)
        return [in_x.index(owners[path]) for path in in_x]

    def _check_mask(self, name: str, mask: Path, counts: list[int], padding: Side | None) -> None:
        """Refuses a mask that is no mask, or not that of its leaf."""
        gaps, ends, begins, other_numbers, unlike, mismatch = counts[:6]
        label = leaf_name(mask)
        if other_numbers or unlike:
            raise ValueError(
                f"`{label}` must be a mask of `{name}`, 0 or 1 at each timestep, and of its padded length. Received "
                "another length, or other values. Rename the entry if it is data."
            )
        if gaps or (ends and begins):
            received = f"{gaps} rows with gaps or padding at both ends" if gaps else "padding at either end"
            raise ValueError(
                f"`{label}` must be True in one run, at the same end of each row. Received {received}. Take out the "
                "timesteps that are not real; rename an entry that is data."
            )
        side = "post" if ends else "pre" if begins else None
        if side is not None and padding not in (None, side):
            raise ValueError(
                f"`padding` must be the end that is padded. Expected {show(side)}, as the mask `{label}` has it, "
                f"received {show(padding)}. Leave it out."
            )
        if mismatch:
            raise ValueError(
                f"`{label}` and the lengths of `{name}` must tell the same lengths. Received {mismatch} rows in which "
                "they differ. Leave one of the two out."
            )
