"""SIGTERM, as clouds and schedulers send it before they take a machine away, kept until a backup is written."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

import keras

EXIT_CODE = 128 + signal.SIGTERM  # what shells and Kubernetes show for a process that SIGTERM has ended


class PreemptionSignal:
    """Notes that SIGTERM has come while `fit` runs, and keeps the handler that was there before.

    A second SIGTERM goes to that handler at once, and so does one that comes when `fit` has ended by an exception,
    which Keras tells no callback.

    Args:
        model: The model whose `fit` runs.

    Attributes:
        received: Bool, whether SIGTERM has come.

    Raises:
        ValueError: If `fit` does not run in the main thread, or a library outside of Python handles SIGTERM.
    """

    def __init__(self, model: keras.Model):
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(
                "`save_before_preemption` needs fit() to run in the main thread, the only one that Python lets handle "
                "signals. Received another thread. Call fit() in the main thread, or leave it out."
            )
        self._previous = signal.getsignal(signal.SIGTERM)
        if self._previous is None:
            raise ValueError(
                "`save_before_preemption` needs to put SIGTERM's handler back afterwards. Received a handler that was "
                "not installed from Python. Leave it out, and save by save_freq."
            )
        self.received = False
        self._model = model
        signal.signal(signal.SIGTERM, self._handle)

    def stop(self) -> None:
        """Puts the handler back that was there before."""
        # In Python, two bound methods of one object are equal but not the same.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)

    def leave(self) -> NoReturn:
        """Passes the signal on to the handler that was there before, and ends the process in order."""
        self.stop()
        if callable(self._previous):
            self._previous(signal.SIGTERM, None)
        raise SystemExit(EXIT_CODE)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if not self.received and _is_in_fit(frame, self._model):
            self.received = True
            return
        self.stop()
        signal.raise_signal(signal.SIGTERM)


def _is_in_fit(frame: FrameType | None, model: keras.Model) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False
