r"""The format `hh-rlhf`: two transcripts of a dialogue that part at an answer (Bai et al. 2022, arXiv 2204.05862).

    {"chosen": "\n\nHuman: Capital of France?\n\nAssistant: Paris.",
     "rejected": "\n\nHuman: Capital of France?\n\nAssistant: Lyon."}

Each transcript is read as a chat of the roles user and assistant; the turns that both begin with are the context, as
in TRL's `extract_prompt`, and the turns after them are the outputs. One space after "Human:" and "Assistant:" belongs
to the mark, everything else to the turn. A text is written as one turn; chats with other roles, or whose turns
contain a mark, are not held. Of a record, only the comparison goes out: no source, time or attributes.
"""

from __future__ import annotations

import re

from plaudit.feedback.formats.format import Format, NotHeld
from plaudit.feedback.formats.margin import as_chat, read_margin, written
from plaudit.feedback.formats.rows import Row, RowContext, RowError, content, not_empty, text
from plaudit.feedback.formats.trl_preference import opening
from plaudit.feedback.records import Chat, Comparison, Context, Feedback, Message, Output

_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_MARKS = {role: mark for mark, role in _ROLES.items()}
_OWN = frozenset({"chosen", "rejected"})


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    asked, chosen, rejected = _sides(row)
    outputs = (Output(content=chosen), Output(content=rejected))
    return [Comparison(context=Context(content=asked), outputs=outputs, choice="a", **read_margin(row, context, _OWN))]


def _sides(row: Row) -> tuple[Chat, Chat, Chat]:
    chosen, rejected = (_turns(text(row, column), column) for column in ("chosen", "rejected"))
    length = opening(chosen, rejected)
    if length == 0:
        raise RowError("rejected", row["rejected"][:60], "`chosen` and `rejected` are answers to different dialogues")
    for column, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[length].role != "assistant":
            reason = "the transcripts part at a turn of the human; expected them to part at an answer"
            raise RowError(column, turns[length].content[:60], reason)
        not_empty(Chat(messages=turns[length:]), column)
    return tuple(Chat(messages=turns) for turns in (chosen[:length], chosen[length:], rejected[length:]))  # type: ignore[return-value]


def _turns(transcript: str, column: str) -> tuple[Message, ...]:
    before, *pieces = _MARK.split(transcript)
    if before or not pieces:
        raise RowError(column, transcript[:60], r'expected a transcript that begins with "\n\nHuman:"')
    return tuple(
        Message(role=_ROLES[mark], content=said.removeprefix(" "))
        for mark, said in zip(pieces[::2], pieces[1::2], strict=True)
    )


def _dump(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Comparison):
        return NotHeld(f"a {record.kind}")
    if record.choice not in ("a", "b"):
        return NotHeld("a comparison that is a tie" if record.choice == "tie" else "a comparison nobody could judge")
    ordered = record.outputs if record.choice == "a" else record.outputs[::-1]
    said = written(record.context, *ordered)
    if isinstance(said, NotHeld):
        return said
    roles = ("user", "assistant", "assistant")
    sides = tuple(as_chat(content(side, role), role) for side, role in zip(said, roles, strict=True))
    if any(message.role not in _MARKS for side in sides for message in side.messages):
        return NotHeld("a chat with other roles than user and assistant")
    asked, chosen, rejected = (_transcript(side) for side in sides)
    row = {"chosen": asked + chosen, "rejected": asked + rejected}
    try:
        comes_back = _sides(row) == sides
    except RowError:
        comes_back = False
    return row if comes_back else NotHeld("a chat that a transcript would divide otherwise")


def _transcript(chat: Chat) -> str:
    return "".join(f"\n\n{_MARKS[message.role]}: {message.content}" for message in chat.messages)


def _recognises(row: Row) -> bool:
    return all(isinstance(row.get(column), str) and _MARK.match(row[column]) for column in _OWN)


FORMAT = Format(
    name="hh-rlhf",
    description='Anthropic HH-RLHF: chosen and rejected transcripts with "Human:" and "Assistant:" turns',
    example={
        "chosen": "\n\nHuman: Capital of France?\n\nAssistant: Paris.",
        "rejected": "\n\nHuman: Capital of France?\n\nAssistant: Lyon.",
    },
    columns=(("chosen", "rejected"),),
    parse=_parse,
    dump=_dump,
    recognises=_recognises,
)
