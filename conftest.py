"""What the docstrings' examples may use without importing it, and how hypothesis runs."""

import gc
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import settings

import keras_bucketing

# Building a graph takes longer than hypothesis' deadline of 200 ms, and how long depends on the machine.
settings.register_profile("no_deadline", deadline=None, print_blob=True)
settings.load_profile("no_deadline")
# For an hour on one of the state machines, test_restarted_runs.py and test_padding_stats_machine.py in tests/callbacks:
# pytest tests/callbacks/test_restarted_runs.py --hypothesis-profile=soak
settings.register_profile("soak", settings.get_profile("no_deadline"), max_examples=2000, stateful_step_count=15)


@pytest.fixture(autouse=True)
def _names_in_docstrings(doctest_namespace):
    doctest_namespace.update(keras_bucketing=keras_bucketing, keras=keras, np=np, tf=tf, tempfile=tempfile)


# Keras saves a model by way of `convert_to_numpy` (keras/src/backend/tensorflow/core.py), which hands variables to
# NumPy 2, whose `copy` they do not know. Only tests that save may do that, and they say so with the marker
# `saves_model`: elsewhere it would hide the same fault in the package. No docstring can have a marker.
_DOCTESTS_THAT_SAVE = {"keras_bucketing.callbacks.backup_and_restore.BackupAndRestoreSequence"}


def pytest_collection_finish():
    """Lets the garbage collector leave out what lives until the end, and look less often: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Lets the tests that save models ignore a warning of Keras'."""
    ignore = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
    for item in items:
        if item.get_closest_marker("saves_model") or item.name in _DOCTESTS_THAT_SAVE:
            item.add_marker(ignore)
