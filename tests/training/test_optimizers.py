"""Optimisers: AdamW's update by its formula, and its moments in 8 bits: near it, small, exactly resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import plaudit.errors
from plaudit.errors import MissingExtra, PolicyError
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.training import TrainingConfig
from plaudit.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from plaudit.training.optimizers import make_optimizer

BOTH = pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
STEPS = 6


def world(name: str, **settings) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Two layers, of which one is large enough for 8 bits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 3))
    config = TrainingConfig(optimizer=name, **{"learning_rate": 1e-2, "weight_decay": 0.1, **settings})
    return module, make_optimizer(list(module.parameters()), config)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad(set_to_none=True)
    (module(x) - x[:, :3]).square().mean().backward()
    optimizer.step()


@BOTH
def test_the_first_step_is_the_formulas(name):
    """``w - rate (decay w + g / (|g| + epsilon))``: after one step both moments are the gradient's own, unbiased."""
    module, optimizer = world(name)
    before = module[0].weight.detach().clone()
    step(module, optimizer, 0)
    slope = module[0].weight.grad
    expected = before - 1e-2 * (0.1 * before + slope / (slope.abs() + 1e-8))
    torch.testing.assert_close(module[0].weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_8_bits_stay_near_32_and_take_a_quarter():
    runs = [world(name) for name in ("adamw", "adamw8bit")]
    for module, optimizer in runs:
        for number in range(STEPS):
            step(module, optimizer, number)
    (exact, _), (coarse, optimizer) = runs
    moved = (exact[0].weight - world("adamw")[0][0].weight).abs().mean()
    assert (coarse[0].weight - exact[0].weight).abs().mean() < 0.1 * moved
    state = optimizer.state[coarse[0].weight]
    assert (state["state1"].dtype, state["state2"].dtype) == (torch.uint8, torch.uint8)
    assert optimizer.state[coarse[1].weight]["state1"].dtype == torch.float32


@BOTH
@pytest.mark.parametrize("done", range(STEPS))
def test_a_checkpoint_restores_the_very_bits(tmp_path: Path, name, done):
    whole = world(name)
    for number in range(STEPS):
        step(*whole, number)
    begun = world(name)
    for number in range(done):
        step(*begun, number)
    path = save_checkpoint(tmp_path, *begun, Progress(step=done))
    resumed = world(name)
    load_checkpoint(path, *resumed)
    for number in range(done, STEPS):
        step(*resumed, number)
    for one, other in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(one, other)
        mine, theirs = whole[1].state[one], resumed[1].state[other]
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert type(value) is type(theirs[key])
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[key])), key


def test_8_bits_are_8_bits_in_the_checkpoint(tmp_path):
    module, optimizer = world("adamw8bit")
    step(module, optimizer, 0)
    tensors = load_file(save_checkpoint(tmp_path, module, optimizer, Progress(step=1)) / "optimizer.safetensors")
    codes = [name for name, tensor in tensors.items() if tensor.dtype == torch.uint8]
    assert [name.rpartition("/")[2] for name in sorted(codes)] == ["state1", "state2"]
    assert all(tensors[name].shape == module[0].weight.shape for name in codes)


@BOTH
def test_a_reference_knows_that_the_weights_have_moved(tiny_model, name):
    """The 8-bit step writes past autograd's count of changes."""
    policy = CausalLM.load(tiny_model, dtype="float32")
    reference = Reference(policy)
    sequence = Sequence((9, 8), (7, 6), (True, True))
    optimizer = make_optimizer(list(policy.scorer.parameters()), TrainingConfig(optimizer=name))
    policy.log_prob_of([sequence]).sum().sum().backward()
    optimizer.step()
    with pytest.raises(PolicyError, match="weights have changed"):
        reference.prepare([sequence])


def test_the_library_for_8_bits_is_named_with_its_extra(monkeypatch):
    def nothing(name):
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr(plaudit.errors.importlib, "import_module", nothing)
    with pytest.raises(MissingExtra, match=r"bitsandbytes is not installed.*pip install 'plaudit\[lowbit\]'"):
        world("adamw8bit")
