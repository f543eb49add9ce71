"""States: small, exact, and refused where they do not belong."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence
from keras_bucketing.pipeline.dataset_state import check_state, fingerprint, make_state, sampled_rows
from tests.support.default_layer import examples


def test_a_state_survives_json():
    state = make_state(epoch=3, batch=2, seed=2**40, data_fingerprint="abc")
    assert check_state(json.loads(json.dumps(state)), "abc", seed=0, seed_was_given=False) == (3, 2, 2**40)


def test_equal_data_and_options_have_equal_fingerprints():
    def make(parts=(b"int64(3,)", b"123"), **options):
        return fingerprint(parts, {"a": 1, "b": (2.0,), **options})

    assert make() == make()
    assert make() == make(a=1)
    others = [make((b"int64(3,)", b"124")), make((b"int32(3,)", b"123")), make(a=2), make(c=1)]
    assert len({make(), *others}) == len(others) + 1


def test_the_fingerprint_is_the_same_in_every_process_and_version():
    # Pinned: otherwise saved states could not be loaded any more.
    assert fingerprint([b"int32", b"12"], {"b": 1, "a": "x"}) == "6f8ac64e0e2a648173b3a58be5e30a48"


@settings(max_examples=examples(100))
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=600))
def test_of_large_data_a_fixed_sample_of_rows_counts_from_the_first_to_the_last(row_bytes):
    rows = sampled_rows(np.array(row_bytes))
    assert (np.diff(rows) > 0).all()
    assert (rows[0], rows[-1]) == (0, len(row_bytes) - 1)
    assert len(rows) == len(row_bytes) if sum(row_bytes) < 2**20 or len(row_bytes) < 200 else len(rows) >= 200


STATE = make_state(epoch=3, batch=2, seed=5, data_fingerprint="abc")


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (None, ValueError, "`state` must be what state_dict() returned. Expected the keys ['batch', 'epoch', "),
        ({}, ValueError, "received []."),
        ({**STATE, "more": 1}, ValueError, "'more'"),
        ({**STATE, "version": 9}, ValueError, "`state` is of another version. Expected 2, received 9."),
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


def test_few_labels_all_count_for_the_fingerprint():
    """Two thousand labels are few bytes, though they are more rows than are sampled where there are many bytes."""

    def fingerprint_with(label):
        labels = np.zeros(2000, np.int32)
        labels[-2] = label
        return BucketedSequence([[1]] * 2000, labels, seed=1).state_dict()["fingerprint"]

    assert fingerprint_with(0) != fingerprint_with(1)
