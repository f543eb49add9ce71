"""tune_batch_sizes: measures a model's training steps, and proposes the sizes of the shortest epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.checks import INT64_MAX, check_flag, check_integer, check_number, check_verbose, show, show_typed
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.padding.text_table import ShownInNotebooks, format_table
from keras_bucketing.planning.bucket_arguments import check_row_bounds
from keras_bucketing.planning.bucket_choice import MAX_BUCKETS, keep_outliers_apart
from keras_bucketing.planning.buckets import Buckets
from keras_bucketing.planning.cuts import cut_batches, passage_of
from keras_bucketing.planning.epoch_plan import EpochPlanner
from keras_bucketing.planning.forecast import ShuffledBatches
from keras_bucketing.predicting.batch_runs import always_compiles, compiled_by_xla, may_be_compiled
from keras_bucketing.tuning.choose import (
    MAX_MISFIT,
    MIN_BATCHES,
    Choice,
    EpochForecast,
    SizeBounds,
    StepCosts,
    choose_sizes,
    fit_memory_costs,
    fitted_sizes,
    forecast_epoch,
    forecast_error,
)
from keras_bucketing.tuning.measure import (
    TRAINING_BACKENDS,
    MeasuredStep,
    StepTimes,
    corner_batches,
    probe_batches,
    time_steps,
)

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
    of a row and squared length to the times, and chooses the sizes with the shortest predicted epoch. For about as long
    it trains on the dataset as it is, to find out what an epoch takes besides such steps. If nothing faster is found,
    your current sizes are returned and `reason` says why. This is also the case if the costs miss a measured step by
    more than 30 %, or if the predicted gain is smaller than the error of the prediction. Nested buckets keep their
    boundaries, and get other sizes. See docs/buckets-and-sizes.md.

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

    If a row has several sequences, such as a question and an answer, or a label of its own length, the costs are those
    of its longest one in `x`, and what the others cost on average is part of them and of `slowdown`. Predicted epochs
    stay right, but the fewer proposals are trusted the less the lengths have to do with each other.

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
    repeats, verbose = check_integer("repeats", repeats), check_verbose(verbose)
    measure_xla = check_flag("measure_xla", measure_xla)
    rules = dataset._batch_rules
    order = dataset._typical_rows()
    lengths = np.maximum(dataset.lengths[order], rules.min_length)
    longest = int(lengths[-1])
    bounds = _check_bounds(dataset, min_updates, min_rows, max_rows, max_timesteps_per_batch, max_step_seconds)

    probes = probe_batches(lengths, bounds.min_rows, bounds.max_rows, rules.multiple, bounds.max_timesteps_per_batch)
    probes = [probe._replace(rows=order[_neighbors(dataset, order, probe.rows)]) for probe in probes]
    times = time_steps(model, dataset, probes, repeats, verbose)
    costs, steps = times.costs, times.steps
    bounds = _within_memory(bounds, times, longest, rules.multiple)

    choose, in_buckets, (buckets, now) = _current_and_others(dataset, lengths, costs)
    said = replace(bounds, min_rows=min_rows or 1, max_rows=max_rows or len(lengths))
    may_stay = said.allow(in_buckets, buckets, now, costs, rules.multiple)
    best, reason = _shortest_epoch(choose, steps, bounds, (buckets, now), may_stay)
    if best is None:
        raise ValueError(_no_choice(lengths, costs, bounds, rules.multiple))
    proposed, forecast = best
    quadratic_length = costs.quadratic_length(longest) if _worst(steps).error <= MAX_MISFIT else None
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
        max_timesteps_per_batch=bounds.memory.max_timesteps(lengths, quadratic_length) if bounds.memory else None,
        epoch_seconds=times.epoch_seconds,
        slowdown=times.slowdown,
        given_sizes=_given_sizes(dataset) if reason is not None and dataset._buckets.mixed_sizes else None,
        num_shapes=_max_shapes(proposed) if rules.pad_to_bucket_boundary else None,
    )
    if always_compiles(model):
        return replace(tuned, compile_seconds=times.compile_seconds)
    if not measure_xla or not may_be_compiled(model):
        return tuned
    return _with_xla(tuned, model, dataset, times, lengths, bounds, repeats, verbose)


def _current_and_others(
    dataset: BucketedSequence, lengths: Lengths, costs: StepCosts
) -> tuple[Callable[[SizeBounds], Choice | None], Lengths, Choice]:
    """What chooses other sizes within bounds; the lengths of the rows in the dataset's buckets, and these buckets."""
    if dataset._buckets.levels:
        current = dataset._buckets, _forecast_nested(dataset, dataset._buckets, costs)
        return partial(_choose_nested_sizes, dataset, costs), _planned_lengths(dataset), current
    rules = dataset._batch_rules
    buckets = Buckets.from_lengths(lengths, dataset.bucket_boundaries, dataset.bucket_batch_sizes)
    buckets = keep_outliers_apart(buckets, lengths, rules)
    current = buckets, forecast_epoch(lengths, buckets, costs, rules)
    return partial(choose_sizes, lengths, costs, rules=rules), lengths, current


