"""Charts as SVG: bars below one another, and lines. They need no library, and the same figures give the same bytes.

The colors are those of all pictures of the package. The background is white and opaque; on dark pages of the site,
site.css inverts it. At 480 units the letters can be read on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from keras_bucketing.padding.colors import BUCKETS, LINES, REAL

OURS, OTHERS = REAL, "#b3b3b3"
_CURVES = [BUCKETS[index] for index in (0, 3, 2, 5, 1, 4)]  # as unlike as possible
_WIDTH = 480
_MARGIN = 8
_BAR_AREA = 380  # the rest of the width is for the figure behind the longest bar
_TITLE, _LABEL, _BAR, _GAP = 24, 17, 13, 5  # heights of the lines of a panel of bars


class Bar(NamedTuple):
    """A figure, drawn as a bar below its label.

    Attributes:
        label: Str, what was measured. Backticks are left out.
        figure: Float, the length of the bar.
        text: Str, the figure as it is written behind the bar.
        is_ours: Whether the bar has the color of this package.
        mark: Float, where a thin line crosses the bar, or None.
    """

    label: str
    figure: float
    text: str
    is_ours: bool = False
    mark: float | None = None


class Curve(NamedTuple):
    """Points that a line connects, each with a text beside it."""

    label: str
    points: Sequence[tuple[float, float, str]]


def draw_bars(panels: Iterable[tuple[str, Sequence[Bar]]]) -> str:
    """Panels of horizontal bars, each a title and bars with a scale of their own."""
    parts: list[str] = []
    y = float(_MARGIN)
    for title, bars in panels:
        y += _TITLE
        parts.append(_text(_MARGIN, y - 7, title, bold=True))
        longest = max(max(bar.figure, bar.mark or 0) for bar in bars)
        for bar in bars:
            width = max(1.0, _BAR_AREA * bar.figure / longest)
            parts.append(_text(_MARGIN, y + _LABEL - 5, bar.label.replace("`", "")))
            y += _LABEL
            parts.append(_rectangle(_MARGIN, y, width, _BAR, OURS if bar.is_ours else OTHERS))
            end = width
            if bar.mark is not None:
                mark = _BAR_AREA * bar.mark / longest
                parts.append(_rectangle(_MARGIN + mark - 1, y - 2, 2, _BAR + 4, "#000000"))
                end = max(width, mark + 1)
            parts.append(_text(_MARGIN + end + 6, y + _BAR - 2, bar.text))
            y += _BAR + _GAP
        y += _MARGIN
    return _picture(parts, y)


def draw_curves(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Curves over shares from 0 to 1, on a scale from 0 to a round figure above the highest point."""
    height, left, top = 270.0, 34.0, _MARGIN + 22.0 * (1 + len(curves))
    right = float(_WIDTH - 2 * _MARGIN)
    highest = max(y for curve in curves for _, y, _ in curve.points)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if highest / step <= 5)
    ceiling = step * math.ceil(highest / step)
    parts = [_text(_MARGIN, _MARGIN + 14, y_label, bold=True)]

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x, top + height * (1 - y / ceiling)

    for tick in range(0, ceiling + 1, step):
        _, y = place(0, tick)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{LINES}" stroke-opacity=".3"/>')
        parts.append(_text(left - 6, y + 4, str(tick), anchor="end"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(share, 0)
        parts.append(_text(x, y + 18, f"{share:g}", anchor="middle"))
    parts.append(_text((left + right) / 2, top + height + 38, x_label, anchor="middle"))
    for number, (curve, color) in enumerate(zip(curves, _CURVES, strict=False)):
        y = _MARGIN + 22.0 * (number + 1) + 14
        parts.append(_rectangle(_MARGIN, y - 9, 18, 4, color))
        parts.append(_text(_MARGIN + 26, y - 2, curve.label))
        places = [(*place(x, y), text) for x, y, text in curve.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for x, y, text in places:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
            parts.append(_text(x - 8, y - 7, text, anchor="end"))
    return _picture(parts, top + height + 48)


def _text(x: float, y: float, text: str, *, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def _picture(parts: Sequence[str], height: float) -> str:
    size = f'width="{_WIDTH}" height="{height:.0f}" viewBox="0 0 {_WIDTH} {height:.0f}"'
    font = 'font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif" font-size="13" fill="#111111"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
