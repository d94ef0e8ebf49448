"""Running a study: processes, going on, what is written, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plaudit.errors import ConfigError, TrainingError
from plaudit.studies import Budget, run_study
from plaudit.studies.running import is_complete
from plaudit.studies.table import BEGIN, END, publish, with_studies

from .toy import STUDY
from .toy_shared import STUDY as SHARING

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The folder that tells the toy study what to do, and keeps what was called."""
    monkeypatch.setenv("TOY_FOLDER", str(tmp_path))
    return tmp_path


def calls(folder: Path) -> list[str]:
    return sorted((folder / "calls.txt").read_text().splitlines())


def run(folder: Path, **settings):
    return run_study(STUDY, folder / "run", **settings)


@pytest.mark.slow
def test_every_arm_runs_once_with_every_seed_on_one_core_and_the_result_is_written(toy):
    """Ten processes that import torch, 1 to 2 s each."""
    result = run(toy)
    trials = [f"{arm}-{seed} 1" for arm in STUDY.arms for seed in range(3)]
    assert calls(toy) == sorted([*trials, "prepare"])
    assert json.loads((toy / "run" / "result.json").read_text()) == result
    assert result["verdict"] == "holds"
    assert [finding["decision"] for finding in result["findings"]] == ["holds", "does not hold"]
    assert result["findings"][0]["estimate"]["value"] == pytest.approx(0.021)
    assert result["scores"]["score"]["good"]["value"] == pytest.approx(1.05)
    assert {arm: scores["value"] for arm, scores in result["scores"]["bonus"].items()} == {"good": pytest.approx(1.0)}
    assert (result["quick"], result["seeds"], is_complete(result, STUDY)) == (False, [0, 1, 2], True)
    assert result["environment"]["packages"]["torch"]
    assert result["core_seconds"] > 0
    assert result["trials"][0]["figures"] == {"before": 0.25}
    assert (toy / "run" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (toy / "run" / "trials").iterdir()) == sorted(
        f"{arm}-{seed}.json" for arm in STUDY.arms for seed in range(3)
    )


@pytest.mark.slow
def test_a_study_goes_on_with_the_trials_that_are_missing(toy):
    """Nine processes that import torch, 1 to 2 s each."""
    (toy / "fail-new-0").touch()
    with pytest.raises(
        TrainingError, match=r"1 of 3 processes failed. The first, new-0: ValueError: the engine crashed"
    ):
        run(toy, seeds=1)
    assert "in _run" in (toy / "run" / "trials" / "new-0.error.txt").read_text()
    (toy / "fail-new-0").unlink()
    (toy / "calls.txt").unlink()
    assert run(toy, seeds=1)["seeds"] == [0]
    assert calls(toy) == ["new-0 1", "prepare"]
    (toy / "calls.txt").unlink()
    whole = run(toy, seeds=2)
    assert calls(toy) == sorted([*(f"{arm}-1 1" for arm in STUDY.arms), "prepare"])
    assert not is_complete(whole, STUDY)
    (toy / "calls.txt").unlink()
    again = run(toy, seeds=2)
    assert all(again[name] == value for name, value in whole.items() if name != "environment")  # which has the time
    assert not (toy / "calls.txt").exists()


@pytest.mark.slow
def test_what_the_arms_of_a_seed_share_is_made_once_and_counted(toy):
    """Nine processes that import torch, 1 to 2 s each."""
    result = run_study(SHARING, toy / "run", seeds=2)
    assert [call for call in calls(toy) if call.startswith("share")] == ["share 0", "share 1"]
    assert set(result["scores"]["shared"]) == {"new"}
    assert result["scores"]["shared"]["new"]["value"] == pytest.approx(100.5)
    assert result["core_seconds"] > sum(trial["seconds"] for trial in result["trials"])
    assert sorted(path.name for path in (toy / "run" / "shared" / "0").iterdir()) == ["number.txt", "seconds.json"]
    (toy / "run" / "trials" / "good-1.json").unlink()
    (toy / "calls.txt").unlink()
    run_study(SHARING, toy / "run", seeds=2)
    assert calls(toy) == ["good-1 1", "prepare"]


@pytest.mark.slow
def test_a_trial_that_hangs_is_killed_at_its_budget(toy):
    """At 20 s, which is long for the other trials, that import torch."""
    (toy / "hang-good-0").touch()
    hasty = replace(STUDY, budget=Budget(samples=10, seconds=20))
    with pytest.raises(TrainingError, match="took longer than its limit of 20 s"):
        run_study(hasty, toy / "run", seeds=1)
    assert not (toy / "run" / "trials" / "good-0.json").exists()


def test_a_trial_that_samples_more_than_its_budget_is_refused(toy):
    (toy / "greedy-old-0").touch()
    with pytest.raises(TrainingError, match="samples: expected at most 10, the budget, got 11"):
        run(toy, seeds=1)


def test_a_study_that_has_begun_is_not_changed(toy):
    with pytest.raises(ConfigError, match="seeds: expected a whole number >= 1, got 0"):
        run(toy, seeds=0)
    run(toy, seeds=1)
    changed = replace(STUDY, criterion="Within 0.5.")
    with pytest.raises(ConfigError, match=r"begun with another criterion: expected 'Within 0.05.', got 'Within 0.5.'"):
        run_study(changed, toy / "run", seeds=1)
    with pytest.raises(ConfigError, match="begun with another quick: expected False, got True"):
        run(toy, quick=True)
    (toy / "other").mkdir()
    (toy / "other" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"holds something that is no study. Give another folder with --run"):
        run_study(STUDY, toy / "other")


# --- the documentation ----------------------------------------------------------------------------------------------


def result(**changes) -> dict:
    estimate = {"value": 0.01, "low": None, "high": 0.03}
    finding = {"claim": "a is like b", "decision": "holds", "estimate": estimate, "text": "1.0 points [0.0, 2.0]"}
    return {
        "study": "toy", "arxiv": "0000.00000", "title": "Toy — a study", "quick": False, "seeds": [0, 1, 2],
        "findings": [finding, {**finding, "decision": "inconclusive"}], "core_seconds": 5400.0, **changes,
    }  # fmt: skip


def test_a_result_becomes_rows_between_the_markers_and_nothing_else_changes(tmp_path):
    run_folder, docs = tmp_path / "run", tmp_path / "docs"
    for folder in (run_folder, docs):
        folder.mkdir()
    (run_folder / "result.json").write_text(json.dumps(result()))
    (run_folder / "plot.png").write_bytes(b"png")
    (docs / "systems.md").write_text(f"before\n{BEGIN}\nof last week\n{END}\nafter\n")
    publish(run_folder, docs)
    first = (docs / "systems.md").read_text()
    assert first.startswith(f"before\n{BEGIN}\n| study |")
    assert first.endswith(f"{END}\nafter\n")
    assert "last week" not in first
    assert (
        "| Toy (0000.00000) | a is like b | **holds** | 1.0 points [0.0, 2.0] | 3 | 1.5 core hours | "
        "[figures](studies/toy.json), [plot](studies/toy.png) |"
    ) in first
    publish(run_folder, docs)
    assert (docs / "systems.md").read_text() == first


def test_a_quick_run_is_never_written_into_the_documentation(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result(quick=True)))
    with pytest.raises(ConfigError, match="is a quick run, whose figures say nothing: it is not written into"):
        publish(tmp_path, DOCS)


def test_the_table_in_the_documentation_is_what_the_results_beside_it_say():
    assert (DOCS / "systems.md").read_text() == with_studies(DOCS / "systems.md")
