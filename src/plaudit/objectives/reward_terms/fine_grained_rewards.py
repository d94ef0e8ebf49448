"""Rewards on tokens: segments of an output judged by kind, put where they end, beside a penalty for leaving the reference.

J counts the segments of an output (its sentences or clauses), C the kinds of judgement.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.reward_terms.reward_composition import component_weights


@objective(
    role="reward",
    paper="Jing and Du 2024, arXiv 2404.05046",
    feedback="spans",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text", "images"),
)
def fgaif_segment_reward(
    probability: Float[Tensor, "N J C"], has_fact: Bool[Tensor, "N J C"], *, weights: tuple[float, ...]
) -> Float[Tensor, "N J"]:
    r"""FGAIF's reward of a segment: ``R_j = Σ_c w_c (2 p_jc - 1)`` over the kinds of hallucination it could have.

    The kinds are existence, attribute and relation. A segment that says nothing of a kind is neither right nor wrong in it:
    0, as much as an even guess.

    Args:
        probability: ``p_jc`` in [0, 1], the kind's reward model's probability that segment j does not hallucinate; 0 or 1 from
            a checker.
        has_fact: True where segment j has a fact of kind c at all; `probability` is not read elsewhere.
        weights: ``w_c >= 0``. Raising one pays more for the kind, and punishes it more.

    Returns:
        The reward of each segment, in ``[-Σ w, Σ w]``.

    Raises:
        ValueError: not one finite weight per kind.

    Reference:
        Jing and Du, "FGAIF", arXiv 2404.05046 (its text was not found; map and weights are ours). Wu et al., arXiv
        2306.01693, official code: ``p`` in {0, 1} with weights 0.3 (relevance) and 0.5 (facts).

    Example:
        Existence right for sure, attribute wrong for sure, no relation, weights (1, 2, 3): ``1 - 2 + 0 = -1``.
    """
    chance = widened(torch.where(has_fact, probability, 0.5))
    return ((2 * chance - 1) * component_weights(weights, chance)).sum(-1)


@objective(
    role="reward",
    paper="Wu et al. 2023, arXiv 2306.01693",
    feedback="spans",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("text",),
)
def segment_rewards_on_tokens(
    segment_reward: Float[Tensor, "N J"],
    segment: Int[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    judged: Bool[Tensor, "N J"] | None = None,
) -> Float[Tensor, "N T"]:
    r"""Put each segment's reward on its last token: ``r_t = Σ_j R_j 1[t = T_j]``.

    Args:
        segment_reward: ``R_j`` of each segment.
        segment: which segment a token belongs to, 0 to J - 1; -1 for none.
        mask: True for the tokens of the output; ``T_j`` is the last one of segment j among them.
        judged: False where a segment does not exist or could not be judged: nothing is put.

    Returns:
        A reward for each token, 0 where masked. A segment without tokens, cut off by the length limit, has no place and earns
        nothing; every other segment is paid once, so the sum over tokens is the sum over segments.

    Raises:
        ValueError: a segment's number that is none of the J.

    Reference:
        Wu et al., "Fine-Grained Human Feedback", arXiv 2306.01693, equation 1. Its official code moves the ends that
        lie beyond the length limit to the last token, where they overwrite one another.

    Example:
        Rewards (0.5, -0.5) for tokens in segments (0, 0, 1): (0, 0.5, -0.5).
    """
    segments = segment_reward.shape[-1]
    if bool((mask & ((segment < -1) | (segment >= segments))).any()):
        raise ValueError(f"segment: expected numbers in [-1, {segments - 1}], one per segment")
    inside = mask & (segment >= 0)
    steps = torch.arange(segment.shape[-1], device=segment.device).expand_as(segment)
    slot = torch.where(inside, segment, segments).long()  # one more slot for what belongs nowhere
    ends = torch.full((len(segment), segments + 1), -1, device=segment.device)
    last = ends.scatter_reduce(-1, slot, torch.where(inside, steps, -1), "amax")[:, :-1]
    paid = last >= 0 if judged is None else (last >= 0) & judged
    reward = widened(torch.where(paid, segment_reward, 0))
    return torch.zeros_like(segment, dtype=reward.dtype).scatter_add(-1, last.clamp(min=0), reward)


@objective(
    role="reward",
    paper="Ouyang et al. 2022, arXiv 2203.02155",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
)
def outcome_on_last_token(reward: Float[Tensor, " N"], mask: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""Put an output's reward on its last token: ``r_t = R 1[t = T]``.

    Args:
        reward: R of each output; not read where the output has no token.
        mask: True for the tokens of the output.

    Returns:
        A reward for each token, 0 but for the last one.

    Reference:
        Ouyang et al., "InstructGPT", arXiv 2203.02155, section 3.5. AlpacaFarm finds the last token as the number of tokens
        that are not padding, which is one too few where padding and end of text are one token; a mask has no such doubt.

    Example:
        Reward 2 for three tokens and one of padding: (0, 0, 2, 0).
    """
    last = mask & (mask.long().flip(-1).cumsum(-1).flip(-1) == 1)
    return torch.where(last, widened(reward)[:, None], 0)


