"""The pipeline of a stream: windows of rows, planned one after the other, and the batches cut from them.

All in graph but for the plan, which is made of the lengths of a window: one call of Python for thousands of rows.

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

from keras_bucketing.checks import count_of
from keras_bucketing.data.row_format import LeafFormat, Leaves, RowFormat, WindowLeaf
from keras_bucketing.data.row_splits import Lengths
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
from keras_bucketing.planning.buckets import BatchSizing, Shard
from keras_bucketing.planning.epoch_plan import Cut
from keras_bucketing.planning.window_plan import WindowKey, WindowPlanner

_ALL_ROWS = Shard(1, 0)

Windows = Callable[[tf.Tensor], tf.data.Dataset]  # from an epoch, an int64 scalar, to the `Leaves` of its windows


@dataclass(frozen=True)
class WindowRules:
    """How windows become batches.

    Attributes:
        planner: Cuts windows into batches; it knows the longest and the least padded length as well.
        truncating: Str, "post" or "pre".
        on_empty: Str, "raise", "keep" or "drop"; rows that are dropped have been by then.
        padding_value: Number behind the end of sequences, or an array of the shape of a timestep.
        label_padding_value: The same of labels.
        timestep_weights: Bool, whether per-timestep labels come with weights.
        length_entries: The entries of lengths that `x` gains, and the path of the leaf; None for each row's longest.
    """

    planner: WindowPlanner
    truncating: str
    on_empty: str
    padding_value: Any
    label_padding_value: Any
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

    def add_up(self, number: int, num_batches: int) -> None:
        """Makes room in a pass of which about so many batches have been noted; in Python."""


class WindowStream:
    """Makes batches of windows of rows.

    Args:
        row_format: What a row is made of.
        rules: How windows become batches.
        find_boundaries: Function from the lengths of a window, `(num_rows,)`, to boundaries, which are those of the
            first window for ever.
        counter: Hands out epochs to passes.
        log: Notes what each batch pads before it is handed out.
    """

    def __init__(
        self,
        row_format: RowFormat,
        rules: WindowRules,
        find_boundaries: Callable[[Lengths], list[int]],
        counter: PassCounter,
        log: BatchLog,
    ):
        self._format, self._rules = row_format, rules
        self._find_boundaries, self._counter, self._log = find_boundaries, counter, log
        self._graphs: list[Any] = []  # a graph that is gone takes the functions of Python that it calls along

    def passes(self, windows: Windows, num_batches: int | None, is_endless: bool) -> tf.data.Dataset:
        """The batches of one pass, and of the next one each time.

        Args:
            windows: Datasets of windows, read from their beginning by each pass.
            num_batches: How many batches a pass has, where that is known.
            is_endless: Whether a pass never ends.
        """

        def all_passes(zero: tf.Tensor) -> tf.data.Dataset:
            def windows_of_pass(start: PassStart, has_batches: tf.Tensor) -> tf.data.Dataset:
                return self._of_pass(start, windows).take(-has_batches)  # take(-1) takes all

            first_number = tf.constant(secrets.randbits(60), tf.int64)
            return self._cuts(refuse_restored_iterators(self._begin, windows_of_pass, first_number), zero)

        with tf.device("CPU:0"):
            cuts = self._traced(all_passes)
            if is_endless or num_batches is not None:
                cuts = declare_length(cuts, num_batches)
        gather = depend_on(self._counter.variable, self._gather_noted)
        batches_ahead = cuts.map(without_autograph(gather), num_parallel_calls=PARALLEL_GATHERS, deterministic=True)
        return batches_ahead.prefetch(PREFETCHED_BATCHES)

    def preview(self, windows: Windows, epoch: int, first_batch: int, seed: int) -> tf.data.Dataset:
        """The batches of a pass that counts as none, each behind the timesteps that its rows need, `(batch,)`."""
        start = PassStart(*(tf.constant(part, tf.int64) for part in (0, epoch, first_batch, seed)))

        def one_pass(zero: tf.Tensor) -> tf.data.Dataset:
            return self._cuts(self._of_pass(start, windows), zero)

        def gather(window: _PlannedWindow, _: tf.Tensor, cut: Cut) -> tuple[tf.Tensor, Any]:
            batch, _, _ = self._rows_of_batch(window, cut)
            return tf.gather(self._longest(window.rows), batch.rows), self._tables(window.rows).gather(batch)

        with tf.device("CPU:0"):
            return self._traced(one_pass).map(without_autograph(gather))

    def _begin(self) -> PassStart:
        start = self._counter.begin_pass()
        with tf.control_dependencies([self._log.forget_old_passes(start.number)]):
            return PassStart(*(tf.identity(part) for part in start))

    # From windows to cuts.

    def _traced(self, pipeline: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
        """What `pipeline` makes of 0, as a number that the graph does not know.

        With shapes that it knows, `scan` would trace its function twice.
        """
        traced = tf.function(pipeline, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int32))
        self._graphs.append(traced)
        return traced(tf.constant(0))

    def _of_pass(self, start: PassStart, windows: Windows) -> tf.data.Dataset:
        """The windows of a pass and one without rows behind them: each with the start, and whether it is that one."""
        of_epoch = windows(start.epoch)
        dtypes = [getattr(spec, "values", spec).dtype for spec in of_epoch.element_spec]  # before they are converted
        not_last = tf.data.Dataset.from_tensors(tf.constant(False)).repeat()
        last = tf.data.Dataset.from_tensors((self._no_rows(tf.constant(0), dtypes), tf.constant(True)))
        with_end = tf.data.Dataset.zip((of_epoch, not_last)).concatenate(last)
        return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(start).repeat(), with_end))

    def _cuts(self, windows: tf.data.Dataset, zero: tf.Tensor) -> tf.data.Dataset:
        """For each batch of a pass: its window, its number in the pass, and the cut."""

        def cuts(window: _PlannedWindow, numbers: tf.Tensor, cuts: Cut) -> tf.data.Dataset:
            windows = tf.data.Dataset.from_tensors(window).repeat()
            return tf.data.Dataset.zip((windows, *map(tf.data.Dataset.from_tensor_slices, (numbers, cuts))))

        none_waits = self._no_rows(zero, [leaf.dtype for leaf in self._format.leaves])
        state = _State(none_waits, *(tf.constant(0, tf.int64) for _ in range(3)))
        return windows.scan(state, without_autograph(self._plan)).flat_map(without_autograph(cuts))

    def _no_rows(self, zero: tf.Tensor, dtypes: list[Any]) -> Leaves:
        def no_rows(leaf: LeafFormat, dtype: Any) -> Any:
            values = tf.zeros([zero, *leaf.shape], dtype)
            if not leaf.is_sequence:
                return values
            return WindowLeaf(values, tf.zeros([zero], tf.int64), tf.zeros([zero], tf.int32))

        return tuple(map(no_rows, self._format.leaves, dtypes))

    def _plan(
        self, state: _State, of_pass: tuple[PassStart, tuple[Leaves, tf.Tensor]]
    ) -> tuple[_State, tuple[_PlannedWindow, tf.Tensor, Cut]]:
        """Plans a window; what is left at the end of the source is the partial batch."""
        start, (window, is_last) = of_pass
        window = self._prepare(window, state.rows_read)
        rows = tuple(map(_concatenated, state.waiting, window))
        lengths = self._longest(rows)
        num_waited, num_rows = tf.size(self._longest(state.waiting)), tf.size(lengths)
        message = _NO_SEQUENCES if self._rules.on_empty != "drop" else _ALL_EMPTY
        has_rows = [tf.debugging.Assert(~is_last | (num_rows > 0) | (state.rows_read > 0), [message])]
        with tf.control_dependencies(has_rows):
            position = tf.stack([*start, state.windows, state.batches])
        order, waits, numbers, positions, padded, num_batches = tf.numpy_function(
            self._plan_window,
            [lengths, self._own_label_lengths(rows), num_waited, is_last, position],
            [tf.int32, tf.int32, tf.int64, tf.int32, tf.int32, tf.int64],
            stateful=True,  # the first window of all decides about the boundaries
        )
        order, waits, numbers, padded = (tf.ensure_shape(part, [None]) for part in (order, waits, numbers, padded))
        positions = tf.ensure_shape(positions, [None, 2])
        new_state = _State(
            tuple(_picked(leaf, waits) for leaf in rows),
            state.windows + 1,
            state.rows_read + tf.cast(num_rows - num_waited, tf.int64),
            state.batches + tf.ensure_shape(num_batches, []),
        )
        # Labels of their own length are padded to the longest of the batch.
        min_lengths = [
            tf.ones_like(padded) if leaf.path in self._format.own_labels else padded for leaf in self._format.padded
        ]
        cuts = Cut(positions[:, :1], positions[:, 1:], tf.stack(min_lengths, axis=1))
        return new_state, (_PlannedWindow(start.number, rows, order), numbers, cuts)

    def _plan_window(
        self, lengths: np.ndarray, label_lengths: np.ndarray, num_waited: int, is_last: bool, position: np.ndarray
    ) -> tuple[Any, ...]:
        """Plans a window, and leaves out the batches before the first one of the pass.

        Returns the order of its rows, those that wait, the number of each batch in the pass, its start and size, to
        what it is padded at least, and how many batches the window has.
        """
        pass_number, epoch, first_batch, seed, window, batches_before = position.tolist()
        self._log.add_up(pass_number, batches_before - first_batch)
        lengths = lengths.astype(np.int64)
        plan = self._rules.planner.plan(
            lengths,
            label_lengths.astype(np.int64),
            int(num_waited),
            self._find_boundaries(lengths),
            WindowKey(seed, epoch, window),
            bool(is_last),
        )
        num_batches = len(plan.starts)
        if is_last and not batches_before + num_batches:
            raise too_few_rows(len(lengths), self._rules.planner.sizing)
        skipped = min(max(first_batch - batches_before, 0), num_batches)
        order = plan.order.astype(np.int32)
        return (
            order,
            order[: plan.num_waiting],
            np.arange(skipped, num_batches, dtype=np.int64) + (batches_before - first_batch),
            np.stack([plan.starts, plan.sizes], axis=1)[skipped:].astype(np.int32),
            plan.padded_lengths[skipped:].astype(np.int32),
            np.int64(num_batches),
        )

    # Rows of a window.

    def _prepare(self, window: Leaves, rows_read: tf.Tensor) -> Leaves:
        """Cuts and checks the rows of a window, and brings them into their dtypes."""
        formats = self._format.leaves
        by_path = self._by_path(window)
        checks: list[tf.Operation] = []
        row = "Row" if self._rules.on_empty != "drop" else "Row, without those that were dropped as empty"
        for owners, what in ((self._format.label_owners, "label"), (self._format.weight_owners, "weight")):
            for path, owner in owners.items():
                name = self._format.leaf(path).name
                checks.append(_assert_as_long(by_path[path], name, by_path[owner], what, rows_read, row))
        if self._rules.on_empty == "raise":
            checks += [_assert_not_empty(by_path[leaf.path], leaf.name, rows_read) for leaf in self._format.sequences]
        with tf.control_dependencies(checks):
            return tuple(self._prepare_leaf(leaf, value) for leaf, value in zip(formats, window, strict=True))

    def _prepare_leaf(self, leaf: LeafFormat, value: Any) -> Any:
        if not leaf.is_sequence:
            return convert(tf.identity(value), leaf.dtype)
        values, starts, sizes = value
        if self._rules.planner.max_length is not None and self._format.is_truncated(leaf):
            cut = tf.minimum(sizes, self._rules.planner.max_length)
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

    def _own_label_lengths(self, rows: Leaves) -> tf.Tensor:
        """What each row's labels of their own length are padded to, int32 `(num_rows,)`; 0 where there are none."""
        by_path = self._by_path(rows)
        longest = tf.zeros_like(self._longest(rows))
        for path in self._format.own_labels:
            longest = tf.maximum(longest, by_path[path].sizes)
        return _next_power_of_2(longest) if self._rules.planner.pad_to_bucket_boundary else longest

    # From cuts to batches.

    def _gather_noted(self, window: _PlannedWindow, number: tf.Tensor, cut: Cut) -> Any:
        batch, lengths, padded = self._rows_of_batch(window, cut)
        with tf.control_dependencies([self._log.write(window.pass_number, number, lengths, padded)]):
            return tf.nest.map_structure(tf.identity, self._tables(window.rows).gather(batch))

    def _rows_of_batch(self, window: _PlannedWindow, cut: Cut) -> tuple[RowsOfBatch, tf.Tensor, tf.Tensor]:
        """The rows of a batch, their lengths `(num_leaves, batch)`, and what each leaf is padded to `(num_leaves,)`."""
        picked = tf.slice(window.order, cut.start, cut.size)
        by_path = self._by_path(window.rows)
        lengths = tf.stack([self._ranges(leaf, by_path[leaf.path]).lengths(picked) for leaf in self._format.padded])
        longest = tf.reduce_max(lengths, axis=1)
        if self._rules.planner.pad_to_bucket_boundary and self._format.own_labels:
            # No boundary says how long labels are: powers of 2 keep the number of shapes small.
            is_label = tf.constant([leaf.path in self._format.own_labels for leaf in self._format.padded])
            longest = tf.where(is_label, _next_power_of_2(longest), longest)
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
    """What one window hands to the next: the rows that wait, and how many windows, rows and batches came before."""

    waiting: Leaves
    windows: tf.Tensor
    rows_read: tf.Tensor
    batches: tf.Tensor


