"""Any dataset of padded batches, made readable for `PaddingStatsCallback`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_bucketing.monitoring.counted_dataset import CountedDataset
from keras_bucketing.monitoring.monitored_dataset import MonitoredDataset
from keras_bucketing.monitoring.monitored_py_dataset import MonitoredPyDataset
from keras_bucketing.planning.boundaries import check_boundaries


def monitor_padding(
    dataset: Any, mask_value: Any = 0, *, sequences: Any = None, bucket_boundaries: list[int] | None = None
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
        A `tf.data.Dataset` or a `keras.utils.PyDataset` that yields the same batches. A `BucketedSequence` knows its
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
