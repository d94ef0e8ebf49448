"""Objectives that imitate outputs, all of them or the good ones, with weights and beside a pull to the reference.

Each is `negative_log_likelihood` on a choice of outputs, tokens or weights; the choice is what the feedback is used for.
Token objectives return (value, weight) per example, see `plaudit.objectives.aggregation`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_not_negative, check_positive, check_share, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.imitation.likelihood import negative_log_likelihood


@objective(
    paper="Liu et al. 2023, arXiv 2302.02676",
    feedback="critique",
    signal="none",
    data="off-policy",
    reference=False,
)
def chain_of_hindsight(
    token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    pretraining: Bool[Tensor, " N"] | None = None,
    *,
    pretraining_weight: float = 1.5,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Chain of hindsight: likelihood of the outputs in a chain of feedback and outputs, and of plain text beside it.

    A sequence is "prompt, feedback, output, feedback, output, ...": ``L = -Σ_t 1[t in an output] log p(x_t | x_<t)``, and
    for rows of pre-training text λ times their likelihood.

    Args:
        token_log_prob: log-probability of each token of the whole chain.
        mask: True for tokens of outputs; prompt and feedback words are read and not learned.
        pretraining: True for rows of pre-training text, whose `mask` is all their tokens; None if there are none.
        pretraining_weight: λ >= 0; raising it keeps the model nearer to its pre-training. It multiplies the value of a row:
            with one mean over the batch, the rows' number counts too.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sequence.

    Raises:
        ValueError: `pretraining_weight` is negative, or `aggregation` unknown.

    Reference:
        Liu, Sferrazza and Abbeel, "Chain of Hindsight Aligns Language Models with Feedback", arXiv 2302.02676, equations 2
        (mask) and 3 (λ; its value 1.5: not found in version 6). With one output and no feedback it is supervised
        fine-tuning. `past_token_mask` has the paper's other regulariser.

    Example:
        A chain with token probabilities (1/2, 1/4, 1/8), the middle one a feedback word: ``(log 2 + 3 log 2) / 2 = 2 log 2``.
    """
    check_not_negative("pretraining_weight", pretraining_weight)
    value, weight = negative_log_likelihood(token_log_prob, mask, aggregation=aggregation)
    return value if pretraining is None else torch.where(pretraining, pretraining_weight * value, value), weight


@objective(
    role="weight",
    paper="Liu et al. 2022, arXiv 2210.13432; Liu et al. 2023, arXiv 2302.02676",
    feedback="critique",
    signal="none",
    data="off-policy",
    reference=False,
)
def past_token_mask(noise: Float[Tensor, "N T T"], *, rate: float) -> Bool[Tensor, "N T T"]:
    r"""Which earlier tokens a token may attend to while training: each is forgotten with probability `rate`.

    Position t sees s where ``s = t``, or ``s = 0``, or ``s < t`` and ``noise[t, s] >= rate``. The first token stays in
    sight, and so does the token itself: no row of attention is ever empty.

    Args:
        noise: uniform numbers in [0, 1), drawn by the caller. ``torch.rand(N, 1, T).expand(N, T, T)`` forgets a token for
            all later positions at once; one number per pair forgets it for each of them by itself, as the authors' code
            does.
        rate: in [0, 1]. Chain of hindsight draws it anew for each step of training, between 0 and 0.05; 0 is plain causal
            attention.

    Returns:
        True where position t (second axis) sees position s (third axis).

    Raises:
        ValueError: `rate` is outside [0, 1].

    Reference:
        Liu et al., "FCM: Forgetful causal masking makes causal language models better zero-shot learners", arXiv
        2210.13432; used in Liu et al., arXiv 2302.02676, "prevent shortcut", with 0 to 5 % of past tokens. EasyLM
        (``fcm_max_ratio``) masks the token itself as well, except the first.

    Example:
        Three tokens at rate 1: each sees the first and itself.
    """
    check_share("rate", rate)
    t = torch.arange(noise.shape[-1], device=noise.device)[:, None]
    s = t.T
    return ((s < t) & (noise >= rate)) | (s == t) | (s == 0)


