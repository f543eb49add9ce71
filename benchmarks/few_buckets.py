"""Fewer buckets where lengths tell the label: the accuracy of the Japanese Vowels example, and the number of buckets.

A speaker's recordings are of similar length, so that the batches of many buckets hold few speakers each. The model is
that of examples/japanese_vowels.py, cross-validated on the training split with its three buckets and with the
automatic number; the accuracy on the test split is that of three buckets, the choice that was made on the training
split.

    python -m benchmarks.few_buckets
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.tables import Record, Table
from examples import japanese_vowels

SEEDS = [0, 1, 2, 3, 4]
QUICK: dict[str, Any] = {"units": 4, "epochs": 1}
AUTOMATIC = "automatic"


def main() -> None:
    """Trains, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    recipe = {**japanese_vowels.RECIPE, **(QUICK if arguments.quick else {})}
    seeds, num_folds = (SEEDS[:1], 2) if arguments.quick else (SEEDS, japanese_vowels.NUM_FOLDS)
    chosen = str(recipe["num_buckets"])
    candidates = {chosen: recipe, AUTOMATIC: {**recipe, "num_buckets": None}}
    accuracies: dict[str, list[float]] = {name: [] for name in candidates}
    for seed in seeds[:3]:
        for name, candidate in candidates.items():
            accuracies[name].append(japanese_vowels.cross_validate(candidate, seed, num_folds))
            print(f"seed {seed}, {name} buckets: accuracy {accuracies[name][-1]:.4f}", flush=True)
    results = {"cross_validated": accuracies, "chosen": chosen}
    results["test"] = [japanese_vowels.accuracy_on_test_split(recipe, seed) for seed in seeds]
    harness.publish(arguments.output, "few_buckets", results, tables)
    harness.write_picture(arguments.output, "few_buckets", lambda axes: draw(axes, accuracies))


def tables(record: Record) -> list[Table]:
    """One line a choice of buckets."""
    accuracies, test = record["cross_validated"], record["test"]
    return [
        Table(
            "few_buckets",
            "Japanese Vowels",
            ["buckets", "accuracy in cross-validation", "lowest and highest", "accuracy on the test split"],
            [
                [
                    name,
                    f"{np.mean(of_name):.3f}",
                    f"{min(of_name):.3f} to {max(of_name):.3f}",
                    f"{np.mean(test):.3f}" if name == record["chosen"] else "",
                ]
                for name, of_name in accuracies.items()
            ],
            note=f"Means over {len(accuracies[AUTOMATIC])} seeds in cross-validation, {len(test)} on the test split.",
        )
    ]


def figures(record: Record) -> dict[str, str]:
    """What the pages quote in their text."""
    accuracies = record["cross_validated"]
    return {
        "chosen": f"{np.mean(accuracies[record['chosen']]):.3f}",
        "automatic": f"{np.mean(accuracies[AUTOMATIC]):.3f}",
        "test": f"{np.mean(record['test']):.3f}",
    }


def draw(axes: Any, accuracies: dict[str, list[float]]) -> None:
    """A dot a seed."""
    for position, (name, of_name) in enumerate(accuracies.items()):
        axes[0].plot(of_name, [position] * len(of_name), "o", color="0.1" if name != AUTOMATIC else "0.6")
    axes[0].set_yticks(range(len(accuracies)), [f"{name} buckets" for name in accuracies])
    axes[0].set(xlabel="accuracy in cross-validation, a dot a seed", ylim=(-0.5, len(accuracies) - 0.5))


if __name__ == "__main__":
    main()
