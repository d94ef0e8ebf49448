"""The format `ranked`: several outputs of one context with ranks or scores.

    {"prompt": "Capital of France?", "completions": ["Paris", "Lyon", "Rome"], "ranks": [1, 2, 2]}
    {"prompt": "Capital of France?", "completions": ["Paris", "Lyon"], "scores": [9, 2], "low": 1, "high": 10}
    {"prompt": "Capital of France?", "completions": ["Paris", "Lyon"], "scores": [0.83, -1.7]}

- With `ranks` (1 is best, equal ranks are ties, null was not ranked) a row is a ranking.
- With `scores` and a scale from `low` to `high` it is a rating of each output; null was not rated.
- With `scores` of an unknown scale it is the ranking that the scores make, because a rating without a scale says
  nothing that could be compared; the scores are kept in the record's attributes.

Optional columns: `models` (one for each completion, or null), `aspect`, and those of `margin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from plaudit.feedback.formats.format import Format, NotHeld
from plaudit.feedback.formats.margin import read_margin, write_margin, written
from plaudit.feedback.formats.rows import (
    Row,
    RowContext,
    RowError,
    content,
    listed,
    not_empty,
    number,
    numbered,
    optional_text,
    producer,
    prompt,
    type_name,
)
from plaudit.feedback.records import Context, Feedback, FeedbackBase, Output, Ranking, Rating

_OWN = frozenset({"prompt", "completions", "ranks", "scores", "low", "high", "models", "aspect"})


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    outputs = _outputs(row, context.flat)
    shared: dict[str, Any] = {"context": Context(content=prompt(row, "prompt", flat=context.flat))}
    shared |= read_margin(row, context, _OWN)
    aspect = optional_text(row, "aspect")
    if aspect is not None:
        shared["aspect"] = aspect
    scores = _values(row, "scores", len(outputs), context.flat)
    ranks = _values(row, "ranks", len(outputs), context.flat)
    scaled = all(row.get(column) not in (None, "") for column in ("low", "high"))
    if ranks is None and scores is None:
        raise RowError("ranks", None, "expected `ranks` or `scores`, and both are missing")
    if ranks is None and scores is not None and scaled:
        return numbered(context, _ratings(row, outputs, scores, shared, context.flat))
    if scores is not None:
        kept = {"scores": list(scores)} | ({name: row[name] for name in ("low", "high")} if scaled else {})
        shared["attributes"] = shared.get("attributes", {}) | kept
    order = ranks if ranks is not None else [None if score is None else -score for score in scores or ()]
    tiers = _tiers(order, "ranks" if ranks is not None else "scores")
    return numbered(context, [(Ranking, shared | {"outputs": outputs, "tiers": tiers})])


def _outputs(row: Row, flat: bool) -> tuple[Output, ...]:
    completions = listed(row, "completions", flat=flat)
    models: Sequence[Any] = [None] * len(completions)
    if row.get("models") not in (None, ""):
        models = listed(row, "models", flat=flat)
        _same_length(models, "models", len(completions))
    outputs = []
    for index, (said, model) in enumerate(zip(completions, models, strict=True)):
        if model is not None and not isinstance(model, str):
            raise RowError(f"models[{index}]", model, f"expected text, got {type_name(model)}")
        column = f"completions[{index}]"
        try:
            outputs.append(Output(content=not_empty(content(said, column), column), producer=producer(model)))
        except ValidationError as error:
            raise RowError(f"models[{index}]", model, error.errors()[0]["msg"]) from None
    return tuple(outputs)


def _values(row: Row, column: str, count: int, flat: bool) -> list[float | None] | None:
    """A list of numbers or nulls, one for each completion; None where the column is absent."""
    if row.get(column) in (None, ""):
        return None
    values = listed(row, column, flat=flat)
    _same_length(values, column, count)
    return [None if value is None else number(value, f"{column}[{index}]") for index, value in enumerate(values)]


def _same_length(values: Sequence[Any], column: str, count: int) -> None:
    if len(values) != count:
        raise RowError(column, values, f"expected one value for each of the {count} completions, got {len(values)}")


def _tiers(order: Sequence[float | None], column: str) -> tuple[tuple[int, ...], ...]:
    """Indices with equal values together, the smallest value first."""
    tiers: dict[float, list[int]] = {}
    for index, value in enumerate(order):
        if value is not None:
            tiers.setdefault(value, []).append(index)
    if not tiers:
        raise RowError(column, list(order), "expected at least one value that is not null")
    return tuple(tuple(tiers[value]) for value in sorted(tiers))


def _ratings(
    row: Row, outputs: Sequence[Output], scores: Sequence[float | None], shared: dict[str, Any], flat: bool
) -> list[tuple[type[FeedbackBase], dict[str, Any]]]:
    low, high = (number(row[column], column, flat=flat) for column in ("low", "high"))
    if not low < high:
        raise RowError("low", low, f"expected less than `high`, which is {high}")
    for index, score in enumerate(scores):
        if score is not None and not low <= score <= high:
            raise RowError(f"scores[{index}]", score, f"expected a score from {low} to {high}")
    if not any(score is not None for score in scores):
        raise RowError("scores", list(scores), "expected at least one value that is not null")
    return [
        (Rating, shared | {"outputs": (output,), "value": score, "low": low, "high": high})
        for output, score in zip(outputs, scores, strict=True)
        if score is not None
    ]


def _dump(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Ranking | Rating):
        return NotHeld(f"a {record.kind}")
    sides = written(record.context, *record.outputs)
    if isinstance(sides, NotHeld):
        return sides
    row: Row = {"prompt": sides[0], "completions": list(sides[1:])}
    if isinstance(record, Rating):
        row |= {"scores": [record.value], "low": record.low, "high": record.high}
    else:
        ranks = {index: rank for rank, tier in enumerate(record.tiers, start=1) for index in tier}
        row["ranks"] = [ranks.get(index) for index in range(len(record.outputs))]
    models = [None if output.producer is None else output.producer.model for output in record.outputs]
    if any(models):
        row["models"] = models
    if record.aspect != "overall":
        row["aspect"] = record.aspect
    return write_margin(record, row, _OWN)


FORMAT = Format(
    name="ranked",
    description="several completions of a prompt with ranks (1 is best) or scores",
    example={"prompt": "Capital of France?", "completions": ["Paris", "Lyon", "Rome"], "ranks": [1, 2, 2]},
    columns=(("prompt", "completions", "ranks"), ("prompt", "completions", "scores")),
    parse=_parse,
    dump=_dump,
)
