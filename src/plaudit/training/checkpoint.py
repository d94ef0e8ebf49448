"""Checkpoints: safetensors and JSON only, written beside their place and renamed into it, verified when read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plaudit.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: steps done, and what early stopping has seen."""

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    looks_without_gain: int = 0


def trained_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    method_state: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint of trained weights, optimiser, progress and the method's state into `folder`, whole or not at all.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    final = folder / f"step-{progress.step:08d}"
    temporary = folder / f".writing-{final.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in trained_weights(module).items()}
        save_file(weights, temporary / "weights.safetensors")
        save_file(_optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
        (temporary / "method.json").write_text(json.dumps(method_state or {}))
        names = ("weights.safetensors", "optimizer.safetensors", "method.json")
        hashes = {name: _sha256(temporary / name) for name in names}
        (temporary / "state.json").write_text(json.dumps({"progress": asdict(progress), "sha256": hashes}, indent=2))
        for file in temporary.iterdir():
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise CheckpointError(
                f"There is no space left for a checkpoint in {folder}. Free some and run: plaudit resume {folder.parent}"
            ) from error
        raise CheckpointError(f"Cannot write a checkpoint into {folder}: {error}") from error
    return final


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> Progress:
    """Read a checkpoint into a module and, unless None, an optimiser.

    Raises:
        CheckpointError: it is damaged, or belongs to another model.
    """
    state = _verified_state(path)
    load_weights(path, module)
    if optimizer is not None:
        _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    return Progress(**state["progress"])


def load_method_state(path: Path) -> dict[str, Any]:
    """The method's state in a checkpoint that `load_checkpoint` found whole."""
    return dict(json.loads((path / "method.json").read_text()))


def load_weights(path: Path, module: nn.Module) -> None:
    """Copy a checkpoint's weights into the trained parameters of a module."""
    weights, own = load_file(path / "weights.safetensors"), trained_weights(module)
    expected = {name: tuple(weight.shape) for name, weight in own.items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"The checkpoint {path} belongs to another model or LoRA setting: {len(different)} weights differ in name or "
            f"shape, the first is {different[0]} (expected {expected.get(different[0])}, found {found.get(different[0])})."
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def latest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and one sentence about each newer one that is not."""
    damaged = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            _verified_state(path)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return path, damaged
    return None, damaged


def prune_checkpoints(folder: Path, *, keep: int, also: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the one of step `also`."""
    paths = sorted(folder.glob("step-*"), reverse=True)
    for path in paths[keep:]:
        if also is None or path.name != f"step-{also:08d}":
            shutil.rmtree(path)


def forget_checkpoints_after(folder: Path, step: int) -> None:
    """Remove the damaged checkpoints of steps that will be done again, lest they count among the newest."""
    for path in folder.glob("step-*"):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)


def _verified_state(path: Path) -> Mapping[str, Any]:
    try:
        state = json.loads((path / "state.json").read_text())
        for name, expected in state["sha256"].items():
            if _sha256(path / name) != expected:
                raise CheckpointError(f"The checkpoint {path} is damaged: {name} is not what was written.")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"The checkpoint {path} is incomplete: {error}") from error
    return dict(state)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as tensors ``index.name``, and ``index.part/name`` where the state has parts.

    Whole numbers become integer tensors of no dimension. What several parameters share, as the tables of 8-bit codes, is
    written for each: safetensors takes no tensors that share memory.
    """
    tensors: dict[str, Tensor] = {}
    written: set[int] = set()
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in _flat(values):
            tensor = torch.as_tensor(value).detach().cpu().contiguous()
            place = tensor.untyped_storage().data_ptr()
            tensors[f"{index}.{name}"] = tensor.clone() if place in written else tensor
            written.add(place)
    return tensors


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", part) for inner, part in value.items())
        else:
            yield name, value


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        part, slash, inner = name.partition("/")
        values = state.setdefault(int(index), {})
        number = value.ndim == 0 and not value.is_floating_point()
        (values.setdefault(part, {}) if slash else values)[inner or name] = value.item() if number else value
    optimizer.load_state_dict({**whole, "state": state})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
