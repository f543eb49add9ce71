"""What is known of a source before it is read."""

import pytest

from keras_bucketing.streams.sources import open_stream
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.streams import Batches


@pytest.mark.parametrize("batched", [None, True, False])
def test_a_py_dataset_counts_batches_unless_its_elements_are_rows(batched):
    dataset = Batches(([[1], [2], [3]], None, None), batch_size=2)
    stream = open_stream(dataset, BatchOptions(batched=batched), "dataset")
    assert (stream.total, stream.counts_rows) == (2, batched is False)
