"""Proximal policy optimisation with a value network (Schulman et al., arXiv 1707.06347), as it is done to language models.

After Stiennon et al., "Learning to summarize from human feedback", arXiv 2009.01325, with what "The N+ Implementation Details
of RLHF with PPO", arXiv 2403.17031, found to matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.on_policy import OnPolicy
from plaudit.methods.recipe import Experience, Groups, OnPolicyConfig, Recipe, Signals, Terms
from plaudit.objectives.aggregation import aggregate
from plaudit.objectives.policy_gradient import (
    adaptive_kl_coefficient,
    gae,
    kl_k1,
    kl_shaped_rewards,
    ppo_clip,
    whiten,
)
from plaudit.objectives.values import ppo_value
from plaudit.policies import CausalLM, LogProb, Reference, Sequence
from plaudit.policies.batches import Batch
from plaudit.policies.scoring import padded_log_prob
from plaudit.rewards import RewardSource, ValueNetwork
from plaudit.rewards.value_network import padded
from plaudit.training import ExampleLoss, Step
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnPolicyConfig):
    """Settings of PPO; where not said otherwise the defaults are Stiennon et al.'s.

    Attributes:
        kl_coefficient: strength β of the pull to the reference, by ``-β (log π - log π_ref)`` in each token's reward; with a
            kl_target, the first.
        kl_target: KL to hold, in nats an output, by changing β after every asking (Ziegler et al., arXiv 1909.08593, section
            2.2); None leaves β as it is.
        kl_gain: how fast β changes; Ziegler et al.'s.
        clamp_kl: count log-ratios below 0 as 0 in the reward, as AlpacaFarm does; it is then no KL but above it.
        unfinished_reward: reward of an output that the length limit cut, whatever was judged; "N+" has -1. None keeps what
            was judged.
        whiten_rewards: scale the tokens' rewards of an asking to variance 1; their mean stays.
        whiten_advantages: scale and shift the tokens' advantages of an asking to mean 0 and variance 1.
        discount: γ of the return.
        trace: λ of the advantages; AlpacaFarm has 1.
        clip: how far from 1 the ratio to the old policy may go.
        value_clip: how far a value may go from its old one.
        value_coefficient: weight of the value network's loss.
        entropy_coefficient: weight of the policy's entropy, which is to be large.
    """

    contexts_per_rollout: int = 64
    outputs_per_context: int = 1
    epochs_per_rollout: int = 4
    kl_coefficient: float = 0.05
    kl_target: float | None = None
    kl_gain: float = 0.1
    clamp_kl: bool = False
    unfinished_reward: float | None = None
    whiten_rewards: bool = True
    whiten_advantages: bool = True
    discount: float = 1.0
    trace: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    entropy_coefficient: float = 0.0

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        aim = self.kl_target
        check(self, "kl_target", aim is None or 0 < aim < math.inf, "a number > 0, or nothing")
        check(self, "kl_coefficient", aim is None or self.kl_coefficient > 0, "a number > 0 to begin with kl_target")
        check(self, "kl_gain", 0 <= self.kl_gain < 5, "a number in [0, 5)")
        given = self.unfinished_reward
        check(self, "unfinished_reward", given is None or math.isfinite(given), "a finite number, or nothing")
        for name in ("discount", "trace"):
            check(self, name, 0 <= getattr(self, name) <= 1, "a number in [0, 1]")
        check(self, "clip", 0 <= self.clip < 1, "a number in [0, 1)")
        check(self, "value_clip", 0 < self.value_clip < math.inf, "a number > 0")
        for name in ("value_coefficient", "entropy_coefficient"):
            check(self, name, 0 <= getattr(self, name) < math.inf, "a number >= 0")


class ActorCritic(nn.Module):
    """Policy and value network as one module with one forward pass, as what wraps it for several processes needs."""

    def __init__(self, policy: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(
        self, batch: Batch, value_batch: Batch, *, entropy: bool
    ) -> tuple[Float[Tensor, "2 M"], Float[Tensor, " M"]]:
        """What the policy says of each target token (see `TokenScorer`), and the value before it."""
        return self.policy(batch, entropy=entropy), self.value(value_batch)


class Learner:
    """What PPO trains.

    Attributes:
        scorer: the module that the training loop trains: the weights of both.
    """

    def __init__(self, policy: CausalLM, value: ValueNetwork) -> None:
        self.scorer: nn.Module = ActorCritic(policy.scorer, value.scorer)
        self._policy, self._value = policy, value

    def score(self, sequences: Rows[Sequence], *, entropy: bool) -> tuple[LogProb, Float[Tensor, "N T"]]:
        """Log-probabilities and values of every token, in one forward pass of the module."""
        batch = self._policy.packer.batch(sequences, device=self._policy.device)
        shared = self._value.packer is self._policy.packer
        other = batch if shared else self._value.packer.batch(sequences, device=self._policy.device)
        found, values = self.scorer(batch, other, entropy=entropy)
        return padded_log_prob(found, batch, entropy=entropy), padded(values, other)


class PPO(OnPolicy):
    """PPO: a value network tells which token was better than expected.

    ``L = mean_t [max(-A_t ρ_t, -A_t clip(ρ_t, 1 ± ε))] + c_v mean_t [½ max((V_t - G_t)², (clip(V_t, V_old ± ε_v) - G_t)²)]
    - c_H mean_t [H_t]``. The reward is given at the last token, and the pull to the reference at every token:
    ``r_t = -β (log π(y_t) - log π_ref(y_t)) + [t = T] R``. Advantages and returns ``G = A + V_old`` are computed once an
    asking. An output that was cut at the length limit is taken as one that ended there.

    Args:
        policy: what samples and learns.
        value: what learns beside it.
        reward: what judges.
        contexts: what to ask.
        config: the settings.
        reference: what kl_coefficient pulls to; where its coefficient is 0 it is measured still.
    """

    def __init__(
        self,
        policy: CausalLM,
        value: ValueNetwork,
        reward: RewardSource,
        contexts: Rows[Context],
        config: PPOConfig,
        *,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(policy, reward, contexts, _recipe(config), config, reference=reference)
        if value.encoder.fingerprint != policy.encoder.fingerprint:
            raise ConfigError(
                f"value: expected a value network with the policy's tokenizer {policy.encoder.fingerprint}, "
                f"got {value.encoder.fingerprint}"
            )
        self.settings, self.value = config, value
        self.learner = self.trainable = Learner(policy, value)
        self.kl_coefficient = config.kl_coefficient

    def loss(self, examples: Rows[Experience]) -> ExampleLoss:
        """Loss of each output."""
        config = self.settings
        sequences = [example.rollout.sequence for example in examples]
        log_prob, value = self.learner.score(sequences, entropy=config.entropy_coefficient > 0)
        terms = self._terms(examples, log_prob)
        actor, weight = self.recipe.objective(terms)
        before, target = terms.per_token["value"], terms.per_token["value_target"]
        critic, _ = ppo_value(value, before, target, terms.mask, clip=config.value_clip)
        total = actor + config.value_coefficient * critic
        if log_prob.entropy is not None:
            total = total - config.entropy_coefficient * aggregate(log_prob.entropy, terms.mask, "token-mean")[0]
        metrics = {**self._metrics(examples, log_prob), **self._diagnosis(terms), **terms.signal}
        metrics |= {"policy_loss": actor.detach(), "value_loss": critic.detach()}
        return ExampleLoss(total, weight, metrics, tokens=sum(map(len, sequences)))

    def state(self) -> dict[str, Any]:
        """The outputs that the next steps will learn from, and the strength of the pull to the reference."""
        return {**super().state(), "kl_coefficient": self.kl_coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with both."""
        super().restore(state)
        self.kl_coefficient = state.get("kl_coefficient", self.settings.kl_coefficient)

    @property
    def _reads_old(self) -> bool:
        """Always: the pull to the reference is part of the reward."""
        return True

    def _experiences(self, step: Step, asking: int) -> list[list[Experience]]:
        """Groups of judged outputs; every token is credited."""
        groups = super()._experiences(step, asking)
        credited = iter(self._credited([experience for group in groups for experience in group]))
        return [[next(credited) for _ in group] for group in groups]

    def _credited(self, experiences: Rows[Experience]) -> list[Experience]:
        """The same with values, returns and advantages of their tokens, over the whole asking."""
        config = self.settings
        sequences = [experience.rollout.sequence for experience in experiences]
        old, mask = _padded([torch.tensor(experience.old) for experience in experiences])
        value, _ = _padded(self.value.values_of(sequences))
        ref = old if self._reference is None else _padded(_tokens(self._reference.log_prob_of(sequences)))[0]
        kl = kl_k1(old, ref, mask).sum(-1)
        pull = kl_k1(old, ref, mask, minimum=0.0 if config.clamp_kl else None)
        score = torch.tensor([experience.signal["score"] for experience in experiences])
        reward = kl_shaped_rewards(score, pull, mask, beta=self.kl_coefficient)
        if config.whiten_rewards:
            reward = whiten(reward, mask, shift_mean=False)
        advantage, target = gae(reward, value, mask, discount=config.discount, trace=config.trace)
        if config.whiten_advantages:
            advantage = whiten(advantage, mask)
        per_token = {"value": value, "value_target": target, "advantage": advantage}
        measured = {} if self._reference is None else {"kl_coefficient": self.kl_coefficient}
        if config.kl_target is not None:
            self.kl_coefficient = adaptive_kl_coefficient(
                self.kl_coefficient, float(kl.mean()), target=config.kl_target, gain=config.kl_gain
            )
        return [
            replace(
                experience,
                signal={**experience.signal, **measured, **({"kl": float(kl[row])} if measured else {})},
                per_token={name: tuple(rows[row][mask[row]].tolist()) for name, rows in per_token.items()},
            )
            for row, experience in enumerate(experiences)
        ]

    def _diagnosis(self, terms: Terms) -> dict[str, Float[Tensor, " N"]]:
        """Of each output: how many of its ratios were clipped, and how undecided its tokens were when they were sampled.

        ``-log π(y_t)`` at sampled tokens is an estimate of the entropy without bias, and costs nothing.
        """
        length = terms.mask.sum(-1)  # 0 / 0 is NaN, and left out
        ratio = torch.where(terms.mask, terms.log_prob.detach() - terms.old, 0).exp()
        return {
            "clipped": ((ratio - 1).abs() > self.settings.clip).sum(-1) / length,
            "entropy": -torch.where(terms.mask, terms.old, 0).sum(-1) / length,
        }


