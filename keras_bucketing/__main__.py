"""`python -m keras_bucketing lengths.npy`: what each way of batching would waste on these lengths.

Instead of a file of lengths it takes a folder that `save_sequences` wrote.
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
    options = parser.parse_args(arguments)
    try:
        print(padding_report(_load(options.lengths), options.batch_size))
    except (OSError, ValueError, TypeError) as error:
        print(f"keras_bucketing: {options.lengths}: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _load(path: Path) -> np.ndarray:
    if path.is_dir():
        return load_lengths(path)
    with path.open("rb") as file:
        is_numpy = file.read(6) == b"\x93NUMPY"
    try:
        if is_numpy:
            lengths: np.ndarray = np.load(path, allow_pickle=False)
            return lengths
        text = path.read_text(encoding="utf-8-sig").split()
        return np.array([float(number) for number in text])
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError):  # NumPy reads a header as Python
        raise ValueError(
            "not a file of lengths. Expected what np.save(path, lengths) writes, or text with one number in a line."
        ) from None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
