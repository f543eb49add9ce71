"""How much padding a model has been fed, epoch by epoch."""

from __future__ import annotations

import json
import numbers
import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras

from keras_bucketing.callbacks.consumed_batches import RunningCall
from keras_bucketing.callbacks.fit_hooks import Logs, copy_callback, data_of_call
from keras_bucketing.checks import check_choice, show, show_typed, write_text
from keras_bucketing.monitoring.batch_log import EntryKeys, MaskValue
from keras_bucketing.monitoring.counted_arrays import CountedArrays, is_arrays
from keras_bucketing.monitoring.counted_dataset import CountedDataset, refuse_uncounted
from keras_bucketing.monitoring.monitored_generator import MonitoredGenerator
from keras_bucketing.padding.history import PaddingHistory, describe, describe_training
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.unpadding.spans import SIDES


class PaddingStatsCallback(keras.callbacks.Callback):
    """Counts the padding of the batches that the model consumed, to the last timestep.

    It adds `padding_efficiency`, and `val_padding_efficiency` with `validation_data`, to the logs of each epoch. The
    progress bar and `History` always show them. Other callbacks see them if they come later in the list: put this one
    before `CSVLogger`, `TensorBoard` and the like.

    Batches that were planned or prefetched do not count. Figures are exact under `steps_per_epoch`,
    `steps_per_execution`, `validation_freq`, `class_weight`, distribution strategies, early stopping, and with
    `.map()`, `.take()` and `.prefetch()` on top of the dataset. `.repeat()`, `.shuffle()` and `.filter()` change the
    order or the number of batches: wrap the result in `monitor_padding`. Do so, too, with a `.map()` that changes the
    number of timesteps, and with every other dataset, and pass the monitored dataset to both `fit` and this callback.

    For a `BucketedSequence`, the padding comes from its plan: every ragged leaf of `x`, and labels of their own length.
    A monitored dataset reads it off the batches. If there are several leaves, `PaddingStats.leaves` has the figures of
    each.

    Padded arrays, as in `fit(x, y)`, need no dataset. All of their rows count, as one batch, in every epoch; if
    `validation_split` or `steps_per_epoch` leaves rows out, `report()` and `verbose=1` say so. Lengths are read off `x`
    by the rules of `monitor_padding`; if padding is not 0, pass `mask_value`. An evaluation or prediction outside `fit`
    counts if it reads as many rows as the arrays have.

    Another callback may evaluate or predict in its hooks. If it reads the same dataset, pass `callbacks=[this one]`
    there, and put it before this one in the list if it does so in `on_epoch_begin`, `on_train_batch_begin` or
    `on_test_begin`. A warning says that another pass over the dataset began unannounced, so the figures may be wrong:
    something like `.repeat()` is on top, or other code reads the dataset. With a `.prefetch()` or `class_weight` on top
    of the `.repeat()`, nothing shows this. TensorFlow adds such a `.prefetch()` to all pipelines but that of a
    `BucketedSequence`.

    A step costs one or two microseconds at most; asynchronous dispatch of callbacks stays on. See
    docs/how-it-works/statistics.md for how it counts.

    Args:
        dataset: The `BucketedSequence`, or what `monitor_padding` returned: the object itself, even if `fit` reads
            something made from it, such as `dataset.prefetch(2)`. Or the padded arrays `x` of `fit`: one of the shape
            `(num_rows, time, ...)`, or a dict, tuple or list of them, with masks and lengths if there are any.
        validation_data: The same for `fit(validation_data=...)`; for arrays `(x, y)`, `(x, y, sample_weight)` or `x`, a
            dict or an array. Defaults to None.
        mask_value: The value of the padding of arrays. Defaults to 0; `""` for strings; may be `nan`.
        sequences: Str or int, or a list of them: which entries of a dict, tuple or list of arrays hold sequences.
            Defaults to None: found automatically.
        bucket_boundaries: List of ints, to get figures of arrays per bucket, as in `monitor_padding`. Defaults to None.
        padding: "post" or "pre", the end at which arrays are padded. Defaults to None: the end that holds `mask_value`,
            or an error if some rows begin and others end with it.
        verbose: 0 or 1. 1 prints a line for each epoch below its progress bar, and one at the end of `fit`: the
            padding, and what padding to the longest would have cost. Defaults to 0.

    Attributes:
        history: List of `PaddingStats`, one for each epoch of training. Their `seconds` do not include validation.
        val_history: List of the same length, of `PaddingStats`, or None for epochs without validation.
        epochs: List of ints of the same length: Keras' number of each epoch.
        evaluate_history: List of `PaddingStats`, one for each `evaluate(..., callbacks=[callback])`.
        predict_history: List of `PaddingStats`, one for each `predict(..., callbacks=[callback])`.

    Raises:
        TypeError: If a dataset does not know its padding, or `mask_value` is of another kind than the sequences.
        ValueError: If `verbose` is neither 0 nor 1; if arrays differ in their number of rows, if it is not clear which
            are sequences, if their dtype cannot hold `mask_value`; or if an option of arrays is given without arrays.

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

        The arrays themselves:

        >>> PaddingStatsCallback(x).dataset.stats.padding_efficiency == callback.history[0].padding_efficiency
        True
    """

    # Keras then keeps on dispatching on_*_batch_end to a thread (keras/src/callbacks/callback_list.py): those hooks
    # below only note a number, under a lock.
    async_safe = True

    def __init__(
        self,
        dataset: Any,
        validation_data: Any = None,
        *,
        mask_value: MaskValue = 0,
        sequences: EntryKeys = None,
        bucket_boundaries: list[int] | None = None,
        padding: Literal["post", "pre"] | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        given: object = verbose
        if not isinstance(given, numbers.Integral) or given not in (0, 1):
            raise ValueError(
                f"`verbose` must be 0 or 1. Received {show_typed(verbose)}. 1 prints a line for each epoch."
            )
        options: dict[str, Any] = {
            "mask_value": mask_value,
            "sequences": sequences,
            "bucket_boundaries": bucket_boundaries,
            "padding": None if padding is None else check_choice("padding", padding, SIDES),
        }
        self.dataset: CountedDataset = _counted("dataset", dataset, options)
        self.validation_data: CountedDataset | None = None
        if validation_data is dataset:
            self.validation_data = self.dataset
        elif validation_data is not None:
            self.validation_data = _counted("validation_data", _x_of_validation(validation_data), options)
        if not any(isinstance(each, CountedArrays) for each in (self.dataset, self.validation_data)):
            _refuse_options(options)
        self.verbose = verbose
        self._record = PaddingHistory()
        self._missing_rows = 0  # of arrays, which the last epoch did not train on
        # Keras calls its progress bar after this callback: the text about an epoch waits for the end of that line.
        self._unprinted = ""
        self._first_epoch = 0  # of this `fit`, in the history
        self._training = RunningCall([self.dataset])
        # The calls under way: in an epoch the training, an evaluation or prediction, and those in hooks of others.
        self._calls: list[RunningCall] = []
        self._begins_call = False
        self._validation: PaddingStats | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PaddingStatsCallback:
        """A callback that starts counting again, on the same datasets: tuners copy callbacks for each trial."""
        new = PaddingStatsCallback(self.dataset, self.validation_data, verbose=self.verbose)
        copied: PaddingStatsCallback = copy_callback(self, memo, vars(new))
        return copied

    # What happened.

    @property
    def history(self) -> list[PaddingStats]:
        """The padding of each epoch of training."""
        return self._record.train

    @property
    def val_history(self) -> list[PaddingStats | None]:
        """The padding of each epoch's validation; None for epochs without one."""
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

    def report(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Prints a table with a line for each epoch, evaluation and prediction, and the last epoch's buckets.

        Args:
            print_fn: Function that takes the text. Defaults to `print`.
        """
        (print_fn or print)("\n\n".join([str(self._record), *self._notes()]))

    def _notes(self) -> list[str]:
        """What the reader of the figures must know."""
        if not self._missing_rows or not isinstance(self.dataset, CountedArrays):
            return []
        rows = self.dataset.num_rows
        note = (
            f"The figures of training are those of all {rows} rows of x, while an epoch trained on "
            f"{rows - self._missing_rows} of them (validation_split, steps_per_epoch)"
        )
        return [note]

    def to_dict(self) -> dict[str, Any]:
        """Everything that was counted, as numbers, lists and dicts."""
        return self._record.to_dict()

    def to_json(self) -> str:
        """The same as `to_dict()`, as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def plot(self, ax: Any = None) -> Any:
        """Draws the padding efficiency of each epoch; `history[-1].plot()` draws the buckets of the last one.

        Args:
            ax: A Matplotlib axes. Defaults to None: a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: If Matplotlib is missing; the extra `plot` installs it.
            ValueError: If no epoch has been trained.
        """
        from keras_bucketing.padding.pictures import plot_padding_history

        return plot_padding_history(self.epochs, self.history, self.val_history, ax=ax)

    # Training.

    def set_params(self, params: dict[str, Any]) -> None:
        """Notes that a new `fit`, `evaluate` or `predict` begins; inside `fit`, a validation does not get here."""
        super().set_params(params)
        self._begins_call = True

    def on_train_begin(self, logs: Logs = None) -> None:
        """Starts following the training data; a new `fit` always begins a new pass."""
        self._begins_call = False
        self._calls = []
        self._unprinted, self._first_epoch = "", len(self.history)
        # A generator that `fit` was not given may still be read, by another one.
        is_known = not isinstance(self.dataset, MonitoredGenerator) or data_of_call(self.model) is self.dataset
        known = self.dataset if is_known else None
        self._training = RunningCall([self.dataset], self.model, self.params, known=known)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Marks where the epoch begins."""
        self._print()
        self._begins_call = False
        self._calls = [self._training]
        self._validation = None
        self._training.begin()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Finds the pass that is read, at the second step."""
        self._training.begin_step(batch)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts the batches up to this step; may come late and in another thread."""
        self._training.end_step(batch)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Counts what the epoch consumed and adds it to the logs."""
        self._calls = []
        stats, validation = self._training.padding_stats(), self._validation
        if stats is None:
            _warn_unread("dataset", "training")
            return
        if self._training.overran:
            _warn_overrun("dataset")
        self._record.add_epoch(epoch, stats, validation)
        if logs is not None:
            logs["padding_efficiency"] = stats.padding_efficiency
            if validation is not None:
                logs["val_padding_efficiency"] = validation.padding_efficiency
        self._missing_rows = self._training.num_missing_rows
        if self.verbose:
            notes = ". ".join([describe(stats, validation), *self._notes()])
            self._unprinted += f"Epoch {epoch + 1}: {notes}\n"

    def on_train_end(self, logs: Logs = None) -> None:
        """Prints the last lines."""
        epochs = self.history[self._first_epoch :]
        if self.verbose and epochs:
            self._unprinted += f"{describe_training(epochs)}\n"
        self._print()

    def _print(self) -> None:
        if self._unprinted:
            write_text(sys.stdout, self._unprinted)
        self._unprinted = ""

    # Evaluation, alone, as validation, and in a hook of another callback.

    def on_test_begin(self, logs: Logs = None) -> None:
        """Marks where an evaluation begins, and where the training part of an epoch has ended."""
        is_validation = self._training in self._calls and not self._begins_call
        if is_validation:
            # Keras has read a batch for the validation already, under a distribution strategy to build the model, of a
            # PyDataset to know its shapes (keras/src/trainers/data_adapters/py_dataset_adapter.py).
            strategy = getattr(self.model, "distribute_strategy", None)
            is_distributed = getattr(strategy, "num_replicas_in_sync", 1) > 1
            self._training.end(int(is_distributed or isinstance(self.dataset, keras.utils.PyDataset)))
        # Inside `fit`, Keras tells the steps of training.
        self._begin_call(self.model, None if is_validation else self.params, is_validation)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Finds the pass that is read, at the second step."""
        self._calls[-1].begin_step(batch)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts the batches up to this step; may come late and in another thread."""
        self._calls[-1].end_step(batch)

    def on_test_end(self, logs: Logs = None) -> None:
        """Counts what the evaluation consumed."""
        is_validation = self._calls[-1].is_validation
        stats = self._end_call()
        if is_validation:
            self._validation = stats
            if stats is None and self.validation_data is not None:
                _warn_unread("validation_data", "validation")
        elif stats is not None:
            self.evaluate_history.append(stats)
            if logs is not None:
                logs["padding_efficiency"] = stats.padding_efficiency

    # Prediction.

    def on_predict_begin(self, logs: Logs = None) -> None:
        """Marks where a prediction begins."""
        self._begin_call(None, self.params)

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Finds the pass that is read, at the second step."""
        self.on_test_batch_begin(batch)

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts the batches up to this step and the rows in the logs; may come late and in another thread."""
        self.on_test_batch_end(batch)
        self._calls[-1].add_outputs(logs)

    def on_predict_end(self, logs: Logs = None) -> None:
        """Counts what the prediction consumed."""
        stats = self._end_call()
        if stats is not None:
            self.predict_history.append(stats)

    # Evaluations and predictions, which may lie inside each other.

    def _begin_call(
        self, model: keras.Model | None, params: dict[str, Any] | None, is_validation: bool = False
    ) -> None:
        self._begins_call = False
        candidates = [self.dataset]
        if self.validation_data is not None and self.validation_data is not self.dataset:
            candidates.insert(0, self.validation_data)
        given = data_of_call(self.model)
        known = self.validation_data if is_validation else None
        if any(given is candidate for candidate in candidates):
            known, candidates = given, [given]
        elif is_validation and isinstance(known, (CountedArrays, MonitoredGenerator)):
            candidates = [known]
        elif is_validation and isinstance(self.dataset, CountedArrays):
            candidates.remove(self.dataset)  # validation_split, or other arrays
        call = RunningCall(candidates, model, params, is_validation, known)
        if not is_validation:
            for outer in self._calls:
                outer.pause(resets_metrics=call.counts_loss and outer is self._calls[-1])
        call.begin()
        self._calls.append(call)

    def _end_call(self) -> PaddingStats | None:
        call = self._calls.pop()
        stats = call.padding_stats()
        if call.overran:
            _warn_overrun("validation_data` or `dataset")
        if not call.is_validation:
            for outer in self._calls:
                outer.resume(resets_metrics=call.counts_loss and outer is self._calls[-1])
        return stats


def _counted(name: str, dataset: Any, options: dict[str, Any]) -> CountedDataset:
    """The dataset, or the arrays as a countable dataset; refuses anything else."""
    if isinstance(dataset, CountedDataset):
        return dataset
    if not is_arrays(dataset):
        refuse_uncounted(name, dataset)
    return CountedArrays(name, dataset, **options)


def _x_of_validation(validation_data: Any) -> Any:
    """The `x` in the `validation_data` of `fit`."""
    if isinstance(validation_data, (tuple, list)) and 1 <= len(validation_data) <= 3:
        return validation_data[0]
    return validation_data


def _refuse_options(options: dict[str, Any]) -> None:
    defaults = {"mask_value": 0, "sequences": None, "bucket_boundaries": None, "padding": None}
    for name, value in options.items():
        if value is not defaults[name] and not (name == "mask_value" and isinstance(value, int) and value == 0):
            raise ValueError(
                f"`{name}` is for padded arrays. Received {show(value)} beside a dataset, which knows its own. Pass it "
                f"to monitor_padding(dataset, {name}=...)."
            )


def _warn_overrun(name: str) -> None:
    warnings.warn(
        f"PaddingStatsCallback: another pass over `{name}` began before this one had ended, or the model consumed more "
        "batches than a pass has, so the figures may be wrong. If there is a repeat() on top, wrap the finished "
        "dataset, dataset = monitor_padding(...), and give the result to both `fit` and this callback. If another "
        "callback or the validation reads the dataset too, give it a separate one.",
        stacklevel=2,
    )


def _warn_unread(name: str, what: str) -> None:
    warnings.warn(
        f"PaddingStatsCallback: no batch of `{name}` was read in {what}, so its padding is unknown. Give the callback "
        "the same object that `fit` reads, or the one that the dataset for `fit` was made from.",
        stacklevel=2,
    )
