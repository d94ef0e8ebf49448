"""Learning from the policy's own samples: sample, judge, turn rewards into signals, climb; repeat.

What differs between the methods of this family is a `Recipe`: how a group's rewards become signals, and the objective that
reads them. Everything else, from asking to resuming, is here once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context
from plaudit.methods.recipe import (
    Experience,
    OnPolicyConfig,
    Recipe,
    Signalling,
    Signals,
    Terms,
    as_groups,
)
from plaudit.objectives.policy_gradient import kl_k3
from plaudit.policies import CausalLM, LogProb, Reference, Sequence
from plaudit.policies.base import by_context
from plaudit.profiling import phase
from plaudit.rewards.base import RewardSource, restore, state_of
from plaudit.sampling.rollouts import Gathered, Rollout, gather
from plaudit.training import ExampleLoss, Step, Trainable
from plaudit.training.randomness import batch_indices, torch_generator


class Asker:
    """Samples, lets a reward judge, and turns rewards into signals; keeps what the next steps will learn from.

    Args:
        policy: what samples.
        reward: what judges.
        contexts: what to ask; each is asked once before any is asked again.
        recipe: what is asked for, and what rewards are turned into.
        config: the settings.
    """

    def __init__(
        self,
        policy: CausalLM,
        reward: RewardSource,
        contexts: Rows[Context],
        recipe: Signalling,
        config: OnPolicyConfig,
    ) -> None:
        if recipe.fewest > config.outputs_per_context:
            raise ConfigError(
                f"outputs_per_context: {recipe.name} compares the outputs of a context and needs at least "
                f"{recipe.fewest}, got {config.outputs_per_context}"
            )
        if not contexts:
            raise ConfigError("contexts: expected at least one to ask, got none")
        self.policy, self.name = policy, recipe.name
        self.recipe, self.config = recipe, config
        self._reward, self._contexts = reward, contexts
        self._groups: list[list[Experience]] = []

    def collect(self, step: Step) -> list[Experience]:
        """The step's part of the outputs of one asking; asks when those of the last were used in all epochs."""
        asking, place = divmod(step.index, self.config.steps_per_rollout)
        part = place % self.config.updates_per_rollout
        if place == 0:
            self._groups = self._experiences(step, asking)
        return self._split(self._groups, step, epoch_start=step.index - part)[part]

    def state(self) -> dict[str, Any]:
        """The outputs that the next steps will learn from, and what their rewards depend on."""
        groups = [[experience.as_json() for experience in group] for group in self._groups]
        return {"groups": groups, "memory": dict(self.recipe.memory), "reward": state_of(self._reward)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the outputs of a checkpoint."""
        self._groups = [[Experience.from_json(values) for values in group] for group in state.get("groups", ())]
        self.recipe.memory.update(state.get("memory", {}))
        if "reward" in state:
            restore(self._reward, state["reward"])

    def _experiences(self, step: Step, asking: int) -> list[list[Experience]]:
        """Groups of judged outputs with their signals."""
        count = self.config.contexts_per_rollout
        found: list[list[Rollout]] = []
        asked_for: list[Gathered] = []
        for attempt in range(self.config.retries + 1):
            number = asking * (self.config.retries + 1) + attempt
            asked = [self._contexts[i] for i in batch_indices(len(self._contexts), count, number, seed=step.seed)]
            asked_for.append(self._gather(asked, step, attempt))
            groups = asked_for[-1].groups()
            found.extend([group for group in groups if _tells(group)] if self.recipe.contrast else groups)
            if len(found) >= count:
                break
        groups = found[:count] or [group for gathered in asked_for for group in gathered.groups()][:count]
        if not groups:
            raise RewardError(
                f"None of the contexts that were asked kept {self.recipe.fewest} outputs that could be judged, and "
                f"{self.recipe.name} compares so many. Raise outputs_per_context, or look at the reward."
            )
        signals = _with_group_reward(self.recipe.signals(as_groups(groups)), groups)
        numbers = figures(asked_for)
        made = [
            [
                Experience(
                    rollout,
                    {name: float(values[b, k]) for name, values in signals.items()},
                    teaches=bool(found),
                    asking=numbers,
                )
                for k, rollout in enumerate(group)
            ]
            for b, group in enumerate(groups)
        ]
        kept = ([experience for experience in group if experience.signal.get("kept", 1)] for group in made)
        made = [group for group in kept if group]
        if not made:
            raise RewardError(
                f"{self.recipe.name} keeps none of the outputs that were asked for: look at what was sampled."
            )
        return made

    def _gather(self, contexts: Rows[Context], step: Step, attempt: int) -> Gathered:
        return gather(
            self.policy,
            contexts,
            self.config.outputs_per_context,
            self._reward,
            generator=step.generator(f"rollouts-{attempt}"),
            sampling=self.config.sampling,
            version=step.index,
            batch_size=self.config.rollout_batch_size,
            fewest=self.recipe.fewest,
            greedy=self.recipe.greedy,
        )

    def _split(self, groups: list[list[Experience]], step: Step, *, epoch_start: int) -> list[list[Experience]]:
        """Whole groups, in a random order, in parts of nearly equal number; the last groups serve again where too few."""
        count = self.config.updates_per_rollout
        order = torch.randperm(len(groups), generator=torch_generator(step.seed, "parts", epoch_start)).tolist()
        order += [order[i % len(order)] for i in range(max(0, count - len(order)))]
        bounds = [len(order) * part // count for part in range(count + 1)]
        return [
            [experience for index in order[start:end] for experience in groups[index]]
            for start, end in pairwise(bounds)
        ]


class OnPolicy(Asker):
    """A method that learns from what the policy samples; see `Recipe`.

    Args:
        policy: what samples and learns.
        reward: what judges.
        contexts: what to ask; each is asked once before any is asked again.
        recipe: the method.
        config: its settings.
        reference: what kl_coefficient pulls to.
    """

    recipe: Recipe

    def __init__(
        self,
        policy: CausalLM,
        reward: RewardSource,
        contexts: Rows[Context],
        recipe: Recipe,
        config: OnPolicyConfig,
        *,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(policy, reward, contexts, recipe, config)
        if config.kl_coefficient and reference is None:
            raise ConfigError(f"kl_coefficient: {config.kl_coefficient} pulls to a reference, and none was given")
        if recipe.divergence and not policy.has_adapters:
            raise ConfigError(
                f"policy: {recipe.name} reads the distribution of the reference, which LoRA adapters keep"
            )
        if reference is not None:
            reference.expect_tokens_of(policy)
        self.trainable: Trainable = policy
        self._reference = reference

    def collect(self, step: Step) -> list[Experience]:
        """The step's part of the outputs of one asking."""
        if self._reference is not None:
            self._reference.forget()
        return super().collect(step)

    def loss(self, examples: Rows[Experience]) -> ExampleLoss:
        """Loss of each output."""
        sequences = [example.rollout.sequence for example in examples]
        score = self.policy.divergence_of if self.recipe.divergence else self.policy.log_prob_of
        log_prob = score(sequences)
        value, weight = self.recipe.objective(self._terms(examples, log_prob))
        value = value * torch.tensor([float(example.teaches) for example in examples], device=value.device)
        metrics = self._metrics(examples, log_prob)
        if self._reference is not None and self.config.kl_coefficient:
            per_token = kl_k3(log_prob.per_step, self._reference.log_prob_of(sequences).per_step, log_prob.mask)
            divergence = torch.where(log_prob.mask, per_token, 0).sum(-1)
            value = value + self.config.kl_coefficient * divergence / log_prob.lengths.clamp(min=1)
            metrics["kl"] = divergence.detach()
        return ExampleLoss(value, weight, metrics, tokens=sum(map(len, sequences)))

    def sequences(self, example: Experience) -> tuple[Sequence]:
        """The output in its context."""
        return (example.rollout.sequence,)

    def _experiences(self, step: Step, asking: int) -> list[list[Experience]]:
        """Groups of judged outputs with their signals, and with their log-probabilities where the objective reads them."""
        made = super()._experiences(step, asking)
        if not self._reads_old:
            return made
        before = iter(self._log_probs([experience.rollout for group in made for experience in group]))
        return [[replace(experience, old=next(before)) for experience in group] for group in made]

    @property
    def _reads_old(self) -> bool:
        """Whether log-probabilities before the first update are needed; of a single update they are its own."""
        return self.config.steps_per_rollout > 1

    @torch.no_grad()
    def _log_probs(self, rollouts: Rows[Rollout]) -> list[tuple[float, ...]]:
        """Log-probabilities under the policy as it is, in the batches of the reference: equal weights, equal values."""
        size = 16 if self._reference is None else self._reference.batch_size
        distinct = list({rollout.sequence.key: rollout.sequence for rollout in rollouts}.values())
        values: dict[str, tuple[float, ...]] = {}
        for indices in by_context([sequence.context for sequence in distinct], size):
            with phase("forward"):
                found = self.policy.log_prob_of([distinct[index] for index in indices])
            for index, row, mask in zip(indices, found.per_step, found.mask, strict=True):
                values[distinct[index].key] = tuple(row[mask].tolist())
        return [values[rollout.sequence.key] for rollout in rollouts]

    def _terms(self, examples: Rows[Experience], log_prob: LogProb) -> Terms:
        """What the objective reads."""
        old = log_prob.per_step.detach().clone()
        for row, example in enumerate(examples):
            if example.old is not None:
                old[row, log_prob.mask[row]] = torch.tensor(example.old, dtype=old.dtype, device=old.device)
        signal = {
            name: torch.tensor([example.signal[name] for example in examples], device=old.device)
            for name in examples[0].signal
        }
        per_token = {name: torch.zeros_like(old) for name in examples[0].per_token}
        for name, rows in per_token.items():
            for row, example in enumerate(examples):
                values = torch.tensor(example.per_token[name], dtype=old.dtype, device=old.device)
                rows[row, log_prob.mask[row]] = values
        return Terms(log_prob.per_step, old, log_prob.mask, signal, per_token, log_prob.divergence)

    def _metrics(self, examples: Rows[Experience], log_prob: LogProb) -> dict[str, Float[Tensor, " N"]]:
        """What a reader of the run wants to see of every method of the family."""
        metrics = {
            "reward": torch.tensor([example.rollout.reward for example in examples]),
            "length": log_prob.lengths.float(),
            "finished": torch.tensor([float(example.rollout.finished) for example in examples]),
        }
        if "kept" in examples[0].signal:
            everything = torch.tensor([example.signal["group_reward"] for example in examples])
            metrics = {**metrics, "reward": everything, "reward_kept": metrics["reward"]}
        if log_prob.divergence is not None:
            metrics["divergence"] = torch.where(log_prob.mask, log_prob.divergence, 0).sum(-1).detach()
        for name in examples[0].rollout.components:
            metrics[f"reward.{name}"] = torch.tensor([example.rollout.components[name] for example in examples])
        for name in examples[0].asking:
            metrics[name] = torch.tensor([example.asking[name] for example in examples])
        return {name: values.to(log_prob.per_step.device) for name, values in metrics.items()}


def figures(asked_for: Rows[Gathered]) -> dict[str, float]:
    """What an asking gave, whether or not it is learned from.

    A method that leaves out groups without contrast would else show the reward of the contexts it still fails at.

    Returns:
        Means over the judged outputs: sampled_reward, sampled_length, sampled_finished; sampled_entropy, minus the mean
        log-probability of the sampled tokens, an estimate of the entropy per token in nats; not_judged, the share of the
        outputs that could not be judged; no_contrast, the share of the groups whose rewards are all equal. Numbers of
        outputs: ``left_out.WHY``, of those that were left out, and ``not_judged.WHY``, of those that could not be judged.
    """
    rollouts = [rollout for gathered in asked_for for rollout in gathered.rollouts]
    groups = [group for gathered in asked_for for group in gathered.groups()]
    dropped, reasons = Counter[str](), Counter[str]()
    for gathered in asked_for:
        dropped.update(
            gathered.dropped
        )  # keeps those of which there were none, so that every step has the same figures
        reasons.update(gathered.reasons)
    return {
        "sampled_reward": fmean(rollout.reward for rollout in rollouts),
        "sampled_length": fmean(len(rollout.sequence.output) for rollout in rollouts),
        "sampled_finished": fmean(rollout.finished for rollout in rollouts),
        "sampled_entropy": _entropy(rollouts),
        "not_judged": dropped["could not be judged"] / (len(rollouts) + dropped.total()),
        "no_contrast": fmean(not _tells(group) for group in groups),
        **{f"left_out.{_metric_name(why)}": float(count) for why, count in dropped.items()},
        **{f"not_judged.{_metric_name(why)}": float(count) for why, count in reasons.items()},
    }


def _metric_name(reason: str) -> str:
    return re.sub(r"\W+", "_", reason)


def _entropy(rollouts: Rows[Rollout]) -> float:
    """Minus the mean log-probability of the tokens that the policy drew; 0 where it drew none."""
    drawn = [
        log_prob
        for rollout in rollouts
        for log_prob, own in zip(rollout.log_prob, rollout.sequence.mask, strict=True)
        if own
    ]
    return -fmean(drawn) if drawn else 0.0


def _tells(group: Rows[Rollout]) -> bool:
    """Whether the rewards of a group are not all equal."""
    return len({rollout.reward for rollout in group}) > 1


def _with_group_reward(signals: Signals, groups: list[list[Rollout]]) -> Signals:
    """Where some outputs are left out, the mean reward of all, so that the metrics tell how good the policy is."""
    if "kept" not in signals:
        return signals
    means = torch.tensor([sum(rollout.reward for rollout in group) / len(group) for group in groups])
    return {**signals, "group_reward": means[:, None].expand_as(signals["kept"])}
