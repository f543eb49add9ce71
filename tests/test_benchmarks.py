"""Every benchmark runs on tiny data, prints its tables and writes its JSON and its picture."""

import contextlib
import json
import runpy
import sys

import pytest
import tensorflow as tf

from tests.support.models import eager_models


@pytest.fixture(autouse=True)
def _logger_as_it_was():
    level = tf.get_logger().level
    yield
    tf.get_logger().setLevel(level)


@pytest.fixture
def fewer_recordings(monkeypatch):
    """Every tenth recording of every speaker: few enough for a model that is not traced."""
    from examples import japanese_vowels

    load = japanese_vowels.load_recordings
    monkeypatch.setattr(japanese_vowels, "load_recordings", lambda split: tuple(part[::10] for part in load(split)))


@pytest.mark.fit
@pytest.mark.parametrize(
    ("script", "table_heads", "figures"),
    [
        (
            "pipeline",
            ["thousand sequences per second, x `bucket_by_sequence_length`", "the empty loop"],
            ["headlines", "growth"],
        ),
        ("streams", ["processor time, s", "generator function", "resident memory in MB"], ["sources", "memory"]),
        ("padding", ["boundaries", "distinct lengths"], ["efficiency", "seconds_to_find"]),
        ("two_lengths", ["batches", "longest of the two"], ["efficiency"]),
        ("alternatives", ["pairs for attention", "packing"], ["results"]),
        ("automatic_buckets", ["32 rows: before -> now", "one shape a bucket"], ["results"]),
        ("training", ["seconds an epoch", "updates an epoch"], ["results", "epochs"]),
        ("transformer_training", ["seconds an epoch", "updates an epoch"], ["results", "epochs"]),
        ("compilation_cache", ["to the end of the first epoch", "second epoch"], ["results"]),
        ("fit_overhead", ["microseconds a step", "x one ready batch"], ["results"]),
        ("user_stages", ["num_parallel_calls", "autotuner on again"], ["results"]),
        ("randomness", ["padding efficiency", "label imbalance", "buffer, rows"], ["results", "buffers"]),
        ("few_buckets", ["accuracy in cross-validation"], ["cross_validated", "test"]),
        ("rare_classes", ["average precision", "`class_weight`"], ["results", "epochs"]),
        ("frames", ["argsort of the ids, s", "pandas, ids in order"], ["results", "rows"]),
        ("tuned_sizes", ["seconds an epoch", "after the last"], ["epochs", "accuracies"]),
        ("tuned_backends", ["backend and model", "proposed"], ["results"]),
        ("callback_cost", ["microseconds a step", "x the step without"], ["results"]),
        ("construction", ["milliseconds of processor time", "the same boundaries", "the same for pairs"], ["results"]),
        ("many_lengths", ["seconds of processor time", "budget of 32 rows"], ["results"]),
        ("scale", ["construction, s", "steady state", "of it in use"], ["results", "measurements"]),
        ("larger_than_memory", ["construction, s", "sequences/s, warm", "cold"], ["results"]),
    ],
)
def test_prints_a_table_and_writes_json_and_a_picture(
    script, table_heads, figures, tmp_path, monkeypatch, capsys, request
):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # to compile takes longer than to train so little
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--output", str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"benchmarks.{script}", raising=False)  # another benchmark may have imported it
    if script == "few_buckets":  # five models
        request.getfixturevalue("fewer_recordings")
    with eager_models() if script in ("few_buckets", "transformer_training") else contextlib.nullcontext():
        runpy.run_module(f"benchmarks.{script}", run_name="__main__", alter_sys=True)  # as `python -m` does
    printed = capsys.readouterr().out
    assert all(head in printed for head in table_heads), printed
    written = json.loads((tmp_path / f"{script}.json").read_text())
    assert all(written[name] for name in figures)
    assert written["environment"]["processors"] >= 1
    assert "tensorflow" in written["environment"]["versions"]
    assert f"benchmarks.{script}" in written["environment"]["command"]
    assert (tmp_path / f"{script}.png").stat().st_size > 10_000
    assert str(tmp_path / f"{script}.png") in printed
