"""What every policy of token sequences gives and takes: log-probabilities per step, sampling settings, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LogProb:
    """Log-probabilities of N outputs, one per step, in nats; positions outside `mask` mean nothing and may hold anything.

    `entropy` is that of the distribution at each step, where it was asked for; `divergence` is KL(reference || policy) there,
    over all tokens of the vocabulary.
    """

    per_step: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    entropy: Float[Tensor, "N T"] | None = None
    divergence: Float[Tensor, "N T"] | None = None

    def sum(self) -> Float[Tensor, " N"]:
        """``log π(y|x)``, the sum over the steps that count."""
        return torch.where(self.mask, self.per_step, 0).sum(-1)

    @property
    def lengths(self) -> Tensor:
        """Number of steps that count, per output."""
        return self.mask.sum(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How outputs are sampled.

    In this order: `repetition_penalty` divides the positive and multiplies the negative logits of tokens that the context or
    the output holds already; `temperature` divides the logits (0 takes the most likely token); `top_k` and `top_p` keep the k
    likeliest tokens and the smallest set of tokens with probability `top_p`; `min_p` keeps the tokens with at least that share
    of the likeliest one's probability. An output ends with a token that ends a turn, with the first of the `stop` strings
    (which its text then lacks, its tokens do not), or after `max_new_tokens`.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, good, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "a whole number >= 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "a number >= 0"),
            ("top_p", 0 < self.top_p <= 1, "a number in (0, 1]"),
            ("top_k", self.top_k is None or self.top_k >= 1, "a whole number >= 1, or nothing for all tokens"),
            ("min_p", 0 <= self.min_p < 1, "a number in [0, 1)"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a number > 0"),
            ("stop", isinstance(self.stop, tuple) and all(self.stop), "a tuple of strings, none of them empty"),
        ):
            if not good:
                raise ConfigError(f"{field}: expected {expected}, got {getattr(self, field)!r}")

    def settings(self) -> dict[str, Any]:
        """The settings as a feedback record's producer stores them; those that change nothing are left out."""
        idle = {"top_k": None, "min_p": 0.0, "repetition_penalty": 1.0, "stop": ()}
        values = {name: getattr(self, name) for name in self.__slots__}
        changing = {name: value for name, value in values.items() if name not in idle or value != idle[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changing.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled output: the token ids as sampled and their log-probabilities under the distribution sampled from.

    `finished` is False where the output was cut at the length limit; a finished output ends with its stop token.
    """

    token_ids: tuple[int, ...]
    text: str
    log_prob: tuple[float, ...]
    finished: bool


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches of at most `size`, alike in length, longest first, so that little is padded and memory peaks early."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + size] for start in range(0, len(order), size)]


def by_context(contexts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices in batches of at most `size`, sequences of one context side by side, so that packing computes it once."""
    order = sorted(range(len(contexts)), key=lambda index: tuple(contexts[index]))
    return [order[start : start + size] for start in range(0, len(order), size)]
