"""Arrow, pandas, polars, awkward and TensorFlow data give the same rows as a list of arrays."""

import collections

import awkward
import numpy as np
import pandas
import polars
import pyarrow
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.data.convert import as_rows
from keras_bucketing.data.rows import rows_from_row_splits
from tests.support.rows import flat, rows_of, sequences_from_padded
from tests.support.strategies import lengths_lists, sequence_lists

ARROW_DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32"]
plain_sequences = sequence_lists(lengths=lengths_lists(min_length=0), dtypes=ARROW_DTYPES, feature_shapes=[()])


def arrow_type(sequences):
    return pyarrow.from_numpy_dtype(sequences[0].dtype)


def to_object_array(sequences):
    array = np.empty(len(sequences), object)
    array[:] = sequences
    return array


def to_arrow(sequences):
    return pyarrow.array(sequences, pyarrow.list_(arrow_type(sequences)))


def to_awkward(sequences):
    return awkward.unflatten(np.concatenate(sequences), [len(sequence) for sequence in sequences])


KINDS = {
    "object array": to_object_array,
    "RaggedTensor": lambda x: tf.RaggedTensor.from_row_lengths(np.concatenate(x), [len(row) for row in x]),
    "list of tensors": lambda x: [tf.constant(row) for row in x],
    "list of lists": lambda x: [row.tolist() for row in x],
    "ListArray": to_arrow,
    "LargeListArray": lambda x: pyarrow.array(x, pyarrow.large_list(arrow_type(x))),
    "sliced ListArray": lambda x: to_arrow([x[0], *x, x[-1]])[1:-1],
    "chunked column": lambda x: pyarrow.chunked_array([to_arrow(x[:1]), to_arrow(x)[1:]]),
    "column of a table": lambda x: pyarrow.table({"x": to_arrow(x)})["x"],
    "pandas Series of arrays": lambda x: pandas.Series(to_object_array(x)),
    "pandas Series of lists": lambda x: pandas.Series([row.tolist() for row in x], index=range(7, 7 + len(x))),
    "pandas Series of an Arrow type": lambda x: pandas.Series(pandas.arrays.ArrowExtensionArray(to_arrow(x))),
    "polars": lambda x: polars.from_arrow(to_arrow(x)),
    "sliced polars": lambda x: polars.from_arrow(to_arrow([x[0], *x]))[1:],
    "awkward": to_awkward,
    "sliced awkward": lambda x: to_awkward([x[0], *x])[1:],
    "reordered awkward": lambda x: to_awkward(x[::-1])[::-1],
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(plain_sequences)
def test_every_kind_gives_the_rows_of_a_list_of_arrays(kind, sequences):
    # Python's numbers forget their dtype: one row would be int64, another uint64, and no integer type holds both.
    assume("lists" not in kind or sequences[0].dtype != np.uint64)
    ragged, expected = as_rows(KINDS[kind](sequences), "x"), as_rows(sequences, "x")
    assert np.array_equal(ragged.sizes, expected.sizes)
    if "lists" in kind:  # Python's numbers forget the dtype
        assert np.array_equal(flat(ragged), flat(expected).astype(ragged.dtype), equal_nan=True)
    else:
        assert ragged.dtype == expected.dtype
        assert flat(ragged).tobytes() == flat(expected).tobytes()


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_lists_of_fixed_size_are_rows_of_one_length(num_rows, length, chunked):
    array = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(range((num_rows + 2) * length)), length)[1:-1]
    ragged = as_rows(pyarrow.chunked_array([array]) if chunked else array, "x")
    assert np.array_equal(flat(ragged), np.arange(length, (num_rows + 1) * length))
    assert np.array_equal(ragged.lengths, [length] * num_rows)


def features(lengths):
    generator = np.random.default_rng(0)
    return [generator.random((length, 2, 3)).astype("float32") for length in lengths]


