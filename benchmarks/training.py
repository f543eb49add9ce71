"""Training the same LSTM on the same sequences: seconds per epoch, accuracy, and seconds to an accuracy of 0.9.

The lengths are those of IMDB reviews: lognormal, mean 235, median 174, at most 2,500 timesteps. To fit in five minutes
there are 1,600 sequences, at the quantiles of that distribution. The label is the majority of marker tokens in the
sequence (labeled_tokens.py): synthetic, but to be learned, and the best accuracy is the same for everybody.

Model: Embedding(32, mask_zero) - LSTM(64) - Dense(1), Adam(0.005) with gradients of a norm up to 1, the same initial
weights (PyTorch draws its own); 32 rows a batch, except for the timestep budgets. `bucket_by_sequence_length` has the
boundaries 100, 200, 300, 500, 1000. All train in turns, one epoch each. Before that each trains on two batches and goes
back to its initial weights, so that no epoch holds the tracing. XLA and JAX compile each shape in the first epoch; JAX
trains in a process of its own (training_process.py), which waits while others train. The accuracy is measured outside
of the clock. Padding everything would take most of the five minutes: its batches are all of one shape, so one in
sixteen is timed, and its epoch takes sixteen times as long. (Its accuracy is that of random batches: the mask hides the
rest.)

    python -m benchmarks.training
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.contenders import bucket_by_sequence_length, shuffled_padded_batch
from benchmarks.sequences import Sequences
from benchmarks.tables import Record, Table, significant, spread
from benchmarks.trainees import (
    BATCH_SIZE,
    GRADIENT_NORM,
    LEARNING_RATE,
    KerasTrainee,
    Trainee,
    bucketed,
    make_model,
    train_and_validation,
)
from benchmarks.training_process import TrainingProcess

BOUNDARIES = [100, 200, 300, 500, 1_000]
GOAL = 0.9
SHARE = 16  # of the batches that are padded to the longest, one in so many is timed
FULL, QUICK = (1_600, 2_500, 4), (64, 24, 2)  # sequences, longest, epochs
PADDED, RANDOM = "everything padded to the longest", "shuffled `padded_batch`"
RIVAL, OURS = "`bucket_by_sequence_length`", "`BucketedSequence`"
OURS_32 = f"{OURS}, {BATCH_SIZE} rows"
COMPILED, COMPILED_BY_JAX = f"{OURS}, to the boundary, XLA", f"{OURS}, to the boundary, JAX"


Epoch = dict[str, Any]  # seconds, updates and accuracy of one epoch


def main() -> None:
    """Trains, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    # bucket_by_sequence_length has no known length, and Keras warns after every epoch; a new model is traced again.
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    tf.get_logger().setLevel("ERROR")
    num_sequences, longest, epochs = QUICK if arguments.quick else FULL
    train, validation = train_and_validation(num_sequences, longest)
    trainees = make_trainees(train, validation, longest, arguments.quick)
    records = train_in_turns(trainees, epochs)
    for trainee in trainees.values():
        if isinstance(trainee, TrainingProcess):
            trainee.close()
    results = {name: summarize(record) for name, record in records.items()}
    settings = {"num_sequences": num_sequences, "longest": longest, "boundaries_of_rival": BOUNDARIES}
    harness.publish(arguments.output, "training", {**settings, "results": results, "epochs": records}, tables)
    harness.write_picture(arguments.output, "training", lambda axes: draw(axes, results, records), panels=2, height=4)


def train_in_turns(trainees: Mapping[str, Trainee], epochs: int) -> dict[str, list[Epoch]]:
    """Everybody trains one epoch at a time, each round in another order."""
    records: dict[str, list[Epoch]] = {name: [] for name in trainees}
    for epoch in range(epochs):
        names = list(trainees)
        for name in names[epoch % len(names) :] + names[: epoch % len(names)]:
            seconds, updates = trainees[name].train_epoch()
            accuracy = trainees[name].accuracy()
            records[name].append({"seconds": seconds, "updates": updates, "accuracy": accuracy})
            print(f"epoch {epoch + 1}, {name}: {seconds:.1f} s, accuracy {format_accuracy(accuracy)}", flush=True)
    return records


def tables(record: Record) -> list[Table]:
    """Seconds and accuracy; how many times faster is the quotient of the seconds in the table."""
    return [make_table("training", record)]


def make_table(name: str, record: Record) -> Table:
    """The table of a model, with one row for each way to make its batches."""
    results = record["results"]
    epochs = len(record["epochs"][OURS_32])
    others = (PADDED, RANDOM, RIVAL)
    return Table(
        name,
        f"{record['num_sequences']:,} sequences of 1 to {record['longest']:,} timesteps, {epochs} epochs",
        [
            *("batches", "seconds an epoch", *(f"x {other}" for other in others)),
            *("first epoch, s", "updates an epoch", f"accuracy after {epochs} epochs", f"seconds to {GOAL}"),
        ],
        [
            [
                batches,
                spread(row["seconds_per_epoch"]),
                *(f"{times_faster(row, results[other]):.2f}" for other in others),
                significant(record["epochs"][batches][0]["seconds"]),
                str(row["updates_per_epoch"]),
                format_accuracy(row["accuracy"]),
                "-" if row["seconds_to_goal"] is None else f"{row['seconds_to_goal']:.1f}",
            ]
            for batches, row in results.items()
        ],
        note="x: times faster than. Median (quartiles) over the epochs but the first.",
    )


