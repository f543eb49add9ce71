"""An encoder and a decoder with attention: reads a number aloud.

    python examples/encoder_decoder.py            # about two minutes on two cores
    python examples/encoder_decoder.py --quick    # a few seconds, to see that it runs

The source is the digits of a number, the target its English words: 7012 is "seven thousand twelve". Both are ragged,
and a row has its own length in each. The decoder is trained with teacher forcing: it reads the words so far,
`"decoder_input"`, and answers each with the next one, so the labels are as long as that leaf. They come with a weight
of 0 on padding.

Each leaf of a batch is padded to its own longest. Which bucket a row is in, the longer of its two sequences decides.

The masks of the two embeddings keep padding out of the GRUs and of the attention, so the predictions for a row do not
depend on what it is padded to. Neither does the loss of a batch, a mean over its real timesteps. What `evaluate` prints
is the mean of the batches' means, which is that of the padded data where a batch has the same rows.
"""

import argparse

import keras
import numpy as np

from keras_bucketing import BucketedSequence, KeepMask, PaddingStatsCallback

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = ["<padding>", "<start>", "<end>", *ONES, *TENS, "hundred", "thousand", "million", "billion"]


def read_aloud(number: int) -> list[str]:
    """The words of a number below a trillion."""
    for name, size in (("billion", 10**9), ("million", 10**6), ("thousand", 1000), ("hundred", 100)):
        if number >= size:
            return [*read_aloud(number // size), name, *(read_aloud(number % size) if number % size else [])]
    if number < 20:
        return [ONES[number]]
    return [TENS[number // 10 - 2], *([ONES[number % 10]] if number % 10 else [])]


def make_data(num_sequences: int, seed: int) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Numbers of 1 to 12 digits, with some zeros in them: ids of their digits, 1 to 10, and of their words."""
    rng = np.random.default_rng(seed)
    digits = [rng.integers(0, 10, length) * rng.integers(0, 2, length) for length in rng.integers(1, 13, num_sequences)]
    words = [read_aloud(int("".join(map(str, number)))) for number in digits]
    ids = [np.array([WORDS.index(word) for word in ("<start>", *sentence, "<end>")]) for sentence in words]
    x = {"source": [number + 1 for number in digits], "decoder_input": [sentence[:-1] for sentence in ids]}
    return x, [sentence[1:] for sentence in ids]


def make_model(units: int = 64) -> keras.Model:
    """GRUs with scaled dot-product attention (Luong et al., 2015; Vaswani et al., 2017).

    `keras.layers.Attention` of Keras 3.11 takes the mask of the source for one of the target, so this has one head of
    `MultiHeadAttention`.
    """
    source = keras.Input((None,), name="source", dtype="int32")
    decoder_input = keras.Input((None,), name="decoder_input", dtype="int32")
    embedded = keras.layers.Embedding(11, units, mask_zero=True)(source)
    # KeepMask hands the masks on, which recurrent layers no longer do from Keras 3.16 on.
    encoder = keras.layers.Bidirectional(keras.layers.GRU(units // 2, return_sequences=True))
    encoded = KeepMask(encoder)(embedded)
    words = keras.layers.Embedding(len(WORDS), units, mask_zero=True)(decoder_input)
    decoded = KeepMask(keras.layers.GRU(units, return_sequences=True))(words)
    read = keras.layers.MultiHeadAttention(num_heads=1, key_dim=units)(decoded, encoded)
    outputs = keras.layers.Dense(len(WORDS))(keras.layers.Concatenate()([decoded, read]))
    model = keras.Model({"source": source, "decoder_input": decoder_input}, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(keras.optimizers.Adam(5e-3), loss)
    return model


def share_read_right(model: keras.Model, dataset: BucketedSequence) -> float:
    """The share of numbers whose every word is right, given the right words before it."""
    right = []
    for x, y, weight in dataset:
        predicted = keras.ops.convert_to_numpy(model(x)).argmax(axis=-1)
        right += list(((predicted == y.numpy()) | (weight.numpy() == 0)).all(axis=1))
    return float(np.mean(right))


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Trains and evaluates; returns the losses of the same batches, in buckets and padded to the longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few numbers, one epoch")
    quick = parser.parse_args(arguments).quick
    keras.utils.set_random_seed(0)
    dataset = BucketedSequence(*make_data(300 if quick else 10_000, seed=0), batch_size=32, seed=0)
    test_x, test_y = make_data(64 if quick else 1000, seed=1)
    test = BucketedSequence(test_x, test_y, batch_size=32, shuffle=False)
    model = make_model()
    callbacks = [PaddingStatsCallback(dataset, test)]
    model.fit(dataset, epochs=1 if quick else 4, validation_data=test, shuffle=False, callbacks=callbacks, verbose=2)
    print(f"every word right: {share_read_right(model, test):.3f} of the numbers")

    rows = np.concatenate(list(test.epoch_plan(0)))  # padded data in the order of the buckets: the same batches
    padded_x = {name: keras.utils.pad_sequences(leaf, padding="post")[rows] for name, leaf in test_x.items()}
    padded_y = keras.utils.pad_sequences(test_y, padding="post")[rows]
    weight = (padded_x["decoder_input"] != 0).astype("float32")
    bucketed = model.evaluate(test, verbose=0)
    padded = model.evaluate(padded_x, padded_y, sample_weight=weight, batch_size=32, verbose=0)
    print(f"loss: {bucketed:.6f} in buckets, {padded:.6f} padded to the longest")
    return bucketed, padded


if __name__ == "__main__":
    main()
