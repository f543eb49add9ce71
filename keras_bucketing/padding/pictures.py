"""The pictures: lengths with their buckets, and padding over epochs. Matplotlib is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.padding.stats import PaddingStats

Axes = Any  # `matplotlib.axes.Axes`, whose own types refuse much of what it takes

# Gray levels and hatches, so that a black-and-white print shows what the screen shows.
_REAL = {"facecolor": "0.45", "edgecolor": "0.2", "linewidth": 0.6}
_PADDING = {"facecolor": "1.0", "edgecolor": "0.35", "linewidth": 0.6, "hatch": "////"}
_HEAVY_TAIL = 8  # from this ratio of the longest to the median length on, the length axis is logarithmic
_MAX_NAMED_BUCKETS = 12
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
    pyplot = _import_pyplot()
    if ax is None:
        _, ax = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    edges = _histogram_edges(lengths)
    counts, _, _ = ax.hist(lengths, bins=edges, **_REAL)
    for boundary in bucket_boundaries:
        ax.axvline(boundary - 0.5, color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_xlim(edges[0], edges[-1])
    heavy_tailed = _is_heavy_tailed(lengths)
    if heavy_tailed:
        ax.set_xscale("log")
        _plain_log_labels(ax)
    else:
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # no half timesteps
    ax.set_xlabel("length (timesteps)" + (", logarithmic" if heavy_tailed else ""))
    max_count = float(np.max(counts))
    ax.set_ylim(0, max_count * 1.05 / (1 - _STRIP_HEIGHT))
    ax.set_yticks([tick for tick in ax.get_yticks() if tick <= max_count * 1.05])
    ax.set_ylabel("sequences", loc="bottom")
    ax.spines[["top", "right"]].set_visible(False)
    _draw_padding_strip(ax, bucket_boundaries, padding_stats)
    rows = f"{min(bucket_batch_sizes)}"
    if max(bucket_batch_sizes) > min(bucket_batch_sizes):
        rows += f" to {max(bucket_batch_sizes)}"
    ax.set_title(
        f"{_count(len(lengths), 'sequence')}, {_count(len(bucket_batch_sizes), 'bucket')}, {rows} rows a batch: "
        f"padding efficiency {padding_stats.padding_efficiency:.3f}",
        fontsize="medium",
    )
    return ax


def plot_padding_history(
    epochs: list[int],
    history: list[PaddingStats],
    val_history: list[PaddingStats | None],
    axes: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """Draws the padding efficiency of each epoch, and where the padding of the last one is.

    Args:
        epochs: List of ints, Keras' number of each epoch.
        history: List of `PaddingStats`, one for each epoch.
        val_history: List of `PaddingStats` or None, one for each epoch.
        axes: Optional pair of Matplotlib axes. Defaults to None: a new figure.

    Returns:
        The pair of axes.

    Raises:
        ImportError: If Matplotlib is missing.
        ValueError: If there is no epoch.
    """
    if not history:
        raise ValueError("There is nothing to draw yet. Pass the callback to fit(..., callbacks=[callback]) first.")
    pyplot = _import_pyplot()
    if axes is None:
        _, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(1, 1.25))
    _draw_efficiency(axes[0], epochs, history, val_history)
    _draw_waste(axes[1], history[-1])
    return axes


def _draw_efficiency(
    ax: Axes, epochs: list[int], history: list[PaddingStats], val_history: list[PaddingStats | None]
) -> None:
    # Keras counts from 0 in its hooks and from 1 in its progress bar.
    numbers = np.array(epochs) + 1
    ax.plot(numbers, [stats.padding_efficiency for stats in history], "o-", color="black", label="training")
    random = [stats.real_timesteps / stats.random_batches_timesteps for stats in history]
    longest = [stats.real_timesteps / stats.pad_to_longest_timesteps for stats in history]
    ax.plot(numbers, random, "x--", color="0.35", label="random batches would have")
    ax.plot(numbers, longest, "+:", color="0.35", label="padded to the longest")
    validated = [(number, val) for number, val in zip(numbers, val_history, strict=True) if val is not None]
    if validated:
        efficiencies = [val.padding_efficiency for _, val in validated]
        ax.plot([n for n, _ in validated], efficiencies, "s-", color="0.5", markerfacecolor="white", label="validation")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("epoch")
    ax.set_ylabel("real timesteps / all timesteps")
    ax.set_title("padding efficiency", fontsize="medium")
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.legend(fontsize="small", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_waste(ax: Axes, stats: PaddingStats) -> None:
    buckets = stats.buckets
    if buckets:
        names = [str(bucket.longest) for bucket in buckets]
        real = np.array([bucket.real_timesteps for bucket in buckets], float)
        total = np.array([bucket.total_timesteps for bucket in buckets], float)
        efficiencies = [bucket.padding_efficiency for bucket in buckets]
        ax.set_xlabel("bucket, by its longest padded length (timesteps)")
    else:
        names, efficiencies = ["all batches"], [stats.padding_efficiency]
        real, total = np.array([stats.real_timesteps], float), np.array([stats.total_timesteps], float)
    unit, name = _unit(float(total.max()))
    positions = np.arange(len(names))
    ax.bar(positions, real / unit, width=0.75, label="real", **_REAL)
    ax.bar(positions, (total - real) / unit, width=0.75, bottom=real / unit, label="padding", **_PADDING)
    if len(names) <= _MAX_NAMED_BUCKETS:
        for position, height, efficiency in zip(positions, total / unit, efficiencies, strict=True):
            ax.annotate(
                f"{efficiency:.0%}",
                (position, height),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize="small",
            )
    every = -(-len(names) // 16)
    ax.set_xticks(positions[::every], names[::every], rotation=45 if len(names) > 6 else 0)
    ax.set_xlim(-0.75 - (not buckets), len(names) - 0.25 + (not buckets))
    ax.set_ylim(0, float(total.max()) / unit * 1.22)
    ax.set_ylabel(f"timesteps{name}")
    ax.set_title("last epoch: real timesteps and padding" + (" in each bucket" if buckets else ""), fontsize="medium")
    ax.legend(fontsize="small", frameon=False, ncols=2, loc="upper right")
    ax.spines[["top", "right"]].set_visible(False)


def _draw_padding_strip(ax: Axes, boundaries: list[int], stats: PaddingStats) -> None:
    """Draws each bucket's share of padding above the histogram, as wide as the bucket."""
    strip = ax.inset_axes([0, 1 - _STRIP_HEIGHT + 0.04, 1, _STRIP_HEIGHT - 0.04], sharex=ax)
    left, right = ax.get_xlim()
    edges = np.clip([left, *(boundary - 0.5 for boundary in boundaries), right], left, right)
    percent = np.zeros(len(edges) - 1)
    for bucket in stats.buckets:
        percent[bucket.bucket] = 100 * (1 - bucket.padding_efficiency)
    strip.bar(edges[:-1], percent, np.diff(edges), align="edge", **_PADDING)
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


def _plain_log_labels(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:g}" if length >= 1 else ""))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _unit(largest: float) -> tuple[float, str]:
    for unit, name in ((1e9, " (billions)"), (1e6, " (millions)"), (1e3, " (thousands)")):
        if largest >= unit:
            return unit, name
    return 1.0, ""


def _import_pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "The pictures need Matplotlib, which is not installed: pip install matplotlib, or install "
            "keras-bucketing with its extra `plot`."
        ) from error
    return pyplot
