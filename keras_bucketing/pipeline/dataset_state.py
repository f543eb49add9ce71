"""The position in a dataset as a small dictionary, and the check that it is loaded into the same dataset.

The state of a `BucketedSequence` identifies what is read and where it is cut, but not how many processes share a batch:
another number of them can continue with it if the rows are cut alike (version 3). The state of a stream, and of version
0.2.0, is version 2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import INT64_MAX, check_integer, list_some, show
from keras_bucketing.planning.cuts import BatchCuts

STATE_VERSION = 2
_ELASTIC_VERSION = 3
_KEYS = {"version", "epoch", "batch", "seed", "fingerprint"}
# Of larger data a sample must do: they may lie in a file, which would have to be read.
_MAX_BYTES = 1 << 22
_SAMPLED_ROWS = 256
_SAMPLED_BYTES_PER_ROW = 1 << 12


def fingerprint(parts: Iterable[bytes], options: Mapping[str, object]) -> str:
    """A hash of the data and of options: equal for equal datasets, in every process."""
    return _fingerprints(parts, [options])[0]


def _fingerprints(parts: Iterable[bytes], choices: Iterable[Mapping[str, object]]) -> list[str]:
    """The fingerprint with each of some choices of options; the parts are read once."""
    digests = [hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=16) for options in choices]
    for part in parts:
        for digest in digests:
            digest.update(part)
    return [digest.hexdigest() for digest in digests]


def sampled_rows(row_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows whose values count, increasing: all of them if the values are few, else some from first to last.

    Example:
        >>> sampled_rows(np.array([10, 20, 30])).tolist()
        [0, 1, 2]
        >>> sampled_rows(np.full(511, 2**30))[[0, 1, -1]].tolist()
        [0, 2, 510]
    """
    num_rows = len(row_bytes)
    if row_bytes.sum() <= _MAX_BYTES or num_rows <= _SAMPLED_ROWS:
        return np.arange(num_rows)
    return np.linspace(0, num_rows - 1, _SAMPLED_ROWS).astype(np.int64)


def sampled_timesteps(timestep_bytes: int) -> int:
    """The number of timesteps of a sampled row that count, from its first on."""
    return max(_SAMPLED_BYTES_PER_ROW // max(timestep_bytes, 1), 1)


def make_state(
    epoch: int, batch: int, seed: int, data_fingerprint: str, options: Mapping[str, bool] | None = None
) -> dict[str, int | str]:
    """The state: plain numbers and strings, so that JSON can hold it; `options` as in `check_state`."""
    return {
        "version": STATE_VERSION,
        "epoch": epoch,
        "batch": batch,
        "seed": seed,
        "fingerprint": data_fingerprint,
        **(options or {}),
    }


def check_state(
    state: object,
    data_fingerprint: str,
    seed: int,
    seed_was_given: bool,
    options: Mapping[str, bool] | None = None,
) -> tuple[int, int, int]:
    """Checks a state against the dataset it is loaded into; returns its epoch, batch and seed.

    Args:
        state: What `state_dict` returned, of this version or of one without `options`.
        data_fingerprint: The fingerprint of the dataset.
        seed: The seed of the dataset.
        seed_was_given: Whether the state must have the same.
        options: Options of the dataset whose default depends on the backend, so that the error can name them.
    """
    options = options or {}
    checked = _check_keys(state, _KEYS, STATE_VERSION, options)
    _check_same_data(checked, data_fingerprint, options)
    return _position_and_seed(checked, seed, seed_was_given)


def _check_keys(state: object, keys: set[str], version: int, options: Mapping[str, bool]) -> Mapping[str, object]:
    """Checks the entries of a state, and that its `options`, if it has them, are those of the dataset."""
    if not isinstance(state, Mapping) or not keys <= set(state) <= keys | set(options):
        received = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"`state` must be what state_dict() returned. Expected the keys {sorted(keys)}, received {received}."
        )
    if state["version"] != version:
        raise ValueError(
            f"`state` is of another version. Expected {version}, received {show(state['version'])}. Save it "
            "again with this version of keras-bucketing."
        )
    for name, value in options.items():
        if state.get(name, value) != value:
            raise ValueError(
                f"`state` was made with {name}={show(state[name])}, and this dataset has {name}={value}. The default "
                f"is True where Keras runs on JAX and False elsewhere. Pass {name}={show(state[name])} to resume on "
                "this backend."
            )
    return state


def _check_same_data(state: Mapping[str, object], expected: str, options: Mapping[str, bool]) -> None:
    if state["fingerprint"] != expected:
        unknown = [name for name, value in options.items() if value and name not in state]
        hint = "".join(f" A state of version 0.2.0 had {name}=False unless it was given." for name in unknown)
        raise ValueError(_of_another_dataset(expected, state["fingerprint"]) + hint)


def _of_another_dataset(expected: str, received: object) -> str:
    return (
        "`state` belongs to another dataset: its data or options differ from this one's, so the same position "
        f"would be other batches. Expected fingerprint {expected}, received {show(received)}. "
        "Make the dataset from the same data, in the same order, with the same options."
    )


