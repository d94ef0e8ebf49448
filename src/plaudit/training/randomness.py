"""Every random choice of a run comes from its seed and a path of names, so that a resumed run repeats them exactly."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the choice that `path` names, independent of every other path's."""
    digest = hashlib.sha256("/".join(map(str, (seed, *path))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for the choice that `path` names."""
    return torch.Generator().manual_seed(derive(seed, *path))


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for the choice that `path` names."""
    return np.random.default_rng(derive(seed, *path))


def batch_indices(count: int, batch_size: int, step: int, *, seed: int) -> list[int]:
    """The examples of one step: each epoch visits all of them once, in an order of its own; its last batch may be smaller."""
    per_epoch = -(-count // batch_size)
    epoch, batch = divmod(step, per_epoch)
    order = torch.randperm(count, generator=torch_generator(seed, "order", epoch))
    return order[batch * batch_size : (batch + 1) * batch_size].tolist()
