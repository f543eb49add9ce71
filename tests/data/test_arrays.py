"""Mapped arrays are told from others, and the system is told how they are read."""

import mmap
import re
import tempfile
from multiprocessing import shared_memory
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data import arrays as mapped_arrays
from keras_bucketing.data.arrays import (
    advise_random_access,
    aligned_empty,
    host_tensor,
    is_mapped,
    memory_bytes,
    standard_dtype,
)
from tests.support.strategies import DTYPES, random_bits


def test_mapped_files_are_told_from_memory(tmp_path):
    np.save(tmp_path / "values.npy", np.arange(30))
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    raw = np.memmap(tmp_path / "values.npy", np.uint16, "r", offset=130)
    in_files = [mapped, raw, mapped[3:], np.asarray(mapped), mapped.reshape(5, 6)[::2], mapped.view(np.uint8)]
    assert all(map(is_mapped, [*in_files, np.frombuffer(memoryview(mapped)[8:], np.uint8), np.asarray(mapped[3:])[1:]]))
    with tempfile.TemporaryFile() as nameless, (tmp_path / "values.npy").open("rb") as file:
        nameless.write(bytes(80))
        in_nameless_file = np.memmap(nameless, np.uint8, "r+", shape=(80,))
        bytes_of_file = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    in_memory = [
        np.frombuffer(mmap.mmap(-1, 80), np.uint8),
        np.ndarray((5,), np.int64, mmap.mmap(-1, 80)),
        bytes_of_file,  # nothing says where that is from
        in_nameless_file,
        np.arange(3),
        np.arange(9)[3:],
        mapped + 1,
        mapped[[1, 2]],
        mapped.copy(),
        np.frombuffer(b"abc", np.uint8),
    ]
    assert not any(map(is_mapped, in_memory))


@pytest.fixture
def shared():
    """Memory that other processes can write to."""
    memory = shared_memory.SharedMemory(create=True, size=80)
    yield memory
    memory.close()
    memory.unlink()


FORMS = {
    "list of slices": lambda flat, **options: BucketedSequence([flat[:2], flat[2:]], **options),
    "row splits": lambda flat, **options: BucketedSequence.from_row_splits(flat, [0, 2, 8], **options),
    "padded": lambda flat, **options: BucketedSequence.from_padded(
        flat.reshape(2, 4), lengths=[2, 4], padding="post", **options
    ),
    "values of rows": lambda flat, **options: BucketedSequence([[1], [2, 3]], flat.reshape(2, 4), **options),
}


@pytest.mark.parametrize(
    ("kind", "form"),
    [*((kind, form) for kind in ("shared memory", "file") for form in FORMS), ("anonymous mmap", "row splits")],
)
def test_copies_do_not_follow_memory_that_others_write_to(form, kind, shared, tmp_path):
    (tmp_path / "values").write_bytes(bytes(80))
    buffer = {
        "shared memory": lambda: shared.buf,
        "anonymous mmap": lambda: mmap.mmap(-1, 80),
        "file": lambda: np.memmap(tmp_path / "values", np.int64, "r+"),
    }[kind]()
    flat = buffer[:8] if kind == "file" else np.ndarray((8,), np.int64, buffer)
    flat[:] = range(1, 9)
    dataset, follows = FORMS[form](flat, shuffle=False), FORMS[form](flat, shuffle=False, copy=False)
    batches = [tf.nest.map_structure(lambda leaf: leaf.numpy().copy(), next(iter(dataset)))]
    flat[:] = 0
    batches += [next(iter(dataset)), next(iter(follows))]
    first, second, third = (np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(batch)]) for batch in batches)
    assert (first == second).all() == (kind != "file")  # a file is never copied
    assert (first != third).any()
    del dataset, follows, batches, flat


def is_read_at_random(array: np.ndarray) -> bool:
    """Whether the mapping that an array lies in has the flag "rr" (proc(5), smaps)."""
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        begin, end = (int(address, 16) for address in mapping.split(" ", 1)[0].split("-"))
        if begin <= array.ctypes.data < end:
            return "rr" in re.search(r"VmFlags: (.*)", mapping)[1].split()
    raise AssertionError("the array lies in no mapping")


