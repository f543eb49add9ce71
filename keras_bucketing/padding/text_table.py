"""Figures as a plain text table."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines the columns up, names in the first one to the left, the others to the right, fractions with four digits.

    Args:
        header: One name a column.
        rows: The cells: strings, ints or floats.

    Returns:
        The table as text, without a newline at its end.

    Example:
        >>> print(format_table(["strategy", "timesteps"], [["padded", 1200], ["bucketed", 310]]))
        strategy  timesteps
        padded         1200
        bucketed        310
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
    return "\n".join(lines)


def _format_cell(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
