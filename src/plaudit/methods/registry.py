"""The table of methods: what each learns from and what it costs, for `plaudit methods` and docs/methods.md.

A module of this package that holds a tuple ENTRIES stands in the table; nothing else has to name it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Sequence as Rows
from typing import get_args, get_type_hints

import plaudit.methods as package
from plaudit.methods.entry import Axes, Entry

_COLUMNS = ("method", "feedback", "signal", "reference", "data", "memory", "when", "paper")


def find_entries() -> tuple[Entry, ...]:
    """The rows of all modules: what learns from stored feedback first, each part by name."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "registry"]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    rows = [row for module in modules for row in getattr(module, "ENTRIES", ())]
    return tuple(sorted(rows, key=lambda row: (row.data == "on-policy", row.name)))


ENTRIES: tuple[Entry, ...] = find_entries()


def as_markdown(rows: Rows[Entry] = ENTRIES) -> str:
    """The table in Markdown, as docs/methods.md holds it."""
    cells = [_COLUMNS, ["---"] * len(_COLUMNS), *([f"`{row.name}`", *row.cells[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def as_matrix(rows: Rows[Entry] = ENTRIES) -> tuple[tuple[str, ...], ...]:
    """The methods by their axes: a line for each form of feedback and reward, a column for each optimiser.

    The first line heads the columns. A line that no method stands in is left out; an empty cell is what nobody has built here.
    """
    optimisers = get_args(get_type_hints(Axes)["optimiser"])
    cells = defaultdict[tuple[str, str, str], list[str]](list)
    for row in rows:
        cells[row.axes.feedback, row.axes.reward, row.axes.optimiser].append(row.name)
    lines = [
        (feedback, reward, *(", ".join(cells[feedback, reward, optimiser]) for optimiser in optimisers))
        for feedback in get_args(get_type_hints(Axes)["feedback"])
        for reward in get_args(get_type_hints(Axes)["reward"])
    ]
    return (("feedback", "reward", *optimisers), *(line for line in lines if any(line[2:])))


def matrix_as_markdown(rows: Rows[Entry] = ENTRIES) -> str:
    """`as_matrix` in Markdown, as docs/methods.md holds it."""
    head, *lines = as_matrix(rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))