@pytest.fixture
def values(tmp_path):
    np.save(tmp_path / "values.npy", np.arange(50_000.0))  # 400 kB
    return np.load(tmp_path / "values.npy", mmap_mode="r")


needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux shows it")


@needs_smaps
@pytest.mark.parametrize(
    ("memory", "row_bytes", "expected"),
    [
        (1_000_000, 4_000, False),  # the file stays in memory
        (700_000, 4_000, True),
        (1_000_000, 1_000_000, False),
        (700_000, 1_000_000, False),  # long rows gain from reading ahead
    ],
)
def test_short_rows_of_files_that_do_not_fit_are_read_at_random(memory, row_bytes, expected, values, monkeypatch):
    monkeypatch.setattr(mapped_arrays, "memory_bytes", lambda: memory)
    advise_random_access(values, row_bytes)
    assert is_read_at_random(values) == expected


@needs_smaps
@pytest.mark.parametrize(("memory", "expected"), [(1_000_000, False), (700_000, True)])
def test_the_dataset_gives_the_advice(memory, expected, values, monkeypatch):
    monkeypatch.setattr(mapped_arrays, "memory_bytes", lambda: memory)
    BucketedSequence.from_row_splits(values, np.arange(0, 50_001, 100), batch_size=4)
    assert is_read_at_random(values) == expected


def test_arrays_in_memory_need_no_advice():
    advise_random_access(np.arange(3), 4)


@pytest.mark.skipif(not hasattr(mmap, "MADV_RANDOM"), reason="no system that takes advice")
def test_a_container_may_have_less_memory_than_the_machine(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(mapped_arrays, "_CGROUP_LIMIT", limit)
    physical = memory_bytes()  # the file is missing
    assert physical > 1 << 28
    for text, expected in [("max\n", physical), ("1000000\n", 1_000_000), (f"{physical + 1}\n", physical)]:
        limit.write_text(text)
        assert memory_bytes() == expected


# Arrays in host memory: every bit kept.


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
@pytest.mark.parametrize("shape", [(0,), (1,), (7, 3)])
def test_host_tensors_hold_the_array_in_host_memory(dtype, shape):
    array = random_bits(shape, dtype, np.random.default_rng(0))
    tensor = host_tensor(array)
    assert tensor.dtype.name == dtype
    assert "CPU" in tensor.device
    assert tensor.numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("array", [np.arange(64.0)[::2], np.arange(12).reshape(3, 4).T, np.arange(9)[1:]])
def test_views_become_host_tensors_too(array):
    assert np.array_equal(host_tensor(array), array)


def test_host_tensors_do_not_follow_the_callers_array():
    array = np.arange(1000)
    tensor = host_tensor(array)
    array[:] = -1
    assert np.array_equal(tensor, np.arange(1000))


def test_float64_becomes_floatx():
    assert standard_dtype(np.dtype("float64"), "x") == np.float32
    keras.config.set_floatx("float16")
    try:
        assert standard_dtype(np.dtype("float64"), "x") == np.float16
        assert standard_dtype(np.dtype("float32"), "x") == np.float32
    finally:
        keras.config.set_floatx("float32")


def test_bfloat16_as_floatx_is_stored_as_float32():
    keras.config.set_floatx("bfloat16")
    try:
        dataset = BucketedSequence([[0.5], [1.5, 2.5]], [0.5, 1.5], [1, 1], shuffle=False)
        assert [tensor.dtype.name for tensor in next(iter(dataset))] == ["float32"] * 3
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("shape", [(0,), (3,), (5, 7)])
@pytest.mark.parametrize("dtype", ["bool", "int16", "float32"])
def test_aligned_arrays_lie_where_tensorflow_can_use_them(shape, dtype):
    array = aligned_empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % 64 == 0 or array.size == 0