def _recipe(config: PPOConfig) -> Recipe:
    def signals(groups: Groups) -> Signals:
        if config.unfinished_reward is None:
            return {"score": groups.reward}
        return {"score": groups.reward.masked_fill(~groups.finished, config.unfinished_reward)}

    def objective(terms: Terms) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        return ppo_clip(
            terms.log_prob, terms.old, terms.advantage, terms.mask, clip_low=config.clip, clip_high=config.clip
        )

    return Recipe("ppo", signals, objective, fewest=1, contrast=False)


def _padded(rows: Rows[Float[Tensor, " t"]]) -> tuple[Float[Tensor, "N T"], Bool[Tensor, "N T"]]:
    """Rows of unequal length side by side, and which of their places are filled."""
    lengths = torch.tensor([len(row) for row in rows])
    values = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return values, torch.arange(values.shape[1]) < lengths[:, None]


def _tokens(found: LogProb) -> list[Float[Tensor, " t"]]:
    """The masked-in tokens' values of each output."""
    return [row[mask] for row, mask in zip(found.per_step.cpu(), found.mask.cpu(), strict=True)]


ENTRIES = (
    Entry(
        "ppo", ANSWERS, "advantage of each token over a value network", "yes", "on-policy",
        "a value network (a trunk of its own, or adapters); log-probabilities of the reference",
        "rewards of a learned model; long outputs, of which only parts are good",
        "Schulman et al., arXiv 1707.06347; Stiennon et al., arXiv 2009.01325", Axes("scores", "outcome", "policy gradient"),
    ),
)  # fmt: skip
