"""Copies of a policy's trained weights: to be somebody else for a moment, to go back, to average, and to keep in a checkpoint.

Only what is trained is copied, so that with adapters a copy is small.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from plaudit.errors import CheckpointError
from plaudit.policies.causal_lm import CausalLM, unwrapped

Weights = Mapping[str, Tensor]


def weights_of(policy: CausalLM) -> Weights:
    """A copy of the weights that are trained, by name."""
    return {name: weight.detach().clone() for name, weight in _trained(policy).items()}


@torch.no_grad()
def put(policy: CausalLM, weights: Weights) -> None:
    """Write a copy's values into the policy, bit for bit.

    Raises:
        CheckpointError: the copy is of other weights.
    """
    own = _trained(policy)
    shapes = {name: tuple(weight.shape) for name, weight in own.items()}
    if shapes != (given := {name: tuple(weight.shape) for name, weight in weights.items()}):
        odd = sorted(set(shapes.items()) ^ set(given.items()))[0]
        raise CheckpointError(f"weights: expected a copy of this policy's own, and {odd[0]} of shape {odd[1]} differs")
    for name, weight in own.items():
        weight.copy_(weights[name])


@contextlib.contextmanager
def being(policy: CausalLM, weights: Weights) -> Iterator[None]:
    """Inside, the policy has these weights; afterwards its own again, bit for bit."""
    own = weights_of(policy)
    put(policy, weights)
    try:
        yield
    finally:
        put(policy, own)


def averaged(old: Weights, recent: Weights, *, decay: float) -> Weights:
    """An exponential moving average of weights, ``decay * old + (1 - decay) * recent``.

    Of adapters it is the factors that are averaged, not their products.
    """
    return {name: torch.lerp(recent[name], weight, decay) for name, weight in old.items()}


def as_text(weights: Weights) -> str:
    """The copy as text for a method's state, without loss: safetensors in base64."""
    return base64.b64encode(save({name: weight.cpu().contiguous() for name, weight in weights.items()})).decode()


def from_text(text: str) -> Weights:
    """What `as_text` gave.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        found: Weights = load(base64.b64decode(text, validate=True))
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"weights: expected safetensors in base64, got {text[:40]!r} ({error})") from error
    return found


def _trained(policy: CausalLM) -> dict[str, Tensor]:
    module = unwrapped(policy.scorer)
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
