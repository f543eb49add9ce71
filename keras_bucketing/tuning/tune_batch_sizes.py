"""tune_batch_sizes: measure a model's training steps, propose the sizes of the shortest epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.checks import INT64_MAX, check_integer, check_number, show, show_typed
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.padding.text_table import ShownInNotebooks, format_table
from keras_bucketing.planning.bucket_choice import MAX_BUCKETS, keep_outliers_apart
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import BatchRules
from keras_bucketing.tuning.choose import EpochForecast, SizeBounds, choose_sizes, forecast_epoch
from keras_bucketing.tuning.measure import StepCosts, fit_step_costs, probe_batches, time_steps

# Unless the user says otherwise, a batch has from a third of the mean rows of the dataset's to four times as many.
_MIN_OF_MEAN, _MAX_OF_MEAN = 1 / 3, 4


def tune_batch_sizes(
    model: keras.Model,
    dataset: BucketedSequence,
    *,
    min_updates: int | None = None,
    min_rows: int | None = None,
    max_rows: int | None = None,
    max_timesteps_per_batch: int | None = None,
    max_step_seconds: float | None = None,
    repeats: int = 3,
) -> TunedBatchSizes:
    """Measures what a training step of the model costs, and proposes boundaries and sizes for shorter epochs.

    A recurrent layer goes through a batch timestep by timestep, and most of that time is the same for 8 rows as for 32.
    So at a given number of updates an epoch is shortest with large batches of long sequences, and with small ones of
    short sequences. How much that gains depends on the model and the machine: about a dozen batches of real rows are
    trained on, an overhead, a cost of each timestep and one of each row and timestep are fitted to the times, and the
    sizes with the shortest predicted epoch are chosen. Where nothing is better, the proposal is what there is.

    The model trains in earnest, by its own `fit`, and then goes back: weights, optimizer, metrics and random states are
    as they were, and so are the dataset's position and the random states of Python and NumPy. A model that is not built
    yet is built, as `fit` would do. What a layer draws without a seed generator of its own, or counts outside of Keras
    variables, goes on.

    In a mean over the batch, a sequence counts more in a small batch than in a large one, and here most updates come
    from the short sequences. The further `min_rows` and `max_rows` lie apart, the shorter an epoch may be, and the
    more that may cost accuracy.

    Args:
        model: A compiled `keras.Model`. With XLA every measured shape is compiled.
        dataset: The `BucketedSequence` that the model trains on.
        min_updates: Int, the least number of batches an epoch. Defaults to None: as many as the dataset has.
        min_rows: Int, the least rows of a batch. Defaults to None: a third of the mean of the dataset's batches.
        max_rows: Int, the most rows of a batch. Defaults to None: four times the mean of the dataset's batches.
        max_timesteps_per_batch: Int, the most timesteps of a batch, padding included, which bounds its memory. Defaults
            to None: what has `max_rows` of the longest sequence is measured, and if it does not fit into memory
            (`ResourceExhaustedError`), batches may be as large as the largest that did.
        max_step_seconds: Float, the longest that a step may take. Defaults to None.
        repeats: Int, how often each batch is measured after a first time. Defaults to 3.

    Returns:
        `TunedBatchSizes`, which prints as a table. `BucketedSequence(x, y, **tuned.options)` takes the proposal.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the model is not compiled, Keras runs on another backend than TensorFlow, or no batches keep to
            the bounds.

    Example:
        >>> x = [np.ones((length, 2)) for length in range(1, 41)]
        >>> dataset = keras_bucketing.BucketedSequence(x, np.zeros(40), batch_size=8, seed=0)
        >>> model = keras.Sequential([keras.layers.SimpleRNN(4), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> tuned = keras_bucketing.tune_batch_sizes(model, dataset)
        >>> tuned.proposed.num_updates >= dataset.num_batches
        True
        >>> dataset = keras_bucketing.BucketedSequence(x, np.zeros(40), seed=0, **tuned.options)
    """
    _check_model(model)
    if not isinstance(dataset, BucketedSequence):
        raise TypeError(
            f"`dataset` must be a BucketedSequence. Received {show_typed(dataset)}. Pass it as it is, without map, "
            "take or prefetch."
        )
    repeats = check_integer("repeats", repeats)
    rules = dataset._batch_rules
    order = np.argsort(dataset.lengths, kind="stable")[-dataset.num_sequences :]  # without those dropped as empty
    lengths = np.maximum(dataset.lengths[order], rules.min_length)
    bounds = _check_bounds(dataset, min_updates, min_rows, max_rows, max_timesteps_per_batch, max_step_seconds)

    probes = probe_batches(lengths, bounds.min_rows, bounds.max_rows, rules.multiple, bounds.max_timesteps_per_batch)
    timesteps = [probe.padded_timesteps for probe in probes]
    times = time_steps(model, dataset, [order[probe.rows] for probe in probes], timesteps, repeats)
    probes = probes[: len(times.seconds)]
    if times.too_large is not None:
        fitting = _check_longest_fits(probes[-1].padded_timesteps, rules.multiple * int(lengths[-1]))
        bounds = replace(bounds, max_timesteps_per_batch=fitting)
    rows = np.array([len(probe.rows) for probe in probes])
    padded_lengths = np.array([probe.padded_length for probe in probes])
    costs = fit_step_costs(rows, padded_lengths, times.seconds)

    buckets = Buckets.from_lengths(lengths, dataset.bucket_boundaries, dataset.bucket_batch_sizes)
    buckets = keep_outliers_apart(buckets, lengths, rules)
    now = forecast_epoch(lengths, buckets, costs, rules)
    said = replace(bounds, min_rows=min_rows or 1, max_rows=max_rows or len(lengths))
    proposed, forecast = _shortest_epoch(lengths, costs, bounds, said, (buckets, now), rules)
    columns = (rows, padded_lengths, times.seconds, costs.seconds(rows, padded_lengths))
    steps = tuple(MeasuredStep(*step) for step in zip(*(column.tolist() for column in columns), strict=True))
    return TunedBatchSizes(proposed.boundaries, proposed.batch_sizes, steps, costs, now, forecast, times.too_large)


@dataclass(frozen=True)
class MeasuredStep:
    """A training step at one shape.

    Attributes:
        rows: Int.
        padded_length: Int, in timesteps.
        seconds: Float, the median of the measurements.
        predicted_seconds: Float, what the fitted costs say.

    Example:
        >>> step = MeasuredStep(rows=32, padded_length=10, seconds=0.004, predicted_seconds=0.005)
        >>> round(step.predicted_seconds / step.seconds, 2)
        1.25
    """

    rows: int
    padded_length: int
    seconds: float
    predicted_seconds: float


@dataclass(frozen=True)
class TunedBatchSizes(ShownInNotebooks):
    """Boundaries and sizes for shorter epochs, and the measurements that they follow from.

    Attributes:
        bucket_boundaries: List of ints, for `BucketedSequence`.
        bucket_batch_sizes: List of ints, for `BucketedSequence`.
        steps: Tuple of `MeasuredStep`, the fewest timesteps first.
        costs: `StepCosts`, fitted to them.
        current: `EpochForecast` of the dataset as it is: `seconds`, `num_updates`, `largest_batch`.
        proposed: `EpochForecast` with these boundaries and sizes.
        too_large: Int, the timesteps of the smallest measured batch that did not fit into memory; None if all did.

    Example:
        >>> now, then = EpochForecast(3.0, 94, 9000, 80.0), EpochForecast(2.0, 94, 12000, 85.0)
        >>> tuned = TunedBatchSizes([5], [64, 16], (), StepCosts(0.005, 7e-5, 2e-6), now, then)
        >>> tuned.speedup, tuned.options
        (1.5, {'bucket_boundaries': [5], 'bucket_batch_sizes': [64, 16]})
    """

    bucket_boundaries: list[int]
    bucket_batch_sizes: list[int]
    steps: tuple[MeasuredStep, ...]
    costs: StepCosts
    current: EpochForecast
    proposed: EpochForecast
    too_large: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Dict, the keyword arguments of `BucketedSequence`, in the place of other sizes and boundaries."""
        return {"bucket_boundaries": self.bucket_boundaries, "bucket_batch_sizes": self.bucket_batch_sizes}

    @property
    def speedup(self) -> float:
        """Float, how many times faster an epoch is predicted to be."""
        return self.current.seconds / self.proposed.seconds

    def __str__(self) -> str:
        steps = [
            [step.rows, step.padded_length, _milliseconds(step.seconds), _milliseconds(step.predicted_seconds)]
            for step in self.steps
        ]
        epochs = [
            [name, f"{forecast.seconds:.3g}", forecast.num_updates, forecast.largest_batch]
            for name, forecast in (("now", self.current), ("proposed", self.proposed))
        ]
        costs = self.costs
        sentence = (
            f"A step takes {_milliseconds(costs.overhead)} ms + {costs.per_timestep * 1e6:.3g} us a timestep + "
            f"{costs.per_padded_timestep * 1e6:.3g} us a row and timestep."
        )
        if self.too_large is not None:
            sentence += f" A batch of {self.too_large} timesteps does not fit into memory."
        return "\n\n".join(
            [
                format_table(["rows", "padded length", "measured ms", "predicted ms"], steps),
                sentence,
                format_table(["epoch", "predicted s", "updates", "timesteps of the largest batch"], epochs),
                "\n".join(f"{name}={value}" for name, value in self.options.items()),
            ]
        )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"


def _check_model(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received {show_typed(model)}.")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`tune_batch_sizes` times steps of the TensorFlow backend. Received the backend "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=tensorflow, or choose bucket_batch_sizes by hand."
        )
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled: a step is timed with its optimizer and its loss. Call compile() first."
        )


def _check_bounds(
    dataset: BucketedSequence,
    min_updates: object,
    min_rows: object,
    max_rows: object,
    max_timesteps_per_batch: object,
    max_step_seconds: object,
) -> SizeBounds:
    """Checks the arguments of `tune_batch_sizes` that bound batches, and fills in what is not said."""
    rules, num_sequences = dataset._batch_rules, dataset.num_sequences
    min_updates = dataset.num_batches if min_updates is None else check_integer("min_updates", min_updates)
    min_rows, max_rows = _check_rows(min_rows, max_rows, num_sequences / dataset.num_batches, rules.multiple)
    max_possible = num_sequences // rules.multiple * rules.multiple
    if min_rows > max_possible:
        raise ValueError(
            f"`min_rows` must not exceed the {max_possible} sequences that there are. Received {min_rows}."
        )
    if max_timesteps_per_batch is not None:
        max_timesteps_per_batch = check_integer(
            "max_timesteps_per_batch",
            max_timesteps_per_batch,
            minimum=rules.multiple * int(max(dataset.lengths.max(), rules.min_length)),
            maximum=INT64_MAX,
            fix=f"A batch has at least {_rows(rules.multiple)} of the longest sequence.",
        )
    if max_step_seconds is not None:
        max_step_seconds = check_number("max_step_seconds", max_step_seconds)
        if not max_step_seconds > 0:
            raise ValueError(f"`max_step_seconds` must be positive. Received {show(max_step_seconds)}.")
    return SizeBounds(
        min_updates,
        min_rows,
        min(max_rows, max_possible),
        max_timesteps_per_batch,
        max_step_seconds,
        # Where each bucket is a shape to compile, more buckets may cost more than they save.
        max_buckets=len(dataset.bucket_batch_sizes) if rules.pad_to_bucket_boundary else MAX_BUCKETS,
    )


def _check_rows(min_rows: object, max_rows: object, mean: float, multiple: int) -> tuple[int, int]:
    """The least and the most rows of a batch: multiples, by default around the mean of the dataset's batches."""
    if min_rows is None:
        min_rows = max(round(mean * _MIN_OF_MEAN / multiple), 1) * multiple
        if max_rows is not None:
            min_rows = min(min_rows, check_integer("max_rows", max_rows))
    if max_rows is None:
        max_rows = max(round(mean * _MAX_OF_MEAN / multiple) * multiple, check_integer("min_rows", min_rows))
    checked = check_integer("min_rows", min_rows), check_integer("max_rows", max_rows)
    for name, rows in zip(("min_rows", "max_rows"), checked, strict=True):
        if rows % multiple:
            raise ValueError(
                f"`{name}` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of {multiple}, "
                f"received {rows}."
            )
    if checked[0] > checked[1]:
        raise ValueError(
            f"`min_rows` must not exceed `max_rows`. Expected at most {checked[1]}, received {checked[0]}."
        )
    return checked


def _check_longest_fits(fitting: int, needed: int) -> int:
    """Returns the padded timesteps that are known to fit into memory, refusing too few for the longest sequence."""
    if fitting < needed:
        raise ValueError(
            f"The longest sequence does not fit into memory. Expected room for {needed} timesteps, but the largest "
            f"batch that fits has {fitting}. Cut long sequences with maxlen."
        )
    return fitting


def _shortest_epoch(
    lengths: Lengths,
    costs: StepCosts,
    bounds: SizeBounds,
    said: SizeBounds,
    current: tuple[Buckets, EpochForecast],
    rules: BatchRules,
) -> tuple[Buckets, EpochForecast]:
    """The choice with the shortest epoch, or what there is if nothing is better and the bounds that are said allow it.

    Raises:
        ValueError: If no batches keep to the bounds.
    """
    now = current[1]
    # As random as now; where the user wants more and so smaller batches, as many times less.
    batchmates = now.distinct_batchmates * min(now.num_updates / bounds.min_updates, 1)
    best = choose_sizes(lengths, costs, replace(bounds, min_batchmates=batchmates), rules)
    is_better = best is not None and best[1].seconds < now.seconds
    if not is_better and said.allow(lengths, *current, costs, rules.multiple):
        return current
    best = best or choose_sizes(lengths, costs, bounds, rules)  # what the user bounds comes first
    if best is None:
        raise ValueError(_no_choice(lengths, costs, bounds, rules.multiple))
    return best


def _no_choice(lengths: Lengths, costs: StepCosts, bounds: SizeBounds, multiple: int) -> str:
    """Which bound no batches keep to."""
    longest = lengths[-1:]
    if not bounds.max_rows_at(longest, costs, multiple)[0]:
        needed = float(costs.seconds(multiple, longest)[0])
        return (
            f"`max_step_seconds` is too short for {_rows(multiple)} of the longest sequence. "
            f"Expected at least {needed:.3g} for {longest[0]} timesteps, received {bounds.max_step_seconds:.3g}. Raise "
            "it, or cut long sequences with maxlen."
        )
    return (
        f"`min_updates` cannot be reached. Expected fewer than {bounds.min_updates}: batches of {bounds.min_rows} rows "
        f"make about {len(lengths) // bounds.min_rows} an epoch. Lower min_updates or min_rows."
    )


def _rows(number: int) -> str:
    return f"{number} row{'s' if number > 1 else ''}"
