"""The format `qa-feedback`: fine-grained human feedback on long answers (Wu et al. 2023, arXiv 2306.01693).

    {"question": "When was Bloom released?", "passages": [["Bloom (album)", "Bloom was released on 31 August 2018."]],
     "gold": "On 31 August 2018.", "prediction 1": "In 2019.", "prediction 2": "In 2018.",
     "prediction 3": "On 31 August.", "prediction 4": "Bloom is an album.",
     "feedback": {"errors": [{"error type": "Wrong-Grounding", "explanation": "", "start": 0, "end": 7}],
                  "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1]}],
                  "corrected-prediction": "On 31 August 2018."},
     "preference": [2, 2, 2, 1, 0, 1]}

A row gives, in this order:

- a comparison for each of the pairs 1-2, 1-3, 1-4, 2-3, 2-4, 3-4 of predictions (`preference`: 1 = the first is
  better, 2 = the second, 0 = neither, a tie); `attributes["predictions"]` says which;
- the marked spans of prediction 1, all in one record, also when there are none;
- a critique of prediction 1 for each piece of missing information, whose text quotes the sentences and whose attributes
  keep the row's own entry as `missing-info` (passages count from 1; sentence 0 is the passage's title);
- an edit of prediction 1, unless `corrected-prediction` is empty; it may repeat the prediction;
- a demonstration, the gold answer.

The context is one text: for each passage "Passage <n>: <title>", on the next line its sentences with one space between, and
a blank line; then "Question: <question>", last, so that a context that is too long loses passages and not the question.
`question` and `passages` are its attributes as they are in the row.

Written are records with such a context, each row's records together. What a row lacks is null there, also in
`preference`, which is plaudit's addition: null means that nobody said. An export holds the rows that it builds in
memory.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from plaudit.feedback.formats.format import Format, Gathering, NotHeld, gathered
from plaudit.feedback.formats.rows import (
    Row,
    RowContext,
    RowError,
    from_cell,
    listed,
    mapping,
    numbered,
    text,
    type_name,
)
from plaudit.feedback.records import (
    Comparison,
    Context,
    Critique,
    Demonstration,
    Edit,
    Feedback,
    FeedbackBase,
    Output,
    Span,
    Spans,
    Text,
)

PAIRS = tuple(combinations((1, 2, 3, 4), 2))
_PREDICTIONS = tuple(f"prediction {number}" for number in (1, 2, 3, 4))
_NESTED = ("passages", "feedback", "preference")
_MAY_BE_NULL = ("gold", *_PREDICTIONS)
_CHOICES = {1: "a", 2: "b", 0: "tie"}
_NUMBERS = {choice: number for number, choice in _CHOICES.items()}
_Statements = list[tuple[type[FeedbackBase], dict[str, Any]]]


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    if context.flat:
        row = {column: _from_cell(column, value) for column, value in row.items()}
    question, passages = text(row, "question"), _passages(row)
    outputs = {number: _answer(row, column) for number, column in enumerate(_PREDICTIONS, start=1)}
    asked = qa_context(question, passages)
    statements: _Statements = [
        (kind, {"context": asked} | fields)
        for kind, fields in (
            *_comparisons(row, outputs),
            *_said_about_the_first(row, outputs[1], passages),
            *_gold(row),
        )
    ]
    return numbered(context, statements)


def _from_cell(column: str, value: Any) -> Any:
    if column in _NESTED and isinstance(value, str):
        return from_cell(value)
    return None if column in _MAY_BE_NULL and value == "" else value


def qa_context(question: str, passages: list[list[str]]) -> Context:
    """The question and its passages as one text, with both as attributes."""
    parts = [
        f"Passage {number}: {title}\n{' '.join(sentences)}"
        for number, (title, *sentences) in enumerate(passages, start=1)
    ]
    parts.append(f"Question: {question}")
    attributes: dict[str, Any] = {"question": question, "passages": passages}
    return Context(content=Text(text="\n\n".join(parts)), attributes=attributes)


def _passages(row: Row) -> list[list[str]]:
    value = row.get("passages")
    if not isinstance(value, list | tuple):
        raise RowError("passages", value, "expected a list of passages, each a list of its title and its sentences")
    for index, passage in enumerate(value):
        if not isinstance(passage, list | tuple) or not passage or not all(isinstance(part, str) for part in passage):
            raise RowError(f"passages[{index}]", passage, "expected a list of texts: the title, then the sentences")
    return [list(passage) for passage in value]


def _answer(row: Row, column: str) -> Output | None:
    """An answer's output; None where it is null, as in a row that was written with part of its feedback."""
    if column in row and row[column] is None:
        return None
    said = text(row, column)
    if not said:
        raise RowError(column, said, "an output must not be empty")
    return Output(content=Text(text=said))


