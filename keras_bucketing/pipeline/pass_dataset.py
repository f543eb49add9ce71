"""PassDataset: the interface to tf.data and the position of a dataset of passes, for any kind of batches."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_bucketing.checks import check_flag, show_typed
from keras_bucketing.pipeline.passes import NO_CHECKPOINT, PassCounter


def check_pad_to_bucket_boundary(pad_to_bucket_boundary: object) -> bool:
    """The checked flag; None means True on JAX, where Keras compiles each shape of a batch."""
    if pad_to_bucket_boundary is None:
        return bool(keras.config.backend() == "jax")
    return check_flag("pad_to_bucket_boundary", pad_to_bucket_boundary)


class PassDataset(tf.data.Dataset):
    """A dataset whose passes read one epoch after the other; a subclass sets `_batches` and `_counter`."""

    _batches: tf.data.Dataset
    _counter: PassCounter

    # What tf.data asks of a subclass.

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._batches]

    @property
    def element_spec(self) -> Any:
        """The structure, shapes and dtypes of a batch, as `tf.TensorSpec` objects."""
        return self._batches.element_spec

    def with_options(self, options: tf.data.Options, name: str | None = None) -> tf.data.Dataset:
        """As in every `tf.data.Dataset`, but refuses options under which iterators could not be restored.

        Args:
            options: `tf.data.Options`, for this dataset and datasets made from it.
            name: Str, a name for the operation. Defaults to None.

        Raises:
            TypeError: If `options` are something else.
            ValueError: If `options` ask for checkpoints of iterators without their state.
        """
        if not isinstance(options, tf.data.Options):
            raise TypeError(f"`options` must be a `tf.data.Options`. Received {show_typed(options)}.")
        if options.experimental_symbolic_checkpoint:
            raise ValueError(f"`options.experimental_symbolic_checkpoint` is not possible. {NO_CHECKPOINT}")
        return super().with_options(options, name)

    # Where it stands.

    @property
    def epoch(self) -> int:
        """The epoch that the next pass reads; it increases when a pass yields its first batch."""
        return self._counter.next_position.epoch

    @property
    def next_first_batch(self) -> int:
        """The batch with which the next pass begins, which is 0 except after `seek` or `load_state_dict`."""
        return self._counter.next_position.first_batch

    @property
    def seed(self) -> int:
        """The seed of the order."""
        return self._counter.seed
