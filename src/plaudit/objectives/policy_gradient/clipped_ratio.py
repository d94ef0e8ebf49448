"""PPO's clip on a ratio per token, and its children: dual clip, GRPO, Dr. GRPO, DAPO.

`advantage` is [N, T], or [N, 1] where one number counts for the whole output; it and the old log-probabilities are constants.
`importance` says how ratios are bounded; `plaudit.objectives.aggregation` how tokens become examples.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective
from plaudit.objectives.policy_gradient.divergences import kl_k3
from plaudit.objectives.policy_gradient.importance import bounded_exp, masked_advantage, token_log_ratio


@objective(
    paper="Schulman et al. 2017, arXiv 1707.06347",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def ppo_clip(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""PPO's clipped surrogate: ``L_t = max(-A_t ρ_t, -A_t clip(ρ_t, 1 - ε_low, 1 + ε_high))``.

    The gradient vanishes just where the policy has gone far enough: ``A > 0`` and ``ρ > 1 + ε_high``, or ``A < 0`` and
    ``ρ < 1 - ε_low``.

    Args:
        token_log_prob: log-probability of each token under the policy.
        old_token_log_prob: the same under the policy that sampled the tokens. A constant.
        advantage: ``A_t``, or [N, 1] for a whole output. A constant.
        mask: True for the tokens that count.
        clip_low: ε_low in [0, 1]; raising it lets bad tokens become less likely within one batch.
        clip_high: ``ε_high >= 0``; raising it lets good tokens become likelier within one batch.
        aggregation: see `aggregate`. TRL's ``bnpo`` is ``"token-mean"``, its ``grpo`` without KL ``"sequence-mean"``.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347, equation 7. AlpacaFarm takes the mean
        over padding, too; ours does not.

    Example:
        Ratio 2, ε = 0.2: advantage 1 gives ``-1.2`` and no gradient, advantage -1 gives ``2``.
    """
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    return aggregate(clipped(ratio, masked_advantage(advantage, mask), clip_low, clip_high), mask, aggregation)


