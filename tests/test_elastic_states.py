"""A run goes on with another number of processes: every row of the epoch once, in the batches that one host reads.

For an hour of it: pytest tests/test_elastic_states.py -m "" --hypothesis-profile=soak
"""

import json
import re
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from keras_bucketing import BackupAndRestoreSequence, BucketedSequence
from tests.fixtures.v0_2_0 import cases
from tests.support.default_layer import examples
from tests.support.strategies import bucket_options, enough_rows, length_arrays, remainders

PRODUCT = 4  # batch_size_multiple x num_shards
LENGTHS = np.random.default_rng(4).integers(1, 12, 42)
X = [np.full(length, row, np.int32) for row, length in enumerate(LENGTHS)]


def make_shards(num_shards, x=X, **options):
    """The dataset of each process."""
    multiple = {"batch_size_multiple": PRODUCT // num_shards, "num_shards": num_shards}
    return [
        BucketedSequence(
            x, np.arange(len(x)), **{"batch_size": 8, "seed": 1, **multiple, "shard_index": index, **options}
        )
        for index in range(num_shards)
    ]


def interleaved(parts):
    """The rows of a batch, of which shard s has the rows s, s + n, ..."""
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


class Hosts(RuleBasedStateMachine):
    """Processes that are started again in other numbers, beside a dataset that one process would read."""

    @initialize(
        remainder=remainders(),
        shuffle=st.booleans(),
        options=st.sampled_from([{}, {"num_buckets": 3}, {"batch_size": None, "max_timesteps_per_batch": 60}]),
    )
    def begin(self, remainder, shuffle, options):
        self.options = {"remainder": remainder, "shuffle": shuffle, **options}
        (self.alone,) = make_shards(1, **self.options)
        self.epoch = self.batch = 0
        self.seen = []
        self.start(1, self.alone.state_dict())

    def start(self, num_shards, state):
        self.shards = make_shards(num_shards, **self.options)
        for shard in self.shards:
            shard.load_state_dict(state)
        self.passes = [iter(shard) for shard in self.shards]

    @rule(num_shards=st.sampled_from([4, 2, 1]), chief=st.integers(0, 3), steps=st.integers(1, 3))
    def go_on(self, num_shards, chief, steps):
        chief = self.shards[chief % len(self.shards)]
        self.start(num_shards, json.loads(json.dumps(chief.state_dict(self.epoch, self.batch))))
        self.train(steps)

    @rule(steps=st.integers(1, 3))
    def train(self, steps):
        for _ in range(steps):
            parts = [next(batches) for batches in self.passes]
            x, rows = (interleaved([part[leaf].numpy() for part in parts]) for leaf in (0, 1))
            plan = self.alone.epoch_plan(self.epoch)
            assert rows.tolist() == plan[self.batch].tolist()
            assert x.shape[1] == plan.padded_lengths[self.batch]
            self.seen += rows.tolist()
            self.batch += 1
            if self.batch == self.alone.num_batches:
                assert sorted([*self.seen, *plan.left_out]) == list(range(len(X)))
                self.epoch, self.batch, self.seen = self.epoch + 1, 0, []
                self.passes = [iter(shard) for shard in self.shards]


BOUNDED = settings(max_examples=5, stateful_step_count=6, deadline=None)


@pytest.mark.fit
def test_whatever_number_of_hosts_goes_on():
    soaks = settings().max_examples == settings.get_profile("soak").max_examples
    run_state_machine_as_test(Hosts, settings=settings() if soaks else BOUNDED)


@settings(max_examples=examples(30))
@given(st.data(), length_arrays(min_size=8), remainders(), st.sampled_from([(1, 2), (2, 4), (4, 1)]))
def test_a_state_is_accepted_exactly_where_the_batches_agree(data, lengths, remainder, numbers):
    """Also with another product, where it leaves out the same rows."""
    options = data.draw(bucket_options(num_shards=PRODUCT, multiples=(1,)))
    multiples = [data.draw(st.sampled_from([1, PRODUCT // number])) for number in numbers]
    saved, loaded = (
        make_with(lengths, number, options | {"remainder": remainder, "batch_size_multiple": multiple})
        for number, multiple in zip(numbers, multiples, strict=True)
    )
    plans = [dataset._planner.plan(2, 1) for dataset in (saved, loaded)]
    agree = all(
        np.array_equal(getattr(plans[0], name), getattr(plans[1], name)) for name in ("rows", "batch_splits", "buckets")
    )
    agree &= saved.bucket_boundaries == loaded.bucket_boundaries
    agree &= saved.bucket_batch_sizes == loaded.bucket_batch_sizes
    if agree:
        loaded.load_state_dict(saved.state_dict(2, 1))
        assert loaded.epoch == 2 + (saved.num_batches == 1)
        assert len(loaded) == len(saved)
    else:
        with pytest.raises(ValueError, match="`state` needs the same batch_size_multiple x num_shards"):
            loaded.load_state_dict(saved.state_dict(2, 1))


def make_with(lengths, num_shards, options):
    with enough_rows():
        return BucketedSequence([np.zeros(length) for length in lengths], seed=1, num_shards=num_shards, **options)


def test_all_processes_have_one_state_whatever_their_number():
    states = [shard.state_dict(2, 1) for number in (1, 2, 4) for shard in make_shards(number)]
    assert all(state == states[0] for state in states)
    assert states[0] != make_shards(2, batch_size_multiple=1)[0].state_dict(2, 1)


@pytest.mark.parametrize("name", ["shard", "loader, shard"])
def test_a_state_of_two_shards_of_version_0_2_0_is_followed_on_one_host_by_the_batches_of_both(name):
    expected = json.loads((cases.HERE / "states.json").read_text())[name]
    make = {
        "shard": cases.dataset,
        "loader, shard": lambda **options: cases.loaded(maxlen=6, truncating="pre", **options),
    }[name]
    alone = make(batch_size_multiple=2)
    alone.load_state_dict(expected["state"])
    plan = alone.epoch_plan(alone.epoch)
    assert [rows[1::2].tolist() for rows in plan][alone.next_first_batch :] == expected["rows"][0]
    with pytest.raises(ValueError, match="`state` belongs to another dataset"):
        make(batch_size_multiple=3, batch_size=6).load_state_dict(expected["state"])


@pytest.mark.parametrize(
    ("saved", "loaded", "text"),
    [
        ((4, 1), (2, 1), "Expected 2, received 4. With num_shards=2 pass batch_size_multiple=2."),
        ((1, 4), (4, 4), "Expected 16, received 4. With num_shards=4 pass batch_size_multiple=1."),
        ((2, 2), (1, 1), "Expected 1, received 4. With num_shards=1 pass batch_size_multiple=4."),
        (
            (4, 1),
            (3, 1),
            (
                "Expected 3, received 4. None fits num_shards=3: continue with a number of shards that divides 4, 1, "
                "2, 4, and pass batch_size_multiple=4 // num_shards."
            ),
        ),
    ],
)
def test_the_error_says_what_would_fit(saved, loaded, text):
    def make(num_shards, multiple):
        return BucketedSequence([[1]] * 47, batch_size=48, seed=1, num_shards=num_shards, batch_size_multiple=multiple)

    with pytest.raises(ValueError, match=re.escape(text)):
        make(*loaded).load_state_dict(make(*saved).state_dict())


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"cuts": "0"}, ValueError, "`state` belongs to another dataset"),
        ({"fingerprint": "0", "multiple": 3}, ValueError, "`state` belongs to another dataset"),
        ({"cuts": "0", "multiple": None}, TypeError, "`state['multiple']` must be an integer."),
        ({"version": 4}, ValueError, "`state` is of another version. Expected 3, received 4."),
        ({"version": 2}, ValueError, "`state` must be what state_dict() returned."),
    ],
)
def test_a_state_that_does_not_belong_here_is_refused(change, error, text):
    (dataset,) = make_shards(1)
    with pytest.raises(error, match=re.escape(text)):
        dataset.load_state_dict({**dataset.state_dict(), **change})
    assert dataset.epoch == 0


# Which process this one is.


def make_found(**options):
    return BucketedSequence(X, np.arange(len(X)), batch_size=8, seed=1, num_shards=None, **options)


def rows_read(dataset):
    return [rows.tolist() for rows in dataset.epoch_plan(0)]


def test_without_other_processes_there_is_one_shard():
    assert rows_read(make_found()) == rows_read(make_shards(1, batch_size_multiple=1)[0])


@pytest.mark.parametrize("index", [0, 1])
def test_a_distribution_says_which_shard_this_is(monkeypatch, index):
    distribution = SimpleNamespace(num_data_shards=2, data_shard_id=index, num_processes=4)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: distribution)
    monkeypatch.setitem(sys.modules, "torch.distributed", torch_group(8, 7))
    dataset = make_found(batch_size_multiple=2)
    assert rows_read(dataset) == rows_read(make_shards(2)[index])
    monkeypatch.undo()
    assert rows_read(dataset) == rows_read(make_shards(2)[index])  # it was decided when the dataset was made


