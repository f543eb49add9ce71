"""The figures in the documentation are those of the records, which the benchmarks wrote."""

import importlib
import re
import xml.etree.ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import svg, update_docs
from benchmarks.page import PAGE, draw_charts
from benchmarks.tables import Table, environment_line, significant, times
from tests.support.paths import ROOT

MADE = {("table", "speed"): "\n| a |\n", ("figure", "speed.times"): "3.8", ("figure", "speed.rows"): "32"}
RECORDS = update_docs.read_records()
TABLE = r"<!-- table: (\w+) -->"
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in update_docs.pages()}


@pytest.fixture(scope="module")
def made():
    return update_docs.make_all(RECORDS)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_the_records_hold(page, made):
    assert update_docs.update(PAGES[page], made, page) == PAGES[page], "run `python -m benchmarks.update_docs`"


def test_every_benchmark_has_a_record_and_its_command_above_its_table_on_one_page():
    names = set(update_docs.BENCHMARKS)
    scripts = (ROOT / "benchmarks").glob("*.py")
    assert names == {path.stem for path in scripts if "\ndef tables(" in path.read_text(encoding="utf-8")}
    assert names == set(RECORDS)
    command = (
        r"<!-- benchmark: (\w+) -->\n```bash\n\.venv/bin/python -m benchmarks\.(\w+)\n```\n\n<!-- table: (\w+) -->"
    )
    shown = [found for text in PAGES.values() for found in re.findall(command, text)]
    assert sorted(name for name, _, _ in shown) == sorted(names)
    assert [(name, *others) for name, *others in shown if name != others[0] or not others[1].startswith(name)] == []


def test_each_table_of_the_benchmarks_page_is_below_its_chart():
    benchmarks = PAGES["docs/benchmarks.md"]
    tables = re.findall(TABLE, benchmarks)
    assert tables == list(PAGE)
    charts = (
        r"!\[[^]]{40,}\]\(charts/(\w+)\.svg\)\n\n<!-- benchmark: \w+ -->\n```bash\n[^\n]+\n```\n\n<!-- table: (\w+) -->"
    )
    assert re.findall(charts, benchmarks) == [(name, name) for name in tables]
    assert len(tables) == len(re.findall(r"^## ", benchmarks, flags=re.MULTILINE))


def test_the_charts_are_those_of_the_records():
    drawn = draw_charts(RECORDS)
    assert {path.stem for path in update_docs.CHARTS.iterdir()} == set(drawn)
    for name, chart in drawn.items():
        assert (update_docs.CHARTS / f"{name}.svg").read_text(encoding="utf-8") == chart, "run benchmarks.update_docs"


@pytest.mark.parametrize("path", sorted(update_docs.CHARTS.iterdir()), ids=lambda path: path.stem)
def test_a_chart_is_as_wide_as_a_phone_shows_it_and_loads_fast(path):
    """All that is drawn lies inside of the picture. A letter is taken to be two thirds as wide as it is high."""
    picture = xml.etree.ElementTree.fromstring(path.read_text(encoding="utf-8"))
    width, height, size = (float(picture.attrib[name]) for name in ("width", "height", "font-size"))
    assert width <= 480
    assert size >= 13
    assert path.stat().st_size < 50_000
    for text in picture.iter("{http://www.w3.org/2000/svg}text"):
        length = len(text.text) * size * (0.62 if "font-weight" in text.attrib else 0.56)
        begin = float(text.attrib["x"]) - length * {"start": 0, "middle": 0.5, "end": 1}[text.attrib["text-anchor"]]
        assert begin > -4, text.text
        assert begin + length < width + 4, text.text
        assert 0 < float(text.attrib["y"]) < height, text.text


def test_a_bar_is_as_long_as_its_figure():
    picture = svg.draw_bars([("speed", [svg.Bar("a", 2.0, "2"), svg.Bar("b", 1.0, "1", is_ours=True, mark=1.5)])])
    rectangles = xml.etree.ElementTree.fromstring(picture).findall("{http://www.w3.org/2000/svg}rect")
    _, longest, ours, mark = (float(rectangle.attrib["width"]) for rectangle in rectangles)
    assert longest == 2 * ours
    assert mark == 2
    assert float(rectangles[3].attrib["x"]) - float(rectangles[1].attrib["x"]) == 0.75 * longest - 1
    assert [rectangle.attrib["fill"] for rectangle in rectangles[1:3]] == [svg.OTHERS, svg.OURS]


def test_a_record_of_a_decision_says_what_was_asked_measured_and_decided():
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        headings = re.findall(r"^## (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert headings == ([] if path.stem == "index" else ["Question", "Measured", "Decision", "Look again"]), path
        assert path.stem == "index" or f"]({path.name})" in PAGES["docs/decisions/index.md"], path


@pytest.mark.parametrize("page", PAGES)
def test_no_line_begins_with_what_tears_a_paragraph_apart(page):
    """A line that begins with a comment is HTML up to an empty line, one that begins with % a comment of MyST's."""
    assert re.findall(r"^[ >*-]*<!-- (?:figure: [\w.]+|end) -->.+$", PAGES[page], flags=re.MULTILINE) == []
    assert re.findall(r"^ *%.*$", PAGES[page], flags=re.MULTILINE) == []


@pytest.mark.parametrize("page", ["docs/benchmarks.md", *(page for page in PAGES if "decisions/" in page)])
def test_no_table_of_a_benchmark_was_written_by_hand(page):
    by_hand = re.sub(r"<!-- table: \w+ -->.*?<!-- end -->", "", PAGES[page], flags=re.DOTALL)
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
