"""Windows of what is read in Python: as many rows as were announced, in passes that are epochs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.streams.windows import format_of_rows, open_row_source
from keras_bucketing.unpadding.batches import BatchOptions
from tests.streams.test_graph_windows import windows_of
from tests.support.default_layer import examples


class Rows:
    """A source of rows that says how many there are, rightly or not."""

    def __init__(self, announced, number):
        self.announced, self.number = announced, number

    def __len__(self):
        return self.announced

    def __iter__(self):
        return iter([[row] for row in range(self.number)])


@settings(max_examples=examples(12))
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
def test_a_pass_has_as_many_rows_as_were_announced_or_is_refused(announced, number, num_rows):
    if announced == number:
        assert sum(len(leaf.sizes) for (leaf,) in windows_of(Rows(announced, number), num_rows)[1]) == number
        return
    received = "more" if number > announced else number
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"Expected {announced}, received {received}. Correct"):
        windows_of(Rows(announced, number), num_rows)


def test_the_length_of_a_function_of_the_epoch_counts_as_well():
    class RowsOfEpoch:
        def __len__(self):
            return 9

        def __call__(self, epoch):
            return iter([[epoch]] * (9 - epoch))

    opened = open_row_source(RowsOfEpoch(), BatchOptions())
    windows = opened.windows(format_of_rows(opened.inputs), 4, False)
    assert len(list(windows(tf.constant(0, tf.int64)))) == 3
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected 9, received 8"):
        list(windows(tf.constant(1, tf.int64)))


def test_a_py_dataset_is_told_of_its_epochs():
    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __len__(self):
            return 2

        def __getitem__(self, index):
            self.calls.append(index)
            return np.array([[1, 2], [3, 0]])

        def on_epoch_begin(self):
            self.calls.append("begin")

        def on_epoch_end(self):
            self.calls.append("end")

    dataset = Batches()
    opened = open_row_source(dataset, BatchOptions())
    windows = opened.windows(format_of_rows(opened.inputs), 8, False)
    dataset.calls.clear()
    for epoch in range(2):
        list(windows(tf.constant(epoch, tf.int64)))
    assert dataset.calls == ["begin", 0, 1, "end"] * 2
