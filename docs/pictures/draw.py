"""Draws the pictures of the documentation: `python -m docs.pictures.draw`, from the root of the repository.

The same versions of Matplotlib and rich give the same bytes. `--record` trains once more for the picture of the
progress bar, whose times are then others. docs/existing_project.png and docs/buckets.png are drawn by the examples
existing_project.py and japanese_vowels.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from docs.pictures.plan import draw_plan
from docs.pictures.progress import draw_progress, record
from docs.pictures.strategies import draw_strategies

PICTURES: dict[str, Callable[[Path], None]] = {
    "plan.png": draw_plan,
    "strategies.png": draw_strategies,
    "progress.svg": draw_progress,
}


def main(arguments: list[str] | None = None) -> None:
    """Draws them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="train for the picture of the progress bar")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="default: where they lie")
    options = parser.parse_args(arguments)
    if options.record:
        record()
    for name, draw in PICTURES.items():
        draw(options.output / name)


if __name__ == "__main__":
    main()
