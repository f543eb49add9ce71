"""What is known of a source before it is read."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.streams.sources import open_stream
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.streams import Batches


@pytest.mark.parametrize("batched", [None, True, False])
def test_a_py_dataset_counts_batches_unless_its_elements_are_rows(batched):
    dataset = Batches(([[1], [2], [3]], None, None), batch_size=2)
    stream = open_stream(dataset, BatchOptions(batched=batched), "dataset")
    assert (stream.total, stream.counts_rows) == (2, batched is False)


def test_a_padded_batch_is_not_read_before_it_is_asked_for():
    asked = []

    def batches():
        for number in range(4):
            asked.append(number)
            yield np.ones((2, 3 + number))

    dataset = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([None, None]))
    stream = open_stream(dataset, BatchOptions(batched=True), "dataset")
    for number, _ in enumerate(stream.elements()):
        assert asked == list(range(number + 1))
