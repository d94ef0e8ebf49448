"""The format `ultrafeedback`: completions of an instruction, judged by aspects (Cui et al. 2023, arXiv 2310.01377).

    {"source": "sharegpt", "instruction": "Things to do in Cairo?", "models": ["gpt-4"],
     "correct_answers": ["None"], "incorrect_answers": ["None"],
     "completions": [{"model": "gpt-4", "principle": "helpfulness", "custom_system_prompt": "Be helpful.",
                      "response": "See the pyramids.", "overall_score": 7.5, "fine-grained_score": 4.25,
                      "critique": "Good, but short.",
                      "annotations": {"honesty": {"Rating": "5", "Rationale": "True."},
                                      "helpfulness": {"Type": ["1"], "Rationale": "Clear.", "Rating": "N/A",
                                                      "Rationale For Rating": "Too short."}}}]}

Each completion gives a rating of 1 to 5 for every aspect, a rating of 1 to 10 for "overall", and a critique. A rating
"N/A" is skipped and counted. The rationale explains its rating and stays with it, in `attributes["annotation"]`;
`attributes["completion"]` is the completion's place, and other fields of the completion (`fine-grained_score`) are
attributes too. `model`, `custom_system_prompt` and `principle` make the output's producer. The other columns, among
them `source` (the data set of the instruction, not who judged), are attributes of the context. `models` repeats the
completions' models and is written anew.

Written are ratings on these two scales and critiques of "overall"; records of one row go back into one row. An export
holds the rows that it builds in memory. The judge's name and the time have no column.
"""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue, ValidationError

from plaudit.feedback.formats.format import Format, Gathering, NotHeld, gathered
from plaudit.feedback.formats.margin import written
from plaudit.feedback.formats.rows import (
    Row,
    RowContext,
    RowError,
    from_cell,
    listed,
    mapping,
    number,
    numbered,
    optional_text,
    text,
)
from plaudit.feedback.records import Context, Critique, Feedback, FeedbackBase, Output, Producer, Rating, Text

_ROW = ("instruction", "models", "completions")
_MADE_BY = ("model", "custom_system_prompt", "principle")
_COMPLETION = (*_MADE_BY, "response", "annotations", "overall_score", "critique")
_KEPT_IN_ATTRIBUTES = (*_COMPLETION, "completion", "annotation")
_MOST_COMPLETIONS = 1000
_NOT_RATED = ("", "n/a", "na", "none")
_Statements = list[tuple[type[FeedbackBase], dict[str, Any]]]


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    attributes = {
        column: from_cell(value) if context.flat and isinstance(value, str) else value
        for column, value in row.items()
        if column not in _ROW and value is not None and value != ""
    }
    asked = Context(content=Text(text=text(row, "instruction")), attributes=attributes)
    statements: _Statements = []
    for index, value in enumerate(listed(row, "completions", flat=context.flat)):
        place = f"completions[{index}]"
        completion = dict(mapping(value, place))
        extra = {name: value for name, value in completion.items() if name not in _COMPLETION and value is not None}
        shared = {"context": asked, "outputs": (_output(completion, place),)}
        shared["attributes"] = {"completion": index} | extra
        statements += _aspects(completion, place, shared, context)
        statements += _overall(completion, place, shared, context)
    return numbered(context, statements)


def _output(completion: Row, place: str) -> Output:
    response = _text_at(completion, "response", place)
    if response is None:
        raise RowError(f"{place}.response", completion.get("response"), "an output must not be empty")
    model, system, principle = (_text_at(completion, name, place) for name in _MADE_BY)
    if model is None and (system or principle):
        raise RowError(f"{place}.model", None, "expected the model that was given this system prompt")
    try:
        sampler: dict[str, JsonValue] = {} if principle is None else {"principle": principle}
        producer = None if model is None else Producer(model=model, prompt=system, sampler=sampler)
    except ValidationError as error:
        raise RowError(f"{place}.model", model, error.errors()[0]["msg"]) from None
    return Output(content=Text(text=response), producer=producer)


def _text_at(completion: Row, name: str, place: str) -> str | None:
    try:
        return optional_text(completion, name)
    except RowError as error:
        raise RowError(f"{place}.{name}", completion[name], error.reason) from None


def _aspects(completion: Row, place: str, shared: dict[str, Any], context: RowContext) -> _Statements:
    annotations = completion.get("annotations")
    statements: _Statements = []
    for aspect, value in mapping({} if annotations is None else annotations, f"{place}.annotations").items():
        if value is None:  # what a table fills in for an aspect that other rows have
            continue
        column = f"{place}.annotations.{aspect}"
        note = _note(value, column)
        rating = _rating(note.pop("Rating", None), f"{column}.Rating", 5)
        if rating is None:
            context.skipped[f"rating of {aspect} is N/A"] += 1
            continue
        attributes = shared["attributes"] | ({"annotation": note} if note else {})
        scale = {"value": rating, "low": 1, "high": 5, "aspect": aspect}
        statements.append((Rating, shared | scale | {"attributes": attributes}))
    return statements


