"""An ordinary Keras project, monitored as it is, then with one line changed.

    python examples/existing_project.py            # less than a minute on two cores
    python examples/existing_project.py --quick    # a few seconds, to see that it runs

The task: which package does a function come from, the Python standard library, NumPy or Keras? The text is the source
of the functions installed on this machine. The project does what most do: `pad_sequences`, `Embedding(mask_zero=True)`,
an LSTM. Sequences are cut to MAXLEN tokens to keep the padded run short; on uncut data bucketing saves more. With
Matplotlib installed, it draws an epoch before and after.
"""

import argparse
import importlib.util
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from epoch_picture import DrawnEpoch, draw_epochs
from functions_corpus import PACKAGES, load_functions

from keras_bucketing import BucketedSequence, PaddingStats, PaddingStatsCallback, monitor_padding

MAXLEN = 400
BATCH_SIZE = 32


def load_padded(per_package: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], int]:
    """Token ids padded to the longest, and labels, to train and to test on; and the size of the vocabulary."""
    train, test = load_functions(per_package)
    lookup = keras.layers.StringLookup(max_tokens=4000, mask_token="")  # id 0 is padding, 1 any other token
    lookup.adapt(np.concatenate([np.array(tokens) for tokens in train.tokens]))
    padded = []
    for part in (train, test):
        ids = [lookup(tf.constant(tokens)).numpy() for tokens in part.tokens]
        padded.append((keras.utils.pad_sequences(ids, maxlen=MAXLEN, truncating="post"), part.labels))
    return padded[0], padded[1], lookup.vocabulary_size()


def make_model(vocabulary_size: int, num_steps: int) -> keras.Model:
    """The project's model; the same before and after. Its learning rate falls to 0 in `num_steps` steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Embedding(vocabulary_size, 32, mask_zero=True),
            keras.layers.LSTM(32),
            keras.layers.Dense(len(PACKAGES), activation="softmax"),
        ]
    )
    learning_rate = keras.optimizers.schedules.CosineDecay(3e-3, num_steps)
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(name: str, dataset: tf.data.Dataset, test: tuple, vocabulary_size: int, epochs: int) -> PaddingStats:
    """Trains, prints how much of the last epoch was padding, and returns the statistics of the last epoch."""
    print(f"\n== {name}")
    model = make_model(vocabulary_size, num_steps=epochs * len(dataset))
    padding = PaddingStatsCallback(dataset)
    model.fit(dataset, epochs=epochs, shuffle=False, callbacks=[padding], verbose=2)
    print("\n".join(str(padding.history[-1]).splitlines()[:3]))
    accuracy = model.evaluate(*test, batch_size=BATCH_SIZE, verbose=0, return_dict=True)["accuracy"]
    print(f"test accuracy {accuracy:.3f}")
    return padding.history[-1]


def draw(before: PaddingStats, after: PaddingStats, dataset: BucketedSequence, path: Path) -> None:
    """Draws the last epoch before and after the change."""
    plan = dataset.epoch_plan(dataset.epoch - 1)
    rows = np.random.default_rng(0).permutation(len(dataset.lengths))
    random_batches = np.split(dataset.lengths[rows], np.arange(BATCH_SIZE, len(rows), BATCH_SIZE))
    titles = [f"{stats.padding_efficiency:.0%} real timesteps, {stats.seconds:.1f} s" for stats in (before, after)]
    figure = draw_epochs(
        [
            DrawnEpoch(f"padded to the longest: {titles[0]}", random_batches, [MAXLEN] * len(random_batches)),
            DrawnEpoch(f"BucketedSequence: {titles[1]}", [dataset.lengths[rows] for rows in plan], plan.padded_lengths),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"written: {path}")


def main(arguments: list[str] | None = None) -> tuple[PaddingStats, PaddingStats]:
    """Runs both; returns the padding of their last epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 functions of each package instead of 1000")
    parser.add_argument("--epochs", type=int, default=2, help="default: 2")
    parser.add_argument("--picture", type=Path, default=Path("output/existing_project.png"))
    options = parser.parse_args(arguments)
    (x, y), test, vocabulary_size = load_padded(60 if options.quick else 1000)
    majority = np.bincount(test[1]).max() / len(test[1])
    print(f"{len(x)} functions to train on, {len(test[1])} to test on")
    print(f"accuracy of answering always the most frequent package: {majority:.3f}")

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(BATCH_SIZE).prefetch(2)
    before = train("padded to the longest", monitor_padding(dataset), test, vocabulary_size, options.epochs)

    dataset = BucketedSequence.from_padded(x, y, batch_size=BATCH_SIZE, seed=0)
    after = train("one line changed: BucketedSequence", dataset, test, vocabulary_size, options.epochs)

    print(
        f"\npadding efficiency {before.padding_efficiency:.3f} -> {after.padding_efficiency:.3f}, "
        f"epoch {before.seconds:.1f} s -> {after.seconds:.1f} s ({before.seconds / after.seconds:.1f} x)"
    )
    if importlib.util.find_spec("matplotlib"):
        draw(before, after, dataset, options.picture)
    return before, after


if __name__ == "__main__":
    main()
