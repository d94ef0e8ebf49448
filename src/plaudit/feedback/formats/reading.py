"""From a file or data set to records: open the container, tell the format, and parse row after row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats.containers import Container, open_container
from plaudit.feedback.formats.format import Format
from plaudit.feedback.formats.registry import FORMATS, detect, format_named
from plaudit.feedback.formats.rows import Row, RowContext, RowError, fingerprint
from plaudit.feedback.ingest import Parsed, Reject
from plaudit.feedback.records import Source, explain

_ROWS_LOOKED_AT = 100
_RAW_CHARACTERS = 10_000
_NAME_CHARACTERS = 400


class Reading(Iterator[Parsed | Reject]):
    """What `read` returns: an iterator of parsed records and rejected rows.

    Attributes:
        format: the rows' format, given or detected.
        skipped: what the format left out of good rows, counted by reason while the rows are read.
    """

    def __init__(self, format_: Format, skipped: Counter[str], results: Iterator[Parsed | Reject]) -> None:
        self.format = format_
        self.skipped = skipped
        self._results = results

    def __next__(self) -> Parsed | Reject:
        return next(self._results)


def read(
    path_or_dataset: str | Path | Iterable[Any],
    *,
    format: str | None = None,  # noqa: A002
    source: Source | None = None,
    name: str | None = None,
    map: Mapping[str, str] | None = None,  # noqa: A002
    split: str | None = None,
) -> Reading:
    """Read feedback from a file, a Hugging Face data set, or a list of rows.

    The file is looked at now, so that an error in it as a whole is raised here; its rows are read as the result is
    iterated over, in bounded memory. A row that cannot become feedback comes as a `Reject`, and reading goes on.

    A record without a client id of its own gets "<name>:<line>:<12 digits of the row's hash>", and "#1", "#2", ...
    behind it where a row gives several. So importing the same file again adds nothing to a store, and two lines that
    are equal stay two statements.

    Args:
        path_or_dataset: a path (`.jsonl`, `.ndjson`, `.json`, `.csv`, each perhaps with `.gz`; `.parquet`), a folder
            that `datasets` saved, a data set's name on the Hugging Face Hub such as
            "trl-lib/ultrafeedback_binarized", a `datasets` object, or a list of mappings.
        format: a name of `FORMATS`; left out, it is told from the columns of the first row that has those of a format.
        source: who said it, where rows do not say; left out, a source of the import's name and of unknown kind.
        name: the import's name, by default the file's base name. An import under another name is another import.
        map: columns to rename, from the file's name to the format's.
        split: which split of a data set, where there are several; "train" on the Hub.

    Raises:
        InvalidFeedback: the file is missing, a folder, empty or not what its suffix says, `format` or a column in `map`
            does not exist, or no format has the file's columns.
        MissingExtra: Parquet or data sets need the extra `data`.
    """
    container = open_container(path_or_dataset, split)
    format_, columns = _look(container, None if format is None else format_named(format), map or {})
    name = _clean(name or container.name)
    file = RowContext(name, source or Source(name=name), container.flat, columns)
    return Reading(format_, file.skipped, _results(container, format_, file, map or {}))


def _look(container: Container, format_: Format | None, renames: Mapping[str, str]) -> tuple[Format, frozenset[str]]:
    """The format, given or told from the first row that has the columns of one, and the columns of the first rows."""
    looked = list(islice(container.rows(), _ROWS_LOOKED_AT))
    if not looked:
        raise InvalidFeedback(f"{container.label} is empty: it has no rows.")
    rows = [row for _, row in looked if not isinstance(row, Reject)]
    columns = frozenset(column for row in rows for column in row)
    if rows:
        _check_renames(renames, columns)
    renamed = [_renamed(row, renames) for row in rows]
    if format_ is None:
        format_ = _detected(container, renamed, [row for _, row in looked if isinstance(row, Reject)])
    return format_, frozenset(column for row in renamed for column in row)


def _detected(container: Container, rows: list[Row], rejects: list[Reject]) -> Format:
    for row in rows:
        if any(format_.matches(row) for format_ in FORMATS.values()):
            return detect(row, row)
    if not rows:
        reject = rejects[0]
        raise InvalidFeedback(
            f"{container.label}: none of the first {len(rejects)} rows can be read. "
            f"Row {reject.line}: {reject.field}: {reject.reason}."
        )
    try:
        return detect(rows[0])
    except InvalidFeedback as error:
        raise InvalidFeedback(f"{container.label}: {error}") from None


def _check_renames(renames: Mapping[str, str], columns: Collection[str]) -> None:
    for theirs, ours in renames.items():
        if theirs not in columns:
            names = ", ".join(map(repr, sorted(columns)))
            raise InvalidFeedback(f"map names the column {theirs!r}, and the columns are {names}.")
        if ours in columns and ours not in renames:
            raise InvalidFeedback(f"map renames {theirs!r} to {ours!r}, and there is a column {ours!r} already.")


def _renamed(row: Row, renames: Mapping[str, str]) -> Row:
    return {renames.get(column, column): value for column, value in row.items()} if renames else row


def _clean(name: str) -> str:
    """A name that a client id can begin with: no control characters, and short."""
    return "".join(c if c.isprintable() else "_" for c in name)[:_NAME_CHARACTERS] or "import"


def _results(
    container: Container, format_: Format, file: RowContext, renames: Mapping[str, str]
) -> Iterator[Parsed | Reject]:
    """The rows' records; `file` is what all rows are told, with the import's name where a row has its client id."""
    for line, row in container.rows():
        if isinstance(row, Reject):
            yield row
            continue
        try:
            client_id = f"{file.client_id}:{line}:{fingerprint(row)}"
            context = RowContext(client_id, file.source, file.flat, file.columns, file.skipped)
            records = format_.parse(_renamed(row, renames), context)
        except RowError as error:
            yield Reject(line, error.column, error.value, error.reason, _raw(row))
        except ValidationError as error:
            yield _invalid(line, error, row)
        except RecursionError:
            yield Reject(line, "row", "...", "nested too deeply", _raw(row))
        else:
            for record in records:
                yield Parsed(line, record)


def _invalid(line: int, error: ValidationError, row: Row) -> Reject:
    """One reject for a row, however many of its fields are wrong: the first says what, the reason how many more."""
    (field, value, reason), *others = explain(error)
    more = f" (and {len(others)} more: {', '.join(field for field, _, _ in others[:3])})" if others else ""
    return Reject(line, field, value, reason.removeprefix("Value error, ") + more, _raw(row))


def _raw(row: Row) -> str:
    """The row as JSON in ASCII, shortened; what is not JSON as its `repr`."""
    try:
        return json.dumps(row, default=repr)[:_RAW_CHARACTERS]
    except (TypeError, ValueError, RecursionError):
        return "a row that cannot be written as JSON"
