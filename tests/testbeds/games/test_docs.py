"""The example of docs/games.md runs, and shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "games.md"


def test_the_pages_example():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict = {}
    exec(compile(example, str(PAGE), "exec"), found)
    ahead, behind, sampled = found["ahead"], found["behind"], found["sampled"]
    assert ahead.queries[-1] == behind.queries[-1]
    assert ahead.gap[-1] < 1e-7 < behind.gap[-1]
    assert sampled.gap[-1] < 0.5 * sampled.gap[0]
