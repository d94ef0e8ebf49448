"""Batches for the policy losses, and what TRL's own loss code makes of them (no trainer is built)."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from objectives.contract import Call, lengths_mask, normal, uniform

MASK = lengths_mask(5, 6, seed=1)
EVERY_TOKEN = ("token_log_prob", "old_token_log_prob")


def token_batch(rows: int, *, per: str = "token", reference: bool = False, **settings: Any) -> Call:
    """Five outputs of unequal lengths with holes, whose ratios lie on both sides of every clip."""
    log_prob = uniform(5, 6, seed=1, low=0.02).log()
    call = {"token_log_prob": log_prob, "old_token_log_prob": log_prob + normal(5, 6, seed=2, scale=0.4)}
    if reference:
        call["ref_token_log_prob"] = log_prob + normal(5, 6, seed=3, scale=0.5)
    shape = {"token": (5, 6), "output": (5, 1), "sequence": (5,)}[per]
    call |= {"advantage": normal(*shape, seed=4), "mask": MASK}
    return {name: value[:rows] for name, value in call.items()} | settings


def loss_and_slope(result: tuple[Tensor, Tensor], leaf: Tensor) -> tuple[Tensor, Tensor]:
    """A batch's loss and its gradient, as training makes them from values and weights."""
    value, weight = result
    loss = (value * weight).sum() / weight.sum()
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def ours(function: Any, call: Call, **changes: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one of our objectives on a batch."""
    leaf = call["token_log_prob"].clone().requires_grad_()
    return loss_and_slope(function(**{**call, "token_log_prob": leaf, **changes}), leaf)


def trl_grpo(call: Call, *, trainer: Any = None, **settings: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient of TRL's GRPOTrainer._compute_loss on the same log-probabilities, advantages and mask."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    leaf = call["token_log_prob"].clone().requires_grad_()
    mask = call["mask"]
    known = {
        "delta": None,
        "use_bias_correction_kl": False,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
    }
    arguments = SimpleNamespace(**{name: settings.pop(name, value) for name, value in known.items()})
    one = object.__new__(trainer or GRPOTrainer)
    attributes = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "max_completion_length": mask.shape[1],
        **settings,
        "args": arguments,
        "model": SimpleNamespace(training=False),
        "accelerator": SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
    }
    for name, value in attributes.items():
        setattr(one, name, value)
    ids = torch.zeros_like(mask, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": call["advantage"],
        "old_per_token_logps": call["old_token_log_prob"],
        "num_items_in_batch": mask.sum(),
    }
    if "ref_token_log_prob" in call:
        inputs["ref_per_token_logps"] = call["ref_token_log_prob"]
    loss = one._compute_loss(None, inputs)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def trl_rloo(call: Call, *, epsilon_low: float, epsilon_high: float) -> tuple[Tensor, Tensor]:
    """The same of TRL's RLOOTrainer._compute_loss."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    leaf = call["token_log_prob"].clone().requires_grad_()
    trainer = object.__new__(RLOOTrainer)
    attributes = {
        "epsilon_low": epsilon_low,
        "epsilon_high": epsilon_high,
        "beta": 0.0,
        "aux_loss_enabled": False,
        "model": SimpleNamespace(training=False),
        "accelerator": SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
    }
    for name, value in attributes.items():
        setattr(trainer, name, value)
    ids = call["mask"].long()
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": ids,
        "advantages": call["advantage"],
        "old_logps": torch.where(call["mask"], call["old_token_log_prob"], 0).sum(-1),
    }
    loss = trainer._compute_loss(None, inputs)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], *, tolerance: float = 1e-9) -> None:
    """The same loss and the same gradient."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=tolerance / 1000)
    torch.testing.assert_close(ours[1], theirs[1], rtol=tolerance, atol=tolerance / 1000)
