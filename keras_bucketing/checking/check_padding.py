"""check_padding: whether padding can reach the answer of a model, found by running it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_bucketing.checking.cures import describe, explain
from keras_bucketing.checking.runs import (
    Difference,
    Runner,
    compare,
    fill_zero_weights,
    full_products,
    half_precision,
    in_float32,
    inputs_by_position,
    rounding_factor,
)
from keras_bucketing.checking.sample import Array, Batch, Sample, sample_rows
from keras_bucketing.checking.trace import Leak, find_leak, find_random_layer, masked_rows, recorded_calls
from keras_bucketing.checks import check_integer, check_number, shorten, show, show_typed
from keras_bucketing.padding.text_table import ShownInNotebooks
from keras_bucketing.predicting.batch_runs import declared_batch_size, layers_inside, restored_variables


@dataclass(frozen=True)
class PaddingCheck(ShownInNotebooks):
    """The result of `check_padding`: true if the model passed. Printed, it says what differs, where, and what to do.

    Attributes:
        passed: Bool, whether padding does not reach outputs and loss on the rows that were tried.
        max_difference: Float, the largest absolute difference between outputs that should be equal; infinite if one of
            the two is NaN.
        loss_difference: Float, the absolute difference of the loss when the batch is padded further. None if the model
            is not compiled, there are no labels, or the loss cannot be computed.
        layer: Str, the name of the first layer or operation after which real timesteps depend on padding or the mask is
            lost. None if nothing leaks, or if it was not found.
        text: Str, the printed text.

    Example:
        >>> model = keras.Sequential([keras.layers.Embedding(10, 4), keras.layers.GlobalAveragePooling1D()])
        >>> check = check_padding(model, keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]]))
        >>> if not check:
        ...     print(check.layer == model.layers[-1].name)
        True
    """

    passed: bool
    max_difference: float
    loss_difference: float | None
    layer: str | None
    text: str = field(repr=False, compare=False, default="")

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return self.text


def check_padding(
    model: keras.Model, dataset: Any, *, num_rows: int = 16, extra_timesteps: int = 8, tolerance: float = 1e-4
) -> PaddingCheck:
    """Checks whether padding can reach the output of a model.

    Keras silently loses masks in many places, and a sequence then gets different answers in different batches. This
    function runs the model on a few rows of the dataset, the shortest and the longest among them: in a batch, in the
    same batch padded further, and each row alone without padding. Outputs per timestep are compared on real timesteps.
    If the model is compiled and the dataset has labels, the loss is compared too.

    - *The same batch padded further* must give the same outputs.
    - *A row alone* must give the same output as in its batch. If even rows of equal length give other outputs together,
      the output depends on the batch by design: the report says so, and the check does not fail.

    The model runs in inference mode and is restored afterwards: weights, optimizer, metrics, seeds, and the states of
    stateful layers, which are reset before each run. A model without weights is built. Trainable weights that are all
    zero, such as biases before training, get random values during the check, since zeros hide what is in the padding.
    Under TensorFlow the model runs in a graph, as in `predict`, unless `run_eagerly` is set.

    Args:
        model: A Keras model of any kind.
        dataset: The `BucketedSequence` to train on. Or padded batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`,
            the result of `monitor_padding`, or arrays `x`, `(x, y)` or `(x, y, sample_weight)`. Their padding is found
            by entries of lengths, by masks, or by the value at the end of a row (0, or the `mask_value` of the model's
            first masking layer), as in `BucketedSequence.from_dataset`. The first 512 rows of batches are read.
        num_rows: Int, how many rows to try, or one batch if the model fixes its size. Defaults to 16.
        extra_timesteps: Int, how much further to pad; fewer if the model refuses that many. Defaults to 8.
        tolerance: Float, the largest allowed difference, in units of `1 + |output|`. For layers that compute in float16
            or bfloat16 it is multiplied by 2**13 or 2**16, the ratio of their precision to that of float32; mixed
            precision is also run in float32, with this tolerance. Defaults to 1e-4.

    Returns:
        A `PaddingCheck`, true if the model passed: `assert check_padding(model, dataset)` is a test.

    Raises:
        TypeError: If `model` is not a Keras model, or `dataset` none of these.
        ValueError: If the model is random at inference, with the name of the layer; if an argument is out of range, or
            it is not clear what is padding in the batches.

    Example:
        Adding tensors with `+` loses the mask:

        >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=3, shuffle=False)
        >>> token_ids = keras.Input((None,), dtype="int32")
        >>> vectors = keras.layers.Embedding(10, 4, mask_zero=True)(token_ids)
        >>> recurrent = keras_bucketing.KeepMask(keras.layers.LSTM(2))
        >>> model = keras.Model(token_ids, recurrent(vectors + vectors))
        >>> check = check_padding(model, dataset)
        >>> check.passed, check.layer.startswith("add")
        (False, True)
        >>> model = keras.Model(token_ids, recurrent(keras.layers.Add()([vectors, vectors])))
        >>> check_padding(model, dataset).passed
        True
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received {show_typed(model)}.")
    num_rows = check_integer("num_rows", num_rows)
    extra_timesteps = check_integer("extra_timesteps", extra_timesteps)
    tolerance = check_number("tolerance", tolerance)
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive. Received {tolerance}.")
    sample = sample_rows(dataset, num_rows, _mask_value(model))
    if not sample.lengths:
        raise ValueError("No entry of the dataset's x has a time axis. Expected at least one padded entry.")
    return _Check(model, sample, extra_timesteps, tolerance).result()


def _mask_value(model: keras.Model) -> Any:
    values = [getattr(layer, "mask_value", None) for layer in layers_inside(model)]
    return next((value for value in values if isinstance(value, (int, float))), 0)


@dataclass
class _Outcome:
    """The results of the runs in one precision."""

    further: Difference
    alone: Difference
    extra: int
    tolerance: float
    failed_alone: int | None = None  # the row that differs most from itself alone
    by_design: float | None = None  # how much rows of one length differ among others

    @property
    def max_difference(self) -> float:
        return max(self.further.absolute, 0.0 if self.by_design is not None else self.alone.absolute)

    @property
    def passed(self) -> bool:
        alone = self.by_design is not None or self.alone.exceeds <= self.tolerance
        return self.further.exceeds <= self.tolerance and alone


class _Check:
    """One check: the rows of a sample through a model."""

    def __init__(self, model: keras.Model, sample: Sample, extra: int, tolerance: float):
        self.model, self.sample, self.extra, self.tolerance = model, sample, extra, tolerance
        self.notes: list[str] = []
        is_stateful = any(getattr(layer, "stateful", False) for layer in layers_inside(model))
        self._fill_batches_of(declared_batch_size(model) if is_stateful else None)

    def _fill_batches_of(self, size: int | None) -> None:
        """Takes each row once, or repeats rows to fill a batch of that size."""
        self.has_fixed_size, self.size = size is not None, size or self.sample.num_rows
        self.rows = [row % self.sample.num_rows for row in range(self.size)]

    def result(self) -> PaddingCheck:
        with full_products(), warnings.catch_warnings():
            # What Keras warns of here is what is looked for; a test that makes errors of warnings wants the result.
            warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask", UserWarning)
            with restored_variables(self.model):
                base = self._built()
                with restored_variables(self.model):  # now with what was built
                    fill_zero_weights(self.model)
                    return self._checked(base)

    def _built(self) -> Batch:
        """Runs the model once, so that all its weights exist; returns the batch."""
        base, declared = self.sample.batch(self.rows), declared_batch_size(self.model)
        try:
            Runner(self.model).eagerly(base)
        except Exception:
            # A size that a model declares may come from its first batch, and is kept to only where it must be.
            if declared is None or declared == self.size:
                raise
            self._fill_batches_of(declared)
            base = self.sample.batch(self.rows)
            Runner(self.model).eagerly(base)
        Runner(self.model).reset_states()
        return base

    def _checked(self, base: Batch) -> PaddingCheck:
        model, half = self.model, half_precision(self.model)
        runner = Runner(model)
        outcome = self._outcome(runner, base, self.tolerance * rounding_factor(half))
        exact = None
        is_mixed = half is not None and any(
            layer.compute_dtype == half and layer.variable_dtype == "float32" for layer in layers_inside(model)
        )
        if is_mixed:
            with in_float32(model):
                exact = self._outcome(Runner(model), base, self.tolerance)
        decisive = exact if exact is not None and not exact.passed else outcome
        by_position = inputs_by_position(model, self.sample.keys())
        nan_rows = self.sample.nan_rows()
        passed = outcome.passed and (exact is None or exact.passed)
        lines, layer = [], None
        if not passed:
            lines += self._what_differs(decisive)
            with in_float32(model) if is_mixed else nullcontext():
                layer, where = self._where(decisive)
            lines += where
        elif runner.graph_error is None:
            lines.append(self._all_the_same(outcome, half, is_mixed))
        loss_difference, loss_lines = self._loss(base, outcome.extra, passed, half)
        passed = passed and not loss_lines
        lines += loss_lines
        if runner.graph_error is not None:
            layer, graph_lines = self._graph(runner.graph_error, layer)
            passed, lines = False, [*lines, *graph_lines]
        if by_position:
            passed = False
            lines += _position_lines(by_position)
        if outcome.by_design is not None:
            self.notes.append(
                f"A row's output depends on the other rows of its batch by design (by {outcome.by_design:.2g} "
                "among rows "
                "of one length), so rows alone do not count."
            )
        if nan_rows:
            self.notes.append(f"The data hold NaN, in {len(nan_rows)} of {self.sample.num_rows} rows that were tried.")
        self._note_masked_rows(base)
        lines += [f"Note: {note}" for note in self.notes]
        return PaddingCheck(passed, outcome.max_difference if decisive is outcome else decisive.max_difference,
                            loss_difference, layer, "\n".join(lines))  # fmt: skip

    # The comparisons.

    def _outcome(self, runner: Runner, base: Batch, tolerance: float) -> _Outcome:
        outputs, again = runner(base), runner(base)
        left = self.sample.pads_left
        random = compare(outputs, again, base, base, left)
        if random.exceeds > tolerance:
            name = find_random_layer(runner, base, tolerance)
            raise ValueError(
                f"The model is random at inference: the same batch gave outputs that differ by {random.absolute:.2g}"
                + (f", first in the layer '{name}'" if name else "")
                + ". Check it without that layer, or let it draw in training alone (`training` in its `call`)."
            )
        extra, further, others = self._padded_further(runner)
        apart = compare(outputs, others, base, further, left) if extra else Difference()
        alone, failed = self._alone(runner, base, outputs)
        outcome = _Outcome(apart, alone, extra, tolerance, failed)
        if alone.exceeds > tolerance:
            in_company = self._company(runner, failed)
            if in_company.exceeds > tolerance:
                outcome.by_design = in_company.absolute
        self._note_nan(outputs)
        return outcome

    def _padded_further(self, runner: Runner) -> tuple[int, Batch, list[Array]]:
        """As many further timesteps as the model takes, up to the requested number."""
        extra = self.extra
        while extra:
            batch = self.sample.batch(self.rows, extra=extra)
            try:
                return extra, batch, runner(batch)
            except Exception:  # positions that end, inputs of a fixed size
                extra //= 2
        return 0, self.sample.batch(self.rows), []

    def _alone(self, runner: Runner, base: Batch, outputs: list[Array]) -> tuple[Difference, int | None]:
        """Each row alone: as a batch of copies, for layers that need a batch size."""
        worst, failed = Difference(), None
        refused = []
        for row in sorted(set(self.rows)):
            found = self._alone_or_longer(runner, row, base)
            if found is None:
                refused.append(row)
                continue
            batch, others = found
            apart = compare(outputs, others, base, batch, self.sample.pads_left, [(self.rows.index(row), 0)])
            if apart.exceeds > worst.exceeds:
                failed = row
            worst = Difference(
                max(worst.absolute, apart.absolute), max(worst.exceeds, apart.exceeds), apart.row, apart.output
            )
        if refused:
            self._note(f"{len(refused)} of {len(set(self.rows))} rows could not be run alone.")
        return worst, failed

    def _alone_or_longer(self, runner: Runner, row: int, base: Batch) -> tuple[Batch, list[Array]] | None:
        """A row alone, or with as little padding as the model accepts: some models need a number of timesteps."""
        longest = max(base.padded_lengths)
        extra = 0
        while True:
            batch = self.sample.batch([row] * self.size, extra=extra)
            try:
                outputs = runner(batch)
            except Exception as error:
                if max(batch.padded_lengths) >= longest:
                    return None
                if not extra:
                    self._note(f"Short rows are refused alone and were padded ({type(error).__name__}); see `minlen`.")
                extra = min(max(1, 2 * extra), longest - max(self.sample.batch([row]).padded_lengths))
                continue
            return batch, outputs

    def _company(self, runner: Runner, failed: int | None) -> Difference:
        """By how much a row differs among longer rows that are cut to its length, without any padding."""
        shortest = np.min(self.sample.lengths, axis=0)
        order = np.argsort(shortest, kind="stable")[::-1].tolist()
        worst = Difference()
        for row in {failed, order[0]} - {None}:
            others = [other for other in order if other != row]
            longer = [other for other in others if shortest[other] >= shortest[row]] or others[:1]
            cut = int(shortest[[row, *longer]].min())
            mixed = [row, *(longer[place % len(longer)] for place in range(self.size - 1) if longer)]
            try:
                batch, copies = self.sample.batch(mixed, cut=cut), self.sample.batch([row] * len(mixed), cut=cut)
                apart = compare(runner(batch), runner(copies), batch, copies, self.sample.pads_left, [(0, 0)])
            except Exception:  # too short for the model
                continue
            worst = max(worst, apart, key=lambda difference: difference.exceeds)
        return worst

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _note_nan(self, outputs: list[Array]) -> None:
        if any(np.isnan(output).any() for output in outputs if output.dtype.kind == "f"):
            self._note("Outputs are NaN, which hides whatever differs there.")

    def _note_masked_rows(self, base: Batch) -> None:
        with recorded_calls() as calls:
            Runner(self.model).eagerly(base)
        rows = masked_rows(calls)
        if rows:
            self._note(
                f"{len(rows)} of {self.size} rows are masked as a whole, which cuDNN refuses on a GPU and of "
                "which a mean "
                'makes NaN. SequenceMasking keeps the first timestep; on_empty="drop" leaves empty rows out.'
            )

    # What is said.

    def _all_the_same(self, outcome: _Outcome, half: str | None, is_mixed: bool) -> str:
        lengths = np.max(self.sample.lengths, axis=0)
        further = f"and padded by {outcome.extra} more" if outcome.extra else "but not padded further, which it refuses"
        precision = "" if half is None else f", as it computes in {half}" + (" and in float32 too" if is_mixed else "")
        return (
            f"Padding does not reach the outputs: {self.sample.num_rows} rows of {lengths.min()} to {lengths.max()} "
            f"timesteps, alone, in a batch {further}, differ by at most {outcome.max_difference:.2g} (tolerance "
            f"{outcome.tolerance:.2g}{precision})."
        )

    def _what_differs(self, outcome: _Outcome) -> list[str]:
        lines = []
        lengths = np.max(self.sample.lengths, axis=0)
        if outcome.further.exceeds > outcome.tolerance:
            row = self.rows[outcome.further.row]
            lines.append(
                f"Padding reaches the outputs: the same batch with {outcome.extra} more timesteps of padding "
                "differs by up to "
                f"{outcome.further.absolute:.2g} (tolerance {outcome.tolerance:.2g}), most at a row of {lengths[row]} "
                "timesteps."
            )
        if outcome.by_design is None and outcome.alone.exceeds > outcome.tolerance:
            row = outcome.failed_alone or 0
            lines.append(
                f"{'A' if lines else 'Padding reaches the outputs: a'} row alone and the same row in its batch "
                "differ by up "
                f"to {outcome.alone.absolute:.2g} (tolerance {outcome.tolerance:.2g}), most at a row of {lengths[row]} "
                "timesteps."
            )
        return lines

    def _where(self, outcome: _Outcome) -> tuple[str | None, list[str]]:
        """The layer, and the lines about it."""
        leak = None
        if outcome.further.exceeds > outcome.tolerance:
            leak = self._leak(self.rows[outcome.further.row], outcome.extra, alone=False)
        if leak is None and outcome.failed_alone is not None:
            leak = self._leak(outcome.failed_alone, outcome.extra, alone=True)
        if leak is None:
            distributed = self._time_distributed()
            if distributed is not None:
                return str(distributed.name), _distributed_lines(distributed)
            return None, ["Where: not found."]
        layer, where, cure = explain(leak, self.sample.keys())
        return layer, [f"Where: {where}", f"Instead: {cure}"]

    def _leak(self, row: int, extra: int, alone: bool) -> Leak | None:
        """Finds the layer by comparing a batch of that row and the longest one, padded further, with less padding."""
        longest = int(np.argmax(np.max(self.sample.lengths, axis=0)))
        rows = self.rows if self.has_fixed_size else [row, longest]
        first = self.sample.batch(rows, extra=extra)
        second = self.sample.batch([row] * len(rows) if alone else rows)
        pairs = [(rows.index(row), 0)] if alone else [(place, place) for place in range(len(rows))]
        try:
            return find_leak(Runner(self.model), first, second, pairs, self.tolerance, self.sample.pads_left)
        except Exception:  # a model that takes no batch of two
            return None

    def _time_distributed(self) -> Any:
        return next((layer for layer in layers_inside(self.model) if type(layer).__name__ == "TimeDistributed"), None)

    def _graph(self, error: str, layer: str | None) -> tuple[str | None, list[str]]:
        lines = [f"In a graph, as in fit and predict, the model stops: {shorten(' '.join(error.split()))}"]
        distributed = self._time_distributed()
        if distributed is not None:
            layer = layer or str(distributed.name)
            lines += _distributed_lines(distributed)
        return layer, lines

    # The loss.

    def _loss(self, base: Batch, extra: int, outputs_agree: bool, half: str | None) -> tuple[float | None, list[str]]:
        if self.sample.without_labels:
            self._note(f"The loss was not compared. {shorten(self.sample.without_labels)}")
        if not getattr(self.model, "compiled", False) or base.y is None or not extra:
            return None, []
        further = self.sample.batch(self.rows, extra=extra)
        runner = Runner(self.model)
        try:
            (one, penalty), (two, other) = (self._loss_of(runner, batch) for batch in (base, further))
        except Exception as error:
            self._note(f"The loss was not compared: {shorten(f'{type(error).__name__}: {error}')}")
            return None, []
        apart = abs(one - two)
        if not outputs_agree or apart <= self.tolerance * rounding_factor(half) * (1 + min(abs(one), abs(two))):
            return apart, []
        lines = [
            f"Padding reaches the loss: {one:.5g} for the batch, {two:.5g} with {extra} more timesteps of padding."
        ]
        if abs(penalty - other) > apart / 2:
            lines.append(
                "Where: in what layers add to the loss (activity_regularizer, add_loss), which counts padded "
                "timesteps. "
                "Instead: a penalty on weights, or one that leaves masked timesteps out."
            )
        elif base.sample_weight is None:
            lines.append(
                "Where: labels of padded timesteps count. Instead: sample weights that are 0 there, as "
                "BucketedSequence "
                'gives them for ragged labels, and reduction="mean_with_sample_weight" in the loss.'
            )
        else:
            lines.append(
                "Where: the mean is taken over all timesteps, padded ones included. Instead: "
                'reduction="mean_with_sample_weight" in the loss, for example '
                'keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight").'
            )
        return apart, lines

    def _loss_of(self, runner: Runner, batch: Batch) -> tuple[float, float]:
        """The loss, including losses that layers added."""
        outputs = runner.eagerly(batch)
        x, y, weights = (
            None if part is None else keras.tree.map_structure(keras.ops.convert_to_tensor, part)
            for part in (batch.x, batch.y, batch.sample_weight)
        )
        penalty = sum(float(keras.ops.convert_to_numpy(loss)) for loss in self.model.losses)
        loss = self.model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=False)
        return float(keras.ops.convert_to_numpy(loss)), penalty


def _distributed_lines(layer: Any) -> list[str]:
    cure = (
        f"keras.layers.{type(layer.layer).__name__} without TimeDistributed, if it treats each timestep alone, as "
        "Dense does. KeepMask does not cure that."
    )
    where = f"{describe(layer)} keeps, in a graph, the number of timesteps of its first batch."
    return [f"Where: {where}", f"Instead: {cure}"]


def _position_lines(by_position: dict[str, str]) -> list[str]:
    name, key = next(iter(by_position.items()))
    lengths = sorted(name for name in by_position if name.endswith("lengths"))
    what = (
        "The model declares fewer inputs than the dataset has entries, and before Keras 3.16 it is then fed by "
        f"position: its input {show(name)} gets the entry {show(key)}."
    )
    cure = (
        f"only the entries that it declares: include_lengths={lengths or False} in place of include_lengths=True, or "
        "dataset.map with the entries that are wanted."
    )
    return [what, f"Instead: {cure}"]
