"""The optimisers that the loop steps with."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from plaudit.errors import require
from plaudit.training.config import TrainingConfig


def make_optimizer(weights: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), or the same with moments of 8 bits (Dettmers et al., arXiv 2110.02861).

    With 8 bits a weight's moments take 2 bytes instead of 8; tensors of fewer than 4,096 numbers keep 32 bits. On a CPU the
    step takes some seven times as long: 40 ns for each weight on one core, so 5 s for 135 million, and 0.2 s for adapters.

    Raises:
        MissingExtra: 8 bits are asked for, and bitsandbytes is not installed.
    """
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, **settings)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that no optimiser needs
    optimizer: torch.optim.Optimizer = require("bitsandbytes.optim", extra="lowbit").AdamW8bit(weights, **settings)
    # it writes past autograd's count of changes, by which a reference knows that the weights have moved
    optimizer.register_step_post_hook(lambda *_: torch.autograd.graph.increment_version(weights))
    return optimizer
