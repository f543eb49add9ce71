"""Goes on with a training run that was killed, in the middle of an epoch, with the very batches that come next.

Run it, kill it at any time (Ctrl-C, `kill -9`), and run the same command again:

    python examples/resume_training.py --backup-dir output/backup

The data are made up: noisy sine waves of 5 to 120 timesteps, and the model tells slow from fast ones.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from keras_bucketing import BackupAndRestoreSequence, BucketedSequence, MaskedLSTMClassifier


def make_waves(num_sequences: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Slow (label 0) and fast (label 1) sine waves `(length, 1)`, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_sequences)
    waves = []
    for label in labels:
        steps = np.arange(rng.integers(5, 121))[:, np.newaxis]
        frequency = rng.uniform(0.1, 0.2) * (1 + 2 * label)
        waves.append(np.sin(frequency * steps + rng.uniform(0, 6)) + rng.normal(0, 0.3, steps.shape))
    return waves, labels


def main() -> None:
    """Trains, restoring what an earlier run with the same directory has left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backup-dir", type=Path, default=Path("output/backup"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--save-freq", type=int, default=10, help="batches between two backups")
    parser.add_argument("--weights", type=Path, help="write the final weights to this .weights.h5 file")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(1)
    x, y = make_waves(arguments.sequences, seed=1)
    dataset = BucketedSequence(x, y, seed=1)
    model = MaskedLSTMClassifier(num_classes=2, units=16)
    model.compile("adam", "sparse_categorical_crossentropy")
    model(next(iter(dataset.take(1)))[0])  # BackupAndRestore needs a built model
    dataset.seek(epoch=0)  # that look at the data began a pass

    backup = BackupAndRestoreSequence(dataset, arguments.backup_dir, save_freq=arguments.save_freq)
    model.fit(dataset, epochs=arguments.epochs, callbacks=[backup], shuffle=False, verbose=2)
    if arguments.weights:
        model.save_weights(arguments.weights)


if __name__ == "__main__":
    main()
