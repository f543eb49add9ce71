"""Imported first: lets the command of this package import TensorFlow without its log lines.

TensorFlow 2.21 writes them before it reads `TF_CPP_MIN_LOG_LEVEL`, so only a closed standard error prevents them. A
program that imports the package still sees them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path


def is_command(arguments: list[str], original_arguments: list[str]) -> bool:
    """Whether a process was started as `keras-bucketing` or `python -m keras_bucketing`.

    Args:
        arguments: `sys.argv`, which begins with "-m" while Python looks for the module.
        original_arguments: `sys.orig_argv`.
    """
    program = Path(arguments[0]).stem if arguments else ""
    return program == "keras-bucketing" or (
        program == "-m" and ("-m", "keras_bucketing") in pairwise(original_arguments)
    )


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Discards everything written to standard error, from C++ as well."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with open(os.devnull, "wb") as discarded:
        os.dup2(discarded.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if is_command(getattr(sys, "argv", []), sys.orig_argv):
    with without_log_lines():
        import tensorflow  # noqa: F401
