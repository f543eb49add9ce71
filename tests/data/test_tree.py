"""Structures of leaves: each leaf comes back as its own, whatever the keys are."""

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_bucketing.data import tree
from tests.support.strategies import structures


def boxed(structure):
    """The same with leaves that `keras.tree` takes for leaves."""
    if isinstance(structure, dict):
        return {key: boxed(value) for key, value in structure.items()}
    if isinstance(structure, tuple):
        return tuple(map(boxed, structure))
    return Box(structure)


class Box:
    def __init__(self, leaf):
        self.leaf = leaf


def entry_at(structure, path):
    for key in path:
        structure = structure[key]
    return structure


@given(structures(st.lists(st.integers(), max_size=2)))
def test_every_leaf_has_its_own_path_as_in_keras(structure):
    expected = [(path, box.leaf) for path, box in keras.tree.flatten_with_path(boxed(structure))]
    assert tree.leaves(structure) == expected
    assert all(entry_at(structure, path) is leaf for path, leaf in tree.leaves(structure))
    assert len({path for path, _ in expected}) == len(expected)


@given(structures(st.lists(st.integers(), max_size=2)))
def test_mapping_gives_every_leaf_its_own_path(structure):
    mapped = tree.map_leaves(lambda path, leaf: [path, leaf], structure)
    assert [(path, leaf) for _, (path, leaf) in tree.leaves(mapped)] == tree.leaves(structure)
    assert tree.map_leaves(lambda path, pair: pair[1], mapped) == structure
    assert list(tree.leaves_like(structure, mapped)) == [leaf for _, leaf in tree.leaves(mapped)]


@given(structures(st.integers()), structures(st.integers()))
def test_other_structures_are_refused_where_they_differ(template, structure):
    where = first_difference(template, structure)
    if where is None:
        assert list(tree.leaves_like(template, structure)) == [
            entry_at(structure, path) for path, _ in tree.leaves(template)
        ]
        return
    with pytest.raises(tree.StructureError) as error:
        list(tree.leaves_like(template, structure))
    assert error.value.path == where


def first_difference(template, structure, path=()):
    """The path of the first node that is built otherwise, depth first; a tuple may stand for a leaf."""
    if not isinstance(template, (dict, tuple)):
        return path if isinstance(structure, dict) else None
    if kind_of(template) != kind_of(structure):
        return path
    keys = sorted(template) if isinstance(template, dict) else range(len(template))
    found = (first_difference(template[key], structure[key], (*path, key)) for key in keys)
    return next((where for where in found if where is not None), None)


def kind_of(node):
    return (type(node), sorted(node) if isinstance(node, dict) else len(node) if isinstance(node, tuple) else None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "x"),
        (("a", 0), "x['a'][0]"),
        (("it's",), 'x["it\'s"]'),
        (("k" * 200,), f"x['{'k' * 57}...{'k' * 58}']"),
    ],
)
def test_names_show_the_keys_and_shorten_long_ones(path, name):
    assert tree.name_of("x", path) == name


def test_nothing_is_no_leaf_unless_it_is_asked_for():
    assert tree.leaves(None) == []
    assert tree.leaves({"a": None, "b": (1, None)}) == [(("b", 0), 1)]
    assert tree.map_leaves(lambda path, leaf: path, {"a": None, "b": 1}) == {"a": None, "b": ("b",)}
    assert tree.map_leaves(lambda path, leaf: path, {"a": None}, none_is_leaf=True) == {"a": ("a",)}


@pytest.mark.parametrize(
    ("template", "structure", "message"),
    [
        ((1, None), (1, 2), r"Expected none at \(1,\), received int"),
        ({"a": (1, 2)}, {"a": (1,)}, r"Expected a tuple of 2 at \('a',\), received a tuple of 1"),
        ({"a": 1}, {"b": 1}, r"Expected a dict with the keys \['a'\] at \(\), received a dict with the keys \['b'\]"),
        (1, {"a": 1}, r"Expected int at \(\), received a dict"),
    ],
)
def test_a_mismatch_says_where_and_what(template, structure, message):
    with pytest.raises(tree.StructureError, match=message):
        list(tree.leaves_like(template, structure))


def test_a_tuple_is_a_leaf_where_the_template_has_one():
    assert list(tree.leaves_like({"a": [1]}, {"a": (2, 3)})) == [(2, 3)]


@pytest.mark.parametrize(
    ("structure", "error", "message"),
    [
        ({}, ValueError, "`x` is an empty dict"),
        ({"a": ((),)}, ValueError, r"`x\['a'\]\[0\]` is an empty tuple"),
        (({1: 2},), TypeError, r"`x\[0\]` must have strings as keys. Received 1"),
    ],
)
def test_what_is_no_structure_is_refused_by_name(structure, error, message):
    with pytest.raises(error, match=message):
        tree.check_structure(structure, "x")


@given(structures(st.integers()))
def test_structures_pass_the_check(structure):
    tree.check_structure(structure, "x")
