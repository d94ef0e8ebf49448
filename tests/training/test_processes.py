"""Two processes do what one does, and an interrupted run of two goes on bit-identically."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plaudit.policies import LoRA
from plaudit.training import RunFolder

from .two_processes import line
from .worlds import dpo_run, identical, timeless


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, two_processes) -> Path:
    """All runs of two processes: starting them costs 10 s, of which imports are most, so they are started once."""
    folder = tmp_path_factory.mktemp("two-processes")
    two_processes("training.two_processes", folder, tiny_model)
    return folder


def weights(folder: Path, name: str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


def test_both_processes_end_with_the_same_weights(folder):
    for name in ("whole", "resumed-0.5-4", "lora-whole", "full-resumed"):
        assert identical(weights(folder, name, 0), weights(folder, name, 1))


def test_two_processes_learn_what_one_learns(folder, tmp_path):
    """A batch of 4 is 2 and 2; the last of each epoch is 3, where one process repeats an example that must not count."""
    line(tmp_path, "whole", "whole")
    for name, value in weights(tmp_path, "whole").items():
        torch.testing.assert_close(weights(folder, "whole")[name], value, rtol=1e-5, atol=1e-6)
    alone, together = timeless(tmp_path / "whole"), timeless(folder / "whole")
    assert len(alone) == len(together) == 6 + 3
    for one, two in zip(alone, together, strict=True):
        assert one.pop("split") == two.pop("split")
        assert two == pytest.approx(one, rel=1e-5)
    results = [json.loads((place / "whole.json").read_text()) for place in (tmp_path, folder)]
    assert results[1]["held_out"] == pytest.approx(results[0]["held_out"], rel=1e-5)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_two_processes_train_a_language_model_as_one_does(folder, tiny_model, tmp_path, name):
    alone = dpo_run(tiny_model, tmp_path / "alone", LoRA(rank=2) if name == "lora" else None)
    together = weights(folder, f"{name}-whole")
    assert alone.keys() == together.keys()
    moved = max(value.abs().max() for value in alone.values())
    assert moved > 1e-3
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_an_interrupted_run_of_two_processes_goes_on_bit_identically(folder, noise, step):
    """Each process draws its own noise, the same again after the interruption."""
    assert identical(weights(folder, f"resumed-{noise}-{step}"), weights(folder, f"uninterrupted-{noise}"))
    assert timeless(folder / f"left-{noise}-{step}") == timeless(folder / f"uninterrupted-{noise}")


@pytest.mark.parametrize("name", ["lora", "full"])
def test_an_interrupted_language_model_goes_on_bit_identically(folder, name):
    assert identical(weights(folder, f"{name}-resumed"), weights(folder, f"{name}-whole"))
    assert timeless(folder / f"{name}-left") == timeless(folder / f"{name}-whole")


def test_only_the_first_process_writes(folder):
    steps = [row["step"] for row in RunFolder(folder / "whole").metrics() if row["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
