"""The figures of a run, each with its interval: what a judge is worth, and how the answers changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from plaudit.evaluation import (
    Divergence,
    Estimate,
    Judgements,
    LengthChange,
    LengthControlledWinRate,
    LengthHistogram,
    ReliabilityBin,
    RewardJudge,
    divergence_from_reference,
    expected_calibration_error,
    from_rewards,
    judge_both_orders,
    length_change,
    length_controlled_win_rate,
    length_histogram,
    overconfidence,
    paired_difference,
    preference_accuracy,
    reliability_curve,
    win_rate,
)
from plaudit.evaluation.report import FeedbackSummary, Row, RunWarning, find_warnings
from plaudit.feedback.records import Context
from plaudit.policies import Sample

GOLD = "Second reward (gold), gain"
Utility = Callable[[Context, str], float]
Rewards = tuple[Sequence[float | None], Sequence[float | None]]
"""Rewards of the answers before and after, in the order of `Answers.rows`; None where one could not be judged."""


@dataclass(frozen=True)
class JudgeQuality:
    """How well a reward model predicts comparisons that it has not seen."""

    accuracy: Estimate
    calibration_error: Estimate
    overconfidence: Estimate
    reliability: tuple[ReliabilityBin, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The figures for a report."""
        return (
            Row(
                "Reward model: held-out accuracy",
                self.accuracy,
                "up",
                None,
                f"Share of {self.accuracy.n} held-out comparisons whose winner gets the higher reward; chance is 50 %.",
            ),
            Row(
                "Reward model: calibration error",
                self.calibration_error,
                "down",
                None,
                "Mean gap between the reward model's confidence and how often it is right, on the same comparisons.",
            ),
        )

    def warnings(self, feedback: FeedbackSummary) -> tuple[RunWarning, ...]:
        """What to know before the figures are believed."""
        return find_warnings(headline=self.rows, feedback=feedback, overconfidence=self.overconfidence)


def judge_quality(
    difference: np.ndarray, clusters: Sequence[Hashable], *, generator: np.random.Generator
) -> JudgeQuality:
    """From reward differences, chosen minus rejected, of held-out pairs, grouped by context."""
    return JudgeQuality(
        preference_accuracy(difference, generator=generator, clusters=clusters),
        expected_calibration_error(difference, generator=generator, clusters=clusters),
        overconfidence(difference, generator=generator, clusters=clusters),
        reliability_curve(difference, generator=generator, clusters=clusters),
    )


@dataclass(frozen=True)
class Answers:
    """Answers to the same contexts before and after: m contexts with n answers each, paired in order.

    Attributes:
        contexts: what was asked.
        before: the answers of the model before.
        after: those of the model after.
        posed: what the model after was asked in place of the contexts, where its method added words to them.
    """

    contexts: tuple[Context, ...]
    before: tuple[tuple[Sample, ...], ...]
    after: tuple[tuple[Sample, ...], ...]
    posed: tuple[Context, ...] | None = None

    @property
    def rows(self) -> list[tuple[Context, Sample, Sample]]:
        """One (context, before, after) for each pair of answers."""
        return [
            (context, first, second)
            for context, befores, afters in zip(self.contexts, self.before, self.after, strict=True)
            for first, second in zip(befores, afters, strict=True)
        ]

    @property
    def sides(self) -> tuple[list[tuple[Context, Sample]], list[tuple[Context, Sample]]]:
        """The (context, answer) of each pair, before and after."""
        rows = self.rows
        return [(context, first) for context, first, _ in rows], [(context, second) for context, _, second in rows]

    @property
    def as_posed(self) -> list[tuple[Context, Sample]]:
        """Each answer after, with what was really asked."""
        asked = self.contexts if self.posed is None else self.posed
        return [(context, sample) for context, group in zip(asked, self.after, strict=True) for sample in group]

    @property
    def clusters(self) -> list[str]:
        """The context that each pair of answers belongs to."""
        return [context.digest for context, _, _ in self.rows]


