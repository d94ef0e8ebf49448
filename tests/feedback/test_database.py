"""Opening a store, and what the user is told when its place will not do."""

from __future__ import annotations

import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from plaudit import errors
from plaudit.errors import MissingExtra, StoreError
from plaudit.feedback import database as database_module
from plaudit.feedback.store import FeedbackStore

from .conftest import comparison


def said(caught: pytest.ExceptionInfo[StoreError]) -> str:
    """The message, which must be one sentence of one line: the command line prints it as it is."""
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def test_importing_the_store_imports_no_torch() -> None:
    code = "import sys, plaudit.feedback.store, plaudit.feedback.ingest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_store_is_found_again(location: str) -> None:
    record = comparison()
    with FeedbackStore.open(location) as store:
        store.add([record])
    with FeedbackStore.open(location, create=False) as store:
        assert list(store.records()) == [record]


def test_a_path_may_be_given_as_text_path_or_url_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "feed %20 ?x=1 #back.db"
    for location in (path, str(path)):
        with FeedbackStore.open(location) as store:
            assert store.location == str(path)
    with FeedbackStore.open(f"sqlite:///{tmp_path}/by-url.db"):
        assert (tmp_path / "by-url.db").is_file()


@pytest.mark.parametrize("name", ["sqlite:///:memory:", "sqlite://"])
def test_a_store_in_memory_would_not_last(name: str) -> None:
    with pytest.raises(StoreError, match=r"names no file; give the path of the store, such as feedback\.db"):
        FeedbackStore.open(name)


def test_a_missing_store_is_not_made_when_create_is_false(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with pytest.raises(StoreError) as caught:
        FeedbackStore.open(path, create=False)
    assert said(caught) == f"there is no feedback store at {path}; check the path, or open it with create=True"
    assert list(tmp_path.iterdir()) == []
    path.touch()
    with pytest.raises(StoreError, match="holds no feedback store; check the name, or open it with create=True"):
        FeedbackStore.open(path, create=False)
    assert path.stat().st_size == 0


def test_an_empty_postgresql_database_is_no_store_when_create_is_false(postgresql: str) -> None:
    with pytest.raises(StoreError, match="holds no feedback store; check the name"):
        FeedbackStore.open(postgresql, create=False)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        FeedbackStore.open(tmp_path)
    assert said(caught) == f"{tmp_path} is a folder; name a file in it, such as {tmp_path}/feedback.db"


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes. " * 100)
    with pytest.raises(StoreError) as caught:
        FeedbackStore.open(path)
    assert said(caught) == f"{path} is not a feedback store (not a SQLite database); name another file"
    assert path.read_text() == "These are my notes. " * 100


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "music.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE albums (name)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        FeedbackStore.open(path)
    assert said(caught) == (
        f"{path} is a SQLite database of something else (it has the table 'albums'); name another file"
    )
    assert path.read_bytes() == before


def test_a_store_of_a_newer_plaudit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    FeedbackStore.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError) as caught:
        FeedbackStore.open(path)
    assert said(caught) == (
        f"{path} was written by a newer plaudit (schema 99, this one reads 1); "
        f"upgrade with: pip install --upgrade plaudit"
    )


def test_a_damaged_store_says_how_to_rescue_it(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore.open(path) as store:
        store.add([comparison(number) for number in range(200)])
    data = bytearray(path.read_bytes())
    data[4096 * 3 :] = os.urandom(len(data) - 4096 * 3)
    path.write_bytes(data)
    damaged = rf"{path} is damaged; restore it from a backup, or rescue it with: sqlite3 {path} \.recover"
    with pytest.raises(StoreError, match=damaged), FeedbackStore.open(path) as store:
        list(store.records())


# --- places that cannot be written to ------------------------------------------------------------------------------


def test_a_place_where_no_file_can_be_made() -> None:
    with pytest.raises(StoreError, match=r"/proc/feedback\.db cannot be opened; give this user write access to"):
        FeedbackStore.open("/proc/feedback.db")
    with pytest.raises(StoreError, match=r"cannot make the folder /proc/new for the store: .*; name another"):
        FeedbackStore.open("/proc/new/feedback.db")


def _open_as_nobody(path: Path, answer: Any) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        FeedbackStore.open(path)
    except StoreError as error:
        answer.send(str(error))
    else:
        answer.send("opened")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without rights")
@pytest.mark.parametrize(("file_mode", "words"), [(0o444, "cannot be written to"), (0o000, "cannot be opened")])
def test_a_store_that_this_user_may_not_write(file_mode: int, words: str) -> None:
    # Not in tmp_path, whose parents only root may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feedback.db"
        FeedbackStore.open(path).close()
        path.chmod(file_mode)
        Path(folder).chmod(0o555)
        # A fork has this Python's modules already, which another user may not be allowed to read.
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=_open_as_nobody, args=(path, sender))
        process.start()
        assert receiver.poll(30)
        message = receiver.recv()
        process.join(30)
    assert message == f"{path} {words}; give this user write access to the file and to its folder"


# --- no space ------------------------------------------------------------------------------------------------------


def add_until_full(store: FeedbackStore) -> tuple[int, str]:
    """How many batches of 20 went in, and what was said then."""
    for batch in range(10_000):
        try:
            store.add([comparison(batch * 20 + number) for number in range(20)])
        except StoreError as error:
            return batch, str(error)
    raise AssertionError("the place was never full")


