"""Divergences of a policy from its reference over whole distributions: all choices of a step, or a normal density.

`divergences` estimates them from the sampled tokens alone. The reference and the teacher are constants.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_positive, check_share
from plaudit.objectives.catalogue import objective


@objective(
    role="divergence",
    paper="Kullback and Leibler 1951",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
)
def reverse_kl(
    logits: Float[Tensor, "N T V"], ref_logits: Float[Tensor, "N T V"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    r"""The exact KL of the policy from its reference at each step: ``KL(π ‖ π_ref) = Σ_v π(v) (log π(v) - log π_ref(v))``.

    It punishes what the reference would not say (mode seeking). k1, k2 and k3 estimate it from one sample.

    Args:
        logits: the policy's, of all V choices at each step; log-probabilities serve as well, and -inf rules a choice out.
        ref_logits: the reference's. A constant; infinite divergence where it rules out what the policy does not.
        mask: True for the tokens that count.

    Returns:
        The divergence per token in nats, >= 0; 0 where masked.

    Reference:
        Kullback and Leibler (1951); the penalty of Ziegler et al., arXiv 1909.08593. Quark (arXiv 2205.13636) takes the
        full vocabulary.

    Example:
        (3/4, 1/4) against (1/2, 1/2): ``3/4 log(3/2) + 1/4 log(1/2) = 0.131``.
    """
    return _kl(_log_prob(logits, mask), _log_prob(ref_logits.detach(), mask))


@objective(
    role="divergence",
    paper="Kullback and Leibler 1951",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
)
def forward_kl(
    logits: Float[Tensor, "N T V"], ref_logits: Float[Tensor, "N T V"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    r"""The exact KL of the reference from the policy at each step: ``KL(π_ref ‖ π) = Σ_v π_ref(v) (log π_ref(v) - log π(v))``.

    It punishes not saying what the reference would say (mass covering), as in distillation.

    Args:
        logits: as in `reverse_kl`.
        ref_logits: as in `reverse_kl`; infinite divergence where the policy rules out what the reference does not.
        mask: True for the tokens that count.

    Returns:
        The divergence per token in nats, >= 0; 0 where masked.

    Reference:
        Kullback and Leibler (1951). SuperHF's prior is its mean over an output's tokens (arXiv 2310.16763), TRPO's constraint
        that of the old policy from the new one (arXiv 1502.05477).

    Example:
        Reference (1/2, 1/2), policy (3/4, 1/4): ``1/2 log(2/3) + 1/2 log 2 = 0.144``.
    """
    return _kl(_log_prob(ref_logits.detach(), mask), _log_prob(logits, mask))


@objective(
    paper="Agarwal et al. 2023, arXiv 2306.13649",
    feedback="any",
    signal="teacher",
    data="either",
    reference=True,
    modalities=("text",),
)
def generalised_jsd(
    logits: Float[Tensor, "N T V"],
    teacher_logits: Float[Tensor, "N T V"],
    mask: Bool[Tensor, "N T"],
    *,
    mixture: float = 0.5,
    temperature: float = 1.0,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""GKD's loss: ``m KL(π_T ‖ M) + (1 - m) KL(π ‖ M)`` with ``M = m π_T + (1 - m) π``.

    At the ends, where that is 0, it is the limit of it divided by ``m (1 - m)``: ``KL(π_T ‖ π)`` for 0, ``KL(π ‖ π_T)`` for 1.

    Args:
        logits: the student's, of all V choices at each step.
        teacher_logits: the teacher's. A constant.
        mask: True for the tokens that count.
        mixture: m in [0, 1] (the paper's β): near 0 it covers the teacher's mass, near 1 it seeks its modes.
        temperature: > 0, divides both logits; raising it compares the unlikely choices, too.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output; between 0 and ``log 2`` for mixtures inside (0, 1).

    Raises:
        ValueError: mixture is no share, or temperature is not positive.

    Reference:
        Agarwal et al., "On-Policy Distillation of Language Models" (GKD), arXiv 2306.13649, equation 1. TRL's
        ``generalized_jsd_loss`` is the same, the two ends included.

    Example:
        Student (1/2, 1/2), teacher (1, 0), m = 1/2: ``M = (3/4, 1/4)``, ``½ log(4/3) + ½ (½ log(2/3) + ½ log 2) = 0.216``.
    """
    check_share("mixture", mixture)
    check_positive("temperature", temperature)
    student = _log_prob(logits, mask, temperature)
    teacher = _log_prob(teacher_logits.detach(), mask, temperature)
    if mixture == 0:
        return aggregate(_kl(teacher, student), mask, aggregation)
    if mixture == 1:
        return aggregate(_kl(student, teacher), mask, aggregation)
    # e^-10000 is 0 as well, and what both rule out would be log(0 + 0), whose gradient is NaN
    teacher, student = teacher.clamp(min=-1e4), student.clamp(min=-1e4)
    both = torch.logaddexp(teacher + math.log(mixture), student + math.log1p(-mixture))
    per_choice = torch.lerp(student.exp() * (student - both), teacher.exp() * (teacher - both), mixture)
    per_token = per_choice.sum(-1)
    return aggregate(per_token, mask, aggregation)


@objective(
    role="divergence",
    paper="Kullback and Leibler 1951",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
    modalities=("control", "images"),
)
def gaussian_kl(
    mean: Float[Tensor, "N D"],
    log_deviation: Float[Tensor, "N D"],
    ref_mean: Float[Tensor, "N D"],
    ref_log_deviation: Float[Tensor, "N D"],
) -> Float[Tensor, " N"]:
    r"""The exact KL of two normal distributions with independent dimensions, ``KL(N(μ, σ²) ‖ N(μ_ref, σ_ref²))``.

    ``Σ_d ½ (e^{2s} - 1 - 2s) + ½ ((μ - μ_ref) / σ_ref)²`` with ``s = log σ - log σ_ref``.

    Args:
        mean: μ, of the policy's actions or denoising steps.
        log_deviation: log σ.
        ref_mean: μ_ref. A constant.
        ref_log_deviation: log σ_ref. A constant; a small σ_ref makes a difference of means count more.

    Returns:
        The divergence of each row in nats, >= 0.

    Reference:
        Kullback and Leibler (1951); torch.distributions.kl_divergence gives the same.

    Example:
        Means 1 and 0, both deviations 1: ``1/2``. Equal means, deviations e and 1: ``½ (e² - 3)``.
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    ref_log = ref_log_deviation.detach().to(dtype)
    s = log_deviation.to(dtype) - ref_log
    shift = (mean.to(dtype) - ref_mean.detach().to(dtype)) * (-ref_log).exp()
    return (torch.expm1(2 * s) - 2 * s + shift.square()).sum(-1) / 2


def _log_prob(logits: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    exact = torch.where(mask[..., None], logits, 0).to(torch.promote_types(logits.dtype, torch.float32))
    return (exact / temperature).log_softmax(-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """``Σ_v p (log p - log q)`` of log-probabilities; a choice that p rules out adds nothing."""
    possible = p > -torch.inf
    return torch.where(possible, p.exp() * (torch.where(possible, p, 0) - torch.where(possible, q, 0)), 0).sum(-1)
