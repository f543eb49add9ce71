"""Labels and weights of `from_padded`: which of them hold one value a timestep, and those without their padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import UnclearError, ask_all
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import as_regular_array
from keras_bucketing.data.rows import rows_from_padded
from keras_bucketing.data.tree import Path, Structure
from keras_bucketing.unpadding.arrays import PaddedSequences, UnpaddedInputs, unpad_arrays
from keras_bucketing.unpadding.entries import leaf_name
from keras_bucketing.unpadding.labels import (
    LabelPadding,
    OwnLengths,
    are_all,
    check_label_padding,
    labels_beyond,
    span_of_weights,
)
from keras_bucketing.unpadding.spans import MaskValue, Side, Span, padding_of


def unpad_labels(
    y: Structure,
    sample_weight: Structure,
    unpadded: UnpaddedInputs,
    timestep_labels: bool | None,
    side: Any,
    options: Mapping[str, Any],
    align_labels: bool,
) -> tuple[Structure, Structure, Any]:
    """Labels and weights of `from_padded` without their padding, and what labels were padded with."""
    is_weighted = any(
        isinstance(leaf, tf.RaggedTensor) or len(np.shape(_first_of(leaf))) > 0
        for _, leaf in tree.leaves(sample_weight)
    )
    padding = LabelPadding(is_weighted or options.get("timestep_weights", True) is False)
    own_padding = None if align_labels else (check_label_padding(options.get("label_padding_value", 0)), side)
    own_spans: dict[Path, Span] = {}
    found = [
        labels_from_padded(
            labels,
            unpadded.padded,
            timestep_labels,
            name,
            padding=padding,
            own_lengths=unpadded.label_lengths,
            own_padding=own_padding,
            own_spans=own_spans,
        )
        for name, labels in (("y", y), ("sample_weight", sample_weight))
    ]
    padding.check()
    value = None if "label_padding_value" in options else padding.value()
    return found[0], found[1], value


def unpad_all(
    data: tuple[Structure, Structure, Structure],
    lengths: object,
    mask_value: object,
    padding: str | None,
    sequences: object,
    timestep_labels: bool | None,
    options: Mapping[str, Any],
    align_labels: bool,
) -> tuple[UnpaddedInputs, Structure, Structure, Any]:
    """What `from_padded` makes of `x`, `y` and `sample_weight`, and what labels were padded with.

    Raises:
        UnclearError: If arguments are needed that were not given, with all of them.
    """
    x, y, sample_weight = data

    def unpad(assumed: Mapping[str, Any]) -> tuple[UnpaddedInputs, Structure, Structure, Any]:
        side, of_timesteps = assumed.get("padding", padding), assumed.get("timestep_labels", timestep_labels)
        own = None if align_labels else y
        unpadded = unpad_arrays(x, lengths, mask_value, side, sequences, options.get("maxlen"), own)
        return unpadded, *unpad_labels(y, sample_weight, unpadded, of_timesteps, side, options, align_labels)

    try:
        return unpad({})
    except UnclearError as error:
        raise ask_all(error, {"padding": "post", "timestep_labels": True}, unpad) from None


def _first_of(leaf: Any) -> Any:
    """The first row of a leaf, a number where it has one value per row."""
    try:
        return leaf[0]
    except (TypeError, IndexError, KeyError):
        return 0


def labels_from_padded(
    labels: Structure,
    padded: list[PaddedSequences],
    timestep_labels: bool | None,
    root: str,
    *,
    padding: LabelPadding | None = None,
    own_lengths: Mapping[Path, np.ndarray] | None = None,
    own_padding: tuple[MaskValue, Side | None] | None = None,
    own_spans: dict[Path, Span] | None = None,
) -> Structure:
    """Makes those leaves ragged that hold one label per timestep: `(num_rows, time, ...)`, padded like the sequences.

    Args:
        labels: A leaf, or a dict or tuple of leaves.
        padded: The sequences of `x`.
        timestep_labels: Whether leaves of that shape hold one label per timestep. None: if they hold one constant
            behind the ends of the sequences, as padding is.
        root: Their name in an error message.
        padding: Collects the values that pad the labels.
        own_lengths: Lengths of labels that have their own, by path.
        own_padding: What the padding of such labels holds, and its end; None where labels are as long as sequences.
        own_spans: What is real of such labels, by path: those of `y` are put in, and weights take them out.

    Raises:
        ValueError: If a leaf has that shape but no padding, so that its second axis may be classes or outputs; or if it
            may belong to either of two entries of `x`.
    """
    noted = LabelPadding() if padding is None else padding
    lengths, of_labels = own_lengths or {}, {} if own_spans is None else own_spans

    def convert(path: Path, leaf: Any) -> Any:
        at, array = (root, *path), _regular(leaf)
        if array is not None and own_padding is not None and root != "y":
            span = span_of_weights(at, array, of_labels)
            if span is not None:
                return rows_from_padded(array, span.start, span.lengths)
        if array is None or (timestep_labels is False and at not in lengths):
            return leaf
        shape = array.shape[:2]
        labeled = [sequences for sequences in padded if sequences.array.shape[:2] == shape and not sequences.is_mask]
        if own_padding is not None and root == "y":
            span = of_labels[at] = OwnLengths(at, *own_padding).span(array, lengths.get(at), 0)
            return rows_from_padded(array, span.start, span.lengths)
        if not labeled:
            return leaf
        name = leaf_name(at)
        distinct = _distinct(labeled)
        fitting = [sequences for sequences in distinct if sequences.span.leaves_a_constant(array)]
        if timestep_labels is None and all((sequences.lengths == sequences.time).all() for sequences in fitting):
            raise _unclear(array, distinct, name)
        if not fitting:
            raise labels_beyond(name, distinct[0].name, "")
        sequences = _only_one(array, fitting, name)
        noted.add(at, array, sequences.span, sequences.array)
        return rows_from_padded(array, sequences.span.start, sequences.lengths)

    tree.check_structure(labels, root)
    return tree.map_leaves(convert, labels)


def _regular(leaf: Any) -> np.ndarray | None:
    """An array of two axes or more, also of nested lists; None for anything else."""
    if isinstance(leaf, (list, tuple)) and leaf and isinstance(leaf[0], (list, tuple, np.ndarray)):
        try:
            array = np.asarray(leaf)
        except ValueError:  # of uneven shape
            return None
        return array if array.ndim >= 2 and array.dtype.kind in "biuf" else None
    if isinstance(leaf, tf.RaggedTensor) or len(tuple(getattr(leaf, "shape", ()))) < 2:
        return None
    return as_regular_array(leaf, "labels", "Give every row the same shape.")


def _distinct(padded: list[PaddedSequences]) -> list[PaddedSequences]:
    """One for each padding, where entries of `x` are padded alike."""
    distinct: list[PaddedSequences] = []
    for sequences in padded:
        if not any(sequences.span.is_like(known.span) for known in distinct):
            distinct.append(sequences)
    return distinct


def _only_one(array: np.ndarray, fitting: list[PaddedSequences], name: str) -> PaddedSequences:
    """The only padding that fits; of several, the one that is followed to the last timestep."""
    if len(fitting) == 1:
        return fitting[0]
    exact = [sequences for sequences in fitting if _ends_with_data(array, sequences)]
    if len(exact) == 1:
        return exact[0]
    raise ValueError(
        f"`{name}` may hold one label per timestep of `{fitting[0].name}` or of `{fitting[1].name}`, which have the "
        f"same shape but other lengths. Received shape {array.shape}. Pass it without its padding, as a "
        "tf.RaggedTensor or a list of arrays, or timestep_labels=False if it holds one value per row."
    )


def _ends_with_data(array: np.ndarray, sequences: PaddedSequences) -> bool:
    """Whether the labels next to the padding are, in every row, other than the padding; so are all where none is."""
    padding = next((part for part in padding_of(array, sequences.span) if len(part)), None)
    rows = np.flatnonzero((sequences.lengths > 0) & (sequences.lengths < sequences.time))
    if padding is None:
        return True
    if not len(rows):
        return False
    last = sequences.span.stop[rows] - 1 if sequences.side == "post" else sequences.span.start[rows]
    return not are_all(array[rows, last], padding[0]).any()


def _unclear(array: np.ndarray, padded: list[PaddedSequences], name: str) -> UnclearError:
    time = array.shape[1]
    is_padded = any((sequences.lengths < time).any() for sequences in padded)
    return UnclearError(
        f"`{name}` may hold one label per timestep, or {time} values per row, as one-hot labels do: received shape "
        f"{array.shape} for sequences padded to {time}, {'without one' if is_padded else 'with no'} constant in the "
        "padding. Pass timestep_labels=True or timestep_labels=False.",
        "timestep_labels",
        f"timestep_labels=True if `{name}` holds one label per timestep, timestep_labels=False if it holds {time} "
        "values per row",
    )
