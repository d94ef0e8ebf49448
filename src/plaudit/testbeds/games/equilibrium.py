"""The equilibrium of a regularised game, and how far a policy is from it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import PlauditError
from plaudit.objectives.preferences import duality_gap
from plaudit.policies import Tabular
from plaudit.testbeds.games.matrices import Game

_EPSILON = torch.finfo(torch.float64).eps
_NEWTON_STEPS, _HALVINGS = 30, 20


def equilibrium(game: Game) -> Tabular:
    """The policy that is its own regularised best response: ``π* = softmax(log μ + P π* / β)``.

    Newton's method on the win rates ``v = P π``, ``v - P softmax(log μ + v / β) = 0``, whose matrix ``I - P (diag π - ππᵀ)/β``
    is regular because P - 1/2 is antisymmetric. It begins where β is 1 (or the game's own, if larger) and the map contracts,
    and follows the solution down to the game's β; a step in β that Newton does not survive is made smaller. Iterating an
    algorithm instead takes on the order of 1/β steps.

    Raises:
        PlauditError: the solution was lost; the message names the β where.
    """
    preference, log_mu = game.preference.double(), game.log_reference.double()
    beta, factor = max(game.beta, 1.0), 0.5
    wins, solved = _newton(preference, log_mu, _wins(preference, log_mu), beta)
    while beta > game.beta or not solved:
        following = max(game.beta, beta * factor)
        guess, solved = _newton(preference, log_mu, wins, following)
        if solved:
            wins, beta, factor = guess, following, max(0.1, factor**1.5)
        elif factor > 0.999:
            raise PlauditError(f"equilibrium: expected to follow it to beta = {game.beta:g}, lost it at {beta:g}")
        else:
            factor = factor**0.5
    return Tabular(log_mu + wins / game.beta).reference()


def _wins(preference: Tensor, logits: Tensor) -> Tensor:
    return (preference @ logits.softmax(-1)[:, :, None]).squeeze(-1)


def _newton(preference: Tensor, log_mu: Tensor, wins: Tensor, beta: float) -> tuple[Tensor, bool]:
    """From a guess of the win rates, those at equilibrium, and whether every game arrived.

    The residual cannot fall below the rounding of ``v / β``. One more step is taken from there.
    """
    identity = torch.eye(wins.shape[-1], dtype=wins.dtype)
    residual, arrived = wins - _wins(preference, log_mu + wins / beta), False
    for _ in range(_NEWTON_STEPS):
        pi = (log_mu + wins / beta).softmax(-1)
        slope = identity - (preference * pi[:, None, :] - (preference @ pi[:, :, None]) * pi[:, None, :]) / beta
        direction = torch.linalg.solve(slope, -residual)
        wins, residual = _searched(preference, log_mu, wins, residual, direction, beta)
        if arrived:
            break
        arrived = bool((residual.abs() <= 16 * _EPSILON * (1 + 1 / beta)).all())
    return wins, arrived


def _searched(
    preference: Tensor, log_mu: Tensor, wins: Tensor, residual: Tensor, direction: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Of each game the longest halved step that makes its residual smaller, or none."""
    share = torch.ones(len(wins), 1, dtype=wins.dtype)
    before = residual.square().sum(-1, keepdim=True)
    for _ in range(_HALVINGS):
        tried = wins + share * direction
        found = tried - _wins(preference, log_mu + tried / beta)
        worse = ~(found.square().sum(-1, keepdim=True) < before)
        if not worse.any():
            return tried, found
        share = torch.where(worse, share / 2, share)
    return torch.where(worse, wins, tried), torch.where(worse, residual, found)


def gap(game: Game, policy: Tabular) -> Float[Tensor, " B"]:
    """What both players could still win in the regularised game if both play the policy (see `duality_gap`)."""
    with torch.no_grad():
        return duality_gap(policy.logits, game.log_reference, game.preference, beta=game.beta)


def span(game: Game, policy: Tabular, optimum: Tabular) -> Float[Tensor, " B"]:
    """``max_a d(a) - min_a d(a)`` with ``d = log π - log π*``: how far apart the log-probabilities are, in nats."""
    with torch.no_grad():
        difference = policy.log_policy() - optimum.log_policy()
        highest = torch.where(game.real, difference, -torch.inf).amax(-1)
        return highest - torch.where(game.real, difference, torch.inf).amin(-1)


def descent_radius(game: Game, optimum: Tabular, *, eta: float) -> Float[Tensor, " B"]:
    """Spectral radius of online mirror descent's step at the equilibrium, ``(1 - ηβ) I + η P (diag π* - π*π*ᵀ)``.

    Above 1 the equilibrium repels: no start but the equilibrium itself ends there, however long it takes.
    """
    with torch.no_grad():
        pi = optimum.probabilities()
        covariance = torch.diag_embed(pi) - pi[:, :, None] * pi[:, None, :]
        identity = torch.eye(pi.shape[-1], dtype=pi.dtype)
        slope = (1 - eta * game.beta) * identity + eta * game.preference @ covariance
        values: Tensor = torch.linalg.eigvals(slope)
        return values.abs().amax(-1)
