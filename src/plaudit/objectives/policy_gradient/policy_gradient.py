"""Policy-gradient losses per token without PPO's clip: what a token did, weighed by its advantage; and the entropy bonus.

`advantage` is [N, T], or [N, 1] where one number counts for the whole output; it and the old log-probabilities are constants.
`importance` says how ratios are bounded; `plaudit.objectives.aggregation` how tokens become examples.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective
from plaudit.objectives.policy_gradient.clipped_ratio import check_clips
from plaudit.objectives.policy_gradient.importance import bounded_exp, masked_advantage, token_log_ratio


@objective(
    paper="Williams 1992; Chu et al. 2025, arXiv 2504.02546",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def policy_gradient(
    token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    aggregation: Aggregation = "sequence-sum",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""The plain policy gradient (REINFORCE): ``L_t = -A_t log π_t``, whose gradient is minus that of the expected reward.

    Args:
        token_log_prob: log-probability of each token under the policy that sampled it.
        advantage: ``A_t``, or [N, 1] for a whole output. A constant.
        mask: True for the tokens that the policy sampled and is to learn from.
        aggregation: see `aggregate`. The sum over an output's tokens is the gradient of its log-probability; the other
            aggregations make a token of a long output weigh less.

    Returns:
        (value, weight) per output.

    Reference:
        Williams, "Simple statistical gradient-following algorithms", Machine Learning 8 (1992). GPG (arXiv 2504.02546) is
        this with ``"token-mean"`` and `gpg_advantage`.

    Example:
        Advantage 2, probabilities (1/2, 1/4): ``2 (log 2 + log 4) = 6 log 2``.
    """
    per_token = -masked_advantage(advantage, mask) * torch.where(mask, token_log_prob, 0)
    return aggregate(per_token, mask, aggregation)


@objective(
    paper="Schulman et al. 2015, arXiv 1502.05477",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def trpo_surrogate(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""TRPO's surrogate without its constraint: ``L_t = -A_t ρ_t`` with ``ρ_t = π_t / π_old,t``.

    To be minimised under ``E KL(π_old ‖ π) <= δ``; `forward_kl` of the two policies gives the constraint.

    Args:
        token_log_prob: log-probability of each token under the policy.
        old_token_log_prob: the same under the policy that sampled the tokens. A constant.
        advantage: ``A_t``, or [N, 1] for a whole output. A constant.
        mask: True for the tokens that count.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output; at ``π = π_old`` the gradient is `policy_gradient`'s.

    Reference:
        Schulman et al., "Trust Region Policy Optimization", arXiv 1502.05477, equation 14.

    Example:
        Advantage 3, probability 1/2 where it was 1/4: ``-3 · 2 = -6``.
    """
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    return aggregate(-masked_advantage(advantage, mask) * ratio, mask, aggregation)


@objective(
    paper="MiniMax 2025, arXiv 2506.13585",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def cispo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_high: float,
    clip_low: float = 1.0,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""CISPO clips the weight of a token, not its gradient: ``L_t = -sg(clip(ρ_t, 1 - ε_low, 1 + ε_high)) A_t log π_t``.

    Every token keeps a gradient, the rare turning points of a train of thought among them, which PPO's clip silences. ``sg``
    stops the gradient, so that the value is not the loss's slope.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: as in `ppo_clip`.
        mask: True for the tokens that count.
        clip_high: ``ε_high >= 0``; raising it allows larger weights. The paper tunes it and gives no number; ScaleRL (arXiv
            2510.13786) has weights up to 5, which is 4 here and ``epsilon_high=5`` in TRL.
        clip_low: ε_low in [0, 1]; 1 is no lower bound, as in the paper's experiments and TRL. verl has 0.2.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        MiniMax, "MiniMax-M1", arXiv 2506.13585, equations 4 and 5.

    Example:
        Ratio 3, ε_high = 1, advantage 1, probability 1/2: ``-2 log(1/2)``; the gradient in ``log π`` is -2.
    """
    check_clips(clip_low, clip_high)
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask).detach())
    weight = ratio.clamp(1 - clip_low, 1 + clip_high) * masked_advantage(advantage, mask)
    return aggregate(-weight * torch.where(mask, token_log_prob, 0), mask, aggregation)


@objective(
    paper="Gao et al. 2025, arXiv 2511.20347",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def sapo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    temperature_positive: float = 1.0,
    temperature_negative: float = 1.05,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""SAPO: a soft gate instead of a clip: ``L_t = -A_t (4/τ) σ(τ (ρ_t - 1))``.

    At ``ρ = 1`` the gate's slope is 1, as in the plain policy gradient; it fades on both sides.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: as in `ppo_clip`.
        mask: True for the tokens that count.
        temperature_positive: ``τ > 0`` where ``A > 0``; raising it narrows the gate.
        temperature_negative: ``τ > 0`` where ``A <= 0``; above the other, for bad tokens raise the logits of many others.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: a temperature is not positive.

    Reference:
        Gao et al., "Soft Adaptive Policy Optimization", arXiv 2511.20347, section 3. TRL and verl agree.

    Example:
        Ratio 1, advantage 1, τ = 1: ``-4 σ(0) = -2``, gradient in ``log π`` -1.
    """
    check_positive("temperature_positive", temperature_positive)
    check_positive("temperature_negative", temperature_negative)
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    known = masked_advantage(advantage, mask)
    tau = torch.where(known > 0, known.new_tensor(temperature_positive), known.new_tensor(temperature_negative))
    return aggregate(-known * 4 / tau * torch.sigmoid(tau * (ratio - 1)), mask, aggregation)


@objective(
    paper="Williams and Peng 1991; Mnih et al. 2016, arXiv 1602.01783",
    feedback="any",
    signal="none",
    data="either",
    reference=False,
)
def entropy_bonus(
    logits: Float[Tensor, "N T V"],
    mask: Bool[Tensor, "N T"],
    *,
    coefficient: float,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""A reward for staying undecided: ``L_t = -c H_t`` with the entropy ``H_t = -Σ_v π(v) log π(v)`` in nats.

    Args:
        logits: of all V choices at each step; log-probabilities serve as well, and -inf rules a choice out.
        mask: True for the tokens that count.
        coefficient: ``c >= 0``; raising it keeps the policy more random.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: a negative coefficient.

    Reference:
        Williams and Peng, "Function optimization using connectionist RL algorithms" (1991); Mnih et al., arXiv 1602.01783.

    Example:
        Four equal logits, c = 1: ``-log 4``.
    """
    check_not_negative("coefficient", coefficient)
    exact = torch.where(mask[..., None], logits, 0).to(torch.promote_types(logits.dtype, torch.float32))
    log_prob = exact.log_softmax(-1)
    finite = torch.where(log_prob > -torch.inf, log_prob, 0)  # 0 log 0 = 0, and no NaN in its gradient
    return aggregate(coefficient * (log_prob.exp() * finite).sum(-1), mask, aggregation)
