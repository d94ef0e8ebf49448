"""Workloads that are one loss: its step, and whether both sides compute the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .cases import Case, trained
from .measuring import Step

Side = tuple[nn.Module, Callable[[], Tensor]]
"""What is trained, and the loss."""


def stepping(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    """A step that differentiates a loss and forgets the gradients."""

    def step() -> None:
        loss().backward()
        module.zero_grad(set_to_none=True)

    return step


def agreement(case: Case, ours: Side, theirs: Side, *, tolerance: float = 1e-4) -> dict[str, float]:
    """How far apart two sides' losses and gradients are, relative to the peer's.

    Raises:
        ValueError: in float32, the loss or the gradient differs by more than `tolerance`. In bfloat16 it is only reported.
    """
    losses = []
    for _, loss in (ours, theirs):
        value = loss()
        value.backward()
        losses.append(float(value))
    found = {
        "loss_plaudit": losses[0],
        "loss_peer": losses[1],
        "loss_relative": abs(losses[0] - losses[1]) / abs(losses[1]),
        **_gradient_differences(ours[0], theirs[0]),
    }
    for name in ("loss_relative", "gradient_relative"):
        if case.dtype == "float32" and not found[name] <= tolerance:
            raise ValueError(f"{case}: {name}: expected at most {tolerance}, got {found[name]:.2e}: {found}")
    return found


def _gradient_differences(ours: nn.Module, theirs: nn.Module) -> dict[str, float]:
    """Norm of the difference of all gradients, and of the tensor that is furthest off; the gradients are cleared."""
    mine, other = (
        {name: weight.grad for name, weight in trained(module).items() if weight.grad is not None}
        for module in (ours, theirs)
    )
    if not mine or mine.keys() != other.keys():
        one_sided = sorted(mine.keys() ^ other.keys())
        raise ValueError(
            f"Expected gradients of the same weights, got one side's only of {len(one_sided)}: {one_sided[:3]}"
        )
    apart = {name: float((mine[name] - gradient).norm()) for name, gradient in other.items()}
    total = float(torch.nn.utils.get_total_norm(other.values()))
    worst = max(apart[name] / max(float(gradient.norm()), 1e-6 * total) for name, gradient in other.items())
    for module in (ours, theirs):
        module.zero_grad(set_to_none=True)
    return {
        "gradient_relative": sum(value**2 for value in apart.values()) ** 0.5 / total,
        "gradient_relative_worst_tensor": worst,
    }
