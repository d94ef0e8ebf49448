"""Objectives of preference games: the signal is who beats whom, with no reward behind it, and the policy has an opponent.

The opponent of a loss is whatever its samples came from: the present policy (self-play, online IPO), a mixture with the
reference (Nash-MD), a slow copy (Nash-EMA), or a policy half a step ahead (EGPO, Nash-MP).
`plaudit.objectives.preferences.games_tabular` has the exact updates that these losses make in expectation.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_choice, check_group, check_not_negative, check_positive, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.preferences.pairwise import dpo


@objective(
    paper="Zhang et al. 2024, arXiv 2407.00617",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def inpo(
    log_prob_chosen: Float[Tensor, " B"],
    log_prob_rejected: Float[Tensor, " B"],
    ref_log_prob_chosen: Float[Tensor, " B"],
    ref_log_prob_rejected: Float[Tensor, " B"],
    old_log_prob_chosen: Float[Tensor, " B"],
    old_log_prob_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    eta: float,
) -> Float[Tensor, " B"]:
    r"""Iterative Nash policy optimisation: a squared loss on pairs whose minimiser is mirror descent against oneself.

    ``L = (h - 1/(2η))²`` with ``h = Δlog π - (τ/η) Δlog π_ref - (1 - τ/η) Δlog π_t``, where Δ is chosen minus rejected, τ =
    `beta`.

    Over pairs from π_t, labelled by the preference, the minimiser is
    ``π_{t+1} ∝ exp(P(y > π_t)/η) π_ref^{τ/η} π_t^{1 - τ/η}``: `mirror_descent_step` with step 1/η. No win rate has to be
    estimated.

    Args:
        log_prob_chosen: ``log π(y_w|x)`` of the preferred output, summed over steps.
        log_prob_rejected: the same of the other output.
        ref_log_prob_chosen: ``log π_ref(y_w|x)``.
        ref_log_prob_rejected: ``log π_ref(y_l|x)``.
        old_log_prob_chosen: ``log π_t(y_w|x)`` under the policy that sampled the pair, without gradient.
        old_log_prob_rejected: ``log π_t(y_l|x)``.
        beta: τ > 0, strength of the pull to the reference.
        eta: η >= τ, strength of the pull to π_t; raising it shortens the step.

    Returns:
        The loss of each pair, >= 0, in squared nats summed over steps.

    Raises:
        ValueError: `beta` is not positive, or `eta` below `beta`.

    Reference:
        Zhang et al., "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
        arXiv 2407.00617. With τ = η it is IPO with β = η against the reference. Picking the best and worst of several
        samples, as the authors do, makes gaps larger than the preference says. No official code was found.

    Example:
        All log-probabilities 0 and η = 0.5: ``(0 - 1)² = 1``.
    """
    check_positive("beta", beta)
    check_positive("eta", eta)
    if eta < beta:
        raise ValueError(f"eta: expected at least beta = {beta:g}, got {eta}")
    share = beta / eta
    h = (
        (widened(log_prob_chosen) - widened(log_prob_rejected))
        - share * (widened(ref_log_prob_chosen) - widened(ref_log_prob_rejected)).detach()
        - (1 - share) * (widened(old_log_prob_chosen) - widened(old_log_prob_rejected)).detach()
    )
    return (h - 1 / (2 * eta)) ** 2


@objective(
    paper="Calandriello et al. 2024, arXiv 2403.08635",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def online_ipo(
    log_ratio_a: Float[Tensor, " B"],
    log_ratio_b: Float[Tensor, " B"],
    preference: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""IPO on fresh pairs with a probability for a label: ``L = (u_a - u_b - (p - 1/2)/β)²``.

    Args:
        log_ratio_a: ``u_a = log π(a|x) - log π_ref(a|x)``, summed over steps, of the first sample of the present policy.
        log_ratio_b: the same of the second sample.
        preference: p, the probability that a beats b, in [0, 1]; 1 and 0 for a label. Without gradient.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each pair, >= 0. Equal samples ask for equal log-ratios.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Calandriello et al., "Human alignment of large language models through online preference optimisation", arXiv
        2403.08635. Their expectation over labels differs by a constant, ``p (1 - p)/β²``, and has the same gradient. With p
        = 1 it is IPO, ``(u_w - u_l - 1/(2β))²``; TRL's OnlineDPOTrainer (``loss_type="ipo"``) has that, its DPOTrainer
        divides u by the length first. With one of the samples from a mixture with the reference it is IPO-MD. Offline IPO
        differs only by where pairs come from.

    Example:
        Equal log-ratios, p = 0.75, β = 0.5: ``(0 - 0.5)² = 0.25``.
    """
    check_positive("beta", beta)
    return (widened(log_ratio_a) - widened(log_ratio_b) - (widened(preference).detach() - 0.5) / beta) ** 2


