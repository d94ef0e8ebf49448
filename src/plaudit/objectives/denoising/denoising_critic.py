"""Feedback in the middle of a denoising chain: a critic of noisy images, its targets, its advantages (AC-Flow).

The paper's method section was not available to us: the forms here are a reconstruction that has the properties its abstract
names, and contains ORW-CFM-W2 as a special case. A trajectory is a row, a stored state a column, from noise to image.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import huber_loss

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_positive, check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.denoising.denoising_policy_gradient import per_prompt_advantage


@objective(
    role="reward",
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def shaped_reward(
    reward: Float[Tensor, " B"],
    prompt_mean: Float[Tensor, " B"],
    prompt_sd: Float[Tensor, " B"],
    prompt_count: Int[Tensor, " B"],
    *,
    at_least: int = 16,
    clip: float = 3.0,
    epsilon: float = 1e-6,
) -> Float[Tensor, " B"]:
    r"""AC-Flow's learning signal: the reward standardised per prompt, clipped, and brought to [-1, 1].

    ``r̃ = clip((r - μ_c) / (σ_c + ε), ±R) / R``: `per_prompt_advantage` over its bound.

    Args:
        reward: r of each image.
        prompt_mean: as in `per_prompt_advantage`.
        prompt_sd: as in `per_prompt_advantage`.
        prompt_count: as in `per_prompt_advantage`.
        at_least: as in `per_prompt_advantage`.
        clip: R > 0, in standard deviations; raising it lets outliers count more and ordinary rewards less.
        epsilon: >= 0, added to the deviation.

    Returns:
        The shaped reward of each image, in [-1, 1], without gradient.

    Reference:
        Fan et al., "Fine-tuning Flow Matching Generative Models with Intermediate Feedback", arXiv 2510.18072, names shaping
        into well-normalised signals; the form is (not found; ours).

    Example:
        ``r = 2.5`` with mean 1 and deviation 1 of 16 rewards, R = 3: 0.5.
    """
    advantage = per_prompt_advantage(
        reward, prompt_mean, prompt_sd, prompt_count, at_least=at_least, clip=clip, epsilon=epsilon
    )
    return advantage / clip


@objective(
    role="reward",
    paper="(ours), for Fan et al. 2025, arXiv 2510.18072",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def batch_range_reward(reward: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Another shaping: the reward's place between the batch's least and greatest, ``(r - min) / (max - min)``.

    Args:
        reward: r of each image.

    Returns:
        The shaped reward in [0, 1], without gradient; 0.5 for all where they are equal. Rows of a batch depend on each other.

    Reference:
        (ours), one of the alternatives to `shaped_reward`.

    Example:
        Rewards 1, 2, 5: 0, 0.25, 1.
    """
    r = widened(reward.detach())
    if r.numel() == 0:
        return r
    low, high = r.min(), r.max()
    return torch.where(high > low, (r - low) / torch.where(high > low, high - low, 1), 0.5)


