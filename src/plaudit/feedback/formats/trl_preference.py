"""The format `trl-preference`: TRL's preference data sets, from which comparisons are read.

Explicit prompt, plain and as chats:

    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    {"prompt": [{"role": "user", "content": "Colour of the sky?"}],
     "chosen": [{"role": "assistant", "content": "Blue."}], "rejected": [{"role": "assistant", "content": "Green."}]}

Implicit prompt, which is what `chosen` and `rejected` begin with in common:

    {"chosen": "The sky is blue.", "rejected": "The sky is green."}

As in TRL's `extract_prompt`, the common opening is counted in messages or characters, gives back a last space, and,
where one of the two begins with all of the other, ends one message or character before the shorter one does. A
`prompt` that is text beside chats is one message that the chats repeat, so the prompt is read from them. Deviations:
two texts without a common opening have an empty prompt (TRL then cuts off the last character where it is a space),
two chats without one take a `prompt` given as text, or else are refused; and a `prompt` given as a chat beside texts
is the prompt.

Optional columns: `strength` in (0, 1], `aspect`, `chosen_model`, `rejected_model`, and those of `margin`.
`score_chosen` and `score_rejected` must be numbers and are kept as attributes: nobody says on which scale they lie,
so they make no `strength`. A comparison whose choice is b is written with its outputs exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plaudit.feedback.formats.format import Format, NotHeld
from plaudit.feedback.formats.margin import model_column, read_margin, write_margin, written
from plaudit.feedback.formats.rows import (
    Row,
    RowContext,
    RowError,
    completion,
    not_empty,
    number,
    optional_text,
    prompt,
)
from plaudit.feedback.records import Chat, Comparison, Context, Feedback, Output, Text

_OWN = frozenset({"prompt", "chosen", "rejected", "strength", "aspect", "chosen_model", "rejected_model"})
_SCORES = ("score_chosen", "score_rejected")
_Said = Text | Chat


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    fields = read_margin(row, context, _OWN)
    for column in _SCORES:
        if row.get(column) not in (None, ""):
            score = number(row[column], column, flat=context.flat)
            fields["attributes"][column] = score if context.flat else row[column]
    asked, chosen, rejected, left_over = _sides(row, context)
    if left_over is not None:
        fields["attributes"] = fields.get("attributes", {}) | {"prompt": left_over}
    if row.get("strength") not in (None, ""):
        fields["strength"] = number(row["strength"], "strength", flat=context.flat)
    aspect = optional_text(row, "aspect")
    if aspect is not None:
        fields["aspect"] = aspect
    outputs = (
        Output(content=not_empty(chosen, "chosen"), producer=model_column(row, "chosen_model")),
        Output(content=not_empty(rejected, "rejected"), producer=model_column(row, "rejected_model")),
    )
    return [Comparison(context=Context(content=asked), outputs=outputs, choice="a", **fields)]


def _sides(row: Row, context: RowContext) -> tuple[_Said, _Said, _Said, str | None]:
    """The prompt, the two outputs, and a prompt's text that the chats do not repeat."""
    flat = context.flat
    chosen, rejected = completion(row, "chosen", flat=flat), completion(row, "rejected", flat=flat)
    if isinstance(chosen, Text) != isinstance(rejected, Text):
        raise RowError("rejected", row["rejected"], "expected text or messages alike in `chosen` and `rejected`")
    explicit = "prompt" in row or "prompt" in context.columns  # else a lost prompt would be taken for an implicit one
    given = prompt(row, "prompt", flat=flat) if explicit else None
    if given is not None and (isinstance(given, Chat) or isinstance(chosen, Text)):
        return given, chosen, rejected, None
    if isinstance(chosen, Text) and isinstance(rejected, Text):
        length = opening(chosen.text, rejected.text)
        return Text(text=chosen.text[:length]), Text(text=chosen.text[length:]), Text(text=rejected.text[length:]), None
    assert isinstance(chosen, Chat)
    assert isinstance(rejected, Chat)
    assert not isinstance(given, Chat)
    return _implicit_chats(chosen, rejected, given)


def _implicit_chats(chosen: Chat, rejected: Chat, given: Text | None) -> tuple[_Said, _Said, _Said, str | None]:
    length = opening(chosen.messages, rejected.messages)
    if length == 0:
        if given is None:
            raise RowError(
                "chosen", "", "`chosen` and `rejected` begin with different messages, and there is no `prompt`"
            )
        return given, chosen, rejected, None
    asked = Chat(messages=chosen.messages[:length])
    repeated = given is None or any(message.content == given.text for message in asked.messages)
    left_over = None if repeated or given is None else given.text
    return asked, Chat(messages=chosen.messages[length:]), Chat(messages=rejected.messages[length:]), left_over


def opening(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """How many messages or characters two sequences begin with in common, as TRL's `extract_prompt` counts them."""
    shorter = min(len(chosen), len(rejected))
    length = next((index for index in range(shorter) if chosen[index] != rejected[index]), shorter)
    if length == len(chosen) == len(rejected):
        raise RowError(
            "rejected", "", "`chosen` and `rejected` are the same, so there is no telling where answers begin"
        )
    if length == shorter:
        return shorter - 1
    return length - 1 if length and chosen[length - 1] == " " else length


def _dump(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Comparison):
        return NotHeld(f"a {record.kind}")
    if record.choice not in ("a", "b"):
        return NotHeld("a comparison that is a tie" if record.choice == "tie" else "a comparison nobody could judge")
    chosen, rejected = record.outputs if record.choice == "a" else reversed(record.outputs)
    sides = written(record.context, chosen, rejected)
    if isinstance(sides, NotHeld):
        return sides
    row: Row = dict(zip(("prompt", "chosen", "rejected"), sides, strict=True))
    if record.strength is not None:
        row["strength"] = record.strength
    if record.aspect != "overall":
        row["aspect"] = record.aspect
    for column, output in (("chosen_model", chosen), ("rejected_model", rejected)):
        if output.producer is not None:
            row[column] = output.producer.model
    scores = {name: record.attributes.get(name) for name in _SCORES if name in record.attributes}
    reserved = _OWN | {name for name, score in scores.items() if not _is_number(score)}
    return write_margin(record, row, reserved)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


FORMAT = Format(
    name="trl-preference",
    description="TRL preference: prompt (or what both begin with), chosen and rejected, as text or messages",
    example={"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    columns=(("chosen", "rejected"),),
    parse=_parse,
    dump=_dump,
)
