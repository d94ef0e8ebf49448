"""What a reader should know before believing a run's figures, found by rules with fixed, documented thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.evaluation.divergence import Divergence
from plaudit.evaluation.intervals import Estimate
from plaudit.evaluation.length_control import LengthControlledWinRate
from plaudit.evaluation.lengths import LengthChange
from plaudit.evaluation.report.run_report import FeedbackSummary, Row, RunWarning


@dataclass(frozen=True, slots=True)
class WarningThresholds:
    """Where each rule starts to speak. They are rules of thumb, not tests; the intervals are the tests.

    Attributes:
        divergence_nats: KL to the reference per output. In the curves of Gao, Schulman and Hilton, "Scaling laws for
            reward model overoptimization", arXiv 2210.10760, true reward flattens and falls as sqrt(KL) grows beyond
            a few; 25 nats is sqrt(KL) = 5.
        length_growth: share by which outputs may grow or shrink.
        source_share: share of the records that may come from one source.
        tie_share: share of the comparisons that may be ties.
        held_out: examples below which an accuracy is known to +-10 points at best.
        miscalibration: share by which confidence may exceed or miss accuracy.
        not_judged: share of the outputs sampled in training that may have no reward.
    """

    divergence_nats: float = 25.0
    length_growth: float = 0.20
    source_share: float = 0.80
    tie_share: float = 0.30
    held_out: int = 100
    miscalibration: float = 0.05
    not_judged: float = 0.05


def find_warnings(
    *,
    headline: Sequence[Row] = (),
    feedback: FeedbackSummary | None = None,
    proxy_reward_change: Estimate | None = None,
    utility: Row | None = None,
    divergence: Divergence | Estimate | None = None,
    lengths: LengthChange | None = None,
    length_controlled: LengthControlledWinRate | None = None,
    overconfidence: Estimate | None = None,
    judged_by_itself: bool = False,
    not_judged: float = 0.0,
    hacking: str | None = None,
    thresholds: WarningThresholds | None = None,
) -> tuple[RunWarning, ...]:
    """Apply every rule whose figures are given, in the order of how much they change what the run means.

    Args:
        headline: figures that got worse, or whose interval includes no change.
        feedback: few sources, many ties, few held-out examples.
        proxy_reward_change: after minus before, of the reward that was optimised.
        utility: what the proxy stands for: a true reward, or a judge's win rate. Over-optimisation is a proxy that
            rises while this falls, both beyond their intervals.
        divergence: KL(policy || reference) per output in nats; k1 of a `Divergence`.
        lengths: growth or shrinking beyond the threshold, with an interval that excludes 0.
        length_controlled: a win that goes away when lengths are held equal.
        overconfidence: of the reward model on held-out pairs.
        judged_by_itself: whether the reward that was optimised is also what says that the outputs got better.
        not_judged: share of the outputs sampled in training that the reward could not judge.
        hacking: what looks during training say of the reward that was optimised and a second one, where they came apart.
        thresholds: where the rules start to speak.
    """
    limits = thresholds or WarningThresholds()
    found: list[RunWarning | None] = [
        _over_optimised(proxy_reward_change, utility),
        _came_apart(hacking),
        _judged_by_itself() if judged_by_itself else None,
        _worse(headline),
        _far_away(divergence.k1 if isinstance(divergence, Divergence) else divergence, limits),
        _unclear(headline),
        *([] if lengths is None else [_length(lengths, limits)]),
        *([] if length_controlled is None else [_won_by_length(length_controlled)]),
        *([] if feedback is None else _feedback(feedback, limits)),
        *([] if overconfidence is None else [_miscalibrated(overconfidence, limits)]),
        _unrewarded(not_judged, limits),
    ]
    return tuple(warning for warning in found if warning is not None)


def _over_optimised(proxy: Estimate | None, utility: Row | None) -> RunWarning | None:
    if proxy is None or utility is None or not proxy.low > 0 or utility.reading != "worse":
        return None
    return RunWarning(
        "over-optimisation",
        f"The reward that was optimised rose by {proxy}, while {utility.name} fell to {utility.estimate}: "
        "the model learned to please the reward, not the people.",
        "Use an earlier checkpoint, raise beta, or collect feedback on this model's outputs and fit the reward anew.",
    )


def _came_apart(sentence: str | None) -> RunWarning | None:
    if sentence is None:
        return None
    return RunWarning(
        "reward hacking suspected",
        sentence,
        "Read the answers at the looks, take an earlier checkpoint, pull more to the reference, or mend the reward.",
    )


def _judged_by_itself() -> RunWarning:
    return RunWarning(
        "judged by the reward that was optimised",
        "The win rate and the gain are by the reward that the model was trained to raise: they say that training worked, "
        "not that the outputs are better.",
        "Let another judge compare the answers: another reward model, a model behind an address, or people.",
    )


def _unrewarded(share: float, limits: WarningThresholds) -> RunWarning | None:
    if share <= limits.not_judged:
        return None
    return RunWarning(
        "outputs without a reward",
        f"{100 * share:.0f} % of the outputs sampled in training could not be judged; the model learned from the others only.",
        "Find out why: a model can learn to give outputs that the reward cannot judge, and that is not seen in its mean.",
    )


def _worse(headline: Sequence[Row]) -> RunWarning | None:
    rows = [row for row in headline if row.reading == "worse"]
    if not rows:
        return None
    return RunWarning(
        "worse", f"Got worse: {_listed(rows)}.", "Weigh this against what got better before you use the new model."
    )


def _unclear(headline: Sequence[Row]) -> RunWarning | None:
    rows = [row for row in headline if row.better is not None and row.reading == "no clear change"]
    if not rows:
        return None
    return RunWarning(
        "no clear change",
        f"The interval includes no change: {_listed(rows)}.",
        "Do not call it an improvement. Measure on more held-out contexts, or train on more feedback.",
    )


def _far_away(divergence: Estimate | None, limits: WarningThresholds) -> RunWarning | None:
    if divergence is None or divergence.value <= limits.divergence_nats:
        return None
    return RunWarning(
        "far from the reference",
        f"The model moved {divergence} from its reference, beyond {limits.divergence_nats:g} nats per output.",
        "Look for outputs that please the reward and nobody else; raise beta or train for fewer steps.",
    )


def _length(change: LengthChange, limits: WarningThresholds) -> RunWarning | None:
    growth = change.growth
    if growth is None or not growth.excludes(0.0) or abs(growth.value) <= limits.length_growth:
        return None
    verb, fewer = ("longer", "Longer") if growth.value > 0 else ("shorter", "Shorter")
    return RunWarning(
        "length",
        f"Outputs are {growth.number(abs(growth.value))} % {verb}: {change.before.number(change.before.value)} to "
        f"{change.after.number(change.after.value)} {change.after.printed_unit} on average "
        f"(growth {growth.interval} %, n = {growth.n}).",
        f"{fewer} is not better in itself: read the length-controlled win rate, or normalise the loss by length.",
    )


def _won_by_length(rates: LengthControlledWinRate) -> RunWarning | None:
    if not (rates.raw.low > 0.5 and rates.estimate.low <= 0.5):
        return None
    return RunWarning(
        "won by length",
        f"The model wins {rates.raw}, but with lengths held equal {rates.estimate}, which includes 50 %.",
        "Take the win for a preference for length until a judge without it, or people, say otherwise.",
    )


def _feedback(feedback: FeedbackSummary, limits: WarningThresholds) -> list[RunWarning | None]:
    total = sum(feedback.by_source.values())
    few: RunWarning | None = None
    if total:
        largest = max(feedback.by_source, key=lambda source: feedback.by_source[source])
        share = feedback.by_source[largest] / total
        if len(feedback.by_source) < 2 or share > limits.source_share:
            few = RunWarning(
                "few sources",
                f"{100 * share:.0f} % of the feedback ({feedback.by_source[largest]} of {total} records) comes from "
                f"one source, {largest}: the model learned what that source likes.",
                "Collect feedback from others, and measure on feedback of a source that was not trained on.",
            )
    ties: RunWarning | None = None
    if feedback.comparisons and feedback.ties > limits.tie_share * feedback.comparisons:
        ties = RunWarning(
            "many ties",
            f"{100 * feedback.ties / feedback.comparisons:.0f} % of the comparisons ({feedback.ties} of "
            f"{feedback.comparisons}) are ties, which say little about what is better.",
            "Compare outputs that differ more: sample at a higher temperature, or from two models.",
        )
    held_out: RunWarning | None = None
    if feedback.held_out < limits.held_out:
        held_out = RunWarning(
            "few held-out examples",
            f"Only {feedback.held_out} examples were held out to measure with; below {limits.held_out} an accuracy is "
            "known to 10 points at best.",
            "Hold out more, or collect more feedback before comparing methods.",
        )
    return [few, ties, held_out]


def _miscalibrated(overconfidence: Estimate, limits: WarningThresholds) -> RunWarning | None:
    if not overconfidence.excludes(0.0) or abs(overconfidence.value) <= limits.miscalibration:
        return None
    size = overconfidence.number(abs(overconfidence.value))
    side = "more sure" if overconfidence.value > 0 else "less sure"
    return RunWarning(
        "miscalibrated reward model",
        f"The reward model is {size} points {side} of its preferences than it is right ({overconfidence}).",
        "Scale its scores on held-out pairs (temperature scaling) before using them as probabilities or margins.",
    )


def _listed(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row.name} {row.estimate}" for row in rows)
