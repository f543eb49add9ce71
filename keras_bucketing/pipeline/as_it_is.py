"""Functions of a pipeline as they are written, without AutoGraph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """Spares AutoGraph the conversion of a function that has no Python control flow for tensors."""
    converted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(function)
    return converted
