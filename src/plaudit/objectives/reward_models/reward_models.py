"""Objectives that fit a reward to preferences, ratings and verdicts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_group, check_positive, check_share, masked_mean
from plaudit.objectives.catalogue import objective


@objective(
    paper="Bradley and Terry 1952; Stiennon et al. 2020, arXiv 2009.01325",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def bradley_terry(
    reward_chosen: Float[Tensor, " B"],
    reward_rejected: Float[Tensor, " B"],
    *,
    margin: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Negative log-likelihood of a preference under Bradley and Terry: ``L = -log σ(r_w - r_l - m)``.

    Args:
        reward_chosen: reward ``r_w`` of the preferred output.
        reward_rejected: reward ``r_l`` of the other output.
        margin: ``m >= 0``, by how much the preferred output should at least be ahead; None is 0. Raising it asks for a
            larger gap where people were clear.

    Returns:
        The loss of each pair, >= 0.

    Reference:
        Bradley and Terry, Biometrika 39 (1952); Stiennon et al., arXiv 2009.01325, section 3.4, equation 1. The margin is
        Llama 2's, arXiv 2307.09288, equation 2; TRL's RewardTrainer reads it from a column ``margin``.

    Example:
        Rewards 2 and 1 give ``log(1 + e^-1) = 0.3133``; with margin 1, ``log 2``.
    """
    difference = reward_chosen - reward_rejected
    return -logsigmoid(difference if margin is None else difference - margin)


