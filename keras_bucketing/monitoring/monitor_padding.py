"""Any dataset of padded batches, made readable for `PaddingStatsCallback`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_bucketing.checks import check_choice
from keras_bucketing.monitoring.batch_log import Batch, EntryKeys, MaskValue
from keras_bucketing.monitoring.counted_dataset import CountedDataset
from keras_bucketing.monitoring.monitored_dataset import MonitoredDataset
from keras_bucketing.monitoring.monitored_generator import MonitoredGenerator, is_source_of_batches
from keras_bucketing.monitoring.monitored_py_dataset import MonitoredPyDataset
from keras_bucketing.planning.boundaries import check_boundaries
from keras_bucketing.unpadding.spans import SIDES, check_mask_value


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