@objective(
    paper="Ye et al. 2019, arXiv 1912.09729",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def ppo_dual_clip(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    ratio_limit: float = 3.0,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""PPO with a second clip: where ``A_t < 0`` the loss is at most ``-A_t c``.

    PPO's loss grows without bound where a bad token has become far likelier; there the gradient vanishes, too.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: as in `ppo_clip`.
        mask: True for the tokens that count.
        clip_low: as in `ppo_clip`.
        clip_high: as in `ppo_clip`.
        ratio_limit: ``c > 1 + ε_high``, the greatest ratio that counts; infinity would be `ppo_clip`.
        aggregation: see `aggregate`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: clip_low is no share, clip_high is negative, or ratio_limit is not above ``1 + clip_high``.

    Reference:
        Ye et al., "Mastering Complex Control in MOBA Games", arXiv 1912.09729 (c = 3); verl's ``clip_ratio_c``,
        OpenRLHF's ``dual_clip``. INTELLECT-2's two-sided clipping (arXiv 2505.07291; TRL's ``delta``, 4) is the same.

    Example:
        Advantage -1, ratio 5, c = 3: loss 3, no gradient. Advantage -1, ratio 2: loss 2.
    """
    check_clips(clip_low, clip_high)
    if not ratio_limit > 1 + clip_high:
        raise ValueError(f"ratio_limit: expected a number > 1 + clip_high = {1 + clip_high:g}, got {ratio_limit}")
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    known = masked_advantage(advantage, mask)
    once = clipped(ratio, known, clip_low, clip_high)
    return aggregate(torch.where(known < 0, torch.minimum(once, -known * ratio_limit), once), mask, aggregation)


@objective(
    paper="Shao et al. 2024, arXiv 2402.03300",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=True,
)
def grpo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float = 0.04,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""GRPO: PPO's clipped surrogate with a group's advantage, plus ``β`` times the estimate k3 of the KL to the reference.

    ``L_t = max(-A ρ_t, -A clip(ρ_t)) + β (e^{-u_t} + u_t - 1)`` with ``u_t = log π_t - log π_ref,t``.

    k3 as a loss has, on policy, the gradient of ``KL(π_ref ‖ π)``, not of ``KL(π ‖ π_ref)``; `kl_k3_reweighted` has the latter.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        ref_token_log_prob: log-probability of each token under the reference. A constant.
        advantage: from `grpo_advantage`, as [N, 1].
        mask: True for the tokens that count.
        beta: >= 0, strength of the pull to the reference; raising it keeps the policy nearer to the reference. With 0 it is
            `ppo_clip`, which needs no reference.
        clip_low: as in `ppo_clip`.
        clip_high: as in `ppo_clip`.
        aggregation: see `aggregate`; the paper's mean over each output's tokens makes a long output's tokens weigh less.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: beta is negative, clip_low is no share, or clip_high is negative.

    Reference:
        Shao et al., "DeepSeekMath", arXiv 2402.03300, equations 3 and 4 (β = 0.04, section 4.2). TRL: ``loss_type="grpo"``,
        with β = 0 by default.

    Example:
        Ratio 1, advantage 1, policy twice as likely as the reference, β = 1: ``-1 + (1/2 + log 2 - 1) = -0.807``.
    """
    check_not_negative("beta", beta)
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    surrogate = clipped(ratio, masked_advantage(advantage, mask), clip_low, clip_high)
    return aggregate(surrogate + beta * kl_k3(token_log_prob, ref_token_log_prob, mask), mask, aggregation)


@objective(
    paper="Liu et al. 2025, arXiv 2503.20783",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def dr_grpo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    longest: int,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Dr. GRPO: PPO's clipped surrogate, summed over an output's tokens and divided by a constant; no KL.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: from `dr_grpo_advantage`, as [N, 1].
        mask: True for the tokens that count.
        longest: the constant, the longest output allowed in tokens. It only scales the loss; a token weighs the same
            in outputs of any length.
        clip_low: as in `ppo_clip`.
        clip_high: as in `ppo_clip`.

    Returns:
        (value, weight) per output.

    Raises:
        ValueError: longest is not positive, clip_low is no share, or clip_high is negative.

    Reference:
        Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783, section 3. TRL: ``loss_type="dr_grpo"``; verl:
        ``seq-mean-token-sum-norm``, without the division by the number of outputs.

    Example:
        Two tokens of ratio 1, advantage 3, ``longest`` 16: ``-3 · 2 / 16``.
    """
    check_positive("longest", longest)
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    return aggregate(clipped(ratio, masked_advantage(advantage, mask), clip_low, clip_high), mask, float(longest))


@objective(
    paper="Yu et al. 2025, arXiv 2503.14476",
    feedback="any",
    signal="advantage",
    data="on-policy",
    reference=False,
)
def dapo(
    token_log_prob: Float[Tensor, "N T"],
    old_token_log_prob: Float[Tensor, "N T"],
    advantage: Float[Tensor, " N #T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""DAPO: PPO's surrogate with a higher upper clip, averaged over the batch's tokens; no KL.

    Use it with `grpo_advantage` on the groups that `informative_groups` keeps.

    Args:
        token_log_prob: as in `ppo_clip`.
        old_token_log_prob: as in `ppo_clip`.
        advantage: from `grpo_advantage`, as [N, 1].
        mask: True for the tokens that count.
        clip_low: as in `ppo_clip`.
        clip_high: as in `ppo_clip`; above clip_low it leaves room for unlikely tokens to grow ("clip-higher").

    Returns:
        (value, weight) per output; the weight is its number of tokens.

    Raises:
        ValueError: clip_low is no share, or clip_high is negative.

    Reference:
        Yu et al., "DAPO", arXiv 2503.14476, equation 8. TRL: ``loss_type="dapo"`` divides by the tokens of all
        processes and accumulation steps, which the weights do here; its clips are 0.2 and 0.2 unless told.

    Example:
        Ratio 1.25, advantage 1: within the clip, ``-1.25``; `ppo_clip` gives ``-1.2``.
    """
    ratio = bounded_exp(token_log_ratio(token_log_prob, old_token_log_prob, mask))
    return aggregate(clipped(ratio, masked_advantage(advantage, mask), clip_low, clip_high), mask, "token-mean")


def clipped(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """PPO's pessimistic loss: the worse one of the ratio as it is and the ratio clipped."""
    check_clips(clip_low, clip_high)
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high))


def check_clips(clip_low: float, clip_high: float) -> None:
    """Raise unless the lower clip is a share and the upper one is not negative."""
    check_share("clip_low", clip_low)
    check_not_negative("clip_high", clip_high)
