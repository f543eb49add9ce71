"""Figures as a table, in plain text and in HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from keras_bucketing.padding.colors import PADDING, REAL

_BAR_WIDTH = 8  # characters


class Share(float):
    """A share from 0 to 1, which a table shows with a bar."""

    def __str__(self) -> str:
        filled = round(_BAR_WIDTH * min(max(self, 0.0), 1.0)) if self == self else 0  # nan has none
        # ASCII: print() to a pipe raises on many a Windows machine for anything else.
        return f"{float(self):.3f} {'#' * filled:.<{_BAR_WIDTH}}"


class ShownInNotebooks:
    """Shows the printed text in notebooks, too, at the end of a cell."""

    def _repr_html_(self) -> str:
        return text_as_html(str(self))


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]], marked: int | None = None) -> str:
    """Lines the columns up, names in the first one to the left, the others to the right, fractions with four digits.

    Args:
        header: One name a column.
        rows: The cells: strings, ints or floats; a `Share` gets a bar.
        marked: Int, a row that gets a mark in front. Defaults to None: no mark, and no room for it.

    Returns:
        The table as text, without a newline at its end.

    Example:
        >>> print(format_table(["strategy", "timesteps"], [["padded", 1200], ["bucketed", 310]]))
        strategy  timesteps
        padded         1200
        bucketed        310
        >>> print(format_table(["strategy", "real"], [["padded", Share(0.25)], ["bucketed", Share(1)]], marked=1))
          strategy            real
          padded    0.250 ##......
        > bucketed  1.000 ########
    """
    cells = [[_format_cell(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    has_names = any(isinstance(row[0], str) for row in rows)
    lines = [
        "  ".join(
            cell.ljust(width) if has_names and column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [header, *cells]
    ]
    if marked is not None:
        lines = [f"{'>' if index == marked + 1 else ' '} {line}" for index, line in enumerate(lines)]
    return "\n".join(lines)


def table_as_html(header: Sequence[str], rows: Sequence[Sequence[object]], marked: int | None = None) -> str:
    """The same table as HTML; the marked row is bold, and shares are bars behind their figures.

    Example:
        >>> table_as_html(["leaf", "real"], [["<x>", 3]])
        '<table><thead><tr><th>leaf</th><th>real</th></tr></thead><tbody><tr><td>&lt;x&gt;</td><td>3</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = ["".join(_html_cell(cell, index == marked) for cell in row) for index, row in enumerate(rows)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_as_html(text: str) -> str:
    """Text with its own line breaks, as HTML."""
    return f"<pre>{html.escape(text)}</pre>"


def _html_cell(cell: object, is_marked: bool) -> str:
    style, text = "", _format_cell(cell)
    if isinstance(cell, Share):
        filled = f"{100 * min(max(cell, 0.0), 1.0):.1f}%" if cell == cell else "0%"
        colors = f"{REAL}66 {filled}, {PADDING} {filled}"
        style, text = f' style="background: linear-gradient(90deg, {colors})"', f"{float(cell):.3f}"
    text = html.escape(text)
    return f"<td{style}>{f'<b>{text}</b>' if is_marked else text}</td>"


def _format_cell(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) and not isinstance(cell, Share) else str(cell)
