"""The files that feedback is about, such as images and sounds, kept beside the store under the hash of their bytes."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from plaudit.errors import StoreError

_BLOCK_BYTES = 1 << 20
_INCOMING = ".incoming-"
_ABANDONED_AFTER_S = 3600.0


class FileFolder:
    """A folder of files named by the SHA-256 of their bytes: `ab/ab12...`. A file is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, data: str | Path | bytes) -> str:
        """Keep the bytes, or those of the file at a path, and return their SHA-256; they are on the disk by then."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return self._put(data)
        except OSError as error:
            place = data if not isinstance(data, bytes) else "the bytes"
            raise StoreError(
                f"cannot keep {place} in {self.path}: {error.strerror}; nothing was kept, mend that and try again"
            ) from error

    def open(self, sha256: str) -> BinaryIO:
        """The file with this hash, opened for reading, after its bytes were checked against the hash."""
        path = self._place(sha256)
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise StoreError(f"{self.path} holds no file with SHA-256 {sha256}; keep it there with put_file") from error
        try:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise StoreError(
                    f"{path} is damaged (its SHA-256 is {found}); keep the right bytes with put_file again"
                )
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def remove(self, sha256: str) -> None:
        """Remove a file; one that is not there is no error, for an interrupted removal is done again."""
        self._place(sha256).unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Remove what a killed process left half written an hour ago or earlier."""
        for path in self.path.glob(f"{_INCOMING}*"):
            # Its writer may have come to the end in this moment.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()

    def _put(self, data: str | Path | bytes) -> str:
        digest = hashlib.sha256()
        # Not a temporary file of Python's, which only its owner could read, unlike the database beside it.
        incoming = self.path / f"{_INCOMING}{secrets.token_hex(8)}"
        try:
            with incoming.open("xb") as file:
                for block in _blocks(data):
                    digest.update(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            target = self._place(digest.hexdigest())
            target.parent.mkdir(exist_ok=True)
            # Also where the file exists: this copy is known to be good.
            incoming.replace(target)
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        # The names last only once their folders are on the disk.
        for folder in (target.parent, self.path, self.path.parent):
            _sync_folder(folder)
        return digest.hexdigest()

    def _place(self, sha256: str) -> Path:
        if re.fullmatch("[0-9a-f]{64}", sha256) is None:
            raise StoreError(f"expected a SHA-256 of 64 hexadecimal digits, got {sha256!r}")
        return self.path / sha256[:2] / sha256


def _blocks(data: str | Path | bytes) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with Path(data).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
