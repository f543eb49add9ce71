"""What other libraries hand over: mappings, tensors, loaders and arrays of objects, at every door."""

from collections import UserDict
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing import BucketedSequence, load_sequences, monitor_padding, save_sequences
from keras_bucketing.streams import sources
from keras_bucketing.streams.saved_sequences import read_dataset
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.streams import ForeignTensor, as_foreign

IDS, LENGTHS = np.array([[5, 6, 0], [7, 0, 0]]), [2, 1]


def rows_in(dataset):
    return sorted((row.numpy().tolist() for x, *_ in dataset for row in x["ids"]), reverse=True)


def test_a_mapping_is_a_dict_at_every_door(tmp_path):
    rows = [UserDict(ids=[5, 6]), UserDict(ids=[7])]
    options = {"batch_size": 1, "shuffle": False}
    for dataset in (
        BucketedSequence(UserDict(ids=[[5, 6], [7]]), [0, 1], **options),
        BucketedSequence.from_padded(UserDict(ids=IDS), [0, 1], **options),
        BucketedSequence.from_dataset([(row, 0) for row in rows], **options),
    ):
        assert rows_in(dataset) == [[7], [5, 6]]
    save_sequences(tmp_path / "s", rows)
    assert load_sequences(tmp_path / "s")["ids"].lengths.tolist() == LENGTHS
    monitored = monitor_padding((UserDict(ids=IDS, nested=(UserDict(a=IDS),)), [0, 1]) for _ in range(2))
    assert [type(x) for x, _ in monitored] == [UserDict, UserDict]
    assert monitored.padding_stats().real_timesteps == 12


class Loader:
    """torch's DataLoader."""

    def __init__(self, elements, function):
        self.elements = elements
        self.collate_fn = SimpleNamespace(__name__=function)

    def __iter__(self):
        return iter(self.elements)


@pytest.fixture
def loaders_are_torch(monkeypatch):
    comes_from = sources.comes_from
    monkeypatch.setattr(
        sources,
        "comes_from",
        lambda library, values: isinstance(values, Loader) if library == "torch" else comes_from(library, values),
    )


def read(source, **options):
    return read_dataset(source, None, BatchOptions(**options)).element


@pytest.mark.usefixtures("loaders_are_torch")
def test_lists_of_a_loader_are_the_tuples_of_its_dataset():
    x = [ForeignTensor(IDS), ForeignTensor(2 * IDS)]  # of pairs of sequences, one batch of as many rows
    (one, other), labels, _ = read(Loader([[x, ForeignTensor([0, 1])]], "default_collate"), batched=True)
    assert (one.values.tolist(), other.values.tolist(), labels.tolist()) == ([5, 6, 7], [10, 12, 14], [0, 1])
    with pytest.raises(ValueError, match=r"list of tuples, which may be the rows of a batch.*batch_size=None"):
        read(Loader([[([5, 6], 0), ([7], 1)]], "collate"))
    with pytest.raises(ValueError, match="A batch of rows of different lengths is a list, not a tuple"):
        read(Loader([((1, 2), (0, 1))], "collate"), batched=True)


@pytest.mark.parametrize("sizes", [(3, 3, 1), (3, 3, 3)])
def test_batches_of_equal_shape_are_asked_for_where_the_last_has_fewer_rows(sizes):
    batches = [as_foreign((np.ones((size, 4), int), np.zeros(size, int))) for size in sizes]
    with pytest.raises(ValueError, match=r"not clear whether an element.*in all of the first 3 elements"):
        read(batches)
    read(batches, batched=True)
    read([(row, [0, 1]) for row, _ in batches])  # two labels for three timesteps: a batch has one a row


def test_an_array_of_objects_is_one_of_numbers():
    rows = [np.array([1, 2.5], object), np.array([True, 3], object)]
    assert read(rows)[0].values.tolist() == [1, 2.5, 1, 3]
    assert BucketedSequence(rows, shuffle=False).lengths.tolist() == [2, 2]
    assert read([IDS.astype(object)], batched=True)[0].lengths.tolist() == LENGTHS
    monitored = monitor_padding(IDS.astype(object) for _ in range(1))
    list(monitored)
    assert monitored.padding_stats().real_timesteps == 3
    for large in ([2**70], np.array([2**64, -1], object)):
        with pytest.raises(ValueError, match=r"`x\[0\]` must hold integers .*64 bits"):
            read([large])


@pytest.mark.parametrize("door", ["rows", "batches", "tf.data"])
def test_dtypes_that_are_none_of_numpys_are_refused_for_that(door):
    batch = np.ones((2, 3), ml_dtypes.bfloat16)
    source = tf.data.Dataset.from_tensors(tf.constant(batch)) if door == "tf.data" else [batch]
    with pytest.raises(TypeError, match=r"must hold numbers\. Expected a bool, int or float.*received bfloat16"):
        read(source, batched=door != "rows")


class Structure:
    """Neither a sequence nor a structure, as a dataclass."""


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Structure(), r"`x\[0\]` must be a sequence of numbers. Received Structure. Make a list or an array of it"),
        (tf.ragged.constant([[1], [2, 3]]), r"Received RaggedTensor\..*pass batched=True"),
    ],
)
def test_rows_that_are_no_sequences(row, text):
    with pytest.raises(TypeError, match=text):
        read([row])


@pytest.mark.parametrize("x", [tf.ragged.constant([[1], [2, 3]]), None, Structure()])
def test_what_is_no_padded_array(x):
    with pytest.raises(TypeError, match=r"`x` must be padded. Expected an array of shape .*received \w+\. Pass seq"):
        BucketedSequence.from_padded(x)


def test_sources_that_cannot_be_read_say_how():
    class Indexed:
        def __getitem__(self, index):
            return [1]

    with pytest.raises(TypeError, match=r"received Indexed. Pass its rows: \(rows\[index\] for index in range"):
        read(Indexed())
    with pytest.raises(TypeError, match=r"`dataset` must be callable without arguments.*missing.*'rows'"):
        read(lambda rows: rows)
