"""Mapped arrays are told from others, and the system is told how they are read."""

import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.inputs import mapped_arrays
from keras_bucketing.inputs.mapped_arrays import expect_random_reads, is_mapped, memory_bytes


def test_mapped_files_are_told_from_memory(tmp_path):
    np.save(tmp_path / "values.npy", np.arange(30))
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    raw = np.memmap(tmp_path / "values.npy", np.uint16, "r", offset=130)
    with (tmp_path / "values.npy").open("rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    bytes_of_file = np.frombuffer(buffer, np.uint8)
    in_files = [mapped, raw, mapped[3:], np.asarray(mapped), mapped.reshape(5, 6)[::2], mapped.view(np.uint8)]
    assert all(map(is_mapped, [*in_files, bytes_of_file, np.frombuffer(memoryview(buffer)[8:], np.uint8)]))
    in_memory = [
        np.arange(3),
        np.arange(9)[3:],
        mapped + 1,
        mapped[[1, 2]],
        mapped.copy(),
        np.frombuffer(b"abc", np.uint8),
    ]
    assert not any(map(is_mapped, in_memory))


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
    expect_random_reads(values, row_bytes)
    assert is_read_at_random(values) == expected


@needs_smaps
@pytest.mark.parametrize(("memory", "expected"), [(1_000_000, False), (700_000, True)])
def test_the_dataset_gives_the_advice(memory, expected, values, monkeypatch):
    monkeypatch.setattr(mapped_arrays, "memory_bytes", lambda: memory)
    BucketedSequence.from_row_splits(values, np.arange(0, 50_001, 100), batch_size=4)
    assert is_read_at_random(values) == expected


def test_arrays_in_memory_need_no_advice():
    expect_random_reads(np.arange(3), 4)


@pytest.mark.skipif(not hasattr(mmap, "MADV_RANDOM"), reason="no system that takes advice")
def test_a_container_may_have_less_memory_than_the_machine(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(mapped_arrays, "_CGROUP_LIMIT", limit)
    physical = memory_bytes()  # the file is missing
    assert physical > 1 << 28
    for text, expected in [("max\n", physical), ("1000000\n", 1_000_000), (f"{physical + 1}\n", physical)]:
        limit.write_text(text)
        assert memory_bytes() == expected
