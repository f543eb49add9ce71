"""NumPy reads what is written here, and what is no array is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing.streams.npy_files import HEADER_BYTES, map_npy, npy_header


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=6).map(tuple),
    dtype=st.sampled_from(["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8"]),
)
def test_numpy_reads_a_file_with_this_header(tmp_path, shape, dtype):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = tmp_path / "values.npy"
    path.write_bytes(npy_header(shape, array.dtype) + array.tobytes())
    for read in (np.load(path), map_npy(path, shape, array.dtype)):
        assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes())
    assert HEADER_BYTES % 64 == 0


def written(folder, array):
    path = folder / "a.npy"
    path.write_bytes(npy_header(array.shape, array.dtype) + array.tobytes())
    return path


def test_a_mapped_file_cannot_be_written_to(tmp_path):
    path = written(tmp_path, np.arange(3))
    with pytest.raises(ValueError, match="read-only"):
        map_npy(path, (3,), np.dtype(np.int64))[0] = 1


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04 a zip file", b"not an array " * 50])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy is no file of dtype <i8 and shape \(3,\)"):
        map_npy(tmp_path / "a.npy", (3,), np.dtype(np.int64))


@pytest.mark.parametrize(("shape", "dtype"), [((4,), "<i8"), ((3, 1), "<i8"), ((3,), "<f8"), ((3,), ">i8")])
def test_another_array_is_refused(tmp_path, shape, dtype):
    with pytest.raises(ValueError, match=r"a\.npy is no file of dtype"):
        map_npy(written(tmp_path, np.arange(3)), shape, np.dtype(dtype))


@pytest.mark.parametrize("change", [-8, -1, 1, 100])
def test_another_size_than_the_header_says_is_refused(tmp_path, change):
    path = written(tmp_path, np.arange(10))
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(ValueError, match=rf"a\.npy is cut off or too long: it has {336 + change} bytes, not 336"):
        map_npy(path, (10,), np.dtype(np.int64))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.npy is missing"):
        map_npy(tmp_path / "a.npy", (3,), np.dtype(np.int64))


def test_more_axes_than_the_header_has_room_for():
    with pytest.raises(ValueError, match="fewer axes"):
        npy_header((10**15,) * 20, np.dtype(np.float32))
