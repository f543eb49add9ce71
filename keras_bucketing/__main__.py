"""`keras-bucketing lengths.npy` prints how much padding each way of batching leaves on these lengths, and what to do.

With `--labels labels.npy` it also says how uneven the labels of the batches would be, and `--plot padding.png` draws
the table. In place of a file it takes a folder that `save_sequences` wrote. `python -m keras_bucketing` is the same
command.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_bucketing import __version__
from keras_bucketing.padding.report import PaddingReport, padding_report
from keras_bucketing.streams.saved_sequences import load_lengths


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Strings. Defaults to None: those of the command line.

    Returns:
        The exit code: 0, or 2 if a file or what it holds is of no use.
    """
    parser = argparse.ArgumentParser(prog="keras-bucketing", description=__doc__)
    parser.add_argument("lengths", type=Path, help="a .npy file, a text file with one length in a line, or a folder")
    parser.add_argument("--batch-size", type=int, default=32, help="rows in a batch (default: 32)")
    parser.add_argument("--labels", type=Path, help="the same kind of file, with one number or string per sequence")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the table into this file: .png, .svg or .pdf")
    parser.add_argument("--version", action="version", version=f"keras-bucketing {__version__}")
    options = parser.parse_args(arguments)
    source = str(options.labels)
    try:
        labels = None if options.labels is None else _load_labels(options.labels)
        source = str(options.lengths)
        lengths = _load_lengths(options.lengths)
        if labels is not None:
            source += f" and {options.labels}"
        report = padding_report(lengths, options.batch_size, labels)
        print(report)
        if options.plot is not None:
            source = str(options.plot)
            _draw(report, options.plot)
            print(f"\nA picture of it: {options.plot}")
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"keras-bucketing: {source}: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _draw(report: PaddingReport, path: Path) -> None:
    with contextlib.suppress(ImportError):  # `plot` says what is missing
        import matplotlib

        matplotlib.use("Agg")  # needs no window
    report.plot().figure.savefig(path, dpi=150)


def _load_lengths(path: Path) -> np.ndarray:
    if path.is_dir():
        return load_lengths(path)
    return _load(path, "length", "number", lambda text: np.array([float(number) for number in text.split()]))


def _load_labels(path: Path) -> np.ndarray:
    return _load(path, "label", "label", lambda text: np.array(text.splitlines()))


def _load(path: Path, kind: str, entry: str, parse: Callable[[str], np.ndarray]) -> np.ndarray:
    with path.open("rb") as file:
        is_numpy = file.read(6) == b"\x93NUMPY"
    try:
        return np.load(path, allow_pickle=False) if is_numpy else parse(path.read_text(encoding="utf-8-sig"))
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError):  # NumPy reads a header as Python
        raise ValueError(
            f"not a file of {kind}s. Expected what np.save(path, {kind}s) writes, or text with one {entry} in a line."
        ) from None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
