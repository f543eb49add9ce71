"""What the axes of an element mean: certain, or refused with the argument that says so."""

import pytest

from keras_bucketing.streams.elements import LeafSpec, leaves_of
from keras_bucketing.streams.roles import (
    Role,
    is_batched,
    looks_like_batches,
    looks_like_rows,
    roles_in_batches,
    roles_in_rows,
)


def leaf(*shape, ragged_rank=0):
    return LeafSpec(shape, "float32", ragged_rank)


SEQUENCE, VECTORS, SCALAR = leaf(None), leaf(None, 12), leaf()
RAGGED = leaf(None, None, ragged_rank=1)
VALUE, SEQUENCES, PADDED = Role.VALUE, Role.SEQUENCE, Role.PADDED


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (SEQUENCE, None, False),
        (SEQUENCE, SEQUENCE, False),  # a label for each timestep
        (SEQUENCE, leaf(3), False),
        (VECTORS, SCALAR, False),
        (leaf(None, None), SCALAR, False),
        ({"a": VECTORS, "n": SCALAR}, None, False),
        ((SEQUENCE, SEQUENCE), SEQUENCE, False),
        ({"a": leaf(5, 2), "b": leaf(7)}, None, False),  # a batch has one first axis
        (RAGGED, None, True),
        (RAGGED, leaf(None), True),
        (RAGGED, SCALAR, False),  # features of one width, ragged by name
        (leaf(None, None), leaf(None), True),
        (leaf(None, None, 12), leaf(None), True),
        (leaf(32, None), leaf(32), True),
        ({"a": leaf(None, None), "b": leaf(None, 5), "n": leaf(None)}, leaf(None, 3), True),
        (VECTORS, None, None),
        (VECTORS, SEQUENCE, None),
        (leaf(32, 200), leaf(32), None),
        (leaf(None, 64, 64, 3), leaf(None), None),
    ],
)
def test_batches_are_told_from_rows(x, y, expected):
    if expected is not None:
        assert is_batched(leaves_of((x, y, None))) is expected
        return
    with pytest.raises(ValueError, match=r"not clear whether.*Received x of shape.*batched=False.*batched=True"):
        is_batched(leaves_of((x, y, None)))


@pytest.mark.parametrize(
    ("x", "y", "flag", "x_roles", "y_roles"),
    [
        (SEQUENCE, SCALAR, None, SEQUENCES, VALUE),
        (leaf(7), SCALAR, None, SEQUENCES, VALUE),  # all of one length
        (VECTORS, leaf(3), None, SEQUENCES, VALUE),
        (VECTORS, leaf(3), True, SEQUENCES, SEQUENCES),
        (SEQUENCE, SEQUENCE, None, SEQUENCES, SEQUENCES),
        ((SEQUENCE, leaf(256), SCALAR), (leaf(None, 2),), None, (SEQUENCES, VALUE, VALUE), (SEQUENCES,)),
    ],
)
def test_roles_of_single_rows(x, y, flag, x_roles, y_roles):
    assert roles_in_rows(leaves_of((x, y, y)), flag) == leaves_of((x_roles, y_roles, y_roles))


@pytest.mark.parametrize(
    ("x", "y", "flag", "x_roles", "y_roles"),
    [
        (leaf(None, None), leaf(None), None, PADDED, VALUE),
        (leaf(None, 200), leaf(None), None, PADDED, VALUE),
        (leaf(None, 200), leaf(None, 10), None, PADDED, VALUE),
        (leaf(None, 200), leaf(None, 200), True, PADDED, PADDED),
        (leaf(None, 200), leaf(None, 200), False, PADDED, VALUE),
        (leaf(None, None), leaf(None, None), None, PADDED, PADDED),
        (leaf(None, None), leaf(None, 3), None, PADDED, VALUE),
        (RAGGED, RAGGED, None, SEQUENCES, SEQUENCES),
        (RAGGED, leaf(None, None), None, SEQUENCES, PADDED),
        ((RAGGED, leaf(None, 5)), leaf(None), None, (SEQUENCES, VALUE), VALUE),
        ((leaf(None, None), leaf(None, 5), leaf(None)), None, None, (PADDED, VALUE, VALUE), None),
        ((leaf(None, 9), leaf(None, 9)), None, None, (PADDED, PADDED), None),
    ],
)
def test_roles_in_batches(x, y, flag, x_roles, y_roles):
    assert roles_in_batches(leaves_of((x, y, None)), flag) == leaves_of((x_roles, y_roles, None))


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (leaf(None, 200), leaf(None, 200), "`y` may hold one label per timestep, or 200 values per row"),
        ({"a": leaf(8, 9), "b": leaf(8, 7)}, None, "not clear which entries of `x` hold the sequences"),
        (leaf(None, None), SCALAR, "`y` must have one entry for each row of a batch. Received a scalar."),
    ],
)
def test_unclear_batches_are_refused(x, y, text):
    with pytest.raises(ValueError, match=text):
        roles_in_batches(leaves_of((x, y, None)), None)


@pytest.mark.parametrize(
    ("x", "y", "num_elements", "expected"),
    [
        (leaf(32, 9), leaf(32), 8, True),  # what a generator of padded batches yields
        (leaf(32, None), leaf(32), 8, True),
        (leaf(None, 9), SCALAR, 8, False),
        (leaf(None, 9), leaf(None), 8, False),
        (leaf(32, 9), SCALAR, 8, False),
        (leaf(32, 9), leaf(32), 1, False),
        (leaf(32), leaf(32), 8, False),
    ],
)
def test_rows_that_look_like_batches(x, y, num_elements, expected):
    assert looks_like_batches(leaves_of((x, y, None)), num_elements) is expected


@pytest.mark.parametrize(
    ("declared", "seen", "expected"),
    [
        (leaf(None, None), leaf(None, 12), True),  # vectors of 12 features
        (leaf(None, None), leaf(32, 12), False),
        (leaf(None, None), leaf(None, None), False),
        (leaf(None, 12), leaf(None, 12), False),
        (RAGGED, leaf(None, 12), True),
    ],
)
def test_batches_that_look_like_rows(declared, seen, expected):
    declared, seen = leaves_of((declared, None, None)), leaves_of((seen, None, None))
    assert looks_like_rows(declared, seen, 7) is expected
    assert not looks_like_rows(declared, seen, 1)


def test_the_roles_are_known_by_the_paths_of_the_data():
    x = {"b": (leaf(None, None), leaf(None)), "a": RAGGED}
    roles = roles_in_batches(leaves_of((x, None, None)), None)
    assert {path: role is not VALUE for path, role in roles.items()} == {
        ("x", "b", 0): True,
        ("x", "b", 1): False,
        ("x", "a"): True,
    }
