"""Forgetting: gone from the store, gone from the disk, and still known to have been there."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import InvalidFeedback, StoreError
from plaudit.feedback import database as database_module
from plaudit.feedback import forgetting
from plaudit.feedback import records as fb
from plaudit.feedback import store as store_module
from plaudit.feedback.store import FeedbackStore, RefusedFeedback

from .conftest import comparison


def by(name: str, number: int = 0, **fields: Any) -> fb.Comparison:
    return comparison(number, source={"name": name}, **fields)


def edit(name: str, **fields: Any) -> fb.Edit:
    shape = {"context": {"content": "?"}, "outputs": ({"content": "!"},), "edited": "!!"}
    return fb.Edit(**({"source": {"name": name}} | shape | fields))


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_all_records_of_the_source_go_and_the_others_stay(store: FeedbackStore) -> None:
    shared = [by("mallory", 1), by("bob", 1)]
    own = [by("mallory", 2), by("bob", 3), edit("mallory")]
    store.add([*shared, *own])
    before = datetime.now(UTC)
    stone = store.forget("mallory", reason="asked to be forgotten")
    assert list(store.records(current=False)) == [shared[1], own[1]]
    assert stone.source_sha256 == hashlib.sha256(b"mallory").hexdigest()
    assert stone.by_kind == {"comparison": 2, "edit": 1}
    assert set(stone.record_ids) == {shared[0].id, own[0].id, own[2].id}
    assert stone.reason == "asked to be forgotten"
    assert before - timedelta(milliseconds=1) <= stone.time <= datetime.now(UTC)
    assert store.tombstones() == [stone]
    stats = store.stats()
    assert (stats.records, stats.contexts, stats.outputs, stats.forgotten) == (2, 2, 4, 3), "what bob uses too stays"
    assert [source.name for source in store.sources()] == ["bob"]


def test_the_runs_that_learned_from_forgotten_records_can_be_found(store: FeedbackStore) -> None:
    gone, kept = by("mallory"), by("bob")
    store.add([gone, kept])
    store.forget("mallory")
    assert store.forgotten([kept.id, gone.id, "never-seen"]) == {gone.id}
    assert store.forgotten(str(number) for number in range(5000)) == set()
    assert store.get(gone.id) is None


def test_chains_of_corrections_go_as_a_whole(store: FeedbackStore) -> None:
    first = by("mallory", choice="a")
    second = by("mallory", choice="b", supersedes=first.id)
    third = by("mallory", choice="tie", supersedes=first.id)
    bob = by("bob")
    bob_again = by("bob", choice="b", supersedes=bob.id)
    store.add([first, bob, second, bob_again, third])
    assert store.forget("mallory").by_kind == {"comparison": 3}
    assert list(store.records()) == [bob_again]
    assert store.stats().superseded == 1


def test_a_forgotten_source_is_refused_from_then_on(store: FeedbackStore) -> None:
    record = by("mallory")
    store.add([record])
    today = store.forget("mallory").time
    with pytest.raises(InvalidFeedback) as caught:
        store.add([by("mallory", 5)])
    assert str(caught.value) == (
        f"source 'mallory': this source was forgotten on {today:%Y-%m-%d}, so nothing of it is stored any more"
    )
    with pytest.raises(RefusedFeedback, match="this record was forgotten together with its source"):
        store.add([record.model_copy(update={"source": fb.Source(name="someone")})])
    assert len(store) == 0


def test_positions_go_on_after_the_newest_records_are_forgotten(store: FeedbackStore) -> None:
    store.add([by("bob"), by("mallory")])
    mark = store.position()
    store.forget("mallory")
    later = by("bob", 2)
    store.add([later])
    assert store.position() == mark + 1
    assert list(store.records(after=mark)) == [later]


def test_an_unknown_source_is_an_error(store: FeedbackStore) -> None:
    store.add([by("bob")])
    with pytest.raises(
        StoreError, match="holds nothing of a source 'mallory'; `plaudit feedback stats` lists the sources"
    ):
        store.forget("mallory")
    assert len(store) == 1


def test_forgetting_again_gives_the_same_tombstone(store: FeedbackStore) -> None:
    store.add([by("mallory")])
    assert store.forget("mallory") == store.forget("mallory", reason="again")


def test_tombstones_cannot_be_rewritten_nor_removed(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        store.add([by("mallory")])
        stones = [store.forget("mallory")]
        connection = sqlite3.connect(tmp_path / "feedback.db")
        for statement in (
            "DELETE FROM tombstones",
            "DELETE FROM forgotten",
            "UPDATE tombstones SET reason = 'x'",
            "UPDATE forgotten SET record = 'x'",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="is append-only"):
                connection.execute(statement)
        connection.close()
        assert store.tombstones() == stones


# --- off the disk --------------------------------------------------------------------------------------------------


def test_no_byte_of_it_stays_in_the_database_or_its_log(tmp_path: Path) -> None:
    # Texts of many lengths and names in random order, so that pages split and overflow and rows move between them.
    generator = random.Random(0)
    with FeedbackStore.open(tmp_path / "feedback.db") as store, FeedbackStore.open(tmp_path / "feedback.db") as other:
        for _ in range(25):
            batch = []
            for _ in range(60):
                secret = generator.random() < 0.3
                word = "hushhush" if secret else "in-public"
                fields = {
                    "source": {"name": "mallory-the-secret" if secret else "bob"},
                    "context": {"content": f"{generator.random()} {word} {'x' * generator.randint(0, 2000)}"},
                    "outputs": ({"content": f"{generator.random()} {word} {'y' * generator.randint(0, 5000)}"},),
                    "client_id": f"{generator.random()}-{word}",
                }
                batch.append(fb.Critique(**fields, critique=f"{word} " * generator.randint(1, 40)))
            store.add(batch)
        assert b"hushhush" in bytes_on_disk(tmp_path)
        kept = [record for record in other.records() if record.source.name == "bob"]
        store.forget("mallory-the-secret")
        left = bytes_on_disk(tmp_path)
        assert b"hushhush" not in left
        assert b"mallory-the-secret" not in left
        assert b"in-public" in left, "the search looks at the right files"
        assert list(other.records()) == kept, "a store that was open all the time sees the same"


def test_no_copy_stays_that_was_left_when_rows_moved_between_pages(tmp_path: Path) -> None:
    # Keys of many lengths from many sources in random order: pages split, and what moves to another page leaves a copy on
    # the first. SQLite's secure_delete alone does not clear it away: with it, some of these names stay in the file.
    generator = random.Random(0)
    names = [f"{generator.getrandbits(32):08x}-person" for _ in range(50)]
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        for _ in range(60):
            store.add(
                by(
                    name,
                    generator.getrandbits(30),
                    client_id=f"{name}-{generator.random()}{'z' * generator.randint(0, 200)}",
                    context={"content": name},
                )
                for name in generator.sample(names, len(names))
            )
        for name in names[:8]:
            store.forget(name)
    left = bytes_on_disk(tmp_path)
    assert [left.count(name.encode()) for name in names[:8]] == [0] * 8
    assert left.count(names[8].encode()) > 60


def test_a_page_that_is_being_read_stays_whole_while_its_source_is_forgotten(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAIT_S", 0.2)
    settings = database_module.POSTGRESQL_SETTINGS.replace("30s", "200ms")
    monkeypatch.setattr(database_module, "POSTGRESQL_SETTINGS", settings)
    read_outputs = store_module._outputs
    with FeedbackStore.open(location) as store, FeedbackStore.open(location) as other:
        store.add([by("mallory", 1), by("bob", 2)])

        def forget_in_between(*arguments: Any) -> Any:
            monkeypatch.setattr(store_module, "_outputs", read_outputs)
            # The reader keeps the bytes from being taken off the disk, which forgetting says.
            with pytest.raises(StoreError):
                other.forget("mallory")
            return read_outputs(*arguments)

        monkeypatch.setattr(store_module, "_outputs", forget_in_between)
        assert [record.source.name for record in store.records()] == ["mallory", "bob"]
        assert [record.source.name for record in store.records()] == ["bob"]


def test_a_reader_that_holds_on_is_named_and_forgetting_again_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAIT_S", 0.2)
    path = tmp_path / "feedback.db"
    with FeedbackStore.open(path) as store:
        store.add([by("mallory", context={"content": "hushhush"}), by("bob", 1)])
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        with pytest.raises(
            StoreError, match=r"another process is reading it, .*; end the reader and forget the source"
        ):
            store.forget("mallory")
        assert len(store) == 1
        reader.close()
        stone = store.forget("mallory")
        assert stone.by_kind == {"comparison": 1}
        assert b"hushhush" not in bytes_on_disk(tmp_path)


def test_a_forgetting_that_was_killed_half_way_is_finished_by_doing_it_again(
    store: FeedbackStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = store.put_file(b"hushhush", "image/png")
    store.add([by("mallory", context={"content": picture})])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "_remove_files", killed)
        with pytest.raises(KeyboardInterrupt):
            store.forget("mallory")
    assert b"hushhush" in bytes_on_disk(tmp_path / "files")
    store.forget("mallory")
    assert b"hushhush" not in bytes_on_disk(tmp_path / "files")


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_that_nobody_else_names_are_removed(store: FeedbackStore) -> None:
    names = ("context", "output", "edited", "shared-context", "shared-output", "of-bob", "not-yet-named")
    files = {name: store.put_file(name.encode(), "image/png") for name in names}
    bob_output = ({"content": files["of-bob"]}, {"content": files["shared-output"]})
    store.add(
        [
            by("mallory", context={"content": files["context"]}),
            by("mallory", outputs=({"content": files["output"]}, {"content": files["shared-output"]})),
            edit("mallory", edited=files["edited"]),
            by("mallory", context={"content": files["shared-context"]}),
            by("bob", context={"content": files["shared-context"]}, outputs=bob_output),
        ]
    )
    store.forget("mallory")
    for name in ("context", "output", "edited"):
        with pytest.raises(StoreError, match="holds no file with SHA-256"):
            store.open_file(files[name].sha256)
    for name in ("shared-context", "shared-output", "of-bob", "not-yet-named"):
        with store.open_file(files[name].sha256) as file:
            assert file.read() == name.encode()


def test_a_file_that_another_source_edited_into_being_stays(store: FeedbackStore) -> None:
    picture = store.put_file(b"both", "image/png")
    store.add([edit("mallory", edited=picture), edit("bob", edited=picture)])
    store.forget("mallory")
    store.open_file(picture.sha256).close()
    store.forget("bob")
    with pytest.raises(StoreError, match="holds no file"):
        store.open_file(picture.sha256)


def test_a_store_without_its_folder_says_that_files_are_left(postgresql: str, tmp_path: Path) -> None:
    with FeedbackStore.open(postgresql, files=tmp_path / "files") as store:
        picture = store.put_file(b"hushhush", "image/png")
        store.add([by("mallory", context={"content": picture})])
    with (
        FeedbackStore.open(postgresql) as store,
        pytest.raises(StoreError, match="open it with files=FOLDER, and forget"),
    ):
        store.forget("mallory")
    with FeedbackStore.open(postgresql, files=tmp_path / "files") as store:
        store.forget("mallory")
    assert bytes_on_disk(tmp_path / "files") == b""


def test_writers_go_on_while_a_source_is_forgotten(store: FeedbackStore) -> None:
    store.add([by("mallory", number) for number in range(300)])
    stop, failures = threading.Event(), []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                store.add([by("bob", number, client_id=str(number))])
            except StoreError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.1)
    store.forget("mallory")
    time.sleep(0.1)
    stop.set()
    thread.join(60)
    assert failures == []
    assert {record.source.name for record in store.records()} == {"bob"}
