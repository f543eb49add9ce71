"""Calls from TensorFlow's threads into Python, which must have ended when Python does."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET_SECONDS = 0.05  # after which no prefetching thread is about to call
_PATIENCE_SECONDS = 10.0


class CallsBeforeExit:
    """Counts calls, and lets the interpreter wait for them before it ends.

    A thread of TensorFlow that is in Python, or waits to get in, when the interpreter ends never comes back
    (`take_gil` in CPython's ceval_gil.h ends it). The iterator that it works for then waits for it when it is deleted,
    and the process hangs, as a program did every few runs that left a loop over the batches early. Python joins the
    threads that load first; each batch that is still to be prefetched then fails at once, and this waits for the
    last of them.

    Example:
        >>> calls = CallsBeforeExit()
        >>> with calls.one():
        ...     calls.num_running
        1
        >>> calls.wait()
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_running = 0
        self._num_begun = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call, from its beginning to its end."""
        with self._lock:
            if not self._num_begun:
                atexit.register(self.wait)
            self._num_begun += 1
            self.num_running += 1
        try:
            yield
        finally:
            with self._lock:
                self.num_running -= 1

    def wait(self) -> None:
        """Waits until no call runs and for a moment none has begun."""
        now = quiet_since = time.monotonic()
        give_up, num_begun = now + _PATIENCE_SECONDS, self._num_begun
        while now < min(quiet_since + _QUIET_SECONDS, give_up):
            time.sleep(_QUIET_SECONDS / 10)
            now = time.monotonic()
            if self.num_running or self._num_begun != num_begun:
                quiet_since, num_begun = now, self._num_begun
