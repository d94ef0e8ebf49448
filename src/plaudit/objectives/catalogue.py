"""The catalogue: one row per objective, declared beside its function, and shapes held against the signature at each call."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from plaudit.objectives.arguments import TensorArgument, check_shapes, tensor_arguments

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Role = Literal["loss", "advantage", "value", "reward", "weight", "divergence", "statistic"]
Feedback = Literal[
    "any",
    "comparison",
    "ranking",
    "rating",
    "reaction",
    "critique",
    "spans",
    "edit",
    "demonstration",
    "verdict",
    "exposure",
    "none",
]
Signal = Literal["preference", "reward", "cost", "label", "gain", "advantage", "return", "click", "teacher", "none"]
Data = Literal["on-policy", "off-policy", "either"]
Modality = Literal["any", "text", "images", "rankings", "retrieval", "control", "solvers"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the catalogue.

    Attributes:
        name: the function's name.
        family: the folder that holds it, such as ``preferences``.
        group: the module that holds it, such as ``pairwise``.
        role: what it gives: a loss, or something that a loss or a reward is made of.
        paper: authors and arXiv id, as one would cite it in a line.
        feedback: the kind of feedback record that it starts from.
        signal: what the feedback is turned into before the objective sees it.
        data: whether outputs must come from the current policy.
        reference: whether it needs log-probabilities (or errors) under a reference.
        modalities: what it is used for.
        function: the objective itself.
        tensors: its tensor arguments with their axes.
    """

    name: str
    family: str
    group: str
    role: Role
    paper: str
    feedback: Feedback
    signal: Signal
    data: Data
    reference: bool
    modalities: tuple[Modality, ...]
    function: Callable[..., object]
    tensors: tuple[TensorArgument, ...]

    @property
    def summary(self) -> str:
        """The first line of the objective's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_entries: dict[str, Entry] = {}


def objective(
    *,
    role: Role = "loss",
    paper: str,
    feedback: Feedback,
    signal: Signal,
    data: Data,
    reference: bool,
    modalities: tuple[Modality, ...] = ("any",),
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Enter a function into the catalogue, and hold the tensors of each call against its signature.

    The function stays what it is: pure, and callable with tensors alone. A tensor of another shape than the signature's
    jaxtyping annotation is a ValueError that names the argument, where broadcasting would have gone on with it.
    """

    def enter(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        tensors = tensor_arguments(function)

        @functools.wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            check_shapes(tensors, args, kwargs)
            return function(*args, **kwargs)

        name, (family, group) = function.__name__, function.__module__.split(".")[-2:]
        if name in _entries and _entries[name].group != group:
            raise ValueError(f"{name}: stands in the catalogue twice, in {_entries[name].group} and in {group}")
        _entries[name] = Entry(
            name, family, group, role, paper, feedback, signal, data, reference, modalities, checked, tensors
        )
        return checked

    return enter


def entries() -> tuple[Entry, ...]:
    """All rows, by family and group."""
    import plaudit.objectives  # noqa: F401  its modules enter their objectives when they are imported

    return tuple(sorted(_entries.values(), key=lambda entry: (entry.family, entry.group)))


_COLUMNS = ("objective", "what", "role", "paper", "feedback", "signal", "data", "reference", "used for")


def as_markdown(rows: Sequence[Entry]) -> str:
    """Rows of the catalogue as tables in Markdown, one per group of a family, as docs/objectives.md holds them."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in rows:
        groups.setdefault((entry.family, entry.group), []).append(entry)
    parts = []
    for (family, group), members in groups.items():
        module = importlib.import_module(members[0].function.__module__)
        about = (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ")
        parts.append(f"## {family} / {group}\n\n{about}\n")
        parts.extend(_row(cells) for cells in (_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, members)))
        parts.append("")
    return "\n".join(parts)


def _cells(row: Entry) -> tuple[str, ...]:
    reference = "yes" if row.reference else "no"
    what = (row.summary, row.role, row.paper, row.feedback, row.signal, row.data, reference, ", ".join(row.modalities))
    return (f"`{row.name}`", *(cell.replace("|", "\\|").replace("``", "`") for cell in what))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
