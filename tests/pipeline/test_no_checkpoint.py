"""A checkpoint of an iterator would bring back other rows: every way to make one is refused."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.pipeline.no_checkpoint import endless_dataset_never_read

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


def save(dataset, tmp_path, set_option=None):
    if set_option is not None:
        options = tf.data.Options()
        set_option(options)
        dataset = dataset.with_options(options)
    iterator = iter(dataset)
    next(iterator)
    return tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))


# With 4 batches, the pipeline has read all of the pass ahead when the first one is consumed.
@pytest.mark.parametrize("num_batches", [4, 40])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_iterator_is_not_checkpointed(wrapper, num_batches, tmp_path):
    dataset = WRAPPERS[wrapper](make(num_batches))
    with pytest.raises(tf.errors.FailedPreconditionError, match="ReadVariableOp is stateful"):
        save(dataset, tmp_path)
    with pytest.raises(tf.errors.UnimplementedError, match="GeneratorDataset does not support checkpointing"):
        save(dataset, tmp_path, symbolic)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapper", ["plain", "parallel map", "take", "repeat", "rows"])
def test_an_iterator_in_mid_pass_is_not_checkpointed_even_if_state_is_to_be_ignored(wrapper, tmp_path):
    with pytest.raises(tf.errors.UnimplementedError, match="GeneratorDataset does not support checkpointing"):
        save(WRAPPERS[wrapper](make(40)), tmp_path, state_ignored)


@pytest.mark.parametrize("set_option", [None, symbolic, state_ignored])
def test_other_datasets_are_checkpointed(set_option, tmp_path):
    # If this ever fails, the tests above show nothing.
    save(tf.data.Dataset.range(9).map(lambda x: x + 1).prefetch(2), tmp_path, set_option)
    assert list(tmp_path.iterdir())


def test_what_a_shuffle_has_taken_comes_back_as_it_was(tmp_path):
    dataset = make(4).shuffle(99, seed=1)
    iterator = iter(dataset)
    next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "checkpoint"))
    expected = [labels.numpy().tolist() for _, labels in iterator]
    restored = iter(dataset)
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    assert [labels.numpy().tolist() for _, labels in restored] == expected


def test_the_dataset_that_is_never_read_could_be():
    spec = (tf.TensorSpec([None, 3], tf.float32), {"lengths": tf.TensorSpec([], tf.int32)})
    (sequences, other), *_ = endless_dataset_never_read(spec).take(2)
    assert sequences.shape == (0, 3)
    assert other["lengths"].numpy() == 0
