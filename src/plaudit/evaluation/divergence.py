"""How far a policy moved from its reference: estimates of KL(policy || reference) from the policy's own samples."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plaudit.evaluation.intervals import Estimate, bootstrap_ratio
from plaudit.evaluation.validation import EvaluationError, finite_array, same_length


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(policy || reference) in nats, by two estimators, for each output and (with token counts) for each token."""

    k1: Estimate
    k3: Estimate
    k1_per_token: Estimate | None = None
    k3_per_token: Estimate | None = None


def divergence_from_reference(
    log_ratios: npt.ArrayLike,
    *,
    generator: np.random.Generator,
    token_counts: npt.ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Divergence:
    """Estimate KL(policy || reference) from l = log policy(y|x) - log reference(y|x) over outputs y of the policy.

    k1 = mean(l); k3 = mean(exp(-l) - 1 + l) (Schulman 2020, "Approximating KL divergence"). Both are unbiased where the
    reference gives nothing to outputs that the policy never makes. k1 can come out negative, k3 cannot; k3 varies less
    near 0 and much more far from it, where few samples carry exp(-l) and its interval covers too rarely. Quote k1, and
    read k3 as a check: far apart, they say that there are too few samples or that the log-probabilities are not those
    of the sampler.

    Nothing is clipped: the mean of max(0, l), which some code reports, is not a divergence. Per token is the ratio of
    sums, sum(l) / sum(tokens), not a mean of ratios.

    Args:
        log_ratios: "n", summed over each output's tokens, nats. The policy's log-probabilities must be those of the
            distribution that was sampled from (temperature, top-p and top-k included), or this is not a KL.
        generator: draws the resamples.
        token_counts: "n", >= 1.
        clusters: "n", the context of each output.
        level: of the interval.
        resamples: of the bootstrap.

    Raises:
        EvaluationError: as `bootstrap_mean`; a log-ratio below -700, which a sample of the policy cannot have; or a
            token count below 1.
    """
    ratios = finite_array("log_ratios", log_ratios)
    worst = int(ratios.argmin())
    if ratios[worst] < -700:
        raise EvaluationError(
            f"log_ratios[{worst}] is {ratios[worst]:g} nats: an output that was sampled from the policy cannot be so "
            "much likelier under the reference; check that both log-probabilities are of the same tokens"
        )
    checks = np.expm1(-ratios) + ratios
    ones = np.ones_like(ratios)

    def estimate(values: npt.ArrayLike, counts: npt.ArrayLike, unit: str) -> Estimate:
        return bootstrap_ratio(
            values, counts, generator=generator, level=level, resamples=resamples, clusters=clusters, unit=unit
        )

    k1, k3 = estimate(ratios, ones, "nats"), estimate(checks, ones, "nats")
    if token_counts is None:
        return Divergence(k1, k3)
    counts = finite_array("token_counts", token_counts)
    same_length("token_counts", counts, "log_ratios", len(ratios))
    if (counts < 1).any():
        index = int(np.flatnonzero(counts < 1)[0])
        raise EvaluationError(f"token_counts[{index}]: expected at least 1 token, got {counts[index]:g}")
    unit = "nats per token"
    return Divergence(k1, k3, estimate(ratios, counts, unit), estimate(checks, counts, unit))
