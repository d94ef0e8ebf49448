"""Reference log-probabilities that outlive a run: one SQLite file, addressed by weights, settings and tokens.

Losing the file loses nothing but time. So whatever is wrong with it is said in one sentence, and work goes on without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plaudit import __version__
from plaudit.policies.scoring import causal_lm_of
from plaudit.progress import console

MOST_BYTES = 2 * 10**9
WAIT_S = 30.0
_AT_ONCE = 500  # keys in one query
_ROW_BYTES = 64  # of a row beside its values: keys in the table and in both indices
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# what a model is called and was saved by changes no value
_NAMES_ONLY = {"_name_or_path", "transformers_version", "use_cache", "dtype", "architectures"}
_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS log_probs "
        "(key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL, used REAL NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS by_use ON log_probs (used)",
)


def cache_folder() -> Path:
    """Where what can be computed again is kept: the folder that $PLAUDIT_CACHE names, else ~/.cache/plaudit."""
    return Path(os.environ.get("PLAUDIT_CACHE") or "~/.cache/plaudit").expanduser()


def default_path() -> Path:
    """``reference.db`` in the cache's folder."""
    return cache_folder() / "reference.db"


class ReferenceCache:
    """Token log-probabilities by key, shared by all runs of a user. Several processes may read and write at once.

    Args:
        path: the file; it and its folder are made at the first use.
        most_bytes: above this size, what was used longest ago is removed.
        wait_s: how long to wait for another process that writes.
    """

    def __init__(self, path: Path | None = None, *, most_bytes: int = MOST_BYTES, wait_s: float = WAIT_S) -> None:
        self.path = default_path() if path is None else path
        self._most_bytes = most_bytes
        self._wait_s = wait_s
        self._usable = True

    def get(self, keys: Rows[bytes]) -> dict[bytes, Tensor]:
        """What is there of these keys, float32; a value that is not what was written counts as not there."""
        found: dict[bytes, Tensor] = {}

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), _AT_ONCE):
                portion = keys[start : start + _AT_ONCE]
                where = f"WHERE key IN ({','.join('?' * len(portion))})"
                database.execute(f"UPDATE log_probs SET used = ? {where}", (time.time(), *portion))  # noqa: S608 - only ?
                rows = database.execute(f"SELECT key, value, checksum FROM log_probs {where}", portion)  # noqa: S608
                for key, value, checksum in rows:
                    if zlib.crc32(key + value) == checksum:
                        found[key] = torch.from_numpy(np.frombuffer(value, dtype="<f4").astype(np.float32))

        self._transact(read)
        return found

    def put(self, values: Mapping[bytes, Tensor]) -> None:
        """Keep these values, all in one transaction, and remove the least recently used beyond the size allowed."""
        now = time.time()
        blobs = {key: value.detach().cpu().numpy().astype("<f4").tobytes() for key, value in values.items()}
        rows = [(key, blob, zlib.crc32(key + blob), now) for key, blob in blobs.items()]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO log_probs VALUES (?, ?, ?, ?)", rows)
            self._remove_oldest(database)

        self._transact(write)

    def _remove_oldest(self, database: sqlite3.Connection) -> None:
        """Make room down to nine tenths of the size allowed, so that not every write has to."""
        pages, free, page_bytes = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        used_bytes = (pages - free) * page_bytes
        if used_bytes <= self._most_bytes:
            return
        database.execute(
            "DELETE FROM log_probs WHERE key IN (SELECT key FROM (SELECT key, "
            "SUM(LENGTH(value) + ?) OVER (ORDER BY used, key ROWS UNBOUNDED PRECEDING) AS until FROM log_probs) "
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
            f"[yellow]The cache of reference log-probabilities was damaged: it lies in {aside} now, and a new one is "
            "begun.[/yellow]"
        )

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        console.print(
            f"[yellow]Going on without the cache of reference log-probabilities in {self.path}: {error}. Set PLAUDIT_CACHE "
            "to a folder that can be written.[/yellow]"
        )


def _code(error: OSError | sqlite3.Error) -> int:
    """SQLite's primary result code; other errors have none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def reference_fingerprint(model: Any, *, settings: Mapping[str, Any]) -> bytes:
    """The address of a model's function: its weights below any adapters, its configuration, and how it is computed.

    Reads every weight once: 0.6 s for each GB on one core, so 0.3 s for 135 million weights in float32.

    Args:
        model: a transformers model, under adapters or not.
        settings: what else changes values: the type of matrix products, the device, packing.
    """
    causal_lm = causal_lm_of(model)
    config = {name: value for name, value in causal_lm.config.to_dict().items() if name not in _NAMES_ONLY}
    versions = {"plaudit": __version__, "torch": torch.__version__}
    digest = hashlib.sha256(json.dumps([config, dict(settings), versions], sort_keys=True, default=str).encode())
    for name, weight in (*causal_lm.named_parameters(), *causal_lm.named_buffers()):
        if "lora_" not in name:
            digest.update(f"{name.replace('.base_layer.', '.')} {weight.dtype} {tuple(weight.shape)} ".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()


def cache_key(fingerprint: bytes, sequence_key: str) -> bytes:
    """The address of one sequence's values under one model."""
    return hashlib.sha256(fingerprint + sequence_key.encode()).digest()[:20]
