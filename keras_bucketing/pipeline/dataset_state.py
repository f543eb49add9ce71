"""The position in a dataset as a small dictionary, and the check that it is loaded into the same dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from keras_bucketing.checks import INT64_MAX, check_integer, show

STATE_VERSION = 2
# Of larger data a sample must do: they may lie in a file, which would have to be read.
_MAX_BYTES = 1 << 22
_SAMPLED_ROWS = 256
_SAMPLED_BYTES_PER_ROW = 1 << 12


def fingerprint(parts: Iterable[bytes], options: Mapping[str, object]) -> str:
    """A hash of what tells the data from others, and of options: equal for equal datasets, in every process."""
    digest = hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sampled_rows(row_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows whose values count, increasing: all of them where the values are few, else some from first to last.

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
    """How many timesteps of a sampled row count, from its first on."""
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
        state: What `state_dict` returned, of this version or of one that knew nothing of `options`.
        data_fingerprint: That of the dataset.
        seed: That of the dataset.
        seed_was_given: Whether the state must have the same.
        options: Options whose default depends on the backend, as the dataset has them, so that the error can name them.
    """
    options = options or {}
    keys = {"version", "epoch", "batch", "seed", "fingerprint"}
    if not isinstance(state, Mapping) or not keys <= set(state) <= keys | set(options):
        received = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"`state` must be what state_dict() returned. Expected the keys {sorted(keys)}, received {received}."
        )
    if state["version"] != STATE_VERSION:
        raise ValueError(
            f"`state` is of another version. Expected {STATE_VERSION}, received {show(state['version'])}. Save it "
            "again with this version of keras-bucketing."
        )
    for name, value in options.items():
        if state.get(name, value) != value:
            raise ValueError(
                f"`state` was made with {name}={show(state[name])}, and this dataset has {name}={value}. The default "
                f"is True where Keras runs on JAX and False elsewhere. Pass {name}={show(state[name])} to resume on "
                "this backend."
            )
    if state["fingerprint"] != data_fingerprint:
        unknown = [name for name, value in options.items() if value and name not in state]
        hint = "".join(f" A state of version 0.2.0 had {name}=False unless it was given." for name in unknown)
        raise ValueError(
            "`state` belongs to another dataset: its data or options differ from this one's, so the same position "
            f"would be other batches. Expected fingerprint {data_fingerprint}, received {show(state['fingerprint'])}. "
            f"Make the dataset from the same data, in the same order, with the same options.{hint}"
        )
    epoch, batch = (check_integer(f"state[{show(key)}]", state[key], minimum=0) for key in ("epoch", "batch"))
    state_seed = check_integer("state['seed']", state["seed"], minimum=0, maximum=INT64_MAX)
    if seed_was_given and state_seed != seed:
        raise ValueError(
            f"`state` was made with another seed. Expected {seed}, received {state_seed}. Pass seed={state_seed} to "
            "BucketedSequence, or no seed to take over that of the state."
        )
    return epoch, batch, state_seed
