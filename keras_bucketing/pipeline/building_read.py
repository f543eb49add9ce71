"""Whether Keras reads a batch only to build a model on its shapes."""

from __future__ import annotations

import sys
from types import FrameType

# keras/src/trainers/trainer.py: under JAX and PyTorch, `fit` and `evaluate` read one batch here unless model, loss and
# metrics are all built, drop the iterator, and begin with another one.
_BUILDING_FUNCTION = "_symbolic_build"


def is_building_read() -> bool:
    """Whether the caller iterates in order to build a Keras model.

    Nothing but the call stack tells: Keras has no hook before that read, and an iterator that is dropped after one
    batch may as well be `take(1)`, or `fit(steps_per_epoch=1)`, whose batch counts. Should the function have another
    name one day, the first `fit` begins with epoch 1 again; a test would notice.

    The call stack is Python's. Where tf.data iterates over the dataset because something was put on top (`.map()`,
    `class_weight`, a distribution strategy), no Python code is called, and the operations of the graph cannot know what
    the batch is for.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == _BUILDING_FUNCTION and frame.f_globals.get("__name__", "").startswith("keras."):
            return True
        frame = frame.f_back
    return False
