"""How one source graded several outputs of one context: what pairs and lists are both made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from plaudit.feedback.records import (
    Comparison,
    Context,
    Exposure,
    FeedbackBase,
    Output,
    Ranking,
    Rating,
    Reaction,
    Verdict,
)

RecordT = TypeVar("RecordT", Rating, Reaction, Verdict)


@dataclass(frozen=True, slots=True)
class Graded:
    """One output, its grade (up is better), and the records that say so."""

    output: Output
    grade: float
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GradedOutputs:
    """What one source said about the outputs of one context; `record_ids` names all records that were read for it."""

    context: Context
    source: str
    graded: tuple[Graded, ...]
    record_ids: tuple[str, ...]


def graded_by_ranking(record: Ranking, dropped: Counter[str]) -> GradedOutputs:
    """Each ranked output with the number of tiers below its own; outputs in no tier are dropped ("not ranked")."""
    graded = tuple(
        Graded(record.outputs[index], float(len(record.tiers) - place), (record.id,))
        for place, tier in enumerate(record.tiers, start=1)
        for index in tier
    )
    dropped["not ranked"] += len(record.outputs) - len(graded)
    return GradedOutputs(record.context, record.source.name, graded, (record.id,))


def graded_by_exposure(record: Exposure, dropped: Counter[str]) -> GradedOutputs:
    """Each shown output with 1 if it was clicked, else 0; outputs that were not shown are dropped ("not shown")."""
    shown = [item for item in record.items if item.shown]
    dropped["not shown"] += len(record.outputs) - len(shown)
    graded = tuple(Graded(record.outputs[item.output], float(item.clicked), (record.id,)) for item in shown)
    return GradedOutputs(record.context, record.source.name, graded, (record.id,))


def graded_by_comparisons(records: Iterable[FeedbackBase], dropped: Counter[str]) -> list[GradedOutputs]:
    """Each output of a context that one source compared with others, with the share of its comparisons that it won.

    A tie is half a win. With every pair of K outputs compared once the grade is wins / (K - 1). Comparisons that nobody could
    judge and those of equal contents are dropped ("cannot_judge", "identical outputs").
    """
    groups: dict[tuple[str, ...], list[Comparison]] = defaultdict(list)
    for record in records:
        if not isinstance(record, Comparison):
            continue
        if record.choice == "cannot_judge":
            dropped["cannot_judge"] += 1
        elif record.outputs[0].content == record.outputs[1].content:
            dropped["identical outputs"] += 1
        else:
            groups[record.context.digest, record.source.kind, record.source.name, record.aspect].append(record)
    return [_by_wins(group) for group in groups.values()]


def _by_wins(comparisons: Sequence[Comparison]) -> GradedOutputs:
    """Outputs and record ids are sorted, so that the result does not depend on the order of the comparisons."""
    won: dict[object, list[tuple[float, Output, str]]] = defaultdict(list)
    for record in comparisons:
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[record.choice]
        for output, wins in zip(record.outputs, (share, 1 - share), strict=True):
            won[output.content].append((wins, output, record.id))
    graded = [
        Graded(
            min((output for _, output, _ in rows), key=lambda output: output.digest),
            fmean(wins for wins, _, _ in rows),
            tuple(sorted(record_id for _, _, record_id in rows)),
        )
        for rows in won.values()
    ]
    graded.sort(key=lambda entry: entry.output.digest)
    record_ids = tuple(sorted(record.id for record in comparisons))
    return GradedOutputs(comparisons[0].context, comparisons[0].source.name, tuple(graded), record_ids)


def graded_by_ratings(records: Iterable[FeedbackBase]) -> list[GradedOutputs]:
    """Each rated output with (value - low) / (high - low), the mean where one source rated it several times."""

    def grade(record: Rating) -> float:
        return (record.value - record.low) / (record.high - record.low)

    ratings = [record for record in records if isinstance(record, Rating)]
    return _by_group(ratings, lambda record: record.aspect, grade, fmean, Counter())


def graded_by_verdicts(records: Iterable[FeedbackBase], dropped: Counter[str]) -> list[GradedOutputs]:
    """Each judged output with 0 if any verdict of the source on it is a fail, else 1; could_not_judge is dropped."""
    verdicts = [record for record in records if isinstance(record, Verdict)]
    judged = [record for record in verdicts if record.outcome != "could_not_judge"]
    dropped["could_not_judge"] += len(verdicts) - len(judged)
    return _by_group(judged, lambda _: "", lambda record: float(record.outcome == "pass"), min, dropped)


def graded_by_reactions(records: Iterable[FeedbackBase], dropped: Counter[str]) -> list[GradedOutputs]:
    """Each output with 1 if the source's reactions to it are positive, 0 if negative; dropped if they are both."""

    def combined(grades: Sequence[float]) -> float | None:
        return grades[0] if len(set(grades)) == 1 else None

    telling = telling_reactions(records, dropped)
    return _by_group(telling, lambda _: "", lambda record: float(record.sentiment == 1), combined, dropped)


def telling_reactions(records: Iterable[FeedbackBase], dropped: Counter[str]) -> list[Reaction]:
    """The reactions that are positive or negative; neutral ones and those of unknown meaning are dropped."""
    reactions = [record for record in records if isinstance(record, Reaction)]
    dropped["neutral reaction"] += sum(record.sentiment == 0 for record in reactions)
    dropped["reaction of unknown meaning"] += sum(record.sentiment is None for record in reactions)
    return [record for record in reactions if record.sentiment]


def _by_group(
    records: Iterable[RecordT],
    aspect: Callable[[RecordT], str],
    grade: Callable[[RecordT], float],
    combine: Callable[[Sequence[float]], float | None],
    dropped: Counter[str],
) -> list[GradedOutputs]:
    """Records on single outputs, gathered by context, source and aspect, and within these by the output's content.

    `combine` makes one grade of several of one output, or None if they do not go together ("contradicts itself").
    Outputs and record ids are sorted, so that the result does not depend on the order of the records.
    """
    groups: dict[tuple[str, ...], list[RecordT]] = defaultdict(list)
    for record in records:
        groups[record.context.digest, record.source.kind, record.source.name, aspect(record)].append(record)
    return [_combined(group, grade, combine, dropped) for group in groups.values()]


def _combined(
    group: list[RecordT],
    grade: Callable[[RecordT], float],
    combine: Callable[[Sequence[float]], float | None],
    dropped: Counter[str],
) -> GradedOutputs:
    by_content: dict[object, list[RecordT]] = defaultdict(list)
    for record in group:
        by_content[record.outputs[0].content].append(record)
    graded = []
    for same in by_content.values():
        value = combine([grade(record) for record in same])
        if value is None:
            dropped["contradicts itself"] += len(same)
            continue
        output = min((record.outputs[0] for record in same), key=lambda output: output.digest)
        graded.append(Graded(output, value, tuple(sorted(record.id for record in same))))
    graded.sort(key=lambda entry: entry.output.digest)
    record_ids = tuple(sorted(record_id for entry in graded for record_id in entry.record_ids))
    return GradedOutputs(group[0].context, group[0].source.name, tuple(graded), record_ids)