@objective(
    paper="Zhou et al. 2025, arXiv 2503.08942",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=True,
)
def egpo(
    log_ratio_a: Float[Tensor, " B"],
    log_ratio_b: Float[Tensor, " B"],
    win_rate_a: Float[Tensor, " B"],
    win_rate_b: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""EGPO's loss against a frozen opponent: ``L = (u_a - u_b - [P(a > π') - P(b > π')]/β)²``.

    An iteration takes two gradients of it at the same θ_t: the first against π_t gives θ_{t+1/2}; the second, against
    π_{t+1/2}, is applied to θ_t. With a and b uniform over A actions, a step of SGD on the mean loss with rate ``ηβA/4`` is
    `extragradient_step`.

    Args:
        log_ratio_a: ``u_a = log π(a|x) - log π_ref(a|x)``, summed over steps.
        log_ratio_b: the same of the other output. The pair comes from any fixed sampler with full support.
        win_rate_a: ``P(a > π')``, or an estimate from samples of the opponent, in [0, 1]. Without gradient.
        win_rate_b: the same of b.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Zhou et al., "Extragradient Preference Optimization (EGPO): Beyond Last-Iterate Convergence for Nash Learning from
        Human Feedback", arXiv 2503.08942 (COLM 2025); the official tabular code's ``extragradient``, whose second gradient
        is also taken at θ_t. Against the policy itself it is the code's "Online IPO 1", against the mixture with the
        reference its Nash-MD.

    Example:
        Equal log-ratios, win rates 0.7 and 0.5, β = 0.1: ``(0 - 2)² = 4``.
    """
    check_positive("beta", beta)
    target = (widened(win_rate_a) - widened(win_rate_b)).detach() / beta
    return (widened(log_ratio_a) - widened(log_ratio_b) - target) ** 2


@objective(
    paper="Munos et al. 2023, arXiv 2312.00886",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def nash_md(
    token_log_prob: Float[Tensor, "N T"],
    ref_token_log_prob: Float[Tensor, "N T"],
    preference: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
    divergence: Literal["sequence", "token"] = "sequence",
) -> Float[Tensor, " N"]:
    r"""Nash-MD's policy gradient: win against the opponent and stay near the reference, by REINFORCE with the baseline 1/2.

    ``L = -sg(P(y > y') - 1/2 - β Σ_t d_t) Σ_t log π(y_t)`` with ``d_t = log π(y_t) - log π_ref(y_t)`` and sg the
    stop-gradient. Its value is of no interest; its expected gradient is that of ``-P(π > π') + β KL(π||π_ref)``.

    Args:
        token_log_prob: log-probability of each token of a sample y of the present policy.
        ref_token_log_prob: the same under the reference.
        preference: ``P(y > y')`` in [0, 1], y' a sample of the opponent: the geometric mixture for Nash-MD, an average of
            past weights for Nash-EMA, the policy itself for self-play. Without gradient.
        mask: True for the tokens of y.
        beta: >= 0, strength of the pull to the reference.
        divergence: ``"sequence"``, as above; ``"token"`` multiplies each token's d_t with its own log-probability only,
            ``L = -sg(P - 1/2) Σ_t log π(y_t) + β Σ_t sg(d_t) log π(y_t)``, as TRL did: a token no longer answers
            for the divergence after it, and the expected gradient is another one.

    Returns:
        The loss of each sample, 0 for one without tokens.

    Raises:
        ValueError: `beta` is negative, or `divergence` neither of the two.

    Reference:
        Munos et al., "Nash Learning from Human Feedback", arXiv 2312.00886, Nash-MD-PG and Nash-EMA-PG. TRL's
        ``NashMDTrainer`` (no longer in TRL 1.16) is ``"token"``; the EGPO authors' ``nash_md_pg_sample`` is ``"sequence"``
        without the 1/2.

    Example:
        One token with π = π_ref = 1/2 and P = 0.75: ``-0.25 log(1/2) = 0.1733``.
    """
    check_not_negative("beta", beta)
    check_choice("divergence", divergence, ("sequence", "token"))
    log_prob = torch.where(mask, widened(token_log_prob), 0)
    d = (log_prob - torch.where(mask, widened(ref_token_log_prob), 0)).detach()
    won = (widened(preference).detach() - 0.5) * log_prob.sum(-1)
    pull = d.sum(-1) * log_prob.sum(-1) if divergence == "sequence" else (d * log_prob).sum(-1)
    return torch.where(mask.any(-1), beta * pull - won, 0)


@objective(
    paper="Tiapkin et al. 2025, arXiv 2505.19731",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def nash_mp(
    log_prob: Float[Tensor, "B K"],
    ref_log_prob: Float[Tensor, "B K"],
    centre_log_prob: Float[Tensor, "B K"],
    win_rate: Float[Tensor, "B K"],
    mask: Bool[Tensor, "B K"] | None = None,
    *,
    beta: float,
    eta: float,
) -> Float[Tensor, " B"]:
    r"""A proximal half step of Nash-MP by policy gradient: beat the opponent, near the reference and nearer the centre.

    REINFORCE with a leave-one-out baseline on ``P(π > π') - β KL(π||μ) - KL(π||π_k)/η``:
    ``L = -(1/K) Σ_i sg(A_i) log π(y_i)`` with ``R_i = P(y_i > π') - β log(π/μ)(y_i) - (1/η) log(π/π_k)(y_i)`` and
    ``A_i = R_i - mean of the other R``. Both half steps start from and are tied to the same π_k; the opponent is π_k in the
    first and the first's result in the second.

    Args:
        log_prob: ``log π(y_i|x)`` of K samples of the present policy, summed over steps.
        ref_log_prob: ``log μ(y_i|x)`` under the reference.
        centre_log_prob: ``log π_k(y_i|x)`` under the proximal centre; in practice a slow average of the weights.
        win_rate: ``P(y_i > π')`` against the frozen opponent, or an estimate from its samples.
        mask: True for the samples that count; a group with fewer than two has loss 0.
        beta: >= 0, strength of the pull to the reference.
        eta: > 0; raising it loosens the tie to the centre.

    Returns:
        The loss of each group; its gradient is what matters.

    Raises:
        ValueError: a setting outside its range, or groups of fewer than two.

    Reference:
        Tiapkin et al., "Accelerating Nash Learning from Human Feedback via Mirror Prox", arXiv 2505.19731 (version 1;
        version 2 has another algorithm, Nash Prox). The authors' code was not found.

    Example:
        π = μ = π_k, two samples with probability 1/2 and win rates (0.7, 0.3): A = (0.4, -0.4), ``L = 0``, slopes (-0.2,
        0.2).
    """
    check_not_negative("beta", beta)
    check_positive("eta", eta)
    check_group("log_prob", log_prob, at_least=2)
    counts = torch.ones_like(log_prob, dtype=torch.bool) if mask is None else mask
    log_pi, log_mu, log_centre, wins = (
        torch.where(counts, widened(values), 0) for values in (log_prob, ref_log_prob, centre_log_prob, win_rate)
    )
    reward = (wins - beta * (log_pi - log_mu) - (log_pi - log_centre) / eta).detach()
    n = counts.sum(-1, keepdim=True)
    others = (reward.sum(-1, keepdim=True) - reward) / (n - 1).clamp(min=1)
    advantage = torch.where(counts & (n > 1), reward - others, 0)
    return -(advantage * log_pi).sum(-1) / n.squeeze(-1).clamp(min=1)


@objective(
    paper="Xie et al. 2024, arXiv 2405.21046",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def xpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    log_prob_explored: Float[Tensor, " B"],
    *,
    beta: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    r"""Exploratory preference optimisation: online DPO, plus a bonus for moving away from what is sampled already.

    ``L = -log σ(β (u_w - u_l)) + α log π(ỹ|x)``

    Args:
        log_ratio_chosen: ``u_w = log π(y_w|x) - log π_ref(y_w|x)`` of the preferred output of a fresh pair: one sample of
            the policy and one of the reference.
        log_ratio_rejected: the same of the other output.
        log_prob_explored: ``log π(ỹ|x)`` of the reference's sample in the pair, with gradient.
        beta: > 0, strength of the pull to the reference.
        alpha: >= 0, optimism; 0 is online DPO, raising it explores more. The paper's theory has it fall with the number of
            rounds.

    Returns:
        The loss of each pair, unbounded below.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Xie et al., "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for Sample-Efficient RLHF",
        arXiv 2405.21046, Algorithm 1. TRL's ``XPOTrainer`` (no longer in TRL 1.16) is the same, and offers IPO in DPO's
        place.

    Example:
        Log-ratios 0, ``log π(ỹ) = -2``, α = 0.1: ``log 2 - 0.2 = 0.4931``.
    """
    check_not_negative("alpha", alpha)
    preferred = dpo(widened(log_ratio_chosen), widened(log_ratio_rejected), beta=beta)
    return preferred + alpha * widened(log_prob_explored)
