"""Trains on all devices of one machine with `tf.distribute.MirroredStrategy`.

    python examples/mirrored_devices.py                     # all GPUs
    python examples/mirrored_devices.py --cpu-devices 2     # no GPU: two parts of the processor, to try it

Each batch is split among the devices. `batch_size_multiple` makes the parts equal: without it, a batch whose rows do
not divide gives one device fewer rows than another or none at all, and the loss of no rows is NaN.

The data are made up: noisy sine waves of 5 to 120 timesteps, and the model tells slow from fast ones.
"""

import argparse
import json
from pathlib import Path

import keras
import tensorflow as tf
from resume_training import make_waves

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier, PaddingStatsCallback


def make_strategy(cpu_devices: int | None) -> tf.distribute.Strategy:
    """A strategy over all GPUs, or over so many parts of the processor."""
    if cpu_devices is None:
        return tf.distribute.MirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpu_devices)
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(cpu_devices)])


def main() -> None:
    """Trains and prints what each device got."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-devices", type=int, help="parts of the processor to use as devices")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the losses and the padding statistics to this file")
    arguments = parser.parse_args()
    strategy = make_strategy(arguments.cpu_devices)

    keras.utils.set_random_seed(1)
    x, y = make_waves(arguments.sequences, seed=1)
    dataset = BucketedSequence(x, y, batch_size=32, batch_size_multiple=strategy.num_replicas_in_sync, seed=1)
    with strategy.scope():
        model = MaskedLSTMClassifier(num_classes=2, units=arguments.units)
        model.compile("adam", "sparse_categorical_crossentropy")
    callback = PaddingStatsCallback(dataset)
    history = model.fit(dataset, epochs=arguments.epochs, callbacks=[callback], shuffle=False, verbose=2)

    rows = dataset.bucket_batch_sizes[0] // strategy.num_replicas_in_sync
    print(f"\n{strategy.num_replicas_in_sync} devices, {rows} rows each; {callback.history[0].left_out} rows left out")
    callback.report()
    if arguments.json:
        arguments.json.write_text(json.dumps({"loss": history.history["loss"], **callback.to_dict()}))


if __name__ == "__main__":
    main()
