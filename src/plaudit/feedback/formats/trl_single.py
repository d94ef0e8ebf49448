"""TRL's data sets with one output a row: `trl-unpaired`, `trl-prompt-completion` and `trl-language-modeling`.

`trl-unpaired` is a thumb, a reaction:

    {"prompt": "The sky is", "completion": " blue.", "label": true}

`trl-prompt-completion` is a demonstration:

    {"prompt": "The sky is", "completion": " blue."}

`trl-language-modeling` is a demonstration in one list; the output is what follows the last turn of the user or the
system, which must end with the assistant's:

    {"messages": [{"role": "user", "content": "Colour of the sky?"}, {"role": "assistant", "content": "Blue."}]}

`prompt` and `completion` may be lists of messages too. Optional columns: `model`, `symbol` (of a reaction that is no
thumb; its sentiment is the label) and those of `margin`. A text beside a chat is written as a message.
"""

from __future__ import annotations

from typing import Any

from plaudit.feedback.formats.format import Format, NotHeld
from plaudit.feedback.formats.margin import as_chat, messages, model_column, read_margin, write_margin, written
from plaudit.feedback.formats.rows import Row, RowContext, RowError, completion, content, listed, optional_text, prompt
from plaudit.feedback.formats.rows import chat as read_chat
from plaudit.feedback.records import Chat, Context, Demonstration, Feedback, Output, Reaction

_THUMBS = {True: "thumb_up", False: "thumb_down"}
_LABELS = {"true": True, "1": True, "false": False, "0": False}
PAIR_COLUMNS = frozenset({"prompt", "completion", "model"})
_UNPAIRED_COLUMNS = PAIR_COLUMNS | {"label", "symbol"}
_CHAT_COLUMNS = frozenset({"messages", "model"})


def read_pair(row: Row, context: RowContext) -> dict[str, Any]:
    """The context and the output of a row with `prompt`, `completion` and perhaps `model`."""
    output = Output(content=completion(row, "completion", flat=context.flat), producer=model_column(row, "model"))
    return {"context": Context(content=prompt(row, "prompt", flat=context.flat)), "outputs": (output,)}


def write_pair(record: Feedback) -> Row | NotHeld:
    """The columns that `read_pair` reads."""
    (output,) = record.outputs
    sides = written(record.context, output)
    if isinstance(sides, NotHeld):
        return sides
    return dict(zip(("prompt", "completion"), sides, strict=True)) | _model(output)


def _model(output: Output) -> Row:
    return {} if output.producer is None else {"model": output.producer.model}


# --- unpaired preference: a thumb ----------------------------------------------------------------------------------


def _parse_unpaired(row: Row, context: RowContext) -> list[Feedback]:
    pair, margin = read_pair(row, context), read_margin(row, context, _UNPAIRED_COLUMNS)
    label = _label(row, context.flat)
    symbol = optional_text(row, "symbol") or _THUMBS[label]
    return [Reaction(symbol=symbol, sentiment=1 if label else -1, **pair, **margin)]


def _label(row: Row, flat: bool) -> bool:
    value = row.get("label")
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if flat and isinstance(value, str) and value.strip().lower() in _LABELS:
        return _LABELS[value.strip().lower()]
    raise RowError("label", value, "expected true (good) or false (bad)" if "label" in row else "the column is missing")


def _dump_unpaired(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Reaction):
        return NotHeld(f"a {record.kind}")
    if record.sentiment not in (1, -1):
        return NotHeld("a reaction that is neither good nor bad")
    row = write_pair(record)
    if isinstance(row, NotHeld):
        return row
    row["label"] = record.sentiment == 1
    if record.symbol != _THUMBS[row["label"]]:
        row["symbol"] = record.symbol
    return write_margin(record, row, _UNPAIRED_COLUMNS)


# --- prompt and completion: a demonstration ------------------------------------------------------------------------


def _parse_completion(row: Row, context: RowContext) -> list[Feedback]:
    return [Demonstration(**read_pair(row, context), **read_margin(row, context, PAIR_COLUMNS))]


def _dump_completion(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Demonstration):
        return NotHeld(f"a {record.kind}")
    row = write_pair(record)
    return row if isinstance(row, NotHeld) else write_margin(record, row, PAIR_COLUMNS)


# --- one list of messages: a demonstration -------------------------------------------------------------------------


def _parse_messages(row: Row, context: RowContext) -> list[Feedback]:
    asked, answered = _split(read_chat(listed(row, "messages", flat=context.flat), "messages"))
    output = Output(content=answered, producer=model_column(row, "model"))
    margin = read_margin(row, context, _CHAT_COLUMNS)
    return [Demonstration(context=Context(content=asked), outputs=(output,), **margin)]


def _split(chat: Chat) -> tuple[Chat, Chat]:
    """Divide a chat after the last turn that the model did not add."""
    roles = [message.role for message in chat.messages]
    asked = max((index + 1 for index, role in enumerate(roles) if role in ("user", "system", "developer")), default=0)
    if asked == 0:
        raise RowError("messages", roles, "expected a turn of the user or the system before the answer")
    if roles[-1] != "assistant":
        raise RowError("messages", roles, "expected the assistant's turn last, which is the answer")
    if not chat.messages[-1].content:
        raise RowError(f"messages[{len(roles) - 1}].content", "", "an output must not be empty")
    return Chat(messages=chat.messages[:asked]), Chat(messages=chat.messages[asked:])


def _dump_messages(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Demonstration):
        return NotHeld(f"a {record.kind}")
    (output,) = record.outputs
    sides = written(record.context, output)
    if isinstance(sides, NotHeld):
        return sides
    asked, answered = (
        as_chat(content(side, role), role) for side, role in zip(sides, ("user", "assistant"), strict=True)
    )
    whole = Chat(messages=asked.messages + answered.messages)
    try:
        if _split(whole) != (asked, answered):
            return NotHeld("a chat in which the answer cannot be told from the context")
    except RowError:
        return NotHeld("a chat in which the answer cannot be told from the context")
    return write_margin(record, {"messages": messages(whole)} | _model(output), _CHAT_COLUMNS)


UNPAIRED = Format(
    name="trl-unpaired",
    description="TRL unpaired preference: prompt, completion and label (true is good)",
    example={"prompt": "The sky is", "completion": " blue.", "label": True},
    columns=(("prompt", "completion", "label"),),
    parse=_parse_unpaired,
    dump=_dump_unpaired,
)
PROMPT_COMPLETION = Format(
    name="trl-prompt-completion",
    description="TRL prompt-completion: demonstrations as text or messages",
    example={"prompt": "The sky is", "completion": " blue."},
    columns=(("prompt", "completion"),),
    parse=_parse_completion,
    dump=_dump_completion,
)
LANGUAGE_MODELING = Format(
    name="trl-language-modeling",
    description="TRL conversational language modelling: a list of messages that ends with the answer",
    example={
        "messages": [
            {"role": "user", "content": "Colour of the sky?"},
            {"role": "assistant", "content": "Blue."},
        ]
    },
    columns=(("messages",),),
    parse=_parse_messages,
    dump=_dump_messages,
)
