"""BucketedSequence.from_dataset: existing pipelines of real libraries, and what it says where it cannot know."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing import BucketedSequence, save_sequences
from tests.support.processes import run_python
from tests.support.strategies import random_sequences
from tests.support.streams import Batches, Sequences, pad

LENGTHS = [3, 1, 5, 2, 7, 4, 4, 6, 1]
RNG = np.random.default_rng(0)
X = [RNG.integers(1, 9, length) for length in LENGTHS]
VECTORS = [RNG.normal(size=(length, 3)).astype("float32") for length in LENGTHS]
TAGS = [row % 3 for row in X]
Y = np.arange(len(X))
EMBEDDED = [f"w{' w'.join(map(str, row))}" for row in X]  # one word a timestep


def dataset_of(*columns, signature):
    rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=signature)


IDS, LABEL = tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int64)
LABELED = dataset_of(X, Y, signature=(IDS, LABEL))
TAGGED = dataset_of(X, TAGS, signature=(IDS, IDS))


def batches_of(dataset):
    return [tf.nest.map_structure(lambda tensor: tensor.numpy().tolist(), batch) for batch in dataset]


def check_batches(stream, *expected, read=None, **options):
    """The stream makes the batches that the lists make."""
    options = {"shuffle": False, "batch_size": 4, **options}
    dataset = BucketedSequence.from_dataset(stream, **(read or {}), **options)
    key = (*map(id, expected), repr(options))
    if key not in MADE:
        MADE[key] = expected, batches_of(BucketedSequence(*expected, **options))
    assert batches_of(dataset) == MADE[key][1]
    return dataset


MADE: dict = {}  # lists, which no other list can take the place of while they are here, and the batches of them


# tf.data


@pytest.mark.parametrize(
    "pipeline",
    [
        lambda rows: rows,
        lambda rows: rows.ragged_batch(2),
        lambda rows: rows.padded_batch(4),
        lambda rows: rows.padded_batch(4, padded_shapes=([None], [])).prefetch(1),
        lambda rows: rows.bucket_by_sequence_length(lambda x, y: tf.shape(x)[0], [100], [2, 2]),
        lambda rows: rows.bucket_by_sequence_length(lambda x, y: tf.shape(x)[0], [100], [5, 5], drop_remainder=False),
        lambda rows: rows.padded_batch(3).unbatch().filter(lambda x, y: True).map(lambda x, y: (x[x > 0], y)),
        lambda rows: rows.take(-1).cache(),
    ],
)
def test_pipelines(pipeline):
    check_batches(pipeline(LABELED), X, Y)


def test_buckets_of_tf_data_come_in_their_own_order():
    stream = LABELED.bucket_by_sequence_length(lambda x, y: tf.shape(x)[0], [3, 5], [2, 2, 2])
    dataset = BucketedSequence.from_dataset(stream, shuffle=False)
    assert sorted(dataset.lengths.tolist()) == sorted(LENGTHS)
    sequences, labels = next(iter(dataset))
    for row, label in zip(sequences.numpy(), labels.numpy(), strict=True):
        assert row[row > 0].tolist() == X[label].tolist()


def test_labels_and_weights_of_timesteps_lose_the_same_padding():
    weights = [np.linspace(0.5, 1, len(row), dtype="float32") for row in X]
    signature = (IDS, IDS, tf.TensorSpec((None,), tf.float32))
    stream = dataset_of(X, TAGS, weights, signature=signature)
    check_batches(stream, X, TAGS, weights)
    check_batches(stream.padded_batch(2), X, TAGS, weights)
    check_batches(TAGGED.padded_batch(2), X, TAGS)


@pytest.mark.parametrize("form", ["rows", "single", "ragged", "padded"])
def test_labels_of_their_own_length(form):
    transcripts = [np.arange(1, 1 + length // 2) for length in LENGTHS]  # some are empty
    rows = list(zip(VECTORS, transcripts, strict=True))
    stream = dataset_of(rows, signature=(tf.TensorSpec((None, 3)), IDS))
    stream = {
        "rows": rows,
        "single": stream,
        "ragged": stream.ragged_batch(2),
        "padded": stream.padded_batch(2),
    }[form]
    read = {} if form != "single" else {"batched": False}
    check_batches(stream, VECTORS, transcripts, align_labels=False, include_lengths=True, read=read)


def test_the_lengths_of_labels_in_the_output_of_a_bucketed_sequence():
    transcripts = [np.zeros(1 + length // 2, np.int64) for length in LENGTHS]  # the values alone would be padding
    options = {"batch_size": 2, "shuffle": False, "align_labels": False, "include_lengths": True}
    made = BucketedSequence({"a": VECTORS}, transcripts, **options)
    assert batches_of(BucketedSequence.from_dataset(made, **options)) == batches_of(made)


def test_vectors_and_fixed_values():
    signature = ({"a": tf.TensorSpec((None, 3)), "n": tf.TensorSpec((4,))}, tf.TensorSpec((5,)))
    numbers, one_hot = np.ones((9, 4), "float32"), np.eye(9, 5, dtype="float32")
    rows = [({"a": a, "n": n}, y) for a, n, y in zip(VECTORS, numbers, one_hot, strict=True)]
    stream = dataset_of(rows, signature=signature)
    for form in (stream, stream.padded_batch(2), stream.ragged_batch(2)):
        check_batches(form, {"a": VECTORS, "n": numbers}, one_hot)


@pytest.mark.parametrize("include_lengths", [False, True])
def test_the_output_of_a_bucketed_sequence(include_lengths):
    data = {"a": X, "b": VECTORS, "n": Y}
    made = BucketedSequence(data, TAGS, batch_size=2, shuffle=False, include_lengths=include_lengths)
    again = BucketedSequence.from_dataset(made, batch_size=2, shuffle=False, include_lengths=include_lengths)
    assert batches_of(again) == batches_of(made)


def test_shapes_that_are_lost_are_read_off_the_elements():
    lost = tf.TensorSpec(None, tf.int64)
    check_batches(dataset_of(X, Y, signature=(lost, lost)), X, Y)
    check_batches(dataset_of([pad(X[:4]), pad(X[4:])], signature=lost), X, read={"batched": True})


def test_one_hot_labels_whose_shape_is_lost():
    one_hot = np.eye(9, 20)
    check_batches(dataset_of(X, one_hot, signature=(IDS, tf.TensorSpec((None,), tf.float64))), X, one_hot)


def test_padding_in_front_and_another_mask_value():
    padded = keras.utils.pad_sequences(X, value=-1)
    stream = tf.data.Dataset.from_tensor_slices((padded, Y)).batch(4)
    dataset = BucketedSequence.from_dataset(stream, batched=True, mask_value=-1, shuffle=False)
    assert dataset.lengths.tolist() == LENGTHS
    sequences, _ = next(iter(dataset))
    assert sequences.numpy()[0].tolist() == [X[1][0], *[-1] * 6]  # padded with mask_value, on the right


@pytest.mark.fit
def test_fit_learns_the_same_from_the_pipeline_and_from_the_lists():
    losses = []
    for dataset in (
        BucketedSequence(X, Y % 2, batch_size=4, seed=1),
        BucketedSequence.from_dataset(
            dataset_of(X, Y % 2, signature=(IDS, LABEL)).padded_batch(3), batch_size=4, seed=1
        ),
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.layers.Embedding(9, 4, mask_zero=True), keras.layers.LSTM(4), keras.layers.Dense(2)]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses.append(model.fit(dataset, epochs=2, verbose=0).history["loss"])
    assert losses[0] == losses[1]


# Text


@pytest.mark.parametrize(
    ("options", "batched"),
    [
        ({"ragged": True}, False),
        ({"ragged": True}, True),
        ({}, False),
        ({}, True),
        ({"output_sequence_length": 7}, True),
    ],
)
def test_text_vectorization(options, batched):
    vectorize = keras.layers.TextVectorization(vocabulary=[f"w{number}" for number in range(10)], **options)
    ids = [row + 2 for row in X]  # 0 is padding, 1 the unknown word
    texts = tf.data.Dataset.from_tensor_slices((EMBEDDED, Y))
    stream = (texts.batch(4) if batched else texts).map(lambda text, label: (vectorize(text), label))
    read = {"batched": True} if "output_sequence_length" in options else {}
    check_batches(stream, ids, Y, read=read)


@pytest.mark.parametrize(
    "stream",
    [
        tf.data.Dataset.from_tensor_slices((["a b", "c"], [0, 1])),
        tf.data.Dataset.from_tensor_slices(({"text": ["a b", "c"]}, [0, 1])).batch(2),
        [("a b", 0), ("c", 1)],
        [(["a", "b"], 0)],
        [([["a"], ["b"]], 0)],
        [(np.array(["a", "b"]), 0)],
        [(tf.constant(["a", "b"]), 0)],
        [({"text": "a b", "n": [1]}, 0)],
    ],
    ids=range(8),
)
def test_text_is_answered_with_the_recipe(stream):
    with pytest.raises(TypeError, match=r"`x.*` must hold numbers. Received strings.*TextVectorization\(\)"):
        BucketedSequence.from_dataset(stream)


def test_labels_that_are_text_are_answered_with_string_lookup():
    with pytest.raises(TypeError, match=r"`y\[0\]` must hold numbers. Received strings \('b'\).*StringLookup"):
        BucketedSequence.from_dataset([([1], "b")])


# Tokenizers and packers


def packed(rows, length):
    """What KerasHub's packers and Hugging Face's tokenizers make of ids."""
    return pad(rows, length=length), pad([np.ones(len(row), bool) for row in rows], length=length)


def test_a_padding_mask_tells_the_lengths_and_remains():
    ids, mask = packed([row * 0 for row in X], 20)  # the ids alone would be padding
    stream = tf.data.Dataset.from_tensor_slices(({"token_ids": ids, "padding_mask": mask}, Y)).batch(4)
    check_batches(
        stream,
        {"token_ids": [row * 0 for row in X], "padding_mask": [row > 0 for row in X]},
        Y,
        read={"batched": True},
    )


def test_an_encoder_and_a_decoder_of_one_padded_length():
    (source, source_mask), (target, target_mask) = packed(X, 9), packed(X[::-1], 9)
    x = {
        "encoder_token_ids": source,
        "encoder_padding_mask": source_mask,
        "decoder_token_ids": target,
        "decoder_padding_mask": target_mask,
    }
    stream = tf.data.Dataset.from_tensor_slices(
        (x, np.roll(target, -1, axis=1) * target_mask, target_mask * 1.0)
    ).batch(4)
    dataset = BucketedSequence.from_dataset(stream, batched=True, timestep_labels=True, shuffle=False, batch_size=9)
    inputs, labels, weights = next(iter(dataset))
    assert {name: tensor.shape[1] for name, tensor in inputs.items()} == dict.fromkeys(x, 7)
    order = dataset.epoch_plan(0)[0]
    assert inputs["encoder_padding_mask"].numpy().sum(axis=1).tolist() == [LENGTHS[row] for row in order]
    assert weights.numpy().sum(axis=1).tolist() == [LENGTHS[::-1][row] for row in order]
    assert labels.numpy()[:, 0].tolist() == [[*X[::-1][row].tolist(), 0][1] for row in order]


def test_segment_ids_of_zero_are_no_padding():
    segments = [np.arange(length) // 4 for length in LENGTHS]
    rows = [{"ids": ids, "segments": those} for ids, those in zip(X, segments, strict=True)]
    stream = dataset_of(rows, signature={"ids": IDS, "segments": IDS}).padded_batch(3)
    check_batches(stream, {"ids": X, "segments": segments})


# Other libraries


def test_py_datasets():
    check_batches(Batches((Sequences(X), Y, None), 2), X, Y)
    check_batches(Batches((Sequences(X), Y, None), 2, pad), X, Y)
    check_batches(
        Batches(({"a": Sequences(X), "b": Sequences(VECTORS)}, Y, Y * 1.0), 2, pad), {"a": X, "b": VECTORS}, Y, Y
    )
    check_batches(Batches((Sequences(X), Sequences(TAGS), None), 2, pad), X, TAGS)
    check_batches(Batches((Sequences(X), np.eye(9), None), 2, pad), X, np.eye(9))


def test_generators_and_iterables():
    def rows():
        yield from zip(X, Y, strict=True)

    check_batches(rows, X, Y)
    check_batches(rows(), X, Y)
    check_batches([row.tolist() for row in X], X)
    check_batches(({"a": a, "n": 1.5} for a in VECTORS), {"a": VECTORS, "n": np.full(9, 1.5)})
    check_batches(((x, t) for x, t in zip(X, TAGS, strict=True)), X, TAGS)
    check_batches(zip(X, np.eye(9), strict=True), X, np.eye(9))
    check_batches((tf.constant(row) for row in VECTORS), VECTORS)
    check_batches(tf.ragged.stack([tf.constant(row) for row in X]), X)
    check_batches(((pad(X[at : at + 2]), Y[at : at + 2]) for at in range(0, 9, 2)), X, Y, read={"batched": True})


@pytest.mark.fit
def test_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": X, "label": Y})
    check_batches(((row["input_ids"], row["label"]) for row in rows), X, Y)
    check_batches(rows, {"input_ids": X, "label": Y})
    check_batches(rows.with_format("numpy"), {"input_ids": X, "label": Y})
    check_batches(rows["input_ids"], X)
    check_batches(rows.to_iterable_dataset(), {"input_ids": X, "label": Y})


def test_pandas_and_arrow():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"ids": X, "label": Y})
    check_batches(((row.ids, row.label) for row in frame.itertuples()), X, Y)
    check_batches(frame["ids"], X)
    table = pyarrow.table({"ids": X, "label": Y})
    check_batches(table["ids"], X)
    batches = table.to_batches(max_chunksize=4)
    check_batches(((row["ids"], row["label"]) for batch in batches for row in batch.to_pylist()), X, Y)


# What never ends, and what is not certain


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        raise AssertionError("it was read")


@pytest.mark.parametrize(
    ("stream", "fix"),
    [
        (LABELED.repeat(), r"Leave out \.repeat\(\)"),
        (LABELED.padded_batch(2).repeat(), r"\.take\(number\)"),
        (Endless(), "num_batches"),
        (itertools.cycle(X), "islice"),
        (itertools.count(), "islice"),
    ],
)
def test_what_never_ends_is_refused(stream, fix):
    with pytest.raises(ValueError, match=f"`dataset` never ends.*{fix}.*max_rows.*BucketedStream"):
        BucketedSequence.from_dataset(stream)


UNCLEAR = {
    "vectors without labels": dataset_of(VECTORS, signature=tf.TensorSpec((None, 3))),
    "an unknown number of features": dataset_of(VECTORS, signature=tf.TensorSpec((None, None))),
    "padded to a fixed length": tf.data.Dataset.from_tensor_slices((pad(X), Y)).batch(4),
    "a generator of batches": [(np.ones((4, 9)), np.ones(4))] * 3,
    "lost shapes": dataset_of(VECTORS, signature=tf.TensorSpec(None)),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_an_element_that_may_be_a_row_or_a_batch_is_refused_with_the_cure(name):
    with pytest.raises(ValueError, match=r"not clear whether.*batched=False.*batched=True"):
        BucketedSequence.from_dataset(UNCLEAR[name])
    is_batch = name in ("padded to a fixed length", "a generator of batches")
    dataset = BucketedSequence.from_dataset(UNCLEAR[name], batched=is_batch)
    assert dataset.num_sequences == (12 if "generator" in name else 9)


A, B = np.ones((2, 5)), np.ones((2, 6))


@pytest.mark.parametrize(
    ("stream", "options", "error", "text"),
    [
        (5, {}, TypeError, "`dataset` cannot be read. Expected a tf.data.Dataset, .* received int."),
        ("text", {}, TypeError, "received str."),
        ({"a": X}, {}, TypeError, r"Yield rows, .*pass a dict to BucketedSequence"),
        (lambda: 5, {}, TypeError, "must return something to iterate over.* returns int"),
        (np.ones((3, 4)), {}, TypeError, r"one array of shape \(3, 4\).*from_padded"),
        ([], {}, ValueError, "`dataset` has no sequences"),
        (LABELED.take(0), {}, ValueError, "`dataset` has no sequences"),
        (LABELED, {"batchsize": 4}, TypeError, "batchsize"),
        (LABELED, {"label_padding_value": "0"}, TypeError, "`label_padding_value` must be a number"),
        (LABELED, {"batched": 1}, TypeError, "`batched` must be a boolean"),
        (LABELED, {"padding": "left"}, ValueError, "`padding` is unknown"),
        (LABELED, {"mask_value": "0"}, TypeError, "`mask_value` must be a number"),
        (LABELED, {"timestep_labels": "yes"}, TypeError, "`timestep_labels` must be a boolean"),
        (LABELED, {"cache": 5}, TypeError, "`cache` must be the path of a folder"),
        ([None], {}, TypeError, "Received None for x in element 0"),
        ([5], {}, TypeError, r"`x\[0\]` must be a sequence. Received the scalar 5."),
        ([[1], [[1, 2], [3]]], {}, ValueError, r"`x\[1\]`.* uneven shape"),
        ([np.ones((2, 3)), np.ones((3, 4))], {}, ValueError, r"received \(4,\) at x\[1\].*batched=True"),
        (
            [([1], 1), ([1], [2, 3])],
            {},
            ValueError,
            r"`y` must share one shape. Expected \(\) .*received \(2,\) at y\[1\]",
        ),
        ([([1], 1), ([1],)], {}, ValueError, "Expected int for `y` as in element 0, received none in element 1"),
        (
            [{"a": [1]}, {"b": [1]}],
            {},
            ValueError,
            r"keys \['a'\] for `x` as in element 0, received .* keys \['b'\] in element 1",
        ),
        ([{"a": [1]}, [1]], {}, ValueError, "Expected a dict .* for `x` .* received list in element 1"),
        (
            [((1, [1]), 0), ((1,), 0)],
            {},
            ValueError,
            "Expected a tuple of 2 for `x` .* received a tuple of 1 in element 1",
        ),
        ([[1], {"a": [1]}], {}, ValueError, "Expected list for `x` .* received a dict .* in element 1"),
        ([(1, 2, 3, 4)], {}, ValueError, "Received a tuple of 4 at element 0"),
        ([{}], {}, ValueError, "`x` is an empty dict"),
        ([{1: [1]}], {}, TypeError, "`x` must have strings as keys"),
        ([{"a": 1}], {}, TypeError, "`x` has no sequences"),
        ([([1], None)], {}, None, ""),
        ([([1], {"a": None})], {}, TypeError, r"`y\['a'\]` must be a list, an array or a tensor. Received NoneType"),
        (
            [(A, np.ones(3))],
            {"batched": True},
            ValueError,
            "same number of rows. Expected 2 as in `x`, received 3 in `y`",
        ),
        (
            [(A, 1.0)],
            {"batched": True},
            ValueError,
            "`y` must have one entry for each row of a batch. Received a scalar",
        ),
        (
            [([A, A], np.ones(3))],
            {"batched": True},
            ValueError,
            "Expected 2 as in `x`, received 3.*in a tuple or a dict",
        ),
        ([({"a": A, "b": B}, np.ones(2))], {"batched": True}, ValueError, "not clear which entries of `x`"),
        ([(A, A)], {"batched": True}, ValueError, "timestep_labels=True or timestep_labels=False"),
        ([(A, B)], {"batched": True, "timestep_labels": True}, ValueError, "no leaf of `x`"),
        ([(A, A), (B, A)], {"batched": True, "timestep_labels": True}, ValueError, "no leaf of `x`"),
        (
            [([1], [1, 2]), ([1, 2], [1])],
            {"timestep_labels": False},
            ValueError,
            r"values of one shape with timestep_labels=False. Received 2 at y\[0\] and 1 at y\[1\]",
        ),
        (
            [
                (np.array([[1, 2, 0], [1, 2, 3]]), np.array([[1, 1, 0], [1, 1, 1]])),
                (np.array([[1, 0]]), np.array([[1, 2]])),
            ],
            {"batched": True, "timestep_labels": True},
            None,
            "",
        ),
        (
            [(np.array([[1, 0, 0]]), np.array([[1, 2, 3]]))],
            {"batched": True, "timestep_labels": True},
            ValueError,
            "`y` holds labels where `x` is padded, in the batch at row 0.*mask_value",
        ),
        (
            tf.data.Dataset.from_tensors(tf.sparse.from_dense([[1, 0]])),
            {},
            TypeError,
            "`x` must be a dense or ragged tensor. Received SparseTensorSpec",
        ),
    ],
)
def test_wrong_streams(stream, options, error, text):
    if error is None:
        BucketedSequence.from_dataset(stream, **options)
        return
    with pytest.raises(error, match=text) as raised:
        BucketedSequence.from_dataset(stream, **options)
    assert len(str(raised.value)) < 1000


def test_errors_of_the_stream_are_passed_on():
    def rows():
        yield [1]
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        BucketedSequence.from_dataset(rows)


# The cache


def test_a_cache_is_read_instead_of_the_dataset(tmp_path):
    passes = []

    def rows():
        passes.append(1)
        yield from zip(X, Y, strict=True)

    for _ in range(3):
        check_batches(rows, X, Y, read={"cache": tmp_path / "cache"})
    assert passes == [1]
    assert np.load(tmp_path / "cache" / "values_0.npy").tolist() == np.concatenate(X).tolist()


def test_an_unfinished_cache_is_begun_again(tmp_path):
    def interrupted():
        yield from X
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BucketedSequence.from_dataset(interrupted, cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
    unfinished = tmp_path / "cache.unfinished"  # what a killed process leaves
    unfinished.mkdir()
    (unfinished / "values_0.npy").write_bytes(b"half of it")
    check_batches(iter(X), X, read={"cache": tmp_path / "cache"})
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("stream", "options", "text"),
    [
        (TAGGED, {}, r"Expected element_spec \['int64\(\?\)', 'int64\(\?\)', None\], received .*'int64\(\)'"),
        (LABELED.padded_batch(2), {}, "Expected element_spec"),
        (LABELED.apply(tf.data.experimental.assert_cardinality(9)), {}, "Expected total 9, received None"),
        (zip(X, Y, strict=True), {}, "Expected kind 'iterable', received 'tf.data.Dataset'"),
        (LABELED, {"mask_value": 1}, "Expected mask_value 1, received 0"),
        (LABELED, {"timestep_labels": True}, "Expected timestep_labels True, received None"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path, stream, options, text):
    BucketedSequence.from_dataset(LABELED, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=f"`cache` belongs to another dataset.*{text}"):
        BucketedSequence.from_dataset(stream, cache=tmp_path / "cache", **options)


def test_a_cache_for_another_floatx_is_refused(tmp_path):
    BucketedSequence.from_dataset(LABELED, cache=tmp_path / "cache")
    keras.config.set_floatx("float64")
    try:
        with pytest.raises(ValueError, match="Expected floatx 'float64', received 'float32'"):
            BucketedSequence.from_dataset(LABELED, cache=tmp_path / "cache")
    finally:
        keras.config.set_floatx("float32")


def test_a_folder_of_save_sequences_is_no_cache(tmp_path):
    save_sequences(tmp_path / "saved", X)
    with pytest.raises(ValueError, match=r"`cache` must be a folder that from_dataset wrote.*load_sequences"):
        BucketedSequence.from_dataset(iter(X), cache=tmp_path / "saved")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`cache` must be a new folder"):
        BucketedSequence.from_dataset(iter(X), cache=tmp_path / "other")


# Memory

MEASURED = """
import resource, sys
import numpy as np
from keras_bucketing.unpadding.batches import BatchOptions
from keras_bucketing.streams.saved_sequences import read_dataset
row = np.ones(5000, np.float32)
rows = lambda: (row for _ in range(20_000))
read_dataset(lambda: (row for _ in range(10)), None, BatchOptions())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for cache in (sys.argv[1], None):
    kept = read_dataset(rows, cache, BatchOptions())
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.fit
def test_memory_is_bounded_by_the_result(tmp_path):
    pytest.importorskip("resource")
    done = run_python("-c", MEASURED, str(tmp_path / "cache"), check=True)
    of_cached, of_kept = map(float, done.stdout.split())
    assert of_cached < 40, f"{of_cached:.0f} MB for a cache of 381 MB"
    assert of_kept < 1.25 * 381, f"{of_kept:.0f} MB for 381 MB of values"


def test_random_rows_of_every_dtype_survive_a_cache(tmp_path):
    rows = random_sequences(LENGTHS, "uint16", (2,))
    check_batches(iter(rows), rows, read={"cache": tmp_path / "cache"})
