"""Predictions of a model for all rows of a dataset, in the order of its input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import show, show_typed
from keras_bucketing.data import tree
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.planning.epoch_plan import EpochPlan
from keras_bucketing.predicting.batch_runs import BatchPredictor
from keras_bucketing.predicting.output_lengths import (
    OutputLengths,
    Sequences,
    check_is_long_enough,
    check_output_lengths,
    lengths_of_outputs,
)
from keras_bucketing.predicting.time_axes import GrowingAxes, find_growing_axes, leaves_at

Array = NDArray[Any]


def check_can_predict(
    model: object, options: dict[str, Any], num_shards: int, kept: RowIndices | None, num_rows: int
) -> None:
    """Refuses datasets and options with which some row would have no prediction.

    Args:
        model: The model.
        options: Those of `keras.Model.predict`.
        num_shards: Int, the number of processes that share each batch.
        kept: The rows that were not dropped as empty; None if none was.
        num_rows: Int, the rows of the input.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received {show_typed(model)}.")
    for name in options:
        if name in ("steps", "batch_size"):
            reason = "every row is predicted" if name == "steps" else "the dataset has its own batch sizes"
            raise ValueError(f"`{name}` must be left out: {reason}. Received {name}={show(options[name])}.")
        if name not in ("verbose", "callbacks"):
            raise TypeError(f"predict() has no argument {show(name)}. Expected `lengths`, `verbose` or `callbacks`.")
    if num_shards > 1:
        raise ValueError(
            f"A shard has no prediction for the rows of the others. Expected num_shards=1, received {num_shards}. Make "
            "a dataset without shards to predict, in one process, or one with its own rows in each."
        )
    if kept is not None:
        first = int(np.setdiff1d(np.arange(num_rows), kept)[0])
        raise ValueError(
            f"{num_rows - len(kept)} of {num_rows} rows were dropped as empty, the first of them x[{first}], so they "
            'have no prediction. Pass on_empty="keep" to BucketedSequence, which gives them one timestep of padding.'
        )
    if keras.config.backend() == "jax" and keras.distribution.distribution() is not None:
        import jax

        if jax.process_count() > 1:
            raise ValueError(
                "Predictions of several processes cannot be brought together. Expected a distribution over the devices "
                f"of one process, received one over {jax.process_count()} processes. Load the model in a process of "
                "its own to predict."
            )


def predict(
    model: keras.Model,
    batches: Iterable[Any],
    plan: EpochPlan,
    sequences: Sequences,
    lengths: object = None,
    verbose: Any = "auto",
    callbacks: Any = None,
) -> Any:
    """Predicts batch by batch and puts each row's outputs at the row's index in the input.

    Args:
        model: The model.
        batches: The batches of the plan, as for `fit`.
        plan: Their rows: all rows of the input.
        sequences: The sequences in `x`.
        lengths: As in `BucketedSequence.predict`.
        verbose: As in `keras.Model.predict`.
        callbacks: As in `keras.Model.predict`.
    """
    choices = check_output_lengths(lengths, sequences)
    predictor = BatchPredictor(model)
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=len(plan), model=model
        )
    model.stop_predicting = False
    collected: _Predictions | None = None
    with predictor.states_restored():
        callbacks.on_predict_begin()
        for step, (batch, rows) in enumerate(zip(batches, plan, strict=True)):
            callbacks.on_predict_batch_begin(step)
            x = tree.map_leaves(lambda _, leaf: np.asarray(leaf), keras.utils.unpack_x_y_sample_weight(batch)[0])
            outputs = predictor(x)
            if collected is None:
                collected = _Predictions(predictor, x, outputs, sequences, choices)
            collected.add(rows, x, outputs)
            callbacks.on_predict_batch_end(step, {"outputs": outputs})
            if model.stop_predicting and step + 1 < len(plan):
                callbacks.on_predict_end()
                raise RuntimeError(
                    f"A callback stopped the prediction after {step + 1} of {len(plan)} batches, so that not every row "
                    "has a prediction. Leave that callback out."
                )
        callbacks.on_predict_end()
    assert collected is not None  # there is no dataset without a batch
    return collected.result()


