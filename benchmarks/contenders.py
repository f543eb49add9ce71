"""What people use today, each set up as its own documentation recommends.

- tf.data (https://www.tensorflow.org/guide/data_performance): `AUTOTUNE` parallel calls, and `AUTOTUNE` prefetch at the
  end. Sequences come as slices of a `tf.RaggedTensor`, the fastest of the ways tried (the others: `from_generator` one
  by one, slicing the flat values in a map function). `shuffle` before batching with a buffer of 2,000 elements.
- `keras.utils.PyDataset` (https://keras.io/api/utils/python_utils/#pydataset-class): a shuffled permutation,
  `keras.utils.pad_sequences` for each batch, a new shuffle in `on_epoch_end`. `fit` reads it through `from_generator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from benchmarks.sequences import Sequences
from keras_bucketing import BucketedStream

SHUFFLE_BUFFER = 2_000


def bucket_by_sequence_length(
    sequences: Sequences, batch_sizes: Sequence[int], boundaries: Sequence[int]
) -> tf.data.Dataset:
    """tf.data's own bucketing."""
    bucketed = _shuffled_rows(sequences).bucket_by_sequence_length(
        lambda x, y: tf.shape(x)[0], bucket_boundaries=boundaries, bucket_batch_sizes=batch_sizes
    )
    return bucketed.prefetch(tf.data.AUTOTUNE)


def bucketed_stream(sequences: Sequences, batch_size: int) -> BucketedStream:
    """A stream over the rows that `bucket_by_sequence_length` gets."""
    return BucketedStream(_shuffled_rows(sequences), batch_size=batch_size, seed=0)


def bucketed_stream_of_generator(sequences: Sequences, batch_size: int, seed: int = 0) -> BucketedStream:
    """A stream over a generator function that yields the shuffled rows which `from_generator` buckets by hand."""
    arrays, labels = sequences.arrays, sequences.labels
    random = np.random.default_rng(seed)

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in random.permutation(len(arrays)):
            yield arrays[row], labels[row]

    return BucketedStream(rows, batch_size=batch_size, seed=0)


def shuffled_padded_batch(sequences: Sequences, batch_size: int) -> tf.data.Dataset:
    """Batches of random sequences, each padded to its longest."""
    return _shuffled_rows(sequences).padded_batch(batch_size).prefetch(tf.data.AUTOTUNE)


def from_generator(sequences: Sequences, batch_size: int, seed: int = 0) -> tf.data.Dataset:
    """Bucketing by hand: a Python generator sorts shuffled chunks of 100 batches by length and pads with NumPy."""
    arrays, labels, lengths = sequences.arrays, sequences.labels, sequences.lengths
    features = sequences.values.shape[1:]
    random = np.random.default_rng(seed)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = random.permutation(len(arrays))
        for start in range(0, len(order), 100 * batch_size):
            chunk = order[start : start + 100 * batch_size]
            chunk = chunk[np.argsort(lengths[chunk])]
            starts = np.arange(0, len(chunk), batch_size)
            for first in random.permutation(starts):
                rows = chunk[first : first + batch_size]
                padded = np.zeros((len(rows), lengths[rows[-1]], *features), sequences.values.dtype)
                for position, row in enumerate(rows):
                    padded[position, : lengths[row]] = arrays[row]
                yield padded, labels[rows]

    return _from_generator(batches, sequences)


class PaddedBatches(keras.utils.PyDataset):
    """Batches of random sequences, as PyDatasets are commonly written."""

    def __init__(self, sequences: Sequences, batch_size: int, seed: int = 0):
        super().__init__()
        self.arrays, self.labels, self.batch_size = sequences.arrays, sequences.labels, batch_size
        self.dtype = sequences.values.dtype
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.arrays) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        padded = keras.utils.pad_sequences([self.arrays[row] for row in rows], dtype=self.dtype, padding="post")
        return padded, self.labels[rows]

    def on_epoch_end(self) -> None:
        """Shuffles for the next epoch."""
        self.order = self.random.permutation(len(self.arrays))


def py_dataset(sequences: Sequences, batch_size: int) -> tf.data.Dataset:
    """A PyDataset as `fit` reads it (keras/src/trainers/data_adapters/py_dataset_adapter.py, `get_tf_dataset`)."""
    batches = PaddedBatches(sequences, batch_size)
    return _from_generator(lambda: (batches[index] for index in range(len(batches))), sequences)


def ready_batches(sequences: Sequences, batch_size: int, length: int, num_batches: int) -> tf.data.Dataset:
    """The ceiling: one ready batch over and over. No pipeline that yields `(x, y)` through tf.data is faster."""
    x = np.zeros((batch_size, length, *sequences.values.shape[1:]), sequences.values.dtype)
    ready = tf.data.Dataset.from_tensors((x, sequences.labels[:batch_size]))
    return ready.repeat(num_batches).prefetch(tf.data.AUTOTUNE)


def _shuffled_rows(sequences: Sequences) -> tf.data.Dataset:
    rows = tf.data.Dataset.from_tensor_slices((sequences.ragged, sequences.labels)).shuffle(SHUFFLE_BUFFER)
    # A slice of a RaggedTensor is a ragged element of rank 0; the map function's result is a plain tensor.
    return rows.map(lambda x, y: (x, y), num_parallel_calls=tf.data.AUTOTUNE)


def _from_generator(batches: object, sequences: Sequences) -> tf.data.Dataset:
    features = sequences.values.shape[1:]
    signature = (
        tf.TensorSpec((None, None, *features), sequences.values.dtype),
        tf.TensorSpec((None,), sequences.labels.dtype),
    )
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)
