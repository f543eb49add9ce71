"""BucketedSequence.from_loader: the batches of the same sequences in memory, and rows that cannot be loaded."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence
from tests.support.default_layer import examples
from tests.support.strategies import bucket_options, lengths_lists, random_sequences, remainders, seeds

X = random_sequences([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3], "int32", (2,), seed=1)
LENGTHS = [len(sequence) for sequence in X]
Y = np.arange(len(X))


def spec_of(x):
    return tf.TensorSpec((None, *x[0].shape[1:]), x[0].dtype)


def from_loader(x=X, y=Y, load=None, lengths=None, **options):
    options = {"output_signature": spec_of(x), **options}
    return BucketedSequence.from_loader(
        load or (lambda row: x[row]), [len(row) for row in x] if lengths is None else lengths, y, **options
    )


def arrays_of(dataset):
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in dataset]


def assert_same_passes(loaded, in_memory, passes=1):
    assert loaded.element_spec == in_memory.element_spec
    for _ in range(passes):
        for batch, other in itertools.zip_longest(arrays_of(loaded), arrays_of(in_memory)):
            tf.nest.assert_same_structure(batch, other)
            for array, expected in zip(tf.nest.flatten(batch), tf.nest.flatten(other), strict=True):
                assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
                assert array.tobytes() == expected.tobytes()


@st.composite
def any_options(draw):
    num_shards = draw(st.sampled_from([1, 1, 2]))
    return {
        **draw(bucket_options(num_shards=num_shards)),
        "num_shards": num_shards,
        "shard_index": draw(st.integers(0, num_shards - 1)),
        "remainder": draw(remainders()),
        "shuffle": draw(st.booleans()),
        "pad_to_bucket_boundary": draw(st.booleans()),
        "include_lengths": draw(st.booleans()),
        "maxlen": draw(st.none() | st.integers(1, 12)),
        "truncating": draw(st.sampled_from(["post", "pre"])),
        "on_empty": draw(st.sampled_from(["keep", "drop"])),
        "padding_value": 1,
    }


@settings(max_examples=examples(25))
@given(
    lengths_lists(min_length=0),
    st.sampled_from(["bool", "uint8", "int64", "float16", "float32"]),
    st.sampled_from([(), (2,), (2, 3)]),
    any_options(),
    st.sampled_from(["none", "rows", "timesteps"]),
    st.integers(1, 4),
    seeds(),
)
def test_what_is_loaded_yields_the_batches_of_the_same_in_memory(
    lengths, dtype, shape, options, labels, num_threads, seed
):
    x = random_sequences(lengths, dtype, shape, seed)
    y = {"none": None, "rows": np.arange(len(x)), "timesteps": [np.arange(length) for length in lengths]}[labels]
    try:
        in_memory = BucketedSequence(x, y, seed=seed, **options)
    except ValueError as error:
        with pytest.raises(ValueError, match=r".") as refused:
            from_loader(x, y, seed=seed, **options)
        assert str(refused.value) == str(error)  # noqa: PT017
        return
    loaded = from_loader(x, y, seed=seed, num_parallel_loads=num_threads, **options)
    assert loaded.lengths.tolist() == in_memory.lengths.tolist()
    assert loaded.padding_stats() == in_memory.padding_stats()
    assert_same_passes(loaded, in_memory, passes=2)
    batch = in_memory.num_batches // 2
    for dataset in (loaded, in_memory):
        dataset.seek(5, batch)
    state = loaded.state_dict()
    assert_same_passes(loaded, in_memory)

    resumed = from_loader(x, y, seed=seed, **options)
    resumed.load_state_dict(state)
    in_memory.seek(5, batch)
    assert_same_passes(resumed, in_memory)


@given(lengths_lists(max_size=12), lengths_lists(min_size=12, max_size=12), st.booleans(), seeds())
@settings(max_examples=examples(15))
def test_several_sequences_a_row_are_those_in_memory(lengths, others, as_tuple, seed):
    a = random_sequences(lengths, "int16", (2,), seed)
    b = random_sequences(others[: len(a)], "float32", (), seed)
    names = (0, 1) if as_tuple else ("b", "a")

    def structure(first, second):
        return (first, second) if as_tuple else {names[0]: first, names[1]: second}

    calls = []

    def load(row):
        calls.append(row)
        return structure(a[row], b[row])

    options = {"include_lengths": not as_tuple, "seed": seed, "batch_size": 4, "maxlen": 9}
    loaded = BucketedSequence.from_loader(
        load,
        structure([len(row) for row in a], [len(row) for row in b]),
        output_signature=structure(spec_of(a), spec_of(b)),
        **options,
    )
    assert_same_passes(loaded, BucketedSequence(structure(a, b), **options))
    assert sorted(calls) == list(range(len(a)))  # once a row, not once a leaf


def test_a_shard_loads_its_own_rows_only():
    calls = [[], []]
    for shard, called in enumerate(calls):
        options = {"batch_size": 4, "num_shards": 2, "shard_index": shard, "seed": 1}
        dataset = from_loader(load=lambda row, called=called: (called.append(row), X[row])[1], **options)
        rows = [row for _, labels in arrays_of(dataset) for row in labels]
        assert sorted(called) == sorted(rows)
    assert not set(calls[0]) & set(calls[1])
    assert len(calls[0]) == len(calls[1]) == len(X) // 2


def test_seeking_loads_nothing_of_what_comes_before():
    called = []
    dataset = from_loader(load=lambda row: (called.append(row), X[row])[1], batch_size=4, seed=1)
    dataset.seek(3, 4)
    assert len(list(dataset)) == 1
    assert sorted(called) == sorted(dataset.epoch_plan(3)[4])


def test_rows_announced_as_empty_are_not_loaded():
    def load(row):
        if row == 1:
            raise OSError("an empty file")
        return X[row]

    lengths = [LENGTHS[0], 0, LENGTHS[2]]
    options = {"lengths": lengths, "y": None, "include_lengths": True, "shuffle": False, "padding_value": -1}
    (batch,) = arrays_of(from_loader(load=load, on_empty="keep", **options))
    assert batch["lengths"].tolist() == [1, 3, 4]
    assert (batch["sequences"][0] == -1).all()
    (batch,) = arrays_of(from_loader(load=load, on_empty="drop", **options))
    assert batch["lengths"].tolist() == [3, 4]
    with pytest.raises(ValueError, match=r"Received length 0 at x\[1\]"):
        from_loader(load=load, **options)


def test_predictions_come_back_in_the_order_of_the_rows():
    dataset = from_loader(X, None, batch_size=4, seed=1)
    sums = np.concatenate([batch.sum((1, 2)) for batch in arrays_of(dataset)])
    assert dataset.restore_order(sums).tolist() == [sequence.sum() for sequence in X]


# Lengths that are estimates.


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(-3, 3)), min_size=1, max_size=20),
    st.none() | st.integers(1, 10),
    st.sampled_from(["post", "pre"]),
    st.booleans(),
)
@settings(max_examples=examples(25))
def test_within_the_tolerance_shapes_follow_the_plan_and_lengths_the_loaded(rows, maxlen, truncating, to_boundary):
    announced = [length for length, _ in rows]
    x = random_sequences([max(length + error, 1) for length, error in rows], "int32")
    dataset = from_loader(
        x,
        lengths=announced,
        y=np.arange(len(x)),
        length_tolerance=3,
        maxlen=maxlen,
        truncating=truncating,
        pad_to_bucket_boundary=to_boundary,
        include_lengths=True,
        padding_value=-1,
        seed=1,
    )
    plan = dataset.epoch_plan(0)
    for padded_length, (inputs, labels) in zip(plan.padded_lengths, arrays_of(dataset), strict=True):
        assert inputs["sequences"].shape[1] == padded_length
        for padded, length, row in zip(inputs["sequences"], inputs["lengths"], labels, strict=True):
            room = min(announced[row], maxlen or 99)
            expected = x[row][:room] if truncating == "post" or not maxlen else x[row][max(len(x[row]) - room, 0) :]
            assert padded[:length].tolist() == expected.tolist()
            assert (padded[length:] == -1).all()


def test_the_lengths_of_each_leaf_are_those_loaded():
    lengths = {"a": [3, 4], "b": [2, 5]}
    loaded = {"a": [2, 4], "b": [3, 4]}
    dataset = BucketedSequence.from_loader(
        lambda row: {name: np.ones(loaded[name][row], np.float32) for name in lengths},
        lengths,
        output_signature=dict.fromkeys(lengths, tf.TensorSpec((None,), tf.float32)),
        length_tolerance=1,
        include_lengths=True,
        shuffle=False,
    )
    (batch,) = arrays_of(dataset)
    assert batch["a"].shape == (2, 4)
    assert batch["b"].shape == (2, 5)
    assert batch["a_lengths"].tolist() == [2, 4]
    assert batch["b_lengths"].tolist() == [2, 4]  # three were loaded, two announced
    assert batch["lengths"].tolist() == [2, 4]


def test_labels_of_each_timestep_need_exact_lengths():
    labels = [np.zeros(length) for length in LENGTHS]
    with pytest.raises(ValueError, match=r"`y` holds one label per timestep, which needs exact lengths"):
        from_loader(y=labels, length_tolerance=1)
    assert len(list(from_loader(y=labels, length_tolerance=1, align_labels=False))) == 1


# Rows that cannot be loaded.


def failing(broken):
    """Loads rows of X unless they are in the set `broken`, which may change."""

    def load(row):
        if row in broken:
            raise OSError(f"recording {row} ends early.")
        return X[row]

    return load


@given(st.sets(st.integers(0, len(X) - 1), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 4), seeds())
@settings(max_examples=examples(20))
def test_a_pass_ends_at_the_first_broken_batch_and_goes_on_when_it_is_mended(broken, size, num_threads, seed):
    broken = set(broken)  # hypothesis keeps its own
    dataset = from_loader(load=failing(broken), batch_size=size, seed=seed, num_parallel_loads=num_threads)
    in_memory = BucketedSequence(X, Y, batch_size=size, seed=seed)
    expected, plan = arrays_of(in_memory), dataset.epoch_plan(0)
    first = next(batch for batch, rows in enumerate(plan) if broken & set(rows))
    row = next(row for row in plan[first] if row in broken)  # of several in a batch, always the same

    received = []
    message = f"`load` failed at row {row} with OSError: recording {row} ends early. Repair"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        received.extend(dataset)
    broken.clear()
    dataset.seek(0, first)
    received += arrays_of(dataset)
    assert len(received) == len(expected)
    for batch, other in zip(received, expected, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


@pytest.mark.parametrize(
    "error", [StopIteration(), KeyError("a"), SystemExit(3), tf.errors.OutOfRangeError(None, None, "")]
)
def test_no_error_of_the_loader_passes_for_the_end_of_the_data(error):
    def load(row):
        if row == 7:
            raise error
        return X[row]

    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(from_loader(load=load, batch_size=4))
    assert f"LoadError: `load` failed at row 7 with {type(error).__name__}" in str(raised.value)


@pytest.mark.fit
def test_fit_says_what_failed_with_the_traceback_of_the_loader():
    model = keras.Sequential([keras.layers.GRU(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = [sequence.astype(np.float32) for sequence in X]

    def decode_recording(row):
        if row == 5:
            raise EOFError("the header promises more.")
        return x[row]

    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        model.fit(from_loader(x, load=decode_recording, batch_size=4), verbose=0)
    text = str(raised.value)
    assert (
        "LoadError: `load` failed at row 5 with EOFError: the header promises more. Repair what that row is loaded "
        "from, or leave the row out." in text
    )
    assert "in decode_recording" in text


@pytest.mark.fit
def test_fit_evaluate_and_predict_take_it():
    x = [sequence.astype(np.float32) / 2**31 for sequence in X]
    model = keras.Sequential([keras.layers.GRU(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    options = {"batch_size": 4, "seed": 1}
    losses = []
    weights = None
    for dataset in (from_loader(x, **options), BucketedSequence(x, Y, **options)):
        if weights is None:
            model.build((None, None, 2))
            weights = model.get_weights()
        model.set_weights(weights)
        history = model.fit(dataset, epochs=2, verbose=0, shuffle=False)
        losses.append([*history.history["loss"], model.evaluate(dataset, verbose=0)])
    assert losses[0] == losses[1]
    assert model.predict(from_loader(x, None, **options), verbose=0).shape == (len(X), 1)


# States.


def test_a_state_is_refused_where_lengths_signature_or_options_differ():
    state = from_loader(seed=1).state_dict()
    from_loader(seed=1).load_state_dict(state)
    others = [
        from_loader(seed=1, lengths=[LENGTHS[0] + 1, *LENGTHS[1:]]),
        from_loader(seed=1, output_signature=tf.TensorSpec((None, 2), tf.int64)),
        from_loader(seed=1, output_signature=tf.TensorSpec((None, 3), tf.int32)),
        from_loader(seed=1, length_tolerance=1),
        from_loader(seed=1, y=Y + 1),
        from_loader(seed=1, batch_size=4),
    ]
    for other in others:
        with pytest.raises(ValueError, match="belongs to another dataset"):
            other.load_state_dict(state)
    cut = [from_loader(seed=1, maxlen=4, truncating=end) for end in ("pre", "post")]
    with pytest.raises(ValueError, match="belongs to another dataset"):
        cut[0].load_state_dict(cut[1].state_dict())


# A function that takes the epoch.


def of_epoch(row, epoch):
    return np.full_like(X[row], epoch + 1)


def epochs_of(batches):
    """The epoch that each batch was loaded for; one for all of its rows."""
    epochs = [np.unique(inputs["sequences"].max(axis=(1, 2))) - 1 for inputs, _ in batches]
    assert all(len(of_batch) == 1 for of_batch in epochs)
    return [int(of_batch[0]) for of_batch in epochs]


EPOCHS = {"load": of_epoch, "include_lengths": True, "batch_size": 4}


@settings(max_examples=examples(15))
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(1, 6)), max_size=4), seeds())
def test_rows_are_loaded_for_the_epoch_of_their_pass(jumps, seed):
    dataset, resumed = (from_loader(**EPOCHS, seed=seed) for _ in range(2))
    assert epochs_of(arrays_of(dataset)) == [0] * dataset.num_batches
    for epoch, batch, num_batches in jumps:
        dataset.seek(epoch, batch)
        expected = [epoch] * min(dataset.num_batches - batch, num_batches)
        assert epochs_of(arrays_of(dataset.take(num_batches))) == expected
        assert epochs_of(arrays_of(dataset)) == [epoch + 1] * dataset.num_batches
        resumed.load_state_dict(dataset.state_dict(epoch, batch))
        dataset.seek(epoch, batch)
        for one, other in itertools.zip_longest(arrays_of(resumed), arrays_of(dataset)):
            tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_passes_at_once_and_repeated_ones_have_their_own_epochs():
    dataset = from_loader(**EPOCHS, seed=1)
    iterators = [iter(dataset) for _ in range(3)]
    batches = list(zip(*iterators, strict=True))
    assert [epochs_of(arrays_of(of_pass)) for of_pass in zip(*batches, strict=True)] == [
        [epoch] * dataset.num_batches for epoch in range(3)
    ]
    assert epochs_of(arrays_of(dataset.repeat(2))) == [3] * dataset.num_batches + [4] * dataset.num_batches


def test_what_is_loaded_outside_of_a_pass_is_loaded_for_epoch_0():
    dataset = from_loader(**EPOCHS, seed=1)
    dataset.seek(5)
    assert epochs_of(arrays_of(dataset._batches_of_rows([np.array([1, 2]), np.array([3])]))) == [0, 0]
    assert dataset.epoch == 5

    scope = {"__name__": "keras.src.trainers.trainer", "dataset": dataset}
    exec("def _symbolic_build():\n    return next(iter(dataset))", scope)
    assert epochs_of(arrays_of([scope["_symbolic_build"]()])) == [5]
    assert dataset.epoch == 5


def test_whether_the_function_takes_the_epoch_is_no_part_of_a_state():
    state = from_loader(seed=1).state_dict()
    from_loader(load=lambda row, epoch: X[row], seed=1).load_state_dict(state)
    from_loader(length_tolerance=0.0, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to another dataset"):
        from_loader(length_tolerance=0.1, seed=1).load_state_dict(state)


def test_a_fraction_is_taken_of_each_announced_length():
    x = [np.ones(length, np.int32) for length in (11, 45)]
    dataset = from_loader(x, lengths=[10, 50], y=None, length_tolerance=0.1, include_lengths=True, shuffle=False)
    (batch,) = arrays_of(dataset)
    assert batch["lengths"].tolist() == [10, 45]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected 9 to within 1"):
        list(from_loader(x, lengths=[9, 50], y=None, length_tolerance=0.1))