@objective(
    paper="Mukobi et al. 2023, arXiv 2310.16763",
    feedback="rating",
    signal="reward",
    data="on-policy",
    reference=True,
)
def superhf(
    token_log_prob: Float[Tensor, "N T"],
    token_divergence: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
    aggregation: Aggregation = "sequence-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""SuperHF: likelihood of the best of several samples, with a forward divergence to the base policy.

    ``L = mean_t -log π(y_t) + β max(mean_t KL_t, 0)`` with ``KL_t = Σ_v p0(v|t) [log p0(v|t) - log π(v|t)]`` over the
    vocabulary.

    Args:
        token_log_prob: log-probability of each token of a kept sample; `top_outputs` says which are kept.
        token_divergence: ``KL(p0 || π)`` at each position, with the base policy p0 first and gradient through π.
        mask: True for the tokens of the output.
        beta: β >= 0, strength of the pull to the base policy; 0 is expert iteration.
        aggregation: of both terms, see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sample.

    Raises:
        ValueError: `beta` is negative, or `aggregation` unknown.

    Reference:
        Mukobi et al., "SuperHF: Supervised Iterative Learning from Human Feedback", arXiv 2310.16763. The official code
        adds up the divergences of a mini-batch (of 2) and averages the likelihood over its tokens: its β of 0.35 is 0.7
        here. It takes the divergence one position late; ours belongs to the token that is predicted.

    Example:
        Token probabilities (1/2, 1/8), divergences (0.1, 0.3), β = 0.5: ``2 log 2 + 0.5 · 0.2 = 1.4863``.
    """
    check_not_negative("beta", beta)
    value, weight = negative_log_likelihood(token_log_prob, mask, aggregation=aggregation)
    divergence, _ = aggregate(token_divergence, mask, aggregation)
    return value + beta * divergence.clamp(min=0), weight


@objective(
    role="divergence",
    paper="Stiennon et al. 2020, arXiv 2009.01325",
    feedback="none",
    signal="none",
    data="on-policy",
    reference=True,
)
def best_of_n_divergence(samples: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""How far the best of n samples is from one sample: ``KL <= log n - (n - 1)/n``, with equality for continuous scores.

    Args:
        samples: n >= 1, the number of samples that the best was taken from.

    Returns:
        The divergence of the best from the sampling policy, nats.

    Reference:
        Stiennon et al., "Learning to summarize from human feedback", arXiv 2009.01325, appendix; for scores with ties it is
        an upper bound (Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", arXiv 2401.01879).

    Example:
        The best of 16: ``log 16 - 15/16 = 1.835``.
    """
    return torch.log(samples) - (samples - 1) / samples


@objective(
    role="weight",
    paper="Anthony et al. 2017, arXiv 1705.08439; Dong et al. 2023, arXiv 2304.06767",
    feedback="rating",
    signal="reward",
    data="either",
    reference=False,
)
def top_outputs(
    reward: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"] | None = None, *, keep: int = 1
) -> Bool[Tensor, "B K"]:
    r"""The best outputs of each group, for imitation: those with fewer than `keep` better ones.

    Args:
        reward: reward of each output.
        mask: True for the outputs that count.
        keep: >= 1. Equals at the border are all kept, so that a group of equal rewards is kept whole; mix by chance if that
            is too many.

    Returns:
        True for the outputs to imitate.

    Raises:
        ValueError: `keep` is below 1.

    Reference:
        Best-of-n in Dong et al., "RAFT: Reward rAnked FineTuning", arXiv 2304.06767, and SuperHF, arXiv 2310.16763. Peers
        take the first of equals, which depends on the order.

    Example:
        Rewards (1, 3, 3, 2): `keep` 1 and 2 give the two of reward 3, `keep` 3 adds the 2.
    """
    check_positive("keep", keep)
    counts = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    better = (reward[:, None, :] > reward[:, :, None]) & counts[:, None, :]
    return counts & (better.sum(-1) < keep)


@objective(
    paper="Yuan et al. 2023, arXiv 2308.01825; Dong et al. 2023, arXiv 2304.06767",
    feedback="verdict",
    signal="label",
    data="either",
    reference=False,
)
def rejection_fine_tuning(
    token_log_prob: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    accepted: Bool[Tensor, " N"],
    *,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Likelihood of the accepted samples only: RFT, RAFT, STaR, ReST and expert iteration.

    Args:
        token_log_prob: log-probability of each token of a sample.
        mask: True for the tokens of the sample.
        accepted: True for the samples to imitate: those that a verifier passes (RFT, STaR), that are the best of their
            group (RAFT, expert iteration; see `top_outputs`), or whose reward is above a threshold (ReST).
        aggregation: see `plaudit.objectives.aggregation.aggregate`. Rejected samples have weight 0: a mean is over the
            accepted.

    Returns:
        (value, weight) per sample; (0, 0) for a rejected one.

    Raises:
        ValueError: `aggregation` is unknown.

    Reference:
        Yuan et al., "Scaling relationship on learning mathematical reasoning", arXiv 2308.01825 (RFT); Dong et al., arXiv
        2304.06767 (RAFT); Zelikman et al., arXiv 2203.14465 (STaR); Gulcehre et al., arXiv 2308.08998 (ReST); Anthony et
        al., arXiv 1705.08439.

    Example:
        Two samples with probabilities (1/2, 1/4) per token, the second one rejected: values ``(log 2, 0)`` and a batch's
        loss of ``log 2``.
    """
    return negative_log_likelihood(token_log_prob, mask & accepted[:, None], aggregation=aggregation)


@objective(
    role="statistic",
    paper="Lu et al. 2022, arXiv 2205.13636",
    feedback="rating",
    signal="reward",
    data="either",
    reference=False,
)
def reward_quantile(reward: Float[Tensor, " N"], *, quantiles: int = 5) -> Int[Tensor, " N"]:
    r"""Quark's control token of each sample: the quantile of its reward in the pool, 0 for the best.

    Args:
        reward: rewards of the whole pool of samples.
        quantiles: >= 1, the number of parts of equal size.

    Returns:
        Whole numbers from 0 (best) to ``quantiles - 1``; equal rewards are in one part, that of their mean rank.

    Raises:
        ValueError: `quantiles` is below 1.

    Reference:
        Lu et al., "Quark: Controllable Text Generation with Reinforced Unlearning", arXiv 2205.13636, quantization; 5
        quantiles. The authors' code sorts the pool and splits equals by their order.

    Example:
        Rewards (4, 1, 3, 2) in two quantiles: (0, 1, 0, 1).
    """
    check_positive("quantiles", quantiles)
    better = (reward[None, :] > reward[:, None]).sum(-1)
    equal = (reward[None, :] == reward[:, None]).sum(-1)
    return (2 * better + equal) * quantiles // (2 * max(len(reward), 1))


@objective(
    paper="Lu et al. 2022, arXiv 2205.13636",
    feedback="rating",
    signal="reward",
    data="off-policy",
    reference=True,
)
def quark(
    token_log_prob: Float[Tensor, "N T"],
    token_divergence: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float = 0.05,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Quark: likelihood of each sample after the control token of its own quantile, with a divergence to the reference.

    ``L = mean_t [-log π(y_t | x, q, y_<t) + β KL_t]``, q as in `reward_quantile`. To generate, condition on the best
    quantile.

    Args:
        token_log_prob: log-probability of each token of a sample of the pool, given prompt and control token.
        token_divergence: divergence at each position over the vocabulary, between the reference (which sees no control
            token) and π, with gradient through π.
        mask: True for the tokens of the output.
        beta: β >= 0, strength of the pull to the reference.
        aggregation: see `plaudit.objectives.aggregation.aggregate`.

    Returns:
        (value, weight) per sample.

    Raises:
        ValueError: `beta` is negative, or `aggregation` unknown.

    Reference:
        Lu et al., "Quark: Controllable Text Generation with Reinforced Unlearning", arXiv 2205.13636. The authors' code
        (GXimingLu/Quark) and AlpacaFarm take ``KL(π || p0)`` over the vocabulary without the control tokens and subtract an
        entropy bonus (0.06 in the former); the direction is the caller's. AlpacaFarm can train on the best quantile alone,
        without control tokens.

    Example:
        Token probabilities (1/2, 1/8), divergences (0.1, 0.3), β = 0.5: ``2 log 2 + 0.5 · 0.2 = 1.4863``.
    """
    check_not_negative("beta", beta)
    return aggregate(beta * widened(token_divergence) - widened(token_log_prob), mask, aggregation)
