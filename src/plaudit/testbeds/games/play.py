"""Plays a game with an algorithm and keeps how far it is from the equilibrium after every iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.errors import ConfigError
from plaudit.objectives.preferences import extragradient_step, mirror_descent_step, mirror_prox_step, nash_md_step
from plaudit.policies import Tabular
from plaudit.testbeds.games.equilibrium import equilibrium, gap, span
from plaudit.testbeds.games.matrices import Game


class Oracle:
    """Says of two actions which wins, with the game's probability, and counts how often each game was asked."""

    def __init__(self, game: Game, generator: torch.Generator | None) -> None:
        self.game = game
        self.queries = 0
        self._generator = generator

    @property
    def generator(self) -> torch.Generator:
        """Of all that is drawn.

        Raises:
            ConfigError: there is none.
        """
        if self._generator is None:
            raise ConfigError("generator: expected one, since this algorithm learns from samples, got None")
        return self._generator

    def judge(self, a: Int[Tensor, "B n"], b: Int[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """1 where a wins, 0 where b does; n queries of each game."""
        self.queries += a.shape[-1]
        chance = self.game.preference[torch.arange(len(a))[:, None], a, b]
        return torch.bernoulli(chance, generator=self.generator)

    def draw(self, policy: Tabular, n: int) -> Int[Tensor, "B n"]:
        """n actions of a policy in each game."""
        return policy.sample(torch.arange(len(self.game.preference)), n, generator=self.generator)


class Algorithm(Protocol):
    """A way to learn a game."""

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """Change the policy by one iteration."""


@dataclass(frozen=True)
class Exact:
    """An exact update of `plaudit.objectives.preferences.games_tabular`.

    Attributes:
        step: the update.
        eta: its step.
        queries: how often an iteration evaluates ``P π``, which is one query here.
    """

    step: Callable[..., Tensor]
    eta: float
    queries: int

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """Take one step."""
        game = oracle.game
        oracle.queries += self.queries
        with torch.no_grad():
            policy.logits.copy_(
                self.step(policy.logits, game.log_reference, game.preference, beta=game.beta, eta=self.eta)
            )


def exact_nash_mp(eta: float = 2.0) -> Exact:
    """Nash-MP; 2 is the largest step of its theory."""
    return Exact(mirror_prox_step, eta, 2)


def exact_egpo(eta: float = 1.0) -> Exact:
    """EGPO."""
    return Exact(extragradient_step, eta, 2)


def exact_online_ipo(eta: float = 1.0) -> Exact:
    """Online IPO in expectation, which is online mirror descent; INPO's update with the inverse of its own η."""
    return Exact(mirror_descent_step, eta, 1)


def exact_nash_md(eta: float = 0.1) -> Exact:
    """Nash-MD."""
    return Exact(nash_md_step, eta, 1)


@dataclass(frozen=True)
class Course:
    """How a play went: after I iterations, and before the first.

    Attributes:
        queries: asked of each game so far.
        gap: the duality gap.
        kl: KL(π*||π_k) to the equilibrium, in nats.
        span: of the log-probabilities' difference to the equilibrium's.
        policy: the last one.
    """

    queries: Int[Tensor, " I+1"]
    gap: Float[Tensor, "I+1 B"]
    kl: Float[Tensor, "I+1 B"]
    span: Float[Tensor, "I+1 B"]
    policy: Tabular

    def iterations_to(self, threshold: float) -> Float[Tensor, " B"]:
        """How many iterations each game took to a gap of at most so much; infinite where it never came there."""
        below = self.gap <= threshold
        return torch.where(below.any(0), below.double().argmax(0).double(), torch.inf)

    def queries_to(self, threshold: float) -> Float[Tensor, " B"]:
        """The same in queries."""
        iterations = self.iterations_to(threshold)
        reached = iterations.isfinite()
        return torch.where(reached, self.queries[torch.where(reached, iterations, 0).long()].double(), torch.inf)


def play(
    game: Game,
    algorithm: Algorithm,
    *,
    iterations: int,
    generator: torch.Generator | None = None,
    start: Tabular | None = None,
    until: float | None = None,
) -> Course:
    """Learn a game, or several side by side.

    Args:
        game: what is played.
        algorithm: who learns it.
        iterations: at most so many.
        generator: of the samples; exact updates draw none and need none.
        start: the first policy, the reference by default; it is not changed.
        until: stop once the gap of every game has fallen to so much.

    Raises:
        ConfigError: `iterations` is below 1, or an algorithm that samples has no generator.
    """
    if iterations < 1:
        raise ConfigError(f"iterations: expected a whole number >= 1, got {iterations}")
    optimum, oracle = equilibrium(game), Oracle(game, generator)
    policy = Tabular((start or game.reference).log_policy())
    rows = [_distances(game, policy, optimum)]
    queries = [0]
    while len(rows) <= iterations and not (until is not None and bool((rows[-1][0] <= until).all())):
        algorithm.iterate(policy, oracle)
        rows.append(_distances(game, policy, optimum))
        queries.append(oracle.queries)
    gaps, divergences, spans = (torch.stack(column) for column in zip(*rows, strict=True))
    return Course(torch.tensor(queries), gaps, divergences, spans, policy)


def _distances(game: Game, policy: Tabular, optimum: Tabular) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        return gap(game, policy), optimum.kl(policy), span(game, policy, optimum)
