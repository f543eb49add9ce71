"""examples/multi_host.py: real processes that train together over gloo on the loopback interface."""

import importlib.util
import shutil
import signal
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest

from keras_bucketing.callbacks.backup_store import BackupStore
from tests.support.paths import EXAMPLES
from tests.support.processes import start_python

EPOCHS, SEQUENCES = 2, 200
# Runs the example. With a step to be killed at, process 1 kills itself with SIGKILL there, as soon as process 0 has
# written a backup of that epoch.
RUN = """
import os, signal, sys, time
import multi_host
from keras_bucketing.callbacks.backup_store import BackupStore

class KillsItself(multi_host.BackupAndRestoreSequence):
    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        while (self.epoch, batch) == (1, 3):
            state = BackupStore(self.folder).newest().state
            if state["keras_epoch"] == self.epoch and state["dataset"]["position"]["batch"]:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)

if os.environ.get("KILL") and "--process-id=1" in sys.argv:
    KillsItself.folder = os.environ["KILL"]
    multi_host.BackupAndRestoreSequence = KillsItself
multi_host.main()
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return int(sock.getsockname()[1])


def start(num_processes: int, *options: str, **environment: str) -> list:
    """One process a host."""
    port = free_port()
    return [
        start_python(
            *("-c", RUN, f"--coordinator=localhost:{port}", f"--num-processes={num_processes}"),
            *(f"--process-id={index}", f"--epochs={EPOCHS}", f"--sequences={SEQUENCES}"),
            *(option.format(index=index) for option in options),
            backend="jax",
            cwd=EXAMPLES,
            environment=environment,
        )
        for index in range(num_processes)
    ]


def finish(processes: list) -> None:
    try:
        for process in processes:
            printed = process.communicate(timeout=300)
            assert process.returncode == 0, printed
    finally:
        for process in processes:
            process.kill()


def weights_in(path: Path) -> list[np.ndarray]:
    weights: list[np.ndarray] = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: weights.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    assert weights
    return weights


def assert_equal_weights(received: Path, expected: Path) -> None:
    for one, other in zip(weights_in(received), weights_in(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.fit
@pytest.mark.backends
def test_two_processes_train_as_one_and_two_or_one_go_on_after_a_kill(tmp_path: Path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs the `backends` extra: jax is not installed")
    alone, resumed_0, resumed_1 = (tmp_path / f"{name}.weights.h5" for name in ("alone-0", "resumed-0", "resumed-1"))
    backup = tmp_path / "backup"
    resumable = (f"--backup-dir={backup}", "--save-freq=2", f"--weights={tmp_path}/resumed-{{index}}.weights.h5")
    first, second = start(2, *resumable, KILL=str(backup))
    printed = second.communicate(timeout=300)
    first.kill()  # it waits for the other
    first.communicate()
    assert second.returncode == -signal.SIGKILL, printed
    assert not resumed_0.exists()
    state = BackupStore(str(backup)).newest().state
    assert (state["keras_epoch"], state["dataset"]["position"]["batch"]) in ((1, 2), (1, 4)), (
        "the newest backup is of mid-epoch"
    )
    shutil.copytree(backup, tmp_path / "copy")
    finish(start(2, *resumable))
    assert_equal_weights(resumed_1, resumed_0)

    fewer = tmp_path / "fewer-0.weights.h5"
    finish(start(1, f"--backup-dir={tmp_path / 'copy'}", "--save-freq=2", f"--weights={fewer}"))
    assert_equal_weights(fewer, resumed_0)

    finish(start(1, f"--weights={tmp_path}/alone-{{index}}.weights.h5"))
    assert_equal_weights(resumed_0, alone)
