"""A rare class: even drawing by `sampling_weights` beside `class_weight` and neither, at as many updates.

Noisy sine waves of 5 to 60 timesteps, of which one in thirty is a fault: for some timesteps it swings faster. A GRU
reads them, from the same initial weights in each round. Average precision is the area under precision and recall, which
has no threshold; balanced accuracy is the mean of both classes' accuracies at a threshold of one half. Both are those
of as many other waves, of which as few are faults.

    python -m benchmarks.rare_classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks import harness
from benchmarks.tables import Record, Table
from keras_bucketing import BucketedSequence

FAULTS = 1 / 30
EVEN, WEIGHTED, PLAIN = "even drawing, `sampling_weights`", "`class_weight`", "every row once"


def main() -> None:
    """Trains, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    num_waves, epochs, seeds = (90, 1, 1) if arguments.quick else (3000, 8, 3)
    results: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        train, test = (make_waves(num_waves, 2 * seed + part) for part in (0, 1))
        for name, fit in contenders(*train, epochs, seed).items():
            keras.utils.set_random_seed(seed)
            model = make_model()
            updates = fit(model)
            figures = {"updates": updates, **judge(model, *test)}
            print(f"seed {seed}, {name}: {figures}", flush=True)
            for figure, value in figures.items():
                results.setdefault(name, {}).setdefault(figure, []).append(value)
    record = {"waves": num_waves, "epochs": epochs, "seeds": seeds, "results": results}
    harness.publish(arguments.output, "rare_classes", record, tables)
    harness.write_picture(arguments.output, "rare_classes", lambda axes: draw(axes, results))


def tables(record: Record) -> list[Table]:
    """One line a way to train."""
    return [
        Table(
            "rare_classes",
            "one fault in thirty waves",
            ["training", "updates", "average precision", "lowest and highest", "balanced accuracy", "faults found"],
            [
                [
                    name,
                    f"{figures['updates'][0]:,}",
                    f"{np.mean(figures['average_precision']):.3f}",
                    f"{min(figures['average_precision']):.3f} to {max(figures['average_precision']):.3f}",
                    f"{np.mean(figures['balanced_accuracy']):.3f}",
                    f"{np.mean(figures['faults_found']):.0%}",
                ]
                for name, figures in record["results"].items()
            ],
            note=f"Means over {record['seeds']} seeds, after {record['epochs']} epochs of {record['waves']:,} waves.",
        )
    ]


def figures(record: Record) -> dict[str, str]:
    """What the pages quote in their text."""
    return {
        f"{key}_precision": f"{np.mean(record['results'][name]['average_precision']):.2f}"
        for key, name in (("even", EVEN), ("weighted", WEIGHTED), ("plain", PLAIN))
    }


def make_waves(num_waves: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Sine waves `(length, 1)` with noise, and whether each has a fault."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(num_waves) < max(round(num_waves * FAULTS), 1)).astype(np.int64)
    waves = []
    for label in labels:
        length = rng.integers(5, 61)
        speed = np.full(length, rng.uniform(0.1, 0.3))
        begin = rng.integers(0, length)
        speed[begin : begin + 8] *= 1 + 2 * label
        waves.append(np.sin(np.cumsum(speed) + rng.uniform(0, 6))[:, np.newaxis] + rng.normal(0, 0.1, (length, 1)))
    return waves, labels


def contenders(x: list[np.ndarray], y: np.ndarray, epochs: int, seed: int) -> dict[str, Callable[[Any], int]]:
    """Functions that train a model, and return the number of updates."""
    counts = np.bincount(y)

    def fit(options: dict[str, Any], **fit_options: Any) -> Callable[[Any], int]:
        def train(model: keras.Model) -> int:
            dataset = BucketedSequence(x, y, num_buckets=4, seed=seed, **options)
            model.fit(dataset, epochs=epochs, verbose=0, shuffle=False, **fit_options)
            return epochs * len(dataset)

        return train

    return {
        EVEN: fit({"sampling_weights": 1 / counts[y], "rows_per_epoch": len(x)}),
        WEIGHTED: fit({}, class_weight=dict(enumerate((len(y) / (2 * counts)).tolist()))),
        PLAIN: fit({}),
    }


def make_model() -> keras.Model:
    """A GRU behind a mask."""
    layers = [keras.layers.Masking(), keras.layers.GRU(16), keras.layers.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((None, 1)), *layers])
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", jit_compile=False)
    return model


def judge(model: keras.Model, x: list[np.ndarray], y: np.ndarray) -> dict[str, float]:
    """How well the model tells faults."""
    scores = BucketedSequence(x, batch_size=128, shuffle=False).predict(model, verbose=0)[:, 0]
    is_fault = y == 1
    ranked = is_fault[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / (np.arange(len(ranked)) + 1)
    found = float((scores[is_fault] > 0.5).mean())
    return {
        "average_precision": float(precision[ranked].mean()),
        "balanced_accuracy": (found + float((scores[~is_fault] <= 0.5).mean())) / 2,
        "faults_found": found,
    }


def draw(axes: Any, results: dict[str, dict[str, list[float]]]) -> None:
    """A dot a seed."""
    for position, of_name in enumerate(results.values()):
        precisions = of_name["average_precision"]
        axes[0].plot(precisions, [position] * len(precisions), "o", color="0.1" if position == 0 else "0.6")
    axes[0].set_yticks(range(len(results)), [name.replace("`", "") for name in results])
    axes[0].set(xlabel="average precision, a dot a seed", ylim=(-0.5, len(results) - 0.5))


if __name__ == "__main__":
    main()
