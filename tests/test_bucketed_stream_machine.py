"""Random sequences of passes over a stream: whole ones, `take`, early stops, several at once, `seek` and resumption.

For an hour of it: pytest tests/test_bucketed_stream_machine.py -m "" --hypothesis-profile=soak
"""

import functools
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from keras_bucketing import BucketedStream

LENGTHS = np.random.default_rng(4).integers(1, 12, 37).tolist()
SEED = 3


def rows():
    for row, length in enumerate(LENGTHS):
        yield np.full(length, row, np.int32)


def rows_of_epoch(epoch):
    """As of a source that augments: another order in each epoch, the same one in the same."""
    for row in np.random.default_rng(epoch).permutation(len(LENGTHS)):
        yield np.full(LENGTHS[row], row, np.int32)


def rows_in_graph():
    lengths = tf.data.Dataset.from_tensor_slices(LENGTHS).enumerate()
    return lengths.map(lambda row, length: tf.fill([length], tf.cast(row, tf.int32)))


SOURCES = {"Python": lambda: rows, "epochs": lambda: rows_of_epoch, "graph": rows_in_graph}
SIZES = {"rows": {"batch_size": 4}, "budget": {"max_timesteps_per_batch": 30}}


def make(source, sizes, seed):
    return BucketedStream(SOURCES[source](), buffer_size=16, seed=seed, **SIZES[sizes])


@functools.cache
def reference(source, sizes):
    return make(source, sizes, SEED)


@functools.cache
def expected(source, sizes, epoch):
    """The batches of an epoch, which a stream of its own has read: the oracle."""
    stream = reference(source, sizes)
    stream.seek(epoch)
    batches = contents(stream)
    assert sorted(row for batch in batches for row, _ in batch) == list(range(len(LENGTHS)))
    assert all(LENGTHS[row] == length for batch in batches for row, length in batch)
    return batches


def contents(batches):
    """For each batch its rows, as pairs of which one it is and how long; padding is 0, as is row 0."""
    return [[_row(row) for row in batch.numpy()] for batch in batches]


def _row(padded):
    number = int(padded.max())
    return number, int((padded == number).sum()) if number else LENGTHS[0]


class Passes(RuleBasedStateMachine):
    @initialize(source=st.sampled_from(sorted(SOURCES)), sizes=st.sampled_from(sorted(SIZES)))
    def begin(self, source, sizes):
        self.kind = source, sizes
        self.stream = make(source, sizes, SEED)
        self.epoch = self.first = self.passes = 0

    def next_pass(self):
        """What the pass that begins now has; and where the one after it begins."""
        batches = expected(*self.kind, self.epoch)[self.first :]
        position = self.epoch, self.first
        self.passes += 1
        self.epoch, self.first = self.epoch + 1, 0
        return batches, position

    def check_position(self, position, batches):
        assert self.stream.newest_pass() == (self.passes, *position)
        assert (self.stream.epoch, self.stream.next_first_batch) == (self.epoch, self.first)
        stats = self.stream.pass_stats(self.stream.newest_pass(), 0, len(batches))
        assert stats.num_sequences == sum(map(len, batches))
        assert stats.real_timesteps == sum(length for batch in batches for _, length in batch)

    @rule()
    def read_all(self):
        batches, position = self.next_pass()
        assert contents(self.stream) == batches
        self.check_position(position, batches)

    @rule(number=st.integers(1, 12))
    def take(self, number):
        batches, position = self.next_pass()
        assert contents(self.stream.take(number)) == batches[:number]
        self.check_position(position, batches[:number])

    @rule(number=st.integers(1, 12))
    def stop_early(self, number):
        batches, position = self.next_pass()
        assert contents(itertools.islice(self.stream, number)) == batches[:number]
        self.check_position(position, batches[:number])

    @rule()
    def read_nothing(self):
        iter(self.stream)
        assert (self.stream.epoch, self.stream.next_first_batch) == (self.epoch, self.first)

    @rule()
    def read_two_at_once(self):
        iterators = [iter(self.stream), iter(self.stream)]
        starts = []
        for iterator in iterators:
            batches, position = self.next_pass()
            starts.append((batches, contents(itertools.islice(iterator, 2)), position))
        for iterator, (batches, begun, _) in zip(iterators, starts, strict=True):
            assert begun + contents(iterator) == batches
        self.check_position(starts[1][2], starts[1][0])

    @rule()
    def repeat(self):
        batches = [self.next_pass()[0] for _ in range(2)]
        assert contents(self.stream.repeat(2)) == batches[0] + batches[1]

    @rule(epoch=st.integers(0, 3), batch=st.integers(0, 9))
    def seek(self, epoch, batch):
        self.stream.seek(epoch, batch)
        self.epoch, self.first = epoch, batch

    @rule(batch=st.integers(0, 9), in_json=st.booleans())
    def resume(self, batch, in_json):
        state = self.stream.state_dict(self.epoch, batch)
        resumed = make(*self.kind, None)
        resumed.load_state_dict(json.loads(json.dumps(state)) if in_json else state)
        note(f"resumed at {self.epoch}, {batch}")
        assert resumed.seed == SEED
        self.stream, self.first, self.passes = resumed, batch, 0


BOUNDED = settings(max_examples=3, stateful_step_count=6, deadline=None)


@pytest.mark.fit
def test_whatever_is_done_with_a_stream():
    soaks = settings().max_examples == settings.get_profile("soak").max_examples
    run_state_machine_as_test(Passes, settings=settings() if soaks else BOUNDED)
