"""The line on standard error that says how much has been read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from keras_bucketing.checks import write_text

_SILENT_SECONDS = 3.0  # whatever is faster needs no progress bar
_BAR_WIDTH = 20
_LONG_SECONDS, _LONG_COUNT = 60.0, 1_000_000  # after which a source of unknown size may be one without end


class Progress:
    """A line on standard error that says how much has been read, from the third second on.

    Args:
        what: What is being done, e.g. "Reading".
        unit: What is counted, in the plural.
        total: Their final number, or None if it is unknown.
        stream: Where to write. Defaults to None: standard error.
        clock: Function that returns seconds.
        hint: What to say, once, where `total` is None and it takes long.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        hint: str | None = None,
    ):
        self._what, self._unit, self._total = what, unit, total
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._started = clock()
        self._due = self._started + _SILENT_SECONDS
        # A terminal's line is written over; in a log file every line stays.
        self._is_terminal = _is_terminal(self._stream)
        self._seconds_between_lines = 0.2 if self._is_terminal else 30.0
        self._has_written = False
        self._hint = None if total else hint

    def update(self, count: int) -> None:
        """Notes that `count` have been read so far."""
        now = self._clock()
        if now >= self._due:
            self._due = now + self._seconds_between_lines
            is_long = count >= _LONG_COUNT or now - self._started >= _LONG_SECONDS
            hint, self._hint = (self._hint, None) if is_long else (None, self._hint)
            self._write(count, now, "\n" if hint or not self._is_terminal else "")
            if hint:
                self._stream.write(f"{hint}\n")
                self._stream.flush()

    def finish(self, count: int) -> None:
        """Writes the last line, if there has been one before."""
        if self._has_written:
            self._write(count, self._clock(), "\n")

    def _write(self, count: int, now: float, end: str) -> None:
        seconds = now - self._started
        text = f"{self._what}: {count:,}"
        if self._total:
            done = min(count / self._total, 1.0)
            filled = int(done * _BAR_WIDTH)
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            text = f"{self._what} [{bar}] {count:,} of {self._total:,}"
        begin = "\r" if self._is_terminal else ""
        write_text(self._stream, f"{begin}{text} {self._unit}, {seconds:,.0f} s{end}")
        self._has_written = True


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError, AttributeError):  # closed, or an object that can only be written to
        return False
