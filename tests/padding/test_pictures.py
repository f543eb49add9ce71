"""The pictures show what the figures say."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from keras_bucketing.padding.pictures import plot_buckets, plot_padding_history
from keras_bucketing.padding.stats import PaddingStats

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install keras-bucketing[plot]")


@pytest.fixture(autouse=True)
def without_windows():
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def stats_of(lengths, boundaries, rows=4):
    lengths = np.sort(lengths)
    splits = np.append(np.arange(0, lengths.size, rows), lengths.size)
    padded = np.maximum.reduceat(lengths, splits[:-1])
    buckets = np.searchsorted(boundaries, padded, side="right") if boundaries else None
    return PaddingStats.from_batches(lengths, splits, padded, buckets)


def draw(ax):
    ax.figure.canvas.draw()


def test_buckets_show_their_boundaries_and_their_padding():
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    stats = stats_of(lengths, [10, 25])
    ax = plot_buckets(lengths, [10, 25], [4, 4, 4], stats)
    draw(ax)
    lines = sorted(line.get_xdata()[0] for line in ax.lines)
    assert lines == [9.5, 24.5]
    assert sum(patch.get_height() for patch in ax.patches) == 200
    (strip,) = ax.child_axes
    shares = [patch.get_height() for patch in strip.patches]
    assert shares == pytest.approx([100 * (1 - bucket.padding_efficiency) for bucket in stats.buckets])
    assert ax.get_xscale() == "linear"
    assert f"{stats.padding_efficiency:.3f}" in ax.get_title()


def test_a_heavy_tail_gets_a_logarithmic_axis_with_plain_numbers():
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 1.2, 3000).astype(int), 1, 5000)
    ax = plot_buckets(lengths, [50, 200, 900], [32, 16, 8, 2], stats_of(lengths, [50, 200, 900]))
    draw(ax)
    assert ax.get_xscale() == "log"
    assert {"10", "100", "1000"} <= {label.get_text() for label in ax.get_xticklabels()}
    assert "2 to 32 rows" in ax.get_title()


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [1, 1000]])
def test_few_lengths_can_be_drawn(lengths):
    ax = plot_buckets(np.array(lengths), [], [4], stats_of(np.array(lengths), [3000]))
    draw(ax)
    assert sum(patch.get_height() for patch in ax.patches) == len(lengths)


def test_given_axes_are_used():
    from matplotlib import pyplot

    _, ax = pyplot.subplots()
    assert plot_buckets(np.array([3, 4]), [], [2], stats_of(np.array([3, 4]), [9]), ax=ax) is ax
    _, axes = pyplot.subplots(1, 2)
    assert plot_padding_history([0], [stats_of(np.array([3, 4]), [9])], [None], axes=axes) is axes


def test_history_shows_training_and_validation():
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    history = [stats_of(lengths, [10, 25]) for _ in range(3)]
    efficiency, waste = plot_padding_history([4, 5, 6], history, [None, history[0], None])
    draw(efficiency)
    by_label = {line.get_label(): line for line in efficiency.lines}
    assert list(by_label["training"].get_ydata()) == [stats.padding_efficiency for stats in history]
    assert list(by_label["training"].get_xdata()) == [5, 6, 7]  # as the progress bar counts them
    assert list(by_label["validation"].get_xdata()) == [6]
    bars = [patch.get_height() for patch in waste.patches]
    assert sum(bars) == pytest.approx(history[-1].total_timesteps / 1000)


def test_the_curves_of_the_history_are_the_figures():
    stats = stats_of(np.random.default_rng(0).integers(3, 40, 100), [10, 25])
    efficiency, _ = plot_padding_history([0], [stats], [None])
    curves = {line.get_label(): line.get_ydata()[0] for line in efficiency.lines}
    assert curves == {
        "training": stats.padding_efficiency,
        "random batches would have": stats.real_timesteps / stats.random_batches_timesteps,
        "padded to the longest": stats.real_timesteps / stats.pad_to_longest_timesteps,
    }


def test_history_without_buckets_is_one_bar():
    _, waste = plot_padding_history([0], [stats_of(np.array([3, 4]), [])], [None])
    assert [label.get_text() for label in waste.get_xticklabels()] == ["all batches"]


def test_history_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to draw yet"):
        plot_padding_history([], [], [])


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r"pip install matplotlib, or .* its extra `plot`"):
        plot_buckets(np.array([3]), [], [2], PaddingStats())
