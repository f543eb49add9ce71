"""tune_batch_sizes: measure a model's training steps, propose the sizes of the shortest epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.checks import check_integer, show_typed
from keras_bucketing.tuning.bound_checks import check_bounds
from keras_bucketing.tuning.epoch_forecast import BatchRules, EpochForecast, forecast_epoch
from keras_bucketing.tuning.measured_steps import time_steps
from keras_bucketing.tuning.probe_batches import probe_batches
from keras_bucketing.tuning.size_bounds import SizeBounds
from keras_bucketing.tuning.size_choice import SizeChoice, choose_sizes, keeps_to
from keras_bucketing.tuning.step_costs import StepCosts, fit_step_costs
from keras_bucketing.tuning.tuned_batch_sizes import TunedBatchSizes, measured_steps


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
    rules = _rules_of(dataset)
    order = np.argsort(dataset.lengths, kind="stable")[-dataset.num_sequences :]  # without those dropped as empty
    lengths = np.maximum(dataset.lengths[order], dataset.plan_options["minlen"])
    bounds = check_bounds(
        dataset, rules.multiple, min_updates, min_rows, max_rows, max_timesteps_per_batch, max_step_seconds
    )
    probes = probe_batches(lengths, bounds.min_rows, bounds.max_rows, rules.multiple, bounds.max_timesteps_per_batch)
    cells = [probe.cells for probe in probes]
    times = time_steps(model, dataset, [order[probe.rows] for probe in probes], cells, repeats)
    probes = probes[: len(times.seconds)]
    if times.too_large is not None:
        bounds = replace(bounds, max_timesteps_per_batch=_room(probes[-1].cells, rules.multiple * int(lengths[-1])))
    rows = np.array([len(probe.rows) for probe in probes])
    padded_lengths = np.array([probe.padded_length for probe in probes])
    costs = fit_step_costs(rows, padded_lengths, times.seconds)
    current = SizeChoice(dataset.bucket_boundaries, dataset.bucket_batch_sizes)
    now = forecast_epoch(lengths, current.bucket_boundaries, current.bucket_batch_sizes, costs, rules)
    # As random as now; where the user wants more and so smaller batches, as many times less.
    mates = now.batch_mates * min(now.num_updates / bounds.min_updates, 1)
    best = _shortest_epoch(lengths, costs, replace(bounds, min_batch_mates=mates), rules)
    if best is None or best[1].seconds >= now.seconds:
        said = replace(bounds, min_rows=min_rows or 1, max_rows=max_rows or len(lengths))
        if keeps_to(said, current, now, lengths, costs, rules.multiple):
            best = current, now
    best = best or _shortest_epoch(lengths, costs, bounds, rules)  # what the user bounds comes first
    if best is None:
        raise ValueError(_no_choice(lengths, costs, bounds, rules.multiple))
    choice, then = best
    steps = measured_steps(rows, padded_lengths, times.seconds, costs)
    return TunedBatchSizes(
        choice.bucket_boundaries, choice.bucket_batch_sizes, steps, costs, now, then, times.too_large
    )


def _check_model(model: Any) -> None:
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


def _rules_of(dataset: BucketedSequence) -> BatchRules:
    options = dataset.plan_options
    return BatchRules(options["remainder"], options["multiple"], options["pad_to_bucket_boundary"])


def _shortest_epoch(
    lengths: np.ndarray, costs: StepCosts, bounds: SizeBounds, rules: BatchRules
) -> tuple[SizeChoice, EpochForecast] | None:
    choice = choose_sizes(lengths, costs, bounds, rules)
    if choice is None:
        return None
    return choice, forecast_epoch(lengths, choice.bucket_boundaries, choice.bucket_batch_sizes, costs, rules)


def _room(fitting: int, needed: int) -> int:
    """The most timesteps of a batch that are known to fit into memory; enough for the longest sequence."""
    if fitting < needed:
        raise ValueError(
            f"The longest sequence does not fit into memory. Expected room for {needed} timesteps, but the largest "
            f"batch that fits has {fitting}. Cut long sequences with maxlen."
        )
    return fitting


def _no_choice(lengths: np.ndarray, costs: StepCosts, bounds: SizeBounds, multiple: int) -> str:
    """Which bound no batches keep to."""
    longest = lengths[-1:]
    if not bounds.most_rows(longest, costs, multiple)[0]:
        needed = float(costs.seconds(multiple, longest)[0])
        return (
            f"`max_step_seconds` is too short for {multiple} row{'s' if multiple > 1 else ''} of the longest sequence. "
            f"Expected at least {needed:.3g} for {longest[0]} timesteps, received {bounds.max_step_seconds:.3g}. Raise "
            "it, or cut long sequences with maxlen."
        )
    return (
        f"`min_updates` cannot be reached. Expected fewer than {bounds.min_updates}: batches of {bounds.min_rows} rows "
        f"make about {len(lengths) // bounds.min_rows} an epoch. Lower min_updates or min_rows."
    )
