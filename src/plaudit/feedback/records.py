"""What a source can say about a model's outputs: one immutable, self-contained record per statement.

A record holds the context that the model was asked, the outputs that the statement is about (with the model, prompt and
sampler that made them), the source that made it, and the statement itself. Contexts and outputs are content-addressed, so
the same question or answer in many records is recognised as one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time as clock
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Value(BaseModel):
    """A frozen value that refuses unknown fields, so that a misspelt field is an error and never a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- content: what a context or an output is made of ---------------------------------------------------------------


class Text(_Value):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class Message(_Value):
    """One turn of a chat."""

    role: Annotated[str, Field(min_length=1)]
    content: str


class Chat(_Value):
    """The turns of a chat; as an output, the turns that the model added."""

    type: Literal["chat"] = "chat"
    messages: Annotated[tuple[Message, ...], Field(min_length=1)]


class Tokens(_Value):
    """Token ids as they were sampled, with the tokenizer they belong to and the text for people to read."""

    type: Literal["tokens"] = "tokens"
    ids: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...]
    tokenizer: Name
    text: str


class Item(_Value):
    """An item of a catalogue: a product, a film, a document."""

    type: Literal["item"] = "item"
    id: Name


class File(_Value):
    """A file by the hash of its bytes; the bytes lie in the store's file folder."""

    type: Literal["file"] = "file"
    sha256: Sha256
    media_type: Annotated[str, Field(pattern=r"^[\w.+-]+/[\w.+-]+$")]
    name: str | None = None


def _shorthand(value: Any) -> Any:
    """Let a string stand for a text, and a list of messages for a chat."""
    if isinstance(value, str):
        return {"type": "text", "text": value}
    if isinstance(value, list | tuple):
        return {"type": "chat", "messages": value}
    return value


Content = Annotated[
    Annotated[Text | Chat | Tokens | Item | File, Field(discriminator="type")], BeforeValidator(_shorthand)
]


class Producer(_Value):
    """What made an output: the model, the prompt or template around the context, and the sampler's settings."""

    model: Name
    prompt: str | None = None
    sampler: dict[str, JsonValue] = {}


class _Addressed(_Value):
    @cached_property
    def digest(self) -> str:
        """The address: 32 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return _digest(self.model_dump(mode="json"))

    @property
    def text(self) -> str:
        """The content as a person reads it."""
        return readable(self.content)  # type: ignore[attr-defined]


class Context(_Addressed):
    """What a policy is asked. `attributes` holds facts about it, such as the user's group or the topic."""

    content: Content
    attributes: dict[str, JsonValue] = {}


class Output(_Addressed):
    """What a policy answered, and what made it."""

    content: Content
    producer: Producer | None = None


class Source(_Value):
    """Who said it."""

    name: Name
    kind: Literal["person", "user", "judge", "program", "simulated", "unknown"] = "unknown"


# --- the statements ------------------------------------------------------------------------------------------------


def new_record_id() -> str:
    """A UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits, so ids sort by time of making."""
    value = (clock.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def _now() -> datetime:
    return datetime.now(UTC)


class FeedbackBase(_Value):
    """The fields that every kind of feedback shares.

    `client_id` makes ingestion idempotent: the same source, client id and statement is stored once. `shown` lists the
    indices of `outputs` in the order in which the source saw them. `supersedes` names an earlier record that this one
    corrects; the earlier one stays in the store and leaves the views.
    """

    id: Annotated[str, Field(default_factory=new_record_id, pattern=r"^[0-9A-Za-z_.:-]{1,128}$")]
    source: Source
    context: Context
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)]
    shown: tuple[Index, ...] | None = None
    time: Annotated[AwareDatetime, Field(default_factory=_now)]
    client_id: Name | None = None
    supersedes: str | None = None
    attributes: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _shown_is_an_order_of_the_outputs(self) -> Self:
        if self.shown is not None and sorted(self.shown) != list(range(len(self.outputs))):
            raise ValueError(
                f"shown: expected an order of the outputs 0 to {len(self.outputs) - 1}, got {list(self.shown)}"
            )
        return self

    @cached_property
    def statement_digest(self) -> str:
        """The address of what was said: all but the record's own id and time, which differ when a client retries."""
        return _digest(self.model_dump(mode="json", exclude={"id", "time"}))

    def _expect_outputs(self, count: int) -> None:
        if len(self.outputs) != count:
            raise ValueError(
                f"outputs: a {self.kind} is about {count} output{'s' * (count > 1)}, got {len(self.outputs)}"  # type: ignore[attr-defined]
            )

    def _expect_index(self, field: str, index: int) -> None:
        if index >= len(self.outputs):
            raise ValueError(f"{field}: expected an index of the {len(self.outputs)} outputs, got {index}")


