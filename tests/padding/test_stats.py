"""The numbers of padding, against plain loops."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.padding.stats import BucketPaddingStats, LeafPaddingStats, PaddingStats
from keras_bucketing.planning.forecast import expected_random_timesteps


@st.composite
def batches(draw, *, min_size=0):
    """Batches as lists of (rows' lengths, padded length, bucket)."""
    rows = st.lists(st.integers(0, 12), max_size=5)
    batch = st.tuples(rows, st.integers(0, 4), st.integers(0, 3))
    drawn = draw(st.lists(batch, min_size=min_size, max_size=6))
    return [(lengths, max(lengths, default=0) + extra, bucket) for lengths, extra, bucket in drawn]


def stats_of(drawn, buckets=True, left_out=0):
    return PaddingStats.from_batches(
        np.array(list(itertools.chain(*(lengths for lengths, _, _ in drawn))), np.int64),
        np.cumsum([0, *(len(lengths) for lengths, _, _ in drawn)]),
        np.array([padded for _, padded, _ in drawn], np.int64),
        np.array([bucket for _, _, bucket in drawn], np.int64) if buckets else None,
        left_out,
    )


@given(batches())
def test_figures_are_those_of_a_plain_loop(drawn):
    stats = stats_of(drawn, left_out=3)
    assert stats.num_sequences == sum(len(lengths) for lengths, _, _ in drawn)
    assert stats.num_batches == len(drawn)
    assert stats.real_timesteps == sum(sum(lengths) for lengths, _, _ in drawn)
    assert stats.total_timesteps == sum(len(lengths) * padded for lengths, padded, _ in drawn)
    assert stats.longest == max((max(lengths, default=0) for lengths, _, _ in drawn), default=0)
    assert stats.shapes == tuple(sorted({(len(lengths), padded) for lengths, padded, _ in drawn}))
    assert stats.left_out == 3
    for bucket in stats.buckets:
        mine = [(lengths, padded) for lengths, padded, index in drawn if index == bucket.bucket]
        assert bucket.num_batches == len(mine)
        assert bucket.num_sequences == sum(len(lengths) for lengths, _ in mine)
        assert bucket.real_timesteps == sum(sum(lengths) for lengths, _ in mine)
        assert bucket.total_timesteps == sum(len(lengths) * padded for lengths, padded in mine)
        assert bucket.longest == max(padded for _, padded in mine)
    assert sorted({index for _, _, index in drawn}) == [bucket.bucket for bucket in stats.buckets]


@given(batches(), batches())
def test_statistics_of_parts_add_up_to_those_of_the_whole(first, second):
    added, whole = stats_of(first, left_out=2) + stats_of(second, left_out=3), stats_of(first + second, left_out=5)
    # The expectation of random batches depends on what can meet in one: parts do not mix.
    parts = stats_of(first).random_batches_timesteps + stats_of(second).random_batches_timesteps
    assert added.random_batches_timesteps == parts
    figures = {**added.to_dict(), "random_batches_timesteps": 0, "speedup_over_random": 0}
    assert figures == {**whole.to_dict(), "random_batches_timesteps": 0, "speedup_over_random": 0}
    assert sum([stats_of(first, left_out=2), stats_of(second, left_out=3)]) == added
    assert PaddingStats() + added == added


def test_parts_of_one_bucket_or_leaf_add_up_and_print_as_they_are():
    buckets = BucketPaddingStats(3, 10, 6, 2, 45, 60) + BucketPaddingStats(3, 12, 1, 1, 12, 12)
    assert buckets == BucketPaddingStats(3, 12, 7, 3, 57, 72)
    leaves = LeafPaddingStats("x['a']", 9, 20, 25) + LeafPaddingStats("x['a']", 7, 10, 15)
    assert leaves == LeafPaddingStats("x['a']", 9, 30, 40)
    assert list(leaves.to_dict().items()) == [
        ("name", "x['a']"),
        ("longest", 9),
        ("real_timesteps", 30),
        ("total_timesteps", 40),
        ("padding_efficiency", 0.75),
    ]


def test_efficiency_and_its_relatives():
    stats = stats_of([([2, 3], 4, 0), ([9, 10, 10], 12, 1)])
    assert stats.padding_efficiency == 34 / 44
    assert stats.padding_ratio == 1 - 34 / 44
    assert stats.pad_to_longest_timesteps == 50
    assert stats.speedup_over_longest == 50 / 44


def test_efficiency_of_nothing_is_nan():
    assert math.isnan(PaddingStats().padding_efficiency)
    assert math.isnan(PaddingStats().padding_ratio)
    assert PaddingStats().to_dict()["padding_efficiency"] is None


def test_seconds_add_up_and_do_not_count_as_a_difference():
    stats = PaddingStats(real_timesteps=6, total_timesteps=8, seconds=2.0)
    assert stats.real_timesteps_per_second == 3.0
    assert (stats + stats).seconds == 4.0
    assert stats == PaddingStats(real_timesteps=6, total_timesteps=8)


def test_prints_as_a_table():
    text = str(stats_of([([2, 3], 4, 0), ([9, 10, 10], 12, 1)], left_out=2))
    assert text.splitlines() == [
        "5 sequences in 2 batches of 2 shapes, 2 left out",
        "34 real of 44 timesteps: padding efficiency 0.7727",
        "padded to the longest (10): 1.14 x as many timesteps; in random batches: 1.09 x",
        "bucket  padded to  sequences  batches  real  timesteps      efficiency",
        "     0          4          2        1     5          8  0.625 #####...",
        "     1         12          3        1    29         36  0.806 ######..",
    ]


def test_json_holds_the_calculated_figures():
    stats = stats_of([([2, 3], 4, 0)])
    figures = json.loads(stats.to_json())
    assert figures["padding_efficiency"] == stats.padding_efficiency
    assert figures["buckets"][0]["padding_efficiency"] == 5 / 8
    assert figures["shapes"] == [[2, 4]]


@pytest.mark.parametrize(
    ("lengths", "splits", "padded"),
    [([1, 2], [0, 2], [2, 2]), ([1, 2, 3], [0, 2], [2]), ([], [0, 1], [4])],
)
def test_arrays_that_do_not_belong_together_are_refused(lengths, splits, padded):
    with pytest.raises(ValueError, match="`batch_splits` must hold one entry more than there are batches"):
        PaddingStats.from_batches(np.array(lengths, int), np.array(splits), np.array(padded))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 6))
