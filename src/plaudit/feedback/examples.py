"""Training examples: what views make of feedback records, and all that methods see of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from plaudit.feedback.records import Context, Output


@dataclass(frozen=True, slots=True)
class Pair:
    """`chosen` is better than `rejected` (or as good, when `tie`); `margin` >= 0 says by how much where somebody said."""

    context: Context
    chosen: Output
    rejected: Output
    source: str
    record_ids: tuple[str, ...]
    margin: float | None = None
    tie: bool = False


@dataclass(frozen=True, slots=True)
class Labelled:
    """One output that is desirable or not."""

    context: Context
    output: Output
    desirable: bool
    source: str
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RankedList:
    """Outputs of one context with graded gains (up is better, equal gains are ties)."""

    context: Context
    outputs: tuple[Output, ...]
    gains: tuple[float, ...]
    source: str
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens `start` up to, not including, `end` of an output, with what is marked there."""

    start: int
    end: int
    type: str
    severity: float


@dataclass(frozen=True, slots=True)
class Spanned:
    """One output as token ids, with its marked parts in token positions."""

    context: Context
    output: Output
    token_ids: tuple[int, ...]
    spans: tuple[TokenSpan, ...]
    source: str
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """An output to imitate."""

    context: Context
    output: Output
    source: str
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Posed:
    """A context to sample outputs of."""

    context: Context
    record_ids: tuple[str, ...] = ()


ExampleT = TypeVar("ExampleT", Pair, Labelled, RankedList, Spanned, Demonstrated, Posed)


@dataclass(frozen=True, slots=True)
class View(Generic[ExampleT]):
    """The examples of a view, and how many records (or parts of them) it left out, by reason."""

    examples: tuple[ExampleT, ...]
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def record_ids(self) -> tuple[str, ...]:
        """The ids of all records that the examples come from, each once, in order."""
        return tuple(dict.fromkeys(record_id for example in self.examples for record_id in example.record_ids))
