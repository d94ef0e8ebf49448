"""What can be computed or asked for again, kept in one SQLite file by key.

Losing the file loses nothing but time or money. So whatever is wrong with it is said in one sentence, and work goes on
without it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from pathlib import Path

from plaudit.progress import console

MOST_BYTES = 2 * 10**9
WAIT_S = 30.0
_AT_ONCE = 500  # keys in one query
_ROW_BYTES = 64  # of a row beside its values: keys in the table and in both indices
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS kept "
        "(key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL, used REAL NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS by_use ON kept (used)",
)


def cache_folder() -> Path:
    """Where what can be computed again is kept: the folder that $PLAUDIT_CACHE names, else ~/.cache/plaudit."""
    return Path(os.environ.get("PLAUDIT_CACHE") or "~/.cache/plaudit").expanduser()


class DiskCache:
    """Bytes by key, shared by all runs of a user. Several processes may read and write at once.

    Args:
        path: the file; it and its folder are made at the first use.
        what: what it holds, as messages call it: "reference log-probabilities".
        most_bytes: above this size, what was used longest ago is removed.
        wait_s: how long to wait for another process that writes.
    """

    def __init__(self, path: Path, what: str, *, most_bytes: int = MOST_BYTES, wait_s: float = WAIT_S) -> None:
        self.path, self._what = path, what
        self._most_bytes = most_bytes
        self._wait_s = wait_s
        self._usable = True

    def read(self, keys: Rows[bytes]) -> dict[bytes, bytes]:
        """What is there of these keys; a value that is not what was written counts as not there."""
        found: dict[bytes, bytes] = {}

        def select(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), _AT_ONCE):
                portion = keys[start : start + _AT_ONCE]
                where = f"WHERE key IN ({','.join('?' * len(portion))})"
                database.execute(f"UPDATE kept SET used = ? {where}", (time.time(), *portion))  # noqa: S608 - only ?
                rows = database.execute(f"SELECT key, value, checksum FROM kept {where}", portion)  # noqa: S608
                found.update({key: value for key, value, checksum in rows if zlib.crc32(key + value) == checksum})

        self._transact(select)
        return found

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Keep these values, all in one transaction, and remove the least recently used beyond the size allowed."""
        now = time.time()
        rows = [(key, value, zlib.crc32(key + value), now) for key, value in values.items()]

        def insert(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", rows)
            self._remove_oldest(database)

        self._transact(insert)

    def _remove_oldest(self, database: sqlite3.Connection) -> None:
        """Make room down to nine tenths of the size allowed, so that not every write has to."""
        pages, free, page_bytes = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        used_bytes = (pages - free) * page_bytes
        if used_bytes <= self._most_bytes:
            return
        database.execute(
            "DELETE FROM kept WHERE key IN (SELECT key FROM (SELECT key, "
            "SUM(LENGTH(value) + ?) OVER (ORDER BY used, key ROWS UNBOUNDED PRECEDING) AS until FROM kept) "
            "WHERE until - ? < ?)",
            (_ROW_BYTES, _ROW_BYTES, used_bytes - 0.9 * self._most_bytes),
        )

    def _transact(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do this in one transaction; whatever is wrong with the file is said here and ends here."""
        if not self._usable:
            return
        try:
            with contextlib.closing(self._connect()) as database, database:
                database.execute("BEGIN IMMEDIATE")
                work(database)
        except (OSError, sqlite3.Error) as error:
            if _code(error) in _DAMAGED:
                self._set_aside()
            else:
                self._give_up(error)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=self._wait_s)
        try:
            self._switch_to_wal(database)
            database.execute("PRAGMA synchronous=NORMAL")
            for statement in _SCHEMA:
                database.execute(statement)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _switch_to_wal(self, database: sqlite3.Connection) -> None:
        """SQLite does not wait when several processes make this switch at once, as they do on a new file: we wait."""
        deadline = time.monotonic() + self._wait_s
        while True:
            try:
                database.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.Error as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _set_aside(self) -> None:
        """Rename the file and begin a new one at the next use."""
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            self.path.replace(aside)
            for rest in ("-wal", "-shm"):
                self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
        except FileNotFoundError:
            return  # another process was first
        except OSError as error:
            self._give_up(error)
            return
        console.print(
            f"[yellow]The cache of {self._what} was damaged: it lies in {aside} now, and a new one is begun.[/yellow]"
        )

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        console.print(
            f"[yellow]Going on without the cache of {self._what} in {self.path}: {error}. Set PLAUDIT_CACHE "
            "to a folder that can be written.[/yellow]"
        )


def _code(error: OSError | sqlite3.Error) -> int:
    """SQLite's primary result code; other errors have none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
