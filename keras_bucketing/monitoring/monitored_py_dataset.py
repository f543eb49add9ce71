"""A `keras.utils.PyDataset` that writes down what it delivers."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.monitoring.batch_log import MOST_UNREAD_BATCHES, entry_of_batch, stats_of_entries
from keras_bucketing.monitoring.padding_watch import PaddingWatch
from keras_bucketing.monitoring.row_lengths import check_padding_of, entry_name, leaves_at, row_lengths, sequence_paths
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.pass_counter import PassPosition

_KEPT_PASSES = 4


class MonitoredPyDataset(keras.utils.PyDataset):
    """Passes a `PyDataset` through and notes the lengths of its batches; made by `monitor_padding`.

    With `workers` <= 1, batches are asked for in the order of consumption, and the figures are exact. With
    more threads, an epoch that is consumed whole is exact too; of one that is cut short (`steps_per_epoch`,
    stopping in mid-epoch), the last few batches may be others than those consumed, and a warning says so.
    Where `fit` trains and validates on the same object with `steps_per_epoch`, the callback warns that figures may be
    wrong.

    `PyDataset` has no hook that tells a pass from the next. Keras asks for `num_batches` whenever one
    begins; with several threads it does so in the middle as well, but there it stops them all before
    `on_epoch_end` (keras/src/trainers/data_adapters/py_dataset_adapter.py).
    """

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        mask_value: Any,
        sequences: Any,
        bucket_boundaries: list[int] | None,
    ):
        if dataset.use_multiprocessing:
            raise ValueError(
                "A PyDataset with `use_multiprocessing=True` cannot be monitored: its batches are made in other "
                "processes. Set `dataset.use_multiprocessing = False`; `workers` may stay as it is."
            )
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self._dataset = dataset
        self._mask_value = mask_value
        self._sequences = sequences
        self._names: list[str] = []
        self._dtypes: list[tf.DType] = []
        self._watch = PaddingWatch(mask_value)
        self._bucket_boundaries = bucket_boundaries
        self._lock = threading.Lock()
        self._pass_ended = True
        self._newest = 0
        self._delivered = 0  # batches of the newest pass
        self._entries: dict[int, dict[int, np.ndarray]] = {}
        self._warned = False

    def __len__(self) -> int:
        count = self._dataset.num_batches
        if count is None:
            raise TypeError("An endless PyDataset has no length.")
        return int(count)

    @property
    def num_batches(self) -> int | None:
        """Batches of a pass; None for an endless one."""
        if self.workers <= 1:
            self._pass_ended = True
        count: int | None = self._dataset.num_batches
        return count

    def on_epoch_begin(self) -> None:
        """Passes the call on."""
        self._dataset.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes the call on."""
        if self.workers > 1:
            self._pass_ended = True
        self._dataset.on_epoch_end()

    def __getitem__(self, index: int) -> Any:
        with self._lock:
            if self._pass_ended:
                self._begin_pass()
            number, of_pass, position = self._newest, self._entries[self._newest], self._delivered
            self._delivered += 1
        batch = self._dataset[index]
        entry = self._measure(batch, number, position)
        with self._lock:
            of_pass[position] = entry
            of_pass.pop(position - MOST_UNREAD_BATCHES, None)
        return batch

    def newest_pass(self) -> PassPosition:
        """The newest pass that has begun."""
        with self._lock:
            return PassPosition(self._newest, self._newest - 1, 0)

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What was padded in some batches of a pass; the batches before them are forgotten.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.
        """
        with self._lock:
            of_pass = self._entries.get(position.number, {})
            for index in [index for index in of_pass if index < start]:
                del of_pass[index]
            entries = [of_pass[index] for index in range(start, stop) if index in of_pass]
            cut_short = start > 0 or any(index >= stop for index in of_pass)
        if cut_short and self.workers > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"With workers={self.workers}, batches are made out of order, and this epoch did not consume all of "
                "them: the padding statistics may have counted a few others. Use workers=1 for exact figures.",
                stacklevel=2,
            )
        self._watch.warn_once(self._names, self._dtypes)
        return stats_of_entries(entries, self._names, self._bucket_boundaries)

    def _begin_pass(self) -> None:
        self._pass_ended = False
        self._newest += 1
        self._delivered = 0
        self._entries[self._newest] = {}
        self._entries.pop(self._newest - _KEPT_PASSES, None)

    def _measure(self, batch: Any, pass_number: int, position: int) -> np.ndarray:
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        x = keras.tree.map_structure(keras.ops.convert_to_numpy, x)
        paths = sequence_paths(x, self._sequences)
        check_padding_of(x, paths, self._mask_value)
        self._names = [entry_name(path) for path in paths]
        leaves = [tf.convert_to_tensor(leaf) for leaf in leaves_at(x, paths)]
        self._dtypes = [leaf.dtype for leaf in leaves]
        lengths, padded_lengths = row_lengths(x, paths, self._mask_value)
        self._watch.note(pass_number, position, leaves, lengths)
        entry: np.ndarray = entry_of_batch(lengths, padded_lengths).numpy()
        return entry
