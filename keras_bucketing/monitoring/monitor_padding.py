"""Any dataset of padded batches, made countable for `PaddingStatsCallback`."""

from __future__ import annotations

import functools
import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.checks import check_choice
from keras_bucketing.monitoring.batch_log import (
    Batch,
    BatchMeasure,
    EntryKeys,
    LogEntry,
    MaskValue,
    entry_of_batch,
    flat_keys,
    flatten,
    stats_of_entries,
    x_of,
)
from keras_bucketing.monitoring.counted_dataset import CountedDataset
from keras_bucketing.monitoring.monitored_generator import MonitoredGenerator, is_source_of_batches
from keras_bucketing.padding.stats import PaddingStats
from keras_bucketing.pipeline.passes import PassCounter, PassPosition, outside_of_scopes, without_autograph
from keras_bucketing.planning.boundaries import check_boundaries
from keras_bucketing.unpadding.graph import (
    check_padding_of,
    evidence_of,
    leaves_at,
    measure_rows,
    sequence_paths,
)
from keras_bucketing.unpadding.spans import SIDES, Side, check_mask_value
from keras_bucketing.unpadding.unnoticed import UnnoticedPaddingCheck


def monitor_padding(
    dataset: tf.data.Dataset | keras.utils.PyDataset | Iterable[Batch] | Callable[[], Iterable[Batch]] | CountedDataset,
    mask_value: MaskValue = 0,
    *,
    sequences: EntryKeys = None,
    bucket_boundaries: list[int] | None = None,
    padding: Literal["post", "pre"] | None = None,
) -> Any:
    """Counts the padding of any dataset of padded batches, for `fit` and for custom training loops.

    The batches pass through unchanged. Wrap the finished dataset, after `.repeat()`, `.take()`, `.shuffle()` and the
    like. Give the result both to `fit` and to a `PaddingStatsCallback`, or loop over it and ask for its
    `padding_stats()`. Padded arrays, as in `fit(x, y)`, go into `PaddingStatsCallback` directly.

    Lengths are read off the batches by the rules in docs/how-it-works/padded-data.md. In a dict, integer entries
    "lengths" and `"<name>_lengths"` tell the lengths, and so do masks by their names ("mask", "padding_mask",
    "attention_mask", "encoder_padding_mask"). Otherwise the padding of a row is its run of `mask_value` timesteps at
    the end, or at the beginning if rows begin with it and none end with it. If some rows begin and others end with it,
    `pass_stats` raises a ValueError until `padding` says which end is padded. If `x` has several entries, those with a
    time axis of unknown size count, or else those of rank 2 and more; each has its figures in `PaddingStats.leaves`.
    Labels do not count.

    If padding is not 0, e.g. a tokenizer's id 1 or "[PAD]", pass `mask_value`: such a value cannot be told from data. A
    warning, given once, points out rows of equal length that seem to end or begin in padding of another value.

    Keras takes the first two batches out of a Python generator and begins each of its passes over it with these; they
    are counted as the model gets them. Give `fit` an endless generator and `steps_per_epoch`, or a `tf.data.Dataset`:
    of a function that is called for each pass, it would replace the first two batches by those of the first call.
    Training and validation need one generator each.

    Args:
        dataset: A `tf.data.Dataset` of batches, `x`, `(x, y)` or `(x, y, sample_weight)`; a `keras.utils.PyDataset` of
            them; a Python generator or another iterator, which is a single pass; or a generator function or an
            iterable, of which each loop is a pass. The sequences have the shape `(batch, time)` or
            `(batch, time, ...)`, padded right or left.
        mask_value: The value of padding, such as the id that the tokenizer pads with: a number, or an array of the
            shape of a timestep, `(features,)`, such as a one-hot symbol. Defaults to 0; `""` for strings; may be `nan`.
        sequences: Str or int, or a list of them: which entries of a dict or tuple `x` hold sequences. Defaults to None:
            found automatically.
        bucket_boundaries: List of ints as in `tf.data.Dataset.bucket_by_sequence_length`, to get figures per bucket.
            Defaults to None: those of `dataset`, if it has any.
        padding: "post" or "pre", the end at which batches are padded. Defaults to None: the end that holds
            `mask_value`.

    Returns:
        A `MonitoredDataset`, which is a `tf.data.Dataset`; or a `keras.utils.PyDataset` or a generator with the same
        three methods `padding_stats()`, `newest_pass()` and `pass_stats(position, start, stop)`. It yields the same
        batches, and of a Python iterator the same objects. A `BucketedSequence` knows its padding already and is
        returned unchanged. (In a dataset made from one, as by `.repeat()`, a batch of rows that all spilled into a
        longer bucket counts in their own bucket.)

    Raises:
        TypeError: If `dataset` is none of these, or `mask_value` is of another kind than the sequences; if a function
            needs arguments.
        ValueError: If their dtype cannot hold `mask_value`, if no entry of `x`, or more than one, can be a batch of
            sequences, or if a `PyDataset` uses processes (`use_multiprocessing=True`), which cannot report to this one.
            The batches of Python iterators are checked when they are read.

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices([[7, 8, 0, 0], [5, 0, 0, 0]]).batch(2)
        >>> monitored = monitor_padding(dataset)
        >>> [batch.shape for batch in monitored]
        [TensorShape([2, 4])]
        >>> stats = monitored.padding_stats()
        >>> stats.real_timesteps, stats.total_timesteps
        (3, 8)
    """
    if isinstance(dataset, CountedDataset):
        return dataset
    if bucket_boundaries is not None:
        bucket_boundaries = check_boundaries(bucket_boundaries)
    side = None if padding is None else check_choice("padding", padding, SIDES)
    if isinstance(mask_value, (list, tuple, np.ndarray)):
        mask_value = check_mask_value(mask_value)
    if isinstance(dataset, tf.data.Dataset):
        return MonitoredDataset(dataset, mask_value, sequences, bucket_boundaries, side)
    if isinstance(dataset, keras.utils.PyDataset):
        return MonitoredPyDataset(dataset, mask_value, sequences, bucket_boundaries, side)
    if is_source_of_batches(dataset):
        return MonitoredGenerator(dataset, mask_value, sequences, bucket_boundaries, side)
    raise TypeError(
        "`dataset` cannot be monitored. Expected a tf.data.Dataset or a keras.utils.PyDataset of padded batches, or a "
        f"generator, a generator function or another iterable of them, received {type(dataset).__name__}. Arrays go "
        "into the callback directly, PaddingStatsCallback(x); or make a dataset of them with "
        "tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(32)."
    )


