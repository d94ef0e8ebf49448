"""Objectives on denoising errors from demonstrations alone: the other side of each pair is a picture of the model's own."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.catalogue import objective
from plaudit.objectives.denoising.denoising import denoising_log_ratio, diffusion_dpo
from plaudit.objectives.preferences.pairwise import dpo


@objective(
    paper="Yuan et al. 2024, arXiv 2402.10210",
    feedback="demonstration",
    signal="preference",
    data="either",
    reference=True,
    modalities=("images",),
)
def spin_diffusion(
    error_demonstration: Float[Tensor, " B"],
    error_generated: Float[Tensor, " B"],
    ref_error_demonstration: Float[Tensor, " B"],
    ref_error_generated: Float[Tensor, " B"],
    *,
    beta: float,
    weight: Float[Tensor, " B"] | float = 0.5,
) -> Float[Tensor, " B"]:
    r"""SPIN-Diffusion: a demonstration is preferred to the previous checkpoint's own picture.

    ``L = -log σ(-β w [(e_data - e_data,ref) - (e_gen - e_gen,ref)])``; this is `diffusion_dpo` with a negative from
    self-play, and the checkpoint that drew it as the reference.

    Args:
        error_demonstration: the policy's error on the image of the data.
        error_generated: the policy's error on the image that the reference drew for the same prompt.
        ref_error_demonstration: the previous checkpoint's error on the image of the data.
        ref_error_generated: the previous checkpoint's error on its own image.
        beta: > 0, strength of the pull to the previous checkpoint.
        weight: w, as in `denoising_log_ratio`.

    Returns:
        The loss of each row, >= 0; ``log 2`` where the policy is the previous checkpoint.

    Reference:
        Yuan et al., "Self-Play Fine-Tuning of Diffusion Models for Text-to-Image Generation", arXiv 2402.10210, the approximate
        objective of its section 4 with the logistic link (equation number not found). Its exact objective runs over the
        sampler's whole path instead of re-noised images.

    Example:
        As in `diffusion_dpo`.
    """
    return diffusion_dpo(
        error_demonstration, error_generated, ref_error_demonstration, ref_error_generated, beta=beta, weight=weight
    )


@objective(
    paper="Wu et al. 2025, arXiv 2510.18353",
    feedback="demonstration",
    signal="preference",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def diffusion_dro(
    error_expert: Float[Tensor, " B"],
    error_policy: Float[Tensor, " B"],
    ref_error_expert: Float[Tensor, " B"],
    ref_error_policy: Float[Tensor, " B"],
    *,
    threshold: float = -0.001,
) -> Float[Tensor, " B"]:
    r"""Diffusion-DRO: experts' images shall be explained better than the policy's own, relative to the reference, by a margin.

    ``L = max(m, (e_expert - e_expert,ref) - (e_policy - e_policy,ref))``.

    Args:
        error_expert: the model's error on a noised expert's image.
        error_policy: its error on a state of the policy's own sampler, where the target is the policy's own prediction,
            taken when it sampled, as a constant. Both at the same time.
        ref_error_expert: the reference's error on the expert's image.
        ref_error_policy: the reference's error against the same prediction of the policy.
        threshold: m; the loss is flat below it. On the scale of the errors: lowering it asks for a larger gap.

    Returns:
        The loss of each row, >= m. With the policy refreshed after each update ``error_policy`` is 0 and has no gradient:
        the policy's branch then only decides which experts are still learnt from (see `diffusion_dro_active`).

    Reference:
        Wu et al., "Ranking-based Preference Optimization for Diffusion Models from Implicit User Feedback", arXiv 2510.18353,
        algorithm 1, line 13. The code (basiclab/DiffusionDRO ``train.py``) writes ``relu(diff + 0.001)``: this loss minus m.

    Example:
        Differences -0.2 and 0.1 at m = -0.5: ``max(-0.5, -0.3) = -0.3``.
    """
    gap = (error_expert - ref_error_expert) - (error_policy - ref_error_policy)
    return gap.clamp(min=threshold)


@objective(
    role="statistic",
    paper="Wu et al. 2025, arXiv 2510.18353",
    feedback="demonstration",
    signal="preference",
    data="on-policy",
    reference=True,
    modalities=("images",),
)
def diffusion_dro_active(
    error_expert: Float[Tensor, " B"],
    error_policy: Float[Tensor, " B"],
    ref_error_expert: Float[Tensor, " B"],
    ref_error_policy: Float[Tensor, " B"],
    *,
    threshold: float = -0.001,
) -> Bool[Tensor, " B"]:
    r"""Which rows of `diffusion_dro` still learn; a threshold at which half of them do is a good start.

    Args:
        error_expert: as in `diffusion_dro`.
        error_policy: as in `diffusion_dro`.
        ref_error_expert: as in `diffusion_dro`.
        ref_error_policy: as in `diffusion_dro`.
        threshold: as in `diffusion_dro`.

    Returns:
        True where the loss is above its floor, so that it has a gradient.

    Reference:
        Wu et al., arXiv 2510.18353, algorithm 1; to watch the share of active rows is ours.

    Example:
        Differences -0.2 and 0.1: active at m = -0.5, not at m = -0.1.
    """
    return (error_expert - ref_error_expert) - (error_policy - ref_error_policy) > threshold


@objective(
    role="statistic",
    paper="Zhang et al. 2024, arXiv 2410.05255",
    feedback="demonstration",
    signal="none",
    data="either",
    reference=True,
    modalities=("images",),
)
def anchor_sign(error_winner: Float[Tensor, " B"], ref_error_winner: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""SePPO's criterion: is the reference's own picture a losing or a winning one? The winner is the anchor.

    ``+1`` (presumed losing) where the reference explains the winner no better than the policy does, ``-1`` (presumed
    winning) where it explains it better.

    Args:
        error_winner: the policy's error on the winner; the mean over several draws of time and noise makes the sign less noisy.
        ref_error_winner: the reference's error at the same noised images.

    Returns:
        The sign of each row, without gradient. +1 where both are equal, as at the first update, where the policy is the
        reference.

    Reference:
        Zhang et al., "SePPO: Semi-Policy Preference Optimization for Diffusion Alignment", arXiv 2410.05255v1, the anchor-based
        adaptive flipper, as its reviews state it; sign(0) = +1 is ours.

    Example:
        Errors 0.2 against the reference's 0.3: +1; 0.4 against 0.3: -1.
    """
    return torch.where(ref_error_winner.detach() >= error_winner.detach(), 1.0, -1.0).to(error_winner.dtype)