def _comparisons(row: Row, outputs: dict[int, Output | None]) -> _Statements:
    choices = listed(row, "preference")
    if len(choices) != len(PAIRS):
        raise RowError("preference", choices, f"expected 6 choices, for the pairs 1-2 to 3-4, got {len(choices)}")
    statements: _Statements = []
    for index, ((first, second), choice) in enumerate(zip(PAIRS, choices, strict=True)):
        if choice is None:
            continue
        if isinstance(choice, bool) or not isinstance(choice, int) or choice not in _CHOICES:
            raise RowError(f"preference[{index}]", choice, "expected 1 (the first), 2 (the second) or 0 (a tie)")
        pair = tuple(_needed(outputs[number], number) for number in (first, second))
        fields = {"outputs": pair, "choice": _CHOICES[choice], "attributes": {"predictions": [first, second]}}
        statements.append((Comparison, fields))
    return statements


def _needed(output: Output | None, number: int) -> Output:
    if output is None:
        raise RowError(f"prediction {number}", None, "there is feedback on this prediction, so it must not be null")
    return output


def _said_about_the_first(row: Row, first: Output | None, passages: list[list[str]]) -> _Statements:
    said = mapping(row.get("feedback"), "feedback")
    statements: _Statements = []
    if said.get("errors") is not None or "errors" not in said:
        spans = [_span(entry, f"feedback.errors[{index}]") for index, entry in enumerate(_entries(said, "errors"))]
        statements.append((Spans, {"outputs": (_needed(first, 1),), "spans": spans}))
    for index, entry in enumerate(_entries(said, "missing-info")):
        place = f"feedback.missing-info[{index}]"
        fields = {"critique": _critique(entry, passages, place), "aspect": "missing-info"}
        attributes = {"missing-info": dict(entry)}
        statements.append((Critique, {"outputs": (_needed(first, 1),), "attributes": attributes} | fields))
    corrected = said.get("corrected-prediction")
    if corrected is not None and not isinstance(corrected, str):
        raise RowError("feedback.corrected-prediction", corrected, f"expected text, got {type_name(corrected)}")
    if corrected:
        statements.append((Edit, {"outputs": (_needed(first, 1),), "edited": Text(text=corrected)}))
    return statements


def _entries(said: Any, name: str) -> list[Any]:
    value = said.get(name)
    if not isinstance(value, list | tuple):
        raise RowError(f"feedback.{name}", value, f"expected a list, got {type_name(value)}")
    return [mapping(entry, f"feedback.{name}[{index}]") for index, entry in enumerate(value)]


def _span(entry: Any, place: str) -> Span:
    for name in ("start", "end"):
        if isinstance(entry.get(name), bool) or not isinstance(entry.get(name), int) or entry[name] < 0:
            raise RowError(f"{place}.{name}", entry.get(name), "expected a number of characters")
    if not entry["start"] < entry["end"]:
        raise RowError(f"{place}.end", entry["end"], f"expected more than `start`, which is {entry['start']}")
    kind, why = entry.get("error type"), entry.get("explanation")
    if not isinstance(kind, str) or not kind:
        raise RowError(f"{place}.error type", kind, "expected the name of a type of error")
    if why is not None and not isinstance(why, str):
        raise RowError(f"{place}.explanation", why, f"expected text, got {type_name(why)}")
    return Span(start=entry["start"], end=entry["end"], type=kind, comment=why or None)


def _critique(entry: Any, passages: list[list[str]], place: str) -> str:
    passage, sentences, kind = entry.get("passage_id"), entry.get("sentence_id"), entry.get("error type")
    if not isinstance(kind, str) or not kind:
        raise RowError(f"{place}.error type", kind, "expected the name of a type of missing information")
    if isinstance(passage, bool) or not isinstance(passage, int) or not 1 <= passage <= len(passages):
        raise RowError(f"{place}.passage_id", passage, f"expected the number of a passage, from 1 to {len(passages)}")
    lines = passages[passage - 1]
    if not isinstance(sentences, list | tuple) or not sentences:
        raise RowError(f"{place}.sentence_id", sentences, "expected a list of the numbers of sentences")
    for sentence in sentences:
        if isinstance(sentence, bool) or not isinstance(sentence, int) or not 0 <= sentence < len(lines):
            raise RowError(
                f"{place}.sentence_id", sentence, f"expected numbers of sentences, from 0 to {len(lines) - 1}"
            )
    return f"{kind}: {' '.join(lines[sentence] for sentence in sentences)}"


def _gold(row: Row) -> _Statements:
    gold = _answer(row, "gold")
    return [] if gold is None else [(Demonstration, {"outputs": (gold,)})]


# --- export --------------------------------------------------------------------------------------------------------


