"""One answer at every door: rows that were padded in any way come back, or are asked for, wherever they enter."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_bucketing.bucketed_sequence import BucketedSequence
from keras_bucketing.data import tree
from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.monitoring.monitor_padding import monitor_padding
from keras_bucketing.streams.saved_sequences import load_sequences, read_dataset, save_sequences
from keras_bucketing.streams.windows import format_of_rows, open_row_source
from keras_bucketing.unpadding.array_labels import unpad_labels
from keras_bucketing.unpadding.arrays import unpad_arrays
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.default_layer import examples
from tests.support.padded_cases import Batches, PaddedLeaf, dataset_of, padded_cases
from tests.support.rows import rows_of
from tests.support.strategies import seeds
from tests.support.streams import as_foreign, pad

# The oracle knows the rows. Data hold neither the padding of x nor that of labels, unless something tells the lengths.


@st.composite
def padded_rows(draw):
    """Rows, the arguments and entries that tell how they are padded, and what they are padded with."""
    generator = np.random.default_rng(draw(seeds()))
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=14))
    if draw(st.booleans()):
        lengths = sorted(lengths, reverse=draw(st.booleans()))
    features = draw(st.sampled_from([(), (), (3,)]))
    dtype = draw(st.sampled_from(["int32", "uint8", "float32", "int64"]))
    told = draw(st.sampled_from(["values", "values", "mask", "lengths", "own_lengths"]))
    value = draw(st.sampled_from([0, 1, 9, *([float("nan"), -1.5] if dtype == "float32" else [])]))
    if features and draw(st.booleans()):
        value = np.array([0, 0, 1])  # a symbol of its own
    data = [generator.integers(0 if told != "values" else 2, 9, (length, *features)) for length in lengths]
    if told == "values" and np.ndim(value) == 0 and value == 9:
        data = [row % 8 for row in data]
    return {
        "rows": [row.astype(dtype) for row in data],
        "value": value,
        "side": draw(st.sampled_from(["post", "pre"])),
        "told": told,
        "label_value": draw(st.sampled_from([0, -100, 7])),
        "labels": draw(st.sampled_from(["none", "rows", "timesteps", "weighted", "own"])),
        "says_side": draw(st.booleans()),
        "beyond": draw(st.integers(0, 2)),
        "size": draw(st.integers(1, 5)),
        "seed": draw(seeds()),
    }


def labels_of(case):
    """The triple of labels and weights, row by row, and what is padded of it."""
    generator = np.random.default_rng(case["seed"])
    lengths = [len(row) for row in case["rows"]]
    kind = case["labels"]
    if kind == "own":
        lengths = generator.integers(0, 6, len(lengths)).tolist()
    if kind == "none":
        return None, None
    if kind == "rows":
        return np.arange(len(lengths)), None
    labels = [generator.integers(1, 6, length) for length in lengths]
    weights = [generator.random(length).astype("float32") for length in lengths]
    return labels, weights if kind == "weighted" else None


def padded_parts(case, time=None, begin=0, stop=None):
    """The arrays `(x, y, sample_weight)` of some of the rows, padded together."""
    rows = case["rows"][begin:stop]
    lengths = np.array([len(row) for row in rows], np.int32)
    time = max(lengths) if time is None else time
    side = case["side"]
    x = {"tokens": pad_with(rows, time, side, case["value"])}
    if case["told"] == "mask":
        x["padding_mask"] = pad([np.ones(length, bool) for length in lengths], side, False, time)
    elif case["told"] != "values":
        x["lengths" if case["told"] == "lengths" else "tokens_lengths"] = lengths
    labels, weights = labels_of(case)
    part = slice(begin, stop)
    if labels is None or isinstance(labels, np.ndarray):
        return x, None if labels is None else labels[part], None
    own = case["labels"] == "own"
    if own:
        x["label_lengths"] = np.array([len(row) for row in labels[part]], np.int32)
    label_time = max(1, *map(len, labels[part])) if own else time
    y = pad(labels[part], "post" if own and not case["says_side"] else side, case["label_value"], label_time)
    return x, y, None if weights is None else pad(weights[part], side, 0, time)


def pad_with(rows, time, side, value):
    array = np.empty((len(rows), time, *rows[0].shape[1:]), rows[0].dtype)
    array[:] = np.asarray(value).astype(rows[0].dtype)
    for into, row in zip(array, rows, strict=True):
        into[slice(len(row)) if side == "post" else slice(time - len(row), time)] = row
    return array


def arguments_of(case):
    arguments = {"mask_value": case["value"]}
    return arguments | ({"padding": case["side"]} if case["says_side"] else {})


def plain(rows):
    return [np.asarray(row).tolist() for row in rows]


def check(case, x, y, weights, label_padding=None):
    """The leaves that a door gives are the rows of the case."""
    np.testing.assert_equal(plain(rows_of(x["tokens"])), plain(case["rows"]))
    assert set(x) == {"tokens"} | ({"padding_mask"} if case["told"] == "mask" else set())
    if case["told"] == "mask":
        assert plain(rows_of(x["padding_mask"])) == [[True] * len(row) for row in case["rows"]]
    labels, expected = labels_of(case)
    if labels is None or isinstance(labels, np.ndarray):
        assert labels is None or y.tolist() == labels.tolist()
    else:
        assert plain(rows_of(y)) == plain(labels)
        if label_padding is not None:
            assert label_padding == case["label_value"]
    if expected is not None:
        assert plain(rows_of(weights)) == plain(expected)


def check_question(error):
    """An error names what settles it."""
    names = ("padding", "lengths", "timestep_labels")
    assert any(f"`{name}`" in str(error) or f"{name}=" in str(error) for name in names), error


def batches_of(case):
    parts = []
    for begin in range(0, len(case["rows"]), case["size"]):
        stop = begin + case["size"]
        longest = max(len(row) for row in case["rows"][begin:stop])
        x, y, weights = padded_parts(case, longest + case["beyond"], begin, stop)
        parts.append((x, y, weights) if weights is not None else (x, y) if y is not None else x)
    return parts


def options_of(case):
    own = case["labels"] == "own"
    given = arguments_of(case) | {"labels_align": not own, "label_mask_value": case["label_value"]}
    if case["labels"] not in ("none", "rows"):
        given["timestep_labels"] = True
    return BatchOptions(batched=True, **given)


def through_arrays(case):
    time = max(len(row) for row in case["rows"]) + case["beyond"]
    x, y, weights = padded_parts(case, time)
    own = case["labels"] == "own"
    options = {"label_padding_value": case["label_value"]} if own else {}
    unpadded = unpad_arrays(x, **arguments_of(case), own_length_labels=y if own else None)
    timestep_labels = True if case["labels"] not in ("none", "rows") else None
    side = case["side"] if case["says_side"] else None
    y, weights, label_padding = unpad_labels(y, weights, unpadded, timestep_labels, side, options, not own)
    inputs = collect_inputs(unpadded.x, y, weights, not own)
    for entry in unpadded.padded:
        if entry.path[1] == "tokens":  # padding a result again gives the arrays that went in
            again = pad_with(rows_of(entry.rows()), entry.time, case["side"], case["value"])
            np.testing.assert_array_equal(again, x["tokens"])
    check(case, inputs.x, inputs.y, inputs.sample_weight, label_padding)


def through_stream(case, stream):
    contents = read_dataset(stream, None, options_of(case))
    inputs = collect_inputs(*contents.element, case["labels"] != "own")
    check(case, inputs.x, inputs.y, inputs.sample_weight, contents.label_padding)


def through_monitor(case):
    x = [batch[0] if isinstance(batch, tuple) else batch for batch in batches_of(case)]
    monitored = monitor_padding(
        Batches([{key: leaf for key, leaf in part.items() if key != "label_lengths"} for part in x]),
        **arguments_of(case),
    )
    for index in range(len(monitored)):
        monitored[index]
    stats = monitored.pass_stats(monitored.newest_pass(), 0, len(monitored))
    assert stats.real_timesteps == sum(len(row) for row in case["rows"])


DOORS = {
    "arrays": through_arrays,
    "py_dataset": lambda case: through_stream(case, Batches(batches_of(case))),
    "generator": lambda case: through_stream(case, lambda: iter(batches_of(case))),
    "other library": lambda case: through_stream(case, lambda: map(as_foreign, batches_of(case))),
    "monitor": through_monitor,
}


@pytest.mark.filterwarnings("ignore:All rows of:UserWarning")
@settings(max_examples=examples(240), deadline=None)
@given(padded_rows(), st.sampled_from(sorted(DOORS)))
def test_rows_come_back_or_are_asked_for(case, door):
    try:
        DOORS[door](case)
    except ValueError as error:
        check_question(error)
        # Nothing is asked where everything is said, and labels cannot be taken for sliced ones.
        if case["says_side"] and case["labels"] in ("none", "rows") and case["told"] != "values":
            raise


def through_windows(case):
    """What `BucketedStream` makes its batches of."""
    source = open_row_source(lambda: iter(batches_of(case)), options_of(case), takes_label_padding=True)
    row_format = format_of_rows(source.inputs)
    parts: dict = {"x": {}}
    windows = list(source.windows(row_format, 4, False)(tf.constant(0, tf.int64)))
    for leaf, window in zip(row_format.leaves, zip(*windows, strict=True), strict=True):
        place = parts if len(leaf.path) == 1 else parts[leaf.path[0]]
        if leaf.is_sequence:
            values, sizes = (np.concatenate([getattr(part, name) for part in window]) for name in ("values", "sizes"))
            place[leaf.path[-1]] = SimpleNamespace(
                values=values, sizes=sizes, starts=np.cumsum(sizes) - sizes, dtype=leaf.dtype
            )
        else:
            place[leaf.path[-1]] = np.concatenate(window)
    check(case, parts["x"], parts.get("y"), parts.get("sample_weight"), source.label_padding)


@pytest.mark.fit
@pytest.mark.filterwarnings("ignore:All rows of:UserWarning")
@settings(max_examples=60, deadline=None)
@given(padded_rows(), st.sampled_from(["tf.data", "saved", "windows"]))
def test_tf_data_folders_and_streams_too(tmp_path_factory, case, door):
    try:
        if door == "windows":
            through_windows(case)
        elif door == "saved" and case["labels"] != "own":
            folder = tmp_path_factory.mktemp("doors") / "saved"
            given = {} if case["labels"] in ("none", "rows") else {"timestep_labels": True}
            save_sequences(folder, dataset_of(batches_of(case)), batched=True, **given, **arguments_of(case))
            loaded = load_sequences(folder)
            parts = (*loaded, None, None)[:3] if isinstance(loaded, tuple) else (loaded, None, None)
            inputs = collect_inputs(*parts)
            check(case, inputs.x, inputs.y, inputs.sample_weight)
        else:
            through_stream(case, dataset_of(batches_of(case)))
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        check_question(error)


# Several leaves: segment ids, targets of their own length, vectors, labels of all kinds.


def options_of_leaves(case):
    return BatchOptions(
        batched=True,
        mask_value=case.mask_value,
        padding=case.padding,
        timestep_labels=case.timestep_labels,
        labels_align=not case.own_labels,
        label_mask_value=case.label_value,
    )


def check_leaves(case, inputs, label_padding=None):
    """The leaves that a door gives are those of the case, and padding them again gives the arrays that went in."""
    whole = dict(zip(("x", "y", "sample_weight"), case.parts(slice(None)), strict=True))
    for root, part in (("x", inputs.x), ("y", inputs.y), ("sample_weight", inputs.sample_weight)):
        found, expected = dict(tree.leaves(part)), case.rows_of(root)
        assert found.keys() == expected.keys()
        for path, rows in expected.items():
            if not isinstance(rows, list) or isinstance(found[path], np.ndarray):  # values of one shape
                np.testing.assert_equal(np.asarray(found[path]), np.array(rows))
                continue
            np.testing.assert_equal(plain(rows_of(found[path])), plain(rows))
            padded = dict(tree.leaves(whole[root]))[path]
            leaf = case.entries.get(path) or dict(tree.leaves(getattr(case, root)))[path]
            again = PaddedLeaf(rows_of(found[path]), leaf.value, leaf.side).padded(slice(None), padded.shape[1])
            np.testing.assert_array_equal(again, padded)
    values = [leaf.value for _, leaf in tree.leaves(case.y) if isinstance(leaf, PaddedLeaf)]
    if label_padding is not None:
        assert [label_padding] == values


def leaves_through_arrays(case):
    x, y, weights = case.parts(slice(None))
    own = y if case.own_labels else None
    unpadded = unpad_arrays(x, case.lengths, case.mask_value, case.padding, own_length_labels=own)
    options = {"label_padding_value": case.label_value} if case.own_labels else {}
    y, weights, label_padding = unpad_labels(
        y, weights, unpadded, case.timestep_labels, case.padding, options, not case.own_labels
    )
    check_leaves(case, collect_inputs(unpadded.x, y, weights, not case.own_labels), label_padding)


def leaves_through_stream(case, stream):
    contents = read_dataset(stream, None, options_of_leaves(case))
    check_leaves(case, collect_inputs(*contents.element, not case.own_labels), contents.label_padding)


def leaves_through_monitor(case, monitored):
    if isinstance(monitored, keras.utils.PyDataset):
        for index in range(len(monitored)):
            monitored[index]
    else:
        list(monitored)
    stats = monitored.pass_stats(monitored.newest_pass(), 0, len(case.batches()))
    sequences = [leaf for _, leaf in tree.leaves(case.x) if isinstance(leaf, PaddedLeaf)]
    assert stats.real_timesteps == sum(int(leaf.lengths.sum()) for leaf in sequences)


LEAF_DOORS = {
    "arrays": leaves_through_arrays,
    "py_dataset": lambda case: leaves_through_stream(case, Batches(case.batches())),
    "generator": lambda case: leaves_through_stream(case, lambda: iter(case.batches())),
    "monitor": lambda case: leaves_through_monitor(
        case, monitor_padding(Batches(case.batches()), case.mask_value, padding=case.padding)
    ),
}


@pytest.mark.filterwarnings("ignore:All rows of:UserWarning")
@settings(max_examples=examples(75), deadline=None)
@given(st.sampled_from(sorted(LEAF_DOORS)), st.data())
def test_all_leaves_come_back_or_are_asked_for(door, data):
    case = data.draw(padded_cases(allow_argument=door == "arrays"))
    try:
        LEAF_DOORS[door](case)
    except (ValueError, TypeError) as error:
        check_asked(error)


@pytest.mark.fit
@pytest.mark.filterwarnings("ignore:All rows of:UserWarning")
@settings(max_examples=20, deadline=None)
@given(padded_cases(), st.sampled_from(["tf.data", "folder"]))
def test_all_leaves_through_graphs_and_folders_too(tmp_path_factory, case, door):
    stream = dataset_of(case.batches())
    try:
        if door == "tf.data" or case.own_labels:
            leaves_through_stream(case, stream)
        else:
            folder = tmp_path_factory.mktemp("doors") / "saved"
            given = {"mask_value": case.mask_value, "padding": case.padding, "timestep_labels": case.timestep_labels}
            save_sequences(folder, stream, batched=True, **given)
            loaded = load_sequences(folder)
            parts = loaded if case.y is not None else (loaded[0] if isinstance(case.x, tuple) else loaded, None)
            check_leaves(case, collect_inputs(*(*parts, None, None)[:3]))
    except (ValueError, TypeError) as error:
        check_asked(error)


@pytest.mark.fit  # each traces a graph
@pytest.mark.filterwarnings("ignore:All rows of:UserWarning")
@settings(max_examples=5, deadline=None)
@given(padded_cases())
def test_figures_of_all_leaves_in_graph(case):
    try:
        monitored = monitor_padding(dataset_of(case.batches()), case.mask_value, padding=case.padding)
        leaves_through_monitor(case, monitored)
    except (ValueError, TypeError) as error:
        check_asked(error)


def check_asked(error):
    """An error names what settles it."""
    names = ("padding", "lengths", "timestep_labels", "sequences", "mask_value", "align_labels", "batched")
    assert any(f"`{name}`" in str(error) or f"{name}=" in str(error) or f"_{name}'" in str(error) for name in names), (
        error
    )


# The faults, one by one.

ROWS = [[5, 6, 7], [8, 9]]


def rows_through_dataset(batches, **options):
    element = read_dataset(Batches(batches), None, BatchOptions(batched=True, **options)).element
    return {key: plain(rows_of(leaf)) for key, leaf in collect_inputs(*element).x.items()}


def test_lengths_find_padding_in_front_in_batches_of_two():
    batch = {"tokens": np.array([[5, 6, 7], [0, 8, 9]]), "lengths": np.array([3, 2])}
    assert rows_through_dataset([batch]) == {"tokens": ROWS}
    assert plain(rows_of(unpad_arrays(batch).x["tokens"])) == ROWS
    generator = np.random.default_rng(0)
    rows = [generator.integers(1, 10, length) for length in generator.integers(1, 9, 400)]
    batches = [
        {"tokens": pad(part, "pre"), "lengths": np.array([len(row) for row in part])}
        for part in (rows[at : at + 2] for at in range(0, 400, 2))
    ]
    assert rows_through_dataset(batches) == {"tokens": plain(rows)}


def test_a_later_batch_that_contradicts_the_end_is_refused():
    first = {"tokens": np.array([[5, 6, 0]]), "lengths": np.array([2])}
    later = {"tokens": np.array([[0, 7, 8]]), "lengths": np.array([2])}
    with pytest.raises(ValueError, match="`padding` must be given"):
        rows_through_dataset([first] * 10 + [later])
    with pytest.raises(ValueError, match="`padding` must be given"):
        rows_through_dataset([{"tokens": first["tokens"]}] * 10 + [{"tokens": later["tokens"]}])


PADDED_WITH_1 = pad([np.arange(5, 5 + length) for length in [4, 2, 6, 3]], value=1)
TRUE = PADDED_WITH_1 != 1


@pytest.mark.parametrize(
    "entry",
    [
        {"attention_mask": TRUE.astype(int)},
        {"mask": TRUE},
        {"tokens_mask": TRUE},
        {"padding_mask": TRUE},
        {"lengths": TRUE.sum(axis=1)},
        {"tokens_lengths": TRUE.sum(axis=1)},
    ],
    ids=lambda entry: next(iter(entry)),
)
def test_every_door_counts_the_same(entry):
    x = {"tokens": PADDED_WITH_1, **entry}
    dataset = BucketedSequence.from_padded(x, padding_value=0)
    assert dataset.lengths.tolist() == [4, 2, 6, 3]
    assert sorted(dataset.element_spec) == sorted({"tokens", *entry} - {"lengths", "tokens_lengths"})
    assert plain_lengths(rows_through_dataset([x])["tokens"]) == [4, 2, 6, 3]
    monitored = monitor_padding(Batches([x]))
    monitored[0]
    stats = monitored.pass_stats(monitored.newest_pass(), 0, 1)
    assert (stats.real_timesteps, stats.total_timesteps) == (15, 24)


def plain_lengths(rows):
    return [len(row) for row in rows]


def counted(batch, *arguments):
    """The figures of one monitored batch."""
    monitored = monitor_padding(Batches([batch]), *arguments)
    monitored[0]
    return monitored.pass_stats(monitored.newest_pass(), 0, 1)


BY_NAME = {
    "from_padded": BucketedSequence.from_padded,
    "from_dataset": lambda x, **options: BucketedSequence.from_dataset(Batches([x]), **options),
    "monitor_padding": counted,
}


@pytest.mark.parametrize("door", sorted(BY_NAME))
def test_a_mask_that_is_true_on_padding_is_refused(door):
    x = {"tokens": PADDED_WITH_1, "key_padding_mask": ~TRUE}
    with pytest.raises(ValueError, match=r"must be True where .* is real.*Pass its opposite"):
        BY_NAME[door](x)


def test_a_later_mask_that_contradicts_the_end_is_refused():
    masks = [np.array([[1, 1, 0]]), np.array([[1, 1, 1]]), np.array([[0, 1, 1]])]
    batches = [{"tokens": 5 * mask, "padding_mask": mask} for mask in masks]
    with pytest.raises(ValueError, match="padding at the end of row 0 and at the beginning of row 2"):
        rows_through_dataset(batches)


@pytest.mark.parametrize("door", ["from_padded", "from_dataset"])
def test_masks_are_not_padded_with_true(door):
    x = {"tokens": PADDED_WITH_1, "padding_mask": TRUE}
    with pytest.raises(ValueError, match="`padding_value` must be 0 where `x` has a mask"):
        BY_NAME[door](x, mask_value=1)


def test_an_input_of_one_padded_length_in_the_first_batches_is_unpadded():
    rows = [[3, 3, 3], [4, 4]], [[5]]
    batches = [{"a": pad([np.array(row) for row in rows[0]]), "b": np.ones((2, size))} for size in range(1, 11)]
    last = {"a": np.array([[5, 0]]), "b": np.ones((1, 3))}
    assert rows_through_dataset([*batches, last])["a"] == rows[0] * 10 + rows[1]
    told = [{**batch, "a_lengths": np.array([3, 2])} for batch in batches]
    assert rows_through_dataset(told)["a"] == rows[0] * 10
    with pytest.raises(ValueError, match=r"`x\['a'\]` may hold sequences, or values of one shape.*sequences="):
        rows_through_dataset(batches)
    assert rows_through_dataset(batches, sequences=("a", "b"))["a"] == rows[0] * 10


def test_values_of_one_shape_beside_a_sequence_stay():
    one_hot, numbers = np.eye(3)[[0, 2]], np.array([[1.0, 2.0], [3.0, 4.0]])
    batches = [{"a": one_hot, "n": numbers, "b": np.ones((2, size))} for size in range(1, 4)]
    x = collect_inputs(*read_dataset(Batches(batches), None, BatchOptions(batched=True)).element).x
    assert x["a"].tolist() == np.tile(one_hot, (3, 1)).tolist()
    assert x["n"].tolist() == np.tile(numbers, (3, 1)).tolist()


SYMBOLS = np.eye(8, dtype="float32")[np.random.default_rng(0).integers(0, 7, (40, 12))]
SYMBOLS[np.arange(12) >= np.random.default_rng(1).integers(3, 12, 40)[:, np.newaxis]] = np.eye(8)[7]
REAL = int(np.count_nonzero(SYMBOLS[:, :, 7] == 0))


def test_a_symbol_of_its_own_as_padding_is_noticed_and_said():
    for enter in (BucketedSequence.from_padded, lambda x: BucketedSequence.from_dataset(Batches([x]))):
        with pytest.warns(UserWarning, match=r"looks like padding.*pass mask_value=\[0\.0, 0\.0"):
            enter(SYMBOLS)
    monitored = monitor_padding(Batches([SYMBOLS]))
    monitored[0]
    with pytest.warns(UserWarning, match="looks like padding"):
        monitored.pass_stats(monitored.newest_pass(), 0, 1)
    symbol = np.eye(8)[7]
    dataset = BucketedSequence.from_padded(SYMBOLS, mask_value=symbol.tolist(), shuffle=False, batch_size=40)
    assert dataset.lengths.sum() == REAL
    batch = next(iter(dataset)).numpy()
    assert batch[:, :, 7].sum() == batch.shape[0] * batch.shape[1] - REAL
    assert BucketedSequence.from_dataset(Batches([SYMBOLS]), mask_value=symbol).lengths.sum() == REAL
    monitored = monitor_padding(Batches([SYMBOLS]), symbol)
    monitored[0]
    assert monitored.pass_stats(monitored.newest_pass(), 0, 1).real_timesteps == REAL


@pytest.mark.parametrize("side", ["post", "pre"])
def test_labels_that_were_sliced_after_padding_are_refused(side):
    padded = pad([np.arange(1, 1 + length) for length in [4, 2, 6, 3]], side)
    if side == "post":
        for labels in (padded[:, 1:], 3 * padded[:, 1:]):  # the next timesteps, and something else of them
            with pytest.raises(ValueError, match=r"`y` holds its padding, 0.*sample_weight"):
                BucketedSequence.from_padded(padded[:, :-1], labels, timestep_labels=True)
            with pytest.raises(ValueError, match=r"`y` holds its padding, 0.*sample_weight"):
                BucketedSequence.from_dataset(Batches([(padded[:, :-1], labels)]), timestep_labels=True)
        weights = (padded[:, 1:] != 0).astype("float32")
        dataset = BucketedSequence.from_padded(padded[:, :-1], padded[:, 1:], weights, timestep_labels=True)
        assert sum(float(tf.reduce_sum(batch[2])) for batch in dataset) == 3 + 1 + 5 + 2
    else:
        with pytest.raises(ValueError, match="where `x` is padded"):
            BucketedSequence.from_dataset(Batches([(padded[:, :-1], padded[:, 1:])]), timestep_labels=True)


@pytest.mark.parametrize("as_list", [False, True])
def test_labels_keep_what_they_were_padded_with(as_list):
    x = pad([np.arange(1, 1 + length) for length in [4, 2, 3]], value=9)
    y = np.where(x == 9, -100, x)
    y = y.tolist() if as_list else y
    dataset = BucketedSequence.from_padded(x, y, mask_value=9, timestep_labels=True, shuffle=False, batch_size=3)
    sequences, labels, weights = next(iter(dataset))
    assert sequences.numpy().tolist() == [[1, 2, 9, 9], [1, 2, 3, 9], [1, 2, 3, 4]]
    assert labels.numpy().tolist() == [[1, 2, -100, -100], [1, 2, 3, -100], [1, 2, 3, 4]]
    assert weights.numpy().sum() == 9


def test_a_cache_keeps_what_labels_were_padded_with(tmp_path):
    x = pad([np.arange(1, 1 + length) for length in [4, 2, 3]])
    batches = [(x, np.where(x == 0, -100, x))]
    for _ in range(2):
        dataset = BucketedSequence.from_dataset(
            Batches(batches), timestep_labels=True, cache=tmp_path / "cache", shuffle=False, batch_size=3
        )
        assert next(iter(dataset))[1].numpy()[0].tolist() == [1, 2, -100, -100]


def test_labels_that_are_padded_with_several_values_are_asked_for():
    x = pad([np.arange(1, 1 + length) for length in [4, 2, 3]])
    y = {"a": np.where(x == 0, -100, x), "b": x}
    with pytest.raises(ValueError, match=r"`label_padding_value` must be given.*-100 in `y\['a'\]`"):
        BucketedSequence.from_padded(x, y, timestep_labels=True)


def test_padding_that_was_not_noticed_is_pointed_out_at_every_door(tmp_path):
    generator = np.random.default_rng(0)
    x = pad([generator.integers(5, 90, length) for length in generator.integers(2, 19, 40)], value=1)
    for enter in (
        BucketedSequence.from_padded,
        lambda x: BucketedSequence.from_dataset(Batches([x[:20], x[20:]])),
        lambda x: save_sequences(tmp_path / "saved", Batches([x[:20], x[20:]])),
    ):
        with pytest.warns(UserWarning, match=r"which looks like padding\. Pass mask_value=1\.") as caught:
            enter(x)
        assert caught[0].filename == __file__


def test_data_at_the_other_end_than_the_padded_one_make_no_leaf_shorter():
    x = {"ids": np.array([[5, 6, 7, 0], [8, 9, 1, 2]]), "flags": np.array([[0, 0, 1, 0], [1, 0, 0, 1]])}
    unpadded = unpad_arrays(x, padding="post").x
    assert plain(rows_of(unpadded["flags"])) == [[0, 0, 1], [1, 0, 0, 1]]
    assert rows_through_dataset([x], padding="post")["flags"] == [[0, 0, 1], [1, 0, 0, 1]]


def test_a_leaf_that_may_hold_padding_as_data_is_asked_for():
    x = {"ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]), "flags": np.array([[1, 0, 1, 0], [1, 0, 0, 0]])}
    for enter in (unpad_arrays, lambda x: rows_through_dataset([x])):
        with pytest.raises(ValueError, match=r"`lengths` must be given.*x\['flags'\]"):
            enter(x)
    assert plain(rows_of(unpad_arrays({**x, "lengths": np.array([3, 2])}).x["flags"])) == [[1, 0, 1], [1, 0]]


# Entries beside one another.


def test_a_mask_for_all_is_not_that_of_a_leaf_with_data_beyond_it():
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    x = {"tokens": 5 * mask, "mask": mask, "target": np.array([[4, 5, 6, 0], [7, 8, 0, 0]])}
    for enter in (unpad_arrays, lambda x: rows_through_dataset([x]), counted):
        with pytest.raises(ValueError, match=r"`x\['mask'\]` may not be the mask of `x\['target'\]`.*'target_mask'"):
            enter(x)
    x["target_lengths"] = np.array([3, 2])  # tells more than a mask that names no entry
    assert rows_through_dataset([x])["target"] == [[4, 5, 6], [7, 8]]
    assert plain(rows_of(unpad_arrays(x).x["target"])) == [[4, 5, 6], [7, 8]]
    assert counted(x).real_timesteps == 2 + 3 + 3 + 2


def test_lengths_are_not_those_of_vectors_that_are_longer():
    tokens, lengths = np.array([[5, 6, 0], [7, 0, 0]]), np.array([2, 1])
    batches = [
        {"tokens": tokens[:, :size], "vector": np.ones((2, 9)), "lengths": np.minimum(lengths, size)} for size in (3, 2)
    ]
    element = read_dataset(Batches(batches), None, BatchOptions(batched=True)).element
    assert plain(rows_of(element[0]["tokens"])) == [[5, 6], [7], [5, 6], [7]]
    assert element[0]["vector"].tolist() == [[1] * 9] * 4
    with pytest.raises(ValueError, match=r"Pass sequences=\['tokens', 'vector'\]"):
        unpad_arrays(batches[0])
    assert plain(rows_of(unpad_arrays(batches[0], sequences="tokens").x["tokens"])) == [[5, 6], [7]]


def test_entries_of_unlike_sizes_are_read_where_each_is_told():
    x = {
        "source": np.array([[5, 6, 0], [7, 0, 0]]),
        "source_mask": np.array([[1, 1, 0], [1, 0, 0]]),
        "target": np.array([[1, 2, 3, 0], [4, 5, 0, 0]]),
        "target_lengths": np.array([3, 2]),
    }
    assert rows_through_dataset([x])["target"] == [[1, 2, 3], [4, 5]]
    assert {leaf.name: leaf.real_timesteps for leaf in counted(x).leaves} == {"x['source']": 3, "x['target']": 5}


SEGMENTS = {"ids": np.array([[5, 6, 7, 0], [5, 6, 0, 0]]), "segments": np.array([[0, 0, 1, 0], [0, 0, 0, 0]])}


def test_leaves_that_are_padded_alike_count_alike():
    assert plain_lengths(rows_through_dataset([SEGMENTS])["segments"]) == [3, 2]
    for stats in (counted(SEGMENTS), counted_by_tf_data(SEGMENTS)):
        assert {leaf.name: leaf.real_timesteps for leaf in stats.leaves} == {"x['ids']": 5, "x['segments']": 5}


def counted_by_tf_data(x, *arguments):
    monitored = monitor_padding(tf.data.Dataset.from_tensors(x), *arguments)
    list(monitored)
    return monitored.padding_stats()


def test_lengths_of_labels_in_a_column_are_refused():
    x, y = {"a": np.array([[5, 6], [7, 0]]), "label_lengths": np.array([[2], [1]])}, np.array([[1, 2, 0], [3, 0, 0]])
    with pytest.raises(ValueError, match=r"`x\['label_lengths'\]` must hold one integer per row"):
        unpad_arrays(x, own_length_labels=y)
    shorter = {**x, "a": x["a"][:, :1]}
    with pytest.raises(ValueError, match=r"`x\['label_lengths'\]` must hold one integer per row"):
        read_dataset(Batches([(x, y), (shorter, y[:, :2])]), None, BatchOptions(batched=True, labels_align=False))
    assert BucketedSequence.from_padded(x, [0, 1], sequences="a").element_spec[0]["label_lengths"].shape == (None, 1)


UNCERTAIN = {
    "lengths in a column": (
        {"a": np.array([[5, 6, 0], [7, 0, 0]]), "lengths": np.array([[2], [1]])},
        r"`x\['lengths'\]` must hold one integer per row",
    ),
    "lengths of an entry in a column": (
        {"a": np.array([[5, 6, 0], [7, 0, 0]]), "a_lengths": np.array([[2], [1]])},
        r"Pass a_lengths\[:, 0\]",
    ),
    "lengths beyond padding": (
        {"a": np.array([[5, 6, 0], [7, 8, 9]]), "lengths": np.array([9, 9])},
        "must not exceed the padded length where a row has padding",
    ),
    "lengths of an entry beyond padding in front": (
        {"a": np.array([[0, 5, 0], [0, 8, 9], [0, 0, 4]]), "a_lengths": np.array([2, 9, 1])},
        "must not exceed the padded length where a row has padding",
    ),
    "a leaf with padding or data": (
        {"ids": np.array([[5, 6, 7, 0], [8, 9, 0, 0]]), "flags": np.array([[1, 0, 1, 0], [1, 0, 0, 0]])},
        "`lengths` must be given",
    ),
    "lengths of another leaf": (
        {"a": np.array([[1, 1, 0]]), "b": np.array([[1, 1, 1]]), "lengths": np.array([3])},
        "may be as long as",
    ),
    "a mask with gaps": ({"a": np.array([[5, 6, 7]]), "mask": np.array([[1, 0, 1]])}, "must be True in one run"),
    "masks that differ": (
        {"a": np.array([[5, 6, 7]]), "mask": np.array([[1, 0, 0]]), "attention_mask": np.array([[1, 1, 0]])},
        "several masks have the shape",
    ),
    "a mask and lengths that differ": (
        {"a": np.array([[5, 6, 7]]), "mask": np.array([[1, 0, 0]]), "a_lengths": np.array([2])},
        "must tell the same lengths",
    ),
    "negative lengths": ({"a": np.array([[5, 6, 7]]), "a_lengths": np.array([-1])}, "must be at least 0"),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_what_is_not_certain_is_refused_at_every_door(case):
    x, text = UNCERTAIN[case]
    for enter in (unpad_arrays, lambda x: rows_through_dataset([x]), counted):
        with pytest.raises(ValueError, match=text):
            enter(x)


# Labels.


def test_labels_of_their_own_length_are_never_those_of_timesteps():
    x = pad([np.arange(1, 4), np.arange(1, 3)], length=4)
    labels = np.array([[3, 0, 0, 0], [4, 5, 0, 0]])  # of the shape of x
    y = [[3], [4, 5]]
    options = {"align_labels": False, "timestep_labels": True, "shuffle": False, "batch_size": 2}
    for dataset in (
        BucketedSequence.from_padded(x, labels, **options),
        BucketedSequence.from_dataset(Batches([(x, labels)]), **options),
    ):
        assert plain(rows_of(dataset._stored.y)) == y


@pytest.mark.parametrize("door", ["from_padded", "from_dataset"])
def test_a_label_that_is_a_vector_keeps_its_padding(door):
    x = pad([np.arange(1, 4), np.arange(1, 3)])
    y = np.eye(3)[np.where(x == 0, 2, x % 2)]  # the last class is padding
    options = {"timestep_labels": True, "shuffle": False, "batch_size": 2}
    dataset = WITH_LABELS[door](x, y, **options)
    assert next(iter(dataset))[1].numpy().tolist() == y[::-1].tolist()


def test_a_cache_keeps_vectors_that_labels_were_padded_with(tmp_path):
    x = pad([np.arange(1, 4), np.arange(1, 3)])
    y = np.eye(3)[np.where(x == 0, 2, x % 2)]
    options = BatchOptions(batched=True, timestep_labels=True)
    found = [read_dataset(Batches([(x, y)]), tmp_path / "cache", options).label_padding.tolist() for _ in range(2)]
    assert found == [[0, 0, 1]] * 2


WITH_LABELS = {
    "from_padded": BucketedSequence.from_padded,
    "from_dataset": lambda x, y, **options: BucketedSequence.from_dataset(Batches([(x, y)]), **options),
}


@pytest.mark.parametrize("door", sorted(WITH_LABELS))
def test_labels_beyond_their_sequences_are_refused(door):
    x, y = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match="`y` holds labels where `x` is padded"):
        WITH_LABELS[door](x, y, timestep_labels=True)


def test_from_padded_asks_all_at_once():
    x = np.array([[1, 2, 0, 0], [0, 1, 2, 3]])
    with pytest.raises(ValueError, match=r"`padding` must be given.*Pass as well: timestep_labels=True if"):
        BucketedSequence.from_padded(x, np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))


def test_folders_take_the_keys_of_sequences(tmp_path):
    batches = [{"a": np.array([[3, 3, 3], [4, 4, 0]]), "b": np.ones((2, size))} for size in range(1, 11)]
    with pytest.raises(ValueError, match=r"`x\['a'\]` may hold sequences.*sequence_keys=\['a', 'b'\]"):
        save_sequences(tmp_path / "saved", Batches(batches))
    save_sequences(tmp_path / "saved", Batches(batches), sequence_keys=["a", "b"])
    assert plain(load_sequences(tmp_path / "saved")["a"][:2]) == [[3, 3, 3], [4, 4]]
