"""Work that several processes share: each does its part, all get the whole, and what one raises is raised in all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from plaudit.errors import RewardError

ResultT = TypeVar("ResultT")


def processes() -> int:
    """How many processes there are; 1 where none were started together (torchrun, accelerate launch)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_part(count: int) -> range:
    """This process's part of so many items: they are cut into as many parts of nearly equal size, in their order."""
    total = processes()
    rank = dist.get_rank() if total > 1 else 0
    return range(count * rank // total, count * (rank + 1) // total)


def together(work: Callable[[], ResultT]) -> list[ResultT]:
    """What the work of every process gave, in the order of the processes; each calls this with its own part of the work.

    No process waits for one that has failed: failures are exchanged like results.

    Raises:
        RewardError: the work of another process failed; it says of which and how. What this one's raised is raised as it is.
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
            raise RewardError(f"Sampling or judging failed in process {rank}: {trouble}")
    return [part for part, _ in every]
