"""How much padding a model has been fed, epoch by epoch."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_bucketing.callbacks.consumed_batches import ConsumedBatches, EvaluatedBatches
from keras_bucketing.monitoring.monitor_padding import CountedDataset
from keras_bucketing.padding.history import PaddingHistory, describe
from keras_bucketing.padding.stats import PaddingStats

# How many rows a model has received, as far as Keras itself counts them.


def rows_in_loss(model: Any) -> int | None:
    """The rows that the model's loss metric has averaged since it was reset, at the beginning of an epoch.

    Keras weights each batch's loss by its rows (`train_step` in keras/src/backend/*/trainer.py), so that the weight
    adds up to them. A model with its own `train_step` may not: then the answer fits no batch, or is None.
    """
    for metric in model.metrics:
        if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
            # Not `convert_to_numpy`: a Keras variable's `__array__` does not know NumPy 2's `copy`, and is warned of
            # it.
            return round(float(keras.ops.sum(metric.count)))
    return None


class RunningCall:
    """A call of `fit`, `evaluate` or `predict` under way: what Keras told of it, and the rows of its loss.

    Args:
        model: The model that is called.
        params: What Keras gave to `set_params`; None where it gave nothing.

    Attributes:
        steps: Int, the steps that Keras announced; None where it does not know.
    """

    def __init__(self, model: Any, params: dict[str, Any] | None):
        self._model = model
        self.steps: int | None = (params or {}).get("steps")
        # One step at a time, the hooks leave no doubt: nobody asks for rows, and the metric is not looked at.
        self._needs_rows = getattr(model, "steps_per_execution", 1) > 1
        self._counted_apart = 0

    def rows(self) -> int | None:
        """The rows that the model has received in this call's epoch, if anybody needs and the model knows them."""
        rows = rows_in_loss(self._model) if self._needs_rows else None
        return None if rows is None else rows + self._counted_apart

    def reset(self) -> None:
        """Notes that Keras has set the metric back, for a new epoch."""
        self._counted_apart = 0

    def pause(self) -> None:
        """Notes that a callback evaluates the same model, which sets the metric back."""
        self._counted_apart += self._rows_now()

    def resume(self) -> None:
        """Notes that it has done so: the metric goes on from what was evaluated."""
        self._counted_apart -= self._rows_now()

    def _rows_now(self) -> int:
        return (rows_in_loss(self._model) or 0) if self._needs_rows else 0


class PredictedRows:
    """Adds up the rows of the outputs in the logs of `on_predict_batch_end`; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = 0

    def add(self, logs: dict[str, Any] | None) -> None:
        """Adds one step's outputs."""
        outputs = keras.tree.flatten(logs or {})
        # CallbackList turns outputs of a single element into a float.
        rows = [int(output.shape[0]) if getattr(output, "shape", ()) else 1 for output in outputs[:1]]
        with self._lock:
            self._rows += sum(rows)

    @property
    def total(self) -> int | None:
        """The rows so far; None if there were no outputs."""
        with self._lock:
            return self._rows or None


