"""A few rows of a dataset, without padding, and batches of them with any amount of padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream
from keras_bucketing.monitoring.monitored_dataset import MonitoredDataset
from keras_bucketing.monitoring.monitored_py_dataset import MonitoredPyDataset

Lengths = NDArray[np.int64]  # in timesteps
Array = NDArray[Any]

_MOST_ROWS_READ = 512  # of padded batches, to find short and long rows among them


class Batch(NamedTuple):
    """Arrays as a model gets them, and the padded length of each time axis."""

    x: Any
    y: Any
    sample_weight: Any
    padded_lengths: tuple[int, ...]
    lengths: list[Lengths]  # of the rows, for each time axis


@dataclass(frozen=True)
class SampledLeaf:
    """One leaf of x, y or sample_weight.

    Attributes:
        rows: For each row an array `(length, *features)`, or its value.
        axis: Its time axis, or None for one value per row.
        padding: The value of padding.
        min_length: The minimum padded length.
        counts: For an entry of lengths, the time axis that it counts.
    """

    rows: list[Array]
    axis: int | None
    padding: Any
    min_length: int
    counts: int | None


@dataclass(frozen=True)
class Sample:
    """Rows of a dataset.

    Attributes:
        structure: `(x, y, sample_weight)`, as many of them as there are, with the index of a leaf at each place.
        leaves: The leaves.
        lengths: For each time axis an array `(num_rows,)`. Leaves whose lengths are the same in every row share one.
        pads_left: Whether padding is at the beginning.
        without_labels: Why y is missing although the dataset has it, or None.
    """

    structure: tuple[Any, ...]
    leaves: list[SampledLeaf]
    lengths: list[Lengths]
    pads_left: bool
    without_labels: str | None

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.leaves[0].rows)

    def batch(self, rows: Sequence[int], extra: int = 0, cut: int | None = None) -> Batch:
        """Pads rows to the longest of them and by `extra` more timesteps, one more for each further time axis.

        The growth of an axis then identifies its time axis. With `cut`, rows are cut to that many timesteps.
        """
        lengths = [of_axis[list(rows)] for of_axis in self.lengths]
        if cut is not None:
            lengths = [np.minimum(of_axis, cut) for of_axis in lengths]
        padded = [0] * len(self.lengths)
        for leaf in self.leaves:
            if leaf.axis is not None:
                sizes = [len(leaf.rows[row]) for row in rows]
                size = max(sizes) if cut is None else min(max(sizes), cut)
                padded[leaf.axis] = max(padded[leaf.axis], size, leaf.min_length)
        padded = [size + extra + (index if extra else 0) for index, size in enumerate(padded)]
        arrays = [self._padded(leaf, rows, padded, cut) for leaf in self.leaves]
        packed = keras.tree.map_structure(lambda index: arrays[index], self.structure)
        x, y, sample_weight = (*packed, None, None)[:3]
        return Batch(x, y, sample_weight, tuple(padded), lengths)

    def _padded(self, leaf: SampledLeaf, rows: Sequence[int], padded: list[int], cut: int | None) -> Array:
        if leaf.axis is None:
            values = np.stack([leaf.rows[row] for row in rows])
            return np.minimum(values, cut).astype(values.dtype) if leaf.counts is not None and cut else values
        first = leaf.rows[rows[0]]
        result = np.full((len(rows), padded[leaf.axis], *first.shape[1:]), leaf.padding, first.dtype)
        for place, row in enumerate(rows):
            timesteps = leaf.rows[row] if cut is None else leaf.rows[row][:cut]
            start = result.shape[1] - len(timesteps) if self.pads_left else 0
            result[place, start : start + len(timesteps)] = timesteps
        return result

    def nan_rows(self) -> list[int]:
        """The rows with NaN in x."""
        of_x = set(keras.tree.flatten(self.structure[0]))
        leaves = [leaf for index, leaf in enumerate(self.leaves) if index in of_x and leaf.rows[0].dtype.kind == "f"]
        return [row for row in range(self.num_rows) if any(np.isnan(leaf.rows[row]).any() for leaf in leaves)]

    def keys(self) -> list[str]:
        """The keys of a dict `x`, or none."""
        x = self.structure[0]
        return sorted(map(str, x)) if isinstance(x, dict) else []


def sample_rows(dataset: Any, num_rows: int, mask_value: Any) -> Sample:
    """Takes rows from the shortest to the longest.

    Args:
        dataset: A `BucketedSequence`, a `BucketedStream`, or padded batches: a dataset of them, or arrays as in `fit`.
        num_rows: Int, their number.
        mask_value: The value of padding, if the dataset does not tell it.
    """
    if isinstance(dataset, BucketedSequence):
        return _of_bucketed(dataset, num_rows)
    if isinstance(dataset, BucketedStream):
        return _of_stream(dataset, num_rows)
    if isinstance(dataset, (MonitoredDataset, MonitoredPyDataset)):
        mask_value, dataset = dataset.mask_value, dataset.unmonitored
    return _of_padded(list(_padded_batches(dataset)), num_rows, mask_value)


# Rows out of a BucketedSequence: batches of one row, which no pass knows of.


def _of_bucketed(dataset: BucketedSequence, num_rows: int) -> Sample:
    rows = _spread(dataset.lengths, num_rows)
    options: dict[str, Any] = dataset._plan_options
    copies = dataset._shard.num_shards  # of which this shard gets one
    padding, label_padding = options["padding_values"]
    elements = [
        tuple(keras.utils.unpack_x_y_sample_weight(keras.tree.map_structure(np.array, element)))
        for element in dataset._batches_of_rows([np.full(copies, row) for row in rows])
    ]
    spec = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    longest = np.maximum(dataset.lengths[rows], 1)
    paddings, min_lengths = (padding, label_padding, 0), (int(options["minlen"]), 1, 1)
    return _make_sample(elements, spec, longest, paddings, min_lengths, pads_left=False, without_labels=None)


def _of_stream(stream: BucketedStream, num_rows: int) -> Sample:
    """A sample of the first rows of the source, outside any pass."""
    elements, longest = stream._first_rows(_MOST_ROWS_READ)
    rows = _spread(longest, num_rows)
    chosen = [
        tuple(keras.utils.unpack_x_y_sample_weight(keras.tree.map_structure(np.array, elements[row]))) for row in rows
    ]
    spec = keras.utils.unpack_x_y_sample_weight(stream.element_spec)
    rules = stream._rules
    paddings = (rules.padding_value, rules.label_padding_value, 0)
    min_lengths = (rules.planner.min_length, 1, 1)
    return _make_sample(chosen, spec, longest[rows], paddings, min_lengths, pads_left=False, without_labels=None)


def _make_sample(
    elements: list[tuple[Any, ...]],
    spec: tuple[Any, ...],
    longest: Lengths,
    paddings: tuple[Any, ...],
    min_lengths: tuple[int, ...],
    pads_left: bool,
    without_labels: str | None,
) -> Sample:
    """Makes a sample of batches of one row each; `spec` has None for the size of each time axis."""
    used = sum(part is not None for part in spec)
    flat_spec = keras.tree.flatten(spec[:used])
    # Not by a counter in `map_structure`: under PyTorch it goes through a dict in another order than `flatten`.
    structure = keras.tree.pack_sequence_as(spec[:used], list(range(len(flat_spec))))
    columns = [
        [leaf[0] for leaf in column] for column in zip(*(keras.tree.flatten(e[:used]) for e in elements), strict=True)
    ]
    part_of = [part for part in range(used) for _ in keras.tree.flatten(spec[part])]
    paths = [path for path, _ in keras.tree.flatten_with_path(spec[:used])]
    lengths: list[Lengths] = []
    axes = [
        _time_axis(rows, lengths, longest if part == 0 else None) if _has_time_axis(leaf) else None
        for rows, leaf, part in zip(columns, flat_spec, part_of, strict=True)
    ]
    leaves = [
        SampledLeaf(
            rows, axis, _padding_of(rows, paddings[part]), min_lengths[part], _counted(path, rows, axis, lengths)
        )
        for path, rows, axis, part in zip(paths, columns, axes, part_of, strict=True)
    ]
    return Sample(structure, leaves, lengths, pads_left, without_labels)


def _has_time_axis(spec: Any) -> bool:
    return len(spec.shape) >= 2 and spec.shape[1] is None


def _time_axis(rows: list[Array], lengths: list[Lengths], longest: Lengths | None) -> int:
    """The time axis of these lengths, a new one if none has them; `longest` leaves out what `minlen` padded."""
    own = np.array([len(row) for row in rows], np.int64)
    if longest is not None:
        own = np.minimum(own, longest)
    known = next((axis for axis, other in enumerate(lengths) if np.array_equal(other, own)), None)
    if known is None:
        lengths.append(own)
        known = len(lengths) - 1
    return known


def _padding_of(rows: list[Array], value: Any) -> Any:
    return rows[0].dtype.type(value) if rows[0].dtype.kind in "biuf" else value


def _counted(path: tuple[Any, ...], rows: list[Array], axis: int | None, lengths: list[Lengths]) -> int | None:
    """The time axis that an entry of lengths counts, the first one if none is equal."""
    if axis is not None or rows[0].ndim or not str(path[-1]).endswith("lengths"):
        return None
    return next((counted for counted, own in enumerate(lengths) if np.array_equal(own, rows)), 0)


def _spread(lengths: Lengths, num_rows: int) -> Lengths:
    """Rows from the shortest to the longest, evenly by rank."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    chosen = np.unique(np.linspace(0, len(order) - 1, min(num_rows, len(order))).round().astype(int))
    return np.asarray(order[chosen], np.int64)


