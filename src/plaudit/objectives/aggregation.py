"""From one value per token to one value per example, with the weight that the example has in a batch's mean."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_choice, check_positive

Aggregation = Literal["token-mean", "sequence-mean", "sequence-sum"] | float


def aggregate(
    per_token: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], how: Aggregation
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Aggregate token values into (value, weight) per example; a batch's loss is ``sum(weight * value) / sum(weight)``.

    ========================  =========================  ===============  ====================================
    `how`                     value of example i         weight           the batch's loss is the mean over
    ========================  =========================  ===============  ====================================
    ``"token-mean"``          mean over its tokens       number of tokens  all tokens of the batch
    ``"sequence-mean"``       mean over its tokens       1                the examples, long or short
    ``"sequence-sum"``        sum over its tokens        1                the examples, long ones counting more
    a number c > 0            sum over its tokens / c    1                the examples, long ones counting more
    ========================  =========================  ===============  ====================================

    verl calls them token-mean, seq-mean-token-mean, seq-mean-token-sum and seq-mean-token-sum-norm; DAPO's loss is the first,
    GRPO's the second, Dr. GRPO's the last, with c the longest output allowed.

    Keeping the weight apart from the value makes the loss independent of how a batch is cut into micro-batches and
    spread over processes: the division by ``sum(weight)`` happens once, in `plaudit.training`.

    Args:
        per_token: a value per token; what `mask` excludes may hold anything, NaN included.
        mask: True where a token counts. An example without tokens gets value 0 and, where the weight would be 1, weight 0.
        how: one of the aggregations above.

    Returns:
        The values and the weights, in float32 at least; gradients flow through the values only.

    Raises:
        ValueError: `how` is none of the above.

    Example:
        Two examples with token losses (1, 3) and (5): ``"token-mean"`` gives values (2, 5), weights (2, 1), loss 3;
        ``"sequence-mean"`` the same values, weights (1, 1), loss 3.5; ``"sequence-sum"`` values (4, 5), loss 4.5.
    """
    if isinstance(how, str):
        check_choice("aggregation", how, ("token-mean", "sequence-mean", "sequence-sum"))
    else:
        check_positive("aggregation", how)
    dtype = torch.promote_types(per_token.dtype, torch.float32)
    total = torch.where(mask, per_token, 0).sum(-1, dtype=dtype)
    count = mask.sum(-1).to(dtype)
    present = (count > 0).to(dtype)
    if not isinstance(how, str):
        return total / how, present
    if how == "sequence-sum":
        return total, present
    mean = total / count.clamp(min=1)
    return mean, count if how == "token-mean" else present
