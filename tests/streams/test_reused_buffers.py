"""Sources that fill one buffer again and again, or yield views of large arrays: the rows are those that were there."""

import sys

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


MEASURED = """
import sys, threading, time
import numpy as np
from keras_bucketing import save_sequences
from keras_bucketing.streams.saved_sequences import read_dataset
from keras_bucketing.unpadding.batches import BatchOptions

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

kind, target, folder = sys.argv[1:]
peak = 0
def rows():
    global peak
    for at in range(12):
        peak = max(peak, resident())
        if kind == "views":
            yield np.ones((1000, 7_500), np.float32)[at, :5000]
        elif kind == "large":
            yield np.ones(7_500_000)
        else:
            yield np.ones((4, 1_875_000)), np.arange(4)

options = BatchOptions(batched=kind == "batches", padding="post")
read_dataset([[1]], None, BatchOptions())
before = resident()
if target == "memory":
    kept = read_dataset(rows, None, options)
else:
    save_sequences(folder, rows(), batched=kind == "batches", padding="post")
print(max(peak, resident()) - before)
"""


@pytest.mark.fit
@pytest.mark.parametrize("target", ["memory", "disk"])
@pytest.mark.parametrize(("kind", "element", "result"), [("views", 28.7, 0.3), ("large", 57.3, 343.4)])
def test_memory_stays_within_two_elements_and_50_mb_of_the_result(tmp_path, kind, element, result, target):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux says what is resident")
    done = run_python("-c", MEASURED, kind, target, str(tmp_path / "s"), check=True)
    allowed = (result if target == "memory" else 0) + 2 * element + 50
    assert float(done.stdout) < allowed, f"{float(done.stdout):.0f} of {allowed:.0f} MB"
