"""Ways to read sequences that lie in a file, each set up as its own documentation recommends.

- Hugging Face `datasets` (https://huggingface.co/docs/datasets/about_arrow): a memory-mapped Arrow file in NumPy
  format, read a batch of rows at a time. Rows are grouped by length as `group_by_length` of transformers' Trainer does
  (transformers/trainer_pt_utils.py, `get_length_grouped_indices`): shuffled, then sorted within 50 batches.
- `tf.data.Dataset.from_generator` over the same map: shuffled chunks of 100 batches sorted by length, as in
  contenders.py.
- PyTorch's `DataLoader` (https://pytorch.org/docs/stable/data.html) with such batches as its sampler and one worker
  process a processor, kept over the epochs; tensors share the memory of the map until they are padded.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.sequences import Sequences
from keras_bucketing import BucketedSequence

BATCH_SIZE = 32
IN_MEMORY, SHARED, MAPPED = "BucketedSequence, in memory", "BucketedSequence, shared", "BucketedSequence, mapped"
LOADED, GENERATOR = "BucketedSequence, from_loader", "from_generator over the map"
HUGGING_FACE, TORCH = "Hugging Face datasets", "PyTorch DataLoader"
LIBRARIES = {HUGGING_FACE: "datasets", TORCH: "torch"}


def write_files(folder: Path, sequences: Sequences) -> None:
    """Writes what all contenders read."""
    np.save(folder / "values.npy", sequences.values)
    np.save(folder / "row_splits.npy", sequences.row_splits)
    np.save(folder / "labels.npy", sequences.labels)
    if importlib.util.find_spec("datasets"):
        import datasets
        import pyarrow

        y = pyarrow.array(sequences.labels)
        splits = sequences.row_splits * sequences.values.shape[1]
        x = pyarrow.LargeListArray.from_arrays(splits, sequences.values.reshape(-1))
        datasets.disable_progress_bars()
        datasets.Dataset(pyarrow.table({"x": x, "y": y})).save_to_disk(folder / "hugging_face", num_shards=1)


def openers() -> dict[str, Callable[[Path], Iterable[Any]]]:
    """Everybody who is installed, by name: functions from the folder to what yields batches, epoch by epoch."""
    found: dict[str, Callable[[Path], Iterable[Any]]] = {IN_MEMORY: in_memory, SHARED: shared, MAPPED: mapped}
    if hasattr(BucketedSequence, "from_loader"):
        found[LOADED] = loaded
    found[GENERATOR] = from_generator
    for name, opener in ((HUGGING_FACE, HuggingFace), (TORCH, torch_loader)):
        if importlib.util.find_spec(LIBRARIES[name]):
            found[name] = opener
        else:
            print(f"without {name}: pip install {LIBRARIES[name]}")
    return found


def in_memory(folder: Path) -> BucketedSequence:
    """The values are read, and copied."""
    return _bucketed(folder, np.load(folder / "values.npy"))


def shared(folder: Path) -> BucketedSequence:
    """The values are read, and used as they are."""
    return _bucketed(folder, np.load(folder / "values.npy"), copy=False)


def mapped(folder: Path) -> BucketedSequence:
    """The values stay in the file."""
    return _bucketed(folder, np.load(folder / "values.npy", mmap_mode="r"))


def _bucketed(folder: Path, values: np.ndarray, **options: Any) -> BucketedSequence:
    splits, labels = np.load(folder / "row_splits.npy"), np.load(folder / "labels.npy")
    return BucketedSequence.from_row_splits(values, splits, labels, batch_size=BATCH_SIZE, seed=0, **options)


def loaded(folder: Path) -> BucketedSequence:
    """A function loads each sequence from the map."""
    values, splits, labels = _open(folder)
    return BucketedSequence.from_loader(
        lambda row: values[splits[row] : splits[row + 1]],
        np.diff(splits),
        labels,
        output_signature=tf.TensorSpec((None, *values.shape[1:]), values.dtype),
        batch_size=BATCH_SIZE,
        seed=0,
    )


def from_generator(folder: Path) -> tf.data.Dataset:
    """A Python generator pads batches out of the map."""
    values, splits, labels = _open(folder)
    batches = LengthGroupedBatches(np.diff(splits), 100)

    def padded_batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in batches:
            yield _pad([values[splits[row] : splits[row + 1]] for row in rows]), labels[rows]

    signature = (tf.TensorSpec((None, None, *values.shape[1:]), values.dtype), tf.TensorSpec((None,), labels.dtype))
    return tf.data.Dataset.from_generator(padded_batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)


class HuggingFace:
    """A memory-mapped Arrow file, a batch of rows at a time, padded with NumPy."""

    def __init__(self, folder: Path):
        import datasets

        self._dataset = datasets.load_from_disk(folder / "hugging_face").with_format("numpy")
        splits = np.load(folder / "row_splits.npy")
        self._features = np.load(folder / "values.npy", mmap_mode="r").shape[1]
        self._batches = LengthGroupedBatches(np.diff(splits), 50)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in self._batches:
            batch = self._dataset[rows.tolist()]
            yield _pad([row.reshape(-1, self._features) for row in batch["x"]]), batch["y"]


def torch_loader(folder: Path) -> Iterable[Any]:
    """Batches as the sampler has them, loaded by worker processes."""
    import torch

    values, splits, labels = _open(folder)

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return torch.from_numpy(np.array(values[splits[row] : splits[row + 1]])), int(labels[row])

        def __len__(self) -> int:
            return len(labels)

    def collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = zip(*rows, strict=True)
        return torch.nn.utils.rnn.pad_sequence(list(x), batch_first=True), torch.tensor(y)

    sampler = LengthGroupedBatches(np.diff(splits), 50)
    workers = os.cpu_count() or 1
    return torch.utils.data.DataLoader(
        Rows(), batch_sampler=sampler, collate_fn=collate, num_workers=workers, persistent_workers=True
    )


class LengthGroupedBatches:
    """Row indices of batches: shuffled, sorted by length within some batches, and these in random order."""

    def __init__(self, lengths: np.ndarray, batches_at_once: int):
        self._lengths, self._at_once = lengths, batches_at_once * BATCH_SIZE
        self._random = np.random.default_rng(0)

    def __len__(self) -> int:
        return -(-len(self._lengths) // BATCH_SIZE)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = self._random.permutation(len(self._lengths))
        for start in range(0, len(order), self._at_once):
            chunk = order[start : start + self._at_once]
            chunk = chunk[np.argsort(self._lengths[chunk])]
            for first in self._random.permutation(np.arange(0, len(chunk), BATCH_SIZE)):
                yield chunk[first : first + BATCH_SIZE]


def _open(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.load(folder / "values.npy", mmap_mode="r").view(np.ndarray)  # np.memmap is slow to slice
    return values, np.load(folder / "row_splits.npy"), np.load(folder / "labels.npy")


def _pad(rows: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), rows[0].dtype)
    for position, row in enumerate(rows):
        padded[position, : len(row)] = row
    return padded
