"""What a row format is: a name, the columns that give it away, and the way from a row to feedback and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from plaudit.feedback.formats.rows import Row, RowContext
from plaudit.feedback.records import Feedback


@dataclass(frozen=True, slots=True)
class NotHeld:
    """Why a format's rows cannot say what a record says; an export counts these reasons."""

    reason: str


@dataclass(frozen=True, slots=True)
class Gathering:
    """How a format whose row holds several statements puts a row together.

    Attributes:
        begin: an empty row for the record's context.
        place: put the record in a row; False when its place is taken, and then it goes to a further row.
        finish: the row as it is written.
    """

    begin: Callable[[Feedback], Row]
    place: Callable[[Row, Feedback], bool]
    finish: Callable[[Row], Row]


@dataclass(frozen=True, slots=True)
class Format:
    """One way in which rows say feedback.

    Attributes:
        name: what a user calls it.
        description: one line.
        example: one row.
        columns: the columns that a row must have; where there are alternatives, each of them.
        parse: a row's records; raises `RowError` or pydantic's `ValidationError`.
        dump: a record's row, or why the format cannot hold it.
        recognises: tells this format from others with the same columns by the values of a row.
        gathering: how several records make one row, where they do.
        json_cells: in Parquet, write nested values as JSON text, because their shape differs from row to row.
    """

    name: str
    description: str
    example: Mapping[str, Any]
    columns: tuple[tuple[str, ...], ...]
    parse: Callable[[Row, RowContext], list[Feedback]]
    dump: Callable[[Feedback], Row | NotHeld]
    recognises: Callable[[Row], bool] | None = None
    gathering: Gathering | None = None
    json_cells: bool = False

    def matches(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns can be of this format."""
        return any(set(needed) <= set(columns) for needed in self.columns)

    def missing(self, columns: Collection[str]) -> tuple[str, ...]:
        """The columns that these lack, by the alternative that lacks fewest."""
        return min((tuple(name for name in needed if name not in columns) for needed in self.columns), key=len)


def gathered(gathering: Gathering, record: Feedback) -> Row:
    """The row that holds this record alone."""
    row = gathering.begin(record)
    gathering.place(row, record)
    return gathering.finish(row)
