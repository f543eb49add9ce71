"""What a stranger reads after a mistake: argument, index, what was received, what to do. TensorFlow never speaks."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bucketing.bucketed_sequence import BucketedSequence

X = [[1, 2, 3], [4], [5, 6]]
Y = [0, 1, 0]


def text_of_error(error, function, *arguments, **options):
    with pytest.raises(error) as raised:
        function(*arguments, **options)
    return str(raised.value)


@pytest.mark.parametrize(
    ("x", "error", "texts"),
    [
        ([], ValueError, ["`x` has no sequences. Expected at least one."]),
        (None, TypeError, ["`x` is not a collection of sequences. Expected a list of arrays, ", "received NoneType."]),
        (7, TypeError, ["`x` is not a collection of sequences.", "received int."]),
        ("some text", TypeError, ["`x` is not a collection of sequences.", "received str."]),
        ((row for row in X), TypeError, ["`x` is not a collection of sequences.", "received generator."]),
        ([1, 2, 3], TypeError, ["`x[0]` must be a sequence. Received the scalar 1. Wrap each sequence in a list"]),
        ([[1], 2], TypeError, ["`x[1]` must be a sequence. Received the scalar 2."]),
        (np.arange(3), TypeError, ["Received one array of shape (3,): `x[0]` is a scalar where a sequence belongs."]),
        (
            np.zeros((2, 5)),
            ValueError,
            ["Received one array of shape (2, 5), in which every", "BucketedSequence.from_padded"],
        ),
        (
            [[1], "two"],
            TypeError,
            ["`x[1]` must be a sequence of numbers. Received the string 'two'. Map strings to ids"],
        ),
        ([[1], [2, "b"]], TypeError, ["`x[1]` must be a sequence of numbers.", "at x[1][1].", "StringLookup"]),
        ([[1], None], TypeError, ["`x[1]` must be a sequence of numbers. Received NoneType. Drop that row"]),
        ([[1], [2, None]], TypeError, ["`x[1]` must be a sequence of numbers. Received None at x[1][1]."]),
        ([[1], {"a": 1}], TypeError, ["`x[1]` must be a sequence of numbers. Received dict."]),
        ([[1], [1j]], TypeError, ["`x[1]` must hold numbers.", "received complex128"]),
        (
            [np.array(["a"])],
            TypeError,
            ["`x[0]` must hold numbers. Expected a bool, int or float dtype, received <U1."],
        ),
        (
            [[[1, 2], [3]]],
            ValueError,
            ["`x[0]` must be one regular array.", "Give every timestep the same features."],
        ),
        (
            [np.zeros((3, 12)), np.zeros((2, 12)), np.zeros((3, 13))],
            ValueError,
            ["All sequences must share one feature shape. Expected (12,) as in x[0], received (13,) at x[2]."],
        ),
        ([[1], [[2]]], ValueError, ["Expected () as in x[0], received (1,) at x[1]."]),
        (
            [[1], []],
            ValueError,
            ["Sequences must not be empty. Received length 0 at x[1] (1 in all).", 'on_empty="drop"'],
        ),
        ({"a": X, "b": X[:2]}, ValueError, ["`x['b']` must have one row for each sequence. Expected 3 as in `x['a']`"]),
        # What is most likely meant comes first, or last.
        (
            tuple(np.arange(n) for n in range(3, 5000)),
            TypeError,
            ["If the 4997 entries of the tuple `x`", "list(x)"],
        ),
        ([X * 4, X * 4], ValueError, ["Received a list of 2 collections of sequences.", "(x[0], x[1]), or as a dict"]),
        ([tf.ragged.constant(X)] * 3, ValueError, ["3 collections of sequences.", "(x[0], x[1], ...), or as a dict"]),
        (
            [np.zeros((20, 5)), np.zeros((20, 7))],
            ValueError,
            ["Expected (5,) as in x[0], received (7,) at x[1].", "(x[0], x[1]), or as a dict"],
        ),
        # What would be rounded or read wrongly.
        ([np.array([1], np.uint64), np.array([2])], ValueError, ["one integer dtype. Received int64 and uint64"]),
        ([[2**63, -1], [4]], ValueError, ["`x[0]` must hold integers that one dtype", "at x[0][0]"]),
        ([np.ma.array([1, 2], mask=[0, 1]), [1]], ValueError, ["Received no value at x[0][1]."]),
        ([[1, np.ma.masked], [1]], ValueError, ["Received no value at x[0][1]."]),
        ([[np.ma.array([1, 2], mask=[0, 1])], [[1, 2]]], ValueError, ["Received no value at x[0][0][1]."]),
        # However long the input is.
        ([[1], "y" * 10_000], TypeError, ["Received the string 'yyy"]),
        ({"k" * 5000: X, "b": [1]}, ValueError, ["`x['b']` must have one row for each sequence."]),
        ({f"k{i}": np.zeros(2) for i in range(5000)}, TypeError, ["`x` has no sequences."]),
    ],
)
def test_wrong_sequences(x, error, texts):
    message = text_of_error(error, BucketedSequence, x)
    assert all(text in message for text in texts), message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"y": [0, 1]}, ValueError, "`y` must have one row for each sequence. Expected 3 as in `x`, received 2."),
        ({"y": Y, "sample_weight": [1]}, ValueError, "`sample_weight` must have one row for each sequence."),
        ({"batch_size": 0}, ValueError, "`batch_size` is too small. Expected an int >= 1, received 0."),
        (
            {"batch_size": "32"},
            TypeError,
            "`batch_size` must be an integer. Expected an int >= 1, received '32' (str).",
        ),
        (
            {"batch_size": 8, "bucket_batch_sizes": [8]},
            ValueError,
            "`bucket_batch_sizes` has the rows of every bucket",
        ),
        (
            {"bucket_boundaries": [5, 3]},
            ValueError,
            "`bucket_boundaries` must increase. Received 3 at bucket_boundaries[1]",
        ),
        (
            {"bucket_boundaries": [2], "bucket_batch_sizes": [8]},
            ValueError,
            "Expected 2 for the boundaries [2], received 1.",
        ),
        ({"bucket_boundaries": ["a"]}, TypeError, "`bucket_boundaries[0]` must be an integer."),
        ({"max_timesteps_per_batch": 2}, ValueError, "Expected at least 3 for the 3 timesteps of x[0], received 2."),
        ({"batch_size_multiple": 5}, ValueError, "`x` has too few sequences for a single batch. Expected at least 5"),
        (
            {"batch_size": 6, "num_shards": 4, "seed": 1},
            ValueError,
            "Expected a multiple of 4, received 6. Use 4 or 8.",
        ),
        ({"num_buckets": 0}, ValueError, "`num_buckets` is too small."),
        ({"num_buckets": 2.0}, TypeError, "`num_buckets` must be an integer."),
        ({"pad_to_bucket_boundary": 1}, TypeError, "`pad_to_bucket_boundary` must be a boolean."),
        ({"padding_value": None}, TypeError, "`padding_value` must be a number."),
        (
            {"padding_value": 0.5},
            ValueError,
            "`padding_value` must be a value of the data's dtype. Expected one that int64",
        ),
        (
            {"y": X, "label_padding_value": 2**70},
            ValueError,
            "`label_padding_value` must be a number of at most 64 bits. Received an int of 71 bits.",
        ),
        ({"maxlen": 0}, ValueError, "`maxlen` is too small. Expected an int >= 1, received 0."),
        ({"maxlen": 2.5}, TypeError, "`maxlen` must be an integer."),
        ({"minlen": 0}, ValueError, "`minlen` is too small. Expected an int >= 1, received 0."),
        ({"minlen": "3"}, TypeError, "`minlen` must be an integer."),
        (
            {"minlen": 3, "maxlen": 2},
            ValueError,
            "`minlen` must not exceed `maxlen`. Expected at most 2, received 3.",
        ),
        (
            {"minlen": 9, "max_timesteps_per_batch": 8},
            ValueError,
            "padded to 9, received 8. Raise the budget, or lower",
        ),
        ({"align_labels": None}, TypeError, "`align_labels` must be a boolean."),
        ({"timestep_weights": "no"}, TypeError, "`timestep_weights` must be a boolean."),
        ({"y": [[1], [2, 3], []]}, ValueError, "Pass align_labels=False for labels of their own length"),
        ({"maxlen": 2, "truncating": "end"}, ValueError, "`truncating` is unknown. Expected one of ['post', 'pre']"),
        (
            {"on_empty": "skip"},
            ValueError,
            "`on_empty` is unknown. Expected one of ['raise', 'drop', 'keep'], received 'skip'.",
        ),
        ({"include_lengths": "yes"}, TypeError, "`include_lengths` must be a boolean or a list of names."),
        (
            {"remainder": "pad"},
            ValueError,
            "`remainder` is unknown. Expected one of ['spill', 'keep', 'drop'], received 'pad'.",
        ),
        ({"remainder": True}, TypeError, "`remainder` must be a string."),
        ({"remainder": "drop"}, ValueError, "No bucket of `x` has enough sequences for a full batch"),
        ({"shuffle": None}, TypeError, "`shuffle` must be a boolean."),
        ({"largest_first": 1}, TypeError, "`largest_first` must be a boolean."),
        ({"seed": -1}, ValueError, "`seed` is too small. Expected an int >= 0, received -1."),
        ({"seed": 2**64}, ValueError, "`seed` is too large. Expected an int <= 9223372036854775807"),
        ({"seed": "a"}, TypeError, "`seed` must be an integer."),
        (
            {"sampling_weights": [-1]},
            ValueError,
            "`sampling_weights` must be finite numbers, at least 0. Received -1 at",
        ),
        ({"rows_per_epoch": 0}, ValueError, "`rows_per_epoch` is too small. Expected an int >= 1, received 0."),
        ({"num_shards": None, "shard_index": 1}, ValueError, "`shard_index` is found together with the number of sh"),
        ({"num_shards": 2, "batch_size": 2}, ValueError, "`seed` must be given for num_shards=2 with shuffle=True"),
        ({"num_shards": 2, "shard_index": 2, "seed": 1}, ValueError, "`shard_index` is out of range."),
    ],
)
def test_wrong_options(options, error, text):
    assert text in text_of_error(error, BucketedSequence, X, **options)


def test_an_unused_wrong_option_is_refused_too():
    assert "`truncating` is unknown" in text_of_error(ValueError, BucketedSequence, X, truncating="end")


def test_options_are_given_by_name():
    assert "positional" in text_of_error(TypeError, BucketedSequence, X, Y, None, 32)
    assert "batchsize" in text_of_error(TypeError, BucketedSequence, X, batchsize=32)


@pytest.mark.parametrize(
    ("method", "arguments", "error", "text"),
    [
        ("seek", [-1], ValueError, "`epoch` is too small. Expected an int >= 0, received -1."),
        ("seek", [1.0], TypeError, "`epoch` must be an integer."),
        ("seek", [0, -1], ValueError, "`batch` is too small."),
        ("seek", [0, 4], ValueError, "`batch` is out of range. Expected 0 to 3, the batches of an epoch, received 4."),
        ("epoch_plan", [-1], ValueError, "`epoch` is too small."),
        ("epoch_plan", ["0"], TypeError, "`epoch` must be an integer."),
        ("padding_stats", [-1], ValueError, "`epoch` is too small."),
        ("state_dict", [0.5], TypeError, "`epoch` must be an integer."),
        ("state_dict", [0, 99], ValueError, "`batch` is out of range. Expected 0 to 3"),
        ("load_state_dict", [{}], ValueError, "`state` must be what state_dict() returned."),
        (
            "restore_order",
            [np.zeros(2)],
            ValueError,
            "`outputs` must have one row for each sequence. Expected 3, received 2.",
        ),
    ],
)
def test_wrong_arguments_of_methods(dataset, method, arguments, error, text):
    assert text in text_of_error(error, getattr(dataset, method), *arguments)


@pytest.fixture(scope="module")
def dataset():
    return BucketedSequence(X, Y, batch_size=1, seed=1)


def test_a_state_of_other_data_or_options_is_refused(dataset):
    state = dataset.state_dict()
    dataset.load_state_dict(state)
    for other in (BucketedSequence([[1, 2, 3], [4], [5, 7]], Y, batch_size=1), BucketedSequence(X, Y, batch_size=2)):
        assert "`state` belongs to another dataset" in text_of_error(ValueError, other.load_state_dict, state)
    reseeded = BucketedSequence(X, Y, batch_size=1, seed=2)
    assert "Pass seed=1 to BucketedSequence" in text_of_error(ValueError, reseeded.load_state_dict, state)


def test_a_list_of_inputs_is_recognized_by_the_rows_of_y():
    message = text_of_error(ValueError, BucketedSequence, [np.zeros((20, 5)), np.zeros((20, 5))], np.zeros(20))
    assert "`y` must have one row for each sequence. Expected 2 as in `x`, received 20." in message
    assert "pass the inputs as a tuple, (x[0], x[1]), or as a dict" in message


def test_integers_beyond_int64_keep_their_value():
    assert next(iter(BucketedSequence([[2**64 - 1, 1]]))).numpy().tolist() == [[2**64 - 1, 1]]


def test_sequences_that_int32_cannot_count_are_refused():
    endless = np.broadcast_to(np.int8(0), 2**31)  # one byte, not two gigabytes
    message = text_of_error(ValueError, BucketedSequence.from_row_splits, endless, [0, 2**31])
    assert message.startswith("Sequences must have less than 2**31 timesteps. Received 2147483648 at x[0].")


@pytest.mark.parametrize("value", ["a" * 100_000, list(range(100_000)), np.arange(100_000), 10**5000], ids=type)
@pytest.mark.parametrize("name", ["batch_size", "remainder", "shuffle", "bucket_boundaries", "padding_value", "seed"])
def test_messages_are_short_whatever_the_value(name, value):
    assert len(text_of_error((TypeError, ValueError), BucketedSequence, X, **{name: value})) < 1000
