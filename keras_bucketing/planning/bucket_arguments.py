"""The arguments that say which buckets there are: checked one by one, and against one another, before data are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_bucketing.checks import check_integer, show, show_typed
from keras_bucketing.planning.boundaries import BucketBoundaries, NestedBoundaries, check_boundaries, is_nested
from keras_bucketing.planning.buckets import BatchSizing

# Unless the user says otherwise, tuned batches have from a third of the mean rows of a dataset's to four times as many.
_MIN_OF_MEAN, _MAX_OF_MEAN = 1 / 3, 4


def is_one_number(num_buckets: object) -> bool:
    """Whether that is no list of the numbers of nested buckets."""
    return not isinstance(num_buckets, (list, tuple, np.ndarray)) or np.ndim(num_buckets) == 0


def check_bucket_arguments(
    bucket_boundaries: object, num_buckets: object, sizing: BatchSizing, takes_nested: bool = False
) -> BucketBoundaries | None:
    """Returns the boundaries, None where they are to be found; refuses what does not fit together on any data."""
    if takes_nested and (is_nested(bucket_boundaries) or not is_one_number(num_buckets)):
        return _check_nested_arguments(bucket_boundaries, num_buckets, sizing)
    number = None if num_buckets is None else check_integer("num_buckets", num_buckets)
    boundaries = None if bucket_boundaries is None else check_boundaries(bucket_boundaries)
    sizes = sizing.bucket_batch_sizes
    if boundaries is not None and number not in (None, len(boundaries) + 1):
        raise ValueError(
            f"`num_buckets` must match `bucket_boundaries`. Expected {len(boundaries) + 1}, one more than there are "
            f"boundaries, received {number}. Leave one of the two out."
        )
    if sizes is not None and boundaries is not None and len(sizes) != len(boundaries) + 1:
        raise ValueError(
            f"`bucket_batch_sizes` must have one entry for each bucket. Expected {len(boundaries) + 1} for the "
            f"boundaries {_shorten(boundaries)}, received {len(sizes)}. Pass one size more than there are boundaries."
        )
    if sizes is not None and number not in (None, len(sizes)):
        raise ValueError(
            f"`num_buckets` must match `bucket_batch_sizes`. Expected {len(sizes)}, one for each size, received "
            f"{number}. Leave `num_buckets` out."
        )
    return boundaries


def _check_nested_arguments(bucket_boundaries: Any, num_buckets: Any, sizing: BatchSizing) -> NestedBoundaries | None:
    boundaries = None if bucket_boundaries is None else _check_boundaries_of_either_form(bucket_boundaries)
    inner_numbers: list[int] = []
    if is_nested(boundaries):
        inner_numbers = [len(inner) + 1 for inner in boundaries[1]]
    if num_buckets is not None:
        number: tuple[int, ...] = (num_buckets,) if is_one_number(num_buckets) else check_nested_number(num_buckets)
        if boundaries is not None and (len(number) == 1 or inner_numbers != [number[1]] * number[0]):
            there = f"{show(inner_numbers)} inner buckets" if inner_numbers else "flat boundaries"
            raise ValueError(
                f"`num_buckets` must match `bucket_boundaries`. Received {show(num_buckets)} for {there}. Leave one of "
                "the two out."
            )
        inner_numbers = inner_numbers or [number[1]] * number[0]
    sizes = sizing.bucket_batch_sizes
    if sizes is not None and len(sizes) != sum(inner_numbers):
        raise ValueError(
            "`bucket_batch_sizes` must have one entry for each inner bucket, in lexicographic order. Expected "
            f"{sum(inner_numbers)}, received {len(sizes)}."
        )
    return boundaries


def _check_boundaries_of_either_form(bucket_boundaries: Any) -> BucketBoundaries:
    if is_nested(bucket_boundaries):
        return check_nested_boundaries(bucket_boundaries)
    return check_boundaries(bucket_boundaries)


def check_nested_number(num_buckets: Any) -> tuple[int, int]:
    """Returns how many outer buckets there are, and how many inner ones in each."""
    if len(num_buckets) != 2:
        raise ValueError(
            "`num_buckets` of nested buckets are two numbers, of the outer and of the inner buckets. Received "
            f"{show(list(num_buckets))}. Pass one int, or two as in (12, 12)."
        )
    outer, inner = (check_integer(f"num_buckets[{index}]", number) for index, number in enumerate(num_buckets))
    return outer, inner


def check_nested_boundaries(bucket_boundaries: Sequence[Any]) -> NestedBoundaries:
    """Returns boundaries of the form `[outer, [inner of outer bucket 0, inner of outer bucket 1, ...]]`."""
    if len(bucket_boundaries) != 2:
        raise ValueError(
            "`bucket_boundaries` of nested buckets are [outer, inner]: the boundaries of one leaf, and a list of those "
            f"of the other for each of its buckets. Expected 2 entries, received {len(bucket_boundaries)}."
        )
    outer = check_boundaries(bucket_boundaries[0], "bucket_boundaries[0]")
    inner = bucket_boundaries[1]
    if not isinstance(inner, (list, tuple)) or len(inner) != len(outer) + 1:
        received = f"{len(inner)} entries" if isinstance(inner, (list, tuple)) else show_typed(inner)
        raise ValueError(
            f"`bucket_boundaries[1]` must have the inner boundaries of every outer bucket. Expected {len(outer) + 1} "
            f"lists, one more than there are outer boundaries, received {received}."
        )
    return [
        outer,
        [check_boundaries(entry, f"bucket_boundaries[1][{index}]") for index, entry in enumerate(inner)],
    ]


def check_row_bounds(min_rows: object, max_rows: object, mean: float, multiple: int) -> tuple[int, int]:
    """The least and the most rows of a batch: multiples, by default around the mean of the dataset's batches."""
    if min_rows is None:
        min_rows = max(round(mean * _MIN_OF_MEAN / multiple), 1) * multiple
        if max_rows is not None:
            min_rows = min(min_rows, check_integer("max_rows", max_rows))
    if max_rows is None:
        max_rows = max(round(mean * _MAX_OF_MEAN / multiple) * multiple, check_integer("min_rows", min_rows))
    checked = check_integer("min_rows", min_rows), check_integer("max_rows", max_rows)
    for name, rows in zip(("min_rows", "max_rows"), checked, strict=True):
        if rows % multiple:
            raise ValueError(
                f"`{name}` must be a multiple of batch_size_multiple x num_shards. Expected a multiple of {multiple}, "
                f"received {rows}."
            )
    if checked[0] > checked[1]:
        raise ValueError(
            f"`min_rows` must not exceed `max_rows`. Expected at most {checked[1]}, received {checked[0]}."
        )
    return checked


def _shorten(values: list[int]) -> str:
    return str(values) if len(values) <= 10 else f"[{values[0]}, {values[1]}, ..., {values[-1]}]"
