"""A small instruction language: sort, count, format or describe digits, with many valid answers that differ in quality.

An instruction is a context such as ``sort 4 1 7 3:``, and a good answer of it ``1 3 4 7, low 1, high 7.``. The first part is
what was asked for, the others are details about the digits: the lowest, the highest, the first, and how many there are. A
description has details only. An answer may be a list, ``- 1 3 4 7 - low 1 - high 7.``, and may hold filler words such as
``well so``. How good it is says `utility`, a program that nobody who judges sees. Instructions to learn from and those to be
measured on never meet, see `plaudit.testbeds.splits`.

AlpacaFarm (Dubois et al., arXiv 2305.14387) trains and evaluates methods with a pool of simulated annotators, and asks whether
people would have ranked the methods alike. Here both, 13 simulated annotators and 8 others that stand for people, are logistic
comparators, see `plaudit.feedback.annotators`. Each values the utility's three terms, correctness in part less, and has habits
of its own: for long or short answers, for what is shown first, for lists. Nothing of the simulator was fitted to the people.

    u(x, y) = 10 (0.6 (1 - ignores) correctness + 0.2 form + 0.2 length) + lists * list + long * ln(1 + words)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from plaudit.feedback.annotators import Annotator, AnnotatorPool
from plaudit.feedback.examples import Demonstrated
from plaudit.feedback.records import Context, Output, Text
from plaudit.testbeds.scales import ramp
from plaudit.testbeds.splits import is_held_out
from plaudit.training.randomness import numpy_generator

Kind = Literal["sort", "count", "format", "describe"]

KINDS: tuple[Kind, ...] = ("sort", "count", "format", "describe")
SEPARATORS = "+/*"
FILLERS = ("so", "well", "ok", "sure")
DETAILS = ("low", "high", "first", "size")
FEWEST_ITEMS, MOST_ITEMS = 4, 6
CHARACTERS = "".join(sorted({*"".join((*KINDS, *FILLERS, *DETAILS)), *SEPARATORS, *"0123456789 ,.-:inby"}))
"""All that instructions and answers are written with."""

MAX_NEW_TOKENS = 48
"""Room for a sorted list of six digits with four details, fillers and the end, a character a token."""

CORRECTNESS, FORM, LENGTH = 0.6, 0.2, 0.2
"""What an answer is valued for; the weights sum to 1."""

ENOUGH_WORDS, MANY_WORDS, TOO_MANY_WORDS = 2, 12, 24
ENOUGH_DETAILS = 2

LABEL_FLIP = 0.25
"""AlpacaFarm's share of wrong labels in training; it evaluates without."""

SCALE = 10.0

#           long  first  lists  ignores  temperature
_SIMULATED = (
    ("plain",          0.0,  0.0,  0.0, 0.0, 1.0),
    ("thorough",       1.2,  0.1,  0.0, 0.0, 1.0),
    ("brief",         -0.8,  0.0,  0.0, 0.1, 1.0),
    ("lister",         0.6,  0.2,  1.2, 0.0, 1.5),
    ("first glance",   0.8,  0.9,  0.2, 0.3, 1.5),
    ("last glance",    0.8, -0.6,  0.0, 0.2, 1.5),
    ("careful",        0.2,  0.0, -0.2, 0.0, 0.6),
    ("skimmer",        1.6,  0.4,  0.5, 0.6, 1.5),
    ("stylist",        0.8,  0.1,  0.3, 0.8, 1.0),
    ("undecided",      0.6,  0.2,  0.0, 0.2, 3.0),
    ("talker",         2.0,  0.0, -0.3, 0.3, 1.2),
    ("proofreader",    0.0,  0.0, -0.8, 0.1, 0.8),
    ("hurried",        1.0,  0.6,  0.4, 0.5, 2.5),
)  # fmt: skip

_HUMAN = (
    ("ada",            1.6,  0.2, -0.6, 0.2, 1.3),
    ("ben",            2.8,  0.0, -0.2, 0.6, 1.5),
    ("chloe",         -0.6,  0.1, -1.6, 0.0, 1.1),
    ("dev",            1.2,  0.5, -0.8, 0.4, 2.0),
    ("esra",           2.2, -0.2,  1.0, 0.3, 1.4),
    ("femi",           0.8,  0.3, -1.8, 0.7, 1.4),
    ("gita",           3.4,  0.1, -0.6, 0.5, 1.6),
    ("hugo",           1.2,  0.0, -1.2, 0.1, 1.2),
)  # fmt: skip

SIMULATED_PRICE, HUMAN_PRICE = 1.0, 45.0

_INSTRUCTION = re.compile(
    r"(?:(?P<kind>sort|describe) (?P<items>\d(?: \d)+)|count (?P<counted>\d) in (?P<among>\d(?: \d)+)"
    r"|format (?P<formatted>\d(?: \d)+) by (?P<separator>[+/*])):"
)
_DETAIL = re.compile(r"(low|high|first|size) (\d)")
_MAIN = re.compile(r"\d(?:[ +/*]\d)*")


