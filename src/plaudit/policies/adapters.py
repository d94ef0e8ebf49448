"""A linear layer with low-rank adapters as one operation.

``y = W x + b + (alpha / r) B A x`` (Hu et al. 2021, arXiv 2106.09685). peft computes the sum in five passes over activations
as wide as the layer, which take as long as a third of the matrix products on a CPU; here the products add into each
other's results, forward and backward, and x is kept once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plaudit import profiling
from plaudit.errors import require


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.flatten(0, -2)
        low = rows @ down.T
        out = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        out.addmm_(low, up.T, alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, low = ctx.saved_tensors
        grad = grad.flatten(0, -2)
        low_grad = (grad @ up) * ctx.scale
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad @ weight).addmm_(low_grad, down).view(ctx.shape)
        return x_grad, None, None, low_grad.T @ rows, (grad.T @ low) * ctx.scale, None


def adapted_linear(
    x: Float[Tensor, "... I"],
    weight: Float[Tensor, "O I"],
    bias: Float[Tensor, " O"] | None,
    down: Float[Tensor, "R I"],
    up: Float[Tensor, "O R"],
    scale: float,
) -> Float[Tensor, "... O"]:
    """``x W^T + b + scale (x A^T) B^T``, with gradients for x, A and B; W and b are frozen. In autocast's type where it is on.

    Args:
        x: input.
        weight: frozen weights W.
        bias: frozen b.
        down: A.
        up: B.
        scale: alpha / r.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    x, weight, down, up = (part.to(dtype) for part in (x, weight, down, up))
    with torch.autocast(device, enabled=False):
        bias = None if bias is None else bias.to(dtype)
        result: Tensor = _AdaptedLinear.apply(x, weight, bias, down, up, scale)  # type: ignore[no-untyped-call]
    return result


def fuse_adapters(model: Any) -> Any:
    """Let the adapted linear layers of a peft model compute as `adapted_linear` wherever one plain adapter is active."""
    lora = require("peft.tuners.lora", extra="lm")
    for layer in model.modules():
        if type(layer) is lora.Linear and type(layer.base_layer) is nn.Linear and "forward" not in vars(layer):
            layer.forward = functools.partial(_forward, layer)
    return model


@contextlib.contextmanager
def using_adapters(module: Any, name: str) -> Iterator[None]:
    """Inside, the adapted layers in `module` compute with the adapters of this name; which weights are trained stays.

    peft's own `set_adapter` freezes all adapters but one, and autograd drops the gradients of a frozen weight.
    """
    layers = [layer for layer in module.modules() if hasattr(layer, "lora_A")]
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, names in zip(layers, before, strict=True):
            layer._active_adapter = names


def adapters_in_use(module: Any) -> str | None:
    """The name of the adapters that `module` computes with, None where it has none."""
    names = (layer.active_adapters[0] for layer in module.modules() if hasattr(layer, "lora_A"))
    return next(names, None)


@contextlib.contextmanager
def keeping_trained(model: Any) -> Iterator[None]:
    """Afterwards the same weights are trained as before, whatever peft froze and unfroze in between."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        yield
    finally:
        for weight, trained in before:
            if weight.requires_grad != trained:
                weight.requires_grad_(trained)


def _forward(layer: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """A peft layer's forward; what is not plain (several adapters, merged or left out, variants, dropout) is peft's."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1 or args or options or not _plain(layer, active[0]):
        theirs: Tensor = type(layer).forward(layer, x, *args, **options)
        return theirs
    base, (name,) = layer.base_layer, active
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    if (
        profile := profiling.active()
    ) is not None:  # beforehand: a layer that is computed again stops when it has enough
        rows = x.numel() // max(1, x.shape[-1])
        learns = torch.is_grad_enabled() and (x.requires_grad or up.requires_grad)
        for matrix in (base.weight, down, up):
            slopes = ((x.requires_grad or matrix is up) + matrix.requires_grad) if learns else 0
            profile.count_product(rows, matrix.shape[1], matrix.shape[0], slopes=slopes)
    return adapted_linear(x, base.weight, base.bias, down, up, layer.scaling[name])


def _plain(layer: Any, name: str) -> bool:
    return (
        name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
        and not (layer.base_layer.weight.requires_grad and torch.is_grad_enabled())
    )
