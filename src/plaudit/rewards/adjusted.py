"""Rewards around a reward: clipped, normalised by what was seen, fixed where an output did not end; and for length alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output, Tokens
from plaudit.objectives.reward_terms import bounded_reward, normalised_reward, overlong_penalty
from plaudit.rewards.base import Reward, RewardSource, restore, result, state_of, submit


class _Around:
    """Changes the values of another source; components stay as they were."""

    def __init__(self, source: RewardSource) -> None:
        self._source = source

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        return self._changed(self._source.reward(contexts, outputs), outputs)

    def submit(self, context: Context, output: Output) -> tuple[Any, Output]:
        """Begin to judge an output."""
        return submit(self._source, context, output), output

    def result(self, tickets: Rows[tuple[Any, Output]]) -> Reward:
        """Rewards of the outputs that were submitted."""
        inner = result(self._source, [ticket for ticket, _ in tickets])
        return self._changed(inner, [output for _, output in tickets])

    def state(self) -> Mapping[str, Any]:
        """The source's state."""
        return {"source": state_of(self._source)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from this state."""
        restore(self._source, state["source"])

    def _changed(self, reward: Reward, outputs: Rows[Output]) -> Reward:
        raise NotImplementedError


class BoundedReward(_Around):
    """Rewards clipped to a range, which a `WeightedReward` can then rely on; see `bounded_reward`.

    Args:
        source: what is clipped.
        low: the least reward.
        high: the largest.
    """

    def __init__(self, source: RewardSource, *, low: float, high: float) -> None:
        super().__init__(source)
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"low, high: expected finite numbers with low < high, got {low} and {high}")
        self.low, self.high = low, high

    def _changed(self, reward: Reward, outputs: Rows[Output]) -> Reward:  # noqa: ARG002
        bounded = bounded_reward(reward.value, minimum=self.low, maximum=self.high)
        return replace(reward, value=bounded.reward, judged=reward.judged & bounded.judged)


class NormalisedReward(_Around):
    """Rewards with the mean and deviation of all rewards so far taken out: ``(r - mean) / deviation``, see `normalised_reward`.

    A batch enters the statistics before it is normalised; what could not be judged does not enter. While all rewards were
    equal the deviation counts as 1. Statistics of batches are merged as in Chan, Golub and LeVeque, "Updating Formulae" (1979):
    with d the difference of the means, ``M2 = M2_a + M2_b + d² n_a n_b / n``.

    Attributes:
        count: rewards so far.
        mean: their mean.
        squares: the sum of their squared differences from it.
    """

    def __init__(self, source: RewardSource) -> None:
        super().__init__(source)
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def state(self) -> Mapping[str, Any]:
        """The statistics, and the source's state."""
        return {**super().state(), "count": self.count, "mean": self.mean, "squares": self.squares}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from this state."""
        super().restore(state)
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]

    def _changed(self, reward: Reward, outputs: Rows[Output]) -> Reward:  # noqa: ARG002
        self._see(reward.value[reward.judged & reward.value.isfinite()].double())
        deviation = math.sqrt(self.squares / self.count) if self.squares else 1.0
        return replace(reward, value=normalised_reward(reward.value, mean=self.mean, deviation=deviation))

    def _see(self, values: Tensor) -> None:
        if not len(values):
            return
        mean = float(values[0] + (values - values[0]).mean())  # exact where all are equal
        difference, total = mean - self.mean, self.count + len(values)
        self.squares += float((values - mean).square().sum()) + difference**2 * self.count * len(values) / total
        self.mean += difference * len(values) / total
        self.count = total


class EndedReward(_Around):
    """A fixed reward for outputs that were cut at the length limit, in place of the source's.

    What a source says of half an output is noise, and a policy that is paid for it learns not to end: Huang et al., "The N+
    Implementation Details of RLHF with PPO", arXiv 2403.17031 (the EOS trick), with -1.

    Args:
        source: what judges the outputs that ended.
        otherwise: the reward of those that did not; below what the source gives.
    """

    def __init__(self, source: RewardSource, *, otherwise: float = -1.0) -> None:
        super().__init__(source)
        if not math.isfinite(otherwise):
            raise ConfigError(f"otherwise: expected a finite number, got {otherwise}")
        self.otherwise = otherwise

    def _changed(self, reward: Reward, outputs: Rows[Output]) -> Reward:
        ended = torch.tensor([_ended(output) for output in outputs], dtype=torch.bool, device=reward.value.device)
        return replace(
            reward,
            value=torch.where(ended, reward.value, self.otherwise),
            judged=torch.where(ended, reward.judged, True),
        )


class OverlongPenalty:
    """DAPO's soft penalty for long outputs, from 0 down to ``-factor``: a part of a `WeightedReward`; see `overlong_penalty`.

    Args:
        maximum: the longest output allowed, in tokens.
        buffer: the last stretch before it, in which the penalty grows.
        factor: the full penalty.
    """

    def __init__(self, *, maximum: int, buffer: int, factor: float = 1.0) -> None:
        self.maximum, self.buffer, self.factor = maximum, buffer, factor
        try:
            self._penalty(torch.zeros(0, dtype=torch.long))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:  # noqa: ARG002 - as every source
        """Rewards of N outputs given their N contexts."""
        return Reward.of(self._penalty(_lengths(outputs)))

    def _penalty(self, length: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return overlong_penalty(length, maximum=self.maximum, buffer=self.buffer, factor=self.factor)


def _lengths(outputs: Rows[Output]) -> Int[Tensor, " N"]:
    found = []
    for index, output in enumerate(outputs):
        if not isinstance(output.content, Tokens):
            raise RewardError(
                f"outputs[{index}]: expected tokens, whose number is the length, got {output.content.type}"
            )
        found.append(len(output.content.ids))
    return torch.tensor(found, dtype=torch.long)


def _ended(output: Output) -> bool:
    finished = None if output.producer is None else output.producer.sampler.get("finished")
    if not isinstance(finished, bool):
        raise RewardError(
            "output: expected a sampled one, whose producer.sampler says under 'finished' whether it ended, "
            f"got {finished!r} there"
        )
    return finished
