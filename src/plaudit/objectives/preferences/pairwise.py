"""Objectives on pairs: one output is preferred to another, and the loss reads the difference of their log-ratios."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_positive, check_share
from plaudit.objectives.catalogue import objective


@objective(
    paper="Rafailov et al. 2023, arXiv 2305.18290",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def dpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    r"""Direct preference optimisation: logistic loss on the difference of implicit rewards.

    ``L = -(1 - ε) log σ(h) - ε log σ(-h)`` with ``h = β (log-ratio of chosen - log-ratio of rejected)``.

    Args:
        log_ratio_chosen: ``log π(y_w|x) - log π_ref(y_w|x)`` of the preferred output, summed over its steps.
        log_ratio_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference; raising it keeps the policy nearer to the reference.
        label_smoothing: ε in [0, 0.5), the assumed share of wrong labels (conservative DPO); 0 is the paper's loss.

    Returns:
        The loss of each pair, >= 0; ``log 2`` where the policy is the reference.

    Raises:
        ValueError: beta or label_smoothing outside its range.

    Reference:
        Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290, equation 7. The smoothing is Mitchell's
        "A note on DPO with noisy preferences", equation 3. TRL's ``loss_type="sigmoid"`` is the paper's.

    Example:
        Log-ratios 1 and -1 at β = 0.5 give ``h = 1`` and ``L = log(1 + e^-1) = 0.3133``.
    """
    check_positive("beta", beta)
    check_share("label_smoothing", label_smoothing, below=0.5)
    h = beta * (log_ratio_chosen - log_ratio_rejected)
    if label_smoothing == 0:
        return -logsigmoid(h)
    return -(1 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)


@objective(
    paper="Chowdhury et al. 2024, arXiv 2403.00409",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def robust_dpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    flip_share: float,
) -> Float[Tensor, " B"]:
    r"""DPO on noisy labels: an unbiased estimate of the loss that the clean labels would give.

    ``L = [(1 - ε) l(h) - ε l(-h)] / (1 - 2ε)`` with ``l(h) = -log σ(h)`` and ``h`` as in `dpo`. If a share ε of the labels
    is flipped at random, ``(1 - ε) L(h) + ε L(-h) = l(h)``.

    Args:
        log_ratio_chosen: log-ratio of the output that the label prefers, summed over its steps.
        log_ratio_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference.
        flip_share: ε in [0, 0.5), the share of flipped labels; 0 is `dpo`. Raising it corrects more and adds variance.

    Returns:
        The loss of each pair. It may be negative, and has no minimum where ε > 0: it falls as ``-ε h / (1 - 2ε)``.

    Raises:
        ValueError: beta or flip_share outside its range.

    Reference:
        Chowdhury, Kini and Natarajan, "Provably robust DPO: aligning language models with noisy feedback", arXiv 2403.00409.
        TRL's ``loss_type="robust"`` with ``label_smoothing`` = ε. Conservative DPO (`dpo` with label_smoothing)
        has the opposite sign before ε and is biased.

    Example:
        ``h = 0`` gives ``log 2`` for every ε; ``h = 1`` and ε = 0.25, ``(0.75 * 0.3133 - 0.25 * 1.3133) / 0.5 = -0.1867``.
    """
    check_positive("beta", beta)
    check_share("flip_share", flip_share, below=0.5)
    h = beta * (log_ratio_chosen - log_ratio_rejected)
    return (flip_share * logsigmoid(-h) - (1 - flip_share) * logsigmoid(h)) / (1 - 2 * flip_share)


@objective(
    paper="Azar et al. 2023, arXiv 2310.12036",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def ipo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    length_chosen: Int[Tensor, " B"] | None = None,
    length_rejected: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Identity preference optimisation: the difference of log-ratios is drawn to a finite gap.

    ``L = (u_w - u_l - 1 / (2β))^2`` with the log-ratios ``u``. Where `dpo` pushes a pair on for ever, IPO stops at
    ``1 / (2β)`` and pulls back beyond it.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference (the paper's τ); raising it makes the gap asked for smaller.
        length_chosen: number of steps of the preferred output. None is the paper's loss; with lengths, each log-ratio is
            divided by its length first (see `per_step`), and the gap asked for is one per step.
        length_rejected: the same of the other output; both or neither.

    Returns:
        The loss of each pair, >= 0; ``1 / (4β^2)`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive, or one length is given without the other.

    Reference:
        Azar et al., "A general theoretical paradigm to understand learning from human preferences", arXiv 2310.12036,
        equation 17. TRL's ``loss_type="ipo"`` always divides by the lengths, which it says is what the authors confirmed;
        OpenRLHF sums.

    Example:
        Log-ratios 1 and -1 at β = 0.5: ``(2 - 1)^2 = 1``; with lengths 2 and 1, ``(0.5 + 1 - 1)^2 = 0.25``.
    """
    check_positive("beta", beta)
    if (length_chosen is None) != (length_rejected is None):
        missing, other = ("length_chosen", "length_rejected")[:: 1 if length_chosen is None else -1]
        raise ValueError(f"{missing}: expected beside {other}, got None")
    if length_chosen is not None and length_rejected is not None:
        log_ratio_chosen = per_step(log_ratio_chosen, length_chosen)
        log_ratio_rejected = per_step(log_ratio_rejected, length_rejected)
    return (log_ratio_chosen - log_ratio_rejected - 1 / (2 * beta)) ** 2


