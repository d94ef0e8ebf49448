"""The algorithms of preference games from sampled actions and single answers of the oracle, by plain gradient descent.

Each iteration draws actions in every game, asks the oracle who wins, and descends the algorithm's loss on the policy's
logits. Steps are plain: the identities between losses and exact updates do not hold for an optimiser that rescales them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.objectives.arguments import check_positive, check_share
from plaudit.objectives.preferences import egpo, inpo, nash_md, nash_mp, online_ipo, sppo_hard
from plaudit.policies import Tabular
from plaudit.testbeds.games.matrices import Game
from plaudit.testbeds.games.play import Oracle


def descend(policy: Tabular, loss: Float[Tensor, " B"], *, rate: float) -> None:
    """One step of gradient descent on the logits; the loss of each game moves that game's policy only."""
    (slope,) = torch.autograd.grad(loss.sum(), policy.logits)
    with torch.no_grad():
        policy.logits.sub_(slope, alpha=rate)


def _of(log_policy: Float[Tensor, "B A"], actions: Int[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    return log_policy.gather(-1, actions)


def _labelled(policy: Tabular, n: int, oracle: Oracle) -> tuple[Tensor, Tensor]:
    """n pairs of a policy's actions: what won and what lost."""
    a, b = oracle.draw(policy, n), oracle.draw(policy, n)
    won = oracle.judge(a, b) == 1
    return torch.where(won, a, b), torch.where(won, b, a)


def _check_counts(*, at_least: int = 1, **counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < at_least:
            raise ValueError(f"{name}: expected a whole number >= {at_least}, got {count}")


@dataclass(frozen=True, kw_only=True)
class NashMP:
    """Both proximal half steps by policy gradient with a leave-one-out baseline (`nash_mp`), from and around the same policy.

    Each of the `updates` of a half step draws `samples` fresh actions and as many of the frozen opponent, a query each.
    An iteration costs ``2 updates samples`` queries.

    Attributes:
        samples: actions an update, at least 2 for a baseline.
        updates: gradient steps of each half step.
        rate: of a gradient step.
        eta: how loosely a half step is tied to the policy before; at most 2 in theory.
    """

    samples: int
    updates: int
    rate: float
    eta: float = 2.0

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples, at_least=2)
        _check_counts(updates=self.updates)
        check_positive("rate", self.rate)
        check_positive("eta", self.eta)

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """Both half steps."""
        centre = policy.reference()
        half = self._proximal(centre, centre, oracle)
        whole = self._proximal(centre, half, oracle)
        with torch.no_grad():
            policy.logits.copy_(whole.logits)

    def _proximal(self, centre: Tabular, opponent: Tabular, oracle: Oracle) -> Tabular:
        policy, game = Tabular(centre.logits), oracle.game
        for _ in range(self.updates):
            actions = oracle.draw(policy, self.samples)
            won = oracle.judge(actions, oracle.draw(opponent, self.samples))
            loss = nash_mp(
                _of(policy.log_policy(), actions), _of(game.log_reference, actions), _of(centre.log_policy(), actions),
                won, beta=game.beta, eta=self.eta,
            )  # fmt: skip
            descend(policy, loss, rate=self.rate)
        return policy


@dataclass(frozen=True, kw_only=True)
class EGPO:
    """Two gradients of `egpo` at the same logits, on pairs that are uniform over the actions, so that no action is left out.

    The pairs serve both halves; each half asks the oracle about both actions of a pair against one action of the opponent, so
    an iteration costs ``4 samples`` queries. The rate is ``ηβA/4``, with which the expected step is `extragradient_step`.

    Attributes:
        samples: pairs an iteration.
        eta: the step.
    """

    samples: int
    eta: float

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples)
        check_positive("eta", self.eta)

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """Look ahead, then step from where it began."""
        size = tuple(policy.logits.shape)
        drawn = torch.randint(size[1], (2, size[0], self.samples), generator=oracle.generator)
        ahead = Tabular(policy.logits)
        descend(ahead, self._loss(ahead, policy, drawn, oracle), rate=self._rate(oracle.game))
        descend(policy, self._loss(policy, ahead, drawn, oracle), rate=self._rate(oracle.game))

    def _rate(self, game: Game) -> float:
        return self.eta * game.beta * game.preference.shape[-1] / 4

    def _loss(self, policy: Tabular, opponent: Tabular, pairs: Tensor, oracle: Oracle) -> Tensor:
        log_ratio = policy.log_policy() - oracle.game.log_reference
        against = oracle.draw(opponent, self.samples)
        a, b = pairs
        loss = egpo(
            _of(log_ratio, a).flatten(), _of(log_ratio, b).flatten(),
            oracle.judge(a, against).flatten(), oracle.judge(b, against).flatten(), beta=oracle.game.beta,
        )  # fmt: skip
        return loss.reshape(a.shape).mean(-1)


@dataclass(frozen=True, kw_only=True)
class OnlineIPO:
    """`online_ipo` on pairs of the present policy's actions, one query a pair and one gradient step an iteration.

    Attributes:
        samples: pairs an iteration.
        rate: of the gradient step.
    """

    samples: int
    rate: float

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples)
        check_positive("rate", self.rate)

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """One step."""
        a, b = oracle.draw(policy, self.samples), oracle.draw(policy, self.samples)
        log_ratio = policy.log_policy() - oracle.game.log_reference
        loss = online_ipo(
            _of(log_ratio, a).flatten(), _of(log_ratio, b).flatten(), oracle.judge(a, b).flatten(),
            beta=oracle.game.beta,
        )  # fmt: skip
        descend(policy, loss.reshape(a.shape).mean(-1), rate=self.rate)


