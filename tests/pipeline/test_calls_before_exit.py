"""The interpreter waits for calls out of TensorFlow's threads."""

import threading

import pytest

from keras_bucketing.pipeline.calls_before_exit import CallsBeforeExit


def test_waiting_ends_after_the_last_call():
    calls, events = CallsBeforeExit(), []
    has_begun, may_end = threading.Event(), threading.Event()

    def call_twice():
        with calls.one():
            has_begun.set()
            may_end.wait(60)
            events.append("first call")
        with calls.one():
            events.append("second call")

    def wait():
        calls.wait()
        events.append("waited")

    threads = [threading.Thread(target=call_twice), threading.Thread(target=wait)]
    threads[0].start()
    assert has_begun.wait(60)
    threads[1].start()
    threads[1].join(0.3)
    assert events == []
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert events == ["first call", "second call", "waited"]


def test_a_call_that_fails_has_ended():
    calls = CallsBeforeExit()
    with pytest.raises(OSError, match="early"), calls.one():
        raise OSError("early")
    assert calls.num_running == 0
    calls.wait()


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr("keras_bucketing.pipeline.calls_before_exit._PATIENCE_SECONDS", 0.1)
    calls = CallsBeforeExit()
    with calls.one():
        calls.wait()
