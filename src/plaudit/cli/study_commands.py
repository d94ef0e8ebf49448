"""The command that runs the studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from plaudit.studies import STUDIES, find_study, run_study
from plaudit.studies.running import is_complete
from plaudit.studies.table import has_place, publish

_out = Console(highlight=False)
_DOCS = Path("docs")


def study(
    name: str | None = None,
    /,
    *,
    seeds: int | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    run: Path | None = None,
) -> None:
    """Run a system's study and say whether its claim holds; without a name, list the studies.

    The same command continues a study that was interrupted. In a checkout of plaudit, the result of a whole study goes into
    docs/systems.md.

    Examples:
        plaudit study
        plaudit study nft --quick
        plaudit study nft --seeds 8 --run runs/nft

    Args:
        name: of the study.
        seeds: how many; by default as many as the study declares.
        quick: a smoke run of a minute or two; its figures say nothing.
        run: where its trials and its result are kept; by default runs/study-NAME.
    """
    if name is None:
        _out.print(_table())
        return
    found = find_study(name)
    folder = run or Path("runs") / f"study-{name}{'-quick' * quick}"
    _out.print(f"[bold]{found.title}[/bold]\n{found.setting}\nCriterion: {found.criterion}")
    result = run_study(found, folder, seeds=seeds, quick=quick)
    for finding in result["findings"]:
        _out.print(f"{finding['claim']}: [bold]{finding['decision']}[/bold], {finding['text']}", soft_wrap=True)
    _out.print(f"Result: {folder / 'result.json'}, {folder / 'plot.png'}", soft_wrap=True)
    if quick:
        _out.print("A quick run says nothing about the claim.")
    elif not is_complete(result, found):
        _out.print(f"With {len(result['seeds'])} of {found.seeds} seeds this is not the study as declared.")
    elif has_place(_DOCS):
        publish(folder, _DOCS)
        _out.print(f"Written into {_DOCS / 'systems.md'}.")


def _table() -> Table:
    table = Table("study", "system", "paper", "arms", "seeds", box=None, header_style="bold")
    for name in STUDIES:
        found = find_study(name)
        table.add_row(name, found.title, f"arXiv {found.arxiv}", ", ".join(found.arms), str(found.seeds))
    return table