@pytest.mark.parametrize("lengths", [[3, 1, 2], [0, 2], [1]])
def test_features_of_every_timestep_keep_their_shape(lengths):
    x = features(lengths)
    nested = [row.tolist() for row in x]
    inner = pyarrow.list_(pyarrow.list_(pyarrow.float32(), 3), 2)
    kinds = [
        pyarrow.array(nested, pyarrow.list_(inner)),
        pyarrow.array(nested, pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.float32())))),
        pandas.Series(nested),
        awkward.unflatten(np.concatenate(x), lengths),
        tf.RaggedTensor.from_row_lengths(np.concatenate(x), lengths),
    ]
    for kind in kinds:
        ragged = as_rows(kind, "x")
        assert ragged.values.shape[1:] == (2, 3)
        assert np.array_equal(flat(ragged), np.concatenate(x))
        assert np.array_equal(ragged.lengths, lengths)


def test_the_rows_of_a_list_view_come_in_the_order_of_the_views():
    views = pyarrow.ListViewArray.from_arrays([2, 0], [1, 2], pyarrow.array([1, 2, 3]))
    assert as_rows(views, "x").values.tolist() == [3, 1, 2]


def test_arrow_booleans_and_masked_slices():
    assert as_rows(pyarrow.array([[True], [False, True]]), "x").values.dtype == bool
    without_the_null = pyarrow.array([None, [1], [2, 3]])[1:]
    assert as_rows(without_the_null, "x").values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        (pyarrow.array([[1], None]), ValueError, "Received no value at x[1]. Fill or drop it."),
        (
            pyarrow.array([[1], [2, None]]),
            ValueError,
            "Received no value at flat position 2 of `x`. Fill or drop it.",
        ),
        (pyarrow.array([[[1]], [None]]), ValueError, "Received no timestep at flat position 1 of `x`."),
        (
            pyarrow.array([1, 2]),
            TypeError,
            "`x` must be a column of lists. Received the Arrow type int64: `x[0]` is a scalar",
        ),
        (
            pyarrow.array([["a"]]),
            TypeError,
            "`x` must hold numbers. Expected a bool, int or float dtype, received object.",
        ),
        (pyarrow.array([[[1], [1, 2]]]), ValueError, "Received timesteps of 1 and of 2 features in `x`."),
        (pyarrow.array([], pyarrow.list_(pyarrow.int8())), ValueError, "`x` has no sequences."),
        (pyarrow.chunked_array([], pyarrow.list_(pyarrow.int8())), ValueError, "`x` has no sequences."),
        (pandas.Series([[1], None]), TypeError, "`x[1]` must be a sequence"),
        (pandas.Series([1, 2]), TypeError, "`x[0]` must be a sequence. Received the scalar 1."),
        (pandas.Series([], dtype=object), ValueError, "`x` has no sequences."),
        (awkward.Array([1, 2]), TypeError, "Received the awkward type 2 * int64: `x[0]` is a scalar"),
        (awkward.Array([[1], None]), ValueError, "Received the awkward type 2 * option[var * int64]."),
        (awkward.Array([[1], [None]]), ValueError, "with one variable axis and no missing entries."),
        (awkward.Array([[[1], [1, 2]]]), ValueError, "Make its inner axes regular with awkward.to_regular"),
        (awkward.Array([[1, "a"], [2]]), ValueError, "must hold numbers, with one variable axis"),
        (tf.ragged.constant([[[1], [2, 3]]]), ValueError, "Received timesteps of 1 and of 2 features in `x`."),
        (
            pyarrow.array([[{"listens": 1}]]),
            TypeError,
            "Received values of the Arrow type struct<",
        ),
        (pyarrow.array([{"listens": 1}]), TypeError, "Received the Arrow type struct<listens: int64>"),
        (tf.ragged.constant([["a"]]), TypeError, "`x` must hold numbers."),
    ],
)
def test_what_cannot_be_rows_of_numbers_is_refused(rows, error, text):
    with pytest.raises(error) as raised:
        as_rows(rows, "x")
    assert text in str(raised.value)


@pytest.mark.parametrize(
    "y",
    [
        pandas.Series([0, None, 2], dtype="Int64"),
        pandas.Series([0, None, 2], dtype=pandas.ArrowDtype(pyarrow.int64())),
        pyarrow.array([0, None, 2]),
        polars.Series([0, None, 2]),
        pyarrow.chunked_array([[0], [None, 2]]),
        np.ma.array([0, 1, 2], mask=[False, True, False]),
    ],
)
def test_a_missing_value_is_never_taken_for_a_number(y):
    calls = [
        lambda: collect_inputs([[1], [2], [3]], y, None),
        lambda: collect_inputs([[1], [2], [3]], [0, 1, 2], y),
        lambda: rows_from_row_splits(y, [0, 1, 3]),
        lambda: as_rows([y, y], "x"),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"must not hold missing entries\. Received no value at .*\[1\]\. Fill or drop it\."
        ):
            call()
    with pytest.raises(ValueError, match="must not hold missing entries"):
        sequences_from_padded(np.ma.array([[1, 2]], mask=[[False, True]]))