@objective(
    paper="Rao and Kupper 1967",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def rao_kupper(
    reward_a: Float[Tensor, " B"],
    reward_b: Float[Tensor, " B"],
    tie: Bool[Tensor, " B"],
    *,
    tie_width: float,
    margin: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Bradley-Terry with ties: negative log-likelihood of "a is better" or of "a tie" under Rao and Kupper.

    With ``d = r_a - r_b`` and the tie width ``α > 0`` (the paper's ``log θ``)::

        P(a better) = σ(d - α)      P(b better) = σ(-d - α)
        P(tie)      = (e^{2α} - 1) σ(d - α) σ(-d - α)

    The three add up to 1, and α → 0 without ties is `bradley_terry`. A tie pulls the two rewards together; a decision asks
    for a gap beyond α.

    Args:
        reward_a: reward of the preferred output; of either one where `tie`.
        reward_b: reward of the other output.
        tie: True where the source called the outputs equally good.
        tie_width: α > 0 in reward units; raising it makes ties likelier at a given difference.
        margin: as in `bradley_terry`, for the decided pairs.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `tie_width` is not positive; ties would have probability 0.

    Reference:
        Rao and Kupper, "Ties in paired-comparison experiments", JASA 62 (1967), equations 2.3 to 2.5.

    Example:
        ``d = 0`` and ``e^α = 2``: each win has probability 1/3, and so has the tie; all three losses are ``log 3``.
    """
    check_positive("tie_width", tie_width)
    difference = reward_a - reward_b
    log_wins_a = logsigmoid(difference - tie_width)
    log_scale = 2 * tie_width + math.log(-math.expm1(-2 * tie_width))  # log(e^{2α} - 1) without overflow
    log_tie = log_scale + log_wins_a + logsigmoid(-difference - tie_width)
    decided = log_wins_a if margin is None else logsigmoid(difference - torch.where(tie, 0, margin) - tie_width)
    return -torch.where(tie, log_tie, decided)


@objective(
    paper="Christiano et al. 2017, arXiv 1706.03741",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def noisy_bradley_terry(
    reward_chosen: Float[Tensor, " B"],
    reward_rejected: Float[Tensor, " B"],
    *,
    error_share: float,
) -> Float[Tensor, " B"]:
    r"""Bradley-Terry seen through labels that are wrong at a known rate: ``L = -log( (1 - 2ε) σ(r_w - r_l) + ε )``.

    The noise is in the likelihood, so the fitted rewards are those of a source without noise; smoothed labels
    (`soft_bradley_terry`) shrink them instead. The loss is bounded by ``-log ε``: a hopeless label stops pulling.

    Args:
        reward_chosen: reward ``r_w`` of the output that was called better.
        reward_rejected: reward ``r_l`` of the other output.
        error_share: ε in [0, 0.5), the share of labels that are the wrong way round; raising it makes contradictions
            cheaper. A source that answers at random in 10 % of cases has ε = 0.05. 0 is `bradley_terry`.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `error_share` outside its range.

    Reference:
        Christiano et al., "Deep reinforcement learning from human preferences", arXiv 1706.03741, section 2.2.3 (10 % at
        random).

    Example:
        Equal rewards give ``log 2`` whatever ε; ``σ = 1/4`` and ε = 1/4 give ``-log(1/8 + 1/4) = log(8/3)``.
    """
    check_share("error_share", error_share, below=0.5)
    log_right = logsigmoid(reward_chosen - reward_rejected)
    if error_share == 0:
        return -log_right
    return -torch.logaddexp(log_right + math.log1p(-2 * error_share), torch.full_like(log_right, math.log(error_share)))


@objective(
    paper="Ouyang et al. 2022, arXiv 2203.02155",
    feedback="ranking",
    signal="preference",
    data="off-policy",
    reference=False,
)
def bradley_terry_group(
    reward: Float[Tensor, "B K"],
    rating: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, " B"]:
    r"""InstructGPT's K-wise loss: the mean of `bradley_terry` over all pairs of a group.

    ``L = mean over the pairs (w, l) of a context with rating_w > rating_l of -log σ(r_w - r_l)``.

    Every context counts the same, however many outputs it has, and its pairs share one forward pass. `list_mle` of the
    list objectives is the Plackett-Luce likelihood of the whole order.

    Args:
        reward: rewards of a context's outputs.
        rating: how good the source called them, up is better; only their order counts (ranks: give minus the rank). Pairs
            of equal rating are left out.
        mask: True for the outputs that exist; None is all.

    Returns:
        The loss of each context, >= 0, in float32 at least; 0 without gradient where no pair is left.

    Raises:
        ValueError: groups of fewer than two outputs.

    Reference:
        Ouyang et al., "Training language models to follow instructions with human feedback", arXiv 2203.02155, equation 1,
        with K (K - 1) / 2 pairs where nothing is tied.

    Example:
        Rewards (2, 1, 1) with ratings (3, 2, 2) hold two pairs, both ahead by 1: ``log(1 + e^-1) = 0.3133``.
    """
    check_group("reward", reward, at_least=2)
    present = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    reward, rating = torch.where(present, reward, 0), torch.where(present, rating, 0)
    better = (rating[:, :, None] > rating[:, None, :]) & present[:, :, None] & present[:, None, :]
    return masked_mean(-logsigmoid(reward[:, :, None] - reward[:, None, :]), better, dim=(-2, -1))


@objective(
    paper="Eisenstein et al. 2023, arXiv 2312.09244",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def reward_centering(
    reward_chosen: Float[Tensor, " B"],
    reward_rejected: Float[Tensor, " B"],
    *,
    strength: float,
) -> Float[Tensor, " B"]:
    r"""Penalty that centres a reward model at zero, to be added to a pairwise loss: ``c (r_w + r_l)^2``.

    A preference says nothing about a constant added to both rewards; this chooses it, and leaves the difference alone.

    Args:
        reward_chosen: reward ``r_w`` of the preferred output.
        reward_rejected: reward ``r_l`` of the other output.
        strength: c > 0; raising it holds the rewards of a pair closer around zero. The paper and TRL use 0.01.

    Returns:
        The penalty of each pair, >= 0.

    Raises:
        ValueError: `strength` is not positive.

    Reference:
        Eisenstein et al., "Helping or herding?", arXiv 2312.09244, equation 2; TRL's ``center_rewards_coefficient``.
        Stiennon et al., arXiv 2009.01325, subtract the mean reward of the reference answers after training instead.

    Example:
        Rewards 2 and 1 with c = 0.01 give 0.09.
    """
    check_positive("strength", strength)
    return strength * (reward_chosen + reward_rejected).square()


@objective(
    paper="Dai et al. 2023, arXiv 2310.12773",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=False,
)
def reward_magnitude(
    reward_chosen: Float[Tensor, " B"],
    reward_rejected: Float[Tensor, " B"],
    *,
    strength: float,
) -> Float[Tensor, " B"]:
    r"""Penalty on large rewards or costs, to be added to a pairwise loss: ``c (r_w^2 + r_l^2) / 2``.

    Unlike `reward_centering` it also holds the difference down.

    Args:
        reward_chosen: reward or cost of one output of the pair.
        reward_rejected: that of the other; the two may change places.
        strength: c > 0; raising it shrinks both. Safe-RLHF's recipes use 0.001.

    Returns:
        The penalty of each pair, >= 0.

    Raises:
        ValueError: `strength` is not positive.

    Reference:
        The ``regularization`` of Safe-RLHF's reward and cost trainers (Dai et al., arXiv 2310.12773), a mean over the 2B
        scores of a batch, as here.

    Example:
        Rewards 2 and 1 with c = 0.1 give 0.25.
    """
    check_positive("strength", strength)
    return strength * (reward_chosen.square() + reward_rejected.square()) / 2


@objective(
    paper="Cobbe et al. 2021, arXiv 2110.14168",
    feedback="verdict",
    signal="label",
    data="off-policy",
    reference=False,
)
def outcome_cross_entropy(logit: Float[Tensor, " N"], label: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Outcome reward model: binary cross-entropy of "this output is right", ``-y log σ(r) - (1 - y) log σ(-r)``.

    Args:
        logit: the model's score r at the output's last token; ``σ(r)`` is then the probability of being right.
        label: y in [0, 1]: 1 right, 0 wrong, between for the share of judges or checks that said right. No gradient.

    Returns:
        The loss of each output, >= 0.

    Reference:
        Cobbe et al., "Training verifiers to solve math word problems", arXiv 2110.14168 (theirs scores every token; the
        last one is what Lightman et al., arXiv 2305.20050, section 2, and the libraries use). Equal to torch's
        ``binary_cross_entropy_with_logits``.

    Example:
        ``r = 0`` costs ``log 2`` whatever the label; ``r = log 3`` and label 1 cost ``log(4/3)``.
    """
    label = label.detach()
    return -label * logsigmoid(logit) - (1 - label) * logsigmoid(-logit)


@objective(
    paper="Wang et al. 2024, arXiv 2406.08673",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=False,
)
def reward_regression(reward: Float[Tensor, " N"], target: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    r"""Reward model by regression on ratings: ``L = (r - s)^2``.

    Args:
        reward: the model's score r.
        target: the rating s, in whatever unit the reward shall have. No gradient.

    Returns:
        The loss of each output, >= 0.

    Reference:
        Wang et al., "HelpSteer2", arXiv 2406.08673 (one such loss per rated attribute).

    Example:
        Score 1.5 against a rating of 4: 6.25.
    """
    return (reward - target.detach()).square()
