"""SuperHF (Mukobi et al., arXiv 2310.16763): imitate the best of many samples, and stay near the base policy."""

from __future__ import annotations

from dataclasses import dataclass

from plaudit.methods.entry import ANSWERS, Entry, Making
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values
from plaudit.objectives.imitation import superhf as superhf_objective
from plaudit.objectives.imitation import top_outputs
from plaudit.training.config import check, whole


@dataclass(frozen=True, kw_only=True)
class SuperHFConfig(OnPolicyConfig):
    """Settings of SuperHF.

    Attributes:
        outputs_per_context: the paper's superbatch.
        beta: strength of the pull to the base policy; 0.7 is the 0.35 of the official code, which adds up two outputs.
        top_k: outputs of each context that are imitated.
    """

    outputs_per_context: int = 16
    beta: float = 0.7
    top_k: int = 1

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "beta", 0 <= self.beta < float("inf"), "a number >= 0")
        check(self, "top_k", whole(self.top_k, 1), "a whole number >= 1")
        fits = self.top_k <= self.outputs_per_context
        check(self, "top_k", fits, f"at most outputs_per_context, {self.outputs_per_context}")


def superhf(config: SuperHFConfig) -> Recipe:
    """The recipe of SuperHF: ``-mean log π + beta mean KL(p0 || π)`` over the tokens of the kept samples.

    The divergence is exact, over the vocabulary, at the position that predicts each token; the official code takes it one
    position late. p0 is the model without its adapters. The paper samples with top-p 0.95; here samples are the policy's own.
    """

    def signals(groups: Groups) -> Signals:
        return {"kept": top_outputs(groups.reward, groups.mask, keep=config.top_k).float()}

    def objective(terms: Terms) -> Values:
        assert terms.divergence is not None
        kept = terms.mask & (terms.signal["kept"] > 0)[:, None]
        return superhf_objective(terms.log_prob, terms.divergence, kept, beta=config.beta)

    return Recipe("superhf", signals, objective, fewest=1, contrast=False, divergence=True)


ENTRIES = (
    Entry(
        "superhf", ANSWERS, "the best of the group", "yes", "on-policy",
        "samples; gradients of the kept ones only; the reference's distribution, a chunk at a time",
        "as best-of-n, where a learned reward is easily gamed", "Mukobi et al., arXiv 2310.16763",
        Making(superhf, SuperHFConfig),
    ),
)  # fmt: skip
