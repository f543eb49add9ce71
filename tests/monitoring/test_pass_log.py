"""What is remembered of passes: whatever was added up, the figures are those of the batches."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.monitoring.batch_log import HostLog, stats_of_entries
from keras_bucketing.monitoring.graph_log import BatchLog
from keras_bucketing.monitoring.pass_log import KEPT_PASSES
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassPosition
from tests.support.default_layer import examples

KEPT = 4


class Measure:
    def stats(self, entries):
        return stats_of_entries(entries, ["x"], [3]) if entries else PaddingStats()


class OnHost(HostLog):
    def __init__(self):
        super().__init__(Measure())
        self._num_kept = self._added_at_once = KEPT
        self.number = 0

    def begin_pass(self):
        self.number = self.begin()

    def write_entry(self, index, entry):
        self.note(self.number, index, entry)

    def end_pass(self):
        self.finish(self.number)

    def num_in_memory(self):
        return len(self._entries[self.number])


class InGraph(BatchLog):
    def __init__(self):
        super().__init__(["x"], [3], is_endless=False, num_kept=KEPT)
        self.number = 0

    def begin_pass(self):
        self.number += 1
        self.forget_old_passes(tf.constant(self.number, tf.int64))

    def write_entry(self, index, entry):
        number, index = tf.constant(self.number, tf.int64), tf.constant(index, tf.int64)
        self.write(number, index, tf.constant(entry[:, 1:]), tf.constant(entry[:, 0]))
        self.add_up_now_and_then(number, index)

    def end_pass(self):
        self.finish(tf.constant(self.number, tf.int64))

    def num_in_memory(self):
        return int(self._table.size()) + len(self._remembered.get(self.number, {}))


def entry_of(index):
    return np.array([[index % 7 + 1, *([index % 5 % (index % 7 + 1)] * (index % 3 + 1))]], np.int32)


@pytest.mark.parametrize("make", [OnHost, InGraph])
@settings(max_examples=examples(12))
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 4), st.sampled_from([-1, 3, 9, None]), st.booleans()),
        min_size=1,
        max_size=3,
    )
)
def test_figures_are_those_of_the_batches_whatever_was_added_up(make, passes):
    """In each pass so many batches; asked about every so many, from the last question on or as a whole; or never.

    The first question comes before the pass, which is announced, or without a word after one of its batches.
    """
    log = make()
    for num_batches, every, first_question, asks_for_parts in passes:
        if first_question == -1:
            log.expect_questions(log.number + 1)
        log.begin_pass()
        position, start = PassPosition(log.number, log.number - 1, 0), 0
        is_asked = log._newest_asked >= log.number
        for index in range(num_batches):
            log.write_entry(index, entry_of(index))
            if not is_asked:
                assert log.num_in_memory() <= 2 * KEPT + sum(number for number, *_ in passes)
            if not is_asked and index == first_question:
                expected = Measure().stats([entry_of(each) for each in range(index + 1)])
                assert figures(log.pass_stats(position, 0, 10**12)) == figures(expected)
                is_asked, start = True, index + 1 if asks_for_parts else 0
            elif is_asked and every and index % (4 * every) == 4 * every - 1:
                expected = Measure().stats([entry_of(each) for each in range(start, index + 1)])
                for stop in (10**12, index + 1):
                    received = log.pass_stats(position, start, stop)
                    assert received == expected if asks_for_parts else figures(received) == figures(expected)
                start = index + 1 if asks_for_parts else 0
        if not (is_asked and asks_for_parts):
            whole = Measure().stats([entry_of(each) for each in range(num_batches)])
            assert figures(log.pass_stats(position, 0, num_batches + 1)) == figures(whole)
        log.end_pass()
        assert figures(log.finished_stats()) == figures(Measure().stats(list(map(entry_of, range(num_batches)))))
        assert len(log._sums) <= KEPT_PASSES + 1


def figures(stats):
    """What does not depend on the order in which sums are made."""
    return stats.num_batches, stats.num_sequences, stats.real_timesteps, stats.total_timesteps, len(stats.buckets)


@pytest.mark.parametrize("make", [OnHost, InGraph])
def test_parts_of_a_sum_are_refused(make):
    log = make()
    log.begin_pass()
    for index in range(12):
        log.write_entry(index, entry_of(index))
    position = PassPosition(1, 0, 0)
    assert log.pass_stats(position, 5, 5) == PaddingStats()
    num_added = log._sum_of(1)[0]
    assert 4 <= num_added <= 8
    for start, stop in ((1, 12), (0, num_added - 1)):
        with pytest.raises(ValueError, match=rf"batches of this pass have been added up.*received {start} and {stop}"):
            log.pass_stats(position, start, stop)
    log.begin_pass()
    log.write_entry(0, entry_of(0))
    assert log.pass_stats(position, num_added, 10**12).num_batches == 12 - num_added  # none of the next pass


def test_the_pass_that_was_finished_last_is_remembered_beside_those_begun_since():
    log = InGraph()
    for number in range(1, 3 + KEPT_PASSES):
        log.begin_pass()
        for index in range(12):
            log.write_entry(index, entry_of(index))
        if number == 1:
            log.end_pass()
    assert figures(log.finished_stats()) == figures(Measure().stats(list(map(entry_of, range(12)))))
