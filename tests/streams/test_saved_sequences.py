"""save_sequences and load_sequences: what is in the folder is what went in, or there is no folder."""

import errno
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_bucketing import BucketedSequence, __main__, load_sequences, save_sequences
from keras_bucketing.data.collect import collect_inputs
from keras_bucketing.data.rows import StoredSequences
from keras_bucketing.streams import columns as growing
from keras_bucketing.streams import folder as sequence_folder
from keras_bucketing.streams.columns import npy_header
from tests.streams.test_reading import contents
from tests.support.default_layer import examples
from tests.support.processes import run_python
from tests.support.streams import Sequences, datasets, map_leaves, rows_of, single_rows

X = [[1, 2, 3], [4], [5, 6]]


def as_arguments(loaded):
    """What to pass to BucketedSequence."""
    return loaded if isinstance(loaded, tuple) else (loaded,)


def names_in(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(datasets(vectors_in_x=False), st.sampled_from(["rows", "tf.data"]))
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, triple, form):
    folder = tmp_path_factory.mktemp("saved") / "sequences"
    save_sequences(folder, iter(rows_of(triple)) if form == "rows" else single_rows(triple), batched=False)
    as_lists = map_leaves(lambda leaf: list(leaf) if isinstance(leaf, Sequences) else leaf, triple)
    expected = contents(collect_inputs(*as_lists))
    x, y, weights = (*as_arguments(load_sequences(str(folder))), None, None)[:3]
    assert contents(collect_inputs(x, y, weights)) == expected


def test_rows_are_views_of_the_file(tmp_path):
    save_sequences(tmp_path / "s", X)
    sequences = load_sequences(tmp_path / "s")
    assert isinstance(sequences, StoredSequences)
    assert len(sequences) == 3
    assert [row.tolist() for row in sequences] == X
    assert [sequences[at].tolist() for at in (0, 1, 2, -1, np.int64(1))] == [*X, X[-1], X[1]]
    assert [row.tolist() for row in sequences[1:]] == X[1:]
    assert sequences.lengths.tolist() == [3, 1, 2]
    assert isinstance(sequences.values, np.memmap)
    assert np.shares_memory(sequences[0], sequences.values)
    assert "3 sequences `x`, 6 timesteps of int64" in repr(sequences)
    for index in (3, -4):
        with pytest.raises(IndexError, match="out of range"):
            sequences[index]
    with pytest.raises(ValueError, match="read-only"):
        sequences[0][0] = 9


def test_numpy_alone_can_read_the_folder(tmp_path):
    save_sequences(tmp_path / "s", (({"b": row, "a": 1.5}, [0, 1]) for row in X))
    description = json.loads((tmp_path / "s" / "description.json").read_text())
    assert [leaf["name"] for leaf in description["leaves"]] == ["x['b']", "x['a']", "y"]
    arrays = {path.stem: np.load(path).tolist() for path in (tmp_path / "s").glob("*.npy")}
    assert arrays == {
        "values_0": [1, 2, 3, 4, 5, 6],
        "row_splits_0": [0, 3, 4, 6],
        "values_1": [1.5, 1.5, 1.5],
        "values_2": [[0, 1]] * 3,
    }
    assert names_in(tmp_path) == ["s"]


@pytest.mark.parametrize(
    ("elements", "loaded"),
    [
        (X, list),
        ([(row, 1) for row in X], (list, np.ndarray)),
        ([((row, row),) for row in X], ((list, list),)),
        ([({"a": row}, row, [0.5] * len(row)) for row in X], ({"a": list}, list, list)),
    ],
)
def test_the_structure_is_kept(tmp_path, elements, loaded):
    save_sequences(tmp_path / "s", elements)

    def kind(leaf):
        return list if isinstance(leaf, StoredSequences) else np.ndarray

    structure = load_sequences(tmp_path / "s")
    assert map_leaves(lambda leaf: [kind(leaf)], structure) == map_leaves(lambda leaf: [leaf], loaded)
    assert BucketedSequence(*as_arguments(structure)).lengths.tolist() == [3, 1, 2]


