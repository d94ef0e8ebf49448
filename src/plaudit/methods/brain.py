"""BRAIn (Pandey et al., arXiv 2402.02479): samples of a context pull the policy to the posterior that a reward conditions."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any

import torch

from plaudit.feedback.records import Context
from plaudit.methods.encoding import padded
from plaudit.methods.entry import ANSWERS, Axes, Entry
from plaudit.methods.on_policy import Asker
from plaudit.methods.recipe import Experience, Groups, OnPolicyConfig, Signalling, Signals
from plaudit.objectives.preferences import brain, brain_without_baseline, effective_sample_size
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.rewards.base import RewardSource
from plaudit.training import ExampleLoss, Step
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class BRAInConfig(OnPolicyConfig):
    """Settings of BRAIn; a round is an asking, of which many updates may be made.

    Attributes:
        reward_temperature: tau of the goodness exp(r / tau), in units of the reward; lowering it moves the target away from
            the base policy and to the best samples. Watch effective_samples.
        baseline: subtract the policy's own self-normalised weights from the target's, which is the gradient of a divergence;
            without, samples are imitated by the target's weights.
    """

    reward_temperature: float = 1.0
    baseline: bool = True

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        positive = 0 < self.reward_temperature < float("inf")
        check(self, "reward_temperature", positive, "a number > 0")
        check(self, "kl_coefficient", self.kl_coefficient == 0, "0: the target holds the pull to the base policy")


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """Outputs of one context.

    Attributes:
        outputs: the samples.
        proposal: log q'(y|x) of each, under the policy that it was sampled from.
        reward: r(x, y) of each.
        asking: figures over all that was sampled together; see `plaudit.methods.on_policy.figures`.
    """

    outputs: tuple[Sequence, ...]
    proposal: tuple[float, ...]
    reward: tuple[float, ...]
    asking: Mapping[str, float] = field(default_factory=dict)


class BRAIn:
    """BRAIn in rounds: the latest policy samples, a reward judges, several updates follow.

    Of the n samples of a context, ``alpha = softmax(log p + r / tau - log q')`` are the weights of the posterior
    ``p(y|x) exp(r / tau)`` and ``betahat = softmax(log q_theta - log q')`` those of the policy; the loss is
    ``KL(alpha || betahat)``. A group of equal rewards pulls the policy back to the base, so that such groups are kept.

    Proposal and policy have temperature 1 and count the same tokens. How many rounds and updates the paper has is not verified;
    none is a default here.

    Args:
        policy: what samples and learns.
        reference: the base policy p.
        reward: what judges.
        contexts: what to ask; each is asked once before any is asked again.
        config: the settings.
    """

    name = "brain"

    def __init__(
        self,
        policy: CausalLM,
        reference: Reference,
        reward: RewardSource,
        contexts: Rows[Context],
        config: BRAInConfig,
    ) -> None:
        reference.expect_tokens_of(policy)
        self.trainable = policy
        self.reference = reference
        self.config = config
        self._asking = Asker(policy, reward, contexts, Signalling(self.name, _rewards, contrast=False), config)

    def collect(self, step: Step) -> list[SampledGroup]:
        """The step's groups."""
        self.reference.forget()  # a step that is done again computes every value in the batch that it had before
        found = groupby(self._asking.collect(step), key=_place)
        return [_group(list(experiences)) for _, experiences in found]

    def sequences(self, example: SampledGroup) -> tuple[Sequence, ...]:
        """All outputs of a group; side by side they share their context's computation."""
        return example.outputs

    def loss(self, examples: Rows[SampledGroup]) -> ExampleLoss:
        """Loss of each group."""
        sequences = [output for example in examples for output in example.outputs]
        lengths = [len(example.outputs) for example in examples]
        found = self.trainable.log_prob_of(sequences)
        log_prob, mask = padded(found.sum(), lengths)
        prior, _ = padded(self.reference.log_prob_of(sequences).sum(), lengths)
        proposal, _ = padded(log_prob.new_tensor([one for example in examples for one in example.proposal]), lengths)
        reward, _ = padded(log_prob.new_tensor([one for example in examples for one in example.reward]), lengths)
        objective = brain if self.config.baseline else brain_without_baseline
        tau = self.config.reward_temperature
        value = objective(log_prob, proposal, prior, reward, mask, temperature=tau)
        target = prior - proposal + reward / tau
        drift = (log_prob - prior).detach()
        metrics = {
            "reward": value.new_tensor([fmean(example.reward) for example in examples]),
            "effective_samples": effective_sample_size(target, mask),
            "effective_samples_of_policy": effective_sample_size((log_prob - proposal).detach(), mask),
            "log_ratio": torch.where(mask, drift, 0).sum(-1) / mask.sum(-1),
            **{name: value.new_tensor([one.asking[name] for one in examples]) for name in examples[0].asking},
        }
        return ExampleLoss(value, torch.ones_like(value), metrics, tokens=sum(map(len, sequences)))

    def state(self) -> Mapping[str, Any]:
        """The outputs that the next steps will learn from."""
        return self._asking.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the outputs of a checkpoint."""
        self._asking.restore(state)


def _place(experience: Experience) -> tuple[int, tuple[int, ...]]:
    return experience.rollout.group, experience.rollout.sequence.context


def _group(experiences: Rows[Experience]) -> SampledGroup:
    rollouts = [experience.rollout for experience in experiences]
    return SampledGroup(
        tuple(rollout.sequence for rollout in rollouts),
        tuple(sum(rollout.log_prob) for rollout in rollouts),
        tuple(rollout.reward for rollout in rollouts),
        asking=experiences[0].asking,
    )


def _rewards(groups: Groups) -> Signals:
    return {"reward": groups.reward}


ENTRIES = (
    Entry(
        "brain", ANSWERS, "weights of the posterior given that an output is good", "yes", "on-policy",
        "samples; log-probabilities of the reference", "a reward that says by how much; many updates of one asking",
        "Pandey et al., arXiv 2402.02479", Axes("scores", "outcome", "direct loss"),
    ),
)  # fmt: skip
