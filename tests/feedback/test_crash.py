"""What `add` has acknowledged survives kill -9. Slow: a kill takes a process that starts, writes for a while and dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CRASH = Path(__file__).parents[2] / "benchmarks" / "crash.py"


def test_acknowledged_records_survive_kills_at_random_moments(tmp_path: Path) -> None:
    # `python benchmarks/crash.py --kills 100` is the full run of the same checks.
    output = tmp_path / "crash.json"
    command = [sys.executable, str(CRASH), "--kills", "8", "--seed", "1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["kills"] == 8
    assert result["acknowledged"] > 0, "the kills came before anything was acknowledged, so nothing was tested"
    assert result["stored"] >= result["acknowledged"]
