"""Rows cut into batches: sizes, buckets, and what is left over."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.data.rows import LeafLengths, RowLengths
from keras_bucketing.planning.cuts import batch_spans, min_padded_lengths
from tests.support.default_layer import examples
from tests.support.planning import bucketings, cut_or_reject, make_buckets, make_planner, plan
from tests.support.strategies import boundary_lists, bucket_options, enough_rows, length_arrays, remainders, seeds


@settings(max_examples=examples(150))
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


@settings(max_examples=examples(150))
@given(bucketings())
def test_spans_are_cut_into_batches_of_their_size_one_after_the_other(bucketing):
    _, buckets, multiple, remainder, _ = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    spans = batch_spans(buckets.counts, buckets.batch_sizes, remainder, multiple)
    by_hand = [
        (start, min(start + size, end), bucket)
        for bucket, (begin, end, size) in enumerate(zip(spans.begins, spans.ends, buckets.batch_sizes, strict=True))
        for start in range(begin, end, size)
    ]
    assert list(zip(cuts.starts, cuts.stops, cuts.buckets, strict=True)) == by_hand
    assert np.array_equal(spans.num_batches, np.bincount(cuts.buckets, minlength=len(spans.begins)))
    assert spans.rows.sum() == (cuts.stops - cuts.starts).sum()


@settings(max_examples=examples(150))
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


@settings(max_examples=examples(150))
@given(bucketings(sizings=["max_timesteps_per_batch"]))
def test_no_batch_exceeds_the_budget_of_timesteps(bucketing):
    lengths, buckets, multiple, remainder, options = bucketing
    cuts = cut_or_reject(buckets, remainder, multiple)
    ordered = np.sort(lengths)
    for start, stop, bucket in zip(cuts.starts, cuts.stops, cuts.buckets, strict=True):
        padded = buckets.upper_lengths[bucket] if options["pad_to_bucket_boundary"] else ordered[start:stop].max()
        assert (stop - start) * padded <= options["max_timesteps_per_batch"]


@st.composite
def several_leaves(draw):
    """Two leaves of x and labels of their own length."""
    a = draw(length_arrays(min_size=2))
    b = draw(length_arrays(min_size=len(a), max_size=len(a)))
    labels = draw(length_arrays(min_size=len(a), max_size=len(a), min_length=0, max_length=30))
    return RowLengths((LeafLengths("a", a), LeafLengths("b", b), LeafLengths("y", labels, is_label=True)))


@st.composite
def budgets(draw):
    """Options with a budget that holds rows of 30 timesteps, also padded to a boundary of up to 25."""
    multiple, quadratic = draw(st.integers(1, 3)), draw(st.none() | st.integers(1, 60))
    row = 30 if quadratic is None else 30 + -(-(30**2) // quadratic)
    options = {"batch_size_multiple": multiple, "quadratic_length": quadratic}
    options["max_timesteps_per_batch"] = multiple * row + draw(st.integers(0, 200))
    options["pad_to_bucket_boundary"] = draw(st.booleans())
    options["minlen"] = draw(st.just(1) | st.integers(1, 25))
    boundaries = draw(st.none() | boundary_lists())
    return (
        options
        | ({"num_buckets": draw(st.none() | st.integers(1, 6))} if boundaries is None else {})
        | ({} if boundaries is None else {"bucket_boundaries": boundaries})
    )


@settings(max_examples=examples(150))
@given(several_leaves(), budgets(), remainders(), seeds())
def test_no_leaf_of_a_batch_exceeds_the_budget(leaves, options, remainder, seed):
    with enough_rows():
        planner = make_planner(leaves, options, remainder)
    of_epoch = plan(planner, 0, seed)
    quadratic = options["quadratic_length"]
    for rows, *padded in zip(of_epoch, *of_epoch.leaf_padded_lengths.values(), strict=True):
        row = max(padded) + (Fraction(max(padded) ** 2, quadratic) if quadratic else 0)
        assert len(rows) * row <= options["max_timesteps_per_batch"]


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        # Rows of 2 timesteps in the first bucket, of 8 in the second; the budget is 24.
        ([1] * 9, [12, 3]),
        ([1] * 8 + [12], [12, 2]),  # labels longer than the sequences of their bucket
        ([3] * 6 + [1] * 3, [8, 3]),
        # All five rows of the first bucket are too few for its batches, so that they spill with their labels.
        ([12] + [1] * 8, [2, 2]),
        ([1] * 5 + [12] + [1] * 3, [2, 3]),
    ],
)
def test_labels_of_their_own_length_count_in_a_budget(labels, sizes):
    lengths = np.array([2, 2, 2, 2, 2, 2, 8, 8, 8])
    if labels[0] == 12:
        lengths[5] = 8  # an odd number of short rows
    leaves = RowLengths((LeafLengths("x", lengths), LeafLengths("y", np.array(labels), is_label=True)))
    buckets, _ = make_buckets(leaves, {"bucket_boundaries": [3], "max_timesteps_per_batch": 24})
    assert buckets.batch_sizes == sizes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"max_timesteps_per_batch": 11},
            "Expected at least 12 for the 12 timesteps of y[1], received 11. Raise the bu",
        ),
        (
            {"max_timesteps_per_batch": 23, "batch_size_multiple": 2},
            "Expected at least 24 for the 12 timesteps of y[1]",
        ),
        (
            {"max_timesteps_per_batch": 20, "quadratic_length": 16},
            "Expected at least 21 for the 12 timesteps of y[1], 12 + 12^2 / 16 each, received 20. Raise the budget, or",
        ),
        (
            {"max_timesteps_per_batch": 8, "quadratic_length": 64},
            (
                "Expected at least 9 for the 8 timesteps of x[0], 8 + 8^2 / 64 each, received 8. Raise the budget, or "
                "cut long sequences with maxlen=7."
            ),
        ),
    ],
)
def test_a_budget_too_small_for_a_leaf_is_refused(options, text):
    leaves = RowLengths((LeafLengths("x", np.array([8, 1])), LeafLengths("y", np.array([3, 12]), is_label=True)))
    with pytest.raises(ValueError, match="max_timesteps_per_batch") as error:
        make_buckets(leaves, options)
    assert text in str(error.value)


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


# What each leaf of each batch is padded to at least.


@settings(max_examples=examples(150))
@given(several_leaves(), bucket_options(), remainders(), st.integers(1, 25), seeds())
def test_no_row_that_a_batch_may_get_is_longer_than_its_bucket_is_padded_to(leaves, options, remainder, minlen, seed):
    lengths = leaves.longest
    buckets, multiple = make_buckets(lengths, options | {"pad_to_bucket_boundary": True})
    cuts = cut_or_reject(buckets, remainder, multiple)
    least = min_padded_lengths(leaves, buckets, cuts, pad_to_bucket_boundary=True, minlen=minlen)
    # Whichever rows are spare, and whichever rows of a bucket spill.
    shuffled = np.random.default_rng(seed).permutation(len(lengths))[cuts.num_spare :]
    rows = shuffled[np.argsort(buckets.row_buckets[shuffled], kind="stable")]
    for start, stop, bucket, padded in zip(cuts.starts, cuts.stops, cuts.buckets, least, strict=True):
        for leaf, padded_to in zip(leaves.leaves, padded, strict=True):
            minimum = 1 if leaf.is_label else minlen
            assert leaf.lengths[rows[start:stop]].max() <= padded_to
            not_longer = leaf.lengths[buckets.row_buckets <= bucket].max(initial=minimum)
            if not leaf.is_label and np.array_equal(leaf.lengths, lengths):
                assert padded_to == max(buckets.upper_lengths[bucket], minimum)
            elif remainder == "drop":
                assert padded_to == leaf.lengths[buckets.row_buckets == bucket].max(initial=minimum)
            else:
                assert minimum <= padded_to <= not_longer
    # One shape for a bucket.
    assert len({(bucket, *padded) for bucket, padded in zip(cuts.buckets, least.tolist(), strict=True)}) == len(
        set(cuts.buckets.tolist())
    )


def test_without_boundaries_only_the_least_length_counts():
    labels = LeafLengths("y", np.array([0, 5, 5]), is_label=True)
    leaves = RowLengths((LeafLengths("x", np.array([1, 2, 9])), labels))
    buckets, multiple = make_buckets(leaves.longest, {"batch_size": 1, "num_buckets": 2})
    least = min_padded_lengths(leaves, buckets, cut_or_reject(buckets, "spill", multiple), False, minlen=4)
    assert least.tolist() == [[4, 1]] * 3


def test_by_hand():
    # The target of row 0 is longer than any in the bucket that its row may spill into; rows 4 and 5 never get there.
    source = LeafLengths("source", np.array([3, 3, 3, 9, 1, 1]))
    target = LeafLengths("target", np.array([2, 1, 1, 1, 1, 1]))
    options = {"bucket_boundaries": [3, 5], "batch_size": 2}
    buckets, multiple = make_buckets(source.lengths, options)
    for remainder, expected in (("spill", [[2, 1], [4, 2], [9, 2]]), ("keep", [[2, 1], [4, 2], [4, 2], [9, 1]])):
        cuts = cut_or_reject(buckets, remainder, multiple)
        assert min_padded_lengths(RowLengths((source, target)), buckets, cuts, True).tolist() == expected
