"""The arguments of `tune_batch_sizes` that bound batches, checked against the dataset."""

from __future__ import annotations

from typing import Any

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.checks import INT64_MAX, check_integer, check_number, show
from keras_bucketing.planning.automatic_buckets import MOST_BUCKETS
from keras_bucketing.tuning.size_bounds import SizeBounds

# Unless the user says otherwise, a batch has from a third of the mean rows of the dataset's to four times as many.
_LEAST_OF_MEAN, _MOST_OF_MEAN = 1 / 3, 4


def check_bounds(
    dataset: BucketedSequence,
    multiple: int,
    min_updates: Any,
    min_rows: Any,
    max_rows: Any,
    max_timesteps_per_batch: Any,
    max_step_seconds: Any,
) -> SizeBounds:
    """Checks the arguments of `tune_batch_sizes`, and fills in what is not said."""
    num_sequences = dataset.num_sequences
    mean = num_sequences / dataset.num_batches
    min_updates = dataset.num_batches if min_updates is None else check_integer("min_updates", min_updates)
    if min_rows is None:
        min_rows = max(round(mean * _LEAST_OF_MEAN / multiple), 1) * multiple
        if max_rows is not None:
            min_rows = min(min_rows, check_integer("max_rows", max_rows))
    most = num_sequences // multiple * multiple
    if max_rows is None:
        max_rows = max(round(mean * _MOST_OF_MEAN / multiple) * multiple, check_integer("min_rows", min_rows))
    for name, rows in (("min_rows", min_rows), ("max_rows", max_rows)):
        if check_integer(name, rows) % multiple:
            raise ValueError(
                f"`{name}` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of {multiple}, "
                f"received {rows}."
            )
    if min_rows > max_rows:
        raise ValueError(f"`min_rows` must not exceed `max_rows`. Expected at most {max_rows}, received {min_rows}.")
    if min_rows > most:
        raise ValueError(f"`min_rows` must not exceed the {most} sequences that there are. Received {min_rows}.")
    if max_timesteps_per_batch is not None:
        needed = multiple * int(max(dataset.lengths.max(), dataset.plan_options["minlen"]))
        max_timesteps_per_batch = check_integer(
            "max_timesteps_per_batch",
            max_timesteps_per_batch,
            minimum=needed,
            maximum=INT64_MAX,
            fix=f"A batch has at least {multiple} row{'s' if multiple > 1 else ''} of the longest sequence.",
        )
    if max_step_seconds is not None and not check_number("max_step_seconds", max_step_seconds) > 0:
        raise ValueError(f"`max_step_seconds` must be positive. Received {show(max_step_seconds)}.")
    # Where each bucket is a shape to compile, more buckets may cost more than they save.
    few_shapes = dataset.plan_options["pad_to_bucket_boundary"]
    return SizeBounds(
        min_updates,
        min_rows,
        min(max_rows, most),
        max_timesteps_per_batch,
        max_step_seconds,
        max_buckets=len(dataset.bucket_batch_sizes) if few_shapes else MOST_BUCKETS,
    )
