"""A small world of feedback: few sources, contexts and outputs, so that statements meet."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from plaudit.feedback import records as fb
from plaudit.feedback.examples import View

QUESTION = fb.Context(content="What is a tide?")
ANNA, BEN = fb.Source(name="anna", kind="person"), fb.Source(name="ben", kind="person")
A, B, C, D = (fb.Output(content=text) for text in ("an answer", "better answer", "clear answer", "dull answer"))


def say(kind: str, *outputs: fb.Output, source: fb.Source = ANNA, context: fb.Context = QUESTION, **fields: Any) -> Any:
    return fb.KINDS[kind](source=source, context=context, outputs=outputs, **fields)


def rate(output: fb.Output, value: float, *, low: float = 0, high: float = 10, **fields: Any) -> Any:
    return say("rating", output, value=value, low=low, high=high, **fields)


def keys(view: View[Any]) -> Counter[str]:
    """The examples without their order."""
    return Counter(map(repr, view.examples))


MARKS = st.lists(st.sampled_from([{"start": 0, "end": 2, "type": "wrong"}, {"start": 3, "end": 9, "type": "good"}]))
FIELDS = {
    "comparison": {"choice": st.sampled_from(["a", "b", "tie", "cannot_judge"]), "strength": st.none() | st.just(0.5)},
    "ranking": {"tiers": st.sampled_from([[[0, 1, 2, 3]], [[3], [0, 1], [2]], [[2], [0]], [[1]]])},
    "rating": {"low": st.just(0), "high": st.just(4), "value": st.integers(0, 4)},
    "reaction": {"symbol": st.sampled_from(["👍", "👎", "😐", "🦆"])},
    "critique": {"critique": st.just("dull")},
    "spans": {"spans": MARKS},
    "edit": {"edited": st.sampled_from([A.text, B.text, "an edited answer"])},
    "demonstration": {},
    "verdict": {"outcome": st.sampled_from(["pass", "fail", "could_not_judge"])},
    "exposure": {
        "items": st.sampled_from(
            [[{"output": 0, "clicked": True}, {"output": 1}], [{"output": 2}, {"output": 0, "shown": False}]]
        )
    },
}


@st.composite
def small_worlds(draw: st.DrawFn) -> list[fb.FeedbackBase]:
    """Records of few sources about few outputs of few contexts, so that they meet; some supersede an earlier one."""
    contexts = st.sampled_from([QUESTION, fb.Context(content="Why?")])
    outputs = st.sampled_from([A, B, C, D, fb.Output(content=A.content, producer=fb.Producer(model="m"))])
    found: list[fb.FeedbackBase] = []
    for kind in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=8)):
        fields = {name: draw(strategy) for name, strategy in FIELDS[kind].items()}
        if "aspect" in fb.KINDS[kind].model_fields:
            fields["aspect"] = draw(st.sampled_from(["overall", "tone"]))
        if found and draw(st.integers(0, 5)) == 0:
            fields["supersedes"] = draw(st.sampled_from(found)).id
        about = [draw(outputs) for _ in range({"comparison": 2, "ranking": 4, "exposure": 3}.get(kind, 1))]
        found.append(say(kind, *about, source=draw(st.sampled_from([ANNA, BEN])), context=draw(contexts), **fields))
    return found


thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
