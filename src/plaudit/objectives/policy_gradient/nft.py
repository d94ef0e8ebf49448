"""Negative-aware fine-tuning: maximum likelihood on right answers, and on wrong ones through the policy that they imply.

The old policy is a mixture, ``π_old = r π₊ + (1 - r) π₋``, of what it answers when right and when wrong; r is the share of
right answers to the prompt. The trained policy plays π₊; then ``π₋ = (π_old - r π) / (1 - r)``, and wrong answers raise the
likelihood of that.

Everything but the policy's log-probabilities is a constant. r must come from all K answers to the prompt, and reward be binary.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective
from plaudit.objectives.policy_gradient.importance import token_log_ratio


@objective(
    paper="Chen et al. 2025, arXiv 2505.18116",
    feedback="verdict",
    signal="label",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def nft(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    correct: Bool[Tensor, " N"],
    correct_rate: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    prompt_weight: Float[Tensor, " N"] | None = None,
    negative_weight: float = 1.0,
    floor: float = 1.0,
    rate_margin: float = 0.02,
    log_ratio_limit: float = 10.0,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""NFT per token, with ``R_t = π_t / π_old,t``: ``-w log R_t`` for right answers, ``-w log maxv(x_t, ε)`` for wrong ones.

    ``x_t = (1 - r R_t) / (1 - r)`` is the ratio of the implied policy of wrong answers. ``maxv`` floors its value at ε and
    keeps its gradient (`straight_through_floor`), so that a wrong token that became likelier is still pushed down.

    Args:
        token_log_prob: log-probability of each token under the policy.
        old_token_log_prob: the same under the policy that answered.
        correct: whether the answer is right.
        correct_rate: r, the share of right answers among all answers to the same prompt.
        mask: True for the tokens that count.
        prompt_weight: w(q), such as `nft_dr_grpo_weight` (the code's default) or `nft_grpo_weight`; None is 1.
        negative_weight: >= 0, weight of wrong answers; 0 is rejection-sampling fine-tuning (RFT).
        floor: ``ε > 0``; up to 1 the on-policy gradient is exact; lowering it makes wrong tokens that became likelier count
            more, and the paper found small values to hurt.
        rate_margin: in [0, 0.5), r is held within ``[margin, 1 - margin]``; the code's 0.02 matters from 51 answers on.
        log_ratio_limit: > 0, bound of ``log R_t`` in wrong answers, beyond which there is no gradient; the code's.
        aggregation: see `aggregate`. The paper averages over tokens as DAPO; its code divides sums by 1000 (pass 1000.0).

    Returns:
        (value, weight) per answer. The value is not the gradient's antiderivative where the floor holds.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Chen et al., "Bridging Supervised Learning and RL in Math Reasoning", arXiv 2505.18116 v3, equation 10; guards and
        defaults from the official code (NVlabs/NFT, ``dp_actor.py``).

    Example:
        r = 1/2, R = 1.5: a right answer ``-log 1.5``; a wrong one has ``x = 0.5``, with ε = 1 loss 0 and gradient
        ``r/(1-r) R / 1 = 1.5`` in ``log π``, with ε = 0.1 loss ``log 2`` and gradient 3.
    """
    _check_settings(negative_weight, floor, rate_margin, log_ratio_limit)
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask)
    rate = _rate(correct_rate, rate_margin).to(log_ratio.dtype)[:, None]
    implied = (1 - rate * log_ratio.clamp(max=log_ratio_limit).exp()) / (1 - rate)
    negative = negative_weight * straight_through_floor(implied, floor).log()
    per_token = -torch.where(correct[:, None], log_ratio, negative)
    if prompt_weight is not None:
        per_token = prompt_weight.detach()[:, None] * per_token
    return aggregate(per_token, mask, aggregation)


