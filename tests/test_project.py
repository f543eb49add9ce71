"""What is said in several places is the same in all of them."""

import inspect
import re

import pytest

import keras_bucketing
from tests.support.paths import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli", reason="needs tomli on Python 3.10")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOWER_BOUNDS = dict(re.fullmatch(r"([\w-]+)>=([\d.]+).*", entry).groups() for entry in PROJECT["dependencies"])
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUPS = ["Data", "Batch size", "Bucket", "Padding and label", "Order and epoch", "Host"]


def test_the_run_time_needs_nothing_but_tensorflow_keras_and_numpy():
    assert set(LOWER_BOUNDS) == {"tensorflow", "keras", "numpy"}


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    file = ROOT / ".ci" / "oldest.txt"
    if not file.exists():
        pytest.skip("the tests run outside of the source tree")
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {name: version.removesuffix(".0") for name, version in tested.items()} == LOWER_BOUNDS


def test_the_support_table_of_the_readme_is_that_of_pyproject():
    table = dict(re.findall(r"^\| (Python|TensorFlow|Keras|NumPy) \| ([\d.]+) ", README, flags=re.MULTILINE))
    expected = {
        "Python": PROJECT["requires-python"].removeprefix(">="),
        "TensorFlow": LOWER_BOUNDS["tensorflow"],
        "Keras": LOWER_BOUNDS["keras"],
        "NumPy": LOWER_BOUNDS["numpy"],
    }
    assert table == expected


def test_the_changelog_has_an_entry_for_this_version():
    file = ROOT / "CHANGELOG.md"
    if not file.exists():
        pytest.skip("the tests run outside of the source tree")
    assert f"## [{keras_bucketing.__version__}]" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("owner", [keras_bucketing.BucketedSequence, keras_bucketing.BucketedStream])
def test_every_argument_is_in_one_of_the_six_groups(owner: type):
    groups = re.findall(r"^    ([\w ]+) arguments:\n(.*?)\n\n", owner.__doc__ or "", flags=re.DOTALL | re.MULTILINE)
    described = [name for _, group in groups for name in re.findall(r"^ {8}(\w+): ", group, flags=re.MULTILINE)]
    assert [name for name, _ in groups] == GROUPS[: len(groups)]
    assert sorted(described) == sorted(set(inspect.signature(owner.__init__).parameters) - {"self"})


def test_every_public_name_has_a_docstring_with_an_example():
    for name in keras_bucketing.__all__:
        assert ">>>" in (getattr(keras_bucketing, name).__doc__ or ""), name