@pytest.mark.parametrize(
    "one_hot",
    [
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array([1, 0, 0, 1]), 2),
        awkward.to_regular(awkward.Array([[1, 0], [0, 1]])),
        pandas.Series([1, 0]),
    ],
)
def test_labels_of_one_length_are_no_ragged_labels(one_hot):
    labels = collect_inputs([[1, 2, 3], [4]], one_hot, None).y
    assert isinstance(labels, np.ndarray)
    assert labels.tolist() in ([[1, 0], [0, 1]], [1, 0])


def test_inner_axes_that_are_ragged_by_name_only_are_taken():
    vectors = [tf.ones((2, 3)), tf.zeros((1, 3))]
    nested = tf.ragged.constant([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]], []])
    assert [row.shape for row in rows_of(as_rows(tf.ragged.stack(vectors), "x"))] == [(2, 3), (1, 3)]
    assert [row.tolist() for row in rows_of(as_rows(nested, "x"))] == [[[1, 2], [3, 4]], [[5, 6]], []]


def test_timesteps_may_have_no_features():
    column = pyarrow.array([[[], []], [[]]], pyarrow.list_(pyarrow.list_(pyarrow.int64(), 0)))
    assert [row.shape for row in rows_of(as_rows(column, "x"))] == [(2, 0), (1, 0)]


def test_any_sequence_of_sequences_will_do():
    assert as_rows(collections.deque([[1], [2, 3]]), "x").lengths.tolist() == [1, 2]
    assert as_rows(collections.UserList([[1], [2, 3]]), "x").lengths.tolist() == [1, 2]


@pytest.mark.backends
def test_tensors_that_numpy_cannot_read_say_how_to_convert_them():
    torch = pytest.importorskip("torch", reason="needs the `backends` extra: torch is not installed")
    needs_gradient, half = torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16)
    for x, y in [
        ([needs_gradient], None),
        ([half], None),
        ([[1], [2]], needs_gradient),
        ([[1], [2]], half),
    ]:
        with pytest.raises(TypeError, match=r"must be readable by NumPy\. Received torch\.Tensor.*tensor\.detach\(\)"):
            collect_inputs(x, y, None)


def test_a_column_of_numbers_in_several_pieces_is_no_column_of_lists():
    with pytest.raises(TypeError, match=r"`x` must be a column of lists. Received the Arrow type int64"):
        as_rows(pyarrow.chunked_array([[1, 2], [3]]), "x")


def read_in_pieces(arrays):
    """The pieces of a column of an Arrow file, all in one buffer that stays as it is."""
    sink = pyarrow.BufferOutputStream()
    schema = pyarrow.schema([("x", arrays[0].type)])
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        for array in arrays:
            writer.write_batch(pyarrow.record_batch([array], schema=schema))
    return pyarrow.ipc.open_stream(pyarrow.py_buffer(sink.getvalue().to_pybytes())).read_all()["x"]


def test_pieces_of_vectors_in_one_buffer_are_used_where_they_lie():
    x = [row[:, :, 0] for row in features([3, 1, 2, 4])]
    vectors = pyarrow.list_(pyarrow.list_(pyarrow.float32()))
    column = read_in_pieces([pyarrow.array([row.tolist() for row in piece], vectors) for piece in (x[:1], x[1:])])
    assert column.num_chunks == 2
    rows = as_rows(column, "x")
    assert rows.shared
    assert rows.feature_shape == (2,)
    for row, expected in zip(rows, x, strict=True):
        assert np.array_equal(row, expected)


def test_pieces_of_numbers_are_no_sequences():
    column = read_in_pieces([pyarrow.array([1, 2]), pyarrow.array([3])])
    with pytest.raises(TypeError, match="must be a column of lists"):
        as_rows(column, "x")
