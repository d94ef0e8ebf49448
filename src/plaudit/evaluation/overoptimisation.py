"""When to stop climbing a proxy: the curve of the reward that is optimised against that of the one that is meant."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy.typing as npt

from plaudit.evaluation.validation import EvaluationError, finite_array, same_length


@dataclass(frozen=True, slots=True)
class Overoptimisation:
    """What two curves say.

    Attributes:
        best: the look with the highest gold reward up to the alarm, or to the end without one: the checkpoint to take. Of
            equals the first.
        alarm: the look at which to stop; None where there is no reason.
    """

    best: int
    alarm: int | None

    @property
    def stop(self) -> bool:
        """Whether to stop."""
        return self.alarm is not None


def proxy_up_gold_down(
    proxy: npt.ArrayLike,
    gold: npt.ArrayLike,
    gold_error: npt.ArrayLike | None = None,
    *,
    patience: int = 3,
    deviations: float = 1.0,
) -> Overoptimisation:
    r"""Find over-optimisation: the proxy reward goes on rising, the gold reward has clearly left its maximum.

    With ``b = argmax_{s<=t} gold_s`` a look t is suspicious if ``proxy_t > proxy_b`` and
    ``gold_b - gold_t > z √(e_b² + e_t²) + e_b √(2 ln (t + 1))``; the alarm is the last of `patience` suspicious looks in a row.
    The last term bounds how far noise alone lifts the maximum of t + 1 equal looks, on average. The rule reads no look after
    t, so that it may be asked after each. Where both curves fall there is no alarm: that is training gone wrong in another way.

    Args:
        proxy: reward that is optimised, one value a look at the same contexts.
        gold: reward that is meant: a larger reward model's, a person's, a testbed's utility.
        gold_error: standard error of each gold value; None takes them as exact.
        patience: suspicious looks in a row, >= 1; raising it makes false alarms rarer and true ones later.
        deviations: z >= 0, how many standard errors make a difference clear; raising it does the same.

    Raises:
        EvaluationError: curves of different lengths or without a look, values that are not finite, or settings out of range.

    Reference:
        Gao, Schulman and Hilton, "Scaling Laws for Reward Model Overoptimization", arXiv 2210.10760, whose gold curve rises
        and falls as ``d (α - β d)`` in ``d = √KL`` under best-of-n. The stopping rule is ours.

    Example:
        Proxy (1, 2, 3, 4, 5), gold (1, 2, 1, 0, -1), patience 2: best look 1, alarm at look 3.
    """
    climbed, meant = finite_array("proxy", proxy), finite_array("gold", gold)
    same_length("gold", meant, "proxy", len(climbed))
    error = finite_array("gold_error", [0.0] * len(meant) if gold_error is None else gold_error)
    same_length("gold_error", error, "gold", len(meant))
    if (error < 0).any():
        raise EvaluationError(f"gold_error: expected numbers >= 0, got {error.min():g}")
    if patience < 1:
        raise EvaluationError(f"patience: expected a whole number >= 1, got {patience}")
    if not 0 <= deviations < math.inf:
        raise EvaluationError(f"deviations: expected a number >= 0, got {deviations}")
    best = suspicious = 0
    for look in range(len(meant)):
        if meant[look] > meant[best]:
            best = look
        lifted = error[best] * math.sqrt(2 * math.log(look + 1))
        clear = meant[best] - meant[look] > deviations * math.hypot(error[best], error[look]) + lifted
        suspicious = suspicious + 1 if clear and climbed[look] > climbed[best] else 0
        if suspicious == patience:
            return Overoptimisation(best, look)
    return Overoptimisation(best, None)
