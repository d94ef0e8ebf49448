"""Objectives that need no feedback: what makes a small judge of images, videos or texts learn from unlabelled material."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.arguments import check_group, check_not_negative
from plaudit.objectives.catalogue import objective


@objective(
    paper="Tong et al. 2022, arXiv 2203.12602; He et al. 2021, arXiv 2111.06377",
    feedback="none",
    signal="none",
    data="off-policy",
    reference=False,
    modalities=("images",),
)
def masked_reconstruction(
    prediction: Float[Tensor, "N T P"],
    target: Float[Tensor, "N T P"],
    mask: Bool[Tensor, "N T"],
    *,
    normalise: bool = True,
    epsilon: float = 1e-6,
    aggregation: Aggregation = "token-mean",
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    r"""Masked autoencoder's loss: ``(1/P) |x̂_t - (x_t - mean x_t) / (sd x_t + ε)|²`` on the patches that were hidden.

    Args:
        prediction: ``x̂_t``, the P reconstructed values of each patch (or tubelet).
        target: ``x_t``, its true values; constant.
        mask: True for the patches that the encoder did not see; only they count.
        normalise: False predicts the raw values, without mean and standard deviation.
        epsilon: ε >= 0 beside the standard deviation, so that a flat patch has target 0.
        aggregation: see `plaudit.objectives.aggregation.aggregate`; the default is the mean over all hidden patches.

    Returns:
        (value, weight) per example; the batch's loss is ``sum(weight * value) / sum(weight)``.

    Raises:
        ValueError: ε is negative, an unknown aggregation, or patches of a single value, which cannot be normalised.

    Reference:
        Tong et al., "VideoMAE", arXiv 2203.12602; used on surgical video by arXiv 2411.10919. transformers'
        ``VideoMAEForPreTraining`` has the unbiased standard deviation plus ε = 1e-6, per channel of a tubelet; give it the
        channels as patches of their own, or flatten them. He et al.'s MAE (arXiv 2111.06377) has ``sqrt(variance + 1e-6)``.

    Example:
        Target (1, 3) has mean 2 and standard deviation √2; a prediction of 0 costs 1/2.
    """
    check_not_negative("epsilon", epsilon)
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    hidden = mask[..., None]
    aim = torch.where(hidden, target.detach(), 0).to(dtype)
    if normalise:
        check_group("target", target, at_least=2)
        centred = aim - aim.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (target.shape[-1] - 1)
        deviation = variance.sqrt() + epsilon
        aim = centred / torch.where(deviation > 0, deviation, 1)
    error = torch.where(hidden, prediction, 0).to(dtype) - aim
    return aggregate(error.square().mean(-1), mask, aggregation)
