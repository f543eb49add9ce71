"""Folders that are replaced, killed halfway, linked and shared: whole or refused, and nobody else's is touched."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keras_bucketing import BucketedSequence, load_sequences, save_sequences
from keras_bucketing.streams import columns
from keras_bucketing.streams import folder as folders
from keras_bucketing.streams.folder_files import FolderFiles
from keras_bucketing.streams.folder_writer import FolderWriter
from keras_bucketing.streams.reading import read_stream
from keras_bucketing.streams.sources import open_stream
from keras_bucketing.unpadding.batches import BatchOptions
from tests.support.default_layer import examples
from tests.support.directories import contents_of
from tests.support.processes import start_python
from tests.support.stopping_files import Killed, StoppingFiles

X = [[1, 2, 3], [4], [5, 6]]


def write(path, version, files=None, overwrite=True):
    """Writes a folder whose every number is the version."""
    rows = [([version] * (1 + version % 3 + row), version) for row in range(1 + version % 4)]
    options = BatchOptions()
    with FolderWriter(Path(os.path.realpath(path)), "path", overwrite, files) as writer:
        writer.finish(
            read_stream(open_stream(rows, options, "sequences"), options, writer.new_store, "sequences").element, None
        )


def read(path):
    """The version of a folder; all of its numbers are that."""
    x, y = load_sequences(path)
    numbers = {int(number) for number in [*x.values, *y]}
    assert len(numbers) == 1, "versions are mixed"
    version = numbers.pop()
    assert x.lengths.tolist() == [1 + version % 3 + row for row in range(1 + version % 4)]
    return version


class Folders(RuleBasedStateMachine):
    """Writers that are stopped at any step while readers read at any other, beside the folders of others."""

    @initialize(linked=st.booleans(), neighbors=st.sets(st.sampled_from(["s.old", "s.replaced.unfinished", "s2", "S"])))
    def begin(self, linked, neighbors):
        self.home = Path(self.new_folder())
        self.path = self.home / "s"
        if linked:
            self.path.symlink_to(self.home / "elsewhere" / "s")
        self.version, self.next = None, 1
        for name in neighbors:
            write(self.home / name, 100)
        self.neighbors = {name: contents_of(self.home / name) for name in neighbors}

    def readable(self):
        try:
            return read(self.path)
        except FileNotFoundError:
            return None

    def run(self, stop_at, kind):
        old, new = self.version, self.next
        self.next += 1
        seen = []
        files = StoppingFiles(stop_at, kind, lambda step: seen.append(self.readable()))
        try:
            write(self.path, new, files)
        except Killed:
            self.version = self.readable()
        except (OSError, KeyboardInterrupt):
            self.version = self.readable()
        else:
            assert self.readable() == new
            self.version = new
        assert set(seen) | {self.version} <= {old, new}
        if kind == "kill":  # a rename that fails is undone
            assert seen == sorted(seen, key=lambda version: version == new), "the old one came back"
        if old is not None:
            assert None not in seen
            assert self.version is not None

    @rule(stop_at=st.integers(0, 45))
    def is_killed(self, stop_at):
        self.run(stop_at, "kill")

    @rule(stop_at=st.integers(0, 45), kind=st.sampled_from(["full disk", "interrupt", "interrupt after"]))
    def fails(self, stop_at, kind):
        self.run(stop_at, kind)

    @rule()
    def is_written(self):
        self.run(None, "kill")
        assert not (self.path.parent / "s.replaced").exists()
        place = Path(os.path.realpath(self.path))
        assert sorted(path.name for path in place.parent.iterdir() if path.name.startswith("s.")) == sorted(
            name for name in self.neighbors if name.startswith("s.") and place.parent == self.home
        )

    @rule()
    def is_refused_without_overwrite(self):
        if self.version is None:
            return
        with pytest.raises(FileExistsError, match="overwrite=True"):
            write(self.path, 99, overwrite=False)
        assert read(self.path) == self.version

    @invariant()
    def is_what_it_was(self):
        if hasattr(self, "path"):
            assert self.readable() == self.version
            assert {name: contents_of(self.home / name) for name in self.neighbors} == self.neighbors


@pytest.mark.fit
def test_folders(tmp_path_factory):
    class Machine(Folders):
        def new_folder(self):
            return tmp_path_factory.mktemp("folders")

    Machine.TestCase.settings = settings(max_examples=examples(20), stateful_step_count=8, deadline=None)
    Machine.TestCase("runTest").runTest()


@pytest.mark.parametrize("kind", ["kill", "interrupt after"])
def test_every_step_of_an_overwrite_may_be_the_last(tmp_path, kind):
    files = StoppingFiles()
    write(tmp_path / "s", 1)
    write(tmp_path / "s", 2, files)
    for stop_at in range(files.steps):
        home = tmp_path / str(stop_at)
        write(home / "s", 1)
        with pytest.raises((Killed, KeyboardInterrupt)):
            write(home / "s", 2, StoppingFiles(stop_at, kind))
        version = read(home / "s")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            save_sequences(home / "s", X)
        assert read(home / "s") == version
        write(home / "s", 3)
        assert read(home / "s") == 3
        assert os.listdir(home) == ["s"]


class FailingRenames(FolderFiles):
    """All renames from one on fail."""

    def __init__(self, fail_from, error):
        self.left, self.error = fail_from, error

    def rename(self, old, new):
        self.left -= 1
        if self.left < 0:
            error, self.error = self.error, OSError(5, "broken again")
            raise error
        super().rename(old, new)


@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt()], ids=["error", "interrupted"])
@pytest.mark.parametrize("fail_from", [0, 1])
def test_renames_that_fail_for_good_lose_nothing(tmp_path, fail_from, error):
    write(tmp_path / "s", 1)
    with pytest.raises(type(error), match="broken[.]" if isinstance(error, OSError) else None):
        write(tmp_path / "s", 2, FailingRenames(fail_from, error))
    assert read(tmp_path / "s") == 1 + fail_from  # the new one waits for its place once the old one has left it
    write(tmp_path / "s", 3)
    assert read(tmp_path / "s") == 3
    assert os.listdir(tmp_path) == ["s"]
    assert "writing.lock" not in os.listdir(tmp_path / "s")


def overwrite_stopped(path, version, stop_at, kind):
    """How many steps it takes to write the version, which is stopped at one; no file is left open."""
    files = StoppingFiles(stop_at, kind)
    with contextlib.suppress(Killed, OSError, KeyboardInterrupt):
        write(path, version, files)
    return files.steps


@pytest.mark.fit  # hundreds of folders
@pytest.mark.parametrize("kind", ["kill", "full disk"])
def test_a_writer_is_stopped_as_it_begins_after_one_that_was_killed_anywhere(tmp_path, kind):
    for first in itertools.count():
        for second in range(12):  # until what the first one left is moved or removed
            home = tmp_path / f"{first}-{second}"
            write(home / "s", 1)
            is_whole = overwrite_stopped(home / "s", 2, first, "kill") <= first
            overwrite_stopped(home / "s", 3, second, kind)
            assert read(home / "s") in (1, 2, 3)
            write(home / "s", 4)
            assert read(home / "s") == 4
            assert os.listdir(home) == ["s"]
        if is_whole:
            break


def test_what_others_hold_stays_where_a_waiting_writer_is_interrupted(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    with FolderWriter(tmp_path / "s", "path", True):
        before = contents_of(tmp_path)

        def flock(file, operation):
            raise BlockingIOError if operation & fcntl.LOCK_NB else KeyboardInterrupt

        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "s", 1)
        assert contents_of(tmp_path) == before


def test_a_folder_is_read_while_it_is_replaced_between_any_two_files(tmp_path, monkeypatch):
    mapped = folders.map_npy
    for replaced_at in range(6):
        write(tmp_path / "s", 1)  # both versions have the same shapes
        count = 0

        def map_npy(path, *arguments):
            nonlocal count
            count += 1
            if count == replaced_at:  # noqa: B023
                write(tmp_path / "s", 13)
            return mapped(path, *arguments)

        monkeypatch.setattr(folders, "map_npy", map_npy)
        assert read(tmp_path / "s") == (13 if 0 < replaced_at <= 3 else 1)


def test_a_folder_that_never_rests_is_refused_for_that(tmp_path, monkeypatch):
    mapped, versions = folders.map_npy, iter(range(1, 10_000))

    def map_npy(path, *arguments):
        write(tmp_path / "s", next(versions))
        return mapped(path, *arguments)

    write(tmp_path / "s", 0)
    monkeypatch.setattr(folders, "map_npy", map_npy)
    monkeypatch.setattr(folders, "_MAX_READS", 3)
    monkeypatch.setattr(columns.FileStore, "finish", lambda self, shape, dtype: finished(self, shape, dtype, mapped))
    with pytest.raises(OSError, match="`path` cannot be read: it was replaced 3 times in the meantime"):
        load_sequences(tmp_path / "s")


def finished(store, shape, dtype, map_npy):
    store._file.seek(0)
    store._file.write(columns.npy_header(shape, dtype))
    store._file.close()
    return map_npy(store._path, shape, dtype)


COLD = """
import sys
from pathlib import Path
from keras_bucketing.streams.saved_sequences import read_dataset
from keras_bucketing.unpadding.batches import BatchOptions
for at in range(60):
    (x, _, _) = read_dataset([[at], [at, at]], Path(sys.argv[1]) / str(at), BatchOptions())
    assert [row.tolist() for row in x] == [[at], [at, at]]
