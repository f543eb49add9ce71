"""BucketedSequence: ragged arrays in, length-bucketed and padded batches out, as a `tf.data.Dataset`."""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NoReturn

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.call_errors import check_option_names, explain_calls, refuse_inherited_constructors
from keras_bucketing.checks import INT64_MAX, check_choice, check_flag, check_integer, check_number, count_of
from keras_bucketing.data.collect import (
    Unread,
    check_include_lengths,
    check_on_empty,
    check_padding_value,
    collect_inputs,
    length_entries,
)
from keras_bucketing.data.frames import FrameRows, FrameSequences, sequences_of_frame
from keras_bucketing.data.loader import loaded_sequences
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.data.rows import LeafLengths, rows_from_row_splits
from keras_bucketing.data.selection import check_options_of_subset, row_indices_of, rows_to_hold_out
from keras_bucketing.padding.report import summarize_buckets
from keras_bucketing.padding.stats import PaddingStats, padding_of_plan
from keras_bucketing.pipeline.dataset_state import ElasticIdentity
from keras_bucketing.pipeline.gather import BatchGatherer
from keras_bucketing.pipeline.pass_dataset import PassDataset, check_pad_to_bucket_boundary
from keras_bucketing.pipeline.passes import PassCounter, PassPosition, counting_iterator, is_symbolic_build
from keras_bucketing.pipeline.stream import batch_stream, chosen_batches
from keras_bucketing.planning.boundaries import BucketBoundaries
from keras_bucketing.planning.bucket_arguments import check_bucket_arguments
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import BatchSizing, Buckets, check_minlen, check_shard, check_sizing
from keras_bucketing.planning.cuts import BatchCuts, BatchRules, cut_batches
from keras_bucketing.planning.draws import RowDraws, Sampling, check_sampling, expected_draws, typical_rows
from keras_bucketing.planning.epoch_plan import Cut, EpochPlan, EpochPlanner
from keras_bucketing.planning.outliers import Outliers, OutlierWarning, may_have_outliers, outliers_of_plan
from keras_bucketing.planning.processes import shard_of_process
from keras_bucketing.predicting.output_lengths import Sequences
from keras_bucketing.predicting.predict import check_can_predict, predict
from keras_bucketing.predicting.restore_order import restore_order
from keras_bucketing.streams.reading import Contents
from keras_bucketing.streams.saved_sequences import check_batch_options, read_dataset, refuse_data_beside_elements
from keras_bucketing.unpadding.array_labels import unpad_all
from keras_bucketing.unpadding.arrays import refuse_padding_of_masks
from keras_bucketing.unpadding.labels import check_label_padding
from keras_bucketing.unpadding.spans import check_mask_value
from keras_bucketing.unpadding.unnoticed import level_of_caller, warn_of


