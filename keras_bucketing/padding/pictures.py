"""The pictures: lengths with their buckets, the batches of an epoch, strategies side by side, padding over epochs.

Each function draws into the axes that it is given, or into those of a new figure, and returns them. Text and background
are those of the reader's Matplotlib style, such as "dark_background". Matplotlib is imported on use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import count_of
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.padding.colors import BUCKETS, LINES, PADDING, REAL
from keras_bucketing.padding.stats import PaddedTimesteps, PaddingStats
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.epoch_plan import EpochPlan

Axes = Any  # `matplotlib.axes.Axes`, whose own types refuse much of what it takes

_WIDTH = 6.0  # inches: letters of ten points are readable where the picture is as wide as a phone
_HEAVY_TAIL = 8  # from this ratio of the longest to the median length on, the length axis is logarithmic
_MAX_NAMED_BUCKETS = 12
_MAX_OUTLINED_ROWS = 250  # with more of them, the lines between rows would hide the rows
_STRIP_HEIGHT = 0.32  # of the picture, for the padding above the histogram


def plot_buckets(
    lengths: Lengths,
    bucket_boundaries: list[int],
    bucket_batch_sizes: list[int],
    padding_stats: PaddingStats,
    ax: Axes = None,
) -> Axes:
    """Draws the histogram of the lengths with the bucket boundaries and the padding that each bucket leaves.

    The length axis is logarithmic where the longest sequence is much longer than the median.

    Args:
        lengths: Int array of shape `(num_sequences,)`, in timesteps.
        bucket_boundaries: List of ints, as in `tf.data.Dataset.bucket_by_sequence_length`.
        bucket_batch_sizes: List of ints, the rows of each bucket's batches.
        padding_stats: The `PaddingStats` of an epoch, with figures for each bucket.
        ax: A Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing.
    """
    ax = _axes_or_new(ax, height=3.8)
    edges = _histogram_edges(lengths)
    counts, _, _ = ax.hist(lengths, bins=edges, color=REAL, label="sequences")
    for boundary in bucket_boundaries:
        ax.axvline(boundary - 0.5, color=LINES, linewidth=0.8, linestyle=(0, (4, 2)))
    if not _set_length_axis(ax, "x", lengths, edges, "length"):
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # no half timesteps
    max_count = float(np.max(counts))
    ax.set_ylim(0, max_count * 1.05 / (1 - _STRIP_HEIGHT))
    ax.set_yticks([tick for tick in ax.get_yticks() if tick <= max_count * 1.05])
    ax.set_ylabel("sequences", loc="bottom")
    _draw_padding_strip(ax, bucket_boundaries, padding_stats)
    _set_title_of_buckets(ax, len(lengths), bucket_batch_sizes, padding_stats)
    return ax


def plot_nested_buckets(
    lengths: Mapping[str, Lengths], buckets: Buckets, padding_stats: PaddingStats, ax: Axes = None
) -> Axes:
    """Draws how many rows have which two lengths, and the nested buckets as rectangles around them.

    Args:
        lengths: Dict from the name of each leaf to its lengths, int array `(num_sequences,)`, in timesteps.
        buckets: The nested buckets.
        padding_stats: The `PaddingStats` of an epoch, with figures for each bucket.
        ax: A Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing.
    """
    ax = _axes_or_new(ax, height=5.0)
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    outer, inner = buckets.levels
    points = [np.maximum(lengths[level.name], 1) for level in buckets.levels]
    edges = [_histogram_edges(of_leaf) for of_leaf in points]
    by_count = LinearSegmentedColormap.from_list("by_count", [PADDING, REAL])
    ax.hist2d(*points, bins=edges, cmap=by_count, norm=LogNorm(vmin=0.3), rasterized=True)
    sides = zip(
        outer.lower_lengths - 0.5,
        np.maximum(outer.upper_lengths, outer.lower_lengths) + 0.5,
        inner.lower_lengths - 0.5,
        np.maximum(inner.upper_lengths, inner.lower_lengths) + 0.5,
        strict=True,
    )
    for left, right, bottom, top in sides:
        ax.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], color=LINES, linewidth=0.8)
    for axis, of_leaf, edge, name in zip("xy", points, edges, (outer.name, inner.name), strict=True):
        _set_length_axis(ax, axis, of_leaf, edge, f"length of {name}")
    _set_title_of_buckets(ax, len(points[0]), buckets.batch_sizes, padding_stats)
    return ax


def plot_epoch(
    plan: EpochPlan,
    lengths: Lengths,
    bucket_boundaries: list[int] | None,
    padding_efficiency: float,
    max_batches: int,
    ax: Axes = None,
) -> Axes:
    """Draws batches of an epoch as boxes, their rows filled as far as they are real, in the color of their bucket.

    Of more than `max_batches` batches it draws so many, evenly spaced, in the order of the epoch.

    Args:
        plan: The epoch.
        lengths: Int array of shape `(num_sequences,)`, in timesteps, by the row indices of the plan.
        bucket_boundaries: List of ints, as in `tf.data.Dataset.bucket_by_sequence_length`; None where one length does
            not tell the bucket, so that all have one color.
        padding_efficiency: Float, of the whole epoch.
        max_batches: Int.
        ax: A Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing.
    """
    ax = _axes_or_new(ax, height=3.0)
    drawn = np.unique(np.linspace(0, max(len(plan) - 1, 0), min(max_batches, len(plan))).round().astype(int))
    batches = [np.sort(lengths[plan[batch]])[::-1] for batch in drawn]
    names = ["real timesteps"]
    colors: list[Any] = [REAL] * len(batches)
    if bucket_boundaries is not None and len(bucket_boundaries) < len(BUCKETS):
        edges = [1, *bucket_boundaries, max(int(lengths.max(initial=1)) + 1, *bucket_boundaries, 2)]
        names = [f"{first} to {last - 1}" for first, last in pairwise(edges)]
        by_bucket = np.array(BUCKETS)
        colors = [by_bucket[np.searchsorted(bucket_boundaries, rows, side="right")] for rows in batches]
    num_rows = sum(len(rows) for rows in batches)
    gap = 0.02 * num_rows * (len(batches) > 1) / max(len(batches) / 8, 1)
    draw_batches(ax, batches, plan.padded_lengths[drawn].tolist(), colors, gap)
    ax.set_xlim(-gap, num_rows + len(batches) * gap)
    ax.set_ylim(0, float(plan.padded_lengths[drawn].max(initial=1)) * 1.05)
    ax.tick_params(axis="x", length=0, labelbottom=False)
    ax.yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.set_xlabel("sequences, batch after batch")
    ax.set_ylabel("timesteps")
    count = count_of(len(plan), "batch", "batches")
    shown = count if len(drawn) == len(plan) else f"{len(drawn)} of {count}"
    _set_title(ax, f"epoch {plan.epoch}, {shown}: padding efficiency {padding_efficiency:.3f}")
    _add_legend(ax, dict(zip(names, BUCKETS, strict=False)), below=0.2)
    return ax


def draw_batches(
    ax: Axes, batches: Sequence[Lengths], padded_lengths: Sequence[int], colors: Sequence[Any], gap: float
) -> None:
    """Draws each batch as a box, its rows filled as far as they are real.

    Args:
        ax: A Matplotlib axes.
        batches: The lengths of each batch's rows, int arrays `(rows,)`, in timesteps.
        padded_lengths: Ints, one a batch, in timesteps.
        colors: Of the real timesteps of each batch: a color, or one for each row.
        gap: Float, between two batches, in rows.
    """
    from matplotlib.collections import PolyCollection

    sizes = np.array([len(lengths) for lengths in batches])
    starts = np.cumsum([0, *sizes[:-1]]) + gap * np.arange(len(sizes))
    places = np.concatenate([start + np.arange(size) for start, size in zip(starts, sizes, strict=True)])
    row_colors: list[Any] = []
    for color, size in zip(colors, sizes, strict=True):
        row_colors += [color] * size if isinstance(color, str) else list(color)
    boxes = _boxes(starts, sizes, np.array(padded_lengths))
    ax.add_collection(PolyCollection(boxes, facecolors=PADDING, linewidth=0))
    rows = _boxes(places, np.ones(len(places)), np.concatenate(batches))
    is_outlined = len(places) <= _MAX_OUTLINED_ROWS
    outlines: dict[str, Any] = (
        {"edgecolors": ax.get_facecolor(), "linewidth": 0.3} if is_outlined else {"linewidth": 0, "antialiased": False}
    )
    ax.add_collection(PolyCollection(rows, facecolors=row_colors, **outlines))
    ax.autoscale_view()


def plot_strategies(strategies: Sequence[tuple[str, PaddedTimesteps]], recommended: int, ax: Axes = None) -> Axes:
    """Draws a bar for each way of batching: its real timesteps, and what it adds as padding.

    Args:
        strategies: Name and figures of each, from top to bottom.
        recommended: Int, which one is recommended.
        ax: A Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing.
    """
    ax = _axes_or_new(ax, height=0.7 + 0.46 * len(strategies))
    unit, name = _unit(max(figures.total_timesteps for _, figures in strategies))
    places = np.arange(len(strategies))
    real = np.array([figures.real_timesteps for _, figures in strategies]) / unit
    total = np.array([figures.total_timesteps for _, figures in strategies]) / unit
    ax.barh(places, real, height=0.42, align="edge", color=REAL)
    ax.barh(places, total - real, left=real, height=0.42, align="edge", color=PADDING)
    for place, (label, figures) in zip(places, strategies, strict=True):
        ax.text(
            0,
            place - 0.06,
            f"{label}, {figures.padding_efficiency:.0%} real",
            va="bottom",
            weight="bold" if place == recommended else "normal",
        )
    ax.set_ylim(len(strategies) - 0.4, -0.65)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"timesteps of an epoch{name}")
    _add_legend(ax, {"real timesteps": REAL}, below=0.4)
    return ax


def plot_padding_history(
    epochs: list[int], history: list[PaddingStats], val_history: list[PaddingStats | None], ax: Axes = None
) -> Axes:
    """Draws the padding efficiency of each epoch.

    Args:
        epochs: List of ints, Keras' number of each epoch.
        history: List of `PaddingStats`, one for each epoch.
        val_history: List of `PaddingStats` or None, one for each epoch.
        ax: A Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing.
        ValueError: If there is no epoch.
    """
    if not history:
        raise ValueError("There is nothing to draw yet. Pass the callback to fit(..., callbacks=[callback]) first.")
    ax = _axes_or_new(ax, height=3.6)
    # Keras counts from 0 in its hooks and from 1 in its progress bar.
    numbers = np.array(epochs) + 1
    ax.plot(numbers, [stats.padding_efficiency for stats in history], "o-", color=BUCKETS[0], label="training")
    validated = [(number, val) for number, val in zip(numbers, val_history, strict=True) if val is not None]
    if validated:
        efficiencies = [val.padding_efficiency for _, val in validated]
        ax.plot([n for n, _ in validated], efficiencies, "s-", color=BUCKETS[1], label="validation")
    random = [_ratio(stats.real_timesteps, stats.random_batches_timesteps) for stats in history]
    longest = [_ratio(stats.real_timesteps, stats.pad_to_longest_timesteps) for stats in history]
    ax.plot(numbers, random, "x--", color=LINES, label="random batches would have")
    ax.plot(numbers, longest, "+:", color=LINES, label="padded to the longest")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("epoch")
    ax.set_ylabel("padding efficiency")
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.legend(fontsize="small", frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0.2)
    return ax


def plot_padding_stats(stats: PaddingStats, ax: Axes = None) -> Axes:
    """Draws where the padding is: the real timesteps and the padding of each bucket, or of all batches.

    Args:
        stats: The figures.
        ax: A Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing.
        ValueError: If there is no batch.
    """
    if not stats.num_batches:
        raise ValueError("There is nothing to draw: these are the figures of no batch.")
    ax = _axes_or_new(ax, height=3.6)
    parts: Sequence[PaddedTimesteps] = stats.buckets or [stats]
    names = [str(bucket.longest) for bucket in stats.buckets] or ["all batches"]
    if stats.buckets:
        ax.set_xlabel("bucket, by its longest padded length (timesteps)")
    real = np.array([part.real_timesteps for part in parts], float)
    total = np.array([part.total_timesteps for part in parts], float)
    unit, name = _unit(float(total.max()))
    positions = np.arange(len(names))
    ax.bar(positions, real / unit, width=0.75, color=REAL)
    ax.bar(positions, (total - real) / unit, width=0.75, bottom=real / unit, color=PADDING)
    if len(names) <= _MAX_NAMED_BUCKETS:
        for position, height, part in zip(positions, total / unit, parts, strict=True):
            label = f"{part.padding_efficiency:.0%}"
            ax.annotate(label, (position, height), (0, 2), textcoords="offset points", ha="center", fontsize="small")
    every = -(-len(names) // 16)
    ax.set_xticks(positions[::every], names[::every], rotation=45 if len(names) > 6 else 0)
    is_single = not stats.buckets
    ax.set_xlim(-0.75 - is_single, len(names) - 0.25 + is_single)
    ax.set_ylim(0, float(total.max()) / unit * 1.12)
    ax.set_ylabel(f"timesteps{name}")
    _set_title(
        ax,
        f"{count_of(stats.num_sequences, 'sequence')}, {count_of(stats.num_batches, 'batch', 'batches')}: "
        f"padding efficiency {stats.padding_efficiency:.3f}",
    )
    _add_legend(ax, {"real timesteps": REAL}, below=0.6 if stats.buckets else 0.2)
    return ax


def _boxes(starts: NDArray[Any], widths: NDArray[Any], heights: NDArray[Any]) -> list[Any]:
    """The corners, arrays `(4, 2)`, of boxes that stand on the axis."""
    left, right, bottom = starts, starts + widths, np.zeros(len(starts))
    x = np.stack([left, left, right, right], axis=1)
    y = np.stack([bottom, heights, heights, bottom], axis=1)
    return list(np.stack([x, y], axis=2).astype(np.float64))


def _draw_padding_strip(ax: Axes, boundaries: list[int], stats: PaddingStats) -> None:
    """Draws each bucket's share of padding above the histogram, as wide as the bucket."""
    strip = ax.inset_axes([0, 1 - _STRIP_HEIGHT + 0.04, 1, _STRIP_HEIGHT - 0.04], sharex=ax)
    left, right = ax.get_xlim()
    edges = np.clip([left, *(boundary - 0.5 for boundary in boundaries), right], left, right)
    percent = np.zeros(len(edges) - 1)
    for bucket in stats.buckets:
        percent[bucket.bucket] = 100 * (1 - bucket.padding_efficiency)
    strip.bar(edges[:-1], percent, np.diff(edges), align="edge", facecolor=PADDING, edgecolor=LINES, linewidth=0.6)
    highest = max(float(percent.max(initial=0.0)), 1.0)
    strip.set_ylim(0, highest * 1.15)
    strip.yaxis.get_major_locator().set_params(nbins=3)
    strip.yaxis.set_major_formatter("{x:g}%")
    strip.tick_params(axis="x", which="both", labelbottom=False, bottom=False)
    strip.set_ylabel("padding")
    strip.spines[["top", "right"]].set_visible(False)


