"""The sequences that cost much: what is found, against cutting them and counting, and what is said."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, OutlierWarning, padding_report
from keras_bucketing.planning.outliers import find_outliers
from tests.support.default_layer import examples
from tests.support.strategies import length_arrays

USUAL = [*range(10, 60)] * 10
OUTLIER = [*USUAL[:250], 20_000, *USUAL[250:]]  # at row 250


def sequences(lengths):
    return [np.zeros(length, np.int8) for length in lengths]


def make(x, **options):
    """The dataset, and the texts of the warnings of outliers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = BucketedSequence(x, **options)
    assert {warning.category for warning in caught} <= {OutlierWarning}
    assert all(warning.filename == __file__ for warning in caught)
    return dataset, [str(warning.message) for warning in caught]


@settings(max_examples=examples(150))
@given(length_arrays(min_size=90, max_size=420), st.lists(st.integers(1, 3000), max_size=6), st.integers(1, 8))
def test_the_fewest_of_the_longest_rows_whose_cutting_saves_a_third(lengths, longer, batch_size):
    lengths = np.concatenate([longer, lengths]).astype(np.int64)
    order = np.sort(lengths)[::-1]

    def padded(longest):
        cut = np.minimum(np.sort(lengths), longest)
        return sum(len(cut[i : i + batch_size]) * cut[i : i + batch_size].max() for i in range(0, len(cut), batch_size))

    found = find_outliers(lengths, padded)
    shares = [1 - padded(order[number]) / padded(order[0]) for number in range(1, len(lengths) // 100 + 1)]
    expected = next((number for number, share in enumerate(shares, start=1) if share > 1 / 3), None)
    assert (None if found is None else len(found.rows)) == expected
    if found is not None:
        assert found.lengths.tolist() == lengths[found.rows].tolist() == order[:expected].tolist()
        assert found.next_length == order[expected]
        assert found.share == pytest.approx(shares[expected - 1])


@pytest.mark.parametrize("options", [{}, {"num_buckets": 8}, {"bucket_boundaries": [30, 60]}, {"remainder": "keep"}])
def test_an_outlier_is_named_once_with_its_cure(options):
    dataset, (text,) = make(sequences(OUTLIER), **options)
    assert "x[250] (20000 timesteps)" in text
    assert "maxlen=59" in text
    assert "max_timesteps_per_batch=20000" in text
    if "remainder" not in options:  # there a bucket has a batch of rows
        assert dataset.padding_stats().padding_efficiency > 0.75
    printed = []
    dataset.summary(print_fn=printed.append)
    assert printed[0].endswith(f"\n\n{text}")


def test_at_most_three_are_named():
    _, (text,) = make(sequences([*USUAL, *range(9_000, 9_005)]))
    assert text.startswith("5 of the sequences cost ")
    assert re.findall(r"x.(\d+).", text) == ["504", "503", "502"]
    assert "and 2 more; all others have at most 59" in text


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        (USUAL, {}),
        ([1, 1, 2, 9], {"batch_size": 2}),
        ([10] * 98 + [5000], {}),  # fewer than a hundred
        (OUTLIER, {"maxlen": 59}),
        (OUTLIER, {"max_timesteps_per_batch": 20_000}),
        ([*USUAL, 70], {"bucket_boundaries": [60, 5000], "pad_to_bucket_boundary": True}),
        ([1] * 200 + [90], {"minlen": 100}),
        ([1] * 200 + [50], {"pad_to_bucket_boundary": True, "bucket_boundaries": [100]}),
    ],
)
def test_others_are_not_named(lengths, options):
    assert make(sequences(lengths), **options)[1] == []


def test_rows_are_named_as_the_user_counts_them():
    _, (text,) = make(sequences([0, 0, *OUTLIER]), on_empty="drop")
    assert "x[252] (20000 timesteps)" in text


@pytest.mark.parametrize("which", ["a", "b", "y"])
def test_an_outlier_of_any_leaf_is_named(which):
    lengths = {name: [*USUAL, 90_000] if name == which else [*USUAL, 20] for name in ("a", "b", "y")}
    x = {name: sequences(lengths[name]) for name in ("a", "b")}
    _, (text,) = make(x, y=sequences(lengths["y"]), align_labels=False)
    assert f"{'y' if which == 'y' else f'x[{which!r}]'}[500] (90000 timesteps)" in text
    assert ("maxlen" in text) == (which != "y")


@pytest.mark.parametrize(
    "outliers", [[20_000], [20_000] * 4, [2_000, 9_000, 200_000], [60_000, 60_001], [1_000_000], [600]]
)
@pytest.mark.parametrize("num_usual", [1, 7])
def test_the_recommended_call_reaches_most_of_what_is_reachable(outliers, num_usual):
    lengths = np.array(USUAL * num_usual + outliers)
    report = padding_report(lengths)
    reachable = (lengths.sum() / (np.sum(USUAL) * num_usual / 0.95 + sum(outliers))).item()
    assert report.recommendation.call.padding_efficiency >= 0.9 * min(reachable, 0.95)
    if sum(outliers) > lengths.sum() / 2:
        assert set(report.outliers) <= set(range(len(lengths) - len(outliers), len(lengths)))
        assert f"lengths[{int(np.argmax(lengths))}]" in str(report)
        dataset, _ = make(sequences(lengths), seed=0, **report.recommendation.call.options)
        assert dataset.padding_stats().padding_efficiency >= 0.8


def test_a_report_without_outliers_names_none():
    assert padding_report(USUAL).outliers == ()
