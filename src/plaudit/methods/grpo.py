"""Group-relative policy optimisation and its published variants: the group's mean is the baseline, no value network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from plaudit.methods.entry import Entry, Making, on_policy
from plaudit.methods.recipe import Groups, OnPolicyConfig, Recipe, Signals, Terms
from plaudit.objectives.policy_gradient import cispo, dr_grpo_advantage, grpo_advantage, gspo, ppo_clip
from plaudit.objectives.policy_gradient import dapo as dapo_objective
from plaudit.objectives.policy_gradient import dr_grpo as dr_grpo_objective
from plaudit.training.config import check

Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
_CLIPS: dict[str, tuple[float, float]] = {
    "grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (1.0, 2.0)
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(OnPolicyConfig):
    """Settings of GRPO.

    Attributes:
        variant: ``grpo`` (Shao et al., arXiv 2402.03300), ``dr_grpo`` (Liu et al., arXiv 2503.20783), ``dapo`` (Yu et al.,
            arXiv 2503.14476; give it retries), ``gspo`` (Zheng et al., arXiv 2507.18071), ``cispo`` (MiniMax, arXiv
            2506.13585).
        clip_low: how far below 1 the ratio to the old policy may go; by default the variant's paper's.
        clip_high: how far above.
    """

    variant: Variant = "grpo"
    clip_low: float | None = None
    clip_high: float | None = None

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "variant", self.variant in _CLIPS, f"one of {', '.join(_CLIPS)}")
        for name in ("clip_low", "clip_high"):
            value = getattr(self, name)
            check(self, name, value is None or value >= 0, "a number >= 0, or nothing")


def grpo(config: GRPOConfig) -> Recipe:
    """The recipe of GRPO or one of its variants."""
    given = zip((config.clip_low, config.clip_high), _CLIPS[config.variant], strict=True)
    low, high = (own if value is None else value for value, own in given)

    def signals(groups: Groups) -> Signals:
        scaled = config.variant != "dr_grpo"
        advantage = grpo_advantage if scaled else dr_grpo_advantage
        return {"advantage": advantage(groups.reward, groups.mask)}

    def objective(terms: Terms) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        tokens = (terms.log_prob, terms.old)
        match config.variant:
            case "grpo":
                return ppo_clip(
                    *tokens, terms.advantage, terms.mask, clip_low=low, clip_high=high, aggregation="sequence-mean"
                )
            case "dr_grpo":
                return dr_grpo_objective(
                    *tokens, terms.advantage, terms.mask, longest=config.max_new_tokens, clip_low=low, clip_high=high
                )
            case "dapo":
                return dapo_objective(*tokens, terms.advantage, terms.mask, clip_low=low, clip_high=high)
            case "gspo":
                return gspo(*tokens, terms.signal["advantage"], terms.mask, clip_low=low, clip_high=high)
            case "cispo":
                return cispo(*tokens, terms.advantage, terms.mask, clip_low=low, clip_high=high)

    return Recipe(config.variant, signals, objective)


def _entry(variant: Variant, signal: str, when: str, paper: str) -> Entry:
    return on_policy(variant, Making(grpo, GRPOConfig, {"variant": variant}), signal, when, paper)


ENTRIES = (
    _entry("grpo", "reward standardised in its group", "verifiable rewards; the usual one", "Shao et al., arXiv 2402.03300"),
    _entry("dr_grpo", "reward minus the group's mean", "as grpo, without its pull to long wrong answers",
           "Liu et al., arXiv 2503.20783"),
    _entry("dapo", "reward standardised in its group", "long answers; with retries, where many groups are all right or wrong",
           "Yu et al., arXiv 2503.14476"),
    _entry("gspo", "reward standardised in its group", "several updates an asking, mixtures of experts",
           "Zheng et al., arXiv 2507.18071"),
    _entry("cispo", "reward standardised in its group", "several updates an asking; no token's gradient is cut off",
           "MiniMax, arXiv 2506.13585"),
)  # fmt: skip
