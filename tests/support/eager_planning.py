"""Plans of many short-lived planners: building a graph for each would take most of the time."""

import tensorflow as tf

from keras_bucketing.planning.buckets import check_sizing, choose_buckets
from keras_bucketing.planning.epoch_plan import EpochPlanner, cut_batches
from keras_bucketing.planning.sizing import Shard


def make_buckets(lengths, options, num_shards=1):
    """Buckets, and the rows that batches come in multiples of, from the options of `BucketedSequence`."""
    options = dict(options)
    sizes = [options.pop(name, None) for name in ("batch_size", "bucket_batch_sizes", "max_timesteps_per_batch")]
    sizing = check_sizing(*sizes, options.pop("batch_size_multiple", 1), num_shards)
    return choose_buckets(lengths, sizing, **options), sizing.multiple


def make_planner(lengths, options, remainder="spill", shuffle=True, num_shards=1):
    buckets, multiple = make_buckets(lengths, options, num_shards)
    cuts = cut_batches(buckets, remainder, multiple)
    return EpochPlanner(lengths, buckets, cuts, options.get("pad_to_bucket_boundary", False), shuffle)


def plan(planner, epoch=0, seed=0, shard=Shard(1, 0)):  # noqa: B008 (frozen)
    tf.config.run_functions_eagerly(True)
    try:
        return planner.plan(epoch, seed, shard)
    finally:
        tf.config.run_functions_eagerly(False)
