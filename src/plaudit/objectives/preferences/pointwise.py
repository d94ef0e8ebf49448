"""Objectives on single outputs that people called good or bad, none compared with another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive, masked_mean
from plaudit.objectives.catalogue import objective


@objective(
    paper="Ethayarajh et al. 2024, arXiv 2402.01306",
    feedback="reaction",
    signal="label",
    data="off-policy",
    reference=True,
)
def kto(
    log_ratio: Float[Tensor, " N"],
    desirable: Bool[Tensor, " N"],
    baseline: Float[Tensor, ""],
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " N"]:
    r"""Kahneman-Tversky optimisation: gains and losses against a reference point, each with falling sensitivity.

    ``L = λ_D (1 - σ(β (u - z0)))`` of a desirable output and ``λ_U (1 - σ(β (z0 - u)))`` of an undesirable one.

    Args:
        log_ratio: u of each output, summed over its steps.
        desirable: True where the output was called good.
        baseline: ``z0``, one number for the batch, `kto_baseline`; no gradient.
        beta: > 0, strength of the pull to the reference (and the aversion to risk); outputs a few ``1 / β`` away from the
            baseline have no say any more.
        desirable_weight: ``λ_D >= 0``, weight of good outputs; see `kto_weights` for unequal numbers of good and bad ones.
        undesirable_weight: ``λ_U >= 0``, weight of bad outputs.

    Returns:
        The loss of each output, between 0 and its weight; half its weight where the policy is the reference and ``z0`` is 0.

    Raises:
        ValueError: beta or a weight outside its range.

    Reference:
        Ethayarajh et al., "KTO: model alignment as prospect theoretic optimization", arXiv 2402.01306, equation 7, which
        writes ``λ - v``. TRL's KTOTrainer; with a baseline of 0 its ``loss_type="apo_zero_unpaired"``.

    Example:
        ``u - z0 = log 3`` at β = 1: 0.25 of a desirable output, 0.75 of an undesirable one.
    """
    check_positive("beta", beta)
    check_not_negative("desirable_weight", desirable_weight)
    check_not_negative("undesirable_weight", undesirable_weight)
    shortfall = beta * (baseline.detach() - log_ratio)
    gain = desirable_weight * torch.sigmoid(shortfall)
    return torch.where(desirable, gain, undesirable_weight * torch.sigmoid(-shortfall))


@objective(
    role="statistic",
    paper="Ethayarajh et al. 2024, arXiv 2402.01306",
    feedback="none",
    signal="none",
    data="off-policy",
    reference=True,
)
def kto_baseline(
    log_ratio_mismatched: Float[Tensor, " N"], mask: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, ""]:
    r"""KTO's reference point: an estimate of ``KL(π || π_ref)`` from outputs under contexts that they do not answer.

    ``z0 = max(0, mean of log π(y_j|x_i) - log π_ref(y_j|x_i))`` with ``j != i``: take each context with the output of the one
    before, the first with the last. Such a rotation by one pairs no context with its own output in a batch of at least two;
    reversing the batch does, in the middle of an odd one (TRL's issue 1911, mended since).

    Args:
        log_ratio_mismatched: log-ratio of output i - 1 under context i, summed over its steps. TRL takes the batch of one
            step on one device; a larger batch makes it less noisy.
        mask: True where it counts; None is everywhere.

    Returns:
        One number >= 0, in float32 at least and without a gradient; 0 where nothing counts.

    Raises:
        ValueError: the batch is empty.

    Reference:
        Ethayarajh et al., "KTO", arXiv 2402.01306 (a biased estimate, made cheap on purpose). TRL's
        KTOTrainer rotates as above and averages over the devices before it cuts at 0; the authors' HALOs rotate the other
        way round.

    Example:
        Log-ratios (1, 2, -0.5) give 0.8333; (-1, -2) give 0.
    """
    check_group("log_ratio_mismatched", log_ratio_mismatched, at_least=1)
    return masked_mean(log_ratio_mismatched, mask).clamp(min=0).detach()


class KtoWeights(NamedTuple):
    """Weights of desirable and undesirable outputs, for `kto`."""

    desirable_weight: float
    undesirable_weight: float


def kto_weights(desirable_count: int, undesirable_count: int, *, ratio: float = 1.0) -> KtoWeights:
    """Weights with ``λ_D n_D / (λ_U n_U) = ratio``, so that neither kind of output outweighs the other by its number.

    Args:
        desirable_count: ``n_D >= 1``, how many good outputs there are in the data.
        undesirable_count: ``n_U >= 1``, how many bad ones.
        ratio: in [1, 4/3], the paper's range; above 1, gains count a little more than losses.

    Returns:
        The two weights; the smaller is 1.

    Raises:
        ValueError: a count below 1, or a ratio out of range.

    Reference:
        Ethayarajh et al., "KTO", arXiv 2402.01306, equation 8. TRL recommends the same range in a warning, with 1.33.

    Example:
        1 good output to 10 bad ones: weights 10 and 1; with ratio 4/3, 13.33 and 1.
    """
    for name, count in (("desirable_count", desirable_count), ("undesirable_count", undesirable_count)):
        if count < 1:
            raise ValueError(f"{name}: expected a number >= 1, got {count}")
    if not 1 <= ratio <= 4 / 3:
        raise ValueError(f"ratio: expected a number in [1, 4/3], got {ratio}")
    quotient = ratio * undesirable_count / desirable_count
    return KtoWeights(max(quotient, 1.0), max(1 / quotient, 1.0))


@objective(
    paper="Jung et al. 2024, arXiv 2404.04656",
    feedback="reaction",
    signal="label",
    data="off-policy",
    reference=True,
)
def bco(
    log_ratio: Float[Tensor, " N"],
    desirable: Bool[Tensor, " N"],
    shift: Float[Tensor, ""],
    *,
    beta: float,
) -> Float[Tensor, " N"]:
    r"""Binary classifier optimisation: the implicit reward is the logit that an output is good.

    ``L = -log σ(β u - δ)`` of a desirable output and ``-log σ(-(β u - δ))`` of an undesirable one.

    Args:
        log_ratio: u of each output, summed over its steps.
        desirable: True where the output was called good.
        shift: δ, one number in units of ``β u``; no gradient. See `running_reward`.
        beta: > 0, strength of the pull to the reference.

    Returns:
        The loss of each output, > 0; ``log 2`` where its reward is δ.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Jung et al., "Binary classifier optimization for large language model alignment", arXiv 2404.04656: on a pair the two
        losses add up to an upper bound of `dpo` for any δ (theorem 1), and the paper's δ makes it tight. TRL had it as
        BCOTrainer, in which the losses of bad outputs could carry a further weight by their contexts' density.

    Example:
        ``β u = 1`` and δ = 0: 0.3133 of a desirable output, 1.3133 of an undesirable one.
    """
    check_positive("beta", beta)
    logit = beta * log_ratio - shift.detach()
    return -logsigmoid(torch.where(desirable, logit, -logit))


class RunningMean(NamedTuple):
    """A mean over all values so far, and of how many it is."""

    mean: Float[Tensor, ""]
    seen: Float[Tensor, ""]


@objective(
    role="statistic",
    paper="Jung et al. 2024, arXiv 2404.04656",
    feedback="none",
    signal="none",
    data="off-policy",
    reference=True,
)
def running_reward(
    log_ratio: Float[Tensor, " N"],
    mean: Float[Tensor, ""],
    seen: Float[Tensor, ""],
    *,
    beta: float,
    mask: Bool[Tensor, " N"] | None = None,
) -> RunningMean:
    r"""The mean implicit reward ``β u`` over all batches so far, of which `bco`'s shift is made.

    The paper's shift is the mean of two such means, ``δ = (mean of the desirable + mean of the undesirable) / 2``: keep one
    with ``mask=desirable`` and one with ``mask=~desirable``. TRL's BCOTrainer kept one over both kinds, in which the more
    frequent kind has more say.

    Args:
        log_ratio: u of this batch's outputs, summed over their steps.
        mean: the mean so far; 0 at the start.
        seen: of how many values; 0 at the start.
        beta: > 0, as in `bco`.
        mask: True where an output counts; None is everywhere.

    Returns:
        The new mean and the number of values that it is of, in float32 at least and without a gradient.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Jung et al., "Binary classifier optimization", arXiv 2404.04656, on the reward shift (whether the paper forgets old
        batches was not found; here none is forgotten, as in TRL).

    Example:
        Rewards (1, 3) after a mean of 5 over 2: ``(5 * 2 + 4) / 4 = 3.5`` over 4.
    """
    check_positive("beta", beta)
    mask = torch.ones_like(log_ratio, dtype=torch.bool) if mask is None else mask
    batch_mean = beta * masked_mean(log_ratio, mask)
    batch_count = mask.sum().to(batch_mean.dtype)
    total = seen + batch_count
    new_mean = mean + (batch_mean - mean) * batch_count / total.clamp(min=1)
    return RunningMean(new_mean.detach(), total.detach())
