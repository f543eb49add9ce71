"""What Keras reads to build a model takes no epoch, and what only looks like it does."""

import types

import numpy as np
import pytest

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.pipeline.building_read import is_building_read


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
    assert call(is_building_read) == expected
    assert call(lambda: next(iter([is_building_read()]))) == expected
    assert not is_building_read()


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