def test_a_distribution_that_does_not_say_it_is_passed_over(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: SimpleNamespace(data_shard_id=1))
    monkeypatch.setitem(sys.modules, "torch.distributed", torch_group(4, 3))
    assert rows_read(make_found(batch_size_multiple=1)) == rows_read(make_shards(4)[3])


def test_jax_says_it_under_its_backend_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(process_count=lambda: 2, process_index=lambda: 1))
    assert rows_read(make_found(batch_size_multiple=4)) == rows_read(make_shards(1)[0])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert rows_read(make_found(batch_size_multiple=2)) == rows_read(make_shards(2)[1])


@pytest.mark.parametrize("group", [(2, 1, False, True), (2, 1, True, False)])
def test_a_group_of_torch_that_is_not_there_does_not_count(monkeypatch, group):
    monkeypatch.setitem(sys.modules, "torch.distributed", torch_group(*group))
    assert rows_read(make_found(batch_size_multiple=4)) == rows_read(make_shards(1)[0])


def torch_group(size, rank, is_initialized=True, is_available=True):
    return SimpleNamespace(
        is_available=lambda: is_available,
        is_initialized=lambda: is_initialized,
        get_world_size=lambda: size,
        get_rank=lambda: rank,
    )


@pytest.mark.parametrize(
    ("found", "options", "error", "text"),
    [
        (
            (1, 0),
            {"shard_index": 1},
            ValueError,
            "`shard_index` is found together with the number of shards where num_",
        ),
        ((1, 0), {"shard_index": "0"}, TypeError, "`shard_index` must be an integer."),
        ((2, 0), {"seed": None}, ValueError, "`seed` must be given for num_shards=2 with shuffle=True"),
        ((3, 0), {}, ValueError, "`batch_size` must be a multiple of batch_size_multiple x num_shards."),
        ((2, 2), {}, ValueError, "`shard_index` is out of range."),
    ],
)
def test_what_does_not_fit_is_refused_as_if_it_were_given(monkeypatch, found, options, error, text):
    distribution = SimpleNamespace(num_data_shards=found[0], data_shard_id=found[1])
    monkeypatch.setattr(keras.distribution, "distribution", lambda: distribution)
    with pytest.raises(error, match=re.escape(text)):
        BucketedSequence(X, **{"batch_size": 8, "seed": 1, "num_shards": None, **options})


