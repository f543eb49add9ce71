"""A label for each timestep: puts punctuation back into source code.

    python examples/tagger.py            # about a minute on two cores
    python examples/tagger.py --quick    # a few seconds, to see that it runs

The words of each function on this machine are the input; the label of a word is the punctuation mark that stood behind
it, or none. Labels as long as their sequences come with a weight of 0 on padding. Three things have to be right:

- the metrics are `weighted_metrics`, not `metrics`, or a model without a mask is praised for its answers on padding;
- they count timesteps. Keras' own "accuracy" takes the mean of each row over its padded length first
  (keras/src/metrics/reduction_metrics.py), so a row counts by the share of its batch's length that it fills: by its
  timesteps where all rows are padded to one length, as 1 in a bucket. `TimestepAccuracy` counts each timestep once,
  whatever the batches;
- the loss is a mean over real timesteps, `reduction="mean_with_sample_weight"`. What `fit` and `evaluate` print is the
  mean of the batches' means, in which a batch counts by its rows: it is the same for other padding, and moves a little
  with other batches.

At the end the trained model is evaluated on the same batches, all padded to the longest, as a check.
"""

import argparse
import re

import keras
import numpy as np
from functions_corpus import load_functions

from keras_bucketing import BucketedSequence, KeepMask, PaddingStatsCallback

MARKS = ["none", "(", ")", "[", "]", ",", ".", ":", "=", "other"]  # a label is an index into it
MAXLEN = 200


def split_marks(tokens: list[str]) -> tuple[list[str], list[int]]:
    """The words among the tokens of a function, and the mark behind each of them."""
    words, labels = [], []
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if re.match(r"\w|<\w", token):
            is_mark = following and not re.match(r"\w|<\w", following)
            words.append(token)
            labels.append(MARKS.index(following) if following in MARKS else 9 if is_mark else 0)
    return words, labels


class TimestepAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """The share of right timesteps, each as often as its weight says, however long the padded batch is."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Takes labels and weights `(batch, time)`, and predictions `(batch, time, classes)`."""
        y_pred = keras.ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        weight = None if sample_weight is None else keras.ops.reshape(sample_weight, (-1,))
        super().update_state(keras.ops.reshape(y_true, (-1,)), y_pred, weight)


def make_model(vocabulary_size: int) -> keras.Model:
    """A bidirectional tagger. A plain `Dense` labels each timestep; `TimeDistributed` would be tied to one length.

    `KeepMask` hands the mask on, which recurrent layers no longer do from Keras 3.16 on.
    """
    model = keras.Sequential(
        [
            keras.layers.Embedding(vocabulary_size, 32, mask_zero=True),
            KeepMask(keras.layers.Bidirectional(keras.layers.LSTM(32, return_sequences=True))),
            keras.layers.Dense(len(MARKS)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    metrics = [TimestepAccuracy(name="timestep_accuracy"), "accuracy"]
    model.compile(keras.optimizers.Adam(3e-3), loss, weighted_metrics=metrics)
    return model


def main(arguments: list[str] | None = None) -> tuple[dict[str, float], dict[str, float]]:
    """Trains and evaluates; returns the figures in buckets and padded to the longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few functions, one epoch")
    quick = parser.parse_args(arguments).quick
    keras.utils.set_random_seed(0)
    train, test = ([split_marks(tokens) for tokens in part.tokens] for part in load_functions(120 if quick else 700))
    lookup = keras.layers.StringLookup(max_tokens=4000, mask_token="")  # id 0 is padding, and nothing else
    lookup.adapt(np.concatenate([words for words, _ in train]))
    (x, y), (test_x, test_y) = (
        ([lookup(words).numpy() for words, _ in part], [np.array(labels) for _, labels in part])
        for part in (train, test)
    )

    dataset = BucketedSequence(x, y, maxlen=MAXLEN, batch_size=32, seed=0)
    validation = BucketedSequence(test_x, test_y, maxlen=MAXLEN, batch_size=32, shuffle=False)
    model = make_model(lookup.vocabulary_size())
    callbacks = [PaddingStatsCallback(dataset, validation)]
    model.fit(
        dataset, epochs=1 if quick else 5, validation_data=validation, shuffle=False, callbacks=callbacks, verbose=2
    )

    rows = np.concatenate(list(validation.epoch_plan(0)))  # padded data in the order of the buckets: the same batches
    pad = {"maxlen": MAXLEN, "padding": "post", "truncating": "post"}
    padded_x, padded_y = (keras.utils.pad_sequences(part, **pad)[rows] for part in (test_x, test_y))
    weight = (padded_x != 0).astype("float32")
    bucketed = model.evaluate(validation, verbose=0, return_dict=True)
    padded = model.evaluate(padded_x, padded_y, sample_weight=weight, batch_size=32, verbose=0, return_dict=True)
    print(f"always answering {MARKS[0]}: {np.mean(padded_y[weight > 0] == 0):.3f}")
    for name in ("loss", "timestep_accuracy", "accuracy"):
        print(f"{name}: {bucketed[name]:.4f} in buckets, {padded[name]:.4f} padded to the longest")
    return bucketed, padded


if __name__ == "__main__":
    main()
