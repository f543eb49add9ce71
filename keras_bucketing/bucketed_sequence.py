"""BucketedSequence: ragged arrays in, length-bucketed and padded batches out, as a `tf.data.Dataset`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_bucketing.pipeline.batch_gather import BatchGatherer
from keras_bucketing.planning.buckets import check_sizing, choose_buckets
from keras_bucketing.checks import INT64_MAX, check_choice, check_flag, check_integer
from keras_bucketing.planning.epoch_plan import EpochPlanner, cut_batches
from keras_bucketing.inputs.collect import (
    check_padding_value,
    check_room_for_lengths,
    collect_inputs,
    handle_empty,
    truncate,
)
from keras_bucketing.inputs.padded import labels_from_padded, ragged_from_padded
from keras_bucketing.planned_dataset import PlannedDataset
from keras_bucketing.planned_epochs import PlannedEpochs
from keras_bucketing.inputs.ragged import ragged_from_row_splits
from keras_bucketing.planning.sizing import check_shard


class BucketedSequence(PlannedDataset):
    """Batches of sequences of similar length, padded, masked by lengths, shuffled anew each epoch.

    A `tf.data.Dataset` over data in memory: `model.fit(BucketedSequence(x, y))`. Its length is known, `seed` reproduces
    its order, and all of it runs in the TensorFlow graph. Padding is on the right, as cuDNN needs it. `map`, `take`,
    `prefetch` and the like return plain Datasets: hold on to this object for its statistics.

    The ideas come from `tf.data.Dataset.bucket_by_sequence_length` (names), OpenNMT-tf and fairseq
    (`max_timesteps_per_batch`, `batch_size_multiple`) and lhotse (statistics); the boundaries are those of
    `optimal_bucket_boundaries`.

    Args:
        x: The sequences: a list, object array or pandas Series of arrays `(length, *features)` or of lists, a
            `tf.RaggedTensor`, a pyarrow list column or an awkward array. Or a dict or tuple of such leaves and of
            arrays `(num_sequences, ...)` with one value a sequence. Float64 becomes `keras.config.floatx()`.
        y: Labels: an array `(num_sequences, ...)`, or a dict or tuple of them for several outputs. A ragged leaf, as
            long as the sequences, holds one label a timestep: it is padded with `label_padding_value`, and the sample
            weight `(batch, time)` is 1 on real and 0 on padded timesteps. Use such labels with
            `reduction="mean_with_sample_weight"` in the loss, so that padding does not lower the mean. Keras refuses
            `class_weight` next to them. Defaults to None.
        sample_weight: Weights `(num_sequences,)`, or ragged with one weight a timestep, or one of them for each output.
            Defaults to None.
        batch_size: Int, rows of every batch, of all shards together. Defaults to 32 where no size is given.
        bucket_batch_sizes: Ints, rows, one for each bucket, as in tf.data. Defaults to None.
        max_timesteps_per_batch: Int, the most cells of a batch: rows x padded length, padding included. Defaults to
            None.
        batch_size_multiple: Int, every batch's rows are a multiple of it: the number of replicas, or 8 for tensor
            cores. Fewer rows than that may be left out of an epoch. Defaults to 1.
        bucket_boundaries: Ints: bucket i holds `boundaries[i - 1] <= length < boundaries[i]`, in timesteps, as in
            tf.data. Defaults to None: those that leave the least padding.
        num_buckets: Int, how many buckets to choose where `bucket_boundaries` is None. Defaults to None: as few as
            reach 95 % padding efficiency, at most 32, none with fewer rows than its batch.
        pad_to_bucket_boundary: Bool, whether to pad to the longest length that the bucket allows: more padding, but at
            most one shape a bucket and one more, so that XLA compiles no oftener. Defaults to False.
        padding_value: Number behind the end of a sequence. Defaults to 0.
        label_padding_value: Number behind the end of per-timestep labels. Defaults to 0.
        maxlen: Int, cut longer sequences to it, in timesteps. Defaults to None.
        truncating: "post" cuts a sequence's end, "pre" its beginning. Defaults to "post".
        on_empty: "raise" refuses sequences without timesteps, "drop" leaves them out, "keep" gives them one timestep of
            `padding_value`. Defaults to "raise".
        include_lengths: Bool, whether `x` becomes `{"sequences": x, "lengths": lengths}` with int32 lengths `(batch,)`;
            a dict gains the key "lengths", and with several ragged leaves `"<name>_lengths"` for each. In a tuple or a
            nested dict with several, there are only the lengths of each row's longest. Defaults to False.
        remainder: What becomes of rows that do not fill a batch of their bucket. "spill" puts them into the next longer
            one, so that one batch an epoch is partial; "keep" makes one partial batch a bucket, as tf.data does; "drop"
            leaves them out. Defaults to "spill".
        shuffle: Bool, whether rows inside their bucket and batches are shuffled, anew each epoch. If not, rows are
            sorted by length. Defaults to True.
        seed: Int, the same seed gives the same batches, epoch for epoch, in every process. Defaults to None: drawn from
            Python's `random`, which `keras.utils.set_random_seed` sets.
        num_shards: Int, how many processes share each batch: shard s takes its rows s, s + num_shards, ... All have the
            same number of batches, with the same padded lengths. Needs a `seed`. Defaults to 1.
        shard_index: Int, which shard this is. Defaults to 0.

    Attributes:
        num_batches: Int, the batches of every epoch.
        num_sequences: Int, the sequences of every epoch, on all shards.
        lengths: Int array, one entry for each sequence of the input, in timesteps; 0 for one that was dropped as empty.
        bucket_boundaries: Ints, in timesteps.
        bucket_batch_sizes: Ints, rows, one for each bucket.
        epoch: Int, the epoch that the next pass reads.
        seed: Int, the seed in use.

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

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        bucket_batch_sizes: Sequence[int] | None = None,
        max_timesteps_per_batch: int | None = None,
        batch_size_multiple: int = 1,
        bucket_boundaries: Sequence[int] | None = None,
        num_buckets: int | None = None,
        pad_to_bucket_boundary: bool = False,
        padding_value: float = 0,
        label_padding_value: float = 0,
        maxlen: int | None = None,
        truncating: str = "post",
        on_empty: str = "raise",
        include_lengths: bool = False,
        remainder: str = "spill",
        shuffle: bool = True,
        seed: int | None = None,
        num_shards: int = 1,
        shard_index: int = 0,
    ):
        check_choice("remainder", remainder, ("spill", "keep", "drop"))
        check_choice("truncating", truncating, ("post", "pre"))
        check_flag("include_lengths", include_lengths)
        check_flag("pad_to_bucket_boundary", pad_to_bucket_boundary)
        seed_was_given = seed is not None
        seed = check_integer("seed", seed, minimum=0, maximum=INT64_MAX) if seed_was_given else random.randrange(2**31)
        shard = check_shard(num_shards, shard_index, needs_seed=check_flag("shuffle", shuffle) and not seed_was_given)
        sizing = check_sizing(
            batch_size, bucket_batch_sizes, max_timesteps_per_batch, batch_size_multiple, shard.num_shards
        )
        inputs = collect_inputs(x, y, sample_weight)
        if maxlen is not None:
            inputs = truncate(inputs, check_integer("maxlen", maxlen), truncating)
        check_padding_value("padding_value", padding_value, inputs.x)
        check_padding_value("label_padding_value", label_padding_value, inputs.y)
        inputs = handle_empty(inputs, on_empty, padding_value)
        if include_lengths:
            check_room_for_lengths(inputs.x)

        buckets = choose_buckets(
            inputs.lengths, sizing, bucket_boundaries, num_buckets, pad_to_bucket_boundary, inputs.kept
        )
        cuts = cut_batches(buckets, remainder, sizing.multiple)
        lengths = inputs.lengths.astype(np.int32)
        planner = EpochPlanner(lengths, buckets, cuts, pad_to_bucket_boundary, shuffle)
        pads_further = pad_to_bucket_boundary or on_empty == "keep"
        super().__init__(
            epochs=PlannedEpochs(planner, lengths, shard, inputs.kept, inputs.num_given),
            buckets=buckets,
            gatherer=BatchGatherer(inputs, padding_value, label_padding_value, include_lengths, pads_further, shard),
            seed=seed,
            seed_was_given=seed_was_given,
            options={
                "boundaries": buckets.boundaries,
                "batch_sizes": buckets.batch_sizes,
                "multiple": sizing.multiple,
                "pad_to_bucket_boundary": bool(pad_to_bucket_boundary),
                "padding_values": (float(padding_value), float(label_padding_value)),
                "include_lengths": bool(include_lengths),
                "num_shards": shard.num_shards,
                "remainder": remainder,
                "shuffle": bool(shuffle),
            },
        )

    @classmethod
    def from_row_splits(
        cls, values: Any, row_splits: Any, y: Any = None, sample_weight: Any = None, **options: Any
    ) -> BucketedSequence:
        """Makes a data set from flat values and row splits, as `tf.RaggedTensor.from_row_splits` does.

        The values are copied once as a block, never row by row.

        Args:
            values: Array `(num_values, *features)`, the timesteps of all sequences behind one another.
            row_splits: Integers `(num_sequences + 1,)`: sequence i is `values[row_splits[i]:row_splits[i + 1]]`.
            y: As of `BucketedSequence`.
            sample_weight: As of `BucketedSequence`.
            **options: The other arguments of `BucketedSequence`.

        Raises:
            TypeError: If the splits are not integers.
            ValueError: If the splits do not start at 0, decrease, or do not end at the number of values.

        Example:
        >>> dataset = BucketedSequence.from_row_splits([1, 2, 3, 4, 5, 6], [0, 3, 4, 6], shuffle=False)
        >>> next(iter(dataset)).numpy().tolist()
        [[4, 0, 0], [5, 6, 0], [1, 2, 3]]
        """
        return cls(ragged_from_row_splits(values, row_splits), y, sample_weight, **options)

    @classmethod
    def from_padded(
        cls,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        lengths: Any = None,
        mask_value: float = 0,
        padding: str = "post",
        timestep_labels: bool | None = None,
        **options: Any,
    ) -> BucketedSequence:
        """Makes a data set from an array that is already padded, e.g. by `keras.utils.pad_sequences`.

        Args:
            x: Array `(num_sequences, time, *features)`.
            y: As of `BucketedSequence`. An array `(num_sequences, time, ...)` that is padded like `x` holds one label a
                timestep; see `timestep_labels`.
            sample_weight: As of `BucketedSequence`; padded like `x` where `y` is.
            lengths: Ints `(num_sequences,)`, the real timesteps. Defaults to None: all but the run of timesteps at the
                padded end in which every feature equals `mask_value`.
            mask_value: Number that the padding holds. Defaults to 0.
            padding: "post" or "pre": at which end the padding is. `pad_sequences` pads "pre" unless told otherwise.
                Defaults to "post".
            timestep_labels: Bool, whether arrays `(num_sequences, time, ...)` in `y` and `sample_weight` hold one value
                a timestep, or `time` values a row, as one-hot labels do. Defaults to None: one a timestep if they hold
                one constant where `x` is padded; an error otherwise.
            **options: The other arguments of `BucketedSequence`.

        Raises:
            TypeError: If `x` is no array of numbers.
            ValueError: If the shapes or lengths do not fit, or if it is not clear what `y` holds.

        Example:
        >>> padded = keras.utils.pad_sequences([[1, 2, 3], [4], [5, 6]])
        >>> dataset = BucketedSequence.from_padded(padded, padding="pre", shuffle=False)
        >>> next(iter(dataset)).numpy().tolist()
        [[4, 0, 0], [5, 6, 0], [1, 2, 3]]
        """
        sequences = ragged_from_padded(x, lengths, mask_value, padding)
        if timestep_labels is not None:
            check_flag("timestep_labels", timestep_labels)
        y, sample_weight = (
            labels_from_padded(labels, sequences.lengths, np.shape(x)[1], padding, timestep_labels, name)
            for name, labels in (("y", y), ("sample_weight", sample_weight))
        )
        return cls(sequences, y, sample_weight, **options)
