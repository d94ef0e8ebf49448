"""Runs of two processes, started by `test_processes.py`: each process writes the weights that it ended with."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from plaudit.policies import LoRA

from .worlds import POINTS, Fit, Point, dpo_run, fit, settings, state_of

STEPS = 6
CONFIG = settings(checkpoint_every=1, evaluate_every=2, patience=9, batch_size=4, micro_batch_size=1)
HELD_OUT = [Point(1.5, 0.5), Point(-1, 2), Point(0, 0)]


def line(folder: Path, name: str, run: str, *, noise: float = 0.0, **options) -> None:
    """One run of the line; its weights go into a file of this process."""
    method = Fit(POINTS, noise=noise)
    result = fit(method, folder / run, CONFIG, steps=STEPS, held_out=HELD_OUT, **options)
    save(folder, name, state_of(method))
    if os.environ.get("RANK", "0") == "0":
        (folder / f"{name}.json").write_text(json.dumps(asdict(result)))


def save(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / f"{name}-{os.environ.get('RANK', '0')}.safetensors")


def main(folder: Path, model: Path) -> None:
    """Each run once whole and once interrupted; several trainings in the same processes."""
    line(folder, "whole", "whole")
    for noise in (0.0, 0.5):
        line(folder, f"uninterrupted-{noise}", f"uninterrupted-{noise}", noise=noise)
        for step in (1, 4):
            line(folder, "left", f"left-{noise}-{step}", noise=noise, stop_after=step)
            line(folder, f"resumed-{noise}-{step}", f"left-{noise}-{step}", noise=noise, resume=True)
    for name, lora in (("lora", LoRA(rank=2)), ("full", None)):
        save(folder, f"{name}-whole", dpo_run(model, folder / f"{name}-whole", lora))
        dpo_run(model, folder / f"{name}-left", lora, stop_after=2)
        save(folder, f"{name}-resumed", dpo_run(model, folder / f"{name}-left", lora, resume=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
