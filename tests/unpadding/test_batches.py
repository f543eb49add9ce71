"""Padded batches, one after the other: the end that all show, masks, lengths, and leaves that are padded alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.unpadding.batches import Unpadder, fitting_table
from keras_bucketing.unpadding.entries import EntryKind, read_table
from tests.support.default_layer import examples
from tests.support.strategies import lengths_lists, seeds
from tests.support.streams import pad


def spans_of(batches, mask_value=0, padding=None, **options):
    """The real timesteps of leaves in batches that are read one after the other, as lists of (start, stop)."""
    batches = [{("x", key): np.array(leaf) for key, leaf in batch.items()} for batch in batches]
    kinds = {path: EntryKind(leaf.ndim, leaf.dtype.kind) for path, leaf in batches[0].items()}
    paths = [path for path, kind in kinds.items() if kind.rank > 1]
    unpadder = Unpadder(paths, fitting_table(read_table(kinds), batches), mask_value, padding, **options)
    found = {path[1]: [] for path in paths}
    row = 0
    for batch in batches:
        for path, span in unpadder.spans(batch, row).items():
            found[path[1]] += list(zip(span.start.tolist(), span.stop.tolist(), strict=True))
        row += len(batch[paths[0]])
    unpadder.finish()
    return found


@settings(max_examples=examples(80))
@given(lengths_lists(min_length=0), st.sampled_from(["post", "pre"]), st.sampled_from([0, -1, float("nan")]), seeds())
def test_the_padded_end_is_found(lengths, padding, mask_value, seed):
    generator = np.random.default_rng(seed)
    rows = [generator.uniform(1, 2, (length, 2)) for length in lengths]
    time = max(lengths)
    batches = [{"a": pad(rows[at : at + 3], padding, mask_value, time)} for at in range(0, len(rows), 3)]
    expected = [(0, length) if padding == "post" or not length else (time - length, time) for length in lengths]
    found = spans_of(batches, mask_value)["a"]
    assert [(start, stop) if stop > start else (0, 0) for start, stop in found] == expected


def test_padding_inside_a_sequence_is_data():
    assert spans_of([{"a": [[1, 0, 2, 0], [1, 1, 1, 1]]}]) == {"a": [(0, 3), (0, 4)]}
    assert spans_of([{"a": [[[0, 1], [0, 0]]]}]) == {"a": [(0, 1)]}


@pytest.mark.parametrize("split", [False, True])
def test_rows_that_begin_and_rows_that_end_with_it_are_refused(split):
    x = [[1, 2, 0], [0, 1, 2]]
    batches = [{"a": x[:1]}, {"a": x[1:]}] if split else [{"a": x}]
    with pytest.raises(ValueError, match=r"`padding` must be given.* first in row 0\) and .*first in row 1\)"):
        spans_of(batches)
    assert spans_of(batches, padding="post")["a"] == [(0, 2), (0, 3)]
    assert spans_of(batches, padding="pre")["a"] == [(0, 3), (1, 3)]


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        ([[1, 1, 1], [1, 0, 1]], r"with gaps.*x\['mask'\]\[1\]"),
        ([[1, 1, 0], [0, 1, 1]], "at the end of row 0 and at the beginning of row 1"),
    ],
)
def test_masks_that_are_no_runs_at_one_end_are_refused(mask, text):
    with pytest.raises(ValueError, match=text):
        spans_of([{"a": [[5, 6, 7], [5, 6, 7]], "mask": mask}])
    if "row 0" in text:
        with pytest.raises(ValueError, match=text):
            spans_of([{"a": [[5, 6, 7]], "mask": [row]} for row in mask])


@pytest.mark.parametrize(
    ("x", "options", "expected"),
    [
        ([[1, 0, 9, 9], [1, 2, 3, 9]], {}, [(0, 2), (0, 3)]),  # the 0 is data, the 9 is padding
        ([[0, 8, 9], [1, 2, 3]], {}, [(1, 3), (0, 3)]),  # `mask_value` is trusted more than another constant
        ([[0, 0, 5], [0, 1, 2]], {"padding": "pre"}, [(1, 3), (0, 3)]),
    ],
)
def test_lengths_tell_the_end(x, options, expected):
    assert spans_of([{"a": x, "lengths": [2, 3]}], **options)["a"] == expected


def test_an_end_that_a_later_batch_contradicts_is_refused():
    first, later = {"a": [[0, 8, 9], [1, 2, 3]], "lengths": [2, 3]}, {"a": [[4, 5, 9]], "lengths": [2]}
    assert spans_of([first])["a"] == [(1, 3), (0, 3)]
    with pytest.raises(ValueError, match=r"`padding` must be given.*rows that are padded at one end before"):
        spans_of([first, later])
    assert spans_of([first, later], padding="post")["a"] == [(0, 2), (0, 3), (0, 2)]


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (
            {"a": [[1, 0]], "lengths": [3]},
            r"`x\['lengths'\]` must not exceed the padded length where a row has padding",
        ),
        ({"a": [[1, 2]], "lengths": [-1]}, r"`x\['lengths'\]` must be at least 0. Received -1 at x\['lengths'\]\[0\]"),
        ({"a": [[1, 2, 3, 4], [4, 3, 2, 1]], "lengths": [2, 2]}, "`padding` must be given.*something other than"),
        ({"a": [[1, 0, 9], [1, 2, 3]], "lengths": [2, 3]}, "`padding` must be given.*padding at both ends"),
        ({"a": [[1, 2]], "a_lengths": [1], "mask": [[1, 1]]}, "must tell the same lengths"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(batch, text):
    with pytest.raises(ValueError, match=text):
        spans_of([batch])


IDS = [[5, 6, 7], [5, 0, 0]]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        # A segment id of 0 is no padding.
        ({"ids": IDS, "segments": [[0, 0, 1], [0, 0, 0]]}, {"ids": [3, 1], "segments": [3, 1]}),
        # Neither of a source and its translation is always the longer one.
        ({"source": IDS, "target": [[5, 0, 0], [5, 6, 0]]}, {"source": [3, 1], "target": [1, 2]}),
        ({"source": IDS, "target": [[5, 6], [5, 0]]}, {"source": [3, 1], "target": [2, 1]}),
        # The shorter one holds no 0 inside, and is never empty.
        ({"source": IDS, "target": [[5, 6, 0], [5, 0, 0]]}, {"source": [3, 1], "target": [2, 1]}),
        ({"ids": IDS, "flags": [[1, 0, 1], [1, 0, 0]], "lengths": [3, 2]}, {"ids": [3, 2], "flags": [3, 2]}),
        (
            {"ids": [[5, 6, 7, 0], [5, 0, 0, 0]], "flags": [[1, 0, 0, 0], [1, 0, 0, 0]]},
            {"ids": [3, 1], "flags": [1, 1]},
        ),
        ({"ids": [[5, 6, 7, 0], [5, 0, 0, 0]], "flags": [[0, 1, 0, 0], [1, 0, 0, 0]]}, None),
        ({"ids": [[5, 6, 7], [5, 6, 7]], "flags": [[1, 1, 0], [1, 0, 0]]}, None),
    ],
)
def test_which_leaves_are_padded_alike(batch, expected):
    if expected is None:
        with pytest.raises(ValueError, match="`lengths` must be given, since `mask_value` does not show"):
            spans_of([batch])
        assert spans_of([batch], is_named=True, padding="post")
        return
    found = spans_of([batch])
    assert {key: [stop - start for start, stop in spans] for key, spans in found.items()} == expected


def test_a_leaf_that_is_short_of_one_without_padding_is_asked_for():
    batches = [{"a": [[1, 2], [3, 4]], "b": [[5, 0], [0, 0]]}]  # padded on its own, or like "a", with 0 as data
    with pytest.raises(ValueError, match=r"`lengths` must be given"):
        spans_of(batches)