@dataclass(frozen=True, kw_only=True)
class NashMD:
    """`nash_md`, a policy gradient against the geometric mixture with the reference, one query an action.

    Attributes:
        samples: actions an iteration, and as many of the mixture.
        rate: of the gradient step.
        share: of the reference in the mixture, the exact update's ``ηβ``.
    """

    samples: int
    rate: float
    share: float

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples)
        check_positive("rate", self.rate)
        check_share("share", self.share)

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """One step."""
        actions = oracle.draw(policy, self.samples)
        won = oracle.judge(
            actions, oracle.draw(policy.geometric_mixture(oracle.game.reference, self.share), self.samples)
        )
        ours, reference = (
            _of(log, actions).flatten()[:, None] for log in (policy.log_policy(), oracle.game.log_reference)
        )
        loss = nash_md(ours, reference, won.flatten(), torch.ones_like(ours, dtype=torch.bool), beta=oracle.game.beta)
        descend(policy, loss.reshape(actions.shape).mean(-1), rate=self.rate)


@dataclass(frozen=True, kw_only=True)
class INPO:
    """`inpo` on labelled pairs of the last iteration's policy, descended in several steps, each on fresh pairs.

    Descended to the end it is the exact update `mirror_descent_step` with step 1/η. An iteration costs ``updates samples``
    queries.

    Attributes:
        samples: pairs an update.
        updates: gradient steps an iteration.
        rate: of a gradient step.
        eta: the paper's η, at least the game's β: strength of the pull to the last policy.
    """

    samples: int
    updates: int
    rate: float
    eta: float

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples, updates=self.updates)
        check_positive("rate", self.rate)
        check_positive("eta", self.eta)

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """One iteration of self-play."""
        before, game = policy.reference(), oracle.game
        for _ in range(self.updates):
            sides = _labelled(before, self.samples, oracle)
            logs = (policy.log_policy(), game.log_reference, before.log_policy())
            loss = inpo(*(_of(log, side).flatten() for log in logs for side in sides), beta=game.beta, eta=self.eta)
            descend(policy, loss.reshape(sides[0].shape).mean(-1), rate=self.rate)


@dataclass(frozen=True, kw_only=True)
class SPPO:
    """`sppo_hard` on labelled pairs of the last iteration's policy, descended in several steps, each on fresh pairs.

    Descended to the end it is multiplicative weights with step η, without a reference: it plays the game at β = 0, whose
    policies may circle for ever, so its distance to the regularised equilibrium need not fall.

    Attributes:
        samples: pairs an update.
        updates: gradient steps an iteration.
        rate: of a gradient step.
        eta: the step.
    """

    samples: int
    updates: int
    rate: float
    eta: float

    def __post_init__(self) -> None:
        _check_counts(samples=self.samples, updates=self.updates)
        check_positive("rate", self.rate)
        check_positive("eta", self.eta)

    def iterate(self, policy: Tabular, oracle: Oracle) -> None:
        """One iteration of self-play."""
        before = policy.reference()
        for _ in range(self.updates):
            winners, losers = _labelled(before, self.samples, oracle)
            log_ratio = policy.log_policy() - before.log_policy()
            loss = sppo_hard(_of(log_ratio, winners).flatten(), _of(log_ratio, losers).flatten(), beta=1 / self.eta)
            descend(policy, loss.reshape(winners.shape).mean(-1), rate=self.rate)