@dataclass(frozen=True)
class Asked:
    """What a judge that was asked in both orders says of the answers after (a) against those before (b)."""

    judge: str
    judgements: Judgements
    inconsistent: int
    cost: str

    def explain(self) -> str:
        """What the win rate was computed over."""
        unjudged, pairs = self.judgements.could_not_judge, len(self.judgements.preferences)
        return (
            f"Mean preference of {self.judge} for the new model's answer, asked in both orders, ties half; over "
            f"{pairs - unjudged} of {pairs} pairs. Could not be judged, and left out: {unjudged}. Verdict changed with the "
            f"order: {self.inconsistent}. It took {self.cost}."
        )

    def place_row(self, clusters: Sequence[Hashable], *, generator: np.random.Generator) -> Row:
        """The judge's bias for the place."""
        return Row(
            "Judge's bias for the answer shown first",
            self.judgements.position_bias(generator=generator, clusters=clusters),
            None,
            0.0,
            "By how much being shown first raises an answer's chance to win; both orders are asked, so it cancels.",
        )


@dataclass(frozen=True)
class Optimised:
    """What became of the reward that was optimised.

    Attributes:
        gain: on the held-out contexts, where it could judge there.
        judges: whether it is also what compares the answers, since there is no other judge.
        not_judged: share of the outputs sampled in training that it could not judge.
        gold: gain of the second reward, where there is one.
        hacking: what the looks say of both, where they came apart.
    """

    gain: Row | None
    judges: bool
    not_judged: float
    gold: Row | None = None
    hacking: str | None = None


