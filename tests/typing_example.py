"""How the public names are used, as far as a type checker sees them."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

import keras_bucketing
from keras_bucketing import BucketedSequence, PaddingStats, optimal_bucket_boundaries

boundaries: list[int] = optimal_bucket_boundaries([3, 4, 5], num_buckets=2)
dataset: BucketedSequence = BucketedSequence(
    [np.zeros(3), np.zeros(4)], y=np.zeros(2), bucket_boundaries=boundaries, batch_size=2, seed=1
)
batches: int = dataset.num_batches
stats: PaddingStats = dataset.padding_stats(epoch=0) + dataset.padding_stats(epoch=1)
efficiency: float = stats.padding_efficiency
rows: npt.NDArray[np.int64] = dataset.epoch_plan(0)[0]
state: dict[str, object] = dataset.state_dict()
version: str = keras_bucketing.__version__
loaded: BucketedSequence = BucketedSequence.from_loader(
    lambda row: np.zeros(row), [3, 4], output_signature=tf.TensorSpec((None,), tf.float32)
)
augmented: BucketedSequence = BucketedSequence.from_loader(
    lambda row, epoch: np.zeros(row + epoch),
    [3, 4],
    output_signature=tf.TensorSpec((None,), tf.float32),
    length_tolerance=0.5,
)
first_rows: BucketedSequence = BucketedSequence.from_dataset([[1], [2, 3]], max_rows=1)