def per_step(log_ratio: Float[Tensor, " B"], length: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """A summed log-ratio as the mean over its steps; an output without steps keeps its sum, which is 0."""
    return log_ratio / length.clamp(min=1)


@objective(
    paper="Zhao et al. 2023, arXiv 2305.10425; Liu et al. 2023, arXiv 2309.06657",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def hinge(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""Hinge loss on the difference of implicit rewards: ``L = max(0, 1 - β (u_w - u_l))``.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference; raising it makes a smaller gap, ``1 / β``, do.

    Returns:
        The loss of each pair, >= 0; 0, and without a gradient, where the gap is beyond ``1 / β``.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Liu et al., "Statistical rejection sampling improves preference optimization", arXiv 2309.06657, its hinge-norm
        loss: SLiC's hinge (arXiv 2305.10425, see `slic_hf`) on log-ratios in place of log-probabilities. TRL's
        ``loss_type="hinge"``.

    Example:
        Log-ratios 1 and 0 at β = 0.25: ``1 - 0.25 = 0.75``; at β = 1 or more, 0.
    """
    check_positive("beta", beta)
    return torch.relu(1 - beta * (log_ratio_chosen - log_ratio_rejected))


@objective(
    paper="Ji et al. 2024, arXiv 2402.00856",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def exo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 1e-3,
) -> Float[Tensor, " B"]:
    r"""Efficient exact optimisation on a pair: reverse KL from the policy's preference to the label's.

    ``L = KL(q || p) = q_w log(q_w / (1 - ε)) + q_l log(q_l / ε)`` with ``q_w = σ(h)``, ``q_l = σ(-h)`` and ``h`` as in
    `dpo`. Smoothed DPO is the forward ``KL(p || q)`` up to a constant: it spreads over both outputs where EXO settles.

    Args:
        log_ratio_chosen: log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference (the paper's ``β_π``).
        label_smoothing: ε in (0, 0.5), probability that the label is wrong. It cannot be 0: the divergence to a sure label
            is infinite. Raising it makes a smaller gap, ``log((1 - ε) / ε) / β``, the best one.

    Returns:
        The loss of each pair, >= 0; 0 at the best gap.

    Raises:
        ValueError: beta or label_smoothing outside its range.

    Reference:
        Ji et al., "Towards efficient exact optimization of language model alignment", arXiv 2402.00856, equation 16 with
        K = 2. TRL's ``loss_type="exo_pair"``, which refuses ε = 0 too; 1e-3 is the paper's.

    Example:
        ``h = 0`` and ε = 0.25: ``0.5 log(0.5 / 0.75) + 0.5 log(0.5 / 0.25) = 0.1438``.
    """
    check_positive("beta", beta)
    check_positive("label_smoothing", label_smoothing)
    check_share("label_smoothing", label_smoothing, below=0.5)
    h = beta * (log_ratio_chosen - log_ratio_rejected)
    wins = torch.sigmoid(h) * (logsigmoid(h) - math.log1p(-label_smoothing))
    loses = torch.sigmoid(-h) * (logsigmoid(-h) - math.log(label_smoothing))
    return wins + loses


@objective(
    paper="Lu et al. 2024, arXiv 2406.08414",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def disco_pop(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    tau: float = 0.05,
) -> Float[Tensor, " B"]:
    r"""DiscoPOP: logistic loss on wrong pairs, exponential loss on right ones, blended by how right they are.

    ``L = (1 - σ(h/τ)) l(h) + σ(h/τ) e^{-h}`` with ``l(h) = -log σ(h)`` and ``h`` as in `dpo`. It is not convex: the gate
    makes a bump near ``h = 0``, behind which pairs that are clearly wrong are pushed as by `dpo`.

    Args:
        log_ratio_chosen: log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference.
        tau: τ in (0, 1], width of the gate in units of h; raising it blends more softly. Above 1 the exponential would
            overtake the gate, and the loss of a wrong pair would grow without bound.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: beta or tau outside its range.

    Reference:
        Lu et al., "Discovering preference optimization algorithms with and for large language models", arXiv 2406.08414,
        equation 5 (log-ratio modulated loss). TRL's ``loss_type="discopop"`` multiplies the gate and ``e^{-h}``, which is
        0 times infinity where h is far below 0; here they are multiplied as logarithms.

    Example:
        ``h = 0`` gives ``0.5 log 2 + 0.5 = 0.8466`` for every τ.
    """
    check_positive("tau", tau)
    check_share("tau", tau)
    check_positive("beta", beta)
    h = beta * (log_ratio_chosen - log_ratio_rejected)
    return -torch.sigmoid(-h / tau) * logsigmoid(h) + torch.exp(logsigmoid(h / tau) - h)
