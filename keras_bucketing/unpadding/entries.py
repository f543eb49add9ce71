"""Which entries of `x` are padded sequences, and which are masks or lengths: one table of names for all readers.

Entries are identified by path, rank, dtype and name alone, so that declared specs, arrays and tensors share the table:

| an entry | is | |---|---| | integers, one per row, "lengths" | the lengths of the sequences beside it that nothing
else tells | | integers, one per row, "<name>_lengths" | the lengths of the entry "<name>" beside it, or of own-length
labels | | two axes, "mask", "padding_mask" and the like, or a name that ends in one of these | a mask | | any other of
two axes or more | a sequence, if its second axis is time |

The mask of an entry is the one whose name has the longest prefix in common with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from keras_bucketing.checks import check_lengths, shorten, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import NUMBERS
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path, Structure, name_of
from keras_bucketing.unpadding.spans import OneTimestep, Side, is_binary, lengths_of_mask

LENGTHS = "lengths"  # what include_lengths=True adds to `x`
_OF_ENTRY = "_lengths"
# KerasHub's preprocessors have "padding_mask", Hugging Face's tokenizers "attention_mask".
_MASK_SUFFIX = re.compile(r"_?(?P<kind>(padding|attention|token|input)_)?masks?$", re.IGNORECASE)

Arrays = dict[Path, np.ndarray]  # leaves by their paths, which begin with "x", "y" or "sample_weight"


def leaf_name(path: Path) -> str:
    """The name of a leaf of an element in messages.

    Example:
        >>> leaf_name(("x", "query", 0))
        "x['query'][0]"
    """
    return name_of(str(path[0]), path[1:])


class EntryKind(NamedTuple):
    """The part of a leaf that the table needs: its rank, the kind of its dtype as in NumPy, and its second axis."""

    rank: int
    dtype_kind: str
    time: int | None = None  # where it varies or is not known


@dataclass(frozen=True)
class EntryTable:
    """The entries with the lengths of each padded leaf of `x`; all paths begin with "x".

    Attributes:
        masks: For each leaf with a mask, the path of that mask; a mask is its own.
        lengths: For each leaf with lengths of its own, the path of these.
        longest: For each leaf without other evidence, the path of "lengths" beside or above it.
        label_lengths: The paths of lengths of labels, by the path of the labels.
        all_lengths: The paths of all entries with lengths, which are not inputs.
        rivals: For each leaf all masks that may belong to it: several of one prefix, or, without others, those whose
            names fit no entry.
        shared: The leaves whose mask names no entry, and belongs to all.
    """

    masks: dict[Path, Path] = field(default_factory=dict)
    lengths: dict[Path, Path] = field(default_factory=dict)
    longest: dict[Path, Path] = field(default_factory=dict)
    label_lengths: dict[Path, Path] = field(default_factory=dict)
    all_lengths: frozenset[Path] = frozenset()
    rivals: dict[Path, list[Path]] = field(default_factory=dict)
    shared: frozenset[Path] = frozenset()

    def tells(self, path: Path) -> bool:
        """Whether an entry of `x` tells the lengths of a leaf."""
        return path in self.masks or path in self.lengths or path in self.longest

    def without_masks_of(self, paths: Collection[Path]) -> EntryTable:
        """The same table without the masks of these leaves, which have another shape."""
        masks = {path: mask for path, mask in self.masks.items() if path not in paths}
        return replace(self, masks=masks)

    def is_mask(self, path: Path) -> bool:
        """Whether a leaf is a mask."""
        return self.masks.get(path) == path


def read_table(
    kinds: Mapping[Path, EntryKind], own_length_labels: Collection[Path] = (), unsure: Collection[Path] = ()
) -> EntryTable:
    """Reads the names of the leaves of `x`.

    Args:
        kinds: The leaves of `x`.
        own_length_labels: The paths of labels of their own length.
        unsure: Leaves that may not be sequences, so that "lengths" does not apply to them.

    Example:
        >>> kinds = {("x", "ids"): EntryKind(2, "i"), ("x", "padding_mask"): EntryKind(2, "b")}
        >>> read_table(kinds).masks[("x", "ids")]
        ('x', 'padding_mask')
    """
    padded = [path for path, kind in kinds.items() if kind.rank >= 2]
    refuse_columns_of_lengths(kinds, own_length_labels)
    counts = _integers(kinds)
    own = _own_lengths(padded, counts)
    masks, doubtful = _masks_among(kinds, padded)
    rivals = {path: found for path in padded if (found := _masks_of(path, masks))}
    shared = {path for path, found in rivals.items() if not masks[found[0]]}
    for path in _named_by_lengths(own, rivals, shared):
        del rivals[path]
        shared.remove(path)
    mask_of = {path: found[0] for path, found in rivals.items()}
    for path in padded:
        rivals.setdefault(path, [mask for mask in doubtful if mask[:-1] == path[:-1]])
    has_longest = _in_x(LENGTHS) in counts and bool(padded)
    others = [path for path in padded if path not in (*mask_of, *own, *unsure)]
    longest = dict.fromkeys(others if has_longest else [], _in_x(LENGTHS))
    labels = _label_lengths(own_length_labels, counts)
    used = {*own.values(), *labels.values(), *([_in_x(LENGTHS)] if has_longest else [])}
    return EntryTable(mask_of, own, longest, labels, frozenset(used), rivals, frozenset(shared))


def _integers(kinds: Mapping[Path, EntryKind]) -> set[Path]:
    """The leaves with one integer per row."""
    return {path for path, kind in kinds.items() if kind.rank == 1 and kind.dtype_kind in "iu"}


def refuse_columns_of_lengths(kinds: Mapping[Path, EntryKind], own_length_labels: Collection[Path] = ()) -> None:
    """Refuses lengths `(num_rows, 1)`, as Keras' inputs have: they would be read as data, and padding with them."""
    padded = [path for path, kind in kinds.items() if kind.rank >= 2]
    label_lengths = {_in_x(name + _OF_ENTRY) for name in _label_names(list(own_length_labels)).values()}
    for path in padded:
        kind, key = kinds[path], path[-1]
        if (
            len(path) != 2
            or not isinstance(key, str)
            or kind.dtype_kind not in "iu"
            or (kind.rank, kind.time) != (2, 1)
        ):
            continue
        owners = [
            other
            for other in padded
            if other != path and key in (LENGTHS, f"{other[1] if other[1:] else ''}{_OF_ENTRY}")
        ]
        if path in label_lengths or any(kinds[other].time != 1 for other in owners):
            raise ValueError(
                f"`{leaf_name(path)}` must hold one integer per row, as lengths do. Expected the shape (num_rows,), "
                f"received (num_rows, 1). Pass {key}[:, 0], or rename the entry if it is data."
            )