def figures(record: Record) -> dict[str, str]:
    """What the pages quote in their text."""
    results = record["results"]
    ours = results[OURS_32]
    return {
        "times_padded": f"{times_faster(ours, results[PADDED]):.1f}",
        "times_padded_batch": f"{times_faster(ours, results[RANDOM]):.1f}",
        "times_bucket_by_sequence_length": f"{times_faster(ours, results[RIVAL]):.1f}",
        "times_bucket_by_sequence_length_with_xla": f"{times_faster(results[COMPILED], results[RIVAL]):.1f}",
    }


def times_faster(row: Record, other: Record) -> float:
    """How many times faster one line of the table is than another."""
    return float(other["seconds_per_epoch"][0] / row["seconds_per_epoch"][0])


def make_trainees(train: Sequences, validation: Sequences, longest: int, quick: bool) -> dict[str, Trainee]:
    """Everybody, ready for the first epoch; quickly, with one model for all, and none in a process of its own."""
    budget, num_shapes, make = 6 * longest, 8, make_model
    if quick:
        num_shapes, make = 1, functools.cache(make_model)
    data: dict[str, Iterable[Any]] = {
        PADDED: pad_everything(train, longest),
        RANDOM: shuffled_padded_batch(train, BATCH_SIZE),
        RIVAL: bucket_by_sequence_length(train, [BATCH_SIZE] * (len(BOUNDARIES) + 1), BOUNDARIES),
        OURS_32: bucketed(train, batch_size=BATCH_SIZE),
        f"{OURS}, budget of {budget:,}": bucketed(train, max_timesteps_per_batch=budget),
        f"{OURS}, budget of {2 * budget:,}": bucketed(train, max_timesteps_per_batch=2 * budget),
        COMPILED: bucketed(train, batch_size=BATCH_SIZE, pad_to_bucket_boundary=True, num_buckets=num_shapes),
    }
    evaluator = make(False)
    validate = bucketed(validation, batch_size=128, shuffle=False)
    trainees: dict[str, Trainee] = {
        name: KerasTrainee(
            dataset,
            evaluator,
            validate,
            jit_compile="XLA" in name and not quick,
            share=SHARE if name == PADDED else 1,
            make=make,
        )
        for name, dataset in data.items()
    }
    try:
        from benchmarks.torch_training import PackedLSTM
    except ImportError:
        print("without PyTorch: it is not installed")
    else:
        trainees["PyTorch, packed sequences"] = PackedLSTM(train, validation, BATCH_SIZE, LEARNING_RATE, GRADIENT_NORM)
    if importlib.util.find_spec("jax") is None:
        print("without JAX: it is not installed")
    elif not quick:  # compilation_cache.py starts the same process
        settings = {"num_sequences": len(train.labels), "longest": longest, "num_buckets": num_shapes}
        trainees[COMPILED_BY_JAX] = TrainingProcess(settings, {"KERAS_BACKEND": "jax"})
    return trainees


def pad_everything(sequences: Sequences, longest: int) -> tf.data.Dataset:
    """All sequences in one array, as `pad_sequences` makes it, in shuffled batches, as `fit` makes them of arrays."""
    padded = keras.utils.pad_sequences(sequences.arrays, maxlen=longest, padding="post")
    rows = tf.data.Dataset.from_tensor_slices((padded, sequences.labels)).shuffle(len(padded))
    return rows.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def summarize(record: list[Epoch]) -> dict[str, Any]:
    """One line of the table."""
    total = np.cumsum([epoch["seconds"] for epoch in record])
    reached = [(epoch["accuracy"] or 0) >= GOAL for epoch in record]

    return {
        "seconds_per_epoch": harness.spread_of([epoch["seconds"] for epoch in record[1:]]),
        "updates_per_epoch": record[-1]["updates"],
        "accuracy": record[-1]["accuracy"],
        "seconds_to_goal": float(total[np.argmax(reached)]) if any(reached) else None,
    }


def draw(axes: Any, results: dict[str, Any], records: dict[str, list[Epoch]]) -> None:
    """Bars of the seconds per epoch, and the accuracy over the seconds."""
    harness.draw_bars(
        axes[0],
        {name: row["seconds_per_epoch"] for name, row in results.items()},
        "seconds per epoch",
        OURS,
        "{:,.3g}",
    )
    markers = "svDopPX^"
    measured = {name: record for name, record in records.items() if record[-1]["accuracy"] is not None}
    for (name, record), marker in zip(measured.items(), markers, strict=False):
        emphasis = {"color": "0.1", "linewidth": 1.5} if name.startswith(OURS) else {"color": "0.6", "linewidth": 1}
        total = np.cumsum([epoch["seconds"] for epoch in record])
        axes[1].semilogx(total, [epoch["accuracy"] for epoch in record], marker=marker, ms=4, label=name, **emphasis)
    axes[1].axhline(GOAL, color="0.7", linewidth=0.8, linestyle=":")
    axes[1].set(xlabel="seconds of training", ylabel="validation accuracy", ylim=(0.45, 1.01))
    axes[1].xaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].xaxis.set_minor_formatter("")
    axes[1].figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


def format_accuracy(accuracy: float | None) -> str:
    """Three digits, or a dash where it was not measured."""
    return "-" if accuracy is None else f"{accuracy:.3f}"


if __name__ == "__main__":
    main()
