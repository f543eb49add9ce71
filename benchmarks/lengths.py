"""Length distributions, real and drawn: int64 arrays `(num_sequences,)`, in timesteps."""

from __future__ import annotations

import ast
import io
import sysconfig
import tokenize
from pathlib import Path

import numpy as np


def lognormal_lengths(num_sequences: int, mean: float, median: float, longest: int, seed: int = 0) -> np.ndarray:
    """Draws lognormal lengths, as of texts and sessions: from 1 to `longest` timesteps."""
    sigma = np.sqrt(2 * np.log(mean / median))
    lengths = np.random.default_rng(seed).lognormal(np.log(median), sigma, num_sequences)
    return np.clip(np.rint(lengths), 1, longest).astype(np.int64)


def pareto_lengths(num_sequences: int, shape: float, shortest: int, longest: int, seed: int = 0) -> np.ndarray:
    """Draws Pareto lengths, the heaviest tail: from `shortest` to `longest` timesteps."""
    lengths = shortest * (1 + np.random.default_rng(seed).pareto(shape, num_sequences))
    return np.clip(np.rint(lengths), shortest, longest).astype(np.int64)


def sktime_lengths(name: str) -> np.ndarray | None:
    """The lengths of a dataset of unequal lengths that sktime carries; None, with a note, where it is missing.

    Args:
        name: Str, "JapaneseVowels" or "PLAID".
    """
    try:
        from sktime.datasets import load_japanese_vowels, load_plaid
    except ImportError:
        print(f"without {name}: pip install 'keras-bucketing[examples]' brings sktime")
        return None
    load = {"JapaneseVowels": load_japanese_vowels, "PLAID": load_plaid}[name]
    x, _ = load(return_X_y=True, return_type="nested_univ")
    return np.array([len(series) for series in x.iloc[:, 0]], np.int64)


def functions_of_standard_library(most_files: int | None = None) -> np.ndarray:
    """The functions and methods of Python's standard library, in tokens.

    Args:
        most_files: Int, how many files to read at most. Defaults to None: all.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    files = [path for path in sorted(library.rglob("*.py")) if not left_out & set(path.relative_to(library).parts)]
    return np.concatenate([_function_lengths(path.read_bytes()) for path in files[:most_files]])


def _function_lengths(source: bytes) -> np.ndarray:
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return np.zeros(0, np.int64)
    token_lines = np.array([token.start[0] for token in tokens])
    spans = [
        (node.lineno, node.end_lineno)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    first, last = np.array(spans, np.int64).reshape(-1, 2).T
    return np.searchsorted(token_lines, last, side="right") - np.searchsorted(token_lines, first)
