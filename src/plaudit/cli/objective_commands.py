"""The command that shows the catalogue of objectives."""

from __future__ import annotations

import difflib
import inspect
import json
from typing import Literal

from rich.console import Console
from rich.table import Table

from plaudit.errors import ConfigError
from plaudit.objectives.catalogue import Entry, as_markdown, entries

_out = Console(highlight=False)
if not _out.is_terminal:
    _out.width = 160  # what goes into a file or another program is not squeezed into 80 columns


def objectives(
    name: str | None = None,
    /,
    *,
    feedback: str | None = None,
    role: str | None = None,
    family: str | None = None,
    form: Literal["table", "markdown", "json"] = "table",
) -> None:
    """List the objectives, or explain one of them: formula, arguments, paper, an example.

    Examples:
        plaudit objectives
        plaudit objectives --feedback comparison --role loss
        plaudit objectives --family preferences
        plaudit objectives dpo
        plaudit objectives --form json

    Args:
        name: an objective to explain.
        feedback: only those that start from this kind of feedback, such as comparison, rating or exposure.
        role: only those with this role: loss, advantage, value, reward, weight, divergence or statistic.
        family: only those of this family, such as preferences or policy_gradient.
        form: a table, the Markdown of docs/objectives.md, or JSON.
    """
    rows = entries()
    if name is not None:
        _explain(name, rows)
        return
    for setting, value in (("feedback", feedback), ("role", role), ("family", family)):
        if value is not None:
            known = sorted({getattr(row, setting) for row in rows})
            if value not in known:
                raise ConfigError(f"--{setting}: expected one of {', '.join(known)}, got {value!r}")
            rows = tuple(row for row in rows if getattr(row, setting) == value)
    if form == "markdown":
        print(as_markdown(rows))  # noqa: T201  not wrapped to the terminal's width
    elif form == "json":
        print(json.dumps([_fields(row) for row in rows], ensure_ascii=False, indent=2))  # noqa: T201
    else:
        _out.print(_table(rows))
        _out.print(f"{len(rows)} objectives. plaudit objectives NAME explains one.")


def _explain(name: str, rows: tuple[Entry, ...]) -> None:
    found = next((row for row in rows if row.name == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [row.name for row in rows], n=1)
        hint = f" Did you mean {near[0]}?" if near else " plaudit objectives lists them."
        raise ConfigError(f"There is no objective {name!r}.{hint}")
    function = inspect.unwrap(found.function)
    signature = str(inspect.signature(function)).replace("'", "").replace('"', "").replace("[Tensor,  ", "[Tensor, ")
    _out.print(f"plaudit.objectives.{found.family}.{found.name}{signature}\n", markup=False, soft_wrap=True)
    _out.print(inspect.getdoc(function) or "", markup=False, soft_wrap=True)


def _table(rows: tuple[Entry, ...]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("objective", no_wrap=True)
    for heading in ("role", "feedback", "signal", "data", "paper"):
        table.add_column(heading)
    place = ""
    for row in rows:
        if place != (place := f"{row.family} / {row.group}"):
            table.add_row(f"[bold]{place}[/bold]")
        data = row.data + (", reference" if row.reference else "")
        table.add_row(f"  {row.name}", row.role, row.feedback, row.signal, data, row.paper)
    return table


def _fields(row: Entry) -> dict[str, object]:
    names = (
        "name",
        "family",
        "group",
        "role",
        "paper",
        "feedback",
        "signal",
        "data",
        "reference",
        "modalities",
        "summary",
    )
    return {name: getattr(row, name) for name in names}