def test_random_batches_cost_the_mean_over_all_draws(lengths, rows):
    rows = min(rows, len(lengths))
    draws = [max(draw) for draw in itertools.combinations(lengths, rows)]
    expected = expected_random_timesteps(np.array(lengths), np.array([rows]))
    assert expected == pytest.approx(rows * sum(draws) / len(draws), rel=1e-9)


def test_random_batches_of_a_million_rows_agree_with_a_sample():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4, 0.8, 200_000).astype(int), 1, 2000)
    batches = rng.permutation(lengths).reshape(-1, 32)
    expected = expected_random_timesteps(lengths, np.full(len(batches), 32))
    assert expected == pytest.approx(32 * batches.max(axis=1).sum(), rel=0.02)


def test_a_few_huge_lengths_do_not_need_a_huge_table():
    assert expected_random_timesteps(np.array([2**40, 2**40]), np.array([2])) == 2.0**41


# Several leaves.


@st.composite
def batches_of_leaves(draw):
    """The batches of two or three leaves, by name: the same rows and buckets, other lengths."""
    first = draw(batches(min_size=1))
    leaves = {"a": first}
    for name in draw(st.sampled_from(["b", "bc"])):
        leaves[name] = [
            (lengths, max(lengths, default=0) + draw(st.integers(0, 4)), bucket)
            for lengths, bucket in (
                (draw(st.lists(st.integers(0, 12), min_size=len(rows), max_size=len(rows))), bucket)
                for rows, _, bucket in first
            )
        ]
    return leaves