@dataclass(frozen=True, slots=True)
class Task:
    """An instruction, read."""

    kind: Kind
    items: tuple[int, ...]
    argument: str = ""  # the digit that is counted, or the separator

    @property
    def main(self) -> str:
        """What is asked for; nothing of a description."""
        match self.kind:
            case "sort":
                return " ".join(map(str, sorted(self.items)))
            case "count":
                return str(self.items.count(int(self.argument)))
            case "format":
                return self.argument.join(map(str, self.items))
            case "describe":
                return ""

    @property
    def details(self) -> Mapping[str, int]:
        """What is true of the digits."""
        numbers = (min(self.items), max(self.items), self.items[0], len(self.items))
        return dict(zip(DETAILS, numbers, strict=True))

    @property
    def text(self) -> str:
        """The instruction as it is asked."""
        digits = " ".join(map(str, self.items))
        match self.kind:
            case "count":
                return f"count {self.argument} in {digits}:"
            case "format":
                return f"format {digits} by {self.argument}:"
            case kind:
                return f"{kind} {digits}:"


def instructions(count: int, *, seed: int, held_out: bool = False) -> list[Context]:
    """So many different instructions to learn from, or to be measured on; the four kinds come in turn."""
    generator = numpy_generator(seed, "instructions", "held out" if held_out else "train")
    found: dict[str, None] = {}
    while len(found) < count:
        text = _drawn(KINDS[len(found) % len(KINDS)], generator).text
        if is_held_out(text) == held_out:
            found[text] = None
    return [Context(content=Text(text=text)) for text in found]


def read(context: Context) -> Task:
    """An instruction's parts.

    Raises:
        ValueError: the context is no instruction.
    """
    parts = _INSTRUCTION.fullmatch(context.text)
    if parts is None:
        raise ValueError(f"Expected an instruction such as 'sort 4 1 7 3:', got {context.text[:80]!r}")
    kind: Kind = parts["kind"] or ("count" if parts["counted"] else "format")  # type: ignore[assignment]
    digits = parts["items"] or parts["among"] or parts["formatted"]
    return Task(kind, tuple(map(int, digits.split())), parts["counted"] or parts["separator"] or "")


def features(context: Context, text: str) -> Mapping[str, float]:
    """What can be valued in an answer; each in [0, 1].

    correctness: 0.7 for what was asked for, plus 0.3 times the details: true ones minus false ones, over 2, in [0, 1]. A
        description has details only, and is all right with three true ones more than false ones. Of a detail that is
        said twice the first counts.
    form: the mean of three: whether it ends with a dot, the share of its parts that can be read, and the share of its
        parts that are no repetition.
    length: rises linearly to 1 at 2 words, stays 1 until 12, falls linearly to 0 at 24. A dash is a word.
    list: 1 for a list with dashes, else 0.
    """
    task, answer = read(context), _parts(text)
    if not text.split():
        return dict.fromkeys(("correctness", "form", "length", "list"), 0.0)
    words = len(text.split())
    is_main = [bool(_MAIN.fullmatch(part)) for part in answer.parts]
    claims = [_DETAIL.fullmatch(part) for part in answer.parts]
    readable = [main or claim is not None for main, claim in zip(is_main, claims, strict=True)]
    first = {claim[1]: int(claim[2]) for claim in reversed(claims) if claim is not None}
    true = sum(task.details[name] == value for name, value in first.items())
    balance = true - (len(first) - true)
    asked_for = next((part for part, main in zip(answer.parts, is_main, strict=True) if main), "")
    if task.kind == "describe":
        correctness = ramp(balance, 0, ENOUGH_DETAILS + 1)
    else:
        correctness = 0.7 * (asked_for == task.main) + 0.3 * ramp(balance, 0, ENOUGH_DETAILS)
    parts = max(1, len(answer.parts))
    return {
        "correctness": correctness,
        "form": (answer.ended + sum(readable) / parts + len(set(answer.parts)) / parts) / 3,
        "length": min(ramp(words, 0, ENOUGH_WORDS), ramp(words, TOO_MANY_WORDS, MANY_WORDS)),
        "list": float(answer.is_list),
    }


def utility(context: Context, output: Output) -> float:
    """The hidden utility of an answer, in [0, 1]: 0.6 correctness + 0.2 form + 0.2 length, see `features`.

    >>> utility(Context(content="sort 4 1 7 3:"), Output(content="1 3 4 7, low 1, high 7."))
    1.0

    Raises:
        ValueError: the context is no instruction.
    """
    given = features(context, output.text)
    return CORRECTNESS * given["correctness"] + FORM * given["form"] + LENGTH * given["length"]