def _dump(record: Feedback) -> Row | NotHeld:
    attributes = record.context.attributes
    question, passages = attributes.get("question"), attributes.get("passages")
    try:
        if not isinstance(question, str) or qa_context(question, _passages({"passages": passages})) != record.context:
            return NotHeld("a context that is not a question with passages")
    except RowError:
        return NotHeld("a context that is not a question with passages")
    if not all(isinstance(output.content, Text) and output.text for output in record.outputs):
        return NotHeld("an output that is not text, or empty")
    return _why_not(record) or gathered(_GATHERING, record)


def _why_not(record: Feedback) -> NotHeld | None:
    match record:
        case Comparison():
            if record.choice == "cannot_judge":
                return NotHeld("a comparison nobody could judge")
            return None if record.aspect == "overall" else NotHeld("a comparison by one aspect")
        case Critique():
            held = _is_missing_info(record)
            return None if held else NotHeld("a critique that is not of missing information")
        case Edit():
            written = isinstance(record.edited, Text) and record.edited.text
            return None if written else NotHeld("an edit that is not text, or empty")
        case Spans() | Demonstration():
            return None
    return NotHeld(f"a {record.kind}")


def _is_missing_info(record: Critique) -> bool:
    entry = record.attributes.get("missing-info")
    passages = _passages({"passages": record.context.attributes["passages"]})
    try:
        return isinstance(entry, dict) and _critique(entry, passages, "") == record.critique
    except RowError:
        return False


def _begin(record: Feedback) -> Row:
    attributes = record.context.attributes
    feedback: Row = {"errors": None, "missing-info": [], "corrected-prediction": None}
    return {
        "question": attributes["question"],
        "passages": attributes["passages"],
        "gold": None,
        **dict.fromkeys(_PREDICTIONS),
        "feedback": feedback,
        "preference": [None] * len(PAIRS),
    }


def _place(row: Row, record: Feedback) -> bool:
    if isinstance(record, Comparison):
        return _place_comparison(row, record)
    said = record.outputs[0].text
    if isinstance(record, Demonstration):
        return _put(row, {"gold": said})
    if row["prediction 1"] not in (None, said):
        return False
    feedback = row["feedback"]
    match record:
        case Spans():
            placed = _put(feedback, {"errors": [_entry(span) for span in record.spans]})
        case Edit():
            placed = _put(feedback, {"corrected-prediction": record.edited.text})  # type: ignore[union-attr]
        case _:
            feedback["missing-info"].append(record.attributes["missing-info"])
            placed = True
    if placed:
        row["prediction 1"] = said
    return placed


def _place_comparison(row: Row, record: Comparison) -> bool:
    named = record.attributes.get("predictions")
    pair = tuple(named) if isinstance(named, list) and tuple(named) in PAIRS else PAIRS[0]
    columns = [f"prediction {number}" for number in pair]
    texts = [output.text for output in record.outputs]
    index = PAIRS.index(pair)
    taken = any(row[column] not in (None, said) for column, said in zip(columns, texts, strict=True))
    if taken or row["preference"][index] is not None:
        return False
    row |= dict(zip(columns, texts, strict=True))
    row["preference"][index] = _NUMBERS[record.choice]
    return True


def _put(row: Row, values: Row) -> bool:
    """Write values into places that are free; False where one is not."""
    if any(row[name] is not None for name in values):
        return False
    row |= values
    return True


def _entry(span: Span) -> Row:
    return {"error type": span.type, "explanation": span.comment or "", "start": span.start, "end": span.end}


def _finish(row: Row) -> Row:
    corrected = row["feedback"]["corrected-prediction"]
    return row | {"feedback": row["feedback"] | {"corrected-prediction": "" if corrected is None else corrected}}


_GATHERING = Gathering(begin=_begin, place=_place, finish=_finish)

FORMAT = Format(
    name="qa-feedback",
    description="FineGrainedRLHF QA feedback: four predictions, their preferences, error spans, a correction",
    example={
        "question": "When was Bloom released?",
        "passages": [["Bloom (album)", "Bloom was released on 31 August 2018."]],
        "gold": "On 31 August 2018.",
        "prediction 1": "In 2019.",
        "prediction 2": "In 2018.",
        "prediction 3": "On 31 August.",
        "prediction 4": "Bloom is an album.",
        "feedback": {
            "errors": [{"error type": "Wrong-Grounding", "explanation": "", "start": 0, "end": 7}],
            "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1]}],
            "corrected-prediction": "On 31 August 2018.",
        },
        "preference": [2, 2, 2, 1, 0, 1],
    },
    columns=(("question", "passages", "feedback", "preference", *_PREDICTIONS),),
    parse=_parse,
    dump=_dump,
    gathering=_GATHERING,
)
