"""Annotators: how far they agree with each other, and what they lean to besides the better output.

Labels are whatever can be compared: "a", "b", "tie". A label that was not given, or could not be, is left out and not
counted as one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from plaudit.evaluation.intervals import Estimate, bootstrap_mean, bootstrap_sums, expanded_quantile
from plaudit.evaluation.validation import EvaluationError, FloatArray, same_length
from plaudit.feedback.records import Comparison, Output

Labels = Rows[Hashable]
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)


def agreement_with(
    labels: Labels, others: Rows[Labels], *, generator: np.random.Generator, level: float = 0.95
) -> Estimate:
    """How often an annotator says what most of the others say.

    An item counts 1 where the annotator's label is the others' most frequent one, 1/m where it is one of m that are equally
    frequent (the mean over drawing one of them), and 0 otherwise. Items that nobody else labelled are left out.

    Args:
        labels: "n", the annotator's label of each item.
        others: "n", of each item what the others said, >= 0 labels.
        generator: draws the resamples.
        level: of the interval.

    Raises:
        EvaluationError: rows of different lengths, or no item that others labelled.

    Reference:
        Human agreement of alpaca_eval's annotators (Dubois et al., arXiv 2305.14387), where ties are broken at random.
    """
    same_length("others", others, "labels", len(labels))
    values = [_credit(label, rest) for label, rest in zip(labels, others, strict=True) if rest]
    if not values:
        raise EvaluationError("others: expected at least one item that somebody else labelled, got none")
    return bootstrap_mean(values, generator=generator, level=level, bounds=(0.0, 1.0), unit="share")


def leave_one_out_agreement(items: Rows[Labels], *, generator: np.random.Generator, level: float = 0.95) -> Estimate:
    """How often one of several annotators says what most of the rest say: `agreement_with`, each annotator's turn once.

    Of people this is the ceiling for a model that is to say what they say. Items are the independent units; an item with
    fewer than two labels is left out.

    Args:
        items: "n", the labels of each item.
        generator: draws the resamples.
        level: of the interval.

    Raises:
        EvaluationError: no item has two labels.

    Example:
        Labels (a, a, b): the two a each meet (a, b), which count half, and b meets (a, a): (1/2 + 1/2 + 0) / 3 = 1/3.
    """
    values, units = [], []
    for number, labels in enumerate(items):
        for place, label in enumerate(labels):
            if len(labels) > 1:
                values.append(_credit(label, [*labels[:place], *labels[place + 1 :]]))
                units.append(number)
    if not values:
        raise EvaluationError("items: expected at least one item with two labels, got none")
    return bootstrap_mean(values, generator=generator, level=level, clusters=units, bounds=(0.0, 1.0), unit="share")


def krippendorff_alpha(
    items: Rows[Labels], *, generator: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> Estimate:
    """Agreement beyond chance of any number of annotators, for labels without an order.

        alpha = 1 - D_o / D_e
        D_o = (1 / N) Σ_i Σ_c n_ic (m_i - n_ic) / (m_i - 1),   D_e = Σ_c N_c (N - N_c) / (N (N - 1))

    with n_ic how often item i was labelled c, m_i its labels, N_c = Σ_i n_ic and N = Σ_i m_i. 1 is full agreement, 0 what
    drawing labels from one urn gives; below 0 annotators contradict each other. Items with fewer than two labels are left
    out. The interval is of expanded percentiles over draws of items (see `intervals`).

    Args:
        items: "n", the labels of each item.
        generator: draws the resamples.
        level: of the interval.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: fewer than two items have two labels, or all labels are equal, so that chance explains everything.

    Reference:
        Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), nominal data with missing labels.
    """
    counted = [Counter(labels) for labels in items if len(labels) > 1]
    names = list(dict.fromkeys(label for counts in counted for label in counts))
    if len(counted) < 2:
        raise EvaluationError(f"items: expected at least two with two labels each, got {len(counted)}")
    if len(names) < 2:
        raise EvaluationError(
            f"items: expected labels that differ, got {names[0]!r} alone; agreement by chance is certain"
        )
    table = np.array([[counts[name] for name in names] for counts in counted], dtype=np.float64)
    labels = table.sum(axis=1, keepdims=True)
    disagreement = (table * (labels - table)).sum(axis=1, keepdims=True) / (labels - 1)
    rows = np.concatenate([disagreement, table], axis=1)
    value = float(_alpha(rows.sum(axis=0, keepdims=True))[0])
    drawn = _alpha(bootstrap_sums(rows, generator=generator, resamples=resamples))
    outside = NormalDist().cdf(-expanded_quantile(level, len(rows)))
    low, high = np.nanquantile(drawn, [outside, 1 - outside])
    method = f"expanded percentile bootstrap, {resamples} resamples of {len(rows)} items"
    return Estimate(
        value=value, low=min(float(low), value), high=max(float(high), value), n=int(labels.sum()), level=level,
        method=method, clusters=len(rows),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Leanings:
    """How often the chosen output of a comparison was the longer one, the one with a list, the one shown first.

    Each is the share among decided comparisons whose two outputs differ in that respect, None where there is none. One half
    is no leaning; better outputs may be longer, so that a leaning is a bias only against the same share among outputs of
    equal quality.
    """

    longer: Estimate | None
    listed: Estimate | None
    first: Estimate | None


def leanings(comparisons: Rows[Comparison], *, generator: np.random.Generator, level: float = 0.95) -> Leanings:
    """What the choices of comparisons lean to; contexts are the independent units.

    Args:
        comparisons: of which only choices of a or b count.
        generator: draws the resamples.
        level: of the intervals.

    Reference:
        alpaca_eval's leaderboard of evaluators (Dubois et al., arXiv 2305.14387): probabilities to prefer longer outputs,
        lists, and the first output.
    """
    decided = [comparison for comparison in comparisons if comparison.choice in ("a", "b")]

    def share(feature: Callable[[Comparison], tuple[float, float]]) -> Estimate | None:
        values, units = [], []
        for comparison in decided:
            a, b = feature(comparison)
            if a != b:
                values.append(float((a > b) == (comparison.choice == "a")))
                units.append(comparison.context.text)
        if not values:
            return None
        return bootstrap_mean(values, generator=generator, level=level, clusters=units, bounds=(0.0, 1.0), unit="share")

    return Leanings(share(_lengths), share(_lists), share(_places))


def _lengths(comparison: Comparison) -> tuple[float, float]:
    a, b = (len(output.text) for output in comparison.outputs)
    return a, b


def _lists(comparison: Comparison) -> tuple[float, float]:
    a, b = map(_has_list, comparison.outputs)
    return a, b


def _has_list(output: Output) -> bool:
    """Whether at least two lines begin as items of a list do."""
    return len(_LIST.findall(output.text)) >= 2


def _places(comparison: Comparison) -> tuple[float, float]:
    """Larger for the output shown first; equal where nobody said in which order they were shown."""
    if comparison.shown is None:
        return 0, 0
    return -comparison.shown.index(0), -comparison.shown.index(1)


def _credit(label: Hashable, others: Labels) -> float:
    """1 over the number of the others' most frequent labels, where the label is one of them."""
    counts = Counter(others)
    most = max(counts.values())
    modes = [other for other, count in counts.items() if count == most]
    return 1 / len(modes) if label in modes else 0.0


def _alpha(sums: FloatArray) -> FloatArray:
    """Alpha of each row of summed disagreement and counts by label; NaN where a draw holds one label alone."""
    observed, counts = sums[:, 0], sums[:, 1:]
    total = counts.sum(axis=1)
    expected = (counts * (total[:, None] - counts)).sum(axis=1) / (total - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha: FloatArray = np.where(expected > 0, 1 - observed / expected, np.nan)
    return alpha
