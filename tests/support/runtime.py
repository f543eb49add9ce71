"""How TensorFlow runs in tests: without what makes long programs faster, and without what makes tests wait."""

import os
from typing import Any

import tensorflow as tf


def begin() -> None:
    """To be called once in every process of tests, before the first graph runs."""
    _tune_no_pipelines()
    if not os.environ.get("REWRITE_GRAPHS"):
        _rewrite_no_graphs()


def _rewrite_no_graphs() -> None:
    """Runs graphs as they are traced: to rewrite them takes a seventh of all processor time.

    Tests run them too few times for it to pay. How tf.data rewrites its pipelines is not concerned.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def _tune_no_pipelines() -> None:
    """Begins passes over datasets without tf.data's autotuner, as those of a BucketedSequence begin.

    The autotuner's thread sleeps for up to a minute, the longer the older its pass is, and a pass that is given up
    waits for the end of that thread. TensorFlow wakes it before it says that it is to end; where the thread is fast, it
    goes to sleep again (docs/decisions/autotuner.md). In a busy minute single tests stood still for up to 80 seconds
    so, in the garbage collector.
    """
    begin_pass = tf.data.Dataset.__iter__
    options = tf.data.Options()
    options.autotune.enabled = False

    def begin_untuned_pass(dataset: tf.data.Dataset) -> Any:
        is_open = dataset.options().autotune.enabled is None
        return begin_pass(dataset.with_options(options) if is_open else dataset)

    tf.data.Dataset.__iter__ = begin_untuned_pass
