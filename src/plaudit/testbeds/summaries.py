"""Records of facts and their summaries: a small world in which what a summary is worth is known exactly.

A record is a context such as ``keapFd=``: 6 to 12 facts, each a letter for its kind (a kind occurs at most once), a capital
where the fact is large. A summary repeats the facts that matter and leaves the others out, ``adF``. What matters is a rule
over kinds and sizes that no model is told. Writers of references follow it in part: they overlook some important facts, add
striking ones that do not matter, and mistake a size now and then. Readers, who compare summaries, go by `utility` with noise.
So there is something to learn from comparisons that imitation of references does not teach.

Records are made on the spot; which of the two sets one belongs to is a hash of its text, so what a model learned from and what
it is measured on never meet, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from plaudit.feedback.annotators import Annotator, AnnotatorPool
from plaudit.feedback.examples import Demonstrated
from plaudit.feedback.records import Context, Output, Text
from plaudit.rewards import FunctionReward
from plaudit.training.randomness import numpy_generator

FEWEST_FACTS, MOST_FACTS = 6, 12
KINDS = "abcdefghijklmnop"
CHARACTERS = f"{KINDS}{KINDS.upper()}="
"""All that records and summaries are written with."""

MAX_NEW_TOKENS = MOST_FACTS + 1
"""Room for a summary that repeats the longest record, and its end, a character a token."""

GRAVE, GRADED, STRIKING = "abcd", "efghij", "kl"
"""Kinds that always matter; that matter much where they are large; that never do, but writers like. The rest are trivia."""

IMPORTANT, SLIGHT = 3.0, 1.0
"""Importance of facts that matter, and of graded ones that are not large."""

LENGTH_COST, FALSE_COST = 0.12, 0.25
"""What each thing said costs in utility, and what it costs on top where it is false."""

NOISE = 0.1
"""The temperature of a reader's choice between two summaries, in units of utility."""

_KEPT = {"grave": 0.8, "graded": 0.35, "striking": 0.5, "trivia": 0.1}  # how likely a writer is to state a fact
_MISTAKEN = 0.05  # stated facts of a reference whose size is wrong
_LARGE = 0.3  # of all facts
_HELD_OUT_SHARE = 8  # one record in so many is held out
_BLOCK = 4096  # records drawn at once
_RECORD = re.compile(rf"(?i:[{KINDS}]){{{FEWEST_FACTS},{MOST_FACTS}}}=")


def records(count: int, *, seed: int, held_out: bool = False) -> list[Context]:
    """So many different records to learn from, or to be measured on; each has a fact that matters."""
    generator = numpy_generator(seed, "summaries", "held out" if held_out else "train")
    found: dict[str, None] = {}
    while len(found) < count:
        found.update((text, None) for text in _drawn(generator) if _is_held_out(text) == held_out)
    return [Context(content=Text(text=text)) for text in islice(found, count)]


def importance(fact: str) -> float:
    """How much a fact matters: the hidden rule.

    >>> [importance(fact) for fact in "aeEKp"]
    [3.0, 1.0, 3.0, 0.0, 0.0]
    """
    kind = fact.lower()
    if kind in GRAVE or (kind in GRADED and fact.isupper()):
        return IMPORTANT
    return SLIGHT if kind in GRADED else 0.0


def ideal(context: Context) -> str:
    """The facts whose importance is worth their length, by their kinds: no summary has a higher utility.

    >>> ideal(Context(content="keapFd="))
    'adF'

    Raises:
        ValueError: the context is no record.
    """
    stated = facts(context)
    total = sum(map(importance, stated))
    return "".join(fact for fact in _by_kind(stated) if importance(fact) > LENGTH_COST * total)


def written(context: Context, *, seed: int) -> str:
    """The reference that a writer made: facts by the writers' habits, in the order of their kinds, with a slip now and then.

    It depends on the seed and the record alone. An empty one is written again.

    Raises:
        ValueError: the context is no record.
    """
    said, generator = "", numpy_generator(seed, "summaries", "writer", context.text)
    while not said:
        for fact in _by_kind(facts(context)):
            states, mistakes = generator.random(2) < (_KEPT[_sort(fact)], _MISTAKEN)
            said += (fact.swapcase() if mistakes else fact) if states else ""
    return said


def demonstrations(count: int, *, seed: int) -> list[Demonstrated]:
    """Records to learn from, with the references that writers made."""
    return [
        Demonstrated(context, Output(content=Text(text=written(context, seed=seed))), source="writer", record_ids=())
        for context in records(count, seed=seed)
    ]


def utility(context: Context, output: Output) -> float:
    r"""What a summary is worth: ``covered / total - 0.12 said - 0.25 false``.

    ``covered`` is the importance of the record's facts that the summary states, ``total`` that of all its facts, ``said`` the
    number of the summary's characters, and ``false`` that of those which are no fact of the record, a wrong size included. A
    fact that is said twice is covered once and costs twice; an empty summary is worth 0.

    >>> utility(Context(content="keapFd="), Output(content="adF"))  # 9 of 10, three facts
    0.54

    Raises:
        ValueError: the context is no record.
    """
    stated = facts(context)
    total = sum(map(importance, stated))
    said = output.text
    covered = sum(map(importance, set(said) & set(stated)))
    false = sum(fact not in stated for fact in said)
    return covered / total - LENGTH_COST * len(said) - FALSE_COST * false


def judge() -> FunctionReward:
    """`utility` as a reward: the gold one."""
    return FunctionReward(utility, name="utility")


def readers() -> AnnotatorPool:
    """People who compare summaries by utility with logistic noise: ``P(a over b) = sigmoid((u_a - u_b) / NOISE)``."""
    reader = Annotator("reader", {"utility": 1.0}, temperature=NOISE)
    return AnnotatorPool(
        (reader,), lambda context, text: {"utility": utility(context, Output(content=Text(text=text)))}
    )


def facts(context: Context) -> list[str]:
    """The facts of a record, in its order.

    Raises:
        ValueError: the context is no record.
    """
    if _RECORD.fullmatch(context.text) is None:
        raise ValueError(f"Expected a record such as keapFd=, got {context.text[:80]!r}")
    return list(context.text[:-1])


def _drawn(generator: np.random.Generator) -> Iterator[str]:
    """The next records, of both sets; some may be equal. How many are wanted in all does not change which come first."""
    counts = generator.integers(FEWEST_FACTS, MOST_FACTS + 1, size=_BLOCK).tolist()
    kinds = generator.permuted(np.tile(np.arange(len(KINDS)), (_BLOCK, 1)), axis=1).tolist()
    large = (generator.random((_BLOCK, len(KINDS))) < _LARGE).tolist()
    for count, own_kinds, own_large in zip(counts, kinds, large, strict=True):
        cases = islice(zip(own_kinds, own_large, strict=True), count)
        stated = [KINDS[kind].upper() if is_large else KINDS[kind] for kind, is_large in cases]
        if any(importance(fact) == IMPORTANT for fact in stated):
            yield f"{''.join(stated)}="


def _is_held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % _HELD_OUT_SHARE == 0


def _sort(fact: str) -> str:
    """What a writer sees in a fact; the size of a graded one escapes them."""
    for name, kinds in (("grave", GRAVE), ("graded", GRADED), ("striking", STRIKING)):
        if fact.lower() in kinds:
            return name
    return "trivia"


def _by_kind(stated: list[str]) -> list[str]:
    return sorted(stated, key=str.lower)