class _Predictions:
    """The predictions so far.

    Args:
        predictor: Has predicted the first batch.
        x: The `x` of that batch.
        outputs: Its outputs.
        sequences: The sequences in `x`.
        choices: The checked argument `lengths`, from `check_output_lengths`.
    """

    def __init__(self, predictor: BatchPredictor, x: Any, outputs: Any, sequences: Sequences, choices: Any):
        flat = _arrays(outputs, len(keras.tree.flatten(x)[0]))
        lengths = lengths_of_outputs(choices, outputs)
        axes: list[GrowingAxes] | None = [GrowingAxes() for _ in flat]
        if not all(own.are_values for own in lengths):
            axes = find_growing_axes(predictor, x, flat, sequences)
        if isinstance(choices, OutputLengths) and axes is not None and len(flat) > 1 and any(axes):
            # One for all outputs: of those that grow with time, the others have no timesteps.
            lengths = [own if of_output else OutputLengths() for own, of_output in zip(lengths, axes, strict=True)]
        self._structure = outputs
        self._outputs = [
            _output_rows(name, output, own, None if axes is None else axes[index], x, sequences)
            for index, (name, output, own) in enumerate(zip(_names(outputs), flat, lengths, strict=True))
        ]

    def add(self, rows: RowIndices, x: Any, outputs: Any) -> None:
        """Adds the outputs of one batch."""
        padded = [leaf.shape[1] for leaf in leaves_at(x, self._outputs[0].sequences)]
        for own, output in zip(self._outputs, _arrays(outputs, len(rows)), strict=True):
            own.add(rows, output, padded)

    def result(self) -> Any:
        """All outputs, with the structure of the model's."""
        return keras.tree.pack_sequence_as(self._structure, [own.result() for own in self._outputs])


def _arrays(outputs: Any, num_rows: int) -> list[Array]:
    """The outputs for a batch, in the order of `keras.tree.flatten`."""
    arrays = []
    for name, output in zip(_names(outputs), keras.tree.flatten(outputs), strict=True):
        shape = getattr(output, "shape", None)
        if not isinstance(output, np.ndarray) or not output.ndim or len(output) != num_rows:
            raise ValueError(
                f"`{name}` of the model must have one row for each row of a batch. Expected an array of shape "
                f"({num_rows}, ...), received {type(output).__name__}{'' if shape is None else f' of shape {shape}'}."
            )
        arrays.append(output)
    return arrays


def _names(outputs: Any) -> list[str]:
    return [tree.name_of("outputs", tuple(path)) for path, _ in keras.tree.flatten_with_path(outputs)]


def _output_rows(
    name: str, output: Array, own: OutputLengths, axes: GrowingAxes | None, x: Any, sequences: Sequences
) -> _RowValues | _Timesteps:
    """Decides from its first batch what an output holds."""
    if own.are_values:
        return _RowValues(name, sequences)
    if own.lengths is not None:
        if output.ndim < 2:
            raise ValueError(
                f"`lengths` says how long the rows of `{name}` are, but it has no time axis. Expected shape (batch, "
                f"time, ...), received {output.shape}. Pass a list or dict like the outputs, with False for this one."
            )
        followed = {axis: sequence for axis, sequence in (axes or {}).items() if axis > 1 and sequence is not None}
        return _Timesteps(name, sequences, own.lengths, followed)
    if axes is None:
        padded = [leaf.shape[1] for leaf in leaves_at(x, sequences)]
        if output.ndim > 1 and output.shape[1] in padded:
            raise ValueError(
                f"It is not clear whether `{name}` holds one value per timestep: it has as many as there are "
                f"timesteps, {output.shape[1]}, and the model takes neither more nor fewer. Pass `lengths`: "
                f"{sequences.names()}, or False for values of a row."
            )
        return _RowValues(name, sequences)
    for axis, sequence in axes.items():
        if sequence is None:
            raise ValueError(_unlike_rows(name, axis, output, x, sequences))
    followed = {axis: sequence for axis, sequence in axes.items() if sequence is not None}
    return _Timesteps(name, sequences, None, followed) if followed else _RowValues(name, sequences)


