"""A checkpoint of an iterator would bring back other rows: every way to make one is refused."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence

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


def make(num_rows):
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
@pytest.mark.parametrize("num_batches", [4, 40])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_iterator_is_not_checkpointed(wrapper, num_batches, tmp_path):
    with pytest.raises(tf.errors.FailedPreconditionError, match="ReadVariableOp is stateful"):
        save(WRAPPERS[wrapper](make(num_batches)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_symbolic_checkpoints_are_refused_as_an_option():
    with pytest.raises(ValueError, match=r"experimental_symbolic_checkpoint.*dataset\.state_dict\(\)"):
        with_option(make(4), symbolic)
    assert with_option(make(4), state_ignored).cardinality() == 4


@pytest.mark.parametrize("other_process", [False, True])
@pytest.mark.parametrize(
    ("wrapper", "num_read"),
    [(wrapper, 1) for wrapper in WRAPPERS if wrapper != "plain"]
    + [("map", 39), ("parallel map", 30), ("zip", 39), ("repeat", 39), ("repeat", 41), ("prefetch, repeat", 70)],
)
def test_a_symbolic_checkpoint_is_not_restored(wrapper, num_read, other_process, tmp_path):
    def wrap(dataset):
        return with_option(WRAPPERS[wrapper](dataset), symbolic)

    dataset = wrap(make(40))
    _, path = save(dataset, tmp_path, num_read)
    # A dataset made again has numbers of its own, as one in another process has.
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"dataset\.state_dict\(\)"):
        restored_batches(wrap(make(40)) if other_process else dataset, path)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_pass_whose_state_is_ignored_goes_on_with_its_own_rows(wrapper, tmp_path):
    dataset = with_option(WRAPPERS[wrapper](make(40)), state_ignored)
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
    dataset = make(4).shuffle(99, seed=1)
    iterator, path = save(dataset, tmp_path)
    assert restored_batches(dataset, path) == labels(iterator)


def test_options_must_be_options():
    with pytest.raises(TypeError, match=r"`options` must be a `tf.data.Options`. Received 5 \(int\)."):
        make(3).with_options(5)