def test_folders_above_are_made_and_an_empty_one_is_used(tmp_path):
    save_sequences(tmp_path / "a" / "b" / "s", X)
    (tmp_path / "empty").mkdir()
    save_sequences(tmp_path / "empty", X)
    assert len(load_sequences(tmp_path / "a" / "b" / "s")) == len(load_sequences(tmp_path / "empty")) == 3


# What is there already.


def test_saved_sequences_are_replaced_only_if_asked(tmp_path):
    save_sequences(tmp_path / "s", X)
    with pytest.raises(FileExistsError, match=r"`path` must be a new folder.*overwrite=True"):
        save_sequences(tmp_path / "s", [[9]])
    assert len(load_sequences(tmp_path / "s")) == 3
    save_sequences(tmp_path / "s", [[9]], overwrite=True)
    assert [row.tolist() for row in load_sequences(tmp_path / "s")] == [[9]]
    assert names_in(tmp_path) == ["s"]


def test_a_folder_can_be_replaced_by_what_is_read_from_it(tmp_path):
    save_sequences(tmp_path / "s", X)
    old = load_sequences(tmp_path / "s")
    save_sequences(tmp_path / "s", (row * 10 for row in old), overwrite=True)
    assert [row.tolist() for row in old] == X  # whoever has mapped it keeps it
    assert load_sequences(tmp_path / "s")[0].tolist() == [10, 20, 30]


def test_a_replacement_that_fails_leaves_what_there_was(tmp_path):
    save_sequences(tmp_path / "s", X)
    with pytest.raises(TypeError, match="at x"):
        save_sequences(tmp_path / "s", [[1], [2, "a"]], overwrite=True)
    assert len(load_sequences(tmp_path / "s")) == 3
    assert names_in(tmp_path) == ["s"]


@pytest.mark.parametrize("place", ["s", "s.unfinished", "s.replaced"])
def test_files_of_strangers_are_never_removed(tmp_path, place):
    save_sequences(tmp_path / "s", X)
    stranger = tmp_path / place / "thesis.txt"
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"`path` must be a folder of nothing but saved sequences.*'thesis\.txt'"):
        save_sequences(tmp_path / "s", [[9]], overwrite=True)
    own = ["description.json", "row_splits_0.npy"] if place == "s" else []
    assert names_in(stranger.parent) == [*own, "thesis.txt", *(["values_0.npy"] if own else [])]
    assert stranger.read_text() == "years of work"
    assert len(load_sequences(tmp_path / "s")) == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_or_file_of_something_else_is_left_alone(tmp_path, overwrite):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "values_0.npy").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        with pytest.raises(FileExistsError, match=r"which holds something else\. Pass another path"):
            save_sequences(tmp_path / name, X, overwrite=overwrite)
    assert names_in(tmp_path) == ["file", "folder"]
    assert (tmp_path / "folder" / "values_0.npy").read_text() == "mine"


# Interrupted writing.


class Interrupted(BaseException):
    """As KeyboardInterrupt, but nobody else's."""


@pytest.mark.parametrize("error", [ValueError("their own"), OSError(5, "their own"), Interrupted()])
def test_an_error_of_the_rows_is_passed_on_and_nothing_is_left(tmp_path, error):
    def rows():
        yield from X
        raise error

    with pytest.raises(type(error)) as raised:
        save_sequences(tmp_path / "s", rows())
    assert raised.value is error
    assert names_in(tmp_path) == []


KILLED = """
import os, sys
from keras_bucketing import save_sequences
def rows():
    for _ in range(100_000):
        yield [1.0] * 30
    os._exit(9)
save_sequences(sys.argv[1], rows())
"""


@pytest.mark.fit
def test_a_killed_process_leaves_no_folder_and_the_next_one_begins_again(tmp_path):
    assert run_python("-c", KILLED, str(tmp_path / "s")).returncode == 9
    assert names_in(tmp_path) == ["s.unfinished"]
    assert "values_0.npy" in names_in(tmp_path / "s.unfinished")
    with pytest.raises(FileNotFoundError, match="has not been finished"):
        load_sequences(tmp_path / "s")
    save_sequences(tmp_path / "s", X)
    assert names_in(tmp_path) == ["s"]
    assert [row.tolist() for row in load_sequences(tmp_path / "s")] == X


