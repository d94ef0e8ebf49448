"""Import a million preferences from JSON Lines into a fresh SQLite store: how fast, and in how much memory.

    python benchmarks/import_million.py               a million rows; a few minutes, 2 GB in a temporary folder
    python benchmarks/import_million.py 50000         fewer
    python benchmarks/import_million.py 50000 --profile

The rows are `trl-preference` with an explicit prompt and two scores, seeded; four rows share each prompt, as where several
answers of one context are compared. The import runs in a process of its own, so that its peak memory is its own. It is
run a second time to see that nothing is added. Results: benchmarks/results/import_million.json.
"""

from __future__ import annotations

import cProfile
import json
import os
import platform
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plaudit.feedback.formats import read
from plaudit.feedback.ingest import ingest
from plaudit.feedback.store import FeedbackStore

WORDS = (
    "the",
    "sky",
    "is",
    "blue",
    "because",
    "short",
    "waves",
    "of",
    "light",
    "scatter",
    "more",
    "than",
    "long",
    "ones",
)


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Write the rows; a prompt has 10 to 40 words, an answer 20 to 80."""
    generator = random.Random(seed)

    def words(fewest: int, most: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(fewest, most)))

    with path.open("w", encoding="utf-8") as file:
        prompt = ""
        for number in range(rows):
            if number % 4 == 0:
                prompt = f"{number}: {words(10, 40)}"
            row = {
                "prompt": prompt, "chosen": words(20, 80), "rejected": words(20, 80),
                "score_chosen": round(generator.uniform(5, 10), 2), "score_rejected": round(generator.uniform(1, 5), 2),
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def import_once(path: Path, store: Path) -> dict[str, float]:
    """Import in this process; what happened and what it cost."""
    begin = time.perf_counter()
    with FeedbackStore.open(store) as opened:
        report = ingest(opened, read(path))
    seconds = time.perf_counter() - begin
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "added": report.added, "duplicates": report.duplicates, "rejected": report.rejected,
        "seconds": round(seconds, 2), "records_per_second": round(report.read / seconds), "peak_rss_mb": round(kib / 1024, 1),
    }  # fmt: skip


def read_once(path: Path) -> dict[str, float]:
    """Parse without storing."""
    begin = time.perf_counter()
    count = sum(1 for _ in read(path))
    seconds = time.perf_counter() - begin
    return {"seconds": round(seconds, 2), "records_per_second": round(count / seconds)}


def in_a_process(*arguments: str) -> dict[str, float]:
    output = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(output.stdout)
    return result


def main() -> None:
    if sys.argv[1:2] == ["--import"]:
        print(json.dumps(import_once(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    if sys.argv[1:2] == ["--read"]:
        print(json.dumps(read_once(Path(sys.argv[2]))))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "preferences.jsonl", Path(folder) / "store.db"
        generate(path, rows)
        if "--profile" in sys.argv:
            with cProfile.Profile() as profile:
                import_once(path, store)
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
            return
        result = {
            "rows": rows, "file_mb": round(path.stat().st_size / 1e6, 1), "seed": 0,
            "read": in_a_process("--read", str(path)),
            "first": in_a_process("--import", str(path), str(store)),
            "again": in_a_process("--import", str(path), str(store)),
            "store_mb": round(store.stat().st_size / 1e6, 1),
            "python": platform.python_version(), "cpus": os.cpu_count(), "load": [round(load, 2) for load in os.getloadavg()],
        }  # fmt: skip
    print(json.dumps(result, indent=2))
    if rows >= 1_000_000:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / "import_million.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
