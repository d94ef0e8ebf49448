"""A judge of two outputs as a reward."""

from __future__ import annotations

import pytest

from plaudit.feedback.records import Context, Output
from plaudit.rewards import WinRate

A, B = Context(content="a"), Context(content="b")


class Longer:
    """Likes the longer output, and the one that it is shown first a little; cannot judge what holds a question mark."""

    def prefer(self, contexts, a, b):
        texts = [(one.text, other.text) for one, other in zip(a, b, strict=True)]
        return [None if "?" in one + other else self._chance(len(one) - len(other)) for one, other in texts]

    def _chance(self, longer: int) -> float:
        return 0.6 + 0.3 * (longer > 0) - 0.3 * (longer < 0)


def reward(*rows: tuple[Context, str]):
    return WinRate(Longer()).reward([context for context, _ in rows], [Output(content=text) for _, text in rows])


def test_outputs_are_compared_with_the_others_of_their_context_in_both_orders():
    found = reward((A, "xx"), (B, "x"), (A, "xxx"), (A, "x"), (B, "xx"))
    assert found.value.tolist() == pytest.approx([0.5, 0.2, 0.8, 0.2, 0.8])
    assert found.judged.all()


def test_what_no_comparison_could_judge_is_not_judged():
    found = reward((A, "x?"), (A, "xx"), (A, "x"), (B, "alone"))
    assert found.judged.tolist() == [False, True, True, False]
    assert found.value[1:3].tolist() == pytest.approx([0.8, 0.2])
    assert not reward().judged.any()
