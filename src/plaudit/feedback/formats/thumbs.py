"""The format `thumbs`: reactions in a table, as an application's log or a spreadsheet has them.

    prompt,completion,thumb,user,time,model
    Capital of France?,Paris,up,alice,2026-01-31T12:00:00Z,demo-7b
    Capital of Italy?,Milan,👎,bob,,

`thumb` is up, 1, +1, true, yes, 👍 or down, 0, -1, false, no, 👎 (in any case of letters). Optional columns: `user`,
`time`, `model` and the others of `margin`.
"""

from __future__ import annotations

from plaudit.feedback.formats.format import Format, NotHeld
from plaudit.feedback.formats.margin import read_margin, write_margin
from plaudit.feedback.formats.rows import Row, RowContext, RowError
from plaudit.feedback.formats.trl_single import PAIR_COLUMNS, read_pair, write_pair
from plaudit.feedback.records import Feedback, Reaction

_UP = ("up", "1", "+1", "true", "yes", "thumb_up", "thumbs_up", "👍")
_DOWN = ("down", "0", "-1", "false", "no", "thumb_down", "thumbs_down", "👎")
_THUMBS = {**dict.fromkeys(_UP, "thumb_up"), **dict.fromkeys(_DOWN, "thumb_down")}
_OWN = PAIR_COLUMNS | {"thumb"}


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    pair, margin = read_pair(row, context), read_margin(row, context, _OWN)
    return [Reaction(symbol=_symbol(row), **pair, **margin)]


def _symbol(row: Row) -> str:
    value = row.get("thumb")
    if isinstance(value, str | bool | int):
        symbol = _THUMBS.get(str(value).strip().lower())
        if symbol is not None:
            return symbol
    raise RowError("thumb", value, "expected up or down" if "thumb" in row else "the column is missing")


def _dump(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Reaction):
        return NotHeld(f"a {record.kind}")
    symbol = _THUMBS.get(record.symbol)
    if symbol is None or record.sentiment != (1 if symbol == "thumb_up" else -1):
        return NotHeld("a reaction that is not a thumb")
    row = write_pair(record)
    if isinstance(row, NotHeld):
        return row
    return write_margin(record, row | {"thumb": symbol.removeprefix("thumb_")}, _OWN)


FORMAT = Format(
    name="thumbs",
    description="thumbs up and down from an application: prompt, completion, thumb; perhaps user, time, model",
    example={"prompt": "Capital of France?", "completion": "Paris", "thumb": "up", "user": "alice"},
    columns=(("prompt", "completion", "thumb"),),
    parse=_parse,
    dump=_dump,
)
