"""The lengths of the outputs of a model: the argument `lengths` of `predict` and `restore_order`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_bucketing.checks import check_lengths, show, show_typed
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path


@dataclass(frozen=True)
class Sequences:
    """The sequences in the `x` of each batch.

    Attributes:
        paths: Their paths.
        aliases: Their paths as the user gave them, without the entry that `include_lengths` adds.
        lengths: The timesteps of each, `(num_rows,)`, in the order of the input.
        longest: The timesteps of each row's longest sequence, `(num_rows,)`.
        padding_value: The padding value, a number or an array of the shape of a timestep.
    """

    paths: list[Path]
    aliases: list[Path]
    lengths: list[Lengths]
    longest: Lengths
    padding_value: Any

    @property
    def num_rows(self) -> int:
        """The rows of the input."""
        return len(self.longest)

    def named(self, path: Path) -> Lengths | None:
        """The lengths of the sequence with that path, or None."""
        for paths in (self.paths, self.aliases):
            if path and path in paths:
                return self.lengths[paths.index(path)]
        return None

    def names(self) -> str:
        """What `lengths` may name, for error messages."""
        shown = [show(path[0] if len(path) == 1 else path) for path in self.aliases if path]
        return f"the name of a sequence ({', '.join(shown)}) or ints" if shown else "ints"


@dataclass(frozen=True)
class OutputLengths:
    """The known lengths of one output.

    Attributes:
        lengths: The timesteps of each row `(num_rows,)`, or None if they were not given.
        are_values: Whether the output holds values of a row, and has no time axis.
    """

    lengths: Lengths | None = None
    are_values: bool = False


UNKNOWN, VALUES = OutputLengths(), OutputLengths(are_values=True)


def check_output_lengths(lengths: object, sequences: Sequences, name: str = "lengths") -> Any:
    """Converts the argument to one form: an `OutputLengths` for all outputs, or dicts and lists of them.

    Raises:
        TypeError: If it contains something else.
        ValueError: If a name is not that of a sequence, or ints are not one for each row.
    """
    if isinstance(lengths, dict):
        return {key: check_output_lengths(value, sequences, f"{name}[{show(key)}]") for key, value in lengths.items()}
    if lengths is None:
        return UNKNOWN
    if isinstance(lengths, (bool, np.bool_)):
        if not lengths:
            return VALUES
        raise TypeError(f"`{name}` must not be True. Expected {sequences.names()}, or False for values of a row.")
    if isinstance(lengths, (str, int, np.integer)):
        return _named(lengths, (lengths if isinstance(lengths, str) else int(lengths),), sequences, name)
    if isinstance(lengths, tuple) and (
        sequences.named(lengths) is not None or all(isinstance(key, str) for key in lengths)
    ):
        return _named(lengths, lengths, sequences, name)
    if isinstance(lengths, (list, tuple)) and not _are_numbers(lengths):
        return [check_output_lengths(value, sequences, f"{name}[{index}]") for index, value in enumerate(lengths)]
    array = check_lengths(lengths, name, minimum=0)
    if len(array) != sequences.num_rows:
        raise ValueError(
            f"`{name}` must have one entry for each row of the input. Expected shape ({sequences.num_rows},), received "
            f"{array.shape}."
        )
    return OutputLengths(array)


def _named(shown: object, path: Path, sequences: Sequences, name: str) -> OutputLengths:
    found = sequences.named(path)
    if found is None:
        fix = " For one entry for each output pass a list." if isinstance(shown, tuple) else ""
        raise ValueError(
            f"`{name}` names no sequence of x. Expected {sequences.names()}, received {show_typed(shown)}.{fix}"
        )
    return OutputLengths(found)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in values)


def lengths_of_outputs(lengths: Any, outputs: Any, name: str = "lengths") -> list[OutputLengths]:
    """The entry of each output, in the order of `keras.tree.flatten`; `lengths` comes from `check_output_lengths`.

    Raises:
        ValueError: If `lengths` is a dict or list, and not like the outputs.
    """
    leaves: list[OutputLengths] = keras.tree.flatten(_like(lengths, outputs, name))
    return leaves


def _like(lengths: Any, outputs: Any, name: str) -> Any:
    if isinstance(lengths, OutputLengths):
        return keras.tree.map_structure(lambda _: lengths, outputs)
    keys = set(lengths) if isinstance(lengths, dict) else len(lengths)
    if isinstance(lengths, dict) and isinstance(outputs, dict) and keys == set(outputs):
        return {key: _like(lengths[key], output, f"{name}[{show(key)}]") for key, output in outputs.items()}
    if isinstance(lengths, list) and isinstance(outputs, (list, tuple)) and keys == len(outputs):
        return [_like(each, outputs[index], f"{name}[{index}]") for index, each in enumerate(lengths)]
    raise ValueError(
        f"`{name}` must be one for all outputs, or built like them. Expected {_describe(outputs)}, received "
        f"{_describe(lengths)}."
    )


def _describe(structure: Any) -> str:
    if isinstance(structure, dict):
        return f"a dict with the keys {show(sorted(map(str, structure)))}"
    if isinstance(structure, (list, tuple)):
        return f"a list of {len(structure)}"
    return "one"


def check_is_long_enough(name: str, size: int, lengths: Lengths, rows: Any, sequences: Sequences) -> None:
    """Refuses an output whose time axis is shorter than its rows.

    Args:
        name: The name of the output.
        size: Its timesteps.
        lengths: The timesteps of its rows.
        rows: Their indices in the input.
        sequences: The sequences that `lengths` may name.
    """
    if len(lengths) and size < lengths.max():
        at = int(np.argmax(lengths))
        raise ValueError(
            f"`{name}` is shorter than its row. Expected at least {int(lengths[at])} timesteps for row {int(rows[at])} "
            f"of the input, received {size}. Pass the lengths of its rows as `lengths`: {sequences.names()}."
        )
