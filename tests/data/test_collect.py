"""x, y and sample_weight: structures of leaves, checked against one another."""

import collections

import numpy as np
import pandas
import pyarrow
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.data import tree
from keras_bucketing.data.collect import check_include_lengths, check_padding_value, collect_inputs, length_entries
from keras_bucketing.data.rows import Rows
from tests.support.default_layer import examples
from tests.support.rows import flat, rows_of
from tests.support.strategies import lengths_lists, numbered, random_sequences, structures

X = [[1, 2], [3]]


def lists_of(leaf):
    return [row.tolist() for row in rows_of(leaf)]


def test_leaves_of_a_dict_are_ragged_or_plain():
    inputs = collect_inputs(
        {"text": X, "age": [30, 40], "image": np.zeros((2, 5)), "tags": pyarrow.array([[1], [2, 3, 4]])}, None, None
    )
    assert isinstance(inputs.x["text"], Rows)
    assert inputs.x["age"].tolist() == [30, 40]
    assert inputs.x["image"].shape == (2, 5)
    assert inputs.x["image"].dtype == np.float32
    assert lists_of(inputs.x["tags"]) == [[1], [2, 3, 4]]
    assert inputs.lengths.longest.tolist() == [2, 3]  # of the longest leaf


def test_structures_may_be_nested_and_tuples():
    inputs = collect_inputs((X, {"a": [5, 6]}), {"b": ([1, 2], X)}, None)
    assert isinstance(inputs.x[0], Rows)
    assert inputs.x[1]["a"].tolist() == [5, 6]
    assert isinstance(inputs.y["b"][1], Rows)


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0],
        (np.array([1, 0])),
        np.array([1, 0], object),
        [np.array(1), np.array(0)],
        tf.constant([1, 0]),
        [tf.constant(1), tf.constant(0)],
        range(1, -1, -1),
        pandas.Series([1, 0], index=[7, 8]),
        pandas.Series([1, 0], dtype=object),
        pandas.Series([1, 0], dtype="Int64"),
        pyarrow.array([1, 0]),
        pyarrow.chunked_array([[1], [0]]),
    ],
)
def test_one_label_a_row_comes_in_many_forms(labels):
    assert collect_inputs(X, labels, None).y.tolist() == [1, 0]


def test_labels_are_copied():
    labels = np.array([1, 0])
    inputs = collect_inputs(X, labels, None)
    labels[:] = 7
    assert inputs.y.tolist() == [1, 0]


def test_float64_labels_become_floatx_and_integers_stay():
    inputs = collect_inputs(X, {"a": [0.5, 1.5], "b": np.array([1, 2], np.int16)}, [1, 2])
    assert [inputs.y["a"].dtype, inputs.y["b"].dtype] == [np.float32, np.int16]
    assert inputs.sample_weight.dtype == np.float32


@settings(max_examples=examples(60))
@given(lengths_lists(min_length=0), st.integers(1, 20), st.sampled_from(["post", "pre"]))
def test_truncating_cuts_labels_and_weights_like_their_sequences(lengths, maxlen, truncating):
    x = random_sequences(lengths)
    inputs = collect_inputs({"a": x, "b": x}, [row + 1 for row in x], x).truncate(maxlen, truncating)
    assert inputs.lengths.longest.tolist() == [min(length, maxlen) for length in lengths]
    assert np.array_equal(flat(inputs.y), flat(inputs.x["a"]) + 1)
    assert np.array_equal(flat(inputs.sample_weight), flat(inputs.x["b"]).astype(np.float32))


@settings(max_examples=examples(60))
@given(lengths_lists(min_length=0, max_length=2).filter(any))
def test_dropping_empty_rows_keeps_every_leaf_in_step(lengths):
    x = random_sequences(lengths)
    numbers = np.arange(len(lengths))
    inputs = collect_inputs({"a": x, "n": numbers}, x, numbers).without_empty("drop")
    kept = [row for row, length in enumerate(lengths) if length]
    assert inputs.x["n"].tolist() == kept
    assert inputs.lengths.longest.tolist() == [lengths[row] for row in kept]
    assert np.array_equal(flat(inputs.x["a"]), flat(inputs.y))
    assert inputs.sample_weight.tolist() == kept
    assert inputs.num_given == len(lengths)
    assert inputs.kept is None if all(lengths) else inputs.kept.tolist() == kept


def test_a_row_is_dropped_when_any_of_its_sequences_is_empty():
    inputs = collect_inputs({"a": [[1], [], [2]], "b": [[], [1], [2]]}, None, None).without_empty("drop")
    assert inputs.kept.tolist() == [2]