# Rows out of padded batches. What is padding in them is found by the rules of `BucketedSequence.from_dataset`.


class _Batches(keras.utils.PyDataset):
    def __init__(self, batches: list[Any]):
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


def _padded_batches(dataset: Any) -> Iterator[tuple[Any, ...]]:
    """Batches `(x, y, sample_weight)` of arrays."""
    if isinstance(dataset, tf.data.Dataset):
        batches: Any = iter(dataset)
    elif isinstance(dataset, keras.utils.PyDataset):
        batches = (dataset[index] for index in range(dataset.num_batches or _MOST_ROWS_READ))
    elif isinstance(dataset, (np.ndarray, dict, tuple, list)) or hasattr(dataset, "shape"):
        every = max(1, -(-len(keras.tree.flatten(dataset)[0]) // _MOST_ROWS_READ))
        batches = iter([keras.tree.map_structure(lambda leaf: leaf[::every], dataset)])
    else:
        raise TypeError(
            "`dataset` cannot be read. Expected a BucketedSequence, a tf.data.Dataset or keras.utils.PyDataset of "
            "padded batches, or padded arrays as in fit: x, (x, y) or (x, y, sample_weight); received "
            f"{type(dataset).__name__}."
        )
    rows = 0
    for batch in batches:
        batch = keras.tree.map_structure(keras.ops.convert_to_numpy, batch)
        yield tuple(keras.utils.unpack_x_y_sample_weight(batch))
        rows += len(keras.tree.flatten(batch)[0])
        if rows >= _MOST_ROWS_READ:
            return


def _of_padded(batches: list[tuple[Any, ...]], num_rows: int, mask_value: Any) -> Sample:
    if not batches:
        raise ValueError("`dataset` is empty. Expected at least one batch.")
    without_labels = None
    try:
        unpadded = _unpad(batches, mask_value)
    except ValueError as error:
        try:
            batches, without_labels = [(x, None, None) for x, _, _ in batches], str(error)
            unpadded = _unpad(batches, mask_value)
        except ValueError as error_of_x:
            raise ValueError(
                f"It is not clear what is padding in the batches of `dataset`. {error_of_x} Pass a BucketedSequence to "
                "check_padding, made by from_dataset or from_padded with the arguments that decide it."
            ) from error_of_x
    options: dict[str, Any] = unpadded._plan_options
    rows = _spread(np.maximum(unpadded.lengths, 1), num_rows)
    elements = [
        tuple(keras.utils.unpack_x_y_sample_weight(keras.tree.map_structure(np.array, element)))
        for element in unpadded._batches_of_rows([np.array([row]) for row in rows])
    ]
    spec = list(keras.utils.unpack_x_y_sample_weight(unpadded.element_spec))
    given = [_rows_of(batches, row) for row in rows]  # with what was stripped: entries of lengths
    elements = [(_as_given(x, old[0]), *rest) for (x, *rest), old in zip(elements, given, strict=True)]
    spec[0] = _as_given(spec[0], batches[0][0])
    paddings = (options["padding_values"][0], options["padding_values"][1], 0)
    longest = np.maximum(unpadded.lengths[rows], 1)
    left = _pads_left(elements, given, spec)
    return _make_sample(elements, tuple(spec), longest, paddings, (1, 1, 1), left, without_labels)


def _unpad(batches: list[tuple[Any, ...]], mask_value: Any) -> BucketedSequence:
    def as_tuple(structure: Any) -> Any:
        return tuple(structure) if isinstance(structure, list) else structure

    plain = [keras.utils.pack_x_y_sample_weight(as_tuple(x), as_tuple(y), as_tuple(w)) for x, y, w in batches]
    return BucketedSequence.from_dataset(
        _Batches(plain), mask_value=mask_value, on_empty="keep", timestep_weights=False, batch_size=1, seed=0
    )


def _rows_of(batches: list[tuple[Any, ...]], row: int) -> tuple[Any, ...]:
    """One row as a batch, as it was given."""
    sizes = [len(keras.tree.flatten(batch[0])[0]) for batch in batches]
    ends = np.cumsum(sizes)
    found = int(np.searchsorted(ends, row, side="right"))
    place = row - int(ends[found]) + sizes[found]
    return tuple(
        None if part is None else keras.tree.map_structure(lambda leaf: leaf[place : place + 1], part)
        for part in batches[found]
    )


def _as_given(x: Any, given: Any) -> Any:
    """The unpadded x with the keys, or as a list, as it was given."""
    if isinstance(given, dict):
        return {key: x.get(key, value) for key, value in given.items()}
    if isinstance(given, list):
        return list(x)
    return x


def _pads_left(elements: list[tuple[Any, ...]], given: list[tuple[Any, ...]], spec: list[Any]) -> bool:
    """Whether a row was at the end of its given array."""
    for element, old in zip(elements, given, strict=True):
        leaves = zip(
            keras.tree.flatten(element[0]), keras.tree.flatten(old[0]), keras.tree.flatten(spec[0]), strict=True
        )
        for new, padded, leaf in leaves:
            if len(leaf.shape) >= 2 and leaf.shape[1] is None and new.shape[1] < padded.shape[1]:
                at_begin = np.array_equal(padded[:, : new.shape[1]].astype(new.dtype), new)
                at_end = np.array_equal(padded[:, padded.shape[1] - new.shape[1] :].astype(new.dtype), new)
                if at_begin != at_end:
                    return at_end
    return False
