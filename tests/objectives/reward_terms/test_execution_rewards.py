"""ReEx-SQL's and SQL-R1's rewards: every combination of verdicts by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, uniform
from plaudit.objectives.reward_terms.execution_rewards import (
    exploration_score,
    gated_reex_sql_reward,
    reex_sql_reward,
    sql_r1_length_reward,
    sql_r1_reward,
)

YES = torch.tensor([1, 1, 0, 1, 1], dtype=torch.bool)
NO = torch.tensor([0, 1, 0, 1, 0], dtype=torch.bool)
JUDGED = torch.tensor([1, 1, 1, 0, 1], dtype=torch.bool)
RIGHT = torch.tensor([0.1, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
ENTITY, EXPLORATION = uniform(5, seed=1), uniform(5, seed=2)
QUERIES = lengths_mask(5, 6, shortest=2)
USEFUL, REPEATED = uniform(5, 6, seed=3) < 0.7, uniform(5, 6, seed=4) < 0.3
examples = settings(deadline=None, max_examples=30)


def trajectories(rows, judged=False):
    call = {
        "well_formed": YES[:rows],
        "exact_match": NO[:rows],
        "execution": RIGHT[:rows],
        "entity": ENTITY[:rows],
        "exploration": EXPLORATION[:rows],
    }
    return {**call, "judged": JUDGED[:rows]} if judged else call


PARTS = ("execution", "entity", "exploration")
CASES = [
    Case(
        reex_sql_reward,
        trajectories,
        differentiable=PARTS,
        extreme=PARTS,
        invalid={"weights": [(1.0, 1.0, 1.0, 1.0, math.nan)]},
    ),
    Case(
        reex_sql_reward,
        lambda rows: trajectories(rows, judged=True),
        name="judged",
        differentiable=PARTS,
        masks={"judged": PARTS},
    ),
    Case(
        gated_reex_sql_reward,
        lambda rows: trajectories(rows, judged=True),
        differentiable=PARTS,
        extreme=("entity", "exploration"),
        masks={"judged": PARTS},
        invalid={"weights": [(1.0, 1.0, 1.0, math.inf, 1.0)]},
    ),
    Case(
        exploration_score,
        lambda rows: {"useful": USEFUL[:rows], "repeated": REPEATED[:rows], "mask": QUERIES[:rows]},
    ),
    Case(
        sql_r1_reward,
        lambda rows: {"well_formed": YES[:rows], "executed": NO[:rows], "matched": NO[:rows], "judged": JUDGED[:rows]},
        invalid={name: [0.0, -1.0, math.nan] for name in ("format_reward", "execution_reward", "result_reward")},
    ),
    Case(
        sql_r1_length_reward,
        lambda rows: {
            "length": torch.tensor([10, 3000, 500, 2048, 7])[:rows],
            "sql_length": torch.tensor([5, 50, 40, 30, 0])[:rows],
            "answer_length": torch.tensor([5, 60, 80, 40, 0])[:rows],
            "matched": NO[:rows],
        },
        invalid={"maximum": [0, -1]},
    ),
]


def yes(value=True):
    return torch.tensor([value])


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    assert reex_sql_reward(yes(), yes(False), one(0.0), one(1.0), one(1.0)).reward.item() == 2 + 0 + 0 + 1 + 2
    assert reex_sql_reward(yes(), yes(False), one(1.0), one(1.0), one(0.0)).reward.item() == 2 + 0 + 3 + 1 + 0
    assert gated_reex_sql_reward(yes(), yes(False), one(0.0), one(1.0), one(1.0)).reward.item() == 2 + 1
    assert gated_reex_sql_reward(yes(), yes(False), one(1.0), one(0.0), one(0.0)).reward.item() == 2 + 3
    useful = torch.tensor([[True, True, False, True]])
    repeated = torch.tensor([[False, True, False, False]])
    assert exploration_score(useful, repeated, torch.ones(1, 4, dtype=torch.bool)).item() == 2 / 4
    assert sql_r1_reward(yes(), yes(), yes()).reward.item() == 1 + 2 + 3
    assert sql_r1_reward(yes(), yes(), yes(False)).reward.item() == 1 + 2 - 3
    assert sql_r1_reward(yes(), yes(False), yes()).reward.item() == 1 - 2
    length = sql_r1_length_reward(torch.tensor([1024]), torch.tensor([30]), torch.tensor([40]), yes())
    assert length.item() == 1 / 4 + 3 / 4


@pytest.mark.parametrize("well_formed", [True, False])
@pytest.mark.parametrize("match", [True, False])
@pytest.mark.parametrize("execution", [0.0, 0.1, 1.0])
def test_the_composite_by_hand(well_formed, match, execution):
    """R = 2 fmt + 1 em + 3 exec + 1 ent + 2 expl, with weights (2, 1, 3, 1, 2); the gate opens at exec = 1."""
    for entity, exploration in product([0.0, 0.4, 1.0], repeat=2):
        arguments = (yes(well_formed), yes(match), one(execution), one(entity), one(exploration))
        expected = 2 * well_formed + 1 * match + 3 * execution + 1 * entity + 2 * exploration
        assert reex_sql_reward(*arguments).reward.item() == pytest.approx(expected)
        gated = 2 * well_formed + 1 * match + 3 * execution + 1 * entity + 2 * exploration * (execution == 1)
        assert gated_reex_sql_reward(*arguments).reward.item() == pytest.approx(gated)


def test_the_best_answer_gets_nine():
    everything = (yes(), yes(), one(1.0), one(1.0), one(1.0))
    assert reex_sql_reward(*everything).reward.item() == 9
    assert gated_reex_sql_reward(*everything).reward.item() == 9


def test_behind_a_closed_gate_exploration_is_not_read():
    result = gated_reex_sql_reward(yes(), yes(False), one(0.0), one(1.0), one(math.nan))
    assert result.reward.item() == 3
    assert result.judged.item()


def test_exploration_alone_is_paid_only_without_the_gate():
    """The trap: ``SELECT 1`` repeated n times in a wrong answer."""
    n = 8
    useful, first = torch.ones(1, n, dtype=torch.bool), torch.zeros(1, n, dtype=torch.bool)
    first[0, 0] = True
    score = exploration_score(useful, ~first, useful)
    assert score.item() == 1 / n
    paid = reex_sql_reward(yes(), yes(False), one(0.0), one(0.0), score.double()).reward
    gated = gated_reex_sql_reward(yes(), yes(False), one(0.0), one(0.0), score.double()).reward
    assert (paid - gated).item() == pytest.approx(2 / n)


@examples
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_the_exploration_score_by_loops(queries):
    useful, repeated, mask = (torch.tensor([column]) for column in zip(*queries, strict=True))
    there = [(good, again) for good, again, exists in queries if exists]
    expected = sum(good and not again for good, again in there) / len(there) if there else 0
    assert exploration_score(useful, repeated, mask).item() == pytest.approx(expected)


def test_sql_r1_by_hand():
    """Format ±1; execution +2/0/-2 and result +3/0/-3, 0 where the step before failed."""
    for well_formed, executed, matched in product([True, False], repeat=3):
        for_execution = (2 if executed else -2) if well_formed else 0
        for_result = (3 if matched else -3) if well_formed and executed else 0
        expected = (1 if well_formed else -1) + for_execution + for_result
        assert sql_r1_reward(yes(well_formed), yes(executed), yes(matched)).reward.item() == expected
        assert expected in (-1, 0, 6)


def test_a_failing_gold_query_is_nobodys_fault():
    """The official code adds 0 for "Gold Error", which pays the format alone."""
    result = sql_r1_reward(yes(), yes(), yes(), yes(False))
    assert not result.judged.item()
    assert result.reward.item() == 0


def official_length_score(length, sql, answer, matched, limit=2048):
    if not matched:
        return 0
    if length <= limit:
        return length / limit * 0.5 + sql / answer
    return 0.5 + sql / answer


@examples
@given(st.integers(1, 5000), st.integers(1, 300), st.integers(0, 300), st.booleans())
def test_sql_r1s_length_by_hand(thought, answer, sql, matched):
    sql = min(sql, answer)
    length = thought + answer
    ours = sql_r1_length_reward(torch.tensor([length]), torch.tensor([sql]), torch.tensor([answer]), yes(matched))
    assert ours.item() == pytest.approx(official_length_score(length, sql, answer, matched), rel=1e-6)


def test_messages():
    with pytest.raises(ValueError, match="result_reward: expected a number > 0, got 0"):
        sql_r1_reward(yes(), yes(), yes(), result_reward=0.0)