def test_keeping_empty_rows_gives_them_one_timestep():
    inputs = collect_inputs([[], [1, 2], []], [[], [0, 1], []], None).without_empty("keep")
    assert lists_of(inputs.x) == [[], [1, 2], []]  # the batch's padding fills them
    assert inputs.x.lengths.tolist() == [1, 2, 1]
    assert inputs.lengths.longest.tolist() == [1, 2, 1]
    assert lists_of(inputs.y) == [[], [0, 1], []]  # without a label, and so without weight


@pytest.mark.parametrize(
    ("x", "y", "weights", "error", "text"),
    [
        ({}, None, None, ValueError, "`x` is an empty dict. Expected at least one entry."),
        ((), None, None, ValueError, "`x` is an empty tuple. Expected at least one entry."),
        ({1: X}, None, None, TypeError, "`x` must have strings as keys. Received 1."),
        ({"a": "text"}, None, None, TypeError, "`x['a']` must be a list, an array or a tensor. Received str."),
        ({"a": np.zeros(2)}, None, None, TypeError, "`x` has no sequences. Expected at least one ragged leaf"),
        ((np.zeros(3), np.zeros(4)), None, None, TypeError, "pass sequences as a list."),
        (
            {"a": X, "b": [[1]]},
            None,
            None,
            ValueError,
            "`x['b']` must have one row for each sequence. Expected 2 as in `x['a']`, received 1.",
        ),
        (
            {"a": X, "b": ["u", "v"]},
            None,
            None,
            TypeError,
            "`x['b'][0]` must be a sequence of numbers. Received the string 'u'",
        ),
        (
            (X, [1, 2, 3]),
            None,
            None,
            ValueError,
            "If the 2 entries of the tuple `x` are sequences, pass list(x): a tuple is one of a model's inputs.",
        ),
        (X, [1, 0, 1], None, ValueError, "`y` must have one row for each sequence. Expected 2 as in `x`, received 3."),
        (X, [], None, ValueError, "`y` must have one row for each sequence. Expected 2 as in `x`, received 0."),
        (X, {"a": [1]}, None, ValueError, "`y['a']` must have one row for each sequence."),
        (
            X,
            3,
            None,
            TypeError,
            "`y` must have one row for each sequence. Received the scalar 3. Pass a list or an array.",
        ),
        (X, "ab", None, TypeError, "`y` must be a list, an array or a tensor. Received str."),
        (X, {1, 2}, None, TypeError, "`y` must be a list, an array or a tensor. Received set."),
        (X, {"a": None}, None, TypeError, "`y['a']` must be a list, an array or a tensor. Received NoneType."),
        (X, ["a", "b"], None, TypeError, "`y[0]` must be a sequence of numbers. Received the string 'a'."),
        (
            X,
            np.array(["a", "b"]),
            None,
            TypeError,
            "`y` must hold numbers. Received a (str_) at y[0]. Map strings to ids",
        ),
        (X, [1, None], None, TypeError, "`y` must hold numbers. Received None (NoneType) at y[1]."),
        (X, [1, [2]], None, TypeError, "`y[0]` must be a sequence. Received the scalar 1."),
        (
            X,
            [1j, 2],
            None,
            TypeError,
            "Expected a bool, int or float dtype of NumPy's and TensorFlow's, received complex128.",
        ),
        ({"a": X, "b": [[1], [2]]}, [[1], [2, 3]], None, ValueError, "Expected 2 as in x['a'][0], received 1 at y[0]."),
        (X, None, [1, 2], ValueError, "`sample_weight` needs labels. Received sample_weight without y."),
        (
            X,
            [1, 2],
            [1],
            ValueError,
            "`sample_weight` must have one row for each sequence. Expected 2 as in `x`, received 1.",
        ),
        (X, [1, 2], ["a", "b"], TypeError, "`sample_weight[0]` must be a sequence of numbers."),
        (
            X,
            [1, 2],
            [[1, 2], [3]],
            ValueError,
            "`sample_weight` has one weight per timestep, but `y` has one label per row. Pass one weight per row.",
        ),
        (X, X, [[1, 2], [3, 4]], ValueError, "Expected 1 as in y[1], received 2 at sample_weight[1]."),
        (X, X, [[[1], [2]], [[3]]], ValueError, "must have one weight per timestep. Received feature shape (1,)."),
        (
            X,
            [1, 2],
            np.ones((2, 3)),
            ValueError,
            "`sample_weight` must have one weight per row. Expected shape (2,), received (2, 3).",
        ),
        (
            X,
            {"a": [1, 2], "b": [1, 2]},
            {"a": [1, 2]},
            ValueError,
            (
                "`sample_weight` must be one array or have the structure of `y`. Expected {'a': an array of "
                "shape (2,), 'b': an array of shape (2,)}, received {'a': an array of shape (2,)}."
            ),
        ),
        (X, {"a": [1, 2], "b": X}, X, ValueError, "`sample_weight` must be one array or have the structure of `y`."),
    ],
)
def test_leaves_that_do_not_fit_together_are_refused(x, y, weights, error, text):
    with pytest.raises(error) as raised:
        collect_inputs(x, y, weights)
    assert text in str(raised.value)


