"""Exact updates of preference games with few actions, and how far a policy is from the equilibrium.

A game has A actions and ``P[i, j]``, the probability that action i beats action j, with ``P + Pᵀ = 1``. Both players maximise
``P(π > π') - β KL(π||μ) + β KL(π'||μ)``; the symmetric equilibrium is ``π* = softmax(log μ + P π* / β)``. B games stand
side by side. Policies come as log-probabilities (logits serve as well) and leave as normalised log-probabilities; all
functions are differentiable.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective


def _log_policy(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _wins(preference: Tensor, log_opponent: Tensor) -> Tensor:
    """P π: the probability that each action beats the opponent."""
    opponent = log_opponent.softmax(-1)
    return (preference.to(opponent.dtype) @ opponent[:, :, None]).squeeze(-1)


def _check_step(beta: float, eta: float) -> None:
    check_not_negative("beta", beta)
    check_positive("eta", eta)
    if eta * beta > 1:
        raise ValueError(f"eta: expected at most 1 / beta = {1 / beta:g}, got {eta}")


@objective(
    role="value",
    paper="Munos et al. 2023, arXiv 2312.00886",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=False,
)
def win_rates(log_opponent: Float[Tensor, "B A"], preference: Float[Tensor, "B A A"]) -> Float[Tensor, "B A"]:
    r"""The probability that each action beats the opponent: ``P π'``. One evaluation is one preference query.

    Args:
        log_opponent: ``log π'(a)``, or logits.
        preference: ``P[i, j]``, the probability that i beats j.

    Returns:
        The win rate of each action, in [0, 1].

    Reference:
        Munos et al., "Nash Learning from Human Feedback", arXiv 2312.00886, ``P(y > π')``.

    Example:
        Action 0 beats action 1 with probability 0.9; against a uniform opponent: (0.7, 0.3).
    """
    return _wins(preference, _log_policy(log_opponent))


@objective(
    role="value",
    paper="Munos et al. 2023, arXiv 2312.00886",
    feedback="none",
    signal="none",
    data="either",
    reference=True,
)
def geometric_mixture(
    log_policy: Float[Tensor, "B A"], ref_log_policy: Float[Tensor, "B A"], *, share: float
) -> Float[Tensor, "B A"]:
    r"""Nash-MD's opponent, a policy on the way to the reference: ``m(a) ∝ π(a)^(1-c) μ(a)^c``.

    Args:
        log_policy: ``log π(a)``, or logits; for a language model, of one next token.
        ref_log_policy: ``log μ(a)`` of the reference.
        share: c in [0, 1] of the reference; 0 is self-play, 1 plays against the reference.

    Returns:
        Log-probabilities of the mixture.

    Raises:
        ValueError: `share` is outside [0, 1].

    Reference:
        Munos et al., arXiv 2312.00886, Nash-MD (``c = ηβ``, over whole outputs). TRL's trainer mixed the logits of one token
        after the other, which is not the mixture of whole outputs.

    Example:
        π = (0.8, 0.2), μ uniform, c = 1/2: ``m ∝ (2, 1)``, so (2/3, 1/3).
    """
    check_share("share", share)
    return ((1 - share) * _log_policy(log_policy) + share * _log_policy(ref_log_policy)).log_softmax(-1)


@objective(
    role="value",
    paper="Munos et al. 2023, arXiv 2312.00886",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def regularised_best_response(
    log_opponent: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
) -> Float[Tensor, "B A"]:
    r"""The best policy against a fixed opponent: ``argmax_π P(π > π') - β KL(π||μ) = softmax(log μ + P π' / β)``.

    Args:
        log_opponent: ``log π'(a)``. The equilibrium is the opponent that is its own best response.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j.
        beta: β > 0; raising it keeps the answer nearer to μ.

    Returns:
        Its log-probabilities.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Munos et al., arXiv 2312.00886, the regularised preference game.

    Example:
        Win rates (0.7, 0.3), μ uniform, β = 0.4: odds e, so (0.731, 0.269).
    """
    check_positive("beta", beta)
    return (_log_policy(ref_log_policy) + _wins(preference, _log_policy(log_opponent)) / beta).log_softmax(-1)


@objective(
    role="value",
    paper="Zhang et al. 2024, arXiv 2407.00617",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def mirror_descent_step(
    log_policy: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
    eta: float,
) -> Float[Tensor, "B A"]:
    r"""Online mirror descent against oneself: ``log π⁺ = (1 - ηβ) log π + ηβ log μ + η P π`` up to a constant.

    It is what INPO and online IPO do in expectation. With β = 0 it is the multiplicative-weights update.

    Args:
        log_policy: ``log π(a)``.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j.
        beta: β >= 0, strength of the pull to μ.
        eta: η > 0, step, at most 1/β. INPO's η is 1 over this one. A constant step may circle for ever where β is small.

    Returns:
        Log-probabilities of the next policy.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Zhang et al., "Iterative Nash Policy Optimization", arXiv 2407.00617; Freund and Schapire, "Adaptive game playing using
        multiplicative weights" (1999).

    Example:
        From a uniform policy that is also μ, with win rates (0.7, 0.3) and η = 1: odds ``e^0.4``, so (0.599, 0.401).
    """
    _check_step(beta, eta)
    log_pi = _log_policy(log_policy)
    pulled = (1 - eta * beta) * log_pi + eta * beta * _log_policy(ref_log_policy)
    return (pulled + eta * _wins(preference, log_pi)).log_softmax(-1)


@objective(
    role="value",
    paper="Munos et al. 2023, arXiv 2312.00886",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def nash_md_step(
    log_policy: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
    eta: float,
) -> Float[Tensor, "B A"]:
    r"""Nash-MD: one step of mirror descent from, and against, the mixture with the reference.

    ``log m = (1 - ηβ) log π + ηβ log μ`` (normalised), ``log π⁺ = log m + η P m`` up to a constant.

    Args:
        log_policy: ``log π(a)``.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j.
        beta: β >= 0, strength of the pull to μ.
        eta: η > 0, step, at most 1/β. A constant one stalls at a point beside the equilibrium; smaller steps stall nearer.

    Returns:
        Log-probabilities of the next policy.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Munos et al., "Nash Learning from Human Feedback", arXiv 2312.00886, Nash-MD.

    Example:
        From a uniform policy that is also μ it is `mirror_descent_step`: (0.599, 0.401) for win rates (0.7, 0.3) and η = 1.
    """
    _check_step(beta, eta)
    log_mixture = geometric_mixture(log_policy, ref_log_policy, share=eta * beta)
    return (log_mixture + eta * _wins(preference, log_mixture)).log_softmax(-1)


@objective(
    role="value",
    paper="Zhou et al. 2025, arXiv 2503.08942",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def extragradient_step(
    log_policy: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
    eta: float,
) -> Float[Tensor, "B A"]:
    r"""EGPO: a step of mirror descent to look ahead, then the same step from the start against what was seen there.

    ``h = (1 - ηβ) log π + ηβ log μ + η P π``, ``log π⁺ = (1 - ηβ) log π + ηβ log μ + η P softmax(h)`` up to a constant: two
    preference queries.

    Args:
        log_policy: ``log π(a)``.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j.
        beta: β >= 0, strength of the pull to μ.
        eta: η > 0, step, at most 1/β.

    Returns:
        Log-probabilities of the next policy.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Zhou et al., "Extragradient Preference Optimization (EGPO)", arXiv 2503.08942. The official tabular code takes the
        second gradient at θ_t with the opponent of θ_{t+1/2}, as here.

    Example:
        Where the win rates do not depend on the opponent, both halves agree and it is `mirror_descent_step`.
    """
    half = mirror_descent_step(log_policy, ref_log_policy, preference, beta=beta, eta=eta)
    pulled = (1 - eta * beta) * _log_policy(log_policy) + eta * beta * _log_policy(ref_log_policy)
    return (pulled + eta * _wins(preference, half)).log_softmax(-1)


@objective(
    role="value",
    paper="Tiapkin et al. 2025, arXiv 2505.19731",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def proximal_response(
    log_centre: Float[Tensor, "B A"],
    log_opponent: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
    eta: float,
) -> Float[Tensor, "B A"]:
    r"""The best policy against an opponent that stays near a centre: a half step of Nash-MP.

    ``argmax_π P(π > π') - β KL(π||μ) - KL(π||π_k) / η``, so ``log π = (log π_k + ηβ log μ + η P π') / (1 + ηβ)`` up to a
    constant.

    Args:
        log_centre: ``log π_k(a)``.
        log_opponent: ``log π'(a)``.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j.
        beta: β >= 0, strength of the pull to μ.
        eta: η > 0; raising it loosens the tie to the centre.

    Returns:
        Its log-probabilities.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Tiapkin et al., "Accelerating Nash Learning from Human Feedback via Mirror Prox", arXiv 2505.19731 (version 1).

    Example:
        Centre = μ uniform, win rates (0.7, 0.3), β = 1, η = 1: odds ``e^(0.4 / 2)``, so (0.550, 0.450).
    """
    check_not_negative("beta", beta)
    check_positive("eta", eta)
    wins = _wins(preference, _log_policy(log_opponent))
    pulled = _log_policy(log_centre) + eta * beta * _log_policy(ref_log_policy)
    return ((pulled + eta * wins) / (1 + eta * beta)).log_softmax(-1)


@objective(
    role="value",
    paper="Tiapkin et al. 2025, arXiv 2505.19731",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def mirror_prox_step(
    log_policy: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
    eta: float = 2.0,
) -> Float[Tensor, "B A"]:
    r"""Nash-MP: a proximal step against the present policy, then one from the same centre against the result.

    Args:
        log_policy: ``log π_k(a)``, the centre of both halves.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j; two queries.
        beta: β >= 0, strength of the pull to μ.
        eta: η > 0. At 2, the largest step of the theory, ``KL(π*||π_k) <= KL(π*||π_0) (1 + 2β)^-k``.

    Returns:
        Log-probabilities of the next policy.

    Raises:
        ValueError: a setting outside its range.

    Reference:
        Tiapkin et al., arXiv 2505.19731 (version 1), Nash-MP: in N queries the divergence falls as ``(1 + 2β)^(-N/2)``.

    Example:
        Where the win rates do not depend on the opponent it is `proximal_response`.
    """
    half = proximal_response(log_policy, log_policy, ref_log_policy, preference, beta=beta, eta=eta)
    return proximal_response(log_policy, half, ref_log_policy, preference, beta=beta, eta=eta)


@objective(
    role="statistic",
    paper="Tiapkin et al. 2025, arXiv 2505.19731",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=True,
)
def duality_gap(
    log_policy: Float[Tensor, "B A"],
    ref_log_policy: Float[Tensor, "B A"],
    preference: Float[Tensor, "B A A"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""What both players could still win in the regularised game if both play π: 0 only at the equilibrium.

    ``2 [β log Σ_a μ(a) exp((P π)(a) / β) - (πᵀP π - β KL(π||μ))]``

    Args:
        log_policy: ``log π(a)``.
        ref_log_policy: ``log μ(a)``.
        preference: ``P[i, j]``, the probability that i beats j.
        beta: β > 0, strength of the pull to μ.

    Returns:
        The gap of each game, >= 0 up to rounding. ``πᵀP π`` is 1/2 where ``P + Pᵀ = 1``.

    Raises:
        ValueError: `beta` is not positive.

    Reference:
        Tiapkin et al., arXiv 2505.19731; Zhou et al., arXiv 2503.08942. Some papers leave out the factor 2.

    Example:
        π = μ uniform, win rates (0.7, 0.3), β = 0.4: ``2 [0.4 log((e^1.75 + e^0.75) / 2) - 0.5] = 0.0961``.
    """
    check_positive("beta", beta)
    log_pi, log_mu = _log_policy(log_policy), _log_policy(ref_log_policy)
    pi, wins = log_pi.exp(), _wins(preference, log_pi)
    best = beta * (log_mu + wins / beta).logsumexp(-1)
    return 2 * (best - (pi * (wins - beta * (log_pi - log_mu))).sum(-1))


@objective(
    role="statistic",
    paper="von Neumann 1928; Munos et al. 2023, arXiv 2312.00886",
    feedback="comparison",
    signal="preference",
    data="on-policy",
    reference=False,
)
def exploitability(log_policy: Float[Tensor, "B A"], preference: Float[Tensor, "B A A"]) -> Float[Tensor, " B"]:
    r"""By how much the best single answer beats π in the game without a reference: ``max_a (P π)(a) - 1/2``.

    Args:
        log_policy: ``log π(a)``.
        preference: ``P[i, j]``, the probability that i beats j, with ``P + Pᵀ = 1``.

    Returns:
        A number from 0 (a von Neumann winner) to 1/2 (some action always beats π).

    Reference:
        Munos et al., arXiv 2312.00886; the value of a symmetric game is 1/2 (von Neumann, 1928).

    Example:
        Rock, paper, scissors: 0 for the uniform policy, 1/2 for one that always plays rock.
    """
    return _wins(preference, _log_policy(log_policy)).amax(-1) - 0.5
