"""Writes the figures of the benchmarks into the README and the pages in docs/, from the records in docs/figures/.

`page.py` says which tables docs/benchmarks.md has, and draws the chart above each of them, docs/charts/TABLE.svg.

A page has the markers, and everything between them is made here:

    <!-- table: NAME -->  the table of that name, and when and with what it was measured  <!-- end -->
    <!-- figure: BENCHMARK.NAME -->one figure in the text<!-- end -->

`tables(record)` and `figures(record)` of each benchmark make them of its record, and `mask_list.page_tables` those of
what keeps masks: of one record for each version of Keras, in docs/figures/masks/.

    python -m benchmarks.update_docs                      write the pages and charts from the records
    python -m benchmarks.update_docs --measure            first run all benchmarks, and draw all pictures
    python -m benchmarks.update_docs --measure NAME ...   first run these
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import mask_list
from benchmarks.page import PAGE, draw_charts
from benchmarks.tables import Record, Table, environment_line

ROOT = Path(__file__).parent.parent
RECORDS, CHARTS = ROOT / "docs" / "figures", ROOT / "docs" / "charts"
BENCHMARKS = (
    *("training", "transformer_training", "compilation_cache", "pipeline", "streams", "fit_overhead", "user_stages"),
    *("padding", "two_lengths", "scale", "larger_than_memory", "randomness", "few_buckets", "automatic_buckets"),
    *("tuned_sizes", "tuned_backends", "callback_cost", "construction", "many_lengths", "alternatives", "frames"),
    "rare_classes",
)
# What draws the pictures of the pages.
PICTURES = (
    ["-m", "docs.pictures.draw"],
    ["examples/existing_project.py", "--picture", "docs/existing_project.png"],
    ["examples/japanese_vowels.py", "--output", "docs/buckets.png"],
)

_MARKED = re.compile(r"<!-- (?P<kind>table|figure): (?P<name>[\w.]+) -->(?P<old>.*?)<!-- end -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:table: |figure: |end -->)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is asked for, and writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="*", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    options = parser.parse_args(arguments)
    if options.measure is not None:
        measure(options.measure or BENCHMARKS)
    records = read_records()
    made = make_all(records)
    for path in pages():
        text = path.read_text(encoding="utf-8")
        _write(path, text, update(text, made, path.relative_to(ROOT).as_posix()))
    for name, chart in draw_charts(records).items():
        path = CHARTS / f"{name}.svg"
        _write(path, path.read_text(encoding="utf-8") if path.exists() else "", chart)


def _write(path: Path, text: str, updated: str) -> None:
    if updated != text:
        path.write_text(updated, encoding="utf-8")
        print(f"updated: {path.relative_to(ROOT)}")


def pages() -> list[Path]:
    """The README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_records() -> dict[str, Record]:
    """The committed record of each benchmark, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))}


def make_all(records: dict[str, Record]) -> dict[tuple[str, str], str]:
    """What can stand between markers: the text by kind ("table" or "figure") and name."""
    made = {}
    for benchmark, record in records.items():
        module = importlib.import_module(f"benchmarks.{benchmark}")
        for table in module.tables(record):
            made["table", table.name] = _as_text(table, record)
        for name, figure in getattr(module, "figures", lambda _: {})(record).items():
            made["figure", f"{benchmark}.{name}"] = figure
    for name, entry in PAGE.items():
        if entry.table:
            shown = [records[record] for record in entry.records]
            made["table", name] = _as_text(entry.table(*shown), *shown)
    for name, markdown in mask_list.page_tables(mask_list.read_records(RECORDS / "masks")).items():
        made["table", name] = f"\n{markdown}\n"
    return made


def _as_text(table: Table, *records: Record) -> str:
    """A table, and when and with what the records were measured."""
    measured = "; ".join(dict.fromkeys(environment_line(record) for record in records))
    return f"\n{table.as_markdown()}\n\n*Measured {measured}.*\n"


def update(text: str, made: dict[tuple[str, str], str], page: str) -> str:
    """The text of a page with everything between its markers made anew.

    Args:
        text: Str, the page as it is.
        made: What `make_all` returns.
        page: Str, the name of the page, for errors.

    Raises:
        ValueError: If a marker names nothing that a record holds, or a begin or an end is missing.
    """
    outside = _MARKED.sub("", text)
    inside = "".join(found["old"] for found in _MARKED.finditer(text))
    stray = _MARKER.search(outside) or _MARKER.search(inside)
    if stray:
        raise ValueError(f"{page}: every `table` or `figure` marker needs one `<!-- end -->`, near {stray[0]!r}.")

    def replacement(found: re.Match[str]) -> str:
        key = found["kind"], found["name"]
        if key not in made:
            known = ", ".join(sorted(name for kind, name in made if kind == key[0]))
            raise ValueError(f"{page}: no record has a {key[0]} {key[1]!r}. Known: {known}.")
        return f"<!-- {key[0]}: {key[1]} -->{made[key]}<!-- end -->"

    return _MARKED.sub(replacement, text)


def measure(names: Sequence[str]) -> None:
    """Runs these benchmarks one after the other, and keeps their records; draws the pictures if these are all."""
    output = Path("output")  # in ROOT; a record holds the command, which names no path of this machine
    RECORDS.mkdir(exist_ok=True)
    for name in names:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--output", str(output)], check=True, cwd=ROOT)
        print(f"{name}: {time.perf_counter() - begin:.0f} s\n", flush=True)
        shutil.copy(ROOT / output / f"{name}.json", RECORDS / f"{name}.json")
    if set(names) == set(BENCHMARKS):
        for command in PICTURES:
            subprocess.run([sys.executable, *command], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
