"""The length-controlled win rate of AlpacaEval: what the win rate would be if both outputs were of one length.

Dubois, Galambosi, Liang and Hashimoto, "Length-controlled AlpacaEval", arXiv 2404.04475; code
`alpaca_eval/metrics/glm_winrate.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.intervals import Estimate, expanded_quantile
from plaudit.evaluation.logistic import LogisticRegressions, fit, sigmoid
from plaudit.evaluation.validation import (
    EvaluationError,
    FloatArray,
    IndexArray,
    cluster_codes,
    finite_array,
    same_length,
)
from plaudit.evaluation.win_rate import Judgements, judged, win_rate

RIDGE = 0.01
_CELLS = 200_000  # largest table of bootstrap weights held at once, 1.6 MB: several such stay in the cache


@dataclass(frozen=True, slots=True)
class LengthControlledWinRate:
    """The length-controlled win rate beside the raw one, and what the judge's model of it says.

    `length_effect` is phi: log-odds that being longer by much (tanh = 1) adds. `difficulty_effect` is psi, None where
    no difficulty was given.
    """

    estimate: Estimate
    raw: Estimate
    length_effect: Estimate
    difficulty_effect: Estimate | None


def length_controlled_win_rate(
    preferences: Sequence[float | None] | Judgements,
    lengths: npt.ArrayLike,
    baseline_lengths: npt.ArrayLike,
    *,
    generator: np.random.Generator,
    difficulty: npt.ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    ridge: float = RIDGE,
    level: float = 0.95,
    resamples: int = 2_000,
) -> LengthControlledWinRate:
    """Fit logit P(model wins) = theta + phi tanh(delta / sd(delta)) [+ psi gamma] and set the length term to 0.

    delta = length - baseline length, sd with n - 1 over the judged pairs; the length-controlled win rate is
    mean_x sigmoid(theta + psi gamma_x). The fit is a fractional logit (each preference is a probability) by Newton's
    method with the penalty ridge / 2 (theta^2 + phi^2 + psi^2). The interval refits all `resamples` bootstrap draws of
    contexts at once (the features, sd included, stay those of the sample) and takes expanded percentiles, see
    `intervals`.

    Exact by construction: swapping model and baseline gives 1 - win rate; a preference of 0.5 throughout gives 0.5.

    Deviations from AlpacaEval: a fixed small ridge instead of an L1 penalty chosen by cross-validation, which sets phi
    to 0 on small samples and depends on the random state; no regularisation towards gamed versions of the baseline's
    outputs, which exist for AlpacaEval's own 805 instructions only; the interval is a bootstrap of the whole fit, where
    AlpacaEval's standard error is the spread of the predictions and leaves the fit's uncertainty out.

    Args:
        preferences: "n", probabilities that the model wins, None where it could not be judged.
        lengths: "n", of the model's outputs; AlpacaEval counts characters.
        baseline_lengths: "n", of the baseline's outputs.
        generator: draws the resamples.
        difficulty: "n", gamma, a known difficulty of each instruction, in log-odds.
        clusters: "n", what belongs together and is drawn together.
        ridge: strength of the penalty; 0.01 moves a win rate over 60 pairs by less than 0.1 points, and keeps the
            coefficients finite where the model wins all.
        level: of the interval.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: rows of different lengths, fewer than 2 judged pairs, or all lengths differ by one same number
            other than 0, so that length and quality cannot be told apart.
    """
    kept, values = judged(preferences)
    outcome = finite_array("preferences", values)
    n = len(preferences.preferences if isinstance(preferences, Judgements) else preferences)

    def row(name: str, values: npt.ArrayLike) -> FloatArray:
        checked = finite_array(name, values)
        same_length(name, checked, "preferences", n)
        return checked[kept]

    delta = row("lengths", lengths) - row("baseline_lengths", baseline_lengths)
    gamma = None if difficulty is None else row("difficulty", difficulty)
    if not ridge > 0:
        raise EvaluationError(f"ridge: expected a positive number such as {RIDGE}, got {ridge}")
    raw = win_rate(preferences, generator=generator, clusters=clusters, level=level, resamples=max(resamples, 10_000))
    features = np.stack([np.ones_like(delta), _standardised(delta), *([] if gamma is None else [gamma])], axis=1)
    names = None if clusters is None else [clusters[index] for index in kept]
    codes, groups = cluster_codes(names, len(outcome))
    regression = LogisticRegressions(features, outcome, np.ones((1, len(outcome))), ridge)
    fitted = fit(regression)
    value = float(_controlled(regression, fitted)[0])
    if groups == 1 or bool(np.all(outcome == outcome[0])):
        return _without_variation(raw, value, fitted[0], gamma is not None)
    drawn, coefficients = _refit(regression, fitted[0], codes, resamples=resamples, generator=generator)
    method = f"expanded percentile bootstrap of the fit, {resamples} resamples of {groups} independent units"

    def estimate(point: float, draws: FloatArray, unit: str) -> Estimate:
        low, high = _expanded_percentiles(draws, level, groups)
        return Estimate(
            value=point, low=min(low, point), high=max(high, point), n=len(outcome), level=level, method=method,
            unit=unit, clusters=None if clusters is None else groups,
        )  # fmt: skip

    effects = [estimate(float(fitted[0, k]), coefficients[:, k], "log-odds") for k in range(1, features.shape[1])]
    return LengthControlledWinRate(
        estimate(value, drawn, "share"), raw, effects[0], None if gamma is None else effects[1]
    )


def _controlled(regressions: LogisticRegressions, beta: FloatArray) -> FloatArray:
    """For each regression the weighted mean of sigmoid(x beta) with the length feature at 0."""
    features = regressions.features.copy()
    features[:, 1] = 0.0
    weights = regressions.weights
    means: FloatArray = (weights * sigmoid(beta @ features.T)).sum(axis=1) / weights.sum(axis=1)
    return means


def _refit(
    regressions: LogisticRegressions,
    start: FloatArray,
    codes: IndexArray,
    *,
    resamples: int,
    generator: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Length-controlled win rates and coefficients of bootstrap draws of whole clusters."""
    rates, coefficients, left = [], [], resamples
    groups = int(codes.max()) + 1
    while left:
        size = min(left, max(1, _CELLS // len(codes)))
        picks = generator.integers(0, groups, size=(size, groups)) + groups * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * groups).reshape(size, groups)
        drawn = replace(regressions, weights=counts[:, codes].astype(np.float64))
        beta = fit(drawn, start)
        rates.append(_controlled(drawn, beta))
        coefficients.append(beta)
        left -= size
    return np.concatenate(rates), np.concatenate(coefficients)


def _expanded_percentiles(draws: FloatArray, level: float, groups: int) -> tuple[float, float]:
    outside = NormalDist().cdf(-expanded_quantile(level, groups))
    low, high = np.quantile(draws, [outside, 1 - outside])
    return float(low), float(high)


def _standardised(delta: FloatArray) -> FloatArray:
    """tanh(delta / sd(delta)); 0 where both outputs are always of one length."""
    if not delta.any():
        return np.zeros_like(delta)
    if len(delta) < 2 or bool(np.all(delta == delta[0])):
        raise EvaluationError(
            f"lengths: expected length differences that vary, got {delta[0]:g} for all {len(delta)} judged pairs; "
            "length and quality cannot be told apart, so report the raw win rate"
        )
    standardised: FloatArray = np.tanh(delta / delta.std(ddof=1))
    return standardised


def _without_variation(raw: Estimate, value: float, beta: FloatArray, with_difficulty: bool) -> LengthControlledWinRate:
    """No refit can vary: the raw win rate's exact interval, and coefficients without one."""

    def unknown(coefficient: float) -> Estimate:
        return Estimate(
            value=coefficient, low=-np.inf, high=np.inf, n=raw.n, level=raw.level, unit="log-odds",
            method="no interval, all preferences are equal or come from one unit", clusters=raw.clusters,
        )  # fmt: skip

    controlled = Estimate(
        value=value, low=min(raw.low, value), high=max(raw.high, value), n=raw.n, level=raw.level, method=raw.method,
        unit="share", clusters=raw.clusters,
    )  # fmt: skip
    return LengthControlledWinRate(
        controlled, raw, unknown(float(beta[1])), unknown(float(beta[2])) if with_difficulty else None
    )
