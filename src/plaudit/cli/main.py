"""The entry point: which commands there are, where their settings come from, and how errors are said.

Exit codes: 0 done; 1 the work failed; 2 the command, a setting or a file is not usable; 130 interrupted.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App
from cyclopts.config import Dict
from rich.console import Console
from rich.markup import escape

from plaudit import __version__
from plaudit.errors import CheckpointError, ConfigError, PlauditError, StoreError, TrainingError

app = App(
    name="plaudit",
    version=__version__,
    help="""Learn from feedback: keep what was said about a model's outputs, improve the model with it, prove by how much.

    plaudit demo                                            see it work, in minutes, on two cores
    plaudit import votes.jsonl --store feedback.db          keep feedback, whatever its format
    plaudit align --model MODEL --feedback feedback.db      improve a model, and report by how much

    Every setting of a command can also stand in a TOML file under the same name: --config settings.toml. What the command
    line says wins.""",
)
feedback_app = App(name="feedback", help="Look at a feedback store: list, show, stats, forget.")
train_app = App(name="train", help="Train a model from feedback: reward.")
app.command(feedback_app)
app.command(train_app)

# Commands are loaded when they are called, so that --help and the store's commands do not wait for torch.
_TRAINING, _FEEDBACK = "plaudit.cli.training_commands", "plaudit.cli.feedback_commands"
app.command(f"{_TRAINING}:demo", name="demo", help="A small model learns from simulated people; about 8 minutes.")
app.command(f"{_FEEDBACK}:import_feedback", name="import", help="Read a file of feedback into a store.")
app.command(f"{_FEEDBACK}:export", name="export", help="Write a store's feedback to a file.")
app.command(
    f"{_TRAINING}:align", name="align", help="Improve a model with feedback or a reward, and report by how much."
)
app.command(f"{_TRAINING}:evaluate", name="evaluate", help="Compare two models, with a reward model as the judge.")
app.command(f"{_TRAINING}:compare", name="compare", help="Compare runs at equal distance from where they began.")
app.command(f"{_TRAINING}:resume", name="resume", help="Continue a run that was interrupted.")
app.command(f"{_TRAINING}:report", name="report", help="Write a run's report again, and open it.")
app.command(f"{_TRAINING}:methods", name="methods", help="List the methods and what each learns from.")
app.command(
    "plaudit.cli.objective_commands:objectives", name="objectives", help="List the objectives, or explain one of them."
)
app.command("plaudit.cli.study_commands:study", name="study", help="Run the study of a system's claim, or list them.")
app.command(
    f"{_FEEDBACK}:formats", name="formats", help="List the file formats of feedback, with an example row of each."
)
feedback_app.command(f"{_FEEDBACK}:list_feedback", name="list", help="List records, newest last.")
feedback_app.command(f"{_FEEDBACK}:show", name="show", help="Show one record whole.")
feedback_app.command(f"{_FEEDBACK}:stats", name="stats", help="Count what a store holds.")
feedback_app.command(f"{_FEEDBACK}:forget", name="forget", help="Delete all that one source said, for good.")
train_app.command(f"{_TRAINING}:train_reward", name="reward", help="Train a reward model from comparisons.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    errors = Console(stderr=True, highlight=False)
    # a tokenizer that was used before a data loader forks would print a warning at every fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokens, config = _split_config(list(sys.argv[1:] if arguments is None else arguments))
        _add_examples(tokens)
        app.config = () if config is None else (_read_config(config, app.parse_commands(tokens)[0]),)
        result = app(tokens, exit_on_error=False, print_error=True, result_action="return_value", console=errors)
    except PlauditError as error:
        errors.print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True)
        return 1 if isinstance(error, TrainingError | StoreError | CheckpointError) else 2
    except KeyboardInterrupt:
        errors.print("Interrupted. A run that had begun continues with: plaudit resume RUN")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        hint = " Free some, and continue a run that had begun with: plaudit resume RUN" * (error.errno == errno.ENOSPC)
        errors.print(f"[red]Error:[/red] {escape(f'{error.strerror or error}{place}.{hint}')}", soft_wrap=True)
        return 1
    except Exception as error:
        from cyclopts import CycloptsError

        if isinstance(error, CycloptsError):
            return 2
        raise
    return result if isinstance(result, int) else 0


def _add_examples(tokens: Sequence[str]) -> None:
    """Let a command's help end with the examples of its docstring; what lists commands is told one line of each instead."""
    if not {"--help", "-h"} & set(tokens):
        return
    command = app.parse_commands([token for token in tokens if token not in ("--help", "-h")])[1][-1]
    examples = (inspect.getdoc(command.default_command) or "").partition("Examples:\n")[2].partition("\n\n")[0]
    if examples:
        command.help_epilogue = f"Examples:\n\n```sh\n{inspect.cleandoc(examples)}\n```"


def _read_config(path: Path, commands: Sequence[str]) -> Dict:
    """The file's settings as those of the command that is called. A run's config.toml also says what ran it."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {str(path)!r} is no TOML file: {error}") from error
    settings.pop("workflow", None)
    for command in reversed(commands):
        settings = {command: settings}
    return Dict(settings, source=str(path))


def _split_config(tokens: list[str]) -> tuple[list[str], Path | None]:
    """Take ``--config FILE`` out of the arguments; its settings are read as if they stood on the command line."""
    for index, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if name != "--config":
            continue
        if not equals and index + 1 >= len(tokens):
            raise ConfigError("--config: expected the path of a TOML file")
        path = Path(value if equals else tokens[index + 1])
        if not path.is_file():
            raise ConfigError(f"--config: there is no file {str(path)!r}")
        return tokens[:index] + tokens[index + (1 if equals else 2) :], path
    return tokens, None
