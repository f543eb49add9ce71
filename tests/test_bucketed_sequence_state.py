"""What there is to know about a dataset, and where it stands."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.bucketed_stream import BucketedStream

X = [[row] * (1 + row % 5) for row in range(17)]
Y = np.arange(17)


def make(x=X, y=Y, **options):
    return BucketedSequence(x, y, **{"batch_size": 4, "num_buckets": 2, **options})


def rows_of(batches):
    return [labels.numpy().tolist() for _, labels in batches]


@pytest.fixture(scope="module")
def dataset():
    return make(seed=1)


def test_attributes_are_copies(dataset):
    dataset.lengths[:] = 0
    dataset.bucket_boundaries.clear()
    dataset.bucket_batch_sizes.clear()
    assert dataset.lengths.tolist() == [len(row) for row in X]
    assert len(dataset.bucket_boundaries) == 1
    assert dataset.bucket_batch_sizes == [4, 4]


def test_the_epoch_goes_up_with_the_first_batch_of_a_pass():
    dataset = make(seed=1)
    assert [dataset.epoch, dataset.newest_pass().number] == [0, 0]
    iterator = iter(dataset)
    assert dataset.epoch == 0
    next(iterator)
    assert [dataset.epoch, dataset.newest_pass().epoch] == [1, 0]
    dataset.seek(4, 2)
    assert [dataset.epoch, dataset.next_first_batch] == [4, 2]
    list(dataset)
    assert [dataset.epoch, dataset.next_first_batch] == [5, 0]
    assert dataset.newest_pass() == (2, 4, 2)


def test_statistics_count_what_the_epoch_pads(dataset):
    for epoch in (0, 3):
        plan, stats = dataset.epoch_plan(epoch), dataset.padding_stats(epoch)
        sizes = np.diff(plan.batch_splits)
        assert stats.real_timesteps == sum(map(len, X))
        assert stats.total_timesteps == (sizes * plan.padded_lengths).sum()
        assert stats.num_batches == len(dataset)


def test_a_state_taken_anywhere_resumes_with_the_batches_that_would_have_come():
    uninterrupted = make(seed=None)
    epochs = [rows_of(uninterrupted) for _ in range(3)]
    for epoch, batch in ((0, 0), (1, 2), (1, len(uninterrupted)), (2, 4)):
        state = json.loads(json.dumps(uninterrupted.state_dict(epoch, batch)))
        resumed = make(seed=None)
        resumed.load_state_dict(state)
        assert resumed.seed == uninterrupted.seed
        expected = [rows for batches in epochs for rows in batches][epoch * len(resumed) + batch :]
        passes = [rows for _ in range(4) for rows in rows_of(resumed)]
        assert passes[: len(expected)] == expected


def test_a_state_without_a_position_is_that_of_the_next_pass():
    dataset = make(seed=1)
    list(dataset)
    assert (dataset.state_dict()["epoch"], dataset.state_dict()["batch"]) == (1, 0)
    dataset.seek(6, 3)
    assert (dataset.state_dict()["epoch"], dataset.state_dict()["batch"]) == (6, 3)


def test_shards_can_load_each_others_states():
    first, second = (make(seed=1, num_shards=2, shard_index=index) for index in (0, 1))
    second.load_state_dict(first.state_dict(3, 1))
    assert [second.epoch, second.next_first_batch] == [3, 1]


@pytest.mark.parametrize(
    "other",
    [
        {"x": [*X[:-1], [99]]},
        {"x": X[::-1]},
        {"y": Y + 1},
        {"y": Y.astype("float32")},
        {"batch_size": 2},
        {"num_buckets": 3},
        {"remainder": "keep"},
        {"shuffle": False},
        {"padding_value": -1},
        {"include_lengths": True},
        {"maxlen": 4},
    ],
)
def test_a_state_belongs_to_its_data_and_options(dataset, other):
    with pytest.raises(ValueError, match="`state` belongs to another dataset"):
        make(**{"seed": 1, **other}).load_state_dict(dataset.state_dict())


@pytest.fixture
def on_jax(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")


HEAVY = [[1] * length for length in np.random.default_rng(0).geometric(1 / 20, 400)]
STREAM = pytest.param("stream", marks=pytest.mark.fit)  # makes several, each of which is traced
MAKERS = {
    "sequence": lambda **options: BucketedSequence(HEAVY, batch_size=8, seed=1, **options),
    "stream": lambda **options: BucketedStream(HEAVY, batch_size=8, seed=1, maxlen=100, **options),
}


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        *(("sequence", backend) for backend in ("jax", "torch", "tensorflow")),
        *(pytest.param("stream", backend, marks=pytest.mark.fit) for backend in ("jax", "torch")),
    ],
)
def test_batches_are_padded_to_the_boundary_by_default_where_keras_compiles_shapes(monkeypatch, kind, backend):
    make = MAKERS[kind]
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    state = make().state_dict()
    assert state["pad_to_bucket_boundary"] is (backend == "jax")
    assert (
        state
        == make(pad_to_bucket_boundary=None).state_dict()
        == make(pad_to_bucket_boundary=backend == "jax").state_dict()
    )
    assert state["fingerprint"] != make(pad_to_bucket_boundary=backend != "jax").state_dict()["fingerprint"]


def test_on_jax_there_are_fewer_buckets_and_shapes(on_jax):
    dataset, as_elsewhere = MAKERS["sequence"](), MAKERS["sequence"](pad_to_bucket_boundary=False)
    assert len(dataset.bucket_batch_sizes) < len(as_elsewhere.bucket_batch_sizes)
    assert len(dataset.padding_stats().shapes) <= len(dataset.bucket_batch_sizes) + 1
    part = dataset.subset(range(300))
    assert part.padding_stats().shapes == BucketedSequence(HEAVY[:300], batch_size=8, seed=1).padding_stats().shapes


def test_on_jax_a_stream_pads_to_the_boundary_where_a_longest_length_is_known(on_jax):
    stream = BucketedStream(HEAVY, batch_size=8, seed=1, bucket_boundaries=[20])
    assert not stream.state_dict()["pad_to_bucket_boundary"]


@pytest.mark.parametrize("kind", ["sequence", STREAM])
@pytest.mark.parametrize("padded", [False, True])
def test_a_state_of_another_backend_is_refused_by_the_name_of_the_option(kind, padded):
    state = json.loads(json.dumps(MAKERS[kind](pad_to_bucket_boundary=padded).state_dict(2, 1)))
    with pytest.raises(
        ValueError, match=f"made with pad_to_bucket_boundary={padded}.* Pass pad_to_bucket_boundary={padded} "
    ):
        MAKERS[kind](pad_to_bucket_boundary=not padded).load_state_dict(state)
    resumed = MAKERS[kind](pad_to_bucket_boundary=padded)
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.next_first_batch) == (2, 1)


@pytest.mark.parametrize("kind", ["sequence", STREAM])
def test_a_state_that_knows_nothing_of_the_option_belongs_to_the_same_batches(kind, on_jax):
    state = MAKERS[kind](pad_to_bucket_boundary=False).state_dict(2, 1)
    del state["pad_to_bucket_boundary"]
    MAKERS[kind](pad_to_bucket_boundary=False).load_state_dict(state)
    with pytest.raises(ValueError, match=r"A state of version 0\.2\.0 had pad_to_bucket_boundary=False unless"):
        MAKERS[kind]().load_state_dict(state)


def identity_model():
    """Returns the first timestep of every sequence, which is the row's index."""
    inputs = keras.Input((None,), dtype="int64")
    return keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, 0])(inputs))


