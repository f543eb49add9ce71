"""Classifies texts of different lengths, with the recommended recipe for token ids.

    python examples/text_classification.py                      # which package is a function from?
    python examples/text_classification.py --train texts.tsv    # your texts; a tenth is held out to test on
    python examples/text_classification.py --train train.tsv --test test.tsv --seeds 0 1 2

Each line of a file is `label<TAB>text`. Without a file, the texts are the functions of the Python packages on this
machine. The vocabulary comes from the training texts alone. To choose other settings for your texts, leave `--test`
out: you then choose on held-out training texts, and the test texts stay unseen.

The recipe: a budget of timesteps instead of a number of rows, so that short texts make large batches and every step
costs the same; a bidirectional LSTM; max pooling over the real timesteps; dropout; smoothed labels; a learning rate
that decays to zero.
"""

import argparse
import re
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from functions_corpus import PACKAGES, load_functions

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier, PaddingStatsCallback

MAX_TIMESTEPS_PER_BATCH = 4096
LEARNING_RATE = 3e-3  # at the start
DROPOUT = 0.5
LABEL_SMOOTHING = 0.1
MAX_WORDS = 20_000  # the size of the vocabulary, at most
OPTIONS = {"maxlen": 400, "on_empty": "keep", "include_lengths": True}  # for training and for predicting

Corpus = tuple[list[list[str]], np.ndarray]  # the tokens and the label of each text


def read_tsv(path: Path) -> Corpus:
    """The texts of a file: words and punctuation marks are tokens."""
    lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    for number, line in enumerate(lines, start=1):
        if "\t" not in line:
            raise SystemExit(f"{path}: expected label<TAB>text, received {line[:40]!r} in non-empty line {number}")
    if not lines:
        raise SystemExit(f"{path} is empty. Expected lines of label<TAB>text.")
    labels, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    return [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts], np.array(labels)


def hold_out(corpus: Corpus, share: float = 0.1) -> tuple[Corpus, Corpus]:
    """Takes a share of the corpus away at random, always the same."""
    texts, labels = corpus
    held_out, rest = np.split(np.random.default_rng(0).permutation(len(texts)), [round(share * len(texts))])
    return ([texts[i] for i in rest], labels[rest]), ([texts[i] for i in held_out], labels[held_out])


def load_corpora(train: Path | None, test: Path | None, per_package: int) -> tuple[Corpus, Corpus]:
    """What to train on and what to test on."""
    if train is None:
        parts = load_functions(per_package)
        return tuple((part.tokens, np.array(PACKAGES)[part.labels]) for part in parts)
    return hold_out(read_tsv(train)) if test is None else (read_tsv(train), read_tsv(test))


def train(
    x: tf.RaggedTensor, y: np.ndarray, vocabulary_size: int, units: int, epochs: int, seed: int
) -> tuple[keras.Model, BucketedSequence]:
    """A model trained on token ids and class indices, and the batches that it was trained on."""
    keras.utils.set_random_seed(seed)
    labels = keras.utils.to_categorical(y)
    dataset = BucketedSequence(x, labels, max_timesteps_per_batch=MAX_TIMESTEPS_PER_BATCH, seed=seed, **OPTIONS)
    model = MaskedLSTMClassifier(
        num_classes=y.max() + 1,
        units=units,
        vocabulary_size=vocabulary_size,
        embedding_dim=2 * units,
        bidirectional=True,
        pooling="max",
        dropout=DROPOUT,
    )
    learning_rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * len(dataset))
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=LABEL_SMOOTHING)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    callback = PaddingStatsCallback(dataset)
    model.fit(dataset, epochs=epochs, shuffle=False, callbacks=[callback], verbose=2)
    return model, dataset


def predict(model: keras.Model, x: tf.RaggedTensor) -> np.ndarray:
    """The probability of each class, in the order of the texts."""
    dataset = BucketedSequence(x, max_timesteps_per_batch=MAX_TIMESTEPS_PER_BATCH, shuffle=False, **OPTIONS)
    return dataset.predict(model, verbose=0)


def run(train_corpus: Corpus, test_corpus: Corpus, seeds: list[int], units: int, epochs: int) -> list[float]:
    """Trains with each seed; prints and returns the accuracies on the test texts."""
    (texts, labels), (test_texts, test_labels) = train_corpus, test_corpus
    lookup = keras.layers.StringLookup(max_tokens=MAX_WORDS, mask_token="")
    lookup.adapt(np.concatenate(texts))
    x, test_x = (lookup(tf.ragged.constant(part, tf.string, ragged_rank=1)) for part in (texts, test_texts))
    classes, y = np.unique(labels, return_inverse=True)
    print(f"{len(texts)} texts to train on, {len(test_texts)} to test on, {len(classes)} classes")

    accuracies = []
    for seed in seeds:
        start = time.perf_counter()
        model, dataset = train(x, y, lookup.vocabulary_size(), units, epochs, seed)
        seconds = (time.perf_counter() - start) / epochs
        predicted = classes[predict(model, test_x).argmax(axis=1)]
        accuracies.append(float(np.mean(predicted == test_labels)))
        print(f"seed {seed}: test accuracy {accuracies[-1]:.4f}, {seconds:.1f} s an epoch", flush=True)
    majority = classes[np.bincount(y).argmax()]
    print(f"\nmean test accuracy {np.mean(accuracies):.4f}, from {min(accuracies):.4f} to {max(accuracies):.4f}")
    print(f"always answering {majority!s}: {np.mean(test_labels == majority):.4f}")
    stats = dataset.padding_stats()
    print(f"padding efficiency {stats.padding_efficiency:.3f}; padded to the longest it would be")
    print(f"{stats.speedup_over_longest:.1f} x as many timesteps, in random batches {stats.speedup_over_random:.1f} x")
    return accuracies


def main(arguments: list[str] | None = None) -> list[float]:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="tab-separated: label, text")
    parser.add_argument("--test", type=Path, help="the same; without it, a tenth of the training texts")
    parser.add_argument("--per-package", type=int, default=1000, help="functions, without --train (default: 1000)")
    parser.add_argument(
        "--seeds", "--seed", type=int, nargs="+", default=[0], help="one training run each (default: 0)"
    )
    parser.add_argument("--epochs", type=int, default=8, help="default: 8")
    parser.add_argument("--units", type=int, default=64, help="of the LSTM in each direction (default: 64)")
    options = parser.parse_args(arguments)
    if options.test and not options.train:
        parser.error("--test needs --train")
    corpora = load_corpora(options.train, options.test, options.per_package)
    return run(*corpora, options.seeds, options.units, options.epochs)


if __name__ == "__main__":
    main()
