"""Whether elements are single rows or batches of them, and what each leaf holds: by shapes alone."""

from __future__ import annotations

from enum import Enum

from keras_bucketing.checks import UnclearError, show
from keras_bucketing.data.tree import Path
from keras_bucketing.streams.elements import (
    LeafSpec,
    Specs,
    common_specs,
    describe_shapes,
    inputs_of,
    kind_of_dtype,
    scalar_in_batch,
)
from keras_bucketing.unpadding.entries import EntryKind, leaf_name, read_table, refuse_columns_of_lengths


class Role(Enum):
    """What a leaf holds for each row."""

    VALUE = "one value per row"
    SEQUENCE = "one sequence per row, as long as it is"
    PADDED = "one sequence per row, padded to that of the longest in the batch"


Roles = dict[Path, Role]


def is_batched(specs: Specs) -> bool:
    """Finds out from the elements' shapes whether they are batches.

    A scalar leaf means single rows: a batch has one entry for each of its rows in every leaf. So does a lonely axis in
    every leaf of `x`, as a batch of sequences has two. A ragged leaf, or one whose second axis has no fixed size, means
    batches: models cannot be built for a varying number of features.

    Raises:
        ValueError: If neither is certain.
    """
    in_x, ranks = inputs_of(specs).values(), {spec.rank for spec in specs.values()}
    if 0 in ranks or all(spec.rank == 1 for spec in in_x) or len(_first_sizes(specs) - {None}) > 1:
        return False
    if any(spec.ragged_rank or _has_unknown_second_axis(spec) for spec in in_x):
        return True
    raise unclear_elements(describe_shapes(specs))


def looks_like_batches(specs: Specs, num_elements: int) -> bool:
    """Whether elements that are to be single rows share one first axis in all leaves of all of them, as batches do."""
    sizes = _first_sizes(specs)
    has_two_axes = any(spec.rank > 1 for spec in inputs_of(specs).values())
    return num_elements > 1 and None not in sizes and len(sizes) == 1 and has_two_axes


def without_part(specs: list[Specs]) -> list[Specs]:
    """The elements of a whole stream without the last one, if that may be a batch with fewer rows than the others."""
    last, before = _first_sizes(specs[-1]), _first_sizes(common_specs(specs[:-1] or specs))
    is_part = len(last) == len(before) == 1 and max(size or 0 for size in last) < max(size or 0 for size in before)
    return specs[:-1] if is_part else specs


def looks_like_rows(specs: Specs, seen: Specs, num_elements: int) -> bool:
    """Whether elements that are to be batches look like single sequences of vectors.

    They are to be batches for the unknown size of their second axis; if that is one and the same in all of them while
    the first one varies, they are probably not.

    Args:
        specs: The shapes that were declared.
        seen: Those of the elements that were read, without the last one, which may be a partial batch.
        num_elements: How many there are in `seen`.
    """
    shapes = [seen[path].shape for path, spec in inputs_of(specs).items() if _has_unknown_second_axis(spec)]
    return num_elements > 1 and bool(shapes) and all(shape[0] is None and shape[1] for shape in shapes)


def unclear_elements(received: str) -> UnclearError:
    """The error where an element may be a row or a batch of rows."""
    question = "batched=False if it is one sequence (time, features), batched=True if it is a batch (rows, time)"
    return UnclearError(
        "It is not clear whether an element of the dataset is one sequence or a batch of sequences. Received "
        f"{received}. Pass {question}.",
        "batched",
        question,
    )


def _first_sizes(specs: Specs) -> set[int | None]:
    return {spec.shape[0] if spec.rank else None for spec in specs.values()}


def _has_unknown_second_axis(spec: LeafSpec) -> bool:
    return spec.rank > 1 and spec.shape[1] is None


def roles_in_rows(specs: Specs, timestep_labels: bool | None) -> Roles:
    """What each leaf of a single row holds: an axis of varying size is time, one of fixed size is one value per row."""
    has_time = any(spec.rank and spec.shape[0] is None for spec in inputs_of(specs).values())

    def role_of(path: Path, spec: LeafSpec) -> Role:
        fixed_is_time = not has_time if path[0] == "x" else bool(timestep_labels)
        is_sequence = spec.rank > 0 and (spec.shape[0] is None or fixed_is_time)
        return Role.SEQUENCE if is_sequence else Role.VALUE

    return {path: role_of(path, spec) for path, spec in specs.items()}


