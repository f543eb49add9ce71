"""Tells nine speakers apart by recordings of different lengths: UCI Japanese Vowels.

    python examples/japanese_vowels.py                      # one seed
    python examples/japanese_vowels.py --seeds 0 1 2 3 4    # mean accuracy and spread
    python examples/japanese_vowels.py --cross-validate     # how RECIPE was chosen

270 recordings to train on and 370 to test on, 12 channels (LPC cepstrum coefficients), 7 to 29 timesteps. The `sktime`
package carries the data, so nothing is downloaded.

RECIPE is the best of CANDIDATES in a five-fold cross-validation on the TRAINING split alone, which `--cross-validate`
runs again; the candidates come from a coarser search on the same folds. Three buckets are better than the automatic
choice because lengths tell the speaker: the fewer buckets, the more speakers in each batch. The test split took no part
in the choice. The accuracies are in docs/decisions/fewer-buckets.md, measured by benchmarks/few_buckets.py.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sktime.datasets import load_japanese_vowels

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier, PaddingStatsCallback

RECIPE = {
    "units": 64,
    "pooling": "mean",
    "dropout": 0.3,
    "noise": 0.5,  # standard deviation of what is added to the standardised channels in training
    "label_smoothing": 0.1,
    "learning_rate": 1e-2,
    "batch_size": 32,
    "num_buckets": 3,
    "epochs": 60,
}
CANDIDATES = [  # what --cross-validate compares
    RECIPE,
    {**RECIPE, "num_buckets": None},  # automatic
    {**RECIPE, "num_buckets": None, "noise": 0.0, "label_smoothing": 0.0},
    {**RECIPE, "num_buckets": None, "noise": 0.0, "label_smoothing": 0.0, "pooling": "last"},
]
NUM_FOLDS = 5


def load_recordings(split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The recordings `(length, 12)` of a split, "train" or "test", and their speakers, 0 to 8."""
    frames, speakers = load_japanese_vowels(split=split, return_type="df-list")
    return [frame.to_numpy() for frame in frames], speakers.astype(int) - 1


def standardize(recordings: list[np.ndarray], reference: list[np.ndarray]) -> list[np.ndarray]:
    """Gives each channel the mean 0 and the standard deviation 1 over all timesteps of the reference."""
    timesteps = np.concatenate(reference)
    mean, deviation = timesteps.mean(axis=0), timesteps.std(axis=0)
    return [(recording - mean) / deviation for recording in recordings]


def train(
    x: list[np.ndarray], y: np.ndarray, recipe: dict, seed: int, verbose: int = 0
) -> tuple[keras.Model, BucketedSequence]:
    """A classifier trained on standardised recordings, and the batches that it was trained on."""
    keras.utils.set_random_seed(seed)
    labels = keras.utils.to_categorical(y, 9)
    dataset = BucketedSequence(
        x,
        labels,
        batch_size=recipe["batch_size"],
        num_buckets=recipe["num_buckets"],
        include_lengths=True,
        seed=seed,
    )
    model = MaskedLSTMClassifier(
        num_classes=9,
        units=recipe["units"],
        bidirectional=True,
        pooling=recipe["pooling"],
        dropout=recipe["dropout"],
    )
    learning_rate = keras.optimizers.schedules.CosineDecay(recipe["learning_rate"], recipe["epochs"] * len(dataset))
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe["label_smoothing"])
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    callback = PaddingStatsCallback(dataset)
    noisy = dataset.map(lambda inputs, label: (add_noise(inputs, recipe["noise"]), label)).prefetch(2)
    model.fit(noisy, epochs=recipe["epochs"], shuffle=False, callbacks=[callback], verbose=verbose)
    return model, dataset


def add_noise(inputs: dict, deviation: float) -> dict:
    """Other noise in every epoch. It falls on the padding, too, where it does no harm: the mask comes from lengths."""
    sequences = inputs["sequences"]
    return {**inputs, "sequences": sequences + tf.random.normal(tf.shape(sequences), stddev=deviation)}


def predict(model: keras.Model, x: list[np.ndarray]) -> np.ndarray:
    """The probabilities `(num_recordings, 9)`, in the order of the recordings."""
    dataset = BucketedSequence(x, batch_size=64, include_lengths=True, shuffle=False)
    return dataset.predict(model, verbose=0)


