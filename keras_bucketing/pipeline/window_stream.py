"""The pipeline of a stream, in graph: windows of rows, planned one after the other, and the batches cut from them.

windows of rows  ->  + rows that have waited  ->  plan  ->  cuts, each with its window  ->  batches
                          ^                        |
                          +--- rows that wait -----+
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from keras_bucketing.data.row_format import LeafFormat, Leaves, RowFormat, WindowLeaf
from keras_bucketing.data.rows import RowTensors
from keras_bucketing.data.tree import Path, map_leaves
from keras_bucketing.pipeline.gather import (
    LengthsTable,
    PlainTable,
    RaggedTable,
    RowsOfBatch,
    RowTables,
    ValuesInGraph,
    padding_scalar,
)
from keras_bucketing.pipeline.host_values import convert
from keras_bucketing.pipeline.passes import (
    PassCounter,
    PassStart,
    depend_on,
    refuse_restored_iterators,
    without_autograph,
)
from keras_bucketing.pipeline.stream import PARALLEL_GATHERS, PREFETCHED_BATCHES, declare_length
from keras_bucketing.planning.buckets import Shard
from keras_bucketing.planning.epoch_plan import Cut
from keras_bucketing.planning.window_plan import BatchLimits, WindowPlan, plan_window

_ALL_ROWS = Shard(1, 0)


@dataclass(frozen=True)
class WindowRules:
    """How windows become batches.

    Attributes:
        max_length: Int, longer sequences are cut to it; None for none.
        truncating: Str, "post" or "pre".
        min_length: Int, the least padded length of the leaves of `x`.
        on_empty: Str, "raise" or "keep"; rows that are dropped have been by then.
        rows: Ints, the rows of a batch of each bucket; or one for every bucket.
        max_timesteps: Int, the budget of a batch; None for none.
        multiple: Int, every batch has a multiple of so many rows.
        pad_to_bucket_boundary: Bool.
        drop_remainder: Bool, whether the one partial batch of a pass is left out.
        shuffle: Bool.
        padding_value: Number behind the end of sequences.
        label_padding_value: Number behind the end of labels.
        timestep_weights: Bool, whether per-timestep labels come with weights.
        length_entries: The entries of lengths that `x` gains, and the path of the leaf; None for each row's longest.
    """

    max_length: int | None
    truncating: str
    min_length: int
    on_empty: str
    rows: list[int]
    max_timesteps: int | None
    multiple: int
    pad_to_bucket_boundary: bool
    drop_remainder: bool
    shuffle: bool
    padding_value: float
    label_padding_value: float
    timestep_weights: bool
    length_entries: dict[str, Path | None]


class BatchLog(Protocol):
    """Notes what the batches of a pass pad; in graph."""

    def write(
        self, pass_number: tf.Tensor, index: tf.Tensor, lengths: tf.Tensor, padded_lengths: tf.Tensor
    ) -> tf.Operation:
        """Notes a batch, with the lengths `(num_leaves, rows)` and the padded lengths `(num_leaves,)` of its leaves."""

    def forget_old_passes(self, newest_pass: tf.Tensor) -> tf.Tensor:
        """Makes room when a pass begins."""


class WindowStream:
    """Makes batches of windows of rows.

    Args:
        row_format: What a row is made of.
        rules: How windows become batches.
        find_boundaries: Function from the lengths of a window, int32 `(num_rows,)`, to int32 boundaries, which are
            those of the first window for ever; in graph.
        counter: Hands out epochs to passes.
        log: Notes what each batch pads before it is handed out.
    """

    def __init__(
        self,
        row_format: RowFormat,
        rules: WindowRules,
        find_boundaries: Callable[[tf.Tensor], tf.Tensor],
        counter: PassCounter,
        log: BatchLog,
    ):
        self._format, self._rules = row_format, rules
        self._find_boundaries, self._counter, self._log = find_boundaries, counter, log

    def passes(self, windows: tf.data.Dataset, num_batches: int | None, is_endless: bool) -> tf.data.Dataset:
        """The batches of one pass, and of the next one each time.

        Args:
            windows: Datasets of `Leaves`, read from their beginning by each pass.
            num_batches: How many batches a pass has, where that is known.
            is_endless: Whether a pass never ends.
        """

        def batches(start: PassStart, has_batches: tf.Tensor) -> tf.data.Dataset:
            cuts = self._cuts(windows, start.epoch, start.seed).skip(start.first_batch)
            number = tf.data.Dataset.from_tensors(start.number).repeat()
            return tf.data.Dataset.zip((number, cuts.take(-has_batches).enumerate()))  # take(-1) takes all

        with tf.device("CPU:0"):
            first_number = tf.constant(secrets.randbits(60), tf.int64)
            cuts = refuse_restored_iterators(self._begin, batches, first_number)
            if is_endless or num_batches is not None:
                cuts = declare_length(cuts, num_batches)
        gather = depend_on(self._counter.variable, self._gather_noted)
        batches_ahead = cuts.map(without_autograph(gather), num_parallel_calls=PARALLEL_GATHERS, deterministic=True)
        return batches_ahead.prefetch(PREFETCHED_BATCHES)

    def preview(self, windows: tf.data.Dataset, epoch: int, first_batch: int, seed: int) -> tf.data.Dataset:
        """The batches of a pass that counts as none."""
        position = [tf.constant(part, tf.int64) for part in (epoch, seed)]
        with tf.device("CPU:0"):
            return self._cuts(windows, *position).skip(first_batch).map(without_autograph(self._gather))

    def preview_with_lengths(self, windows: tf.data.Dataset, seed: int) -> tf.data.Dataset:
        """The batches of epoch 0 as in `preview`, each behind the timesteps of its longest row."""
        position = [tf.constant(part, tf.int64) for part in (0, seed)]

        def gather(window: tuple[Leaves, tf.Tensor], cut: Cut) -> tuple[tf.Tensor, Any]:
            rows, order = window
            longest = tf.gather(self._longest(rows), tf.slice(order, cut.start, cut.size))
            return tf.reduce_max(longest), self._gather(window, cut)

        with tf.device("CPU:0"):
            return self._cuts(windows, *position).map(without_autograph(gather))

    def _begin(self) -> PassStart:
        start = self._counter.begin_pass()
        with tf.control_dependencies([self._log.forget_old_passes(start.number)]):
            return PassStart(*(tf.identity(part) for part in start))

    # From windows to cuts.

    def _cuts(self, windows: tf.data.Dataset, epoch: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        """For each batch of a pass: the leaves of its window, the rows in the order of the plan, and the cut."""
        key = tf.reshape(tf.cast(seed, tf.uint64), [1])
        first_stream = tf.bitwise.left_shift(tf.cast(epoch, tf.uint64), tf.constant(32, tf.uint64))

        def plan(state: _State, window: tuple[Leaves, tf.Tensor]) -> tuple[_State, Any]:
            return self._plan(state, *window, key, first_stream)

        def cuts(leaves: Leaves, order: tf.Tensor, cut: Cut) -> tf.data.Dataset:
            window = tf.data.Dataset.from_tensors((leaves, order)).repeat()
            return tf.data.Dataset.zip((window, tf.data.Dataset.from_tensor_slices(cut)))

        # A number that the graph does not know: with shapes that it knows, `scan` would trace its function twice.
        no_rows = self._no_rows(tf.cast(epoch - epoch, tf.int32))
        is_last = tf.data.Dataset.from_tensors((no_rows, tf.constant(True)))
        windows = windows.map(without_autograph(lambda *leaves: (leaves, tf.constant(False)))).concatenate(is_last)
        state = _State(no_rows, tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        return windows.scan(state, without_autograph(plan)).flat_map(without_autograph(cuts))

    def _no_rows(self, zero: tf.Tensor) -> Leaves:
        def no_rows(leaf: LeafFormat) -> Any:
            values = tf.zeros([zero, *leaf.shape], leaf.dtype)
            if not leaf.is_sequence:
                return values
            return WindowLeaf(values, tf.zeros([zero], tf.int64), tf.zeros([zero], tf.int32))

        return tuple(map(no_rows, self._format.leaves))

    def _plan(
        self, state: _State, window: Leaves, is_last: tf.Tensor, key: tf.Tensor, first_stream: tf.Tensor
    ) -> tuple[_State, Any]:
        """Plans a window; what is left at the end of the source is the partial batch."""
        window = self._prepare(window, state.rows_read)
        rows = tuple(map(_concatenated, state.waiting, window))
        lengths = self._longest(rows)
        num_waited, num_rows = tf.size(self._longest(state.waiting)), tf.size(lengths)
        has_rows = [tf.debugging.Assert(~is_last | (num_rows > 0) | (state.rows_read > 0), [_NO_SEQUENCES])]
        with tf.control_dependencies(has_rows):
            boundaries = self._find_boundaries(tf.identity(lengths))
        uppers = self._upper_lengths(boundaries, lengths)
        plan = plan_window(
            tf.maximum(lengths, self._rules.min_length),
            tf.range(num_rows) < num_waited,
            boundaries,
            uppers if self._rules.pad_to_bucket_boundary else tf.zeros_like(uppers),
            self._limits(boundaries),
            key,
            first_stream + 2 * tf.cast(state.windows, tf.uint64),
            self._rules.shuffle,
        )
        waits = plan.order[: plan.num_waiting]
        new_state = _State(
            tuple(_picked(leaf, waits) for leaf in rows),
            state.windows + 1,
            state.rows_read + tf.cast(num_rows - num_waited, tf.int64),
        )
        starts, sizes, buckets = self._with_partial(plan, is_last, boundaries, lengths)
        floors = [1 if leaf.path in self._format.own_labels else self._rules.min_length for leaf in self._format.padded]
        min_lengths = tf.tile(tf.constant([floors], tf.int32), [tf.size(starts), 1])
        if self._rules.pad_to_bucket_boundary:
            of_sequences = tf.constant([[leaf.path[0] == "x" for leaf in self._format.padded]])
            padded = tf.gather(uppers, buckets)[:, tf.newaxis]
            min_lengths = tf.where(of_sequences, tf.maximum(min_lengths, padded), min_lengths)
        return new_state, (rows, plan.order, Cut(starts[:, tf.newaxis], sizes[:, tf.newaxis], min_lengths))

    def _with_partial(
        self, plan: WindowPlan, is_last: tf.Tensor, boundaries: tf.Tensor, lengths: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Starts, sizes and buckets of the batches, with that of the rows that are left at the end of the source."""
        parts = plan.starts, plan.sizes, plan.buckets
        if self._rules.drop_remainder:
            return parts
        spare = plan.num_waiting % self._rules.multiple
        size = tf.where(is_last, plan.num_waiting - spare, 0)
        longest = tf.reduce_max(tf.gather(lengths, plan.order[spare : spare + size]))  # below 0 of none
        bucket = tf.searchsorted(boundaries, tf.reshape(longest, [1]), side="right")
        partial = tf.reshape(spare, [1]), tf.reshape(size, [1]), bucket
        number = tf.cast(size > 0, tf.int32)
        starts, sizes, buckets = (
            tf.concat([part, last[:number]], 0) for part, last in zip(parts, partial, strict=True)
        )
        return starts, sizes, buckets

    def _limits(self, boundaries: tf.Tensor) -> BatchLimits:
        rows = tf.constant(self._rules.rows, tf.int32)
        if len(self._rules.rows) == 1:
            rows = tf.fill([tf.size(boundaries) + 1], rows[0])
        return BatchLimits(rows, self._rules.max_timesteps, self._rules.multiple)

    def _upper_lengths(self, boundaries: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Int32 `(num_buckets,)`: the longest length that each bucket allows."""
        if self._rules.max_length is not None:
            last = tf.constant([self._rules.max_length])
        elif self._rules.pad_to_bucket_boundary:  # as in tf.data, the last boundary is an upper end
            too_long = tf.reduce_any(lengths >= boundaries[-1]) if boundaries.shape[0] != 0 else tf.constant(True)
            message = [_BEYOND_LAST_BOUNDARY, tf.reduce_max(lengths)]
            with tf.control_dependencies([tf.debugging.Assert(~too_long, message)]):
                last = tf.identity(boundaries[-1:])
        else:
            last = tf.constant([tf.int32.max])  # not used
        return tf.maximum(tf.concat([boundaries - 1, last], 0), self._rules.min_length)

    # Rows of a window.

    def _prepare(self, window: Leaves, rows_read: tf.Tensor) -> Leaves:
        """Cuts and checks the rows of a window, and brings them into their dtypes."""
        formats = self._format.leaves
        by_path = self._by_path(window)
        checks: list[tf.Operation] = []
        for owners, what in ((self._format.label_owners, "label"), (self._format.weight_owners, "weight")):
            for path, owner in owners.items():
                name = self._format.leaf(path).name
                checks.append(_assert_as_long(by_path[path], name, by_path[owner], what, rows_read))
        if self._rules.on_empty == "raise":
            checks += [_assert_not_empty(by_path[leaf.path], leaf.name, rows_read) for leaf in self._format.sequences]
        with tf.control_dependencies(checks):
            return tuple(self._prepare_leaf(leaf, value) for leaf, value in zip(formats, window, strict=True))

    def _prepare_leaf(self, leaf: LeafFormat, value: Any) -> Any:
        if not leaf.is_sequence:
            return convert(tf.identity(value), leaf.dtype)
        values, starts, sizes = value
        if self._rules.max_length is not None and self._format.is_truncated(leaf):
            cut = tf.minimum(sizes, self._rules.max_length)
            starts = starts if self._rules.truncating == "post" else starts + tf.cast(sizes - cut, tf.int64)
            sizes = cut
        return WindowLeaf(convert(tf.identity(values), leaf.dtype), starts, tf.identity(sizes))

    def _longest(self, rows: Leaves) -> tf.Tensor:
        """The timesteps that each row needs, int32 `(num_rows,)`: those of its longest sequence, at least one."""
        by_path = self._by_path(rows)
        sizes = [by_path[leaf.path].sizes for leaf in self._format.sequences]
        longest = sizes[0]
        for other in sizes[1:]:
            longest = tf.maximum(longest, other)
        return tf.maximum(longest, 1)

    # From cuts to batches.

    def _gather_noted(self, number: tf.Tensor, indexed: tuple[tf.Tensor, Any]) -> Any:
        index, ((rows, order), cut) = indexed
        batch, lengths, padded = self._rows_of_batch(rows, order, cut)
        with tf.control_dependencies([self._log.write(number, index, lengths, padded)]):
            return tf.nest.map_structure(tf.identity, self._tables(rows).gather(batch))

    def _gather(self, window: tuple[Leaves, tf.Tensor], cut: Cut) -> Any:
        rows, order = window
        return self._tables(rows).gather(self._rows_of_batch(rows, order, cut)[0])

    def _rows_of_batch(self, rows: Leaves, order: tf.Tensor, cut: Cut) -> tuple[RowsOfBatch, tf.Tensor, tf.Tensor]:
        """The rows of a batch, their lengths `(num_leaves, batch)`, and what each leaf is padded to `(num_leaves,)`."""
        picked = tf.slice(order, cut.start, cut.size)
        by_path = self._by_path(rows)
        lengths = tf.stack([self._ranges(leaf, by_path[leaf.path]).lengths(picked) for leaf in self._format.padded])
        longest = tf.reduce_max(lengths, axis=1)
        if self._rules.pad_to_bucket_boundary and self._format.own_labels:
            # No boundary says how long labels are: powers of 2 keep the number of shapes small.
            powers = 2 ** tf.cast(tf.math.ceil(tf.math.log(tf.cast(longest, tf.float64)) / np.log(2)), tf.int32)
            is_label = tf.constant([leaf.path in self._format.own_labels for leaf in self._format.padded])
            longest = tf.where(is_label & (longest > 0), tf.maximum(powers, longest), longest)
        padded = tf.maximum(longest, cut.min_lengths)
        return RowsOfBatch(picked, padded, _ALL_ROWS), lengths, padded

    def _tables(self, rows: Leaves) -> RowTables:
        by_path = self._by_path(rows)
        paddings = {"x": self._rules.padding_value, "y": self._rules.label_padding_value}

        def table(_: Path, leaf: LeafFormat) -> Any:
            value = by_path[leaf.path]
            if not leaf.is_sequence:
                return PlainTable(ValuesInGraph(value))
            padding = paddings.get(str(leaf.path[0]), 0)
            return RaggedTable(
                ValuesInGraph(value.values),
                padding_scalar(padding, leaf.dtype),
                leaf.shape,
                self._ranges(leaf, value),
                self._format.column_of(leaf),
                pads_further=True,
            )

        x, y, weights = map_leaves(table, self._format.structure)
        lengths = {
            name: PlainTable(ValuesInGraph(self._longest(rows)))
            if path is None
            else LengthsTable(self._ranges(self._format.leaf(path), by_path[path]))
            for name, path in self._rules.length_entries.items()
        }
        weighs_timesteps = self._rules.timestep_weights and bool(self._format.label_owners)
        return RowTables(x, y, weights, lengths, weighs_timesteps)

    def _ranges(self, leaf: LeafFormat, value: WindowLeaf) -> RowTensors:
        """Where the rows of a leaf lie; an empty sequence counts as one timestep of padding, labels may be empty."""
        return RowTensors(value.starts, value.sizes, min_length=1 if leaf.path[0] == "x" else 0)

    def _by_path(self, rows: Leaves) -> dict[Path, Any]:
        return {leaf.path: value for leaf, value in zip(self._format.leaves, rows, strict=True)}


class _State(NamedTuple):
    """What one window hands to the next: the rows that wait, and how much was read so far."""

    waiting: Leaves
    windows: tf.Tensor
    rows_read: tf.Tensor


_NO_SEQUENCES = (
    "`source` has no sequences. Expected at least one row in every pass. If it is a function, it must begin anew at "
    "each call; if it is finished after one pass, use BucketedSequence.from_dataset."
)
_BEYOND_LAST_BOUNDARY = (
    "With pad_to_bucket_boundary=True, sequences must be shorter than the last of `bucket_boundaries`, as in tf.data. "
    "Add a boundary, or cut sequences with maxlen. Received the length"
)


def _concatenated(first: Any, second: Any) -> Any:
    if not isinstance(first, WindowLeaf):
        return tf.concat([first, second], 0)
    starts = second.starts + tf.shape(first.values, tf.int64)[0]
    return WindowLeaf(
        tf.concat([first.values, second.values], 0),
        tf.concat([first.starts, starts], 0),
        tf.concat([first.sizes, second.sizes], 0),
    )


def _picked(leaf: Any, rows: tf.Tensor) -> Any:
    """Some rows, without the timesteps of the others."""
    if not isinstance(leaf, WindowLeaf):
        return tf.gather(leaf, rows)
    timesteps = RowTensors(leaf.starts, leaf.sizes, 0).timesteps(rows)
    return WindowLeaf(tf.gather(leaf.values, timesteps.values), timesteps.row_splits[:-1], tf.gather(leaf.sizes, rows))


def _assert_as_long(value: WindowLeaf, name: str, owner: WindowLeaf, what: str, rows_read: tf.Tensor) -> tf.Operation:
    """Refuses labels, or weights, that are not as long as what they belong to."""
    is_other = tf.not_equal(value.sizes, owner.sizes)
    at = _first_true(is_other)
    message = f"`{name}` must have one {what} a timestep. Row, expected and received timesteps:"
    data = [message, rows_read + at, _entry(owner.sizes, at), _entry(value.sizes, at)]
    return tf.debugging.Assert(~tf.reduce_any(is_other), data)


def _assert_not_empty(value: WindowLeaf, name: str, rows_read: tf.Tensor) -> tf.Operation:
    is_empty = tf.equal(value.sizes, 0)
    message = (
        f'Sequences must not be empty. Pass on_empty="drop" to leave such rows out, or on_empty="keep" to give them '
        f"one timestep of padding. Received length 0 in `{name}` of row"
    )
    return tf.debugging.Assert(~tf.reduce_any(is_empty), [message, rows_read + _first_true(is_empty)])


def _first_true(mask: tf.Tensor) -> tf.Tensor:
    """The position of the first True, an int64 scalar; the size of the mask if there is none."""
    return tf.argmax(tf.cast(tf.concat([mask, [True]], 0), tf.int32))  # `argmax` fails where there are no entries


def _entry(sizes: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """One entry; none of an empty tensor."""
    return sizes[at : at + 1]