def roles_in_batches(
    specs: Specs, timestep_labels: bool | None, sequences: tuple[str | int, ...] | None = None
) -> Roles:
    """What each leaf of a batch holds for its rows; `sequences` names the entries of `x` that are padded.

    Raises:
        ValueError: If an axis may be time or something else.
    """
    _check_ranks(specs, sequences)
    in_x = inputs_of(specs)
    times = {path: spec.shape[1] for path, spec in in_x.items() if spec.rank > 1 and not spec.ragged_rank}
    has_time = any(spec.ragged_rank for spec in in_x.values()) or None in times.values()
    if sequences is not None:
        times = {path: times[path] for path in _named_leaves(in_x, list(times), sequences)}
    elif not has_time and len(set(times.values())) > 1 and not _all_are_told(in_x, list(times)):
        raise ValueError(
            "It is not clear which entries of `x` hold the sequences: none of them has a second axis of varying size. "
            f"Received {describe_shapes(in_x)}. Yield single sequences instead of batches, e.g. with "
            "dataset.unbatch(), or name the entries that are sequences, sequences=[...]."
        )
    padded = {path: time for path, time in times.items() if time is None or not has_time or sequences is not None}

    def role_of_label(path: Path, spec: LeafSpec) -> Role:
        if spec.rank < 2 or timestep_labels is False:
            return Role.VALUE
        if timestep_labels or spec.shape[1] is None:
            return Role.PADDED
        if spec.shape[1] in padded.values():
            raise unclear_labels(path, specs)
        return Role.VALUE

    def role_of(path: Path, spec: LeafSpec) -> Role:
        if spec.ragged_rank:
            return Role.SEQUENCE
        if path[0] != "x":
            return role_of_label(path, spec)
        return Role.PADDED if path in padded else Role.VALUE

    return {path: role_of(path, spec) for path, spec in specs.items()}


def kinds_of(specs: Specs) -> dict[Path, EntryKind]:
    """What the table of names needs to know of the leaves of `x` that are not ragged."""
    return {
        path: EntryKind(spec.rank, kind_of_dtype(spec.dtype), spec.shape[1] if spec.rank > 1 else None)
        for path, spec in inputs_of(specs).items()
        if not spec.ragged_rank
    }


def _all_are_told(in_x: Specs, paths: list[Path]) -> bool:
    """Whether a mask or "<name>_lengths" tells the lengths of each of these leaves of `x`."""
    table = read_table(kinds_of(in_x))
    sizes = {path: in_x[path].shape[:2] for path in paths}
    return all(
        path in table.lengths or (path in table.masks and sizes[table.masks[path]] == sizes[path]) for path in paths
    )


def _named_leaves(in_x: Specs, paths: list[Path], sequences: tuple[str | int, ...]) -> list[Path]:
    """The leaves of the entries of `x` that are named, and their masks."""
    named = [path for path in paths if len(path) > 1 and path[1] in sequences]
    unknown = [key for key in sequences if not any(path[1] == key for path in named)]
    if unknown:
        raise ValueError(
            f"`sequences` must name padded entries of `x`. Expected some of {describe_shapes(in_x)}, received "
            f"{show(unknown[0])}."
        )
    masks = read_table({path: EntryKind(in_x[path].rank, "i") for path in paths}).masks
    return list(dict.fromkeys([*named, *(masks[path] for path in named if path in masks)]))


def unclear_labels(path: Path, specs: Specs) -> UnclearError:
    """The error where labels may hold one value per timestep or values of a row."""
    return UnclearError(
        f"`{leaf_name(path)}` may hold one label per timestep, or {specs[path].shape[1]} values per row, as one-hot "
        f"labels do. Received {describe_shapes(specs)}. Pass timestep_labels=True or "
        "timestep_labels=False.",
        "timestep_labels",
        f"timestep_labels=True if `{leaf_name(path)}` holds one label per timestep, timestep_labels=False if it holds "
        f"{specs[path].shape[1]} values per row",
    )


def _check_ranks(specs: Specs, sequences: tuple[str | int, ...] | None) -> None:
    """Refuses scalars, and lengths `(rows, 1)` unless `sequences` says that they are none."""
    if sequences is None:
        refuse_columns_of_lengths(kinds_of(specs))
    for path, spec in specs.items():
        if not spec.rank:
            raise scalar_in_batch(path)
