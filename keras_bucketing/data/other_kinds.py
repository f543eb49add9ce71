"""Tables and sparse matrices: they are refused, with the call that takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bucketing.data.arrays import comes_from

# How to get from a table in long format, with a row for each timestep, to a dataset.
FRAME_ADVICE = (
    "If it has a row for each timestep, pass it to BucketedSequence.from_dataframe(frame, by='id', x=['a', 'b'], "
    "y='label', sort_by='time')."
)


def is_frame(values: object) -> bool:
    """Whether this is a table of pandas, polars, Arrow or the like, or its groups."""
    name = type(values).__name__
    if name.endswith(("DataFrame", "LazyFrame", "DataFrameGroupBy", "SeriesGroupBy")):
        return True
    if name in ("Table", "RecordBatch"):
        return comes_from("pyarrow", values)
    return name.endswith("GroupBy") and comes_from("polars", values)


def refuse_frame(values: object, name: str) -> None:
    """Answers a table where sequences belong with the call for tables.

    Raises:
        TypeError: If it is a table.
    """
    if is_frame(values):
        library = type(values).__module__.partition(".")[0]
        raise TypeError(f"`{name}` is a table. Received a {library} {type(values).__name__}. {FRAME_ADVICE}")


def is_sparse(values: object) -> bool:
    """Whether this is a sparse matrix or array of SciPy, or a `tf.SparseTensor`."""
    return isinstance(values, tf.SparseTensor) or _is_scipy_sparse(values)


def _is_scipy_sparse(values: object) -> bool:
    return comes_from("scipy", values) and hasattr(values, "tocoo") and hasattr(values, "toarray")


def as_dense(values: Any) -> Any:
    """A sparse matrix as an array; anything else unchanged."""
    if isinstance(values, tf.SparseTensor):
        return tf.sparse.to_dense(tf.sparse.reorder(values)).numpy()
    return values.toarray() if _is_scipy_sparse(values) else values


def refuse_sparse(values: Any, name: str) -> None:
    """Answers one sparse matrix where sequences belong with the calls that it may be meant for.

    Raises:
        TypeError: If it is one.
    """
    if isinstance(values, tf.SparseTensor):
        raise TypeError(
            f"`{name}` is a sparse tensor of shape {tuple(values.shape)}. If a row is the sequence of its entries, "
            f"pass tf.RaggedTensor.from_sparse({name}); if it is padded, "
            f"BucketedSequence.from_padded(tf.sparse.to_dense({name}))."
        )
    if _is_scipy_sparse(values):
        shape = tuple(values.shape)
        dtype = np.dtype(values.dtype).name
        raise TypeError(
            f"`{name}` is a sparse matrix of shape {shape}. If a row is the sequence of its stored entries, pass "
            f"BucketedSequence.from_row_splits(m.data, m.indptr) with m = {name}.tocsr(), or m.indices for their "
            f"columns; if it is padded, BucketedSequence.from_padded({name}.toarray()); if it is a timestep, pass a "
            f"list with one matrix for each sequence, or BucketedSequence.from_loader(lambda i: {name}[splits[i] : "
            f"splits[i + 1]].toarray(), np.diff(splits), output_signature=tf.TensorSpec((None, {shape[-1]}), "
            f"'{dtype}'))."
        )