@objective(
    role="reward",
    paper="(ours), for Fan et al. 2025, arXiv 2510.18072",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def batch_rank_reward(reward: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""Another shaping: the share of the batch's other images that an image beats, ties counting one half.

    Args:
        reward: r of each image; only its order counts.

    Returns:
        The shaped reward in [0, 1], without gradient; 0.5 for a single image. Rows of a batch depend on each other.

    Reference:
        (ours), one of the alternatives to `shaped_reward`.

    Example:
        Rewards 1, 5, 2, 2: 0, 1, 0.5, 0.5.
    """
    r = widened(reward.detach())
    if r.numel() < 2:
        return torch.full_like(r, 0.5)
    ahead = r.unsqueeze(-1) - r.unsqueeze(-2)
    wins = (ahead > 0).to(r.dtype).sum(-1)
    losses = (ahead < 0).to(r.dtype).sum(-1)
    return 0.5 + (wins - losses) / (2 * (r.numel() - 1))


@objective(
    role="value",
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="return",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def terminal_lambda_target(
    reward: Float[Tensor, " N"],
    value: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    trace: float = 0.9,
) -> Float[Tensor, "N T"]:
    r"""A critic's target on the states of a denoising chain: TD(λ) with the one reward at its end and no discount.

    ``y_last = r̃``, ``y_i = λ y_{i+1} + (1 - λ) V(x_{i+1})``.

    Args:
        reward: r̃ of each image.
        value: V of each stored state, from noise to image, by a slow copy of the critic; a constant, no gradient.
        mask: True where a state was stored; a state's next one is the next that is True.
        trace: λ in [0, 1]: 1 regresses on the outcome, which is unbiased and noisy; 0 on the next state's value.

    Returns:
        The target of each state, without gradient; 0 where masked.

    Raises:
        ValueError: trace out of range.

    Reference:
        Fan et al., arXiv 2510.18072, learns values of intermediate states; TD(λ) is (not found; ours). Sutton, "Learning to
        predict by the methods of temporal differences", Machine Learning 3 (1988).

    Example:
        ``r̃ = 1``, values (0, 0.5), λ = 0.5: the last state's target is 1, the first's ``0.5 + 0.25 = 0.75``.
    """
    check_share("trace", trace)
    clean = widened(torch.where(mask, value.detach(), 0))
    following = later = widened(reward.detach()).to(clean.dtype)
    targets = []
    for step in range(value.shape[-1] - 1, -1, -1):
        here = mask[:, step]
        target = trace * following + (1 - trace) * later
        targets.append(torch.where(here, target, 0))
        following, later = torch.where(here, target, following), torch.where(here, clean[:, step], later)
    return torch.stack(targets[::-1], -1) if targets else clean


@objective(
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="return",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def critic_huber(
    value: Float[Tensor, "N T"],
    target: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    delta: float = 1.0,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""A critic's regression that outliers cannot drive: ``L = mean_i H_δ(V(x_i) - y_i)``.

    ``H_δ(d) = d²/2`` where ``|d| <= δ``, and ``δ (|d| - δ/2)`` beyond.

    Args:
        value: V of each state.
        target: y of each state, `terminal_lambda_target`; a constant, no gradient.
        mask: True where a state counts.
        delta: δ > 0, from where on the loss is linear; for large ones it is the squared error, whose best fit is
            ``E[r̃ | x_t]``.
        aggregation: over states.

    Returns:
        Value and weight of each trajectory.

    Raises:
        ValueError: delta is not positive.

    Reference:
        Huber, Annals of Mathematical Statistics 35 (1964). Fan et al., arXiv 2510.18072, wants stable value learning; the
        Huber loss for it is (not found; ours).

    Example:
        ``V = 0.5``, ``y = 1``: 0.125; ``y = 3`` at δ = 1: ``2.5 - 0.5 = 2``.
    """
    check_positive("delta", delta)
    v, y = torch.where(mask, widened(value), 0), torch.where(mask, widened(target.detach()), 0)
    return aggregate(huber_loss(v, y, reduction="none", delta=delta), mask, aggregation)


@objective(
    role="advantage",
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def outcome_advantage(
    reward: Float[Tensor, " N"],
    value: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    clip: float = 1.0,
) -> Float[Tensor, "N T"]:
    r"""How much better the image became than a state promised: ``A_i = clip(r̃ - V(x_i), ±A_max)``.

    Args:
        reward: r̃ of each image.
        value: V of each stored state.
        mask: True where a state was stored.
        clip: A_max > 0, which bounds what one image can do to the policy.

    Returns:
        The advantage of each state, without gradient; 0 where masked.

    Raises:
        ValueError: clip is not positive.

    Reference:
        Fan et al., arXiv 2510.18072, names the clipping; the outcome minus a baseline is (not found; ours).

    Example:
        ``r̃ = 1``, values (0, 0.5, -0.5), A_max = 1: 1, 0.5 and, clipped, 1.
    """
    check_positive("clip", clip)
    v = torch.where(mask, widened(value.detach()), 0)
    return torch.where(mask, (widened(reward.detach()).unsqueeze(-1) - v).clamp(-clip, clip), 0)


@objective(
    role="advantage",
    paper="Fan et al. 2025, arXiv 2510.18072 (reconstruction)",
    feedback="rating",
    signal="advantage",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def step_credit(
    reward: Float[Tensor, " N"], value: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    r"""What each step of a chain did for the image: ``A_i = V(x_{i+1}) - V(x_i)``, with ``r̃ - V(x_last)`` at the end.

    This is the reward spread over the steps by potentials: the credits add up to ``r̃ - V(x_first)``.

    Args:
        reward: r̃ of each image.
        value: V of each stored state, from noise to image.
        mask: True where a state was stored; a state's next one is the next that is True.

    Returns:
        The credit of each state's next step, without gradient; 0 where masked.

    Reference:
        Ng et al., "Policy invariance under reward transformations" (1999), for potentials; in AC-Flow's place (not found;
        ours).

    Example:
        ``r̃ = 1``, values (0, 0.5, 0.25): 0.5, -0.25, 0.75.
    """
    clean = widened(torch.where(mask, value.detach(), 0))
    later = widened(reward.detach()).to(clean.dtype)
    gains: list[Tensor] = []
    for step in range(value.shape[-1] - 1, -1, -1):
        here = mask[:, step]
        gains.append(torch.where(here, later - clean[:, step], 0))
        later = torch.where(here, clean[:, step], later)
    return torch.stack(gains[::-1], -1) if gains else clean
