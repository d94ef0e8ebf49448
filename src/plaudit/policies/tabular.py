"""A policy over a few actions, with one logit for each: everything about it is exact."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plaudit.errors import PolicyError
from plaudit.objectives.arguments import check_share
from plaudit.objectives.preferences import geometric_mixture
from plaudit.policies.base import LogProb


class LogitTable(nn.Module):
    """The weights of a tabular policy: a logit [B, A] for each context and action."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.detach().clone())

    def forward(self) -> Float[Tensor, "B A"]:
        """All logits."""
        return self.logits


class Tabular:
    """``π(a|b) = softmax(logits[b])_a`` for B contexts and A actions; contexts and actions are called by their index.

    It is a policy as the others are: it samples and it scores, an output being one step long, and its `scorer` is what the
    training loop trains. What other policies can only estimate (entropy, divergence, mixtures) has a closed form here.

    Raises:
        PolicyError: the logits are no table [B, A] of finite numbers; the message names the entry.
    """

    def __init__(self, logits: Tensor) -> None:
        _expect_table("logits", logits)
        _expect(logits, torch.isfinite(logits), "logits", "a finite number")
        self._table = LogitTable(logits)
        self.scorer: nn.Module = self._table

    @classmethod
    def of(cls, probabilities: Tensor) -> Tabular:
        """The policy with these probabilities [B, A].

        Raises:
            PolicyError: one is not above 0 (a softmax leaves no action out), or a context's do not add up to 1.
        """
        _expect_table("probabilities", probabilities)
        possible = torch.isfinite(probabilities) & (probabilities > 0)
        _expect(probabilities, possible, "probabilities", "a number > 0: a softmax leaves no action out")
        off = (probabilities.sum(-1) - 1).abs()
        if (off > 1e-6).any():
            worst = int(off.argmax())
            total = probabilities[worst].sum().item()
            raise PolicyError(f"probabilities[{worst}]: expected a sum of 1, got {total:g}")
        return cls(probabilities.log())

    @property
    def logits(self) -> nn.Parameter:
        """What is trained, [B, A]."""
        return self._table.logits

    def log_policy(self) -> Float[Tensor, "B A"]:
        """``log π(a|b)`` of all contexts and actions."""
        logits: Tensor = self.scorer()  # through the scorer, which several processes wrap
        return logits.log_softmax(-1)

    def probabilities(self) -> Float[Tensor, "B A"]:
        """``π(a|b)`` of all contexts and actions."""
        return self.log_policy().exp()

    def log_prob(self, contexts: Int[Tensor, " N"], actions: Int[Tensor, " N"]) -> LogProb:
        """Log-probability of N actions in their contexts, one step each."""
        per_step = self.log_policy()[contexts, actions][:, None]
        return LogProb(per_step, torch.ones_like(per_step, dtype=torch.bool))

    def sample(self, contexts: Int[Tensor, " N"], n: int, *, generator: torch.Generator) -> Int[Tensor, "N n"]:
        """Draw n actions in each of N contexts, independently."""
        if n < 1:
            raise ValueError(f"n: expected a whole number >= 1, got {n}")
        with torch.no_grad():
            return self.probabilities()[contexts].multinomial(n, replacement=True, generator=generator)

    def entropy(self) -> Float[Tensor, " B"]:
        """``-Σ_a π(a) log π(a)`` in nats, at most log A."""
        log_pi = self.log_policy()
        return -(log_pi.exp() * log_pi).sum(-1)

    def kl(self, other: Tabular) -> Float[Tensor, " B"]:
        """``KL(π || other) = Σ_a π(a) log(π(a) / other(a))`` of each context, in nats."""
        log_pi = self.log_policy()
        return (log_pi.exp() * (log_pi - other.log_policy())).sum(-1)

    def mixture(self, other: Tabular, share: float) -> Tabular:
        """``(1 - share) π + share other``: one of the two is drawn, then it answers; without gradient."""
        check_share("share", share)
        with torch.no_grad():
            return Tabular(torch.log((1 - share) * self.probabilities() + share * other.probabilities()))

    def geometric_mixture(self, other: Tabular, share: float) -> Tabular:
        """The policy proportional to ``π^(1 - share) other^share``, Nash-MD's opponent; without gradient."""
        with torch.no_grad():
            return Tabular(geometric_mixture(self.logits, other.logits, share=share))

    def average_in(self, other: Tabular, *, decay: float) -> None:
        """Keep a share `decay` of the weights and take the rest from another policy, as an EMA of a network's weights does.

        The weights are the logits, so the result is the geometric mixture of the two.
        """
        check_share("decay", decay)
        with torch.no_grad():
            self.logits.lerp_(other.logits, 1 - decay)

    def reference(self) -> Tabular:
        """A frozen twin."""
        twin = Tabular(self.logits)
        twin.scorer.requires_grad_(False)
        return twin


def _expect_table(name: str, values: Tensor) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise PolicyError(f"{name}: expected a table [contexts, actions], got shape {list(values.shape)}")
    if not values.is_floating_point():
        raise PolicyError(f"{name}: expected floating point numbers, got {values.dtype}")


def _expect(values: Tensor, good: Tensor, name: str, expected: str) -> None:
    """Raise and name the first entry that is not good."""
    if not good.all():
        row, column = (~good).nonzero()[0].tolist()
        raise PolicyError(f"{name}[{row}, {column}]: expected {expected}, got {values[row, column].item():g}")
