"""`tune_batch_sizes` against one size for all batches and against a budget, at no fewer updates an epoch.

Three models on sequences with the lengths of IMDB reviews: Embedding(32) in front of an LSTM(64), of the same in both
directions, or of a Conv1D(64). For each of them the tuner measures its batches and proposes sizes; then the contenders
train the same model in turns, an epoch each:

- 32 rows, which sets the number of updates;
- the largest budget that makes as many updates;
- the proposal, with how far the predicted epoch is from the measured one.

The accuracy is that of the LSTM on other sequences, after as many epochs of the timed ones, over several seeds of the
weights and the order: with 32 rows, with the proposal, and with the proposal and sample weights that let every sequence
count alike. From one epoch to the next it goes up and down by a point or two, so the mean of the last three is there
as well.

    python -m benchmarks.tuned_sizes
"""

from __future__ import annotations

import bisect
import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.harness import spread_of
from benchmarks.labeled_tokens import VOCABULARY_SIZE, labeled_token_sequences, quantile_lengths
from benchmarks.sequences import Sequences
from benchmarks.tables import Record, Table, significant, spread
from keras_bucketing import BucketedSequence, tune_batch_sizes
from keras_bucketing.predicting.batch_runs import restored_model

BATCH_SIZE = 32
KINDS = ["LSTM", "bidirectional LSTM", "convolution"]
PLAIN, BUDGET, TUNED, WEIGHTED = "32 rows", "budget", "tuned", "tuned, sequences count alike"
LAST_EPOCHS = 3


class Scale(NamedTuple):
    """How much is measured."""

    learned: int  # sequences
    validated: int  # other ones, that the accuracy is measured on
    longest: int
    rounds: int
    seeds: int
    epochs: int


FULL, QUICK = Scale(3_000, 1_000, 2_500, 3, 5, 6), Scale(200, 100, 60, 1, 1, 1)


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    tf.get_logger().setLevel("ERROR")  # a new model is traced again
    scale = QUICK if arguments.quick else FULL
    sequences = draw_sequences(scale.learned, scale.longest, seed=0)
    kinds = KINDS[:1] if arguments.quick else KINDS
    epochs = {kind: time_epochs(kind, sequences, scale) for kind in kinds}
    accuracies = learn(sequences, epochs["LSTM"]["options"], scale)
    results = {"scale": scale._asdict(), "epochs": epochs, "accuracies": accuracies}
    harness.publish(arguments.output, "tuned_sizes", results, tables)
    harness.write_picture(arguments.output, "tuned_sizes", lambda axes: draw(axes, epochs), panels=len(epochs))


def draw_sequences(num_sequences: int, longest: int, seed: int) -> Sequences:
    """Labeled token ids with the lengths of reviews."""
    mean = 235 * longest / 2_500
    return labeled_token_sequences(quantile_lengths(num_sequences, mean, mean * 174 / 235, longest, seed), seed=seed)


def bucketed(sequences: Sequences, **options: Any) -> BucketedSequence:
    """A BucketedSequence of these sequences."""
    return BucketedSequence.from_row_splits(
        sequences.values, sequences.row_splits, sequences.labels, copy=False, **{"seed": 0, **options}
    )


def make_model(kind: str, seed: int = 0) -> keras.Model:
    """A compiled model."""
    keras.utils.set_random_seed(seed)
    layers = {
        "LSTM": lambda: [keras.layers.LSTM(64)],
        "bidirectional LSTM": lambda: [keras.layers.Bidirectional(keras.layers.LSTM(64))],
        "convolution": lambda: [
            keras.layers.Conv1D(64, 5, padding="same", activation="relu"),
            keras.layers.GlobalMaxPooling1D(),
        ],
    }[kind]()
    embedding = keras.layers.Embedding(VOCABULARY_SIZE, 32, mask_zero=kind != "convolution")
    model = keras.Sequential([embedding, *layers, keras.layers.Dense(1)])
    model.compile(
        keras.optimizers.Adam(0.005, global_clipnorm=1.0),
        keras.losses.BinaryCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
        jit_compile=False,
    )
    return model


class EpochClock(keras.callbacks.Callback):
    """The seconds of the last epoch, without what `fit` prepares once."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops it."""
        self.seconds = time.perf_counter() - self._begin


def time_epochs(kind: str, sequences: Sequences, scale: Scale) -> dict[str, Any]:
    """The tuner's figures and the seconds of each contender's epochs, round by round."""
    model = make_model(kind)
    plain = bucketed(sequences, batch_size=BATCH_SIZE)
    begin = time.perf_counter()
    tuned = tune_batch_sizes(model, plain, measure_xla=scale == FULL)
    tuning_seconds = time.perf_counter() - begin
    print(f"\n{kind}\n\n{tuned}", flush=True)
    budget = largest_budget(sequences, plain.num_batches)
    datasets = {
        PLAIN: plain,
        BUDGET: bucketed(sequences, max_timesteps_per_batch=budget),
        TUNED: bucketed(sequences, **tuned.options),
    }

    def epoch_of(dataset: BucketedSequence) -> float:
        clock = EpochClock()
        model.fit(dataset, shuffle=False, verbose=0, callbacks=[clock])
        return clock.seconds

    # The tuner has traced the model already; a round to warm up would take a minute.
    contenders = {name: (lambda dataset=dataset: epoch_of(dataset)) for name, dataset in datasets.items()}
    seconds = harness.interleave(contenders, scale.rounds, warm_up=False)
    return {
        "seconds": seconds,
        "updates": {name: dataset.num_batches for name, dataset in datasets.items()},
        "padding_efficiency": {name: dataset.padding_stats().padding_efficiency for name, dataset in datasets.items()},
        "budget": budget,
        "predicted": {PLAIN: tuned.current.seconds, TUNED: tuned.proposed.seconds},
        "tuning_seconds": tuning_seconds,
        "options": tuned.options,
        "steps": [vars(step) for step in tuned.steps],
    }