@refuse_inherited_constructors
class BucketedSequence(PassDataset):
    """Batches of sequences of similar length, padded and shuffled, as a `tf.data.Dataset`.

    `model.fit(BucketedSequence(x, y))` trains on data in memory or in mapped files. The number of batches is known, and
    a seed reproduces their order. Padding is on the right, as cuDNN needs it. `map`, `take`, `prefetch` and the like
    return plain datasets: keep this object for its statistics.

    Most datasets need `x`, `y` and `batch_size` only. The arguments below are in six groups: data, batch size, buckets,
    padding and labels, order and epochs, hosts.

    `bucket_boundaries` and `bucket_batch_sizes` are named as in `tf.data.Dataset.bucket_by_sequence_length`. The budget
    of timesteps comes from OpenNMT-tf and fairseq, the statistics from lhotse.

    Data arguments:
        x: The sequences: a list, object array or pandas Series of arrays `(length, *features)` or of lists; a
            `tf.RaggedTensor`, a pyarrow list column or an awkward array. For several inputs, a dict or tuple of such
            leaves, and of arrays `(num_sequences, ...)` with one value per sequence. float64 becomes
            `keras.config.floatx()`. A tuple without `y` yields batches `((a, b),)`, since Keras reads `(a, b)` as
            `(x, y)`.
        y: Labels `(num_sequences, ...)`, or a dict or tuple of them for several outputs. Ragged labels with the lengths
            of `x` are one label per timestep: they come with a sample weight `(batch, time)` that is 0 on padding. See
            docs/guide/timestep-labels.md, and `align_labels` for labels of another length. Defaults to None.
        sample_weight: Weights `(num_sequences,)`, or ragged with one weight per timestep of the labels, or one of these
            for each output. Defaults to None.
        copy: Bool, whether to copy the data. If False, the memory of NumPy arrays, lists of their slices, Arrow columns
            and ragged tensors is shared: do not change them afterwards. Mapped files and read-only Arrow columns are
            not copied in either case; see docs/guide/data-on-disk.md. Defaults to True.

    Batch size arguments:
        batch_size: Int, the rows of a batch, of all shards together. Defaults to 32 if no other size is given.
        bucket_batch_sizes: Ints, the rows of a batch for each bucket, as in tf.data. Defaults to None.
        max_timesteps_per_batch: Int, a budget that rows x padded length never exceeds. In rows with several sequences
            the longest one counts, labels of their own length included. `batch_size` beside it limits the rows, as
            `max_sentences` does in fairseq. Defaults to None.
        quadratic_length: Int, in timesteps, for attention. In the budget, a row of padded length L counts as
            L + L^2 / quadratic_length, as with `quadratic_duration` in lhotse. At this length, pairs of timesteps cost
            as much as everything else. Defaults to None: L.
        batch_size_multiple: Int, the rows of every batch are a multiple of it: the number of replicas, or 8 for tensor
            cores. An epoch may leave out fewer rows than that. They are drawn from all rows for each epoch; without
            shuffling, they are the longest. Defaults to 1.

    Bucket arguments:
        bucket_boundaries: Ints, in timesteps, as in tf.data: bucket i holds `boundaries[i - 1] <= length <
            boundaries[i]`. Nested buckets are `[outer, [inner of outer bucket 0, ...]]`. Defaults to None: boundaries
            that minimize padding.
        num_buckets: Int, how many buckets to choose if `bucket_boundaries` is None; or two ints for nested buckets, as
            in `(12, 12)`. Defaults to None: the smallest number that comes within 2.5 % of the best padding efficiency
            possible with 32 buckets, or reaches 95 %. See docs/buckets-and-sizes.md.
        pad_to_bucket_boundary: Bool, whether to pad to the longest length that the bucket allows. That is more padding,
            but at most one shape per bucket and one more (two per bucket with `remainder="keep"`), so XLA compiles less
            often. Defaults to None: True under the JAX backend, which compiles every shape; else False.

    Padding and label arguments:
        padding_value: Number behind the end of a sequence, or an array of the shape of a timestep. Defaults to 0.
        label_padding_value: Number behind the end of ragged labels, or an array of the shape of a label, such as a
            one-hot class of its own. Defaults to 0.
        maxlen: Int, in timesteps; longer sequences are cut. Labels of their own length are not. Defaults to None.
        truncating: "post" cuts the end of a sequence, "pre" its beginning. Defaults to "post".
        minlen: Int, in timesteps; every batch is padded at least to it, e.g. to the receptive field of convolutions
            with `padding="valid"`. Labels of their own length are not. Defaults to None.
        on_empty: What happens to sequences without timesteps. "raise" refuses them, "drop" leaves them out, "keep"
            gives them one timestep of `padding_value`. Defaults to "raise".
        include_lengths: Bool, whether `x` gains the lengths, int32 `(batch,)`, and becomes `{"sequences": x, "lengths":
            lengths}`. A dict gains "lengths", and with several sequences "<name>_lengths" for each; labels of their own
            length add "label_lengths". Or a list of the names to add, for a model that declares only these inputs. See
            docs/guide/several-inputs.md. Defaults to False.
        align_labels: Bool, whether ragged labels hold one label per timestep. If False, they have lengths of their own,
            as in CTC and translation: they are padded to their own longest, without weights, and may be empty. See
            docs/guide/several-inputs.md. Defaults to True.
        timestep_weights: Bool, whether labels per timestep come with weights. If False, batches are `(x, y)`, for
            losses that mask by themselves; `sample_weight` comes as it was given. Defaults to True.

    Order and epoch arguments:
        remainder: What happens to rows that do not fill a batch of their bucket. "spill" moves them into the next
            longer bucket, so that an epoch has one partial batch, or two if the data have outliers (see
            docs/buckets-and-sizes.md). "keep" makes one partial batch per bucket, as tf.data does. "drop" leaves the
            rows out. Defaults to "spill".
        shuffle: Bool, whether each epoch shuffles the rows of each bucket, and the batches. If False, rows are sorted
            by length. Defaults to True.
        seed: Int; the same seed gives the same batches, epoch by epoch, in every process. Defaults to None: drawn from
            Python's `random`, which `keras.utils.set_random_seed` sets.
        largest_first: Bool, whether epochs 0 and 1 begin with the largest batch, so that a lack of memory shows at
            once. With `pad_to_bucket_boundary` they begin with one batch of each shape, so that all are compiled at
            once. Defaults to False.
        sampling_weights: Numbers `(num_sequences,)`, at least 0: how often each row is drawn, in proportion, e.g.
            `1 / class_counts[y]` for even classes. A row may come twice in an epoch. Needs `shuffle=True`, and
            `remainder="spill"` or "keep". See docs/guide/sampling.md. Defaults to None: every row once.
        rows_per_epoch: Int, how many rows an epoch draws, rounded down to a multiple of `batch_size_multiple` x
            `num_shards`. Without `sampling_weights`, all rows have equal weights. Defaults to None: with
            `sampling_weights`, as many rows as have a weight above 0.

    Host arguments:
        num_shards: Int, how many processes share each batch: shard s takes its rows s, s + num_shards, ... All shards
            have the same number of batches and the same padded lengths. Needs a `seed`. None asks `keras.distribution`,
            JAX or `torch.distributed`; see docs/devices-and-hosts.md. Defaults to 1.
        shard_index: Int, which shard this is. With `num_shards=None` it is found too. Defaults to 0.

    Attributes:
        num_batches: Int, the batches of every epoch.
        num_sequences: Int, the sequences of every epoch, on all shards; with `sampling_weights`, the draws.
        lengths: Int array, the timesteps of each input sequence; 0 if it was dropped as empty.
        row_keys: Array, the id of each sequence of `from_dataframe`; None for other data.
        frame_rows: Int array, the position of each timestep in that table, sequence by sequence; None for other data.
        bucket_boundaries: Ints, in timesteps; of nested buckets `[outer, [inner of outer bucket 0, ...]]`.
        bucket_batch_sizes: Ints, rows, one for each bucket; of nested buckets in lexicographic order.
        epoch: Int, the epoch that the next pass reads.
        seed: Int, the seed in use.

    Notes:
        Data larger than memory: pass `np.load(path, mmap_mode="r")`, an `np.memmap` or a column of a memory-mapped
        Arrow file. Values are read when a batch needs them; `state_dict` reads a small sample. Do not shorten or
        rewrite a file in use. See docs/guide/data-on-disk.md.

    Warns:
        OutlierWarning: If at most one sequence in a hundred costs more than a third of an epoch's padded timesteps, and
            no `max_timesteps_per_batch` limits their batches.

    Raises:
        TypeError: If an argument is of the wrong kind: text instead of numbers, a scalar instead of a sequence.
        ValueError: If an argument has a wrong value, or two of them do not fit together.

    Example:
        >>> x = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
        >>> dataset = BucketedSequence(x, y=[0, 1, 0, 1], batch_size=2, shuffle=False)
        >>> for sequences, labels in dataset:
        ...     print(sequences.numpy().tolist(), labels.numpy().tolist())
        [[4, 0], [5, 6]] [1, 0]
        [[1, 2, 3, 0], [7, 8, 9, 10]] [0, 1]
        >>> print(f"{dataset.padding_stats().padding_efficiency:.3f}")
        0.833
    """

    @explain_calls
    def __init__(
        self,
        x: object,
        y: object = None,
        sample_weight: object = None,
        *,
        batch_size: int | None = None,
        bucket_batch_sizes: Sequence[int] | None = None,
        max_timesteps_per_batch: int | None = None,
        quadratic_length: int | None = None,
        batch_size_multiple: int = 1,
        bucket_boundaries: Sequence[Any] | None = None,
        num_buckets: int | tuple[int, int] | None = None,
        pad_to_bucket_boundary: bool | None = None,
        padding_value: Any = 0,
        label_padding_value: Any = 0,
        maxlen: int | None = None,
        truncating: Literal["post", "pre"] = "post",
        minlen: int | None = None,
        on_empty: Literal["raise", "drop", "keep"] = "raise",
        include_lengths: bool | Sequence[str] = False,
        align_labels: bool = True,
        timestep_weights: bool = True,
        copy: bool = True,
        remainder: Literal["spill", "keep", "drop"] = "spill",
        shuffle: bool = True,
        seed: int | None = None,
        largest_first: bool = False,
        sampling_weights: object = None,
        rows_per_epoch: int | None = None,
        num_shards: int | None = 1,
        shard_index: int = 0,
    ):
        arguments = dict(locals())
        self._given_options = {name: deepcopy(arguments[name]) for name in _OPTION_NAMES}
        check_choice("remainder", remainder, ("spill", "keep", "drop"))
        check_choice("truncating", truncating, ("post", "pre"))
        wanted_lengths = check_include_lengths(include_lengths)
        align_labels = check_flag("align_labels", align_labels)
        timestep_weights = check_flag("timestep_weights", timestep_weights)
        min_length = check_minlen(minlen, maxlen)
        pad_to_bucket_boundary = check_pad_to_bucket_boundary(pad_to_bucket_boundary)
        shuffle = check_flag("shuffle", shuffle)
        largest_first = check_flag("largest_first", largest_first)
        self._seed_was_given = seed is not None
        seed = random.randrange(2**31) if seed is None else check_integer("seed", seed, minimum=0, maximum=INT64_MAX)
        needs_seed = shuffle and not self._seed_was_given
        self._shard = check_shard(num_shards, shard_index, needs_seed, shard_of_process)
        sizing = check_sizing(
            batch_size,
            bucket_batch_sizes,
            max_timesteps_per_batch,
            batch_size_multiple,
            self._shard.num_shards,
            quadratic_length,
        )
        check_bucket_arguments(bucket_boundaries, num_buckets, sizing, takes_nested=True)
        check_on_empty(on_empty)
        sampling = check_sampling(sampling_weights, rows_per_epoch, remainder, shuffle)
        if not isinstance(padding_value, np.ndarray):
            check_number("padding_value", padding_value)
        if not isinstance(label_padding_value, np.ndarray):
            check_number("label_padding_value", label_padding_value)
        # Everything that can be checked without the data has been checked: from_dataset reads its source only now.
        if isinstance(x, Unread):
            source, contents = x, x.read()
            if source.takes_label_padding and contents.label_padding is not None:
                label_padding_value = contents.label_padding
            refuse_padding_of_masks(list(contents.masks), padding_value)
            x, y, sample_weight = contents.element
        inputs = collect_inputs(x, y, sample_weight, align_labels, check_flag("copy", copy))
        if maxlen is not None:
            inputs = inputs.truncate(maxlen, truncating)
        check_padding_value("padding_value", padding_value, inputs.x)
        check_padding_value("label_padding_value", label_padding_value, inputs.y)
        inputs = inputs.without_empty(on_empty)
        added_lengths = length_entries(inputs, wanted_lengths)

        self._batch_rules = BatchRules(remainder, sizing.multiple, pad_to_bucket_boundary, min_length)
        self._leaf_lengths = {leaf.name: inputs.in_given_rows(leaf.lengths) for leaf in inputs.lengths.leaves}
        self._lengths, self._kept = inputs.in_given_rows(inputs.lengths.longest), inputs.kept
        self._row_lengths, self._sizing = inputs.lengths, sizing
        self._sampling = None if sampling is None else sampling.of_rows(inputs.num_given, inputs.kept)
        self._buckets = self._choose_buckets(self._sampling, bucket_boundaries, num_buckets, inputs.levels)
        self._draws = self._draws_of_buckets()
        cuts = cut_batches(self._buckets, remainder, sizing.multiple)
        self._planner = EpochPlanner(
            inputs.lengths,
            self._buckets,
            cuts,
            pad_to_bucket_boundary,
            shuffle,
            min_length,
            largest_first,
            sizing.quadratic_length,
            self._draws,
        )
        self._outliers = self._find_outliers(inputs.lengths.leaves, cuts)
        self._gatherer = BatchGatherer(
            inputs,
            padding_value,
            label_padding_value,
            added_lengths,
            timestep_weights,
            pads_further=pad_to_bucket_boundary or min_length > 1,
            shard=self._shard,
        )
        levels = tuple(level.name for level in self._buckets.levels)
        self._stored = replace(self._gatherer.stored(inputs), levels=levels)
        self._frame_rows: FrameRows | None = None
        # What the batches depend on besides the data, the cuts and the seed; names and values are part of saved states.
        self._plan_options = {
            "pad_to_bucket_boundary": pad_to_bucket_boundary,
            "padding_values": (_as_plain(padding_value), _as_plain(label_padding_value)),
            "include_lengths": wanted_lengths if isinstance(wanted_lengths, bool) else sorted(added_lengths),
            "align_labels": align_labels,
            "timestep_weights": timestep_weights,
            "minlen": min_length,
            "remainder": remainder,
            "shuffle": shuffle,
            **({} if self._buckets.apart is None else {"apart": self._buckets.apart}),
            **({"largest_first": True, "quadratic_length": sizing.quadratic_length} if largest_first else {}),
        }
        self._identity = ElasticIdentity(
            partial(_fingerprint_bytes, self._gatherer, self._draws),
            self._plan_options,
            cuts,
            self._buckets.boundaries,
            self._buckets.batch_sizes,
            levels,
            sizing.multiple,
            self._shard.num_shards,
            shown={"pad_to_bucket_boundary": pad_to_bucket_boundary},
        )
        self._padding_value = padding_value
        self._min_lengths = [1 if leaf.is_label else min_length for leaf in inputs.lengths.leaves]
        self._stats_in_repr: tuple[int, PaddingStats] | None = None  # of the seed; 50 ms for a million rows
        self._counter = PassCounter(seed)
        self._batches = batch_stream(self._counter, self._planner, self._gatherer)
        super().__init__(tf.data.experimental.to_variant(self._batches))
        if self._outliers is not None and max_timesteps_per_batch is None:
            warnings.warn(str(self._outliers), OutlierWarning, stacklevel=level_of_caller())

    @classmethod
    @explain_calls
    def from_row_splits(
        cls, values: object, row_splits: object, y: object = None, sample_weight: object = None, **options: Any
    ) -> BucketedSequence:
        """Makes a dataset from flat values and row splits, as `tf.RaggedTensor.from_row_splits` does.

        The values are copied once, as a block. Mapped files are not copied, nor is anything with `copy=False`.

        Args:
            values: Array `(num_values, *features)`, the timesteps of all sequences, concatenated.
            row_splits: Ints `(num_sequences + 1,)`: sequence i is `values[row_splits[i]:row_splits[i + 1]]`. Or ints
                `(num_sequences, 2)`, a start and a stop for each sequence: they may skip values, and windows may
                overlap.
            y: As in `BucketedSequence`.
            sample_weight: As in `BucketedSequence`.
            **options: The other arguments of `BucketedSequence`.

        Raises:
            TypeError: If the splits are not integers.
            ValueError: If the splits do not start at 0, decrease, or do not end at the number of values; if a sequence
                stops before it starts, or lies outside the values.

        Example:
            >>> dataset = BucketedSequence.from_row_splits([1, 2, 3, 4, 5, 6], [0, 3, 4, 6], shuffle=False)
            >>> next(iter(dataset)).numpy().tolist()
            [[4, 0, 0], [5, 6, 0], [1, 2, 3]]
            >>> dataset = BucketedSequence.from_row_splits([1, 2, 3, 4, 5, 6], [[4, 6], [0, 3]], shuffle=False)
            >>> next(iter(dataset)).numpy().tolist()
            [[5, 6, 0], [1, 2, 3]]
        """
        check_option_names(cls, options)
        return cls(rows_from_row_splits(values, row_splits), y, sample_weight, **options)

    @classmethod
    @explain_calls
    def from_padded(
        cls,
        x: object,
        y: object = None,
        sample_weight: object = None,
        *,
        lengths: object = None,
        mask_value: Any = 0,
        padding: Literal["post", "pre"] | None = None,
        sequences: object = None,
        timestep_labels: bool | None = None,
        **options: Any,
    ) -> BucketedSequence:
        """Makes a dataset from arrays that are already padded, e.g. by `keras.utils.pad_sequences`.

        The padding is removed, and batches are padded again at their end: with `mask_value`, and labels with the value
        that padded them. If it is not certain what is padding, an error names the argument that decides it. If all
        sequences seem to have one length, a warning points out rows that end or begin in what looks like padding. See
        docs/how-it-works/padded-data.md for the rules.

        Args:
            x: Array `(num_sequences, time, *features)`, or a dict or tuple of such arrays and of arrays with one value
                per sequence. Entries of a dict that are masks or lengths by their names, such as "attention_mask" or
                "<name>_lengths", tell where sequences stop. Masks stay in `x`. Lengths are left out;
                `include_lengths=True` adds them again.
            y: As in `BucketedSequence`. An array `(num_sequences, time, ...)` that is padded like `x` holds one label
                per timestep; see `timestep_labels`.
            sample_weight: As in `BucketedSequence`; padded like `x` if `y` is.
            lengths: Ints `(num_sequences,)`, the real timesteps, or a mask `(num_sequences, time)` that is True in one
                run at the same end of each row. One for all sequences in `x`, or a dict or tuple like `x`, with None
                for entries with one value per sequence. A length beyond `time` means that the sequence was cut: its row
                must not have padding, unless `maxlen` says that rows were cut to `time`. Defaults to None: a row stops
                where its run of timesteps with `mask_value` in every feature begins.
            mask_value: The value of padding: a number, or an array of the shape of a timestep, `(features,)`, such as a
                one-hot symbol. Defaults to 0.
            padding: "post" or "pre", the end that is padded. Defaults to None: the end that holds `mask_value`, or with
                lengths the end that holds only padding beyond them. If some rows begin and others end with
                `mask_value`, that is an error.
            sequences: Str or int, or a list of them: which entries of a dict or tuple `x` are padded sequences, each of
                which ends where its own padding begins. Defaults to None: those with lengths in a dict or tuple of
                lengths, else all arrays of two and more dimensions, if they share the second or each has its own mask
                or lengths.
            timestep_labels: Bool, whether arrays `(num_sequences, time, ...)` in `y` and `sample_weight` hold one value
                per timestep. If False, they hold `time` values per row, as one-hot labels do. Defaults to None: one per
                timestep if they hold one constant where `x` is padded, else an error. With `align_labels=False`, labels
                stay as given unless this is True or `x` has their lengths ("label_lengths").
            **options: The other arguments of `BucketedSequence`.

        Raises:
            TypeError: If `x` holds something other than arrays of numbers.
            ValueError: If the shapes or lengths do not fit, or if it is not clear which end is padded, which entries of
                `x` are sequences, or what `y` holds.

        Example:
            >>> padded = keras.utils.pad_sequences([[1, 2, 3], [4], [5, 6]])
            >>> padded.tolist()
            [[1, 2, 3], [0, 0, 4], [0, 5, 6]]
            >>> dataset = BucketedSequence.from_padded(padded, shuffle=False)
            >>> next(iter(dataset)).numpy().tolist()
            [[4, 0, 0], [5, 6, 0], [1, 2, 3]]
        """
        check_option_names(cls, options)
        if timestep_labels is not None:
            timestep_labels = check_flag("timestep_labels", timestep_labels)
        elif options.get("align_labels", True) is False:
            timestep_labels = False
        align_labels = bool(options.get("align_labels", True))
        unpadded, y, sample_weight, label_padding = unpad_all(
            (x, y, sample_weight), lengths, mask_value, padding, sequences, timestep_labels, options, align_labels
        )
        options.setdefault("padding_value", check_mask_value(mask_value))
        if label_padding is not None:
            options.setdefault("label_padding_value", label_padding)
        refuse_padding_of_masks([entry.name for entry in unpadded.padded if entry.is_mask], options["padding_value"])
        dataset = cls(unpadded.x, y, sample_weight, **options)
        warn_of(unpadded.warnings)
        return dataset

    @classmethod
    @explain_calls
    def from_dataset(
        cls,
        dataset: object,
        *,
        cache: str | os.PathLike[str] | None = None,
        max_rows: int | None = None,
        batched: bool | None = None,
        mask_value: Any = 0,
        padding: Literal["post", "pre"] | None = None,
        sequences: object = None,
        timestep_labels: bool | None = None,
        **options: Any,
    ) -> BucketedSequence:
        """Makes a dataset from an existing pipeline, which is read once, from beginning to end.

        This takes little more memory than the result, and almost none with a `cache`. A progress bar appears on
        standard error after three seconds. Rows keep their order, and every epoch sees what was read: leave out the
        pipeline's own shuffling and augmentation.

        A source without end is read until memory is full. After a minute or a million rows the progress bar says so:
        pass `max_rows`, or use `BucketedStream`.

        Args:
            dataset: A source of `x`, `(x, y)` or `(x, y, sample_weight)`, as for `fit`. It can be a `tf.data.Dataset`
                of single rows, of ragged batches, or of padded ones, whose padding is removed; a
                `keras.utils.PyDataset`, whose batches are padded arrays or lists of rows; a generator function or any
                iterable of single rows. In `x`, scalars are one value per row, and everything else is a sequence, as in
                a list.
            cache: A folder that keeps what was read for the next start, as in `tf.data.Dataset.cache`. If the folder
                exists, it is read in place of the dataset. It is refused if structure, shapes, number or options
                differ. Changed values cannot be noticed: remove the folder then. An unfinished folder is written again.
                Defaults to None.
            max_rows: Int, the maximum number of rows to read, the first ones. Defaults to None: all rows.
            batched: Bool, whether an element is a batch. Defaults to None: found from the elements' shapes, or an error
                if a batch and a single row could have these shapes. An iterable yields single rows.
            mask_value: The value of padding, a number or an array of the shape of a timestep. It is used for sequences
                that have neither lengths nor a mask in `x`; see docs/how-it-works/padded-data.md. Defaults to 0.
            padding: "post" or "pre", the end at which batches are padded. Defaults to None: the end that holds
                `mask_value`, or an error if some rows begin and others end with it.
            sequences: Str or int, or a list of them: which entries of a dict or tuple `x` are padded sequences, each of
                which ends where its own padding begins. Defaults to None: those with a second axis of varying size,
                else all of two and more axes if they share the second.
            timestep_labels: Bool, whether labels and weights with an axis of their own hold one value per timestep. If
                False, they hold values of a row, as one-hot labels do. Defaults to None: found from the shapes. If
                these are unknown, there is one per timestep if in every row there are as many as a leaf of `x` has
                timesteps.
            **options: The other arguments of `BucketedSequence`. `padding_value` defaults to `mask_value`, and
                `label_padding_value` to the value that padded the labels.

        Raises:
            TypeError: If `dataset` cannot be read, or yields text.
            ValueError: If it never ends and `max_rows` is None, if its rows do not fit together, if the cache belongs
                to another dataset, or if it is not certain what an element is; the message names the argument that
                decides it.
            OSError: If the cache cannot be read or written.

        Example:
            >>> padded = tf.data.Dataset.from_tensor_slices(([[1, 2, 3], [4, 0, 0], [5, 6, 0]], [0, 1, 0])).batch(2)
            >>> dataset = BucketedSequence.from_dataset(padded, batched=True, shuffle=False)
            >>> sequences, labels = next(iter(dataset))
            >>> sequences.numpy().tolist(), labels.numpy().tolist()
            ([[4, 0, 0], [5, 6, 0], [1, 2, 3]], [1, 0, 0])
        """
        refuse_data_beside_elements(options)
        batch_options = check_batch_options(
            batched,
            mask_value,
            padding,
            timestep_labels,
            labels_align=check_flag("align_labels", options.get("align_labels", True)),
            label_mask_value=check_label_padding(options.get("label_padding_value", 0)),
            sequences=sequences,
        )
        check_flag("copy", options.get("copy", True))
        options.setdefault("padding_value", batch_options.mask_value)
        source = Unread(
            lambda: read_dataset(dataset, cache, batch_options, max_rows),
            takes_label_padding="label_padding_value" not in options,
        )
        # What has been read belongs to the dataset already.
        return cls(source, **{**options, "copy": False})

    @classmethod
    @explain_calls
    def from_loader(
        cls,
        load: Callable[[int], object] | Callable[[int, int], object],
        lengths: object,
        y: object = None,
        sample_weight: object = None,
        *,
        output_signature: object,
        length_tolerance: int | float = 0,
        num_parallel_loads: int | None = None,
        **options: Any,
    ) -> BucketedSequence:
        """Makes a dataset of sequences that a function loads when a batch needs them: recordings, HDF5, zarr, images.

        Only the lengths must be known beforehand. Order, plans, shards, `seek` and `state_dict` are the same as for
        these sequences in memory. A shard loads only its own rows. Batches are prefetched.

        If a row cannot be loaded, the pass ends: `fit` raises `tf.errors.InvalidArgumentError` with the row index, the
        reason and the traceback of `load`. `state_dict` identifies the dataset by lengths, signature, labels and
        options; it cannot see what `load` returns, which must stay the same for a row and an epoch.

        Args:
            load: Function from a row index, an int, to its sequence: an array `(length, *features)`, or a dict or tuple
                of them. It is called in several threads at once, and again in every epoch. If it requires two
                positional arguments, it also gets the epoch, an int from 0 on: `load(row, epoch)` can augment
                differently in every epoch, and in the same way after `seek`, `load_state_dict` or a restart. Outside a
                pass, as in `check_padding` and `tune_batch_sizes`, the epoch is 0.
            lengths: Ints `(num_sequences,)`, in timesteps; or a dict or tuple of them, as in `output_signature`. A row
                of length 0 is not loaded; see `on_empty`.
            y: As in `BucketedSequence`, in memory.
            sample_weight: As in `BucketedSequence`, in memory.
            output_signature: `tf.TensorSpec((None, *features), dtype)` of one sequence, as in
                `tf.data.Dataset.from_generator`, or a dict or tuple of them if a row has several. Floats are rounded to
                its dtype; integers must fit.
            length_tolerance: Int, by how many timesteps a sequence may be longer or shorter than `lengths` says, for
                estimates such as those of compressed audio; or a float below 1, that fraction of its length, rounded
                up. Longer sequences are cut to their announced length, by `truncating`, so pass upper bounds to lose
                nothing. `include_lengths` adds the loaded lengths; statistics and `restore_order` use the announced
                ones. Labels per timestep need exact lengths. Defaults to 0.
            num_parallel_loads: Int, the number of threads that load; 1 if the function is not thread-safe. Defaults to
                None: four more than processors, at most 32.
            **options: The other arguments of `BucketedSequence`.

        Raises:
            TypeError: If `load` is not a function of a row index, or the signature not a `tf.TensorSpec` of numbers.
            ValueError: If lengths and signature do not fit together.

        Example:
            >>> files = [[1, 2, 3], [4], [5, 6]]  # as if each were a file
            >>> dataset = BucketedSequence.from_loader(
            ...     lambda row: files[row], [3, 1, 2], output_signature=tf.TensorSpec((None,), tf.int32), shuffle=False
            ... )
            >>> next(iter(dataset)).numpy().tolist()
            [[4, 0, 0], [5, 6, 0], [1, 2, 3]]

            New noise in every epoch, which can be reproduced:

            >>> def load(row, epoch):
            ...     return files[row] + np.random.default_rng([row, epoch]).normal(size=len(files[row]))
            >>> signature = tf.TensorSpec((None,), tf.float32)
            >>> dataset = BucketedSequence.from_loader(load, [3, 1, 2], output_signature=signature)
            >>> first, second = (next(iter(dataset)).numpy() for _ in range(2))
            >>> dataset.seek(epoch=1)
            >>> np.array_equal(next(iter(dataset)), second), np.array_equal(first, second)
            (True, False)
        """
        check_option_names(cls, options)
        x = loaded_sequences(load, lengths, output_signature, length_tolerance, num_parallel_loads)
        return cls(x, y, sample_weight, **options)

    @classmethod
    @explain_calls
    def from_dataframe(
        cls,
        frame: object,
        *,
        by: Any,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        static: Any = None,
        sort_by: Any = None,
        timestep_labels: bool = False,
        **options: Any,
    ) -> BucketedSequence:
        """Makes a dataset from a table in long format, with one row for each timestep: sensors, events, logs.

        The rows of a sequence may lie anywhere in the table. They are sorted once, and their values are copied once, as
        a block. Sequences come in the order of their first row. `row_keys` has their ids, and `frame_rows` the position
        of each timestep in the table, which takes predictions back to their rows. Missing or unclear entries are
        refused, with the row; rows are counted from 0, whatever the index of the table is.

        Args:
            frame: A pandas or polars DataFrame, or any table with `__arrow_c_stream__`, such as those of pyarrow and
                DuckDB, which are read through pyarrow.
            by: Str, the column that says which sequence a row belongs to; or a list of columns, which makes ids tuples.
                With pandas, it may be a level of the index. Categories without rows are ignored.
            x: Str, a column of numbers, for sequences `(length,)`; a list of columns, for sequences of vectors
                `(length, len(x))`; or a dict or tuple of them, for several leaves.
            y: Str, a column of numbers, the label of each sequence, constant within it; a list of columns, for labels
                that are vectors; or a dict or tuple of them, for several outputs. Defaults to None.
            sample_weight: The column of the weights of sequences, as `y`. Defaults to None.
            static: Str or a list, columns with one value per sequence that join `x` under their names; or a dict from
                names to columns, or lists of columns. If `x` is not a dict, it becomes `{"sequences": x, ...}`.
                Defaults to None.
            sort_by: Str or a list, the columns that order the rows of each sequence, such as a time. Two rows of a
                sequence must not be equal in them. Defaults to None: the order of the table.
            timestep_labels: Bool, whether `y` and `sample_weight` have one value per timestep. Defaults to False.
            **options: The other arguments of `BucketedSequence`.

        Raises:
            TypeError: If `frame` is not a table, or a column holds text (map it to ids with `pd.factorize`) or times.
            ValueError: If a column does not exist; if an entry or an id is missing (NaN too); if a label, weight or
                static value varies within a sequence; if two rows of a sequence are equal in `sort_by`.
            ImportError: If pyarrow is needed and missing; the extra `arrow` installs it.

        Example:
            >>> import pandas as pd
            >>> frame = pd.DataFrame(
            ...     {"id": list("babab"), "time": [1, 9, 2, 4, 3], "f1": [1, 20, 2, 10, 3], "label": [1, 0, 1, 0, 1]}
            ... )
            >>> dataset = BucketedSequence.from_dataframe(
            ...     frame, by="id", x="f1", y="label", sort_by="time", shuffle=False
            ... )
            >>> dataset.row_keys.tolist(), dataset.frame_rows.tolist()
            (['b', 'a'], [0, 2, 4, 3, 1])
            >>> sequences, labels = next(iter(dataset))
            >>> sequences.numpy().tolist(), labels.numpy().tolist()
            ([[10, 20, 0], [1, 2, 3]], [0, 1])
        """
        check_option_names(cls, options)
        timestep_labels = check_flag("timestep_labels", timestep_labels)
        found: list[FrameSequences] = []

        def read() -> Contents:
            found.append(sequences_of_frame(frame, by, x, y, sample_weight, static, sort_by, timestep_labels))
            return Contents((found[0].x, found[0].y, found[0].sample_weight))

        dataset = cls(Unread(read), **options)
        dataset._frame_rows = found[0].rows.truncate(options.get("maxlen"), options.get("truncating", "post"))
        return dataset

    # Some of the rows.

    def subset(self, rows: object, **options: Any) -> BucketedSequence:
        """Makes a dataset of some of the rows, which shares the data of this one.

        It has the options that this one was given, with the `sampling_weights` of its rows. Boundaries and everything
        else that was chosen automatically are chosen again for these rows. The outer and the inner sequence of nested
        buckets stay the same.

        Args:
            rows: Ints, indices into the input, in any order, repeated ones too; or a boolean mask `(len(x),)`. Row i of
                the new dataset is `rows[i]`. Rows that were dropped as empty stay dropped.
            **options: Arguments of `BucketedSequence` to change, e.g. `shuffle=False`.

        Returns:
            A dataset that begins with epoch 0. Its `row_keys` and `frame_rows` are those of its rows.

        Raises:
            TypeError: If `rows` are neither indices nor a mask, or an option is unknown.
            ValueError: If there are no rows, a mask has the wrong length, or an option needs values that this dataset
                has cut off (`maxlen`) or left out (`on_empty`).
            IndexError: If an index is out of range.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], y=[0, 1, 2], shuffle=False)
            >>> x, y = next(iter(dataset.subset([2, 0, 2])))
            >>> x.numpy().tolist(), y.numpy().tolist()
            ([[5, 6, 0], [5, 6, 0], [1, 2, 3]], [2, 2, 0])
        """
        check_option_names(BucketedSequence, options)
        indices = row_indices_of(rows, len(self._lengths), "rows")
        check_options_of_subset(self._given_options, options, self._stored.is_cut)
        merged = {**self._given_options, **options}
        if merged["sampling_weights"] is not None and "sampling_weights" not in options:
            merged["sampling_weights"] = np.asarray(merged["sampling_weights"])[indices]
        dataset = BucketedSequence(self._stored.take(indices), **merged)
        if self._frame_rows is not None:
            dataset._frame_rows = self._frame_rows.take(indices).truncate(merged["maxlen"], merged["truncating"])
        return dataset

    def split(
        self,
        fraction: float,
        *,
        stratify: object = None,
        groups: object = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> tuple[BucketedSequence, BucketedSequence]:
        """Holds out a fraction of the rows for validation: two datasets that share the data of this one.

        Both are subsets, with their rows in the order of the input; see `subset`. The second has `shuffle=False` and no
        `sampling_weights`, so `validation_data` is the same in every epoch. Rows that were dropped as empty are in
        neither.

        Args:
            fraction: Float between 0 and 1, the share of the rows to hold out: as many as with `validation_split` in
                `fit`.
            stratify: Values `(len(x),)`, such as classes: the held-out rows have the same share of each, to within a
                row. Defaults to None.
            groups: Values `(len(x),)`, such as persons: the rows of a group stay on one side. Whole groups are held
                out, about the fraction of the rows. Defaults to None.
            shuffle: Bool, whether the held-out rows are drawn at random. If False, they are the last ones (of each
                class, or the last groups), as with `validation_split`. Defaults to True.
            seed: Int, the seed of that draw. Defaults to 0.

        Returns:
            The dataset of the remaining rows, and the dataset of the held-out rows.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If one of the two would have no rows; if `stratify` or `groups` have no value for a row; if both
                are given.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6], [7]], shuffle=False)
            >>> rest, held_out = dataset.split(0.25, shuffle=False)
            >>> rest.lengths.tolist(), held_out.lengths.tolist()
            ([3, 1, 2], [1])
        """
        rows = np.arange(len(self._lengths)) if self._kept is None else self._kept
        shuffle = check_flag("shuffle", shuffle)
        rest, held_out = rows_to_hold_out(rows, fraction, stratify, groups, shuffle, seed, len(self._lengths))
        every_row = {"shuffle": False, "sampling_weights": None, "rows_per_epoch": None}
        return self.subset(rest), self.subset(held_out, **every_row)

    # The interface of tf.data.

    def __iter__(self) -> Iterator[Any]:
        """Begins a pass; batches that Keras reads to build a model do not count as one."""
        if is_symbolic_build():
            return self._preview()
        iterator: Iterator[Any] = super().__iter__()
        return counting_iterator(iterator, self._counter) if tf.executing_eagerly() else iterator

    def _preview(self) -> Iterator[Any]:
        """The batches of the next pass, without beginning it."""
        epoch, first_batch, seed = (tf.constant(at, tf.int64) for at in (*self._counter.next_position, self.seed))
        with tf.device("CPU:0"):
            rows, cuts = self._planner.tensors.batches(epoch, first_batch, seed)
            for cut in zip(*cuts, strict=True):
                yield self._gatherer(rows, Cut(*cut), epoch)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} cannot be pickled or copied: its data live in TensorFlow's memory. Create it "
            "again from the same data and options, and pass its position on with state_dict() and load_state_dict()."
        )

    # Its figures.

    @property
    def num_batches(self) -> int:
        """The number of batches of every epoch."""
        return self._planner.num_batches

    @property
    def num_sequences(self) -> int:
        """The number of sequences of every epoch, on all shards, before any are left out of the last batch."""
        if self._draws is not None:
            return self._draws.num_draws
        return len(self._lengths) if self._kept is None else len(self._kept)

    @property
    def lengths(self) -> Lengths:
        """Int array `(len(x),)`: timesteps, in the order of the input; 0 for a row that was dropped as empty."""
        return self._lengths.copy()

    @property
    def row_keys(self) -> np.ndarray | None:
        """Array `(len(x),)`: the id of each sequence of `from_dataframe`; None for other data."""
        return None if self._frame_rows is None else self._frame_rows.keys.copy()

    @property
    def frame_rows(self) -> RowIndices | None:
        """Int array, the table position of each timestep of `from_dataframe`, row by row; None for other data."""
        return None if self._frame_rows is None else self._frame_rows.frame_rows.copy()

    @property
    def bucket_boundaries(self) -> BucketBoundaries:
        """Bucket i holds `boundaries[i - 1] <= length < boundaries[i]`; of nested buckets `[outer, [inner, ...]]`."""
        return deepcopy(self._buckets.boundaries)

    @property
    def bucket_batch_sizes(self) -> list[int]:
        """The rows of a full batch for each bucket, on all shards."""
        return list(self._buckets.batch_sizes)

    def epoch_plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch, as row indices into the input: exactly those that the epoch yields.

        Args:
            epoch: Int, at least 0.

        Raises:
            TypeError: If `epoch` is not an integer.
            ValueError: If it is negative.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False)
            >>> [rows.tolist() for rows in dataset.epoch_plan(0)]
            [[1, 2], [0]]
        """
        plan = self._planner.plan(check_integer("epoch", epoch, minimum=0), self.seed).of_shard(self._shard)
        return plan if self._kept is None else plan.renumbered(self._kept, len(self._lengths))

    def padding_stats(self, epoch: int = 0) -> PaddingStats:
        """The padding of an epoch, on this shard: every ragged leaf of `x`, and labels of their own length.

        Args:
            epoch: Int, at least 0. Defaults to 0.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False)
            >>> dataset.padding_stats().real_timesteps, dataset.padding_stats().total_timesteps
            (6, 7)
        """
        return padding_of_plan(self.epoch_plan(epoch), self._leaf_lengths)

    def newest_pass(self) -> PassPosition:
        """The newest pass that has yielded a batch, for a custom training loop; `fit` does not need it.

        With prefetching, as in `dataset.prefetch(...)`, a pass may begin before the one before it has been consumed.

        Returns:
            A `PassPosition`, a named tuple. Its `number` counts the passes from 1 on (0 before the first). `epoch` is
            the epoch that the pass reads. `first_batch` is the batch of that epoch with which the pass began: 0, except
            after `seek` or `load_state_dict`.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=1, shuffle=False)
            >>> dataset.seek(epoch=3, batch=2)
            >>> for batch in dataset:
            ...     pass  # a training step
            >>> dataset.newest_pass()
            PassPosition(number=1, epoch=3, first_batch=2)
        """
        return self._counter.newest_pass()

    def pass_stats(self, position: PassPosition, start: int, stop: int) -> PaddingStats:
        """The padding of some batches of a pass, for a custom training loop; `fit` has `PaddingStatsCallback`.

        Args:
            position: The pass, from `newest_pass`.
            start: Int, the first batch, counted from where the pass began.
            stop: Int, one after the last batch. Batches beyond the end of the epoch do not count.

        Returns:
            The `PaddingStats` of those batches, on this shard.

        Example:
            The first batch of a pass, and all of it:

            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False)
            >>> for batch in dataset:
            ...     pass  # a training step
            >>> newest = dataset.newest_pass()
            >>> dataset.pass_stats(newest, 0, 1).padding_efficiency
            0.75
            >>> dataset.pass_stats(newest, 0, 2) == dataset.padding_stats(newest.epoch)
            True
        """
        first = position.first_batch
        return padding_of_plan(self.epoch_plan(position.epoch), self._leaf_lengths, first + start, first + stop)

    def summary(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Prints the buckets as a table: lengths, sequences, rows per batch, and the padding of epoch 0, all leaves.

        Args:
            print_fn: Function that takes the text. Defaults to `print`.

        Example:
            >>> keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2, shuffle=False).summary()
            lengths  sequences  rows a batch  batches  padding efficiency
            1 - 3            3             2        2               0.857
            all              3                      2               0.857
        """
        (print_fn or print)(summarize_buckets(self._buckets, self.padding_stats(), self._outliers))

    def plot(self, ax: Any = None) -> Any:
        """Draws the histogram of the lengths, the buckets, and the padding that each bucket leaves.

        A row with several sequences counts with its longest; the padding is that of all of them. Nested buckets are
        drawn as rectangles over the lengths of their two leaves, the bluer the more rows they have.

        Args:
            ax: A Matplotlib axes. Defaults to None: a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: If Matplotlib is missing; the extra `plot` installs it.
        """
        from keras_bucketing.padding.pictures import plot_buckets, plot_nested_buckets

        stats = self.padding_stats()
        if self._buckets.levels:
            leaves = {leaf.name: leaf.lengths for leaf in self._row_lengths.leaves}
            return plot_nested_buckets(leaves, self._buckets, stats, ax=ax)
        return plot_buckets(
            self._lengths[self._typical_rows()], self.bucket_boundaries, self.bucket_batch_sizes, stats, ax=ax
        )

    def plot_epoch(self, epoch: int = 0, ax: Any = None, *, max_batches: int = 40) -> Any:
        """Draws the batches of an epoch as boxes. Rows are filled as far as they are real; the rest is padding.

        A row with several sequences counts with its longest.

        Args:
            epoch: Int, at least 0. Defaults to 0.
            ax: A Matplotlib axes. Defaults to None: a new figure.
            max_batches: Int, the maximum number of batches to draw, evenly spaced over the epoch. Defaults to 40.

        Returns:
            The axes.

        Raises:
            TypeError: If `epoch` or `max_batches` is not an integer.
            ValueError: If `epoch` is negative, or `max_batches` below 1.
            ImportError: If Matplotlib is missing; the extra `plot` installs it.
        """
        from keras_bucketing.padding.pictures import plot_epoch

        max_batches = check_integer("max_batches", max_batches)
        plan = self.epoch_plan(epoch)
        efficiency = padding_of_plan(plan, self._leaf_lengths).padding_efficiency
        boundaries = None if self._buckets.levels else self.bucket_boundaries
        return plot_epoch(plan, self._lengths, boundaries, efficiency, max_batches, ax=ax)

    def __repr__(self) -> str:
        """One line with the figures of the dataset; no data are read."""
        if not hasattr(self, "_batches"):  # in the middle of the constructor
            return object.__repr__(self)
        seed, stats = self._stats_in_repr or (None, None)
        if stats is None or seed != self.seed:
            with tf.init_scope():  # also while a function is traced
                seed, stats = self._stats_in_repr = self.seed, self.padding_stats()
        lengths = self._lengths if self._kept is None else self._lengths[self._kept]
        return (
            f"<{type(self).__name__}: {count_of(self.num_sequences, 'sequence')} of {lengths.min()} to {lengths.max()} "
            f"timesteps, {count_of(len(self._buckets.batch_sizes), 'bucket')}, "
            f"{count_of(self.num_batches, 'batch', 'batches')}, padding efficiency {stats.padding_efficiency:.3f}>"
        )

    # Its position.

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Makes the next pass begin at this position, without producing what comes before.

        That pass ends with its epoch, so it is shorter by `batch` batches. Later passes are whole.

        Args:
            epoch: Int, at least 0.
            batch: Int, from 0 to `num_batches`, which is the start of the next epoch. Defaults to 0.

        Raises:
            TypeError: If one of them is not an integer.
            ValueError: If one of them is out of range.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=1, shuffle=False)
            >>> dataset.seek(epoch=3, batch=2)
            >>> [batch.numpy().tolist() for batch in dataset], dataset.epoch
            ([[[1, 2, 3]]], 4)
        """
        self._counter.seek(*self._check_position(epoch, batch))

    def state_dict(self, epoch: int | None = None, batch: int = 0) -> dict[str, Any]:
        """The position, and what identifies the dataset, as a small dictionary for JSON.

        It is the same on all shards, and a run with another number of shards can continue with it: see
        `load_state_dict`.

        Prefetching runs ahead of the model, so within an epoch only the consumer of the batches knows the position:
        pass `epoch` and `batch`. `BackupAndRestoreSequence` does this for `fit`.

        A `tf.train.Checkpoint(iterator)` does not work: TensorFlow refuses to save an iterator over this dataset, as a
        restored one would read another epoch ("ReadVariableOp is stateful", "GeneratorDataset does not support
        checkpointing"). Save the `state_dict` as JSON next to the checkpoint of the model.

        Args:
            epoch: Int, the epoch of the next batch to consume. Defaults to None: the position of the next pass.
            batch: Int, the next batch of that epoch. Defaults to 0.

        Raises:
            TypeError: If one of them is not an integer.
            ValueError: If one of them is out of range.
        """
        if epoch is None:
            epoch, batch = self._counter.next_position
        return self._identity.state(*self._check_position(epoch, batch), self.seed)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next pass begin at a saved position, with the saved seed if none was given.

        The number of shards may differ: four hosts can continue what two began. `batch_size_multiple` x `num_shards`
        must stay the same, e.g. a multiple of 4 on one host, 2 on two and 1 on four. It may differ only if the batches
        of every epoch are the same nevertheless.

        Args:
            state: What `state_dict` returned, for a dataset of the same data and options.

        Raises:
            ValueError: If it is not such a state, or that of other data or options; the message says which
                `batch_size_multiple` would fit.

        Example:
            >>> x = [[1, 2, 3], [4], [5, 6], [7, 8]]
            >>> alone = keras_bucketing.BucketedSequence(x, batch_size=2, batch_size_multiple=2, seed=1)
            >>> shard = keras_bucketing.BucketedSequence(x, batch_size=2, num_shards=2, shard_index=1, seed=1)
            >>> shard.load_state_dict(alone.state_dict(epoch=3, batch=1))
            >>> shard.epoch, shard.next_first_batch
            (3, 1)
        """
        epoch, batch, seed = self._identity.check(state, self.seed, self._seed_was_given)
        self._counter.seek(*self._check_position(epoch, batch), seed)

    # Predictions in the order of the input.

    def predict(self, model: keras.Model, *, lengths: object = None, **options: Any) -> Any:
        """Predicts every row, on any backend, and returns the predictions in the order of the input.

        It reads all rows once, sorted by length, with the batch sizes and the padding of the dataset; shuffling and
        rows that epochs leave out do not matter. `epoch`, `state_dict` and statistics of the dataset do not change,
        even in the middle of an epoch.

        An output has one value per timestep if it grows when a batch is padded further, which is tried once. Its rows
        are cut to the sequence that it grows with, and so is every other axis that grows, such as that of attention
        scores. An output of another length, e.g. of a model with strides, is refused unless `lengths` says how long its
        rows are. Stateful layers are reset before each batch, and their states are restored.

        Args:
            model: A Keras model. It need not be compiled.
            lengths: How long the rows of an output are: the name of a sequence in `x` (a tuple of keys if it is
                nested), ints `(num_sequences,)` in timesteps, or False for an output with values of a row. One for all
                outputs with a time axis, or a dict or list like the outputs, with None for those to be found
                automatically. Defaults to None.
            **options: `verbose` and `callbacks`, as in `keras.Model.predict`.

        Returns:
            An array `(num_sequences, ...)` for an output with values of a row; a list of `num_sequences` arrays
            `(length, ...)` for one with values per timestep. For several outputs, a dict or list like the model's.

        Raises:
            TypeError: If `model` is not a Keras model, `lengths` is something else, or an option is unknown.
            ValueError: If rows were dropped as empty, or `num_shards` is above 1; if `steps` or `batch_size` are given;
                if `lengths` does not fit, or is needed.
            RuntimeError: If a callback stops the prediction.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], batch_size=2)
            >>> token_ids = keras.Input((None,), dtype="int32")
            >>> dataset.predict(keras.Model(token_ids, token_ids + 1), verbose=0)
            [array([2, 3, 4], dtype=int32), array([5], dtype=int32), array([6, 7], dtype=int32)]
            >>> dataset.predict(keras.Model(token_ids, keras.ops.sum(token_ids, axis=1)), verbose=0)
            array([ 6,  4, 11], dtype=int32)
        """
        check_can_predict(model, options, self._shard.num_shards, self._kept, len(self._lengths))
        buckets, rules = self._buckets, self._batch_rules
        if self._draws is not None:  # its buckets are those of the rows that may be drawn
            buckets = self._choose_buckets(None, buckets.boundaries, None, self._stored.levels)
        cuts = cut_batches(buckets, remainder="spill", multiple=1)
        planner = EpochPlanner(
            self._row_lengths, buckets, cuts, rules.pad_to_bucket_boundary, shuffle=False, minlen=rules.min_length
        )
        batches = chosen_batches(self._gatherer, planner.tensors.sorted_rows, planner.tensors.cuts)
        return predict(model, batches, planner.plan(0, 0), self._sequences(), lengths, **options)

    def restore_order(self, outputs: object, lengths: object = None) -> Any:
        """Puts the predictions of `model.predict(dataset)` back into the order of the input.

        It undoes the order of the newest pass, so call it right after `model.predict(dataset)`.
        `dataset.predict(model)` does both, without that restriction. The type of the result depends on the arguments,
        never on the data.

        Args:
            outputs: What `model.predict(dataset)` returned: an array `(num_sequences, ...)`, or a `tf.RaggedTensor`
                (predictions per timestep, under TensorFlow), or a dict or list of them.
            lengths: How long the rows of an output are: the name of a sequence in `x` (a tuple of keys if it is
                nested), ints `(num_sequences,)` in timesteps, or False for an output with values of a row. One for all
                outputs, or a dict or list like them. Defaults to None: a `tf.RaggedTensor` is cut to the sequence that
                it is padded like, and an array holds values of a row.

        Returns:
            The same structure, in which row i belongs to `x[i]`. An output is a list of arrays `(length, ...)` if it
            was a `tf.RaggedTensor` or its rows have a length by `lengths`, else an array.

        Raises:
            TypeError: If `outputs` holds something other than arrays, or `lengths` is something else.
            ValueError: If there is not one row for each sequence, or the epoch leaves rows out or draws them by
                weights; if the dataset shuffles and its newest pass did not reach its end; if an output is shorter than
                its row; if the second axis of an array is as long as all batches are padded and `lengths` does not say
                what it is.

        Example:
            >>> dataset = keras_bucketing.BucketedSequence([[1, 2, 3], [4], [5, 6]], shuffle=False)
            >>> dataset.restore_order(np.array([[10.0], [20.0], [30.0]])).tolist()
            [[30.0], [10.0], [20.0]]
            >>> predictions = np.array([[4, 0, 0], [5, 6, 0], [1, 2, 3]])
            >>> [row.tolist() for row in dataset.restore_order(predictions, lengths=dataset.lengths)]
            [[1, 2, 3], [4], [5, 6]]
        """
        if self._draws is not None:
            raise ValueError(
                "The input's order cannot be restored: with sampling_weights or rows_per_epoch an epoch draws rows, "
                "some of them twice and others not at all. dataset.predict(model) predicts every row once."
            )
        plan = self.epoch_plan(self.newest_pass().epoch)
        was_read = not self._plan_options["shuffle"] or self._counter.is_read_to_end(self.num_batches)
        return restore_order(outputs, plan, self._sequences(), lengths, was_read)

    def _sequences(self) -> Sequences:
        """The sequences in the `x` of a batch, for predictions of each timestep."""
        paths = self._gatherer.sequence_paths()
        lengths = list(self._leaf_lengths.values())[: len(paths)]
        given = self._gatherer.sequence_paths(as_given=True)
        return Sequences(paths, given, lengths, self._lengths, self._padding_value)

    def _find_outliers(self, leaves: Sequence[LeafLengths], cuts: BatchCuts) -> Outliers | None:
        """Those of epoch 0 with the seed 0, so that they do not depend on the seed."""
        if self._draws is None and not may_have_outliers(leaves, self._buckets, cuts):
            return None
        plan = self._planner.plan(epoch=0, seed=0)
        if self._draws is not None:  # one in a hundred of the rows may be half of the draws
            leaves = [replace(leaf, lengths=leaf.lengths[plan.rows]) for leaf in leaves]
        outliers = outliers_of_plan(plan, leaves, self._buckets, self._batch_rules)
        if outliers is None:
            return None
        if self._draws is not None:
            outliers = outliers.of_distinct_rows(plan.rows)
        return outliers if self._kept is None else outliers._replace(rows=self._kept[outliers.rows])

    def _choose_buckets(
        self,
        sampling: Sampling | None,
        bucket_boundaries: object,
        num_buckets: object,
        levels: Sequence[str],
        bucket_batch_sizes: list[int] | None = None,
    ) -> Buckets:
        """The buckets of the rows that may be drawn, or of all rows; with these sizes instead of the dataset's."""
        rules, lengths, names = self._batch_rules, self._row_lengths, self._kept
        if sampling is not None:
            lengths, names = lengths.of_rows(sampling.rows), sampling.rows if names is None else names[sampling.rows]
        sizing = self._sizing
        if bucket_batch_sizes is not None:
            sizing = BatchSizing(None, bucket_batch_sizes, None, sizing.multiple)
        return choose_buckets(
            lengths.longest.astype(np.int64),
            sizing,
            bucket_boundaries,
            num_buckets,
            rules.pad_to_bucket_boundary,
            names,
            rules.min_length,
            rules.remainder,
            leaves=lengths.leaves,
            sampling=sampling,
            levels=levels,
        )

    def _draws_of_buckets(self) -> RowDraws | None:
        if self._sampling is None:
            return None
        return RowDraws.of(self._sampling, self._buckets.row_buckets, self._buckets.counts)

    def _typical_rows(self) -> RowIndices:
        """The rows of an average epoch, as indices into the input, the shortest first."""
        longest = self._row_lengths.longest
        if self._sampling is None:
            rows = np.argsort(longest, kind="stable")
        else:
            buckets, weights = self._buckets, self._sampling.weights
            expected = expected_draws(weights, buckets.row_buckets, buckets.counts)
            rows = self._sampling.rows[typical_rows(longest[self._sampling.rows], expected)]
        return rows if self._kept is None else self._kept[rows]

    def _check_position(self, epoch: object, batch: object) -> tuple[int, int]:
        epoch, batch = check_integer("epoch", epoch, minimum=0), check_integer("batch", batch, minimum=0)
        if batch > self.num_batches:
            raise ValueError(
                f"`batch` is out of range. Expected 0 to {self.num_batches}, the batches of an epoch, received {batch}."
            )
        return (epoch + 1, 0) if batch == self.num_batches else (epoch, batch)

    def _passes_apart(self) -> tf.data.Dataset:
        """The passes of this dataset from epoch 0 on, but they are none of its own."""
        return batch_stream(PassCounter(self.seed), self._planner, self._gatherer)

    def _batches_of_rows(self, batches: Sequence[RowIndices]) -> tf.data.Dataset:
        """Batches of given rows, as this dataset would yield them, outside any pass.

        Args:
            batches: For each batch the row indices into the input, none of them dropped as empty.
        """
        rows = np.concatenate(batches)
        sizes = np.array([[len(rows)] for rows in batches])
        if self._kept is not None:
            rows = np.searchsorted(self._kept, rows)
        min_lengths = np.tile(self._min_lengths, (len(sizes), 1))
        return chosen_batches(self._gatherer, rows, Cut(np.cumsum(sizes, axis=0) - sizes, sizes, min_lengths))


_OPTION_NAMES = [
    name
    for name, parameter in inspect.signature(BucketedSequence.__init__).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
]


def _fingerprint_bytes(gatherer: BatchGatherer, draws: RowDraws | None) -> Iterator[bytes]:
    """The bytes that identify the data and the sampling weights."""
    yield from gatherer.fingerprint_bytes()
    if draws is not None:
        yield from draws.fingerprint_bytes()


def _as_plain(padding_value: Any) -> Any:
    """A padding value as saved in a state: a float, or floats of the shape of a timestep."""
    return padding_value.tolist() if isinstance(padding_value, np.ndarray) else float(padding_value)
