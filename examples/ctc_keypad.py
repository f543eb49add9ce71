"""CTC, as in speech recognition: hears which keys of a telephone were pressed.

    python examples/ctc_keypad.py            # about two minutes on two cores
    python examples/ctc_keypad.py --quick    # a few seconds, to see that it runs

Each key sounds as a pair of tones (DTMF, ITU-T Q.23), for a time that varies, in noise, with pauses between them. The
sound becomes a row of frames, the loudness of the eight frequencies each 25 ms. Frames and keys do not line up, so the
labels have a length of their own: `align_labels=False`. With `include_lengths=True` both lengths are in `x`, and the
loss is told them. It is then one value a sequence that padding cannot reach, so its mean over the sequences is the same
in buckets, in random batches and padded to the longest.

`keras.losses.CTC()` is not told them. It takes every row to be as long as its batch: the model has to learn to say
"nothing" on padding, and the loss of a row grows with the length that it is padded to.
"""

import argparse

import keras
import numpy as np

from keras_bucketing import BucketedSequence, KeepMask, PaddingStatsCallback, SequenceMasking

KEYS = "123A456B789C*0#D"  # key i is class i + 1: 0 is CTC's blank
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477, 1633)  # Hz
SAMPLE_RATE = 8000
FRAME = 200  # samples
FREQUENCIES = np.exp(2j * np.pi * np.outer(np.arange(FRAME), (*LOW, *HIGH)) / SAMPLE_RATE)


def dial(keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a call with these keys sounds like, as frames `(length, 8)`."""
    pieces = [np.zeros(rng.integers(200, 2000))]
    for key in keys:
        time = np.arange(rng.integers(500, 1600)) / SAMPLE_RATE
        tones = [np.sin(2 * np.pi * hertz * time) for hertz in (LOW[key // 4], HIGH[key % 4])]
        pieces += [rng.uniform(0.3, 1.0) * sum(tones), np.zeros(rng.integers(400, 1600))]
    sound = np.concatenate(pieces)
    sound += rng.normal(scale=1.0, size=len(sound))
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    return np.log(np.abs(frames @ FREQUENCIES) + 1).astype("float32") - 3


def make_data(num_calls: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Calls of 1 to 16 keys: their frames, and the classes of their keys."""
    rng = np.random.default_rng(seed)
    keys = [rng.integers(0, len(KEYS), length) for length in rng.integers(1, 17, num_calls)]
    return [dial(call, rng) for call in keys], [call + 1 for call in keys]


class Recognizer(keras.Model):
    """Answers with logits `(batch, time, classes)`; its loss knows where each row ends."""

    def __init__(self, units: int = 32) -> None:
        super().__init__()
        self.masking = SequenceMasking()
        # KeepMask hands the mask on, which recurrent layers no longer do from Keras 3.16 on.
        self.recurrent = KeepMask(keras.layers.Bidirectional(keras.layers.GRU(units, return_sequences=True)))
        self.classifier = keras.layers.Dense(len(KEYS) + 1)

    def call(self, x):
        """Takes `{"sequences": ..., "lengths": ..., ...}`."""
        return self.classifier(self.recurrent(self.masking(x["sequences"], lengths=x["lengths"])))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean over the sequences of CTC's negative log likelihood."""
        return keras.ops.mean(keras.ops.ctc_loss(y, y_pred, x["label_lengths"], x["lengths"]))


def recognize(model: keras.Model, dataset: BucketedSequence) -> list[list[int]]:
    """The classes that the model hears, in the order of the batches: the best path, without repeats and blanks."""
    heard = []
    for x, _ in dataset:
        classes = keras.ops.convert_to_numpy(model(x)).argmax(axis=-1)
        for row, length in zip(classes, x["lengths"].numpy(), strict=True):
            changes = np.flatnonzero(np.diff(row[:length], prepend=0))
            heard.append([int(key) for key in row[changes] if key])
    return heard


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Trains and evaluates; returns the losses in buckets and padded to the longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few calls, one epoch")
    quick = parser.parse_args(arguments).quick
    keras.utils.set_random_seed(0)
    options = {"align_labels": False, "include_lengths": True, "batch_size": 32}
    dataset = BucketedSequence(*make_data(96 if quick else 1500, seed=0), seed=0, **options)
    test_x, test_y = make_data(32 if quick else 500, seed=1)
    test = BucketedSequence(test_x, test_y, shuffle=False, **options)
    model = Recognizer()
    model.compile(keras.optimizers.Adam(1e-2))
    callbacks = [PaddingStatsCallback(dataset, test)]
    model.fit(dataset, epochs=1 if quick else 6, validation_data=test, shuffle=False, callbacks=callbacks, verbose=2)

    heard = recognize(model, test)
    rows = np.concatenate(list(test.epoch_plan(0)))
    right = np.mean([keys == test_y[row].tolist() for keys, row in zip(heard, rows, strict=True)])
    print(f"calls with every key right: {right:.3f}")
    padded_x = {
        "sequences": keras.utils.pad_sequences(test_x, padding="post", dtype="float32"),
        "lengths": np.array([len(frames) for frames in test_x]),
        "label_lengths": np.array([len(keys) for keys in test_y]),
    }
    bucketed = model.evaluate(test, verbose=0)
    padded = model.evaluate(padded_x, keras.utils.pad_sequences(test_y, padding="post"), verbose=0)
    print(f"loss: {bucketed:.5f} in buckets, {padded:.5f} padded to the longest")
    return bucketed, padded


if __name__ == "__main__":
    main()
