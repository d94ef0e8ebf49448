"""DPO that is told the outputs' lengths, so that a policy does not please by length alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from plaudit.objectives.arguments import check_not_negative, check_positive, check_share
from plaudit.objectives.catalogue import objective
from plaudit.objectives.preferences.pairwise import dpo, per_step


@objective(
    paper="Lambert et al. 2024, arXiv 2411.15124",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def length_normalised_dpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    length_chosen: Int[Tensor, " B"],
    length_rejected: Int[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    r"""DPO on log-ratios per step: ``L = -log σ(β u_w / n_w - β u_l / n_l)``.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        length_chosen: ``n_w``, its number of steps; 0 counts as 1.
        length_rejected: ``n_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference per step; some hundred times that of `dpo` asks for the same gap.

    Returns:
        The loss of each pair, >= 0; ``log 2`` where the policy is the reference.

    Raises:
        ValueError: beta is not positive.

    Reference:
        Lambert et al., "Tülu 3: pushing frontiers in open language model post-training", arXiv 2411.15124
        (from SimPO's normalisation, arXiv 2405.14734). TRL's ``loss_type="sigmoid_norm"``.

    Example:
        Log-ratios 4 and -2 with lengths 8 and 4 at β = 1: ``-log σ(0.5 + 0.5) = 0.3133``.
    """
    return dpo(per_step(log_ratio_chosen, length_chosen), per_step(log_ratio_rejected, length_rejected), beta=beta)


@objective(
    paper="Park et al. 2024, arXiv 2403.19159",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def length_regularised_dpo(
    log_ratio_chosen: Float[Tensor, " B"],
    log_ratio_rejected: Float[Tensor, " B"],
    length_chosen: Int[Tensor, " B"],
    length_rejected: Int[Tensor, " B"],
    *,
    beta: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    r"""DPO for a reward of which each step costs α (R-DPO): ``L = -log σ(β (u_w - u_l) + α (n_w - n_l))``.

    If the best policy is the reference times ``exp((r - α n) / β)``, its reward is ``r = β u + α n`` and a constant: the
    loss is that reward's Bradley-Terry likelihood. A longer preferred output is explained by its length already, and
    pushed less; a shorter one more.

    Args:
        log_ratio_chosen: ``u_w``, log-ratio of the preferred output, summed over its steps.
        log_ratio_rejected: ``u_l``, the same of the other output.
        length_chosen: ``n_w``, its number of steps.
        length_rejected: ``n_l``, the same of the other output.
        beta: > 0, strength of the pull to the reference.
        alpha: α >= 0, cost of a step in units of reward; 0 is `dpo`. Raising it makes outputs shorter.

    Returns:
        The loss of each pair, >= 0.

    Raises:
        ValueError: beta or alpha outside its range.

    Reference:
        Park et al., "Disentangling length from quality in direct preference optimization", arXiv 2403.19159
        (R-DPO). Not in TRL.

    Example:
        Log-ratios 1 and 0 at β = 1, lengths 3 and 5 at α = 0.5: ``-log σ(1 - 1) = log 2``.
    """
    check_positive("beta", beta)
    check_not_negative("alpha", alpha)
    difference = log_ratio_chosen - log_ratio_rejected
    longer_by = (length_chosen - length_rejected).to(difference.dtype)
    return -logsigmoid(beta * difference + alpha * longer_by)


@objective(
    paper="Liu et al. 2024, arXiv 2409.06411",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
)
def length_desensitised_dpo(
    token_log_ratio_chosen: Float[Tensor, "B T"],
    token_log_ratio_rejected: Float[Tensor, "B T"],
    mask_chosen: Bool[Tensor, "B T"],
    mask_rejected: Bool[Tensor, "B T"],
    *,
    beta: float,
    tail_weight: float,
) -> Float[Tensor, " B"]:
    r"""DPO in which the steps beyond the shorter output's length count less (LD-DPO).

    With ``m`` the length of the shorter one, ``u = sum of the first m steps + α * sum of the others`` on both sides, and
    ``L = -log σ(β (u_w - u_l))``.

    Args:
        token_log_ratio_chosen: log-ratio of each step of the preferred output.
        token_log_ratio_rejected: the same of the other output, padded to the same T.
        mask_chosen: True at the preferred output's own steps; positions are counted among these.
        mask_rejected: the same of the other output.
        beta: > 0, strength of the pull to the reference.
        tail_weight: α in [0, 1]; 1 is `dpo`, 0 leaves the longer output's tail out.

    Returns:
        The loss of each pair, >= 0, in float32 at least; ``log 2`` where an output has no steps and α = 0.

    Raises:
        ValueError: beta or tail_weight outside its range.

    Reference:
        Liu et al., "Length desensitization in direct preference optimization", arXiv 2409.06411. TRL's
        ``ld_alpha`` weighs log-probabilities before it subtracts the reference's, which is the same.

    Example:
        Steps (1, 1, 1) against (1) at β = 1: α = 1 gives ``-log σ(2)``, α = 0.5 ``-log σ(1)``, α = 0 ``log 2``.
    """
    check_share("tail_weight", tail_weight)
    shared = torch.minimum(mask_chosen.sum(-1), mask_rejected.sum(-1))
    dtype = torch.promote_types(token_log_ratio_chosen.dtype, torch.float32)

    def weighted_sum(token_log_ratio: Tensor, mask: Tensor) -> Tensor:
        beyond = mask.cumsum(-1) > shared[:, None]
        log_ratio = torch.where(mask, token_log_ratio, 0)
        return torch.where(beyond, tail_weight * log_ratio, log_ratio).sum(-1, dtype=dtype)

    chosen = weighted_sum(token_log_ratio_chosen, mask_chosen)
    return dpo(chosen, weighted_sum(token_log_ratio_rejected, mask_rejected), beta=beta)
