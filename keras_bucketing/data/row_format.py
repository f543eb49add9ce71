"""The format of the rows of a stream, and a window of them as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_bucketing.data.tree import Path, Structure, leaves, name_of


class WindowLeaf(NamedTuple):
    """One sequence per row: row i is `values[starts[i] : starts[i] + sizes[i]]`.

    Attributes:
        values: Tensor `(num_values, *feature_shape)`.
        starts: Int64 `(num_rows,)`.
        sizes: Int32 `(num_rows,)`, in timesteps.
    """

    values: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor


Leaves = tuple[Any, ...]  # a `WindowLeaf` or a tensor `(num_rows, ...)` for each leaf, in the order of `RowFormat`


@dataclass(frozen=True)
class LeafFormat:
    """The format of one leaf of a row.

    Attributes:
        path: Its path, which begins with "x", "y" or "sample_weight".
        is_sequence: Whether it has a time axis.
        dtype: The dtype of batches.
        shape: The shape of a timestep, or of the value of a row.
    """

    path: Path
    is_sequence: bool
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in messages."""
        return name_of(str(self.path[0]), self.path[1:])


@dataclass(frozen=True)
class RowFormat:
    """The format of the rows of a stream.

    Attributes:
        structure: `(x, y, sample_weight)`, with a `LeafFormat` at each leaf.
        label_owners: For each leaf of `y` with one label per timestep, its leaf of `x`: by their paths.
        weight_owners: For each leaf of `sample_weight` with one weight per timestep, its leaf of `y`.
        own_labels: The leaves of `y` with lengths of their own.
    """

    structure: tuple[Structure, Structure, Structure]
    label_owners: dict[Path, Path]
    weight_owners: dict[Path, Path]
    own_labels: tuple[Path, ...]

    @property
    def leaves(self) -> list[LeafFormat]:
        """All leaves, in the order of `tree.leaves`."""
        return [leaf for _, leaf in leaves(self.structure)]

    def leaf(self, path: Path) -> LeafFormat:
        """The leaf of that path."""
        return next(leaf for leaf in self.leaves if leaf.path == path)

    @property
    def sequences(self) -> list[LeafFormat]:
        """The leaves of `x` that have a time axis."""
        return [leaf for leaf in self.leaves if leaf.path[0] == "x" and leaf.is_sequence]

    @property
    def padded(self) -> list[LeafFormat]:
        """The leaves that are padded separately: the columns of a cut."""
        return [leaf for leaf in self.leaves if leaf in self.sequences or leaf.path in self.own_labels]

    def is_truncated(self, leaf: LeafFormat) -> bool:
        """Whether `maxlen` applies to a leaf: sequences, and leaves with one value for each of their timesteps."""
        owner = self.weight_owners.get(leaf.path, leaf.path)
        return leaf.is_sequence and owner not in self.own_labels

    def column_of(self, leaf: LeafFormat) -> int:
        """The column of a leaf, or that of the leaf that it is padded like."""
        owner = self.weight_owners.get(leaf.path, leaf.path)
        owner = self.label_owners.get(owner, owner)
        return [padded.path for padded in self.padded].index(owner)
