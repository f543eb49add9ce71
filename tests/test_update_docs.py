"""The figures in the documentation are those of the records, which the benchmarks wrote."""

import importlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import update_docs
from benchmarks.tables import Table, environment_line, significant, times
from tests.support.paths import ROOT

MADE = {("table", "speed"): "\n| a |\n", ("figure", "speed.times"): "3.8", ("figure", "speed.rows"): "32"}
RECORDS = update_docs.read_records()
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in update_docs.pages()}


@pytest.fixture(scope="module")
def made():
    return update_docs.make_all(RECORDS)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_the_records_hold(page, made):
    assert update_docs.update(PAGES[page], made, page) == PAGES[page], "run `python -m benchmarks.update_docs`"


def test_every_benchmark_has_a_record_a_table_and_its_command_on_a_page(made):
    names = set(update_docs.BENCHMARKS)
    scripts = (ROOT / "benchmarks").glob("*.py")
    assert names == {path.stem for path in scripts if "\ndef tables(" in path.read_text(encoding="utf-8")}
    assert names == set(RECORDS)
    benchmarks = PAGES["docs/benchmarks.md"]
    assert set(re.findall(r"<!-- benchmark: (\w+) -->", benchmarks)) == names
    assert {name for name in names if f"<!-- table: {name} -->" in benchmarks} == names


@pytest.mark.parametrize("page", PAGES)
def test_no_line_begins_with_what_tears_a_paragraph_apart(page):
    """A line that begins with a comment is HTML up to an empty line, one that begins with % a comment of MyST's."""
    assert re.findall(r"^[ >*-]*<!-- (?:figure: [\w.]+|end) -->.+$", PAGES[page], flags=re.MULTILINE) == []
    assert re.findall(r"^ *%.*$", PAGES[page], flags=re.MULTILINE) == []


def test_no_table_of_the_benchmarks_page_was_written_by_hand():
    by_hand = re.sub(r"<!-- table: \w+ -->.*?<!-- end -->", "", PAGES["docs/benchmarks.md"], flags=re.DOTALL)
    assert "\n|" not in by_hand


def test_a_figure_that_changes_in_a_record_changes_the_page(made):
    record = RECORDS["scale"]
    first, *others = record["results"]
    changed = {**record, "results": [{**first, "steady_ratio": first["steady_ratio"] + 1}, *others]}
    page = "docs/benchmarks.md"
    assert update_docs.update(PAGES[page], update_docs.make_all({**RECORDS, "scale": changed}), page) != PAGES[page]


@pytest.mark.parametrize("name", update_docs.BENCHMARKS)
def test_a_record_was_not_a_quick_one(name):
    command = RECORDS[name]["environment"]["command"]
    assert command in (f"python -m benchmarks.{name}", f"python -m benchmarks.{name} --output output")


def test_a_ratio_in_the_table_of_training_is_the_quotient_of_its_times(made):
    (table,) = importlib.import_module("benchmarks.training").tables(RECORDS["training"])
    seconds = {row[0]: float(row[1].split(" ")[0].replace(",", "")) for row in table.rows}
    for column, head in enumerate(table.header):
        if head.startswith("x "):
            for row in table.rows:
                assert float(row[column]) == pytest.approx(seconds[head[2:]] / seconds[row[0]], rel=0.02, abs=0.005)


@given(text=st.text(alphabet="ab|\n <!->", max_size=60), keys=st.lists(st.sampled_from(sorted(MADE))))
def test_all_else_on_a_page_stays_and_a_second_time_changes_nothing(text, keys):
    if update_docs._MARKER.search(text):
        return
    page = text.join(["", *(f"<!-- {kind}: {name} -->old<!-- end -->" for kind, name in keys), ""])
    updated = update_docs.update(page, MADE, "page.md")
    assert updated == text.join(["", *(f"<!-- {key[0]}: {key[1]} -->{MADE[key]}<!-- end -->" for key in keys), ""])
    assert update_docs.update(updated, MADE, "page.md") == updated


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- table: sped --><!-- end -->", r"page.md: no record has a table 'sped'. Known: speed."),
        ("<!-- figure: speed -->1<!-- end -->", r"no record has a figure 'speed'. Known: speed.rows, speed.times."),
        (
            "<!-- table: speed -->",
            "page.md: every `table` or `figure` marker needs one `<!-- end -->`, near '<!-- table",
        ),
        ("<!-- table: speed -->1<!-- end --> <!-- end -->", "near '<!-- end -->'"),
        ("<!-- table: speed -->1<!-- figure: speed.times -->2<!-- end -->", "near '<!-- figure: '"),
    ],
)
def test_a_marker_that_cannot_be_filled_is_an_error(page, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        update_docs.update(page, MADE, "page.md")


def test_a_table_as_text_and_as_markdown():
    table = Table("speed", "How fast", ["way", "seconds"], [["ours", "1.20"], ["theirs", "12"]], note="Medians.")
    assert table.as_text() == "How fast\n\nway     seconds\nours       1.20\ntheirs       12\n\nMedians."
    assert table.as_markdown() == "| way | seconds |\n| --- | --: |\n| ours | 1.20 |\n| theirs | 12 |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (1.2, "1.20"), (99.96, "100"), (123.4, "123"), (1234567.8, "1,234,568"), (0.5, "0.500")],
)
def test_three_significant_digits(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.2 x"), (9.96, "10 x"), (18.6, "19 x"), (192.4, "192 x")])
def test_a_ratio(value, text):
    assert times(value) == text


def test_a_line_says_when_and_with_what():
    facts = {"date": "2026-01-02", "processors": 2, "python": "3.11.7", "versions": {"keras": "3.15", "numpy": "2.4"}}
    line = "2026-01-02, 2 processors, Python 3.11.7, keras 3.15, numpy 2.4"
    assert environment_line({"environment": facts}) == line
