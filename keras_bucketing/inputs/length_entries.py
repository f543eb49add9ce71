"""The entries that `include_lengths=True` adds to `x`."""

from __future__ import annotations

from keras_bucketing.checks import show
from keras_bucketing.inputs.ragged import Ragged
from keras_bucketing.inputs.structures import Structure


def length_entries(x: Structure, y: Structure, align_labels: bool) -> dict[str, Ragged]:
    """Names the entries that stand next to "lengths", and says whose lengths they hold.

    `"<name>_lengths"` for each ragged leaf of a dict that has several; "label_lengths" for labels of their own length,
    or `"<name>_lengths"` where there are several, with the name "label_0" for the first entry of a tuple.

    Args:
        x: Structure of leaves.
        y: Structure of leaves, or None.
        align_labels: Whether ragged labels have the lengths of a leaf of `x`.

    Raises:
        ValueError: If `x` has such an entry already, or two of them would have one name.
    """
    of_x = [(key, leaf) for key, leaf in x.items() if isinstance(leaf, Ragged)] if isinstance(x, dict) else []
    of_y = [] if align_labels else _ragged_leaves(y, "label" if isinstance(y, tuple) else "")
    if len(of_y) == 1:
        of_y = [("label", of_y[0][1])]
    entries: dict[str, Ragged] = {}
    for name, leaf in [*(of_x if len(of_x) > 1 else []), *of_y]:
        entry = f"{name}_lengths"
        if entry in entries or entry == "lengths":
            raise ValueError(
                f"`y` leads to the entry {show(entry)} of `x`, which include_lengths=True adds already. Rename a key "
                "of `x` or of `y`."
            )
        entries[entry] = leaf
    for entry in ["lengths", *entries]:
        if isinstance(x, dict) and entry in x:
            raise ValueError(
                f"`x` already has the key {show(entry)}, which include_lengths=True adds. Rename one of the two."
            )
    return entries


def _ragged_leaves(structure: Structure, name: str) -> list[tuple[str, Ragged]]:
    """The ragged leaves, each by the keys that lead to it."""
    if isinstance(structure, Ragged):
        return [(name, structure)]
    if isinstance(structure, dict):
        children = [(key, structure[key]) for key in sorted(structure)]
    elif isinstance(structure, tuple):
        children = [(str(index), value) for index, value in enumerate(structure)]
    else:
        return []
    return [leaf for key, value in children for leaf in _ragged_leaves(value, f"{name}_{key}" if name else key)]
