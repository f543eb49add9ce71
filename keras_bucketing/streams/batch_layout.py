"""Whether the elements of a stream are single rows or batches of them, and what each leaf of a batch holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from keras_bucketing.streams.element_specs import NAMES, LeafSpec, Triple, map_named, named_leaves


class Role(Enum):
    """What a leaf holds for each row."""

    VALUE = "one value a row"
    SEQUENCE = "one sequence a row, as long as it is"
    PADDED = "one sequence a row, padded to that of the longest in the batch"


@dataclass(frozen=True)
class BatchOptions:
    """What the caller says about the elements; None where it is to be found out.

    Attributes:
        batched: Whether an element is a batch.
        mask_value: Number that padding holds.
        padding: "post" or "pre", the end that is padded.
        timestep_labels: Whether labels with an axis of their own hold one label a timestep.
        labels_align: Whether per-timestep labels are as long as the sequences.
        label_mask_value: Number that the padding of labels holds whose lengths are their own.
    """

    batched: bool | None = None
    mask_value: float = 0
    padding: str | None = None
    timestep_labels: bool | None = None
    labels_align: bool = True
    label_mask_value: float = 0


def is_batched(spec: Triple) -> bool:
    """Finds out from the elements' shapes whether they are batches.

    A scalar leaf means single rows: a batch has one entry for each of its rows in every leaf. So does a lonely axis in
    every leaf of `x`, as a batch of sequences has two. A ragged leaf, or one whose second axis has no fixed size, means
    batches: models cannot be built for a varying number of features.

    Raises:
        ValueError: If neither is certain.
    """
    leaves = [leaf for name, part in zip(NAMES, spec, strict=True) for _, leaf in named_leaves(part, name) if leaf]
    in_x = [leaf for _, leaf in named_leaves(spec[0], "x")]
    sizes = {leaf.shape[0] for leaf in leaves if leaf.rank} - {None}
    if any(leaf.rank == 0 for leaf in leaves) or all(leaf.rank == 1 for leaf in in_x) or len(sizes) > 1:
        return False
    if any(leaf.ragged_rank or (leaf.rank > 1 and leaf.shape[1] is None) for leaf in in_x):
        return True
    raise unclear_elements(describe_shapes(spec))


def unclear_elements(received: str) -> ValueError:
    """The error where an element may be a row or a batch of rows."""
    return ValueError(
        "It is not clear whether an element of the dataset is one sequence or a batch of sequences. Received "
        f"{received}. Say which: batched=False if it is one sequence (time, features), batched=True if it is a "
        "batch (rows, time)."
    )


def describe_shapes(spec: Triple) -> str:
    """The shapes of all leaves, for an error message."""
    leaves = [
        f"{name} of shape ({', '.join('None' if size is None else str(size) for size in leaf.shape)})"
        for top, part in zip(NAMES, spec, strict=True)
        for name, leaf in named_leaves(part, top)
        if leaf
    ]
    return ", ".join(leaves[:8]) + (", ..." if len(leaves) > 8 else "")


def roles_in_rows(spec: Triple, timestep_labels: bool | None) -> Triple:
    """What each leaf of a single row holds: an axis of varying size is time, one of fixed size is one value a row."""
    x, y, weights = spec
    in_x = [leaf for _, leaf in named_leaves(x, "x")]
    has_time = any(leaf.rank and leaf.shape[0] is None for leaf in in_x)

    def of_input(_: str, leaf: LeafSpec) -> Role:
        is_sequence = leaf.rank > 0 and (leaf.shape[0] is None or not has_time)
        return Role.SEQUENCE if is_sequence else Role.VALUE

    def of_label(_: str, leaf: LeafSpec) -> Role:
        is_sequence = leaf.rank > 0 and (leaf.shape[0] is None or bool(timestep_labels))
        return Role.SEQUENCE if is_sequence else Role.VALUE

    return map_named(x, "x", of_input), map_named(y, "y", of_label), map_named(weights, "sample_weight", of_label)


def roles_in_batches(spec: Triple, timestep_labels: bool | None) -> Triple:
    """What each leaf of a batch holds for its rows.

    Raises:
        ValueError: If an axis may be time or something else.
    """
    x, y, weights = spec
    in_x = dict(named_leaves(x, "x"))
    _refuse_scalars(spec)
    times = {name: leaf.shape[1] for name, leaf in in_x.items() if leaf.rank > 1 and not leaf.ragged_rank}
    has_time = any(leaf.ragged_rank for leaf in in_x.values()) or None in times.values()
    if not has_time and len(set(times.values())) > 1:
        raise ValueError(
            "It is not clear which entries of `x` hold the sequences: none of them has a second axis of varying size. "
            f"Received {describe_shapes((x, None, None))}. Yield single sequences instead of batches, e.g. with "
            "dataset.unbatch(), or only the entries that are sequences, beside those of one axis."
        )

    def of_input(_: str, leaf: LeafSpec) -> Role:
        if leaf.ragged_rank:
            return Role.SEQUENCE
        return Role.PADDED if leaf.rank > 1 and (leaf.shape[1] is None or not has_time) else Role.VALUE

    padded = {times[name] for name, leaf in in_x.items() if of_input(name, leaf) is Role.PADDED}

    def of_label(name: str, leaf: LeafSpec) -> Role:
        if leaf.ragged_rank:
            return Role.SEQUENCE
        if leaf.rank < 2 or timestep_labels is False:
            return Role.VALUE
        if timestep_labels or leaf.shape[1] is None:
            return Role.PADDED
        if leaf.shape[1] in padded:
            raise ValueError(
                f"`{name}` may hold one label a timestep, or {leaf.shape[1]} values a row, as one-hot labels do. "
                f"Received {describe_shapes(spec)}. Say which it is: timestep_labels=True or timestep_labels=False."
            )
        return Role.VALUE

    return map_named(x, "x", of_input), map_named(y, "y", of_label), map_named(weights, "sample_weight", of_label)


def _refuse_scalars(spec: Triple) -> None:
    for top, part in zip(NAMES, spec, strict=True):
        for name, leaf in named_leaves(part, top):
            if leaf and not leaf.rank:
                raise ValueError(
                    f"`{name}` must have one entry for each row of a batch. Received a scalar. Pass batched=False if "
                    "an element is one row."
                )


def looks_like_batches(spec: Triple, num_elements: int) -> bool:
    """Whether elements that are to be single rows share one first axis in all leaves of all of them, as batches do."""
    leaves: list[Any] = [
        leaf for name, part in zip(NAMES, spec, strict=True) for _, leaf in named_leaves(part, name) if leaf
    ]
    in_x = [leaf for _, leaf in named_leaves(spec[0], "x")]
    sizes = {leaf.shape[0] if leaf.rank else None for leaf in leaves}
    return num_elements > 1 and None not in sizes and len(sizes) == 1 and any(leaf.rank > 1 for leaf in in_x)


def looks_like_rows(spec: Triple, seen: Triple, num_elements: int) -> bool:
    """Whether elements that are to be batches look like single sequences of vectors.

    They are to be batches for the unknown size of their second axis; if that is one and the same in all of them while
    the first one varies, they are probably not.

    Args:
        spec: The shapes that were declared.
        seen: Those of the elements that were read, without the last one, which may be a partial batch.
        num_elements: How many there are in `seen`.
    """
    leaves = zip(named_leaves(spec[0], "x"), named_leaves(seen[0], "x"), strict=True)
    unknown = [leaf for (_, known), (_, leaf) in leaves if known.rank > 1 and known.shape[1] is None]
    return num_elements > 1 and bool(unknown) and all(leaf.shape[0] is None and leaf.shape[1] for leaf in unknown)
