"""What the docstrings' examples may use without importing it, and how hypothesis runs."""

import gc
import os
import tempfile
from pathlib import Path

# Read when NumPy and TensorFlow are imported. Models are so small that threads inside of an operation, and code that
# oneDNN makes for each shape, cost more than they bring; with `-n auto` each processor has a process of its own.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", os.environ.get("REWRITE_GRAPHS", "0"))
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests.support import default_layer, processes


@pytest.fixture(autouse=True)
def _names_in_docstrings(doctest_namespace):
    # Not at the top: with `-n auto`, the process that hands out the tests needs none of it, and starts so much sooner.
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_bucketing

    doctest_namespace.update(keras_bucketing=keras_bucketing, keras=keras, np=np, tf=tf, tempfile=tempfile)


@pytest.fixture(autouse=True, scope="session")
def _tensorflow_runs_plainly():
    from tests.support import runtime  # not at the top, as it imports TensorFlow

    runtime.begin()


@pytest.fixture(autouse=True)
def _nothing_waits_for_the_disk(monkeypatch):
    """Power is lost in play only: tests/support/faulty_files.py."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _register_profiles():
    from hypothesis import settings  # not at the top either

    # Building a graph takes longer than hypothesis' deadline of 200 ms, and how long depends on the machine.
    number = default_layer.examples(100)  # of a property that does not say it
    settings.register_profile("no_deadline", deadline=None, print_blob=True, max_examples=number)
    settings.load_profile("no_deadline")
    # For an hour on a state machine, that of test_restarted_runs.py or of test_padding_stats_machine.py:
    # pytest tests/callbacks/test_restarted_runs.py -m "" --hypothesis-profile=soak
    settings.register_profile("soak", settings.get_profile("no_deadline"), max_examples=2000, stateful_step_count=15)


@pytest.fixture
def collect_garbage():
    """`gc.collect`, for what the test itself has made: it need not look at the graphs of all tests before."""
    gc.freeze()
    return gc.collect


def pytest_collection_finish():
    """Lets the garbage collector leave out what lives until the end, and look less often: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_sessionfinish():
    """Ends the processes that fork others."""
    processes.close_servers()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist chooses
def pytest_cmdline_main(config):
    """With `-n`, one process runs all tests of a file: the models and graphs that they share are traced once."""
    if config.getoption("numprocesses", None) and config.getoption("dist", "no") == "no":
        config.option.dist = "loadfile"


@pytest.hookimpl(tryfirst=True)  # before hypothesis loads the profile that it is told to
def pytest_configure(config):
    """Lets a test that is named run, in whatever layer it is; says how hypothesis runs."""
    if config.option.markexpr == "not fit" and any("::" in argument for argument in config.invocation_params.args):
        config.option.markexpr = ""
    default_layer.is_run = config.option.markexpr == "not fit"
    if config.getoption("--hypothesis-profile", None) or not config.getoption("numprocesses", None):
        _register_profiles()


def pytest_report_header(config):
    """Says what is left out."""
    if default_layer.is_run:
        return 'the default layer: without what trains a model or starts a process; -m "" runs that too'
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path):
    """Looks for examples in docstrings of the package alone: tests and what they share have none."""
    collectors = yield
    if file_path.is_relative_to(Path(__file__).parent / "tests"):
        return [collector for collector in collectors if type(collector) is pytest.Module]
    return collectors


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the docstrings that train, before the markers decide what runs."""
    default_layer.mark_docstrings(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Tests and their fixtures keep the law of the default layer."""
    with default_layer.enforced(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Smoke tests call `fit` as often as they say."""
    with default_layer.fits_counted(item):
        return (yield)
