"""Work in processes of their own, so many at once, each on one core and with a time limit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """A function of a module and its arguments; both are sent to another process."""

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Rows[Job], *, at_once: int, limit_s: float, folder: Path, ended: Callable[[], None]
) -> dict[str, str]:
    """Run all jobs; returns what went wrong, by the name of the job. The others go on.

    Args:
        jobs: in the order in which they start.
        at_once: how many run side by side.
        limit_s: a job that takes longer is killed.
        folder: where a job leaves the story of its error, as ``NAME.error.txt``.
        ended: called when a job has ended.
    """
    waiting, troubles = list(reversed(jobs)), dict[str, str]()
    running: dict[SpawnProcess, tuple[Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                running[_started(job, folder)] = (job, time.monotonic() + limit_s)
            soonest = min(deadline for _, deadline in running.values())
            wait([process.sentinel for process in running], timeout=max(0.0, soonest - time.monotonic()))
            for process, (job, deadline) in list(running.items()):
                if process.is_alive() and time.monotonic() < deadline:
                    continue
                if process.is_alive():
                    process.kill()
                    troubles[job.name] = f"took longer than its limit of {limit_s:g} s"
                process.join()
                if process.exitcode and job.name not in troubles:
                    troubles[job.name] = _story(job, folder, process.exitcode)
                del running[process]
                ended()
    finally:
        for process in running:
            process.kill()
            process.join()
    return troubles


def _started(job: Job, folder: Path) -> SpawnProcess:
    _error_file(job.name, folder).unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(job.function, job.arguments, _error_file(job.name, folder)), daemon=True
    )
    with _one_thread():
        process.start()
    return process


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """What starts inside computes on one core: libraries read this when they are loaded."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _work(function: Callable[..., None], arguments: tuple[Any, ...], error_file: Path) -> None:
    try:
        function(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is, the process that waits tells it
        error_file.write_text(traceback.format_exc())
        raise SystemExit(1) from None


def _story(job: Job, folder: Path, exit_code: int) -> str:
    file = _error_file(job.name, folder)
    if not file.is_file():
        return f"ended with exit code {exit_code} and said nothing"
    return f"{file.read_text().strip().splitlines()[-1]} (all of it: {file})"


def _error_file(name: str, folder: Path) -> Path:
    return folder / f"{name}.error.txt"
