"""TRL's own loss code on the same log-probabilities: the recipes' losses and gradients, off policy, with clips in play."""

from __future__ import annotations

from typing import Any

import pytest

from objectives.policy_batches import agree, loss_and_slope, token_batch, trl_grpo, trl_rloo
from plaudit.methods import GRPOConfig, Recipe, RLOOConfig, grpo, rloo
from plaudit.methods.recipe import Terms

pytest.importorskip("trl")


def ours(recipe: Recipe, call: dict[str, Any]) -> Any:
    leaf = call["token_log_prob"].clone().requires_grad_()
    signal = {"advantage": call["advantage"]}
    return loss_and_slope(recipe.objective(Terms(leaf, call["old_token_log_prob"], call["mask"], signal)), leaf)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"variant": "grpo"}, {"loss_type": "grpo"}),
        ({"variant": "dr_grpo", "max_new_tokens": 40}, {"loss_type": "dr_grpo", "max_completion_length": 40}),
        ({"variant": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28}),
        (
            {"variant": "gspo"},
            {"importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        ),
        ({"variant": "cispo", "clip_high": 0.3}, {"loss_type": "cispo", "epsilon_high": 1.3}),
    ],
    ids=lambda settings: settings.get("variant", ""),
)
def test_grpo_and_its_variants(settings, theirs):
    call = token_batch(5, per="sequence")
    agree(ours(grpo(GRPOConfig(**settings)), call), trl_grpo(call, **theirs))


def test_rloo():
    call = token_batch(5, per="sequence")
    agree(ours(rloo(RLOOConfig(clip_high=0.3)), call), trl_rloo(call, epsilon_low=0.2, epsilon_high=0.3))