@objective(
    role="reward",
    paper="Ouyang et al. 2022, arXiv 2203.02155",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=True,
)
def kl_penalised_reward(
    token_reward: Float[Tensor, "N T"],
    token_log_ratio: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
) -> Float[Tensor, "N T"]:
    r"""Dense reward with a pull to the reference: ``r_t - β (log π(a_t|s_t) - log π_ref(a_t|s_t))``.

    Args:
        token_reward: ``r_t``, from `segment_rewards_on_tokens` or `outcome_on_last_token`.
        token_log_ratio: the log-ratio of each token under the policy that sampled it. A constant: no gradient.
        mask: True for the tokens that the policy wrote.
        beta: >= 0; raising it keeps the policy nearer to the reference. 0.3 in the code that FGAIF builds on.

    Returns:
        The reward of each token, 0 where masked. Its expectation under the policy is that of ``r_t`` minus β times the KL
        divergence of the step's distributions.

    Raises:
        ValueError: beta is negative.

    Reference:
        Ouyang et al., "InstructGPT", arXiv 2203.02155, equation 2; Wu et al., arXiv 2306.01693, equation 1; FGAIF, arXiv
        2404.05046.

    Example:
        Reward 1 and a log-ratio of 0.5 at β = 0.3: 0.85.
    """
    check_not_negative("beta", beta)
    log_ratio = widened(torch.where(mask, token_log_ratio, 0)).detach()
    return widened(torch.where(mask, token_reward, 0)) - beta * log_ratio


@objective(
    role="reward",
    paper="Dubois et al. 2023, arXiv 2305.14387",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=True,
    modalities=("text",),
)
def clamped_kl_penalised_reward(
    token_reward: Float[Tensor, "N T"],
    token_log_ratio: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float = 0.0067,
) -> Float[Tensor, "N T"]:
    r"""AlpacaFarm's penalty, which only punishes: ``r_t - β max(0, log π(a_t|s_t) - log π_ref(a_t|s_t))``.

    The clamp is no estimate of the KL divergence: its expectation is at least as large, and well above it near the reference.

    Args:
        token_reward: ``r_t``.
        token_log_ratio: as in `kl_penalised_reward`. No gradient.
        mask: True for the tokens that the policy wrote.
        beta: >= 0; 0.0067 with AlpacaFarm's simulated reward model, 0.02 with the human one.

    Returns:
        The reward of each token, 0 where masked.

    Raises:
        ValueError: beta is negative.

    Reference:
        Dubois et al., "AlpacaFarm", arXiv 2305.14387, official code (``ppo_trainer.py``).

    Example:
        Reward 1 at β = 0.1: a log-ratio of 0.5 gives 0.95, one of -0.5 gives 1.
    """
    check_not_negative("beta", beta)
    log_ratio = widened(torch.where(mask, token_log_ratio, 0)).detach()
    return widened(torch.where(mask, token_reward, 0)) - beta * log_ratio.clamp(min=0)
