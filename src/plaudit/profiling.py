"""Where the time of a run goes: seconds, tokens and floating-point operations by phase, beside what the machine multiplies.

Operations are counted analytically, where a linear layer is called: ``2 x rows x inputs x outputs``, and in the backward
pass as much again for the gradient of its inputs and for that of its weights, each where it is needed; so frozen weights below
adapters cost one product backward, trained ones two. What is computed again in the backward pass (the head's logits,
checkpointed layers) counts there. Left out are attention scores, embeddings, norms, activations, the softmax over the
vocabulary and the optimiser: the rates are of useful matrix products over all of a phase's time.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from plaudit.profile_figures import PHASES, Figures, Phase, PhaseCounts


class Profile:
    """A measurement that is going on. Phases are those of one thread; a phase inside another is not part of it.

    Args:
        ceiling_flop_per_s: see `matrix_rate`.
        device: where the model runs; a GPU is waited for whenever the phase changes.
        dtype: the type of matrix products.
        clock: seconds from anywhere on.
    """

    def __init__(
        self,
        *,
        ceiling_flop_per_s: float,
        device: torch.device,
        dtype: torch.dtype,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ceiling, self._device, self._dtype, self._clock = ceiling_flop_per_s, device, dtype, clock
        self._counts = {name: PhaseCounts() for name in PHASES}
        self._inside: list[Phase] = ["idle"]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._since = clock()

    def enter(self, name: Phase) -> None:
        """From now on, time and counts belong to this phase."""
        self._charge()
        self._inside.append(name)

    def leave(self) -> None:
        """From now on, they belong to the phase around the current one again."""
        self._charge()
        self._inside.pop()

    def count(self, *, tokens: int = 0, positions: int = 0, flop: int = 0) -> None:
        """Add to the current phase."""
        counts = self._counts[self._inside[-1]]
        counts.tokens += tokens
        counts.positions += positions
        counts.flop += flop

    def count_linear(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Count the products of a linear layer that was called, and those that its backward pass will take."""
        # Conv1D is what transformers calls the linear layers of GPT-2
        if not (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"):
            return
        given: Tensor = inputs[0]
        slopes = given.requires_grad + module.get_parameter("weight").requires_grad if output.requires_grad else 0
        self.count_product(given.numel() // max(1, given.shape[-1]), given.shape[-1], output.shape[-1], slopes=slopes)

    def count_product(self, rows: int, inputs: int, outputs: int, *, slopes: int) -> None:
        """Count a product of so many rows with a matrix, and as many products backward as there will be gradients."""
        flop = 2 * rows * inputs * outputs
        self.count(flop=flop)
        # what is computed again in the backward pass was counted when it was first computed
        if self._inside[-1] != "backward":
            self._counts["backward"].flop += flop * slopes

    def figures(self) -> Figures:
        """What was found so far."""
        self._charge()
        phases = {name: replace(counts) for name, counts in self._counts.items()}
        precision = str(self._dtype).removeprefix("torch.")
        return Figures(phases, self._ceiling, precision, peak_memory_bytes(self._device))

    def _charge(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        self._counts[self._inside[-1]].seconds += now - self._since
        self._since = now


_active: Profile | None = None


def active() -> Profile | None:
    """The profile that is going on, if one is."""
    return _active


@contextlib.contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Inside, a profile that is going on counts for this phase."""
    profile = _active
    if profile is None:
        yield
        return
    profile.enter(name)
    try:
        yield
    finally:
        profile.leave()


def count(*, tokens: int, positions: int) -> None:
    """Tell a profile that is going on what goes through a trunk and through a head."""
    if _active is not None:
        _active.count(tokens=tokens, positions=positions)


@contextlib.contextmanager
def profiled(profile: Profile) -> Iterator[Profile]:
    """Inside, this profile is going on."""
    global _active  # noqa: PLW0603 - one process has one profile, whatever thread recomputes a layer
    if _active is not None:
        raise RuntimeError("A profile is going on already.")
    hook = nn.modules.module.register_module_forward_hook(profile.count_linear)
    _active = profile
    try:
        yield profile
    finally:
        _active = None
        hook.remove()


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Floating-point operations per second of a large square matrix product: the median of what fits into some seconds."""
    width = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(width, width, generator=generator, device=device, dtype=dtype) for _ in range(2))

    def once() -> float:
        start = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    times = [once() for _ in range(3)]
    while sum(times) < seconds:
        times.append(once())
    return 2 * width**3 / statistics.median(times)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held at once: by tensors on the GPU since the profile began, or by the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
