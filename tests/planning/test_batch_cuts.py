"""Rows cut into batches: sizes, buckets, and what is left over."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.planning import bucketings, cut_or_reject, make_planner
from tests.support.strategies import seeds


@settings(max_examples=150)
@given(bucketings())
def test_cuts_never_overlap_and_leave_out_only_what_the_remainder_allows(bucketing):
    _, buckets, multiple, remainder, _ = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    sizes = cuts.stops - cuts.starts
    assert (sizes > 0).all()
    assert not (sizes % multiple).any()
    assert (cuts.starts[1:] >= cuts.stops[:-1]).all()
    assert cuts.starts[0] >= 0
    assert cuts.stops[-1] <= buckets.counts.sum()
    full = np.array(buckets.batch_sizes)[cuts.buckets]
    assert (sizes <= full).all()
    if remainder == "drop":
        assert (sizes == full).all()
        batches = np.bincount(cuts.buckets, minlength=len(buckets.counts))
        assert np.array_equal(batches, buckets.counts // buckets.batch_sizes)
    else:
        assert buckets.counts.sum() - sizes.sum() < multiple
    if remainder == "spill":
        assert (sizes < full).sum() <= 1
    if remainder == "keep":
        assert np.bincount(cuts.buckets[sizes < full]).max(initial=0) <= 1


@settings(max_examples=150)
@given(bucketings(), seeds())
def test_batches_stay_inside_their_bucket_but_for_rows_spilled_from_shorter_ones(bucketing, seed):
    _, buckets, multiple, remainder, _ = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    # Whichever rows are spare, and whichever bucket they are of.
    shuffled = np.random.default_rng(seed).permutation(buckets.row_buckets)
    by_bucket = np.sort(shuffled[cuts.num_spare :])
    spilled = np.zeros(len(buckets.counts), int)
    for start, stop, bucket in zip(cuts.starts, cuts.stops, cuts.buckets, strict=True):
        rows = by_bucket[start:stop]
        assert (rows <= bucket).all()
        spilled += np.bincount(rows[rows < bucket], minlength=len(spilled))
    if remainder == "drop":
        assert not spilled.any()
    elif remainder == "keep":
        assert (spilled < multiple + cuts.num_spare).all()
    else:
        assert (spilled < np.array(buckets.batch_sizes) + cuts.num_spare).all()


@settings(max_examples=150)
@given(bucketings(sizings=["max_timesteps_per_batch"]))
def test_no_batch_exceeds_the_budget_of_timesteps(bucketing):
    lengths, buckets, multiple, remainder, options = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    ordered = np.sort(lengths)
    for start, stop, bucket in zip(cuts.starts, cuts.stops, cuts.buckets, strict=True):
        padded = buckets.upper_lengths[bucket] if options["pad_to_bucket_boundary"] else ordered[start:stop].max()
        assert (stop - start) * padded <= options["max_timesteps_per_batch"]


@pytest.mark.parametrize(
    ("lengths", "options", "remainder", "text"),
    [
        (
            [1, 2],
            {"batch_size_multiple": 3},
            "spill",
            (
                "`x` has too few sequences for a single batch. Expected at least 3 (batch_size_multiple x "
                "num_shards), received 2. Lower batch_size_multiple or num_shards."
            ),
        ),
        (
            [1, 1, 2],
            {"batch_size": 4, "bucket_boundaries": [2]},
            "drop",
            (
                "No bucket of `x` has enough sequences for a full batch, and remainder='drop' leaves the rest out. "
                'Received [2, 1] sequences for batches of [4, 4]. Lower the batch size or pass remainder="spill".'
            ),
        ),
    ],
)
def test_an_epoch_without_batches_is_refused(lengths, options, remainder, text):
    with pytest.raises(ValueError, match="batch") as error:
        make_planner(np.array(lengths), options, remainder)
    assert str(error.value) == text
