"""Labels and weights against the sequences they belong to."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_bucketing.inputs.leaf_lengths import LeafLengths
from keras_bucketing.inputs.loaded import Loaded
from keras_bucketing.inputs.ragged import Ragged
from keras_bucketing.inputs.structures import Leaf, Structure, describe, named_leaves


def align(leaf: Leaf, name: str, sequences: list[tuple[str, Ragged]]) -> Leaf:
    """Per-timestep labels, as long as the sequences of one leaf of `x`; or one array of as many values for each row.

    Args:
        leaf: The labels. A list of lists is `Ragged`, whether these hold one label a timestep or, as multi-hot labels
            do, one for each class.
        name: What to call them in an error message.
        sequences: The ragged leaves of `x` with their names, at least one.

    Raises:
        ValueError: If the labels have lengths of their own.
    """
    if not isinstance(leaf, Ragged):
        return leaf
    for _, sequence in sequences:
        if np.array_equal(leaf.lengths, sequence.lengths):
            if isinstance(sequence, Loaded):
                sequence.refuse_estimates(name)
            return leaf
    width = int(leaf.lengths[0])
    if width and (leaf.lengths == width).all():
        return leaf.values.reshape(leaf.num_rows, width, *leaf.values.shape[1:])
    x_name, sequence = sequences[0]
    at = int(np.argmax(leaf.lengths != sequence.lengths))
    raise ValueError(
        f"`{name}` is ragged, so it must hold one label a timestep. Expected {int(sequence.lengths[at])} as in "
        f"{x_name}[{at}], received {int(leaf.lengths[at])} at {name}[{at}]. Pass align_labels=False for labels of "
        "their own length, such as transcripts and translations."
    )


def labeled_leaf(label: Ragged, leaves: list[LeafLengths]) -> int:
    """The index of the leaf of `x` that per-timestep labels belong to, and are padded like.

    An empty row of that leaf may have got one timestep of padding, its label has not.
    """
    lengths = np.maximum(label.lengths, 1)
    return next(
        index
        for index, leaf in enumerate(leaves)
        if not leaf.is_label and np.array_equal(np.maximum(leaf.lengths, 1), lengths)
    )


def check_weights(y: Structure, weights: Structure) -> None:
    """Weights come one a row, or one a timestep where the labels do; once for all outputs, or for each."""
    if weights is None:
        return
    if y is None:
        raise ValueError("`sample_weight` needs labels. Received sample_weight without y. Pass y as well.")
    is_structure = isinstance(weights, (dict, tuple))
    try:
        if is_structure or isinstance(weights, Ragged):
            tf.nest.assert_same_structure(y, weights)
    except (ValueError, TypeError):
        raise ValueError(
            f"`sample_weight` must be one array or have the structure of `y`. Expected {describe(y)}, received "
            f"{describe(weights)}."
        ) from None
    labels = named_leaves(y, "y")
    for (name, weight), (y_name, label) in zip(named_leaves(weights, "sample_weight"), labels, strict=is_structure):
        if isinstance(weight, Ragged):
            _check_timestep_weights(name, weight, y_name, label)
        elif weight.ndim != 1:
            raise ValueError(
                f"`{name}` must have one weight a row. Expected shape ({len(weight)},), received {weight.shape}."
            )


def _check_timestep_weights(name: str, weight: Ragged, y_name: str, label: Leaf) -> None:
    if not isinstance(label, Ragged):
        raise ValueError(
            f"`{name}` has one weight a timestep, but `{y_name}` has one label a row. Pass one weight a row."
        )
    different = np.flatnonzero(weight.lengths != label.lengths)
    if different.size:
        at = int(different[0])
        raise ValueError(
            f"`{name}` must have one weight a timestep. Expected {int(label.lengths[at])} as in {y_name}[{at}], "
            f"received {int(weight.lengths[at])} at {name}[{at}]."
        )
