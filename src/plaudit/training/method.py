"""What the training loop needs of a method: which examples come next, and what each of them costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plaudit.policies import Sequence as TokenSequence
from plaudit.training.randomness import torch_generator

ExampleT = TypeVar("ExampleT")


@dataclass(frozen=True, slots=True)
class Step:
    """Where the run stands. Random choices of the step come from its generators and from nowhere else."""

    index: int
    seed: int
    batch_size: int

    def generator(self, name: str) -> torch.Generator:
        """A generator for the choice called `name` in this step."""
        return torch_generator(self.seed, "step", self.index, name)


@dataclass(frozen=True, slots=True)
class ExampleLoss:
    """Loss and metrics of each example of a micro-batch.

    The step's loss is ``sum(weight * value) / sum(weight)`` over all examples of the step, wherever they were computed. A
    metric is averaged over the examples with equal weight, leaving out those where it is NaN.
    """

    value: Float[Tensor, " N"]
    weight: Float[Tensor, " N"]
    metrics: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)
    tokens: int = 0


class Stateless:
    """A method whose examples depend on the step alone."""

    def state(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing was kept."""


class Trainable(Protocol):
    """A policy or reward model: `scorer` is the module whose parameters with `requires_grad` are trained."""

    scorer: nn.Module


class Look(Protocol):
    """A measurement of what is trained on what it does not learn from; it changes nothing of the training."""

    def __call__(self, step: int) -> tuple[Mapping[str, float], float]:
        """Metrics after so many steps, and the number that early stopping and the best weights go by: lower is better."""


class Method(Protocol[ExampleT]):
    """A training procedure. It owns no loop, optimiser, logger or checkpoint."""

    @property
    def name(self) -> str:
        """The method's name on the command line."""

    @property
    def trainable(self) -> Trainable:
        """What is trained."""

    def collect(self, step: Step) -> Sequence[ExampleT]:
        """The examples of one optimiser step, over all processes."""

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint must hold besides weights, optimiser and step, as JSON takes it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from this state."""

    def loss(self, examples: Sequence[ExampleT]) -> ExampleLoss:
        """Loss of each of these examples, in their order."""

    def sequences(self, example: ExampleT) -> Sequence[TokenSequence]:
        """The token sequences that an example's loss computes, by which micro-batches are cut to a budget of tokens."""