class Comparison(FeedbackBase):
    """Which of two outputs is better. `strength` in (0, 1] says how clearly; None means that nobody said."""

    kind: Literal["comparison"] = "comparison"
    choice: Literal["a", "b", "tie", "cannot_judge"]
    strength: Probability | None = None
    aspect: Name = "overall"

    @model_validator(mode="after")
    def _two_outputs(self) -> Self:
        self._expect_outputs(2)
        return self


class Ranking(FeedbackBase):
    """Outputs in tiers, best first; outputs in one tier are tied, outputs in no tier were not ranked."""

    kind: Literal["ranking"] = "ranking"
    tiers: Annotated[tuple[Annotated[tuple[Index, ...], Field(min_length=1)], ...], Field(min_length=1)]
    aspect: Name = "overall"

    @model_validator(mode="after")
    def _tiers_are_disjoint(self) -> Self:
        ranked = [index for tier in self.tiers for index in tier]
        for index in ranked:
            self._expect_index("tiers", index)
        if len(set(ranked)) != len(ranked):
            raise ValueError(f"tiers: expected each output at most once, got {[list(tier) for tier in self.tiers]}")
        return self


class Rating(FeedbackBase):
    """A value for one output on a scale from `low` to `high`; up is better."""

    kind: Literal["rating"] = "rating"
    value: Finite
    low: Finite
    high: Finite
    aspect: Name = "overall"

    @model_validator(mode="after")
    def _value_lies_on_the_scale(self) -> Self:
        self._expect_outputs(1)
        if not self.low < self.high:
            raise ValueError(f"low, high: expected low < high, got {self.low} and {self.high}")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"value: expected a value from {self.low} to {self.high}, got {self.value}")
        return self


