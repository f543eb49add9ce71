"""The entries that include_lengths=True adds to x, and their names."""

import pytest

from keras_bucketing.inputs.collect import collect_inputs
from keras_bucketing.inputs.length_entries import length_entries

X = [[1, 2], [3]]
OTHER = [[1], [2, 3, 4]]
SHORT = [[], [9]]


def entries(x, y=None, align_labels=False):
    inputs = collect_inputs(x, y, None, align_labels)
    return {
        name: leaf.lengths.tolist() for name, leaf in length_entries(inputs.x, inputs.y, inputs.align_labels).items()
    }


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (X, None, {}),
        ({"a": X, "n": [1, 2]}, None, {}),
        ({"a": X, "a_lengths": [1, 2]}, None, {}),  # a single leaf needs no entry of its own
        ({"a": X, "b": OTHER, "n": [1, 2]}, None, {"a_lengths": [2, 1], "b_lengths": [1, 3]}),
        ((X, OTHER), None, {}),
        (X, [1, 0], {}),
        (X, SHORT, {"label_lengths": [0, 1]}),
        ((X, OTHER), SHORT, {"label_lengths": [0, 1]}),
        (X, {"text": SHORT, "speaker": [1, 2]}, {"label_lengths": [0, 1]}),
        (X, {"text": SHORT, "phones": OTHER}, {"text_lengths": [0, 1], "phones_lengths": [1, 3]}),
        (X, (SHORT, OTHER), {"label_0_lengths": [0, 1], "label_1_lengths": [1, 3]}),
        (
            X,
            {"a": (SHORT, OTHER), "b": {"c": X}},
            {"a_0_lengths": [0, 1], "a_1_lengths": [1, 3], "b_c_lengths": [2, 1]},
        ),
        ({"a": X, "b": OTHER}, SHORT, {"a_lengths": [2, 1], "b_lengths": [1, 3], "label_lengths": [0, 1]}),
        ({"text": X}, {"text": SHORT, "phones": OTHER}, {"text_lengths": [0, 1], "phones_lengths": [1, 3]}),
    ],
)
def test_names_of_lengths(x, y, expected):
    assert entries(x, y) == expected


def test_labels_for_each_timestep_have_the_lengths_of_x():
    assert entries(X, {"a": X, "b": X}, align_labels=True) == {}


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        ({"lengths": X}, None, "`x` already has the key 'lengths', which include_lengths=True adds. Rename one"),
        ({"a": X, "b": X, "a_lengths": [1, 2]}, None, "`x` already has the key 'a_lengths'"),
        ({"a": X, "label_lengths": [1, 2]}, SHORT, "`x` already has the key 'label_lengths'"),
        ({"a": X, "text_lengths": [1, 2]}, {"text": SHORT, "phones": X}, "`x` already has the key 'text_lengths'"),
        ({"label": X, "b": X}, SHORT, "`y` leads to the entry 'label_lengths' of `x`, which include_lengths=True adds"),
        ({"text": X, "b": X}, {"text": SHORT, "phones": X}, "`y` leads to the entry 'text_lengths'"),
        (X, {"a": (SHORT, SHORT), "a_0": SHORT}, "`y` leads to the entry 'a_0_lengths'"),
    ],
)
def test_names_that_are_taken_are_refused(x, y, text):
    with pytest.raises(ValueError, match="Rename") as raised:
        entries(x, y)
    assert text in str(raised.value)
