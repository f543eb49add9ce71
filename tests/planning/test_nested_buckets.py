"""Nested buckets, against plain loops: where rows go, how they spill, what each leaf is padded to, the choice."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence
from keras_bucketing.data.rows import LeafLengths, RowLengths
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import check_sizing
from keras_bucketing.planning.cuts import BatchCuts, batch_spans, cut_batches, min_padded_lengths, snake
from keras_bucketing.planning.draws import RowDraws, Sampling, expected_draws
from keras_bucketing.planning.epoch_plan import EpochPlanner
from keras_bucketing.planning.forecast import ShuffledBatches
from keras_bucketing.planning.nested_buckets import optimal_nested_boundaries
from tests.support.default_layer import examples
from tests.support.planning import make_buckets, make_planner, plan
from tests.support.strategies import boundary_lists, enough_rows, length_arrays, remainders, seeds

LONGEST = 20


@st.composite
def two_lengths(draw):
    """Rows with two sequences, a sequence and labels of their own length, or both and a third one."""
    first = draw(length_arrays(min_size=4, max_size=60, max_length=LONGEST))
    others = [np.random.default_rng(draw(seeds())).integers(low, LONGEST + 1, len(first)) for low in (1, 0)]
    kind = draw(st.sampled_from(["pairs", "labels", "three"]))
    leaves = [LeafLengths("a", first)]
    if kind != "labels":
        leaves.append(LeafLengths("b", others[0]))
    if kind != "pairs":
        leaves.append(LeafLengths("y", others[1], is_label=True))
    return RowLengths(tuple(leaves))


@st.composite
def nested_options(draw):
    """Keyword arguments for nested buckets; every way of giving them and the rows of their batches."""
    options = {}
    if draw(st.booleans()):
        options["num_buckets"] = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    else:
        outer = draw(boundary_lists(max_size=3))
        inner = [draw(boundary_lists(max_size=3)) for _ in range(len(outer) + 1)]
        options["bucket_boundaries"] = [outer, inner]
    options["batch_size_multiple"] = multiple = draw(st.sampled_from([1, 1, 2, 3]))
    sizing = draw(st.sampled_from(["batch_size", "budget", "sizes"]))
    if sizing == "budget":
        options["max_timesteps_per_batch"] = draw(st.integers(0, 120)) + 25 * multiple
    elif sizing == "sizes" and "bucket_boundaries" in options:
        number = sum(len(boundaries) + 1 for boundaries in inner)
        sizes = st.lists(st.integers(1, 5), min_size=number, max_size=number)
        options["bucket_batch_sizes"] = [multiple * size for size in draw(sizes)]
    else:
        options["batch_size"] = multiple * draw(st.integers(1, 8))
    return options


def levels_of(lengths):
    """The two leaves with the most timesteps, by a plain sort."""
    padded = {leaf.name: leaf.lengths for leaf in lengths.leaves}
    names = list(padded)
    new = [n for at, n in enumerate(names) if not any(np.array_equal(padded[n], padded[o]) for o in names[:at])]
    return (sorted(new, key=lambda name: -padded[name].sum()) + [name for name in names if name not in new])[:2]


def bucket_of(row, boundaries):
    """The number of a bucket and what it allows, by counting."""
    (outer, inner), number = boundaries, 0
    at = sum(edge <= row[0] for edge in outer)
    number = sum(len(edges) + 1 for edges in inner[:at]) + sum(edge <= row[1] for edge in inner[at])
    return number, at


def order_by_hand(boundaries_of_outer, remainder):
    """The buckets of each outer bucket in the order in which their rows are cut: every second run descends."""
    ends = np.cumsum([len(inner) + 1 for inner in boundaries_of_outer]).tolist()
    runs = [list(range(begin, end)) for begin, end in itertools.pairwise([0, *ends])]
    return [run[::-1] if remainder == "spill" and (len(runs) - at) % 2 == 0 else run for at, run in enumerate(runs)]


class Queue:
    """Rows in their order, each the number of its bucket, and the batches that were taken from it."""

    def __init__(self, spare):
        self.rows, self.spare, self.batches = [], spare, []

    def take(self, bucket, size):
        """Takes a batch, if there are so many rows besides those that may turn out to be spare."""
        fits = 0 < size <= len(self.rows) - self.spare
        if fits:
            self.batches.append((bucket, size))
            del self.rows[:size]
        return fits

    def take_rest(self, bucket, multiple):
        self.take(bucket, (len(self.rows) - self.spare) // multiple * multiple)

    def spill(self, bucket, size, mixed):
        """Batches of rows up to this bucket; while rows of others wait, of the mixed size."""
        waiting = len(self.rows) - self.rows.count(bucket)
        while mixed < size and waiting > 0 and self.take(bucket, mixed):
            waiting -= mixed
        while self.take(bucket, size):
            pass

    def fill_up(self, bucket, size, mixed, run):
        """A batch for each row up to this bucket, the last one filled up with those behind it; False if these fail."""
        size = mixed if self.rows[:1] and self.rows[0] not in run else size
        shorter = sum(row in run and row < bucket for row in self.rows)
        while len(self.rows) - shorter >= size and self.take(bucket, size):
            pass
        while len(self.rows) > shorter and self.take(bucket, mixed):
            pass
        return len(self.rows) <= shorter


def batches_by_hand(runs, counts, sizes, mixed_sizes, remainder, multiple=1, apart=None):
    """The bucket and the rows of each batch, in the order of their rows."""
    descending = {bucket for run in runs for bucket in run if bucket > run[-1]}
    runs = [filled for run in runs if (filled := [bucket for bucket in run if counts[bucket]])]
    queue = Queue(0 if remainder == "drop" else sum(counts) % multiple)
    for run, following in itertools.zip_longest(runs, runs[1:]):
        if run[0] in descending:
            queue.rows += [bucket for bucket in run for _ in range(counts[bucket])]
        for bucket in run:
            size, mixed = sizes[bucket], mixed_sizes[bucket]
            if bucket in descending:
                if not queue.fill_up(bucket, size, mixed, run):
                    break
                continue
            if run[0] not in descending:
                queue.rows += [bucket] * counts[bucket]
            queue.spill(bucket, size, mixed)
            if remainder == "keep":
                queue.take_rest(bucket, multiple)
            if remainder == "drop":
                queue.rows.clear()
        if remainder == "spill" and (following is None or min(following) == apart):
            queue.take_rest(bucket, multiple)
    return queue.batches


def batches_of(of_epoch):
    """The rows of each batch, its bucket, and what each leaf is padded to."""
    for at, (batch, bucket) in enumerate(zip(of_epoch, of_epoch.buckets.tolist(), strict=True)):
        yield batch, bucket, {name: int(lengths[at]) for name, lengths in of_epoch.leaf_padded_lengths.items()}


def longest_of(lengths, batch, minlen):
    """The longest that each leaf has in a batch, or the least that it is padded to."""
    return {leaf.name: max(int(leaf.lengths[batch].max()), 1 if leaf.is_label else minlen) for leaf in lengths.leaves}


@settings(max_examples=examples(120), deadline=None)
@given(two_lengths(), nested_options(), remainders(), st.booleans(), st.booleans(), st.sampled_from([1, 6]), seeds())
def test_plans_are_those_of_plain_loops(lengths, options, remainder, shuffle, to_boundary, minlen, seed):
    options |= {"minlen": minlen, "pad_to_bucket_boundary": to_boundary}
    with enough_rows():
        buckets, multiple = make_buckets(lengths, options | {"remainder": remainder})
        planner = make_planner(lengths, options, remainder, shuffle)
    of_leaf = {leaf.name: leaf.lengths for leaf in lengths.leaves}
    names = levels_of(lengths)
    assert [level.name for level in buckets.levels] == names
    if "num_buckets" in options:
        number = options["num_buckets"]
        assert len(buckets.boundaries[0]) < number[0]
        assert all(len(inner) < number[1] for inner in buckets.boundaries[1])
    rows = list(zip(*(of_leaf[name].tolist() for name in names), strict=True))
    numbers, outers = zip(*(bucket_of(row, buckets.boundaries) for row in rows), strict=True)
    assert buckets.row_buckets.tolist() == list(numbers)
    counts = np.bincount(numbers, minlength=len(buckets.batch_sizes)).tolist()

    plans = [plan(planner, epoch, seed) for epoch in range(3)]
    runs, mixed_sizes = order_by_hand(buckets.boundaries[1], remainder), buckets.mixed_sizes or buckets.batch_sizes
    expected = batches_by_hand(runs, counts, buckets.batch_sizes, mixed_sizes, remainder, multiple, buckets.apart)
    for of_epoch in plans:
        received = zip(of_epoch.buckets.tolist(), np.diff(of_epoch.batch_splits).tolist(), strict=True)
        assert sorted(received) == sorted(expected)
    for of_epoch in plans:
        assert len(of_epoch) == len(plans[0])
        assert sorted([*of_epoch.rows, *of_epoch.left_out]) == list(range(len(rows)))
        assert remainder == "drop" or len(of_epoch.left_out) == len(rows) % multiple
        for batch, bucket, padded in batches_of(of_epoch):
            assert len(batch) % multiple == 0
            assert len(batch) <= buckets.batch_sizes[bucket]
            assert max(numbers[row] for row in batch) <= bucket
            assert len(batch) * max(padded.values()) <= options.get("max_timesteps_per_batch", np.inf)
            longest = longest_of(lengths, batch, minlen)
            if not to_boundary:
                assert padded == longest
                continue
            assert all(padded[name] >= longest[name] for name in padded)
            allowed = {
                level.name: max(1 if level.name == "y" else minlen, int(level.upper_lengths[bucket]))
                for level in buckets.levels
            }
            received = {name: padded[name] for name in names}
            if multiple == 1 and {outers[row] for row in batch} == {outer_of(buckets, bucket)}:
                assert received == allowed
            else:
                assert all(received[name] >= allowed[name] for name in names)
    if not shuffle:
        order = [bucket for run in runs for bucket in run]
        keys = [(order.index(numbers[row]), lengths.longest[row]) for row in plans[0].rows]
        assert keys == sorted(keys)


@st.composite
def cut_nested(draw):
    """Outer buckets, and for each bucket its rows, and the rows of its batches, also of those with rows of others."""
    inner_numbers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    number, multiple = sum(inner_numbers), draw(st.sampled_from([1, 1, 2, 3]))
    counts = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 20]), min_size=number, max_size=number))
    sizes = [multiple * size for size in draw(st.lists(st.integers(1, 6), min_size=number, max_size=number))]
    if draw(st.booleans()):
        sizes = sizes[:1] * number
    mixed = [multiple * draw(st.integers(1, size // multiple)) for size in sizes] if draw(st.booleans()) else sizes
    outers = np.repeat(np.arange(len(inner_numbers)), inner_numbers)
    first = [
        min(bucket for bucket in range(number) if counts[bucket] and outers[bucket] == outer)
        for outer in set(outers[np.flatnonzero(counts)].tolist())
    ]
    apart = draw(st.sampled_from([None, *first]))
    return inner_numbers, outers, np.array(counts), sizes, mixed, multiple, apart


@settings(max_examples=examples(150), deadline=None)
@given(cut_nested(), seeds())
# The spare rows are those that a batch of three rows of the longer bucket would take.
@example(([2, 1], np.array([0, 0, 1]), np.array([1, 3, 4]), [3] * 3, [3] * 3, 3, None), 1)
def test_rows_that_spill_meet_their_neighbors(nested, seed):
    inner_numbers, outers, counts, sizes, mixed, multiple, apart = nested
    passage = snake(outers)
    runs = order_by_hand([range(number - 1) for number in inner_numbers], "spill")
    assert passage.order.tolist() == [bucket for run in runs for bucket in run]
    spans = batch_spans(counts, sizes, "spill", multiple, apart, mixed, passage)
    num_spare = int(counts.sum()) % multiple
    cuts = BatchCuts.from_spans(spans, num_spare)
    batches = list(zip(cuts.buckets.tolist(), (cuts.stops - cuts.starts).tolist(), strict=True))
    assert batches == batches_by_hand(runs, counts.tolist(), sizes, mixed, "spill", multiple, apart)
    # What holds however they are cut. Each row once, in as many batches as are full, but for one or two.
    assert [0, *cuts.stops] == [*cuts.starts, int(counts.sum()) - num_spare]
    assert np.array_equal(spans.num_batches, np.bincount(cuts.buckets, minlength=len(counts)))
    assert np.array_equal(spans.rows, np.bincount(cuts.buckets, cuts.stops - cuts.starts, minlength=len(counts)))
    partial = [size for bucket, size in batches if size not in (sizes[bucket], mixed[bucket])]
    assert len(partial) <= 1 + (apart is not None)
    # Whichever rows are spare, no row is in a batch of a shorter bucket, and the longest is of the batch's own.
    rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))[num_spare:]
    rows = rows[np.argsort(cuts.places[rows], kind="stable")]
    for start, stop, bucket in zip(cuts.starts, cuts.stops, cuts.buckets.tolist(), strict=True):
        assert rows[start:stop].max() <= bucket
        if multiple == 1 and mixed == sizes == sizes[:1] * len(sizes):
            assert rows[start:stop].max() == bucket
    if batches:  # the forecast knows which rows share a batch
        in_order = np.repeat(passage.order, counts[passage.order])
        spans_of_rows = zip(cuts.starts, cuts.stops, strict=True)
        expected = [np.bincount(in_order[begin:end], minlength=len(counts)).tolist() for begin, end in spans_of_rows]
        kinds = ShuffledBatches(spans, counts, counts).kinds
        assert sorted(expected) == sorted(np.repeat(kinds.rows, kinds.numbers, axis=0).tolist())


def test_rows_that_fill_up_a_batch_count_in_its_size_and_padding():
    # Row 0 is alone in the longer inner bucket; the labels of the rows behind it are twice as long as its sequences.
    sequences = LeafLengths("a", np.array([10] * 4 + [20] * 4)), LeafLengths("b", np.array([9, 1, 1, 1] + [15] * 4))
    lengths = RowLengths((*sequences, LeafLengths("y", np.array([1, 20, 20, 20] + [1] * 4), is_label=True)))
    options = {"bucket_boundaries": [[11], [[5], [5]]], "max_timesteps_per_batch": 40, "pad_to_bucket_boundary": True}
    buckets, _ = make_buckets(lengths, options)
    assert (buckets.batch_sizes[1], buckets.mixed_sizes[1]) == (4, 2)
    cuts = cut_batches(buckets, "spill", 1)
    padded = min_padded_lengths(lengths, buckets, cuts, pad_to_bucket_boundary=True)
    assert padded[cuts.buckets == 1].tolist() == [[10, 9, 20]]


def outer_of(buckets, bucket):
    """The outer bucket of a bucket."""
    ends = np.cumsum([len(inner) + 1 for inner in buckets.boundaries[1]])
    return int(np.searchsorted(ends, bucket, side="right"))


@settings(max_examples=examples(40), deadline=None)
@given(two_lengths(), nested_options(), seeds())
def test_padded_to_the_boundary_a_bucket_has_one_shape_but_for_what_spills_from_another_outer_one(
    lengths, options, seed
):
    options = {**options, "pad_to_bucket_boundary": True}
    with enough_rows():
        buckets, _ = make_buckets(lengths, options)
        planner = make_planner(lengths, options)
    names = [leaf.name for leaf in lengths.leaves]
    shapes = {}
    for epoch in range(3):
        of_epoch = plan(planner, epoch, seed)
        padded = zip(*(of_epoch.leaf_padded_lengths[name].tolist() for name in names), strict=True)
        for bucket, shape in zip(of_epoch.buckets.tolist(), padded, strict=True):
            shapes.setdefault(bucket, set()).add(shape)
    assert all(len(of_bucket) <= 2 for of_bucket in shapes.values())
    filled = np.flatnonzero(buckets.counts)
    runs = order_by_hand(buckets.boundaries[1], "spill")
    first_filled = {bucket for run in runs for bucket in [at for at in run if at in filled][:1]}
    if all(size == buckets.batch_sizes[0] for size in buckets.batch_sizes) and (buckets.counts[filled] >= 8).all():
        assert {bucket for bucket, of_bucket in shapes.items() if len(of_bucket) > 1} <= first_filled


@settings(max_examples=examples(100), deadline=None)
@given(two_lengths(), nested_options(), st.integers(0, 6))
@example(
    # Two rows of the shorter outer bucket fill no batch there, and two batches of the next bucket: of one shape.
    RowLengths(
        (LeafLengths("a", np.array([10, 10, 20, 20, 20])), LeafLengths("b", np.array([18, 3, 3, 3, 18]))),
    ),
    {
        "bucket_boundaries": [[11], [[10], [10]]],
        "bucket_batch_sizes": [4, 4, 1, 1],
        "batch_size_multiple": 1,
    },
    1,
)
def test_padded_to_the_boundary_is_to_what_the_buckets_of_the_rows_allow(lengths, options, minlen):
    with enough_rows():
        buckets, _ = make_buckets(lengths, options)
        cuts = cut_batches(buckets, "spill", options["batch_size_multiple"])
    in_order = np.repeat(cuts.order, buckets.counts[cuts.order]).tolist()
    padded = min_padded_lengths(lengths, buckets, cuts, pad_to_bucket_boundary=True, minlen=minlen)
    names, labels = zip(*((leaf.name, leaf.is_label) for leaf in lengths.leaves), strict=True)
    for bucket in set(cuts.buckets.tolist()):
        batches = np.flatnonzero(cuts.buckets == bucket)
        # What is behind the bucket in the order fills up its batches, and has no say.
        until = in_order.index(bucket) + int(buckets.counts[bucket])
        of_all = set(in_order[cuts.starts[batches].min() : until]) | {bucket}
        for batch in batches:
            is_mixed = outer_of(buckets, in_order[cuts.starts[batch]]) < outer_of(buckets, bucket)
            for level in buckets.levels:
                at = names.index(level.name)
                allowed = max(int(level.upper_lengths[each]) for each in (of_all if is_mixed else {bucket}))
                assert padded[batch, at] == max(1 if labels[at] else minlen, allowed)


@settings(max_examples=examples(40), deadline=None)
@given(two_lengths(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.booleans(), seeds())
def test_rows_drawn_by_weights_meet_in_nested_buckets(lengths, outer, inner, batch_size, to_boundary, seed):
    random = np.random.default_rng(seed)
    weights = random.choice([0.5, 1.0, 3.0], len(lengths.longest))
    sampling = Sampling(np.arange(len(weights)), weights, random.integers(30, 90), is_exact=False)
    options = {"batch_size": batch_size, "num_buckets": (outer, inner), "pad_to_bucket_boundary": to_boundary}
    buckets, _ = make_buckets(lengths, options | {"sampling": sampling})
    draws = RowDraws.of(sampling, buckets.row_buckets, buckets.counts)
    planner = EpochPlanner(lengths, buckets, cut_batches(buckets, "spill", 1), to_boundary, shuffle=True, draws=draws)
    expected = expected_draws(weights, buckets.row_buckets, buckets.counts)
    for epoch in range(3):
        of_epoch = plan(planner, epoch, seed)
        times = np.bincount(of_epoch.rows, minlength=len(weights))
        assert (np.abs(times - expected) < 1 + 1e-6).all()
        drawn = np.bincount(buckets.row_buckets, times, minlength=len(buckets.counts))
        assert drawn.tolist() == buckets.counts.tolist()
        for batch, bucket, padded in batches_of(of_epoch):
            assert buckets.row_buckets[batch].max() <= bucket
            longest = longest_of(lengths, batch, 1)
            assert padded == longest or (to_boundary and all(padded[name] >= longest[name] for name in padded))


@settings(max_examples=examples(40), deadline=None)
@given(length_arrays(min_size=4, max_size=40), st.integers(1, 8), remainders())
def test_rows_of_one_length_are_never_nested(lengths, batch_size, remainder):
    sizing = check_sizing(batch_size, None, None, 1, 1)
    alone = choose_buckets(lengths, sizing, remainder=remainder)
    leaves = [LeafLengths("a", lengths), LeafLengths("b", lengths)]
    for several in ([leaves[0]], leaves):
        buckets = choose_buckets(lengths, sizing, remainder=remainder, leaves=several)
        assert (buckets.boundaries, buckets.batch_sizes, buckets.levels) == (alone.boundaries, alone.batch_sizes, ())


# The automatic choice.


def pairs(num_rows, correlation, spread=0.5, seed=0):
    random = np.random.default_rng(seed)
    first, other = random.normal(size=(2, num_rows))
    other = correlation * first + np.sqrt(1 - correlation**2) * other
    return [np.maximum(np.rint(np.exp(np.log(20) + spread * z)), 1).astype(np.int64) for z in (first, other)]


def efficiency_of(lengths, options):
    of_epoch = plan(make_planner(lengths, options))
    sizes = np.diff(of_epoch.batch_splits)
    real = sum(leaf.lengths.sum() for leaf in lengths.leaves)
    return real / sum(sizes @ padded for padded in of_epoch.leaf_padded_lengths.values())


def as_lengths(first, other, is_label=False):
    return RowLengths((LeafLengths("x['a']", first), LeafLengths("y" if is_label else "x['b']", other, is_label)))


@pytest.mark.parametrize(
    ("correlation", "spread", "least", "is_label"),
    [(0, 0.58, 0.875, False), (0.5, 0.5, 0.905, True), (0.9, 0.58, 0.92, False)],
)
def test_pairs_gain_without_being_asked(correlation, spread, least, is_label):
    lengths = as_lengths(*pairs(25_000, correlation, spread), is_label)
    buckets, _ = make_buckets(lengths, {"batch_size": 64})
    assert buckets.levels
    assert len(cut_batches(buckets, "spill", 1).starts) == -(-25_000 // 64) >= len(buckets.counts)
    efficiency = efficiency_of(lengths, {"batch_size": 64})
    assert efficiency >= least
    assert efficiency >= efficiency_of(lengths, {"batch_size": 64, "num_buckets": 32}) + 0.01


@settings(max_examples=examples(60), deadline=None)
@given(two_lengths(), nested_options(), st.booleans())
def test_a_batch_of_a_budget_has_as_many_rows_as_fit(lengths, options, to_boundary):
    options.pop("batch_size", None)
    options.pop("bucket_batch_sizes", None)
    multiple = options["batch_size_multiple"]
    budget = options.setdefault("max_timesteps_per_batch", 25 * multiple)
    with enough_rows():
        buckets, _ = make_buckets(lengths, options | {"pad_to_bucket_boundary": to_boundary})
    mixed = buckets.mixed_sizes or buckets.batch_sizes
    for bucket, (size, of_mixed) in enumerate(zip(buckets.batch_sizes, mixed, strict=True)):
        rows = np.flatnonzero(buckets.row_buckets == bucket)
        if not rows.size:
            continue
        longest = max(int(leaf.lengths[rows].max()) for leaf in lengths.leaves)
        if to_boundary:
            longest = max(longest, int(buckets.upper_lengths[bucket]))
        assert size * longest <= budget < (size + multiple) * longest or longest == 0
        assert multiple <= of_mixed <= size


@pytest.mark.parametrize("correlation", [0, 0.9])
def test_a_budget_is_nested_as_well(correlation):
    lengths = as_lengths(*pairs(25_000, correlation))
    options = {"max_timesteps_per_batch": 64 * 24}
    buckets, _ = make_buckets(lengths, options)
    assert buckets.levels
    assert efficiency_of(lengths, options) >= efficiency_of(lengths, {**options, "num_buckets": 32}) + 0.01


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        (as_lengths(*pairs(25_000, 0.999)), {}),  # nothing to gain
        (as_lengths(*pairs(150, 0)), {"batch_size": 32}),  # too few rows
        (as_lengths(*pairs(5000, 0)), {"pad_to_bucket_boundary": True}),  # each bucket is a shape
        (as_lengths(*pairs(5000, 0)), {"remainder": "keep"}),  # each bucket makes a partial batch
        (as_lengths(*pairs(5000, 0)), {"remainder": "drop"}),
        (as_lengths(*pairs(5000, 0)), {"num_buckets": 16}),
        (as_lengths(*pairs(5000, 0)), {"bucket_batch_sizes": [64, 32, 16]}),
        (as_lengths(pairs(5000, 0)[0] * 50, pairs(5000, 0)[1]), {}),  # the other is a fiftieth of the timesteps
    ],
)
def test_others_are_not_nested(lengths, options):
    buckets, _ = make_buckets(lengths, options)
    assert not buckets.levels


def test_an_outlier_of_the_outer_leaf_is_kept_apart():
    first, other = pairs(2000, 0)
    first[7] = 50_000
    lengths = as_lengths(first, other)
    options = {"batch_size": 32, "num_buckets": (4, 4)}
    assert make_buckets(lengths, options)[0].apart is not None
    assert efficiency_of(lengths, options) > 0.6


# The public names.


def data(num_rows=300):
    first, other = pairs(num_rows, 0)
    return {"a": [np.full(length, row) for row, length in enumerate(first)], "b": [np.zeros(n, int) for n in other]}


X = data()


def make(x=None, **options):
    return BucketedSequence(x or X, **{"batch_size": 8, "num_buckets": (3, 4), "seed": 1, **options})


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": False}, {"num_shards": 2, "shard_index": 1}, {"largest_first": True}]
)
def test_batches_are_those_of_the_plan(options):
    dataset = make(**options)
    for epoch in (0, 1):
        of_epoch = dataset.epoch_plan(epoch)
        for at, (batch, rows) in enumerate(zip(dataset, of_epoch, strict=True)):
            assert batch["a"][:, 0].numpy().tolist() == rows.tolist()
            for key in "ab":
                assert batch[key].shape[1] == of_epoch.leaf_padded_lengths[f"x['{key}']"][at]
    stats = dataset.padding_stats()
    assert stats.num_batches == dataset.num_batches == sum(bucket.num_batches for bucket in stats.buckets)


def test_the_boundaries_can_be_read_and_given_again():
    dataset = make()
    outer, inner = dataset.bucket_boundaries
    assert (len(outer), [len(boundaries) for boundaries in inner]) == (2, [3, 3, 3])
    given = make(num_buckets=None, bucket_boundaries=json.loads(json.dumps(dataset.bucket_boundaries)))
    assert given.state_dict() == dataset.state_dict()
    dataset.bucket_boundaries[1][0].clear()  # a copy
    assert dataset.bucket_boundaries == given.bucket_boundaries
    sized = make(bucket_batch_sizes=[4] * 11 + [8], batch_size=None)
    assert sized.bucket_batch_sizes == [4] * 11 + [8]


def test_a_state_belongs_to_the_nested_boundaries():
    dataset, other = make(), make(num_buckets=(4, 3))
    state = json.loads(json.dumps(dataset.state_dict(3, 2)))
    resumed = make()
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.next_first_batch) == (3, 2)
    with pytest.raises(ValueError, match="`state` belongs to another dataset"):
        other.load_state_dict(state)


def test_parts_are_nested_as_well():
    dataset = make()
    parts = [*dataset.split(0.5), dataset.subset(range(100))]
    assert all(len(part.bucket_batch_sizes) > 4 and isinstance(part.bucket_boundaries[1], list) for part in parts)
    flat = dataset.subset(range(100), num_buckets=3)
    assert len(flat.bucket_boundaries) == 2
    assert all(isinstance(boundary, int) for boundary in flat.bucket_boundaries)


# The outer leaf of all rows is "a"; that of the first hundred, which are longer in "b", would be the other one.
UNLIKE = [np.where(np.arange(300) < 100, short, long) for short, long in ((5, 60), (60, 20))]


def unlike_dataset(rows=slice(None), **options):
    x = {
        key: [np.full(n + row % 3, row) for row, n in enumerate(lengths[rows])]
        for key, lengths in zip("ab", UNLIKE, strict=True)
    }
    return make(x, **options)


def levels_in(dataset):
    lines = []
    dataset.summary(lines.append)
    return lines[0].split()[:2]


@pytest.mark.parametrize("options", [{}, {"num_buckets": None, "bucket_boundaries": [[20], [[21], [42]]]}])
def test_some_of_the_rows_keep_the_outer_and_the_inner_leaf(options):
    dataset = unlike_dataset(**options)
    part, alone = dataset.subset(range(100)), unlike_dataset(slice(100), **options)
    assert levels_in(dataset) == levels_in(part) == levels_in(part.subset(range(50))) == ["x['a']", "x['b']"]
    assert levels_in(alone) == ["x['b']", "x['a']"]
    with pytest.raises(ValueError, match="`state` belongs to another dataset"):
        alone.load_state_dict(part.state_dict())
    part.load_state_dict(dataset.subset(range(100)).state_dict(1, 2))
    assert part.next_first_batch == 2


@settings(max_examples=examples(60), deadline=None)
@given(two_lengths(), st.integers(1, 5), st.integers(1, 5), seeds())
def test_rows_by_weights_have_the_boundaries_of_as_many_rows(lengths, outer, inner, seed):
    weights = np.random.default_rng(seed).integers(1, 4, len(lengths.longest))
    first, other = (np.maximum(leaf.lengths, 1).astype(np.int64) for leaf in lengths.leaves[:2])
    repeated = [np.repeat(leaf, weights) for leaf in (first, other)]
    found = optimal_nested_boundaries(first, other, (outer, inner), weights.astype(np.float64))
    assert found == optimal_nested_boundaries(*repeated, (outer, inner))


def test_the_summary_has_the_lengths_of_both_leaves():
    lines = []
    make().summary(lines.append)
    head, *rows = lines[0].splitlines()
    assert head.split()[:3] == ["x['a']", "x['b']", "sequences"]
    assert len(rows) == 12 + 1 + 2
    assert rows[0].split()[:2] == ["1", "-"]
    assert rows[12].split()[0] == "all"


def test_predictions_come_in_the_order_of_the_input():
    dataset = make()
    order = dataset.epoch_plan(0).rows
    list(dataset)
    assert dataset.restore_order(order.astype(float)).tolist() == list(range(300))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_buckets": (3,)}, ValueError, "`num_buckets` of nested buckets are two numbers"),
        ({"num_buckets": (3, 4, 5)}, ValueError, "Received [3, 4, 5]. Pass one int, or two as in (12, 12)."),
        ({"num_buckets": (3, 0)}, ValueError, "`num_buckets[1]` is too small. Expected an int >= 1, received 0."),
        ({"num_buckets": (3, "4")}, TypeError, "`num_buckets[1]` must be an integer."),
        ({"x": [[1, 2], [3]]}, ValueError, "`num_buckets` of nested buckets needs rows with two lengths"),
        (
            {"x": [[1, 2], [3]], "num_buckets": None, "bucket_boundaries": [[5], [[3], [4]]]},
            ValueError,
            "`bucket_boundaries` of nested buckets needs rows with two lengths",
        ),
        ({"bucket_boundaries": [[5], [[3], [4]]]}, ValueError, "`num_buckets` must match `bucket_boundaries`."),
        ({"bucket_boundaries": [5]}, ValueError, "Received (3, 4) for flat boundaries. Leave one of the two out."),
        (
            {"num_buckets": 3, "bucket_boundaries": [[5], [[3], [4]]]},
            ValueError,
            "must match `bucket_boundaries`. Received 3 for [2, 2] inner buckets. Leave one of the two out.",
        ),
        (
            {"num_buckets": None, "bucket_boundaries": [[5], [[3]]]},
            ValueError,
            "`bucket_boundaries[1]` must have the inner boundaries of every outer bucket. Expected 2 lists",
        ),
        (
            {"num_buckets": None, "bucket_boundaries": [[5], [[3], [4, 4]]]},
            ValueError,
            "`bucket_boundaries[1][1]` must increase. Received 4 at bucket_boundaries[1][1][1] after 4.",
        ),
        ({"num_buckets": None, "bucket_boundaries": [[5], 7]}, ValueError, "Expected 2 lists"),
        ({"num_buckets": None, "bucket_boundaries": [[5], [[3], 4]]}, TypeError, "must be a flat list of integers"),
        ({"num_buckets": None, "bucket_boundaries": [[5]]}, ValueError, "Expected 2 entries, received 1."),
        (
            {"bucket_batch_sizes": [4, 2], "batch_size": None},
            ValueError,
            "must have one entry for each inner bucket, in lexicographic order. Expected 12, received",
        ),
        (
            {"bucket_batch_sizes": [4] * 40_000, "batch_size": None, "num_buckets": (200, 200)},
            ValueError,
            "`bucket_batch_sizes` must have one entry for each bucket. Expected",
        ),
        (
            {"max_timesteps_per_batch": 10},
            ValueError,
            "`max_timesteps_per_batch` must hold at least 1 row of every sequence.",
        ),
    ],
)
def test_nested_buckets_that_do_not_fit_are_refused(options, error, text):
    with pytest.raises(error) as raised:
        make(**options)
    assert text in str(raised.value)


def test_pictures_show_the_rectangles(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = make().plot()
    assert len(ax.lines) == 12
    assert ax.get_xlabel().startswith("length of x['a']")
    assert "12 buckets" in ax.get_title(loc="left")
    ax.figure.savefig(tmp_path / "nested.png")


def test_an_epoch_is_drawn_in_one_color():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    assert make().plot_epoch(max_batches=3).get_legend() is not None
