"""Hypothesis strategies for valid feedback of every kind: unicode, emoji, chats, tokens, items and files.

`records()` draws a record of any kind, `record_of("comparison")` one of that kind. Keyword arguments fix fields:
`record_of("rating", source=Source(name="alice"), client_id=None)`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from plaudit.feedback import records as fb

# What breaks stores in practice: the empty string, NUL, line ends of every sort, quotes, SQL, text from right to left,
# characters outside the basic plane, joined emoji, combining marks, and a look-alike in two normal forms.
AWKWARD = (
    "", " ", "\x00", "a\x00b", "\r\n", "\u2028", "'", '"', "\\", "'; DROP TABLE records; --", "%s %(x)s {} ?", ":name",
    "שלום", "مرحبا", "漢字", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "👍🏽", "👩‍👩‍👧‍👦", "e\u0301", "\u00e9", "\ufeffbom", "null", "NaN", "1e999",
)  # fmt: skip

MAX_EXAMPLE_OUTPUTS = 5


def texts(*, min_size: int = 0, max_size: int = 60) -> st.SearchStrategy[str]:
    """Text as people and models write it: anything but lone surrogates, which are no text."""
    anything = st.text(st.characters(exclude_categories=("Cs",)), min_size=min_size, max_size=max_size)
    return anything | st.sampled_from([text for text in AWKWARD if min_size <= len(text) <= max_size])


def names(*, max_size: int = 24) -> st.SearchStrategy[str]:
    """Names of sources, models, items: at least one character, no control characters."""
    letters = st.characters(exclude_categories=("Cs",), exclude_characters=[*map(chr, range(32)), "\x7f"])
    plain = st.sampled_from(["alice", "judge-7b", "gpt 4", "böb", "原", "🤖", "a'b", 'a"b', "%", "a/b:c"])
    return plain | st.text(letters, min_size=1, max_size=max_size)


def json_values() -> st.SearchStrategy[Any]:
    """What attributes may hold: JSON of moderate depth, integers beyond 64 bits included."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts(max_size=12)
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(max_size=8), inner, max_size=3),
        max_leaves=6,
    )


def attributes() -> st.SearchStrategy[dict[str, Any]]:
    """A record's, a context's or a sampler's free fields; usually few."""
    return st.just({}) | st.dictionaries(texts(max_size=8), json_values(), max_size=3)


def files() -> st.SearchStrategy[fb.File]:
    """A file by the hash of bytes that need not exist."""
    return st.builds(
        fb.File,
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        media_type=st.sampled_from(["image/png", "audio/wav", "application/vnd.plaudit+json"]),
        name=st.none() | names(),
    )


def contents() -> st.SearchStrategy[Any]:
    """Content of every type."""
    messages = st.builds(fb.Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=texts())
    return (
        st.builds(fb.Text, text=texts())
        | st.builds(fb.Chat, messages=st.lists(messages, min_size=1, max_size=4).map(tuple))
        | st.builds(
            fb.Tokens,
            ids=st.lists(st.integers(0, 2**31 - 1), max_size=8).map(tuple),
            tokenizer=names(),
            text=texts(),
        )
        | st.builds(fb.Item, id=names())
        | files()
    )


def producers() -> st.SearchStrategy[fb.Producer]:
    """What made an output."""
    return st.builds(fb.Producer, model=names(), prompt=st.none() | texts(), sampler=attributes())


def contexts() -> st.SearchStrategy[fb.Context]:
    """What a policy is asked."""
    return st.builds(fb.Context, content=contents(), attributes=attributes())


def outputs() -> st.SearchStrategy[fb.Output]:
    """What a policy answered."""
    return st.builds(fb.Output, content=contents(), producer=st.none() | producers())


def sources() -> st.SearchStrategy[fb.Source]:
    """Who said it."""
    kinds = st.sampled_from(["person", "user", "judge", "program", "simulated", "unknown"])
    return st.builds(fb.Source, name=names(), kind=kinds)


def times() -> st.SearchStrategy[datetime]:
    """Times with a zone, to the microsecond, in zones east and west."""
    zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=11))])
    return st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 31), timezones=zones)


