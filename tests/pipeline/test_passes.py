"""What Keras reads to build a model takes no epoch, and what only looks like it does."""

import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.pipeline.passes import PassCounter, PassPosition, is_symbolic_build


def make(**options):
    x = [[row] * (1 + row % 5) for row in range(17)]
    return BucketedSequence(x, np.arange(17), batch_size=4, num_buckets=2, seed=1, **options)


def module_with(function_name, module_name):
    """A module like keras/src/trainers/trainer.py: its function calls what it is given."""
    module = types.ModuleType(module_name)
    exec(f"def {function_name}(call):\n    return call()", module.__dict__)
    return getattr(module, function_name)


building = module_with("_symbolic_build", "keras.src.trainers.trainer")


def arrays_of(batches):
    return [[part.numpy().tolist() for part in batch] for batch in batches]


@pytest.mark.parametrize(
    ("function_name", "module_name", "expected"),
    [
        ("_symbolic_build", "keras.src.trainers.trainer", True),
        ("_symbolic_build", "keras_bucketing.other", False),
        ("fit", "keras.src.trainers.trainer", False),
    ],
)
def test_it_is_told_by_the_function_of_keras_alone(function_name, module_name, expected):
    call = module_with(function_name, module_name)
    assert call(is_symbolic_build) == expected
    assert call(lambda: next(iter([is_symbolic_build()]))) == expected
    assert not is_symbolic_build()


def test_a_building_read_sees_the_next_pass_and_takes_no_epoch():
    dataset = make(include_lengths=False)
    dataset.seek(3, 2)
    seen = building(lambda: arrays_of(dataset))
    assert (dataset.epoch, dataset.next_first_batch, dataset.newest_pass().number) == (3, 2, 0)
    assert arrays_of(dataset) == seen
    assert len(seen) == len(dataset) - 2
    assert dataset.newest_pass() == (1, 3, 2)


def test_a_building_read_has_the_kind_of_batches_that_the_dataset_has():
    dataset = make(include_lengths=True, pad_to_bucket_boundary=True)
    x, y = building(lambda: next(iter(dataset)))
    spec = dataset.element_spec
    assert spec[0]["sequences"].is_compatible_with(x["sequences"])
    assert spec[0]["lengths"].is_compatible_with(x["lengths"])
    assert spec[1].is_compatible_with(y)


def test_a_building_read_in_the_middle_of_another_pass_leaves_it_alone():
    dataset = make()
    iterator = iter(dataset)
    first = arrays_of([next(iterator)])
    building(lambda: next(iter(dataset)))
    planned = [rows.tolist() for rows in dataset.epoch_plan(0)]
    assert [labels for _, labels in [*first, *arrays_of(iterator)]] == planned
    assert dataset.newest_pass() == (1, 0, 0)


def test_one_batch_read_by_anybody_else_begins_a_pass():
    dataset = make()
    next(iter(dataset))
    list(dataset.take(1))
    assert dataset.epoch == 2


# A checkpoint of an iterator would bring back other rows: every way to make_dataset one is refused.


WRAPPERS = {
    "plain": lambda dataset: dataset,
    "map": lambda dataset: dataset.map(lambda x, y: (x, y)),
    "parallel map": lambda dataset: dataset.map(lambda x, y: (x, y), num_parallel_calls=2).prefetch(tf.data.AUTOTUNE),
    "prefetch": lambda dataset: dataset.prefetch(2),
    "take": lambda dataset: dataset.take(3),
    "repeat": lambda dataset: dataset.repeat(2),
    "prefetch, repeat": lambda dataset: dataset.prefetch(99).repeat(2),
    "rows": lambda dataset: dataset.unbatch().batch(2),
    "shuffle": lambda dataset: dataset.shuffle(2),
    "zip": lambda dataset: tf.data.Dataset.zip((dataset, tf.data.Dataset.range(99))),
}


def make_dataset(num_rows):
    return BucketedSequence([[row] for row in range(num_rows)], np.arange(num_rows), batch_size=1, seed=1)


def symbolic(options):
    options.experimental_symbolic_checkpoint = True


def state_ignored(options):
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE


def with_option(dataset, set_option):
    options = tf.data.Options()
    set_option(options)
    return dataset.with_options(options)


def save(dataset, tmp_path, num_read=1):
    iterator = iter(dataset)
    for _ in range(num_read):
        next(iterator)
    return iterator, tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))


def restored_batches(dataset, path):
    iterator = iter(dataset)
    tf.train.Checkpoint(iterator=iterator).read(path).assert_consumed()
    return labels(iterator)


def labels(batches):
    return [tf.nest.flatten(batch)[1].numpy().tolist() for batch in batches]


