"""What the ways of batching compute for one epoch of the same sequences: a simulation, which trains nothing.

The ways, each with as many updates an epoch as batches of 32 sequences have:

- padded to the longest: `pad_sequences` on the whole data;
- `padded_batch`: shuffled, each batch to its own longest;
- `bucket_by_sequence_length`: shuffled, with boundaries by hand that double; one partial batch a bucket;
- `group_by_length`: what Hugging Face's Trainer does, whose LengthGroupedSampler sorts inside of 50 shuffled batches;
- `BucketedSequence`, with the automatic number of buckets, and with 24;
- packing: sequences put one after the other into rows as long as the longest sequence, best fit, the longest first; the
  rows shuffled, and so many of them in a batch that there are as many updates.

Figures of an epoch: the share of real timesteps; padded timesteps, to which the work of dense layers is proportional;
pairs of timesteps in a row, as attention computes them unless its kernel skips pairs of different sequences; and padded
lengths added up over the batches: the timesteps that a recurrent layer takes one after the other.

    python -m benchmarks.alternatives
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.lengths import lognormal_lengths
from benchmarks.tables import Record, Table, times
from keras_bucketing import BucketedSequence

BATCH_SIZE = 32
OURS, OURS_24, PACKING = "`BucketedSequence`", "`BucketedSequence`, 24 buckets", "packing"
BOUNDARIES = [65, 129, 257, 513, 1025, 2049]
MEGA_BATCH = 50  # transformers/trainer_pt_utils.py, get_length_grouped_indices


class Epoch(NamedTuple):
    """The batches of an epoch, int64 arrays `(num_batches,)`: rows, padded lengths, and real timesteps."""

    rows: np.ndarray
    padded_lengths: np.ndarray
    real: np.ndarray


def main() -> None:
    """Simulates, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    lengths = lognormal_lengths(2_000 if arguments.quick else 25_000, mean=235, median=174, longest=2_500)
    results = {name: figures_of(make(lengths, np.random.default_rng(0))) for name, make in WAYS.items()}
    described = {"sequences": lengths.size, "longest": int(lengths.max()), "median": float(np.median(lengths))}
    harness.publish(arguments.output, "alternatives", {"lengths": described, "results": results}, tables)
    harness.write_picture(arguments.output, "alternatives", lambda axes: draw(axes, results), panels=3, columns=1)


def to_the_longest(lengths: np.ndarray, rng: np.random.Generator) -> Epoch:
    """Everything is as long as the longest."""
    epoch = padded_batch(lengths, rng)
    return epoch._replace(padded_lengths=np.full_like(epoch.padded_lengths, lengths.max()))


def padded_batch(lengths: np.ndarray, rng: np.random.Generator) -> Epoch:
    """Random batches."""
    return in_turn(rng.permutation(lengths))


def in_turn(lengths: np.ndarray) -> Epoch:
    """One batch after the other, each padded to its own longest."""
    starts = np.arange(0, lengths.size, BATCH_SIZE)
    rows = np.diff(np.append(starts, lengths.size))
    return Epoch(rows, np.maximum.reduceat(lengths, starts), np.add.reduceat(lengths, starts))


def bucket_by_sequence_length(lengths: np.ndarray, rng: np.random.Generator) -> Epoch:
    """A bucket is a batch as soon as it is full; what is left at the end makes one partial batch a bucket."""
    shuffled = rng.permutation(lengths)
    bucket_of = np.searchsorted(BOUNDARIES, shuffled, side="right")
    epochs = [in_turn(shuffled[bucket_of == bucket]) for bucket in np.unique(bucket_of)]
    return Epoch(*(np.concatenate(parts) for parts in zip(*epochs, strict=True)))


