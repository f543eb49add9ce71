"""What to say of padding that was not recognized: its value, its side, and the argument that cures it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras_bucketing.checks import show
from keras_bucketing.inputs.constant_runs import ConstantRuns, find_runs
from keras_bucketing.inputs.padded import PaddedSequences
from keras_bucketing.inputs.padded_side import is_padding


def overlooked_padding(padded: list[PaddedSequences], mask_value: Any) -> Iterator[str]:
    """A warning for each array whose rows are all of one length, although they end or begin in constant runs."""
    for entry in padded:
        if not (entry.found or entry.is_cut) or (entry.lengths != entry.lengths[0]).any():
            continue
        runs = find_runs(entry.array)
        if runs is None:
            continue
        if is_padding(runs.value.reshape(1, 1, -1), mask_value).all():
            cure = f'Pass padding="{"post" if runs.at_end else "pre"}", or leave `padding` out.'
        else:
            cure = cure_of_value(runs, "Pad after normalizing, or pass the real lengths, lengths=...")
        yield (
            f"All rows of `{entry.name}` have {entry.lengths[0]} real timesteps by mask_value={mask_value!r}, so that "
            f"buckets save nothing. But {runs.describe()}, which looks like padding. {cure} If "
            "these timesteps are real, pass the lengths."
        )


def cure_of_value(runs: ConstantRuns, without_a_number: str) -> str:
    """The `mask_value` to pass, if one number fills the timesteps."""
    values = runs.value.reshape(-1).tolist()
    if len(set(map(str, values))) == 1:
        value = values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]
        nan = 'float("nan")'
        return f"Pass mask_value={show(value) if value == value else nan}."
    return f"No `mask_value` can be the padding, since its features differ: was it normalized? {without_a_number}"
