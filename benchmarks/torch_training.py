"""The same training in PyTorch, with the sequences packed: its own way to leave padding out."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from benchmarks.labeled_tokens import VOCABULARY_SIZE
from benchmarks.sequences import Sequences


class _Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY_SIZE, 32)
        self.lstm = torch.nn.LSTM(32, 64, batch_first=True)
        self.dense = torch.nn.Linear(64, 1)
        torch.nn.init.uniform_(self.embedding.weight, -0.05, 0.05)  # as Keras does

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.dense(last[0])[:, 0]


class PackedLSTM:
    """Embedding, `nn.LSTM` over packed sequences, dense layer; shuffled batches, Adam.

    Args:
        train: What to train on.
        validation: What to measure the accuracy on.
        batch_size: Int, rows.
        learning_rate: Float.
        gradient_norm: Float, at most.
    """

    def __init__(
        self, train: Sequences, validation: Sequences, batch_size: int, learning_rate: float, gradient_norm: float
    ):
        torch.manual_seed(0)
        self._train, self._validation = _tensors(train), _tensors(validation)
        self._batch_size, self._gradient_norm = batch_size, gradient_norm
        self._model = _Model()
        self._optimizer = torch.optim.Adam(self._model.parameters(), learning_rate)
        self._loss = torch.nn.BCEWithLogitsLoss()

    def train_epoch(self) -> tuple[float, int]:
        """Trains for one epoch; returns the seconds and the number of updates."""
        begin = time.perf_counter()
        sequences, labels = self._train
        batches = torch.randperm(len(sequences)).split(self._batch_size)
        for rows in batches:
            self._optimizer.zero_grad()
            self._loss(self._logits(sequences, rows), labels[rows]).backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._gradient_norm)
            self._optimizer.step()
        return time.perf_counter() - begin, len(batches)

    def accuracy(self) -> float:
        """The accuracy on the validation sequences."""
        sequences, labels = self._validation
        with torch.no_grad():
            logits = [self._logits(sequences, rows) for rows in torch.arange(len(sequences)).split(128)]
        return float(((torch.cat(logits) > 0) == (labels > 0)).float().mean())

    def _logits(self, sequences: list[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        batch = [sequences[row] for row in rows.tolist()]
        lengths = torch.tensor([len(sequence) for sequence in batch])
        return self._model(pad_sequence(batch, batch_first=True), lengths)


def _tensors(sequences: Sequences) -> tuple[list[torch.Tensor], torch.Tensor]:
    arrays = [torch.from_numpy(array.astype(np.int64)) for array in sequences.arrays]
    return arrays, torch.from_numpy(sequences.labels.astype(np.float32))
