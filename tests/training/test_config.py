"""The configuration: what is refused and how, the schedule's formula, the order of examples, and that every field is read."""

from __future__ import annotations

import ast
import hashlib
import itertools
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import plaudit
from plaudit.errors import ConfigError
from plaudit.methods import DPOConfig, RewardConfig, SFTConfig
from plaudit.policies import LoRA, Sampling
from plaudit.training import Step, TrainingConfig
from plaudit.training.config import from_mapping
from plaudit.training.randomness import batch_indices, derive, numpy_generator, torch_generator


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: expected a number > 0, got 0"),
        ({"epochs": math.inf}, "epochs: expected a number > 0, got inf"),
        ({"epochs": math.nan}, "epochs: expected a number > 0, got nan"),
        ({"max_steps": 0}, "max_steps: expected a whole number >= 1, or nothing, got 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number >= 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number >= 1, got 2.5"),
        ({"batch_size": "8"}, "batch_size: expected a whole number >= 1, got '8'"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens: expected a whole number >= 1, or nothing, got 0"),
        ({"micro_batch_tokens": 99.5}, "micro_batch_tokens: expected a whole number >= 1, or nothing, got 99.5"),
        ({"micro_batch_size": -1}, "micro_batch_size: expected a whole number >= 1, got -1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints: expected a whole number >= 1, got 0"),
        ({"optimizer": "adam"}, "optimizer: expected adamw or adamw8bit, got 'adam'"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number > 0, got 0.0"),
        ({"learning_rate": math.inf}, "learning_rate: expected a number > 0, got inf"),
        ({"schedule": "cosin"}, "schedule: expected cosine, linear or constant, got 'cosin'"),
        ({"warmup_ratio": 1.0}, r"warmup_ratio: expected a number in \[0, 1\), got 1.0"),
        ({"adam_beta1": 1.0}, r"adam_beta1: expected a number in \[0, 1\), got 1.0"),
        ({"adam_beta2": -0.1}, r"adam_beta2: expected a number in \[0, 1\), got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number >= 0, got -1.0"),
        ({"adam_epsilon": math.nan}, "adam_epsilon: expected a number >= 0, got nan"),
        ({"max_grad_norm": -1.0}, "max_grad_norm: expected a number >= 0, got -1.0"),
        ({"evaluate_every": -1}, "evaluate_every: expected a whole number >= 0, got -1"),
        ({"checkpoint_every": 1.5}, "checkpoint_every: expected a whole number >= 0, got 1.5"),
        ({"patience": -2}, "patience: expected a whole number >= 0, got -2"),
        ({"trackers": ("tensorbord",)}, r"trackers: expected some of tensorboard, .*, got \('tensorbord',\)"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_was_expected(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DPOConfig, {"beta": 0.0}, "beta: expected a number > 0, got 0.0"),
        (DPOConfig, {"label_smoothing": 0.5}, r"label_smoothing: expected a share in \[0, 0.5\), got 0.5"),
        (SFTConfig, {"aggregation": "mean"}, "aggregation: expected one of token-mean, .*, sequence-sum, got 'mean'"),
        (RewardConfig, {"margin_weight": -1.0}, "margin_weight: expected a number >= 0, got -1.0"),
        (RewardConfig, {"tie_width": 0.0}, "tie_width: expected a number > 0, got 0.0"),
    ],
)
def test_methods_settings_are_checked(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_an_unknown_setting_suggests_the_nearest():
    assert from_mapping(TrainingConfig, {"epochs": 2, "trackers": ["wandb"]}) == TrainingConfig(
        epochs=2, trackers=("wandb",)
    )
    message = r"learning_rat: there is no such setting of TrainingConfig\. Did you mean learning_rate\?"
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainingConfig, {"learning_rat": 1})
    with pytest.raises(ConfigError, match=r"zzz: .* of DPOConfig\. Known settings: beta, label_smoothing"):
        from_mapping(DPOConfig, {"zzz": 1})


# --- steps and schedule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "examples", "steps"),
    [
        ({"epochs": 1, "batch_size": 4}, 8, 2),
        ({"epochs": 1, "batch_size": 4}, 9, 3),
        ({"epochs": 3, "batch_size": 4}, 9, 9),
        ({"epochs": 0.5, "batch_size": 4}, 9, 2),
        ({"epochs": 1.1, "batch_size": 1}, 10, 11),  # 1.1 * 10 is 11.000000000000002
        ({"epochs": 3, "batch_size": 4, "max_steps": 5}, 9, 5),
        ({"epochs": 1, "batch_size": 4, "max_steps": 5}, 9, 3),
    ],
)
def test_number_of_steps(settings, examples, steps):
    assert TrainingConfig(**settings).steps(examples) == steps


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("ratio", "steps"), [(0.0, 7), (0.1, 20), (0.25, 10), (0.9, 3)])
def test_the_learning_rate_rises_and_falls_by_formula(schedule, ratio, steps):
    peak = 0.3
    config = TrainingConfig(learning_rate=peak, schedule=schedule, warmup_ratio=ratio)
    warmup = math.ceil(ratio * steps)
    for step in range(steps):
        progress = (step - warmup) / (steps - warmup) if steps > warmup else 0
        falling = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1}[schedule]
        expected = peak * ((step + 1) / warmup if step < warmup else falling)
        assert config.learning_rate_at(step, steps) == pytest.approx(expected)
        assert 0 < config.learning_rate_at(step, steps) <= peak


