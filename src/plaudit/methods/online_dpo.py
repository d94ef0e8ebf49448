"""Online DPO (Guo et al., arXiv 2402.04792): DPO on fresh samples, the best of a group against the worst."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.encoding import EncodedPair
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.on_policy import Asker
from plaudit.methods.recipe import Experience, Groups, OnPolicyConfig, Signalling, Signals
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.rewards.base import RewardSource
from plaudit.sampling.rollouts import by_reward
from plaudit.training import ExampleLoss, Step
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class OnlineDPOConfig(OnPolicyConfig):
    """Settings of online DPO; beta is the pull to the reference, kl_coefficient stays 0.

    Attributes:
        outputs_per_context: 2 is the paper's; of more, the best and the worst make the pair.
        beta: strength of the pull to the reference.
        label_smoothing: assumed share of wrong preferences.
    """

    outputs_per_context: int = 2
    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        _ = self.dpo
        check(self, "kl_coefficient", self.kl_coefficient == 0, "0: beta is the pull to the reference")

    @property
    def dpo(self) -> DPOConfig:
        """The objective's settings."""
        return DPOConfig(beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, slots=True)
class SampledPair(EncodedPair):
    """The best and the worst output of a group.

    Attributes:
        reward: the mean of the whole group's.
        asking: figures over all that was sampled together; see `plaudit.methods.on_policy.figures`.
    """

    reward: float = 0.0
    asking: Mapping[str, float] = field(default_factory=dict)


class OnlineDPO:
    """DPO on pairs that the policy has just sampled; the reward may be the share of wins that a judge of pairs gives."""

    name = "online-dpo"

    def __init__(
        self,
        policy: CausalLM,
        reference: Reference,
        reward: RewardSource,
        contexts: Rows[Context],
        config: OnlineDPOConfig,
    ) -> None:
        if not policy.has_adapters:
            raise ConfigError(
                "policy: online DPO asks the reference about new outputs, which LoRA adapters keep possible"
            )
        self.trainable = policy
        self._dpo = DPO(policy, reference, (), config.dpo)
        self._asking = Asker(policy, reward, contexts, Signalling(self.name, _rewards), config)

    def collect(self, step: Step) -> list[SampledPair]:
        """The step's pairs: of each group the best output against the worst; of equals, the first against the last."""
        self._dpo.reference.forget()  # a step that is done again computes every value in the batch that it had before
        pairs = []
        for _, found in groupby(self._asking.collect(step), key=_context):
            group = list(found)
            ranked = by_reward(experience.rollout for experience in group)
            best, worst = ranked[0], ranked[-1]
            margin, mean = best.reward - worst.reward, sum(rollout.reward for rollout in ranked) / len(ranked)
            pair = SampledPair(best.sequence, worst.sequence, tie=margin == 0, margin=margin)
            pairs.append(replace(pair, reward=mean, asking=group[0].asking))
        return pairs

    def sequences(self, example: SampledPair) -> tuple[Sequence, Sequence]:
        """Both outputs of a pair."""
        return self._dpo.sequences(example)

    def loss(self, examples: Rows[SampledPair]) -> ExampleLoss:
        """DPO's; where no output of a step is better than another of its group, the step changes nothing."""
        found = self._dpo.loss(examples)
        told = {
            "reward": found.value.new_tensor([pair.reward for pair in examples]),
            "margin": found.value.new_tensor([pair.margin or 0.0 for pair in examples]),
            **{name: found.value.new_tensor([pair.asking[name] for pair in examples]) for name in examples[0].asking},
        }
        tells = found.value.new_tensor([float(not pair.tie) for pair in examples])
        return ExampleLoss(found.value * tells, found.weight, {**found.metrics, **told}, tokens=found.tokens)

    def state(self) -> Mapping[str, Any]:
        """The outputs that the next steps will learn from."""
        return self._asking.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the outputs of a checkpoint."""
        self._asking.restore(state)


def _context(experience: Experience) -> tuple[int, ...]:
    return experience.rollout.sequence.context


def _rewards(groups: Groups) -> Signals:
    return {"reward": groups.reward}


ENTRIES = (
    Entry(
        "online-dpo", f"{ANSWERS}, or a judge compares two", "preference", "yes", "on-policy",
        "samples; log-probabilities of the reference", "a judge that compares, or pairs that would be stale",
        "Guo et al., arXiv 2402.04792", Axes("pairs", "outcome", "direct loss"),
    ),
)  # fmt: skip
