"""Sequences of given lengths: random token ids or vectors, and labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Sequences(NamedTuple):
    """Sequences of different lengths, concatenated.

    Attributes:
        values: Array `(num_timesteps,)` or `(num_timesteps, features)`.
        row_splits: Int64 array `(num_sequences + 1,)`.
        labels: Int32 array `(num_sequences,)`.
    """

    values: np.ndarray
    row_splits: np.ndarray
    labels: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Int64 array `(num_sequences,)`, timesteps."""
        return np.diff(self.row_splits)

    @property
    def ragged(self) -> tf.RaggedTensor:
        """The sequences as TensorFlow holds them."""
        with tf.device("CPU:0"):
            return tf.RaggedTensor.from_row_splits(self.values, self.row_splits, validate=False)

    @property
    def arrays(self) -> list[np.ndarray]:
        """The sequences as people hold them: a list of arrays."""
        return np.split(self.values, self.row_splits[1:-1])

    def first(self, num_sequences: int) -> Sequences:
        """The first sequences; lengths are drawn independently, so this is a random sample."""
        splits = self.row_splits[: num_sequences + 1]
        return Sequences(self.values[: splits[-1]], splits, self.labels[:num_sequences])


def token_sequences(lengths: np.ndarray, vocabulary_size: int = 20_000, seed: int = 0) -> Sequences:
    """Random int32 token ids, from 1 on, and binary labels."""
    random = np.random.default_rng(seed)
    values = random.integers(1, vocabulary_size, int(lengths.sum()), dtype=np.int32)
    return Sequences(values, _row_splits(lengths), random.integers(0, 2, len(lengths), dtype=np.int32))


def vector_sequences(lengths: np.ndarray, features: int = 12, seed: int = 0) -> Sequences:
    """Random float32 vectors and binary labels."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((int(lengths.sum()), features), dtype=np.float32)
    return Sequences(values, _row_splits(lengths), random.integers(0, 2, len(lengths), dtype=np.int32))


def _row_splits(lengths: np.ndarray) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)])