def _histogram_edges(lengths: Lengths) -> NDArray[np.float64]:
    """Bin edges halfway between whole lengths, so that no bin holds more lengths than its neighbors by chance."""
    shortest, longest = int(lengths.min()), int(lengths.max())
    if _is_heavy_tailed(lengths):
        edges = np.unique(np.round(np.geomspace(max(shortest, 1), longest + 1, 40)))
    else:
        step = max(1, -(-(longest + 1 - shortest) // 60))
        edges = np.arange(shortest, longest + 1 + step, step, dtype=np.float64)
    return np.maximum(edges - 0.5, 0.5)


def _is_heavy_tailed(lengths: Lengths) -> bool:
    return bool(lengths.max() > _HEAVY_TAIL * max(float(np.median(lengths)), 1.0))


def _plain_log_labels(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:g}" if length >= 1 else ""))
    axis.set_minor_formatter(NullFormatter())


def _rows_of(batch_sizes: Sequence[int]) -> str:
    least, most = min(batch_sizes), max(batch_sizes)
    return f"{least}" if least == most else f"{least} to {most}"


def _set_title(ax: Axes, title: str) -> None:
    """Sets a title to the left; it breaks at its colon where a narrow picture would cut it off."""
    head, colon, tail = title.partition(": ")
    ax.set_title(title if len(title) < 60 else f"{head}{colon.rstrip()}\n{tail}", fontsize="medium", loc="left")


def _set_title_of_buckets(ax: Axes, num_sequences: int, batch_sizes: Sequence[int], stats: PaddingStats) -> None:
    _set_title(
        ax,
        f"{count_of(num_sequences, 'sequence')}, {count_of(len(batch_sizes), 'bucket')}, "
        f"{_rows_of(batch_sizes)} rows a batch: padding efficiency {stats.padding_efficiency:.3f}",
    )


def _set_length_axis(ax: Axes, axis: str, lengths: Lengths, edges: NDArray[np.float64], label: str) -> bool:
    """Sets the ends and the label of an axis of lengths; returns whether it is logarithmic."""
    getattr(ax, f"set_{axis}lim")(edges[0], edges[-1])
    is_logarithmic = _is_heavy_tailed(lengths)
    if is_logarithmic:
        getattr(ax, f"set_{axis}scale")("log")
        _plain_log_labels(getattr(ax, f"{axis}axis"))
    getattr(ax, f"set_{axis}label")(f"{label} (timesteps)" + (", logarithmic" if is_logarithmic else ""))
    return is_logarithmic


def _add_legend(ax: Axes, color_of: dict[str, str], below: float) -> None:
    """Adds a legend of these colors and of the padding, so many inches below the axis."""
    from matplotlib.patches import Patch
    from matplotlib.transforms import ScaledTranslation

    handles = [Patch(color=color, label=name) for name, color in {**color_of, "padding": PADDING}.items()]
    ax.legend(
        handles=handles,
        ncols=min(len(handles), 4),
        frameon=False,
        handlelength=1.2,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + ScaledTranslation(0, -below, ax.figure.dpi_scale_trans),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _unit(largest: float) -> tuple[float, str]:
    for unit, name in ((1e9, " (billions)"), (1e6, " (millions)"), (1e3, " (thousands)")):
        if largest >= unit:
            return unit, name
    return 1.0, ""


def _axes_or_new(ax: Axes, height: float) -> Axes:
    """The axes, or those of a new figure of this height in inches, without the lines at their top and right."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "The pictures need Matplotlib, which is not installed: pip install matplotlib, or install "
            "keras-bucketing with its extra `plot`."
        ) from error
    if ax is None:
        _, ax = pyplot.subplots(figsize=(_WIDTH, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
