"""Token sequences whose label can be learned: a sentiment task without the texts."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from benchmarks.sequences import Sequences

VOCABULARY_SIZE = 1_000
_MARKERS = 50  # token ids 1 to 50 speak for label 1, 51 to 100 for label 0
_MARKER_SHARE = 0.25
_TRUE_SHARE = 0.75


def labeled_token_sequences(lengths: np.ndarray, seed: int = 0) -> Sequences:
    """Draws token ids of which a quarter are markers, three quarters of those for the sequence's own label.

    The rest is drawn uniformly from the other ids, so a model has to learn which ids are markers, and to count them
    over the whole sequence. Sequences of a few timesteps may hold no marker at all: nobody reaches 1.0.

    Args:
        lengths: Int array `(num_sequences,)`, in timesteps.
        seed: Int.
    """
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(len(lengths)) % 2).astype(np.int32)
    label_of_timestep = np.repeat(labels, lengths).astype(bool)
    size = len(label_of_timestep)
    values = random.integers(2 * _MARKERS + 1, VOCABULARY_SIZE, size, dtype=np.int32)
    is_marker = random.random(size) < _MARKER_SHARE
    speaks_for_one = label_of_timestep == (random.random(size) < _TRUE_SHARE)
    markers = random.integers(1, _MARKERS + 1, size, dtype=np.int32) + np.where(speaks_for_one, 0, _MARKERS)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(np.where(is_marker, markers, values).astype(np.int32), splits, labels)


def quantile_lengths(num_sequences: int, mean: float, median: float, longest: int, seed: int = 0) -> np.ndarray:
    """The quantiles of a lognormal distribution, shuffled; the last one is `longest`.

    A few hundred sequences then have the mean, the spread and the longest sequence of tens of thousands.
    """
    sigma = np.sqrt(2 * np.log(mean / median))
    ranks = (np.arange(num_sequences) + 0.5) / num_sequences
    lengths = median * np.exp(sigma * np.array([NormalDist().inv_cdf(rank) for rank in ranks]))
    lengths = np.clip(np.rint(lengths), 1, longest).astype(np.int64)
    lengths[-1] = longest
    return np.random.default_rng(seed).permutation(lengths)
