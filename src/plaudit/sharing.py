"""Work that several processes share: each does its part, all get the whole, and what one raises is raised in all."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from plaudit.errors import ConfigError, TrainingError
from plaudit.progress import console

LONGEST_WAIT = timedelta(days=7)
"""How long a process waits for another one that samples or judges; torchrun ends all when one has failed."""

ResultT = TypeVar("ResultT")


def processes() -> int:
    """How many processes there are; 1 where none were started together (torchrun, accelerate launch)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks; the only one is."""
    return processes() == 1 or dist.get_rank() == 0


def join() -> None:
    """Meet the processes that torchrun or accelerate launch started, each on a GPU of its own where there are some.

    All but the first fall silent. Where this process is the only one, nothing happens.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
    console.quiet = not is_main()


def expect_alone(what: str) -> None:
    """Raise a `ConfigError` where torchrun or accelerate launch started several processes for what is one's work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{what} is the work of one process. Start it without torchrun or accelerate launch.")


def from_main(work: Callable[[], ResultT]) -> ResultT:
    """What the main process's work gives, in every process; the others do not work, and wait.

    Raises:
        TrainingError: in the others, where the main process's work failed; there, what was raised is raised as it is.
    """
    found: ResultT | None = together(lambda: work() if is_main() else None)[0]
    return found  # type: ignore[return-value]


def own_part(count: int) -> range:
    """This process's part of so many items: they are cut into as many parts of nearly equal size, in their order."""
    total = processes()
    rank = dist.get_rank() if total > 1 else 0
    return range(count * rank // total, count * (rank + 1) // total)


def together(work: Callable[[], ResultT]) -> list[ResultT]:
    """What the work of every process gave, in the order of the processes; each calls this with its own part of the work.

    No process waits for one that has failed: failures are exchanged like results.

    Raises:
        TrainingError: the work of another process failed; it says of which and how. What this one's raised is raised as it is.
    """
    if processes() == 1:
        return [work()]
    result: ResultT | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - raised below, once the others know
        failure = error
    every: list[tuple[ResultT, str | None]] = [None] * processes()  # type: ignore[list-item]
    dist.all_gather_object(every, (result, None if failure is None else f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    for rank, (_, trouble) in enumerate(every):
        if trouble is not None:
            raise TrainingError(f"The work of process {rank} failed: {trouble}")
    return [part for part, _ in every]
