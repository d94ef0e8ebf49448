"""SuperHF (Mukobi et al., arXiv 2310.16763): imitate the best of many samples, and stay near the base policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.methods.entry import ANSWERS, Axes, Entry, Making
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms, Values
from plaudit.objectives.imitation import superhf as superhf_objective
from plaudit.policies import Sampling
from plaudit.training.config import check, whole


@dataclass(frozen=True, kw_only=True)
class SuperHFConfig(OnPolicyConfig):
    """Settings of SuperHF. An asking with one update is the paper's superbatch; its schedule, too, moves once an asking.

    Attributes:
        outputs_per_context: the paper's S.
        beta: strength of the pull to the base policy; 0.7 is the 0.35 of the official code, which adds up two outputs.
        top_k: outputs of each context that are imitated.
        top_p: samples come from the likeliest tokens of this probability. Below 1, S = 1 and beta = 0 sharpen the policy;
            at 1 they change no expectation.
    """

    outputs_per_context: int = 16
    beta: float = 0.7
    top_k: int = 1
    top_p: float = 0.95

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "beta", 0 <= self.beta < float("inf"), "a number >= 0")
        check(self, "top_k", whole(self.top_k, 1), "a whole number >= 1")
        fits = self.top_k <= self.outputs_per_context
        check(self, "top_k", fits, f"at most outputs_per_context, {self.outputs_per_context}")

    @property
    def sampling(self) -> Sampling:
        """At temperature 1; the objective has no ratio to the distribution that was sampled from."""
        return Sampling(max_new_tokens=self.max_new_tokens, top_p=self.top_p)


def superhf(config: SuperHFConfig) -> Recipe:
    """The recipe of SuperHF: ``-mean log π + beta mean KL(p0 || π)`` over the tokens of the kept samples.

    The divergence is exact, over the vocabulary, at the position that predicts each token; the official code takes it one
    position late. p0 is the model without its adapters. Empty outputs are not learned from. Of each context exactly top_k
    are kept, of equals those that were sampled first: a text that was sampled twice counts once. Outputs are not cut at
    "Human" or a colon as in the official code, which also cuts ordinary text; they end with the policy's own end token. Each
    output is averaged over its own tokens, where the official code averages the likelihood over those of two outputs together.
    """

    def signals(groups: Groups) -> Signals:
        written = groups.mask & ~(groups.finished & (groups.length <= 1))  # an end token and nothing before it
        return {"kept": _best(groups.reward, written, config.top_k).float()}

    def objective(terms: Terms) -> Values:
        assert terms.divergence is not None
        kept = terms.mask & (terms.signal["kept"] > 0)[:, None]
        return superhf_objective(terms.log_prob, terms.divergence, kept, beta=config.beta)

    return Recipe("superhf", signals, objective, fewest=1, contrast=False, divergence=True)


def _best(reward: Float[Tensor, "B K"], written: Bool[Tensor, "B K"], count: int) -> Bool[Tensor, "B K"]:
    """The `count` best of each group's written outputs, or all where there are fewer; of equals the first."""
    order = reward.masked_fill(~written, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(written).scatter(-1, order[:, :count], torch.ones_like(written)) & written


ENTRIES = (
    Entry(
        "superhf", ANSWERS, "the best of the group", "yes", "on-policy",
        "samples; gradients of the kept ones only; the reference's distribution, a chunk at a time",
        "as best-of-n, where a learned reward is easily gamed", "Mukobi et al., arXiv 2310.16763",
        Axes("scores", "outcome", "imitation"), Making(superhf, SuperHFConfig),
    ),
)  # fmt: skip
