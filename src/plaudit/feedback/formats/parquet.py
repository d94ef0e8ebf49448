"""The container Parquet (`.parquet`): read and written row group by row group; needs the extra `data`.

Texts are columns of strings, messages columns of lists of structs, as TRL and `datasets` expect them. Times and
decimals come in as text and numbers; a NaN makes its row a reject, as everywhere, and a null does not. A column has
one type throughout a file, so text in some rows and messages in others cannot be written, and an empty object, which
has no type, becomes null.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from plaudit.errors import InvalidFeedback, require
from plaudit.feedback.formats.lines import Numbered
from plaudit.feedback.formats.rows import Row
from plaudit.feedback.formats.spool import Spool, spooled
from plaudit.feedback.ingest import Reject

_READ_ROWS = 1_000
_GROUP_ROWS = 10_000


def read_parquet(path: Path) -> Iterator[Numbered]:
    """The rows of a Parquet file with their numbers, from 1."""
    arrow = require("pyarrow", extra="data")
    parquet = require("pyarrow.parquet", extra="data")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_READ_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, plain(row)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if number == 0:
            raise InvalidFeedback(f"{path} cannot be read as Parquet: {error}") from None
        yield number + 1, Reject(number + 1, "file", path.name, f"the file is damaged behind this row: {error}")


def plain(value: Any) -> Any:
    """A table's value as JSON has it: times as ISO 8601, decimals as numbers, the rest as it is."""
    match value:
        case dict():
            return {name: plain(part) for name, part in value.items()}
        case list() | tuple():
            return [plain(part) for part in value]
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return float(value)
    return value


def write_parquet(rows: Iterable[Row], temporary: Path, *, json_cells: bool) -> None:
    """Write rows as Parquet; with `json_cells`, nested values become JSON text."""
    arrow = require("pyarrow", extra="data")
    parquet = require("pyarrow.parquet", extra="data")
    cell = _json_cell if json_cells else _typed
    with spooled({name: cell(value) for name, value in row.items()} for row in rows) as (kept, columns):
        try:
            schema = _schema(arrow, kept, columns)
            with parquet.ParquetWriter(temporary, schema) as writer:
                for group in _groups(kept):
                    writer.write_table(arrow.Table.from_pylist(group, schema=schema))
        except arrow.ArrowException as error:
            raise InvalidFeedback(
                f"These records make no table: {error}. A column of Parquet has one type; write .jsonl instead."
            ) from None


def _json_cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else value


def _typed(value: Any) -> Any:
    """The value, with null for objects that have no field and so no type."""
    if isinstance(value, Mapping):
        return {name: _typed(part) for name, part in value.items()} or None
    return [_typed(part) for part in value] if isinstance(value, list) else value


def _groups(rows: Spool) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while group := list(islice(remaining, _GROUP_ROWS)):
        yield group


def _schema(arrow: Any, rows: Spool, columns: list[str]) -> Any:
    """The type of every column over all rows: structs get the fields of all."""
    schema = arrow.schema([(name, arrow.null()) for name in columns])
    for group in _groups(rows):
        found = arrow.Table.from_pylist([{name: row.get(name) for name in columns} for row in group]).schema
        schema = arrow.unify_schemas([schema, found], promote_options="permissive")
    return arrow.schema([field.with_type(_storable(arrow, field.type)) for field in schema])


def _storable(arrow: Any, kind: Any) -> Any:
    """The type, with text where only nulls were found."""
    types = arrow.types
    if types.is_null(kind):
        return arrow.string()
    if types.is_list(kind):
        return arrow.list_(_storable(arrow, kind.value_type))
    if types.is_struct(kind):
        return arrow.struct([field.with_type(_storable(arrow, field.type)) for field in kind])
    return kind
