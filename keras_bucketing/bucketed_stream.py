"""BucketedStream: rows in, one after the other; length-bucketed and padded batches out."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

import numpy as np
import tensorflow as tf

from keras_bucketing.call_errors import explain_calls, refuse_inherited_constructors
from keras_bucketing.checks import (
    INT64_MAX,
    check_choice,
    check_flag,
    check_integer,
    count_of,
    list_some,
    show,
)
from keras_bucketing.data.collect import Inputs, check_include_lengths, check_padding_value, length_entries
from keras_bucketing.data.row_format import RowFormat
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.tree import Path, leaves
from keras_bucketing.monitoring.counted_passes import CountedPasses
from keras_bucketing.monitoring.graph_log import BatchLog
from keras_bucketing.pipeline.dataset_state import check_state, fingerprint, make_state
from keras_bucketing.pipeline.pass_dataset import PassDataset, check_pad_to_bucket_boundary
from keras_bucketing.pipeline.passes import PassCounter, PassPosition, is_symbolic_build
from keras_bucketing.pipeline.window_stream import WindowRules, Windows, WindowStream, too_few_rows
from keras_bucketing.planning.boundaries import check_boundaries
from keras_bucketing.planning.bucket_arguments import check_bucket_arguments
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import BatchSizing, check_minlen, check_sizing
from keras_bucketing.planning.window_plan import WindowPlanner
from keras_bucketing.streams.saved_sequences import check_batch_options
from keras_bucketing.streams.windows import RowSource, format_of_rows, open_row_source
from keras_bucketing.unpadding.arrays import refuse_padding_of_masks
from keras_bucketing.unpadding.labels import check_label_padding

# A window has few rows, so padding decides: on lengths like those of IMDB, 64 buckets of two batches each in 4,096 rows
# leave 6 % padding, 32 buckets 8 %, and sorted rows 4 %.
_BATCHES_A_BUCKET = 2
_MAX_BUCKETS = 64
# Of a budget without `batch_size`: short sequences would fill batches that are larger than the buffer.
_PARTS_OF_BUFFER = 8
# Prefetching is not so far ahead of a model.
_KEPT_BATCHES = 1024


@refuse_inherited_constructors
class BucketedStream(CountedPasses, PassDataset):
    """Batches of sequences of similar length, from a source that is read row by row.

    `model.fit(BucketedStream(source))` trains on rows that are generated, augmented, read from files or endless, and
    whose lengths are not known beforehand. If the data fit into memory or a folder, use `BucketedSequence`: it knows
    its length, its statistics and the order of every epoch before it reads.

    The stream reads a window of `buffer_size` rows, sorts them into buckets, cuts and shuffles batches, and yields them
    before it reads the next window. Rows that fill no batch join the next window, and leave with it. Every epoch reads
    the source from its beginning, so random augmentation is drawn again.

    The window comes from torchtext's `BucketIterator` and lhotse's `DynamicBucketingSampler`.
    `tf.data.Dataset.bucket_by_sequence_length` keeps one open batch per bucket instead, in which a row may wait
    forever.

    Data arguments:
        source: What yields `x`, `(x, y)` or `(x, y, sample_weight)` in every epoch: a `tf.data.Dataset` of rows, of
            ragged batches or of padded ones; a `keras.utils.PyDataset`; a generator function, which may take the epoch
            as its argument; or an iterable that is not an iterator, such as a list or a Hugging Face `IterableDataset`.
            It may be endless.
        buffer_size: Int, the maximum number of rows in memory, beside one element of the source. A larger buffer pads
            less and shuffles better. Defaults to 4096.
        batched: As in `BucketedSequence.from_dataset`. Defaults to None.
        mask_value: As in `BucketedSequence.from_dataset`, for padded batches. Defaults to 0.
        padding: As in `BucketedSequence.from_dataset`, for padded batches. Defaults to None.
        timestep_labels: As in `BucketedSequence.from_dataset`. Defaults to None.

    Batch size arguments:
        batch_size: Int, the rows of a batch. Defaults to 32 if no other size is given.
        bucket_batch_sizes: Ints, the rows of a batch for each bucket, which must not grow with the length. Defaults to
            None.
        max_timesteps_per_batch: Int, a budget as in `BucketedSequence`. `batch_size` beside it limits the rows; without
            it, an eighth of the buffer does. Defaults to None.
        quadratic_length: As in `BucketedSequence`. Defaults to None.
        batch_size_multiple: Int, the rows of every batch are a multiple of it. The last batch of a pass leaves out the
            others. Defaults to 1.

    Bucket arguments:
        bucket_boundaries: Ints, as in `BucketedSequence`. Defaults to None: boundaries that minimize padding in the
            first window. They stay the same in all passes.
        num_buckets: Int, how many buckets to choose if `bucket_boundaries` is None. Defaults to None: half as many as
            the first window has batches, at most 64; with `pad_to_bucket_boundary` as in `BucketedSequence`.
        pad_to_bucket_boundary: Bool, whether to pad to the longest length that the bucket allows, so that there are at
            most two shapes per bucket; labels of their own length are padded to powers of 2. Needs `maxlen`, or
            `bucket_boundaries` whose last one is above every length, as in tf.data. Defaults to None: True under the
            JAX backend if `maxlen` is given, else False.

    Padding and label arguments:
        padding_value: As in `BucketedSequence`. Defaults to None: `mask_value`.
        label_padding_value: As in `BucketedSequence`. Defaults to None: the value that padded the labels per timestep
            in padded batches, else 0.
        maxlen: As in `BucketedSequence`. Defaults to None.
        truncating: As in `BucketedSequence`. Defaults to "post".
        minlen: As in `BucketedSequence`. Defaults to None.
        on_empty: As in `BucketedSequence`. Defaults to "raise".
        include_lengths: As in `BucketedSequence`. Defaults to False.
        align_labels: As in `BucketedSequence`. Defaults to True.
        timestep_weights: As in `BucketedSequence`. Defaults to True.

    Order and epoch arguments:
        remainder: What happens to rows that are left at the end of the source. "spill" makes one partial batch of them,
            "drop" leaves them out. Defaults to "spill".
        shuffle: Bool, whether to shuffle the rows of each bucket, and the batches of a window. If False, the rows of a
            window are sorted by length. Defaults to True.
        seed: Int; the same seed gives the same batches of the same rows, epoch by epoch. Defaults to None: drawn from
            Python's `random`, which `keras.utils.set_random_seed` sets.

    Attributes:
        num_batches: Int, the batches of a pass; None if that is unknown, or the source is endless.
        bucket_boundaries: Ints, in timesteps; None before the first window has been read, unless they were given.
        epoch: Int, the epoch that the next pass reads.
        seed: Int, the seed in use.

    Notes:
        `len(stream)` is known if the number of the source's rows is known and every batch has `batch_size` rows.
        Otherwise Keras learns it in the first epoch. A source with a length must have so many rows in every pass. An
        endless source is one pass: pass `steps_per_epoch` to `fit`. A pass calls `on_epoch_begin` and `on_epoch_end` of
        a `PyDataset`.

        If a row cannot be read, the pass ends with `tf.errors.InvalidArgumentError`, or another error of TensorFlow,
        with the number of the row and the traceback. An error inside a `tf.data.Dataset` does not number the row.

        Several hosts: each reads its own stream, e.g. of `source.shard(num_hosts, host)`. They make the same number of
        steps only if they have the same number of rows and every batch has `batch_size` rows. Otherwise limit them with
        `take` or `steps_per_epoch`.

    Raises:
        TypeError: If an argument is of the wrong kind, or `source` an iterator, which is finished after one epoch.
        ValueError: If an argument has a wrong value, or two of them do not fit together.

    Example:
        >>> def rows():
        ...     for length in [3, 1, 2, 4, 1, 2]:
        ...         yield np.full(length, length), length % 2
        >>> stream = BucketedStream(rows, batch_size=2, shuffle=False)
        >>> for x, y in stream:
        ...     print(x.numpy().tolist(), y.numpy().tolist())
        [[1], [1]] [1, 1]
        [[2, 2], [2, 2]] [0, 0]
        [[3, 3, 3, 0], [4, 4, 4, 4]] [1, 0]
    """

    _log: BatchLog

    @explain_calls
    def __init__(
        self,
        source: object,
        *,
        batch_size: int | None = None,
        bucket_batch_sizes: Sequence[int] | None = None,
        max_timesteps_per_batch: int | None = None,
        quadratic_length: int | None = None,
        batch_size_multiple: int = 1,
        bucket_boundaries: Sequence[int] | None = None,
        num_buckets: int | None = None,
        buffer_size: int = 4096,
        pad_to_bucket_boundary: bool | None = None,
        padding_value: Any = None,
        label_padding_value: Any = None,
        maxlen: int | None = None,
        truncating: Literal["post", "pre"] = "post",
        minlen: int | None = None,
        on_empty: Literal["raise", "drop", "keep"] = "raise",
        include_lengths: bool | Sequence[str] = False,
        align_labels: bool = True,
        timestep_weights: bool = True,
        remainder: Literal["spill", "drop"] = "spill",
        shuffle: bool = True,
        seed: int | None = None,
        batched: bool | None = None,
        mask_value: Any = 0,
        padding: Literal["post", "pre"] | None = None,
        timestep_labels: bool | None = None,
    ):
        _check_remainder(remainder)
        check_choice("truncating", truncating, ("post", "pre"))
        check_choice("on_empty", on_empty, ("raise", "drop", "keep"))
        wanted_lengths = check_include_lengths(include_lengths)
        align_labels = check_flag("align_labels", align_labels)
        timestep_weights = check_flag("timestep_weights", timestep_weights)
        min_length = check_minlen(minlen, maxlen)
        if pad_to_bucket_boundary is None and maxlen is None:
            pad_to_bucket_boundary = False
        pad_to_bucket_boundary = check_pad_to_bucket_boundary(pad_to_bucket_boundary)
        shuffle = check_flag("shuffle", shuffle)
        buffer_size = check_integer("buffer_size", buffer_size)
        self._seed_was_given = seed is not None
        seed = random.randrange(2**31) if seed is None else check_integer("seed", seed, minimum=0, maximum=INT64_MAX)
        self._sizing = check_sizing(
            batch_size, bucket_batch_sizes, max_timesteps_per_batch, batch_size_multiple, 1, quadratic_length
        )
        rows = _rows_of_batches(self._sizing, buffer_size)
        boundaries = check_bucket_arguments(bucket_boundaries, num_buckets, self._sizing)
        self._num_buckets = None if num_buckets is None else int(num_buckets)
        if pad_to_bucket_boundary and maxlen is None and not boundaries:
            raise ValueError(
                "`pad_to_bucket_boundary` needs a longest length, as the last bucket of a stream is open. Pass maxlen, "
                "or bucket_boundaries whose last one is above every length."
            )
        options = check_batch_options(
            batched,
            mask_value,
            padding,
            timestep_labels,
            labels_align=align_labels,
            label_mask_value=check_label_padding(0 if label_padding_value is None else label_padding_value),
        )
        padding_value = options.mask_value if padding_value is None else padding_value

        opened = open_row_source(source, options, takes_label_padding=label_padding_value is None)
        if label_padding_value is None:
            label_padding_value = 0 if opened.label_padding is None else opened.label_padding
        refuse_padding_of_masks(list(opened.masks), padding_value)
        check_padding_value("padding_value", padding_value, opened.inputs.x)
        check_padding_value("label_padding_value", label_padding_value, opened.inputs.y)
        self._format = format_of_rows(opened.inputs)
        entries = _paths_of_entries(opened.inputs, wanted_lengths, self._format)
        self._rules = WindowRules(
            planner=WindowPlanner(
                self._sizing,
                most_rows=rows,
                min_length=min_length,
                max_length=None if maxlen is None else int(maxlen),
                pad_to_bucket_boundary=pad_to_bucket_boundary,
                drop_remainder=remainder == "drop",
                shuffle=shuffle,
            ),
            truncating=truncating,
            on_empty=on_empty,
            padding_value=padding_value,
            label_padding_value=label_padding_value,
            timestep_weights=timestep_weights,
            length_entries=entries,
        )
        self._given_boundaries, self._boundaries = boundaries, boundaries
        self._finding = threading.Lock()
        self._fingerprint = fingerprint(
            [], {**_described(self._rules), "source": opened.description, "buffer_size": buffer_size}
        )
        self._counter = PassCounter(seed)
        self._log = BatchLog(
            [leaf.name for leaf in self._format.padded], boundaries, is_endless=True, num_kept=_KEPT_BATCHES
        )
        self._stream = WindowStream(self._format, self._rules, self._boundaries_of, self._counter, self._log)
        self._source, self._buffer_size = opened, buffer_size
        self._windows = self._windows_of(_window_size(self._sizing, buffer_size, rows))
        self._num_batches = None if on_empty == "drop" else _num_batches(opened.num_rows, self._sizing, remainder)
        if self._num_batches == 0 and opened.num_rows is not None:
            raise too_few_rows(opened.num_rows, self._sizing)
        self._batches = self._stream.passes(self._windows, self._num_batches, opened.is_endless)
        super().__init__(tf.data.experimental.to_variant(self._batches))

    # The interface of tf.data.

    def __iter__(self) -> Iterator[Any]:
        """Begins a pass; batches that Keras reads to build a model do not count as one."""
        if is_symbolic_build():
            epoch, first_batch = self._counter.next_position
            return (batch for _, batch in self._stream.preview(self._windows, epoch, first_batch, self.seed))
        iterator: Iterator[Any] = super().__iter__()
        return iterator

    def __repr__(self) -> str:
        """One line with what is known without reading."""
        if not hasattr(self, "_batches"):  # in the middle of the constructor
            return object.__repr__(self)
        boundaries = self._boundaries
        parts = [
            _described_source(self._source),
            _described_sizes(self._sizing),
            f"a buffer of {self._buffer_size:,} rows",
            "buckets not found yet" if boundaries is None else count_of(len(boundaries) + 1, "bucket"),
            *([] if self._num_batches is None else [count_of(self._num_batches, "batch", "batches")]),
        ]
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} cannot be pickled or copied. Create it again from the same source and options, "
            "and pass its position on with state_dict() and load_state_dict()."
        )

    # Its figures.

    @property
    def num_batches(self) -> int | None:
        """The number of batches of a pass, as `len`; None if that is unknown, or the source is endless."""
        return self._num_batches

    @property
    def bucket_boundaries(self) -> list[int] | None:
        """Bucket i holds `boundaries[i - 1] <= length < boundaries[i]`; None before they have been found."""
        return None if self._boundaries is None else list(self._boundaries)

    def _newest_pass(self) -> PassPosition:
        return self._counter.newest_pass()

    def _windows_of(self, size: int) -> Windows:
        return self._source.windows(self._format, size, self._rules.on_empty == "drop")

    def _first_rows(self, limit: int) -> tuple[list[Any], np.ndarray]:
        """The first rows, each as a batch of one row, and their lengths; they are not part of a pass."""
        planner = replace(
            self._rules.planner,
            sizing=BatchSizing(1, None, None, 1),
            most_rows=[1],
            min_length=1,
            pad_to_bucket_boundary=False,
        )
        rules = replace(self._rules, planner=planner)
        single = WindowStream(self._format, rules, lambda _: [], self._counter, self._log)
        lengths, elements = [], []
        for length, element in single.preview(self._windows_of(limit), 0, 0, self.seed).take(limit):
            lengths.append(int(length[0]))
            elements.append(element)
        return elements, np.array(lengths, np.int64)

    # Its position.

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Makes the next pass begin at this position.

        The source is read from its beginning; rows before that batch are skipped without padding them.

        Args:
            epoch: Int, at least 0.
            batch: Int, at least 0. Defaults to 0.

        Raises:
            TypeError: If one of them is not an integer.
            ValueError: If one of them is negative.
        """
        self._counter.seek(*_check_position(epoch, batch))

    def state_dict(self, epoch: int | None = None, batch: int = 0) -> dict[str, Any]:
        """The position, the boundaries and what identifies the stream, as a small dictionary for JSON.

        Prefetching runs ahead of the model, so within an epoch only the consumer of the batches knows the position:
        pass `epoch` and `batch`. A resumed pass yields the same batches if the source yields the same rows again, as a
        function of the epoch can; otherwise batches and rows differ. `BackupAndRestoreSequence` saves the state
        together with the model, for streams whose length is known.

        A `tf.train.Checkpoint(iterator)` does not work: TensorFlow refuses to save an iterator over this dataset
        ("ReadVariableOp is stateful").

        Args:
            epoch: Int, the epoch of the next batch to consume. Defaults to None: the position of the next pass.
            batch: Int, the next batch of that epoch. Defaults to 0.

        Raises:
            TypeError: If one of them is not an integer.
            ValueError: If one of them is negative.

        Example:
            >>> source = tf.data.Dataset.range(1, 9).map(lambda length: tf.ones([length], tf.int32))
            >>> stream, resumed = (BucketedStream(source, batch_size=2, seed=1) for _ in range(2))
            >>> batches = [batch.shape for batch in stream]
            >>> resumed.load_state_dict(stream.state_dict(epoch=0, batch=3))
            >>> [batch.shape for batch in resumed] == batches[3:]
            True
        """
        if epoch is None:
            epoch, batch = self._counter.next_position
        state = make_state(*_check_position(epoch, batch), self.seed, self._fingerprint, self._shown_options)
        return {**state, "bucket_boundaries": self.bucket_boundaries}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass begin at a saved position, with the saved seed if none was given.

        Args:
            state: What `state_dict` returned, for a stream of a source of the same kind, with the same options.

        Raises:
            ValueError: If it is not such a state, or that of another source or other options.
        """
        position = (
            {key: value for key, value in state.items() if key != "bucket_boundaries"}
            if isinstance(state, dict)
            else state
        )
        epoch, batch, seed = check_state(
            position, self._fingerprint, self.seed, self._seed_was_given, self._shown_options
        )
        boundaries = state.get("bucket_boundaries")
        boundaries = None if boundaries is None else check_boundaries(boundaries)
        if self._given_boundaries is not None and boundaries != self._given_boundaries:
            raise ValueError(
                "`state` belongs to a stream with other boundaries. Expected "
                f"{show(self._given_boundaries)}, received {show(boundaries)}."
            )
        with self._finding:
            self._boundaries = boundaries
            self._log.bucket_boundaries = boundaries
        self._counter.seek(*_check_position(epoch, batch), seed)

    @property
    def _shown_options(self) -> dict[str, bool]:
        """What the state says besides its fingerprint: the option whose default depends on the backend."""
        return {"pad_to_bucket_boundary": self._rules.planner.pad_to_bucket_boundary}

    # The boundaries.

    def _boundaries_of(self, lengths: Lengths) -> list[int]:
        """The given boundaries, or those found in the first window of the first pass."""
        with self._finding:
            if self._boundaries is None and not lengths.size:  # all of them were dropped as empty
                return []
            if self._boundaries is None:
                buckets = choose_buckets(
                    lengths,
                    self._sizing,
                    num_buckets=self._number_of_buckets(lengths),
                    pad_to_bucket_boundary=self._rules.planner.pad_to_bucket_boundary,
                    minlen=self._rules.planner.min_length,
                )
                self._boundaries = buckets.boundaries
                self._log.bucket_boundaries = buckets.boundaries
            return self._boundaries

    def _number_of_buckets(self, lengths: Lengths) -> int | None:
        """Two batches of a window per bucket; None lets the planner choose if each bucket is a shape."""
        if (
            self._num_buckets is not None
            or self._rules.planner.pad_to_bucket_boundary
            or self._sizing.bucket_batch_sizes
        ):
            return self._num_buckets
        rows = self._sizing.rows_at(np.sort(np.maximum(lengths, self._rules.planner.min_length)))
        num_batches = float((1 / np.maximum(rows, 1)).sum())
        return max(min(int(num_batches / _BATCHES_A_BUCKET), _MAX_BUCKETS), 1)


def _check_remainder(remainder: object) -> None:
    if remainder == "keep":
        raise ValueError(
            "`remainder` must be 'spill' or 'drop' for a stream. Received 'keep', which would make a partial batch in "
            "each bucket of each window: most of the batches."
        )
    check_choice("remainder", remainder, ("spill", "drop"))


def _rows_of_batches(sizing: BatchSizing, buffer_size: int) -> list[int]:
    """The maximum rows of a batch for each bucket, or one number for all; refuses a buffer that cannot fill them."""
    if sizing.bucket_batch_sizes is not None:
        rows = sizing.bucket_batch_sizes
        if sorted(rows, reverse=True) != rows:
            raise ValueError(
                "`bucket_batch_sizes` must not grow with the length in a stream, whose batches are filled up with "
                f"shorter rows. Received {show(rows)}."
            )
    elif sizing.max_timesteps_per_batch is not None and sizing.batch_size is None:
        rows = [max(buffer_size // _PARTS_OF_BUFFER // sizing.multiple, 1) * sizing.multiple]
    else:  # without a budget the same at any length; next to one, `batch_size`
        rows = [sizing.batch_size or int(sizing.rows_at(np.ones(1, np.int64))[0])]
    needed = max(rows) if _are_all_equal(sizing) else 2 * max(rows)
    if buffer_size < needed:
        raise ValueError(
            f"`buffer_size` is too small to fill a batch. Expected at least {needed} for batches of {max(rows)} rows, "
            f"received {buffer_size}."
        )
    return rows


def _are_all_equal(sizing: BatchSizing) -> bool:
    """Whether every batch has `batch_size` rows."""
    return sizing.bucket_batch_sizes is None and sizing.max_timesteps_per_batch is None


def _window_size(sizing: BatchSizing, buffer_size: int, rows: list[int]) -> int:
    """How many rows to read for a window: together with waiting rows, at most the buffer."""
    if _are_all_equal(sizing):
        return buffer_size // rows[0] * rows[0]  # then no row waits
    return buffer_size - max(rows) + 1


def _num_batches(num_rows: int | None, sizing: BatchSizing, remainder: str) -> int | None:
    if num_rows is None or not _are_all_equal(sizing):
        return None
    size = _rows_of_batches(sizing, INT64_MAX)[0]
    full, rest = divmod(num_rows, size)
    return full + int(remainder == "spill" and rest >= sizing.multiple)


def _paths_of_entries(
    inputs: Inputs, include_lengths: bool | list[str], row_format: RowFormat
) -> dict[str, Path | None]:
    """The entries that `include_lengths` adds, with the path of the leaf whose lengths each holds."""
    paths = {
        id(leaf): (root, *path) for root, part in (("x", inputs.x), ("y", inputs.y)) for path, leaf in leaves(part)
    }
    entries = length_entries(inputs, include_lengths)
    return {name: None if leaf is None else paths[id(leaf)] for name, leaf in entries.items()}


def _described_source(source: RowSource) -> str:
    """What is read, and how many rows of it, as far as that is known."""
    if source.is_endless:
        return f"{source.type_name} without end"
    return source.type_name if source.num_rows is None else f"{source.type_name} of {count_of(source.num_rows, 'row')}"


def _described_sizes(sizing: BatchSizing) -> str:
    if sizing.bucket_batch_sizes is not None:
        return f"{list_some([str(size) for size in sizing.bucket_batch_sizes])} rows a batch"
    if sizing.max_timesteps_per_batch is None:
        return f"{count_of(_rows_of_batches(sizing, INT64_MAX)[0], 'row')} a batch"
    most = "" if sizing.batch_size is None else f" of at most {count_of(sizing.batch_size, 'row')}"
    return f"batches{most} of at most {count_of(sizing.max_timesteps_per_batch, 'timestep')}"


def _described(rules: WindowRules) -> dict[str, object]:
    """The options that batches depend on, as they are part of saved states."""
    options = {**vars(rules), "length_entries": sorted(rules.length_entries)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in options.items()}


def _check_position(epoch: object, batch: object) -> tuple[int, int]:
    return check_integer("epoch", epoch, minimum=0), check_integer("batch", batch, minimum=0)