@dataclass(frozen=True)
class Comparison:
    """How the answers changed; what could not be measured is None."""

    utility: Row | None
    reward_change: Estimate | None
    win_rate: Row | None
    length_controlled: LengthControlledWinRate | None
    divergence: Divergence | None
    lengths: LengthChange
    histogram: LengthHistogram
    before_scores: tuple[float | None, ...] | None
    after_scores: tuple[float | None, ...] | None
    score_name: str
    place: Row | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The figures for a report, the most telling first."""
        found = [self.utility, self.win_rate]
        if self.length_controlled is not None:
            found.append(
                Row(
                    "Length-controlled win rate",
                    self.length_controlled.estimate,
                    "up",
                    0.5,
                    "The win rate that the judge would give if both models' answers were equally long (AlpacaEval 2).",
                )
            )
        if self.divergence is not None:
            found.append(
                Row(
                    "Distance from the reference",
                    self.divergence.k1,
                    None,
                    None,
                    "KL divergence from the model before, per answer, estimated on the new model's own answers.",
                )
            )
        found.append(
            Row(
                "Length of answers, change",
                self.lengths.difference,
                None,
                0.0,
                f"From {self.lengths.before} to {self.lengths.after}.",
            )
        )
        return tuple(row for row in (*found, self.place) if row is not None)


def compare_answers(
    answers: Answers,
    *,
    rewards: Rewards | None,
    log_ratios: Sequence[float] | None,
    utility: Utility | None,
    generator: np.random.Generator,
    asked: Asked | None = None,
    judge_name: str = "the judge",
) -> Comparison:
    """Measure how answers changed.

    Args:
        answers: before and after.
        rewards: the judge's; None where it gives none.
        log_ratios: log π - log π_ref of each answer after, summed over its tokens, nats.
        utility: the true worth of an answer, where it is known.
        generator: of the intervals.
        asked: what a judge that gives no rewards says.
        judge_name: who gives the rewards.
    """
    rows, clusters = answers.rows, answers.clusters
    n = len(rows)
    before_tokens = [len(first.token_ids) for _, first, _ in rows]
    after_tokens = [len(second.token_ids) for _, _, second in rows]
    truth = None
    scores: Rewards | None = rewards
    if utility is not None:
        worth = [[utility(context, answer.text) for context, answer in side] for side in answers.sides]
        scores = (worth[0], worth[1])
        gain = paired_difference(worth[1], worth[0], generator=generator, clusters=clusters)
        truth = Row(
            "True utility, gain",
            gain,
            "up",
            0.0,
            f"What the annotators cannot see and the answers are worth, after minus before, on {len(answers.contexts)} "
            f"held-out contexts: {np.mean(worth[0]):.3f} to {np.mean(worth[1]):.3f} on a scale from 0 to 1.",
        )
    won = controlled = change = place = None
    gained = None if rewards is None else reward_gain(rewards, answers, generator=generator)
    if rewards is not None and gained is not None:
        judge: RewardJudge[int, float | None] = from_rewards(lambda _, values: values)
        judgements = judge_both_orders(judge, range(n), rewards[1], rewards[0])
        left_out = judgements.could_not_judge
        explanation = (
            f"Share of {n - left_out} pairs of answers in which {judge_name} gives the new model's the higher reward; "
            "ties count half." + (f" Could not be judged, and left out: {left_out}." if left_out else "")
        )
        won, controlled = _win_rates(judgements, explanation, answers, generator=generator)
        change = gained.estimate
    elif asked is not None:
        won, controlled = _win_rates(asked.judgements, asked.explain(), answers, generator=generator)
        place = asked.place_row(clusters, generator=generator)
    divergence = None
    if log_ratios is not None:
        divergence = divergence_from_reference(
            log_ratios, generator=generator, token_counts=after_tokens, clusters=clusters
        )
    return Comparison(
        utility=truth,
        reward_change=change,
        win_rate=won,
        length_controlled=controlled,
        divergence=divergence,
        lengths=length_change(before_tokens, after_tokens, unit="tokens", generator=generator, clusters=clusters),
        histogram=length_histogram(before_tokens, after_tokens, unit="tokens"),
        before_scores=None if scores is None else tuple(scores[0]),
        after_scores=None if scores is None else tuple(scores[1]),
        score_name="true utility" if utility is not None else "reward",
        place=place,
    )


def reward_gain(
    rewards: Rewards,
    answers: Answers,
    *,
    generator: np.random.Generator,
    name: str = "Reward that was optimised, gain",
) -> Row | None:
    """By how much a reward rose, over the pairs of answers that could be judged; None where none could."""
    pairs = zip(*rewards, answers.clusters, strict=True)
    kept = [(first, second, place) for first, second, place in pairs if first is not None and second is not None]
    if not kept:
        return None
    before, after, clusters = (list(column) for column in zip(*kept, strict=True))
    total = len(answers.clusters)
    left_out = total - len(kept)
    return Row(
        name,
        paired_difference(after, before, generator=generator, clusters=clusters),
        "up",
        0.0,
        f"Mean reward of an answer after minus before, on {len(set(clusters))} held-out contexts: {np.mean(before):.3f} to "
        f"{np.mean(after):.3f}."
        + (f" Could not be judged, and left out: {left_out} of {total} pairs." if left_out else ""),
    )


def _win_rates(
    judgements: Judgements, explanation: str, answers: Answers, *, generator: np.random.Generator
) -> tuple[Row, LengthControlledWinRate | None]:
    """The win rate, and the length-controlled one where there are contexts enough to fit it."""
    rows, clusters = answers.rows, answers.clusters
    rate = win_rate(judgements, generator=generator, clusters=clusters)
    won = Row("Win rate against the model before", rate, "up", 0.5, explanation)
    judged = {name for name, value in zip(clusters, judgements.preferences, strict=True) if value is not None}
    if len(judged) <= 2:
        return won, None
    before, after = ([len(row[side].text) for row in rows] for side in (1, 2))
    return won, length_controlled_win_rate(judgements, after, before, generator=generator, clusters=clusters)
