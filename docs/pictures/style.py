"""What the pictures share: letters and size. Colors, and how batches are drawn, are those of the package.

The background is white and opaque, so that the pictures are readable on every page. On dark pages of the site, site.css
turns white into black and leaves the hues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_SETTINGS = {"font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 11, "axes.titlelocation": "left"}


@contextmanager
def page_style() -> Iterator[None]:
    """Draws with Matplotlib's own settings and those of the pictures, and leaves the reader's as they were."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def make_axes(num_panels: int, height: float) -> tuple[Any, Any]:
    """Makes panels below one another, so narrow that a phone shows readable letters, `height` inches each."""
    figure = Figure(figsize=(6, num_panels * height), layout="constrained")
    axes = figure.subplots(num_panels, 1, sharex=True)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", length=0, labelbottom=False)
    return figure, axes


def save(figure: Any, path: Path) -> None:
    """Writes a PNG that is the same, byte for byte, whenever it is drawn with the same version of Matplotlib."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white", metadata={"Software": None})