"""


@pytest.mark.fit
def test_processes_that_start_with_one_cold_cache(tmp_path):
    pytest.importorskip("fcntl")
    processes = [start_python("-c", COLD, str(tmp_path)) for _ in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert len(os.listdir(tmp_path)) == 60


# What is not ours.


@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("name", ["s.unfinished", "s.replaced"])
def test_a_neighbor_that_somebody_has_saved_is_never_touched(tmp_path, name, is_marked):
    write(tmp_path / "s", 1)
    write(tmp_path / name, 7)
    if is_marked:  # its writer was killed before it had removed the mark of its own folder
        (tmp_path / name / "writing.lock").write_text(name)
    before = contents_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"`path` must have nothing else at .*Rename it"):
        write(tmp_path / "s", 2)
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("name", ["s.unfinished", "s.replaced"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_links_and_files_where_a_folder_is_kept_meanwhile(tmp_path, name, kind):
    write(tmp_path / "s", 1)
    write(tmp_path / "mine", 7)
    if kind == "file":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).symlink_to(tmp_path / ("mine" if kind == "link" else "nothing"))
    before = contents_of(tmp_path)
    with pytest.raises(FileExistsError, match=r"`path` must have nothing else at .*a link or a file"):
        write(tmp_path / "s", 2)
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize("name", ["values_0.npy", "values_9.npy", "row_splits_7.npy", "values_0.npy.bak", "notes"])
def test_what_others_have_put_into_the_folder_is_not_removed(tmp_path, name):
    write(tmp_path / "s", 1)
    (tmp_path / "precious.npy").write_bytes(b"mine")
    (tmp_path / "s" / name).unlink(missing_ok=True)
    (tmp_path / "s" / name).symlink_to(tmp_path / "precious.npy")
    before = contents_of(tmp_path)
    with pytest.raises(FileExistsError, match="which also holds"):
        write(tmp_path / "s", 2)
    assert contents_of(tmp_path) == before


def test_the_description_of_another_tool_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "description.json").write_text('{"format": "theirs"}')
    with pytest.raises(FileExistsError, match="holds something else"):
        save_sequences(tmp_path / "s", X, overwrite=True)


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "disk" / "s")
    for version in (1, 2):
        write(tmp_path / "s", version)
        assert (read(tmp_path / "s"), read(tmp_path / "disk" / "s")) == (version, version)
    assert (tmp_path / "s").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["s"]


def test_a_mount_point_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "s")
    with pytest.raises(FileExistsError, match=r"root of a file system.*a folder in it"):
        save_sequences(tmp_path / "s", map(pytest.fail, X))


DOORS = {
    "save_sequences": (lambda path: save_sequences(path, map(pytest.fail, X)), "path"),
    "load_sequences": (load_sequences, "path"),
    "cache": (lambda path: BucketedSequence.from_dataset(map(pytest.fail, X), cache=path), "cache"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gs://bucket/x", "Received the URL 'gs://bucket/x'"),
        ("file:///x", "Received the URL"),
        ("hdfs://host/x", "Received the URL"),
        (Path("s3://bucket/x"), "Received the URL"),
        ("/", "the root of a file system"),
        ("a\0b", "a character that no path has"),
        ("a\ud800b", "a character that no path has"),
    ],
)
def test_paths_that_are_no_local_folders(door, path, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, argument = DOORS[door]
    with pytest.raises(ValueError, match=f"`{argument}` must be the path of a .*{text}"):
        call(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", [1, None, 1.5, ("a",), b"a"])
def test_keys_that_are_no_strings_are_refused_at_the_first_element(tmp_path, key):
    def rows():
        yield {key: [1], "b": [2]}
        pytest.fail("more than one was read")

    for call in (lambda: save_sequences(tmp_path / "s", rows()), lambda: BucketedSequence.from_dataset(rows)):
        with pytest.raises(TypeError, match="`x` must have strings as keys"):
            call()
    assert os.listdir(tmp_path) == []


# Other settings, and what a folder must keep.


@pytest.mark.parametrize("floatx", ["float64", "float16", "bfloat16"])
def test_a_folder_is_read_under_another_floatx(tmp_path, floatx):
    keras.config.set_floatx(floatx)
    try:
        save_sequences(tmp_path / "s", [np.array([0.5]), np.array([1.5, 2.5])])
    finally:
        keras.config.set_floatx("float32")
    dataset = BucketedSequence(load_sequences(tmp_path / "s"), shuffle=False)
    assert next(iter(dataset)).numpy().tolist() == [[0.5, 0], [1.5, 2.5]]


@pytest.mark.parametrize("loaded", [True, False])
def test_transcripts_of_one_length_keep_their_lengths(tmp_path, loaded):
    transcripts = [[1, 2], [3, 4], [5, 6]]
    save_sequences(tmp_path / "s", zip(X, transcripts, strict=True))
    x, y = load_sequences(tmp_path / "s") if loaded else (X, transcripts)
    options = {"shuffle": False, "include_lengths": True}
    inputs, labels = next(iter(BucketedSequence(x, y, align_labels=False, **options)))
    assert inputs["label_lengths"].numpy().tolist() == [2, 2, 2]
    inputs, labels = next(iter(BucketedSequence(x, y, **options)))
    assert "label_lengths" not in inputs
    assert labels.numpy().tolist() == [[3, 4], [5, 6], [1, 2]]


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


ROWS = [(np.ones((length, 2), np.float32), length) for length in (1, 2, 3)]
OTHERS = {
    "features": [(np.ones((length, 3), np.float32), length) for length in (1, 2, 3)],
    "rank": [(np.ones(length, np.float32), length) for length in (1, 2, 3)],
    "no labels": [x for x, _ in ROWS],
    "weights": [(x, y, 1.0) for x, y in ROWS],
    "a dict": [({"a": x}, y) for x, y in ROWS],
    "label shape": [(x, np.eye(3)[y - 1]) for x, y in ROWS],
    "dtype": [(x, 0.5) for x, _ in ROWS],
}


def batches_of(rows):
    def joined(leaves):
        if isinstance(leaves[0], dict):
            return {"a": joined([leaf["a"] for leaf in leaves])}
        return [*leaves] if np.ndim(leaves[0]) and len({len(leaf) for leaf in leaves}) > 1 else np.array(leaves)

    parts = [row if isinstance(row, tuple) else (row,) for row in rows]
    return Batches([tuple(joined(part) for part in zip(*parts, strict=True))])


FORMS = {"list": list, "function": lambda rows: lambda: iter(rows), "generator": iter, "PyDataset": batches_of}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", OTHERS)
def test_a_cache_of_another_structure_or_shape_is_noticed(tmp_path, form, other):
    make = FORMS[form]
    expected = BucketedSequence.from_dataset(make(ROWS), cache=tmp_path / "c", shuffle=False).lengths.tolist()
    again = BucketedSequence.from_dataset(make(ROWS[::-1]), cache=tmp_path / "c", shuffle=False)
    assert again.lengths.tolist() == expected
    with pytest.raises(ValueError, match=r"`cache` belongs to another dataset\. Expected .* in its first element"):
        BucketedSequence.from_dataset(make(OTHERS[other]), cache=tmp_path / "c")


def test_a_cache_is_used_where_its_source_is_gone(tmp_path):
    def gone():
        raise FileNotFoundError
        yield

    BucketedSequence.from_dataset(lambda: iter(ROWS), cache=tmp_path / "c")
    assert BucketedSequence.from_dataset(gone, cache=tmp_path / "c").num_sequences == 3


@pytest.mark.parametrize(("name", "value"), [("align_labels", False), ("label_padding_value", 7), ("mask_value", 3)])
def test_a_cache_with_other_options_is_refused_in_their_names(tmp_path, name, value):
    BucketedSequence.from_dataset(ROWS, cache=tmp_path / "c")
    with pytest.raises(ValueError, match=f"Expected {name} {value}, received"):
        BucketedSequence.from_dataset(ROWS, cache=tmp_path / "c", **{name: value})
    shutil.rmtree(tmp_path / "c")
