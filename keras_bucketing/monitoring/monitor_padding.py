"""Any dataset of padded batches, made readable for `PaddingStatsCallback`."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.data.row_splits import row_splits_of
from keras_bucketing.monitoring.counted_dataset import CountedDataset
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassCounter, PassPosition, without_autograph
from keras_bucketing.planning.boundaries import check_boundaries
from keras_bucketing.unpadding.graph import check_padding_of, entry_name, leaves_at, row_lengths, sequence_paths
from keras_bucketing.unpadding.unnoticed import UnnoticedPaddingCheck

MaskValue = bool | int | float | str | bytes
EntryKeys = str | int | list[str | int] | None  # which entries of x are sequences
Batch = Any  # x, (x, y) or (x, y, sample_weight), x being a tensor or a dict, tuple or list of tensors


def monitor_padding(
    dataset: tf.data.Dataset | keras.utils.PyDataset | CountedDataset,
    mask_value: MaskValue = 0,
    *,
    sequences: EntryKeys = None,
    bucket_boundaries: list[int] | None = None,
) -> Any:
    """Lets a `PaddingStatsCallback` read the padding of a dataset that knows nothing of bucketing.

    The batches pass through unchanged. Wrap the finished dataset, after `.repeat()`, `.take()`,
    `.shuffle()` and the like, and give the result both to `fit` and to the callback.

    Lengths are read off the batches. In a dict, integer entries "lengths" or `"<name>_lengths"` of one dimension are
    believed, and so are the masks of KerasHub's preprocessors (`"padding_mask"`, `"encoder_padding_mask"`). Otherwise
    the padding of a row is its run of `mask_value` timesteps at the end, or at the beginning where more rows of the
    batch begin with `mask_value` than end with it; `mask_value` inside a sequence is data. Where `x` has several
    entries, those with a time axis of unknown size count, or those of rank 2 and more if there is none: each for
    itself, and `PaddingStats.leaves` has the figures of each. Labels do not count.

    A warning, once, tells of rows that are all equally long by `mask_value` although they end or begin in runs of one
    timestep, at least two timesteps long, of differing lengths, in a tenth of the rows of the first batches, of a value
    that hardly occurs elsewhere: padding that holds another value, or data that were normalized after padding.

    Args:
        dataset: A `tf.data.Dataset` of batches, `x`, `(x, y)` or `(x, y, sample_weight)`, or a
            `keras.utils.PyDataset` of them. The sequences have the shape `(batch, time)` or
            `(batch, time, ...)`, padded right or left.
        mask_value: What padding holds. Defaults to 0; `""` for strings; `nan` works too.
        sequences: Optional str or int, which entry of a dict or tuple `x` holds the sequences, or a list of several.
        bucket_boundaries: Optional list of ints as in `tf.data.Dataset.bucket_by_sequence_length`, to get
            figures for each bucket. Defaults to None: those of `dataset`, if it has any.

    Returns:
        A `tf.data.Dataset` or a `keras.utils.PyDataset` that yields the same batches. In a training loop of your own,
        its `newest_pass()` and `pass_stats(position, start, stop)` say what was padded. A `BucketedSequence` knows its
        padding already and comes back as it is. (In a dataset made from one, as by `.repeat()`, rows that spilled into
        a longer bucket and fill a batch there alone count for their own.)

    Raises:
        TypeError: If `dataset` is neither, or `mask_value` of another kind than the sequences.
        ValueError: If their dtype cannot hold `mask_value`, if no entry of `x`, or more than one, can be a batch of
            sequences, or if a `PyDataset` uses processes (`use_multiprocessing=True`), which cannot report to this one.

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0, 0], [5, 0, 0, 0]]).batch(2)
        >>> monitored = monitor_padding(dataset)
        >>> [batch.shape for batch in monitored]
        [TensorShape([2, 4])]
        >>> stats = monitored.pass_stats(monitored.newest_pass(), start=0, stop=1)
        >>> stats.real_timesteps, stats.total_timesteps
        (3, 8)
    """
    if isinstance(dataset, CountedDataset):
        return dataset
    if bucket_boundaries is not None:
        bucket_boundaries = check_boundaries(bucket_boundaries)
    if isinstance(dataset, tf.data.Dataset):
        return MonitoredDataset(dataset, mask_value, sequences, bucket_boundaries)
    if isinstance(dataset, keras.utils.PyDataset):
        return MonitoredPyDataset(dataset, mask_value, sequences, bucket_boundaries)
    raise TypeError(
        "`dataset` cannot be monitored. Expected a tf.data.Dataset or a keras.utils.PyDataset of padded batches, "
        f"received {type(dataset).__name__}. Make one of arrays with tf.data.Dataset.from_tensor_slices((x, "
        "y)).shuffle(len(x)).batch(32)."
    )


class MonitoredDataset(tf.data.Dataset):
    """A `tf.data.Dataset` that writes down what it delivers; made by `monitor_padding`."""

    def __init__(
        self,
        dataset: tf.data.Dataset,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
    ):
        x = _x_of(dataset.element_spec)
        self.unmonitored = dataset
        self._element_spec = dataset.element_spec
        self.mask_value = mask_value
        self._paths = sequence_paths(x, sequences)
        check_padding_of(x, self._paths, mask_value)
        self._names = [entry_name(path) for path in self._paths]
        self._dtypes = [leaf.dtype for leaf in leaves_at(x, self._paths)]
        self._counter = PassCounter()
        self._log = BatchLog(self._names, bucket_boundaries)
        self._padding_check = UnnoticedPaddingCheck(mask_value)
        no_pass = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        # `scan` hands its state from batch to batch of one pass, and keeps the cardinality.
        self._inner = dataset.scan(no_pass, without_autograph(self._record)).prefetch(1)
        super().__init__(tf.data.experimental.to_variant(self._inner))

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._inner]

    @property
    def element_spec(self) -> Batch:
        """The structure of the batches, as given."""
        return self._element_spec

    @property
    def num_batches(self) -> int | None:
        """Batches of a pass; None where that is unknown or infinite."""
        cardinality = int(self.cardinality())
        return cardinality if cardinality >= 0 else None

    def newest_pass(self) -> PassPosition:
        """The newest pass that has yielded a batch.

        An iterator whose first batch was not read yet is no pass. A prefetch, `.prefetch()` on top or that of Keras,
        reads it as soon as the iterator is made.

        Returns:
            A tuple of ints `(number, epoch, first_batch)`: how many passes have begun so far, 0 before the first;
            `number - 1`; and 0, the batch that the pass began with.

        Example:
            >>> monitored = monitor_padding(tf.data.Dataset.from_tensor_slices([[7, 0], [5, 6]]).batch(1))
            >>> monitored.newest_pass().number
            0
            >>> batches = list(monitored)
            >>> monitored.newest_pass()
            PassPosition(number=1, epoch=0, first_batch=0)
        """
        return self._counter.newest_pass()

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded.

        They can be asked for again, until batches after them are: what lies before `start` is forgotten. Of passes that
        nobody asks about, at least the newest two are remembered.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.

        Returns:
            A `PaddingStats` of these batches, of every entry of `x` that holds sequences.

        Example:
            A training loop counts the batches that it consumes, whatever was prefetched:

            >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0], [1, 2, 3]]).batch(1)
            >>> monitored = monitor_padding(dataset)
            >>> for step, batch in enumerate(monitored.prefetch(3)):
            ...     if step == 1:
            ...         break
            >>> stats = monitored.pass_stats(monitored.newest_pass(), start=0, stop=step + 1)
            >>> stats.num_batches, stats.real_timesteps, stats.total_timesteps
            (2, 3, 6)
        """
        self._padding_check.warn_once(self._names, self._dtypes)
        return self._log.pass_stats(position, start, stop)

    def _record(self, state: tuple[tf.Tensor, tf.Tensor], batch: Batch) -> tuple[tuple[tf.Tensor, tf.Tensor], Batch]:
        """Writes a batch into the log; in graph. The state is the pass' number and the batch's index in it."""
        pass_number, index = state
        pass_number = tf.cond(tf.equal(index, 0), self._begin_pass, lambda: pass_number)
        lengths, padded_lengths = row_lengths(_x_of(batch), self._paths, self.mask_value)
        sampled = self._padding_check.sample(pass_number, index, leaves_at(_x_of(batch), self._paths), lengths)
        with tf.control_dependencies([sampled, self._log.write(pass_number, index, lengths, padded_lengths)]):
            return (pass_number, tf.identity(index + 1)), batch

    def _begin_pass(self) -> tf.Tensor:
        number = self._counter.begin_pass().number
        with tf.control_dependencies([self._log.forget_old_passes(number)]):
            return tf.identity(number)


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
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
    ):
        if dataset.use_multiprocessing:
            raise ValueError(
                "A PyDataset with `use_multiprocessing=True` cannot be monitored: its batches are made in other "
                "processes. Set `dataset.use_multiprocessing = False`; `workers` may stay as it is."
            )
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self.unmonitored = dataset
        self.mask_value = mask_value
        self._sequences = sequences
        self._names: list[str] = []  # of the sequences of the newest batch, with their dtypes
        self._dtypes: list[tf.DType] = []
        self._padding_check = UnnoticedPaddingCheck(mask_value)
        self._bucket_boundaries = bucket_boundaries
        self._lock = threading.Lock()  # of the next four
        self._pass_ended = True
        self._newest = 0
        self._delivered = 0  # batches of the newest pass
        self._entries: dict[int, dict[int, LogEntry]] = {}  # by pass, and by the order of delivery
        self._warned = False

    def __len__(self) -> int:
        count = self.unmonitored.num_batches
        if count is None:
            raise TypeError("An endless PyDataset has no length.")
        return int(count)

    @property
    def num_batches(self) -> int | None:
        """Batches of a pass; None for an endless one."""
        if self.workers <= 1:
            self._pass_ended = True
        count: int | None = self.unmonitored.num_batches
        return count

    def on_epoch_begin(self) -> None:
        """Passes the call on."""
        self.unmonitored.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes the call on."""
        if self.workers > 1:
            self._pass_ended = True
        self.unmonitored.on_epoch_end()

    def __getitem__(self, index: int) -> Batch:
        with self._lock:
            if self._pass_ended:
                self._begin_pass()
            number, entries, position = self._newest, self._entries[self._newest], self._delivered
            self._delivered += 1
        batch = self.unmonitored[index]
        entry = self._measure(batch, number, position)
        with self._lock:
            entries[position] = entry
            entries.pop(position - MAX_UNREAD_BATCHES, None)
        return batch

    def newest_pass(self) -> PassPosition:
        """The newest pass of which a batch was asked for.

        Returns:
            A tuple of ints `(number, epoch, first_batch)`: how many passes have begun so far, 0 before the first;
            `number - 1`; and 0, the batch that the pass began with.

        Example:
            >>> class Batches(keras.utils.PyDataset):
            ...     def __len__(self):
            ...         return 2
            ...
            ...     def __getitem__(self, index):
            ...         return np.array([[7, 8, 0], [5, 0, 0]])
            >>> monitored = monitor_padding(Batches())
            >>> for index in range(monitored.num_batches):  # asking for `num_batches` begins a pass
            ...     batch = monitored[index]
            >>> monitored.newest_pass()
            PassPosition(number=1, epoch=0, first_batch=0)
        """
        with self._lock:
            return PassPosition(self._newest, self._newest - 1, 0)

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded, in the order in which they were asked for.

        They can be asked for again, until batches after them are: what lies before `start` is forgotten. Of passes that
        nobody asks about, the newest four are remembered.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.

        Returns:
            A `PaddingStats` of these batches, of every entry of `x` that holds sequences.

        Example:
            >>> class Batches(keras.utils.PyDataset):
            ...     def __len__(self):
            ...         return 2
            ...
            ...     def __getitem__(self, index):
            ...         return np.array([[7, 8, 0], [5, 0, 0]])
            >>> monitored = monitor_padding(Batches())
            >>> batches = [monitored[index] for index in range(monitored.num_batches)]
            >>> stats = monitored.pass_stats(monitored.newest_pass(), start=0, stop=len(batches))
            >>> stats.num_sequences, stats.real_timesteps, stats.total_timesteps
            (4, 6, 12)
        """
        with self._lock:
            delivered = self._entries.get(position.number, {})
            for index in [index for index in delivered if index < start]:
                del delivered[index]
            entries = [delivered[index] for index in range(start, stop) if index in delivered]
            is_cut_short = start > 0 or max(delivered, default=-1) >= stop
        if is_cut_short and self.workers > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"With workers={self.workers}, batches are made out of order, and this epoch did not consume all of "
                "them: the padding statistics may have counted a few others. Use workers=1 for exact figures.",
                stacklevel=2,
            )
        self._padding_check.warn_once(self._names, self._dtypes)
        return stats_of_entries(entries, self._names, self._bucket_boundaries)

    def _begin_pass(self) -> None:
        self._pass_ended = False
        self._newest += 1
        self._delivered = 0
        self._entries[self._newest] = {}
        self._entries.pop(self._newest - _KEPT_PASSES, None)

    def _measure(self, batch: Batch, pass_number: int, position: int) -> LogEntry:
        x = keras.tree.map_structure(keras.ops.convert_to_numpy, _x_of(batch))
        paths = sequence_paths(x, self._sequences)
        check_padding_of(x, paths, self.mask_value)
        self._names = [entry_name(path) for path in paths]
        leaves = [tf.convert_to_tensor(leaf) for leaf in leaves_at(x, paths)]
        self._dtypes = [leaf.dtype for leaf in leaves]
        lengths, padded_lengths = row_lengths(x, paths, self.mask_value)
        self._padding_check.sample(pass_number, position, leaves, lengths)
        entry: LogEntry = entry_of_batch(lengths, padded_lengths).numpy()
        return entry


