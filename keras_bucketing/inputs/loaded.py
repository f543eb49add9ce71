"""One leaf of variable-length rows that are not in memory: their lengths are known, a function loads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_bucketing.checks import check_integer, check_lengths, show, show_typed
from keras_bucketing.inputs.loader import LoadedLeaf, Loader, loaded_leaves_of
from keras_bucketing.inputs.ragged import Ragged
from keras_bucketing.inputs.structures import Structure


@dataclass(frozen=True, kw_only=True)
class Loaded(Ragged):
    """Rows whose values are elsewhere: `values` has no timestep and says the dtype and the features.

    Whatever is done to them before a batch asks for them is done to their lengths; the values follow when they are
    loaded.

    Attributes:
        loader: Loads the rows.
        leaf: Which of the loader's sequences this is.
        rows: Int64 array `(num_rows,)`: the row index that the loader knows each row by.
        announced: Int64 array `(num_rows,)`: the timesteps that the loader is to return.
        truncating: At which end a row is cut that is longer than `lengths` says.
    """

    loader: Loader
    leaf: LoadedLeaf
    rows: np.ndarray
    announced: np.ndarray
    truncating: str = "post"

    def truncate(self, maxlen: int, truncating: str) -> Loaded:
        """Cuts every row to `maxlen` timesteps, at its end ("post") or at its beginning ("pre")."""
        return replace(self, sizes=np.minimum(self.sizes, maxlen), truncating=truncating)

    def select(self, keep: np.ndarray) -> Loaded:
        """The rows where the boolean array `keep` is True."""
        starts, sizes = self.starts[keep], self.sizes[keep]
        return replace(self, starts=starts, sizes=sizes, rows=self.rows[keep], announced=self.announced[keep])

    def refuse_estimates(self, labels: str) -> None:
        """Refuses labels of each timestep where the number of timesteps is an estimate.

        Args:
            labels: What to call them in an error message.

        Raises:
            ValueError: If the lengths have a tolerance.
        """
        if self.loader.length_tolerance:
            raise ValueError(
                f"`{labels}` holds one label a timestep, which needs exact lengths. Received length_tolerance="
                f"{self.loader.length_tolerance}. Pass exact lengths, or align_labels=False."
            )


def loaded_sequences(
    load: Callable[[int], Any], lengths: Any, output_signature: Any, length_tolerance: Any, num_parallel_loads: Any
) -> Structure:
    """The leaves that a function loads, in the structure of the signature; arguments as in `from_loader`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If lengths and signature do not fit together.
    """
    if not callable(load):
        raise TypeError(
            "`load` must be a function from a row index to a sequence. Received "
            f"{show_typed(load)}. Sequences in memory belong in BucketedSequence itself."
        )
    leaves = loaded_leaves_of(output_signature)
    tolerance = check_integer("length_tolerance", length_tolerance, minimum=0)
    if num_parallel_loads is None:
        # What ThreadPoolExecutor takes by itself: some threads wait for the disk while others decode.
        num_parallel_loads = min(32, (os.cpu_count() or 1) + 4)
    loader = Loader(load, tuple(leaves), tolerance, check_integer("num_parallel_loads", num_parallel_loads))
    parts = [_loaded(loader, leaf, _lengths_of(lengths, leaf, output_signature)) for leaf in leaves]
    if isinstance(output_signature, dict):
        return {leaf.key: part for leaf, part in zip(leaves, parts, strict=True)}
    return tuple(parts) if isinstance(output_signature, tuple) else parts[0]


def _loaded(loader: Loader, leaf: LoadedLeaf, lengths: np.ndarray) -> Loaded:
    return Loaded(
        np.empty((0, *leaf.feature_shape), leaf.dtype),
        np.zeros(len(lengths), np.int64),
        lengths,
        np.dtype(leaf.dtype),
        loader=loader,
        leaf=leaf,
        rows=np.arange(len(lengths)),
        announced=lengths,
    )


def _lengths_of(lengths: Any, leaf: LoadedLeaf, output_signature: Any) -> np.ndarray:
    """The lengths of one leaf, out of the structure that the signature has."""
    if leaf.key is not None:
        same_keys = isinstance(lengths, dict) and lengths.keys() == output_signature.keys()
        if isinstance(output_signature, tuple):
            same_keys = isinstance(lengths, tuple) and len(lengths) == len(output_signature)
        if not same_keys:
            expected = "tuple" if isinstance(output_signature, tuple) else "dict"
            raise ValueError(
                f"`lengths` must have the structure of `output_signature`. Expected a {expected} with lengths for each "
                f"of {show(list(output_signature))}, received {show_typed(lengths)}."
            )
        lengths = lengths[leaf.key]
    return check_lengths(lengths, f"lengths{leaf.suffix}", minimum=0)