def _named_by_lengths(own: Mapping[Path, Path], rivals: Mapping[Path, list[Path]], shared: set[Path]) -> list[Path]:
    """The leaves whose lengths take precedence over a mask for all, since it belongs to those without lengths."""
    named = []
    for path in own:
        mask = rivals[path][0] if path in shared else None
        others = {other for other in shared if other not in own and rivals[other][0] == mask} - {mask}
        if others:
            named.append(path)
    return named


def _label_lengths(labels: Collection[Path], counts: Collection[Path]) -> dict[Path, Path]:
    names = _label_names(list(labels))
    return {path: at for path, name in names.items() if (at := _in_x(name + _OF_ENTRY)) in counts}


def _own_lengths(padded: list[Path], counts: Collection[Path]) -> dict[Path, Path]:
    """The lengths of single entries of `x`, "<name>_lengths"; at deeper levels these are ordinary entries."""
    of_entries = [path for path in padded if len(path) == 2 and isinstance(path[1], str)]
    return {path: at for path in of_entries if (at := _in_x(f"{path[1]}{_OF_ENTRY}")) in counts}


def _in_x(key: str) -> Path:
    return "x", key


def _label_names(paths: list[Path]) -> dict[Path, str]:
    """The names of labels in `include_lengths`: "label" for a single one, and before the index in a tuple."""
    if len(paths) == 1:
        return {paths[0]: "label"}
    return {path: "_".join(map(str, ("label", *path[1:]) if isinstance(path[1], int) else path[1:])) for path in paths}


