"""What each leaf of each batch is padded to at least."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.inputs.leaf_lengths import LeafLengths, lengths_of_rows
from keras_bucketing.planning.padded_lengths import least_padded_lengths
from tests.support.planning import cut_or_reject, make_buckets
from tests.support.strategies import bucket_options, length_arrays, remainders, seeds


@st.composite
def several_leaves(draw):
    """Two leaves of x and labels of their own length."""
    a = draw(length_arrays(min_size=2))
    b = draw(length_arrays(min_size=len(a), max_size=len(a)))
    labels = draw(length_arrays(min_size=len(a), max_size=len(a), min_length=0, max_length=30))
    return [LeafLengths("a", a), LeafLengths("b", b), LeafLengths("y", labels, is_label=True)]


@settings(max_examples=150)
@given(several_leaves(), bucket_options(), remainders(), st.integers(1, 25), seeds())
def test_no_row_that_a_batch_may_get_is_longer_than_its_bucket_is_padded_to(leaves, options, remainder, minlen, seed):
    lengths = lengths_of_rows(leaves)
    buckets, multiple = make_buckets(lengths, options | {"pad_to_bucket_boundary": True})
    cuts = cut_or_reject(buckets, remainder, multiple)
    least = least_padded_lengths(leaves, buckets, cuts, pad_to_bucket_boundary=True, minlen=minlen)
    # Whichever rows are spare, and whichever rows of a bucket spill.
    shuffled = np.random.default_rng(seed).permutation(len(lengths))[cuts.num_spare :]
    rows = shuffled[np.argsort(buckets.row_buckets[shuffled], kind="stable")]
    for start, stop, bucket, padded in zip(cuts.starts, cuts.stops, cuts.buckets, least, strict=True):
        for leaf, padded_to in zip(leaves, padded, strict=True):
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
    leaves = [LeafLengths("x", np.array([1, 2, 9])), LeafLengths("y", np.array([0, 5, 5]), is_label=True)]
    buckets, multiple = make_buckets(leaves[0].lengths, {"batch_size": 1, "num_buckets": 2})
    least = least_padded_lengths(leaves, buckets, cut_or_reject(buckets, "spill", multiple), False, minlen=4)
    assert least.tolist() == [[4, 1]] * 3


def test_by_hand():
    # The target of row 0 is longer than any in the bucket that its row may spill into; rows 4 and 5 never get there.
    source = LeafLengths("source", np.array([3, 3, 3, 9, 1, 1]))
    target = LeafLengths("target", np.array([2, 1, 1, 1, 1, 1]))
    options = {"bucket_boundaries": [3, 5], "batch_size": 2}
    buckets, multiple = make_buckets(source.lengths, options)
    for remainder, expected in (("spill", [[2, 1], [4, 2], [9, 2]]), ("keep", [[2, 1], [4, 2], [4, 2], [9, 1]])):
        cuts = cut_or_reject(buckets, remainder, multiple)
        assert least_padded_lengths([source, target], buckets, cuts, True).tolist() == expected
