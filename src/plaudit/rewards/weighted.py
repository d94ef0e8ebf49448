"""A reward made of named parts: a weighted sum, in which no wrong answer may be paid as well as a right one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

import torch

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output
from plaudit.objectives.reward_terms import composite_reward, reward_order_margin
from plaudit.rewards.base import Reward, RewardSource, restore, result, state_of, submit


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a `WeightedReward`.

    Attributes:
        source: what judges.
        weight: how much it counts; of a penalty that is a positive number, negative. A part of weight 0 is only logged.
        range: the least and the largest value it gives; of a verifier, the value of a wrong and of a right output. A value
            outside is an error, never clipped in silence: see `BoundedReward`.
    """

    source: RewardSource
    weight: float = 1.0
    range: tuple[float, float] | None = None


class WeightedReward:
    """The weighted sum of named parts, ``R = Σ_c w_c s_c``; see `composite_reward`.

    An output is judged only if every part of non-zero weight could judge it. Each part's values are logged under its name,
    and what it is made of, if of several components, under ``part.component``. Rewards of single steps are not summed.

    Args:
        parts: the parts by name.
        verifier: the part that says what is right. Then every part of non-zero weight declares its range, and the sum is held
            against `reward_order_margin`: a wrong output at its best must stay below a right one at its worst.

    Raises:
        ConfigError: a part has no usable weight or range, or a wrong output could outscore a right one.
    """

    def __init__(self, parts: Mapping[str, Part], *, verifier: str | None = None) -> None:
        self.parts, self.verifier = dict(parts), verifier
        if not any(part.weight for part in self.parts.values()):
            raise ConfigError(f"parts: expected at least one of non-zero weight, got {list(self.parts)}")
        for name, part in self.parts.items():
            if not math.isfinite(part.weight):
                raise ConfigError(f"parts.{name}.weight: expected a finite number, got {part.weight}")
            if part.range is not None and not -math.inf < part.range[0] < part.range[1] < math.inf:
                raise ConfigError(f"parts.{name}.range: expected finite numbers, the lower first, got {part.range}")
        self._weights = tuple(part.weight for part in self.parts.values())
        if verifier is not None:
            self._check_order(verifier)

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        return self._sum([part.source.reward(contexts, outputs) for part in self.parts.values()], len(outputs))

    def submit(self, context: Context, output: Output) -> list[Any]:
        """Begin to judge an output."""
        return [submit(part.source, context, output) for part in self.parts.values()]

    def result(self, tickets: Rows[list[Any]]) -> Reward:
        """Rewards of the outputs that were submitted."""
        judged = [
            result(part.source, [ticket[place] for ticket in tickets]) for place, part in enumerate(self.parts.values())
        ]
        return self._sum(judged, len(tickets))

    def state(self) -> Mapping[str, Any]:
        """The state of each part."""
        return {name: state_of(part.source) for name, part in self.parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from this state."""
        for name, part in self.parts.items():
            restore(part.source, state[name])

    def _sum(self, given: list[Reward], number: int) -> Reward:
        components, errors, reasons = {}, [], Counter[str]()
        for (name, part), reward in zip(self.parts.items(), given, strict=True):
            self._check_values(name, part, reward, number)
            components[name] = torch.where(reward.judged, reward.value, math.nan)
            if len(reward.components) > 1:
                components |= {f"{name}.{inner}": values for inner, values in reward.components.items()}
            errors += [f"{name}: {error}" for error in reward.errors]
            reasons.update({f"{name}: {reason}": count for reason, count in reward.reasons.items()})
        score = torch.stack([reward.value for reward in given], -1)
        judged = torch.stack([reward.judged for reward in given], -1)
        total = composite_reward(score, weights=self._weights, judged=judged)
        return Reward(total.reward, total.judged, components=components, errors=tuple(errors), reasons=reasons)

    def _check_values(self, name: str, part: Part, reward: Reward, number: int) -> None:
        if reward.value.shape != (number,):
            raise RewardError(f"{name}: expected a reward of shape [{number}], got {list(reward.value.shape)}")
        values = reward.value[reward.judged]
        if part.range is None or not part.weight:
            return
        low, high = part.range
        good = (values >= low) & (values <= high)
        expected = f"values in its range, from {low:g} to {high:g}"
        if name == self.verifier:
            good = (values == low) | (values == high)
            expected = f"{low:g} of a wrong output and {high:g} of a right one, as its range says"
        if not bool(good.all()):
            raise RewardError(f"{name}: expected {expected}, got {float(values[~good][0]):g}")

    def _check_order(self, verifier: str) -> None:
        if verifier not in self.parts:
            raise ConfigError(f"verifier: expected one of the parts {list(self.parts)}, got {verifier!r}")
        counted = {name: part for name, part in self.parts.items() if part.weight}
        if verifier not in counted:
            raise ConfigError(f"parts.{verifier}.weight: expected a number other than 0 of the verifier, got 0")
        ranges = {name: part.range for name, part in counted.items() if part.range is not None}
        for name in counted:
            if name not in ranges:
                raise ConfigError(
                    f"parts.{name}.range: expected the least and the largest value, since {verifier} is the verifier, "
                    "got none. A BoundedReward has one by construction."
                )
        # best and worst by what the value does to the sum
        ends = {name: (low, high) if counted[name].weight > 0 else (high, low) for name, (low, high) in ranges.items()}
        wrong = [ranges[name][0] if name == verifier else best for name, (_, best) in ends.items()]
        right = [ranges[name][1] if name == verifier else worst for name, (worst, _) in ends.items()]
        weights = tuple(part.weight for part in counted.values())
        paid = composite_reward(torch.tensor([wrong, right], dtype=torch.float64), weights=weights).reward
        order = reward_order_margin(paid[None], torch.tensor([[False, True]]))
        if float(order.margin) <= 0:
            others = sum(
                abs(counted[name].weight) * (high - low) for name, (low, high) in ranges.items() if name != verifier
            )
            low, high = ranges[verifier]
            raise ConfigError(
                f"parts: a wrong output can be paid {float(paid[0]):g} and a right one {float(paid[1]):g}; what {verifier} "
                f"calls right must always be paid more. Give {verifier} a weight above {others / (high - low):g}, "
                f"got {counted[verifier].weight:g}, or the others less."
            )
