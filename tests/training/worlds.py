"""A line through points, whose every gradient can be written down, and a short run of DPO on the tiny language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from plaudit.methods import DPO, DPOConfig, EncodedPair
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.policies import Sequence as TokenSequence
from plaudit.training import ExampleLoss, RunFolder, Stateless, Step, TrainingConfig, TrainingResult, train
from plaudit.training.randomness import batch_indices


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    weight: float = 1.0


POINTS = [Point(x / 4, 2 * x / 4 - 1 + (-1) ** x / 8, weight=1 + x % 3) for x in range(-5, 6)]


class Line(nn.Module):
    """``y = slope x + height``: two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.0))
        self.height = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x + self.height


@dataclass
class Holder:
    scorer: nn.Module


@dataclass
class Fit(Stateless):
    """Least squares. `watch` is told every portion; `noise` adds random numbers of the global generator to the targets."""

    points: Sequence[Point]
    trainable: Holder = field(default_factory=lambda: Holder(Line()))
    watch: Callable[[Sequence[Point]], None] = lambda points: None
    noise: float = 0.0
    name: str = "fit"

    def collect(self, step: Step) -> list[Point]:
        return [
            self.points[index] for index in batch_indices(len(self.points), step.batch_size, step.index, seed=step.seed)
        ]

    def sequences(self, example: Point) -> tuple[TokenSequence]:
        """A token for all points and one for each."""
        return (TokenSequence((0,), (POINTS.index(example) + 1,), (True,)),)

    def loss(self, examples: Sequence[Point]) -> ExampleLoss:
        self.watch(examples)
        x, y, weight = (torch.tensor([getattr(point, name) for point in examples]) for name in ("x", "y", "weight"))
        error = self.trainable.scorer(x) - y - self.noise * torch.randn(len(x))
        metrics = {"right_of_0": torch.where(x > 0, error.abs(), torch.nan)}
        return ExampleLoss(error**2, weight, metrics, tokens=len(examples))


def settings(**changes) -> TrainingConfig:
    return TrainingConfig(
        **{"batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.05, "checkpoint_every": 2, "epochs": 4} | changes
    )


def fit(method: Fit, folder: Path, config: TrainingConfig, *, steps: int | None = None, **options) -> TrainingResult:
    """Train in a run folder, new or not."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = config.steps(len(method.points)) if steps is None else steps
    return train(method, RunFolder(folder), config, steps=steps, **options)


def state_of(method) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in method.trainable.scorer.state_dict().items()}


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def timeless(folder: Path) -> list[dict]:
    """A run's metrics without what depends on the clock."""
    rows = RunFolder(folder).metrics()
    return [{name: value for name, value in row.items() if name != "tokens_per_s"} for row in rows]


LM_STEPS = 4
LM_SETTINGS = TrainingConfig(batch_size=3, micro_batch_size=2, learning_rate=1e-2, checkpoint_every=1)


def dpo_run(
    model: Path, folder: Path, lora: LoRA | None, *, config: TrainingConfig = LM_SETTINGS, **options
) -> dict[str, torch.Tensor]:
    """DPO on a freshly loaded policy; returns the trained weights."""
    policy = CausalLM.load(model, lora=lora, dtype="float32")
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    pairs = [
        EncodedPair(*(TokenSequence(context, ids(length), (True,) * length) for length in (3 + number % 3, 4)))
        for number, context in enumerate(ids(5) for _ in range(7))
    ]
    reference = Reference(policy)
    reference.prepare([sequence for pair in pairs for sequence in (pair.chosen, pair.rejected)])
    method = DPO(policy, reference, pairs, DPOConfig())
    folder.mkdir(exist_ok=True)
    train(method, RunFolder(folder), config, steps=LM_STEPS, **options)
    return {name: weight.detach() for name, weight in policy.scorer.named_parameters() if weight.requires_grad}