class PaddingStatsCallback(keras.callbacks.Callback):
    """Counts the padding of the batches that the model consumed, to the last timestep.

    It puts `padding_efficiency`, and `val_padding_efficiency` where there is `validation_data`, into the logs of each
    epoch: the progress bar and `History` always show them. Other callbacks see them if they come later in the list, as
    Keras hands the logs from callback to callback in that order: put this one before `CSVLogger`, `TensorBoard` and the
    like.

    Neither planned nor prefetched batches count. Figures are exact under `steps_per_epoch`, `steps_per_execution`,
    `validation_freq`, `class_weight`, distribution strategies, early stopping, and with `.map()`, `.take()` and
    `.prefetch()` on top of the dataset. What changes the order or the number of batches otherwise (`.repeat()`,
    `.shuffle()`, `.filter()`) belongs inside `monitor_padding`. Where `steps_per_execution` > 1 meets `.take()`, the
    number of rows that Keras' own loss metric has counted settles what the hooks leave open.

    Which batches were consumed comes from Keras' hooks. What they padded comes from the plan where the dataset is a
    `BucketedSequence`: every ragged leaf of its `x`, and labels of their own length, as it yields them. A `.map()` that
    drops, adds or cuts timesteps changes the truth, and the plan does not know: there, and for every other dataset,
    pass `monitored = monitor_padding(mapped)` to both `fit` and this callback. It reads the figures off the batches.
    `PaddingStats.leaves` tells the leaves apart where there are several.

    Another callback may evaluate or predict in its hooks, with `callbacks=[this one]` if it reads the same dataset: in
    `on_epoch_begin`, `on_train_batch_begin` and `on_test_begin` it must come before this one in the list. A warning
    says where another pass over the dataset began that nobody told of, so that the figures may be wrong: something like
    `.repeat()` is on top, or somebody else reads. (With a `.prefetch()` or `class_weight` on top of the `.repeat()`,
    the next pass begins at any time, and no hook shows it. TensorFlow adds such a `.prefetch()` by itself at the end of
    pipelines that it tunes, which is any but that of a `BucketedSequence`.)

    Asynchronous dispatch of callbacks stays on, and a step costs less than a microsecond or two.

    Args:
        dataset: The `BucketedSequence`, or what `monitor_padding` returned: the object itself, also where `fit` gets
            something made of it, such as `dataset.prefetch(2)`.
        validation_data: The same for `fit(validation_data=...)`. Defaults to None.
        verbose: 0, or 1 to print a line for each epoch. Defaults to 0.

    Attributes:
        history: List of `PaddingStats`, one for each epoch of training. Their `seconds` do not include validation.
        val_history: List, of the same length, of `PaddingStats`, or None where an epoch did not validate.
        epochs: List of ints, of the same length: Keras' number of each epoch.
        evaluate_history: List of `PaddingStats`, one for each `evaluate(..., callbacks=[callback])`.
        predict_history: List of `PaddingStats`, one for each `predict(..., callbacks=[callback])`.

    Raises:
        TypeError: If a dataset cannot tell its padding.
        ValueError: If `verbose` is neither 0 nor 1.

    Example:
        >>> import numpy as np, tensorflow as tf
        >>> from keras_bucketing.monitoring.monitor_padding import monitor_padding
        >>> x, y = np.array([[7, 8, 0], [5, 0, 0], [1, 2, 3]]), np.array([0, 1, 0])
        >>> dataset = monitor_padding(tf.data.Dataset.from_tensor_slices((x, y)).batch(2))
        >>> model = keras.Sequential([keras.layers.Embedding(9, 2), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> model.compile(loss="mse")
        >>> callback = PaddingStatsCallback(dataset)
        >>> history = model.fit(dataset, callbacks=[callback], verbose=0, shuffle=False)
        >>> round(callback.history[0].padding_efficiency, 4), round(history.history["padding_efficiency"][0], 4)
        (0.6667, 0.6667)
    """

    # Keras then keeps on dispatching on_*_batch_end to a thread (keras/src/callbacks/callback_list.py): those hooks
    # below only note a number, under a lock.
    async_safe = True

    def __init__(self, dataset: Any, validation_data: Any = None, *, verbose: int = 0):
        super().__init__()
        if verbose not in (0, 1):
            raise ValueError(f"`verbose` must be 0 or 1. Received {verbose!r}.")
        self.dataset = _check_counted("dataset", dataset)
        self.validation_data = None if validation_data is None else _check_counted("validation_data", validation_data)
        self.verbose = verbose
        self._record = PaddingHistory()
        self._in_epoch = False
        self._begins_call = False
        self._trained = ConsumedBatches(self.dataset)
        self._training = RunningCall(None, None)
        self._evaluations: list[_Evaluation] = []
        self._validation: PaddingStats | None = None
        self._train_rows: int | None = None
        self._train_seconds: float | None = None
        self._training_began = 0.0

    def __deepcopy__(self, memo: Any) -> PaddingStatsCallback:
        """A callback that starts counting again, on the same datasets: tuners copy callbacks for each trial."""
        return type(self)(self.dataset, self.validation_data, verbose=self.verbose)

    # What happened.

    @property
    def history(self) -> list[PaddingStats]:
        """The padding of each epoch of training."""
        return self._record.train

    @property
    def val_history(self) -> list[PaddingStats | None]:
        """The padding of each epoch's validation, None where there was none."""
        return self._record.validation

    @property
    def epochs(self) -> list[int]:
        """Keras' number of each epoch."""
        return self._record.epochs

    @property
    def evaluate_history(self) -> list[PaddingStats]:
        """The padding of each `evaluate` outside `fit`."""
        return self._record.evaluate

    @property
    def predict_history(self) -> list[PaddingStats]:
        """The padding of each `predict`."""
        return self._record.predict

    def report(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints a table with a line for each epoch, evaluation and prediction, and the last epoch's buckets.

        Args:
            print_fn: Function that takes the text. Defaults to `print`.
        """
        (print_fn or print)(str(self._record))

    def to_dict(self) -> dict[str, Any]:
        """Everything that was counted, as numbers, lists and dicts."""
        return self._record.to_dict()

    def to_json(self) -> str:
        """The same as `to_dict()`, as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def plot(self, axes: Any = None) -> Any:
        """Draws the efficiency of each epoch, and where the padding of the last one is.

        Args:
            axes: Optional pair of Matplotlib axes. Defaults to None: a new figure.

        Returns:
            The pair of axes.

        Raises:
            ImportError: If Matplotlib is missing, the extra `plot`.
            ValueError: If no epoch has been trained.
        """
        from keras_bucketing.padding.pictures import plot_padding_history

        return plot_padding_history(self.epochs, self.history, self.val_history, axes=axes)

    # Training.

    def set_params(self, params: dict[str, Any]) -> None:
        """Notes that a new `fit`, `evaluate` or `predict` begins; inside `fit`, a validation does not get here."""
        super().set_params(params)
        self._begins_call = True

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts following the training data; a new `fit` always begins a new pass."""
        self._begins_call = self._in_epoch = False
        self._evaluations.clear()
        self._trained = ConsumedBatches(self.dataset)
        self._training = RunningCall(self.model, self.params)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Marks where the epoch begins."""
        self._in_epoch = True
        self._begins_call = False
        self._evaluations.clear()
        self._validation = None
        self._train_rows = None
        self._train_seconds = None
        self._training.reset()
        self._trained.begin()
        self._training_began = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Lets the pass that is read be found, at the second step."""
        self._trained.begin_step(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the batches up to this step; may come late and in another thread."""
        self._trained.end_step(batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts what the epoch consumed and puts it into the logs."""
        self._end_training_part()
        self._in_epoch = False
        consumed = self._trained.consumed(lambda: self._train_rows, self._training.steps)
        if consumed is None:
            _warn_unread("dataset", "training")
            return
        if self._trained.overran:
            _warn_overrun("dataset")
        stats = dataclasses.replace(self.dataset.pass_stats(*consumed), seconds=self._train_seconds or 0.0)
        validation = self._validation
        self._record.add_epoch(epoch, stats, validation)
        if logs is not None:
            logs["padding_efficiency"] = stats.padding_efficiency
            if validation is not None:
                logs["val_padding_efficiency"] = validation.padding_efficiency
        if self.verbose:
            sys.stdout.write(f"\nEpoch {epoch + 1}: {describe(stats, validation)}\n")

    # Evaluation, alone, as validation, and in a hook of another callback.

    def on_test_begin(self, logs: Any = None) -> None:
        """Marks where an evaluation begins, and where the training part of an epoch has ended."""
        is_validation = self._in_epoch and not self._begins_call
        if is_validation:
            self._end_training_part(before_validation=True)
        self._begin_evaluation(is_validation, resets_metrics=True)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Lets the pass that is read be found, at the second step."""
        self._evaluations[-1].batches.begin_step(batch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the batches up to this step; may come late and in another thread."""
        self._evaluations[-1].batches.end_step(batch)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Counts what the evaluation consumed."""
        evaluation = self._evaluations[-1]
        stats = self._end_evaluation(evaluation.call.rows, resets_metrics=True)
        if evaluation.is_validation:
            self._validation = stats
            if stats is None and self.validation_data is not None:
                _warn_unread("validation_data", "validation")
        elif stats is not None:
            self.evaluate_history.append(stats)
            if logs is not None:
                logs["padding_efficiency"] = stats.padding_efficiency

    # Prediction.

    def on_predict_begin(self, logs: Any = None) -> None:
        """Marks where a prediction begins."""
        self._begin_evaluation(is_validation=False, resets_metrics=False)

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Lets the pass that is read be found, at the second step."""
        self.on_test_batch_begin(batch)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the batches up to this step and the rows in the logs; may come late and in another thread."""
        self.on_test_batch_end(batch)
        self._evaluations[-1].predicted_rows.add(logs)

    def on_predict_end(self, logs: Any = None) -> None:
        """Counts what the prediction consumed."""
        predicted_rows = self._evaluations[-1].predicted_rows
        stats = self._end_evaluation(lambda: predicted_rows.total, resets_metrics=False)
        if stats is not None:
            self.predict_history.append(stats)

    # Helpers.

    def _end_training_part(self, before_validation: bool = False) -> None:
        """Stops the clock and asks for the rows trained on, before a validation resets them."""
        if self._train_seconds is not None:
            return
        self._train_seconds = time.perf_counter() - self._training_began
        # Keras has read a batch for the validation already, under a distribution strategy to build the model, of a
        # PyDataset to know its shapes (keras/src/trainers/data_adapters/py_dataset_adapter.py).
        strategy = getattr(self.model, "distribute_strategy", None)
        reads_ahead = getattr(strategy, "num_replicas_in_sync", 1) > 1 or isinstance(
            self.dataset, keras.utils.PyDataset
        )
        self._trained.end(int(before_validation and reads_ahead))
        self._train_rows = self._training.rows()

    def _begin_evaluation(self, is_validation: bool, resets_metrics: bool) -> None:
        self._begins_call = False
        if not is_validation:
            self._pause_or_resume("pause", resets_metrics)
        candidates = [self.dataset]
        if self.validation_data is not None and self.validation_data is not self.dataset:
            candidates.insert(0, self.validation_data)
        # Inside `fit`, Keras tells the steps of training.
        call = RunningCall(self.model, None if is_validation else self.params)
        self._evaluations.append(_Evaluation(EvaluatedBatches(candidates), call, is_validation))

    def _end_evaluation(self, count_rows: Callable[[], int | None], resets_metrics: bool) -> PaddingStats | None:
        evaluation = self._evaluations.pop()
        stats = evaluation.batches.padding_stats(count_rows, evaluation.call.steps)
        if evaluation.batches.overran:
            _warn_overrun("validation_data` or `dataset")
        if not evaluation.is_validation:
            self._pause_or_resume("resume", resets_metrics)
        return stats

    def _pause_or_resume(self, action: str, resets_metrics: bool) -> None:
        """Tells whatever is under way of an evaluation or prediction in a hook of another callback."""
        for evaluation in self._evaluations:
            getattr(evaluation.batches, action)()
        if self._in_epoch:
            getattr(self._trained, action)()
        around = self._evaluations[-1].call if self._evaluations else self._training
        if resets_metrics and (self._evaluations or self._in_epoch):
            getattr(around, action)()


@dataclasses.dataclass
class _Evaluation:
    """An evaluation or prediction under way; a callback may begin another one in its hooks."""

    batches: EvaluatedBatches
    call: RunningCall
    is_validation: bool
    predicted_rows: PredictedRows = dataclasses.field(default_factory=PredictedRows)


def _check_counted(name: str, dataset: Any) -> CountedDataset:
    if isinstance(dataset, CountedDataset):
        return dataset
    raise TypeError(
        f"`{name}` cannot tell its padding. Expected a BucketedSequence or what monitor_padding() returned, received "
        f"{type(dataset).__name__}. Wrap it, {name} = monitor_padding({name}), and give the result to both `fit` and "
        "this callback; if it is made of a BucketedSequence, pass that."
    )


def _warn_overrun(name: str) -> None:
    warnings.warn(
        f"PaddingStatsCallback: another pass over `{name}` began before this one had ended, or the model consumed more "
        "batches than a pass has, so that the figures may be wrong. Is there a repeat() on top? Wrap the finished "
        "dataset, dataset = monitor_padding(...), and give the result to both `fit` and this callback. Or does another "
        "callback, or a validation, read the dataset? Let it read one of its own.",
        stacklevel=2,
    )


def _warn_unread(name: str, what: str) -> None:
    warnings.warn(
        f"PaddingStatsCallback: no batch of `{name}` was read in {what}, so its padding is unknown. Give the callback "
        "the object itself that `fit` reads, or that the dataset for `fit` was made of.",
        stacklevel=2,
    )
