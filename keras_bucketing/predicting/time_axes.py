"""Finds the axes of an output that grow with the padding of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_bucketing.data import tree
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.predicting.output_lengths import Sequences

Array = NDArray[Any]

# Strides of some timesteps show in so many more of them, or in twice as many.
_MANY_TIMESTEPS = 8


def axis_that_grew(growth: int, growths: Sequence[int]) -> int | None:
    """The time axis that has grown by as much as an axis of an output has, or None.

    Example:
        >>> axis_that_grew(2, [1, 2]), axis_that_grew(4, [1, 2])
        (1, None)
    """
    return next((axis for axis, of_axis in enumerate(growths) if of_axis and of_axis == growth), None)


class GrowingAxes(dict[int, int | None]):
    """The axes of one output that grow with padding, from axis 1 on, each with the sequence that it is as long as.

    None means that an axis grows but is as long as no sequence: with strides, or in a longer or shorter output.
    """


def find_growing_axes(
    run: Callable[[Any], Any], x: Any, outputs: list[Array], sequences: Sequences
) -> list[GrowingAxes] | None:
    """Pads a batch by one more timestep, and finds the axes of each output that grow with it.

    The sequences grow by one, two, three timesteps, so the growth of an axis tells which one it follows; sequences with
    equal lengths in every row grow alike, as a model may need it. If a model takes no more timesteps, e.g. with a fixed
    number of positions, the rows are cut instead.

    Args:
        run: Runs the model on the `x` of a batch.
        x: The `x` of the batch.
        outputs: The outputs of the model for it.
        sequences: The sequences in `x`.

    Returns:
        The axes of each output; None if the model takes neither more nor fewer timesteps.
    """
    groups = _equal_lengths(sequences.lengths)
    for sign in (1, -1):
        growths = [sign * (group + 1) for group in groups]
        others = _run_resized(run, x, growths, sequences)
        if others is not None:
            found = [_growing(*pair, x, growths, sequences) for pair in zip(outputs, others, strict=True)]
            return _with_strides(found, run, x, outputs, sequences) if sign > 0 else found
    return None


def _equal_lengths(lengths: list[Lengths]) -> list[int]:
    """The number of the group of each sequence: one for all that have the same lengths."""
    distinct: list[Lengths] = []
    groups = []
    for own in lengths:
        known = next((group for group, other in enumerate(distinct) if np.array_equal(own, other)), None)
        if known is None:
            known = len(distinct)
            distinct.append(own)
        groups.append(known)
    return groups


def _growing(output: Array, other: Array, x: Any, growths: list[int], sequences: Sequences) -> GrowingAxes:
    axes = GrowingAxes()
    padded = [leaf.shape[1] for leaf in leaves_at(x, sequences)]
    for axis, (size, size_of_other) in enumerate(zip(output.shape[1:], other.shape[1:], strict=False), start=1):
        if size != size_of_other:
            sequence = axis_that_grew(size_of_other - size, growths)
            axes[axis] = sequence if sequence is not None and size == padded[sequence] else None
    return axes


def _with_strides(
    found: list[GrowingAxes], run: Callable[[Any], Any], x: Any, outputs: list[Array], sequences: Sequences
) -> list[GrowingAxes]:
    """Adds the axes that grow with many timesteps only, unless the longest rows show them anyway."""
    padded = [leaf.shape[1] for leaf in leaves_at(x, sequences)]
    growths = [max(_MANY_TIMESTEPS, size) for size in padded]
    pairs = zip(sequences.lengths, padded, growths, strict=True)
    are_shown = all(int(lengths.max()) >= size + growth for lengths, size, growth in pairs)
    if are_shown or not any(output.ndim > 1 and not axes for output, axes in zip(outputs, found, strict=True)):
        return found
    others = _run_resized(run, x, growths, sequences)
    if others is not None:
        for axes, output, other in zip(found, outputs, others, strict=True):
            for axis in _growing(output, other, x, growths, sequences):
                axes.setdefault(axis, None)
    return found


def _run_resized(run: Callable[[Any], Any], x: Any, growths: list[int], sequences: Sequences) -> list[Array] | None:
    """The outputs for a batch whose sequences are padded, or cut, by some timesteps; None if the model fails."""
    by_path = dict(zip(sequences.paths, growths, strict=True))

    def resize(path: tree.Path, leaf: Array) -> Array:
        growth = by_path.get(path, 0)
        if growth <= 0:
            return leaf[:, :growth] if growth else leaf
        padding = np.asarray(sequences.padding_value, leaf.dtype)
        return np.concatenate([leaf, np.broadcast_to(padding, (len(leaf), growth, *leaf.shape[2:]))], axis=1)

    if any(leaf.shape[1] + growth < 1 for leaf, growth in zip(leaves_at(x, sequences), growths, strict=True)):
        return None
    try:
        return [np.asarray(output) for output in keras.tree.flatten(run(tree.map_leaves(resize, x)))]
    except Exception:  # positions that end, inputs of a fixed size
        return None


def leaves_at(x: Any, sequences: Sequences) -> list[Array]:
    """The sequences of the `x` of a batch."""
    leaves = dict(tree.leaves(x))
    return [leaves[path] for path in sequences.paths]
