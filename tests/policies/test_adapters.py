"""Adapted linear layers as one operation, beside peft's own."""

from __future__ import annotations

import pytest
import torch

from plaudit.policies import CausalLM, LoRA
from plaudit.policies.adapters import adapted_linear
from plaudit.policies.loading import add_adapters

from .conftest import perturb, random_sequences


def inputs(*shape: int, bias: bool = True, rank: int = 2) -> dict[str, torch.Tensor | None]:
    """Input of this shape, a layer of 5 outputs, and adapters."""
    source = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=source, dtype=torch.float64)

    width = shape[-1]
    return {
        "x": random(*shape).requires_grad_(),
        "weight": random(5, width),
        "bias": random(5) if bias else None,
        "down": random(rank, width).requires_grad_(),
        "up": random(5, rank).requires_grad_(),
    }


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(7, 3), (2, 4, 3), (1, 3), (0, 3)], ids=str)
def test_it_is_the_formula_with_its_gradients(shape, bias):
    given = inputs(*shape, bias=bias)
    found = adapted_linear(**given, scale=1.7)
    expected = torch.nn.functional.linear(given["x"], given["weight"], given["bias"])
    expected = expected + 1.7 * (given["x"] @ given["down"].T) @ given["up"].T
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).view_as(found)
    trained = [given[name] for name in ("x", "down", "up")]
    ours = torch.autograd.grad((found * weights).sum(), trained)
    theirs = torch.autograd.grad((expected * weights).sum(), trained)
    torch.testing.assert_close(ours, theirs)


def test_its_gradients_are_those_of_finite_differences():
    given = inputs(4, 3)
    trained = (given["x"], given["down"], given["up"])
    assert torch.autograd.gradcheck(
        lambda x, down, up: adapted_linear(x, given["weight"], given["bias"], down, up, 0.5), trained
    )


def test_an_input_without_gradient_gets_none():
    given = inputs(4, 3)
    given["x"] = given["x"].detach()
    adapted_linear(**given, scale=1.0).sum().backward()
    assert given["down"].grad is not None
    assert given["x"].grad is None


def test_under_autocast_it_computes_in_its_type_and_weights_get_gradients_of_their_own():
    given = {name: None if x is None else x.detach().float() for name, x in inputs(64, 33).items()}
    given["down"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = adapted_linear(**given, scale=1.0)
    assert found.dtype == torch.bfloat16
    found.sum().backward()
    assert given["down"].grad.dtype == torch.float32
    exact = adapted_linear(**{name: None if x is None else x.double() for name, x in given.items()}, scale=1.0)
    assert (found.double() - exact).norm() < 1e-2 * exact.norm()


@pytest.mark.parametrize("state", ["active", "left out", "another adapter", "two at once"])
def test_a_policy_computes_as_with_peft_alone(tiny_model, state):
    """Log-probabilities and gradients of every adapter, in float64."""
    ours, theirs = (perturb(CausalLM.load(tiny_model, lora=LoRA(rank=3), dtype="float32")) for _ in range(2))
    fused = 0
    for policy in (ours, theirs):
        add_adapters(policy.model, LoRA(rank=2), name="other", seed=1)
        policy.model.double()
        perturb(policy, seed=1)
        if state == "another adapter":
            policy.model.set_adapter("other")
        if state == "two at once":
            policy.model.base_model.set_adapter(["default", "other"])
    for module in theirs.model.modules():
        fused += vars(module).pop("forward", None) is not None
    assert fused == 14  # seven linear layers in each of two
    sequences = random_sequences(6)
    results = []
    for policy in (ours, theirs):
        if state == "left out":
            with policy.without_adapters():
                values = policy.log_prob_of(sequences).sum()
            results.append((values.detach(), {}))
            continue
        values = policy.log_prob_of(sequences).sum()
        values.sum().backward()
        slopes = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
        assert slopes
        results.append((values.detach(), slopes))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
