"""How often preferences run in circles: a beats b, b beats c, and c beats a, which no reward explains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.intervals import Estimate, bootstrap_mean
from plaudit.evaluation.validation import EvaluationError
from plaudit.feedback.records import Comparison

CHANCE = 0.25
"""The share of cycles where a fair coin decides each pair: 2 of the 8 ways to decide three pairs are cycles."""

_SIGNS: Mapping[str, int] = {"a": 1, "tie": 0, "b": -1}
Preferences = Mapping[tuple[Any, Any], float]


@dataclass(frozen=True, slots=True)
class Intransitivity:
    """Cycles among triples of which all three pairs were decided.

    Attributes:
        share: of the decided triples, how many are cycles, with its interval; triples of a context are drawn together.
        triples: decided ones.
        cyclic: of these.
        tied: triples of which all pairs were compared and at least one is a tie; they decide nothing and are left out.
        unranked_ties: of the tied, those that no ranking with ties explains, such as a = b and b = c but a > c; differences
            too small to notice add up so, without any cycle.
        incomplete: triples of compared outputs of which a pair was not compared.
    """

    share: Estimate
    triples: int
    cyclic: int
    tied: int
    unranked_ties: int
    incomplete: int

    @property
    def against_chance(self) -> float:
        """The share in units of that of fair coins, 1/4: 0 where preferences are transitive, 1 where they are coin flips."""
        return self.share.value / CHANCE


def intransitivity_of_records(
    records: Iterable[Comparison],
    *,
    generator: np.random.Generator,
    pooled: bool = False,
    aspect: str = "overall",
    level: float = 0.95,
    resamples: int = 10_000,
) -> Intransitivity:
    """Cycles in people's comparisons, each person's own or the majority's; intervals by drawing contexts.

    Args:
        records: comparisons; those of another aspect, and pairs that somebody could not judge, are left out.
        generator: of the bootstrap.
        pooled: whether the people of a context are one group, whose majority decides each pair. A group of transitive
            people can run in circles (Condorcet). By default each source is a group of its own.
        aspect: which comparisons count.
        level: of the interval.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: no three outputs of a context were compared and decided by one source (or the majority).
    """
    votes: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
    for record in records:
        first, second = (output.digest for output in record.outputs)
        if record.aspect != aspect or record.choice not in _SIGNS or first == second:
            continue
        pair = min(first, second), max(first, second)
        sign = _SIGNS[record.choice] * (1 if pair[0] == first else -1)
        votes[record.context.digest, "" if pooled else record.source.name][pair] += sign
    groups = list(votes.items())
    return intransitivity(
        [margins for _, margins in groups], contexts=[context for (context, _), _ in groups], generator=generator,
        level=level, resamples=resamples,
    )  # fmt: skip


def intransitivity_of_matrices(
    matrices: Iterable[npt.ArrayLike], *, generator: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> Intransitivity:
    """Cycles in preference matrices, ``P[i, j]`` the probability that i beats j; NaN where a pair was not compared.

    Raises:
        EvaluationError: a matrix is not square, holds a number outside [0, 1], or ``P[i, j] + P[j, i]`` is not 1.
    """
    return intransitivity(
        [_margins(np.asarray(matrix, dtype=np.float64)) for matrix in matrices],
        generator=generator, level=level, resamples=resamples,
    )  # fmt: skip


def intransitivity(
    groups: Rows[Preferences],
    *,
    generator: np.random.Generator,
    contexts: Rows[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Intransitivity:
    """The share of cyclic triples over groups of compared items.

    The null that it is held against is one fair coin a pair (Kendall and Babington Smith, "On the method of paired
    comparisons", Biometrika 31, 1940), under which a quarter of the decided triples are cycles. Of four items at most 2 of 4
    triples can be cycles, which coins reach as seldom as the quarter says.

    Args:
        groups: of each, a number a compared pair: above 0 where the first is preferred, 0 for a tie. A pair stands once.
        generator: of the bootstrap.
        contexts: what each group belongs to; groups of one context are drawn together. By default each is its own.
        level: of the interval.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: no triple was decided.
    """
    names = list(range(len(groups))) if contexts is None else list(contexts)
    cycles, clusters = list[float](), list[Hashable]()
    tied = unranked = incomplete = 0
    for name, margins in zip(names, groups, strict=True):
        items = sorted({item for pair in margins for item in pair}, key=str)
        for triple in combinations(items, 3):
            signs = _circle(triple, margins)
            if None in signs:
                incomplete += 1
            elif 0 in signs:
                tied += 1
                unranked += sum(sign or 0 for sign in signs) != 0
            else:
                cycles.append(float(len(set(signs)) == 1))
                clusters.append(name)
    if not cycles:
        raise EvaluationError(
            f"comparisons: expected three items with all three pairs decided, got none ({tied} triples with a tie, "
            f"{incomplete} with a pair that was not compared)"
        )
    share = bootstrap_mean(
        cycles,
        clusters=clusters,
        bounds=(0.0, 1.0),
        unit="share",
        generator=generator,
        level=level,
        resamples=resamples,
    )
    return Intransitivity(share, len(cycles), int(sum(cycles)), tied, unranked, incomplete)


def _circle(triple: tuple[Hashable, ...], margins: Preferences) -> list[int | None]:
    """Who wins the pairs ab, bc and ca; all the same sign is a cycle."""
    a, b, c = triple
    signs = list[int | None]()
    for first, second in ((a, b), (b, c), (c, a)):
        if (first, second) in margins:
            signs.append(int(np.sign(margins[first, second])))
        elif (second, first) in margins:
            signs.append(-int(np.sign(margins[second, first])))
        else:
            signs.append(None)
    return signs


def _margins(matrix: npt.NDArray[np.float64]) -> Preferences:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EvaluationError(f"matrix: expected a square one, got shape {matrix.shape}")
    known = ~np.isnan(matrix) & ~np.isnan(matrix.T) & ~np.eye(len(matrix), dtype=bool)
    if bool(np.any((matrix < 0) | (matrix > 1))):
        raise EvaluationError(
            "matrix: expected probabilities in [0, 1], got " + str(matrix[(matrix < 0) | (matrix > 1)][0])
        )
    gap = np.abs(np.where(known, matrix + matrix.T - 1, 0))
    if gap.max(initial=0.0) > 1e-6:
        i, j = np.unravel_index(int(gap.argmax()), gap.shape)
        raise EvaluationError(
            f"matrix: expected P[i, j] + P[j, i] = 1, got {matrix[i, j]:g} + {matrix[j, i]:g} at i = {i}, j = {j}"
        )
    return {(i, j): matrix[i, j] - 0.5 for i, j in combinations(range(len(matrix)), 2) if known[i, j]}
