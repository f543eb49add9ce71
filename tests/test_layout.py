"""The plan of the package: which folder may import which, and nothing outside of the folders."""

import ast
import re

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "keras_bucketing"
# A folder is a step on the data's way: what it may import, besides itself.
MAY_IMPORT = {
    "command_log": set(),
    "checks": set(),
    "call_errors": {"checks"},
    "data": {"checks"},
    "unpadding": {"checks", "data"},
    "streams": {"checks", "call_errors", "data", "unpadding"},
    "planning": {"checks", "data"},
    "pipeline": {"checks", "data", "planning"},
    "predicting": {"checks", "data", "planning"},
    "padding": {"checks", "data", "planning"},
    "monitoring": {"checks", "data", "unpadding", "planning", "pipeline", "padding"},
    "bucketed_sequence": {
        "checks",
        "call_errors",
        "data",
        "unpadding",
        "streams",
        "planning",
        "pipeline",
        "predicting",
        "padding",
    },
    "bucketed_stream": {
        "checks",
        "call_errors",
        "data",
        "unpadding",
        "streams",
        "planning",
        "pipeline",
        "padding",
        "monitoring",
    },
    "callbacks": {"checks", "unpadding", "pipeline", "padding", "monitoring", "bucketed_sequence", "bucketed_stream"},
    "tuning": {"checks", "data", "planning", "padding", "predicting", "bucketed_sequence"},
    "layers": {"checks"},
    "checking": {
        "checks",
        "data",
        "planning",
        "pipeline",
        "predicting",
        "padding",
        "monitoring",
        "bucketed_sequence",
        "bucketed_stream",
        "layers",
    },
    "models": {"checks", "layers"},
}
ENTRANCES = {"__init__", "__main__"}  # these may import everything
NUMPY_ONLY = [
    "checks.py",
    "call_errors.py",
    "data/row_splits.py",
    "data/tree.py",
    "unpadding/sides.py",
    "unpadding/spans.py",
    "planning/boundaries.py",
    "planning/buckets.py",
    "planning/bucket_arguments.py",
    "planning/bucket_choice.py",
    "planning/cuts.py",
    "planning/draws.py",
    "planning/forecast.py",
    "planning/nested_buckets.py",
    "planning/window_plan.py",
    "padding/text_table.py",
    "tuning/choose.py",
]

pytestmark = pytest.mark.skipif(not PACKAGE.exists(), reason="the tests run outside of the source tree")


def imports_of(path):
    """The dotted names of all modules that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            if node.module == "keras_bucketing":
                yield from (f"keras_bucketing.{alias.name}" for alias in node.names)


def place_of(path):
    """The folder of a module, or its own name where it lies in none."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def test_every_place_is_in_the_table():
    assert {place_of(path) for path in modules()} == {*MAY_IMPORT, *ENTRANCES}


def test_imports_point_downwards_only():
    wrong = []
    for path in modules():
        here = place_of(path)
        if here in ENTRANCES:
            continue
        for name in imports_of(path):
            package, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if package == "keras_bucketing" and there != here and there not in MAY_IMPORT[here]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_the_table_has_no_circle():
    order = list(MAY_IMPORT)
    assert all(order.index(below) < order.index(place) for place, allowed in MAY_IMPORT.items() for below in allowed)


@pytest.mark.parametrize("file", NUMPY_ONLY)
def test_these_modules_need_nothing_but_numpy(file):
    foreign = {name.partition(".")[0] for name in imports_of(PACKAGE / file)}
    assert not foreign & {"tensorflow", "keras"}


def test_only_public_names_of_keras_and_tensorflow_are_used():
    private = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules()
        for name in imports_of(path)
        if name.split(".")[0] in ("keras", "tensorflow")
        and any(part == "src" or part.startswith("_") for part in name.split(".")[1:])
    ]
    assert private == []


def test_no_message_prints_a_value_but_by_show():
    """`!r` in a message would print whatever comes; a recommended call and names in statistics are no messages."""
    found = []
    for path in modules():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found += [path.name for node in nodes if isinstance(node, ast.FormattedValue) and node.conversion == ord("r")]
    assert found == ["report.py", "graph.py"]


def test_docstrings_name_pages_that_are_there_and_groups_that_the_site_shows():
    texts = {path.name: path.read_text(encoding="utf-8") for path in modules()}
    pages = {page for text in texts.values() for page in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert pages
    assert [page for page in sorted(pages) if not (ROOT / page).exists()] == []
    shown = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    groups = {
        group for text in texts.values() for group in re.findall(r"^ +([A-Z][\w ]* arguments):$", text, flags=re.M)
    }
    assert [name for name in sorted(groups) if f'"{name}"' not in shown] == []


def test_the_tests_lie_in_the_folders_of_what_they_test():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    places = {place for place in MAY_IMPORT if (PACKAGE / place).is_dir()}
    assert folders == places | {"support", "examples", "fixtures"}
