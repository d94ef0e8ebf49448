"""Tasks of reasoning-gym: problems that can be made again, exact verdicts, and nothing that runs what a model wrote."""

from __future__ import annotations

import ast
import inspect

import pytest

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context, Output
from plaudit.testbeds import reasoning_gym
from plaudit.testbeds.splits import is_held_out

gym = pytest.importorskip(
    "reasoning_gym", reason="the extra 'gym' builds pycosat from source and is not installed here"
)
SEVERAL = ("basic_arithmetic", "chain_sum", "leg_counting", "gcd", "letter_counting", "bitwise_arithmetic")


def answered(context: Context) -> str:
    """The library's own answer."""
    origin = context.attributes["reasoning_gym"]
    return gym.create_dataset(origin["task"], seed=origin["seed"], size=2**31)[origin["index"]]["answer"]


@pytest.mark.parametrize("task", SEVERAL)
def test_right_answers_pass_and_others_do_not(task):
    contexts = reasoning_gym.problems(task, 8, seed=1)
    assert len({context.text for context in contexts}) == 8
    for context in contexts:
        right = answered(context)
        assert reasoning_gym.score(context, Output(content=right)) == 1
        assert reasoning_gym.score(context, Output(content=f"I think so: <answer> {right} </answer>")) == 1
        assert reasoning_gym.score(context, Output(content="<answer>no idea</answer>")) < 0.5


def test_contexts_hold_all_that_judging_takes():
    """They come through JSON, as from a store, and are judged alike."""
    contexts = reasoning_gym.problems("chain_sum", 4, seed=2, settings={"min_digits": 2, "max_digits": 2})
    copies = [Context.model_validate_json(context.model_dump_json()) for context in contexts]
    outputs = [Output(content=answered_with(context, {"min_digits": 2, "max_digits": 2})) for context in contexts]
    judged = reasoning_gym.verifier().reward(copies, outputs)
    assert judged.value.tolist() == [1.0] * 4


def answered_with(context: Context, settings: dict[str, int]) -> str:
    origin = context.attributes["reasoning_gym"]
    made = gym.create_dataset(origin["task"], seed=origin["seed"], size=2**31, **settings)[origin["index"]]
    assert made["question"] == context.text
    return made["answer"]


def test_what_is_learned_from_and_what_is_measured_on_never_meet():
    train = {context.text for seed in (1, 2) for context in reasoning_gym.problems("gcd", 40, seed=seed)}
    held_out = {
        context.text for seed in (1, 2) for context in reasoning_gym.problems("gcd", 20, seed=seed, held_out=True)
    }
    assert not train & held_out
    assert all(map(is_held_out, held_out))


def test_the_same_seed_gives_the_same_problems():
    assert reasoning_gym.problems("gcd", 10, seed=3) == reasoning_gym.problems("gcd", 20, seed=3)[:10]
    assert reasoning_gym.problems("gcd", 10, seed=3) != reasoning_gym.problems("gcd", 10, seed=4)


def test_no_task_that_can_be_used_evaluates_what_the_model_wrote():
    """Every scorer that calls an evaluator of text is refused; number_sorting evaluates the library's own answer only."""
    evaluating = {"eval", "exec", "parse_expr", "sympify"}
    for task in reasoning_gym.tasks():
        scorer = inspect.getsource(gym.factory.DATASETS[task][0].score_answer)
        calls = {
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for node in ast.walk(ast.parse(inspect.cleandoc("\n" + scorer)))
            if isinstance(node, ast.Call)
        }
        assert not calls & evaluating or task == "number_sorting", task


def test_an_answer_that_is_python_is_text(tmp_path):
    (context,) = reasoning_gym.problems("number_sorting", 1, seed=0)
    attack = f"<answer>__import__('pathlib').Path({str(tmp_path / 'written')!r}).touch()</answer>"
    assert reasoning_gym.score(context, Output(content=attack)) < 0.5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: reasoning_gym.problems("gdc", 1, seed=0), "no task 'gdc'. Did you mean 'gcd'?"),
        (lambda: reasoning_gym.problems("n_queens", 1, seed=0), "evaluates what the model wrote"),
        (lambda: reasoning_gym.problems("gcd", 1, seed=0, settings={"size_of_it": 1}), "do not fit gcd"),
        (
            lambda: reasoning_gym.problems("gcd", 99, seed=0, settings={"min_value": 1, "max_value": 2}),
            "different training problems and then none among 2000; expected 99",
        ),
    ],
)
def test_what_cannot_be_made_says_why(ask, message):
    with pytest.raises(ConfigError) as caught:
        ask()
    assert message in str(caught.value)


def test_another_context_could_not_be_judged():
    judged = reasoning_gym.verifier().reward([Context(content="1 + 1")], [Output(content="2")])
    assert not judged.judged.any()
    assert "what made the problem" in judged.errors[0]
