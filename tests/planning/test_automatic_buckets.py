"""The automatic number of buckets against batches that are cut one row after the other."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_bucketing.planning.automatic_buckets import automatic_bucket_boundaries
from keras_bucketing.planning.batch_cuts import cut_batches
from keras_bucketing.planning.boundaries import best_partitions, boundaries_after, count_lengths
from tests.support.planning import make_buckets
from tests.support.strategies import bucket_options, length_arrays, remainders


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


@settings(max_examples=300)
@given(length_arrays(max_size=40, max_length=12), sizes_by_length(12), remainders())
def test_the_fewest_that_are_close_to_the_best(lengths, sizes, remainder):
    choices, efficiencies = efficiency_by_number(lengths, sizes, remainder)
    enough = min(0.95, 0.975 * efficiencies.max()) - 1e-12
    chosen = automatic_bucket_boundaries(lengths, lambda upper: sizes[upper - 1], remainder)
    number = choices.index(chosen)
    assert efficiencies[number] >= enough
    # Where the mark is hit to the last digit, rounding decides.
    assert all(efficiencies[:number] < enough + 2e-12)


@settings(max_examples=300)
@given(length_arrays(max_size=40, max_length=12), sizes_by_length(12), remainders())
@example(  # five buckets are enough, seven would save most, three save more than five
    np.array([1, 1, 1, 1, 1, 1, 1, 2, 3, 6, 7, 7, 8, 9, 10, 11, 11, 12]),
    np.array([3, 3, 3, 3, 3, 3, 2, 2, 2, 1, 1, 1]),
    "spill",
)
def test_where_shapes_are_compiled_no_bucket_saves_less_than_one_percent(lengths, sizes, remainder):
    choices, efficiencies = efficiency_by_number(lengths, sizes, remainder)
    options = {"batch_rows": lambda upper: sizes[upper - 1], "remainder": remainder}
    number = choices.index(automatic_bucket_boundaries(lengths, few_shapes=True, **options))
    most = choices.index(automatic_bucket_boundaries(lengths, **options))
    assert number <= most
    padded = 1 / np.maximum(efficiencies, 1e-300)  # per real timestep
    for fewer in range(number):
        assert padded[number] <= padded[fewer] * 0.99 ** (number - fewer) * (1 + 1e-12)
    for more in range(number + 1, most + 1):
        assert padded[more] >= padded[number] * 0.99 ** (more - number) * (1 - 1e-12)


@settings(max_examples=300)
@given(length_arrays(max_size=80), bucket_options(), remainders(), st.booleans(), st.integers(1, 12))
def test_no_bucket_has_less_than_a_batch_and_the_last_has_a_full_one(lengths, options, remainder, to_boundary, minlen):
    options = {name: value for name, value in options.items() if name not in ("num_buckets", "bucket_boundaries")}
    options.pop("bucket_batch_sizes", None)
    options |= {"remainder": remainder, "pad_to_bucket_boundary": to_boundary, "minlen": minlen}
    buckets, multiple = make_buckets(lengths, options)
    if len(buckets.batch_sizes) == 1:
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
    chosen = automatic_bucket_boundaries(lengths, np.ones_like)
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
        np.array(lengths), lambda upper: np.full(len(upper), batch_size), few_shapes=few_shapes
    )
    assert chosen == boundaries


def test_a_row_that_pads_its_batch_whatever_the_buckets_are_does_not_ask_for_many():
    lengths = np.array([*range(10, 60)] * 40 + [5000])
    boundaries = automatic_bucket_boundaries(lengths, lambda upper: np.full(len(upper), 32))
    assert 2 <= len(boundaries) + 1 <= 8