class Reaction(FeedbackBase):
    """A thumb or an emoji on one output. Who did not react said nothing: the absence of a record is not a negative.

    `sentiment` is 1, -1 or 0; left out, it is read from the symbol where the symbol is known and stays None otherwise.
    """

    kind: Literal["reaction"] = "reaction"
    symbol: Annotated[str, Field(min_length=1, max_length=64)]
    sentiment: Literal[-1, 0, 1] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_the_symbol(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("sentiment") is None and isinstance(data.get("symbol"), str):
            return {**data, "sentiment": SENTIMENTS.get(data["symbol"])}
        return data

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        self._expect_outputs(1)
        return self


SENTIMENTS: Mapping[str, int] = {
    **dict.fromkeys(("thumb_up", "👍", "+1", "like", "heart", "❤", "❤️", "🎉", "😀", "😄", "😍", "👏", "💯"), 1),
    **dict.fromkeys(("thumb_down", "👎", "-1", "dislike", "😕", "😠", "😡", "🤮", "😞"), -1),
    **dict.fromkeys(("😐", "🤷"), 0),
}


class Critique(FeedbackBase):
    """What is good or bad about one output, in words."""

    kind: Literal["critique"] = "critique"
    critique: Annotated[str, Field(min_length=1)]
    aspect: Name = "overall"

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        self._expect_outputs(1)
        return self


class Span(_Value):
    """Characters `start` up to, not including, `end` of an output's text, with the type of what is marked there."""

    start: Index
    end: Annotated[int, Field(gt=0)]
    type: Name
    severity: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    comment: str | None = None


class Spans(FeedbackBase):
    """Marked parts of one output's text. No spans at all says that the source read it and found nothing to mark."""

    kind: Literal["spans"] = "spans"
    spans: tuple[Span, ...]

    @model_validator(mode="after")
    def _spans_lie_in_the_text(self) -> Self:
        self._expect_outputs(1)
        length = len(self.outputs[0].text)
        for number, span in enumerate(self.spans):
            if not span.start < span.end <= length:
                raise ValueError(
                    f"spans[{number}]: expected 0 <= start < end <= {length}, the output's length in characters, "
                    f"got start {span.start} and end {span.end}"
                )
        return self


class Edit(FeedbackBase):
    """A better version of one output, written by the source."""

    kind: Literal["edit"] = "edit"
    edited: Content

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        self._expect_outputs(1)
        return self


class Demonstration(FeedbackBase):
    """The source's own answer: `outputs` holds it, usually without a producer."""

    kind: Literal["demonstration"] = "demonstration"

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        self._expect_outputs(1)
        return self


class Verdict(FeedbackBase):
    """What a program or judge found of one output: pass, fail, or could not judge (which is never a fail)."""

    kind: Literal["verdict"] = "verdict"
    outcome: Literal["pass", "fail", "could_not_judge"]
    stage: Name | None = None
    details: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        self._expect_outputs(1)
        return self


class Exposed(_Value):
    """What happened to one output of a list: whether and where it was shown, and what the user did.

    `position` counts from 0 at the top; `propensity` is the probability with which the logging policy showed it there.
    """

    output: Index
    shown: bool = True
    position: Index | None = None
    propensity: Probability | None = None
    clicked: bool = False
    dwell_s: Annotated[float, Field(ge=0.0)] | None = None

    @model_validator(mode="after")
    def _only_what_was_shown_can_be_clicked(self) -> Self:
        if not self.shown and (self.clicked or self.dwell_s is not None or self.position is not None):
            raise ValueError("shown: an output that was not shown has no position, click or dwell time")
        return self


class Exposure(FeedbackBase):
    """What a user was shown and clicked. What was not shown was not disliked."""

    kind: Literal["exposure"] = "exposure"
    items: Annotated[tuple[Exposed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _items_are_outputs(self) -> Self:
        for item in self.items:
            self._expect_index("items", item.output)
        if len({item.output for item in self.items}) != len(self.items):
            raise ValueError("items: expected each output at most once")
        return self


Feedback = Annotated[
    Comparison | Ranking | Rating | Reaction | Critique | Spans | Edit | Demonstration | Verdict | Exposure,
    Field(discriminator="kind"),
]
KINDS: Mapping[str, type[FeedbackBase]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        Comparison, Ranking, Rating, Reaction, Critique, Spans, Edit, Demonstration, Verdict, Exposure,
    )
}  # fmt: skip

_FEEDBACK: TypeAdapter[Any] = TypeAdapter(Feedback)


def parse_feedback(data: Mapping[str, Any]) -> Any:
    """Validate one record given as a mapping; raises pydantic's `ValidationError`."""
    return _FEEDBACK.validate_python(data)


def parse_feedback_json(data: str | bytes) -> Any:
    """Validate one record given as JSON; raises pydantic's `ValidationError`."""
    return _FEEDBACK.validate_json(data)


def explain(error: ValidationError) -> list[tuple[str, str, str]]:
    """A validation error as (field, value, reason) rows; values are cut at 120 characters."""
    rows = []
    for item in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in item["loc"]) or "record"
        value = repr(item["input"])
        rows.append((field, value if len(value) <= 120 else value[:117] + "...", item["msg"]))
    return rows


def readable(content: Text | Chat | Tokens | Item | File) -> str:
    """A content as text: what spans count characters in, and what reports show."""
    match content:
        case Text(text=text) | Tokens(text=text):
            return text
        case Chat(messages=messages):
            return "\n".join(message.content for message in messages)
        case Item(id=identifier):
            return identifier
        case File(name=name, sha256=sha256):
            return name or sha256


def _digest(value: JsonValue) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
