"""The checks of plain arguments: what they take, and what they say to what they refuse."""

import numpy as np
import pytest

from keras_bucketing.checks import INT64_MAX, check_choice, check_flag, check_integer, check_lengths, check_number


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_every_kind_of_integer_becomes_an_int(value):
    assert type(check_integer("steps", value)) is int
    assert check_integer("steps", value) == 3


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float32(3), "3", None, [3], np.array([3, 4]), 3j])
def test_what_is_no_integer_is_refused_with_its_type(value):
    with pytest.raises(TypeError) as error:
        check_integer("steps", value, fix="Count them.")
    assert str(error.value).startswith("`steps` must be an integer. Expected an int >= 1, received ")
    assert f"({type(value).__name__})" in str(error.value)
    assert str(error.value).endswith("Count them.")


@pytest.mark.parametrize(("value", "minimum"), [(0, 1), (-1, 0), (np.int64(4), 5)])
def test_integers_below_the_minimum_are_refused(value, minimum):
    with pytest.raises(ValueError, match=rf"`steps` is too small\. Expected an int >= {minimum}, received {value}\."):
        check_integer("steps", value, minimum)


def test_integers_above_the_maximum_are_refused():
    assert check_integer("steps", 2**63 - 1, maximum=INT64_MAX) == 2**63 - 1
    with pytest.raises(ValueError, match=r"`steps` is too large\. Expected an int <= 2147483647, received 2147483648"):
        check_integer("steps", 2**31)
    with pytest.raises(ValueError, match=r"`steps` is too large\. Expected an int <= 5, received 6"):
        check_integer("steps", 6, maximum=5)


def test_choices_are_strings_out_of_a_list():
    assert check_choice("side", "left", ("left", "right")) == "left"
    with pytest.raises(ValueError, match=r"`side` is unknown\. Expected one of \['left', 'right'\], received 'Left'\."):
        check_choice("side", "Left", ("left", "right"))
    with pytest.raises(TypeError, match=r"`side` must be a string\. Expected one of .*, received None \(NoneType\)\."):
        check_choice("side", None, ("left", "right"))


@pytest.mark.parametrize("value", [1, 0, "True", None, np.array([True])])
def test_flags_must_be_booleans(value):
    assert check_flag("shuffle", np.True_) is True
    with pytest.raises(TypeError, match=r"`shuffle` must be a boolean\. Expected True or False, received "):
        check_flag("shuffle", value)


@pytest.mark.parametrize("value", [True, 3, 2.5, np.float16(2.5), np.int64(3)])
def test_numbers_become_those_of_python(value):
    assert type(check_number("value", value)) in (bool, int, float)
    assert check_number("value", value) == value


@pytest.mark.parametrize("value", ["0", None, 1j, [0], np.array([0])])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=r"`value` must be a number\. Expected a bool, int or float, received "):
        check_number("value", value)


@pytest.mark.parametrize("lengths", [[3, 1], (3, 1), np.array([3, 1], np.uint8), np.array([3.0, 1.0]), range(3, 0, -2)])
def test_lengths_of_every_kind_become_int64(lengths):
    array = check_lengths(lengths)
    assert array.dtype == np.int64
    assert array.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([], ValueError, "`lengths` is empty. Expected at least one length."),
        (
            [[1, 2]],
            ValueError,
            "`lengths` must have one dimension. Expected shape (num_sequences,), received shape (1, 2).",
        ),
        (
            [[1], [2, 3]],
            TypeError,
            "`lengths` must be a flat list of integers. Received a nested list of uneven shape.",
        ),
        (5, ValueError, "`lengths` must have one dimension. Expected shape (num_sequences,), received shape ()."),
        (["a"], TypeError, "`lengths` must be integers. Received dtype <U1 (first entry 'a')."),
        ([True], TypeError, "`lengths` must be integers. Received dtype bool"),
        ([1, None], TypeError, "`lengths` must be integers. Received dtype object"),
        ([2.0, float("nan")], ValueError, "`lengths` must be whole numbers of timesteps. Received nan at lengths[1]."),
        ([2.0, float("inf")], ValueError, "`lengths` must be whole numbers of timesteps. Received inf at lengths[1]."),
        ([2.5], ValueError, "`lengths` must be whole numbers of timesteps. Received 2.5 at lengths[0]."),
        ([4, 0, -1], ValueError, "`lengths` must be at least 1. Received 0 at lengths[1]."),
        ([4, 2**31], ValueError, "`lengths` must be below 2**31. Received 2147483648 at lengths[1]."),
    ],
)
def test_wrong_lengths_are_refused_with_their_index(lengths, error, text):
    with pytest.raises(error) as raised:
        check_lengths(lengths)
    assert text in str(raised.value)


@pytest.mark.parametrize("value", [10**400, -(2**64), 2**64])
def test_numbers_beyond_64_bits_are_refused(value):
    message = rf"`value` must be a number of at most 64 bits\. Received an int of {value.bit_length()} bits"
    with pytest.raises(ValueError, match=message):
        check_number("value", value)
    assert check_number("value", 2**64 - 1) == 2**64 - 1
