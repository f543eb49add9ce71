"""Real text that is on every machine: the functions of the installed standard library, NumPy and Keras.

Each function is a sequence of tokens, its label the package it comes from. Their lengths are heavy-tailed, from a dozen
to thousands of tokens, as those of most text are.
"""

from __future__ import annotations

import ast
import io
import itertools
import random
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

PACKAGES = ("standard library", "numpy", "keras")

# Names that give the answer away.
_GIVEAWAYS = {"np", "numpy", "keras"}
_MOST_PER_FILE = 12  # many files, so that a few large ones do not decide what a package looks like
_WITHOUT_MEANING = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_PLACEHOLDERS = {
    tokenize.STRING: "<string>",
    tokenize.NUMBER: "<number>",
    tokenize.NEWLINE: "<newline>",
    tokenize.INDENT: "<indent>",
    tokenize.DEDENT: "<dedent>",
}


class Functions(NamedTuple):
    """Functions and where they come from.

    Attributes:
        tokens: List of lists of strings.
        labels: Int array `(num_functions,)`, indices into `PACKAGES`.
    """

    tokens: list[list[str]]
    labels: np.ndarray


def load_functions(per_package: int, seed: int = 0) -> tuple[Functions, Functions]:
    """Reads functions for training and for testing, from different files.

    Args:
        per_package: Int, the most functions of one package, both parts together; at least 60, to have some of each.
        seed: Int, chooses files and functions.

    Returns:
        Two `Functions`: four fifths of the files for training, the others for testing.
    """
    parts: tuple[list[tuple[list[str], int]], ...] = ([], [])
    for label, folder in enumerate(_folders()):
        read = 0
        for index, path in enumerate(_shuffled_files(folder, seed)):
            if read >= per_package:
                break
            functions = list(itertools.islice(_functions_of(path), min(_MOST_PER_FILE, per_package - read)))
            read += len(functions)
            parts[index % 5 == 4].extend((tokens, label) for tokens in functions)
    for part in parts:
        random.Random(seed).shuffle(part)
    train, test = (Functions([tokens for tokens, _ in part], np.array([label for _, label in part])) for part in parts)
    return train, test


def _folders() -> list[Path]:
    return [Path(sysconfig.get_paths()["stdlib"]), Path(np.__file__).parent, Path(keras.__file__).parent]


def _shuffled_files(folder: Path, seed: int) -> list[Path]:
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "_api", "api"}
    files = sorted(
        path
        for path in folder.rglob("*.py")
        if not left_out.intersection(path.relative_to(folder).parts) and not path.name.endswith("_test.py")
    )
    random.Random(seed).shuffle(files)
    return files


def _functions_of(path: Path) -> Iterator[list[str]]:
    """The tokens of each function and method of a file; of none if the file is not current Python."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, OSError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            tokens = _tokens_of("".join(lines[node.lineno - 1 : node.end_lineno]))
            if tokens:
                yield tokens


def _tokens_of(function: str) -> list[str]:
    readline = io.StringIO(textwrap.dedent(function)).readline
    try:
        tokens = [
            _PLACEHOLDERS.get(token.type, token.string)
            for token in tokenize.generate_tokens(readline)
            if token.type not in _WITHOUT_MEANING
        ]
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return []  # e.g. a string whose lines begin further left than the function
    return ["<giveaway>" if token in _GIVEAWAYS else token for token in tokens]