def test_a_full_database_keeps_what_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = (*database_module.SQLITE_SETTINGS, "PRAGMA max_page_count=60")
    monkeypatch.setattr(database_module, "SQLITE_SETTINGS", limited)
    path = tmp_path / "feedback.db"
    with FeedbackStore.open(path) as store:
        batches, message = add_until_full(store)
        assert message == (f"no space left for {path}, so what was under way is undone; free some space and try again")
        assert len(list(store.records())) == 20 * batches > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "plaudit-test", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_a_full_disk_keeps_what_was_acknowledged_and_the_store_works_once_there_is_space(small_disk: Path) -> None:
    path, ballast = small_disk / "feedback.db", small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    with FeedbackStore.open(path) as store:
        batches, message = add_until_full(store)
        assert message.startswith(f"no space left for {path}, so what was under way is undone")
        with pytest.raises(StoreError, match="No space left on device"):
            store.put_file(bytes(1_000_000), "image/png")
        assert len(store) == 20 * batches > 0
        ballast.unlink()
        store.add([comparison(-1)])
    with FeedbackStore.open(path) as store:
        assert len(list(store.records())) == 20 * batches + 1
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


# --- locks and connections -----------------------------------------------------------------------------------------


def test_a_writer_that_holds_on_is_an_error_after_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "WAIT_S", 0.2)
    path = tmp_path / "feedback.db"
    with FeedbackStore.open(path) as store:
        store.add([comparison(1)])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError) as caught:
            store.add([comparison(2)])
        assert said(caught) == f"another process has been writing to {path} for 0 s; wait for it to end and try again"
        assert len(list(store.records())) == 1, "a reader does not wait for a writer"
        other.execute("ROLLBACK")
        other.close()
        store.add([comparison(2)])


def test_a_postgresql_writer_that_holds_on_is_an_error_after_the_time_limit(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    settings = database_module.POSTGRESQL_SETTINGS.replace("30s", "200ms")
    monkeypatch.setattr(database_module, "POSTGRESQL_SETTINGS", settings)
    with FeedbackStore.open(postgresql) as store, psycopg.connect(postgresql) as other:
        other.execute("SELECT * FROM plaudit.meta FOR UPDATE")
        with pytest.raises(StoreError, match=r"another process has been writing to postgresql.* for 30 s; wait for it"):
            store.add([comparison(2)])
        assert len(store) == 0


def test_more_readers_than_connections_wait_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        pool: Any = store._database._engine.pool  # type: ignore[union-attr]
        monkeypatch.setattr(pool, "_timeout", 0.1)
        with ExitStack() as readers:
            for _ in range(pool.size() + pool._max_overflow):
                readers.enter_context(store._database.reading())
            with pytest.raises(StoreError, match=r"every connection to .* is in use; use fewer threads, or end idle"):
                len(store)
        assert len(store) == 0


def test_many_threads_open_a_new_store_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            FeedbackStore.open(tmp_path / "feedback.db").close()
        except BaseException as error:  # noqa: BLE001 - a thread has nobody else to tell
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


# --- PostgreSQL's own ----------------------------------------------------------------------------------------------


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'plaudit[postgres]'")):
        FeedbackStore.open("postgresql://localhost/feedback")


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError) as caught:
        FeedbackStore.open("postgres://me:hushhush@127.0.0.1:9/feedback")
    message = said(caught)
    assert message.startswith("cannot reach PostgreSQL at postgresql+psycopg://me:***@127.0.0.1:9/feedback (")
    assert message.endswith("check that the server runs and that the URL is right")
    assert "hushhush" not in message


def test_a_missing_postgresql_database_says_how_to_make_it(postgresql: str) -> None:
    url = make_url(postgresql).set(database="no_such_db").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match=r"no_such_db") as caught:
        FeedbackStore.open(url)
    assert "check" in said(caught)


def test_a_role_without_rights_is_told_to_ask_the_owner(postgresql: str) -> None:
    import psycopg

    url = make_url(postgresql)
    role = f"plaudit_reader_{os.getpid()}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        try:
            with pytest.raises(StoreError, match=r"lacks a right on that database \(.*\); have its owner grant it"):
                FeedbackStore.open(url.set(username=role, password="x").render_as_string(hide_password=False))
        finally:
            connection.execute(f"DROP ROLE {role}")


def test_the_same_url_forms_work(postgresql: str) -> None:
    for prefix in ("postgresql://", "postgresql+psycopg://", "postgres://"):
        with FeedbackStore.open(postgresql.replace("postgresql://", prefix)) as store:
            assert len(store) == 0


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (
            "mysql://localhost/x",
            "feedback is kept in SQLite (give a path) or PostgreSQL (postgresql://...), got a mysql URL",
        ),
        ("://", "expected the path of a feedback store or postgresql://USER:PASSWORD@HOST/DATABASE, got '://'"),
    ],
)
def test_other_urls_are_refused(location: str, words: str) -> None:
    with pytest.raises(StoreError, match=re.escape(words)):
        FeedbackStore.open(location)


def test_an_error_of_no_known_kind_is_told_all_the_same(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        connection = sqlite3.connect(tmp_path / "feedback.db")
        connection.execute("DROP TABLE forgotten")
        connection.close()
        with pytest.raises(StoreError, match=r"feedback.db failed: no such table: forgotten"):
            store.forgotten(["x"])
