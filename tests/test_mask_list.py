"""The page of what keeps masks is what the records say, and the records are what the installed Keras does."""

import json

import keras
import pytest

from benchmarks import mask_list, update_docs
from tests.support.paths import ROOT

FOLDER = ROOT / "docs" / "figures" / "masks"
RECORDS = mask_list.read_records(FOLDER)
PAGE = (ROOT / "docs" / "how-it-works" / "mask-list.md").read_text(encoding="utf-8")
HERE = mask_list.version_name()


def test_the_page_is_made_of_the_records():
    made = {("table", name): f"\n{table}\n" for name, table in mask_list.page_tables(RECORDS).items()}
    assert update_docs.update(PAGE, made, "mask-list.md") == PAGE, "run `python -m benchmarks.update_docs`"
    assert {name for _, name in made} == {"mask_layers", "mask_combinations", "mask_operations"}


def test_a_verdict_that_changes_in_a_record_changes_the_page():
    changed = json.loads(json.dumps(RECORDS))
    changed["3.15"]["layers"]["Conv1D"]["alone"] = mask_list.KEEPS
    assert mask_list.page_tables(changed)["mask_layers"] != mask_list.page_tables(RECORDS)["mask_layers"]


def test_the_versions_are_the_oldest_the_newest_and_the_next():
    assert list(RECORDS) == ["3.11", "3.15", "nightly"]
    assert [record["environment"]["backend"] for record in RECORDS.values()] == ["tensorflow"] * 3


@pytest.mark.parametrize("version", RECORDS)
def test_the_page_names_every_layer_operation_and_combination(version):
    for part in ("layers", "operations", "combinations"):
        for name in RECORDS[version][part]:
            assert f"`{name}`" in PAGE or name in mask_list.VARIANTS, name


@pytest.mark.skipif(HERE not in RECORDS, reason="there is no record of this version of Keras")
def test_every_layer_of_the_installed_keras_is_in_its_record():
    record = RECORDS.get(HERE, {})
    installed = {*mask_list.layer_names(), *mask_list.VARIANTS}
    if "dev" in keras.version() and keras.version() != record["environment"]["keras"]:
        assert installed & set(record["layers"])  # another night
    else:
        assert installed == set(record["layers"])


@pytest.mark.skipif(HERE not in RECORDS, reason="there is no record of this version of Keras")
@pytest.mark.fit
@pytest.mark.parametrize(
    "name",
    ["Add", "Dense", "GRU", "Conv1D", "GlobalMaxPooling1D", "GRU(return_sequences=False)", "a layer of your own"],
)
def test_a_layer_does_what_the_record_says(name):
    assert mask_list.probe_layer(name) == RECORDS[HERE]["layers"][name]


@pytest.mark.skipif(HERE not in RECORDS, reason="there is no record of this version of Keras")
@pytest.mark.fit
@pytest.mark.parametrize(
    "name",
    ["x + attention(x, x)", "Add()([x, attention(x, x)])", "Add()([x, attention(n, n)]), n = LayerNormalization()(x)"],
)
def test_a_combination_does_what_the_record_says(name):
    assert mask_list.verdict(mask_list.COMBINATIONS[name]) == RECORDS[HERE]["combinations"][name]


@pytest.mark.fit
@pytest.mark.parametrize(
    ("name", "expected"), [("relu", "forgets"), ("flip(axis=1)", "reads padding"), ("mean(axis=1)", "reads padding")]
)
def test_an_operation_does_what_the_record_says(name, expected):
    assert mask_list.probe_operation(dict(mask_list.operation_calls())[name]) == expected
    assert all(record["operations"][name] == expected for record in RECORDS.values())


@pytest.mark.parametrize("version", RECORDS)
def test_keras_fails_in_no_layer_but_those_that_are_known_to(version):
    """A probe that is written wrongly would be told from an error of Keras by nothing else."""
    layers = {name for name, verdicts in RECORDS[version]["layers"].items() if mask_list.FAILS in verdicts.values()}
    combinations = {name for name, verdict in RECORDS[version]["combinations"].items() if verdict == mask_list.FAILS}
    assert layers <= {"Softmax", "Softmax(axis=1)", "Attention", "AdditiveAttention", "Concatenate"}
    assert combinations <= {"Concatenate()([x, y]), no mask on y"}


@pytest.mark.parametrize("version", RECORDS)
def test_inside_of_keep_mask_no_layer_forgets(version):
    verdicts = {name: verdict.get("kept") for name, verdict in RECORDS[version]["layers"].items()}
    assert {name for name, verdict in verdicts.items() if verdict == mask_list.FORGETS} == set()
