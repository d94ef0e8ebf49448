"""Policy-gradient losses whose importance ratio is one per output: what the whole output did, weighed by its advantage.

`advantage` is [N]; it and the old log-probabilities are constants. An output without tokens has value 0 and weight 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, masked_mean
from plaudit.objectives.catalogue import objective
from plaudit.objectives.policy_gradient.clipped_ratio import clipped
from plaudit.objectives.policy_gradient.importance import bounded_exp, masked_advantage, token_log_ratio


@objective(
    paper="Ahmadian et al. 2024, arXiv 2402.14740",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def sequence_ppo_clip(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""PPO's clipped surrogate with the output as the action: ``ρ = Π_t π_t / π_old,t``; the loss that RLOO takes off policy.

    Args:
        token_log_prob: log-probability of each token under the policy.
        old_token_log_prob: the same under the policy that sampled the output. A constant.
        advantage: of each output, such as `rloo_advantage`. A constant.
        mask: True for the tokens that count.
        clip_low: ε_low in [0, 1]; the product of many ratios leaves the range soon.
        clip_high: ``ε_high >= 0``.

    Returns:
        (value, weight) per output; at ``π = π_old`` the gradient is `policy_gradient`'s with ``"sequence-sum"``.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        Ahmadian et al., "Back to Basics", arXiv 2402.14740, model the whole output as one action (REINFORCE, without a ratio);
        the ratio and its clip are TRL's RLOOTrainer.

    Example:
        Token ratios (2, 1/2), advantage 3: ``ρ = 1``, loss -3.
    """
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask).sum(-1))
    return _per_output(clipped(ratio, _known(advantage, mask), clip_low, clip_high), mask)


@objective(
    paper="Zheng et al. 2025, arXiv 2507.18071",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def gspo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""GSPO: PPO's clip on the ratio of whole outputs, taken to the power of 1/length.

    ``L = max(-A s, -A clip(s, 1 - ε_low, 1 + ε_high))`` with ``s = exp(1/|y| Σ_t (log π_t - log π_old,t))``.

    Args:
        token_log_prob: log-probability of each token under the policy.
        old_token_log_prob: the same under the policy that sampled the output. A constant.
        advantage: of each output, such as `grpo_advantage`. A constant.
        mask: True for the tokens that count.
        clip_low: ε_low in [0, 1]; a mean log-ratio is small, so the range is narrow.
        clip_high: ``ε_high >= 0``.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        Zheng et al., "Group Sequence Policy Optimization", arXiv 2507.18071, equations 5 and 7; the clips are its
        section 5.1's. TRL: ``loss_type="grpo"`` with ``importance_sampling_level="sequence"``.

    Example:
        Token ratios (4, 1), advantage 1: ``s = 2``, clipped: ``-(1 + ε_high)``; advantage -1: 2.
    """
    ratio = bounded_exp(masked_mean(token_log_ratio(token_log_prob, old_token_log_prob, mask), mask))
    return _per_output(clipped(ratio, _known(advantage, mask), clip_low, clip_high), mask)


@objective(
    paper="Zheng et al. 2025, arXiv 2507.18071",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def gspo_token(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""GSPO with an advantage per token: ``s_t = sg(s) π_t / sg(π_t)``, clipped as in PPO.

    Each token's ratio has the output's value and its own gradient (``sg`` stops gradients, so that the value is not the
    gradient's antiderivative). With one advantage per output, value and gradient are `gspo`'s.

    Args:
        token_log_prob: as in `gspo`.
        old_token_log_prob: as in `gspo`.
        advantage: per token, or [N, 1].
        mask: True for the tokens that count.
        clip_low: as in `gspo`.
        clip_high: as in `gspo`.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        Zheng et al., arXiv 2507.18071, equations 13 and 14; verl's ``gspo``, which bounds ``log s`` at 10.

    Example:
        Token ratios (4, 1), advantages (-1, -3): ``s = 2``, loss ``(2 + 6) / 2 = 4``, gradients (1, 3).
    """
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask)
    level = bounded_exp(masked_mean(log_ratio, mask, keepdim=True)).detach()
    ratio = level * (log_ratio - log_ratio.detach()).exp()
    return aggregate(clipped(ratio, masked_advantage(advantage, mask), clip_low, clip_high), mask, aggregation)


