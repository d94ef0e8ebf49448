"""A stream of records and rejects ends up in the store and in the rejects file, each line in one of them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from plaudit.errors import ConfigError, StoreError
from plaudit.feedback.ingest import IngestReport, Parsed, Reject, ingest
from plaudit.feedback.store import FeedbackStore

from .conftest import comparison


def parsed(numbers: range) -> Iterator[Parsed | Reject]:
    """Records with client ids; every tenth line is broken."""
    for line in numbers:
        if line % 10 == 0:
            yield Reject(line, "choice", "'c'", "expected a, b, tie or cannot_judge", raw=f"line {line}")
        else:
            yield Parsed(line, comparison(line, client_id=f"line-{line}"))


def test_records_are_stored_in_order_and_rejects_are_written_down(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    report = ingest(store, parsed(range(1, 36)), batch_size=7, rejects=path)
    assert (report.added, report.duplicates, report.rejected, report.read) == (32, 0, 3, 35)
    assert report.by_reason == {"expected a, b, tie or cannot_judge": 3}
    assert report.rejects == path
    assert report.seconds > 0
    assert [json.loads(row) for row in path.read_text().splitlines()] == [
        {
            "line": line,
            "field": "choice",
            "value": "'c'",
            "reason": "expected a, b, tie or cannot_judge",
            "raw": f"line {line}",
        }
        for line in (10, 20, 30)
    ]
    assert [record.client_id for record in store.records()] == [f"line-{n}" for n in range(1, 36) if n % 10]


def test_running_it_again_stores_nothing_twice(store: FeedbackStore) -> None:
    def breaks_off() -> Iterator[Parsed | Reject]:
        yield from parsed(range(1, 16))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(store, breaks_off(), batch_size=5)
    assert len(store) == 14, "the batches that were complete are stored"
    report = ingest(store, parsed(range(1, 36)), batch_size=5)
    assert (report.added, report.duplicates, report.rejected) == (18, 14, 3)
    assert len(store) == 32


def test_what_the_store_refuses_becomes_a_reject_with_its_line(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    first = comparison(1, client_id="c")
    stream = [
        Parsed(4, first),
        Parsed(9, comparison(2, client_id="c")),
        Parsed(12, comparison(3, supersedes="nothing")),
        Parsed(13, comparison(4)),
    ]
    report = ingest(store, stream, rejects=path)
    assert (report.added, report.rejected) == (2, 2)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert [(row["line"], row["field"], row["value"]) for row in rows] == [
        (9, "client_id", "c"),
        (12, "supersedes", "nothing"),
    ]
    assert rows[0]["reason"].startswith(f"source 'alice' has used it for another statement, stored as {first.id}")
    assert set(rows[0]) == {"line", "field", "value", "reason"}


def test_without_a_reject_there_is_no_file(store: FeedbackStore, tmp_path: Path) -> None:
    report = ingest(store, parsed(range(1, 10)), rejects=tmp_path / "rejects.jsonl")
    assert (report.rejected, report.rejects) == (0, None)
    assert not (tmp_path / "rejects.jsonl").exists()


def test_an_empty_stream_is_an_empty_report(store: FeedbackStore) -> None:
    report = ingest(store, [])
    assert (report.added, report.read, report.by_reason) == (0, 0, {})


def test_rejects_need_no_file(store: FeedbackStore) -> None:
    report = ingest(store, parsed(range(10, 11)))
    assert (report.rejected, report.rejects) == (1, None)


def test_progress_is_told_after_every_batch_and_a_report_does_not_change_afterwards(store: FeedbackStore) -> None:
    seen: list[IngestReport] = []
    report = ingest(store, parsed(range(1, 26)), batch_size=10, progress=seen.append)
    assert [(at.added, at.rejected) for at in seen] == [(9, 1), (18, 2), (23, 2)]
    assert seen[0].by_reason == {"expected a, b, tie or cannot_judge": 1}
    assert (report.added, report.rejected) == (23, 2)


def test_half_a_character_in_a_broken_line_does_not_break_the_rejects(store: FeedbackStore, tmp_path: Path) -> None:
    ingest(store, [Reject(1, "text", "\udc80", "no text")], rejects=tmp_path / "rejects.jsonl")
    assert json.loads((tmp_path / "rejects.jsonl").read_text())["value"] == "\udc80"


def test_reasons_without_end_are_counted_together(store: FeedbackStore) -> None:
    stream = [Reject(number, "x", "", f"reason {number}") for number in range(300)]
    report = ingest(store, [*stream, stream[0]])
    assert len(report.by_reason) == 101
    assert next(iter(report.by_reason.items())) == ("other reasons", 200), "the most frequent comes first"
    assert report.by_reason["reason 0"] == 2
    assert sum(report.by_reason.values()) == report.rejected == 301


def test_a_rejects_file_that_cannot_be_written_says_so(store: FeedbackStore, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "rejects.jsonl"
    with pytest.raises(StoreError, match=rf"cannot write the rejects to {path}: No such file or directory; mend that"):
        ingest(store, parsed(range(1, 30)), rejects=path)
    with pytest.raises(StoreError, match="No space left on device"):
        ingest(store, parsed(range(1, 30)), rejects=Path("/dev/full"))


def test_a_batch_size_below_one_is_an_error(store: FeedbackStore) -> None:
    with pytest.raises(ConfigError, match="batch_size: expected 1 or more, got 0"):
        ingest(store, [], batch_size=0)


def test_memory_holds_one_batch(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        ingest(store, parsed(range(1, 400)), batch_size=100)

        def peak(count: int) -> int:
            tracemalloc.start()
            ingest(store, parsed(range(1000, 1000 + count)), batch_size=100)
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return used

        # Ten times the records in the same memory; the margin is for the interpreter's own caches.
        assert peak(3000) < 1.5 * peak(300)
