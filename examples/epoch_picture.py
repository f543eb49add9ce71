"""Epochs as a picture: every batch a box, its rows filled as far as they are real; what stays gray is padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_bucketing.padding.colors import PADDING, REAL
from keras_bucketing.padding.pictures import draw_batches


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
    """Draws epochs below one another, on one scale; returns the Matplotlib figure."""
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    figure, axes = pyplot.subplots(
        len(epochs), 1, figsize=(6, 2 * len(epochs)), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axis, epoch in zip(axes[:, 0], epochs, strict=True):
        rows = [np.sort(lengths)[::-1] for lengths in epoch.batches]
        draw_batches(axis, rows, epoch.padded_lengths, [REAL] * len(rows), gap=0)
        axis.set_title(epoch.title, fontsize="medium", loc="left")
        axis.set_ylabel("timesteps")
        axis.margins(0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("sequences, batch after batch")
    handles = [Patch(color=REAL, label="real timesteps"), Patch(color=PADDING, label="padding")]
    axes[-1, 0].legend(handles=handles, frameon=False, loc="upper right", handlelength=1.2)
    return figure
