"""The tables of the benchmarks: made of a record's JSON, for the terminal and for the pages of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_bucketing.padding.text_table import format_table

Record = dict[str, Any]  # what the JSON file of a benchmark holds, as `json.loads` returns it


class Table(NamedTuple):
    """Figures in rows and columns.

    Attributes:
        name: Str, by which a page asks for it, and which begins with the name of the benchmark.
        title: Str, printed above it in the terminal; a page has its own words.
        header: One str a column.
        rows: One list of str a row.
        note: Str, printed below it in the terminal.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def as_text(self) -> str:
        """For the terminal: the columns in line."""
        parts = [self.title, format_table(self.header, self.rows), self.note]
        return "\n\n".join(part for part in parts if part)

    def as_markdown(self) -> str:
        """For a page: the columns between bars, all figures to the right."""
        rule = ["---", *("--:" for _ in self.header[1:])]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [self.header, rule, *self.rows])


def environment_line(record: Record) -> str:
    """When, on what and with what a record was measured, in one line of text."""
    facts = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['date']}, {facts['processors']} processors, Python {facts['python']}, {versions}"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def median(spread: Sequence[float]) -> str:
    """The median of a spread `(median, lower, upper)`."""
    return significant(spread[0])


def spread(of: Sequence[float]) -> str:
    """A spread `(median, lower, upper)` as its median, with the quartiles in brackets."""
    return f"{significant(of[0])} ({significant(of[1])} - {significant(of[2])})"


def times(value: float) -> str:
    """A ratio: 3.8 x."""
    return f"{significant(value, 2 if value < 100 else 3)} x"