def group_by_length(lengths: np.ndarray, rng: np.random.Generator) -> Epoch:
    """Shuffled, then sorted inside of mega-batches."""
    shuffled = rng.permutation(lengths)
    size = BATCH_SIZE * max(1, min(lengths.size // (BATCH_SIZE * 4), MEGA_BATCH))
    return in_turn(np.concatenate([np.sort(shuffled[at : at + size])[::-1] for at in range(0, lengths.size, size)]))


def bucketed(lengths: np.ndarray, num_buckets: int | None = None) -> Epoch:
    """The first epoch of a BucketedSequence."""
    values = np.zeros(lengths.sum(), np.int8)
    splits = np.cumsum([0, *lengths])
    dataset = BucketedSequence.from_row_splits(values, splits, batch_size=BATCH_SIZE, num_buckets=num_buckets, seed=0)
    plan = dataset.epoch_plan(0)
    return Epoch(
        np.diff(plan.batch_splits), plan.padded_lengths, np.add.reduceat(lengths[plan.rows], plan.batch_splits[:-1])
    )


def packed(lengths: np.ndarray, rng: np.random.Generator) -> Epoch:
    """Rows as long as the longest sequence, as full as best fit makes them."""
    real = rng.permutation(pack(lengths, int(lengths.max())))
    num_updates = -(-lengths.size // BATCH_SIZE)
    starts = np.unique(np.arange(num_updates) * real.size // num_updates)
    rows = np.diff(np.append(starts, real.size))
    return Epoch(rows, np.full_like(rows, lengths.max()), np.add.reduceat(real, starts))


def pack(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """How full each row is: every sequence, the longest first, goes into the row where the least room is left over."""
    rooms: list[int] = []  # what is left in each row, increasing
    for length in np.sort(lengths)[::-1].tolist():
        at = bisect.bisect_left(rooms, length)
        room = rooms.pop(at) if at < len(rooms) else row_length
        bisect.insort(rooms, room - length)
    return row_length - np.array(rooms)


WAYS: dict[str, Callable[[np.ndarray, np.random.Generator], Epoch]] = {
    "padded to the longest": to_the_longest,
    "shuffled `padded_batch`": padded_batch,
    "`bucket_by_sequence_length`": bucket_by_sequence_length,
    "`group_by_length`": group_by_length,
    OURS: lambda lengths, _: bucketed(lengths),
    OURS_24: lambda lengths, _: bucketed(lengths, 24),
    PACKING: packed,
}


def figures_of(epoch: Epoch) -> dict[str, float]:
    """What an epoch comes to."""
    return {
        "updates": int(epoch.rows.size),
        "real": int(epoch.real.sum()),
        "timesteps": int(epoch.rows @ epoch.padded_lengths),
        "pairs": int(epoch.rows @ epoch.padded_lengths.astype(np.int64) ** 2),
        "sequential": int(epoch.padded_lengths.sum()),
    }


def tables(record: Record) -> list[Table]:
    """A line for each way, each figure against that of 24 buckets."""
    results = record["results"]
    ours = results[OURS_24]
    header = ["batches", "real timesteps", "padded timesteps", "pairs for attention", "one after the other", "updates"]
    rows = [
        [
            name,
            f"{figures['real'] / figures['timesteps']:.3f}",
            *(f"{figures[key] / ours[key]:.2f} x" for key in ("timesteps", "pairs", "sequential")),
            f"{figures['updates']:,}",
        ]
        for name, figures in results.items()
    ]
    return [Table("alternatives", "one epoch, against 24 buckets", header, rows)]


def figures(record: Record) -> dict[str, str]:
    """The share of real timesteps of each way, and what packing costs against 24 buckets."""
    results = record["results"]
    ours, packing = results[OURS_24], results[PACKING]
    real = {key: results[name]["real"] / results[name]["timesteps"] for key, name in _SHARES.items()}
    return {
        **{key: f"{100 * share:.0f}" for key, share in real.items()},
        "packing_saves": f"{100 * (1 - packing['timesteps'] / ours['timesteps']):.0f}",
        "packing_pairs": times(packing["pairs"] / ours["pairs"]).removesuffix(" x"),
        "packing_sequential": times(packing["sequential"] / ours["sequential"]).removesuffix(" x"),
    }


_SHARES = {
    "longest": "padded to the longest",
    "padded_batch": "shuffled `padded_batch`",
    "bucket_by_sequence_length": "`bucket_by_sequence_length`",
    "group_by_length": "`group_by_length`",
    "automatic": OURS,
    "buckets_24": OURS_24,
    "packing": PACKING,
}


def draw(axes: Any, results: dict[str, dict[str, float]]) -> None:
    """One panel a figure, one bar a way."""
    for axis, (key, label) in zip(axes, _PANELS.items(), strict=True):
        ratios = {name.replace("`", ""): figures[key] / results[OURS_24][key] for name, figures in results.items()}
        bars = {name: harness.Spread(ratio, ratio, ratio) for name, ratio in ratios.items()}
        harness.draw_bars(axis, bars, label, OURS.replace("`", ""), "{:.1f}")


_PANELS = {
    "timesteps": "padded timesteps, x 24 buckets",
    "pairs": "pairs of timesteps, x 24 buckets",
    "sequential": "timesteps one after the other, x 24 buckets",
}

if __name__ == "__main__":
    main()