def test_one_step_is_taken_at_the_full_rate():
    assert TrainingConfig(learning_rate=0.3, warmup_ratio=0.1).learning_rate_at(0, 1) == 0.3


# --- the order of examples ------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**40))
def test_each_epoch_visits_every_example_once(count, batch_size, seed):
    per_epoch = math.ceil(count / batch_size)
    for epoch in range(2):
        batches = [batch_indices(count, batch_size, epoch * per_epoch + step, seed=seed) for step in range(per_epoch)]
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (per_epoch - 1)
        assert len(batches[-1]) == count - (per_epoch - 1) * batch_size
        assert sorted(itertools.chain(*batches)) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own_whatever_was_drawn_before():
    first = batch_indices(100, 100, 0, seed=0)
    torch.rand(5)
    np.random.default_rng(0)
    assert batch_indices(100, 100, 0, seed=0) == first
    assert batch_indices(100, 100, 1, seed=0) != first
    assert batch_indices(100, 100, 0, seed=1) != first


def test_every_choice_has_a_seed_of_its_own():
    digest = hashlib.sha256(b"7/order/3").digest()
    assert derive(7, "order", 3) == int.from_bytes(digest[:8], "big") >> 1
    assert 0 <= derive(7, "order", 3) < 2**63
    draws = [
        torch.rand(1, generator=torch_generator(*path)).item() for path in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
    assert numpy_generator(0, "a").random() == numpy_generator(0, "a").random() != numpy_generator(0, "b").random()
    here, there = Step(3, 0, 8), Step(4, 0, 8)
    assert torch.equal(torch.rand(4, generator=here.generator("x")), torch.rand(4, generator=here.generator("x")))
    assert not torch.equal(torch.rand(4, generator=here.generator("x")), torch.rand(4, generator=there.generator("x")))


# --- no option that nothing reads -----------------------------------------------------------------------------------


def reads(kind: type) -> set[str]:
    """Attributes read of what is called config, training, lora or sampling, and of self in the class; checks do not count."""

    def of(tree: ast.AST, owners: set[str]) -> set[str]:
        loads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
        return {node.attr for node in loads if ast.unparse(node.value).split(".")[-1] in owners}

    found: set[str] = set()
    for path in Path(plaudit.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        found |= of(tree, {"config", "training", "lora", "sampling"})
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                methods = (part for part in node.body if isinstance(part, ast.FunctionDef))
                found |= set().union(*(of(part, {"self"}) for part in methods if part.name != "__post_init__"))
    return found


@pytest.mark.parametrize("kind", [TrainingConfig, DPOConfig, SFTConfig, RewardConfig, LoRA, Sampling])
def test_every_setting_is_read(kind):
    assert {field.name for field in fields(kind)} - reads(kind) == set()
