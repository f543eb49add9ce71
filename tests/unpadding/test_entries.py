"""Which entries are masks and lengths of others, whatever their keys look like in a message."""

import numpy as np
import pytest

from keras_bucketing.unpadding.arrays import sequences_from_padded
from keras_bucketing.unpadding.entries import is_mask, lengths_by_leaf, longest_prefix, mask_of

LONG = "k" * 100
MASK, OTHER = np.array([[1, 1, 0], [1, 0, 0]]), np.array([[1, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize(
    ("key", "prefixes", "expected"),
    [
        ("decoder_input_ids", ["", "decoder_", "encoder_"], "decoder_"),
        ("input_ids", ["", "decoder_"], ""),
        ("input_ids", ["decoder_"], None),
        ("input_ids", [], None),
    ],
)
def test_the_longest_prefix_wins(key, prefixes, expected):
    assert longest_prefix(key, prefixes) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("mask",), True),
        (("a", "attention_mask"), True),
        ((LONG + "_mask_" + LONG,), True),  # what a message leaves out
        (("mask", "tokens"), False),
        (("mask", 0), False),
        ((), False),
    ],
)
def test_a_mask_of_integers_is_known_by_its_own_key(path, expected):
    assert is_mask(path, MASK) == expected


def test_the_mask_with_the_same_prefix_belongs_to_an_entry():
    masks = {("a" + LONG + "x_mask",): MASK, ("a" + LONG + "y_mask",): OTHER}
    assert mask_of(("a" + LONG + "y_ids",), np.zeros((2, 3)), masks) == ("a" + LONG + "y_mask",)
    assert mask_of(("ids",), np.zeros((3, 2)), masks) is None
    with pytest.raises(ValueError, match="several masks have the shape of"):
        mask_of(("ids",), np.zeros((2, 3)), masks)


def test_lengths_are_found_by_path():
    a, b = LONG + "a" + LONG, LONG + "b" + LONG
    given = lengths_by_leaf(({a: MASK, b: MASK}, MASK), ({a: [1, 2], b: [2, 1]}, None))
    assert {path: entry.lengths for path, entry in given.items()} == {(0, a): [1, 2], (0, b): [2, 1], (1,): None}
    assert [entry.path for entry in given.values()] == [(0, a), (0, b), (1,)]


def test_lengths_for_single_entries_are_so_for_long_keys_too():
    a, b = LONG + "a" + LONG, LONG + "b" + LONG
    x = ({a: np.array([[1, 2, 0], [3, 0, 0]]), b: np.array([[4, 0], [5, 6]])},)  # no second axis in common
    (stripped,), _ = sequences_from_padded(x, ({a: [2, 1], b: [1, 2]},))
    assert {key: [row.tolist() for row in rows] for key, rows in stripped.items()} == {
        a: [[1, 2], [3]],
        b: [[4], [5, 6]],
    }
