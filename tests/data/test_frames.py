"""Tables of pandas, polars and Arrow give the sequences that a plain loop over their rows gives."""

import datetime
import re
import sys

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.data.frames import group_rows, sequences_of_frame
from tests.support.default_layer import examples
from tests.support.processes import run_python
from tests.support.rows import rows_of
from tests.support.strategies import seeds

DAY = datetime.datetime(2026, 1, 1)


class OtherTable:
    """A table of a library that nobody has heard of, which can hand itself to Arrow."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def to_pandas(columns):
    return pandas.DataFrame(columns)


def to_chunks(columns):
    """An Arrow table in pieces whose categories differ, but for ordered ones: no order holds for all pieces then."""
    tables = [pyarrow.Table.from_pandas(part, preserve_index=False) for part in pieces(pandas.DataFrame(columns))]
    tables = [table.unify_dictionaries() for table in tables]
    return pyarrow.concat_tables(tables)


def pieces(frame):
    for start in range(0, len(frame), 3):
        part = frame.iloc[start : start + 3].copy()
        for name in part:
            if isinstance(part[name].dtype, pandas.CategoricalDtype) and not part[name].cat.ordered:
                part[name] = part[name].cat.remove_unused_categories()
        yield part


def with_an_odd_index(columns):
    frame = pandas.DataFrame(columns)
    frame.index = pandas.Index(np.arange(len(frame))[::-1] // 2, name="odd")
    return frame


LIBRARIES = {
    "pandas": to_pandas,
    "pandas, an odd index": with_an_odd_index,
    "pandas, ids in the index": lambda columns: pandas.DataFrame(columns).set_index(["id", "id2"]),
    "pandas, Arrow's types": lambda columns: pandas.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "pandas, nullable types": lambda columns: pandas.DataFrame(columns).convert_dtypes(),
    "polars": lambda columns: polars.from_pandas(pandas.DataFrame(columns)),
    "polars, lazy": lambda columns: polars.from_pandas(pandas.DataFrame(columns)).lazy(),
    "Arrow": lambda columns: pyarrow.Table.from_pandas(pandas.DataFrame(columns), preserve_index=False),
    "Arrow, in pieces": to_chunks,
    "another": lambda columns: OtherTable(pyarrow.Table.from_pandas(pandas.DataFrame(columns))),
}
IDS = {
    "int": lambda ids: ids - 2,
    "large int": lambda ids: ids * (1 << 60),
    "uint64": lambda ids: ids.astype(np.uint64) + np.uint64(2**63),
    "float": lambda ids: ids / 4 - 0.5,
    "bool": lambda ids: ids % 2 == 0,
    "text": lambda ids: np.array([f"id {number}" for number in ids], object),
    "category": lambda ids: pandas.Categorical([f"id {number}" for number in ids], [f"id {n}" for n in range(9)[::-1]]),
    "time": lambda ids: np.array([DAY + datetime.timedelta(days=int(number)) for number in ids], "datetime64[us]"),
}
TIMES = {
    "int": lambda times: times - 5,
    "float": lambda times: times / 8,
    "datetime": lambda times: np.array(DAY, "datetime64[us]") + times.astype("timedelta64[h]"),
    "time zone": lambda times: pandas.to_datetime(
        np.array(DAY, "datetime64[us]") + times * np.timedelta64(1, "h")
    ).tz_localize("Asia/Tokyo"),
    "text": lambda times: np.array([f"{time:04}" for time in times], object),
    "ordered category": lambda times: pandas.Categorical(
        [f"t{time}" for time in times], [f"t{time}" for time in range(100)], ordered=True
    ),
}


@st.composite
def tables(draw):
    """Columns with ids in groups or mixed, times that differ in each sequence, features, labels, static values."""
    ids = np.array(draw(st.lists(st.integers(0, 5), min_size=1, max_size=20)), np.int64)
    if draw(st.booleans()):
        ids = np.sort(ids)
    rng = np.random.default_rng(draw(seeds()))
    times = rng.permutation(len(ids)) if draw(st.booleans()) else np.arange(len(ids))
    return {
        "id": IDS[draw(st.sampled_from(sorted(IDS)))](ids),
        "id2": IDS[draw(st.sampled_from(sorted(IDS)))](rng.integers(0, 2, len(ids))),
        "time": TIMES[draw(st.sampled_from(sorted(TIMES)))](times),
        "f1": rng.normal(size=len(ids)).astype("float32"),
        "f2": rng.normal(size=len(ids)),
        "token": rng.integers(0, 99, len(ids)).astype("int32"),
        "tag": rng.integers(0, 9, len(ids)),
        "rank": times,
    }


def loop(columns, by, sort):
    """The rows of each sequence, by a plain loop."""
    groups = {}
    for row in range(len(columns["rank"])):
        groups.setdefault(tuple(np.asarray(columns[name]).tolist()[row] for name in by), []).append(row)
    if sort:
        groups = {key: sorted(rows, key=lambda row: columns["rank"][row]) for key, rows in groups.items()}
    return groups


def find(frame, **arguments):
    names = ("by", "x", "y", "sample_weight", "static", "sort_by")
    return sequences_of_frame(
        frame, *(arguments.pop(name, None) for name in names), arguments.pop("timestep_labels", False)
    )


@settings(max_examples=examples(150))
@given(tables(), st.sampled_from(sorted(LIBRARIES)), st.booleans(), st.booleans(), st.booleans())
def test_sequences_are_those_of_a_plain_loop(columns, library, is_pair, sort, timestep_labels):
    by = ["id", "id2"] if is_pair else ["id"]
    groups = loop(columns, by, sort)
    first = [rows[0] for rows in groups.values()]
    of_sequence = np.empty(len(columns["rank"]), np.int64)
    for number, rows in enumerate(groups.values()):
        of_sequence[rows] = number % 3
    columns = {**columns, "label": of_sequence, "weight": of_sequence / 2, "age": of_sequence + 30}
    found = find(
        LIBRARIES[library](columns),
        by=by if is_pair else "id",
        x={"vectors": ["f1", "f2"], "tokens": "token"},
        y="tag" if timestep_labels else "label",
        sample_weight="weight",
        static=["age"],
        sort_by="time" if sort else None,
        timestep_labels=timestep_labels,
    )
    expected = list(groups.values())
    keys = [key if isinstance(key, tuple) else (key,) for key in found.rows.keys.tolist()]
    wanted = [tuple(np.asarray(columns[name]).tolist()[rows[0]] for name in by) for rows in expected]
    assert [tuple(map(str, map(_as_key, key))) for key in keys] == [
        tuple(map(str, map(_as_key, key))) for key in wanted
    ]
    assert found.rows.frame_rows.tolist() == [row for rows in expected for row in rows]
    vectors = np.stack([columns["f1"], columns["f2"]], axis=1).astype("float32")
    for received, rows in zip(rows_of(found.x["vectors"]), expected, strict=True):
        np.testing.assert_array_equal(received, vectors[rows])
    for received, rows in zip(rows_of(found.x["tokens"]), expected, strict=True):
        assert received.dtype == np.int32
        np.testing.assert_array_equal(received, columns["token"][rows])
    assert found.x["age"].tolist() == [of_sequence[row] + 30 for row in first]
    if timestep_labels:
        assert [row.tolist() for row in rows_of(found.y)] == [columns["tag"][rows].tolist() for rows in expected]
        assert [row.tolist() for row in rows_of(found.sample_weight)] == [
            (of_sequence[r] / 2).tolist() for r in expected
        ]
    else:
        assert found.y.tolist() == [of_sequence[row] for row in first]
        assert found.sample_weight.tolist() == [of_sequence[row] / 2 for row in first]


def _as_key(part):
    """Times of every library in one form."""
    if isinstance(part, (datetime.datetime, np.datetime64)):
        return np.datetime64(part, "us").astype(object)
    return part


@settings(max_examples=examples(200))
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    st.sampled_from(["int8", "int64", "uint64", "float64", "bool"]),
    st.sampled_from([1, 1 << 40, 1 << 62]),
)
def test_groups_come_in_the_order_of_their_first_row(codes, dtype, step):
    codes = np.array(codes, np.int64)
    codes = (codes * step if dtype == "int64" else codes).astype(dtype)
    order, sizes = group_rows(codes)
    groups = {}
    for row, code in enumerate(codes.tolist()):
        groups.setdefault(code, []).append(row)
    expected = list(groups.values())
    rows = np.arange(len(codes)) if order is None else order
    assert [part.tolist() for part in np.split(rows, np.cumsum(sizes)[:-1])] == expected


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_ids_and_times_of_every_kind_in_every_library(library):
    """The property draws a pair of a rare kind and a library seldom."""
    ids, times = np.array([4, 1, 1, 4, 0, 1, 4, 0]), np.array([7, 2, 1, 3, 5, 0, 9, 4])
    numbers = {"id2": np.zeros(8, int), "f1": times, "rank": times}
    for kind, make_ids in IDS.items():
        columns = {**numbers, "id": make_ids(ids), "time": times}
        rows = find(LIBRARIES[library](columns), by="id", x="f1").rows.frame_rows.tolist()
        assert rows == [row for rows in loop(columns, ["id"], sort=False).values() for row in rows], kind
    for kind, make_times in TIMES.items():
        columns = {**numbers, "id": ids, "time": make_times(times)}
        rows = find(LIBRARIES[library](columns), by="id", x="f1", sort_by="time").rows.frame_rows.tolist()
        assert rows == [3, 0, 6, 5, 2, 1, 7, 4], kind


FRAME = {
    "id": ["a", "a", "b", "b", "b"],
    "time": [1.0, 2.0, 5.0, 3.0, 4.0],
    "f1": [0.5, 0.25, 1.0, 2.0, 3.0],
    "label": [0.0, 0.0, 1.0, 1.0, 1.0],
    "weight": [1.0, 1.0, 2.0, 2.0, 2.0],
    "age": [30.0, 30.0, 40.0, 40.0, 40.0],
    "name": ["x", "x", "y", "y", "y"],
}
CALL = {"by": "id", "x": "f1", "y": "label", "sample_weight": "weight", "static": "age", "sort_by": "time"}
ROLES = {"id": "by", "time": "sort_by", "f1": "x", "label": "y", "weight": "sample_weight", "age": "static['age']"}


@settings(max_examples=examples(60))
@given(
    st.sampled_from(sorted(ROLES)),
    st.integers(0, 4),
    st.sampled_from(sorted(set(LIBRARIES) - {"pandas, ids in the index"})),
    st.booleans(),
)
def test_a_missing_entry_is_refused_with_its_row(column, row, library, is_nan):
    entries = list(FRAME[column])
    entries[row] = float("nan") if is_nan and column != "id" else None
    columns = {**FRAME, "id2": [0] * 5, column: entries}
    frame = LIBRARIES[library](columns)
    if library == "polars" and is_nan and column != "id":  # which knows NaN beside null
        frame = polars.DataFrame(columns)
    message = f"`{ROLES[column]}` must not hold missing entries. Received none at row {row} of column '{column}'"
    with pytest.raises(ValueError, match=re.escape(message)):
        find(frame, **CALL)


def test_nothing_is_refused_of_the_frame_without_faults():
    found = find(pandas.DataFrame(FRAME), **CALL)
    assert found.rows.keys.tolist() == ["a", "b"]
    assert found.rows.frame_rows.tolist() == [0, 1, 3, 4, 2]
    assert found.x.keys() == {"sequences", "age"}


def with_(column, *entries):
    return {**FRAME, column: list(entries)}


@pytest.mark.parametrize("library", ["pandas", "polars", "Arrow"])
@pytest.mark.parametrize(
    ("columns", "arguments", "error", "message"),
    [
        (with_("label", 0, 0, 1, 1, 2), {}, ValueError, "Received 2 at row 4 of column 'label', but 1 at row 3"),
        (with_("label", 0, 0, 1, 1, 2), {}, ValueError, "both of the sequence 'b'. Pass timestep_labels=True"),
        (with_("weight", 1, 2, 1, 1, 1), {}, ValueError, "`sample_weight` must have one value per sequence."),
        (with_("age", 1, 2, 1, 1, 1), {}, ValueError, "`static['age']` must have one value per sequence. Received 2"),
        (with_("time", 1, 1, 5, 3, 4), {}, ValueError, "Received 1 in 'time' at row 1, as at row 0, both of"),
        (with_("time", 1, 2, 5, 3, 5), {}, ValueError, "Received 5 in 'time' at row 4, as at row 2"),
        (FRAME, {"y": "name"}, TypeError, "`y` must hold numbers. Received 'x' (str) at row 0 of column 'name'."),
        (FRAME, {"y": "name"}, TypeError, "Map text to ids first: ids, names = pd.factorize(frame['name'])"),
        (FRAME, {"x": ["f1", "name"]}, TypeError, "`x` must hold numbers. Received 'x' (str) at row 0 of column"),
        (FRAME, {"static": {"who": "name"}}, TypeError, "`static['who']` must hold numbers"),
        (FRAME, {"x": "f9"}, ValueError, "`x` must name a column of `frame`. Expected one of ['id', 'time', 'f1', "),
        (FRAME, {"x": {"a": ["f1", "f9"]}}, ValueError, "`x['a']` must name a column of `frame`."),
        (FRAME, {"by": "who"}, ValueError, "`by` must name a column of `frame`."),
        (FRAME, {"sort_by": ["time", "t"]}, ValueError, "`sort_by` must name a column of `frame`."),
        (FRAME, {"static": [["age"]]}, ValueError, "`static` must name a column of `frame`"),
        (FRAME, {"by": []}, ValueError, "`by` is an empty list."),
        (FRAME, {"x": []}, ValueError, "`x` is an empty list."),
        (FRAME, {"x": {"age": "f1"}}, ValueError, "`static` would replace an entry of `x`. Received 'age' in both."),
        (FRAME, {"x": ("f1", "time")}, ValueError, "`static` needs names in `x`. Received a tuple `x`."),
        ({name: [] for name in FRAME}, {}, ValueError, "`frame` has no rows."),
    ],
)  # fmt: skip
def test_what_is_wrong_or_not_clear_is_refused(columns, arguments, error, message, library):
    frame = LIBRARIES[library](columns)
    with pytest.raises(error, match=re.escape(message)):
        find(frame, **{**CALL, **arguments})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pandas.DataFrame(FRAME).groupby("id"), "received pandas.DataFrameGroupBy. Pass the table itself"),
        (pandas.Series([1]), "received pandas.Series."),
        (polars.Series([1]), "received polars.Series."),
        (pyarrow.chunked_array([[1]]), "received pyarrow.ChunkedArray."),
        ({"id": [1]}, "received builtins.dict."),
    ],
)
def test_what_is_no_table_is_refused(frame, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        find(frame, by="id", x="f1")


def test_two_columns_of_one_name_are_refused():
    frame = pandas.DataFrame(FRAME)
    frame.columns = ["id", "time", "f1", "f1", "weight", "age", "name"]
    for table in (frame, pyarrow.table([[1], [2]], names=["f1", "f1"])):
        with pytest.raises(ValueError, match="which 2 have"):
            find(table, by="f1", x="f1")


def test_times_are_no_features():
    for utc in (False, True):
        times = pandas.to_datetime(["2026-01-01", "2026-01-02"], utc=utc)
        with pytest.raises(TypeError, match=re.escape("`x` must hold numbers. Received times")):
            find(pandas.DataFrame({"id": [1, 1], "t": times}), by="id", x="t")


def test_vectors_in_a_column_are_refused():
    with pytest.raises(TypeError, match="`x` must"):
        find(
            polars.DataFrame({"id": [1], "v": [[1.0, 2.0]]}, schema_overrides={"v": polars.Array(float, 2)}),
            by="id",
            x="v",
        )


def test_several_outputs_and_vectors_of_labels():
    found = find(pandas.DataFrame(FRAME), by="id", x=["f1"], y={"a": ["label", "age"], "b": "weight"})
    assert found.x.feature_shape == (1,)
    assert found.y["a"].tolist() == [[0, 30], [1, 40]]
    assert found.y["b"].tolist() == [1, 2]


def test_columns_need_no_strings_as_names():
    frame = pandas.DataFrame({0: [1, 1, 2], ("a", "b"): [1.0, 2.0, 3.0]})
    frame.columns = pandas.Index([0, ("a", "b")], tupleize_cols=False)
    found = find(frame, by=0, x=("a", "b"))
    assert [row.tolist() for row in rows_of(found.x)] == [[1, 2], [3]]


def test_a_tuple_of_columns_is_a_tuple_of_leaves():
    x, vectors = find(pandas.DataFrame(FRAME), by="id", x=("f1", ["f1", "time"])).x
    assert (x.feature_shape, vectors.feature_shape) == ((), (2,))


def test_sort_by_several_columns():
    frame = pandas.DataFrame({"id": [1, 1, 1, 1], "day": [2, 1, 2, 1], "hour": [0, 5, 3, 4], "f1": [1, 2, 3, 4]})
    assert find(frame, by="id", x="f1", sort_by=["day", "hour"]).rows.frame_rows.tolist() == [3, 1, 0, 2]
    frame.loc[2, "hour"] = 0
    with pytest.raises(ValueError, match=re.escape("Received 2, 0 in ['day', 'hour'] at row 2, as at row 0")):
        find(frame, by="id", x="f1", sort_by=["day", "hour"])


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    other = OtherTable(pyarrow.table({"id": [1], "f1": [1.0]}))
    with pytest.raises(ImportError, match=re.escape('pip install "keras-bucketing[arrow]"')):
        find(other, by="id", x="f1")
    for frame in (pandas.DataFrame({"id": [1], "f1": [1.0]}), polars.DataFrame({"id": ["a"], "f1": [1.0]})):
        assert len(find(frame, by="id", x="f1").x) == 1


IMPORT = """
import sys

LIBRARIES = ("pandas", "polars", "pyarrow")  # Keras imports pandas where that is installed
for name in [name for name in sys.modules if name.partition(".")[0] in ("keras_bucketing", *LIBRARIES)]:
    del sys.modules[name]


class Asked(set):
    def find_spec(self, name, path=None, target=None):
        self.add(name.partition(".")[0])


asked = Asked()
sys.meta_path.insert(0, asked)
import keras_bucketing

print(sorted(asked & {*LIBRARIES, "keras_bucketing"}))
"""


@pytest.mark.fit
def test_importing_the_package_imports_none_of_the_libraries():
    assert run_python("-c", IMPORT, check=True).stdout == "['keras_bucketing']\n"
