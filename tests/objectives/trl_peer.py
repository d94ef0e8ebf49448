"""TRL's own losses on given log-probabilities: its trainers' methods run on stand-ins, so that its code computes the number."""

from __future__ import annotations

import importlib
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from objectives.contract import lengths_mask, normal


def token_pairs(pairs: int = 5, steps: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Token log-probabilities of policy and reference and their mask, of unequal lengths: preferred outputs first."""
    mask = lengths_mask(2 * pairs, steps, seed=3)
    return -normal(2 * pairs, steps, seed=4).exp(), -normal(2 * pairs, steps, seed=5).exp(), mask


def summed_log_ratios(token_log_prob: Tensor, ref_token_log_prob: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Log-ratios of the preferred and of the other outputs."""
    chosen, rejected = torch.where(mask, token_log_prob - ref_token_log_prob, 0).sum(-1).chunk(2)
    return chosen, rejected


def _stand_in(**attributes: Any) -> SimpleNamespace:
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    defaults = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**{**defaults, **attributes})


def _outputs(token_log_prob: Tensor, token_log_collision: Tensor | None = None) -> SimpleNamespace:
    zeros = torch.zeros_like(token_log_prob)
    return SimpleNamespace(
        log_probs=token_log_prob,
        log_sum_sq_probs=zeros if token_log_collision is None else token_log_collision,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
    )


def _inputs(mask: Tensor) -> dict[str, Tensor]:
    """One token of context in front of each output."""
    completion_mask = torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], dim=1)
    ids = torch.zeros_like(completion_mask)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": completion_mask}


def trl_dpo(
    loss_type: str,
    token_log_prob: Tensor,
    ref_token_log_prob: Tensor,
    mask: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    divergence: str = "reverse_kl",
    divergence_coefficient: float = 0.5,
    tail_weight: float | None = None,
    discopop_tau: float = 0.05,
    token_log_collision: Tensor | None = None,
) -> Tensor:
    """DPOTrainer's loss, a mean over the pairs; rows are all preferred outputs, then all rejected ones."""
    from trl import DPOTrainer

    trainer = _stand_in(
        ld_alpha=tail_weight,
        precompute_ref_logps=tail_weight is None,
        ref_model=lambda **_: _outputs(ref_token_log_prob),
        args=SimpleNamespace(discopop_tau=discopop_tau, gradient_checkpointing_kwargs=None),
        f_divergence_type=divergence,
        f_alpha_divergence_coef=divergence_coefficient,
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=token_log_collision is not None,
    )
    trainer.model = _Model()
    token_log_prob, ref_token_log_prob = (torch.where(mask, x, 0) for x in (token_log_prob, ref_token_log_prob))
    ref_chosen, ref_rejected = ref_token_log_prob.sum(-1).chunk(2)
    inputs = {**_inputs(mask), "ref_chosen_logps": ref_chosen, "ref_rejected_logps": ref_rejected}
    outputs = _outputs(token_log_prob, token_log_collision)
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)


class _Model(torch.nn.Module):
    """A model in training mode without gradient checkpointing."""

    is_gradient_checkpointing = False


def trl_dpo_each(
    loss_type: str, token_log_prob: Tensor, ref_token_log_prob: Tensor, mask: Tensor, **settings: Any
) -> Tensor:
    """DPOTrainer's loss of each pair: one call a pair."""
    pairs = len(mask) // 2
    rows = [torch.tensor([pair, pair + pairs]) for pair in range(pairs)]
    losses = []
    for row in rows:
        own = {name: value[row] if isinstance(value, Tensor) else value for name, value in settings.items()}
        losses.append(trl_dpo(loss_type, token_log_prob[row], ref_token_log_prob[row], mask[row], **own))
    return torch.stack(losses)


def trl_kto(
    token_log_prob: Tensor,
    ref_log_prob: Tensor,
    mask: Tensor,
    desirable: Tensor,
    log_prob_mismatched: Tensor,
    ref_log_prob_mismatched: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
) -> Tensor:
    """KTOTrainer's loss, a mean over the outputs."""
    from trl import KTOTrainer

    trainer = _stand_in(
        _compute_kl_logps=lambda *_: log_prob_mismatched,
        calculate_KL=loss_type == "kto",
        loss_type=loss_type,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )
    inputs = {
        **_inputs(mask),
        "label": desirable,
        "ref_logps": ref_log_prob,
        "ref_KL_logps": ref_log_prob_mismatched,
    }
    outputs = _outputs(torch.where(mask, token_log_prob, 0))
    return KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)


def _experimental(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL warns that these may change
        return importlib.import_module(f"trl.experimental.{name}")


def trl_cpo(
    chosen: Tensor, rejected: Tensor, *, loss_type: str, beta: float, margin: float = 0.0, alpha: float = 0.0
) -> Tensor:
    """CPOTrainer's preference loss of each pair, without the likelihood."""
    trainer = _stand_in(loss_type=loss_type, beta=beta, simpo_gamma=margin, alpha=alpha, label_smoothing=0.0)
    return _experimental("cpo").CPOTrainer.cpo_loss(trainer, chosen, rejected)[0]


def trl_orpo(chosen: Tensor, rejected: Tensor, *, odds_weight: float) -> Tensor:
    """ORPOTrainer's odds term of each pair, in float32; its loss is the likelihood's minus this."""
    return _experimental("orpo").ORPOTrainer.odds_ratio_loss(_stand_in(beta=odds_weight), chosen, rejected)[0]
