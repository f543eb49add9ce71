"""Which rows of each batch belong to one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_bucketing.checks import check_integer


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `num_shards` takes rows index, index + num_shards, ... of every batch."""

    num_shards: int
    index: int


def check_shard(num_shards: Any, shard_index: Any, needs_seed: bool) -> Shard:
    """Checks the arguments; shards that draw a seed of their own would not share one plan."""
    num_shards = check_integer("num_shards", num_shards)
    shard_index = check_integer("shard_index", shard_index, minimum=0)
    if shard_index >= num_shards:
        raise ValueError(
            f"`shard_index` is out of range. Expected an int below num_shards={num_shards}, received {shard_index}."
        )
    if num_shards > 1 and needs_seed:
        raise ValueError(
            f"`seed` must be given for num_shards={num_shards} with shuffle=True: all shards must draw the same "
            "order. Pass the same seed in every process."
        )
    return Shard(num_shards, shard_index)
