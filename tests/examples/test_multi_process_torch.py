"""examples/multi_process_torch.py: real processes that train together over gloo on the loopback interface."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from tests.examples.test_multi_host import finish, free_port
from tests.support.paths import EXAMPLES
from tests.support.processes import start_python


def train(num_processes: int, checkpoint: Path, *options: str) -> list[float]:
    """The losses of all steps of a run, those before a restart among them."""
    port, history = free_port(), checkpoint.with_suffix(".json")
    processes = [
        start_python(
            *(str(EXAMPLES / "multi_process_torch.py"), f"--checkpoint={checkpoint}", f"--history={history}"),
            *("--epochs=2", "--sequences=150", "--save-freq=2", *options),
            backend="torch",
            cwd=EXAMPLES,
            environment={
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": str(num_processes),
                "RANK": str(rank),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(num_processes)
    ]
    finish(processes)
    losses: list[float] = json.loads(history.read_text())
    return losses


@pytest.mark.fit
@pytest.mark.backends
def test_two_processes_train_as_one_and_go_on_with_the_checkpoint_of_another_number(tmp_path: Path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs the `backends` extra: torch is not installed")
    uninterrupted = train(1, tmp_path / "uninterrupted.pt")
    assert len(uninterrupted) == 10
    assert uninterrupted[-1] < uninterrupted[0]

    checkpoint = tmp_path / "checkpoint.pt"
    assert len(train(2, checkpoint, "--max-steps=3")) == 3  # of five an epoch: the checkpoint is one step older
    assert len(train(1, checkpoint, "--max-steps=2")) == 4
    np.testing.assert_allclose(train(2, checkpoint), uninterrupted, rtol=1e-5)