def test_empty_sequences_are_refused_by_name_and_index():
    inputs = collect_inputs({"a": X, "b": [[1], []]}, None, None)
    with pytest.raises(
        ValueError, match=r"not be empty\. Received length 0 at x\['b'\]\[1\] \(1 in all\).*on_empty=\"drop\""
    ):
        inputs.without_empty("raise")


def test_dropping_everything_is_refused():
    with pytest.raises(ValueError, match='All sequences are empty, so on_empty="drop" leaves none'):
        collect_inputs([[], []], None, None).without_empty("drop")


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("int8", -128, True),
        ("int8", 128, False),
        ("uint8", -1, False),
        ("int32", 0.5, False),
        ("int32", 2.0, True),
        ("int32", float("nan"), False),
        ("uint64", 2**64 - 1, True),
        ("bool", 1, True),
        ("bool", 2, False),
        ("float32", float("nan"), True),
        ("float32", float("-inf"), True),
        ("float32", 1e38, True),
        ("float32", 1e39, False),
        ("float16", 70000, False),
    ],
)
def test_a_padding_value_must_fit_the_dtype(dtype, value, fits):
    x = collect_inputs([np.zeros(2, dtype)], None, None).x
    if fits:
        check_padding_value("padding_value", value, x)
        return
    with pytest.raises(
        ValueError, match=rf"`padding_value` must be a value of the data's dtype\. Expected one that {dtype}"
    ):
        check_padding_value("padding_value", value, x)


# Labels of their own length.

LABELS = [[7, 8, 9], []]


def test_labels_of_their_own_length_are_taken_as_they_are():
    inputs = collect_inputs(X, {"text": LABELS, "class": [0, 1], "tags": X}, None, align_labels=False)
    assert lists_of(inputs.y["text"]) == LABELS
    assert inputs.y["class"].tolist() == [0, 1]
    assert inputs.lengths.longest.tolist() == [2, 1]  # they choose no bucket
    named = {leaf.name: (leaf.lengths.tolist(), leaf.is_label) for leaf in inputs.lengths.leaves}
    assert named == {"x": ([2, 1], False), "y['tags']": ([2, 1], True), "y['text']": ([3, 0], True)}


def test_labels_for_each_timestep_have_no_lengths_of_their_own():
    leaves = collect_inputs({"a": X, "b": X, "n": [1, 2]}, X, None).lengths.leaves
    assert [leaf.name for leaf in leaves] == ["x['a']", "x['b']"]
    assert leaves[0].lengths is leaves[1].lengths
    assert leaves[0].lengths.dtype == np.int32


@given(structures(st.none()).map(numbered), st.booleans())
def test_every_leaf_has_its_own_lengths_and_labels_find_their_sequences(numbers, align_labels):
    def sequences(path, number):
        return [[number] * (number + 1), [number]]

    x, y = tree.map_leaves(sequences, numbers), tree.map_leaves(sequences, numbers)
    inputs = collect_inputs(x, y, None, align_labels)
    expected = [[number + 1, 1] for _, number in tree.leaves(numbers)]
    columns = inputs.lengths.leaves
    assert [leaf.lengths.tolist() for leaf in columns] == expected * (1 if align_labels else 2)
    assert len({leaf.name for leaf in columns}) == len(columns)
    assert inputs.lengths.longest.tolist() == [max(first for first, _ in expected), 1]
    for path, number in tree.leaves(numbers):
        of_x, of_y = inputs.column_of("x", path), inputs.column_of("y", path)
        assert (of_x == of_y) == align_labels
        assert columns[of_x].lengths.tolist() == columns[of_y].lengths.tolist() == [number + 1, 1]
        assert [columns[of_x].is_label, columns[of_y].is_label] == [False, not align_labels]


