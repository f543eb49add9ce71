"""Columns that grow row by row hold what a list of all rows holds."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing.data.lists import concatenate
from keras_bucketing.streams import columns as growing
from keras_bucketing.streams.columns import HEADER_BYTES, ColumnBuilder, FileStore, MemoryStore, map_npy, npy_header
from tests.support.default_layer import examples
from tests.support.strategies import seeds

DTYPES = ["bool", "int8", "int16", "int32", "int64", "float32", "float64"]
anywhere = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def rows_of_any_dtypes(draw):
    """Rows of one feature shape whose dtypes differ, some of them empty lists."""
    features = draw(st.sampled_from([(), (2,), (2, 3)]))
    generator = np.random.default_rng(draw(seeds()))
    kinds = draw(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from([*DTYPES, "empty list"])), min_size=1, max_size=12)
    )
    return [
        np.asarray([]) if dtype == "empty list" else generator.integers(0, 100, (length, *features)).astype(dtype)
        for length, dtype in kinds
    ]


@pytest.fixture(params=["memory", "file"])
def new_store(request, tmp_path):
    return MemoryStore if request.param == "memory" else lambda: FileStore(tmp_path / "values_0.npy")


@anywhere
@given(
    rows=rows_of_any_dtypes().filter(lambda rows: any(map(len, rows))), max_pending=st.sampled_from([8, 40, 1 << 20])
)
def test_a_column_of_sequences_is_their_concatenation(new_store, monkeypatch, rows, max_pending):
    monkeypatch.setattr(growing, "_PENDING_BYTES", max_pending)
    column = ColumnBuilder("x", new_store(), is_ragged=True)
    for row in rows:
        column.append(row)
    built = column.finish()
    values, lengths = built.values, built.lengths
    expected = concatenate([row.copy() for row in rows], "x")
    assert (values.dtype, values.shape) == (expected.values.dtype, expected.values.shape)
    assert values.tobytes() == expected.values.tobytes()
    assert lengths.tolist() == expected.lengths.tolist()


@anywhere
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 64))
def test_chunks_of_memory_are_put_together_in_order(monkeypatch, sizes, chunk):
    monkeypatch.setattr(growing, "_FIRST_CHUNK", chunk)
    monkeypatch.setattr(growing, "_LAST_CHUNK", 4 * chunk)
    store = MemoryStore()
    data = np.arange(sum(sizes)).astype(np.uint8)
    for block in np.split(data, np.cumsum(sizes)[:-1]):
        store.write(block)
    assert store.finish((len(data),), np.dtype(np.uint8)).tolist() == data.tolist()


def test_blocks_and_rows_may_take_turns(new_store):
    column = ColumnBuilder("x", new_store(), is_ragged=True)
    column.append(np.array([1, 2]))
    column.append_block(np.array([3, 4, 5]), np.array([1, 0, 2]))
    column.append(np.array([6]))
    built = column.finish()
    assert built.values.tolist() == [1, 2, 3, 4, 5, 6]
    assert built.lengths.tolist() == [2, 1, 0, 2, 1]


def test_values_of_a_row_have_no_lengths(new_store):
    column = ColumnBuilder("y", new_store(), is_ragged=False)
    for row in np.eye(3):
        column.append(row)
    values = column.finish()
    assert isinstance(values, np.ndarray)
    assert values.tolist() == np.eye(3).tolist()


def test_sequences_of_one_length_can_end_as_values(new_store):
    column = ColumnBuilder("y", new_store(), is_ragged=True)
    for row in np.arange(12).reshape(3, 2, 2):
        column.append(row)
    values = column.finish(as_values=True)
    assert isinstance(values, np.ndarray)
    assert values.tolist() == np.arange(12).reshape(3, 2, 2).tolist()


@pytest.mark.parametrize("dtype", ["int32", "float64", "float32"])
def test_rows_without_timesteps_have_the_dtype_of_the_first(new_store, dtype):
    column = ColumnBuilder("x", new_store(), is_ragged=True)
    column.append(np.zeros((0, 3), dtype))
    column.append(np.zeros((0, 3), "int8"))
    built = column.finish()
    assert built.values.shape == (0, 3)
    assert built.values.dtype == np.result_type(dtype if dtype != "float64" else "float32")
    assert built.lengths.tolist() == [0, 0]


def test_float64_after_a_row_without_timesteps():
    column = ColumnBuilder("x", MemoryStore(), is_ragged=True)
    column.append(np.zeros((0, 2)))
    column.append(np.ones((1, 2)))  # NumPy calls float64 equal to no dtype at all
    assert column.finish().values.tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        (
            [np.zeros((2, 3)), np.zeros((0, 3)), np.zeros((2, 4))],
            ValueError,
            "Expected (3,) as in x[0], received (4,) at x[2].",
        ),
        ([np.zeros(2), np.zeros((2, 4))], ValueError, "Expected () as in x[0], received (4,) at x[1]."),
        ([np.zeros(2), np.zeros(2, complex)], TypeError, "`x[1]` must hold numbers."),
        ([np.zeros(2, np.int64), np.zeros(2, np.uint64)], ValueError, "must share one integer dtype"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_index(rows, error, text):
    column = ColumnBuilder("x", MemoryStore(), is_ragged=True)
    for row in rows[:-1]:
        column.append(row)
    with pytest.raises(error) as raised:
        column.append(rows[-1])
    assert text in str(raised.value)


def test_memory_can_be_used_by_tensorflow_as_it_is():
    column = ColumnBuilder("x", MemoryStore(), is_ragged=True)
    column.append(np.ones(1000, np.float32))
    values = column.finish().values
    assert values.ctypes.data % 64 == 0
    assert values.flags.c_contiguous
    assert values.flags.writeable


# NumPy reads what is written here, and what is no array is refused.


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with pytest.raises(ValueError, match=r"a\.npy is not a file of dtype <i8 and shape \(3,\)"):
        map_npy(tmp_path / "a.npy", (3,), np.dtype(np.int64))


@pytest.mark.parametrize(("shape", "dtype"), [((4,), "<i8"), ((3, 1), "<i8"), ((3,), "<f8"), ((3,), ">i8")])
def test_another_array_is_refused(tmp_path, shape, dtype):
    with pytest.raises(ValueError, match=r"a\.npy is not a file of dtype"):
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
