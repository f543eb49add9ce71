"""Trains on a folder of recordings that are read when a batch needs them, so that they need not fit into memory.

    python examples/wav_folder.py                    # writes recordings of its own to output/recordings, and trains
    python examples/wav_folder.py --folder folder    # wav files in a subfolder for each class: folder/yes/0001.wav
    python examples/wav_folder.py --save spectrograms    # computes each spectrogram once, into files that are mapped

Its own recordings are whistles of 0.2 to 1.5 seconds that rise, fall, or stay as they are, with noise. All that is read
beforehand is the header of each file, which tells how long it is. `load` reads a file and makes a spectrogram of it, in
several threads and ahead of the model; in every epoch again. With `--save` all spectrograms are written to a folder in
a single pass, which the dataset then reads in place: the same batches, and nothing to decode.
"""

import argparse
import wave
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier, PaddingStatsCallback, load_sequences, save_sequences

RATE = 8000  # samples a second, of the recordings that are written here
WINDOW, HOP = 256, 128  # samples: how many a timestep looks at, and how far it is from one to the next
NUM_BANDS = 32  # features a timestep


def write_whistles(folder: Path, num_files: int, seed: int = 0) -> None:
    """Writes mono wav files of 16 bits, in one subfolder for each way to whistle."""
    rng = np.random.default_rng(seed)
    for index in range(num_files):
        kind, octaves = [("falls", -1), ("rises", 1), ("stays", 0)][index % 3]
        num_samples = int(RATE * rng.uniform(0.2, 1.5))
        time = np.linspace(0, 1, num_samples)
        frequency = rng.uniform(500, 1500) * 2 ** (octaves * (time - 0.5))
        sound = np.sin(2 * np.pi * np.cumsum(frequency) / RATE) + rng.normal(0, 0.3, num_samples)
        path = folder / kind / f"{index:04}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, RATE, num_samples, "NONE", ""))
            file.writeframes((8000 * sound).clip(-32768, 32767).astype("<i2").tobytes())


def num_timesteps(path: Path) -> int:
    """The length of a recording's spectrogram, from its header alone."""
    with wave.open(str(path)) as file:
        return max(file.getnframes() - WINDOW, 0) // HOP + 1


def spectrogram(path: Path) -> np.ndarray:
    """The logarithm of the energy of each timestep and band: float32 `(length, NUM_BANDS)`."""
    with wave.open(str(path)) as file:
        if file.getsampwidth() != 2:
            raise ValueError(f"{path} has {8 * file.getsampwidth()} bits a sample. Expected 16.")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
    mono = samples.mean(axis=1) / 32768
    mono = np.pad(mono, (0, max(WINDOW - len(mono), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(mono, WINDOW)[::HOP] * np.hanning(WINDOW)
    energy = np.abs(np.fft.rfft(windows)[:, : WINDOW // 2]) ** 2
    bands = energy.reshape(len(windows), NUM_BANDS, -1).sum(axis=2)
    return np.log(bands + 1e-4).astype(np.float32)


def dataset_of(paths: list[Path], labels: np.ndarray, saved: Path | None, **options: object) -> BucketedSequence:
    """Batches of spectrograms: each computed when its batch is due, or all of them once, and saved."""
    options |= {"include_lengths": True, "batch_size": 16}
    if saved is not None:
        if not saved.exists():
            save_sequences(saved, (spectrogram(path) for path in paths))
        return BucketedSequence(load_sequences(saved), labels, **options)
    return BucketedSequence.from_loader(
        lambda row: spectrogram(paths[row]),
        [num_timesteps(path) for path in paths],
        labels,
        output_signature=tf.TensorSpec((None, NUM_BANDS), tf.float32),
        **options,
    )


def main() -> None:
    """Trains on four recordings in five and tests on the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("output/recordings"))
    parser.add_argument("--num-files", type=int, default=300, help="to write where the folder does not exist")
    parser.add_argument("--save", type=Path, help="folder for the spectrograms, written where it does not exist")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()

    if not arguments.folder.exists():
        write_whistles(arguments.folder, arguments.num_files)
    paths = sorted(arguments.folder.glob("*/*.wav"))
    classes, labels = np.unique([path.parent.name for path in paths], return_inverse=True)
    order = np.random.default_rng(0).permutation(len(paths))
    test, train = np.split(order, [len(paths) // 5])

    keras.utils.set_random_seed(1)
    saved = {part: arguments.save and arguments.save / part for part in ("train", "test")}
    dataset = dataset_of([paths[row] for row in train], labels[train], saved["train"], seed=1)
    model = MaskedLSTMClassifier(len(classes), units=32)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [PaddingStatsCallback(dataset)]
    model.fit(dataset, epochs=arguments.epochs, callbacks=callbacks, shuffle=False, verbose=2)

    held_out = dataset_of([paths[row] for row in test], labels[test], saved["test"], shuffle=False)
    predicted = held_out.predict(model, verbose=0).argmax(axis=1)
    for path, label in [(paths[row], classes[predicted[at]]) for at, row in enumerate(test[:3])]:
        print(f"{path.relative_to(arguments.folder)}: {label}")
    print(f"test accuracy {np.mean(predicted == labels[test]):.3f}, {len(test)} recordings of {len(classes)} classes")


if __name__ == "__main__":
    main()