def largest_budget(sequences: Sequences, min_updates: int) -> int:
    """The largest budget, in steps of 2 % or a timestep, that makes so many updates an epoch."""
    budgets = [int(sequences.lengths.max())]
    while budgets[-1] < sequences.lengths.sum():
        budgets.append(budgets[-1] + max(budgets[-1] // 50, 1))

    def has_fewer(budget: int) -> bool:
        return bool(bucketed(sequences, max_timesteps_per_batch=budget).num_batches < min_updates)

    return budgets[max(bisect.bisect_left(budgets, True, key=has_fewer) - 1, 0)]


def learn(sequences: Sequences, tuned: dict[str, Any], scale: Scale) -> dict[str, list[list[float]]]:
    """The accuracies on other sequences after the last epochs, one list a seed."""
    ways = {PLAIN: {"batch_size": BATCH_SIZE}, TUNED: tuned, WEIGHTED: tuned}
    validation = bucketed(draw_sequences(scale.validated, scale.longest, seed=1), batch_size=128, shuffle=False)
    last_epochs = range(max(scale.epochs - LAST_EPOCHS, 0) + 1, scale.epochs + 1)
    accuracies: dict[str, list[list[float]]] = {name: [] for name in ways}
    for seed in range(scale.seeds):
        model = make_model("LSTM", seed)
        model.build((None, None))
        model.optimizer.build(model.trainable_variables)
        for name, of_way in accuracies.items():
            weights = even_weights(sequences.lengths, tuned) if name == WEIGHTED else None
            dataset = bucketed(sequences, sample_weight=weights, seed=seed, **ways[name])
            with restored_model(model):  # all of them begin alike, and the model is traced once
                options = {"validation_data": validation, "validation_freq": list(last_epochs)}
                history = model.fit(dataset, epochs=scale.epochs, shuffle=False, verbose=0, **options).history
                of_way.append([float(accuracy) for accuracy in history["val_binary_accuracy"]])
            print(f"seed {seed}, {name}: accuracies {' '.join(f'{each:.3f}' for each in of_way[-1])}", flush=True)
    return accuracies


def even_weights(lengths: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Weights that undo the mean over batches of different sizes: of each sequence, the rows of its batches."""
    rows = np.array(options["bucket_batch_sizes"])[np.searchsorted(options["bucket_boundaries"], lengths, side="right")]
    return rows * np.mean(1 / rows)


def tables(record: Record) -> list[Table]:
    """The seconds of an epoch of each model and contender, and the accuracies."""
    scale = Scale(**record["scale"])
    rows = []
    for kind, figures in record["epochs"].items():
        for name, seconds in figures["seconds"].items():
            predicted = figures["predicted"].get(name)
            rows.append(
                [
                    f"{kind}, {name}" + (f" of {figures['budget']:,}" if name == BUDGET else ""),
                    spread(spread_of(seconds)),
                    f"{_times_faster(figures, name)} x",
                    "" if predicted is None else significant(predicted),
                    str(figures["updates"][name]),
                    f"{figures['padding_efficiency'][name]:.3f}",
                ]
            )
    accuracies = [
        [name, *_mean_and_deviation(of_way[:, -1]), *_mean_and_deviation(of_way.mean(axis=1)), str(len(of_way))]
        for name, of_way in ((name, np.array(lists)) for name, lists in record["accuracies"].items())
    ]
    return [
        Table(
            "tuned_sizes",
            f"{scale.learned:,} sequences of 1 to {scale.longest:,} timesteps",
            ["model and batches", "seconds an epoch", "x 32 rows", "predicted", "updates", "padding efficiency"],
            rows,
            note="x: times faster than.",
        ),
        Table(
            "tuned_sizes_accuracy",
            f"LSTM, accuracy on {scale.validated:,} other sequences after {scale.epochs} epochs of {scale.learned:,}",
            ["batches", "after the last", "deviation", f"mean of the last {LAST_EPOCHS}", "deviation", "seeds"],
            accuracies,
            note="Deviation: standard deviation over the seeds.",
        ),
    ]


def _times_faster(figures: dict[str, Any], name: str) -> str:
    """How many times faster a model's epochs are than with 32 rows."""
    return f"{spread_of(figures['seconds'][PLAIN]).median / spread_of(figures['seconds'][name]).median:.2f}"


def _mean_and_deviation(values: np.ndarray) -> list[str]:
    return [f"{values.mean():.3f}", f"{values.std(ddof=1):.3f}" if len(values) > 1 else ""]


def figures(record: Record) -> dict[str, str]:
    """How many times faster the tuned sizes are, by model."""
    return {kind.replace(" ", "_"): _times_faster(of_kind, TUNED) for kind, of_kind in record["epochs"].items()}


def draw(axes: Any, epochs: dict[str, Any]) -> None:
    """One panel a model: the seconds of each contender."""
    for axis, (kind, figures) in zip(axes, epochs.items(), strict=True):
        spreads = {name: spread_of(seconds) for name, seconds in figures["seconds"].items()}
        harness.draw_bars(axis, spreads, f"{kind}: seconds per epoch", TUNED, "{:,.3g}")


if __name__ == "__main__":
    main()
