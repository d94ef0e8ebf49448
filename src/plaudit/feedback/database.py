"""The database under a feedback store: opening it, its transactions, and its errors in words.

SQLite and PostgreSQL behave alike here. One writer works at a time, and an acknowledged transaction is on the disk; a
reader sees one state from the first query of its transaction to the last and never waits for a writer.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from plaudit.errors import StoreError, require
from plaudit.feedback import schema

WAIT_S = 30.0
_SCHEMA = "plaudit"
# A write-ahead log of 32 MiB and a cache as large: in a large store a batch of records touches thousands of pages.
SQLITE_SETTINGS = (
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA wal_autocheckpoint=8192",
    "PRAGMA cache_size=-32768",
)
POSTGRESQL_SETTINGS = f"-c search_path={_SCHEMA} -c lock_timeout={WAIT_S:.0f}s -c synchronous_commit=on"


def sqlite_path(location: str | Path) -> Path | None:
    """The file that a location names, or None where it is the URL of a server."""
    if isinstance(location, Path) or "://" not in location:
        return Path(location).expanduser().absolute()
    url = _parse(location)
    if url.get_backend_name() != "sqlite":
        return None
    if url.database in (None, "", ":memory:"):
        raise StoreError(f"{location} names no file; give the path of the store, such as feedback.db")
    return Path(str(url.database)).expanduser().absolute()


class Database:
    """A connection pool on one store, with the three ways to use it: `reading`, `writing` and `maintaining`."""

    def __init__(self, location: str | Path, *, create: bool) -> None:
        self.path = sqlite_path(location)
        if self.path is not None:
            _check_place(self.path, create=create)
            self.location = str(self.path)
            self._engine: Engine | None = _sqlite_engine(self.path)
        else:
            url = _postgresql_url(str(location))
            self.location = url.render_as_string(hide_password=True)
            self._engine = _postgresql_engine(url)
        self._pid = os.getpid()
        self._inherited: list[Any] = []
        try:
            self._prepare(create=create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection; closing twice is harmless."""
        if self._engine is not None:
            self._engine.dispose(close=self._pid == os.getpid())
            self._engine = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the store and holds no lock that a writer waits for."""
        with self._transaction("read") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[tuple[Connection, dict[str, int]]]:
        """The one writing transaction at a time, with the numbers given last; committed on leaving, or undone."""
        with self._transaction("write") as connection:
            yield connection, {row[0]: row[1] for row in connection.execute(_COUNTERS)}

    def scrub(self) -> None:
        """Rewrite the database so that no byte of what was deleted stays in its files.

        `secure_delete` zeroes what is deleted, but not the copies that a page keeps of rows which moved to another
        page. A PostgreSQL server's own log, its replicas and its backups are out of reach.
        """
        with self._transaction("maintain") as connection:
            if self.path is None:
                for table in reversed(schema.METADATA.sorted_tables):
                    connection.exec_driver_sql(f"VACUUM FULL {table.name}")
                return
            connection.exec_driver_sql("VACUUM")
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar_one()
            if busy:
                raise StoreError(
                    f"{self.location} has forgotten the records, but another process is reading it, so their bytes are "
                    f"still in {self.path}-wal; end the reader and forget the source once more"
                )

    @contextmanager
    def _transaction(self, access: str) -> Iterator[Connection]:
        if self._engine is None:
            raise StoreError(f"the feedback store {self.location} is closed; open it again")
        if self._pid != os.getpid():
            # A connection must not be used, nor closed, on both sides of a fork.
            self._inherited.append(self._engine.pool)
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        with _in_words(self.location), self._engine.connect() as connection:
            connection.execution_options(access=access)
            if access == "maintain" and self.path is None:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            with connection.begin():
                yield connection

    def _prepare(self, *, create: bool) -> None:
        with self.reading() as connection:
            exists = self._has_tables(connection)
        if not exists and not create:
            raise StoreError(f"{self.location} holds no feedback store; check the name, or open it with create=True")
        if self.path is not None:
            self._switch_to_wal()
        if not exists:
            with self._transaction("create") as connection:
                # Another process may have come first.
                if not self._has_tables(connection):
                    if self.path is None:
                        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
                    schema.create(connection)
        with self.reading() as connection:
            query = select(schema.META.c.value).where(schema.META.c.key == "schema_version")
            version = connection.execute(query).scalar_one()
        if version > schema.VERSION:
            raise StoreError(
                f"{self.location} was written by a newer plaudit (schema {version}, this one reads {schema.VERSION}); "
                f"upgrade with: pip install --upgrade plaudit"
            )

    def _switch_to_wal(self) -> None:
        # SQLite does not wait when several processes make this switch at once, as they do on a new store: we wait.
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._transaction("maintain") as connection:
                try:
                    mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar_one()
                    break
                except DBAPIError as error:
                    if _sqlite_code(error.orig) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise
            time.sleep(0.01)
        if mode != "wal":
            raise StoreError(
                f"{self.location} lies where SQLite cannot keep a write-ahead log (its mode is {mode!r}); "
                f"put the store on a local disk"
            )

    def _has_tables(self, connection: Connection) -> bool:
        if self.path is None:
            # Not to_regclass: it looks into a cache, which still says no when another process has just made the store.
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'plaudit' AND tablename = 'meta'"
            return bool(connection.exec_driver_sql(tables).scalar_one())
        names = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
        if names and not {"meta", "records"} <= names:
            raise StoreError(
                f"{self.location} is a SQLite database of something else (it has the table {min(names)!r}); "
                f"name another file"
            )
        return bool(names)


_COUNTERS = select(schema.META.c.key, schema.META.c.value).order_by(schema.META.c.key).with_for_update()


def _parse(location: str) -> URL:
    try:
        return make_url(location)
    except ArgumentError as error:
        raise StoreError(
            f"expected the path of a feedback store or postgresql://USER:PASSWORD@HOST/DATABASE, got {location!r}"
        ) from error


def _check_place(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise StoreError(f"{path} is a folder; name a file in it, such as {path / 'feedback.db'}")
    if path.exists():
        return
    if not create:
        raise StoreError(f"there is no feedback store at {path}; check the path, or open it with create=True")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {path.parent} for the store: {error.strerror}; name another"
        ) from error


def _sqlite_engine(path: Path) -> Engine:
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, connect_args={"timeout": WAIT_S})

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: Any) -> None:
        # Python's driver would open transactions by itself, and only before some statements.
        connection.isolation_level = None
        for setting in SQLITE_SETTINGS:
            connection.execute(setting)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        match connection.get_execution_options()["access"]:
            case "read":
                connection.exec_driver_sql("BEGIN")
            case "write" | "create":
                # A transaction that reads first and writes later would fail, not wait, when another came in between.
                connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql_url(location: str) -> URL:
    if location.startswith("postgres://"):
        location = location.replace("postgres://", "postgresql://", 1)
    url = _parse(location)
    if url.get_backend_name() != "postgresql":
        raise StoreError(
            f"feedback is kept in SQLite (give a path) or PostgreSQL (postgresql://...), got a {url.drivername} URL"
        )
    return url.set(drivername="postgresql+psycopg")


def _postgresql_engine(url: URL) -> Engine:
    require("psycopg", extra="postgres")
    arguments = {"options": POSTGRESQL_SETTINGS, "connect_timeout": int(WAIT_S)}
    # Values by position, as in SQLite: rows are inserted as tuples.
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True, paramstyle="format")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        match connection.get_execution_options().get("access"):
            case "read":
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            case "create":
                # There is no row to lock yet; the number is the ASCII of "plaudit".
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({int.from_bytes(b'plaudit')})")

    return engine


def _sqlite_code(error: BaseException | None) -> int:
    """SQLite's primary result code; 0 where there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


