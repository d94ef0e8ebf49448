"""Outputs that begin with the choice of a strategy: the choice is a few tokens among hundreds, and is weighed apart."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.arguments import check_not_negative, masked_mean
from plaudit.objectives.catalogue import objective


@objective(
    paper="SMART 2024, arXiv 2410.16128",
    feedback="verdict",
    signal="advantage",
    data="either",
    reference=False,
    modalities=("text",),
)
def strategy_likelihood(
    token_log_prob: Float[Tensor, "N T"],
    strategy_mask: Bool[Tensor, "N T"],
    solution_mask: Bool[Tensor, "N T"],
    advantage: Float[Tensor, " N"] | None = None,
    *,
    strategy_weight: float = 1.0,
) -> Float[Tensor, " N"]:
    r"""``L = -A (λ · mean log π(σ|x) + mean log π(y|x, σ))``: strategy and solution, each normalised by its own length.

    Without an advantage it is the imitation of first successful attempts, told as if they had been the first.

    Args:
        token_log_prob: log-probability of each token of an output.
        strategy_mask: True for the tokens that name the strategy.
        solution_mask: True for the tokens of the solution.
        advantage: A of each output, such as the verdict less the mean over the attempts on the question; a constant. None is 1.
        strategy_weight: λ >= 0; raising it learns the choice faster than the solving.

    Returns:
        The loss of each output; a part without tokens counts 0.

    Raises:
        ValueError: `strategy_weight` is negative.

    Reference:
        SMART, arXiv 2410.16128, fits the summed log-likelihood of the first success (its method section could not be read);
        splitting and normalising the parts is ours.

    Example:
        One strategy token of probability 1/2, two solution tokens of 1/4, λ = 3: ``3 log 2 + 2 log 2 = 5 log 2``.
    """
    check_not_negative("strategy_weight", strategy_weight)
    strategy, solution = (masked_mean(token_log_prob, part) for part in (strategy_mask, solution_mask))
    loss = -(strategy_weight * strategy + solution)
    return loss if advantage is None else advantage.detach() * loss
