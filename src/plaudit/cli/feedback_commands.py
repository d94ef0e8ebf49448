"""Commands on feedback stores: import, export, list, show, stats, forget. None of them loads torch."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plaudit.errors import ConfigError, InvalidFeedback
from plaudit.feedback import formats as feedback_formats
from plaudit.feedback.ingest import IngestReport, ingest
from plaudit.feedback.records import Feedback, Source
from plaudit.feedback.store import FeedbackStore
from plaudit.progress import track

Store = Annotated[str, Parameter(name=["--store", "-s"], help="The feedback store: a file, or a postgresql:// URL.")]
_out = Console(highlight=False)


def import_feedback(
    file: str,
    /,
    *,
    store: Store = "feedback.db",
    format: str | None = None,  # noqa: A002
    source: str | None = None,
    source_kind: Literal["person", "user", "judge", "program", "simulated", "unknown"] = "unknown",
    name: str | None = None,
    map: dict[str, str] | None = None,  # noqa: A002
    split: str | None = None,
    rejects: Path | None = None,
) -> int:
    """Read a file of feedback into a store. Importing it again adds nothing, so an interrupted import is simply repeated.

    Rows that are no feedback are written to a rejects file with line, field, value and reason; the good ones are kept.

    Examples:
        plaudit import votes.jsonl
        plaudit import thumbs.csv --store feedback.db --source app --source-kind user
        plaudit import pairs.parquet --format trl-preference --map.prompt question

    Args:
        file: .jsonl, .json, .csv (each also .gz), .parquet, a saved data set's folder, or a data set's name on the hub.
        format: see `plaudit formats`; told from the columns where it is left out.
        source: who said it, where the rows do not say; by default the file's name.
        source_kind: what kind of source that is.
        name: name of this import in the records' client ids; by default the file's name.
        map: columns under another name, as --map.EXPECTED FOUND.
        split: which split of a data set.
        rejects: where to write rejected rows; by default beside the file, or here for a data set.
    """
    renames = {found: expected for expected, found in (map or {}).items()}
    origin = Source(name=source, kind=source_kind) if source else None
    reading = feedback_formats.read(file, format=format, source=origin, name=name, map=renames, split=split)
    target = rejects or Path(f"{Path(file).name}.rejects.jsonl")
    with FeedbackStore.open(store) as opened, track("Importing", _rows_of(file)) as bar:
        seen = 0

        def advance(report: IngestReport) -> None:
            nonlocal seen
            bar.advance(report.read - seen, note=f"{report.added} added")
            seen = report.read

        report = ingest(opened, reading, rejects=target, progress=advance)
    _out.print(
        f"{report.added} records added to {store}, {report.duplicates} were there already, {report.rejected} rejected "
        f"({reading.format.name}, {report.seconds:.1f} s)"
    )
    for reason, count in reading.skipped.most_common():
        _out.print(f"  left out: {escape(reason)}: {count}")
    for reason, count in sorted(report.by_reason.items(), key=lambda item: -item[1])[:10]:
        _out.print(f"  rejected: {escape(reason)}: {count}")
    if report.rejected:
        _out.print(f"Rejected rows, with line, field, value and reason: {report.rejects}")
    return 1 if report.rejected and not report.added + report.duplicates else 0


def export(
    file: Path,
    /,
    *,
    store: Store = "feedback.db",
    format: str = "plaudit",  # noqa: A002
    kind: tuple[str, ...] = (),
    source: tuple[str, ...] = (),
) -> None:
    """Write a store's current feedback to a file; what the format cannot hold is counted by reason.

    Examples:
        plaudit export all.jsonl
        plaudit export pairs.parquet --format trl-preference --kind comparison

    Args:
        file: .jsonl, .json, .csv (each also .gz) or .parquet.
        format: see `plaudit formats`; plaudit is the one that holds everything.
        kind: only these kinds of feedback.
        source: only what these sources said.
    """
    with FeedbackStore.open(store, create=False) as opened:
        records = opened.records(kinds=kind or None, sources=source or None)
        report = feedback_formats.write(records, file, format=format)
    _out.print(f"{report.written} records in {report.rows} rows written to {file} ({format})")
    for reason, count in report.dropped.most_common():
        _out.print(f"  left out: {escape(reason)}: {count}")


def list_feedback(
    *,
    store: Store = "feedback.db",
    kind: tuple[str, ...] = (),
    source: tuple[str, ...] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """List records in the order in which they were stored.

    Examples:
        plaudit feedback list --kind comparison --source ann
        plaudit feedback list --json --limit 1000000 > all.jsonl

    Args:
        kind: only these kinds of feedback.
        source: only what these sources said.
        since: only from this time on, in the local time zone where none is given.
        until: only before this time.
        limit: at most so many.
        as_json: one JSON object a line, for other programs.
    """
    if limit < 1:
        raise ConfigError(f"limit: expected a whole number >= 1, got {limit}")
    with FeedbackStore.open(store, create=False) as opened:
        found = opened.records(
            kinds=kind or None, sources=source or None, since=_with_zone(since), until=_with_zone(until)
        )
        if as_json:
            for record in islice(found, limit):
                sys.stdout.write(record.model_dump_json() + "\n")
            return
        table = Table("time", "id", "kind", "source", "says", "context", box=None, header_style="bold")
        for record in islice(found, limit):
            table.add_row(
                record.time.strftime("%Y-%m-%d %H:%M"), record.id, record.kind, escape(record.source.name),
                escape(_statement(record)), escape(_short(record.context.text)),
            )  # fmt: skip
        _out.print(table)
        if len(opened) > limit:
            _out.print(f"The store holds {len(opened)} records; --limit shows more.")


def show(record_id: str, /, *, store: Store = "feedback.db") -> None:
    """Show one record whole, as JSON.

    Args:
        record_id: the record's id, from `plaudit feedback list`.
    """
    with FeedbackStore.open(store, create=False) as opened:
        record = opened.get(record_id)
    if record is None:
        raise InvalidFeedback(f"{store} holds no record {record_id!r}; see: plaudit feedback list --store {store}")
    sys.stdout.write(json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n")


def stats(*, store: Store = "feedback.db", as_json: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """Count what a store holds, by kind, source and answer.

    Args:
        as_json: as JSON, for other programs.
    """
    with FeedbackStore.open(store, create=False) as opened:
        found = opened.stats()
    if as_json:
        values = {name: getattr(found, name) for name in found.__dataclass_fields__}
        sys.stdout.write(json.dumps(values, default=str, ensure_ascii=False, indent=2) + "\n")
        return
    _out.print(
        f"{found.records} records ({found.superseded} superseded, {found.forgotten} forgotten), "
        f"{found.contexts} contexts, {found.outputs} outputs"
    )
    if found.first and found.last:
        _out.print(f"from {found.first:%Y-%m-%d %H:%M} to {found.last:%Y-%m-%d %H:%M} UTC")
    for title, counts in (("kind", found.by_kind), ("source", found.by_source)):
        table = Table(title, "records", box=None, header_style="bold")
        for name, count in islice(counts.items(), 30):
            table.add_row(escape(name), str(count))
        if len(counts) > 30:
            table.add_row(f"... and {len(counts) - 30} more", str(sum(list(counts.values())[30:])))
        _out.print(table)
    for kind, answers in found.answers.items():
        _out.print(f"{kind}: " + ", ".join(f"{escape(answer)} {count}" for answer, count in answers.items()))


def forget(
    source: str,
    /,
    *,
    store: Store = "feedback.db",
    reason: str | None = None,
    runs: Path = Path("runs"),
    yes: bool = False,
) -> int:
    """Delete all that one source said, for good (the right to be forgotten), and name the runs that learned from it.

    A tombstone stays: a hash of the source's name, the time, the reason, and the ids of the forgotten records. Nothing more
    of that source is taken in.

    Examples:
        plaudit feedback forget ann --reason "asked by mail on 3 May"

    Args:
        source: the source's name, from `plaudit feedback stats`.
        reason: why, in words that do not name the source.
        runs: the folder of runs to look through.
        yes: do not ask.
    """
    with FeedbackStore.open(store, create=False) as opened:
        count = sum(1 for _ in opened.records(sources=source, current=False))
        if not yes and count:
            if not sys.stdin.isatty():
                raise ConfigError(f"This deletes {count} records of {source!r} for good. Say --yes to do it.")
            if _out.input(f"Delete {count} records of {escape(repr(source))} for good? [y/N] ").strip().lower() != "y":
                return 1
        tombstone = opened.forget(source, reason=reason)
    gone = set(tombstone.record_ids)
    _out.print(f"{len(gone)} records of {escape(repr(source))} are forgotten (tombstone {tombstone.id}).")
    affected = [
        file.parent for file in sorted(runs.rglob("feedback_ids.txt")) if not gone.isdisjoint(file.read_text().split())
    ]
    if affected:
        _out.print("These runs learned from them; train anew without them: " + ", ".join(map(str, affected)))
    else:
        _out.print(f"No run in {runs} learned from them.")
    return 0


def formats() -> None:
    """List the file formats of feedback, with an example row of each."""
    for found in feedback_formats.FORMATS.values():
        _out.print(f"[bold]{found.name}[/bold]  {escape(found.description)}")
        _out.print(f"    {escape(json.dumps(found.example, ensure_ascii=False))}", soft_wrap=True)


def _rows_of(file: str) -> int | None:
    """How many lines a plain file of lines has, for the progress bar."""
    path = Path(file)
    if path.suffix not in (".jsonl", ".ndjson") or not path.is_file():
        return None
    with path.open("rb") as handle:
        return sum(block.count(b"\n") for block in iter(lambda: handle.read(1 << 20), b""))


def _with_zone(time: datetime | None) -> datetime | None:
    return time.astimezone() if time is not None and time.tzinfo is None else time


def _statement(record: Feedback) -> str:
    values = record.model_dump(mode="json", exclude=_SHARED)
    said = ", ".join(f"{value}" if name == "choice" else f"{name} {value}" for name, value in values.items() if value)
    return _short(said)


_SHARED = {
    "id",
    "kind",
    "source",
    "context",
    "outputs",
    "shown",
    "time",
    "client_id",
    "supersedes",
    "attributes",
    "aspect",
}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