def test_labels_of_one_length_keep_the_order_of_the_rows():
    flat_labels = np.arange(4)
    labels = [flat_labels[2:4], flat_labels[0:2]]  # taken for slices of one array where nothing is copied
    assert collect_inputs([[1, 2, 3], [4, 5, 6]], labels, None, copy=False).y.tolist() == [[2, 3], [0, 1]]


def test_options_for_sequences_do_not_concern_labels_of_their_own_length():
    inputs = collect_inputs([[1, 2, 3], [], [4]], [[5, 6], [7, 8], []], [[1, 2], [3, 4], []], align_labels=False)
    dropped = inputs.truncate(1, "post").without_empty("drop")
    assert lists_of(dropped.x) == [[1], [4]]
    assert lists_of(dropped.y) == [[5, 6], []]
    assert lists_of(dropped.sample_weight) == [[1, 2], []]
    assert dropped.in_given_rows(dropped.lengths.longest).tolist() == [1, 0, 1]
    kept = inputs.without_empty("keep")
    assert kept.x.lengths.tolist() == [3, 1, 1]
    assert lists_of(kept.y) == [[5, 6], [7, 8], []]


@pytest.mark.parametrize(
    ("y", "weights", "text"),
    [
        (LABELS, [[1, 2], []], "Expected 3 as in y[0], received 2 at sample_weight[0]."),
        ([1, 2], X, "`sample_weight` has one weight per timestep, but `y` has one label per row."),
    ],
)
def test_weights_have_the_lengths_of_their_labels(y, weights, text):
    with pytest.raises(ValueError, match="sample_weight") as raised:
        collect_inputs(X, y, weights, align_labels=False)
    assert text in str(raised.value)


def test_labels_that_fit_no_leaf_name_the_argument_that_takes_them():
    with pytest.raises(ValueError, match="is ragged") as raised:
        collect_inputs({"a": X, "b": [[1], [2]]}, {"text": LABELS}, None)
    assert str(raised.value) == (
        "`y['text']` is ragged, so it must hold one label per timestep. Expected 2 as in x['a'][0], received 3 at "
        "y['text'][0]. Pass align_labels=False for labels of their own length, such as transcripts and translations."
    )


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]],
        collections.UserList([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]]),
        pyarrow.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]]),
    ],
    ids=["list", "Sequence", "Arrow"],
)
def test_as_many_values_for_each_row_are_one_array_as_fit_would_make_it(labels):
    x = [[1], [2, 3], [4, 5, 6]]
    for y in (labels, {"tags": labels}):
        (leaf,) = tf.nest.flatten(collect_inputs(x, y, None).y)
        assert isinstance(leaf, np.ndarray)
        assert leaf.tolist() == [[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]]


def test_hugging_face_columns_are_rows_at_every_leaf():
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets")
    columns = datasets.Dataset.from_dict({"ids": [[1], [2, 3]], "tags": [[5], [6, 7]], "hot": [[0, 1], [1, 0]]})
    inputs = collect_inputs({"ids": columns["ids"]}, {"tags": columns["tags"], "hot": columns["hot"]}, None)
    assert inputs.x["ids"].lengths.tolist() == inputs.y["tags"].lengths.tolist() == [1, 2]
    assert inputs.y["hot"].tolist() == [[0, 1], [1, 0]]


# The entries that include_lengths=True adds to x, and their names.


LENGTHS_X = [[1, 2], [3]]
OTHER = [[1], [2, 3, 4]]
SHORT = [[], [9]]


