"""tune_batch_sizes: measures a model's training steps, and proposes the sizes of the shortest epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.checks import INT64_MAX, check_flag, check_integer, check_number, show, show_typed
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.padding.text_table import ShownInNotebooks, format_table
from keras_bucketing.planning.bucket_choice import MAX_BUCKETS, keep_outliers_apart
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import BatchRules
from keras_bucketing.planning.forecast import ShuffledBatches
from keras_bucketing.tuning.choose import (
    MAX_MISFIT,
    EpochForecast,
    SizeBounds,
    StepCosts,
    choose_sizes,
    fit_memory_costs,
    fit_step_costs,
    forecast_epoch,
    forecast_error,
)
from keras_bucketing.tuning.measure import (
    TRAINING_BACKENDS,
    ProbeBatch,
    StepTimes,
    always_compiles,
    compiled_by_xla,
    corner_batches,
    may_be_compiled,
    probe_batches,
    time_steps,
)

# Unless the user says otherwise, a batch has from a third of the mean rows of the dataset's to four times as many.
_MIN_OF_MEAN, _MAX_OF_MEAN = 1 / 3, 4
_MAX_COMPILED_SHAPES = 8  # buckets, each of which XLA compiles


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
    measure_xla: bool = True,
    verbose: int | str = "auto",
) -> TunedBatchSizes:
    """Measures training steps of the model, and proposes boundaries and sizes for shorter epochs.

    It trains on about a dozen batches of real rows, fits the costs of a step, of a timestep, of a row and timestep, and
    of a row and squared length to the times, and chooses the sizes with the shortest predicted epoch. If nothing faster
    is found, your current sizes are returned and `reason` says why. This is also the case if the costs miss a measured
    step by more than 30 %, or if the predicted gain is smaller than the error of the prediction. See
    docs/buckets-and-sizes.md.

    On a GPU or TPU the memory of the same steps is measured, if the backend reports it: batches are only measured, and
    proposed, if they are expected to fit into 85 % of it. If attention shows in the times, `quadratic_length` is
    proposed for budgets. On JAX, and with XLA on TensorFlow, each measured shape is compiled, which the times leave
    out. On TensorFlow without XLA, five shapes are compiled to find out whether `jit_compile=True` would pay.

    The model really trains, through its own `fit`, and is then restored: weights, optimizer, metrics and random states.
    So are the dataset's position and the random states of Python, NumPy and PyTorch. A model that is not built yet is
    built. Two things are not restored: random numbers that a layer draws without a seed generator, and counts that it
    keeps outside Keras variables.

    A loss is a mean over the batch, so a sequence counts more in a small batch than in a large one, and most updates
    come from the short sequences. The further `min_rows` and `max_rows` are apart, the shorter an epoch may be, and the
    more this may cost in accuracy.

    Args:
        model: A compiled `keras.Model`, on TensorFlow, JAX or PyTorch.
        dataset: The `BucketedSequence` that the model trains on.
        min_updates: Int, the minimum number of batches per epoch. Defaults to None: that of the dataset.
        min_rows: Int, the minimum rows of a batch. Defaults to None: a third of the mean of the dataset's batches.
        max_rows: Int, the maximum rows of a batch. Defaults to None: four times the mean of the dataset's batches.
        max_timesteps_per_batch: Int, the maximum timesteps of a batch, padding included, which limits its memory.
            Defaults to None: what the measured memory allows. If memory cannot be measured, a batch of `max_rows` of
            the longest sequence is tried; if it runs out of memory, batches are limited to the largest that did not.
        max_step_seconds: Float, the maximum time of a step. Defaults to None.
        repeats: Int, how often the largest batch is measured after a first time; small ones are measured up to four
            times as often. Defaults to 3.
        measure_xla: Bool, whether to measure what `jit_compile=True` would gain, on TensorFlow, if the model does not
            train with XLA already. Defaults to True.
        verbose: `"auto"`, 0, 1 or 2, as for `fit`: 0 is silent, 1 a progress bar, 2 a line. `"auto"` is 1.

    Returns:
        `TunedBatchSizes`, which prints as a table. `BucketedSequence(x, y, **tuned.options)` takes the proposal.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the model is not compiled, Keras runs on a backend that does not train, or no batches satisfy the
            limits.

    Example:
        >>> x = [np.ones((length, 2)) for length in range(1, 41)]
        >>> dataset = keras_bucketing.BucketedSequence(x, np.zeros(40), batch_size=8, seed=0)
        >>> model = keras.Sequential([keras.layers.SimpleRNN(4), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> tuned = keras_bucketing.tune_batch_sizes(model, dataset, measure_xla=False, verbose=0)
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
    repeats, verbose = check_integer("repeats", repeats), _check_verbose(verbose)
    measure_xla = check_flag("measure_xla", measure_xla)
    rules = dataset._batch_rules
    order = dataset._typical_rows()
    lengths = np.maximum(dataset.lengths[order], rules.min_length)
    bounds = _check_bounds(dataset, min_updates, min_rows, max_rows, max_timesteps_per_batch, max_step_seconds)

    probes = probe_batches(lengths, bounds.min_rows, bounds.max_rows, rules.multiple, bounds.max_timesteps_per_batch)
    probes = [probe._replace(rows=order[probe.rows]) for probe in probes]
    times = time_steps(model, dataset, probes, repeats, verbose)
    costs = fit_step_costs(times.rows, times.padded_lengths, times.seconds)
    steps = _measured_steps(times, costs)
    memory = fit_memory_costs(times.rows, times.padded_lengths, times.peak_bytes, times.usable_bytes)
    bounds = replace(bounds, memory=memory)
    if times.too_large is not None and memory is None:
        fitting = times.probes[-1].padded_timesteps
        _check_longest_fits(fitting, rules.multiple * int(lengths[-1]))
        bounds = replace(bounds, max_timesteps_per_batch=fitting)
    if memory is not None:
        _check_longest_fits(int(memory.max_rows(lengths[-1:])[0] * lengths[-1]), rules.multiple * int(lengths[-1]))

    if dataset._buckets.levels:
        buckets = _nested_buckets_of(dataset, order)
        now = _forecast_nested(dataset, buckets, costs)
    else:
        buckets = Buckets.from_lengths(lengths, dataset.bucket_boundaries, dataset.bucket_batch_sizes)
        buckets = keep_outliers_apart(buckets, lengths, rules)
        now = forecast_epoch(lengths, buckets, costs, rules)
    said = replace(bounds, min_rows=min_rows or 1, max_rows=max_rows or len(lengths))
    proposed, forecast, reason = _shortest_epoch(lengths, costs, steps, bounds, said, (buckets, now), rules)
    quadratic_length = costs.quadratic_length(int(lengths[-1])) if _worst(steps).error <= MAX_MISFIT else None
    tuned = TunedBatchSizes(
        proposed.boundaries,
        proposed.batch_sizes,
        steps,
        costs,
        _plus(now, times),
        _plus(forecast, times),
        times.too_large,
        reason,
        quadratic_length,
        max_timesteps_per_batch=None if memory is None else memory.max_timesteps(lengths, quadratic_length),
        epoch_seconds=times.epoch_seconds,
        num_shapes=_max_shapes(proposed) if rules.pad_to_bucket_boundary else None,
    )
    if always_compiles(model):
        return replace(tuned, compile_seconds=times.compile_seconds)
    if not measure_xla or not may_be_compiled(model):
        return tuned
    return _with_xla(tuned, model, dataset, times.probes, lengths, bounds, repeats, verbose)


def _with_xla(
    tuned: TunedBatchSizes,
    model: keras.Model,
    dataset: BucketedSequence,
    probes: Sequence[ProbeBatch],
    lengths: Lengths,
    bounds: SizeBounds,
    repeats: int,
    verbose: int,
) -> TunedBatchSizes:
    """Adds what an epoch would take with XLA, in a few shapes; nothing where XLA cannot compile the model."""
    try:
        with compiled_by_xla(model):
            times = time_steps(model, dataset, [probes[index] for index in corner_batches(probes)], repeats, verbose)
    except Exception:  # XLA does not know all operations; what it raises is of many kinds
        return tuned
    costs = fit_step_costs(times.rows, times.padded_lengths, times.seconds)
    if _worst(_measured_steps(times, costs)).error > MAX_MISFIT:
        return tuned
    max_buckets = min(_MAX_COMPILED_SHAPES, bounds.max_buckets)
    bounds = replace(bounds, max_buckets=max_buckets, min_batchmates=_batchmates(tuned.current, bounds))
    best = choose_sizes(lengths, costs, bounds, replace(dataset._batch_rules, pad_to_bucket_boundary=True))
    if best is None:
        return tuned
    buckets, forecast = best
    options = {"bucket_boundaries": buckets.boundaries, "bucket_batch_sizes": buckets.batch_sizes}
    return replace(
        tuned,
        compile_seconds=times.compile_seconds,
        num_shapes=_max_shapes(buckets),
        compiled=_plus(forecast, times),
        compiled_options={**options, "pad_to_bucket_boundary": True},
    )


def _plus(forecast: EpochForecast, times: StepTimes) -> EpochForecast:
    """The forecast with what `fit` takes for an epoch besides its steps."""
    return replace(forecast, seconds=forecast.seconds + times.epoch_seconds)


def _measured_steps(times: StepTimes, costs: StepCosts) -> tuple[MeasuredStep, ...]:
    predicted = costs.seconds(times.rows, times.padded_lengths)
    memory = [None if np.isnan(peak) else int(peak) for peak in times.peak_bytes]
    columns = (times.rows.tolist(), times.padded_lengths.tolist(), times.seconds.tolist(), predicted.tolist(), memory)
    return tuple(MeasuredStep(*step) for step in zip(*columns, strict=True))


def _worst(steps: tuple[MeasuredStep, ...]) -> MeasuredStep:
    """The step whose prediction is the furthest from what was measured."""
    return max(steps, key=lambda step: step.error)


@dataclass(frozen=True)
class MeasuredStep:
    """A training step of one shape.

    Attributes:
        rows: Int.
        padded_length: Int, in timesteps.
        seconds: Float, the median of the measurements.
        predicted_seconds: Float, by the fitted costs.
        peak_bytes: Int, the maximum memory in use; None if it was not measured.

    Example:
        >>> step = MeasuredStep(rows=32, padded_length=10, seconds=0.004, predicted_seconds=0.005)
        >>> round(step.predicted_seconds / step.seconds, 2)
        1.25
    """

    rows: int
    padded_length: int
    seconds: float
    predicted_seconds: float
    peak_bytes: int | None = None

    @property
    def error(self) -> float:
        """Float, the error of the prediction, as a share of the measured seconds."""
        return abs(self.predicted_seconds / self.seconds - 1)


@dataclass(frozen=True)
class TunedBatchSizes(ShownInNotebooks):
    """Boundaries and sizes for shorter epochs, and the measurements behind them.

    Attributes:
        bucket_boundaries: List of ints, for `BucketedSequence`.
        bucket_batch_sizes: List of ints, for `BucketedSequence`.
        steps: Tuple of `MeasuredStep`, the fewest timesteps first.
        costs: `StepCosts`, fitted to them.
        current: `EpochForecast` of the given dataset: `seconds`, `num_updates`, `largest_batch`.
        proposed: `EpochForecast` with these boundaries and sizes.
        too_large: Int, the timesteps of the smallest batch that did not fit into memory, or was expected not to; None
            if all did.
        reason: Str, why the current sizes are returned; None if other sizes are proposed.
        quadratic_length: Int, in timesteps, for `BucketedSequence` with a budget, which then counts the measured cost
            of a row; None if attention does not show in the times.
        max_timesteps_per_batch: Int, the largest budget whose batches fit into 85 % of the memory, counted with
            `quadratic_length`; None if memory was not measured.
        epoch_seconds: Float, the time in which `fit` begins and ends an epoch, which is part of the forecasts.
        compile_seconds: Float, the time to compile a shape; 0 if nothing is compiled.
        num_shapes: Int, the maximum number of shapes to compile; None if batches are not padded to their boundary.
        compiled: `EpochForecast` with `compile(jit_compile=True)` and `compiled_options`; None if that was not
            measured.
        compiled_options: Dict, the keyword arguments of `BucketedSequence` for that.

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
    reason: str | None = None
    quadratic_length: int | None = None
    max_timesteps_per_batch: int | None = None
    epoch_seconds: float = 0.0
    compile_seconds: float = 0.0
    num_shapes: int | None = None
    compiled: EpochForecast | None = None
    compiled_options: dict[str, Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Dict, the keyword arguments of `BucketedSequence`, in place of other sizes and boundaries."""
        return {"bucket_boundaries": self.bucket_boundaries, "bucket_batch_sizes": self.bucket_batch_sizes}

    @property
    def speedup(self) -> float:
        """Float, how many times faster an epoch is predicted to be."""
        return self.current.seconds / self.proposed.seconds

    @property
    def compiled_pays_after(self) -> int | None:
        """Int, the number of epochs after which compiling has paid; None if it never does, or was not measured."""
        saved = 0.0 if self.compiled is None else self.proposed.seconds - self.compiled.seconds
        return math.ceil(self.compile_seconds * (self.num_shapes or 0) / saved) if saved > 0 else None

    def __str__(self) -> str:
        with_memory = any(step.peak_bytes is not None for step in self.steps)
        steps = [
            [step.rows, step.padded_length, _milliseconds(step.seconds), _milliseconds(step.predicted_seconds)]
            + ([_megabytes(step.peak_bytes)] if with_memory else [])
            for step in self.steps
        ]
        heads = ["rows", "padded length", "measured ms", "predicted ms"] + (["memory, MB"] if with_memory else [])
        forecasts = {"now": self.current, "proposed": self.proposed}
        if self.compiled is not None:
            forecasts["with XLA"] = self.compiled
        epochs = [
            [name, f"{forecast.seconds:.3g}", forecast.num_updates, forecast.largest_batch]
            for name, forecast in forecasts.items()
        ]
        return "\n\n".join(
            [
                format_table(heads, steps),
                self._costs_as_text(),
                format_table(["epoch", "predicted s", "updates", "timesteps of the largest batch"], epochs),
                *filter(None, [self.reason, self._budget_as_text(), self._compilation_as_text()]),
                "\n".join(f"{name}={value}" for name, value in self.options.items()),
            ]
        )

    def _costs_as_text(self) -> str:
        costs = self.costs
        text = (
            f"A step takes {_milliseconds(costs.overhead)} ms + {costs.per_timestep * 1e6:.3g} us a timestep + "
            f"{costs.per_padded_timestep * 1e6:.3g} us a row and timestep"
        )
        if costs.per_squared_length:
            text += f" + {costs.per_squared_length * 1e9:.3g} ns a row and squared length"
        if self.epoch_seconds:
            text += f", an epoch {_milliseconds(self.epoch_seconds)} ms to begin and end"
        if self.steps:
            errors = [step.error for step in self.steps]
            text += f". The steps are missed by {np.mean(errors):.0%} on average, {max(errors):.0%} at most"
        if self.too_large is not None:
            text += f". A batch of {self.too_large} timesteps does not fit into memory"
        return text + "."

    def _budget_as_text(self) -> str:
        quadratic, budget = self.quadratic_length, self.max_timesteps_per_batch
        if budget is not None:
            text = f"As far as memory goes, max_timesteps_per_batch may be up to {budget}"
            return text + (f" with quadratic_length={quadratic}." if quadratic else ".")
        if quadratic is not None:
            return (
                "The time of a row grows with the square of its length, as attention does. In a budget of timesteps, "
                f"quadratic_length={quadratic} next to max_timesteps_per_batch counts that."
            )
        return ""

    def _compilation_as_text(self) -> str:
        if self.compiled is not None and self.compiled_options is not None:
            compiling = (
                f"compiling {self.num_shapes} shapes takes about {self.compile_seconds * (self.num_shapes or 0):.2g} s"
            )
            if self.compiled_pays_after is None:
                return f"XLA would not pay: no epoch is predicted to be shorter, and {compiling}."
            options = ", ".join(f"{name}={value}" for name, value in self.compiled_options.items())
            return (
                f"XLA would pay after {self.compiled_pays_after} epochs: {compiling}. For that, compile the model with "
                f"jit_compile=True, and pass BucketedSequence {options}."
            )
        if not self.compile_seconds:
            return ""
        shapes = "one of each padded length, with pad_to_bucket_boundary=True one of each bucket, and one more"
        if self.num_shapes is not None:
            shapes = f"at most {self.num_shapes} shapes"
        return (
            f"Compiling a shape takes about {self.compile_seconds:.2g} s, once, which the seconds above leave out. The "
            f"proposal has {shapes}."
        )


def _max_shapes(buckets: Buckets) -> int:
    """The shapes of batches that are padded to their boundary: one a bucket, and that of the last partial batch."""
    return len(buckets.batch_sizes) + 1


def _megabytes(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 1e6:.3g}"


def _nested_buckets_of(dataset: BucketedSequence, order: RowIndices) -> Buckets:
    """The buckets of the dataset for its rows in this order."""
    planned = np.arange(len(dataset.lengths)) if dataset._kept is None else dataset._kept
    if dataset._sampling is not None:
        planned = planned[dataset._sampling.rows]
    buckets = dataset._buckets
    return replace(buckets, row_buckets=buckets.row_buckets[np.searchsorted(planned, order)])


def _forecast_nested(dataset: BucketedSequence, buckets: Buckets, costs: StepCosts) -> EpochForecast:
    """What an epoch comes to whose batches are of nested buckets: that of one epoch, where no one length decides."""
    plan = dataset._planner.plan(epoch=0, seed=0)
    rows = np.diff(plan.batch_splits)
    batches = ShuffledBatches.from_nested(buckets, dataset._batch_rules)
    return EpochForecast(
        seconds=float(np.sum(costs.seconds(rows, plan.padded_lengths))),
        num_updates=len(plan),
        largest_batch=int((rows * plan.padded_lengths).max()),
        distinct_batchmates=batches.distinct_batchmates(),
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"


def _check_model(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received {show_typed(model)}.")
    if keras.backend.backend() not in TRAINING_BACKENDS:
        raise ValueError(
            f"`tune_batch_sizes` trains the model. Expected the backend {', '.join(TRAINING_BACKENDS[:-1])} or "
            f"{TRAINING_BACKENDS[-1]}, received {keras.backend.backend()}. Set KERAS_BACKEND, or choose "
            "bucket_batch_sizes by hand."
        )
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled: a step is timed with its optimizer and its loss. Call compile() first."
        )


def _check_verbose(verbose: object) -> int:
    if isinstance(verbose, str) and verbose == "auto":
        return 1
    return check_integer("verbose", verbose, minimum=0, maximum=2, fix="0 is silent, 1 and 'auto' show a progress bar.")


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


def _check_longest_fits(fitting: int, needed: int) -> None:
    """Refuses too few padded timesteps, of those that fit into memory, for the longest sequence."""
    if fitting < needed:
        raise ValueError(
            f"The longest sequence does not fit into memory. Expected room for {needed} timesteps, but the largest "
            f"batch that fits has {fitting}. Cut long sequences with maxlen."
        )


def _shortest_epoch(
    lengths: Lengths,
    costs: StepCosts,
    steps: tuple[MeasuredStep, ...],
    bounds: SizeBounds,
    said: SizeBounds,
    current: tuple[Buckets, EpochForecast],
    rules: BatchRules,
) -> tuple[Buckets, EpochForecast, str | None]:
    """The choice with the shortest epoch; or what there is, and why, where the bounds that are said allow it.

    Raises:
        ValueError: If no batches keep to the bounds.
    """
    now = current[1]
    best = choose_sizes(lengths, costs, replace(bounds, min_batchmates=_batchmates(now, bounds)), rules)
    reason = _reason_to_stay(steps, now, best)
    if reason is not None and said.allow(lengths, *current, costs, rules.multiple):
        return *current, reason
    best = best or choose_sizes(lengths, costs, bounds, rules)  # what the user bounds comes first
    if best is None:
        raise ValueError(_no_choice(lengths, costs, bounds, rules.multiple))
    return *best, None


def _batchmates(now: EpochForecast, bounds: SizeBounds) -> float:
    """The distinct batchmates to keep: as many as now; where the user wants smaller batches, as many times less."""
    return now.distinct_batchmates * min(now.num_updates / bounds.min_updates, 1)


def _reason_to_stay(
    steps: tuple[MeasuredStep, ...], now: EpochForecast, best: tuple[Buckets, EpochForecast] | None
) -> str | None:
    """Why what there is should stay; None if it should not."""
    stay, worst = "The proposal is what there is", _worst(steps)
    if worst.error > MAX_MISFIT:
        return (
            f"{stay}: the prediction misses the step of {worst.rows} rows x {worst.padded_length} timesteps by "
            f"{worst.error:.0%}, more than {MAX_MISFIT:.0%}, so that no prediction can be trusted. If other programs "
            "were running, measure once more, with more repeats."
        )
    gain = 0.0 if best is None else 1 - best[1].seconds / now.seconds
    if gain <= 0:
        return f"{stay}: no other sizes within the bounds are predicted to be faster."
    error = forecast_error([step.error for step in steps])
    if gain < error:
        return (
            f"{stay}: the best sizes found are predicted to save {gain:.1%} of an epoch, less than the error of such a "
            f"prediction, {error:.1%}."
        )
    return None


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
