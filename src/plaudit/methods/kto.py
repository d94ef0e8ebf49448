"""Kahneman-Tversky optimisation (Ethayarajh et al., arXiv 2402.01306): single outputs called good or bad, no pairs."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace

import torch

from plaudit.methods.encoding import EncodedLabel
from plaudit.methods.entry import Axes, Entry
from plaudit.objectives.preferences import kto, kto_baseline
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.training import ExampleLoss, Stateless, Step
from plaudit.training.config import check
from plaudit.training.randomness import batch_indices


@dataclass(frozen=True, kw_only=True)
class KTOConfig:
    """Settings of KTO.

    Attributes:
        beta: strength of the pull to the reference.
        desirable_weight: of good outputs; see `plaudit.objectives.preferences.kto_weights` for unequal numbers.
        undesirable_weight: of bad outputs.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        check(self, "beta", 0 < self.beta < float("inf"), "a number > 0")
        for name in ("desirable_weight", "undesirable_weight"):
            check(self, name, 0 <= getattr(self, name) < float("inf"), "a number >= 0")


class KTO(Stateless):
    """KTO on labelled outputs.

    The baseline z0 is a statistic of the step's whole batch: `collect` estimates it before the step and lays it beside each
    example, so that a loss does not depend on its micro-batch. Held-out examples, which no step collects, have the baseline 0.
    """

    name = "kto"

    def __init__(self, policy: CausalLM, reference: Reference, labelled: Rows[EncodedLabel], config: KTOConfig) -> None:
        reference.expect_tokens_of(policy)
        self.trainable, self.reference = policy, reference
        self.labelled, self.config = labelled, config

    def collect(self, step: Step) -> list[EncodedLabel]:
        """The step's outputs, with the baseline that they are held against."""
        indices = batch_indices(len(self.labelled), step.batch_size, step.index, seed=step.seed)
        examples = [self.labelled[index] for index in indices]
        baseline = self._baseline(mismatched(examples))
        return [replace(example, baseline=baseline) for example in examples]

    def sequences(self, example: EncodedLabel) -> tuple[Sequence]:
        """The output."""
        return (example.sequence,)

    def loss(self, examples: Rows[EncodedLabel]) -> ExampleLoss:
        """``λ (1 - σ(±β (u - z0)))`` of the log-ratio u, equation 7."""
        sequences = [example.sequence for example in examples]
        log_ratio = self.trainable.log_prob_of(sequences).sum() - self.reference.log_prob_of(sequences).sum()
        desirable = torch.tensor([example.desirable for example in examples], device=log_ratio.device)
        baseline = log_ratio.new_tensor([example.baseline for example in examples])
        weights = {name: getattr(self.config, name) for name in ("desirable_weight", "undesirable_weight")}
        nothing = log_ratio.new_zeros(())
        value = kto(log_ratio - baseline, desirable, nothing, beta=self.config.beta, **weights)
        reward = self.config.beta * log_ratio.detach()
        metrics = {
            "reward_desirable": torch.where(desirable, reward, torch.nan),
            "reward_undesirable": torch.where(desirable, torch.nan, reward),
            "baseline": baseline,
        }
        return ExampleLoss(value, torch.ones_like(value), metrics, tokens=sum(map(len, sequences)))

    @torch.no_grad()
    def _baseline(self, sequences: list[Sequence], *, batch_size: int = 16) -> float:
        ratios = [torch.zeros(0)]
        for start in range(0, len(sequences), batch_size):
            part = sequences[start : start + batch_size]
            ratios.append((self.trainable.log_prob_of(part).sum() - self.reference.log_prob_of(part).sum()).cpu())
        found = torch.cat(ratios)
        return float(kto_baseline(found)) if len(found) else 0.0


def mismatched(examples: Rows[EncodedLabel]) -> list[Sequence]:
    """Each context with the output of the example before it, the first with the last's, where that is another context's."""
    before = [examples[-1], *examples[:-1]]
    return [
        replace(other.sequence, context=one.sequence.context)
        for one, other in zip(examples, before, strict=True)
        if one.sequence.context != other.sequence.context
    ]


ENTRIES = (
    Entry(
        "kto", "reactions, verdicts", "label: good or bad", "yes", "off-policy",
        "log-probabilities of the reference; one more pass a step, for the baseline",
        "thumbs up and down without pairs, in unequal numbers", "Ethayarajh et al., arXiv 2402.01306",
        Axes("labels", "implicit", "direct loss"),
    ),
)  # fmt: skip
