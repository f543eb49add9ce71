"""Trains in several processes with PyTorch: Keras on torch, `DistributedDataParallel`, all on the shards of one plan.

`fit` does not drive `DistributedDataParallel`, so this is a training loop of its own, and it keeps its own checkpoints.
On each machine, torchrun starts the processes and tells them how to find one another:

    KERAS_BACKEND=torch torchrun --nproc-per-node 2 examples/multi_process_torch.py --checkpoint output/checkpoint.pt

Kill it at any time and start it again, with 1, 2, 4 or 8 processes: it goes on with the batches that come next.

The data are made up: noisy sine waves of 5 to 120 timesteps, and the model tells slow from fast ones.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch
import torch.distributed
from resume_training import make_waves
from torch.nn.parallel import DistributedDataParallel

from keras_bucketing import BucketedSequence, MaskedLSTMClassifier

MAX_PROCESSES = 8


class Run:
    """A training run, with all that a checkpoint of it holds."""

    def __init__(self, num_sequences: int):
        keras.utils.set_random_seed(1)
        num_processes = torch.distributed.get_world_size()
        x, y = make_waves(num_sequences, seed=1)
        self.dataset = BucketedSequence(
            x,
            y,
            batch_size=32,  # of all processes together
            batch_size_multiple=MAX_PROCESSES // num_processes,  # so that any number of them reads the same batches
            seed=1,
            num_shards=None,  # as many as torch.distributed says
        )
        self.model = MaskedLSTMClassifier(num_classes=2, units=16)
        self.model.build((None, None, 1))
        self.model.to("cpu")  # of each process its own GPU, where there are any
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.history: list[float] = []

    def save(self, path: Path, epoch: int, batch: int) -> None:
        """Saves, in the first process, what it takes to go on with that batch; written aside, and then renamed."""
        if torch.distributed.get_rank() == 0:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "data": self.dataset.state_dict(epoch, batch),
                "history": self.history,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            torch.save(state, unfinished)
            unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Takes over a checkpoint, of any number of processes."""
        state: dict[str, Any] = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.dataset.load_state_dict(state["data"])
        self.history = state["history"]

    def train(self, epochs: int, path: Path, save_freq: int, max_steps: int | None) -> None:
        """Trains up to so many epochs, or at most so many steps."""
        model = DistributedDataParallel(self.model)  # it averages the gradients of all processes
        loss_function = torch.nn.NLLLoss()
        steps = 0
        while self.dataset.epoch < epochs:
            epoch, first_batch = self.dataset.epoch, self.dataset.next_first_batch
            for batch, (x, y) in enumerate(self.dataset, start=first_batch):
                self.optimizer.zero_grad()
                probabilities = model(torch.from_numpy(x.numpy()), training=True)
                loss = loss_function(torch.log(probabilities), torch.from_numpy(y.numpy()).long())
                loss.backward()
                self.optimizer.step()
                self.history.append(mean_over_processes(loss))
                steps += 1
                if steps % save_freq == 0:
                    self.save(path, epoch, batch + 1)
                if steps == max_steps:
                    return
            if torch.distributed.get_rank() == 0:
                print(f"epoch {epoch}: loss {self.history[-1]:.4f}")
        self.save(path, self.dataset.epoch, 0)


def mean_over_processes(loss: torch.Tensor) -> float:
    """The loss of the whole batch: all shards have as many rows."""
    mean = loss.detach() / torch.distributed.get_world_size()
    torch.distributed.all_reduce(mean)
    return float(mean)


def main() -> None:
    """Joins the other processes and trains, going on with what an earlier run has left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("output/checkpoint.pt"), help="all processes reach it")
    parser.add_argument("--save-freq", type=int, default=10, help="steps between two checkpoints")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--max-steps", type=int, help="stop after so many, to try what a restart does")
    parser.add_argument("--history", type=Path, help="write the losses of all steps to this JSON file")
    arguments = parser.parse_args()

    torch.distributed.init_process_group("gloo")  # "nccl" with GPUs
    run = Run(arguments.sequences)
    if arguments.checkpoint.exists():
        run.load(arguments.checkpoint)
    run.train(arguments.epochs, arguments.checkpoint, arguments.save_freq, arguments.max_steps)
    if arguments.history and torch.distributed.get_rank() == 0:
        arguments.history.write_text(json.dumps(run.history))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
