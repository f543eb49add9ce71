from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_bucketing.callbacks.consumed_batches import Consumed, ConsumedBatches
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition


class FakeDataset:
    """Batches of 1, 2, 3, ... rows, and passes that the test begins by hand."""

    def __init__(self, num_batches=10):
        self.num_batches = num_batches  # None: unknown
        self.newest = PassPosition(0, 0, 0)

    def read_first_batch(self, first_batch=0):
        self.newest = PassPosition(self.newest.number + 1, self.newest.number, first_batch)
        return self.newest

    def newest_pass(self):
        return self.newest

    def __len__(self):
        if self.num_batches is None:
            raise TypeError
        return self.num_batches

    def pass_stats(self, position, start, stop):
        return PaddingStats(num_sequences=sum(range(start + 1, stop + 1)))


def run_steps(batches, dataset, ends, first_batch=None):
    """The hooks of one Keras epoch whose groups end at these steps, the batches being read after the first begin."""
    batches.begin()
    begin = 0
    for end in ends:
        batches.begin_step(begin)
        if begin == 0 and first_batch is not None:
            dataset.read_first_batch(first_batch)
        batches.end_step(end)
        begin = end + 1


def test_a_whole_pass():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(10), first_batch=0)
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 0, 10)


def test_nothing_was_read():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    assert batches.consumed() is None
    run_steps(batches, dataset, range(3))
    assert batches.consumed() is None


def test_a_step_that_began_but_found_no_data_does_not_count():
    dataset = FakeDataset(num_batches=None)
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(3), first_batch=0)
    batches.begin_step(3)
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 0, 3)


def test_an_epoch_without_data_after_one_with_data():
    dataset = FakeDataset(num_batches=None)
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(3), first_batch=0)
    run_steps(batches, dataset, [])
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 3, 3)


def test_epochs_go_on_with_a_pass_until_another_begins():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    seen = []
    for ends, first_batch in ((range(4), 0), (range(4), None), (range(2), None), (range(4), 0)):
        run_steps(batches, dataset, ends, first_batch)
        seen.append(batches.consumed())
    first, second = PassPosition(1, 0, 0), PassPosition(2, 1, 0)
    assert seen == [Consumed(first, 0, 4), Consumed(first, 4, 8), Consumed(first, 8, 10), Consumed(second, 0, 4)]


def test_a_pass_goes_on_even_if_nobody_asked_in_between():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(4), first_batch=0)
    run_steps(batches, dataset, range(3))
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 4, 7)


def test_what_begins_after_the_end_is_no_concern():
    """A validation ends the training part, and the end of the epoch calls `end` again."""
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(4), first_batch=0)
    batches.end()
    dataset.read_first_batch()
    batches.end()
    assert not batches.overran
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 0, 4)


def test_a_validation_on_the_same_dataset_is_another_pass():
    dataset = FakeDataset()
    training, validation = ConsumedBatches(dataset), ConsumedBatches(dataset)
    run_steps(training, dataset, range(1), first_batch=0)  # one step: no second begin_step to find the pass
    training.locate()
    run_steps(validation, dataset, range(10), first_batch=0)
    assert training.consumed() == Consumed(PassPosition(1, 0, 0), 0, 1)
    assert validation.consumed() == Consumed(PassPosition(2, 1, 0), 0, 10)
    run_steps(training, dataset, range(3))
    assert training.consumed() == Consumed(PassPosition(1, 0, 0), 1, 4)


def test_of_several_new_passes_the_first_is_the_one_that_is_read():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(1), first_batch=0)
    dataset.read_first_batch()  # a strategy builds the model for a validation before on_test_begin
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 0, 1)


def test_a_pass_that_began_inside_an_epoch_ends_earlier():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, [2, 5], first_batch=6)
    assert batches.consumed() == Consumed(PassPosition(1, 0, 6), 0, 4)


