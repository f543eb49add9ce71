"""How rows become buckets, cuts and batches: the first epoch of a small dataset, in four steps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch

from benchmarks.lengths import lognormal_lengths
from docs.pictures.style import make_axes, page_style, save
from keras_bucketing import BucketedSequence
from keras_bucketing.padding.colors import BUCKETS, PADDING
from keras_bucketing.padding.pictures import draw_batches

NUM_ROWS = 52
BATCH_SIZE = 6
GAP = 0.8
COLORS = BUCKETS[:3]


@page_style()
def draw_plan(path: Path) -> None:
    """Draws the picture."""
    lengths = lognormal_lengths(NUM_ROWS, mean=20, median=16, longest=50, seed=4)
    dataset = BucketedSequence(
        [np.zeros(length, np.int32) for length in lengths], batch_size=BATCH_SIZE, num_buckets=len(COLORS), seed=1
    )
    plan = dataset.epoch_plan(0)
    bucket_of = np.searchsorted(dataset.bucket_boundaries, lengths, side="right")
    color_of = np.array(COLORS)[bucket_of]
    # As they are cut, from the shortest bucket to the longest; the plan does not tell their order inside of a bucket.
    batches = [rows[np.argsort(bucket_of[rows], kind="stable")] for rows in plan]
    cut = sorted(range(len(batches)), key=lambda batch: (bucket_of[batches[batch]].mean(), -len(batches[batch])))
    in_buckets = np.concatenate([batches[batch] for batch in cut])

    figure, axes = make_axes(4, height=1.7)
    axes[0].set_title("1. The rows, in the order in which they are given")
    draw_batches(axes[0], [lengths], [0], [color_of], 0)
    axes[1].set_title("2. Into buckets by length, and shuffled inside each")
    sizes = np.bincount(bucket_of, minlength=len(COLORS))
    groups = np.split(in_buckets, np.cumsum(sizes)[:-1])
    draw_batches(axes[1], [lengths[rows] for rows in groups], [0] * 3, [color_of[rows] for rows in groups], 2 * GAP)
    cut_title = f"3. Cut into batches of {BATCH_SIZE}; what is left goes into the next bucket"
    shuffled_title = "4. The batches shuffled: an epoch"
    for axis, title, order in ((axes[2], cut_title, cut), (axes[3], shuffled_title, range(len(batches)))):
        axis.set_title(title)
        drawn = [batches[batch] for batch in order]
        padded_lengths = [int(plan.padded_lengths[batch]) for batch in order]
        draw_batches(axis, [lengths[rows] for rows in drawn], padded_lengths, [color_of[rows] for rows in drawn], GAP)
    for axis in axes:
        axis.set_ylim(0, lengths.max() * 1.05)
        axis.set_ylabel("timesteps")
        axis.margins(x=0.01)
    edges = [1, *dataset.bucket_boundaries, int(lengths.max()) + 1]
    names = [f"bucket of {first} to {last - 1}" for first, last in pairwise(edges)]
    handles = [Patch(color=color, label=name) for color, name in zip(COLORS, names, strict=True)]
    handles.append(Patch(color=PADDING, label="padding"))
    figure.legend(handles=handles, ncols=2, frameon=False, loc="outside lower center", handlelength=1.2)
    save(figure, path)
