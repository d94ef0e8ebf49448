"""What a reward says of outputs, and rewards that are plain functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.feedback.records import Context, Output


@dataclass(frozen=True, slots=True)
class Reward:
    """Rewards of N outputs; up is better.

    Attributes:
        value: one number each; what was not judged may hold anything.
        judged: False where the reward could not judge: a time-out, a crash, an answer that cannot be read. Never a reward of 0.
        per_step: rewards of single steps, where there are some.
        components: what the value is made of, by name.
        errors: why outputs could not be judged, a sentence each, in their order.
        reasons: the same in few words, with how often; a run counts them.
    """

    value: Float[Tensor, " N"]
    judged: Bool[Tensor, " N"]
    per_step: Float[Tensor, "N T"] | None = None
    components: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Float[Tensor, " N"]) -> Reward:
        """Rewards that all were given."""
        return cls(value, torch.ones_like(value, dtype=torch.bool))


@runtime_checkable
class RewardSource(Protocol):
    """Anything that rewards outputs: a reward model, a verifier, a function, several of them weighted."""

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""


@runtime_checkable
class StreamingSource(RewardSource, Protocol):
    """A source that can begin to judge an output while others are still being sampled."""

    def submit(self, context: Context, output: Output) -> Any:
        """Begin to judge; returns a ticket."""

    def result(self, tickets: Rows[Any]) -> Reward:
        """Rewards of the outputs of these tickets, in the tickets' order; what `reward` gives of all at once."""


@runtime_checkable
class Stateful(Protocol):
    """A source whose rewards depend on what it has judged before; its state is in the run's checkpoints."""

    def state(self) -> Mapping[str, Any]:
        """What the next rewards depend on, as JSON takes it, without loss."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from this state."""


def submit(source: RewardSource, context: Context, output: Output) -> Any:
    """A ticket for an output; a source that cannot begin early is asked in `result`."""
    return source.submit(context, output) if isinstance(source, StreamingSource) else (context, output)


def result(source: RewardSource, tickets: Rows[Any]) -> Reward:
    """Rewards of the outputs of these tickets, which `submit` gave."""
    if isinstance(source, StreamingSource):
        return source.result(tickets)
    return source.reward([context for context, _ in tickets], [output for _, output in tickets])


def remembers(source: RewardSource) -> bool:
    """Whether its rewards depend on what it has judged before."""
    return _holds(state_of(source))


def _holds(state: Mapping[str, Any]) -> bool:
    return any(_holds(value) if isinstance(value, Mapping) else True for value in state.values())


def state_of(source: RewardSource) -> Mapping[str, Any]:
    """The source's state; nothing where it has none."""
    return source.state() if isinstance(source, Stateful) else {}


def restore(source: RewardSource, state: Mapping[str, Any]) -> None:
    """Give a source its state back."""
    if isinstance(source, Stateful):
        source.restore(state)


class FunctionReward:
    """A function of (context, output) as a reward.

    A function that raises, or returns nothing or a number that is not finite, could not judge.

    Args:
        function: from a context and an output to a number, or None where it cannot tell.
        name: of the component.
    """

    def __init__(self, function: Callable[[Context, Output], float | None], *, name: str = "") -> None:
        self._function = function
        self.name = name or getattr(function, "__name__", "reward")

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        values, errors, reasons = [], [], Counter[str]()
        for context, output in zip(contexts, outputs, strict=True):
            given, trouble, reason = self._judge(context, output)
            values.append(math.nan if given is None else float(given))
            if trouble:
                errors.append(f"{self.name} {trouble}: {output.text[:80]!r}")
                reasons[reason] += 1
        value = torch.tensor(values, dtype=torch.float32)
        return Reward(value, ~value.isnan(), components={self.name: value}, errors=tuple(errors), reasons=reasons)

    def _judge(self, context: Context, output: Output) -> tuple[float | None, str, str]:
        try:
            value = self._function(context, output)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the run goes on without this output
            return None, f"raised {type(error).__name__} ({error})", f"raised {type(error).__name__}"
        if value is None:
            return None, "could not judge", "could not judge"
        if not math.isfinite(value):
            return None, f"gave {value}, and a finite number was expected", "not finite"
        return value, "", ""