def test_a_second_writer_waits_for_the_first(tmp_path):
    pytest.importorskip("fcntl")
    reached, go_on = threading.Event(), threading.Event()

    def rows():
        yield from X
        reached.set()
        assert go_on.wait(60)

    first = threading.Thread(target=save_sequences, args=(tmp_path / "s", rows()))
    first.start()
    assert reached.wait(60)
    refused, read = [], []

    def write():
        try:
            save_sequences(tmp_path / "s", map(read.append, [9]))
        except FileExistsError as error:
            refused.append(str(error))

    second = threading.Thread(target=write)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert "which holds saved sequences" in refused[0]
    assert read == []  # it was refused before it had read anything
    assert [row.tolist() for row in load_sequences(tmp_path / "s")] == X
    assert names_in(tmp_path) == ["s"]
    assert names_in(tmp_path / "s") == ["description.json", "row_splits_0.npy", "values_0.npy"]


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # the kernel fails writes as on a full disk
    try:
        with pytest.raises(OSError, match=r"`path` cannot be written: File too large.*Free some space") as raised:
            save_sequences(tmp_path / "s", (np.ones(1000) for _ in range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "convert", "finish", "description"])
def test_a_disk_that_is_full_at_any_step_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "description":
        monkeypatch.setattr(sequence_folder.json, "dump", fail)
    else:
        monkeypatch.setattr(growing.FileStore, step, fail)
    with pytest.raises(OSError, match=r"`path` cannot be written: No space left on device") as raised:
        save_sequences(tmp_path / "s", [[1], [2.5]])
    assert raised.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == []


def test_a_read_only_folder_is_said(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=r"`path` cannot be written: Permission denied.*another folder"):
        save_sequences(tmp_path / "s", X)


def test_a_path_through_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="`path` cannot be written: "):
        save_sequences(tmp_path / "file" / "s", X)


@pytest.mark.parametrize("path", [None, 5, "", b"bytes", ["a"]])
@pytest.mark.parametrize("function", [load_sequences, lambda path: save_sequences(path, X)])
def test_what_is_no_path(path, function):
    with pytest.raises(TypeError, match="`path` must be the path of a folder"):
        function(path)


# Damaged folders.


def change_description(folder, **entries):
    path = folder / "description.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def cut(path, number):
    path.write_bytes(path.read_bytes()[:-number])


def overwrite(name, array):
    """Writes another array where one of the folder's should be."""
    array = np.asarray(array)
    return lambda folder: (folder / name).write_bytes(npy_header(array.shape, array.dtype) + array.tobytes())


def change_leaf(**entries):
    def change(folder):
        leaves = json.loads((folder / "description.json").read_text())["leaves"]
        change_description(folder, leaves=[{**leaves[0], **entries}])

    return change


