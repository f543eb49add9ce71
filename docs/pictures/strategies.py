"""The padding of five ways to make batches of the same sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.patches import Patch

from benchmarks.lengths import lognormal_lengths
from docs.pictures.style import make_axes, page_style, save
from keras_bucketing import BucketedSequence
from keras_bucketing.padding.colors import PADDING, REAL
from keras_bucketing.padding.pictures import draw_batches

NUM_ROWS = 160
BATCH_SIZE = 8
HAND_PICKED_BOUNDARIES = [50, 100, 150]


class Epoch(NamedTuple):
    """The lengths of each batch's rows, and what each batch is padded to; in timesteps."""

    batches: Sequence[np.ndarray]
    padded_lengths: Sequence[int]

    @property
    def padding_efficiency(self) -> float:
        """The share of real timesteps."""
        padded = sum(len(rows) * length for rows, length in zip(self.batches, self.padded_lengths, strict=True))
        return sum(int(rows.sum()) for rows in self.batches) / padded


def epochs() -> dict[str, Epoch]:
    """An epoch of each way, by its name."""
    lengths = lognormal_lengths(NUM_ROWS, mean=55, median=40, longest=250, seed=1)
    shuffled = np.random.default_rng(0).permutation(lengths)
    in_order = _in_turn(lengths)
    return {
        "everything padded to the longest": Epoch(in_order.batches, [int(lengths.max())] * len(in_order.batches)),
        "in the order of the file, each batch to its longest": in_order,
        "random batches, each to its longest": _in_turn(shuffled),
        f"bucket_by_sequence_length, {HAND_PICKED_BOUNDARIES}": _by_sequence_length(lengths),
        "BucketedSequence": _bucketed(lengths),
    }


@page_style()
def draw_strategies(path: Path) -> None:
    """Draws the picture."""
    drawn = epochs()
    highest = max(max(epoch.padded_lengths) for epoch in drawn.values())
    figure, axes = make_axes(len(drawn), height=1.55)
    for axis, (name, epoch) in zip(axes, drawn.items(), strict=True):
        axis.set_title(f"{name}: {epoch.padding_efficiency:.0%} real")
        draw_batches(axis, epoch.batches, epoch.padded_lengths, [REAL] * len(epoch.batches), gap=1)
        axis.set_ylim(0, 1.03 * highest)
        axis.set_ylabel("timesteps")
        axis.margins(x=0.01)
    axes[-1].set_xlabel(f"the same {NUM_ROWS} sequences, batch after batch")
    handles = [Patch(color=REAL, label="real timesteps"), Patch(color=PADDING, label="padding")]
    figure.legend(handles=handles, ncols=2, frameon=False, loc="outside lower center", handlelength=1.2)
    save(figure, path)


def _in_turn(lengths: np.ndarray) -> Epoch:
    batches = np.split(lengths, np.arange(BATCH_SIZE, len(lengths), BATCH_SIZE))
    return Epoch(batches, [int(rows.max()) for rows in batches])


def _by_sequence_length(lengths: np.ndarray) -> Epoch:
    rows = tf.data.Dataset.from_tensor_slices(tf.RaggedTensor.from_row_lengths(tf.ones(lengths.sum()), lengths)).map(
        tf.identity
    )
    batched = rows.bucket_by_sequence_length(
        lambda row: tf.shape(row)[0], HAND_PICKED_BOUNDARIES, [BATCH_SIZE] * (len(HAND_PICKED_BOUNDARIES) + 1)
    )
    batches = list(batched.as_numpy_iterator())
    return Epoch([batch.sum(axis=1).astype(int) for batch in batches], [batch.shape[1] for batch in batches])


def _bucketed(lengths: np.ndarray) -> Epoch:
    dataset = BucketedSequence([np.zeros(length, np.int32) for length in lengths], batch_size=BATCH_SIZE, seed=0)
    plan = dataset.epoch_plan(0)
    return Epoch([lengths[rows] for rows in plan], plan.padded_lengths.tolist())