def _note(value: Any, column: str) -> Row:
    """An aspect's annotation: an object, or a list with one object, as in the data set's first version."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return {name: said for name, said in mapping(value, column).items() if said is not None}


def _rating(value: Any, column: str, high: int) -> float | None:
    """A number from 1 to `high`; None where the judge gave none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NOT_RATED):
        return None
    rating = number(value, column, flat=True)  # UltraFeedback spells its ratings as text
    if not 1 <= rating <= high:
        raise RowError(column, value, f"expected a rating from 1 to {high}")
    return rating


def _overall(completion: Row, place: str, shared: dict[str, Any], context: RowContext) -> _Statements:
    statements: _Statements = []
    score = _rating(completion.get("overall_score"), f"{place}.overall_score", 10)
    if score is not None:
        statements.append((Rating, shared | {"value": score, "low": 1, "high": 10}))
    elif "overall_score" in completion:
        context.skipped["overall_score is N/A"] += 1
    critique = _text_at(completion, "critique", place)
    if critique is not None:
        statements.append((Critique, shared | {"critique": critique}))
    return statements


# --- export --------------------------------------------------------------------------------------------------------


def _dump(record: Feedback) -> Row | NotHeld:
    if not isinstance(record, Rating | Critique):
        return NotHeld(f"a {record.kind}")
    sides = written(record.context, *record.outputs)
    if isinstance(sides, NotHeld) or not all(isinstance(side, str) for side in sides):
        return sides if isinstance(sides, NotHeld) else NotHeld("a chat")
    if isinstance(record, Critique):
        return NotHeld("a critique of one aspect") if record.aspect != "overall" else gathered(_GATHERING, record)
    scale = (1.0, 10.0) if record.aspect == "overall" else (1.0, 5.0)
    if (record.low, record.high) != scale:
        return NotHeld(f"a rating that is not from {scale[0]:g} to {scale[1]:g}")
    return gathered(_GATHERING, record)


def _begin(record: Feedback) -> Row:
    return {**record.context.attributes, "instruction": record.context.text, "completions": []}


def _place(row: Row, record: Feedback) -> bool:
    completion = _slot(row["completions"], _about(record), record.attributes.get("completion"))
    if completion is None:
        return False
    match record:
        case Critique():
            return _put(completion, "critique", record.critique)
        case Rating(aspect="overall"):
            return _put(completion, "overall_score", record.value)
        case Rating():
            return _put(completion["annotations"], record.aspect, _annotation(record))
    return False


def _put(place: Row, name: str, value: Any) -> bool:
    """Write a value where there is none; False where there is one."""
    if place.get(name) is not None:
        return False
    place[name] = value
    return True


def _about(record: Feedback) -> Row:
    """The completion that a record speaks of, without what was said about it."""
    (output,) = record.outputs
    maker = output.producer
    principle = maker.sampler.get("principle") if maker else None
    extra = {name: value for name, value in record.attributes.items() if name not in _KEPT_IN_ATTRIBUTES}
    return {
        "model": maker.model if maker else None,
        "principle": principle if isinstance(principle, str) else None,
        "custom_system_prompt": maker.prompt if maker else None,
        "response": output.text,
        **extra,
    }


def _annotation(record: Rating) -> Row:
    note = record.attributes.get("annotation")
    rating = int(record.value) if record.value.is_integer() else record.value
    return {**(note if isinstance(note, dict) else {}), "Rating": str(rating)}


def _slot(completions: list[Row | None], about: Row, index: Any) -> Row | None:
    """A completion's place in the row, perhaps a new one; None where another completion has it."""
    known = [other for other in completions if other is not None and about.items() <= other.items()]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < _MOST_COMPLETIONS:
        index = completions.index(known[0]) if known else len(completions)
    completions += [None] * (index + 1 - len(completions))
    found = completions[index]
    if found is None:
        completions[index] = found = about | {"annotations": {}, "overall_score": None, "critique": None}
        return found
    return found if any(found is other for other in known) else None


def _finish(row: Row) -> Row:
    completions = [completion for completion in row["completions"] if completion is not None]
    return row | {"models": [completion["model"] for completion in completions], "completions": completions}


_GATHERING = Gathering(begin=_begin, place=_place, finish=_finish)

FORMAT = Format(
    name="ultrafeedback",
    description="UltraFeedback: an instruction and completions with ratings by aspect, an overall score and a critique",
    example={
        "instruction": "Things to do in Cairo?",
        "completions": [
            {
                "model": "gpt-4",
                "response": "See the pyramids.",
                "overall_score": 7.5,
                "critique": "Good, but short.",
                "annotations": {"honesty": {"Rating": "5", "Rationale": "True."}},
            }
        ],
    },
    columns=(("instruction", "completions"),),
    parse=_parse,
    dump=_dump,
    gathering=_GATHERING,
)
