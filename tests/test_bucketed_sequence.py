"""BucketedSequence as a whole: what comes out of the pipeline, against plain loops and TensorFlow's own bucketing."""

import collections
import hashlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from tests.support.default_layer import examples
from tests.support.processes import run_python
from tests.support.strategies import (
    bucket_options,
    enough_rows,
    length_arrays,
    lengths_lists,
    random_sequences,
    remainders,
    seeds,
)


def arrays_of(dataset):
    """One pass, as NumPy arrays."""
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in dataset]


def pad(sequences, padding_value, padded_length):
    padded = np.full((len(sequences), padded_length, *sequences[0].shape[1:]), padding_value, sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def assert_same_batches(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


@settings(max_examples=examples(25))
@given(lengths_lists(max_size=40), bucket_options(), remainders(), st.booleans(), st.booleans(), seeds())
def test_every_epoch_yields_its_plan_padded_and_nothing_else(lengths, options, remainder, shuffle, to_boundary, seed):
    x = random_sequences(lengths, "float32", (2,), seed)
    options |= {"remainder": remainder, "shuffle": shuffle, "pad_to_bucket_boundary": to_boundary}
    with enough_rows():
        dataset = BucketedSequence(x, np.arange(len(x)), padding_value=-7, include_lengths=True, seed=seed, **options)
    assert dataset.num_sequences == len(x)
    assert dataset.lengths.tolist() == lengths
    for epoch in range(2):
        assert dataset.epoch == epoch
        plan, batches = dataset.epoch_plan(epoch), arrays_of(dataset)
        assert len(batches) == len(plan) == len(dataset) == dataset.num_batches == int(dataset.cardinality())
        for rows, padded_length, (inputs, labels) in zip(plan, plan.padded_lengths, batches, strict=True):
            assert labels.tolist() == rows.tolist()
            assert inputs["lengths"].tolist() == [lengths[row] for row in rows]
            expected = pad([x[row] for row in rows], -7, padded_length)
            assert inputs["sequences"].shape == expected.shape
            assert inputs["sequences"].tobytes() == expected.tobytes()


def bucket_by_sequence_length(x, boundaries, sizes, pad_to_boundary):
    """TensorFlow's own, fed with the rows sorted by length."""
    x = sorted(x, key=len)
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(x), [len(row) for row in x])
    dataset = tf.data.Dataset.from_tensor_slices(ragged).map(lambda row: row)
    if pad_to_boundary:  # TensorFlow has none for the last bucket: give it one, and an empty bucket behind it
        boundaries, sizes = [*boundaries, max(max(map(len, x)) + 1, boundaries[-1] + 1)], [*sizes, 1]
    return dataset.bucket_by_sequence_length(
        tf.size, boundaries, sizes, pad_to_bucket_boundary=pad_to_boundary, padding_values=tf.constant(-1, tf.int64)
    )


def bucket_sizes(num_boundaries):
    boundaries = st.lists(st.integers(2, 20), min_size=num_boundaries, max_size=num_boundaries, unique=True)
    sizes = st.lists(st.integers(1, 6), min_size=num_boundaries + 1, max_size=num_boundaries + 1)
    return st.tuples(boundaries.map(sorted), sizes)


def as_multiset(batches):
    return collections.Counter((batch.shape, batch.tobytes()) for batch in batches)


@settings(max_examples=examples(10))
@given(lengths_lists(max_size=40), st.integers(1, 4).flatmap(bucket_sizes), st.booleans(), seeds())
def test_unshuffled_batches_are_those_of_bucket_by_sequence_length(lengths, buckets, pad_to_boundary, seed):
    boundaries, sizes = buckets
    x = random_sequences(lengths, seed=seed)
    dataset = BucketedSequence(
        x,
        bucket_boundaries=boundaries,
        bucket_batch_sizes=sizes,
        pad_to_bucket_boundary=pad_to_boundary,
        padding_value=-1,
        remainder="keep",
        shuffle=False,
    )
    theirs = bucket_by_sequence_length(x, boundaries, sizes, pad_to_boundary)
    assert as_multiset(arrays_of(dataset)) == as_multiset(arrays_of(theirs))


X = random_sequences([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3], "int32", seed=1)
Y = np.arange(len(X))


def make(**options):
    return BucketedSequence(X, Y, **{"batch_size": 4, "seed": 3, **options})


def test_equal_seeds_give_equal_batches_and_other_epochs_other_ones():
    first, second = make(), make()
    epochs = [arrays_of(first) for _ in range(2)]
    assert_same_batches(epochs[0], arrays_of(second))
    assert_same_batches(epochs[1], arrays_of(second))
    assert [labels.tolist() for _, labels in epochs[0]] != [labels.tolist() for _, labels in epochs[1]]
    other = [labels.tolist() for _, labels in arrays_of(make(seed=4))]
    assert [labels.tolist() for _, labels in epochs[0]] != other


def test_without_a_seed_the_order_follows_set_random_seed():
    seeds_drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(8)
        seeds_drawn += [make(seed=None).seed, make(seed=None).seed]
    assert seeds_drawn[:2] == seeds_drawn[2:]
    assert seeds_drawn[0] != seeds_drawn[1]


PRINT_DIGEST = """
import hashlib
import re
from tests.test_bucketed_sequence import arrays_of, make
print(hashlib.sha256(b"".join(y.tobytes() + x.tobytes() for x, y in arrays_of(make()))).hexdigest())
print(make().state_dict()["fingerprint"])
"""


@pytest.mark.fit
def test_another_process_yields_the_same_batches():
    finished = run_python("-c", PRINT_DIGEST, check=True)  # where strings have other hashes
    digest = hashlib.sha256(b"".join(y.tobytes() + x.tobytes() for x, y in arrays_of(make()))).hexdigest()
    assert finished.stdout.split() == [digest, make().state_dict()["fingerprint"]]


def test_the_callers_arrays_may_change_afterwards():
    x, y, weights = [row.copy() for row in X], Y.copy(), np.ones(len(X), "float32")
    flat, splits = np.concatenate(X), np.cumsum([0, *map(len, X)])
    datasets = [
        BucketedSequence(x, y, weights, batch_size=4, seed=3),
        BucketedSequence.from_row_splits(flat, splits, y, weights, batch_size=4, seed=3),
    ]
    for array in [*x, y, weights, flat, splits]:
        array[...] = 0
    for dataset in datasets:
        batches = arrays_of(dataset)
        assert_same_batches([batch[:2] for batch in batches], arrays_of(make()))
        assert all((batch[2] == 1).all() for batch in batches)


def test_iterators_outlive_the_dataset(collect_garbage):
    iterators = []
    for i in range(6):
        dataset = BucketedSequence([np.full(5000, i)] * 20, batch_size=1, seed=i)
        iterators.append((i, iter(dataset), iter(dataset.map(lambda x: x + 1).prefetch(1))))
        del dataset
        collect_garbage()
    for i, plain, mapped in iterators:
        assert sum(int((batch == i).numpy().all()) for batch in plain) == 20
        assert sum(int((batch == i + 1).numpy().all()) for batch in mapped) == 20


def test_a_dataset_made_in_the_scope_of_a_strategy_is_the_same():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        dataset = make()
    assert_same_batches(arrays_of(dataset), arrays_of(make()))


def test_a_python_loop_in_a_graph_reads_whole_epochs():
    dataset = make()

    @tf.function
    def count():
        rows = tf.constant(0)
        for _, labels in dataset:
            rows += tf.size(labels)
        return rows

    assert [int(count()), int(count())] == [len(X), len(X)]
    assert dataset.epoch == 2


@pytest.mark.parametrize("truncating", ["post", "pre"])
def test_maxlen_cuts_like_pad_sequences(truncating):
    dataset = BucketedSequence(X, Y, batch_size=18, maxlen=4, truncating=truncating, shuffle=False)
    sequences, labels = next(iter(dataset))
    padded = keras.utils.pad_sequences(X, maxlen=4, padding="post", truncating=truncating)
    assert np.array_equal(sequences, padded[labels])
    assert dataset.lengths.tolist() == [min(len(row), 4) for row in X]


def test_dropped_rows_keep_their_place_in_the_input():
    dataset = BucketedSequence([[], [1, 2], [], [3]], [0, 1, 2, 3], on_empty="drop", seed=1, batch_size=1)
    assert dataset.num_sequences == 2
    assert dataset.lengths.tolist() == [0, 2, 0, 1]
    assert dataset.epoch_plan(0).left_out.tolist() == [0, 2]
    assert dataset.padding_stats().left_out == 2
    plan, batches = dataset.epoch_plan(0), arrays_of(dataset)
    assert [labels.tolist() for _, labels in batches] == [rows.tolist() for rows in plan]
    assert sorted(plan.rows) == [1, 3]
    with pytest.raises(ValueError, match=r"2 of 4 rows were not yielded, the first of them x\[0\]"):
        dataset.restore_order(np.zeros((2, 1)))


def test_kept_empty_rows_are_one_timestep_of_padding():
    dataset = BucketedSequence([[], [1, 2]], on_empty="keep", padding_value=9, shuffle=False, include_lengths=True)
    batch = next(iter(dataset))
    assert batch["sequences"].numpy().tolist() == [[9, 9], [1, 2]]
    assert batch["lengths"].numpy().tolist() == [1, 2]


def test_labels_of_kept_empty_rows_are_as_long_as_the_row_and_weigh_nothing():
    dataset = BucketedSequence([[], [], [1, 2]], [[], [], [5, 6]], on_empty="keep", shuffle=False, batch_size=2)
    sequences, labels, weights = next(iter(dataset))
    assert sequences.shape == labels.shape == weights.shape == (2, 1)
    assert not weights.numpy().any()


def test_shapes_and_dtypes_are_known_before_the_first_batch():
    dataset = BucketedSequence([np.zeros((3, 12)), np.zeros((2, 12))], [0.5, 1.5])
    sequences, labels = dataset.element_spec
    assert (sequences.shape.as_list(), sequences.dtype) == ([None, None, 12], tf.float32)
    assert (labels.shape.as_list(), labels.dtype) == ([None], tf.float32)


def test_float64_becomes_floatx():
    keras.config.set_floatx("float16")
    try:
        assert next(iter(BucketedSequence([[0.5, 1.5], [2.5]]))).dtype == tf.float16
    finally:
        keras.config.set_floatx("float32")


def test_padding_to_the_boundary_bounds_the_number_of_shapes():
    dataset = make(pad_to_bucket_boundary=True, bucket_boundaries=[3, 6], batch_size=3)
    shapes = {x.shape for _ in range(3) for x, _ in arrays_of(dataset)}
    assert len(shapes) <= 3 + 1


def test_one_sequence_is_a_dataset_too():
    assert [batch.tolist() for batch in arrays_of(BucketedSequence([[5, 6]]))] == [[[5, 6]]]


def test_thousands_of_buckets_work():
    lengths = np.random.default_rng(0).permutation(np.arange(1, 2001))
    dataset = BucketedSequence.from_row_splits(
        np.zeros(lengths.sum(), np.int8), np.cumsum([0, *lengths]), lengths, num_buckets=5000, batch_size=8, seed=1
    )
    assert len(dataset.bucket_batch_sizes) == 2000
    plan = dataset.epoch_plan(0)
    assert sorted(plan.rows) == list(range(2000))
    assert [labels.numpy().tolist() for _, labels in dataset.take(5)] == [lengths[plan[i]].tolist() for i in range(5)]


# One line about a dataset.


def figures_in(dataset):
    number = r"(\d+)"
    pattern = (
        rf"<BucketedSequence: {number} sequences? of {number} to {number} timesteps, {number} buckets?, "
        rf"{number} batch(?:es)?, padding efficiency (\d\.\d\d\d)>"
    )
    return [float(figure) for figure in re.fullmatch(pattern, repr(dataset)).groups()]


@settings(max_examples=examples(30), deadline=None)
@given(length_arrays(max_size=40), st.integers(1, 8), st.sampled_from(["spill", "keep"]))
def test_repr_has_the_figures_of_the_dataset(lengths, batch_size, remainder):
    dataset = BucketedSequence([[1] * length for length in lengths], batch_size=batch_size, remainder=remainder, seed=1)
    assert figures_in(dataset) == [
        *(len(lengths), lengths.min(), lengths.max(), len(dataset.bucket_batch_sizes), len(dataset)),
        round(dataset.padding_stats().padding_efficiency, 3),
    ]
    assert str(dataset) == repr(dataset)


def test_repr_reads_no_data_and_advances_nothing():
    def load(row):
        raise AssertionError("data were read")

    signature = tf.TensorSpec([None], tf.int32)
    dataset = BucketedSequence.from_loader(load, [3, 1, 2], output_signature=signature, batch_size=2)
    before = dataset.state_dict()
    assert figures_in(dataset)[:3] == [3, 1, 3]
    assert dataset.state_dict() == before


def test_repr_is_there_in_a_graph_in_the_constructor_and_for_another_seed():
    dataset = BucketedSequence([[1] * length for length in range(1, 60)], batch_size=4, num_buckets=2, seed=1)
    seen = []

    @tf.function
    def traced():
        seen.append(repr(dataset))

    traced()
    assert seen == [repr(dataset)]
    assert "BucketedSequence object at" in repr(BucketedSequence.__new__(BucketedSequence))
    other = BucketedSequence([[1] * length for length in range(1, 60)], batch_size=4, num_buckets=2)
    assert figures_in(other)[0] == 59
    other.load_state_dict(dataset.state_dict())
    assert repr(other) == repr(dataset)