def _unlike_rows(name: str, axis: int, output: Array, x: Any, sequences: Sequences) -> str:
    padded = [leaf.shape[1] for leaf in leaves_at(x, sequences)]
    size = output.shape[axis]
    compared = "shorter than its row" if size < max(padded) else "as long as none of its rows"
    fix = (
        f"Pass the lengths of its rows as `lengths`: {sequences.names()}."
        if axis == 1
        else "Bring that axis to one size in the model, or to axis 1."
    )
    return (
        f"`{name}` grows with padding, but is {compared}: {size} in axis {axis} where rows are padded to "
        f"{' and '.join(map(str, padded))} timesteps. {fix}"
    )


class _RowValues:
    """An output with values of a row, as one array."""

    def __init__(self, name: str, sequences: Sequences):
        self._name, self.sequences = name, sequences
        self._values: Array | None = None

    def add(self, rows: RowIndices, output: Array, padded: list[int]) -> None:
        """Adds the outputs `(batch, ...)` of one batch."""
        if self._values is None:
            self._values = np.empty((self.sequences.num_rows, *output.shape[1:]), output.dtype)
        if output.shape[1:] != self._values.shape[1:]:
            raise ValueError(
                f"`{self._name}` has other shapes in other batches. Expected (batch, "
                f"{', '.join(map(str, self._values.shape[1:]))}) as in those before, received {output.shape} where "
                f"rows are padded to {' and '.join(map(str, padded))} timesteps, so it does not hold values of a row. "
                f"Pass the lengths of its rows as `lengths`: {self.sequences.names()}."
            )
        self._values[rows] = output

    def result(self) -> Array:
        """The array `(num_rows, ...)`."""
        assert self._values is not None
        return self._values


class _Timesteps:
    """An output with values per timestep, as an array for each row.

    Args:
        name: The name of the output.
        sequences: The sequences in `x`.
        lengths: The timesteps of each row in axis 1, if they were given.
        followed: The axes that are as long as a sequence, and which one.
    """

    def __init__(self, name: str, sequences: Sequences, lengths: Lengths | None, followed: dict[int, int]):
        self._name, self.sequences = name, sequences
        self._lengths, self._followed = lengths, followed
        self._rows: list[Array | None] = [None] * sequences.num_rows

    def add(self, rows: RowIndices, output: Array, padded: list[int]) -> None:
        """Adds the outputs `(batch, ...)` of one batch, cut to their rows."""
        sizes: list[Any] = [np.full(len(rows), size) for size in output.shape[1:]]
        for axis, sequence in self._followed.items():
            if output.shape[axis] != padded[sequence]:
                raise ValueError(
                    f"`{self._name}` is not as long as its rows in every batch. Expected {padded[sequence]} in axis "
                    f"{axis}, received shape {output.shape}. Pass the lengths of its rows as `lengths`: "
                    f"{self.sequences.names()}."
                )
            sizes[axis - 1] = self.sequences.lengths[sequence][rows]
        if self._lengths is not None:
            sizes[0] = self._lengths[rows]
            check_is_long_enough(self._name, output.shape[1], sizes[0], rows, self.sequences)
        for place, row in enumerate(rows.tolist()):
            # A copy: the row would keep the whole batch in memory.
            self._rows[row] = output[place][tuple(slice(int(size[place])) for size in sizes)].copy()

    def result(self) -> list[Array | None]:
        """For each row an array `(length, ...)`."""
        return self._rows
