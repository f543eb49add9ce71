"""The largest batch comes first in epochs 0 and 1, or one of each shape; all else keeps its order."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence
from keras_bucketing.data.rows import LeafLengths, RowLengths
from tests.support.default_layer import examples
from tests.support.planning import make_planner, plan
from tests.support.strategies import bucket_options, enough_rows, length_arrays, remainders, seeds


@st.composite
def row_lengths(draw):
    """One or two sequences per row, and perhaps labels of their own length, which may be empty."""
    first = draw(length_arrays(min_size=4, max_size=40))
    others = st.lists(st.integers(0, 20), min_size=len(first), max_size=len(first)).map(np.array)
    leaves = [LeafLengths("a", first)]
    if draw(st.booleans()):
        leaves.append(LeafLengths("b", np.maximum(draw(others), 1)))
    if draw(st.booleans()):
        leaves.append(LeafLengths("y", draw(others), is_label=True))
    return RowLengths(tuple(leaves))


def batches_of(of_epoch):
    """Each batch as its rows, and what each leaf is padded to."""
    padded = np.stack(list(of_epoch.leaf_padded_lengths.values()), axis=1).tolist()
    return [(rows.tolist(), lengths) for rows, lengths in zip(of_epoch, padded, strict=True)]


def size_of(batch, quadratic_length):
    rows, padded = batch
    longest = max(padded)
    return len(rows) * (longest if quadratic_length is None else longest + longest**2 / quadratic_length)


def shape_of(batch):
    return (len(batch[0]), *batch[1])


@settings(max_examples=examples(90))
@given(
    row_lengths(),
    bucket_options(),
    st.booleans(),
    remainders(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 7]),
    st.none() | st.integers(1, 30),
    st.integers(0, 4),
    seeds(),
)
def test_what_comes_first_is_taken_out_of_an_order_that_stays(
    lengths, options, nests, remainder, shuffle, to_boundary, minlen, quadratic_length, epoch, seed
):
    if nests and len(lengths.leaves) > 1 and not {"bucket_boundaries", "bucket_batch_sizes"} & set(options):
        options["num_buckets"] = (2, 2)
    options |= {"pad_to_bucket_boundary": to_boundary, "minlen": minlen}
    if "max_timesteps_per_batch" in options:
        options |= {"quadratic_length": quadratic_length}
        options["max_timesteps_per_batch"] *= 1 if quadratic_length is None else 21
    with enough_rows():
        usual = make_planner(lengths, options, remainder, shuffle)
        planner = make_planner(lengths, options, remainder, shuffle, largest_first=True)
    expected, received = (batches_of(plan(of, epoch, seed)) for of in (usual, planner))
    measure = options.get("quadratic_length")
    if epoch > 1:
        assert received == expected
        return
    if to_boundary:
        first = [expected.index(next(b for b in expected if shape_of(b) == s)) for s in set(map(shape_of, expected))]
    else:
        first = [int(np.argmax([size_of(batch, measure) for batch in expected]))]
    assert sorted(received[: len(first)]) == sorted(expected[at] for at in first)
    assert received[len(first) :] == [batch for at, batch in enumerate(expected) if at not in first]
    sizes = [size_of(batch, measure) for batch in received[: len(first)]]
    assert all(one >= other - 1e-9 for one, other in itertools.pairwise(sizes))


def test_the_largest_is_what_is_padded_not_what_is_there():
    options = {"bucket_boundaries": [5], "bucket_batch_sizes": [8, 2], "minlen": 4}
    planner = make_planner(np.array([1] * 16 + [9] * 4), options, shuffle=False, largest_first=True)
    assert [len(rows) for rows in plan(planner)] == [8, 8, 2, 2]  # 8 x 4 timesteps, not 2 x 9
    planner = make_planner(np.array([1] * 16 + [9] * 4), options | {"minlen": 2}, shuffle=False, largest_first=True)
    assert [len(rows) for rows in plan(planner)] == [2, 8, 8, 2]


X = [[row] * (1 + row % 9) for row in range(60)]


def make(**options):
    return BucketedSequence(X, **{"batch_size": 4, "num_buckets": 3, "seed": 1, "largest_first": True, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"num_shards": 2},
        *(pytest.param(options, marks=pytest.mark.fit) for options in [{}, {"shuffle": False}]),
        pytest.param({"pad_to_bucket_boundary": True}, marks=pytest.mark.fit),
    ],
)
def test_a_pass_reads_what_the_plan_says_from_wherever_it_begins(options):
    dataset = make(**options)
    for epoch, batch in itertools.product((0, 1, 2), (0, 1, 3)):
        dataset.seek(epoch, batch)
        received = [(rows[:, 0].numpy().tolist(), rows.shape[1]) for rows in dataset]
        of_epoch = dataset.epoch_plan(epoch)
        planned = zip(of_epoch, of_epoch.padded_lengths.tolist(), strict=True)
        assert received == [(rows.tolist(), padded) for rows, padded in planned][batch:]
    stats, usual = dataset.padding_stats(0), make(**options, largest_first=False).padding_stats(0)
    assert (stats.num_batches, stats.real_timesteps) == (usual.num_batches, usual.real_timesteps)
    assert dataset.epoch_plan(0).padded_lengths[0] == dataset.epoch_plan(0).padded_lengths.max()


def test_a_state_belongs_to_the_order_and_the_default_is_no_part_of_it():
    state, usual = make().state_dict(0, 2), make(largest_first=False).state_dict(0, 2)
    resumed = make()
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.next_first_batch) == (0, 2)
    assert usual == BucketedSequence(X, batch_size=4, num_buckets=3, seed=1).state_dict(0, 2)
    with pytest.raises(ValueError, match="`state` belongs to another dataset"):
        make().load_state_dict(usual)


def test_a_subset_keeps_it_and_the_held_out_part_can_do_without():
    rest, held_out = make().split(0.5)
    for part in (rest, held_out, make().subset(range(30))):
        sizes = np.diff(part.epoch_plan(0).batch_splits) * part.epoch_plan(0).padded_lengths
        assert sizes[0] == sizes.max()
    part = make().subset(range(30), largest_first=False, shuffle=False)
    assert part.epoch_plan(0).padded_lengths.argmax() > 0
