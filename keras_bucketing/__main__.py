"""`python -m keras_bucketing lengths.npy`: what each way of batching would waste on these lengths, and what to do.

With `--labels labels.npy` it also says how uneven the labels of the batches would be. Instead of a file of lengths it
takes a folder that `save_sequences` wrote.
"""

from __future__ import annotations

import argparse
import sys
import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_bucketing.padding.report import padding_report
from keras_bucketing.streams.saved_sequences import load_lengths

_UNREADABLE = (ValueError, EOFError, SyntaxError, tokenize.TokenError)  # NumPy reads a header as Python


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Strings. Defaults to None: those of the command line.

    Returns:
        The exit code: 0, or 2 if the file or what it holds is of no use.
    """
    parser = argparse.ArgumentParser(prog="python -m keras_bucketing", description=__doc__)
    parser.add_argument("lengths", type=Path, help="a .npy file, a text file with one length in a line, or a folder")
    parser.add_argument("--batch-size", type=int, default=32, help="rows in a batch (default: 32)")
    parser.add_argument("--labels", type=Path, help="the same kind of file, with one number or string a sequence")
    options = parser.parse_args(arguments)
    path = options.labels
    try:
        labels = None if path is None else _load_labels(path)
        path = options.lengths
        lengths = _load(path)
        print(padding_report(lengths, options.batch_size, labels))
    except (OSError, ValueError, TypeError) as error:
        print(f"keras_bucketing: {path}: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _load(path: Path) -> np.ndarray:
    if path.is_dir():
        return load_lengths(path)
    try:
        if _is_numpy(path):
            lengths: np.ndarray = np.load(path, allow_pickle=False)
            return lengths
        text = path.read_text(encoding="utf-8-sig").split()
        return np.array([float(number) for number in text])
    except _UNREADABLE:
        raise ValueError(
            "not a file of lengths. Expected what np.save(path, lengths) writes, or text with one number in a line."
        ) from None


def _load_labels(path: Path) -> np.ndarray:
    try:
        if _is_numpy(path):
            labels: np.ndarray = np.load(path, allow_pickle=False)
            return labels
        return np.array(path.read_text(encoding="utf-8-sig").splitlines())
    except _UNREADABLE:
        raise ValueError(
            "not a file of labels. Expected what np.save(path, labels) writes, or text with one label in a line."
        ) from None


def _is_numpy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
