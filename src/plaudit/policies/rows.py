"""Outputs that are being sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.policies.encoding import TokenIds


@dataclass(slots=True, eq=False)
class Row:
    """One output that is being sampled.

    Attributes:
        number: its place among all outputs: the `number % n`-th output of the context `number // n`.
        prompt: the number of its context.
        context: the context's token ids.
        uniform: the row's own source of random numbers, so that no other row has a part in what is drawn.
        token_ids: what was drawn so far.
        log_prob: log-probability of each under the distribution that it was drawn from.
    """

    number: int
    prompt: int
    context: TokenIds
    uniform: np.random.Generator
    token_ids: list[int] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)


# Changes the logits [N, V] of the next token of each row, before the temperature; -inf forbids a token.
LogitsProcessor = Callable[[Rows[Row], Tensor], Tensor]


class AllowedTokens:
    """Constrained decoding: a function of the output so far says which tokens may follow.

    Args:
        allowed: from the token ids of the context and of the output so far to the tokens that may follow; at least one.
    """

    def __init__(self, allowed: Callable[[TokenIds, TokenIds], Iterable[int]]) -> None:
        self._allowed = allowed

    def __call__(self, rows: Rows[Row], logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Forbid all other tokens.

        Raises:
            ValueError: no token may follow.
        """
        kept = torch.full_like(logits, -torch.inf)
        for place, row in enumerate(rows):
            allowed = torch.tensor(list(self._allowed(row.context, tuple(row.token_ids))), dtype=torch.long)
            if not len(allowed):
                raise ValueError(
                    f"allowed: expected at least one token that may follow {row.token_ids}, got none; "
                    "allow a token that ends the output."
                )
            allowed = allowed.to(logits.device)
            kept[place, allowed] = logits[place, allowed]
        return kept


def skip_rows(count: int, generator: torch.Generator) -> None:
    """Leave the generator as if so many rows had been made; another process makes them."""
    torch.randint(2**63 - 1, (count,), generator=generator)


def new_rows(contexts: Rows[TokenIds], n: int, generator: torch.Generator) -> list[Row]:
    """n rows of each context, each with random numbers of its own that the generator seeds, in the order of the contexts."""
    seeds = torch.randint(2**63 - 1, (len(contexts) * n,), generator=generator).tolist()
    return [
        Row(number, number // n, contexts[number // n], np.random.Generator(np.random.Philox(seed)))
        for number, seed in enumerate(seeds)
    ]
