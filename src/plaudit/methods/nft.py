"""Negative-aware fine-tuning (Chen et al., arXiv 2505.18116): the likelihood of right answers, and of what wrong ones imply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import RewardError
from plaudit.methods.entry import Axes, Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms
from plaudit.objectives.aggregation import Aggregation
from plaudit.objectives.policy_gradient import nft as nft_objective
from plaudit.objectives.policy_gradient import nft_dr_grpo_weight, nft_grpo_weight
from plaudit.training.config import check


@dataclass(frozen=True, kw_only=True)
class NFTConfig(OnPolicyConfig):
    """Settings of NFT; rewards must be 0 (wrong) or 1 (right).

    Attributes:
        prompt_weight: of a context with share r of right answers: ``1 - r`` (``dr_grpo``), ``sqrt((1 - r) / r)`` (``grpo``),
            or 1 (``none``).
        negative_weight: of wrong answers; 0 learns from right ones only (RFT).
        floor: least value of the implicit negative policy's ratio.
        aggregation: ``token-mean``, as in the paper, or ``token-sum``: each output's sum over the length limit, as in its code.
    """

    prompt_weight: Literal["dr_grpo", "grpo", "none"] = "dr_grpo"
    negative_weight: float = 1.0
    floor: float = 1.0
    aggregation: Literal["token-mean", "token-sum"] = "token-mean"

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "negative_weight", self.negative_weight >= 0, "a number >= 0")
        check(self, "floor", self.floor > 0, "a number > 0")


def nft(config: NFTConfig) -> Recipe:
    """The recipe of NFT; of RFT where negative_weight is 0."""
    how: Aggregation = "token-mean" if config.aggregation == "token-mean" else float(config.max_new_tokens)

    def signals(groups: Groups) -> Signals:
        binary = (groups.reward == 0) | (groups.reward == 1)
        if not bool((binary | ~groups.mask).all()):
            odd = groups.reward[~binary & groups.mask][0].item()
            raise RewardError(f"NFT divides outputs into right and wrong: expected rewards 0 and 1, got {odd}")
        reward = torch.where(groups.mask, groups.reward, 0)
        rate = reward.sum(-1, keepdim=True) / groups.mask.sum(-1, keepdim=True)
        return {"reward": reward, "rate": rate.expand_as(reward)}

    def objective(terms: Terms) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        rate = terms.signal["rate"]
        weights = {"dr_grpo": nft_dr_grpo_weight, "grpo": nft_grpo_weight}
        weight = None if config.prompt_weight == "none" else weights[config.prompt_weight](rate)
        return nft_objective(
            terms.log_prob, terms.old, terms.signal["reward"] > 0.5, rate, terms.mask, prompt_weight=weight,
            negative_weight=config.negative_weight, floor=config.floor, aggregation=how,
        )  # fmt: skip

    return Recipe("nft" if config.negative_weight else "rft", signals, objective)


ENTRIES = (
    on_policy("nft", Making(nft, NFTConfig), "right or wrong",
              "verifiable rewards, by likelihood; learns from wrong answers, too", "Chen et al., arXiv 2505.18116",
              axes=Axes("labels", "outcome", "direct loss")),
    on_policy("rft", Making(nft, NFTConfig, {"negative_weight": 0.0}), "right or wrong",
              "a baseline: imitation of right answers", "Yuan et al., arXiv 2308.01825",
              axes=Axes("labels", "outcome", "imitation")),
)  # fmt: skip
