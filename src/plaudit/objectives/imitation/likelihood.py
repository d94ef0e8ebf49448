"""Objectives that raise the likelihood of given outputs."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.catalogue import objective


@objective(paper="maximum likelihood", feedback="demonstration", signal="none", data="off-policy", reference=False)
def negative_log_likelihood(
    token_log_prob: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, aggregation: Aggregation = "token-mean"
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Supervised fine-tuning's loss, ``-log π(y_t | x, y_<t)``, aggregated over the tokens of each output.

    Args:
        token_log_prob: log-probability of each token of the output, nats, <= 0.
        mask: True for the tokens to imitate; turns that the model did not write are False.
        aggregation: see `plaudit.objectives.aggregation.aggregate`. The default is what transformers and TRL use when
            gradient accumulation is accounted for.

    Returns:
        (value, weight) per example; the batch's loss is ``sum(weight * value) / sum(weight)``.

    Reference:
        transformers' ``ForCausalLMLoss`` with ``num_items_in_batch`` is ``"token-mean"``.

    Example:
        Token probabilities (1/2, 1/8) give the value ``(log 2 + 3 log 2) / 2 = 2 log 2`` with weight 2.
    """
    return aggregate(-token_log_prob, mask, aggregation)
