"""Guidance: affine combinations of predictions at sampling time, the same in every form of prediction.

All have coefficients that add up to 1. At a fixed noised image, noise ``ε``, ``v``, image ``x_0``, velocity ``u`` and score
are affine in each other, so such a combination means the same in each of them. They are computed in float32 at least: the
difference of two nearly equal predictions loses its digits in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from plaudit.objectives.arguments import widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.denoising.denoising_transitions import check_same_shape, per_row


@objective(
    role="statistic",
    paper="Ho and Salimans 2022, arXiv 2207.12598",
    feedback="none",
    signal="none",
    data="either",
    reference=False,
    modalities=("images",),
)
def classifier_free_guidance(
    conditional: Float[Tensor, " B *D"],
    unconditional: Float[Tensor, " B *D"],
    *,
    scale: Float[Tensor, " #B"] | float,
) -> Float[Tensor, " B *D"]:
    r"""Classifier-free guidance: ``y = y(∅) + g (y(c) - y(∅))``.

    In densities: ``p_t(x)^{1-g} p_t(x|c)^g``. ``g = 1`` is the conditional model, 0 the unconditional one, above 1
    exaggerates the condition.

    Args:
        conditional: the prediction ``y(c)`` with the condition, in any form.
        unconditional: the prediction ``y(∅)`` without it, in the same form at the same image and time.
        scale: g, one number or one per row. Raising it trades diversity for agreement with the condition.

    Returns:
        The guided prediction, in float32 at least.

    Raises:
        ValueError: the two predictions' shapes differ, or a scale per row does not fit them.

    Reference:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598, equation 6, whose w is ``g - 1``; diffusers'
        ``guidance_scale`` is g.

    Example:
        ``y(c) = 2``, ``y(∅) = 1`` at g = 4.5: 5.5.
    """
    check_same_shape("unconditional", unconditional, "conditional", conditional)
    return _extrapolate("scale", scale, conditional, unconditional)


@objective(
    role="statistic",
    paper="Jin et al. 2025, arXiv 2508.21016",
    feedback="none",
    signal="none",
    data="either",
    reference=True,
    modalities=("images",),
)
def rl_guidance(
    tuned: Float[Tensor, " B *D"],
    reference: Float[Tensor, " B *D"],
    *,
    weight: Float[Tensor, " #B"] | float,
) -> Float[Tensor, " B *D"]:
    r"""Reinforcement-learning guidance: ``y = y_ref + w (y_tuned - y_ref)``, alignment as a knob at sampling time.

    In densities: ``p_ref^{1-w} p_tuned^w``. If the tuned model is the optimum ``p_ref exp(r/β)/Z`` of KL-regularised
    training, then this is the optimum for ``β/w``: w = 2 asks for half the pull to the reference. That holds for the clean
    image's density; at noise levels t > 0 the combined score is that of the noised optimum exactly only where tilting and
    noising commute (Gaussian reference, linear reward), and approximately otherwise.

    Args:
        tuned: the tuned model's prediction, in any form.
        reference: the prediction of the model that the tuning started from, in the same form at the same image and time.
        weight: w, one number or one per row (a request's own): 0 is the reference, 1 the tuned model, above 1 extrapolates and
            may overshoot, below 0 turns away.

    Returns:
        The guided prediction, in float32 at least.

    Raises:
        ValueError: the two predictions' shapes differ, or a weight per row does not fit them.

    Reference:
        Jin et al., "Inference-Time Alignment Control for Diffusion Models with Reinforcement Learning Guidance", arXiv
        2508.21016; the formula as in the official ``sd3_pipeline_with_rlg.py``. With classifier-free guidance each model is
        guided first, with one scale, and the two results are combined here.

    Example:
        Tuned 2, reference 1 at w = 1.5: 2.5.
    """
    check_same_shape("reference", reference, "tuned", tuned)
    return _extrapolate("weight", weight, tuned, reference)


@objective(
    role="statistic",
    paper="Jin et al. 2025, arXiv 2508.21016 (several models: ours)",
    feedback="none",
    signal="none",
    data="either",
    reference=True,
    modalities=("images",),
)
def several_rl_guidance(
    tuned: Float[Tensor, "B K *D"],
    reference: Float[Tensor, " B *D"],
    *,
    weight: Sequence[float],
) -> Float[Tensor, " B *D"]:
    r"""Guidance by several tuned models of one reference: ``y = y_ref + Σ_k w_k (y_k - y_ref)``.

    In densities: ``p_ref Π_k (p_k / p_ref)^{w_k}``; of KL optima it targets the reward ``Σ_k (w_k/β_k) r_k``.

    Args:
        tuned: the prediction of each of K tuned models, in any one form.
        reference: that of the model that all of them started from.
        weight: ``w_k``, one per tuned model.

    Returns:
        The guided prediction, in float32 at least; the reference's where all weights are 0.

    Raises:
        ValueError: the shapes do not fit, or there is not one weight per tuned model.

    Reference:
        `rl_guidance` for one model; the sum is ours.

    Example:
        Tuned 2 and 4, reference 1, weights 1 and 0.5: ``1 + 1 + 1.5 = 3.5``.
    """
    if tuned.shape[:1] + tuned.shape[2:] != reference.shape:
        raise ValueError(
            f"tuned: expected [B, K] in front of reference's {list(reference.shape)[1:]}, got {list(tuned.shape)}"
        )
    if len(weight) != tuned.shape[1]:
        raise ValueError(f"weight: expected one number per tuned model, {tuned.shape[1]}, got {len(weight)}")
    base = widened(reference)
    return base + sum(w * (widened(model) - base) for w, model in zip(weight, tuned.unbind(1), strict=True))


def _extrapolate(name: str, share: Tensor | float, towards: Tensor, start: Tensor) -> Tensor:
    """``start + share (towards - start)``, with one share for all or one per row."""
    base = widened(start)
    factor = per_row(name, share, start) if isinstance(share, Tensor) else share
    return base + factor * (widened(towards) - base)
