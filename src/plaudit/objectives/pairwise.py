"""Objectives on pairs: one output is preferred to another."""

from __future__ import annotations

from jaxtyping import Float
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