def entries(x, y=None, align_labels=False):
    """Those next to "lengths", which is each row's longest and comes first."""
    inputs = collect_inputs(x, y, None, align_labels)
    (first, longest), *others = length_entries(inputs, True).items()
    assert first == "lengths"
    assert longest is None
    return {name: leaf.lengths.tolist() for name, leaf in others}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (LENGTHS_X, None, {}),
        ({"a": LENGTHS_X, "n": [1, 2]}, None, {}),
        ({"a": LENGTHS_X, "a_lengths": [1, 2]}, None, {}),  # a single leaf needs no entry of its own
        ({"a": LENGTHS_X, "b": OTHER, "n": [1, 2]}, None, {"a_lengths": [2, 1], "b_lengths": [1, 3]}),
        ((LENGTHS_X, OTHER), None, {}),
        (LENGTHS_X, [1, 0], {}),
        (LENGTHS_X, SHORT, {"label_lengths": [0, 1]}),
        ((LENGTHS_X, OTHER), SHORT, {"label_lengths": [0, 1]}),
        (LENGTHS_X, {"text": SHORT, "speaker": [1, 2]}, {"label_lengths": [0, 1]}),
        (LENGTHS_X, {"text": SHORT, "phones": OTHER}, {"text_lengths": [0, 1], "phones_lengths": [1, 3]}),
        (LENGTHS_X, (SHORT, OTHER), {"label_0_lengths": [0, 1], "label_1_lengths": [1, 3]}),
        (
            LENGTHS_X,
            {"a": (SHORT, OTHER), "b": {"c": LENGTHS_X}},
            {"a_0_lengths": [0, 1], "a_1_lengths": [1, 3], "b_c_lengths": [2, 1]},
        ),
        ({"a": LENGTHS_X, "b": OTHER}, SHORT, {"a_lengths": [2, 1], "b_lengths": [1, 3], "label_lengths": [0, 1]}),
        ({"text": LENGTHS_X}, {"text": SHORT, "phones": OTHER}, {"text_lengths": [0, 1], "phones_lengths": [1, 3]}),
    ],
)
def test_names_of_lengths(x, y, expected):
    assert entries(x, y) == expected


def test_labels_for_each_timestep_have_the_lengths_of_x():
    assert entries(LENGTHS_X, {"a": LENGTHS_X, "b": LENGTHS_X}, align_labels=True) == {}


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (
            {"lengths": LENGTHS_X},
            None,
            "`x` already has the key 'lengths', which include_lengths=True adds. Rename one",
        ),
        ({"a": LENGTHS_X, "b": LENGTHS_X, "a_lengths": [1, 2]}, None, "`x` already has the key 'a_lengths'"),
        ({"a": LENGTHS_X, "label_lengths": [1, 2]}, SHORT, "`x` already has the key 'label_lengths'"),
        (
            {"a": LENGTHS_X, "text_lengths": [1, 2]},
            {"text": SHORT, "phones": LENGTHS_X},
            "`x` already has the key 'text_lengths'",
        ),
        (
            {"label": LENGTHS_X, "b": LENGTHS_X},
            SHORT,
            "`y` leads to the entry 'label_lengths' of `x`, which include_lengths=True adds",
        ),
        (
            {"text": LENGTHS_X, "b": LENGTHS_X},
            {"text": SHORT, "phones": LENGTHS_X},
            "`y` leads to the entry 'text_lengths'",
        ),
        (LENGTHS_X, {"a": (SHORT, SHORT), "a_0": SHORT}, "`y` leads to the entry 'a_0_lengths'"),
    ],
)
def test_names_that_are_taken_are_refused(x, y, text):
    with pytest.raises(ValueError, match="Rename") as raised:
        entries(x, y)
    assert text in str(raised.value)


PAIR = {"a": LENGTHS_X, "b": OTHER}


@given(st.sets(st.sampled_from(["lengths", "a_lengths", "b_lengths", "label_lengths"])))
def test_a_list_of_names_adds_these_and_no_others(names):
    inputs = collect_inputs(PAIR, SHORT, None, align_labels=False)
    everything = length_entries(inputs, True)
    assert length_entries(inputs, sorted(names)) == {name: everything[name] for name in everything if name in names}


def test_a_name_that_is_not_added_is_nobodys_concern():
    taken = collect_inputs({**PAIR, "a_lengths": [1, 2]}, None, None)
    assert set(length_entries(taken, ["lengths", "b_lengths"])) == {"lengths", "b_lengths"}
    with pytest.raises(ValueError, match="`x` already has the key 'a_lengths'"):
        length_entries(taken, ["a_lengths"])


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        (
            "lengths",
            TypeError,
            r"must be a boolean or a list of names.* received 'lengths' \(str\). Pass \['lengths'\]",
        ),
        (["lengths", 1], TypeError, "must be a boolean or a list of names"),
        (["length"], ValueError, r"Expected some of \['lengths', 'a_lengths', 'b_lengths'\], received 'length'"),
    ],
)
def test_names_that_cannot_be_added_are_refused(names, error, text):
    with pytest.raises(error, match=text):
        length_entries(collect_inputs(PAIR, None, None), check_include_lengths(names))


def test_the_first_row_whose_weights_do_not_fit_is_named():
    labels, weights = [[1, 2], [3], [4, 5]], [[1.0, 1.0], [1.0, 1.0], [1.0]]
    with pytest.raises(ValueError, match=r"Expected 1 as in y\[1\], received 2 at sample_weight\[1\]"):
        collect_inputs([[1, 2], [3], [4, 5]], labels, weights)
