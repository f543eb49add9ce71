"""Training the same Transformer encoder on the same sequences: seconds per epoch and accuracy.

Attention costs rows times the square of the padded length, so padding costs more than with the LSTM of training.py. The
lengths are those of IMDB reviews, lognormal, mean 235, median 174, cut at 512 timesteps as texts for Transformers are;
600 sequences at the quantiles of that distribution, labeled as in training.py.

Model: Embedding(64, mask_zero), sines and cosines of the positions, one pre-norm block of attention (4 heads) and two
dense layers, GlobalAveragePooling1D, Dense(1); Adam(0.001); 32 rows a batch, except for the budget.
`bucket_by_sequence_length` has the boundaries 100, 200, 300, 400. All train in turns, one epoch each, and before that
each trains on two batches and goes back to its initial weights, so that no epoch holds the tracing. Of the batches that
are padded to the longest, which are of one shape, one in three is timed.

    python -m benchmarks.transformer_training
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.contenders import bucket_by_sequence_length, shuffled_padded_batch
from benchmarks.labeled_tokens import VOCABULARY_SIZE, labeled_token_sequences, quantile_lengths
from benchmarks.sequences import Sequences
from benchmarks.tables import Record, Table
from benchmarks.trainees import BATCH_SIZE, KerasTrainee, Trainee, bucketed
from benchmarks.training import (
    OURS,
    OURS_32,
    PADDED,
    RANDOM,
    RIVAL,
    make_table,
    pad_everything,
    summarize,
    train_in_turns,
)
from keras_bucketing import check_padding

BOUNDARIES = [100, 200, 300, 400]
WIDTH, NUM_HEADS = 64, 4
MEAN, MEDIAN = 235, 174  # timesteps, before the cut
SHARE = 3  # of the batches that are padded to the longest, one in so many is timed
FULL, QUICK = (600, 512, 4), (64, 32, 2)  # sequences, longest, epochs


class AddPositions(keras.layers.Layer):
    """Adds sines and cosines of its position to each timestep (Vaswani et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """Takes `(batch, time, width)`."""
        width = inputs.shape[-1]
        positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="float32")[:, np.newaxis]
        angles = positions * (10_000.0 ** (-np.arange(0, width, 2) / width)).astype("float32")
        return inputs + keras.ops.concatenate([keras.ops.sin(angles), keras.ops.cos(angles)], axis=-1)


def main() -> None:
    """Trains, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    tf.get_logger().setLevel("ERROR")
    num_sequences, longest, epochs = QUICK if arguments.quick else FULL
    scale = longest / FULL[1]
    train, validation = (
        labeled_token_sequences(quantile_lengths(size, scale * MEAN, scale * MEDIAN, longest), seed=seed)
        for seed, size in enumerate((num_sequences, num_sequences // 4))
    )
    records = train_in_turns(make_trainees(train, validation, longest, arguments.quick), epochs)
    results = {name: summarize(record) for name, record in records.items()}
    settings = {"num_sequences": num_sequences, "longest": longest, "boundaries_of_rival": BOUNDARIES}
    contents = {**settings, "results": results, "epochs": records}
    harness.publish(arguments.output, "transformer_training", contents, tables)
    seconds = {name: row["seconds_per_epoch"] for name, row in results.items()}
    harness.write_picture(
        arguments.output,
        "transformer_training",
        lambda axes: harness.draw_bars(axes[0], seconds, "seconds per epoch", OURS, "{:,.3g}"),
        height=4,
    )


def tables(record: Record) -> list[Table]:
    """Seconds and accuracy; how many times faster is the quotient of the seconds in the table."""
    return [make_table("transformer_training", record)]


def make_trainees(train: Sequences, validation: Sequences, longest: int, quick: bool) -> dict[str, Trainee]:
    """Everybody, ready for the first epoch; quickly, with one model for all. It is one that padding cannot reach."""
    budget = BATCH_SIZE * longest // 4
    make = functools.cache(make_model) if quick else make_model
    data: dict[str, Iterable[Any]] = {
        PADDED: pad_everything(train, longest),
        RANDOM: shuffled_padded_batch(train, BATCH_SIZE),
        RIVAL: bucket_by_sequence_length(train, [BATCH_SIZE] * (len(BOUNDARIES) + 1), BOUNDARIES),
        OURS_32: bucketed(train, batch_size=BATCH_SIZE),
        f"{OURS}, budget of {budget:,}": bucketed(train, max_timesteps_per_batch=budget),
    }
    evaluator, validate = make(False), bucketed(validation, batch_size=BATCH_SIZE, shuffle=False)
    check = check_padding(evaluator, validate)
    if not check:
        raise RuntimeError(str(check))
    return {
        name: KerasTrainee(
            dataset, evaluator, validate, jit_compile=False, share=SHARE if name == PADDED else 1, make=make
        )
        for name, dataset in data.items()
    }


def make_model(jit_compile: bool) -> keras.Model:
    """The model, with the same initial weights every time."""
    keras.utils.set_random_seed(0)
    token_ids = keras.Input((None,), dtype="int32")
    x = AddPositions()(keras.layers.Embedding(VOCABULARY_SIZE, WIDTH, mask_zero=True)(token_ids))
    n = keras.layers.LayerNormalization()(x)
    x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(NUM_HEADS, WIDTH // NUM_HEADS)(n, n)])
    n = keras.layers.LayerNormalization()(x)
    hidden = keras.layers.Dense(WIDTH)(keras.layers.Dense(4 * WIDTH, activation="gelu")(n))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, hidden]))
    model = keras.Model(token_ids, keras.layers.Dense(1)(x))
    model.compile(
        keras.optimizers.Adam(0.001),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
        jit_compile=jit_compile,
    )
    return model


if __name__ == "__main__":
    main()