@objective(
    paper="Liu et al. 2026, arXiv 2602.05261",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def luspo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 2e-3,
    clip_high: float = 2.5e-3,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""LUSPO: `gspo`'s loss times the output's length, so that a token weighs the same in outputs of any length.

    Args:
        token_log_prob: as in `gspo`.
        old_token_log_prob: as in `gspo`.
        advantage: as in `gspo`.
        mask: True for the tokens that count.
        clip_low: as in `gspo`.
        clip_high: as in `gspo`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        Liu et al., "Length-Unbiased Sequence Policy Optimization", arXiv 2602.05261 (read through TRL's ``loss_type="luspo"``
        and its paper index, not the paper itself); the clips are its section 5.1's.

    Example:
        Token ratios (4, 1), advantage -1: ``2 · 2 = 4``.
    """
    ratio = bounded_exp(masked_mean(token_log_ratio(token_log_prob, old_token_log_prob, mask), mask))
    length = mask.sum(-1).to(ratio.dtype)
    return _per_output(length * clipped(ratio, _known(advantage, mask), clip_low, clip_high), mask)


@objective(
    paper="Zhao et al. 2025, arXiv 2507.20673",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def gmpo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    log_clip_low: float = 0.4,
    log_clip_high: float = 0.4,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""GMPO: the geometric mean of token ratios, each clipped on the side that the advantage drives it to.

    ``L = -A exp(1/|y| Σ_t l_t)``, ``l_t = min(log ρ_t, ε_high)`` where ``A > 0`` and ``max(log ρ_t, -ε_low)`` where ``A < 0``.

    Args:
        token_log_prob: as in `gspo`.
        old_token_log_prob: as in `gspo`.
        advantage: as in `gspo`.
        mask: True for the tokens that count.
        log_clip_low: ``ε_low > 0`` in log-ratios; raising it lets bad tokens become less likely within one batch.
        log_clip_high: ``ε_high > 0`` in log-ratios; raising it lets good tokens become likelier.

    Returns:
        (value, weight) per output. `gspo` clips after the mean, this before it.

    Raises:
        ValueError: a clip is not positive.

    Reference:
        Zhao et al., "Geometric-Mean Policy Optimization", arXiv 2507.20673, with the clip range ``(e^-0.4, e^0.4)``. TRL's
        GMPOTrainer and verl's ``geo_mean`` agree.

    Example:
        Log-ratios (1, 0), advantage 1: ``l = (0.4, 0)``, loss ``-e^0.2``; advantage -1: ``e^0.5``.
    """
    check_positive("log_clip_low", log_clip_low)
    check_positive("log_clip_high", log_clip_high)
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask)
    known = _known(advantage, mask)
    held = torch.where(known[:, None] > 0, log_ratio.clamp(max=log_clip_high), log_ratio.clamp(min=-log_clip_low))
    return _per_output(-known * bounded_exp(masked_mean(held, mask)), mask)


@objective(
    paper="Shen et al. 2026, arXiv 2602.10693",
    feedback="any",
    signal="advantage",
    data="off-policy",
    reference=False,
)
def vespo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    power_positive: float = 2.0,
    decay_positive: float = 3.0,
    power_negative: float = 3.0,
    decay_negative: float = 2.0,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""VESPO: a policy gradient whose outputs weigh by a smooth bump of their ratio: ``L_t = -sg(φ(ρ)) A log π_t``.

    ``φ(ρ) = ρ^k e^{λ (1 - ρ)}`` with ``ρ = Π_t π_t / π_old,t``: 1 on policy, 0 for ratios near 0 and for large ones. ``sg``
    stops the gradient, so that the value is not the loss's slope.

    Args:
        token_log_prob: as in `gspo`.
        old_token_log_prob: as in `gspo`.
        advantage: as in `gspo`.
        mask: True for the tokens that count.
        power_positive: ``k >= 0`` where ``A >= 0``; raising it suppresses small ratios more.
        decay_positive: ``λ > 0`` where ``A >= 0``; raising it suppresses large ratios more.
        power_negative: k where ``A < 0``.
        decay_negative: λ where ``A < 0``.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: a power is negative, or a decay is not positive.

    Reference:
        Shen et al., "VESPO", arXiv 2602.10693, section 3.4 (read through TRL's ``loss_type="vespo"`` and its paper index,
        not the paper itself). TRL bounds ``log ρ`` at ``log 1e-8`` from below and each token's log-ratio at ±20.

    Example:
        Ratio 1, advantage 2, one token of probability 1/2: ``2 log 2``.
    """
    check_not_negative("power_positive", power_positive)
    check_not_negative("power_negative", power_negative)
    check_positive("decay_positive", decay_positive)
    check_positive("decay_negative", decay_negative)
    log_ratio = token_log_ratio(token_log_prob, old_token_log_prob, mask).detach().sum(-1)
    known = _known(advantage, mask)
    power = torch.where(known >= 0, known.new_tensor(power_positive), known.new_tensor(power_negative))
    decay = torch.where(known >= 0, known.new_tensor(decay_positive), known.new_tensor(decay_negative))
    bump = (power * log_ratio + decay * (1 - bounded_exp(log_ratio))).exp()
    return aggregate(-(bump * known)[:, None] * torch.where(mask, token_log_prob, 0), mask, aggregation)


def _known(advantage: Tensor, mask: Tensor) -> Tensor:
    return masked_advantage(advantage, mask.any(-1))


def _per_output(value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    present = mask.any(-1)
    return torch.where(present, value, 0), present.to(value.dtype)
