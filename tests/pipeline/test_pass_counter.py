"""The record of passes: which epoch comes next, whoever begins it."""

from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from keras_bucketing.pipeline.pass_counter import PassCounter, PassPosition


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
