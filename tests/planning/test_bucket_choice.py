"""The automatic number of buckets against batches that are cut one row after the other."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.boundaries import (
    best_partitions,
    boundaries_after,
    count_lengths,
    optimal_bucket_boundaries,
)
from keras_bucketing.planning.bucket_choice import automatic_bucket_boundaries, choose_buckets
from keras_bucketing.planning.buckets import check_sizing
from keras_bucketing.planning.cuts import BatchRules, cut_batches
from keras_bucketing.planning.forecast import ShuffledBatches
from tests.support.default_layer import examples
from tests.support.planning import make_buckets, make_planner, plan
from tests.support.strategies import boundary_lists, bucket_options, enough_rows, length_arrays, remainders, seeds


def sizes_by_length(max_length):
    """Rows of a batch for each longest length, as a budget gives them: not growing."""
    return st.lists(st.integers(1, 8), min_size=max_length, max_size=max_length).map(
        lambda rows: np.array(sorted(rows, reverse=True))
    )


def cut_efficiency(lengths, boundaries, sizes, remainder):
    """Real over padded timesteps of batches padded to the end of their bucket; dropped rows are of average length."""
    edges = [-np.inf, *boundaries, np.inf]
    real, padded, spilled = 0.0, 0, []
    for low, high in itertools.pairwise(edges):
        of_bucket = lengths[(lengths >= low) & (lengths < high)]
        longest = of_bucket.max()
        size = sizes[longest - 1]
        waiting = [*spilled, *([of_bucket.mean()] * len(of_bucket) if remainder == "drop" else of_bucket)]
        keeps_partial = remainder == "keep" or (remainder == "spill" and high == np.inf)
        taken = len(waiting) if keeps_partial else len(waiting) // size * size
        real, padded = real + sum(waiting[:taken]), padded + taken * longest
        spilled = waiting[taken:] if remainder == "spill" else []
    return real / padded if padded else 0.0


def efficiency_by_number(lengths, sizes, remainder):
    """The boundaries and the efficiency of 1, 2, ... minimum-padding buckets."""
    distinct, counts = count_lengths(lengths)
    least = np.minimum(sizes[distinct - 1], len(lengths))
    choices = [boundaries_after(distinct, ends) for ends, _ in best_partitions(distinct, counts, least, 32)]
    return choices, np.array([cut_efficiency(lengths, choice, sizes, remainder) for choice in choices])


@settings(max_examples=examples(300))
@given(length_arrays(max_size=40, max_length=12), sizes_by_length(12), st.sampled_from(["keep", "drop"]))
def test_the_fewest_that_are_close_to_the_best(lengths, sizes, remainder):
    choices, efficiencies = efficiency_by_number(lengths, sizes, remainder)
    enough = min(0.95, 0.975 * efficiencies.max()) - 1e-12
    chosen = automatic_bucket_boundaries(lengths, lambda upper: sizes[upper - 1], BatchRules(remainder))
    number = choices.index(chosen)
    assert efficiencies[number] >= enough
    # Where the mark is hit to the last digit, rounding decides.
    assert all(efficiencies[:number] < enough + 2e-12)


@settings(max_examples=examples(300))
@given(length_arrays(max_size=40, max_length=12), sizes_by_length(12), remainders())
@example(  # five buckets are enough, seven would save most, three save more than five
    np.array([1, 1, 1, 1, 1, 1, 1, 2, 3, 6, 7, 7, 8, 9, 10, 11, 11, 12]),
    np.array([3, 3, 3, 3, 3, 3, 2, 2, 2, 1, 1, 1]),
    "spill",
)
def test_where_shapes_are_compiled_no_bucket_saves_less_than_one_percent(lengths, sizes, remainder):
    choices, efficiencies = efficiency_by_number(lengths, sizes, remainder)
    rules = BatchRules(remainder, pad_to_bucket_boundary=True)
    number = choices.index(automatic_bucket_boundaries(lengths, lambda upper: sizes[upper - 1], rules))
    most = int(np.argmax(efficiencies >= min(0.95, 0.975 * efficiencies.max())))
    assert number <= most
    padded = 1 / np.maximum(efficiencies, 1e-300)  # per real timestep
    for fewer in range(number):
        assert padded[number] <= padded[fewer] * 0.99 ** (number - fewer) * (1 + 1e-12)
    for more in range(number + 1, most + 1):
        assert padded[more] >= padded[number] * 0.99 ** (more - number) * (1 - 1e-12)


@settings(max_examples=examples(300))
@given(length_arrays(max_size=80), bucket_options(), remainders(), st.booleans(), st.integers(1, 12))
def test_no_bucket_has_less_than_a_batch_and_the_last_has_a_full_one(lengths, options, remainder, to_boundary, minlen):
    options = {name: value for name, value in options.items() if name not in ("num_buckets", "bucket_boundaries")}
    options.pop("bucket_batch_sizes", None)
    options |= {"remainder": remainder, "pad_to_bucket_boundary": to_boundary, "minlen": minlen}
    buckets, multiple = make_buckets(lengths, options)
    if len(buckets.batch_sizes) == 1 or (remainder == "spill" and not to_boundary):
        return
    assert all(buckets.counts >= buckets.batch_sizes)
    cuts = cut_batches(buckets, remainder, multiple)
    last = cuts.buckets == len(buckets.batch_sizes) - 1
    assert buckets.batch_sizes[-1] in (cuts.stops - cuts.starts)[last]


def test_at_most_32_buckets():
    # 64 lengths, 15 % apart, with equally many timesteps each: two of them in a bucket reach 93 %.
    distinct = (10 * 1.15 ** np.arange(64)).astype(np.int64)
    lengths = np.repeat(distinct, distinct[-1] // distinct)
    _, efficiencies = efficiency_by_number(lengths, np.ones(distinct[-1], np.int64), "spill")
    assert len(efficiencies) == 32
    chosen = automatic_bucket_boundaries(lengths, np.ones_like, BatchRules())
    assert 0.975 * efficiencies[-1] <= efficiencies[len(chosen)] < 0.95


@pytest.mark.parametrize("few_shapes", [False, True])
@pytest.mark.parametrize(
    ("lengths", "batch_size", "boundaries"),
    [
        ([7], 32, []),
        ([7] * 100, 32, []),
        ([1, 2, 3], 32, []),  # fewer rows than a batch
        ([99, 100] * 50, 10, []),  # 99.5 % with a single one
        ([1] * 10 + [100] * 10, 10, [2]),
        ([1] * 10 + [100] * 9, 10, []),  # nine rows are no batch
    ],
)
def test_by_hand(lengths, batch_size, boundaries, few_shapes):
    chosen = automatic_bucket_boundaries(
        np.array(lengths),
        lambda upper: np.full(len(upper), batch_size),
        BatchRules(pad_to_bucket_boundary=few_shapes),
    )
    assert chosen == boundaries


@pytest.mark.parametrize(
    ("rules", "boundaries"),
    [(BatchRules(), [2]), (BatchRules("keep"), []), (BatchRules("drop"), []), (BatchRules("spill", 1, True), [2])],
)
def test_with_spill_a_bucket_may_be_smaller_than_its_batch(rules, boundaries):
    lengths = np.array([1] * 100 + [100] * 9)
    assert automatic_bucket_boundaries(lengths, lambda upper: np.full(len(upper), 10), rules) == boundaries


# With "spill", against batches that are cut by hand and every draw of their rows.


def expected_longest(of_bucket, drawn):
    """The longest of so many rows that are drawn from a bucket, on average."""
    ways = [comb(np.count_nonzero(of_bucket <= length), drawn) for length in [0, *np.unique(of_bucket).tolist()]]
    return sum(np.unique(of_bucket) * np.diff(ways).astype(float)) / ways[-1]


def expected_efficiency(lengths, boundaries, batch_size, apart=None):
    """Real over padded timesteps of rows that spill, on average over the shuffles inside the buckets."""
    edges = [-np.inf, *boundaries, np.inf]
    padded, waiting = 0.0, 0
    for bucket, (low, high) in enumerate(itertools.pairwise(edges)):
        of_bucket = lengths[(lengths >= low) & (lengths < high)]
        own = len(of_bucket)
        while own and (waiting + own >= batch_size or high == np.inf or bucket + 1 == apart):
            size = min(batch_size, waiting + own)
            padded += size * expected_longest(of_bucket, size - waiting)
            own, waiting = own - (size - waiting), 0
        waiting += own
    return lengths.sum() / padded


@settings(max_examples=examples(50))
@given(length_arrays(min_size=100, max_size=140, max_length=25), st.integers(1, 16))
def test_with_spill_the_choice_comes_close_to_the_best_number_of_buckets(lengths, batch_size):
    def efficiency(boundaries):
        return expected_efficiency(lengths, boundaries, batch_size)

    chosen = automatic_bucket_boundaries(lengths, lambda upper: np.full(len(upper), batch_size), BatchRules())
    best = max(efficiency(optimal_bucket_boundaries(lengths, number)) for number in range(1, 33))
    assert efficiency(chosen) >= min(0.95, 0.965 * best) - 1e-5
    # Buckets of a batch of rows each stay where they do as well.
    usual, efficiencies = efficiency_by_number(lengths, np.full(25, batch_size), "spill")
    usual = usual[int(np.argmax(efficiencies >= min(0.95, 0.975 * efficiencies.max()) - 1e-12))]
    if efficiency(usual) >= min(0.95, 0.965 * best) + 1e-5:
        assert chosen == usual


HEAVY_TAILS = {
    "Pareto": 5 * (1 + np.random.default_rng(0).pareto(1.0, 1500)),
    "lognormal": np.random.default_rng(1).lognormal(4, 2, 2000),
    "Cauchy": 50 * np.abs(np.random.default_rng(2).standard_cauchy(1000)),
    "one outlier": np.append(np.random.default_rng(3).uniform(10, 59, 500), 20_000),
    "three outliers": np.append(np.random.default_rng(3).uniform(10, 59, 700), [9_000, 20_000, 20_000]),
    "gamma": np.random.default_rng(4).gamma(2, 40, 1000),
}


@pytest.mark.parametrize("name", HEAVY_TAILS)
def test_heavy_tails_come_close_to_the_best_number_of_buckets(name):
    lengths = np.sort(np.clip(np.rint(HEAVY_TAILS[name]), 1, 10**6).astype(np.int64))
    sizing = check_sizing(32, None, None, 1, 1)

    def efficiency(num_buckets):
        buckets = choose_buckets(lengths, sizing, num_buckets=num_buckets)
        batches = ShuffledBatches.from_buckets(lengths, buckets, BatchRules())
        assert batches.num_batches <= -(-len(lengths) // 32) + (buckets.apart is not None)
        assert batches.padded_timesteps == pytest.approx(
            lengths.sum() / expected_efficiency(lengths, buckets.boundaries, 32, buckets.apart)
        )
        return lengths.sum() / batches.padded_timesteps

    assert efficiency(None) >= min(0.95, 0.96 * max(efficiency(number) for number in range(1, 33)))


@pytest.mark.parametrize("name", HEAVY_TAILS)
def test_where_shapes_are_compiled_another_bucket_saves_less_than_it_costs(name):
    lengths = np.sort(np.clip(np.rint(HEAVY_TAILS[name]), 1, 10**6).astype(np.int64))

    def padded(num_buckets):
        buckets, _ = make_buckets(lengths, {"num_buckets": num_buckets, "pad_to_bucket_boundary": True})
        batches = ShuffledBatches.from_buckets(lengths, buckets, BatchRules(pad_to_bucket_boundary=True))
        return batches.padded_timesteps, len(buckets.batch_sizes)

    chosen, number = padded(None)
    others = [padded(other) for other in range(1, 33)]
    enough = min(lengths.sum() / 0.95, min(timesteps for timesteps, _ in others) / 0.975)
    # Those of minimum padding, some of which have fewer rows than a batch; 3.5 % are given for buckets that have one.
    worth = [timesteps / 0.99**other for timesteps, other in others if timesteps >= enough]
    assert 0.965 * chosen / 0.99**number <= min(worth)


@pytest.mark.parametrize("name", HEAVY_TAILS)
def test_budgets_come_close_to_the_best_number_of_buckets_with_about_as_many_batches(name):
    """One bucket of all rows has batches of one row each where the budget holds the longest once: no padding at all."""
    lengths = np.sort(np.clip(np.rint(HEAVY_TAILS[name]), 1, 10**6).astype(np.int64))
    sizing = check_sizing(None, None, max(32 * int(lengths.mean()), int(lengths.max())), 1, 1)

    def batches(num_buckets):
        buckets = choose_buckets(lengths, sizing, num_buckets=num_buckets)
        return ShuffledBatches.from_buckets(lengths, buckets, BatchRules())

    chosen, others = batches(None), [batches(number) for number in range(1, 33)]
    comparable = [other for other in others if other.num_batches <= 1.05 * chosen.num_batches + 1]
    best = max(lengths.sum() / other.padded_timesteps for other in [chosen, *comparable])
    assert lengths.sum() / chosen.padded_timesteps >= min(0.95, 0.96 * best)


# A few outliers are kept apart.


@pytest.mark.parametrize(
    "options", [{}, {"num_buckets": 8}, {"bucket_boundaries": [30, 60]}, {"pad_to_bucket_boundary": True}]
)
@pytest.mark.parametrize("outliers", [[20_000], [20_000] * 3, [15_000, 20_000]])
def test_outliers_have_a_batch_of_their_own(outliers, options):
    lengths = np.array([*range(10, 60)] * 10 + outliers)
    np.random.default_rng(0).shuffle(lengths)
    planner = make_planner(lengths, options)
    of_epoch = plan(planner)
    assert len(of_epoch) == 17
    assert sorted(np.concatenate([*of_epoch])) == list(range(len(lengths)))
    batches = [lengths[rows] for rows in of_epoch if lengths[rows].max() > 100]
    assert [sorted(batch) for batch in batches] == [outliers]
    assert lengths.sum() / sum(len(rows) * lengths[rows].max() for rows in of_epoch) > 0.8


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        ([*range(10, 60)] * 2 + [20_000] * 2, {}),  # more than one in a hundred
        ([*range(10, 60)] * 10 + [60], {}),  # costs nothing
        ([*range(10, 60)] * 10 + [20_000], {"remainder": "keep"}),
        ([*range(10, 60)] * 10 + [20_000], {"remainder": "drop"}),
        ([*range(10, 60)] * 10 + [20_000], {"num_buckets": 1}),
        ([35] * 9985 + [20_000], {"bucket_boundaries": [36]}),  # one row spills
        ([1] * 512 + [20_000], {"bucket_boundaries": [2]}),  # none does
    ],
)
def test_others_are_not(lengths, options):
    buckets, _ = make_buckets(np.array(lengths), options)
    assert buckets.apart is None


@settings(max_examples=examples(60))
@given(
    length_arrays(min_size=100, max_size=130),
    st.lists(st.integers(1, 4000), min_size=1, max_size=1),
    bucket_options(longest=4000),
    remainders(),
    st.booleans(),
    seeds(),
)
def test_with_outliers_every_row_comes_once_in_a_constant_number_of_batches(
    lengths, outliers, options, remainder, to_boundary, seed
):
    lengths = np.append(lengths, outliers)
    options |= {"pad_to_bucket_boundary": to_boundary}
    with enough_rows():
        buckets, multiple = make_buckets(lengths, options | {"remainder": remainder})
        cuts = cut_batches(buckets, remainder, multiple)
        planner = make_planner(lengths, options, remainder)
    sizes = cuts.stops - cuts.starts
    assert (cuts.starts[1:] >= cuts.stops[:-1]).all()
    assert not (sizes % multiple).any()
    if remainder == "spill":
        assert (sizes < np.array(buckets.batch_sizes)[cuts.buckets]).sum() <= 1 + (buckets.apart is not None)
        assert len(lengths) - sizes.sum() == len(lengths) % multiple
    else:
        assert buckets.apart is None
    shapes = {(len(rows), padded) for epoch in range(3) for rows, padded in shapes_of(plan(planner, epoch, seed))}
    if to_boundary and remainder == "spill":
        assert len(shapes) <= len(buckets.batch_sizes) + 1 + (buckets.apart is not None and multiple > 1)
    for epoch in range(3):
        rows = np.concatenate([*plan(planner, epoch, seed)])
        assert len(set(rows.tolist())) == len(rows) == sizes.sum()


def shapes_of(of_epoch):
    return zip(of_epoch, of_epoch.padded_lengths.tolist(), strict=True)


# Lengths and sizing options to buckets.


@settings(max_examples=examples(200))
@given(length_arrays(), boundary_lists())
def test_each_row_is_in_the_bucket_whose_boundaries_hold_its_length(lengths, boundaries):
    buckets, _ = make_buckets(lengths, {"bucket_boundaries": boundaries})
    edges = list(itertools.pairwise([0, *boundaries, np.inf]))
    for length, bucket in zip(lengths, buckets.row_buckets, strict=True):
        low, high = edges[bucket]
        assert low <= length < high
    assert buckets.boundaries == boundaries
    assert np.array_equal(buckets.counts, [((lengths >= low) & (lengths < high)).sum() for low, high in edges])


@settings(max_examples=examples(200))
@given(length_arrays(), bucket_options())
def test_every_bucket_has_a_batch_size_of_the_right_multiple(lengths, options):
    buckets, multiple = make_buckets(lengths, options)
    assert len(buckets.batch_sizes) == len(buckets.boundaries) + 1 == len(buckets.upper_lengths)
    assert all(size >= 1 and size % multiple == 0 for size in buckets.batch_sizes)


@settings(max_examples=examples(200))
@given(length_arrays(), st.integers(1, 4), st.integers(0, 300), st.booleans(), st.integers(1, 25))
def test_a_budget_gives_the_most_rows_that_fit(lengths, multiple, extra, pad_to_boundary, minlen):
    budget = multiple * max(int(lengths.max()), minlen) + extra
    options = {"max_timesteps_per_batch": budget, "batch_size_multiple": multiple, "num_buckets": 3, "minlen": minlen}
    buckets, _ = make_buckets(lengths, {**options, "pad_to_bucket_boundary": pad_to_boundary})
    for bucket, size in enumerate(buckets.batch_sizes):
        longest = max(lengths[buckets.row_buckets == bucket].max(), minlen)
        assert size * longest <= budget < (size + multiple) * longest


@settings(max_examples=examples(100))
@given(length_arrays(), st.none() | st.integers(1, 6), st.integers(1, 25))
def test_boundaries_are_chosen_for_the_lengths_that_batches_are_padded_to(lengths, num_buckets, minlen):
    options = {"num_buckets": num_buckets, "batch_size": 2}
    buckets, _ = make_buckets(lengths, options | {"minlen": minlen})
    padded, _ = make_buckets(np.maximum(lengths, minlen), options)
    assert buckets.boundaries == padded.boundaries
    assert np.array_equal(buckets.row_buckets, padded.row_buckets)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [32, 32]),
        ({"batch_size_multiple": 5}, [30, 30]),
        ({"batch_size_multiple": 40}, [40, 40]),
        ({"batch_size": 7}, [7, 7]),
        ({"bucket_batch_sizes": np.array([4, 2])}, [4, 2]),
        # The first bucket's longest row has 2 timesteps, although its boundary allows 9.
        ({"max_timesteps_per_batch": 90}, [45, 9]),
        ({"max_timesteps_per_batch": 90, "pad_to_bucket_boundary": True}, [10, 9]),
    ],
)
def test_batch_sizes_by_hand(options, sizes):
    buckets, _ = make_buckets(np.array([1, 2, 10]), {"bucket_boundaries": [10], **options})
    assert buckets.batch_sizes == sizes


def test_sizes_without_boundaries_choose_one_bucket_for_each_size():
    buckets, _ = make_buckets(np.array([1, 2, 2, 9, 10]), {"bucket_batch_sizes": [4, 2]})
    assert buckets.boundaries == [3]


def test_there_may_be_as_many_sizes_as_distinct_lengths():
    buckets = choose_buckets(np.array([1, 2, 2, 5]), check_sizing(None, [4, 2, 1], None, 1, 1))
    assert (buckets.boundaries, buckets.batch_sizes) == ([2, 3], [4, 2, 1])


def test_an_empty_bucket_needs_no_budget():
    buckets, _ = make_buckets(np.array([1, 2]), {"bucket_boundaries": [5, 100], "max_timesteps_per_batch": 10})
    assert buckets.batch_sizes[0] == 5


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"bucket_boundaries": [5, 3]},
            ValueError,
            "`bucket_boundaries` must increase. Received 3 at bucket_boundaries[1] after 5. Sort them",
        ),
        ({"bucket_boundaries": [3, 3]}, ValueError, "Received 3 at bucket_boundaries[1] after 3."),
        (
            {"bucket_boundaries": [0, 3]},
            ValueError,
            "`bucket_boundaries[0]` is too small. Expected an int >= 1, received 0.",
        ),
        ({"bucket_boundaries": [2.5]}, TypeError, "`bucket_boundaries[0]` must be an integer."),
        ({"bucket_boundaries": 5}, TypeError, "`bucket_boundaries` must be a flat list of integers. Received 5 (int)."),
        (
            {"bucket_boundaries": [3], "num_buckets": 3},
            ValueError,
            "Expected 2, one more than there are boundaries, received 3.",
        ),
        ({"num_buckets": 0}, ValueError, "`num_buckets` is too small. Expected an int >= 1, received 0."),
        (
            {"bucket_boundaries": [3], "bucket_batch_sizes": [1, 2, 3]},
            ValueError,
            "`bucket_batch_sizes` must have one entry for each bucket. Expected 2 for the boundaries [3], received 3.",
        ),
        (
            {"num_buckets": 3, "bucket_batch_sizes": [1, 2]},
            ValueError,
            "`num_buckets` must match `bucket_batch_sizes`. Expected 2, one for each size, received 3.",
        ),
        (
            {"bucket_batch_sizes": [1, 2, 3, 4, 5]},
            ValueError,
            "`bucket_batch_sizes` has more entries than there are distinct lengths. Expected at most 4, received 5.",
        ),
        (
            {"max_timesteps_per_batch": 8},
            ValueError,
            (
                "`max_timesteps_per_batch` must hold at least 1 row of every sequence. Expected at least 9 for the "
                "9 timesteps of x[2], received 8. Raise the budget, or cut long sequences with maxlen=8."
            ),
        ),
        (
            {"max_timesteps_per_batch": 20, "batch_size_multiple": 4},
            ValueError,
            (
                "must hold at least 4 rows of every sequence. Expected at least 36 for the 9 timesteps of x[2], "
                "received 20. Raise the budget, or cut long sequences with maxlen=5."
            ),
        ),
        (
            {"max_timesteps_per_batch": 15, "bucket_boundaries": [20], "pad_to_bucket_boundary": True},
            ValueError,
            (
                "Expected at least 19 for the 9 timesteps of x[2], padded to 19, received 15. Raise the budget, or "
                "lower that bucket's boundary."
            ),
        ),
        (
            {"max_timesteps_per_batch": 11, "minlen": 12},
            ValueError,
            "Expected at least 12 for the 9 timesteps of x[2], padded to 12, received 11. Raise the budget, or lower m",
        ),
        (
            {"max_timesteps_per_batch": 3, "batch_size_multiple": 4},
            ValueError,
            "Expected at least 36 for the 9 timesteps of x[2], received 3. Raise the budget.",
        ),
    ],
)
def test_buckets_that_do_not_fit_are_refused(options, error, text):
    with pytest.raises(error) as raised:
        make_buckets(np.array([4, 1, 9, 2]), options)
    assert text in str(raised.value)


def test_an_error_names_rows_as_the_user_counts_them():
    with pytest.raises(ValueError, match=r"9 timesteps of x\[7\]"):
        choose_buckets(np.array([4, 9]), check_sizing(None, None, 8, 1, 1), kept=np.array([3, 7]))