@pytest.mark.fit
@pytest.mark.parametrize("shuffle", [False, True])
def test_predictions_come_back_in_the_order_of_the_input(shuffle):
    dataset, model = make(shuffle=shuffle, seed=1), identity_model()
    for _ in range(2):
        assert dataset.restore_order(model.predict(dataset, verbose=0)).tolist() == Y.tolist()


@pytest.mark.fit
def test_predictions_of_each_timestep_are_cut_to_their_sequence():
    dataset = BucketedSequence(X, batch_size=4, seed=1)
    inputs = keras.Input((None,), dtype="int64")
    predictions = keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).predict(dataset, verbose=0)
    assert isinstance(predictions, tf.RaggedTensor)
    restored = dataset.restore_order(predictions)
    assert [row.tolist() for row in restored] == [[value + 1 for value in row] for row in X]


@pytest.mark.fit
def test_part_of_a_pass_cannot_be_restored():
    dataset, model = make(seed=1), identity_model()
    with pytest.raises(ValueError, match=r"Expected 17, received \d\."):
        dataset.restore_order(model.predict(dataset, steps=2, verbose=0))


def test_few_labels_of_many_rows_all_belong_to_the_state():
    x, y = [[1]] * 300, np.zeros(300, np.int64)
    state = BucketedSequence(x, y, seed=1).state_dict()
    y[1] = 1
    with pytest.raises(ValueError, match="another dataset"):
        BucketedSequence(x, y, seed=1).load_state_dict(state)