def make_folds(speakers: np.ndarray, num_folds: int) -> np.ndarray:
    """The fold of each recording: runs of consecutive recordings of each speaker.

    Recordings that follow one another sound more alike than those of the test split will, so folds drawn at random
    would flatter every candidate.
    """
    folds = np.empty(len(speakers), int)
    for speaker in np.unique(speakers):
        rows = np.flatnonzero(speakers == speaker)
        folds[rows] = np.arange(len(rows)) * num_folds // len(rows)
    return folds


def cross_validate(recipe: dict, seed: int, num_folds: int = NUM_FOLDS) -> float:
    """The accuracy on held-out parts of the training split."""
    recordings, speakers = load_recordings("train")
    folds = make_folds(speakers, num_folds)
    probabilities = np.empty((len(speakers), 9))
    for fold in range(num_folds):
        rest, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        reference = [recordings[row] for row in rest]
        model, _ = train(standardize(reference, reference), speakers[rest], recipe, seed)
        probabilities[held_out] = predict(model, standardize([recordings[row] for row in held_out], reference))
    return float(np.mean(probabilities.argmax(axis=1) == speakers))


def print_cross_validation(candidates: list[dict], seeds: list[int]) -> None:
    """One line for each candidate: the mean over the seeds, and from where to where they reach."""
    for candidate in candidates:
        accuracies = [cross_validate(candidate, seed) for seed in seeds]
        spread = f"{min(accuracies):.4f} to {max(accuracies):.4f}"
        print(f"accuracy {np.mean(accuracies):.4f}, from {spread}  {candidate}", flush=True)


def accuracy_on_test_split(recipe: dict, seed: int) -> float:
    """The accuracy on the test split of a model trained on the training split."""
    (reference, y), (recordings, test_y) = load_recordings("train"), load_recordings("test")
    model, _ = train(standardize(reference, reference), y, recipe, seed)
    return float(np.mean(predict(model, standardize(recordings, reference)).argmax(axis=1) == test_y))


def run(recipe: dict, seeds: list[int], output: Path) -> None:
    """Trains with each seed and evaluates on the test split."""
    reference, y = load_recordings("train")
    x = standardize(reference, reference)
    recordings, test_y = load_recordings("test")
    test_x = standardize(recordings, reference)
    accuracies = []
    for seed in seeds:
        start = time.perf_counter()
        model, dataset = train(x, y, recipe, seed, verbose=1 if len(seeds) == 1 else 0)
        probabilities = predict(model, test_x)
        accuracies.append(np.mean(probabilities.argmax(axis=1) == test_y))
        print(f"seed {seed}: test accuracy {accuracies[-1]:.4f} ({time.perf_counter() - start:.0f} s)", flush=True)
    if len(seeds) > 1:
        print(f"mean {np.mean(accuracies):.4f}, from {min(accuracies):.4f} to {max(accuracies):.4f}")

    print("\nThe buckets:")
    dataset.summary()
    stats = dataset.padding_stats()
    saved = 1 - stats.total_timesteps / stats.pad_to_longest_timesteps
    print(f"\n{stats.pad_to_longest_timesteps} timesteps an epoch with everything padded to the longest recording.")
    print(f"{stats.total_timesteps} in these buckets, {saved:.0%} fewer; {stats.real_timesteps} of them are real.")
    output.parent.mkdir(parents=True, exist_ok=True)
    dataset.plot().figure.savefig(output, dpi=150)
    print(f"\nA picture of the buckets: {output}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", "--seed", type=int, nargs="+", default=[0], help="one training run each")
    parser.add_argument("--cross-validate", action="store_true", help="compare CANDIDATES on the training split")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two epochs, to see that all of it runs")
    parser.add_argument("--output", type=Path, default=Path("output/japanese_vowels_buckets.png"), help="the picture")
    arguments = parser.parse_args()
    quick = {"units": 8, "epochs": 2} if arguments.quick else {}
    if arguments.cross_validate:
        print_cross_validation([{**candidate, **quick} for candidate in CANDIDATES], arguments.seeds)
    else:
        run({**RECIPE, **quick}, arguments.seeds, arguments.output)


if __name__ == "__main__":
    main()
