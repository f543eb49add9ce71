"""Mapped files and shared memory: the batches of a copy, without one."""

import signal
import weakref
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data.convert import as_rows
from tests.support.default_layer import examples
from tests.support.processes import run_python
from tests.support.rows import rows_of, sequences_from_padded
from tests.support.strategies import DTYPES, bucket_options, lengths_lists, random_sequences, seeds

STORED = [*DTYPES, ">i2", ">u8", ">f4", "float64", ">f8"]


def mapped_file(values, folder):
    np.save(folder / "values.npy", values)
    return np.load(folder / "values.npy", mmap_mode="r")


def raw_file(values, folder):
    (folder / "values.bin").write_bytes(b"head" + values.tobytes())
    return np.memmap(folder / "values.bin", values.dtype, "r", offset=4, shape=values.shape)


def padded_file(values, folder):
    """A part of a larger file."""
    whole = np.concatenate([values[:1], values, values])
    return mapped_file(whole, folder)[1 : 1 + len(values)]


CONTAINERS = {
    "mapped": (mapped_file, {}),
    "mapped raw": (raw_file, {}),
    "part of a mapped file": (padded_file, {}),
    "shared": (lambda values, folder: values, {"copy": False}),
    "shared, not contiguous": (lambda values, folder: np.repeat(values, 2, axis=0)[::2], {"copy": False}),
    "copied, not contiguous": (lambda values, folder: np.repeat(values, 2, axis=0)[::2], {}),
}


def bits_of(batches):
    arrays = [[leaf.numpy() for leaf in tf.nest.flatten(batch)] for batch in batches]
    return [[(array.dtype, array.shape, array.tobytes()) for array in batch] for batch in arrays]


@st.composite
def data_options(draw):
    options = draw(bucket_options(multiples=(1,), sizings=("batch_size", "default")))
    return {
        **options,
        "remainder": draw(st.sampled_from(["spill", "keep"])),
        "maxlen": draw(st.none() | st.integers(1, 20)),
        "truncating": draw(st.sampled_from(["post", "pre"])),
        "on_empty": draw(st.sampled_from(["drop", "keep"])),
        "padding_value": draw(st.sampled_from([0, 1])),
        "shuffle": draw(st.booleans()),
        "seed": 3,
    }