def _shared_fields(draw: st.DrawFn, count: int) -> dict[str, Any]:
    return {
        "id": fb.new_record_id(),
        "source": draw(sources()),
        "context": draw(contexts()),
        "outputs": tuple(draw(outputs()) for _ in range(count)),
        "shown": draw(st.none() | st.permutations(range(count)).map(tuple)),
        "time": draw(times()),
        "client_id": draw(st.none() | names()),
        "attributes": draw(attributes()),
    }


def _tiers(draw: st.DrawFn, count: int) -> tuple[tuple[int, ...], ...]:
    order = draw(st.permutations(range(count)))[: draw(st.integers(1, count))]
    tiers: list[list[int]] = [[order[0]]]
    for index in order[1:]:
        if draw(st.booleans()):
            tiers.append([index])
        else:
            tiers[-1].append(index)
    return tuple(tuple(tier) for tier in tiers)


def _spans(draw: st.DrawFn, length: int) -> tuple[fb.Span, ...]:
    if length == 0:
        return ()
    marked = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, length - 1))
        marked.append(
            fb.Span(
                start=start,
                end=draw(st.integers(start + 1, length)),
                type=draw(names()),
                severity=draw(st.floats(0.0, 1.0)),
                comment=draw(st.none() | texts()),
            )
        )
    return tuple(marked)


def _exposed(draw: st.DrawFn, count: int) -> tuple[fb.Exposed, ...]:
    items = []
    for output in draw(st.permutations(range(count)))[: draw(st.integers(1, count))]:
        propensity = draw(st.none() | st.floats(0.001, 1.0))
        if draw(st.booleans()):
            items.append(
                fb.Exposed(
                    output=output,
                    position=draw(st.none() | st.integers(0, 50)),
                    propensity=propensity,
                    clicked=draw(st.booleans()),
                    dwell_s=draw(st.none() | st.floats(0.0, 1e6)),
                )
            )
        else:
            items.append(fb.Exposed(output=output, shown=False, propensity=propensity))
    return tuple(items)


def _rating(draw: st.DrawFn) -> dict[str, Any]:
    finite = st.floats(-1e6, 1e6)
    low, value, high = sorted(draw(st.lists(finite, min_size=3, max_size=3, unique=True)))
    return {"low": low, "value": value, "high": high, "aspect": draw(names())}


def _own_fields(draw: st.DrawFn, kind: str, outputs_: tuple[fb.Output, ...]) -> dict[str, Any]:
    count = len(outputs_)
    match kind:
        case "comparison":
            return {
                "choice": draw(st.sampled_from(["a", "b", "tie", "cannot_judge"])),
                "strength": draw(st.none() | st.floats(0.001, 1.0)),
                "aspect": draw(names()),
            }
        case "ranking":
            return {"tiers": _tiers(draw, count), "aspect": draw(names())}
        case "rating":
            return _rating(draw)
        case "reaction":
            return {"symbol": draw(st.sampled_from([*fb.SENTIMENTS, "🦆", "meh"]) | texts(min_size=1))}
        case "critique":
            return {"critique": draw(texts(min_size=1)), "aspect": draw(names())}
        case "spans":
            return {"spans": _spans(draw, len(outputs_[0].text))}
        case "edit":
            return {"edited": draw(contents())}
        case "demonstration":
            return {}
        case "verdict":
            return {
                "outcome": draw(st.sampled_from(["pass", "fail", "could_not_judge"])),
                "stage": draw(st.none() | names()),
                "details": draw(attributes()),
            }
        case "exposure":
            return {"items": _exposed(draw, count)}
    raise AssertionError(f"no strategy for the kind {kind!r}: add one here")


@st.composite
def record_of(draw: st.DrawFn, kind: str, **fixed: Any) -> Any:
    """A valid record of one kind; `fixed` fields are taken as given."""
    count = {"comparison": 2, "ranking": None, "exposure": None}.get(kind, 1)
    if "outputs" in fixed:
        count = len(fixed["outputs"])
    fields = _shared_fields(draw, count or draw(st.integers(1, MAX_EXAMPLE_OUTPUTS))) | fixed
    return fb.KINDS[kind](**(_own_fields(draw, kind, tuple(fields["outputs"])) | fields))


def records(**fixed: Any) -> st.SearchStrategy[Any]:
    """A valid record of any kind; `fixed` fields are taken as given."""
    return st.sampled_from(sorted(fb.KINDS)).flatmap(lambda kind: record_of(kind, **fixed))