# With 4 batches, the pipeline has read all of the pass ahead when the first one is consumed.
@pytest.mark.parametrize("num_batches", [pytest.param(4, marks=pytest.mark.fit), 40])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_iterator_is_not_checkpointed(wrapper, num_batches, tmp_path):
    with pytest.raises(tf.errors.FailedPreconditionError, match="ReadVariableOp is stateful"):
        save(WRAPPERS[wrapper](make_dataset(num_batches)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_symbolic_checkpoints_are_refused_as_an_option():
    with pytest.raises(ValueError, match=r"experimental_symbolic_checkpoint.*dataset\.state_dict\(\)"):
        with_option(make_dataset(4), symbolic)
    assert with_option(make_dataset(4), state_ignored).cardinality() == 4


RESTORED = [
    *((wrapper, 1) for wrapper in WRAPPERS if wrapper != "plain"),
    *(("map", 39), ("parallel map", 30), ("zip", 39), ("prefetch, repeat", 70)),
    *(("repeat", 39), ("repeat", 40), ("repeat", 41)),
]


# In the default layer each wrapper after one batch, and where an epoch ends.
@pytest.mark.parametrize(
    ("wrapper", "num_read", "other_process"),
    [
        pytest.param(*each, other, marks=[] if (each[1] == 1 and other) or each[1] == 40 else pytest.mark.fit)
        for each in RESTORED
        for other in (False, True)
    ],
)
def test_a_symbolic_checkpoint_is_not_restored(wrapper, num_read, other_process, tmp_path):
    def wrap(dataset):
        return with_option(WRAPPERS[wrapper](dataset), symbolic)

    dataset = wrap(make_dataset(40))
    _, path = save(dataset, tmp_path, num_read)
    # A dataset made again has numbers of its own, as one in another process has.
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"dataset\.state_dict\(\)"):
        restored_batches(wrap(make_dataset(40)) if other_process else dataset, path)


@pytest.mark.parametrize(
    "wrapper",
    [name if name in ("plain", "map", "rows") else pytest.param(name, marks=pytest.mark.fit) for name in WRAPPERS],
)
def test_a_pass_whose_state_is_ignored_goes_on_with_its_own_rows(wrapper, tmp_path):
    dataset = with_option(WRAPPERS[wrapper](make_dataset(40)), state_ignored)
    iterator, path = save(dataset, tmp_path, 2)
    of_this_pass = {"take": 1, "rows": 18}.get(wrapper, 38)
    expected = labels(iterator)[:of_this_pass]
    assert len(expected) == of_this_pass
    assert restored_batches(dataset, path)[:of_this_pass] == expected


@pytest.mark.parametrize("set_option", [lambda options: None, symbolic, state_ignored])
def test_other_datasets_are_checkpointed(set_option, tmp_path):
    # If this ever fails, the tests above show nothing.
    dataset = with_option(tf.data.Dataset.range(9).map(lambda x: (x, x + 1)).prefetch(2), set_option)
    iterator, path = save(dataset, tmp_path)
    assert restored_batches(dataset, path) == labels(iterator)


def test_what_a_shuffle_has_taken_comes_back_as_it_was(tmp_path):
    dataset = make_dataset(4).shuffle(99, seed=1)
    iterator, path = save(dataset, tmp_path)
    assert restored_batches(dataset, path) == labels(iterator)


def test_options_must_be_options():
    with pytest.raises(TypeError, match=r"`options` must be a `tf.data.Options`. Received 5 \(int\)."):
        make_dataset(3).with_options(5)


# The record of passes: which epoch comes next, whoever begins it.


def begin(counter):
    return [int(part) for part in counter.begin_pass()]


def test_each_pass_gets_the_next_number_and_epoch():
    counter = PassCounter(seed=5)
    assert counter.newest_pass() == PassPosition(number=0, epoch=0, first_batch=0)
    assert [begin(counter) for _ in range(3)] == [[1, 0, 0, 5], [2, 1, 0, 5], [3, 2, 0, 5]]
    assert counter.newest_pass() == PassPosition(number=3, epoch=2, first_batch=0)
    assert counter.next_position == (3, 0)


def test_seeking_moves_the_next_pass_and_nothing_else():
    counter = PassCounter(seed=5)
    begin(counter)
    counter.seek(7, 3)
    assert counter.newest_pass() == PassPosition(number=1, epoch=0, first_batch=0)
    assert counter.next_position == (7, 3)
    assert [begin(counter), begin(counter)] == [[2, 7, 3, 5], [3, 8, 0, 5]]
    counter.seek(0, 0, seed=6)
    assert counter.seed == 6
    assert begin(counter) == [4, 0, 0, 6]


def test_threads_that_begin_at_once_get_different_epochs():
    counter = PassCounter()
    with ThreadPoolExecutor(max_workers=8) as threads:
        passes = list(threads.map(lambda _: begin(counter), range(64)))
    assert sorted(number for number, *_ in passes) == list(range(1, 65))
    assert sorted(epoch for _, epoch, *_ in passes) == list(range(64))


def test_a_pass_can_begin_inside_a_graph():
    counter = PassCounter()
    begin_in_graph = tf.function(counter.begin_pass)
    assert [int(begin_in_graph()[1]) for _ in range(3)] == [0, 1, 2]


def test_a_counter_made_in_the_scope_of_a_strategy_is_no_distributed_variable():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        counter = PassCounter()
    assert type(counter._state).__module__.endswith("resource_variable_ops")
    assert begin(counter)[0] == 1
