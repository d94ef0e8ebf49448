"""What methods that learn from pairs of outputs share: a step's pairs, and both outputs of a pair side by side."""

from __future__ import annotations

from collections.abc import Sequence as Rows

from jaxtyping import Float
from torch import Tensor

from plaudit.methods.encoding import EncodedPair
from plaudit.policies import CausalLM, LogProb, Sequence
from plaudit.training import Stateless, Step
from plaudit.training.randomness import batch_indices


class Pairwise(Stateless):
    """A policy and the pairs that it learns from."""

    def __init__(self, policy: CausalLM, pairs: Rows[EncodedPair]) -> None:
        self.trainable = policy
        self.pairs = pairs

    def collect(self, step: Step) -> list[EncodedPair]:
        """The step's pairs."""
        return [
            self.pairs[index] for index in batch_indices(len(self.pairs), step.batch_size, step.index, seed=step.seed)
        ]

    def sequences(self, example: EncodedPair) -> tuple[Sequence, Sequence]:
        """Both outputs of a pair."""
        return example.chosen, example.rejected


def sides(pairs: Rows[EncodedPair]) -> list[Sequence]:
    """All chosen outputs, then all rejected ones: they go through the model side by side."""
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def mean_per_token(log_prob: LogProb) -> Float[Tensor, " N"]:
    """Log-probability of each output, averaged over its tokens."""
    return log_prob.sum() / log_prob.lengths.clamp(min=1)


def win_share(margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where the chosen output is ahead, 0 where it is behind, 1/2 where neither is."""
    return (margin > 0).float() + 0.5 * (margin == 0).float()
