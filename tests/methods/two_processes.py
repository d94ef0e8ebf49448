"""One step of every method on two processes, started by `test_invariance.py`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from .worlds import CASES, one_step

CUTS: dict[str, dict[str, int]] = {"size": {"size": 2}, "each-alone": {"tokens": 1}, "tokens": {"tokens": 60}}


def main(folder: Path, model: Path) -> None:
    for name in CASES:
        for cut, options in CUTS.items():
            step = one_step(name, model, folder / f"{name}-{cut}", **options)
            if os.environ["RANK"] == "0":
                save_file(step.gradients, folder / f"{name}-{cut}-gradients.safetensors")
                save_file(step.weights, folder / f"{name}-{cut}-weights.safetensors")
                (folder / f"{name}-{cut}-metrics.json").write_text(json.dumps(step.metrics))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
