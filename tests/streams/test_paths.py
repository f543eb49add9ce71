"""Each leaf of a stream comes back as its own, whatever the keys are that lead to it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, load_sequences, save_sequences
from keras_bucketing.data import tree
from tests.support.default_layer import examples
from tests.support.strategies import structures
from tests.support.streams import Batches, Sequences, map_leaves, pad, pick, rows_of

NUM_ROWS = 4
LONG = "k" * 100
PAIR = [f"{LONG}{middle}{LONG}" for middle in ("a", "b")]  # with one name in messages
properties = settings(
    max_examples=examples(20), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@st.composite
def data(draw):
    """Triples `(x, y, None)` of sequences and arrays, in which no two leaves are alike."""
    x = draw(structures(st.booleans()).filter(lambda x: any(is_sequence for _, is_sequence in tree.leaves(x))))
    y = draw(st.none() | structures(st.booleans()))
    counter = iter(range(1, 100))

    def make(is_sequence):
        first, rows = 10 * next(counter), range(NUM_ROWS)
        if not is_sequence:
            return first + np.arange(NUM_ROWS)
        return Sequences(np.full(1 + (first // 10 + row) % 3, first + row) for row in rows)

    return map_leaves(make, (x, y, None))


def contents(structure):
    """The rows of each leaf, by its path."""
    return {path: [np.asarray(row).tolist() for row in leaf] for path, leaf in tree.leaves(structure)}


@properties
@given(data())
def test_leaves_survive_a_folder(tmp_path_factory, triple):
    folder = tmp_path_factory.mktemp("saved") / "sequences"
    save_sequences(folder, iter(rows_of(triple)), batched=False)
    assert contents(load_sequences(folder)) == contents(pick(triple, slice(None)))


@properties
@given(data(), st.sampled_from(["rows", "lists"]), st.booleans())
def test_leaves_survive_from_dataset(tmp_path_factory, triple, form, cached):
    stream = iter(rows_of(triple)) if form == "rows" else Batches(triple, 3)
    dataset = BucketedSequence.from_dataset(
        stream,
        batched=form != "rows",
        cache=tmp_path_factory.mktemp("caches") / "cache" if cached else None,
        batch_size=NUM_ROWS,
        align_labels=False,
        shuffle=False,
    )
    order = dataset.epoch_plan(0)[0]

    def ordered(leaf):
        return pad([leaf[row] for row in order]) if isinstance(leaf, Sequences) else leaf[order]

    assert contents(next(iter(dataset))) == contents(pick(map_leaves(ordered, triple), slice(None)))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"lengths": x}])
def test_keys_with_one_name_are_two_leaves(tmp_path, wrap):
    rows = [{PAIR[0]: [1] * length, PAIR[1]: [2] * length} for length in (3, 1, 2)]
    save_sequences(tmp_path / "s", ((wrap(row),) for row in rows))
    loaded = load_sequences(tmp_path / "s")
    assert [leaf.values[0] for _, leaf in tree.leaves(loaded)] == [1, 2]


def test_padded_batches_whose_keys_have_one_name():
    sequences = {PAIR[0]: [[1, 0], [2], [3, 3, 0]], PAIR[1]: [[4], [5, 0, 0], [6]]}
    x = {key: pad([np.array(row) for row in rows], length=4) for key, rows in sequences.items()}
    x |= {f"{key}_lengths": np.array([len(row) for row in rows]) for key, rows in sequences.items()}
    dataset = BucketedSequence.from_dataset([(x,)], batched=True, batch_size=3, shuffle=False)
    assert dataset.lengths.tolist() == [2, 3, 3]  # as the lengths say: the values alone would be shorter
    batch = next(iter(dataset))
    order = dataset.epoch_plan(0)[0]
    for key, rows in sequences.items():
        assert batch[key].numpy().tolist() == pad([np.array(rows[row]) for row in order]).tolist()


def test_an_entry_deep_inside_is_no_lengths():
    inner = {"a": [[1, 2, 0], [3, 0, 0]], "lengths": [3, 3], "a_lengths": [3, 3]}
    x = {"outer": {key: np.array(value) for key, value in inner.items()}}
    dataset = BucketedSequence.from_dataset([(x,)], batched=True, batch_size=2, shuffle=False)
    assert dataset.lengths.tolist() == [2, 1]
    assert next(iter(dataset))["outer"].keys() == inner.keys()
