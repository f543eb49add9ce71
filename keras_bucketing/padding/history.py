"""A record of padding over epochs, as a table and as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_bucketing.checks import count_of
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.padding.text_table import format_table

_COLUMNS = (
    "sequences",
    "batches",
    "shapes",
    "left out",
    "real",
    "timesteps",
    "efficiency",
    "x longest",
    "x random",
    "seconds",
    "real/s",
)


@dataclasses.dataclass
class PaddingHistory:
    """The padding of each epoch, evaluation and prediction.

    Attributes:
        epochs: List of ints, Keras' number of each epoch.
        train: List of `PaddingStats`, one for each of them.
        validation: List of `PaddingStats` or None, one for each of them.
        evaluate: List of `PaddingStats`.
        predict: List of `PaddingStats`.

    Example:
        >>> history = PaddingHistory()
        >>> history.add_epoch(0, PaddingStats(num_sequences=2, real_timesteps=3, total_timesteps=4), None)
        >>> history.to_dict()["epochs"][0]["train"]["padding_efficiency"]
        0.75
    """

    epochs: list[int] = dataclasses.field(default_factory=list)
    train: list[PaddingStats] = dataclasses.field(default_factory=list)
    validation: list[PaddingStats | None] = dataclasses.field(default_factory=list)
    evaluate: list[PaddingStats] = dataclasses.field(default_factory=list)
    predict: list[PaddingStats] = dataclasses.field(default_factory=list)

    def add_epoch(self, epoch: int, train: PaddingStats, validation: PaddingStats | None) -> None:
        """Appends an epoch of training."""
        self.epochs.append(epoch)
        self.train.append(train)
        self.validation.append(validation)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, lists and dicts."""
        return {
            "epochs": [
                {"epoch": epoch, "train": train.to_dict(), "validation": val.to_dict() if val else None}
                for epoch, train, val in zip(self.epochs, self.train, self.validation, strict=True)
            ],
            "evaluate": [stats.to_dict() for stats in self.evaluate],
            "predict": [stats.to_dict() for stats in self.predict],
        }

    def __str__(self) -> str:
        rows: list[list[object]] = []
        for epoch, train, val in zip(self.epochs, self.train, self.validation, strict=True):
            rows.append([f"epoch {epoch + 1}", *_cells(train)])
            if val is not None:
                rows.append(["  validation", *_cells(val)])
        rows += [["evaluate", *_cells(stats)] for stats in self.evaluate]
        rows += [["predict", *_cells(stats)] for stats in self.predict]
        table = format_table(["", *_COLUMNS], rows)
        note = "(x longest, x random: timesteps saved against padding to the longest, and against random batches)"
        return "\n".join([table, note, *([f"\nLast epoch: {self.train[-1]}"] if self.train else [])])


def describe(stats: PaddingStats, validation: PaddingStats | None) -> str:
    """One line for a progress report."""
    text = (
        f"padding efficiency {stats.padding_efficiency:.4f}, {count_of(stats.num_batches, 'batch', 'batches')}, "
        f"random batches have {stats.speedup_over_random:.2f} x as many timesteps"
    )
    return text if validation is None else f"{text}; validation {validation.padding_efficiency:.4f}"


def describe_training(epochs: list[PaddingStats]) -> str:
    """One line for the end of training: the padding, and what padding to the longest would have cost."""
    stats = sum(epochs, PaddingStats())
    return (
        f"Padding in {count_of(len(epochs), 'epoch')}: {stats.real_timesteps} of {stats.total_timesteps} timesteps "
        f"were real ({stats.padding_efficiency:.1%}); padded to the longest, it would have been "
        f"{stats.pad_to_longest_timesteps} timesteps, {stats.speedup_over_longest:.2f} x as many."
    )


def _cells(stats: PaddingStats) -> list[object]:
    return [
        stats.num_sequences,
        stats.num_batches,
        len(stats.shapes),
        stats.left_out,
        stats.real_timesteps,
        stats.total_timesteps,
        stats.padding_efficiency,
        f"{stats.speedup_over_longest:.2f}",
        f"{stats.speedup_over_random:.2f}",
        f"{stats.seconds:.2f}",
        f"{stats.real_timesteps_per_second:.0f}",
    ]
