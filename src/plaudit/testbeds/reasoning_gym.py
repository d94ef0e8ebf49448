"""Tasks of reasoning-gym: over a hundred generators of problems, each with a verifier of its own.

A context names the task, the seed and the index that made its problem, so that the verifier can make the problem again: nothing
needs to be kept beside the contexts, and a feedback store holds all that judging takes.

Some verifiers of the library evaluate what the model wrote as Python. Those tasks are refused: what a model writes runs in a
sandbox only. The library's version is fixed, because which tasks do so was read in its source.

Reference:
    Stojanovski et al., "REASONING GYM: Reasoning Environments for Reinforcement Learning with Verifiable Rewards", arXiv
    2505.24760.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import count as naturals
from typing import Any

from plaudit.errors import ConfigError, require
from plaudit.feedback.records import Context, Output, Text
from plaudit.rewards import FunctionReward
from plaudit.testbeds.splits import is_held_out
from plaudit.training.randomness import derive

REFUSED = frozenset(
    {
        "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
        "simple_integration", "spiral_matrix", "string_insertion",
    }
)  # fmt: skip
"""Tasks whose verifier evaluates the answer, by `eval` or by sympy's parser, which does the same."""

_WITHOUT_NEWS = (
    2000  # problems in a row that were there before or belong to the other set, after which a task has no more
)
_ATTRIBUTE = "reasoning_gym"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def tasks() -> tuple[str, ...]:
    """The names of the tasks that can be used.

    Raises:
        MissingExtra: reasoning-gym is not installed.
    """
    return tuple(sorted(set(require("reasoning_gym.factory", extra="gym").DATASETS) - REFUSED))


def problems(
    task: str, count: int, *, seed: int, held_out: bool = False, settings: Mapping[str, Any] | None = None
) -> list[Context]:
    """So many different problems of a task to learn from, or to be measured on.

    Args:
        task: one of `tasks`.
        count: how many.
        seed: of the problems. Which of the two sets a problem belongs to is a hash of its text, so they never meet.
        held_out: whether they are to be measured on.
        settings: of the task's generator, such as ``{"min_digits": 2}``; JSON values.

    Raises:
        ConfigError: there is no such task, it is refused, a setting is not the task's, or it has fewer problems.
        MissingExtra: reasoning-gym is not installed.
    """
    origin: dict[str, Any] = {"task": task, "seed": derive(seed, "reasoning-gym", held_out) % 2**31}
    origin["settings"] = dict(settings or {})
    generator = _generator(task, origin["seed"], _hashable(origin["settings"]))
    found: dict[str, int] = {}
    newest = 0
    for index in naturals():
        if len(found) == count:
            break
        text = generator[index]["question"]
        if text not in found and is_held_out(text) == held_out:
            found[text], newest = index, index
        elif index - newest > _WITHOUT_NEWS:
            raise ConfigError(
                f"count: {task} gave {len(found)} different {'held-out' if held_out else 'training'} problems and then none "
                f"among {_WITHOUT_NEWS}; expected {count}. Ask for fewer, or widen its settings."
            )
    return [
        Context(content=Text(text=text), attributes={_ATTRIBUTE: {**origin, "index": index}})
        for text, index in found.items()
    ]


def score(context: Context, output: Output) -> float:
    """What the task's verifier gives, in [0, 1]: of the last ``<answer>...</answer>``, or of the whole text without one.

    Raises:
        ValueError: the context is no problem of reasoning-gym.
    """
    origin = context.attributes.get(_ATTRIBUTE)
    if not isinstance(origin, dict):
        raise ValueError(
            f"attributes: expected {_ATTRIBUTE!r}, which says what made the problem, got {context.attributes}"
        )
    made: dict[str, Any] = dict(origin)
    generator = _generator(made["task"], made["seed"], _hashable(made["settings"]))
    tagged = _ANSWER.findall(output.text)
    answer = (tagged[-1] if tagged else output.text).strip()
    return float(generator.score_answer(answer=answer, entry=generator[made["index"]]))


def verifier() -> FunctionReward:
    """`score` as a reward."""
    return FunctionReward(score, name="score")


def _hashable(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(settings.items()))


@lru_cache(maxsize=64)
def _generator(task: str, seed: int, settings: tuple[tuple[str, Any], ...]) -> Any:
    """The library's own data set, of which any index is a problem."""
    gym = require("reasoning_gym", extra="gym")
    if task in REFUSED:
        raise ConfigError(
            f"task: the verifier of {task!r} evaluates what the model wrote as Python, outside a sandbox; it is refused"
        )
    if task not in tasks():
        near = difflib.get_close_matches(task, tasks(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else " plaudit.testbeds.reasoning_gym.tasks() lists them."
        raise ConfigError(f"task: reasoning-gym has no task {task!r}.{hint}")
    try:
        return gym.create_dataset(task, seed=seed, size=2**31, **dict(settings))
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"settings: {dict(settings)} do not fit {task}: {error}") from error
