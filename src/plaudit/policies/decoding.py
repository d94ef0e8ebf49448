"""Sampling one token after another: a prompt is prefilled once for all its samples, and finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from plaudit.policies.base import Sampling
from plaudit.policies.encoding import TokenIds
from plaudit.policies.prefix_cache import PrefixCache
from plaudit.policies.scoring import TokenScorer


def sampled_distribution(logits: Float[Tensor, "N V"], sampling: Sampling) -> Float[Tensor, "N V"]:
    """Log-probabilities of the distribution that is really sampled from: after temperature, top-k and top-p, renormalised.

    Tokens that are cut have log-probability -inf. At temperature 0 the likeliest token has log-probability 0.
    """
    if sampling.temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    log_prob = torch.log_softmax(logits.float() / sampling.temperature, -1)
    if sampling.top_k is not None and sampling.top_k < log_prob.shape[-1]:
        values, kept = log_prob.topk(sampling.top_k, -1)  # k of them also where several are equally likely
        log_prob = torch.full_like(log_prob, -torch.inf).scatter(-1, kept, torch.log_softmax(values, -1))
    if sampling.top_p < 1:
        ordered, order = log_prob.sort(-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        cut = torch.zeros_like(ordered, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        log_prob = torch.log_softmax(log_prob.masked_fill(cut, -torch.inf), -1)
    return log_prob


def draw(log_prob: Float[Tensor, "N V"], generator: torch.Generator) -> Int[Tensor, "N 1"]:
    """One token per row by inverting the cumulative distribution at one uniform number per row.

    `torch.multinomial` draws one exponential per token of the vocabulary, which costs more than a small model's forward.
    A token of probability 0 is never drawn: its cumulative value equals its predecessor's, and where a GPU's parallel sum
    rounds it up nevertheless, the likeliest token stands in.
    """
    cumulative = log_prob.exp().cumsum(-1)
    uniform = torch.rand(len(log_prob), 1, generator=generator, dtype=torch.float64).to(cumulative)
    total = cumulative[:, -1:]
    target = (uniform * total).clamp(max=torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, target, right=True)
    impossible = log_prob.gather(-1, drawn) == -torch.inf
    if bool(impossible.any()):
        drawn = torch.where(impossible, log_prob.argmax(-1, keepdim=True), drawn)
    return drawn.cpu()


@torch.inference_mode()
def sample_tokens(
    scorer: TokenScorer,
    contexts: Rows[TokenIds],
    n: int,
    *,
    sampling: Sampling,
    stop_ids: frozenset[int],
    generator: torch.Generator,
    device: torch.device,
    packs: bool = False,
) -> list[tuple[TokenIds, tuple[float, ...]]]:
    """Sample n continuations of each context; returns (token ids, log-probabilities), context by context.

    `packs` says that the scorer's trunk attends over trees, see `plaudit.policies.packing`.
    """
    rows = len(contexts) * n
    tokens: list[list[int]] = [[] for _ in range(rows)]
    log_probs: list[list[float]] = [[] for _ in range(rows)]
    alive = torch.arange(rows)
    decode: _Decoder | _PackedDecoder
    if packs:
        decode = _PackedDecoder(scorer, contexts, n, device, capacity=sampling.max_new_tokens)
    else:
        decode = _Decoder(scorer, contexts, n, device)
    for step, distribution in enumerate(decode):
        log_prob = sampled_distribution(distribution, sampling)
        drawn = draw(log_prob, generator)
        values = log_prob.gather(-1, drawn.to(device)).squeeze(-1).tolist()
        chosen = drawn.squeeze(-1).tolist()
        for row, token, value in zip(alive.tolist(), chosen, values, strict=True):
            tokens[row].append(token)
            log_probs[row].append(value)
        going = torch.tensor([index for index, token in enumerate(chosen) if token not in stop_ids], dtype=torch.long)
        alive = alive[going]
        if len(alive) == 0 or step + 1 == sampling.max_new_tokens:
            break
        decode.advance(drawn[going], going)
    return [(tuple(ids), tuple(values)) for ids, values in zip(tokens, log_probs, strict=True)]


class _PackedDecoder:
    """Prompts read once each, and the rows still alive. Iterating gives the next token's logits, [alive, V]."""

    def __init__(
        self, scorer: TokenScorer, contexts: Rows[TokenIds], n: int, device: torch.device, *, capacity: int
    ) -> None:
        self.scorer = scorer
        rows = [prompt for prompt in range(len(contexts)) for _ in range(n)]
        self.cache = PrefixCache(list(contexts), rows, capacity, device=device)
        self.alive = torch.arange(len(rows))
        self.next_ids: Int[Tensor, " N"] = torch.zeros(len(rows), dtype=torch.long)

    def __iter__(self) -> Iterator[Float[Tensor, "N V"]]:
        yield self.scorer.packed_logits(self.cache.inputs, self.cache.ends)
        while True:
            yield self.scorer.packed_logits(self.cache.next_inputs(self.next_ids), self.alive.to(self.cache.device))

    def advance(self, drawn: Int[Tensor, "N 1"], going: Int[Tensor, " N"]) -> None:
        """Append the drawn tokens of the rows that go on. Others stay in the cache until they are an eighth of it."""
        self.alive = self.alive[going]
        if len(self.alive) < 7 / 8 * self.cache.rows:
            self.cache.keep(self.alive)
            self.alive = torch.arange(len(self.alive))
        self.next_ids = torch.zeros(self.cache.rows, dtype=torch.long)
        self.next_ids[self.alive] = drawn.squeeze(-1)


class _Decoder:
    """The same for a trunk that cannot be told about trees, with the model's own cache."""

    def __init__(self, scorer: TokenScorer, contexts: Rows[TokenIds], n: int, device: torch.device) -> None:
        self.scorer, self.device, self.n = scorer, device, n
        length = max(len(context) for context in contexts)
        ids = torch.zeros(len(contexts), length, dtype=torch.long)
        self.attention_mask = torch.zeros_like(ids)
        for row, context in enumerate(contexts):  # padded on the left, so that every row continues in the same column
            ids[row, length - len(context) :] = torch.tensor(context)
            self.attention_mask[row, length - len(context) :] = 1
        self.next_ids: Int[Tensor, "N S"] = ids
        self.cache: Any = None

    def __iter__(self) -> Iterator[Float[Tensor, "N V"]]:
        prompt_positions = (self.attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(prompt_positions)
        if self.n > 1:
            self.cache.batch_repeat_interleave(self.n)
            self.attention_mask = self.attention_mask.repeat_interleave(self.n, 0)
        yield logits.repeat_interleave(self.n, 0)
        while True:
            yield self._forward(self.attention_mask.sum(-1, keepdim=True) - 1)

    def advance(self, drawn: Int[Tensor, "N 1"], going: Int[Tensor, " N"]) -> None:
        """Append the drawn tokens of the rows that go on, and drop the others."""
        if len(going) < len(self.attention_mask):
            self.cache.batch_select_indices(going.to(self.device))
            self.attention_mask = self.attention_mask[going]
        self.attention_mask = torch.nn.functional.pad(self.attention_mask, (0, 1), value=1)
        self.next_ids = drawn

    def _forward(self, positions: Tensor) -> Float[Tensor, "N V"]:
        logits, self.cache = self.scorer.next_logits(
            self.next_ids.to(self.device), self.attention_mask.to(self.device), positions.to(self.device), self.cache
        )
        return logits
