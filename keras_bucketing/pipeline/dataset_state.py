"""The position in a dataset as a small dictionary, and the check that it is loaded into the same dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from keras_bucketing.checks import INT64_MAX, check_integer, show

STATE_VERSION = 1
_CHUNK_ROWS = 1 << 22  # values are hashed a part at a time, so that no second copy of them is made


def fingerprint(tensors: Iterable[tf.Tensor], options: Mapping[str, Any]) -> str:
    """A hash of data and options: equal for equal datasets, in every process."""
    digest = hashlib.blake2b(repr(sorted(options.items())).encode(), digest_size=16)
    for tensor in tensors:
        digest.update(f"{tensor.dtype.name}{tensor.shape}".encode())
        for start in range(0, tensor.shape[0], _CHUNK_ROWS):
            digest.update(tensor[start : start + _CHUNK_ROWS].numpy().tobytes())
    return digest.hexdigest()


def make_state(epoch: int, batch: int, seed: int, data_fingerprint: str) -> dict[str, Any]:
    """The state: plain numbers and strings, so that JSON can hold it."""
    return {
        "version": STATE_VERSION,
        "epoch": epoch,
        "batch": batch,
        "seed": seed,
        "fingerprint": data_fingerprint,
    }


def check_state(state: Any, data_fingerprint: str, seed: int, seed_was_given: bool) -> tuple[int, int, int]:
    """Checks a state against the dataset it is loaded into; returns its epoch, batch and seed."""
    keys = {"version", "epoch", "batch", "seed", "fingerprint"}
    if not isinstance(state, Mapping) or set(state) != keys:
        received = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"`state` must be what state_dict() returned. Expected the keys {sorted(keys)}, received {received}."
        )
    if state["version"] != STATE_VERSION:
        raise ValueError(
            f"`state` is of another version. Expected {STATE_VERSION}, received {show(state['version'])}. Save it "
            "again with this version of keras-bucketing."
        )
    if state["fingerprint"] != data_fingerprint:
        raise ValueError(
            "`state` belongs to another dataset: its data or options differ from this one's, so the same position "
            f"would be other batches. Expected fingerprint {data_fingerprint}, received {show(state['fingerprint'])}. "
            "Make the dataset from the same data, in the same order, with the same options."
        )
    epoch, batch = (check_integer(f"state[{show(key)}]", state[key], minimum=0) for key in ("epoch", "batch"))
    state_seed = check_integer("state['seed']", state["seed"], minimum=0, maximum=INT64_MAX)
    if seed_was_given and state_seed != seed:
        raise ValueError(
            f"`state` was made with another seed. Expected {seed}, received {state_seed}. Pass seed={state_seed} to "
            "BucketedSequence, or no seed to take over that of the state."
        )
    return epoch, batch, state_seed
