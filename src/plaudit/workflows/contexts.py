"""What a method that samples asks: the feedback's contexts, or those of a file, kept in the run's folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from plaudit.errors import InvalidFeedback
from plaudit.feedback import views
from plaudit.feedback.examples import Posed, View
from plaudit.feedback.formats.lines import read_lines
from plaudit.feedback.ingest import Reject
from plaudit.feedback.records import Chat, Context, Feedback, Text, explain
from plaudit.training import RunFolder
from plaudit.workflows.config import AlignConfig
from plaudit.workflows.feedback_data import FeedbackData, split_view


def contexts_to_ask(records: list[Feedback], config: AlignConfig, run: RunFolder | None = None) -> FeedbackData[Posed]:
    """The contexts to learn on and the held-out ones.

    A file's contexts are copied into the run's folder; a resumed run reads the copy, whatever became of the file.
    """
    if config.contexts is None:
        view = views.contexts(records)
    else:
        kept = None if run is None else run.path / "contexts.jsonl"
        found = read_contexts(kept if kept is not None and kept.is_file() else config.contexts.expanduser())
        if run is not None and kept is not None and not kept.is_file():
            run.write(kept.name, "".join(f"{json.dumps(_as_row(context), ensure_ascii=False)}\n" for context in found))
        different = {context.digest: context for context in found}
        repeated = len(found) - len(different)
        view = View(tuple(map(Posed, different.values())), Counter({"repeated": repeated} if repeated else {}))
    return split_view(view, held_out=config.held_out, seed=config.training.seed)


def read_contexts(path: Path) -> list[Context]:
    """The contexts of a file.

    In a ``.txt`` file each line that is not empty is a prompt. In a ``.jsonl`` file each row has a ``prompt``, which is a
    text or the messages of a chat, or ``messages``; other columns are passed over.

    Raises:
        InvalidFeedback: the file cannot be read, holds nothing, or a line of it is no context; the line is named.
    """
    if path.suffix == ".txt":
        found = list(_lines(path))
    elif path.suffix in (".jsonl", ".ndjson"):
        found = [_context(path, number, row) for number, row in read_lines(path)]
    else:
        raise InvalidFeedback(f"contexts: expected a file that ends in .txt or .jsonl, got {str(path)!r}")
    if not found:
        raise InvalidFeedback(f"contexts: {path} holds none")
    return found


def _lines(path: Path) -> Iterator[Context]:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise InvalidFeedback(f"contexts: cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise InvalidFeedback(
                f"contexts: {path}, line {number}: expected UTF-8, got {error.object[:40]!r}"
            ) from error
        if text:
            yield Context(content=Text(text=text))


def _context(path: Path, number: int, row: dict[str, object] | Reject) -> Context:
    place = f"contexts: {path}, line {number}"
    if isinstance(row, Reject):
        raise InvalidFeedback(f"{place}: {row.reason}, got {row.value}")
    column = next((name for name in ("prompt", "messages") if name in row), None)
    if column is None:
        raise InvalidFeedback(f"{place}: expected a prompt or messages, got {', '.join(row) or 'an empty object'}")
    value = row[column]
    if not value or not isinstance(value, str | list):
        raise InvalidFeedback(f"{place}: {column}: expected a text or a list of messages, got {str(value)[:80]!r}")
    try:
        context = Context.model_validate({"content": value})
    except ValidationError as error:
        field, given, reason = explain(error)[0]
        raise InvalidFeedback(f"{place}: {column}: {field}: {reason}, got {given}") from error
    if isinstance(context.content, Chat) and context.content.messages[-1].role == "assistant":
        raise InvalidFeedback(f"{place}: {column}: expected a last turn that asks, got one of the assistant's")
    return context


def _as_row(context: Context) -> dict[str, object]:
    content = context.content
    if isinstance(content, Chat):
        return {"prompt": [message.model_dump() for message in content.messages]}
    return {"prompt": context.text}
