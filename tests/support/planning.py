"""Buckets, cuts and plans from the options of `BucketedSequence`, without its data."""

from hypothesis import strategies as st

from keras_bucketing.data.rows import LeafLengths, RowLengths
from keras_bucketing.planning.bucket_choice import choose_buckets
from keras_bucketing.planning.buckets import Shard, check_sizing
from keras_bucketing.planning.cuts import cut_batches
from keras_bucketing.planning.epoch_plan import EpochPlanner
from tests.support.strategies import SIZINGS, bucket_options, enough_rows, length_arrays, remainders


def make_buckets(lengths, options, num_shards=1):
    """Buckets, and the rows that batches come in multiples of, from the options of `BucketedSequence`.

    `lengths` are `RowLengths`, or an array for a single leaf.
    """
    leaves = as_row_lengths(lengths)
    options = dict(options)
    sizes = [options.pop(name, None) for name in ("batch_size", "bucket_batch_sizes", "max_timesteps_per_batch")]
    multiple, quadratic = options.pop("batch_size_multiple", 1), options.pop("quadratic_length", None)
    sizing = check_sizing(*sizes, multiple, num_shards, quadratic)
    return choose_buckets(leaves.longest, sizing, leaves=leaves.leaves, **options), sizing.multiple


def as_row_lengths(lengths):
    return lengths if isinstance(lengths, RowLengths) else RowLengths((LeafLengths("x", lengths),))


def make_planner(lengths, options, remainder="spill", shuffle=True, num_shards=1, largest_first=False):
    buckets, multiple = make_buckets(lengths, options | {"remainder": remainder}, num_shards)
    cuts = cut_batches(buckets, remainder, multiple)
    row_lengths = as_row_lengths(lengths)
    pads_to_boundary, minlen = options.get("pad_to_bucket_boundary", False), options.get("minlen", 1)
    quadratic = options.get("quadratic_length")
    return EpochPlanner(row_lengths, buckets, cuts, pads_to_boundary, shuffle, minlen, largest_first, quadratic)


def plan(planner, epoch=0, seed=0, shard=Shard(1, 0)):  # noqa: B008 (frozen)
    return planner.plan(epoch, seed).of_shard(shard)


@st.composite
def bucketings(draw, *, sizings=SIZINGS):
    """Lengths, buckets, what to do with remainders, the multiple, and the options they were made from."""
    lengths = draw(length_arrays(max_size=60))
    options = draw(bucket_options(sizings=sizings)) | {"pad_to_bucket_boundary": draw(st.booleans())}
    remainder = draw(remainders())
    return lengths, *make_buckets(lengths, options | {"remainder": remainder}), remainder, options


def cut_or_reject(buckets, remainder, multiple):
    with enough_rows():
        return cut_batches(buckets, remainder, multiple)
