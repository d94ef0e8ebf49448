"""Ingestion: what an importer parses goes into the store in batches; what cannot go in is written down with its line.

An ingestion that was interrupted is simply run again: the importers give every record a client id, so what is stored
already is recognised and counted as a duplicate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self, TextIO

from plaudit.errors import ConfigError, StoreError
from plaudit.feedback.records import Feedback
from plaudit.feedback.store import FeedbackStore, RefusedFeedback

_OTHER = "other reasons"
_MAX_REASONS = 100


@dataclass(frozen=True)
class Parsed:
    """A valid record, and the line of the file that it came from, counted from 1."""

    line: int
    record: Feedback


@dataclass(frozen=True)
class Reject:
    """A line that is no valid record: the field at fault, its value, the reason, and the line where it is kept."""

    line: int
    field: str
    value: str
    reason: str
    raw: str | None = None


@dataclass(frozen=True)
class IngestReport:
    """What became of a file. `by_reason` counts rejects; the rarest reasons beyond a hundred are counted together."""

    added: int = 0
    duplicates: int = 0
    rejected: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    rejects: Path | None = None
    seconds: float = 0.0

    @property
    def read(self) -> int:
        """How many records and rejects there were."""
        return self.added + self.duplicates + self.rejected


def ingest(
    store: FeedbackStore,
    parsed: Iterable[Parsed | Reject],
    *,
    batch_size: int = 2000,
    rejects: str | Path | None = None,
    progress: Callable[[IngestReport], None] | None = None,
) -> IngestReport:
    """Store what an importer parses, as it parses it, in memory for one batch.

    Args:
        store: where the records go.
        parsed: the importer's stream of records and rejects.
        batch_size: how many lines one transaction stores; more is faster, and keeps other writers waiting longer.
        rejects: the file that rejects are written to, one JSON object a line, with the line's number, the field, its
            value and the reason; what an earlier run left there is replaced. Without rejects it is not touched.
        progress: called after each batch with the report so far.

    Raises:
        ConfigError: `batch_size` is below 1.
        StoreError: the store cannot take a batch, or the rejects cannot be written. All batches before it are stored.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, got {batch_size}")
    path = None if rejects is None else Path(rejects)
    with _RejectsFile(path) as rejects_file:
        run = _Run(store, rejects_file)
        for batch in _batches(parsed, batch_size, run.reject):
            run.add(batch)
            if progress is not None:
                progress(run.report())
        return run.report()


class _RejectsFile:
    """A file of rejects that comes into being with the first of them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with self._explained():
                self._file.close()

    @property
    def written(self) -> Path | None:
        """The file's path once something is in it."""
        return None if self._file is None else self._path

    def write(self, reject: Reject) -> None:
        if self._path is None:
            return
        row = asdict(reject)
        if reject.raw is None:
            del row["raw"]
        with self._explained():
            if self._file is None:
                self._file = self._path.open("w", encoding="utf-8")
            # ASCII only, so that half a character in a broken line cannot break the file that reports it.
            self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Bring what was written into the file, for whoever reads it now."""
        with self._explained():
            if self._file is not None:
                self._file.flush()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot write the rejects to {self._path}: {error.strerror}"
            raise StoreError(f"{reason}; mend that or name another file, and run it again") from error


class _Run:
    """One ingestion: the counts so far, and where rejects go."""

    def __init__(self, store: FeedbackStore, rejects: _RejectsFile) -> None:
        self._store = store
        self._rejects = rejects
        self._started = time.monotonic()
        self._counts = IngestReport()

    def report(self) -> IngestReport:
        """The counts so far, in a report of its own."""
        self._rejects.flush()
        by_reason = dict(sorted(self._counts.by_reason.items(), key=lambda item: -item[1]))
        elapsed = time.monotonic() - self._started
        return replace(self._counts, by_reason=by_reason, rejects=self._rejects.written, seconds=elapsed)

    def add(self, batch: list[Parsed]) -> None:
        """Store a batch; what the store refuses becomes a reject."""
        answers = self._store.add_each(item.record for item in batch)
        added = duplicates = 0
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, RefusedFeedback):
                self.reject(Reject(item.line, answer.field, answer.value, answer.reason))
            elif answer.duplicate:
                duplicates += 1
            else:
                added += 1
        counts = self._counts
        self._counts = replace(counts, added=counts.added + added, duplicates=counts.duplicates + duplicates)

    def reject(self, reject: Reject) -> None:
        """Write a reject down and count it."""
        self._rejects.write(reject)
        by_reason = self._counts.by_reason
        # A reason may quote what it is about, so their number has no other bound.
        known = reject.reason in by_reason or len(by_reason) < _MAX_REASONS
        reason = reject.reason if known else _OTHER
        by_reason[reason] = by_reason.get(reason, 0) + 1
        self._counts = replace(self._counts, rejected=self._counts.rejected + 1)


def _batches(parsed: Iterable[Parsed | Reject], size: int, reject: Callable[[Reject], None]) -> Iterator[list[Parsed]]:
    """The records of every `size` lines, which may be none; rejects are handed over as they come."""
    batch: list[Parsed] = []
    for number, item in enumerate(parsed, start=1):
        if isinstance(item, Reject):
            reject(item)
        else:
            batch.append(item)
        if number % size == 0:
            yield batch
            batch = []
    if batch:
        yield batch
