"""One epoch as a picture: every batch a box, its rows filled as far as they are real; what stays hatched is padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class DrawnEpoch(NamedTuple):
    """What to draw of an epoch.

    Attributes:
        title: Str.
        batches: The lengths of each batch's rows, int arrays `(rows,)`, in timesteps.
        padded_lengths: Ints, one a batch, in timesteps.
    """

    title: str
    batches: Sequence[np.ndarray]
    padded_lengths: Sequence[int]


def draw_epochs(epochs: Sequence[DrawnEpoch]) -> Any:
    """Draws epochs beside one another, on one scale; returns the Matplotlib figure."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(epochs), figsize=(9, 3), layout="constrained", sharey=True, squeeze=False, subplot_kw={"xmargin": 0}
    )
    for axis, epoch in zip(axes[0], epochs, strict=True):
        sizes = [len(lengths) for lengths in epoch.batches]
        starts = np.cumsum([0, *sizes[:-1]])
        box = {"facecolor": "1", "edgecolor": "0.6", "linewidth": 0.4, "hatch": "//////"}
        axis.bar(starts, epoch.padded_lengths, sizes, align="edge", label="padding", **box)
        real = np.concatenate([np.sort(lengths)[::-1] for lengths in epoch.batches])
        axis.stairs(real, fill=True, color="0.2", label="real timesteps")
        axis.set_title(epoch.title, fontsize="medium")
        axis.set_xlabel("sequences, batch after batch")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("timesteps")
    axes[0, -1].legend(frameon=False, loc="upper right")
    return figure