_SQLITE_WORDS = {
    sqlite3.SQLITE_NOTADB: "{0} is not a feedback store (not a SQLite database); name another file",
    sqlite3.SQLITE_FULL: "no space left for {0}, so what was under way is undone; free some space and try again",
    sqlite3.SQLITE_BUSY: "another process has been writing to {0} for {1:.0f} s; wait for it to end and try again",
    sqlite3.SQLITE_READONLY: "{0} cannot be written to; give this user write access to the file and to its folder",
    sqlite3.SQLITE_CANTOPEN: "{0} cannot be opened; give this user write access to the file and to its folder",
    sqlite3.SQLITE_CORRUPT: "{0} is damaged; restore it from a backup, or rescue it with: sqlite3 {0} .recover",
}
# By the first characters of PostgreSQL's five-character error code.
_POSTGRESQL_WORDS = {
    "53100": "no space left on the server of {0}, so what was under way is undone; free some space and try again",
    "55P03": "another process has been writing to {0} for {1:.0f} s; wait for it to end and try again",
    "42501": "the user of {0} lacks a right on that database ({2}); have its owner grant it",
    "28": "PostgreSQL refused the user or password of {0}; check the URL",
    "3D": "PostgreSQL has no such database: {0}; create it with createdb, or check the URL",
}


@contextmanager
def _in_words(location: str) -> Iterator[None]:
    """Turn what a database driver raises into one sentence with the place and the way out."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        driver_error = error.orig if isinstance(error, DBAPIError) else error
        raise StoreError(_explained(location, driver_error)) from error
    except PoolTimeoutError as error:
        raise StoreError(f"every connection to {location} is in use; use fewer threads, or end idle readers") from error


def _explained(location: str, error: BaseException | None) -> str:
    reason = " ".join(str(error).split())
    words = _SQLITE_WORDS.get(_sqlite_code(error))
    state = getattr(error, "sqlstate", None) or ""
    for prefix, found in _POSTGRESQL_WORDS.items():
        if state.startswith(prefix):
            words = found
    if words is not None:
        return words.format(location, WAIT_S, reason)
    if type(error).__name__ == "OperationalError" and not state and not isinstance(error, sqlite3.Error):
        return f"cannot reach PostgreSQL at {location} ({reason}); check that the server runs and that the URL is right"
    return f"the feedback store {location} failed: {reason}"
