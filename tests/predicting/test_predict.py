"""dataset.predict against a plain loop over the rows."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from tests.support.default_layer import examples
from tests.support.rows import assert_same_rows


class ArrayModel(keras.Model):
    """Puts out what a function of NumPy arrays makes of the padded `x` of a batch; nothing is traced."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.shapes = []

    def predict_on_batch(self, x):
        x = keras.tree.map_structure(np.asarray, x)
        self.shapes.append(keras.tree.flatten(x)[-1].shape)
        return self.function(x)


def tokens(x):
    return x["sequences"] if isinstance(x, dict) else x


def rowwise(x):
    """Three values of a row, whatever the padding of 0."""
    ids = tokens(x)
    return np.stack([ids.sum(1), ids.max(1), (ids > 0).sum(1)], axis=1)


def timestepwise(x):
    return np.stack([tokens(x), 2.5 * tokens(x)], axis=2)


def strided(x):
    """The first of every two timesteps."""
    return tokens(x)[:, ::2]


def everything(x):
    ids = tokens(x)
    return {
        "tags": timestepwise(x),
        "parts": [rowwise(x), strided(x)],
        "pairs": ids[:, np.newaxis, :, np.newaxis] * ids[:, np.newaxis, np.newaxis],
    }


def predict(dataset, function, **options):
    return dataset.predict(ArrayModel(function), verbose=0, **options)


OPTIONS = st.fixed_dictionaries(
    {
        "shuffle": st.booleans(),
        "seed": st.just(1),
        "include_lengths": st.booleans(),
        "minlen": st.sampled_from([None, 4]),
    },
    optional={
        "remainder": st.sampled_from(["spill", "keep"]),
        "num_buckets": st.integers(1, 3),
        "pad_to_bucket_boundary": st.booleans(),
    },
)
SIZES = st.sampled_from(
    [{"batch_size": 3}, {"max_timesteps_per_batch": 24}, {"batch_size": 4, "batch_size_multiple": 2}, {}]
)