def _with_xla(
    tuned: TunedBatchSizes,
    model: keras.Model,
    dataset: BucketedSequence,
    in_graph: StepTimes,
    lengths: Lengths,
    bounds: SizeBounds,
    repeats: int,
    verbose: int,
) -> TunedBatchSizes:
    """Adds what an epoch would take with XLA, in a few shapes; nothing where XLA cannot compile the model."""
    try:
        with compiled_by_xla(model):
            probes = [in_graph.probes[index] for index in corner_batches(in_graph.probes)]
            times = time_steps(model, dataset, probes, repeats, verbose, measures_epoch=False)
    except Exception:  # XLA does not know all operations; what it raises is of many kinds
        return tuned
    costs = times.costs
    if _worst(times.steps).error > MAX_MISFIT:
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
        compiled=_plus(forecast, in_graph),
        compiled_options={**options, "pad_to_bucket_boundary": True},
    )


def _plus(forecast: EpochForecast, times: StepTimes) -> EpochForecast:
    """The forecast for steps that are part of an epoch, with what `fit` takes besides them."""
    return replace(forecast, seconds=forecast.seconds * times.slowdown + times.epoch_seconds)


def _worst(steps: tuple[MeasuredStep, ...]) -> MeasuredStep:
    """The step whose prediction is the furthest from what was measured."""
    return max(steps, key=lambda step: step.error)


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
        slowdown: Float, how many times as long as estimated a step takes in an epoch of the current dataset. The
            forecasts include it.
        given_sizes: Dict, the arguments for the batch sizes of the current dataset if it is returned and has a budget
            that holds fewer rows in some batches of a bucket than in others; else None.
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
    slowdown: float = 1.0
    given_sizes: dict[str, Any] | None = None
    compile_seconds: float = 0.0
    num_shapes: int | None = None
    compiled: EpochForecast | None = None
    compiled_options: dict[str, Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Dict, the keyword arguments of `BucketedSequence`, in place of other sizes and boundaries."""
        sizes = self.given_sizes or {"bucket_batch_sizes": self.bucket_batch_sizes}
        return {"bucket_boundaries": self.bucket_boundaries, **sizes}

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
        if self.slowdown != 1:
            text += f". In an epoch of other shapes they take {self.slowdown:.3g} times as long"
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


def _planned_lengths(dataset: BucketedSequence) -> Lengths:
    """The padded lengths of the rows that are in buckets, each alone, in their order."""
    lengths = dataset._row_lengths.longest
    lengths = lengths if dataset._sampling is None else lengths[dataset._sampling.rows]
    padded: Lengths = np.maximum(lengths, dataset._batch_rules.min_length).astype(np.int64)
    return padded


def _neighbors(dataset: BucketedSequence, order: RowIndices, rows: RowIndices) -> RowIndices:
    """As many rows of the same longest length, positions in `order`; for nested buckets such as share a bucket."""
    if not dataset._buckets.levels:
        return rows
    planned = np.arange(len(dataset.lengths)) if dataset._kept is None else dataset._kept
    planned = planned if dataset._sampling is None else planned[dataset._sampling.rows]
    buckets = dataset._buckets.row_buckets[np.searchsorted(planned, order[: rows[-1] + 1])]
    nearest = np.argsort(np.abs(buckets - buckets[-1])[::-1], kind="stable")[: len(rows)]
    found: RowIndices = rows[-1] - nearest
    return found


def _choose_nested_sizes(dataset: BucketedSequence, costs: StepCosts, bounds: SizeBounds) -> Choice | None:
    """The sizes of its nested buckets with which an epoch of the dataset is forecast to be the shortest."""
    own, rules, lengths = dataset._buckets, dataset._batch_rules, _planned_lengths(dataset)
    longest = np.maximum(own.longest(lengths), own.upper_lengths if rules.pad_to_bucket_boundary else rules.min_length)
    max_rows = bounds.max_rows_at(longest, costs, rules.multiple)
    if not max_rows.all():
        return None
    row_bounds = np.minimum(bounds.min_rows, max_rows), max_rows
    found: list[Choice] = []
    passage = passage_of(own, rules.remainder)
    for min_batches in (1, *MIN_BATCHES):
        short_first = np.argsort(longest, kind="stable").tolist()
        min_numbers = min_batches, bounds.min_updates
        sizes = fitted_sizes(own.counts, *row_bounds, *min_numbers, rules, short_first, passage)
        if sizes is not None:
            buckets = dataset._choose_buckets(dataset._sampling, own.boundaries, None, dataset._stored.levels, sizes)
            forecast = _forecast_nested(dataset, buckets, costs)
            if bounds.allow(lengths, buckets, forecast, costs, rules.multiple):
                found.append((buckets, forecast))
    return min(found, key=lambda choice: choice[1].seconds, default=None)


def _forecast_nested(dataset: BucketedSequence, buckets: Buckets, costs: StepCosts) -> EpochForecast:
    """What an epoch comes to whose batches are of nested buckets: that of one epoch, where no one length decides."""
    rules = dataset._batch_rules
    cuts = cut_batches(buckets, rules.remainder, rules.multiple)
    lengths, minlen, draws = dataset._row_lengths, rules.min_length, dataset._draws
    planner = EpochPlanner(lengths, buckets, cuts, rules.pad_to_bucket_boundary, True, minlen, draws=draws)
    plan = planner.plan(epoch=0, seed=0)
    rows = np.diff(plan.batch_splits)
    return EpochForecast(
        seconds=float(np.sum(costs.seconds(rows, plan.padded_lengths))),
        num_updates=len(plan),
        largest_batch=int((rows * plan.padded_lengths).max()),
        distinct_batchmates=ShuffledBatches.from_nested(buckets, rules).distinct_batchmates(),
    )


def _given_sizes(dataset: BucketedSequence) -> dict[str, Any]:
    """The arguments that size the batches of a dataset with a budget."""
    names = ("batch_size", "max_timesteps_per_batch", "quadratic_length")
    return {name: getattr(dataset._sizing, name) for name in names if getattr(dataset._sizing, name) is not None}


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
    min_rows, max_rows = check_row_bounds(min_rows, max_rows, num_sequences / dataset.num_batches, rules.multiple)
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


def _within_memory(bounds: SizeBounds, times: StepTimes, longest: int, multiple: int) -> SizeBounds:
    """Adds to the bounds what the steps say of the memory: what they take of it, or else the largest that did fit."""
    memory = fit_memory_costs(times.rows, times.padded_lengths, times.peak_bytes, times.usable_bytes)
    if memory is None and times.too_large is None:
        return bounds
    needed = multiple * longest
    # Infinite where the memory of a step does not grow with its batch.
    fitting = times.probes[-1].padded_timesteps if memory is None else longest * memory.max_rows(np.array([longest]))[0]
    if fitting < needed:
        raise ValueError(
            f"The longest sequence does not fit into memory. Expected room for {needed} timesteps, but the largest "
            f"batch that fits has {int(fitting)}. Cut long sequences with maxlen."
        )
    return replace(bounds, max_timesteps_per_batch=fitting) if memory is None else replace(bounds, memory=memory)


def _shortest_epoch(
    choose: Callable[[SizeBounds], Choice | None],
    steps: tuple[MeasuredStep, ...],
    bounds: SizeBounds,
    current: Choice,
    may_stay: bool,
) -> tuple[Choice | None, str | None]:
    """The choice with the shortest epoch; or what there is, and why, where that may stay."""
    best = choose(replace(bounds, min_batchmates=_batchmates(current[1], bounds)))
    reason = _reason_to_stay(steps, current[1], best)
    if reason is not None and may_stay:
        return current, reason
    return best or choose(bounds), None  # what the user bounds comes first


def _batchmates(now: EpochForecast, bounds: SizeBounds) -> float:
    """The distinct batchmates to keep: as many as now; where the user wants smaller batches, as many times less."""
    return now.distinct_batchmates * min(now.num_updates / bounds.min_updates, 1)


def _reason_to_stay(steps: tuple[MeasuredStep, ...], now: EpochForecast, best: Choice | None) -> str | None:
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
