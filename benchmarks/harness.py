"""What the benchmark scripts share: interleaved repeats, medians with their spread, JSON and pictures.

Machines are noisy, so contenders take turns in one process, each round in another order, and ratios are formed within a
round: what slows a whole round down cancels out.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tables import Record, Table, environment_line

# Before TensorFlow starts: its notes about missing GPUs are not part of a benchmark's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_PACKAGES = ("keras-bucketing", "tensorflow", "keras", "numpy", "torch", "jax")


class Spread(NamedTuple):
    """A median and its interquartile range."""

    median: float
    lower: float
    upper: float


def spread_of(figures: Sequence[float]) -> Spread:
    """The median of the figures, and where the middle half of them lies."""
    lower, median, upper = np.percentile(figures, [25, 50, 75]).tolist()
    return Spread(median, lower, upper)


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Reads the command line that all benchmarks share: `--output DIR`, `--quick`."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output"), help="where JSON and picture go")
    parser.add_argument("--quick", action="store_true", help="tiny data: shows that the script runs, measures nothing")
    return parser.parse_args()


def interleave(
    contenders: Mapping[str, Callable[[], float]], rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Lets the contenders take turns.

    Args:
        contenders: Functions that measure themselves once and return the figure.
        rounds: Int, how often each of them is measured. Every round begins with another contender.
        warm_up: Whether a first round is thrown away: traced functions, threads, caches.

    Returns:
        The figures of each contender, one a round.
    """
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    if warm_up:
        for name in names:
            contenders[name]()
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            figures[name].append(contenders[name]())
    return figures


def run_worker(module: str, *arguments: str, in_this_process: bool = False) -> Any:
    """What `run(*arguments)` of a module of the benchmarks returns; in a fresh process, it prints that as JSON."""
    if in_this_process:
        return importlib.import_module(f"benchmarks.{module}").run(*arguments)
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    return json.loads(finished.stdout.splitlines()[-1])


def ratios_within_rounds(figures: Sequence[float], others: Sequence[float]) -> Spread:
    """The spread of `figures / others`, each figure against the other one of its round."""
    return spread_of([figure / other for figure, other in zip(figures, others, strict=True)])


def environment() -> dict[str, Any]:
    """Date, processor count, package versions and command: what a quoted figure must carry."""
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES if package in installed}
    return {
        "date": datetime.date.today().isoformat(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "command": shlex.join(["python", "-m", _module_name(), *sys.argv[1:]]),
    }


def _module_name() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


def publish(
    output: Path, name: str, results: Mapping[str, Any], make_tables: Callable[[Record], Sequence[Table]]
) -> None:
    """Writes the results, with the environment, to `output/name.json`, and prints the tables that this file makes.

    The documentation shows the same tables of the same file (update_docs.py): nothing is in them that is not in it.

    Args:
        output: The folder.
        name: Str, the benchmark's.
        results: Dict of what can be written as JSON, and of spreads.
        make_tables: The `tables` of the benchmark.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **results}, indent=1, default=_to_json) + "\n")
    record: Record = json.loads(path.read_text())
    for table in make_tables(record):
        print(f"\n{table.as_text()}\n")
    print(f"{environment_line(record)}: {record['environment']['command']}\nwritten: {path}")


def write_picture(
    output: Path,
    name: str,
    draw: Callable[[Any], None],
    panels: int = 1,
    columns: int = 2,
    height: float = 3.6,
) -> None:
    """Lets `draw(axes)` paint panels into `output/name.png`; without Matplotlib, says so.

    Args:
        output: The folder.
        name: Str, the file's name without ending.
        draw: Function that takes a list of Matplotlib axes.
        panels: Int, how many axes.
        columns: Int, how many of them side by side.
        height: Float, of one panel, in inches.
    """
    try:
        import matplotlib
    except ImportError:
        print("no picture: pip install 'keras-bucketing[plot]' brings Matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    output.mkdir(parents=True, exist_ok=True)
    columns = min(columns, panels)
    rows = -(-panels // columns)
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(10 if columns > 1 else 6, height * rows), layout="constrained", squeeze=False
        )
        for axis in axes.flat[panels:]:
            axis.set_axis_off()
        draw(axes.flat[:panels].tolist())
        figure.savefig(output / f"{name}.png", dpi=150)
        pyplot.close(figure)
    print(f"written: {output / f'{name}.png'}")


def draw_bars(axis: Any, spreads: Mapping[str, Spread], label: str, highlight: str, number: str = "{:,.0f}") -> None:
    """Draws horizontal bars with their spread, the first on top; the highlighted one black, the others gray."""
    names = list(spreads)
    medians = [spread.median for spread in spreads.values()]
    errors = [[s.median - s.lower for s in spreads.values()], [s.upper - s.median for s in spreads.values()]]
    shades = ["0.15" if name.startswith(highlight) else "0.7" for name in names]
    axis.barh(names, medians, xerr=errors, color=shades, ecolor="0.45", capsize=2)
    for position, spread in enumerate(spreads.values()):
        axis.annotate(
            number.format(spread.median), (spread.upper, position), (5, 0), textcoords="offset points", va="center"
        )
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(spread.upper for spread in spreads.values()))
    axis.set_xlabel(label)


def draw_efficiencies(
    axes: Sequence[Any],
    efficiencies: Mapping[str, Mapping[str, Mapping[int, float]]],
    styles: Mapping[str, tuple[str, str]],
    highlight: str,
) -> None:
    """Draws one panel a name: the padding efficiency over the number of buckets, one line a way, the highlighted black.

    Args:
        axes: The panels.
        efficiencies: By name, by way, by number of buckets.
        styles: The marker and the line of each way.
        highlight: Str, a way.
    """
    for axis, (name, by_way) in zip(axes, efficiencies.items(), strict=True):
        for way, figures in by_way.items():
            marker, line = styles[way]
            emphasis = {"color": "0.1", "linewidth": 2} if way == highlight else {"color": "0.5", "linewidth": 1}
            axis.plot(list(figures), list(figures.values()), marker=marker, ls=line, ms=4, label=way, **emphasis)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(figures), map(str, figures))
        axis.set(ylim=(0, 1.02), xlabel="buckets", ylabel="padding efficiency")
        axis.set_title(name, loc="left")
    handles = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*handles, loc="outside upper center", ncols=len(styles), frameon=False)


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"Cannot write {type(value).__name__} as JSON.")
