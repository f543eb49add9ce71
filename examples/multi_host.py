"""Trains on several hosts: Keras on JAX, one process a host, all of them on the shards of one plan.

Start it once on every host, with the same address of the first one and a number of its own:

    KERAS_BACKEND=jax python examples/multi_host.py --coordinator 10.0.0.1:12345 --num-processes 2 --process-id 0
    KERAS_BACKEND=jax python examples/multi_host.py --coordinator 10.0.0.1:12345 --num-processes 2 --process-id 1

To try it on one machine, start both there with `--coordinator localhost:12345`. With `--backup-dir` (a directory that
all hosts reach), kill one process in mid-epoch, stop the others, and start them again, 1, 2, 4 or 8 of them: they go on
with the batches that come next.

The data are made up: noisy sine waves of 5 to 120 timesteps, and the model tells slow from fast ones.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
from resume_training import make_waves

from keras_bucketing import BackupAndRestoreSequence, BucketedSequence, MaskedLSTMClassifier

MAX_PROCESSES = 8


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coordinator", required=True, help="address:port of process 0")
    parser.add_argument("--num-processes", type=int, required=True)
    parser.add_argument("--process-id", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--backup-dir", help="a directory that all processes reach")
    parser.add_argument("--save-freq", type=int, default=10, help="batches between two backups")
    parser.add_argument("--weights", help="write this process' final weights to this .weights.h5 file")
    return parser.parse_args()


def main() -> None:
    """Joins the other processes and trains."""
    arguments = parse_arguments()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # where there is no GPU
    jax.distributed.initialize(arguments.coordinator, arguments.num_processes, arguments.process_id)
    # The dataset deals each batch out itself: Keras must not do it again.
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))

    keras.utils.set_random_seed(1)
    x, y = make_waves(arguments.sequences, seed=1)
    dataset = BucketedSequence(
        x,
        y,
        batch_size=32,  # of all processes together
        batch_size_multiple=MAX_PROCESSES // jax.process_count(),  # so that any number of them reads the same batches
        num_buckets=3,
        pad_to_bucket_boundary=True,  # JAX compiles for every new shape: now there are four at most
        seed=1,
        num_shards=None,  # as many as there are processes
    )
    model = MaskedLSTMClassifier(num_classes=2, units=16)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.build((None, None, 1))
    callbacks = []
    if arguments.backup_dir:
        callbacks.append(
            BackupAndRestoreSequence(
                dataset, arguments.backup_dir, save_freq=arguments.save_freq, is_chief=jax.process_index() == 0
            )
        )
    verbose = 2 if jax.process_index() == 0 else 0
    model.fit(dataset, epochs=arguments.epochs, callbacks=callbacks, shuffle=False, verbose=verbose)
    if arguments.weights:
        model.save_weights(arguments.weights)


if __name__ == "__main__":
    main()
