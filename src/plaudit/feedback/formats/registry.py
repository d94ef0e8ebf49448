"""The row formats by name, and which of them a row is of."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import (
    hh_rlhf,
    native,
    qa_feedback,
    ranked,
    thumbs,
    trl_preference,
    trl_single,
    ultrafeedback,
)
from plaudit.feedback.formats.format import Format
from plaudit.feedback.formats.rows import Row

# In the order in which a row is tried: those that need more columns come before those that need fewer of the same.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format_.name: format_
        for format_ in (
            native.FORMAT,
            qa_feedback.FORMAT,
            ultrafeedback.FORMAT,
            ranked.FORMAT,
            thumbs.FORMAT,
            trl_single.UNPAIRED,
            trl_single.PROMPT_COMPLETION,
            hh_rlhf.FORMAT,
            trl_preference.FORMAT,
            trl_single.LANGUAGE_MODELING,
        )
    }
)


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        InvalidFeedback: there is none; the message lists the names, the nearest first.
    """
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise InvalidFeedback(f"There is no format {name!r}. {hint}The formats are: {', '.join(FORMATS)}.")


def detect(columns: Collection[str], row: Row | None = None) -> Format:
    """The format of rows with these columns.

    Args:
        columns: the names of the columns.
        row: one row, for formats that only their values tell apart: without it, `chosen` and `rejected` are
            `trl-preference`, and with a row of transcripts they are `hh-rlhf`.

    Raises:
        InvalidFeedback: no format has these columns; the message names the nearest and what they lack.
    """
    for format_ in FORMATS.values():
        told_apart = format_.recognises is None or (row is not None and format_.recognises(row))
        if format_.matches(columns) and told_apart:
            return format_
    found = _quoted(columns) or "none"
    near = "; ".join(f"{format_.name} (lacks {_quoted(format_.missing(columns))})" for format_ in _nearest(columns))
    raise InvalidFeedback(
        f"The columns are {found}, which no format has. The nearest are {near}. "
        f"Rename columns with map={{'theirs': 'ours'}}, or name the format with format=, one of: {', '.join(FORMATS)}."
    )


def _quoted(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))


def _nearest(columns: Collection[str]) -> list[Format]:
    """Three formats: those that lack fewest columns, and share most of them or names that look like them."""

    def distance(format_: Format) -> tuple[float, float]:
        shared = [(len(needed), sum(map(likeness, needed))) for needed in format_.columns]
        return min((count - alike, -alike) for count, alike in shared)

    def likeness(name: str) -> float:
        if name in found:
            return 1.0
        return 0.5 if difflib.get_close_matches(name, found, n=1, cutoff=0.8) else 0.0

    found = [column.lower() for column in columns]

    return sorted((f for f in FORMATS.values() if f.recognises is None), key=distance)[:3]
