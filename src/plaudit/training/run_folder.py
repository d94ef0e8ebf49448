"""A run is a folder: configuration, environment, the ids of the feedback it learned from, metrics, checkpoints, report."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w
import torch

from plaudit.errors import CheckpointError, ConfigError, PlauditError
from plaudit.sharing import from_main, is_main


class RunFolder:
    """Reads and writes one run's files. Every file is written beside its place and renamed, so none is ever half."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Start a run in a new or empty folder, and store its configuration and environment; all processes do it together."""
        return from_main(lambda: cls._create(path, config))

    @classmethod
    def _create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(
                f"{path} already holds something. Give another folder, or continue that run with: plaudit resume {path}"
            )
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run.write("config.toml", tomli_w.dumps(without_none(config)))
        run.write("environment.json", json.dumps(environment(), indent=2) + "\n")
        return run

    @classmethod
    @contextlib.contextmanager
    def begin(cls, path: Path, config: Mapping[str, Any], *, resuming: bool) -> Iterator[RunFolder]:
        """A new run, or the one in `path` when resuming; inside, it is set up.

        If the set-up fails for a reason that is the user's to mend, a new run leaves nothing behind, so that the same
        command can be given again.
        """
        if resuming:
            yield cls.open(path)
            return
        run = cls.create(path, config)
        try:
            yield run
        except PlauditError:
            if is_main():
                shutil.rmtree(path)
            raise

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run."""
        if not (path / "config.toml").is_file():
            raise CheckpointError(f"{path} is no run: it holds no config.toml.")
        return cls(path)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return tomllib.loads((self.path / "config.toml").read_text())

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the final model lies."""
        return self.path / "model"

    def write(self, name: str, text: str) -> Path:
        """Write a text file whole; of several processes the main one does."""
        target = self.path / name
        if not is_main():
            return target
        temporary = target.with_name(f".writing-{target.name}")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        return target

    def write_feedback_ids(self, record_ids: Iterable[str]) -> None:
        """Store which feedback this run learned from, one record id a line."""
        self.write("feedback_ids.txt", "".join(f"{record_id}\n" for record_id in record_ids))

    @property
    def feedback_ids(self) -> frozenset[str]:
        """Which feedback this run learned from."""
        file = self.path / "feedback_ids.txt"
        return frozenset(file.read_text().split()) if file.is_file() else frozenset()

    def log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append one line of metrics; of several processes the main one does."""
        if not is_main():
            return
        line = json.dumps({"step": step, "split": split, **values}, allow_nan=True)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics; a last line that a crash cut short is left out."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else ()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def environment() -> dict[str, Any]:
    """Versions and machine, as they go into a run and a report."""
    packages = {}
    for name in ("plaudit", "torch", "transformers", "peft", "accelerate", "numpy", "safetensors"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    packages["torch"] = torch.__version__  # which the metadata of its wheels leave the CUDA version out of
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": packages,
    }


def without_none(value: Any) -> Any:
    """TOML has no null: what is None is left out."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value
