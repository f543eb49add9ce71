"""Which library an object comes from, without importing that library."""

from __future__ import annotations

import sys
from typing import Any


def comes_from(library: str, values: Any) -> bool:
    """Whether the class of an object is one of a library's."""
    return library in sys.modules and type(values).__module__.split(".")[0] == library


def is_arrow(values: Any) -> bool:
    """Whether this is a pyarrow array or chunked column."""
    return comes_from("pyarrow", values) and hasattr(values, "type") and hasattr(values, "null_count")