def _unchanged(leaf: Any) -> Any:
    return leaf


class MonitoredDataset(tf.data.Dataset):
    """A `tf.data.Dataset` that counts the padding of the batches that it yields; made by `monitor_padding`.

    A monitored `keras.utils.PyDataset` and a monitored generator have the same three methods.

    Attributes:
        num_batches: Int, the batches of a pass; None if that is unknown or infinite.

    Example:
        >>> monitored = monitor_padding(tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0]]).batch(1))
        >>> for batch in monitored:
        ...     pass  # a training step
        >>> monitored.padding_stats().padding_efficiency
        0.5
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
        padding: Side | None = None,
    ):
        x, names = flatten(x_of(dataset.element_spec), _unchanged)
        self.unmonitored = dataset
        self._element_spec = dataset.element_spec
        self.mask_value, self._padding = mask_value, padding
        self._paths = sequence_paths(x, flat_keys(sequences, names))
        check_padding_of(x, self._paths, mask_value)
        self._evidence = evidence_of(x, self._paths, is_named=sequences is not None)
        self._names = [names[path] for path in self._paths]
        self._dtypes = [leaf.dtype for leaf in leaves_at(x, self._paths)]
        self._counter = PassCounter()
        num_batches = int(dataset.cardinality())
        is_endless = num_batches == tf.data.INFINITE_CARDINALITY
        adds_up = self._owners_so_far if num_batches == tf.data.UNKNOWN_CARDINALITY else None
        self._log = BatchLog(self._names, bucket_boundaries, is_endless, forgets_unasked=is_endless, adds_up=adds_up)
        self._padding_check = UnnoticedPaddingCheck(mask_value, padding)
        if num_batches == tf.data.UNKNOWN_CARDINALITY:
            self._inner = tf.data.Dataset.range(1).flat_map(without_autograph(self._pass_of_unknown_length))
            self._inner = self._inner.with_options(dataset.options())  # which a function would hide
        else:
            no_pass = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
            # `scan` hands its state from batch to batch of one pass, and keeps the cardinality.
            noted = dataset.scan(no_pass, without_autograph(self._record)).prefetch(1)
            # What was prefetched is not handed out yet.
            self._inner = noted.map(without_autograph(functools.partial(self._hand_out, num_batches)))
        # TensorFlow would add a prefetch, which reads batches before they are asked for.
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        self._inner = self._inner.with_options(options)
        super().__init__(tf.data.experimental.to_variant(self._inner))

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._inner]

    @property
    def element_spec(self) -> Batch:
        """The structure of the batches, as given."""
        return self._element_spec

    @property
    def num_batches(self) -> int | None:
        """The number of batches of a pass; None if that is unknown or infinite."""
        cardinality = int(self.cardinality())
        return cardinality if cardinality >= 0 else None

    def padding_stats(self) -> PaddingStats:
        """The padding of the last finished pass, that is, one whose last batch was yielded.

        A pass that is left early is not finished, and an endless dataset has no finished pass: use `pass_stats`. A
        `.prefetch()` on top finishes a pass when it has read all of it.

        Returns:
            A `PaddingStats`, which is empty before the first pass is finished.

        Example:
            >>> monitored = monitor_padding(tf.data.Dataset.from_tensor_slices([[7, 8, 0], [5, 0, 0]]).batch(1))
            >>> for epoch in range(2):
            ...     for batch in monitored:
            ...         pass  # a training step
            ...     print(monitored.padding_stats().padding_efficiency)
            0.5
            0.5
        """
        return self._log.finished_stats(self._check_padding())

    def newest_pass(self) -> PassPosition:
        """The newest pass that has yielded a batch.

        An iterator becomes a pass when its first batch is read. A prefetch, `.prefetch()` on top or that of Keras,
        reads it as soon as the iterator is made.

        Returns:
            A `PassPosition`, a named tuple. Its `number` counts the passes from 1 on (0 before the first); `epoch` is
            `number - 1`, and `first_batch` 0.

        Example:
            >>> monitored = monitor_padding(tf.data.Dataset.from_tensor_slices([[7, 0], [5, 6]]).batch(1))
            >>> monitored.newest_pass().number
            0
            >>> batches = list(monitored)
            >>> monitored.newest_pass()
            PassPosition(number=1, epoch=0, first_batch=0)
        """
        newest = self._counter.newest_pass()
        self._log.expect_questions(newest.number)
        return newest

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The padding of the batches `start` to `stop - 1` of a pass.

        Ask in the order of the batches: everything before `start` is forgotten. Of passes that were not asked about, at
        least the newest two are remembered; of an endless one, the newest 65,536 batches, unless `newest_pass` was
        called during or before it.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches that were never delivered do not count.

        Returns:
            The `PaddingStats` of these batches, over every entry of `x` that holds sequences.

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
        return self._log.pass_stats(position, start, stop, self._check_padding())

    def _check_padding(self) -> list[int]:
        """Warns of unnoticed padding and refuses uncertain lengths. Returns the leaf whose lengths each leaf has."""
        owners = self._judge()
        self._padding_check.warn_once(self._names, self._dtypes)
        return owners

    def _judge(self) -> list[int]:
        number = self._counter.newest_pass().number
        return self._padding_check.refuse_uncertain(number, self._evidence, self._names, self._dtypes)

    def _owners_so_far(self) -> list[int]:
        """Which leaf's lengths are whose, by what was delivered; each its own where it is refused when it is asked."""
        try:
            return self._judge()
        except ValueError:
            return []

    def _record(self, state: tuple[tf.Tensor, tf.Tensor], batch: Batch) -> tuple[tuple[tf.Tensor, tf.Tensor], Batch]:
        """Writes a batch into the log; in graph. The state is the pass' number and the batch's index in it."""
        number, index = state
        number = tf.cond(tf.equal(index, 0), self._begin_pass, lambda: number)
        with tf.control_dependencies(self._write(number, index, batch)):
            return (number, tf.identity(index + 1)), (number, tf.identity(index + 1), batch)

    def _begin_pass(self) -> tf.Tensor:
        number = self._counter.begin_pass().number
        with tf.control_dependencies([self._log.forget_old_passes(number)]):
            return tf.identity(number)

    def _write(self, number: tf.Tensor, index: tf.Tensor, batch: Batch) -> list[tf.Operation]:
        x, _ = flatten(x_of(batch), _unchanged)
        measured = measure_rows(x, self._evidence, self.mask_value, self._padding)
        sampled = self._padding_check.sample(number, index, leaves_at(x, self._paths), measured)
        return [sampled, self._log.write(number, index, measured.lengths, measured.padded_lengths)]

    def _hand_out(self, num_batches: int, number: tf.Tensor, count: tf.Tensor, batch: Batch) -> Batch:
        """Notes that a pass is finished, with the last of its `num_batches`, -1 for an endless one; in graph."""
        tf.cond(tf.equal(count, num_batches), lambda: self._log.finish(number), lambda: tf.constant(0, tf.int64))
        return batch

    def _pass_of_unknown_length(self, _: tf.Tensor) -> tf.data.Dataset:
        """One pass over batches of unknown number: it is finished when a batch after the last is asked for."""
        number = self._begin_pass()

        def record(index: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, Batch]:
            with tf.control_dependencies(self._write(number, index, batch)):
                return tf.identity(index + 1), batch

        def finish(_: tf.Tensor) -> tf.data.Dataset:
            with tf.control_dependencies([self._log.finish(number)]):
                return self.unmonitored.take(tf.constant(0, tf.int64))

        noted = self.unmonitored.scan(tf.constant(0, tf.int64), without_autograph(record)).prefetch(1)
        return noted.concatenate(tf.data.Dataset.range(1).flat_map(without_autograph(finish)))


