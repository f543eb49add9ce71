"""The store alone, with a few bytes in place of weights: every fault at every operation, damage of every file."""

import os
import random
import warnings
from pathlib import Path

import pytest
import tensorflow as tf

from keras_bucketing.callbacks.backup_store import RECORD_FILE, WEIGHTS_FILE, BackupStore
from tests.support import default_layer
from tests.support.directories import contents_of
from tests.support.faulty_files import REAL_FSYNC, FaultyFiles, Killed

STRANGERS = {
    "notes.txt": b"mine",
    "backup-00000001/notes.txt": b"mine too",
    "backup-1/sequence_backup.record": b"not that name",
    "backup-00000099/model.keras": b"in a directory that looks like one",
    "backup-00000007": b"a file",
}


def content_of(number: int) -> bytes:
    return bytes([number]) * 100


def save(store: BackupStore, number: int) -> None:
    def save_weights(path: str) -> None:
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(content_of(number))

    store.write(save_weights, {"number": number})


def restored(directory, files=None) -> int | None:
    """The number of the newest backup; checks that its weights belong to it."""
    backup = BackupStore(str(directory), files).newest()
    if backup is None:
        return None
    with tf.io.gfile.GFile(backup.weights, "rb") as file:
        assert file.read() == content_of(backup.state["number"])
    return backup.state["number"]


def run(directory, files, saved: list[int], delete: bool = True) -> None:
    """What a process does with the store, from its beginning to its end."""
    store = BackupStore(str(directory), files)
    store.prepare()
    store.newest()
    for number in range(len(saved), 3):
        save(store, number)
        saved.append(number)
    if delete:
        store.delete()


def operations_of_a_run(tmp_path: Path) -> int:
    files = FaultyFiles()
    run(tmp_path / "counted", files, [])
    return files.operations


KINDS = ["kill", "power loss", "full disk"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_operation_leaves_a_whole_backup_and_nothing_else(tmp_path: Path, kind: str):
    # In the default layer one of the three at each operation.
    first, step = (KINDS.index(kind), len(KINDS)) if default_layer.is_run else (0, 1)
    for fail_at in range(first, operations_of_a_run(tmp_path), step):
        directory = tmp_path / f"{kind}-{fail_at}"
        for name, content in STRANGERS.items():
            (directory / "backups" / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / "backups" / name).write_bytes(content)
        before = contents_of(directory)
        saved: list[int] = []
        files = FaultyFiles(fail_at, kind, seed=fail_at)
        try:
            run(directory / "backups", files, saved)
        except (Killed, OSError, ValueError):
            assert files.failed
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a fault is no damage
            number = restored(directory / "backups")
        if len(saved) < 3:
            assert number in {saved[-1] if saved else None, len(saved)}, "the newest finished backup, or the next"
        else:
            assert number in {1, 2, None}, "while they are deleted"
        again: list[int] = []
        run(directory / "backups", FaultyFiles(), again)
        assert {**contents_of(directory), "backups": None} == {**before, "backups": None}, "nothing of ours is left"


def test_two_backups_are_kept(tmp_path: Path):
    store = BackupStore(str(tmp_path))
    for number in range(5):
        save(store, number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup-00000003", "backup-00000004"]
    save(BackupStore(str(tmp_path)), 5)  # a process that has not looked at them
    assert restored(tmp_path) == 5


def damages(content: bytes, seed: int):
    """Everything that may become of a file: gone, cut, longer, one byte of it another."""
    yield None
    yield from (content[:size] for size in {0, 1, len(content) // 2, len(content) - 1})
    yield content + b"\0"
    drawn = random.Random(seed)
    for _ in range(200):
        at = drawn.randrange(len(content))
        yield content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]


@pytest.mark.parametrize("name", [WEIGHTS_FILE, RECORD_FILE])
def test_every_damage_of_every_file_is_noticed(tmp_path: Path, name: str):
    store = BackupStore(str(tmp_path))
    save(store, 0)
    save(store, 1)
    before, newest = (tmp_path / f"backup-0000000{number}" / name for number in (0, 1))
    whole_before, whole_newest = before.read_bytes(), newest.read_bytes()

    def become(path: Path, content: bytes | None) -> None:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)

    for damaged in damages(whole_newest, seed=1):
        become(newest, damaged)
        with pytest.warns(
            UserWarning, match=rf"The newest backup in `backup_dir` .* is damaged: .*{name}.* continues from"
        ):
            assert restored(tmp_path) == 0
        become(before, damages(whole_before, seed=2).__next__())
        with pytest.raises(
            ValueError, match=rf"is damaged, and there is no other: .*{name}.*or delete the directory to start"
        ):
            restored(tmp_path)
        become(before, whole_before)
        become(newest, whole_newest)
        assert restored(tmp_path) == 1


def test_a_damaged_backup_is_cleared_away_when_there_are_two_whole_ones(tmp_path: Path):
    store = BackupStore(str(tmp_path))
    save(store, 0)
    save(store, 1)
    (tmp_path / "backup-00000001" / RECORD_FILE).unlink()
    store = BackupStore(str(tmp_path))
    with pytest.warns(UserWarning, match="damaged"):
        assert store.newest().state == {"number": 0}
    save(store, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup-00000000", "backup-00000002"]


def test_a_backup_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("keras_bucketing.callbacks.backup_store._VERSION", 2)
        save(BackupStore(str(tmp_path)), 0)
    with pytest.raises(ValueError, match="is of version 2, expected 1"):
        restored(tmp_path)


def test_a_remote_directory_works_alike():
    directory = "ram://test_backup_store/run"
    store = BackupStore(directory)
    store.prepare()
    assert restored(directory) is None
    for number in range(3):
        save(store, number)
    assert restored(directory) == 2
    with tf.io.gfile.GFile(f"{directory}/backup-00000002/{WEIGHTS_FILE}", "wb") as file:
        file.write(b"damaged")
    with pytest.warns(UserWarning, match=r"has \d+ bytes, expected 100"):
        assert restored(directory) == 1
    with tf.io.gfile.GFile(f"{directory}/notes.txt", "w") as file:
        file.write("mine")
    store.delete()
    assert tf.io.gfile.listdir(directory) == ["notes.txt"]


def test_a_store_that_was_killed_between_copy_and_removal_of_an_object_is_whole(tmp_path: Path):
    save(BackupStore(str(tmp_path)), 0)
    record = tmp_path / "backup-00000000" / RECORD_FILE
    record.with_name(f"{RECORD_FILE}.unfinished").write_bytes(record.read_bytes())
    assert restored(tmp_path) == 0
    record.write_bytes(record.read_bytes()[:20])
    assert restored(tmp_path) is None


def test_every_file_is_flushed_whole_and_every_directory_that_got_a_name(tmp_path, monkeypatch):
    flushed = {}  # the size at the last flush, by inode

    def fsync(descriptor, original=REAL_FSYNC):
        original(descriptor)
        flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", fsync)
    store = BackupStore(str(tmp_path / "runs" / "first"))
    store.prepare()
    save(store, 1)
    made = [tmp_path, *tmp_path.rglob("*")]
    assert len([path for path in made if path.is_file()]) >= 2
    for path in made:
        assert path.stat().st_ino in flushed, path
        if path.is_file():
            assert flushed[path.stat().st_ino] == path.stat().st_size, path