def _masks_among(kinds: Mapping[Path, EntryKind], padded: list[Path]) -> tuple[dict[Path, str], list[Path]]:
    """The masks, and what the names of the entries begin with that they are for, "" for all that have no other.

    Behind them, those that may be masks or data: their names are not those of entries.
    """
    found: dict[Path, str] = {}
    strangers: dict[Path, str] = {}
    doubtful: list[Path] = []
    for path in padded:
        key = path[-1]
        match = _MASK_SUFFIX.search(key) if isinstance(key, str) and kinds[path].rank == 2 else None
        if not isinstance(key, str) or match is None:
            continue
        prefix = key[: match.start()]
        beside = [other[-1] for other in kinds if other[:-1] == path[:-1] and not _is_mask_name(other[-1])]
        if not prefix or any(isinstance(name, str) and name.startswith(prefix) for name in beside):
            found[path] = prefix
        elif match["kind"]:
            strangers[path] = ""
        else:
            doubtful.append(path)
    return found | strangers, doubtful


def _is_mask_name(key: str | int) -> bool:
    return isinstance(key, str) and _MASK_SUFFIX.search(key) is not None


def _masks_of(path: Path, masks: Mapping[Path, str]) -> list[Path]:
    """The masks of a leaf: the nearest of those beside or above it, and of these the ones that share its prefix."""
    if path in masks:
        return [path]
    for end in range(len(path) - 1, 0, -1):
        key = path[end]
        here = {mask: prefix for mask, prefix in masks.items() if mask[:-1] == path[:end]}
        prefix = longest_prefix(key, here.values()) if isinstance(key, str) else None
        if prefix is not None:
            return [mask for mask, its in here.items() if its == prefix]
    return []


def longest_prefix(key: str, prefixes: Iterable[str]) -> str | None:
    """The longest of the prefixes that a key has; None if it has none.

    KerasHub has "encoder_padding_mask" for "encoder_token_ids", Hugging Face "attention_mask" for "input_ids" and
    "decoder_attention_mask" for "decoder_input_ids".
    """
    return max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)


def check_shared_masks(rests: Mapping[Path, OneTimestep], masks: Mapping[Path, Path]) -> None:
    """Refuses a mask that names no entry for a leaf with data beyond it, if it fits another one.

    Args:
        rests: The values beyond such masks, by the leaves that they may belong to.
        masks: The mask of each of these.
    """
    for path, rest in rests.items():
        if rest.is_constant:
            continue
        alike = [other for other in rests if other != path and masks[other] == masks[path]]
        if any(rests[other].is_constant and rests[other].value is not None for other in alike):
            key = str(path[-1])
            raise ValueError(
                f"`{leaf_name(masks[path])}` may not be the mask of `{leaf_name(path)}`, which holds several values "
                f"where it is False, as a leaf of its own length does. Add an entry {show(f'{key}_mask')} or "
                f"{show(f'{key}_lengths')} to `x`, or name the mask as the entries begin whose mask it is; from_padded "
                "takes `lengths` for each entry."
            )


def unclear_longest(path: Path, longest: Path, received: str) -> ValueError:
    """The error if "lengths" may be those of a leaf, or those of each row's longest."""
    label, name = leaf_name(longest), leaf_name(path)
    return ValueError(
        f"`{name}` may be as long as `{label}` says, or end where its own padding begins, since `{label}` may be that "
        f"of the longest entry. Received {received}. Add an entry {show(str(path[-1]) + '_lengths')} to `x`, or a mask "
        "for it."
    )


def unclear_rivals(path: Path, rivals: Iterable[Path]) -> ValueError:
    """The error if several masks, which differ, may belong to a leaf."""
    return ValueError(
        f"`lengths` must be given, since several masks have the shape of `{leaf_name(path)}`: "
        f"{shorten(', '.join(map(leaf_name, rivals)))}. Pass a dict or tuple with the mask of each entry of `x`, or "
        "name its mask as the entry begins."
    )