@settings(max_examples=examples(18), deadline=None)
@given(
    st.sampled_from(sorted(CONTAINERS)),
    lengths_lists(min_size=2, min_length=0).filter(any),
    st.sampled_from(STORED),
    st.sampled_from([(), (3,), (16,)]),
    st.sampled_from(["none", "rows", "timesteps"]),
    data_options(),
    seeds(),
)
def test_the_batches_are_those_of_a_copy(
    tmp_path_factory, container, lengths, dtype, feature_shape, labels, options, seed
):
    place, how = CONTAINERS[container]
    folders = [tmp_path_factory.mktemp("x"), tmp_path_factory.mktemp("y"), tmp_path_factory.mktemp("w")]
    sequences = random_sequences(lengths, dtype, feature_shape, seed)
    numbers = np.arange(len(lengths), dtype=np.float64) / 3
    steps = np.linspace(-1, 1, sum(lengths))
    splits = np.cumsum([0, *lengths])
    with np.errstate(all="ignore"):
        y, weights, y_there, weights_there = None, None, None, None
        if labels == "rows":
            y, y_there = numbers, place(numbers, folders[1])
        if labels == "timesteps":
            counts = np.arange(sum(lengths))
            y, weights = np.split(steps, splits[1:-1]), np.split(counts, splits[1:-1])
            y_there = np.split(place(steps, folders[1]), splits[1:-1])
            weights_there = np.split(place(counts, folders[2]), splits[1:-1])
        copied = BucketedSequence(sequences, y, weights, **options)
        values = place(np.concatenate(sequences), folders[0])
        there = BucketedSequence.from_row_splits(values, splits, y_there, weights_there, **options, **how)
        expected = [bits_of(copied) for _ in range(2)]
    assert bits_of(there) == expected[0]
    state = copied.state_dict(1, len(copied) // 2)
    there.load_state_dict(state)
    assert bits_of(there) == expected[1][len(copied) // 2 :]
    assert there.state_dict()["fingerprint"] == state["fingerprint"]


@pytest.mark.parametrize("max_chunksize", [1000, 7])
@pytest.mark.parametrize("kind", [pyarrow.ipc.new_file, pyarrow.ipc.new_stream])
def test_a_mapped_arrow_file_is_read_where_it_lies(tmp_path, max_chunksize, kind):
    sequences = random_sequences([5, 0, 7, 1] * 10, "float32", seed=1)
    table = pyarrow.table({"other": range(40), "x": pyarrow.array(sequences, pyarrow.list_(pyarrow.float32()))})
    with pyarrow.OSFile(str(tmp_path / "x.arrow"), "wb") as file, kind(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=max_chunksize)
    read = pyarrow.ipc.open_file if kind is pyarrow.ipc.new_file else pyarrow.ipc.open_stream
    column = read(pyarrow.memory_map(str(tmp_path / "x.arrow"))).read_all()["x"]
    assert as_rows(column, "x").materialize().shared
    for part, rows in ((column, sequences), (column[3:33], sequences[3:33])):
        expected = BucketedSequence(rows, batch_size=4, on_empty="keep", seed=1)
        assert bits_of(BucketedSequence(part, batch_size=4, on_empty="keep", seed=1)) == bits_of(expected)


def test_shared_memory_is_not_copied_whatever_the_container():
    values, splits = np.arange(20, dtype=np.int32), np.array([0, 5, 5, 20])
    tensor = tf.constant(values)
    ragged = tf.RaggedTensor.from_row_splits(tensor, splits)
    column = pyarrow.ListArray.from_arrays(pyarrow.array(splits, pyarrow.int32()), pyarrow.array(values))
    padded = np.arange(1, 13).reshape(3, 4)
    for rows, memory in ((ragged, np.asarray(tensor)), (column, values), (np.split(values, splits[1:-1]), values)):
        settled = as_rows(rows, "x", copy=False).materialize()
        assert np.shares_memory(settled.values, memory)
        assert [row.tolist() for row in rows_of(settled)] == [values[:5].tolist(), [], values[5:].tolist()]
        assert not np.shares_memory(as_rows(rows, "x").materialize().values, memory)
    assert np.shares_memory(
        as_rows(sequences_from_padded(padded, [1, 4, 2], 0, "pre")[0], "x", False).materialize().values, padded
    )


def test_shared_arrays_are_followed_and_copies_are_not():
    x, y, splits = np.arange(1, 7), np.arange(3), [0, 1, 3, 6]
    shared = BucketedSequence.from_row_splits(x, splits, y, copy=False, shuffle=False)
    copied = BucketedSequence.from_row_splits(x, splits, y, shuffle=False)
    x[:], y[:] = 9, 8
    assert [leaf.numpy().tolist() for leaf in next(iter(shared))] == [[[9, 0, 0], [9, 9, 0], [9, 9, 9]], [8, 8, 8]]
    assert [leaf.numpy().tolist() for leaf in next(iter(copied))] == [[[1, 0, 0], [2, 3, 0], [4, 5, 6]], [0, 1, 2]]


def test_rows_may_lie_anywhere_in_the_values():
    starts_and_stops = np.array([[6, 9], [0, 1], [2, 4], [3, 8], [5, 5]])
    dataset = BucketedSequence.from_row_splits(np.arange(10), starts_and_stops, on_empty="keep", shuffle=False)
    expected = [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [2, 3, 0, 0, 0], [6, 7, 8, 0, 0], [3, 4, 5, 6, 7]]
    assert next(iter(dataset)).numpy().tolist() == expected


def test_memory_is_held_by_datasets_and_iterators_only(tmp_path, collect_garbage):
    mapped = mapped_file(np.arange(40_000), tmp_path)
    released = weakref.ref(mapped)
    dataset = BucketedSequence.from_row_splits(mapped, np.arange(0, 40_001, 100), batch_size=8, shuffle=False)
    del mapped
    iterator = iter(dataset)
    next(iterator)
    del dataset
    collect_garbage()
    assert sum(int(tf.reduce_sum(batch)) for batch in iterator) == 40_000 * 39_999 // 2 - 800 * 799 // 2
    assert released() is not None
    del iterator
    collect_garbage()
    assert released() is None


FIT_A_MAPPED_FILE = """
import sys, keras, numpy as np
from pathlib import Path
from keras_bucketing import BucketedSequence

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

model = keras.Sequential([keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(1)])
model.compile("sgd", "mse")
lengths = 50 + np.arange(int(sys.argv[2])) % 100
lengths[7] = 0
options = {"on_empty": sys.argv[4], "maxlen": 120, "truncating": "pre", "seed": 1, "batch_size": 64}
small = BucketedSequence([np.zeros((length, 40), sys.argv[3]) for length in lengths[:200]], np.zeros(200), **options)
model.fit(small, verbose=0)
file = np.lib.format.open_memmap(sys.argv[1], "w+", sys.argv[3], (int(lengths.sum()), 40))
num_bytes = file.nbytes
del file
before = anonymous()
values, splits = np.load(sys.argv[1], mmap_mode="r"), np.cumsum([0, *lengths])
dataset = BucketedSequence.from_row_splits(values, splits, np.zeros(len(lengths)), **options)
state = dataset.state_dict()
model.fit(dataset, verbose=0)
dataset.load_state_dict(state)
print(num_bytes, anonymous() - before)
"""


@pytest.mark.fit
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize(("dtype", "on_empty"), [("float32", "drop"), (">f8", "keep")])
def test_fitting_a_mapped_file_takes_no_memory_for_it(tmp_path, dtype, on_empty):
    num_sequences = 15_000
    num_bytes, taken = map(
        int, run(FIT_A_MAPPED_FILE, tmp_path / "x.npy", num_sequences, dtype, on_empty).stdout.split()
    )
    assert num_bytes > 2e8
    assert taken < 1e8 + 40 * num_sequences


READ_SHARDS_OF_A_CUT_FILE = """
import sys, os, numpy as np
from keras_bucketing import BucketedSequence

rows = np.arange(64)
starts = 2048 * (rows // 2 + 32 * (rows % 2))  # the even rows first, then the odd ones
values = np.memmap(sys.argv[1], np.float32, "w+", shape=(64 * 2048,))
values[:] = np.repeat(np.argsort(starts), 2048)
values.flush()
values = np.memmap(sys.argv[1], np.float32, "r")
shards = [
    BucketedSequence.from_row_splits(
        values, np.stack([starts, starts + 2048], axis=1),
        batch_size=4, shuffle=False, num_shards=2, shard_index=shard,
    )
    for shard in range(2)
]
os.truncate(sys.argv[1], values.nbytes // 2)
for dataset in shards:
    for batch in dataset:
        print(*batch[:, 0].numpy().astype(int), flush=True)
"""


@pytest.mark.fit
def test_a_shard_reads_only_its_own_rows(tmp_path):
    # Whoever reads behind the end of a file that shrank is ended by the operating system: the other shard is.
    finished = run(READ_SHARDS_OF_A_CUT_FILE, tmp_path / "values", check=False)
    assert finished.stdout.splitlines() == [f"{row} {row + 2}" for row in range(0, 64, 4)]
    assert finished.returncode == -signal.SIGBUS


def run(program, *arguments, check=True):
    return run_python("-c", program, *map(str, arguments), check=check)
