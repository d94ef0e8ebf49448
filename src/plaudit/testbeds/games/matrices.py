"""Preference games with few actions: their matrices, checked and made.

A game has A actions and ``P[i, j]``, the probability that action i beats action j, with ``P + Pᵀ = 1``. Both players maximise
``P(π > π') - β KL(π||μ) + β KL(π'||μ)``. B games of one size and one β stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import ConfigError
from plaudit.objectives.arguments import check_positive
from plaudit.policies import Tabular

_TOLERANCE = 1e-9
_NEVER = -1e6
"""Log-probability of an action that stands for no action of the game: its probability is 0 to the last bit, its log finite."""


@dataclass(frozen=True)
class Game:
    """B regularised preference games.

    Attributes:
        preference: P of each game, [B, A, A].
        reference: μ of each game, the policy that both players are pulled to; play begins there unless said otherwise.
        beta: β > 0, strength of the pull.
    """

    preference: Tensor
    reference: Tabular
    beta: float

    def __post_init__(self) -> None:
        check_preference(self.preference)
        check_positive("beta", self.beta)
        shape = tuple(self.reference.logits.shape)
        if shape != self.preference.shape[:2]:
            raise ConfigError(
                f"reference: expected [games, actions] = {list(self.preference.shape[:2])}, got {list(shape)}"
            )

    @classmethod
    def of(
        cls, preference: npt.ArrayLike, *, beta: float, reference: npt.ArrayLike | None = None, copies: int = 1
    ) -> Game:
        """A game from one matrix and, unless it is uniform, the reference's probabilities.

        Args:
            preference: P as rows of numbers.
            beta: strength of the pull to the reference.
            reference: μ(a) of each action, adding up to 1.
            copies: so many of the same game side by side, each to be played with samples of its own.
        """
        matrix = torch.as_tensor(np.asarray(preference, dtype=np.float64))[None]
        check_preference(matrix)
        size = matrix.shape[-1]
        mu = np.full(size, 1 / size) if reference is None else np.asarray(reference, dtype=np.float64)
        start = Tabular.of(torch.as_tensor(mu)[None].expand(copies, -1))
        return cls(matrix.expand(copies, -1, -1), start.reference(), beta)

    @property
    def log_reference(self) -> Float[Tensor, "B A"]:
        """``log μ``."""
        return self.reference.log_policy()

    @property
    def real(self) -> Tensor:
        """True for the actions of each game [B, A], False for those that `side_by_side` filled up with."""
        return self.reference.logits > _NEVER / 2


def check_preference(preference: Tensor) -> None:
    """See that matrices say who beats whom.

    Raises:
        ConfigError: they are not square, or an entry, which is named, is no probability, or does not add up to 1 with the
            entry across the diagonal.
    """
    shape = list(preference.shape)
    if preference.ndim != 3 or shape[1] != shape[2] or 0 in shape:
        raise ConfigError(f"preference: expected [games, actions, actions], square matrices, got {shape}")
    possible = (preference >= 0) & (preference <= 1)  # False for NaN as well
    if not possible.all():
        game, i, j = (~possible).nonzero()[0].tolist()
        raise ConfigError(
            f"preference[{game}, {i}, {j}]: expected a probability in [0, 1], got {preference[game, i, j].item():g}"
        )
    total = preference + preference.transpose(-1, -2)
    fits = (total - 1).abs() <= (_TOLERANCE if preference.dtype == torch.float64 else 1e-6)
    if not fits.all():
        game, i, j = (~fits).nonzero()[0].tolist()
        here, across = preference[game, i, j].item(), preference[game, j, i].item()
        raise ConfigError(
            f"preference[{game}, {i}, {j}]: expected what preference[{game}, {j}, {i}] = {across:g} leaves of 1, got {here:g}"
        )


def transitive(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Bradley and Terry's preference ``P[i, j] = 1 / (1 + exp(s_j - s_i))``: a reward explains it."""
    values = _row("scores", scores)
    found: npt.NDArray[np.float64] = 0.5 + 0.5 * np.tanh((values[:, None] - values[None]) / 2)
    return found


