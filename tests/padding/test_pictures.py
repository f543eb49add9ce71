"""The pictures show what the figures say."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.padding.colors import BUCKETS, PADDING
from keras_bucketing.padding.pictures import plot_buckets, plot_padding_history
from keras_bucketing.padding.report import padding_report
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
    assert f"{stats.padding_efficiency:.3f}" in ax.get_title(loc="left")


def test_a_heavy_tail_gets_a_logarithmic_axis_with_plain_numbers():
    lengths = np.clip(np.random.default_rng(0).lognormal(4, 1.2, 3000).astype(int), 1, 5000)
    ax = plot_buckets(lengths, [50, 200, 900], [32, 16, 8, 2], stats_of(lengths, [50, 200, 900]))
    draw(ax)
    assert ax.get_xscale() == "log"
    assert {"10", "100", "1000"} <= {label.get_text() for label in ax.get_xticklabels()}
    assert "2 to 32 rows" in ax.get_title(loc="left")


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [1, 1000]])
def test_few_lengths_can_be_drawn(lengths):
    ax = plot_buckets(np.array(lengths), [], [4], stats_of(np.array(lengths), [3000]))
    draw(ax)
    assert sum(patch.get_height() for patch in ax.patches) == len(lengths)


LENGTHS = np.random.default_rng(0).integers(3, 40, 60)


def dataset_of(lengths=LENGTHS, **options):
    options = {"batch_size": 4, "seed": 0, **options}
    return BucketedSequence.from_row_splits(np.zeros(lengths.sum(), np.int8), np.cumsum([0, *lengths]), **options)


def trained_callback():
    dataset = dataset_of()
    callback = PaddingStatsCallback(dataset)
    for epoch in range(2):
        callback._record.add_epoch(epoch, dataset.padding_stats(epoch), None)
    return callback


PLOTS = {
    "buckets": lambda ax: dataset_of().plot(ax=ax),
    "epoch": lambda ax: dataset_of().plot_epoch(ax=ax),
    "report": lambda ax: padding_report(LENGTHS, 4).plot(ax=ax),
    "history": lambda ax: trained_callback().plot(ax=ax),
    "stats": lambda ax: dataset_of().padding_stats().plot(ax=ax),
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_returns_axes_those_that_were_given(name):
    from matplotlib import pyplot
    from matplotlib.axes import Axes

    assert isinstance(PLOTS[name](None), Axes)
    _, (_, ax) = pyplot.subplots(1, 2)
    assert PLOTS[name](ax) is ax


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_in_the_colors_of_the_package_on_any_background(name, style):
    from matplotlib import pyplot
    from matplotlib.colors import to_hex, to_rgba

    with pyplot.style.context(style):
        ax = PLOTS[name](None)
        text = to_rgba(pyplot.rcParams["text.color"])
        assert to_rgba(ax.figure.get_facecolor()) == to_rgba(pyplot.rcParams["figure.facecolor"])
        assert {to_rgba(each.get_color()) for each in ax.texts} <= {text}
    filled = [to_hex(patch.get_facecolor(), keep_alpha=True) for patch in ax.patches]
    filled += [to_hex(color, keep_alpha=True) for group in ax.collections for color in group.get_facecolors()]
    lines = [to_hex(line.get_color(), keep_alpha=True) for line in ax.lines]
    allowed = {f"{color}ff" for color in (*BUCKETS, "#808080")} | {PADDING}
    assert filled or lines
    assert {*filled, *lines} <= allowed


def drawn_boxes(ax):
    """The batches and the rows of a drawn epoch, as width and height of each box."""
    return [
        np.array([np.ptp(path.vertices, axis=0) for path in group.get_paths()]).round(6) for group in ax.collections
    ]


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"pad_to_bucket_boundary": True}, {"num_buckets": 9}])
def test_an_epoch_is_drawn_as_it_is_planned(options):
    dataset = dataset_of(**options)
    ax = dataset.plot_epoch(2)
    plan = dataset.epoch_plan(2)
    batches, rows = drawn_boxes(ax)
    assert batches.tolist() == [[len(rows), padded] for rows, padded in zip(plan, plan.padded_lengths, strict=True)]
    assert rows[:, 1].tolist() == [length for batch in plan for length in sorted(LENGTHS[batch], reverse=True)]
    assert (rows[:, 0] == 1).all()
    assert ax.get_title(loc="left") == (
        f"epoch 2, 15 batches: padding efficiency {dataset.padding_stats(2).padding_efficiency:.3f}"
    )


def test_of_many_batches_some_are_drawn_from_the_first_to_the_last():
    dataset = dataset_of(shuffle=False)
    ax = dataset.plot_epoch(max_batches=3)
    batches, _ = drawn_boxes(ax)
    assert batches[:, 1].tolist() == dataset.epoch_plan(0).padded_lengths[[0, 7, 14]].tolist()
    assert ax.get_title(loc="left").startswith("epoch 0, 3 of 15 batches: ")
    for wrong, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="`max_batches`"):
            dataset.plot_epoch(max_batches=wrong)


def test_rows_have_the_color_of_their_bucket():
    from matplotlib.colors import to_hex

    dataset = dataset_of(num_buckets=3)
    ax = dataset.plot_epoch()
    _, rows = drawn_boxes(ax)
    bucket_of = np.searchsorted(dataset.bucket_boundaries, rows[:, 1], side="right")
    assert [to_hex(color) for color in ax.collections[1].get_facecolors()] == [BUCKETS[bucket] for bucket in bucket_of]
    first, second = dataset.bucket_boundaries
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == [f"1 to {first - 1}", f"{first} to {second - 1}", f"{second} to {LENGTHS.max()}", "padding"]


def test_rows_that_an_epoch_leaves_out_are_not_drawn():
    x = [[1], [], [1, 2, 3], [1, 2]]
    dataset = BucketedSequence(x, on_empty="drop", batch_size=2, remainder="drop", num_buckets=1, seed=0)
    _, rows = drawn_boxes(dataset.plot_epoch())
    assert sorted(rows[:, 1]) == sorted(len(x[row]) for row in dataset.epoch_plan(0).rows)


@pytest.mark.parametrize("lengths", [LENGTHS, np.array([7] * 9)])
def test_the_report_is_drawn_as_its_table(lengths):
    report = padding_report(lengths, 4)
    ax = report.plot()
    real, padding = (np.array([bar.get_width() for bar in bars]) for bars in ax.containers)
    ways = [*report.strategies, *([report.recommendation.call] if report.recommendation.worth_it else [])]
    unit = 1000 if max(way.total_timesteps for way in ways) >= 1000 else 1
    assert (real * unit).tolist() == pytest.approx([way.real_timesteps for way in ways])
    assert ((real + padding) * unit).tolist() == pytest.approx([way.total_timesteps for way in ways])
    (bold,) = [text.get_text() for text in ax.texts if text.get_weight() == "bold"]
    assert bold.startswith("recommended: " if report.recommendation.worth_it else "random batches, 100% real")


def test_history_shows_training_and_validation():
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    history = [stats_of(lengths, [10, 25]) for _ in range(3)]
    ax = plot_padding_history([4, 5, 6], history, [None, history[0], None])
    draw(ax)
    by_label = {line.get_label(): line for line in ax.lines}
    assert list(by_label["training"].get_ydata()) == [stats.padding_efficiency for stats in history]
    assert list(by_label["training"].get_xdata()) == [5, 6, 7]  # as the progress bar counts them
    assert list(by_label["validation"].get_xdata()) == [6]


def test_the_curves_of_the_history_are_the_figures():
    stats = stats_of(np.random.default_rng(0).integers(3, 40, 100), [10, 25])
    curves = {line.get_label(): line.get_ydata()[0] for line in plot_padding_history([0], [stats], [None]).lines}
    assert curves == {
        "training": stats.padding_efficiency,
        "random batches would have": stats.real_timesteps / stats.random_batches_timesteps,
        "padded to the longest": stats.real_timesteps / stats.pad_to_longest_timesteps,
    }


def test_statistics_are_a_bar_for_each_bucket_or_one():
    stats = stats_of(np.random.default_rng(0).integers(3, 40, 200), [10, 25])
    ax = stats.plot()
    assert sum(patch.get_height() for patch in ax.patches) == pytest.approx(stats.total_timesteps / 1000)
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(bucket.longest) for bucket in stats.buckets]
    single = stats_of(np.array([3, 4]), []).plot()
    assert [label.get_text() for label in single.get_xticklabels()] == ["all batches"]
    with pytest.raises(ValueError, match="figures of no batch"):
        PaddingStats().plot()


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
