"""A run's folder: begun once, written whole, read back, and its metrics cut where a run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from plaudit.errors import CheckpointError, ConfigError
from plaudit.training import RunFolder
from plaudit.training.run_folder import environment, without_none


def test_a_configuration_is_stored_and_read_back(tmp_path):
    config = {"model": "tiny", "training": {"epochs": 2, "max_steps": None, "trackers": ["wandb"]}, "run": None}
    run = RunFolder.create(tmp_path / "run", config)
    assert run.config == {"model": "tiny", "training": {"epochs": 2, "trackers": ["wandb"]}}
    assert RunFolder.open(tmp_path / "run").config == run.config
    assert without_none([{"a": None, "b": (1, {"c": None})}]) == [{"b": [1, {}]}]


def test_the_environment_is_stored_with_versions(tmp_path):
    import torch

    RunFolder.create(tmp_path / "run", {})
    assert torch.__version__ in (tmp_path / "run" / "environment.json").read_text()
    assert set(environment()) == {"time", "python", "machine", "packages"}
    assert environment()["packages"]["torch"] == torch.__version__


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=f"{tmp_path} already holds something.*plaudit resume {tmp_path}"):
        RunFolder.create(tmp_path, {})
    with pytest.raises(ConfigError, match="already holds something"):
        RunFolder.create(tmp_path / "notes.txt", {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", {})


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path} is no run: it holds no config.toml"):
        RunFolder.open(tmp_path)


def test_a_failed_beginning_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="wrong"), RunFolder.begin(tmp_path / "run", {}, resuming=False):
        raise ConfigError("wrong")
    assert not (tmp_path / "run").exists()
    with RunFolder.begin(tmp_path / "run", {"a": 1}, resuming=False) as run:
        assert run.config == {"a": 1}
    with pytest.raises(ConfigError, match="wrong"), RunFolder.begin(tmp_path / "run", {}, resuming=True) as run:
        raise ConfigError("wrong")
    assert run.config == {"a": 1}


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.write("report.json", "old")

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            run.write("report.json", "new")
    assert (tmp_path / "report.json").read_text() == "old"
    run.write("report.json", "newer")
    assert (tmp_path / "report.json").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_feedback_behind_a_run_is_stored(tmp_path):
    run = RunFolder(tmp_path)
    assert run.feedback_ids == frozenset()
    run.write_feedback_ids(["b", "a"])
    assert (tmp_path / "feedback_ids.txt").read_text() == "b\na\n"
    assert run.feedback_ids == {"a", "b"}


def test_metrics_are_appended_read_and_cut(tmp_path):
    run = RunFolder(tmp_path)
    assert run.metrics() == []
    for step in (1, 2, 3):
        run.log(step, "train", {"loss": step / 2})
    run.log(2, "held_out", {"loss": 9.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "tr')  # a crash cut this one
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 2]
    run.forget_metrics_after(2)
    assert run.metrics() == [
        {"step": 1, "split": "train", "loss": 0.5},
        {"step": 2, "split": "train", "loss": 1.0},
        {"step": 2, "split": "held_out", "loss": 9.0},
    ]
    run.log(3, "train", {"loss": float("nan")})
    assert [row["step"] for row in run.metrics()] == [1, 2, 2, 3]
    run.forget_metrics_after(-1)
    assert run.metrics() == []
