"""How long, how fast and in which portions to train; one frozen configuration for every method."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from plaudit.errors import ConfigError

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training loop's settings.

    Attributes:
        epochs: passes over the training examples.
        max_steps: stop after so many optimiser steps, whatever the epochs say.
        batch_size: examples per optimiser step, over all processes.
        micro_batch_size: examples whose gradients are computed at once on one process; less memory, the same result.
        micro_batch_tokens: distinct tokens whose gradients are computed at once on one process, a context that examples
            share counted once; set, it replaces micro_batch_size. An example that alone has more goes alone.
        optimizer: AdamW, or AdamW whose two moments take 8 bits a weight each instead of 32.
        learning_rate: peak step size of AdamW.
        schedule: how the learning rate falls after the warm-up: to 0 along a cosine or a line, or not at all.
        warmup_ratio: share of the steps over which the learning rate rises from 0.
        weight_decay: decoupled weight decay.
        adam_beta1: decay of AdamW's first moment.
        adam_beta2: decay of AdamW's second moment.
        adam_epsilon: added to the root of the second moment.
        max_grad_norm: gradients with a larger norm are scaled down to it; 0 leaves them.
        evaluate_every: steps between looks at the held-out examples; 0 looks only at the end. A method that learns from its
            own samples looks at the reward of its answers to held-out contexts; 0 never.
        checkpoint_every: steps between checkpoints; 0 writes only the last.
        keep_checkpoints: how many checkpoints stay.
        patience: stop after so many looks without a better loss or reward, and take the best weights; 0 never.
        seed: of every random choice.
        trackers: where else to log: tensorboard, wandb, trackio, mlflow.
    """

    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    micro_batch_size: int = 8
    micro_batch_tokens: int | None = None
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: float = 1e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    evaluate_every: int = 0
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    patience: int = 0
    seed: int = 0
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()

    def __post_init__(self) -> None:
        check(self, "epochs", 0 < self.epochs < math.inf, "a number > 0")
        for name in ("max_steps", "micro_batch_tokens"):
            value = getattr(self, name)
            check(self, name, value is None or whole(value, 1), "a whole number >= 1, or nothing")
        for name in ("batch_size", "micro_batch_size", "keep_checkpoints"):
            check(self, name, whole(getattr(self, name), 1), "a whole number >= 1")
        check(self, "optimizer", self.optimizer in ("adamw", "adamw8bit"), "adamw or adamw8bit")
        check(self, "learning_rate", 0 < self.learning_rate < math.inf, "a number > 0")
        check(self, "schedule", self.schedule in ("cosine", "linear", "constant"), "cosine, linear or constant")
        for name in ("warmup_ratio", "adam_beta1", "adam_beta2"):
            check(self, name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name in ("weight_decay", "adam_epsilon", "max_grad_norm"):
            check(self, name, 0 <= getattr(self, name) < math.inf, "a number >= 0")
        for name in ("evaluate_every", "checkpoint_every", "patience"):
            check(self, name, whole(getattr(self, name), 0), "a whole number >= 0")
        known = ("tensorboard", "wandb", "trackio", "mlflow")
        check(self, "trackers", set(self.trackers) <= set(known), f"some of {', '.join(known)}")

    def steps(self, examples: int) -> int:
        """Number of optimiser steps over so many examples."""
        # rounded, since 1.1 epochs of 10 batches are 11.000000000000002 steps
        steps = math.ceil(round(self.epochs * math.ceil(examples / self.batch_size), 9))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step 0, 1, ... of `steps`."""
        warmup = math.ceil(self.warmup_ratio * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        match self.schedule:
            case "cosine":
                return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                return self.learning_rate * (1 - progress)
            case "constant":
                return self.learning_rate


def check(config: object, field: str, good: bool, expected: str) -> None:
    """Raise a `ConfigError` that names the field, what was expected and what came, unless `good`."""
    if not good:
        raise ConfigError(f"{field}: expected {expected}, got {getattr(config, field)!r}")


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number of at least so much."""
    return isinstance(value, int) and value >= least


def from_mapping(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a configuration from a mapping; an unknown key is an error that suggests the nearest name."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" Known settings: {', '.join(names)}."
            raise ConfigError(f"{key}: there is no such setting of {kind.__name__}.{hint}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
