"""Which entries are masks and lengths of others: by path, rank, dtype and name."""

import numpy as np
import pytest

from keras_bucketing.unpadding.entries import EntryKind, lengths_by_leaf, longest_prefix, read_table
from tests.support.rows import sequences_from_padded

LONG = "k" * 100
MASK = np.array([[1, 1, 0], [1, 0, 0]])


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


def masks_of(*keys):
    """The masks of the entries of a dict, by their keys."""
    masks = read_table({("x", key): EntryKind(2, "i") for key in keys}).masks
    return {path[1]: mask[1] for path, mask in masks.items() if path != mask}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["ids", "mask"], {"ids": "mask"}),
        (["ids", "attention_mask"], {"ids": "attention_mask"}),
        (["ids", "key_padding_mask"], {"ids": "key_padding_mask"}),
        (["source", "source_mask", "target"], {"source": "source_mask"}),
        (["ids", "special_tokens_mask"], {}),
        (
            ["ids", "attention_mask", "special_tokens_mask"],
            dict.fromkeys(["ids", "special_tokens_mask"], "attention_mask"),
        ),
        (["ids", "mask_token_ids"], {}),
        (
            ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"],
            {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"},
        ),
        (["a" + LONG + "y_ids", "a" + LONG + "y_mask"], {"a" + LONG + "y_ids": "a" + LONG + "y_mask"}),
    ],
)
def test_masks_by_name(keys, expected):
    assert masks_of(*keys) == expected


def test_lengths_by_name():
    kinds = {("x", "in", "a"): EntryKind(2, "i"), ("x", "in", "a_lengths"): EntryKind(1, "i")}
    kinds |= {("x", "b"): EntryKind(3, "f"), ("x", "lengths"): EntryKind(1, "u"), ("x", "b_lengths"): EntryKind(1, "f")}
    table = read_table(kinds, [("y",)])
    assert table.lengths == {}  # deeper inside, and in floats, these are some feature of that name
    assert table.longest == dict.fromkeys([("x", "b"), ("x", "in", "a")], ("x", "lengths"))
    assert table.all_lengths == {("x", "lengths")}
    kinds[("x", "b_lengths")] = EntryKind(1, "i")
    assert read_table(kinds).lengths == {("x", "b"): ("x", "b_lengths")}


def test_lengths_of_labels_by_name():
    kinds = {("x", key): EntryKind(1, "i") for key in ("label_lengths", "a_lengths", "label_1_lengths")}
    assert read_table(kinds, [("y",)]).label_lengths == {("y",): ("x", "label_lengths")}
    assert read_table(kinds, [("y", "a"), ("y", "b")]).label_lengths == {("y", "a"): ("x", "a_lengths")}
    assert read_table(kinds, [("y", 0), ("y", 1)]).label_lengths == {("y", 1): ("x", "label_1_lengths")}


def test_lengths_are_found_by_path():
    a, b = LONG + "a" + LONG, LONG + "b" + LONG
    given = lengths_by_leaf(({a: MASK, b: MASK}, MASK), ({a: [1, 2], b: [2, 1]}, None))
    assert {path: entry.lengths for path, entry in given.items()} == {
        ("x", 0, a): [1, 2],
        ("x", 0, b): [2, 1],
        ("x", 1): None,
    }
    assert [entry.path for entry in given.values()] == [(0, a), (0, b), (1,)]


def test_lengths_for_single_entries_are_so_for_long_keys_too():
    a, b = LONG + "a" + LONG, LONG + "b" + LONG
    x = ({a: np.array([[1, 2, 0], [3, 0, 0]]), b: np.array([[4, 0], [5, 6]])},)  # no second axis in common
    (stripped,), _ = sequences_from_padded(x, ({a: [2, 1], b: [1, 2]},))
    assert {key: [row.tolist() for row in rows] for key, rows in stripped.items()} == {
        a: [[1, 2], [3]],
        b: [[4], [5, 6]],
    }
