"""From a store or a file of feedback to examples to learn from and held-out ones, the same again when a run is resumed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic

from plaudit.errors import CheckpointError, InvalidFeedback, TrainingError
from plaudit.evaluation.report import FeedbackSummary
from plaudit.feedback import formats, views
from plaudit.feedback.examples import ExampleT, View
from plaudit.feedback.ingest import ingest
from plaudit.feedback.records import Comparison, Feedback
from plaudit.feedback.store import FeedbackStore
from plaudit.progress import console
from plaudit.sharing import from_main, is_main
from plaudit.training import RunFolder

STORE_SUFFIXES = (".db", ".sqlite", ".sqlite3")


@dataclass(frozen=True)
class FeedbackData(Generic[ExampleT]):
    """Examples to learn from and held-out ones, by context; what the view left out; the records behind the examples."""

    train: tuple[ExampleT, ...]
    held_out: tuple[ExampleT, ...]
    dropped: Counter[str]
    record_ids: tuple[str, ...]


def new_run_folder(name: str) -> Path:
    """A folder in runs/ that is not there yet."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{name}-{stamp}"
    while path.exists():
        time.sleep(1)
        path = Path("runs") / f"{name}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    return path


@contextmanager
def open_feedback(feedback: str, *, format_name: str | None, folder: Path) -> Iterator[FeedbackStore]:
    """The store that `feedback` names; a file of feedback is imported into a store in `folder` first."""
    if "://" in feedback or Path(feedback).suffix in STORE_SUFFIXES:
        with FeedbackStore.open(feedback, create=False) as store:
            yield store
        return
    reading = formats.read(feedback, format=format_name)
    with FeedbackStore.open(folder / "feedback.db") as store:
        report = ingest(store, reading, rejects=folder / "rejects.jsonl")
        if report.rejected:
            console.print(
                f"[yellow]{report.rejected} rows of {feedback} are no feedback and were left out; "
                f"see {folder / 'rejects.jsonl'}[/yellow]"
            )
        if len(store) == 0:
            raise InvalidFeedback(f"{feedback} holds no feedback that can be used.")
        yield store


def records_of(feedback: str, run: RunFolder, *, format_name: str | None, resuming: bool) -> list[Feedback]:
    """The records that a run learns from; of several processes all have those that the main one found.

    Raises:
        CheckpointError: a record that a resumed run learns from was forgotten, or the store is another one.
    """
    found: list[Feedback] = []

    def read() -> list[str]:
        with open_feedback(feedback, format_name=format_name, folder=run.path) as store:
            found.extend(load_records(store, run, resuming=resuming))
        return [record.id for record in found]

    wanted = from_main(read)
    if not is_main():
        kept = run.path / "feedback.db"  # a file of feedback, which the main process has imported
        with FeedbackStore.open(str(kept) if kept.is_file() else feedback, create=False) as store:
            by_id = {record.id: record for record in store.records(current=False)}
        found.extend(by_id[record_id] for record_id in wanted)
    return found


def load_records(store: FeedbackStore, run: RunFolder, *, resuming: bool) -> list[Feedback]:
    """The store's current records; for a resumed run exactly those that it began with, whatever the store learned since.

    Raises:
        CheckpointError: a record that the run learns from was forgotten, or the store is another one.
    """
    return list(_recorded(store, run) if resuming else store.records())


def split_view(view: View[ExampleT], *, held_out: float, seed: int) -> FeedbackData[ExampleT]:
    """Split a view's examples by context."""
    train, kept = views.split(view.examples, held_out=held_out, seed=seed)
    return FeedbackData(train, kept, view.dropped, view.record_ids)


def expect_examples(data: FeedbackData[ExampleT], *, held_out: float) -> None:
    """Raise a `TrainingError` that says why there is nothing to learn from, where there is nothing."""
    if not data.train and data.held_out:
        raise TrainingError(f"held_out: {held_out} keeps all {len(data.held_out)} examples aside; lower it.")
    if not data.train:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in data.dropped.most_common(4))
        raise TrainingError(f"The feedback gives nothing to learn from in this way: {reasons or 'the store is empty'}.")


def summarise(records: Sequence[Feedback], data: FeedbackData[ExampleT]) -> FeedbackSummary:
    """What a run learned from, as its report says it."""
    comparisons = [record for record in records if isinstance(record, Comparison) and record.choice != "cannot_judge"]
    return FeedbackSummary(
        by_kind=dict(Counter(record.kind for record in records).most_common()),
        by_source=dict(Counter(record.source.name for record in records).most_common()),
        comparisons=len(comparisons),
        ties=sum(record.choice == "tie" for record in comparisons),
        examples_used=len(data.train),
        held_out=len(data.held_out),
        dropped=dict(data.dropped.most_common()),
    )


def _recorded(store: FeedbackStore, run: RunFolder) -> Iterator[Feedback]:
    wanted = run.feedback_ids
    if gone := store.forgotten(wanted):
        raise CheckpointError(
            f"{len(gone)} of the {len(wanted)} records that {run.path} learns from were forgotten since it began. "
            "Start a new run, which learns without them."
        )
    found = [record for record in store.records(current=False) if record.id in wanted]
    if len(found) < len(wanted):
        raise CheckpointError(
            f"{run.path} learns from {len(wanted)} records, and {store.location} holds {len(found)} of them. "
            "Resume with the store that the run began with."
        )
    yield from found
