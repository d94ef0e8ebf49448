"""Files beside the store: whole or not there, and never other bytes than the hash says."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from plaudit.errors import StoreError
from plaudit.feedback.files import FileFolder
from plaudit.feedback.store import FeedbackStore


@pytest.fixture
def folder(tmp_path: Path) -> FileFolder:
    return FileFolder(tmp_path / "files")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 3_000_000])
def test_bytes_come_back(folder: FileFolder, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "picture").write_bytes(data)
    for given in (data, tmp_path / "picture", str(tmp_path / "picture")):
        sha256 = folder.put(given)
        assert sha256 == hashlib.sha256(data).hexdigest()
        with folder.open(sha256) as file:
            assert file.read() == data
    assert [path.name for path in folder.path.rglob("*") if path.is_file()] == [sha256]
    assert (folder.path / sha256[:2] / sha256).is_file()


def test_a_store_keeps_files_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"meow")
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        named = store.put_file(tmp_path / "cat.png", "image/png")
        assert (named.name, named.media_type) == ("cat.png", "image/png")
        assert store.put_file(b"meow", "image/png") == named.model_copy(update={"name": None})
        with store.open_file(named.sha256) as file:
            assert file.read() == b"meow"
    assert (tmp_path / "feedback.db.files" / named.sha256[:2] / named.sha256).is_file()


def test_a_wrong_media_type_keeps_nothing(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "feedback.db") as store, pytest.raises(ValueError, match="media_type"):
        store.put_file(b"meow", "picture")
    assert not (tmp_path / "feedback.db.files").exists()


def test_a_server_needs_a_folder(postgresql: str, tmp_path: Path) -> None:
    with (
        FeedbackStore.open(postgresql) as store,
        pytest.raises(StoreError, match="has no folder for files; open it with"),
    ):
        store.put_file(b"meow", "image/png")
    with FeedbackStore.open(postgresql, files=tmp_path / "f") as store:
        store.open_file(store.put_file(b"meow", "image/png").sha256).close()


def test_damaged_bytes_are_not_handed_out_and_can_be_mended(folder: FileFolder) -> None:
    sha256 = folder.put(b"meow")
    path = folder.path / sha256[:2] / sha256
    path.write_bytes(b"woof")
    with pytest.raises(
        StoreError, match=rf"{path} is damaged \(its SHA-256 is .*\); keep the right bytes with put_file"
    ):
        folder.open(sha256)
    folder.put(b"meow")
    folder.open(sha256).close()


def test_a_missing_file_says_so(folder: FileFolder) -> None:
    with pytest.raises(StoreError, match=f"holds no file with SHA-256 {'0' * 64}; keep it there with put_file"):
        folder.open("0" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", ""])
def test_only_a_hash_names_a_file(folder: FileFolder, name: str) -> None:
    with pytest.raises(StoreError, match="expected a SHA-256 of 64 hexadecimal digits"):
        folder.open(name)
    with pytest.raises(StoreError, match="expected a SHA-256"):
        folder.remove(name)


def test_what_cannot_be_read_or_written_leaves_nothing_behind(folder: FileFolder, tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=rf"cannot keep {tmp_path}/missing in .*: No such file or directory; nothing was"
    ):
        folder.put(tmp_path / "missing")
    assert list(folder.path.iterdir()) == []
    with pytest.raises(StoreError, match="cannot keep the bytes in /proc/files: No such file or directory"):
        FileFolder(Path("/proc/files")).put(b"meow")


def test_the_bytes_are_on_the_disk_before_the_name_is(folder: FileFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    sha256 = folder.put(b"meow")
    assert synced[0].startswith(".incoming-")
    assert synced[1:] == [sha256[:2], folder.path.name, folder.path.parent.name]


def test_what_a_killed_writer_left_is_removed_after_an_hour(folder: FileFolder) -> None:
    kept = folder.put(b"meow")
    old, young = folder.path / ".incoming-old", folder.path / ".incoming-young"
    old.touch()
    young.touch()
    os.utime(old, (0, time.time() - 3700))
    folder.remove_abandoned()
    assert not old.exists()
    assert young.exists()
    folder.open(kept).close()