class _PlannedWindow(NamedTuple):
    """A window of the pass of that number: its rows, and their order in the plan, which batches are slices of."""

    pass_number: tf.Tensor
    rows: Leaves
    order: tf.Tensor


_NO_SEQUENCES = (
    "`source` has no sequences. Expected at least one row in every pass. If it is a function, each call must return a "
    "new generator; if it is finished after one pass, use BucketedSequence.from_dataset."
)


_ALL_EMPTY = (
    '`source` has no sequences, or on_empty="drop" has left out all of them. Expected at least one row with timesteps '
    "in every pass. If it is a function, each call must return a new generator."
)


_OTHER_LABELS = (
    " Labels with lengths of their own, as of transcripts, need align_labels=False; values of one shape, as one-hot "
    "labels, need timestep_labels=False."
)


def too_few_rows(num_rows: int, sizing: BatchSizing) -> ValueError:
    """The error where a pass has no batch, since its rows fill none, or are fewer than a batch is a multiple of."""
    fix = 'Lower the batch size, or pass remainder="spill".'
    if num_rows < sizing.multiple:
        fix = f"Expected at least batch_size_multiple={sizing.multiple} of them."
    return ValueError(f"`source` has too few rows for a batch. Received {count_of(num_rows, 'row')}. {fix}")


def _next_power_of_2(lengths: tf.Tensor) -> tf.Tensor:
    """The least powers of 2 that are at least so large; 0 of 0."""
    powers = 2 ** tf.cast(tf.math.ceil(tf.math.log(tf.cast(tf.maximum(lengths, 1), tf.float64)) / np.log(2)), tf.int32)
    return tf.where(lengths > 0, tf.maximum(powers, lengths), lengths)


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


def _assert_as_long(
    value: WindowLeaf, name: str, owner: WindowLeaf, what: str, rows_read: tf.Tensor, row: str
) -> tf.Operation:
    """Refuses labels, or weights, that are not as long as what they belong to."""
    is_other = tf.not_equal(value.sizes, owner.sizes)
    at = _first_true(is_other)
    own = "" if what == "weight" else _OTHER_LABELS
    message = f"`{name}` must have one {what} a timestep.{own} {row}, expected and received timesteps:"
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
