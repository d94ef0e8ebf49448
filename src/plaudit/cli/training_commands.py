"""Commands that train, measure and report."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from plaudit.errors import CheckpointError, ConfigError
from plaudit.evaluation.report import RunReport, write_report
from plaudit.methods.commands import command_of
from plaudit.methods.registry import ENTRIES, as_markdown, as_matrix, matrix_as_markdown
from plaudit.workflows import align as align_workflow
from plaudit.workflows import compare as compare_workflow
from plaudit.workflows import evaluate as evaluate_workflow
from plaudit.workflows import resume as resume_workflow
from plaudit.workflows import train_reward as train_reward_workflow
from plaudit.workflows.config import AlignConfig, EvaluateConfig, TrainRewardConfig
from plaudit.workflows.demo import DemoConfig
from plaudit.workflows.demo import demo as demo_workflow
from plaudit.workflows.plan import plan

_out = Console(highlight=False)
if not _out.is_terminal:
    _out.width = 200  # what goes into a file or another program is not squeezed into 80 columns
DryRun = Annotated[bool, Parameter(negative="", help="Say what would be done, and check the settings; train nothing.")]
OpenReport = Annotated[bool, Parameter(name="--open", help="Open the report in a browser at the end.")]


def demo(config: Annotated[DemoConfig, Parameter(name="*")] = DemoConfig(), *, open_report: OpenReport = True) -> None:
    """A small model learns from the feedback of simulated people, and the report shows by how much it got better.

    Nothing is downloaded: the model comes with a package, the questions with plaudit. About 8 minutes on two cores.

    Examples:
        plaudit demo
        plaudit demo --run runs/first --seed 1
    """
    result = demo_workflow(config)
    if open_report:
        _open(result.page)


def align(config: Annotated[AlignConfig, Parameter(name="*")], *, dry_run: DryRun = False) -> None:
    """Improve a model with feedback or with a reward, and report by how much.

    The contexts are split: the model learns from one part and is measured on the other, against itself before.

    Examples:
        plaudit align --model Qwen/Qwen2.5-0.5B-Instruct --feedback feedback.db
        plaudit align --model ./my-model --feedback pairs.jsonl --dpo.beta 0.05 --training.epochs 2
        plaudit align --config settings.toml --run runs/second --dry-run
        plaudit align --model ./my-model --method grpo --reward python:my_rewards:score --contexts prompts.txt
        plaudit align --model ./my-model --method dapo --reward runs/reward/model --feedback feedback.db --grpo.retries 3
        plaudit align --model ./my-model --method ppo --reward train --feedback feedback.db --ppo.kl-coefficient 0.1
        plaudit align --model ./my-model --method kto --feedback thumbs.jsonl
    """
    if dry_run:
        _out.print(plan(config))
    else:
        align_workflow(config)


def train_reward(config: Annotated[TrainRewardConfig, Parameter(name="*")], *, dry_run: DryRun = False) -> None:
    """Train a reward model from comparisons, rankings and ratings; it can then judge (`--judge RUN/model`).

    Examples:
        plaudit train reward --model ./my-model --feedback feedback.db
        plaudit train reward --model ./my-model --feedback feedback.db --training.patience 3 --training.evaluate-every 20
    """
    if dry_run:
        _out.print(plan(config))
    else:
        train_reward_workflow(config)


def evaluate(config: Annotated[EvaluateConfig, Parameter(name="*")]) -> None:
    """Compare two models on held-out contexts: win rate, length-controlled win rate, distance, lengths.

    Examples:
        plaudit evaluate --model runs/dpo/model --baseline ./my-model --feedback feedback.db --judge runs/dpo/judge/model
    """
    evaluate_workflow(config)


def compare(*runs: Path, to: Path | None = None, open_report: OpenReport = True) -> None:
    """Compare runs with the first of them, at equal KL to the model that they began with and at their last looks.

    A run that moves faster is ahead at equal steps, whether or not its method is better. So the held-out score is drawn over
    the KL at each look, and the curves are compared where both runs have been. The runs need looks at the same held-out
    contexts (--training.evaluate-every, the same contexts and seed), judged by the same second reward (--gold) or, failing
    that, the same --reward. Writes compare.html, compare.md and compare.json.

    Examples:
        plaudit compare runs/grpo runs/online-dpo
        plaudit compare runs/beta-0.1 runs/beta-0.3 runs/beta-1 --to runs/betas

    Args:
        runs: the runs' folders; the others are compared with the first.
        to: where the pages go; by default compare/ in the first run's folder.
    """
    if not runs:
        raise ConfigError("runs: expected at least two folders of runs, such as: plaudit compare runs/a runs/b")
    made, page = compare_workflow(runs, to or runs[0] / "compare")
    for row in made.rows:
        _out.print(f"{row.name}: {row.estimate}, {row.reading}", soft_wrap=True, markup=False)
    for one in made.against_first:
        if one.why_not:
            _out.print(f"{one.name} is not matched: {one.why_not}", soft_wrap=True, markup=False)
    for warning in made.warnings:
        _out.print(f"{warning.rule}: {warning.sentence} {warning.advice}", soft_wrap=True, markup=False)
    _out.print(f"Comparison: {page}", soft_wrap=True, markup=False)
    if open_report:
        _open(page)


def resume(run: Path, /) -> None:
    """Continue a run that was interrupted; the result is that of a run that never was.

    Examples:
        plaudit resume runs/dpo-20260301-120000

    Args:
        run: the run's folder.
    """
    resume_workflow(run)


def report(run: Path, /, *, open_report: OpenReport = True) -> None:
    """Write a run's report again from its figures (report.json), and open it.

    Args:
        run: the run's folder.
    """
    file = run / "report.json"
    if not file.is_file():
        raise CheckpointError(
            f"{run} holds no report.json; a run writes it at its end. Continue it with: plaudit resume {run}"
        )
    page, _ = write_report(RunReport.from_json(file.read_bytes()), run)
    _out.print(f"Report: {page}")
    if open_report:
        _open(page)


def methods(*, form: Literal["table", "matrix", "markdown"] = "table") -> None:
    """List the methods: how each is run, what it learns from, what it needs, when to use it.

    A method without a command is there from Python only.

    Examples:
        plaudit methods
        plaudit methods --form matrix

    Args:
        form: a table; a matrix of what stands where by feedback, reward and optimiser; or the Markdown of both, as
            docs/methods.md holds it.
    """
    if form == "markdown":
        print(f"{matrix_as_markdown()}\n\n{as_markdown()}")  # noqa: T201  not wrapped to the terminal's width
        return
    table = Table(box=None, header_style="bold")
    if form == "matrix":
        head, *lines = as_matrix()
        for name in head:
            table.add_column(name)
        for line in lines:
            table.add_row(*line)
        _out.print(table)
        return
    for name in ("method", "plaudit ..."):
        table.add_column(name, no_wrap=True)
    for name in ("learns from", "reference", "data", "when to use it", "paper"):
        table.add_column(name)
    for row in ENTRIES:
        table.add_row(row.name, command_of(row.name), row.feedback, row.reference, row.data, row.when, row.paper)
    _out.print(table)


def _open(page: Path) -> None:
    """Open a page where a person sits at the machine."""
    if sys.stdout.isatty() and (
        sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        webbrowser.open(page.resolve().as_uri())