def _x_of(batch: Batch) -> Batch:
    return batch[0] if isinstance(batch, (tuple, list)) else batch


# The log of delivered batches, read by those who know which of them were consumed: an entry for each batch.

LogEntry = NDArray[np.int32]  # (num_leaves, 1 + rows): the padded length of each leaf and the lengths of its rows

# A dataset that is iterated without a callback would fill its log for ever. This many entries are a few megabytes and
# far more than the batches which can be waiting to be read.
MAX_UNREAD_BATCHES = 65536
_KEPT_PASSES = 4  # of a `PyDataset`

_PASS_SHIFT = 32  # an entry's key: pass number << 32 | index in the pass


class BatchLog:
    """Remembers the lengths of each delivered batch until they are read; written in graph.

    A running total would count what was prefetched, so every batch has its own entry.

    Args:
        names: What statistics call the leaves of a batch.
        bucket_boundaries: Optional list of ints, to tell the bucket of a batch from its padded length.
    """

    def __init__(self, names: list[str], bucket_boundaries: list[int] | None):
        self._names = names
        self.bucket_boundaries = bucket_boundaries
        with tf.device("CPU:0"):
            # A table holds values of one shape only, batches have as many lengths as rows: hence serialized.
            self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, default_value="")
        self._kept: dict[int, LogEntry] = {}

    def write(
        self, pass_number: tf.Tensor, index: tf.Tensor, lengths: tf.Tensor, padded_lengths: tf.Tensor
    ) -> tf.Operation:
        """Notes a batch, with the lengths of its leaves as `row_lengths` returns them; in graph."""
        key = tf.bitwise.left_shift(pass_number, tf.constant(_PASS_SHIFT, tf.int64)) + index
        entry = tf.io.serialize_tensor(entry_of_batch(lengths, padded_lengths))
        return self._table.insert(key, entry)

    def forget_old_passes(self, newest_pass: tf.Tensor) -> tf.Tensor:
        """Drops all but the newest two passes where too much was never read; in graph. Returns how many entries."""

        def forget() -> tf.Tensor:
            keys = tf.reshape(self._table.export()[0], [-1])
            oldest_kept = tf.bitwise.left_shift(newest_pass - 1, tf.constant(_PASS_SHIFT, tf.int64))
            old = tf.boolean_mask(keys, keys < oldest_kept)
            with tf.control_dependencies([self._table.remove(old)]):
                return tf.size(old, tf.int64)

        return tf.cond(self._table.size() > MAX_UNREAD_BATCHES, forget, lambda: tf.constant(0, tf.int64))

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded, as far as they were delivered.

        What was read leaves the log; it can be asked for again until batches after it are.
        """
        first = position.number << _PASS_SHIFT
        entries = self._read(list(range(first + start, first + stop)))
        return stats_of_entries(entries, self._names, self.bucket_boundaries)

    def _read(self, keys: list[int]) -> list[LogEntry]:
        if not keys:
            return []
        end_of_pass = ((keys[0] >> _PASS_SHIFT) + 1) << _PASS_SHIFT
        self._kept = {key: entry for key, entry in self._kept.items() if keys[0] <= key < end_of_pass}
        unread = [key for key in keys if key not in self._kept]
        found = self._table.lookup(tf.constant(unread, tf.int64))
        self._table.remove(tf.constant(unread, tf.int64))
        for key, entry in zip(unread, found.numpy(), strict=True):
            if entry:
                self._kept[key] = tf.io.parse_tensor(entry, tf.int32).numpy()
        return [self._kept[key] for key in keys if key in self._kept]


def entry_of_batch(lengths: tf.Tensor, padded_lengths: tf.Tensor) -> tf.Tensor:
    """Int32 `(num_leaves, 1 + rows)`: the padded length of each leaf and the lengths of its rows."""
    return tf.concat([padded_lengths[:, tf.newaxis], lengths], axis=1)


def stats_of_entries(entries: list[LogEntry], names: list[str], bucket_boundaries: list[int] | None) -> PaddingStats:
    """What was padded in batches, from what `entry_of_batch` made of each of them."""
    if not entries:
        return PaddingStats()
    padded_lengths = np.stack([entry[:, 0] for entry in entries], axis=1)
    # No batch is padded beyond its bucket, so its padded length tells the bucket even where shorter rows spilled.
    buckets = None
    if bucket_boundaries is not None:
        buckets = np.searchsorted(bucket_boundaries, padded_lengths.max(axis=0), side="right")
    return PaddingStats.from_leaves(
        dict(zip(names, np.concatenate([entry[:, 1:] for entry in entries], axis=1), strict=True)),
        row_splits_of(np.array([entry.shape[1] - 1 for entry in entries])),
        dict(zip(names, padded_lengths, strict=True)),
        buckets=buckets,
    )