def demonstrations(count: int, *, seed: int) -> list[Demonstrated]:
    """Instructions to learn from, with decent but imperfect answers of one writer."""
    return answered(instructions(count, seed=seed), seed=seed)


def answered(contexts: Rows[Context], *, seed: int) -> list[Demonstrated]:
    """Decent but imperfect answers of one writer.

    What was asked for is wrong in one answer of four, a detail in one of six. There are no to two details (of a description
    one to three); three answers of ten are lists, two of ten begin with filler words, and one of ten lacks its dot.
    """
    generator = numpy_generator(seed, "instructions", "writer")
    return [
        Demonstrated(context, Output(content=Text(text=_written(read(context), generator))), "instructions", ())
        for context in contexts
    ]


def simulated_pool(*, label_flip: float = LABEL_FLIP) -> AnnotatorPool:
    """The 13 simulated annotators; with label_flip 0 the pool that evaluates."""
    return _pool(_SIMULATED, SIMULATED_PRICE, label_flip)


def human_pool() -> AnnotatorPool:
    """The 8 that stand for people; their labels have no noise but their own."""
    return _pool(_HUMAN, HUMAN_PRICE, 0.0)


def single_judge() -> AnnotatorPool:
    """One judge of the simulated pool's average taste who never wavers, as AlpacaFarm's greedy GPT-4 is one."""
    habits = [row[1:] for row in _SIMULATED]
    long, _, lists, ignores, _ = (fmean(column) for column in zip(*habits, strict=True))
    return _pool((("greedy", long, 0.0, lists, ignores, 1e-6),), SIMULATED_PRICE, 0.0)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer's parts without filler words, whether it is a list, and whether it ends with a dot."""

    parts: tuple[str, ...]
    is_list: bool
    ended: bool


def _parts(text: str) -> _Answer:
    ended = text.endswith(".")
    words = [word for word in text.removesuffix(".").split() if word.rstrip(",") not in FILLERS]
    plain = " ".join(words)
    is_list = plain.startswith("- ")
    split = plain.removeprefix("- ").split(" - ") if is_list else plain.split(", ")
    return _Answer(tuple(part for part in split if part), is_list, ended)


def _pool(
    people: Rows[tuple[str, float, float, float, float, float]], price: float, label_flip: float
) -> AnnotatorPool:
    annotators = tuple(
        Annotator(
            name, {"correctness": SCALE * CORRECTNESS * (1 - ignores), "form": SCALE * FORM, "length": SCALE * LENGTH,
                   "list": lists},
            position_bias=first, length_bias=long, temperature=temperature, price=price,
        )
        for name, long, first, lists, ignores, temperature in people
    )  # fmt: skip
    return AnnotatorPool(annotators, features, label_flip)


def _drawn(kind: Kind, generator: np.random.Generator) -> Task:
    """An instruction; what is counted is there, among three different digits at most."""
    number = int(generator.integers(FEWEST_ITEMS, MOST_ITEMS + 1))
    if kind == "count":
        three = generator.permutation(10)[:3]
        items = tuple(three[generator.integers(3, size=number)].tolist())
        return Task(kind, items, str(items[int(generator.integers(number))]))
    items = tuple(generator.integers(10, size=number).tolist())
    return Task(kind, items, SEPARATORS[int(generator.integers(3))] if kind == "format" else "")


def _written(task: Task, generator: np.random.Generator) -> str:
    number = int(generator.integers(3)) + (task.kind == "describe")
    chosen = generator.permutation(len(DETAILS))[:number]
    details = [f"{DETAILS[place]} {_slipped(task.details[DETAILS[place]], 1 / 6, generator)}" for place in chosen]
    main = [] if task.kind == "describe" else [_main_with_slip(task, 0.25, generator)]
    is_list, talks, ends = (float(generator.random()) < share for share in (0.3, 0.2, 0.9))
    filler = [FILLERS[i] for i in generator.integers(len(FILLERS), size=int(generator.integers(1, 3)))] if talks else []
    parts = [*main, *details]
    body = " ".join(f"- {part}" for part in parts) if is_list else ", ".join(parts)
    return " ".join([*filler, body]) + "." * ends


def _main_with_slip(task: Task, chance: float, generator: np.random.Generator) -> str:
    """What was asked for, or something near it: a wrong count, or one of the digits changed."""
    if float(generator.random()) >= chance:
        return task.main
    places = range(0, len(task.main), 2)
    place = places[int(generator.integers(len(places)))]
    return f"{task.main[:place]}{_slipped(int(task.main[place]), 1, generator)}{task.main[place + 1 :]}"


def _slipped(value: int, chance: float, generator: np.random.Generator) -> int:
    """The digit, or by chance one of its neighbours."""
    if float(generator.random()) >= chance:
        return value
    return value + 1 if value == 0 or (value < 9 and float(generator.random()) < 0.5) else value - 1
