"""The instruction language: what an instruction is, what an answer is worth, and who judges it."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.feedback.records import Context, Output
from plaudit.testbeds import instructions as world

SORT, COUNT = Context(content="sort 4 1 7 3:"), Context(content="count 4 in 4 1 4 4:")
FORMAT, DESCRIBE = Context(content="format 4 1 7 3 by +:"), Context(content="describe 4 1 7 3:")


def worth(context: Context, text: str) -> float:
    return world.utility(context, Output(content=text))


def choice(pool, context: Context, a: str, b: str) -> float:
    return pool.preference_probability(context, Output(content=a), Output(content=b))


digits = st.lists(st.integers(0, 9), min_size=2, max_size=6).map(tuple)


@given(digits, st.sampled_from(world.KINDS), st.integers(0, 9), st.sampled_from(world.SEPARATORS))
def test_an_instruction_is_read_back_as_it_was_written(items, kind, counted, separator):
    argument = {"count": str(counted), "format": separator}.get(kind, "")
    task = world.Task(kind, items, argument)
    assert world.read(Context(content=task.text)) == task


def test_what_is_learned_from_and_what_is_measured_on_never_meet():
    learned = {context.text for seed in range(3) for context in world.instructions(2000, seed=seed)}
    measured = {context.text for seed in range(3) for context in world.instructions(400, seed=seed, held_out=True)}
    assert not learned & measured


def test_a_seed_gives_the_same_instructions_in_turn_and_another_gives_others():
    found = world.instructions(40, seed=3)
    assert found == world.instructions(80, seed=3)[:40]
    assert found != world.instructions(40, seed=4)
    assert len({context.text for context in found}) == 40
    assert [world.read(context).kind for context in found[:8]] == [*world.KINDS, *world.KINDS]


@pytest.mark.parametrize(
    ("context", "main"), [(SORT, "1 3 4 7"), (COUNT, "3"), (FORMAT, "4+1+7+3"), (DESCRIBE, "")], ids=str
)
def test_what_is_asked_for(context, main):
    assert world.read(context).main == main
    assert world.read(SORT).details == {"low": 1, "high": 7, "first": 4, "size": 4}


@pytest.mark.parametrize(
    ("context", "text", "utility"),
    [
        (SORT, "1 3 4 7, low 1, high 7.", 1.0),
        (SORT, "- 1 3 4 7 - low 1 - high 7.", 1.0),
        (SORT, "1 3 4 7.", 0.6 * 0.7 + 0.4),
        (SORT, "1 3 4 7", 0.6 * 0.7 + 0.2 * 2 / 3 + 0.2),  # no dot
        (SORT, "1 3 4 7, low 1, high 8.", 0.6 * 0.7 + 0.4),  # a false detail takes a true one's worth
        (SORT, "1 3 4 7, low 1, low 1.", 0.6 * 0.85 + 0.2 * (2 + 2 / 3) / 3 + 0.2),  # once said is enough
        (SORT, "1 3 4 7, low 1, low 2.", 0.6 * 0.85 + 0.4),  # of two values the first counts
        (SORT, "1 3 7 4, low 1, high 7.", 0.6 * 0.3 + 0.4),
        (SORT, "low 1, 1 3 4 7, high 7.", 1.0),
        (SORT, "so well 1 3 4 7, low 1, high 7.", 1.0),
        (SORT, "1 3 4 7, bob.", 0.6 * 0.7 + 0.2 * 2.5 / 3 + 0.2),
        (SORT, "1 3 4 7, low 1, high 7" + " so" * 10 + ".", 0.6 + 0.2 + 0.2 * (24 - 18) / 12),
        (COUNT, "3, size 4, first 4.", 1.0),
        (COUNT, "3.", 0.6 * 0.7 + 0.2 + 0.2 * 0.5),  # one word
        (COUNT, "2, size 4, first 4.", 0.6 * 0.3 + 0.4),
        (FORMAT, "4+1+7+3, size 4, low 1.", 1.0),
        (FORMAT, "4*1*7*3, size 4, low 1.", 0.6 * 0.3 + 0.4),
        (DESCRIBE, "low 1, high 7, size 4.", 1.0),
        (DESCRIBE, "low 1, high 7, size 5.", 0.6 / 3 + 0.4),
        (DESCRIBE, "low 2.", 0.4),
        (SORT, "", 0.0),
        (SORT, "  ", 0.0),
        (SORT, ".", 0.2 * (1 + 0 + 0) / 3 + 0.2 * 0.5),
    ],
)  # fmt: skip
def test_what_an_answer_is_worth(context, text, utility):
    assert worth(context, text) == pytest.approx(utility)


@given(st.text(world.CHARACTERS, max_size=world.MAX_NEW_TOKENS), st.sampled_from((SORT, COUNT, FORMAT, DESCRIBE)))
def test_whatever_is_said_every_feature_lies_between_0_and_1(text, context):
    given_features = world.features(context, text)
    assert set(given_features) == {"correctness", "form", "length", "list"}
    assert all(0 <= value <= 1 for value in given_features.values())
    assert 0 <= worth(context, text) <= 1


def test_what_is_no_instruction_has_no_utility():
    with pytest.raises(ValueError, match="Expected an instruction such as 'sort 4 1 7 3:', got 'sort it'"):
        worth(Context(content="sort it"), "1.")


def test_the_writer_is_decent_and_not_perfect_and_writes_what_a_decoder_can_read():
    examples = world.demonstrations(2000, seed=5)
    assert examples[:10] == world.demonstrations(10, seed=5)
    values = [world.utility(example.context, example.output) for example in examples]
    assert 0.65 < fmean(values) < 0.85
    assert max(values) == pytest.approx(1)
    assert min(values) < 0.4
    known = set(world.CHARACTERS)
    assert all(set(example.context.text + example.output.text) <= known for example in examples)
    assert max(len(example.output.text) for example in examples) < world.MAX_NEW_TOKENS
    lists = fmean(world.features(example.context, example.output.text)["list"] for example in examples)
    assert lists == pytest.approx(0.3, abs=0.04)
    right = fmean(
        world.features(example.context, example.output.text)["correctness"] >= 0.7
        for example in examples
        if world.read(example.context).kind != "describe"
    )
    assert right == pytest.approx(0.75, abs=0.04)


# --- who judges ------------------------------------------------------------------------------------------------------


def test_thirteen_are_simulated_and_eight_others_stand_for_people():
    simulated, people = world.simulated_pool(), world.human_pool()
    assert (len(simulated.annotators), len(people.annotators)) == (13, 8)
    tastes = {(who.length_bias, who.position_bias, str(who.weights), who.temperature) for who in simulated.annotators}
    assert not tastes & {(w.length_bias, w.position_bias, str(w.weights), w.temperature) for w in people.annotators}
    assert (simulated.label_flip, people.label_flip) == (0.25, 0)
    assert people.annotators[0].price == 45 * simulated.annotators[0].price


@pytest.mark.parametrize("pool", [world.simulated_pool(label_flip=0), world.human_pool()], ids=["simulated", "human"])
def test_a_pool_prefers_better_answers_and_of_equally_good_ones_the_longer(pool):
    good, wrong = "1 3 4 7, low 1, high 7.", "1 3 7 4, low 2, high 7."
    assert choice(pool, SORT, good, wrong) > 0.75
    assert choice(pool, SORT, f"well so {good}", good) > 0.52
    assert worth(SORT, f"well so {good}") == worth(SORT, good)


def test_a_statement_of_a_pool_agrees_with_another_two_times_in_three_as_those_of_people_do():
    """AlpacaEval's annotators agree with each other in 65.7 % of the pairs."""
    asked = world.instructions(150, seed=7)
    pairs = [
        (one.context, one.output, other.output)
        for one, other in zip(world.answered(asked, seed=1), world.answered(asked, seed=2), strict=True)
        if one.output.text != other.output.text
    ]
    for pool in (world.simulated_pool(label_flip=0), world.human_pool()):
        chances = [pool.preference_probability(*pair) for pair in pairs]
        assert fmean(p * p + (1 - p) ** 2 for p in chances) == pytest.approx(0.657, abs=0.04)


def test_one_judge_never_wavers():
    judge = world.single_judge()
    texts = ("1 3 4 7, low 1, high 7.", "1 3 4 7.", "4.", "low 1")
    chances = {choice(judge, SORT, a, b) for a in texts for b in texts if a != b}
    assert chances == {0.0, 1.0}
