"""States: small, exact, and refused where they do not belong."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.pipeline.dataset_state import check_state, fingerprint, make_state


def test_a_state_survives_json():
    state = make_state(epoch=3, batch=2, seed=2**40, data_fingerprint="abc")
    assert check_state(json.loads(json.dumps(state)), "abc", seed=0, seed_was_given=False) == (3, 2, 2**40)


def test_equal_data_and_options_have_equal_fingerprints():
    def make(values=(1, 2, 3), dtype="int64", **options):
        return fingerprint([tf.constant(values, dtype), tf.constant([True, False])], {"a": 1, "b": (2.0,), **options})

    assert make() == make()
    assert make() == make(a=1)
    others = [make((1, 2, 4)), make((1, 2)), make(dtype="int32"), make(((1, 2, 3),)), make(a=2), make(c=1)]
    assert len({make(), *others}) == len(others) + 1


def test_the_fingerprint_is_the_same_in_every_process_and_version():
    # Pinned: otherwise saved states could not be loaded any more.
    assert fingerprint([tf.constant([1, 2], tf.int32)], {"b": 1, "a": "x"}) == "69d531ba69ccfecbeea040d94fb4b9e9"


def test_large_data_is_hashed_in_parts(monkeypatch):
    whole = fingerprint([tf.range(1000)], {})
    monkeypatch.setattr("keras_bucketing.pipeline.dataset_state._CHUNK_ROWS", 7)
    assert fingerprint([tf.range(1000)], {}) == whole
    changed = np.arange(1000, dtype=np.int32)
    changed[-1] = 0
    assert fingerprint([tf.constant(changed)], {}) != whole


STATE = make_state(epoch=3, batch=2, seed=5, data_fingerprint="abc")


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (None, ValueError, "`state` must be what state_dict() returned. Expected the keys ['batch', 'epoch', "),
        ({}, ValueError, "received []."),
        ({**STATE, "more": 1}, ValueError, "'more'"),
        ({**STATE, "version": 9}, ValueError, "`state` is of another version. Expected 1, received 9."),
        (
            {**STATE, "fingerprint": "xyz"},
            ValueError,
            "`state` belongs to another dataset: its data or options differ",
        ),
        ({**STATE, "fingerprint": "xyz"}, ValueError, "Expected fingerprint abc, received 'xyz'."),
        ({**STATE, "seed": 6}, ValueError, "`state` was made with another seed. Expected 5, received 6. Pass seed=6"),
        ({**STATE, "epoch": -1}, ValueError, "`state['epoch']` is too small. Expected an int >= 0, received -1."),
        ({**STATE, "batch": "2"}, TypeError, "`state['batch']` must be an integer."),
        ({**STATE, "seed": None}, TypeError, "`state['seed']` must be an integer."),
    ],
)
def test_a_state_that_does_not_belong_here_is_refused(state, error, text):
    with pytest.raises(error) as raised:
        check_state(state, "abc", seed=5, seed_was_given=True)
    assert text in str(raised.value)
