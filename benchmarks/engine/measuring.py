"""Sides in turn, their times and ratios, their peak memory, and a results file that is whole after every round."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .cases import Case

ROOT = Path(__file__).parents[2]
OURS = "plaudit"
Step = Callable[[], Mapping[str, float] | None]
"""One measured step; it may say how many seconds its phases took."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import transformers
    import trl

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


class Results:
    """A workload's results file: one entry a case, the latest measurement of each."""

    def __init__(self, folder: Path, workload: str) -> None:
        self.path = folder / f"engine_{workload}.json"
        self.entries: list[dict[str, Any]] = read_results(folder, workload)

    def put(self, case: Case, entry: dict[str, Any]) -> None:
        """Replace what is known of a case and write the file."""
        settings = case.settings()
        others = [other for other in self.entries if other["case"] != settings]
        self.entries = [*others, {"case": settings, **entry}]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.entries, indent=2) + "\n")
        unfinished.replace(self.path)


def read_results(folder: Path, workload: str) -> list[dict[str, Any]]:
    """The entries of a workload's results file; none where there is no file."""
    path = folder / f"engine_{workload}.json"
    return json.loads(path.read_text()) if path.is_file() else []


def compare(case: Case, steps: Mapping[str, Step], *, rounds: int, results: Results, **known: Any) -> dict[str, Any]:
    """Warm every side up, run them in turn, the first side alternating, and keep the results after every round."""
    for name, step in steps.items():
        print(f"{case}: warm-up of {name}", flush=True)
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    phases: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    entry: dict[str, Any] = {}
    for number in range(rounds):
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            parts = steps[name]()
            seconds[name].append(time.perf_counter() - started)
            phases[name].append(dict(parts or {}))
        spent = ", ".join(f"{name} {times[-1]:.3f} s" for name, times in seconds.items())
        print(f"{case}: round {number + 1} of {rounds}: {spent}", flush=True)
        entry = {"machine": machine(), "sides": summary(seconds, phases), **known}
        results.put(case, entry)
    return entry


def summary(seconds: dict[str, list[float]], phases: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Of each side the median, all times, the phases' medians, and of a peer its ratio to ours, round by round."""
    sides: dict[str, Any] = {}
    for name, times in seconds.items():
        sides[name] = {"median_s": statistics.median(times), "seconds": times}
        if phases[name][0]:
            sides[name]["phases_s"] = {
                phase: statistics.median(part[phase] for part in phases[name]) for phase in phases[name][0]
            }
        if name != OURS:
            ratios = [theirs / ours for ours, theirs in zip(seconds[OURS], times, strict=True)]
            sides[name]["ratio"] = statistics.median(ratios)
            sides[name]["ratio_range"] = [min(ratios), max(ratios)]
    return sides


def build(case: Case, side: str) -> Step:
    """One side of a case, from the module that bears the workload's name."""
    return importlib.import_module(f"{__package__}.{case.workload}").build(case, side)


def peak_memory(case: Case, side: str) -> dict[str, int]:
    """Memory of two steps of one side, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.engine", "memory", side, json.dumps(case.settings())]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{case}: the memory of {side} could not be measured:\n{result.stderr[-4000:]}")
    found: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return found


def memory_of_this_process(case: Case, side: str) -> dict[str, int]:
    """Build one side, run it twice, and say how far resident memory rose above what was loaded."""
    step = build(case, side)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, since loading may have been its peak
    loaded = _status("VmRSS")
    step(), step()
    peak = _status("VmHWM")
    return {"loaded_bytes": loaded, "peak_bytes": peak, "step_bytes": peak - loaded}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
