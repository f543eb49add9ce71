"""The number of processes that train together, and the index of this one, from the libraries that connect them."""

from __future__ import annotations

import sys
from typing import Any

import keras


def shard_of_process() -> tuple[int, int]:
    """The number of processes that share each batch, and the index of this one.

    In this order: `keras.distribution`, if a distribution is set that tells them (Keras 3.16); JAX under its backend;
    `torch.distributed`, if it is initialized; else one process.
    """
    distribution: Any = keras.distribution.distribution()
    # Several processes may hold one replica of a model, and then read the same rows.
    if hasattr(distribution, "num_data_shards"):
        return distribution.num_data_shards, distribution.data_shard_id
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_count(), jax.process_index()
    group: Any = sys.modules.get("torch.distributed")  # not imported, it is not initialized
    if group is not None and group.is_available() and group.is_initialized():
        return group.get_world_size(), group.get_rank()
    return 1, 0