def _position_and_seed(state: Mapping[str, object], seed: int, seed_was_given: bool) -> tuple[int, int, int]:
    epoch, batch = (check_integer(f"state[{show(key)}]", state[key], minimum=0) for key in ("epoch", "batch"))
    state_seed = check_integer("state['seed']", state["seed"], minimum=0, maximum=INT64_MAX)
    if seed_was_given and state_seed != seed:
        raise ValueError(
            f"`state` was made with another seed. Expected {seed}, received {state_seed}. Pass seed={state_seed} to "
            "BucketedSequence, or no seed to take over that of the state."
        )
    return epoch, batch, state_seed


# The state of a BucketedSequence, with which any number of processes can continue.


@dataclass
class ElasticIdentity:
    """What identifies the batches of a dataset, for any number of processes that share them.

    Attributes:
        read_parts: Function that returns the bytes that identify the data.
        options: The options that the batches depend on; names and values are part of saved states.
        cuts: Where the rows are cut into batches.
        boundaries: Ints, those of the buckets; of nested ones, with a list of lists in it.
        batch_sizes: Ints, rows, one for each bucket.
        levels: The names of the leaves that nested buckets are made of; else empty.
        multiple: Int, `batch_size_multiple` x `num_shards`.
        num_shards: Int, the number of processes that share each batch.
        shown: The options whose default depends on the backend, so that an error can name them.
    """

    read_parts: Callable[[], Iterable[bytes]]
    options: Mapping[str, object]
    cuts: BatchCuts
    boundaries: list[Any]
    batch_sizes: list[int]
    levels: tuple[str, ...]
    multiple: int
    num_shards: int
    shown: Mapping[str, bool]
    _fingerprint: str | None = None

    def state(self, epoch: int, batch: int, seed: int) -> dict[str, int | str]:
        """The state at a position."""
        state = make_state(epoch, batch, seed, self._data_fingerprint(), self.shown)
        return {**state, "version": _ELASTIC_VERSION, "cuts": self._cuts_fingerprint(), "multiple": self.multiple}

    def check(self, state: object, seed: int, seed_was_given: bool) -> tuple[int, int, int]:
        """Checks a state of the same batches; returns its epoch, batch and seed."""
        if isinstance(state, Mapping) and state.get("version") == STATE_VERSION:
            known = self._earlier_fingerprints()
            found = state.get("fingerprint")
            is_known = found in known
            if not is_known and any(isinstance(boundary, list) for boundary in self.boundaries):
                raise ValueError(
                    f"{_of_another_dataset(known[0], found)} Version 0.2.0 nested no buckets: pass the "
                    "bucket_boundaries that it had."
                )
            return check_state(state, str(found) if is_known else known[0], seed, seed_was_given, self.shown)
        checked = _check_keys(state, {*_KEYS, "cuts", "multiple"}, _ELASTIC_VERSION, self.shown)
        _check_same_data(checked, self._data_fingerprint(), self.shown)
        if checked["cuts"] != self._cuts_fingerprint():
            multiple = check_integer("state['multiple']", checked["multiple"])
            if multiple != self.multiple:
                raise ValueError(self._other_multiple(multiple))
            raise ValueError(_of_another_dataset(self._cuts_fingerprint(), checked["cuts"]))
        return _position_and_seed(checked, seed, seed_was_given)

    def _data_fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.read_parts(), self.options)
        return self._fingerprint

    def _cuts_fingerprint(self) -> str:
        cuts = self.cuts
        parts = [part.astype("<i8").tobytes() for part in (cuts.starts, cuts.stops, cuts.buckets)]
        sizes = {"boundaries": self.boundaries, "batch_sizes": self.batch_sizes, "num_spare": cuts.num_spare}
        levels = {"levels": self.levels} if self.levels else {}
        return fingerprint(parts, {**sizes, **levels})

    def _earlier_fingerprints(self) -> list[str]:
        """The fingerprints of version 0.2.0 for every possible number of shards, the actual number first."""
        earlier = {"boundaries": self.boundaries, "batch_sizes": self.batch_sizes, "multiple": self.multiple}
        numbers = dict.fromkeys([self.num_shards, *_divisors(self.multiple)])
        choices = [{**self.options, **earlier, "num_shards": number} for number in numbers]
        return _fingerprints(self.read_parts(), choices)

    def _other_multiple(self, multiple: int) -> str:
        if multiple % self.num_shards:
            fix = (
                f"None fits num_shards={self.num_shards}: continue with a number of shards that divides {multiple}, "
                f"{list_some([str(number) for number in _divisors(multiple)])}, and pass "
                f"batch_size_multiple={multiple} // num_shards."
            )
        else:
            fix = f"With num_shards={self.num_shards} pass batch_size_multiple={multiple // self.num_shards}."
        return (
            "`state` needs the same batch_size_multiple x num_shards: otherwise an epoch would leave out other rows. "
            f"Expected {self.multiple}, received {multiple}. {fix}"
        )


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
