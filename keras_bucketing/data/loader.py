"""The user's function that loads one row, and the check of its result."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.checks import check_integer, check_lengths, shorten, show, show_typed
from keras_bucketing.data.arrays import as_regular_array, standard_dtype
from keras_bucketing.data.row_splits import Lengths, RowIndices
from keras_bucketing.data.rows import Rows, Selection
from keras_bucketing.data.tree import Structure

Key = str | int | None  # of a sequence in what a row is loaded as; None where that is the sequence itself


class LoadError(ValueError):
    """The reason why a row cannot be used. A `ValueError`, so that TensorFlow passes it on as `InvalidArgumentError`.

    Any other class, such as `StopIteration`, would tell TensorFlow that the dataset has ended.
    """


@dataclass(frozen=True)
class LoadedLeaf:
    """The expected form of one of the sequences of a row.

    Attributes:
        key: Its key or index in the result of the function.
        dtype: Its dtype.
        feature_shape: Its shape without the axis of timesteps.
    """

    key: Key
    dtype: np.dtype
    feature_shape: tuple[int, ...]

    @property
    def suffix(self) -> str:
        """The text after `load(3)` or `lengths` in an error message, e.g. `['audio']`."""
        return "" if self.key is None else f"[{show(self.key)}]"


@dataclass(frozen=True, eq=False)
class Loader:
    """Loads rows and checks them, in any thread.

    Attributes:
        load: The user's function, from a row index to its sequence, or to a dict or tuple of sequences; or from a row
            index and an epoch.
        takes_epoch: Whether it takes the epoch.
        leaves: The sequences of a row, in the order of `tree.leaves`.
        length_tolerance: By how many timesteps a sequence may differ from its announced length; if below 1 and not an
            integer, by what fraction of it.
        num_parallel_loads: The number of threads in which the function may run at once.
    """

    load: Callable[..., object]
    takes_epoch: bool
    leaves: tuple[LoadedLeaf, ...]
    length_tolerance: int | float
    num_parallel_loads: int

    def read(self, row: int, epoch: int) -> list[np.ndarray]:
        """Loads one row; returns its sequences, of the announced dtype and feature shape.

        Raises:
            LoadError: If the function fails or returns something else.
        """
        try:
            returned = self.load(row, epoch) if self.takes_epoch else self.load(row)
        except BaseException as error:  # SystemExit in a thread must not end the training without a word
            reason = shorten(" ".join(f"{type(error).__name__}: {error}".split())).rstrip(".")
            raise LoadError(
                f"`load` failed at row {row} with {reason}. Repair what that row is loaded from, or leave the row out."
            ) from error
        sequences = self._split_row(returned, row)
        return [self._check(sequence, row, leaf) for sequence, leaf in zip(sequences, self.leaves, strict=True)]

    def check_length(self, leaf: LoadedLeaf, row: int, received: int, announced: int) -> None:
        """Refuses a sequence that is not as long as announced, or has no timesteps: cuDNN aborts on a masked row."""
        tolerance, excess = self._timesteps_of_tolerance(announced), abs(received - announced)
        if excess > tolerance:
            expected = f"{announced} to within {tolerance}" if tolerance else f"{announced}"
            wider: int | float = excess
            if isinstance(self.length_tolerance, float) and excess < announced:
                wider = min(math.ceil(100 * excess / announced) / 100, 0.99)
            raise LoadError(
                f"`load` must return as many timesteps as announced. Expected {expected} as in lengths{leaf.suffix}"
                f"[{row}], received {received} in load({row}){leaf.suffix}. Correct `lengths`, or pass "
                f"length_tolerance={wider} where lengths are estimates."
            )
        if not received and announced:
            raise LoadError(
                f"`load` must return at least one timestep. Expected {announced} as in lengths{leaf.suffix}[{row}], "
                f"received none in load({row}){leaf.suffix}. Leave that row out."
            )

    def _timesteps_of_tolerance(self, announced: int) -> int:
        if isinstance(self.length_tolerance, int):
            return self.length_tolerance
        # As it is written: 0.07 x 100 is above 7 in binary, and would be rounded up to 8.
        return math.ceil(Fraction(repr(self.length_tolerance)) * announced)

    def _split_row(self, returned: object, row: int) -> list[object]:
        """The sequences of a row in the order of the leaves."""
        keys = [leaf.key for leaf in self.leaves]
        if keys == [None]:
            return [returned]
        if isinstance(keys[0], str):
            if isinstance(returned, dict) and returned.keys() == set(keys):
                return [returned[key] for key in keys]
            expected = f"a dict with the keys {show(keys)}"
        else:
            if isinstance(returned, (tuple, list)) and len(returned) == len(keys):
                return list(returned)
            expected = f"a tuple of {len(keys)} sequences"
        received = f"the keys {show(list(returned))}" if isinstance(returned, dict) else show_typed(returned)
        raise LoadError(
            f"`load` must return what `output_signature` says. Expected {expected}, received {received} from load("
            f"{row}). Return every sequence of the signature and nothing else."
        )

    def _check(self, returned: object, row: int, leaf: LoadedLeaf) -> np.ndarray:
        name = f"load({row}){leaf.suffix}"
        try:
            sequence = as_regular_array(returned, name, "Return one array (length, *features).")
        except (TypeError, ValueError) as error:
            raise LoadError(str(error)) from error
        if sequence.ndim == 0 or (sequence.shape[1:] != leaf.feature_shape and sequence.shape != (0,)):
            expected = ", ".join(["length", *map(str, leaf.feature_shape)])
            received = show_typed(returned) if sequence.ndim == 0 else str(sequence.shape)
            raise LoadError(
                f"`load` must return what `output_signature` says. Expected shape ({expected}), received {received} in "
                f"{name}. Return one array, the time axis first, or correct the signature."
            )
        return self._cast(sequence, name, leaf.dtype)

    def _cast(self, sequence: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
        """Converts to the announced dtype if that keeps integers exact and at most rounds floats, as `fit` does."""
        if sequence.dtype == dtype:
            return sequence
        if sequence.size:
            is_integer = sequence.dtype.kind in "biu" and dtype.kind in "iu"
            if not (is_integer or (sequence.dtype.kind in "biuf" and dtype.kind == "f")):
                raise LoadError(
                    f"`load` must return what `output_signature` says. Expected dtype {dtype}, received "
                    f"{sequence.dtype} in {name}. Convert it in `load`, or correct the signature."
                )
            limits = np.iinfo(dtype) if is_integer else None
            if limits and not limits.min <= int(sequence.min()) <= int(sequence.max()) <= limits.max:
                raise LoadError(
                    f"`load` must return what `output_signature` says. Expected values that {dtype} can hold, received "
                    f"{sequence.min()} to {sequence.max()} in {name}. Take a wider dtype in the signature."
                )
        with np.errstate(over="ignore"):  # beyond float16 is infinity, as in a cast by TensorFlow
            return sequence.astype(dtype)


def loaded_leaves_of(output_signature: object) -> list[LoadedLeaf]:
    """Checks a signature: a `tf.TensorSpec` of shape `(None, *features)`, or a dict or tuple of them.

    Raises:
        TypeError: If it is something else, or a dtype is not one of numbers.
        ValueError: If the number of timesteps is fixed or a feature axis is not.
    """
    if isinstance(output_signature, dict) and output_signature:
        return [_leaf_of_spec(output_signature[key], key) for key in sorted(output_signature, key=str)]
    if isinstance(output_signature, tuple) and output_signature:
        return [_leaf_of_spec(spec, index) for index, spec in enumerate(output_signature)]
    return [_leaf_of_spec(output_signature, None)]


def _leaf_of_spec(spec: Any, key: Key) -> LoadedLeaf:
    name = "output_signature" if key is None else f"output_signature[{show(key)}]"
    if not isinstance(spec, tf.TensorSpec):
        raise TypeError(
            f"`{name}` must be a tf.TensorSpec. Expected e.g. tf.TensorSpec((None, 80), tf.float32), received "
            f"{show_typed(spec)}; a dict or tuple of several sequences is flat."
        )
    shape = spec.shape.as_list() if spec.shape.rank else [0]
    if shape[0] is not None or None in shape[1:]:
        raise ValueError(
            f"`{name}` must have the shape (None, *features): timesteps, then axes of fixed size. Received "
            f"{spec.shape}. Pass e.g. tf.TensorSpec((None, 80), tf.float32)."
        )
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    standard_dtype(dtype, name)  # refuses text and what NumPy does not have
    return LoadedLeaf(key, dtype, tuple(shape[1:]))


# One leaf of variable-length rows that are not in memory: their lengths are known, a function loads them.


@dataclass(frozen=True, kw_only=True)
class Loaded(Rows):
    """Rows whose values are loaded later: `values` has no timesteps, only the dtype and the feature shape.

    Operations on the rows apply to their lengths; the values follow when they are loaded.

    Attributes:
        loader: Loads the rows.
        leaf: The index of this sequence among the loader's.
        rows: Int64 array `(num_rows,)`: the loader's index of each row.
        announced: Int64 array `(num_rows,)`: the announced timesteps.
        truncating: The end at which a row is cut that is longer than `lengths` says.
    """

    loader: Loader
    leaf: LoadedLeaf
    rows: RowIndices
    announced: Lengths
    truncating: str = "post"

    def truncate(self, maxlen: int, truncating: str) -> Loaded:
        """Cuts every row to `maxlen` timesteps, at its end ("post") or at its beginning ("pre")."""
        return replace(self, sizes=np.minimum(self.sizes, maxlen), truncating=truncating)

    def select(self, keep: Selection) -> Loaded:
        """The rows where the boolean array `keep` is True, or those at its indices."""
        return replace(super().select(keep), rows=self.rows[keep], announced=self.announced[keep])

    def refuse_estimates(self, labels: str) -> None:
        """Refuses labels per timestep if the number of timesteps is an estimate."""
        if self.loader.length_tolerance:
            raise ValueError(
                f"`{labels}` holds one label per timestep, which needs exact lengths. Received length_tolerance="
                f"{self.loader.length_tolerance}. Pass exact lengths, or align_labels=False."
            )


def loaded_sequences(
    load: Callable[..., object],
    lengths: object,
    output_signature: object,
    length_tolerance: object,
    num_parallel_loads: object,
) -> Structure:
    """The leaves of a loading function, in the structure of the signature; arguments as in `from_loader`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If lengths and signature do not fit together.
    """
    if not callable(load):
        raise TypeError(
            "`load` must be a function from a row index to a sequence. Received "
            f"{show_typed(load)}. Sequences in memory belong in BucketedSequence itself."
        )
    takes_epoch = _takes_epoch(load)
    leaves = loaded_leaves_of(output_signature)
    tolerance = _check_tolerance(length_tolerance)
    if num_parallel_loads is None:
        # What ThreadPoolExecutor takes by itself: some threads wait for the disk while others decode.
        num_parallel_loads = min(32, (os.cpu_count() or 1) + 4)
    num_parallel_loads = check_integer("num_parallel_loads", num_parallel_loads)
    loader = Loader(load, takes_epoch, tuple(leaves), tolerance, num_parallel_loads)
    parts = [_loaded(loader, leaf, _lengths_of(lengths, leaf, output_signature)) for leaf in leaves]
    if isinstance(output_signature, dict):
        return {leaf.key: part for leaf, part in zip(leaves, parts, strict=True)}
    return tuple(parts) if isinstance(output_signature, tuple) else parts[0]


def _takes_epoch(load: Callable[..., object]) -> bool:
    """Whether a function requires two positional arguments; refuses one that takes no row index."""
    try:
        signature = inspect.signature(load)
    except (TypeError, ValueError):  # a function in C that does not say
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in positional and parameter.default is inspect.Parameter.empty
    ]
    takes_epoch = len(required) == 2
    try:
        signature.bind(*((0, 0) if takes_epoch else (0,)))
    except TypeError as error:
        raise TypeError(
            "`load` must take a row index, as in load(row), or a row index and the epoch, as in load(row, epoch). "
            f"Received a function of {shorten(str(signature))}. Give other parameters a default, or bind them with "
            "functools.partial."
        ) from error
    return takes_epoch


def _check_tolerance(length_tolerance: Any) -> int | float:
    if not isinstance(length_tolerance, (float, np.floating)):
        return check_integer("length_tolerance", length_tolerance, minimum=0)
    if not 0 <= length_tolerance < 1:
        raise ValueError(
            "`length_tolerance` must be a fraction below 1 where it is a float. Received "
            f"{show_typed(length_tolerance)}. Pass an int for timesteps."
        )
    return float(str(length_tolerance)) or 0  # the decimals that it is written with, also of float32; 0.0 is none


def _loaded(loader: Loader, leaf: LoadedLeaf, lengths: Lengths) -> Loaded:
    return Loaded(
        np.empty((0, *leaf.feature_shape), leaf.dtype),
        np.zeros(len(lengths), np.int64),
        lengths,
        np.dtype(leaf.dtype),
        loader=loader,
        leaf=leaf,
        rows=np.arange(len(lengths)),
        announced=lengths,
    )


def _lengths_of(lengths: Any, leaf: LoadedLeaf, output_signature: Any) -> Lengths:
    """The lengths of one leaf, from the structure of the signature."""
    if leaf.key is not None:
        same_keys = isinstance(lengths, dict) and lengths.keys() == output_signature.keys()
        if isinstance(output_signature, tuple):
            same_keys = isinstance(lengths, tuple) and len(lengths) == len(output_signature)
        if not same_keys:
            expected = "tuple" if isinstance(output_signature, tuple) else "dict"
            raise ValueError(
                f"`lengths` must have the structure of `output_signature`. Expected a {expected} with lengths for each "
                f"of {show(list(output_signature))}, received {show_typed(lengths)}."
            )
        lengths = lengths[leaf.key]
    return check_lengths(lengths, f"lengths{leaf.suffix}", minimum=0)