class GivenLengths(NamedTuple):
    """The entry of the argument `lengths` for a leaf: ints or a mask; None if the leaf has none."""

    path: Path
    lengths: object

    @property
    def name(self) -> str:
        """Their name in messages."""
        return name_of("lengths", self.path)


def choose_sequences(
    x: Structure, arrays: Arrays, table: EntryTable, given: dict[Path, GivenLengths], sequences: object
) -> list[Path]:
    """Chooses the entries to remove padding from. A wrong choice would cut off values, so uncertain ones are refused.

    Without `sequences`, a key of `x` or several, and without lengths for single entries these are the arrays of rank 2
    and more, if they all have one second dimension, or a mask or "<name>_lengths" each.

    Raises:
        TypeError: If `sequences` is neither a key nor several.
        ValueError: If no entry is a sequence, or it is not clear which is.
    """
    possible = [path for path, array in arrays.items() if array.ndim >= 2]
    _check_lengths_are_of_padded(possible, arrays, given)
    with_lengths = [path for path, entry in given.items() if entry.lengths is not None]
    if sequences is not None:
        chosen = _leaves_at(x, arrays, sequences)
        chosen += [path for path in with_lengths if path not in chosen]
        masks = (table.masks.get(path) for path in chosen)
        return [*chosen, *dict.fromkeys(mask for mask in masks if mask is not None and mask not in chosen)]
    if not possible:
        path, array = next(iter(arrays.items()))
        raise ValueError(
            f"`{leaf_name(path)}` must be padded. Expected an array of shape (num_sequences, time, ...), received "
            f"shape {array.shape}. Pass sequences that are not padded to BucketedSequence itself."
        )
    if given:
        _check_lengths_of_all(arrays, [path for path in possible if path not in given], with_lengths)
        return with_lengths
    if not all(path in table.masks or path in table.lengths for path in possible):
        _check_second_axis({path: arrays[path] for path in possible})
    return possible


def check_keys(sequences: object) -> tuple[str | int, ...]:
    """Returns the keys of entries of `x` that `sequences` names, one or several."""
    several = tuple(sequences) if isinstance(sequences, (list, tuple, set)) else (sequences,)
    for key in several:
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise TypeError(f"`sequences` must be a key of `x`, or a list of keys. Received {show(key)}.")
    if not several:
        raise ValueError("`sequences` is empty. Expected at least one key of `x`.")
    return several


def _leaves_at(x: Structure, arrays: Arrays, sequences: object) -> list[Path]:
    """The leaves of the named entries, all of them padded."""
    if not isinstance(x, (dict, tuple)):
        raise ValueError("`sequences` names entries of a dict or tuple, but `x` is one array. Leave it out.")
    keys = _keys(x)
    several = check_keys(sequences)
    for key in several:
        if key not in keys:
            raise ValueError(
                f"`sequences` names no entry of `x`. Expected one of {shorten(str(keys))}, received {show(key)}."
            )
    chosen = [path for key in several for path in arrays if path[1] == key]
    flat = [path for path in chosen if arrays[path].ndim < 2]
    if flat:
        raise ValueError(
            f"`sequences` must name padded arrays. Expected shape (num_sequences, time, ...), received shape "
            f"{arrays[flat[0]].shape} at `{leaf_name(flat[0])}`."
        )
    return chosen


def _check_lengths_are_of_padded(possible: list[Path], arrays: Arrays, given: dict[Path, GivenLengths]) -> None:
    """Refuses lengths for entries that have no time axis."""
    for path, entry in given.items():
        if entry.lengths is not None and path not in possible:
            name = leaf_name(path)
            raise ValueError(
                f"`{entry.name}` must be None where `x` holds one value per row, or `{name}` must be padded. Expected "
                f"shape (num_sequences, time, ...), received shape {arrays[path].shape} at `{name}`."
            )


def _check_lengths_of_all(arrays: Arrays, others: list[Path], with_lengths: list[Path]) -> None:
    """Refuses lengths for some entries if others, without lengths, look like sequences too."""
    shapes = {arrays[path].shape[:2]: path for path in with_lengths}
    for path in others:
        if arrays[path].shape[:2] in shapes:
            alike = shapes[arrays[path].shape[:2]]
            raise ValueError(
                f"`lengths` must have an entry for `{leaf_name(path)}` too, which may be a sequence: received shape "
                f"{arrays[path].shape}, next to {arrays[alike].shape} of `{leaf_name(alike)}`. Give it lengths, or "
                "None if it holds one value per row."
            )
    if not with_lengths:
        raise ValueError("`lengths` has no lengths for any entry of `x`. Expected at least one entry that is not None.")