@pytest.mark.parametrize("order", list(itertools.permutations([2, 5, 8, 11])))
def test_ends_may_come_late_and_out_of_order(order):
    dataset = FakeDataset(num_batches=12)
    batches = ConsumedBatches(dataset)
    batches.begin()
    dataset.read_first_batch()
    for begin in (0, 3, 6, 9):
        batches.begin_step(begin)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(batches.end_step, order))
    assert batches.consumed(lambda: 78) == Consumed(PassPosition(1, 0, 0), 0, 12)


@pytest.mark.parametrize(
    ("num_batches", "rows", "expected_steps", "stop"),
    [
        (10, None, 10, 10),  # nobody cut the pass
        (20, sum(range(1, 8)), 7, 7),  # .take(7): the last of three groups was short
        (20, sum(range(1, 10)), 7, 9),  # steps_per_epoch=7: Keras runs whole groups
        (20, None, 7, 7),  # the model does not count rows
        (20, 12345, 7, 7),  # the model counts something else
        (20, None, None, 9),
        (None, sum(range(1, 9)), None, 8),
    ],
)
def test_a_short_last_group(num_batches, rows, expected_steps, stop):
    dataset = FakeDataset(num_batches)
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, [2, 5, 8, 11] if num_batches == 10 else [2, 5, 8], first_batch=0)
    assert batches.consumed(lambda: rows, expected_steps) == Consumed(PassPosition(1, 0, 0), 0, stop)
    run_steps(batches, dataset, [2])
    assert batches.consumed(expected_steps=None).start == stop


def test_rows_are_not_asked_for_without_need():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(4), first_batch=0)
    assert batches.consumed(lambda: pytest.fail("asked for rows")).stop == 4


def test_an_epoch_that_goes_on_with_the_pass_begins_where_the_one_before_has_ended():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(3), first_batch=0)
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 0, 3)
    run_steps(batches, dataset, range(2))
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 3, 5)


@pytest.mark.parametrize(
    ("ends", "overran"),
    [(range(10), False), (range(11), True), ([2, 5, 8, 11], False), ([2, 5, 8, 11, 14], True)],
)
def test_more_batches_than_the_pass_has_are_noticed(ends, overran):
    dataset = FakeDataset(10)
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, ends, first_batch=0)
    batches.consumed()
    assert batches.overran == overran


def test_the_size_of_a_group_is_that_of_the_first_whenever_its_end_comes():
    dataset = FakeDataset(10)
    batches = ConsumedBatches(dataset)
    batches.begin()
    dataset.read_first_batch()
    for end in (3, 0, 1, 2):
        batches.end_step(end)
    assert batches.consumed(count_rows=pytest.fail).stop == 4


def test_a_pass_that_nobody_announced_leaves_a_doubt_for_the_rest_of_the_fit():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(3), first_batch=0)
    batches.locate()
    dataset.read_first_batch()  # a repeat() on top, or somebody else
    batches.end()
    assert batches.consumed().stop == 3
    assert batches.overran
    run_steps(batches, dataset, range(3), first_batch=0)
    batches.consumed()
    assert batches.overran


def test_announced_passes_of_others_leave_none():
    dataset = FakeDataset()
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, range(3), first_batch=0)
    batches.pause()
    dataset.read_first_batch()
    dataset.read_first_batch()
    batches.resume()
    batches.end()
    assert batches.consumed() == Consumed(PassPosition(1, 0, 0), 0, 3)
    assert not batches.overran


def test_rows_that_fit_no_group_any_more_are_noticed():
    dataset = FakeDataset(num_batches=None)
    batches = ConsumedBatches(dataset)
    run_steps(batches, dataset, [2], first_batch=0)
    assert batches.consumed(lambda: 1 + 2 + 3).stop == 3
    assert not batches.overran
    run_steps(batches, dataset, [2], first_batch=0)
    batches.consumed(lambda: 12345)
    assert batches.overran
