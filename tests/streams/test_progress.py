"""The progress line: silent at first, one line on a terminal, a line now and then in a file."""

import io

from keras_bucketing.streams.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines_of(stream, seconds, total=None):
    """What 100 updates in so many seconds write."""
    clock = Clock()
    progress = Progress("Reading", "rows", total, stream, clock)
    for count in range(1, 101):
        clock.now += seconds / 100
        progress.update(count * 10)
    progress.finish(1000)
    return stream.getvalue()


def test_short_work_is_silent():
    assert lines_of(Terminal(), 2.9) == ""


def test_a_terminal_shows_a_bar_that_is_written_over():
    text = lines_of(Terminal(), 25, total=1000)
    assert text.startswith("\rReading [##..................] 120 of 1,000 rows, 3 s\r")
    assert text.endswith("\rReading [####################] 1,000 of 1,000 rows, 25 s\n")
    assert text.count("\n") == 1


def test_without_a_total_there_is_a_count():
    assert "\rReading: 120 rows, 3 s\r" in lines_of(Terminal(), 25)


def test_a_log_file_gets_few_lines():
    lines = lines_of(io.StringIO(), 100).splitlines()
    assert lines == [
        "Reading: 30 rows, 3 s",
        "Reading: 330 rows, 33 s",
        "Reading: 630 rows, 63 s",
        "Reading: 930 rows, 93 s",
        "Reading: 1,000 rows, 100 s",
    ]


def test_more_than_was_announced_is_no_error():
    assert "[####################] 1,000 of 500 rows" in lines_of(Terminal(), 10, total=500)