def _check_second_axis(arrays: Arrays) -> None:
    """Refuses entries that do not share their second axis."""
    if len({array.shape[1] for array in arrays.values()}) == 1:
        return
    shapes = {leaf_name(path): array.shape for path, array in arrays.items()}
    keys = list(dict.fromkeys(path[1] for path in arrays))
    raise ValueError(
        "It is not clear which entries of `x` are padded sequences, since those of rank 2 and more do not share their "
        f"second dimension. Received {shorten(str(shapes))}. Pass sequences={shorten(str(keys))}, without those that "
        "hold one value per row."
    )


def _keys(x: Structure) -> list[str | int]:
    return list(x) if isinstance(x, dict) else list(range(len(x)))


def lengths_by_leaf(x: Structure, lengths: Any, path: Path = ()) -> dict[Path, GivenLengths]:
    """The given lengths of each leaf of `x` that `lengths` has an entry for; both are at `path` in the arguments.

    The paths of the leaves begin with "x".

    Raises:
        ValueError: If `lengths` is not an array and has another structure than `x`; entries may be missing from a dict.
    """
    name, label = leaf_name(("x", *path)), name_of("lengths", path)
    if isinstance(x, dict) and isinstance(lengths, dict):
        unknown = [key for key in lengths if key not in x]
        if unknown:
            raise ValueError(
                f"`{label}` must have keys of `{name}`. Expected some of {shorten(str(list(x)))}, received "
                f"{show(unknown[0])}."
            )
        keys = list(lengths)
    elif isinstance(x, tuple) and isinstance(lengths, tuple) and not _is_flat(lengths):
        if len(x) != len(lengths):
            raise ValueError(
                f"`{label}` must have an entry for each of `{name}`. Expected {len(x)}, received {len(lengths)}. Put "
                "None for an entry that holds one value per row."
            )
        keys = _keys(x)
    elif isinstance(lengths, dict) and not isinstance(x, (dict, tuple)):
        raise ValueError(
            f"`{label}` must be one array, as `{name}` is. Expected shape (num_sequences,) or (num_sequences, time), "
            "received a dict."
        )
    else:  # one and the same for all that is below
        return {("x", *path, *below): GivenLengths(path, lengths) for below, _ in tree.leaves(x)}
    found: dict[Path, GivenLengths] = {}
    for key in keys:
        found |= lengths_by_leaf(x[key], lengths[key], (*path, key))
    return found


def read_lengths(given: object, shape: tuple[int, ...], label: str, name: str) -> tuple[Lengths, Side | None, bool]:
    """Given lengths, or a mask of booleans or of 0 and 1, as integers; the padded end of a mask; whether it is a mask.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they are negative, or not one for each row; if a mask has a gap, or rows padded at both ends.
    """
    mask = _as_mask(given)
    if mask is None:
        lengths = check_lengths(given, label, minimum=0)
        expected, received = shape[:1], lengths.shape
    else:
        expected, received = shape[:2], mask.shape
    if expected != received:
        raise ValueError(
            f"`{label}` must have one entry for each sequence, or, as a mask, for each timestep. Expected shape "
            f"{expected} as in `{name}`, received {received}."
        )
    return (lengths, None, False) if mask is None else (*lengths_of_mask(mask, label), True)


def _as_mask(given: object) -> np.ndarray | None:
    """An array `(num_rows, time)`, if it is a mask of booleans, or of 0 and 1; else None."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError):
        return None
    return array if array.ndim == 2 and array.dtype.kind in "biuf" and is_binary(array) else None


def _is_flat(values: tuple[object, ...]) -> bool:
    """Whether a tuple holds numbers, so that it is one array of lengths."""
    return bool(values) and all(isinstance(value, NUMBERS) for value in values)