def stats_of_leaves(leaves, left_out=0):
    first = next(iter(leaves.values()))
    return PaddingStats.from_leaves(
        {name: np.array([*itertools.chain(*(rows for rows, _, _ in leaf))], int) for name, leaf in leaves.items()},
        np.cumsum([0, *(len(rows) for rows, _, _ in first)]),
        {name: np.array([padded for _, padded, _ in leaf], int) for name, leaf in leaves.items()},
        np.array([bucket for _, _, bucket in first], int),
        left_out,
    )


@given(batches_of_leaves())
def test_figures_of_several_leaves_are_those_of_each_together(leaves):
    stats, alone = stats_of_leaves(leaves, left_out=3), {name: stats_of(leaf) for name, leaf in leaves.items()}
    first = next(iter(alone.values()))
    assert (stats.num_sequences, stats.num_batches, stats.left_out) == (first.num_sequences, first.num_batches, 3)
    figures = ("real_timesteps", "total_timesteps", "random_batches_timesteps", "pad_to_longest_timesteps")
    for figure in figures:
        assert getattr(stats, figure) == pytest.approx(sum(getattr(of_leaf, figure) for of_leaf in alone.values()))
    assert stats.longest == max(of_leaf.longest for of_leaf in alone.values())
    assert [leaf.name for leaf in stats.leaves] == list(leaves)
    for leaf in stats.leaves:
        assert leaf.padding_efficiency == pytest.approx(alone[leaf.name].padding_efficiency, nan_ok=True)
        assert leaf.longest == alone[leaf.name].longest
    for index, bucket in enumerate(stats.buckets):
        parts = [of_leaf.buckets[index] for of_leaf in alone.values()]
        assert bucket.total_timesteps == sum(part.total_timesteps for part in parts)
        assert bucket.real_timesteps == sum(part.real_timesteps for part in parts)
        assert bucket.longest == max(part.longest for part in parts)
        assert bucket.num_batches == parts[0].num_batches
    rows = [len(batch) for batch, _, _ in leaves["a"]]
    padded = [[padded for _, padded, _ in leaf] for leaf in leaves.values()]
    assert stats.shapes == tuple(sorted(set(zip(rows, *padded, strict=True))))


@given(batches_of_leaves(), st.integers(1, 5))
def test_statistics_of_several_leaves_add_up(leaves, cut):
    parts = [{name: leaf[part] for name, leaf in leaves.items()} for part in (slice(cut), slice(cut, None))]
    added = sum(map(stats_of_leaves, parts)).to_dict()
    whole = stats_of_leaves(leaves).to_dict()
    not_of_parts = {"random_batches_timesteps": 0, "speedup_over_random": 0}
    assert added | not_of_parts == whole | not_of_parts
    assert PaddingStats() + stats_of_leaves(leaves) == stats_of_leaves(leaves)


def test_several_leaves_print_and_become_json():
    stats = stats_of_leaves({"source": [([2, 3], 4, 0)], "target": [([9, 10], 10, 0)]})
    assert str(stats).splitlines() == [
        "2 sequences in 1 batches of 1 shapes",
        "24 real of 28 timesteps: padding efficiency 0.8571",
        "padded to the longest: 0.93 x as many timesteps; in random batches: 0.93 x",
        "leaf    longest  real  timesteps      efficiency",
        "source        3     5          8  0.625 #####...",
        "target       10    19         20  0.950 ########",
        "bucket  padded to  sequences  batches  real  timesteps      efficiency",
        "     0         10          2        1    24         28  0.857 #######.",
    ]
    assert json.loads(stats.to_json())["leaves"][0] == {
        "name": "source",
        "longest": 3,
        "real_timesteps": 5,
        "total_timesteps": 8,
        "padding_efficiency": 5 / 8,
    }
