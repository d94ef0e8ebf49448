"""Win rates: a judge says which of two outputs is better, is asked in both orders, and may be unable to say.

What could not be judged is counted and left out; it is never a loss. A tie is a preference of 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from plaudit.evaluation.intervals import Estimate, bootstrap_mean
from plaudit.evaluation.validation import EvaluationError, same_length

ContextT = TypeVar("ContextT")
OutputT = TypeVar("OutputT")
ContextT_contra = TypeVar("ContextT_contra", contravariant=True)
OutputT_contra = TypeVar("OutputT_contra", contravariant=True)


class Judge(Protocol[ContextT_contra, OutputT_contra]):
    """Anything that says which of two outputs is better: a model, a reward, a person behind a form."""

    def prefer(
        self, contexts: Sequence[ContextT_contra], a: Sequence[OutputT_contra], b: Sequence[OutputT_contra]
    ) -> Sequence[float | None]:
        """For each context the probability in [0, 1] that a, shown first, beats b, or None: could not judge."""
        ...


@dataclass(frozen=True, slots=True)
class Judgements:
    """What a judge said of a against b in both orders; both rows hold the probability that a wins."""

    a_shown_first: tuple[float | None, ...]
    b_shown_first: tuple[float | None, ...]

    @property
    def preferences(self) -> tuple[float | None, ...]:
        """For each pair the mean over the two orders, or None unless the judge answered in both.

        One order alone would carry the judge's bias for the place.
        """
        return tuple(
            None if first is None or second is None else (first + second) / 2
            for first, second in zip(self.a_shown_first, self.b_shown_first, strict=True)
        )

    @property
    def could_not_judge(self) -> int:
        """How many pairs are left out because an answer is missing in one order or both."""
        return sum(preference is None for preference in self.preferences)

    def position_bias(
        self,
        *,
        generator: np.random.Generator,
        clusters: Sequence[Hashable] | None = None,
        level: float = 0.95,
        resamples: int = 10_000,
    ) -> Estimate:
        """By how much being shown first raises the chance to win, in points: (P(a | a first) - P(a | b first)) / 2.

        0 is none, 50 points is a judge that always takes the first, -50 the second.
        """
        pairs = list(zip(self.a_shown_first, self.b_shown_first, strict=True))
        kept = [index for index, (first, second) in enumerate(pairs) if first is not None and second is not None]
        if not kept:
            raise EvaluationError("judgements: expected at least one pair judged in both orders, got none")
        halves = [(first - second) / 2 for first, second in pairs if first is not None and second is not None]
        names = None if clusters is None else _picked(clusters, kept, len(pairs))
        return bootstrap_mean(
            halves, generator=generator, clusters=names, level=level, resamples=resamples, bounds=(-0.5, 0.5),
            unit="points",
        )  # fmt: skip


def judge_both_orders(
    judge: Judge[ContextT, OutputT], contexts: Sequence[ContextT], a: Sequence[OutputT], b: Sequence[OutputT]
) -> Judgements:
    """Ask the judge with a first and again with b first.

    Raises:
        EvaluationError: rows of different lengths, or the judge answered with something that is no probability.
    """
    same_length("a", a, "contexts", len(contexts))
    same_length("b", b, "contexts", len(contexts))
    forward = _answers(judge.prefer(contexts, a, b), len(contexts))
    backward = _answers(judge.prefer(contexts, b, a), len(contexts))
    return Judgements(forward, tuple(None if answer is None else 1.0 - answer for answer in backward))


@dataclass(frozen=True, slots=True)
class RewardJudge(Judge[ContextT, OutputT]):
    """Prefers what a reward function scores higher; see `from_rewards`."""

    reward: Callable[[Sequence[ContextT], Sequence[OutputT]], Sequence[float | None]]
    bradley_terry: bool = False

    def prefer(
        self, contexts: Sequence[ContextT], a: Sequence[OutputT], b: Sequence[OutputT]
    ) -> Sequence[float | None]:
        """For each context 1, 0 or 0.5, or sigmoid(r_a - r_b); None where a reward is None."""
        first, second = self.reward(contexts, a), self.reward(contexts, b)
        return tuple(self._prefer(left, right) for left, right in zip(first, second, strict=True))

    def _prefer(self, left: float | None, right: float | None) -> float | None:
        if left is None or right is None:
            return None
        difference = float(left) - float(right)
        if not np.isfinite(difference):
            raise EvaluationError(
                f"reward: expected finite numbers or None, got {left} and {right}; None says that it could not judge"
            )
        return float(np.exp(-np.logaddexp(0.0, -difference)) if self.bradley_terry else 0.5 * (1 + np.sign(difference)))


def from_rewards(
    reward: Callable[[Sequence[ContextT], Sequence[OutputT]], Sequence[float | None]], *, bradley_terry: bool = False
) -> RewardJudge[ContextT, OutputT]:
    """A judge out of a reward function: (contexts, outputs) to one reward each, None where it could not judge.

    Args:
        reward: up is better.
        bradley_terry: answer sigmoid(r_a - r_b) instead of 1, 0, or 0.5 for equal rewards.
    """
    return RewardJudge(reward, bradley_terry)


def win_rate(
    preferences: Sequence[float | None] | Judgements,
    *,
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Estimate:
    """The mean preference for a over the pairs that could be judged; ties count 0.5. `Estimate.n` counts those pairs.

    This is the win rate of AlpacaEval (mean(preference - 1) with preferences from 1 to 2) as a share.

    Args:
        preferences: "n", probabilities that a wins, None where it could not be judged; or what `judge_both_orders`
            gave.
        generator: draws the resamples.
        clusters: "n", what belongs together, such as the context where there are several pairs for each.
        level: of the interval.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: nothing could be judged, or a preference lies outside [0, 1].
    """
    kept, values = judged(preferences)
    names = None if clusters is None else _picked(clusters, kept, len(_row(preferences)))
    return bootstrap_mean(
        values, generator=generator, clusters=names, level=level, resamples=resamples, bounds=(0.0, 1.0), unit="share"
    )


def judged(preferences: Sequence[float | None] | Judgements) -> tuple[list[int], list[float]]:
    """The indices of the pairs that could be judged, and their preferences."""
    pairs = [(index, value) for index, value in enumerate(_row(preferences)) if value is not None]
    if not pairs:
        raise EvaluationError("preferences: expected at least one pair that could be judged, got none")
    return [index for index, _ in pairs], [value for _, value in pairs]


def _row(preferences: Sequence[float | None] | Judgements) -> Sequence[float | None]:
    return preferences.preferences if isinstance(preferences, Judgements) else preferences


def _picked(clusters: Sequence[Hashable], kept: Sequence[int], n: int) -> list[Hashable]:
    same_length("clusters", clusters, "preferences", n)
    return [clusters[index] for index in kept]


def _answers(answers: Sequence[float | None], n: int) -> tuple[float | None, ...]:
    same_length("the judge's answers", answers, "contexts", n)
    for index, answer in enumerate(answers):
        if answer is not None and not 0.0 <= answer <= 1.0:
            raise EvaluationError(
                f"the judge's answers[{index}]: expected a probability in [0, 1], or None for could not judge, "
                f"got {answer}"
            )
    return tuple(None if answer is None else float(answer) for answer in answers)