@settings(max_examples=examples(45), deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=14), OPTIONS, SIZES, st.booleans())
def test_every_row_has_the_prediction_that_it_has_alone(lengths, options, sizes, has_labels):
    x = [np.arange(1, length + 1) + 100 * row for row, length in enumerate(lengths)]
    dataset = BucketedSequence(x, np.zeros(len(x)) if has_labels else None, **options, **sizes)
    halves = [-(-length // 2) for length in lengths]
    predicted = predict(dataset, everything, lengths={"tags": None, "parts": [None, halves], "pairs": None})
    alone = [everything(row[np.newaxis]) for row in x]
    assert_same_rows(predicted["tags"], [row["tags"][0] for row in alone])
    assert_same_rows(predicted["parts"][1], [row["parts"][1][0] for row in alone])
    assert_same_rows(predicted["pairs"], [row["pairs"][0] for row in alone])
    assert isinstance(predicted["parts"][0], np.ndarray)
    np.testing.assert_array_equal(predicted["parts"][0], [row["parts"][0][0] for row in alone])


@settings(max_examples=examples(12), deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=10), st.booleans())
def test_an_output_is_cut_to_the_sequence_that_it_grows_with(lengths, shuffle):
    source = [np.full(length, row + 1) for row, (length, _) in enumerate(lengths)]
    target = [np.full(length, row + 1) for row, (_, length) in enumerate(lengths)]
    dataset = BucketedSequence({"source": source, "target": target}, batch_size=3, shuffle=shuffle)
    found = predict(dataset, lambda x: [x["target"], x["source"]])
    said = predict(dataset, lambda x: [x["target"], x["source"]], lengths=["target", ("source",)])
    for predicted in (found, said):
        assert_same_rows(predicted[0], target)
        assert_same_rows(predicted[1], source)


LENGTHS = [3, 1, 5, 2, 4, 2, 5, 1]
X = [np.full(length, row + 1) for row, length in enumerate(LENGTHS)]


def make(**options):
    return BucketedSequence(X, **{"batch_size": 3, "seed": 1, **options})


def test_the_passes_of_the_dataset_stand_still():
    dataset, untouched = make(), make()
    for rows in dataset.take(1), untouched.take(1):
        list(rows)
    iterator, expected = iter(dataset), iter(untouched)
    got, wanted = [next(iterator)], [next(expected)]
    before = dataset.state_dict(), dataset.newest_pass(), dataset.epoch, dataset.padding_stats()
    np.testing.assert_array_equal(predict(dataset, rowwise)[:, 2], LENGTHS)
    assert (dataset.state_dict(), dataset.newest_pass(), dataset.epoch, dataset.padding_stats()) == before
    got, wanted = [*got, *iterator], [*wanted, *expected]
    assert [batch.numpy().tolist() for batch in got] == [batch.numpy().tolist() for batch in wanted]


@pytest.mark.parametrize("remainder", ["spill", "keep", "drop"])
@pytest.mark.parametrize("multiple", [1, 3])
def test_rows_that_epochs_leave_out_are_predicted(remainder, multiple):
    dataset = make(remainder=remainder, batch_size_multiple=multiple, num_buckets=2)
    np.testing.assert_array_equal(predict(dataset, rowwise)[:, 2], LENGTHS)


def test_batches_are_sorted_and_have_the_sizes_and_the_padding_of_the_dataset():
    model = ArrayModel(rowwise)
    dataset = BucketedSequence(X, bucket_boundaries=[3], bucket_batch_sizes=[4, 2], pad_to_bucket_boundary=True, seed=1)
    dataset.predict(model, verbose=0)
    further = model.shapes[1:3]  # two runs for what grows, since no batch is long enough to show it
    assert [model.shapes[0], *model.shapes[3:]] == [(4, 2), (2, 5), (2, 5)]
    assert further == [(4, 3), (4, 10)]


def test_mapped_loaded_and_nested_data(tmp_path):
    np.save(tmp_path / "values.npy", np.concatenate(X))
    values = np.load(tmp_path / "values.npy", mmap_mode="r")
    mapped = BucketedSequence.from_row_splits(values, np.cumsum([0, *LENGTHS]), batch_size=3)
    loaded = BucketedSequence.from_loader(
        lambda row: X[row], LENGTHS, output_signature=tf.TensorSpec((None,), tf.int64), batch_size=3
    )
    for dataset in (mapped, loaded):
        assert_same_rows(predict(dataset, timestepwise), [timestepwise(row[np.newaxis])[0] for row in X])
    static = np.arange(len(X))
    nested = BucketedSequence({"a": {"ids": X}, "static": static, "b": (X[::-1],)}, batch_size=3, include_lengths=True)

    def outputs(x):
        return (x["b"][0], x["static"], x["a"]["ids"])

    for lengths in (None, [("b", 0), False, ("a", "ids")]):
        reversed_rows, values_of_rows, ids = predict(nested, outputs, lengths=lengths)
        assert_same_rows(reversed_rows, X[::-1])
        assert_same_rows(ids, X)
        assert values_of_rows.tolist() == static.tolist()


def test_empty_rows_that_are_kept_have_one_timestep():
    dataset = BucketedSequence([[], [1, 2]], on_empty="keep", batch_size=1)
    assert_same_rows(predict(dataset, lambda x: x + 1), [[1], [2, 3]])


# What an output is does not depend on the data.


EQUAL = [np.full(6, row + 1) for row in range(5)]


@pytest.mark.parametrize("x", [X, EQUAL, [[7]], [[1, 2], [3, 4, 5]], [[1]] * 4])
def test_the_type_depends_on_the_model(x):
    dataset = BucketedSequence(x, batch_size=2)
    assert isinstance(predict(dataset, timestepwise), list)
    as_many_classes = np.ones(max(map(len, x)))
    assert isinstance(predict(dataset, lambda x: np.ones((len(x), 1)) * as_many_classes), np.ndarray)
    for short in (strided, lambda x: x[:, ::8], lambda x: x[:, 1:], lambda x: np.repeat(x, 2, axis=1)):
        with pytest.raises(ValueError, match=r"Pass the lengths of its rows as `lengths`"):
            predict(dataset, short)


def with_positions(number, function):
    """A model that takes no more timesteps than that, and no fewer than 2."""

    def limited(x):
        if not 2 <= x.shape[1] <= number:
            raise ValueError(f"positions end at {number}")
        return function(x)

    return limited


def test_models_whose_positions_end_are_tried_with_fewer_timesteps():
    dataset = BucketedSequence(EQUAL, batch_size=2)
    assert_same_rows(predict(dataset, with_positions(6, lambda x: x)), EQUAL)
    assert predict(dataset, with_positions(6, lambda x: np.ones((len(x), 6)))).shape == (5, 6)
    pairs = BucketedSequence([[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="holds one value per timestep: it has as many as there are timesteps, 2, and"):
        predict(pairs, with_positions(2, lambda x: x))
    assert_same_rows(predict(pairs, with_positions(2, lambda x: x), lengths=[1, 2]), [[1], [3, 4]])
    assert predict(pairs, with_positions(2, lambda x: x), lengths=False).tolist() == [[1, 2], [3, 4]]
    assert predict(pairs, with_positions(2, rowwise)).shape == (2, 3)


def test_one_lengths_for_all_are_those_of_outputs_with_time():
    predicted = predict(make(), lambda x: [rowwise(x), strided(x)], lengths=[-(-length // 2) for length in LENGTHS])
    assert isinstance(predicted[0], np.ndarray)
    assert_same_rows(predicted[1], [row[::2] for row in X])


def test_a_fixed_number_of_slots_can_be_cut():
    predicted = predict(make(), lambda x: np.tile(np.arange(6), (len(x), 1)), lengths=LENGTHS)
    assert_same_rows(predicted, [np.arange(length) for length in LENGTHS])


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ("ids", ValueError, "`lengths` names no sequence of x. Expected ints, received 'ids' (str)."),
        (True, TypeError, "`lengths` must not be True. Expected ints, or False for values of a row."),
        ([1, 2], ValueError, "must have one entry for each row of the input. Expected shape (8,), received (2,)."),
        ([-1, *LENGTHS[1:]], ValueError, "`lengths` must be at least 0. Received -1 at lengths[0]."),
        ([0.5, *LENGTHS[1:]], ValueError, "`lengths` must be whole numbers of timesteps."),
        ({"a": None}, ValueError, "built like them. Expected one, received a dict with the keys ['a']."),
        ([None], ValueError, "built like them. Expected one, received a list of 1."),
        (
            [9, *LENGTHS[1:]],
            ValueError,
            "is shorter than its row. Expected at least 9 timesteps for row 0 of",
        ),
        (False, ValueError, "`outputs` has other shapes in other batches."),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, error, text):
    with pytest.raises(error) as raised:
        predict(make(), lambda x: x, lengths=lengths)
    assert text in str(raised.value)


def test_wrong_lengths_of_several_outputs_are_named():
    dataset = BucketedSequence({"a": X, "b": X}, seed=1)
    for lengths, text in (
        ({"tags": "c", "classes": None}, "`lengths['tags']` names no sequence of x. Expected the name of a sequence"),
        (("a", "b"), "received ('a', 'b') (tuple). For one entry for each output pass a list."),
        ({"tags": "a"}, "Expected a dict with the keys ['classes', 'tags'], received a dict with the keys ['tags']."),
        ({"tags": "a", "classes": "a"}, "`outputs['classes']` are, but it has no time axis."),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            predict(dataset, lambda x: {"tags": x["a"], "classes": x["a"][:, 0]}, lengths=lengths)


@pytest.mark.parametrize(
    ("options", "call", "error", "text"),
    [
        ({}, {"steps": 2}, ValueError, "`steps` must be left out: every row is predicted. Received steps=2."),
        ({}, {"batch_size": 2}, ValueError, "`batch_size` must be left out: the dataset has its own batch sizes."),
        ({}, {"verbos": 2}, TypeError, "predict() has no argument 'verbos'. Expected `lengths`, `verbose` or"),
        ({"num_shards": 3}, {}, ValueError, "Expected num_shards=1, received 3."),
        ({"on_empty": "drop"}, {}, ValueError, "1 of 9 rows were dropped as empty, the first of them x[8]"),
    ],
)
def test_what_has_no_prediction_for_every_row_is_refused(options, call, error, text):
    x = [*X, []] if "on_empty" in options else X
    dataset = BucketedSequence(x, **{"batch_size": 3, "seed": 1, **options})
    with pytest.raises(error) as raised:
        dataset.predict(ArrayModel(rowwise), **call)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: x.sum(), "must have one row for each row of a batch. Expected an array of shape (3, ...)"),
        (lambda x: {"a": x[:2]}, "`outputs['a']` of the model must have one row"),
        (lambda x: [tf.RaggedTensor.from_tensor(x)], "`outputs[0]` of the model must have one row"),
    ],
)
def test_outputs_without_a_row_for_each_row_are_refused(function, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        predict(make(), function)


def test_only_models_predict():
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        make().predict(rowwise)


class Calls(keras.callbacks.Callback):
    def __init__(self, stop_after=None):
        super().__init__()
        self.seen, self.stop_after = [], stop_after

    def on_predict_begin(self, logs=None):
        self.seen.append(("begin", self.params["steps"]))

    def on_predict_batch_begin(self, batch, logs=None):
        self.seen.append(batch)

    def on_predict_batch_end(self, batch, logs=None):
        self.seen.append(logs["outputs"].shape)
        self.model.stop_predicting = batch == self.stop_after

    def on_predict_end(self, logs=None):
        self.seen.append("end")


def test_callbacks_see_each_batch_once(capsys):
    calls, dataset = Calls(stop_after=2), make()
    dataset.predict(ArrayModel(rowwise), callbacks=[calls])
    assert calls.seen == [("begin", 3), 0, (3, 3), 1, (3, 3), 2, (2, 3), "end"]
    assert "3/3" in capsys.readouterr().out
    model = ArrayModel(rowwise)
    stopping = keras.callbacks.CallbackList([Calls(stop_after=1)], model=model, steps=3)
    with pytest.raises(RuntimeError, match="A callback stopped the prediction after 2 of 3 batches"):
        dataset.predict(model, callbacks=stopping, verbose=0)
    assert capsys.readouterr().out == ""
