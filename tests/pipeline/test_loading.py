"""The interpreter waits for calls out of TensorFlow's threads."""

import threading
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing import BucketedSequence
from keras_bucketing.pipeline.loading import PendingCalls
from tests.support.processes import run_python


def test_waiting_ends_after_the_last_call():
    calls, events = PendingCalls(), []
    has_begun, may_end = threading.Event(), threading.Event()

    def call_twice():
        with calls.track():
            has_begun.set()
            may_end.wait(60)
            events.append("first call")
        with calls.track():
            events.append("second call")

    def wait():
        calls.wait()
        events.append("waited")

    threads = [threading.Thread(target=call_twice), threading.Thread(target=wait)]
    threads[0].start()
    assert has_begun.wait(60)
    threads[1].start()
    threads[1].join(0.3)
    assert events == []
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert events == ["first call", "second call", "waited"]


def test_the_interpreter_is_told_once_to_wait(monkeypatch):
    told = []
    monkeypatch.setattr("atexit.register", told.append)
    calls = PendingCalls()
    assert told == []
    for _ in range(2):
        with calls.track():
            assert told == [calls.wait]


def test_a_call_that_fails_has_ended():
    calls = PendingCalls()
    with pytest.raises(OSError, match="early"), calls.track():
        raise OSError("early")
    assert calls.num_running == 0
    calls.wait()


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr("keras_bucketing.pipeline.loading._PATIENCE_SECONDS", 0.1)
    calls = PendingCalls()
    with calls.track():
        calls.wait()


# Loading in threads: how many at once, whose they are, and that nothing stays behind.


NUM_ROWS = 24
LENGTHS = [1 + row % 5 for row in range(NUM_ROWS)]
SPEC = tf.TensorSpec((None, 2), tf.float32)


def sequence_of(row):
    return np.full((LENGTHS[row], 2), row, np.float32)


def make(load=sequence_of, **options):
    options = {"output_signature": SPEC, "batch_size": 4, "seed": 1, **options}
    return BucketedSequence.from_loader(load, LENGTHS, np.arange(NUM_ROWS), **options)


def rows_of(dataset):
    return sorted(row for _, labels in dataset for row in labels.numpy().tolist())


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_so_many_loads_run_at_once_and_no_more(num_threads):
    barrier = threading.Barrier(num_threads)  # passes when so many wait at once, else it breaks
    lock, running, most = threading.Lock(), 0, 0

    def load(row):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(timeout=60)
        with lock:
            running -= 1
        return sequence_of(row)

    assert rows_of(make(load, num_parallel_loads=num_threads)) == list(range(NUM_ROWS))
    assert most == num_threads


def test_loads_run_ahead_of_whoever_reads():
    loaded, enough = [], threading.Event()

    def load(row):
        loaded.append(row)
        if len(loaded) == 12:
            enough.set()
        return sequence_of(row)

    iterator = iter(make(load))
    next(iterator)
    assert enough.wait(timeout=60)  # three batches, of which one has been read
    assert len(rows_of([*iterator])) == NUM_ROWS - 4


def test_several_passes_at_once_get_their_own_rows():
    dataset = make(num_parallel_loads=3)
    passes = [[] for _ in range(4)]

    def read(rows):
        rows += rows_of(dataset)

    threads = [threading.Thread(target=read, args=(rows,)) for rows in passes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert passes == [list(range(NUM_ROWS))] * 4


@pytest.mark.fit
def test_a_loader_may_compute_with_tensorflow_while_a_model_trains():
    @tf.function
    def compute(row):
        return tf.map_fn(lambda step: step * 2, tf.fill([LENGTHS[0] + 4, 2], tf.cast(row, tf.float32)))

    def load(row):
        return compute(tf.constant(row))[: LENGTHS[row]] / 2

    dataset = make(load, num_parallel_loads=8)
    model = keras.Sequential([keras.layers.GRU(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(dataset, epochs=2, verbose=0, shuffle=False)
    dataset.seek(0)
    x = [sequence_of(row) for row in range(NUM_ROWS)]
    in_memory = BucketedSequence(x, np.arange(NUM_ROWS), batch_size=4, seed=1)
    for batch, other in zip(dataset, in_memory, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


class Load:
    """A function that can be referred to weakly, and holds something large."""

    def __call__(self, row):
        return sequence_of(row)


def through_fit(dataset):
    model = keras.Sequential([keras.layers.GRU(2), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(dataset, verbose=0, class_weight=dict.fromkeys(range(NUM_ROWS), 1.0))


@pytest.mark.fit
@pytest.mark.parametrize(
    "use",
    [
        lambda dataset: None,
        rows_of,
        lambda dataset: next(iter(dataset)),
        lambda dataset: list(dataset.take(2).prefetch(2)),
        through_fit,
    ],
    ids=["nothing", "a pass", "a part of a pass", "a derived dataset", "fit"],
)
def test_the_loader_goes_with_the_dataset(use, collect_garbage):
    load = Load()
    known_weakly = weakref.ref(load)
    dataset = make(load)
    del load
    use(dataset)
    assert known_weakly() is not None
    del dataset
    collect_garbage()
    assert known_weakly() is None


@pytest.mark.parametrize("derive", [iter, lambda dataset: iter(dataset.take(9).prefetch(1))])
def test_an_iterator_holds_what_it_needs(derive, collect_garbage):
    iterator = derive(make(Load()))
    collect_garbage()
    assert rows_of(iterator) == list(range(NUM_ROWS))


LEAVES_EARLY = """
import time
import numpy as np, tensorflow as tf
from keras_bucketing import BucketedSequence

def load(row):
    time.sleep(0.02)
    return np.ones(3, np.float32)

spec = tf.TensorSpec((None,), tf.float32)
dataset = BucketedSequence.from_loader(load, [3] * 2000, output_signature=spec, batch_size=20)
iterator = iter(dataset)
next(iterator)
print("leaving", flush=True)
"""


@pytest.mark.fit
def test_a_program_that_ends_in_the_middle_of_a_pass_ends_quietly():
    result = run_python("-c", LEAVES_EARLY)
    assert (result.returncode, result.stdout) == (0, "leaving\n"), result.stderr
    assert "Traceback" not in result.stderr
