"""What the methods that learn from own samples differ in: how rewards become signals, and the objective that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.policies import Sampling
from plaudit.sampling.rollouts import Rollout
from plaudit.training.config import check, whole

Signals = Mapping[str, Float[Tensor, "B K"]]
Values = tuple[Float[Tensor, " N"], Float[Tensor, " N"]]  # loss and weight per output


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig:
    """Settings that all methods of this family have.

    Attributes:
        contexts_per_rollout: contexts that are asked together.
        outputs_per_context: outputs that are sampled of each; they form a group.
        updates_per_rollout: optimiser steps made with them, each on its own groups. 1 is strictly on-policy.
        epochs_per_rollout: passes over them, in a new order each; so many times updates_per_rollout steps an asking.
        max_new_tokens: length limit of an output, in tokens.
        kl_coefficient: strength of the pull to the reference, by the estimate k3 in the loss; 0 needs no reference.
        retries: how often other contexts are asked instead of groups whose rewards are all equal (DAPO's dynamic sampling).
        rollout_batch_size: outputs sampled side by side.
    """

    contexts_per_rollout: int = 8
    outputs_per_context: int = 8
    updates_per_rollout: int = 1
    epochs_per_rollout: int = 1
    max_new_tokens: int = 256
    kl_coefficient: float = 0.0
    retries: int = 0
    rollout_batch_size: int = 64

    def __post_init__(self) -> None:
        counts = ("contexts_per_rollout", "outputs_per_context", "updates_per_rollout", "epochs_per_rollout")
        for name in (*counts, "rollout_batch_size"):
            check(self, name, whole(getattr(self, name), 1), "a whole number >= 1")
        fits = self.updates_per_rollout <= self.contexts_per_rollout
        check(self, "updates_per_rollout", fits, f"at most contexts_per_rollout, {self.contexts_per_rollout}")
        check(self, "kl_coefficient", 0 <= self.kl_coefficient < float("inf"), "a number >= 0")
        check(self, "retries", whole(self.retries, 0), "a whole number >= 0")
        _ = self.sampling

    @property
    def steps_per_rollout(self) -> int:
        """Optimiser steps made with the outputs of one asking."""
        return self.updates_per_rollout * self.epochs_per_rollout

    @property
    def sampling(self) -> Sampling:
        """From the policy itself, so that what is learned from is what the log-probabilities say."""
        return Sampling(max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True, slots=True)
class Groups:
    """Rewards of B groups of at most K outputs; what `mask` excludes is no output.

    `greedy_reward` is that of the greedy output of each context, where the recipe asks for it.
    """

    reward: Float[Tensor, "B K"]
    mask: Bool[Tensor, "B K"]
    length: Int[Tensor, "B K"]
    finished: Bool[Tensor, "B K"]
    greedy_reward: Float[Tensor, " B"] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What an objective reads: N outputs of at most T tokens.

    Attributes:
        log_prob: under the policy.
        old: under the policy before the first update with these outputs; a constant.
        mask: the tokens that count.
        signal: what the recipe made of the rewards, [N] each.
        per_token: signals that differ from token to token.
        divergence: the exact KL(reference || policy) of each token's distribution, where the recipe asks for it.
    """

    log_prob: Float[Tensor, "N T"]
    old: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    signal: Mapping[str, Float[Tensor, " N"]]
    per_token: Mapping[str, Float[Tensor, "N T"]] = field(default_factory=dict)
    divergence: Float[Tensor, "N T"] | None = None

    @property
    def advantage(self) -> Float[Tensor, " N #T"]:
        """The signal of that name: each token's own where there is such, else the output's."""
        found = self.per_token.get("advantage")
        return self.signal["advantage"][:, None] if found is None else found


@dataclass(frozen=True, slots=True)
class Signalling:
    """What is sampled for a method of this family, and what its rewards are turned into.

    Attributes:
        name: of the method.
        signals: from the rewards of groups to signals of their outputs. Where one of them is called ``kept``, outputs for
            which it is 0 are not learned from, and cost nothing after they were judged.
        fewest: outputs that a group needs.
        contrast: whether a group whose rewards are all equal teaches nothing, and is left out.
        greedy: whether the greedy output of each context is judged, too.
        memory: numbers that `signals` carries from one asking to the next; a checkpoint holds them.
    """

    name: str
    signals: Callable[[Groups], Signals]
    fewest: int = field(default=2, kw_only=True)
    contrast: bool = field(default=True, kw_only=True)
    greedy: bool = field(default=False, kw_only=True)
    memory: dict[str, float] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class Recipe(Signalling):
    """A method of this family whose loss is one of single outputs.

    Attributes:
        objective: from terms to (loss, weight) per output.
        divergence: whether the objective reads the exact divergence from the frozen weights below the adapters.
    """

    objective: Callable[[Terms], Values]
    divergence: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Experience:
    """A rollout with its signals.

    Attributes:
        rollout: the output.
        signal: what the recipe made of its reward.
        old: its log-probabilities before the first update, where there are several.
        teaches: False where no group of the asking tells good from bad: the step then makes no change.
        per_token: signals of its tokens, where they differ from token to token.
        asking: figures over all that was sampled together, also what is not learned from; see `figures`.
    """

    rollout: Rollout
    signal: Mapping[str, float]
    old: tuple[float, ...] | None = None
    teaches: bool = True
    per_token: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    asking: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it, without loss."""
        return {
            "rollout": self.rollout.as_json(),
            "signal": dict(self.signal),
            "old": self.old,
            "teaches": self.teaches,
            "per_token": dict(self.per_token),
            "asking": dict(self.asking),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Experience:
        """What `as_json` gave."""
        old = None if values["old"] is None else tuple(values["old"])
        per_token = {name: tuple(tokens) for name, tokens in values["per_token"].items()}
        rollout = Rollout.from_json(values["rollout"])
        return cls(rollout, values["signal"], old, values["teaches"], per_token, values["asking"])


def expect_fresh(config: OnPolicyConfig, name: str) -> None:
    """Refuse further updates with outputs of an older policy, for a method without a ratio that accounts for it."""
    for field_name in ("updates_per_rollout", "epochs_per_rollout"):
        fresh = getattr(config, field_name) == 1
        check(config, field_name, fresh, f"1: {name} learns from fresh samples")


def as_groups(groups: list[list[Rollout]]) -> Groups:
    """Groups of rollouts as padded tensors."""
    most = max(map(len, groups))
    reward, length = torch.zeros(len(groups), most), torch.zeros(len(groups), most, dtype=torch.long)
    mask, finished = (torch.zeros(len(groups), most, dtype=torch.bool) for _ in range(2))
    for b, group in enumerate(groups):
        for k, rollout in enumerate(group):
            reward[b, k], length[b, k] = rollout.reward, len(rollout.sequence.output)
            mask[b, k], finished[b, k] = True, rollout.finished
    greedy = [group[0].greedy_reward for group in groups]
    known = [value for value in greedy if value is not None]
    return Groups(reward, mask, length, finished, torch.tensor(known) if len(known) == len(greedy) else None)
