"""Augmentation that changes lengths: the stream sorts rows by the lengths that they have after it.

    python examples/augmented_stream.py            # about twenty seconds on two cores
    python examples/augmented_stream.py --quick    # a few seconds, to see that it runs

A pen draws a spiral, to the left or to the right. In every epoch each drawing is played at another speed, from half to
twice as fast, and begins a little later, so that its length is drawn again too. Batches that were made by the lengths
before that are padded a good deal; `BucketedStream` sees the rows as they come. The model is evaluated on drawings that
were not touched.
"""

import argparse
from collections.abc import Iterator

import keras
import numpy as np

from keras_bucketing import BucketedSequence, BucketedStream, PaddingStatsCallback

BATCH_SIZE = 16


def draw_spirals(num_drawings: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Positions of a pen, float32 arrays `(20 to 120, 2)`, and in which direction it turned, 0 or 1."""
    rng = np.random.default_rng(seed)
    directions = rng.integers(0, 2, num_drawings)
    drawings = []
    for direction in directions:
        steps = np.linspace(0.2, 1, rng.integers(20, 121))
        angles = rng.uniform(0, 2 * np.pi) + (2 * direction - 1) * rng.uniform(4, 9) * steps
        points = np.stack([steps * np.cos(angles), steps * np.sin(angles)], axis=1)
        drawings.append((points + rng.normal(0, 0.05, points.shape)).astype(np.float32))
    return drawings, directions


def augment(drawing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The drawing from a little later on, at another speed: `(time, 2)`."""
    begin = rng.uniform(0, 0.2) * len(drawing)
    num_steps = max(round((len(drawing) - begin) / rng.uniform(0.5, 2)), 2)
    times = np.linspace(begin, len(drawing) - 1, num_steps)
    return np.stack([np.interp(times, np.arange(len(drawing)), axis) for axis in drawing.T], axis=1).astype(np.float32)


class AugmentedRows:
    """The drawings, in another order and augmented in another way each time that they are iterated over."""

    def __init__(self, drawings: list[np.ndarray], directions: np.ndarray, seed: int):
        self._drawings, self._directions = drawings, directions
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        """With it Keras knows the number of steps before the first epoch."""
        return len(self._drawings)

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for row in self._rng.permutation(len(self._drawings)):
            yield augment(self._drawings[row], self._rng), self._directions[row]


def efficiency_by_lengths_before(drawings: list[np.ndarray], seed: int) -> float:
    """The share of real timesteps where batches are made of lengths before the augmentation."""
    rng = np.random.default_rng(seed)
    plan = BucketedSequence(drawings, batch_size=BATCH_SIZE, seed=seed).epoch_plan(0)
    real = total = 0
    for rows in plan:
        lengths = [len(augment(drawings[row], rng)) for row in rows]
        real, total = real + sum(lengths), total + len(rows) * max(lengths)
    return real / total


def make_model() -> keras.Model:
    """A small recurrent classifier; the mask keeps padding out of it."""
    layers = [keras.layers.Masking(), keras.layers.GRU(16), keras.layers.Dense(1, "sigmoid")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy"])
    return model


def main(arguments: list[str] | None = None) -> tuple[float, float, float]:
    """Trains; returns the padding efficiencies by lengths before and after the augmentation, and the accuracy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few drawings, one epoch")
    quick = parser.parse_args(arguments).quick
    num_drawings, epochs = (200, 1) if quick else (2_000, 4)
    keras.utils.set_random_seed(1)

    drawings, directions = draw_spirals(num_drawings, seed=1)
    stream = BucketedStream(AugmentedRows(drawings, directions, seed=2), batch_size=BATCH_SIZE, buffer_size=1_024)
    validation = BucketedSequence(*draw_spirals(num_drawings // 4, seed=3), batch_size=BATCH_SIZE, shuffle=False)
    padding = PaddingStatsCallback(stream)
    model = make_model()
    model.fit(stream, epochs=epochs, validation_data=validation, callbacks=[padding], verbose=0 if quick else 2)

    assert [stats.num_sequences for stats in padding.history] == [num_drawings] * epochs  # each drawing once an epoch
    real_timesteps = {stats.real_timesteps for stats in padding.history}
    assert len(real_timesteps) == epochs, "The lengths of an epoch are those of another one."
    before = efficiency_by_lengths_before(drawings, seed=2)
    after = float(np.mean([stats.padding_efficiency for stats in padding.history]))
    accuracy = float(model.evaluate(validation, verbose=0, return_dict=True)["accuracy"])
    print(f"real timesteps, bucketed by lengths before the augmentation: {before:.3f}, by those after: {after:.3f}")
    print(f"accuracy on drawings that were not touched: {accuracy:.3f}")
    assert after > before + 0.1
    return before, after, accuracy


if __name__ == "__main__":
    main()