DAMAGES = {
    "cut off": (lambda folder: cut(folder / "values_0.npy", 8), r"values_0\.npy is cut off"),
    "cut off in the header": (lambda folder: cut(folder / "row_splits_0.npy", 100), r"row_splits_0\.npy is not a file"),
    "missing": (lambda folder: (folder / "row_splits_0.npy").unlink(), r"row_splits_0\.npy is missing"),
    "foreign": (
        lambda folder: (folder / "values_0.npy").write_text("hello" * 99),
        r"values_0\.npy is not a file of dtype",
    ),
    "objects": (
        lambda folder: np.save(folder / "values_0.npy", np.array([None] * 6), allow_pickle=True),
        r"values_0\.npy is not a file of dtype",
    ),
    "another dtype": (overwrite("values_0.npy", np.zeros(6, "f4")), r"not a file of dtype <i8 and shape \(6,\)"),
    "another byte order": (overwrite("values_0.npy", np.zeros(6, ">i8")), "not a file of dtype <i8"),
    "another shape": (overwrite("values_0.npy", np.zeros((6, 1), int)), r"not a file of dtype <i8 and shape \(6,\)"),
    "another number of values": (overwrite("values_0.npy", np.zeros(5, int)), r"and shape \(6,\)"),
    "splits beyond the end": (overwrite("row_splits_0.npy", [0, 3, 4, 7]), "must rise from 0 to the 6 timesteps"),
    "splits that fall": (overwrite("row_splits_0.npy", [0, 4, 3, 6]), "must rise from 0 to the 6 timesteps"),
    "splits that start late": (overwrite("row_splits_0.npy", [1, 3, 4, 6]), "must rise from 0 to the 6"),
    "splits of another dtype": (overwrite("row_splits_0.npy", [0.0, 3.0, 4.0, 6.0]), r"is not a file"),
    "no splits": (overwrite("row_splits_0.npy", np.zeros(0, int)), r"row_splits_0\.npy is not a file of dtype"),
    "another version": (
        lambda folder: change_description(folder, version=2),
        r"another version.*Expected version 1.*received 2",
    ),
    "another format": (lambda folder: change_description(folder, format="zarr"), "a folder that save_sequences wrote"),
    "no JSON": (lambda folder: (folder / "description.json").write_text("{"), "a folder that save_sequences wrote"),
    "no text": (lambda folder: (folder / "description.json").write_bytes(b"\xff\xfe"), "that save_sequences wrote"),
    "no description": (lambda folder: (folder / "description.json").unlink(), "is missing or something else"),
    "a list": (lambda folder: (folder / "description.json").write_text("[]"), "that save_sequences wrote"),
    "no leaves": (lambda folder: change_description(folder, leaves=None), "its description is damaged"),
    "too few leaves": (lambda folder: change_description(folder, leaves=[]), "its description is damaged"),
    "a wild structure": (lambda folder: change_description(folder, x={"set": [0]}), "its description is damaged"),
    "text as a leaf": (lambda folder: change_description(folder, x="values_0.npy"), "its description is damaged"),
    "a wild number of rows": (lambda folder: change_description(folder, num_rows=-4), "its description is damaged"),
    "described as objects": (change_leaf(dtype="|O"), "something else than numbers"),
    "described as text": (change_leaf(dtype="<U4"), "something else than numbers"),
    "of another machine": (change_leaf(dtype=">i8"), "byte order of another kind of machine, dtype >i8"),
    "described as huge": (change_leaf(shape=[2**70]), "its description is damaged"),
    "described as one value per row": (change_leaf(ragged=False), r"values_0\.npy must have 3 rows, received 6"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused(tmp_path, name):
    folder = tmp_path / "s"
    save_sequences(folder, X)
    damage, text = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError, match=text) as raised:
        load_sequences(folder)
    assert "`path`" in str(raised.value)
    assert len(str(raised.value)) < 1000


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_that_changes_gives_sequences_or_our_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged") / "s"
    save_sequences(folder, [(row, 1) for row in X])
    name = data.draw(st.sampled_from(names_in(folder)))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content)
    try:
        x, y = load_sequences(folder)
    except (ValueError, FileNotFoundError) as error:
        assert "`path`" in str(error)  # noqa: PT017
        return
    assert [len(row) for row in x] == x.lengths.tolist()
    assert len(y) >= 0


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must be a folder that save_sequences wrote.*which is none"):
        load_sequences(tmp_path / "nothing")


# Other ways in and out.


def test_sequences_of_float64_follow_floatx_when_they_are_used(tmp_path):
    save_sequences(tmp_path / "s", [np.ones(3), np.ones(2)])
    assert load_sequences(tmp_path / "s").values.dtype == np.float32
    dataset = BucketedSequence({"a": load_sequences(tmp_path / "s")})
    assert dataset.element_spec["a"].dtype == tf.float32


def test_the_command_reads_a_folder(tmp_path, capsys):
    save_sequences(tmp_path / "s", ({"a": row, "b": row * 2} for row in X))
    assert __main__.main([str(tmp_path / "s")]) == 0
    assert "3 sequences of 2 to 6 timesteps" in capsys.readouterr().out
    assert __main__.main([str(tmp_path)]) == 2
    assert "must be a folder that save_sequences wrote" in capsys.readouterr().err