def cyclic(actions: int, *, strength: float = 1.0) -> npt.NDArray[np.float64]:
    """Rock, paper, scissors of so many actions: each loses to the next half of the circle and beats the half before.

    Args:
        actions: at least 3; with an even number the action across the circle is a draw.
        strength: in (0, 1]; the winner wins with probability ``(1 + strength) / 2``.

    Raises:
        ConfigError: an argument is outside its range.
    """
    if actions < 3:
        raise ConfigError(f"actions: expected at least 3, fewer make no circle, got {actions}")
    if not 0 < strength <= 1:
        raise ConfigError(f"strength: expected a number in (0, 1], got {strength}")
    ahead = (np.arange(actions)[:, None] - np.arange(actions)[None]) % actions
    wins = np.sign(np.where(ahead == 0, 0, actions - 2 * ahead))
    found: npt.NDArray[np.float64] = 0.5 + strength / 2 * wins
    return found


def uniform_preference(actions: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Every ``P[i, j]`` above the diagonal is drawn uniformly from [0, 1]."""
    upper = np.triu(generator.uniform(-1, 1, (actions, actions)), 1)
    found: npt.NDArray[np.float64] = 0.5 + (upper - upper.T) / 2
    return found


def population(scores: npt.ArrayLike, shares: npt.ArrayLike | None = None) -> npt.NDArray[np.float64]:
    """What a mixed population prefers: each group follows scores of its own; together they may go round in circles.

    Args:
        scores: a row of actions' scores for each group; ``P = Σ_g share_g transitive(scores_g)``.
        shares: of each group in the population, equal by default.

    Raises:
        ConfigError: an entry is not finite, or the shares are no distribution over the groups.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2:
        raise ConfigError(f"scores: expected a row for each group, got shape {list(table.shape)}")
    weights = np.full(len(table), 1 / len(table)) if shares is None else _row("shares", shares)
    if len(weights) != len(table) or (weights < 0).any() or abs(weights.sum() - 1) > _TOLERANCE:
        raise ConfigError(f"shares: expected {len(table)} numbers >= 0 that add up to 1, got {weights.tolist()}")
    found: npt.NDArray[np.float64] = np.einsum("g,gij->ij", weights, np.stack([transitive(row) for row in table]))
    return found


def _row(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
        raise ConfigError(f"{name}: expected a row of finite numbers, got {row.tolist()!r:.80}")
    return row


def side_by_side(
    preferences: Sequence[npt.NDArray[np.float64]], references: Sequence[npt.NDArray[np.float64]], *, beta: float
) -> Game:
    """Games of different sizes as one: the small ones are filled up with actions that nobody plays.

    Such an action is a draw against all and has a reference probability that is 0 in floating point, so nothing that is
    computed of a game changes.
    """
    size = max(map(len, preferences))
    table = torch.full((len(preferences), size, size), 0.5, dtype=torch.float64)
    log_reference = torch.full((len(preferences), size), _NEVER, dtype=torch.float64)
    for row, (matrix, mu) in enumerate(zip(preferences, references, strict=True)):
        table[row, : len(matrix), : len(matrix)] = torch.as_tensor(matrix)
        log_reference[row, : len(matrix)] = Tabular.of(torch.as_tensor(mu)[None]).log_policy().detach()[0]
    return Game(table, Tabular(log_reference).reference(), beta)


ROCK_PAPER_SCISSORS = ((0.5, 0.9, 0.2), (0.1, 0.5, 0.8), (0.8, 0.2, 0.5))
"""A cycle whose links are not equally strong, so that the equilibrium is not uniform."""


def random_ten() -> npt.NDArray[np.float64]:
    """One random game of ten actions, the same every time."""
    return uniform_preference(10, np.random.default_rng(0))


def skewed(actions: int) -> npt.NDArray[np.float64]:
    """A reference proportional to 1, 2, 3, ..."""
    found: npt.NDArray[np.float64] = np.arange(1, actions + 1) / (actions * (actions + 1) / 2)
    return found
