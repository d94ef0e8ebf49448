"""The engine's benchmarks: both sides compute the same, the floor is counted right, and the report says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("trl")
sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks lie beside the sources
from benchmarks.engine import cases, ceiling, dpo, grpo, measuring, report, reward, scaling, sft
from benchmarks.engine.drawing import as_contexts, endless
from benchmarks.engine.flops import Amount, Floor
from benchmarks.engine.losses import agreement

from plaudit.training import Step

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Token ids that the tests' tiny model knows."""
    monkeypatch.setattr(cases, "ORDINARY_TOKENS", range(3, 250))


def first_cases(model: Path) -> list[cases.Case]:
    dtypes = ["float32"]
    return [
        dpo.cases(str(model), dtypes, [512], ["step"])[0],
        grpo.cases(str(model), dtypes, [512])[0],
        *(module.cases(str(model), dtypes)[0] for module in (reward, sft, scaling)),
    ]


@pytest.mark.parametrize("number", range(5), ids=["dpo", "grpo", "reward", "sft", "scaling"])
def test_both_sides_compute_the_same_loss_and_gradients(tiny_model, number):
    case = first_cases(tiny_model)[number].shrunk()
    found = sys.modules[f"benchmarks.engine.{case.workload}"].check(case)
    assert found
    assert all(abs(side["loss_peer"]) > 1e-2 for side in found.values())


def test_a_step_of_grpo_learns_what_the_training_loop_would(tiny_model, monkeypatch):
    """Its gradient, cut to the token budget, is that of all outputs at once; the phases are parts of the whole."""
    case = first_cases(tiny_model)[1].shrunk()
    monkeypatch.setattr(grpo, "TOKEN_BUDGET", 100)  # two micro-batches and more
    phases = grpo.build(case, "plaudit")()
    assert set(phases) == {"sampling", "forward and backward", "optimiser"}
    assert all(seconds > 0 for seconds in phases.values())
    policy = cases.load_policy(case)
    contexts = as_contexts(endless(policy), [group[0].context for group in cases.groups(case)])
    method = grpo.method_of(policy, case, contexts)
    examples = method.collect(Step(0, 0, case.prompts))
    grpo.expect_equal_work(examples, case)
    with pytest.raises(ValueError, match="Expected 64 outputs of 4 tokens, got 63"):
        grpo.expect_equal_work(examples[1:], case)
    found = method.loss(examples)
    expected = (found.value * found.weight).sum() / found.weight.sum()
    expected.backward()
    whole = {name: weight.grad.clone() for name, weight in cases.trained(policy.model).items()}
    policy.model.zero_grad(set_to_none=True)
    torch.testing.assert_close(grpo.differentiate(method, examples), expected.detach(), rtol=0, atol=1e-6)
    for name, weight in cases.trained(policy.model).items():
        torch.testing.assert_close(weight.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_a_difference_between_the_sides_is_an_error(tiny_model):
    case = first_cases(tiny_model)[0].shrunk()
    ours, theirs = (dpo.losses(case, side) for side in dpo.SIDES)
    with torch.no_grad():
        cases.trained(ours[0])["base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight"].mul_(1.5)
    with pytest.raises(ValueError, match=r"_relative: expected at most 0\.0001, got"):
        agreement(case, ours, theirs)


def test_the_floor_of_a_model_that_can_be_counted_by_hand():
    """One layer of width 2, one head of width 2, inner width 3, vocabulary 5; 4 tokens, which see 10, one predicted."""
    config = SimpleNamespace(
        hidden_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=3,
        vocab_size=5,
    )
    floor = Floor(config, bytes_per_number=4)
    weights = 4 * (2 * 2) + 3 * (2 * 3)
    adapters = 16 * (4 * (2 + 2) + 3 * (2 + 3))
    amount = Amount(tokens=4, visible=10, predicted=1)
    assert floor.forward(amount, adapters=False) == 2 * weights * 4 + 4 * 2 * 10 + 2 * 2 * 5
    assert floor.backward(amount) == (2 * weights + 4 * adapters) * 4 + 8 * 2 * 10 + 2 * 2 * 5
    assert floor.training_bytes(amount) == 2 * 4 * (weights + 10) + 2 * 4 * (5 * 2 + 2 + 2 * 2 + 3 * 3) * 4


def test_a_measurement_is_kept_after_every_round_and_the_report_shows_it(tiny_model, tmp_path):
    case = first_cases(tiny_model)[0].shrunk()
    results = measuring.Results(tmp_path, "dpo")
    calls = {"plaudit": 0, "trl": 0}

    def side(name: str):
        def step() -> None:
            calls[name] += 1
            if calls[name] == 4:  # the warm-up, two rounds, and the interruption
                raise KeyboardInterrupt

        return step

    known = {"agreement": {}, "floor": {"tokens": 1, "flop": 1, "bytes": 1}}
    with pytest.raises(KeyboardInterrupt):
        measuring.compare(case, {name: side(name) for name in calls}, rounds=3, results=results, **known)
    (entry,) = json.loads((tmp_path / "engine_dpo.json").read_text())
    assert cases.Case.of(entry["case"]) == case
    assert [len(found["seconds"]) for found in entry["sides"].values()] == [2, 2]

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(tmp_path, readme=readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    ratio = entry["sides"]["trl"]["ratio"]
    assert f"| {case} | plaudit" not in text  # the first table has one row per peer
    assert f"| {ratio:.2f} (" in text


def test_a_readme_without_marks_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing to replace")
    with pytest.raises(ValueError, match="expected the lines"):
        report.write(tmp_path, readme=readme)


def test_passes_stay_within_the_token_budget():
    budget = cases.TOKEN_BUDGET
    assert cases.within_budget([budget // 2, budget // 2, 1, budget + 1]) == [slice(0, 2), slice(2, 3), slice(3, 4)]


def test_the_ceiling_is_that_of_the_products_of_one_pass():
    config = SimpleNamespace(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=64,
        vocab_size=99,
    )
    rate = ceiling.own_rate(Floor(config, bytes_per_number=4), Amount(tokens=8, visible=36, predicted=2), torch.float32)
    assert 1e6 < rate < 1e14
