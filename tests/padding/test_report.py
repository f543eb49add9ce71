"""The recommended call does what is printed of it when it is made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import xml.etree.ElementTree

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_bucketing
from keras_bucketing.__main__ import main
from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream
from keras_bucketing.command_log import is_command, without_log_lines
from keras_bucketing.padding.report import check_labels, padding_report, summarize_buckets
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.planning.boundaries import optimal_bucket_boundaries
from keras_bucketing.streams.saved_sequences import load_sequences, save_sequences
from tests.support.default_layer import examples
from tests.support.planning import make_buckets
from tests.support.processes import run_python
from tests.support.strategies import length_arrays


def many_lognormal_lengths(count, spread=0.9):
    return np.clip(np.random.default_rng(3).lognormal(3, spread, count).astype(int), 1, 300)


def make(call, lengths):
    """The dataset of the printed call."""
    x = [np.zeros(length, np.int8) for length in lengths]
    return eval(str(call).replace(")", ", seed=7)"), {"BucketedSequence": BucketedSequence, "x": x, "y": None})


def alternatives(recommendation):
    calls = (recommendation.call, recommendation.within_budget, recommendation.with_even_labels)
    return [call for call in calls if call is not None]


@pytest.mark.parametrize("count", [40, 700])
@pytest.mark.parametrize("batch_size", [8, 32])
def test_the_recommended_calls_reach_the_printed_efficiency(count, batch_size):
    lengths = many_lognormal_lengths(count)
    labels = lengths > np.median(lengths)
    for call in alternatives(padding_report(lengths, batch_size, labels).recommendation):
        dataset = make(call, lengths)
        assert tuple(dataset.bucket_boundaries) == call.boundaries
        assert dataset.num_batches == call.num_batches
        assert len(dataset.bucket_batch_sizes) == call.num_buckets
        epochs = [dataset.padding_stats(epoch) for epoch in range(30)]
        totals = [stats.total_timesteps for stats in epochs]
        # An expectation over shuffles: five standard errors, which one seed in two million exceeds.
        assert abs(np.mean(totals) - call.total_timesteps) <= 5 * np.std(totals, ddof=1) / np.sqrt(30) + 1e-6
        assert max(rows * padded for stats in epochs for rows, padded in stats.shapes) <= call.largest_batch
        assert epochs[0].real_timesteps == call.real_timesteps


@settings(max_examples=examples(100), deadline=None)
@given(length_arrays(max_size=60), st.integers(1, 12), st.booleans())
def test_every_recommendation_is_consistent(lengths, batch_size, labeled):
    labels = lengths % 3 if labeled else None
    report = padding_report(lengths, batch_size, labels)
    recommendation = report.recommendation
    call = recommendation.call
    assert recommendation.random_timesteps == report.strategies[1].total_timesteps
    assert recommendation.longest_timesteps == report.strategies[0].total_timesteps
    assert recommendation.worth_it == (call.total_timesteps <= 0.95 * recommendation.random_timesteps)
    if not recommendation.worth_it:
        assert call.total_timesteps == pytest.approx(recommendation.random_timesteps)
        assert call.num_buckets == 1
        assert alternatives(recommendation) == [call]
    for each in alternatives(recommendation):
        assert 0 < each.padding_efficiency <= 1 + 1e-9
        assert 0 <= each.distinct_batchmates <= len(lengths) - 1 + 1e-9
        assert (each.label_imbalance is None) == (labels is None)
        assert str(each) in str(report)
    if recommendation.within_budget is not None:
        assert recommendation.within_budget.largest_batch <= 0.5 * call.largest_batch


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ([80] * 500, "All sequences have 80 timesteps, so nothing is padded."),
        ([1], "All sequences have 1 timestep, so"),
        ([98, 99, 100] * 100, "padding efficiency 0.990: the lengths differ too little for buckets to save much."),
        ([3, 50, 7, 20], "padding efficiency 0.400. 4 sequences are too few for two buckets of full batches."),
    ],
)
def test_says_why_bucketing_is_not_worth_it(lengths, reason):
    report = padding_report(lengths)
    assert not report.recommendation.worth_it
    assert str(report.recommendation.call) == "BucketedSequence(x, y, batch_size=32, num_buckets=1)"
    assert reason in str(report)
    assert "Bucketing is not worth it here." in str(report)


def test_says_what_buckets_would_save_where_that_is_little():
    report = padding_report(list(range(80, 101)) * 20, batch_size=2)
    single = report.recommendation.call
    assert single.num_buckets == 1
    assert "have padding efficiency 0.963. 3 buckets would reach 0.987 and save 2.5% of the timesteps" in str(report)


def test_lengths_that_tell_the_labels_ask_for_fewer_buckets():
    lengths = many_lognormal_lengths(3000)
    recommendation = padding_report(lengths, y=np.digitize(lengths, [10, 20, 40, 80])).recommendation
    even = recommendation.with_even_labels
    assert recommendation.call.label_imbalance > 2
    assert 2 <= even.num_buckets < recommendation.call.num_buckets
    assert even.label_imbalance < recommendation.call.label_imbalance
    assert even.distinct_batchmates > recommendation.call.distinct_batchmates
    assert f"If accuracy suffers from uneven labels:\n\n    {even}" in str(recommendation)
    random_labels = np.random.default_rng(0).integers(0, 4, 3000)
    recommendation = padding_report(lengths, y=random_labels).recommendation
    assert recommendation.with_even_labels is None
    assert recommendation.call.label_imbalance == pytest.approx(1, abs=0.1)
    assert "Label imbalance" in str(recommendation)


def test_labels_belong_to_the_lengths_in_any_order():
    lengths = many_lognormal_lengths(500)
    labels = lengths % 5
    order = np.random.default_rng(0).permutation(500)
    of_both = [padding_report(lengths[rows], 16, labels[rows]).to_dict() for rows in (np.arange(500), order)]
    assert of_both[0] == of_both[1]


@pytest.mark.parametrize(
    ("y", "error", "text"),
    [
        ([1, 2], ValueError, "Expected shape (3,), or (3, num_columns) of numbers, received (2,)."),
        (np.zeros((3, 2, 2)), ValueError, "received (3, 2, 2)."),
        ([["a"], ["b"], ["c"]], ValueError, "received (3, 1)."),
        ([1.0, np.nan, 2.0], ValueError, "`y` must be finite. Received nan at y[1]."),
        ([[1], [2, 3], [4]], TypeError, "Labels of each timestep do not say how uneven batches are"),
        ([None, 1, 2], TypeError, "`y` must be one number or string per sequence."),
    ],
)
def test_labels_that_are_none_are_refused(y, error, text):
    with pytest.raises(error) as raised:
        check_labels(y, 3)
    assert text in str(raised.value)


# What each way of batching would pad, against batches that were really cut.


def lognormal_lengths(count=2000):
    return np.clip(np.random.default_rng(3).lognormal(3, 0.9, count).astype(int), 1, 300)


def test_each_bucket_strategy_is_what_the_dataset_does_to_the_last_digit():
    lengths = lognormal_lengths()
    sequences = [np.ones(length, np.int32) for length in lengths]
    report = padding_report(lengths, batch_size=16)
    budget = max(16 * int(lengths.sum()) // lengths.size, int(lengths.max()))
    with_buckets = [strategy for strategy in report.strategies if strategy.boundaries]
    assert len(with_buckets) == 9
    for strategy in with_buckets:
        sizing = {"max_timesteps_per_batch": budget} if "budget" in strategy.name else {"batch_size": 16}
        dataset = BucketedSequence(
            sequences, bucket_boundaries=list(strategy.boundaries), pad_to_bucket_boundary=True, **sizing
        )
        stats = dataset.padding_stats(epoch=5)
        assert strategy.total_timesteps == stats.total_timesteps
        assert strategy.padding_efficiency == stats.padding_efficiency
        assert strategy.num_batches == stats.num_batches
        assert strategy.largest_batch == max(rows * padded for rows, padded in stats.shapes)


def test_strategies_without_buckets():
    lengths = lognormal_lengths(101)
    longest, random = padding_report(lengths, batch_size=10).strategies[:2]
    assert longest.total_timesteps == 101 * lengths.max()
    assert longest.num_batches == random.num_batches == 11
    shuffled = [np.random.default_rng(seed).permutation(lengths) for seed in range(3000)]
    costs = [sum(batch.size * batch.max() for batch in np.split(x, range(10, 101, 10))) for x in shuffled]
    assert random.total_timesteps == pytest.approx(np.mean(costs), rel=0.005)


def test_minimum_padding_buckets_have_the_optimal_boundaries_and_beat_quantiles():
    lengths = lognormal_lengths()
    by_name = {strategy.name: strategy for strategy in padding_report(lengths).strategies}
    optimal, quantile = by_name["minimum-padding 8 buckets"], by_name["quantile 8 buckets"]
    assert list(optimal.boundaries) == optimal_bucket_boundaries(lengths, 8)
    assert optimal.padding_efficiency > quantile.padding_efficiency > by_name["random batches"].padding_efficiency


def test_one_length_needs_no_buckets():
    report = padding_report([7] * 5, batch_size=2)
    assert [strategy.name for strategy in report.strategies] == ["everything to the longest", "random batches"]
    assert all(strategy.padding_efficiency == 1.0 for strategy in report.strategies)


def test_prints_as_a_table_in_which_the_recommended_call_is_marked():
    lines = str(padding_report([3, 4, 5, 90, 95, 100] * 10, batch_size=10)).splitlines()
    assert lines[0] == "60 sequences of 3 to 100 timesteps, median 47.5, 2970 in all; batches of 10 rows"
    assert lines[2].split("  ") == [
        *("", "strategy", *[""] * 11, "batches", "timesteps", *[""] * 2, "efficiency", " saved", "max batch")
    ]
    assert lines[3] == "  everything to the longest             6       6000  0.495 ####....  1.00 x       1000"
    (marked,) = [line for line in lines if line.startswith("> ")]
    assert marked == "> recommended: 3 buckets                6       3050  0.974 ########  1.97 x       1000"
    not_worth_it = str(padding_report([7] * 10, batch_size=2)).splitlines()
    assert [line.split()[:3] for line in not_worth_it if line.startswith("> ")] == [[">", "random", "batches"]]


@settings(max_examples=examples(60), deadline=None)
@given(length_arrays(max_size=60), st.integers(1, 12), st.sampled_from([1, 30_000, 3_000_000]))
def test_the_table_fits_100_columns_and_has_one_mark(lengths, batch_size, factor):
    report = padding_report(lengths * factor, batch_size)
    lines = str(report).splitlines()
    table = lines[2 : lines.index("", 2)]
    assert max(map(len, table)) <= 100
    assert [line[:2] for line in table].count("> ") == 1
    assert len(table) == 1 + len(report.strategies) + report.recommendation.worth_it
    assert str(report).isascii()  # print() to a pipe of Windows raises for much else


def test_notebooks_show_the_same_table():
    report = padding_report(lognormal_lengths(200), 8)
    tree = xml.etree.ElementTree.fromstring(f"<div>{report._repr_html_()}</div>")
    rows = [[cell.text or cell[0].text for cell in row] for row in tree.iter("tr")]
    assert [len(row) for row in rows] == [6] * (len(report.strategies) + 2)
    assert [float(row[3]) for row in rows[1:]] == [
        round(way.padding_efficiency, 3) for way in (*report.strategies, report.recommendation.call)
    ]
    (bold,) = {cell.text for cell in tree.iter("b") if "recommended" in cell.text}
    assert bold == rows[-1][0]
    assert str(report.recommendation) in [each.text for each in tree.iter("pre")]


def dataset_of(x, **options):
    return BucketedSequence(x, seed=0, **options)


X = [np.zeros(length, np.int8) for length in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)]
LENGTHS = [len(row) for row in X]


@pytest.mark.parametrize(
    "given",
    [
        LENGTHS,
        tuple(LENGTHS),
        np.array(LENGTHS),
        np.array(LENGTHS, float),
        tf.constant(LENGTHS),
        X,
        [row.tolist() for row in X],
        tf.ragged.constant([row.tolist() for row in X]),
        {"x": X},
        {"short": [[1]] * len(X), "long": X, "one a row": np.arange(len(X))},
        (X, [[1]] * len(X)),
        BucketedSequence(X, num_buckets=2),
        BucketedSequence(X, np.arange(len(X)), batch_size=3).subset(range(len(X))),
        BucketedSequence([[], *X, []], on_empty="drop"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_takes_lengths_sequences_and_datasets(given):
    assert str(padding_report(given, 2)) == str(padding_report(LENGTHS, 2))


def test_takes_tables_and_stored_sequences(tmp_path):
    pandas = pytest.importorskip("pandas")
    save_sequences(tmp_path / "saved", [(row, 0) for row in X])
    stored, _ = load_sequences(tmp_path / "saved")
    expected = str(padding_report(LENGTHS, 2))
    for sequences in (stored, {"x": stored}, pandas.Series(X), pandas.Series(LENGTHS), np.array(X, dtype=object)):
        assert str(padding_report(sequences, 2)) == expected, type(sequences)


def test_the_batch_size_is_that_of_the_dataset_unless_it_has_several():
    assert padding_report(dataset_of(X, batch_size=3)).batch_size == 3
    assert padding_report(dataset_of(X, batch_size=3), batch_size=2).batch_size == 2
    assert padding_report(dataset_of(X, bucket_boundaries=[4], bucket_batch_sizes=[3, 2])).batch_size == 32
    assert padding_report(X).batch_size == 32


@pytest.mark.parametrize(
    "dataset", [tf.data.Dataset.range(3), BucketedStream(lambda: iter(X)), dataset_of(X).prefetch(1)]
)
def test_datasets_that_do_not_know_their_lengths_are_refused(dataset):
    with pytest.raises(TypeError, match=r"does not know the lengths.*BucketedSequence\.from_dataset\(dataset\)"):
        padding_report(dataset)


def test_figures_as_plain_data():
    json.dumps(padding_report(lognormal_lengths(200), 8, np.arange(200) % 2).to_dict())
    figures = padding_report([1, 1, 2, 9], batch_size=2).to_dict()
    assert figures["strategies"][0]["padding_efficiency"] == 13 / 36


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([], ValueError, "`lengths` is empty"),
        ([3, 0], ValueError, r"Received 0 at lengths\[1\]"),
        ([3, -2], ValueError, r"Received -2 at lengths\[1\]"),
        ([3.0, np.nan], ValueError, r"Received nan at lengths\[1\]"),
        ([3.0, 2.5], ValueError, r"Received 2.5 at lengths\[1\]"),
        (["3", "4"], TypeError, "must be integers"),
        (np.array([[1, 2], [3, 4]]), ValueError, "one dimension"),
        (5, ValueError, "one dimension"),
        (None, ValueError, "one dimension"),
        ([[1, 2], []], ValueError, r"Received 0 at lengths\[1\]"),
        ([["a"], ["b"]], TypeError, "x"),
    ],
)
def test_bad_lengths_are_refused(lengths, error, message):
    with pytest.raises(error, match=message):
        padding_report(lengths)


@pytest.mark.parametrize(("batch_size", "error"), [(0, ValueError), (2.5, TypeError), ("32", TypeError)])
def test_bad_batch_sizes_are_refused(batch_size, error):
    with pytest.raises(error, match="`batch_size`"):
        padding_report([1, 2], batch_size)


@pytest.mark.parametrize("kind", ["classes", "strings", "values"])
def test_command_takes_labels(kind, tmp_path, capsys):
    lengths, classes = lognormal_lengths(100), np.arange(100) % 3
    labels = {"classes": classes, "strings": np.array([f"class {label}" for label in classes]), "values": classes / 2}[
        kind
    ]
    np.save(tmp_path / "lengths.npy", lengths)
    path = tmp_path / "labels.npy"
    if kind == "strings":
        path.write_text("\n".join(labels))
    else:
        np.save(path, labels)
    assert main([str(tmp_path / "lengths.npy"), "--batch-size", "4", "--labels", str(path)]) == 0
    assert capsys.readouterr().out == f"{padding_report(lengths, 4, labels)}\n"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels.npy: No such file or directory"),
        (np.array([1, 2]), "lengths.npy and {labels}: `y` must have one label for each length. Expected shape (3,)"),
        (np.array([1, 2, None]), "labels.npy: not a file of labels"),
    ],
)
def test_command_refuses_bad_labels_in_one_line(labels, message, tmp_path, capsys):
    np.save(tmp_path / "lengths.npy", np.array([3, 4, 5]))
    if labels is not None:
        np.save(tmp_path / "labels.npy", labels)
    assert main([str(tmp_path / "lengths.npy"), "--labels", str(tmp_path / "labels.npy")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message.format(labels=tmp_path / "labels.npy") in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("save", [np.save, lambda path, x: path.write_text("\n".join(map(str, x)))])
def test_command_prints_the_report(save, tmp_path, capsys):
    path = tmp_path / "lengths.npy"
    save(path, lognormal_lengths(100))
    assert main([str(path), "--batch-size", "4"]) == 0
    assert capsys.readouterr().out == f"{padding_report(lognormal_lengths(100), 4)}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"a b c", "not a file of lengths"),
        (b"\xff\xfe\x00", "not a file of lengths"),
        (b"\x93NUMPY\x01", "not a file of lengths"),
        (b"\x93NUMPY\x01\x00\x08\x00(((((((\n", "not a file of lengths"),
        (b"", "`lengths` is empty"),
        (b"3 0", "Received 0.0 at lengths[1]"),
        (np.array([[1, 2]]), "one dimension"),
        (np.array([None, 2]), "not a file of lengths"),
    ],
)
def test_command_refuses_bad_files_in_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "lengths.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    assert main([str(path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert output.err.count("\n") == 1


@pytest.mark.fit
def test_command_runs_as_a_module(tmp_path):
    result = run_python("-m", "keras_bucketing", str(tmp_path / "missing.npy"))
    assert result.returncode == 2
    # No line of TensorFlow's.
    assert result.stderr == f"keras-bucketing: {tmp_path / 'missing.npy'}: No such file or directory\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "original", "expected"),
    [
        (["/venv/bin/keras-bucketing", "lengths.npy"], ["python", "/venv/bin/keras-bucketing", "lengths.npy"], True),
        (["keras-bucketing.exe"], ["keras-bucketing.exe"], True),
        (["-m", "lengths.npy"], ["python", "-X", "dev", "-m", "keras_bucketing", "lengths.npy"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["/venv/bin/pytest", "-m", "keras_bucketing"], ["python", "-m", "pytest", "-m", "keras_bucketing"], False),
        (["train.py"], ["python", "train.py"], False),
        ([], [], False),
    ],
)
def test_only_the_command_imports_without_log_lines(arguments, original, expected):
    assert is_command(arguments, original) is expected


def test_log_lines_are_discarded_and_standard_error_comes_back(capfd):
    with without_log_lines():
        os.write(2, b"from C++")
    os.write(2, b"after it")
    assert capfd.readouterr().err == "after it"


def test_the_command_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"keras-bucketing {keras_bucketing.__version__}\n"


def test_the_command_draws(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install keras-bucketing[plot]")
    np.save(tmp_path / "lengths.npy", lognormal_lengths(100))
    picture = tmp_path / "padding.svg"
    assert main([str(tmp_path / "lengths.npy"), "--plot", str(picture)]) == 0
    assert "<svg" in picture.read_text()
    assert capsys.readouterr().out.endswith(f"A picture of it: {picture}\n")
    for wrong in (tmp_path / "missing" / "padding.png", tmp_path / "padding.unknown"):
        assert main([str(tmp_path / "lengths.npy"), "--plot", str(wrong)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"keras-bucketing: {wrong}: ")
        assert error.count("\n") == 1


def test_the_console_script_is_the_command():
    scripts = importlib.metadata.distribution("keras-bucketing").entry_points.select(group="console_scripts")
    if not scripts:
        pytest.skip("this environment was installed before there was a script")
    (script,) = scripts
    assert (script.name, script.load()) == ("keras-bucketing", main)


def test_the_summary_is_a_table_of_the_buckets():
    buckets, _ = make_buckets(np.array([1, 2, 2, 9]), {"bucket_boundaries": [3, 5], "batch_size": 2})
    stats = PaddingStats.from_batches(
        np.array([1, 2, 2, 9]), np.array([0, 2, 4]), np.array([2, 9]), buckets=np.array([0, 2]), left_out=0
    )
    lines = summarize_buckets(buckets, stats).splitlines()
    cells = [line.split() for line in lines]
    assert ["1", "-", "2", "3", "2", "1", "0.750"] in cells
    assert ["3", "-", "4", "0", "2", "0", "-"] in cells
    assert ["5", "-", "9", "1", "2", "1", "0.611"] in cells
    assert ["all", "4", "2", "0.636"] in cells
