"""The study of learning to summarize: what is compared, how over-optimisation is told, and what decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plaudit.policies import CausalLM
from plaudit.studies import Results, Trial, TrialResult
from plaudit.studies import summarize as study
from plaudit.studies.summarize import ARMS, BETAS, FULL, QUICK, SHARES, STUDY, HeldOut, compared, overoptimised
from plaudit.testbeds import summaries
from plaudit.testbeds.decoders import DecoderConfig

SMALL = replace(
    QUICK, comparisons=16, rollouts=2, contexts=4, looks=2, held_out=8,
    decoder=DecoderConfig(layers=1, width=32, demonstrations=640, batch_size=32, learning_rate=1e-2),
)  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(study, "QUICK", SMALL)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_and_scores_every_held_out_example_once(small, tmp_path, arm):
    """1 to 2 s an arm on a free core; the first one also trains the decoder, 5 s."""
    result = STUDY.run(Trial(arm, 0, True, tmp_path))
    assert result.samples == (SMALL.samples if arm in BETAS else 0)
    if arm in SHARES:
        assert {name: len(values) for name, values in result.scores.items()} == {"accuracy": 8}
        return
    assert {len(result.scores[name]) for name in ("preferred", "lead", "utility", "length")} == {8}
    assert set(result.scores["preferred"]) <= {0.0, 0.5, 1.0}
    if arm in BETAS:
        assert result.figures["kl 0"] == pytest.approx(0, abs=1e-5)
        assert result.figures["kl 2"] != 0
    if arm == "ppo-free":
        assert len(result.scores["utility lost after its peak"]) == 4
    if arm == "best-of-n":
        assert set(result.figures) == {f"utility, best of {count}" for count in (1, 2, 4)}


def test_comparisons_are_of_finished_different_summaries_and_mostly_say_what_is_worth_more():
    policy = CausalLM.load(study.supervised(SMALL, seed=0), dtype="float32")
    found = compared(policy, 60, seed=0)
    end = policy.encoder.turn_end
    assert len(found) == 60
    assert all(pair.chosen.output[-1] == pair.rejected.output[-1] == end for pair in found)
    assert all(pair.chosen.output != pair.rejected.output for pair in found)
    assert found == compared(policy, 60, seed=0)
    asked = {pair.chosen.context for pair in found}
    assert not asked & {pair.chosen.context for pair in compared(policy, 60, seed=0, held_out=True)}


def test_the_reward_model_gives_references_mean_0(small, tmp_path):
    trial = Trial("reward-all", 0, True, tmp_path)
    model = study.reward_model(SMALL, tmp_path / "reward", trial)
    contexts = summaries.records(SMALL.comparisons, seed=0)
    references = [summaries.Output(content=summaries.written(context, seed=0)) for context in contexts]
    assert float(model.reward(contexts, references).value.mean()) == pytest.approx(0, abs=1e-5)


def test_a_summary_equal_in_utility_to_the_reference_is_half_preferred():
    held_out = HeldOut(SMALL, seed=0)
    references = [summaries.Output(content=summaries.written(context, seed=0)) for context in held_out.contexts]
    assert held_out.scores(references)["preferred"] == [0.5] * SMALL.held_out
    ideal = [summaries.Output(content=summaries.ideal(context)) for context in held_out.contexts]
    assert min(held_out.scores(ideal)["lead"]) >= 0


def curve(utility: float, reward: float) -> dict[str, list[float]]:
    spread = [0.01 * (row % 4) for row in range(40)]
    return {"utility": [utility + add for add in spread], "reward": [reward + add for add in spread], "kl": spread}


def test_over_optimisation_is_utility_that_falls_while_reward_rises():
    curves = [curve(*point) for point in ((0.0, 0.0), (0.3, 1.0), (0.2, 2.0), (0.1, 3.0), (0.0, 4.0))]
    scores, figures = overoptimised(curves)
    assert figures == {"best look": 1, "alarm": 4}
    assert scores["utility up to its peak"] == pytest.approx([0.3] * 20)
    assert scores["utility lost after its peak"] == pytest.approx([0.3] * 20)
    assert scores["reward after the peak of utility"] == pytest.approx([3.0] * 20)


def test_the_peak_is_chosen_on_other_records_than_it_is_measured_on():
    """Noise that lifts one look on the first half is no gain on the second."""
    flat, lifted = curve(0.1, 0.0), curve(0.1, 0.0)
    lifted["utility"] = [value + (0.5 if row < 20 else 0.0) for row, value in enumerate(lifted["utility"])]
    scores, figures = overoptimised([flat, lifted, flat])
    assert figures["best look"] == 1
    assert scores["utility lost after its peak"] == pytest.approx([0.0] * 20)


def test_what_ppo_and_the_reward_model_are_set_to():
    """The traps of the specification, as the study sets them."""
    config = study.ppo_config(FULL, BETAS["ppo"])
    assert (config.discount, config.trace, config.clip, config.value_clip, config.value_coefficient) == (
        1,
        0.95,
        0.2,
        0.2,
        0.1,
    )
    assert (config.epochs_per_rollout, config.whiten_rewards, config.whiten_advantages) == (4, True, True)
    assert config.unfinished_reward == -1.0
    assert study.ppo_training(FULL, seed=0).adam_epsilon == study.reward_training(seed=0).adam_epsilon == 1e-5
    policy = CausalLM.load(study.supervised(SMALL, seed=0), dtype="float32")
    assert not any(isinstance(module, torch.nn.Dropout) for module in policy.model.modules())
    assert policy.model.config.attention_dropout == 0.0


def test_the_first_claim_decides_and_is_ppo_above_the_supervised_policy():
    def results(ppo: float, lead: float = 0.2) -> Results:
        found = {}
        for seed in range(5):
            noise = 0.002 * (seed - 2)
            for arm in ("sft", "ppo", "best-of-n"):
                share = {"sft": 0.7, "ppo": ppo, "best-of-n": 0.6}[arm] + noise * (arm == "ppo")
                found[arm, seed] = TrialResult({"preferred": [share] * 4, "lead": [lead + noise] * 4}, 0, {})
            for arm, accuracy in (("reward-all", 0.7), ("reward-quarter", 0.65), ("reward-sixteenth", 0.6 + noise)):
                found[arm, seed] = TrialResult({"accuracy": [accuracy] * 4}, 0, {})
            names = ("utility up to its peak", "utility lost after its peak", "reward after the peak of utility")
            found["ppo-free", seed] = TrialResult({name: [0.1 + noise] * 4 for name in names}, 0, {})
        return Results(found)

    decisions = {ppo: [finding.decision for finding in STUDY.judge(results(ppo))] for ppo in (0.8, 0.7, 0.5)}
    assert [row[0] for row in decisions.values()] == ["holds", "inconclusive", "does not hold"]
    assert decisions[0.5][1:6] == ["holds"] * 5
    assert [finding.decision for finding in STUDY.judge(results(0.8, lead=-0.1))][1] == "does not hold"
