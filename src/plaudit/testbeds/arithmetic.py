"""Chained integer arithmetic modulo 97, of two to four steps from left to right, with an exact verifier.

A problem is a context such as ``12+9*3-7=``, and its worked answer the result of every step, ``21;63;56``. Only the last
number is judged. A problem starts from 0 to 96 in two digits; a step adds or subtracts 1 to 9, or doubles or triples, so that a
small decoder can learn it in a minute or two. Problems are made on the spot; which of the two sets one belongs to is a hash of
its text, so what a model learned from and what it is measured on never meet, whatever the seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, islice

import numpy as np

from plaudit.feedback.examples import Demonstrated
from plaudit.feedback.records import Context, Output, Text
from plaudit.rewards import FunctionReward
from plaudit.testbeds.splits import is_held_out
from plaudit.training.randomness import numpy_generator

MODULUS = 97
FEWEST_STEPS, MOST_STEPS = 2, 4
CHARACTERS = "0123456789+-*=;"
"""All that problems and worked answers are written with."""

MAX_NEW_TOKENS = 3 * MOST_STEPS
"""Room for the longest worked answer and its end, a character a token."""

_BLOCK = 4096  # problems drawn at once
_PROBLEM = re.compile(r"(\d+)((?:[-+*]\d+)+)=")
_STEP = re.compile(r"([-+*])(\d+)")
_ANSWER = re.compile(r"(?:\d+;)*(\d+)")


def problems(count: int, *, seed: int, held_out: bool = False) -> list[Context]:
    """So many different problems to learn from, or to be measured on."""
    generator = numpy_generator(seed, "arithmetic", "held out" if held_out else "train")
    found: dict[str, None] = {}
    while len(found) < count:
        found.update((text, None) for text in _drawn(generator) if is_held_out(text) == held_out)
    return [Context(content=Text(text=text)) for text in islice(found, count)]


def worked(context: Context) -> str:
    """The worked answer of a problem.

    >>> worked(Context(content="12+9*3-7="))
    '21;63;56'

    Raises:
        ValueError: the context is no problem.
    """
    return ";".join(f"{value:02}" for value in _results(context.text))


def demonstrations(count: int, *, seed: int) -> list[Demonstrated]:
    """Problems to learn from, with their worked answers."""
    return [
        Demonstrated(context, Output(content=Text(text=worked(context))), source="arithmetic", record_ids=())
        for context in problems(count, seed=seed)
    ]


def unequal_demonstrations(count: int, *, seed: int) -> list[Demonstrated]:
    """Problems to learn from: every second answer is worked to its end, the others stop after the first step.

    Whoever imitates both is wrong half the time for want of the last steps, so that a verifier has something to teach beyond
    sums: to go on.
    """
    return [
        replace(shown, output=Output(content=Text(text=shown.output.text.partition(";")[0]))) if number % 2 else shown
        for number, shown in enumerate(demonstrations(count, seed=seed))
    ]


def right(context: Context, output: Output) -> float:
    """1 where an answer's last number is the problem's result, else 0.

    An answer that cannot be read is wrong, and so is one that was cut at the length limit, whatever it says so far
    (Chen et al., arXiv 2505.18116, appendix C): to end in time with a number is part of the task.

    >>> right(Context(content="12+9*3-7="), Output(content="56"))
    1.0

    Raises:
        ValueError: the context is no problem.
    """
    truth = _results(context.text)[-1]
    finished = output.producer is None or output.producer.sampler.get("finished", True)
    answer = _ANSWER.fullmatch(output.text.strip())
    return float(bool(finished) and answer is not None and int(answer[1]) == truth)


def verifier() -> FunctionReward:
    """`right` as a reward."""
    return FunctionReward(right, name="right")


def _drawn(generator: np.random.Generator) -> Iterator[str]:
    """The next problems, of both sets; some may be equal. How many are wanted in all does not change which come first."""
    shape = (_BLOCK, MOST_STEPS)
    steps = generator.integers(FEWEST_STEPS, MOST_STEPS + 1, size=_BLOCK)
    signs = generator.integers(3, size=shape)
    numbers = np.where(signs == 2, generator.integers(2, 4, size=shape), generator.integers(1, 10, size=shape))
    rows = (steps, generator.integers(MODULUS, size=_BLOCK), signs, numbers)
    for most, first, own_signs, own_numbers in zip(*(row.tolist() for row in rows), strict=True):
        chain = "".join(
            f"{'+-*'[sign]}{number}" for sign, number in islice(zip(own_signs, own_numbers, strict=True), most)
        )
        yield f"{first:02}{chain}="


def _results(problem: str) -> list[int]:
    """The result of every step."""
    parts = _PROBLEM.fullmatch(problem)
    if parts is None:
        raise ValueError(f"Expected a problem such as 12+9*3-7=, got {problem[:80]!r}")
    steps = [(sign, int(number)) for sign, number in _STEP.findall(parts[2])]
    return list(accumulate(steps, _apply, initial=int(parts[1])))[1:]


def _apply(value: int, step: tuple[str, int]) -> int:
    sign, number = step
    match sign:
        case "+":
            return (value + number) % MODULUS
        case "-":
            return (value - number) % MODULUS
        case _:
            return value * number % MODULUS