@objective(
    paper="Chen et al. 2025, arXiv 2505.18116",
    feedback="verdict",
    signal="label",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def nft_sequence(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    correct: Bool[Tensor, " N"],
    correct_rate: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    prompt_weight: Float[Tensor, " N"] | None = None,
    negative_weight: float = 1.0,
    floor: float = 1.0,
    rate_margin: float = 0.02,
    log_ratio_limit: float = 10.0,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""NFT with one ratio per answer, ``R = Π_t π_t / π_old,t``: the derivation without its step to tokens.

    Args:
        token_log_prob: as in `nft`.
        old_token_log_prob: as in `nft`.
        correct: as in `nft`.
        correct_rate: as in `nft`.
        mask: True for the tokens that count.
        prompt_weight: as in `nft`.
        negative_weight: as in `nft`.
        floor: as in `nft`.
        rate_margin: as in `nft`.
        log_ratio_limit: > 0, bound of ``log R`` in wrong answers.

    Returns:
        (value, weight) per answer; an answer without tokens has value 0 and weight 0.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Chen et al., arXiv 2505.18116 v3, equations 7 and 8; ``ratio_type=sequence`` in the official code, which sums over
        answers.

    Example:
        Token ratios (3, 1/2), r = 1/2: ``R = 1.5``, and the values of `nft`'s example.
    """
    _check_settings(negative_weight, floor, rate_margin, log_ratio_limit)
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask).sum(-1)
    present = mask.any(-1)
    rate = _rate(torch.where(present, correct_rate, 0), rate_margin).to(log_ratio.dtype)
    implied = (1 - rate * log_ratio.clamp(max=log_ratio_limit).exp()) / (1 - rate)
    value = -torch.where(correct, log_ratio, negative_weight * straight_through_floor(implied, floor).log())
    if prompt_weight is not None:
        value = prompt_weight.detach() * value
    return torch.where(present, value, 0), present.to(value.dtype)


@objective(
    role="advantage",
    paper="Chen et al. 2025, arXiv 2505.18116",
    feedback="verdict",
    signal="label",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def nft_advantage(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    correct: Bool[Tensor, " N"],
    correct_rate: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    floor: float = 1.0,
    rate_margin: float = 0.02,
    log_ratio_limit: float = 10.0,
) -> Float[Tensor, "N T"]:
    r"""The advantage that NFT gives each token: `policy_gradient` with it has the gradient of `nft`.

    1 for right answers, ``-r/(1-r) R_t / max(x_t, ε)`` for wrong ones; on policy ``-r/(1-r)``. Multiply it by w(q).

    Args:
        token_log_prob: as in `nft`.
        old_token_log_prob: as in `nft`.
        correct: as in `nft`.
        correct_rate: as in `nft`.
        mask: True for the tokens that count.
        floor: as in `nft`.
        rate_margin: as in `nft`.
        log_ratio_limit: as in `nft`.

    Returns:
        The advantages, constants; 0 where masked.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Chen et al., arXiv 2505.18116 v3, section 4 (the gradient of equation 10).

    Example:
        r = 3/4, on policy: 1 for a right answer, -3 for a wrong one.
    """
    _check_settings(0.0, floor, rate_margin, log_ratio_limit)
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask).detach()
    rate = _rate(correct_rate, rate_margin).to(log_ratio.dtype)[:, None]
    ratio = log_ratio.clamp(max=log_ratio_limit).exp()
    implied = (1 - rate * ratio) / (1 - rate)
    slope = torch.where(log_ratio <= log_ratio_limit, -rate / (1 - rate) * ratio / implied.clamp(min=floor), 0)
    return torch.where(mask, torch.where(correct[:, None], 1, slope), 0)


@objective(
    role="weight",
    paper="Chen et al. 2025, arXiv 2505.18116",
    feedback="verdict",
    signal="label",
    data="either",
    reference=False,
    modalities=("text",),
)
def nft_dr_grpo_weight(correct_rate: Float[Tensor, " N"], *, rate_margin: float = 0.02) -> Float[Tensor, " N"]:
    r"""The prompt weight with which NFT is Dr. GRPO on policy: ``w = 1 - r``.

    Args:
        correct_rate: r, the share of right answers to the prompt.
        rate_margin: as in `nft`; give both the same.

    Returns:
        The weight of each answer.

    Raises:
        ValueError: rate_margin outside [0, 0.5).

    Reference:
        Chen et al., arXiv 2505.18116 v3, section 4; ``normalize=1``, the official code's default.

    Example:
        r = 1/4: ``w = 3/4``.
    """
    check_share("rate_margin", rate_margin, below=0.5)
    return 1 - _rate(correct_rate, rate_margin)


@objective(
    role="weight",
    paper="Chen et al. 2025, arXiv 2505.18116",
    feedback="verdict",
    signal="label",
    data="either",
    reference=False,
    modalities=("text",),
)
def nft_grpo_weight(correct_rate: Float[Tensor, " N"], *, rate_margin: float = 0.02) -> Float[Tensor, " N"]:
    r"""The prompt weight with which NFT is GRPO on policy: ``w = √((1 - r) / r)``, GRPO's s with ddof 0.

    Args:
        correct_rate: r, the share of right answers to the prompt.
        rate_margin: as in `nft`; give both the same. At 0 a prompt without a right answer has an infinite weight.

    Returns:
        The weight of each answer.

    Raises:
        ValueError: rate_margin outside [0, 0.5).

    Reference:
        Chen et al., arXiv 2505.18116 v3, section 4; ``normalize=2`` in the official code. Notes on the paper print it
        without the root, with which the identity fails.

    Example:
        r = 1/5: ``w = 2``.
    """
    check_share("rate_margin", rate_margin, below=0.5)
    rate = _rate(correct_rate, rate_margin)
    return ((1 - rate) / rate).sqrt()


def straight_through_floor(x: Tensor, floor: float) -> Tensor:
    """``max(x, floor)`` in value, x in gradient: a floor that does not silence what lies under it."""
    return torch.maximum(x, torch.full_like(x, floor)).detach() + (x - x.detach())


def _rate(correct_rate: Tensor, margin: float) -> Tensor:
    exact = correct_rate.detach().to(torch.promote_types(correct_rate.dtype, torch.float32))
    return exact.clamp(margin, 1 - margin)


def _check_settings(negative_weight: float, floor: float, rate_margin: float, log_ratio_limit: float) -> None:
    check_not_negative("negative_weight", negative_weight)
    check_positive("floor", floor)
    check_share("rate_margin", rate_margin, below=0.5)
    check_positive("log_ratio_limit", log_ratio_limit)