@objective(
    paper="Zhang et al. 2024, arXiv 2410.05255",
    feedback="demonstration",
    signal="preference",
    data="either",
    reference=True,
    modalities=("images",),
)
def seppo(
    error_winner: Float[Tensor, " B"],
    error_generated: Float[Tensor, " B"],
    ref_error_winner: Float[Tensor, " B"],
    ref_error_generated: Float[Tensor, " B"],
    *,
    beta: float,
    weight: Float[Tensor, " B"] | float = 0.5,
    sign: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""SePPO: self-play against an earlier checkpoint's picture, which is pushed away or pulled in as the anchor says.

    ``L = -log σ(-β w [(e_w - e_w,ref) - sign (e_g - e_g,ref)])`` with `anchor_sign`. With sign +1 it is `diffusion_dpo`;
    with -1 both pictures are learnt from.

    Args:
        error_winner: the policy's error on the winner.
        error_generated: the policy's error on the picture that the reference drew for the same prompt.
        ref_error_winner: the error of the reference, an earlier checkpoint drawn at random.
        ref_error_generated: the reference's error on its own picture.
        beta: > 0, strength of the pull to the reference.
        weight: w, as in `denoising_log_ratio`.
        sign: a constant of each row instead of `anchor_sign` on these errors: one from more draws, or
            ``(anchor_sign + 1) / 2``, which leaves presumed winners out and learns from the winner alone (the paper's
            variant with an indicator; version 2 of the paper, there called SSPO, turns such rows into supervised fine-tuning).

    Returns:
        The loss of each row, >= 0; ``log 2`` where the policy is the reference.

    Reference:
        Zhang et al., arXiv 2410.05255v1, equations 7 and 14, as its reviews state them; no training code is published.

    Example:
        Winner 0.2 against 0.4, generated 0.5 against 0.4, β = 10: sign +1, ``h = -5 (-0.2 - 0.1) = 1.5``, ``L = 0.2014``.
    """
    direction = anchor_sign(error_winner, ref_error_winner) if sign is None else sign.detach()
    winner = denoising_log_ratio(error_winner, ref_error_winner, weight=weight)
    generated = denoising_log_ratio(error_generated, ref_error_generated, weight=weight)
    return dpo(winner, direction * generated, beta=beta)
