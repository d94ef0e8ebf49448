"""`plaudit align` on two processes gives the run that one gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plaudit.evaluation.report import RunReport

from .two_processes import learned


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, preferences_for_two, two_processes) -> Path:
    """What two processes made: starting them costs 10 s, of which imports are most, so they are started once."""
    folder = tmp_path_factory.mktemp("two-processes")
    two_processes("workflows.two_processes", folder, tiny_model, preferences_for_two)
    return folder


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_two_processes_make_the_run_of_one(folder, tiny_model, preferences_for_two, tmp_path, method):
    alone = learned(method, tiny_model, preferences_for_two, tmp_path / "run").run.path
    shared = folder / method
    assert (shared / "answers_before.jsonl").read_text() == (alone / "answers_before.jsonl").read_text()
    ids = [(run / "feedback_ids.txt").read_text().split() for run in (alone, shared)]
    assert len(ids[0]) == len(ids[1]) == len(set(ids[1])) > 0
    mine, theirs = (load_file(next((run / "model").glob("*.safetensors"))) for run in (alone, shared))
    assert mine.keys() == theirs.keys()
    for name, weights in mine.items():
        torch.testing.assert_close(theirs[name], weights, rtol=1e-3, atol=2e-5)
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (alone, shared)]
    assert [(row["step"], row["split"]) for row in rows[0]] == [(row["step"], row["split"]) for row in rows[1]]
    for one, two in zip(*rows, strict=True):
        assert two["loss" if "loss" in one else "reward"] == pytest.approx(
            one["loss" if "loss" in one else "reward"], abs=1e-4
        )
    report = RunReport.from_json((shared / "report.json").read_bytes())
    assert report.headline[0].estimate.value == pytest.approx(
        RunReport.from_json((alone / "report.json").read_bytes()).headline[0].estimate.value, abs=1e-3
    )
