"""Values and labels that search and roll-outs give to the steps of an output. T counts steps."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, check_positive
from plaudit.objectives.catalogue import objective


@objective(
    role="value",
    paper="Wang et al. 2023, arXiv 2312.08935",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
)
def step_value(value_sum: Float[Tensor, "N T"], visits: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""A step's value as the mean outcome of the roll-outs through it: ``Q = W / N``.

    With one outcome of 0 or 1 for each roll-out it is Math-Shepherd's soft label, the share that got the answer right.

    Args:
        value_sum: W, the outcomes of the roll-outs from or through this step, added up.
        visits: N >= 0, their number.

    Returns:
        The mean outcome, without gradient; 0 for a step that was never visited, as in PROPA. Hide such steps from the loss.

    Reference:
        Wang et al., "Math-Shepherd", arXiv 2312.08935, equation 4 (soft estimation); PROPA's tree values.

    Example:
        3 of 8 roll-outs right: 0.375.
    """
    return value_sum.detach() / visits.detach().clamp(min=1)


@objective(
    role="value",
    paper="Wang et al. 2023, arXiv 2312.08935",
    feedback="verdict",
    signal="label",
    data="either",
    reference=False,
)
def step_value_hard(value_sum: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    r"""A step's hard label: 1 if any roll-out from it got the answer right, else 0.

    Args:
        value_sum: W >= 0, the outcomes of the roll-outs from this step, added up.

    Returns:
        ``1[W > 0]``, without gradient. More roll-outs can only turn 0 into 1.

    Reference:
        Wang et al., "Math-Shepherd", arXiv 2312.08935, equation 3 (hard estimation).

    Example:
        3 of 8 roll-outs right: 1.
    """
    return (value_sum.detach() > 0).to(value_sum.dtype)


@objective(
    role="value",
    paper="ours",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
)
def step_value_lower(
    value_sum: Float[Tensor, "N T"], visits: Float[Tensor, "N T"], *, deviations: float
) -> Float[Tensor, "N T"]:
    r"""A step's cautious value: the mean outcome less some standard errors, ``Q - z sqrt( Q (1 - Q) / N )``.

    Args:
        value_sum: W, the number of roll-outs through this step that got the answer right.
        visits: N >= 0, the number of all of them.
        deviations: z >= 0; raising it trusts steps with few visits less. 0 is `step_value`.

    Returns:
        The bound, without gradient, at most the mean; below 0 for a few successes in a few visits; 0 without visits. At
        Q = 0 or 1 the standard error is 0 however few the visits.

    Raises:
        ValueError: `deviations` is negative.

    Reference:
        The lower confidence bound among the step values of plaudit's search (ours).

    Example:
        2 of 4 right and z = 1: ``0.5 - 0.25 = 0.25``.
    """
    check_not_negative("deviations", deviations)
    count = visits.detach().clamp(min=1)
    mean = value_sum.detach() / count
    return mean - deviations * (mean * (1 - mean) / count).clamp(min=0).sqrt()


@objective(
    role="reward",
    paper="Jiang et al. 2025, arXiv 2511.10279",
    feedback="verdict",
    signal="return",
    data="either",
    reference=False,
)
def boosted_value(value: Float[Tensor, "N T"], *, gain: float = 10.0) -> Float[Tensor, "N T"]:
    r"""PROPA's boost, which spreads small step values: ``log(1 + g q) / log(1 + g)``.

    Args:
        value: q in [0, 1].
        gain: g > 0; raising it lifts small values more; towards 0 it is the value itself. PROPA uses 10.

    Returns:
        The boosted value in [0, 1]; 0 stays 0, 1 stays 1.

    Raises:
        ValueError: `gain` is not positive.

    Reference:
        The data builders in the code of Jiang et al., "PROPA", arXiv 2511.10279.

    Example:
        0.1 becomes ``log 2 / log 11 = 0.289``.
    """
    check_positive("gain", gain)
    return (gain * value).log1p() / math.log1p(gain)


@objective(
    role="advantage",
    paper="Setlur et al. 2024, arXiv 2410.08146",
    feedback="verdict",
    signal="advantage",
    data="either",
    reference=False,
)
def step_progress(
    value: Float[Tensor, "N T"], root_value: Float[Tensor, " N"], mask: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    r"""What a step gained: its value less that of the step before, ``A_t = Q_t - Q_{t-1}``.

    Args:
        value: ``Q_t``, the chance of a right answer after step t.
        root_value: ``Q_0``, the chance before the first step.
        mask: True for the steps that exist; the step before is the last one that does.

    Returns:
        The progress of each step, 0 where `mask` is False; a row's sum is ``Q_T - Q_0``.

    Reference:
        Setlur et al., "Rewarding progress", arXiv 2410.08146, section 3 (progress as an advantage; there under a prover
        policy).

    Example:
        Values (0.5, 0.25, 1) from a root of 0.25 give (0.25, -0.25, 0.75).
    """
    steps = torch.arange(value.shape[-1], device=value.device)
    latest = torch.where(mask, steps, -1).cummax(-1).values  # the last step that exists, up to and with this one
    before = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], dim=-1)
    kept = torch.where(mask, value, 0)
    previous = torch.where(before >= 0, kept.gather(-1, before.clamp(min=0)), root_value[:, None])
    return torch.where(mask, kept - previous, 0)