class MonitoredPyDataset(keras.utils.PyDataset):
    """Passes a `PyDataset` through and notes the lengths of its batches; made by `monitor_padding`.

    With `workers` <= 1, batches are asked for in the order of consumption, and the figures are exact. With more
    threads, an epoch that is consumed whole is exact too. If it is cut short (`steps_per_epoch`, stopping in
    mid-epoch), the last few counted batches may not be those consumed, and a warning says so. If `fit` trains and
    validates on the same object with `steps_per_epoch`, the callback warns that figures may be wrong.

    `PyDataset` has no hook between two passes. Keras asks for `num_batches` when one begins; with several threads it
    does so in the middle as well, but there it stops them all before `on_epoch_end`
    (keras/src/trainers/data_adapters/py_dataset_adapter.py).
    """

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        mask_value: MaskValue,
        sequences: EntryKeys,
        bucket_boundaries: list[int] | None,
        padding: Side | None = None,
    ):
        if dataset.use_multiprocessing:
            raise ValueError(
                "A PyDataset with `use_multiprocessing=True` cannot be monitored, since other processes make its "
                "batches. Set `dataset.use_multiprocessing = False`; `workers` may stay the same."
            )
        super().__init__(workers=dataset.workers, max_queue_size=dataset.max_queue_size)
        self.unmonitored = dataset
        self.mask_value, self._padding = mask_value, padding
        self._measure = BatchMeasure(mask_value, sequences, bucket_boundaries, padding)
        self._lock = threading.RLock()  # of what follows
        self._pass_ended = True
        self._newest = 0
        self._indexed = 0  # the newest pass that is read by index
        self._position = 0  # of its next batch
        self._indices: set[int] = set()  # of its batches, if they have an end
        self._num_batches: int | None = None
        self._entries: dict[int, dict[int, LogEntry]] = {}  # by pass, and by the order of delivery
        self._unfinished: dict[int, dict[int, LogEntry]] = {}  # the same of passes that end, and nothing is forgotten
        self._finished = PaddingStats()
        self._warned = False

    def __len__(self) -> int:
        count = self.unmonitored.num_batches
        if count is None:
            raise TypeError("An endless PyDataset has no length.")
        return int(count)

    @property
    def num_batches(self) -> int | None:
        """The number of batches of a pass; None for an endless one."""
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
            if self._pass_ended or self._begins_again(index):
                self._pass_ended = False
                self._num_batches = self.unmonitored.num_batches
                self._indexed, self._position, self._indices = self._begin_pass(self._num_batches), 0, set()
            number, num_batches, position = self._indexed, self._num_batches, self._position
            self._position += 1
            if num_batches is not None:
                self._indices.add(index)
        batch = self.unmonitored[index]
        self._note(batch, number, position, num_batches)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """A separate pass, whatever else is read."""
        num_batches = self.unmonitored.num_batches
        number = 0
        for index in itertools.count() if num_batches is None else range(num_batches):
            batch = self.unmonitored[index]
            number = number or self._begin_pass(num_batches)
            self._note(batch, number, index, num_batches)
            yield batch

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
        """The padding of the batches `start` to `stop - 1` of a pass, in the order in which they were asked for.

        Ask in the order of the batches: everything before `start` is forgotten. Of passes that were not asked about,
        the newest four are remembered.

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
        self._measure.warn_once()
        return self._measure.stats(entries)

    def padding_stats(self) -> PaddingStats:
        """The padding of the last finished pass, that is, one of which all batches were yielded.

        Each loop `for batch in monitored` is a pass. Batches that are asked for by their index belong to a new pass as
        soon as one is asked for again, or all have been.

        Returns:
            A `PaddingStats`, which is empty before the first pass is finished.

        Example:
            >>> class Batches(keras.utils.PyDataset):
            ...     def __len__(self):
            ...         return 2
            ...
            ...     def __getitem__(self, index):
            ...         return np.array([[7, 8, 0], [5, 0, 0]])
            >>> monitored = monitor_padding(Batches())
            >>> for batch in monitored:
            ...     pass  # a training step
            >>> monitored.padding_stats().padding_efficiency
            0.5
        """
        self._measure.warn_once()
        with self._lock:
            return self._finished

    def _begins_again(self, index: int) -> bool:
        """Whether a batch, asked for by its index, cannot belong to the pass of those before it.

        Threads ask for batches ahead, and Keras tells where their pass ends.
        """
        if self.workers > 1 or not self._position:
            return False
        if self._num_batches is None:
            return index == 0
        return self._position >= self._num_batches or index in self._indices

    def _begin_pass(self, num_batches: int | None) -> int:
        with self._lock:
            self._newest += 1
            self._entries[self._newest] = {}
            if num_batches is not None:
                self._unfinished[self._newest] = {}
            for kept in (self._entries, self._unfinished):
                kept.pop(self._newest - _KEPT_PASSES, None)
            return self._newest

    def _note(self, batch: Batch, number: int, position: int, num_batches: int | None) -> None:
        entry = self._measure.measure(x_of(batch), number, position)
        with self._lock:
            if number in self._entries:  # unless so many others have begun that this one is forgotten
                self._entries[number][position] = entry
                self._entries[number].pop(position - MAX_UNREAD_BATCHES, None)
            unfinished = self._unfinished.get(number)
            if unfinished is None:
                return
            unfinished[position] = entry
            if len(unfinished) == num_batches:
                del self._unfinished[number]
                self._finished = self._measure.stats([unfinished[at] for at in sorted(unfinished)])


# The log of delivered batches, read by those who know which of them were consumed: an entry for each batch.

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
        bucket_boundaries: Optional list of ints, to tell the bucket of a batch from its padded length; may be replaced.
        is_endless: Whether a pass has no end, or its figures as a whole are not asked for.
        forgets_unasked: Whether a pass that is not asked about keeps its newest batches only; `expect_questions` says
            which ones are.
        adds_up: Function that says which leaf's lengths are whose, for a pass of unknown length: where nobody asks
            about it, its batches but the newest are added up, for its figures as a whole. None: they are kept.
    """

    def __init__(
        self,
        names: list[str],
        bucket_boundaries: list[int] | None,
        is_endless: bool,
        forgets_unasked: bool = False,
        adds_up: Callable[[], list[int]] | None = None,
    ):
        self._names = names
        self.bucket_boundaries = bucket_boundaries
        self._is_endless = is_endless
        self._finished = outside_of_scopes(lambda: tf.Variable(0, dtype=tf.int64, trainable=False, name="finished"))
        self._finished_stats = (0, PaddingStats())  # of the pass of that number
        self._last_asked: tf.Variable | None = None  # the newest pass that is asked about
        self._adds_up = adds_up
        self._added_up: dict[int, PaddingStats] = {}  # by pass, what is not in the log any more
        if forgets_unasked or adds_up is not None:
            self._last_asked = outside_of_scopes(lambda: tf.Variable(0, dtype=tf.int64, trainable=False, name="asked"))
        self._read_entries: dict[int, dict[int, LogEntry]] = {}  # by pass and key, for the figures of whole passes
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
        written = self._table.insert(key, entry)
        if self._last_asked is None:
            return written
        is_forgotten = (pass_number > self._last_asked.read_value()) & (index >= MAX_UNREAD_BATCHES)
        with tf.control_dependencies([written]):
            if self._adds_up is not None:
                is_forgotten &= tf.equal(index % MAX_UNREAD_BATCHES, 0)
                stop = index - MAX_UNREAD_BATCHES
                return tf.cond(
                    is_forgotten,
                    lambda: tf.numpy_function(self._add_up_table, [pass_number, stop], tf.int64),
                    lambda: tf.constant(0, tf.int64),
                )
            return self._table.remove(
                tf.where(is_forgotten, key - MAX_UNREAD_BATCHES, tf.constant(-1, tf.int64))[tf.newaxis]
            )

    def _add_up_table(self, number: np.int64, stop: np.int64) -> np.int64:
        """Adds up what nobody has read of the batches before `stop` of a pass, and takes it out of the log."""
        first = int(number) << _PASS_SHIFT
        keys = tf.range(first + max(int(stop) - MAX_UNREAD_BATCHES, 0), first + int(stop), dtype=tf.int64)
        entries = [tf.io.parse_tensor(entry, tf.int32).numpy() for entry in self._table.lookup(keys).numpy() if entry]
        self._table.remove(keys)
        self._add_up(int(number), entries, self._adds_up() if self._adds_up is not None else [])
        return np.int64(0)

    def _add_up(self, number: int, entries: list[LogEntry], owners: list[int] | None) -> None:
        stats = stats_of_entries(entries, self._names, self.bucket_boundaries, owners)
        self._added_up[number] = self._added_up.get(number, PaddingStats()) + stats
        self._added_up = self._newest_of(self._added_up)

    def _newest_of(self, of_passes: dict[int, Any]) -> dict[int, Any]:
        """What belongs to the newest passes, and to the one that was finished last."""
        newest = {*sorted(of_passes)[-_KEPT_PASSES:], int(self._finished.numpy())}
        return {number: kept for number, kept in of_passes.items() if number in newest}

    def expect_questions(self, newest_pass: int) -> None:
        """Keeps all batches of that pass and the next one, since their figures may be asked for."""
        if self._last_asked is not None:
            self._last_asked.assign(newest_pass + 1)

    def forget_old_passes(self, newest_pass: tf.Tensor) -> tf.Tensor:
        """Drops passes where too much was never read; in graph. Returns how many entries.

        The newest two passes stay, and the one that was finished last.
        """

        def forget() -> tf.Tensor:
            keys = tf.reshape(self._table.export()[0], [-1])
            oldest_kept = tf.bitwise.left_shift(newest_pass - 1, tf.constant(_PASS_SHIFT, tf.int64))
            is_finished = tf.equal(tf.bitwise.right_shift(keys, tf.constant(_PASS_SHIFT, tf.int64)), self._finished)
            old = tf.boolean_mask(keys, tf.logical_and(keys < oldest_kept, tf.logical_not(is_finished)))
            with tf.control_dependencies([self._table.remove(old)]):
                return tf.size(old, tf.int64)

        return tf.cond(self._table.size() > MAX_UNREAD_BATCHES, forget, lambda: tf.constant(0, tf.int64))

    def finish(self, number: tf.Tensor) -> tf.Tensor:
        """Notes that a pass is finished; in graph. Returns its number."""
        with tf.control_dependencies([self._finished.assign(number, read_value=False)]):
            return tf.identity(number)

    def finished_stats(self, owners: list[int] | None = None) -> PaddingStats:
        """The figures of the pass that was finished last; those of no batch before the first."""
        number = int(self._finished.numpy())
        if number != self._finished_stats[0]:
            keys, values = (part.numpy() for part in self._table.export())
            unread = {
                int(key): tf.io.parse_tensor(value, tf.int32).numpy()
                for key, value in zip(keys.reshape(-1), values.reshape(-1), strict=True)
                if key >> _PASS_SHIFT == number
            }
            entries = {**self._read_entries.get(number, {}), **unread}
            ordered = [entries[key] for key in sorted(entries)]
            whole = stats_of_entries(ordered, self._names, self.bucket_boundaries, owners)
            self._finished_stats = number, self._added_up[number] + whole if number in self._added_up else whole
        return self._finished_stats[1]

    def pass_stats(
        self, position: PassPosition, start: int, stop: int, owners: list[int] | None = None
    ) -> PaddingStats:
        """What the batches `start` to `stop - 1` of a pass padded, as far as they were delivered.

        What was read leaves the log; it can be asked for again until batches after it are.
        """
        first = position.number << _PASS_SHIFT
        entries = self._read(list(range(first + start, first + stop)), owners)
        return stats_of_entries(entries, self._names, self.bucket_boundaries, owners)

    def _read(self, keys: list[int], owners: list[int] | None) -> list[LogEntry]:
        if not keys:
            return []
        end_of_pass = ((keys[0] >> _PASS_SHIFT) + 1) << _PASS_SHIFT
        self._kept = {key: entry for key, entry in self._kept.items() if keys[0] <= key < end_of_pass}
        unread = [key for key in keys if key not in self._kept]
        found = self._table.lookup(tf.constant(unread, tf.int64))
        self._table.remove(tf.constant(unread, tf.int64))
        read = {
            key: tf.io.parse_tensor(entry, tf.int32).numpy()
            for key, entry in zip(unread, found.numpy(), strict=True)
            if entry
        }
        self._kept |= read
        self._remember(keys[0] >> _PASS_SHIFT, read, owners)
        return [self._kept[key] for key in keys if key in self._kept]

    def _remember(self, number: int, entries: dict[int, LogEntry], owners: list[int] | None) -> None:
        """Keeps what was read of a pass until a later one is finished, for its figures as a whole."""
        if self._is_endless:
            return
        remembered = self._read_entries.setdefault(number, {})
        remembered.update(entries)
        if len(remembered) > 2 * MAX_UNREAD_BATCHES:
            oldest = sorted(remembered)[:-MAX_UNREAD_BATCHES]
            self._add_up(number, [remembered.pop(key) for key in oldest], owners)
        self._read_entries = self._newest_of(self._read_entries)
