"""Several leaves, and labels of every kind: shapes, weights, lengths and statistics of real batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.callbacks.padding_stats import PaddingStatsCallback
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from keras_bucketing.padding.stats import LeafPaddingStats
from tests.support.default_layer import examples
from tests.support.strategies import bucket_options, enough_rows, lengths_lists, random_sequences, remainders, seeds

PADDING, LABEL_PADDING = 7, 9


@st.composite
def structures(draw):
    """A dict of 1 to 3 sequences per row and a number, and labels of every kind: as lists of arrays."""
    first = draw(lengths_lists(min_size=2, max_size=16))
    like_first = lengths_lists(min_size=len(first), max_size=len(first))
    lengths = {"a": first, **{key: draw(like_first) for key in draw(st.sampled_from(["", "b", "bc"]))}}
    seed = draw(seeds())
    x = {key: random_sequences(of_leaf, "int16", (2,) * (key == "b"), seed) for key, of_leaf in lengths.items()}
    own = draw(lengths_lists(min_size=len(first), max_size=len(first), min_length=0, max_length=25))
    y = {
        "row": np.arange(len(first)),
        "aligned": random_sequences(lengths[draw(st.sampled_from(sorted(lengths)))], "int32", (), seed),
        "own": random_sequences(own, "int8", (), seed),
    }
    return x, y


def pad(sequences, value, padded_length):
    padded = np.full((len(sequences), padded_length, *sequences[0].shape[1:]), value, sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def lengths_of(leaf):
    return np.array([len(row) for row in leaf])


def arrays_of(dataset):
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in dataset]


@settings(max_examples=examples(30))
@given(
    structures(),
    bucket_options(longest=25, num_shards=2),
    remainders(),
    st.booleans(),
    st.none() | st.integers(1, 25),
    st.none() | st.integers(1, 6),
    st.sampled_from([(1, 0), (2, 1)]),
    st.booleans(),
)
def test_batches_and_statistics_are_those_of_plain_loops(
    data, options, remainder, to_boundary, minlen, maxlen, shard, align
):
    x, y = data
    y = {key: y[key] for key in ("row", "aligned" if align else "own")}
    if minlen is not None and maxlen is not None:
        minlen, maxlen = sorted((minlen, maxlen))
    with enough_rows():
        dataset = BucketedSequence(
            x,
            y,
            align_labels=align,
            minlen=minlen,
            maxlen=maxlen,
            remainder=remainder,
            pad_to_bucket_boundary=to_boundary,
            padding_value=PADDING,
            label_padding_value=LABEL_PADDING,
            include_lengths=True,
            seed=1,
            num_shards=shard[0],
            shard_index=shard[1],
            **options,
        )
    x = {key: [row[:maxlen] for row in leaf] for key, leaf in x.items()}
    if align:
        y["aligned"] = [row[:maxlen] for row in y["aligned"]]
    plan = dataset.epoch_plan(0)
    counted = {f"x['{key}']": [] for key in x} | ({} if align else {"y['own']": []})
    shapes = set()
    for rows, padded_length, batch in zip(plan, plan.padded_lengths, arrays_of(dataset), strict=True):
        inputs, labels = batch[:2]
        assert labels["row"].tolist() == rows.tolist()
        assert padded_length == max(inputs[key].shape[1] for key in x)
        for key, leaf in x.items():
            counted[f"x['{key}']"].append((lengths_of(leaf)[rows].sum(), *inputs[key].shape[:2]))
            assert inputs[key].shape[1] >= (minlen or 1)
            assert inputs[key].tobytes() == pad([leaf[row] for row in rows], PADDING, inputs[key].shape[1]).tobytes()
            if len(x) > 1:
                assert inputs[f"{key}_lengths"].tolist() == lengths_of(leaf)[rows].tolist()
        assert inputs["lengths"].tolist() == np.max([lengths_of(leaf)[rows] for leaf in x.values()], 0).tolist()
        if align:
            weights = batch[2]["aligned"]
            assert weights.shape == labels["aligned"].shape
            assert labels["aligned"].shape[1] in {inputs[key].shape[1] for key in x}
            assert weights.sum(axis=1).tolist() == lengths_of(y["aligned"])[rows].tolist()
            assert (labels["aligned"][weights == 0] == LABEL_PADDING).all()
        else:
            assert len(batch) == 2
            own = [y["own"][row] for row in rows]
            counted["y['own']"].append((lengths_of(own).sum(), *labels["own"].shape))
            assert labels["own"].tobytes() == pad(own, LABEL_PADDING, labels["own"].shape[1]).tobytes()
            assert inputs["label_lengths"].tolist() == lengths_of(own).tolist()
        shapes.add((len(rows), *(batches[-1][2] for batches in counted.values())))

    # What the plan says it padded is what the batches hold.
    assert {name: [padded for _, _, padded in batches] for name, batches in counted.items()} == {
        name: padded.tolist() for name, padded in plan.leaf_padded_lengths.items()
    }
    stats = dataset.padding_stats(0)
    expected = {
        name: (sum(real for real, _, _ in batches), sum(rows * padded for _, rows, padded in batches))
        for name, batches in counted.items()
    }
    assert stats.real_timesteps == sum(real for real, _ in expected.values())
    assert stats.total_timesteps == sum(total for _, total in expected.values())
    assert stats.shapes == tuple(sorted(shapes))
    found = {leaf.name: (leaf.real_timesteps, leaf.total_timesteps) for leaf in stats.leaves}
    assert found == (expected if len(expected) > 1 else {})
    assert sum(bucket.total_timesteps for bucket in stats.buckets) == stats.total_timesteps
    if to_boundary:  # one shape for a bucket, and one for the partial batch
        assert len({shape[1:] for shape in stats.shapes}) <= len(stats.buckets)


SOURCE = random_sequences([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], "int32", seed=1)
TARGET = random_sequences([5, 1, 2, 1, 7, 3, 9, 1, 2, 3, 4, 5], "int32", seed=2)


def test_shards_pad_labels_of_their_own_length_alike():
    options = {"batch_size": 4, "seed": 5, "align_labels": False, "include_lengths": True}
    halves = [BucketedSequence(SOURCE, TARGET, num_shards=2, shard_index=index, **options) for index in (0, 1)]
    whole = BucketedSequence(SOURCE, TARGET, batch_size_multiple=2, **options)
    for first, second, batch in zip(*map(arrays_of, (*halves, whole)), strict=True):
        tf.nest.map_structure(lambda half, both: np.testing.assert_array_equal(half, both[0::2]), first, batch)
        tf.nest.map_structure(lambda half, both: np.testing.assert_array_equal(half, both[1::2]), second, batch)
    assert [half.padding_stats().num_batches for half in halves] == [3, 3]


def test_dropped_rows_take_their_labels_with_them():
    dataset = BucketedSequence(
        [[], [1, 2], [3]], [[5], [], [6, 7]], on_empty="drop", align_labels=False, include_lengths=True, shuffle=False
    )
    [(inputs, labels)] = arrays_of(dataset)
    assert labels.tolist() == [[6, 7], [0, 0]]
    assert inputs["label_lengths"].tolist() == [2, 0]
    assert dataset.padding_stats().leaves == (LeafPaddingStats("x", 2, 3, 4), LeafPaddingStats("y", 2, 2, 4))


def test_minlen_is_where_the_shapes_begin():
    dataset = BucketedSequence(SOURCE, minlen=4, batch_size=2, shuffle=False)
    assert [batch.shape[1] for batch in arrays_of(dataset)] == [4, 4, 4, 5, 6, 9]
    assert min(dataset.bucket_boundaries) > 4
    fixed = BucketedSequence(SOURCE, minlen=5, maxlen=5)
    assert {batch.shape[1] for batch in arrays_of(fixed)} == {5}


@pytest.mark.fit
def test_a_valid_convolution_takes_every_batch():
    dataset = BucketedSequence([row[:, np.newaxis] for row in SOURCE], np.zeros(12), minlen=4, batch_size=1, seed=1)
    model = keras.Sequential([keras.layers.Conv1D(2, 4), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(dataset.map(lambda x, y: (tf.cast(x, tf.float32) * 0, y)), verbose=0, shuffle=False)


def test_a_state_of_other_options_is_refused():
    state = BucketedSequence(SOURCE, SOURCE, seed=1).state_dict()
    BucketedSequence(SOURCE, SOURCE, seed=1).load_state_dict(state)
    for options in ({"minlen": 2}, {"align_labels": False}, {"timestep_weights": False}):
        with pytest.raises(ValueError, match="`state` belongs to another dataset"):
            BucketedSequence(SOURCE, SOURCE, seed=1, **options).load_state_dict(state)


@pytest.mark.parametrize("make", ["from_row_splits", "from_padded"])
def test_other_ways_to_pass_sequences_take_labels_of_their_own_length(make):
    padded = keras.utils.pad_sequences([row * 0 + 1 for row in SOURCE], padding="post")
    flat, splits = np.concatenate(SOURCE) * 0 + 1, np.cumsum([0, *map(len, SOURCE)])
    data = {"from_row_splits": (flat, splits, TARGET), "from_padded": (padded, TARGET)}[make]
    dataset = getattr(BucketedSequence, make)(*data, align_labels=False, include_lengths=True, shuffle=False)
    [(inputs, labels)] = arrays_of(dataset)
    order = dataset.epoch_plan(0)[0]
    assert inputs["label_lengths"].tolist() == [len(TARGET[row]) for row in order]
    assert labels.tobytes() == pad([TARGET[row] for row in order], 0, 9).tobytes()


def test_labels_that_are_padded_to_another_length_stay_arrays():
    padded = keras.utils.pad_sequences([row * 0 + 1 for row in SOURCE], padding="post")
    transcripts = keras.utils.pad_sequences(TARGET, 11, padding="post")
    dataset = BucketedSequence.from_padded(padded, transcripts, shuffle=False)
    [(_, labels)] = arrays_of(dataset)
    assert labels.tolist() == transcripts[dataset.epoch_plan(0)[0]].tolist()


@pytest.mark.fit
def test_ctc_trains_on_audio_and_transcripts():
    audio = [row[:, np.newaxis] * np.ones(3, np.float32) * 0 + 1 for row in random_sequences(range(8, 20))]
    transcripts = [np.arange(1, 1 + index % 4) for index in range(12)]  # some are empty
    dataset = BucketedSequence(audio, transcripts, batch_size=4, align_labels=False, seed=1)
    model = keras.Sequential([keras.layers.Dense(6)])
    model.compile("sgd", keras.losses.CTC())
    history = model.fit(dataset, verbose=0, shuffle=False)
    assert np.isfinite(history.history["loss"][0])


@pytest.mark.parametrize("weights", [None, np.arange(12) + 1.0])
def test_a_loss_that_masks_by_itself_gets_pairs(weights):
    tags = [row % 5 for row in SOURCE]
    dataset = BucketedSequence(SOURCE, tags, weights, timestep_weights=False, label_padding_value=-1, shuffle=False)
    [batch] = arrays_of(dataset)
    assert len(batch) == (2 if weights is None else 3)
    assert weights is None or batch[2].tolist() == weights[dataset.epoch_plan(0)[0]].tolist()


def two_inputs():
    inputs = {name: keras.Input((None,), name=name, dtype="int32") for name in ("source", "target")}
    pooled = [keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 2)(entry)) for entry in inputs.values()]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.concatenate(pooled)))
    model.compile("sgd", "mse")
    return model


@pytest.mark.fit
def test_the_callback_counts_every_leaf_and_monitor_padding_what_a_map_has_left():
    x = {"source": [row % 8 + 1 for row in SOURCE], "target": [row % 8 + 1 for row in TARGET]}
    dataset = BucketedSequence(x, np.zeros(12), batch_size=4, seed=1)
    mapped = dataset.map(lambda x, y: ({**x, "target": x["target"][:, :2]}, y))
    monitored, model = monitor_padding(mapped), two_inputs()
    planned, measured = PaddingStatsCallback(dataset), PaddingStatsCallback(monitored)
    model.fit(monitored, callbacks=[planned, measured], verbose=0, shuffle=False)
    assert planned.history == [dataset.padding_stats(0)]
    assert [leaf.real_timesteps for leaf in planned.history[0].leaves] == [sum(map(len, SOURCE)), sum(map(len, TARGET))]
    source, target = measured.history[0].leaves
    assert source == planned.history[0].leaves[0]
    assert target.real_timesteps == sum(min(len(row), 2) for row in TARGET)
    assert "x['target']" in str(measured.history[0])
    lines: list[str] = []
    dataset.summary(lines.append)
    assert [line.split()[0] for line in lines[0].splitlines()[-2:]] == ["x['source']", "x['target']"]
