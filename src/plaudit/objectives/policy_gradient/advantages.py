"""Advantages of whole outputs: by how much an output's reward beats a baseline from its group or its batch.

Rewards come as groups [B, K]. ``advantage.reshape(-1, 1)`` is what the policy losses take as `advantage` [N, 1]. An advantage
is a constant: no gradient flows through it. A masked output, and a group in which all rewards are equal, gets exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive, check_share, masked_mean
from plaudit.objectives.catalogue import objective


class BaselinedReward(NamedTuple):
    """Advantages, and the baseline for the next batch."""

    advantage: Float[Tensor, " N"]
    running_mean: Float[Tensor, ""]


@objective(
    role="advantage",
    paper="Williams 1992; Ahmadian et al. 2024, arXiv 2402.14740",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def reinforce_advantage(
    reward: Float[Tensor, " N"], running_mean: Float[Tensor, ""], *, decay: float
) -> BaselinedReward:
    r"""REINFORCE with a running mean of earlier rewards as baseline: ``A_i = R_i - b``, then ``b ← decay b + (1 - decay) R̄``.

    The baseline is the one from before this batch, so that it is independent of the outputs and the gradient stays unbiased.

    Args:
        reward: reward ``R_i`` of each output.
        running_mean: ``b``, the mean of the earlier batches' rewards; 0 before the first one.
        decay: in [0, 1], the share of the old baseline that stays. ``n / (n + 1)`` after n batches of equal size gives the
            plain mean of all rewards so far; a constant near 1 forgets slowly.

    Returns:
        The advantages and the next baseline (unchanged by an empty batch), without gradients.

    Raises:
        ValueError: decay is no share.

    Reference:
        Williams, "Simple statistical gradient-following algorithms", Machine Learning 8 (1992): reinforcement comparison,
        with an exponential mean. Ahmadian et al., "Back to Basics", arXiv 2402.14740, take the plain mean.

    Example:
        Rewards (3, 5) after a running mean of 2, decay 0.75: advantages (1, 3), next mean ``0.75 · 2 + 0.25 · 4 = 2.5``.
    """
    check_share("decay", decay)
    exact = reward.detach().to(torch.promote_types(reward.dtype, torch.float32))
    baseline = running_mean.detach().to(exact.dtype)
    following = decay * baseline + (1 - decay) * exact.mean() if len(exact) else baseline
    return BaselinedReward(exact - baseline, following)


@objective(
    role="advantage",
    paper="Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def rloo_advantage(reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B K"]:
    r"""REINFORCE leave-one-out: the reward minus the mean reward of the group's other outputs.

    ``A_i = R_i - 1/(K-1) Σ_{j≠i} R_j = K/(K-1) (R_i - R̄)``. The baseline does not depend on output i, so that the policy
    gradient stays unbiased.

    Args:
        reward: reward of each output of a group.
        mask: False for outputs that do not count (could not be judged); K is then the number that do.

    Returns:
        The advantages; 0 in a group with a single output, as in TRL (verl leaves the reward as it is there).

    Raises:
        ValueError: groups of one output, which have no others.

    Reference:
        Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!" (2019); Ahmadian et al., "Back to Basics", arXiv
        2402.14740. TRL's RLOOTrainer first subtracts ``β KL`` from the reward (`kl_shaped_rewards`).

    Example:
        Rewards (1, 0, 2): baselines (1, 1.5, 0.5), advantages (0, -1.5, 1.5).
    """
    check_group("reward", reward, at_least=2)
    rewards, counts = _in_groups(reward, mask)
    count = counts.sum(-1, keepdim=True)
    return _centred(rewards, counts) * (count / (count - 1).clamp(min=1))


@objective(
    role="advantage",
    paper="Liu et al. 2025, arXiv 2503.20783",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def dr_grpo_advantage(reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, "B K"]:
    r"""Dr. GRPO: the reward minus its group's mean, not divided by the standard deviation: ``A_i = R_i - R̄``.

    The expected gradient is ``(K-1)/K`` of the true one: the same direction, where GRPO's differs.

    Args:
        reward: reward of each output of a group.
        mask: False for outputs that do not count.

    Returns:
        The advantages; they add up to 0 in each group.

    Raises:
        ValueError: groups of one output, whose advantage would always be 0.

    Reference:
        Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783, section 3. TRL: ``scale_rewards="none"``; verl:
        ``norm_adv_by_std_in_grpo=False``.

    Example:
        Rewards (1, 0, 2): mean 1, advantages (0, -1, 1).
    """
    check_group("reward", reward, at_least=2)
    return _centred(*_in_groups(reward, mask))


@objective(
    role="advantage",
    paper="Shao et al. 2024, arXiv 2402.03300",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def grpo_advantage(
    reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, ddof: int = 1, epsilon: float = 0.0
) -> Float[Tensor, "B K"]:
    r"""GRPO: rewards standardised within their group: ``A_i = (R_i - R̄) / (s + ε)``.

    A group of nearly equal rewards weighs as much as one of clear differences. For binary rewards and K → ∞ the gradient is
    that of ``2 arcsin √p``, p being the probability of a correct output.

    Args:
        reward: reward of each output of a group.
        mask: False for outputs that do not count.
        ddof: 1 divides the sum of squares in s by K - 1, 0 by K (smaller s by ``√(K/(K-1))``). The paper writes only "std".
        epsilon: ε >= 0 added to s; raising it shrinks the advantages of groups with a small spread. The paper has none.

    Returns:
        The advantages; exactly 0 in a group of equal rewards, also with ε = 0.

    Raises:
        ValueError: groups of one output, a ddof other than 0 and 1, or a negative epsilon.

    Reference:
        Shao et al., "DeepSeekMath", arXiv 2402.03300, section 4.1.2. TRL has ddof 1 and ε = 1e-4, verl ddof 1 and 1e-6; NFT's
        identity with GRPO (arXiv 2505.18116) needs ddof 0.

    Example:
        Rewards (1, 0, 2): mean 1, s = 1 with ddof 1, advantages (0, -1, 1); with ddof 0, s = √(2/3).
    """
    check_group("reward", reward, at_least=2)
    check_not_negative("epsilon", epsilon)
    rewards, counts = _in_groups(reward, mask)
    centred = _centred(rewards, counts)
    return _scaled(centred, _deviation(centred, counts, ddof, dim=(-1,)), epsilon)


@objective(
    role="advantage",
    paper="Liu et al. 2025, arXiv 2508.08221",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def batch_scaled_grpo_advantage(
    reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, ddof: int = 1, epsilon: float = 0.0
) -> Float[Tensor, "B K"]:
    r"""GRPO with the batch's standard deviation: ``A_i = (R_i - R̄_group) / (s_batch + ε)``.

    All groups are divided by one number, so that the direction within the batch stays Dr. GRPO's.

    Args:
        reward: reward of each output of a group; the batch is all of them, so pass the whole batch and not a micro-batch.
        mask: False for outputs that do not count.
        ddof: 1 divides the sum of squares by one less than the number of outputs, 0 by their number.
        epsilon: ε >= 0 added to s_batch; TRL has 1e-4.

    Returns:
        The advantages; 0 where all rewards of the batch are equal.

    Raises:
        ValueError: groups of one output, a ddof other than 0 and 1, or a negative epsilon.

    Reference:
        Liu et al., "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning" (Lite PPO), arXiv 2508.08221. TRL:
        ``scale_rewards="batch"``, whose s is that of the rewards themselves, not of the centred ones; so is ours.

    Example:
        Groups (0, 2) and (4, 6): group means 1 and 5, ``s = √(20/3)``, advantages ∓1/s in both groups.
    """
    check_group("reward", reward, at_least=2)
    check_not_negative("epsilon", epsilon)
    rewards, counts = _in_groups(reward, mask)
    from_mean = torch.where(counts, rewards - masked_mean(rewards, counts, dim=(0, 1)), 0)
    return _scaled(_centred(rewards, counts), _deviation(from_mean, counts, ddof, dim=(0, 1)), epsilon)


@objective(
    role="advantage",
    paper="Hu et al. 2025, arXiv 2501.03262",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def reinforce_plus_plus_baseline_advantage(
    reward: Float[Tensor, "B K"],
    length: Int[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    ddof: int = 1,
    epsilon: float = 1e-8,
) -> Float[Tensor, "B K"]:
    r"""REINFORCE++ with baseline: rewards minus their group's mean, then whitened over all tokens of the batch.

    ``A_i = (c_i - c̄) / √(s² + ε)`` with ``c_i = R_i - R̄_group``; ``c̄`` and ``s²`` are taken over tokens, each of which carries
    its output's ``c_i``: an output counts as often as it has tokens.

    Args:
        reward: reward of each output of a group; pass the whole batch.
        length: number of tokens of each output that count, >= 0.
        mask: False for outputs that do not count.
        ddof: 1 divides the sum of squares by one less than the number of tokens, 0 by their number.
        epsilon: ε > 0 added to the variance.

    Returns:
        The advantages; their mean over tokens is 0, so that an output of a group of equal rewards need not have 0.

    Raises:
        ValueError: groups of one output, a ddof other than 0 and 1, or an epsilon that is not positive.

    Reference:
        Hu et al., "REINFORCE++", arXiv 2501.03262 v9, section 3. The form of the whitening is verl's
        (``reinforce_plus_plus_baseline``: ddof 1, 1e-8 under the root); TRL's RLOOTrainer with ``normalize_advantages`` weighs
        outputs, not tokens, and divides by ``s + 1e-4``.

    Example:
        Groups (0, 2) and (0, 4) of outputs with one token each: centred (∓1, ∓2), ``s² = 10/3``, advantages (∓1/s, ∓2/s).
    """
    check_group("reward", reward, at_least=2)
    check_positive("epsilon", epsilon)
    rewards, counts = _in_groups(reward, mask)
    centred = _centred(rewards, counts)
    tokens = torch.where(counts, length, 0).to(centred.dtype)
    number = tokens.sum().clamp(min=1)
    from_mean = centred - (tokens * centred).sum() / number
    variance = (tokens * from_mean.square()).sum() / (number - _degrees(ddof)).clamp(min=1)
    return torch.where(counts, from_mean * torch.rsqrt(variance + epsilon), 0)


@objective(
    role="advantage",
    paper="Hao et al. 2025, arXiv 2505.23585",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def opo_advantage(
    reward: Float[Tensor, "B K"], length: Int[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B K"]:
    r"""OPO: the reward minus the group's mean weighted by length: ``A_i = R_i - Σ_j l_j R_j / Σ_j l_j``.

    The baseline of least variance where the squared norm of an output's score grows with its length.

    Args:
        reward: reward of each output of a group.
        length: number of tokens ``l_i`` of each output, >= 0.
        mask: False for outputs that do not count.

    Returns:
        The advantages; 0 in a group of equal rewards, and in one without any tokens.

    Raises:
        ValueError: groups of one output.

    Reference:
        Hao et al., "On-Policy RL with Optimal Reward Baseline", arXiv 2505.23585; verl's ``opo`` is the same. The
        baseline includes output i, so that the gradient has a bias that vanishes as K grows.

    Example:
        Rewards (1, 0) of lengths (3, 1): baseline 3/4, advantages (1/4, -3/4).
    """
    check_group("reward", reward, at_least=2)
    rewards, counts = _in_groups(reward, mask)
    tokens = torch.where(counts, length, 0).to(rewards.dtype)
    total = tokens.sum(-1, keepdim=True)
    baseline = (tokens * rewards).sum(-1, keepdim=True) / total.clamp(min=1)
    return torch.where(counts & _varied(rewards, counts) & (total > 0), rewards - baseline, 0)


@objective(
    role="advantage",
    paper="Chu et al. 2025, arXiv 2504.02546",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def gpg_advantage(
    reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, scale: float = 1.0
) -> Float[Tensor, "B K"]:
    r"""Group policy gradient: centred rewards, scaled up for the outputs without a signal: ``A_i = α (R_i - R̄) / F``.

    ``α = n / (n - m)`` where m of the batch's n outputs stand in groups of equal rewards. They have no gradient, but they
    count in the batch's mean; α undoes that.

    Args:
        reward: reward of each output of a group; pass the whole batch.
        mask: False for outputs that do not count.
        scale: ``F > 0``, the paper's F_norm; 1 in its main setting.

    Returns:
        The advantages; 0 where no group of the batch has different rewards.

    Raises:
        ValueError: groups of one output, or a scale that is not positive.

    Reference:
        Chu et al., "GPG", arXiv 2504.02546, equation 7 (accurate gradient estimation; read through notes on the paper). verl's
        ``gpg`` counts outputs with a reward of 0 as m instead, which depends on where the rewards' zero lies: adding 1 to
        all rewards changes its α. Ours does not.

    Example:
        Groups (1, 0) and (1, 1): ``α = 4/2``, advantages (1, -1) and (0, 0).
    """
    check_group("reward", reward, at_least=2)
    check_positive("scale", scale)
    rewards, counts = _in_groups(reward, mask)
    with_signal = (counts & _varied(rewards, counts)).sum()
    alpha = counts.sum() / with_signal.clamp(min=1)
    return alpha / scale * _centred(rewards, counts)


@objective(
    role="statistic",
    paper="Yu et al. 2025, arXiv 2503.14476",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def informative_groups(reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None) -> Bool[Tensor, " B"]:
    r"""DAPO's dynamic sampling keeps the groups whose rewards are not all equal: True where ``max R > min R``.

    The other groups have no gradient under any baseline from the group. Leaving them out rescales a mean over the batch, and
    sampling more prompts until the batch is full keeps its size.

    Args:
        reward: reward of each output of a group.
        mask: False for outputs that do not count.

    Returns:
        True for the groups to keep; False for a group without outputs, or with one.

    Reference:
        Yu et al., "DAPO", arXiv 2503.14476, equation 11: ``0 < number of correct outputs < K``; for binary rewards the same.

    Example:
        Groups (1, 0), (1, 1) and (0, 0): (True, False, False).
    """
    rewards, counts = _in_groups(reward, mask)
    return _varied(rewards, counts).squeeze(-1)


def _in_groups(reward: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rewards as constants in float32 at least, 0 where masked, and which of them count."""
    counts = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    exact = reward.detach().to(torch.promote_types(reward.dtype, torch.float32))
    return torch.where(counts, exact, 0), counts


def _varied(reward: Tensor, counts: Tensor) -> Tensor:
    """True for groups with different rewards, [B, 1]; the mean of equal rewards may differ from them in the last bit."""
    if not reward.shape[-1]:
        return counts.any(-1, keepdim=True)
    highest = torch.where(counts, reward, -torch.inf).amax(-1, keepdim=True)
    return highest > torch.where(counts, reward, torch.inf).amin(-1, keepdim=True)


def _centred(reward: Tensor, counts: Tensor) -> Tensor:
    from_mean = reward - masked_mean(reward, counts, keepdim=True)
    return torch.where(counts & _varied(reward, counts), from_mean, 0)


def _degrees(ddof: int) -> int:
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 or 1, got {ddof}")
    return ddof


def _deviation(centred: Tensor, counts: Tensor, ddof: int, dim: tuple[int, ...]) -> Tensor:
    squares = centred.square().sum(dim, keepdim=True)
    return (squares / (counts.sum(dim, keepdim=True) - _degrees(ddof)).clamp(min=1)).sqrt()


def _scaled(centred: Tensor, deviation: Tensor, epsilon: float) -> Tensor:
    scale = deviation + epsilon
    return torch.where((centred != 0) & (scale > 0), centred / scale, 0)
