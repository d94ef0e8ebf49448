"""The distribution that a token is really drawn from, and a draw from it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from plaudit.errors import PolicyError
from plaudit.objectives.arguments import widened
from plaudit.policies.base import Sampling

_BLOCK = 256  # tokens whose probabilities are added up at once; a draw finds its block, then its token


def penalise_repetition(logits: Float[Tensor, " V"], seen: Int[Tensor, " S"], penalty: float) -> Float[Tensor, " V"]:
    """Divide the positive logits of tokens that were seen by the penalty, multiply the negative ones.

    Keskar et al. 2019, arXiv 1909.05858, with the sign's case that libraries added to its equation.
    """
    scores = logits[seen]
    return logits.index_put((seen,), torch.where(scores > 0, scores / penalty, scores * penalty))


def sampled_distribution(logits: Float[Tensor, "N V"], sampling: Sampling) -> Float[Tensor, "N V"]:
    """Probabilities of the distribution that is sampled from: after temperature, top-k, top-p and min-p, renormalised.

    In this order, each on what the one before left; a token that is cut has probability 0. At temperature 0 the likeliest
    token has probability 1. min-p (Nguyen et al. 2024, arXiv 2407.01082) cuts tokens with less than that share of the likeliest
    one's probability.
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    scaled = widened(logits) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled.shape[-1]:
        values, kept = scaled.topk(sampling.top_k, -1)  # k of them also where several are equally likely
        probability = torch.zeros_like(scaled).scatter(-1, kept, values.softmax(-1))
    else:
        probability = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probability.sort(-1, descending=True)
        cut = ordered.cumsum(-1) - ordered >= sampling.top_p
        probability = probability.scatter(-1, order, ordered.masked_fill(cut, 0))
        probability = probability / probability.sum(-1, keepdim=True)
    if sampling.min_p > 0:
        floor = sampling.min_p * probability.amax(-1, keepdim=True)
        probability = probability.masked_fill(probability < floor, 0)
        probability = probability / probability.sum(-1, keepdim=True)
    return probability


def draw(probability: Float[Tensor, "N V"], uniform: Float64[Tensor, " N"]) -> Int[Tensor, " N"]:
    """One token per row: the first whose cumulative probability exceeds a uniform number in [0, 1).

    The cumulative sum is taken over blocks, then within one block. A token of probability 0 is never drawn: where rounding
    would, the likeliest token of the block stands in. `torch.multinomial` draws a number for every token of the
    vocabulary, which costs more than a small model's forward pass.

    Raises:
        PolicyError: a probability is not a number, because a logit was not.
    """
    padded = torch.nn.functional.pad(probability, (0, -probability.shape[-1] % _BLOCK))
    blocks = padded.view(len(padded), -1, _BLOCK)
    ends = blocks.sum(-1).cumsum(-1)
    total = ends[:, -1:]
    if not bool(total.isfinite().all()):
        raise PolicyError(
            "The model's logits are not numbers (NaN or infinite), so nothing can be sampled. Its weights may be damaged or "
            "diverged; in float16, try bfloat16 or float32."
        )
    target = (uniform[:, None] * total).to(total).clamp(max=torch.nextafter(total, torch.zeros_like(total)))
    block = torch.searchsorted(ends, target, right=True)
    before = torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)), 0)
    inner = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]]
    place = torch.searchsorted(inner.cumsum(-1), target - before, right=True).clamp(max=_BLOCK - 1)
    impossible = inner.gather(-1, place) == 0
    place = torch.where(impossible, inner.argmax(-1, keepdim=True), place)
    return (block * _BLOCK + place)[:, 0]
