"""One step of every method on two processes, started by `test_invariance.py`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from .worlds import CASES, one_step


def main(folder: Path, model: Path) -> None:
    for name in CASES:
        step = one_step(name, model, folder / name, size=2)
        if os.environ["RANK"] == "0":
            save_file(step.gradients, folder / f"{name}-gradients.safetensors")
            save_file(step.weights, folder / f"{name}-weights.safetensors")
            (folder / f"{name}-metrics.json").write_text(json.dumps(step.metrics))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
