"""Sources that fill one buffer again and again, or yield views of large arrays: the rows are those that were there."""

import sys
import tracemalloc

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, load_sequences, save_sequences
from tests.support.default_layer import examples
from tests.support.processes import run_python


def rows_in_one_buffer(lengths, nested):
    buffer, label = np.zeros(max(lengths), np.int64), np.zeros((), np.int64)
    whole = {"a": None, "b": None}
    for number, length in enumerate(lengths):
        buffer[:length], label[...] = number + 1, number
        whole["a"], whole["b"] = buffer[:length], (label, [buffer[:2]] * length)
        yield (whole, label) if nested else (buffer[:length], label)
        buffer[:] = -1


class OneBuffer(keras.utils.PyDataset):
    """Padded batches of two rows in one buffer."""

    def __init__(self, num_batches, kind):
        super().__init__()
        self.num_batches_, self.kind = num_batches, kind
        self.x, self.y = np.zeros((2, 5), np.int64), np.zeros(2, np.int64)

    def __len__(self):
        return self.num_batches_

    def __getitem__(self, index):
        self.x[:], self.y[:] = 0, index
        self.x[0, : 1 + index % 4], self.x[1, : 1 + index % 3] = index + 1, index + 1
        return ([row[row > 0] for row in self.x] if self.kind == "list" else self.x, self.y)


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.booleans(), st.booleans())
def test_rows_of_one_buffer(tmp_path_factory, lengths, nested, on_disk):
    if on_disk:
        folder = tmp_path_factory.mktemp("buffers") / "s"
        save_sequences(folder, rows_in_one_buffer(lengths, nested), batched=False)
        x, y = load_sequences(folder)
        rows = x["a"] if nested else x
        assert [row.tolist() for row in rows] == [[at + 1] * length for at, length in enumerate(lengths)]
        assert y.tolist() == list(range(len(lengths)))
        return
    source = rows_in_one_buffer(lengths, nested)
    dataset = BucketedSequence.from_dataset(source, batched=False, shuffle=False, batch_size=1)
    for x, y in dataset:
        row = (x["a"] if nested else x).numpy()[0]
        assert row.tolist() == [int(y[0]) + 1] * lengths[int(y[0])]


@pytest.mark.parametrize("kind", ["array", "list"])
@pytest.mark.parametrize("num_batches", [1, 3, 8, 11])
def test_batches_in_one_buffer(num_batches, kind, monkeypatch):
    dataset = BucketedSequence.from_dataset(OneBuffer(num_batches, kind), shuffle=False, batch_size=1)
    assert dataset.lengths.tolist() == [1 + at % size for at in range(num_batches) for size in (4, 3)]
    assert all((x.numpy() == int(y[0]) + 1).all() for x, y in dataset)


ELEMENT = 57 << 20  # bytes


def padded(rows, dtype, num_bytes=ELEMENT, real=0.9, order="C"):
    """Rows of ones that are padded with 0 behind their first nine tenths."""
    batch = np.ones((rows, num_bytes // rows // np.dtype(dtype).itemsize), dtype, order)
    batch[:, int(batch.shape[1] * real) :] = 0
    return batch


def batch_of(kind):
    if kind == "values":
        return padded(3, np.float64)
    if kind == "one row":
        return padded(1, np.uint8)
    if kind == "no padding":
        return padded(1, np.float32, real=1)
    if kind == "columns":
        return padded(500, np.float32, order="F")
    if kind == "lengths":
        batch = padded(2, np.float32)
        return {"a": batch, "lengths": np.full(2, int(batch.shape[1] * 0.9))}
    if kind == "mask":
        return {"a": padded(2, np.float32, ELEMENT * 4 // 5), "mask": padded(2, np.uint8, ELEMENT // 5)}
    return padded(40, np.int32, ELEMENT // 2), padded(40, np.int32, ELEMENT // 2)  # labels


@pytest.mark.fit  # large arrays
@pytest.mark.parametrize("kind", ["values", "one row", "no padding", "columns", "lengths", "mask", "labels"])
def test_nothing_of_the_size_of_a_padded_batch_is_made_of_it(tmp_path, kind):
    def batches():
        for _ in range(3):
            batch = batch_of(kind)
            yield batch  # while it is kept here

    options = {} if kind == "lengths" else {"padding": "post"}
    tracemalloc.start()
    try:
        save_sequences(tmp_path / "s", batches, batched=True, timestep_labels=kind == "labels" or None, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * ELEMENT + 50e6, f"{peak / 1e6:.0f} MB of {(2 * ELEMENT + 50e6) / 1e6:.0f} MB"


MEASURED = """
import sys, threading, time
import numpy as np
from keras_bucketing import save_sequences
from keras_bucketing.streams.saved_sequences import read_dataset
from keras_bucketing.unpadding.batches import BatchOptions

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

folder = sys.argv[1]
def rows(make):
    global peak
    for at in range(8):
        peak = max(peak, resident())
        yield make(at)

views = lambda at: np.ones((1000, 7_500), np.float32)[at, :5000]
large = lambda at: np.ones(7_500_000)
read_dataset([[1]], None, BatchOptions())
for make, target in ((views, "memory"), (views, "disk"), (large, "disk"), (large, "memory")):
    peak = before = resident()
    if target == "memory":
        kept = read_dataset(rows(make), None, BatchOptions(batched=False))
    else:
        save_sequences(folder, rows(make), batched=False, overwrite=True)
    print(max(peak, resident()) - before)
    kept = None
"""


@pytest.mark.fit
def test_memory_stays_within_two_elements_and_50_mb_of_the_result(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux says what is resident")
    done = run_python("-c", MEASURED, str(tmp_path / "s"), check=True)
    views, large, result = 28.7, 57.3, 8 * 57.3
    allowed = [50 + 2 * views, 50 + 2 * views, 50 + 2 * large, 50 + 2 * large + result]
    measured = [float(line) for line in done.stdout.split()]
    assert all(np.less(measured, allowed)), f"{measured} of {allowed} MB"