def test_a_subset_finds_its_shard_again(monkeypatch):
    dataset = make_found()
    monkeypatch.setitem(sys.modules, "torch.distributed", torch_group(2, 1))
    subset = dataset.subset(np.arange(len(X)))
    assert rows_read(subset) == rows_read(make_found())
    assert sum(map(len, rows_read(subset))) * 2 == sum(map(len, rows_read(dataset)))


# Training.


def train(position, state, num_shards, steps, weights):
    """Some steps of plain gradient descent, each with the mean of the shards' gradients; returns their losses."""
    shards = make_shards(num_shards, SINES)
    for shard in shards:
        if state is not None:
            shard.load_state_dict(state)
    epoch, batch = position
    losses = []
    passes = [iter(shard) for shard in shards]
    for _ in range(steps):
        gradients, parts = [], []
        for x, row in (next(batches) for batches in passes):
            with tf.GradientTape() as tape:
                mean = tf.reduce_sum(tf.tanh(x[..., tf.newaxis] * weights[0]), axis=1) @ weights[1]
                loss = tf.reduce_mean((mean[:, 0] - tf.cast(row % 2, mean.dtype)) ** 2)
            gradients.append(tape.gradient(loss, weights))
            parts.append(float(loss))
        losses.append(np.mean(parts))
        for variable, *shares in zip(weights, *gradients, strict=True):
            variable.assign_sub(0.01 * tf.add_n(shares) / num_shards)
        batch += 1
        if batch == shards[0].num_batches:
            epoch, batch = epoch + 1, 0
            passes = [iter(shard) for shard in shards]
    return losses, (epoch, batch), shards[-1].state_dict(epoch, batch)


SINES = [np.sin(np.arange(length) * (1 + length % 3)).astype("float32") for length in LENGTHS]


@pytest.mark.fit
def test_losses_are_those_of_one_host():
    def begin():
        rng = np.random.default_rng(0)
        return [tf.Variable(rng.normal(size=shape).astype("float32")) for shape in ((1, 3), (3, 1))]

    weights = begin()
    expected, position, _ = train((0, 0), None, 1, 17, weights)
    resumed, losses, at, state = begin(), [], (0, 0), None
    for num_shards, steps in ((1, 2), (2, 1), (4, 4), (1, 3), (4, 7)):
        part, at, state = train(at, state, num_shards, steps, resumed)
        losses += part
    assert at == position
    assert position[0] > 1
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for one, other in zip(resumed, weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


class KilledError(Exception):
    pass


class Interrupter(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KilledError


@pytest.mark.fit
def test_one_host_goes_on_with_the_backup_of_two(tmp_path):
    def fit(dataset, *callbacks):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Embedding(42, 2), keras.layers.GlobalAveragePooling1D()])
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        model.build((None, None))
        backup = BackupAndRestoreSequence(dataset, tmp_path / "backup", save_freq=1)
        labels_of_one = dataset.map(lambda x, y: (x, y % 2))
        return model.fit(labels_of_one, epochs=1, verbose=0, callbacks=[backup, *callbacks])

    with pytest.raises(KilledError):
        fit(make_shards(2)[0], Interrupter())
    (alone,) = make_shards(1)
    fit(alone)
    assert alone.newest_pass()[1:] == (0, 2)
