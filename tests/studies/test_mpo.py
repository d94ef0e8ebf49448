"""The study of MPO: what its arms are, what is matched, and what decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plaudit.studies import Results, Trial, TrialResult
from plaudit.studies.mpo import ARMS, FULL, MATCHED_KL, QUICK, STUDY, World, curriculum, matched
from plaudit.testbeds.decoders import DecoderConfig

SMALL = replace(
    QUICK, pairs=16, held_out=6, decoder=DecoderConfig(layers=1, width=32, demonstrations=320, learning_rate=1e-2)
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What the arms of seed 0 share."""
    folder = tmp_path_factory.mktemp("shared")
    World(SMALL, folder, seed=0).share()
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_has_the_same_comparisons_and_with_ppo_as_many_answers(tmp_path, monkeypatch, shared, arm):
    monkeypatch.setattr("plaudit.studies.mpo.QUICK", SMALL)
    found = STUDY.run(Trial(arm, 0, True, tmp_path, shared))
    asked = 0 if arm.startswith("dpo") else SMALL.askings * SMALL.asked
    assert found.samples == 2 * SMALL.pairs + asked <= SMALL.samples
    assert all(len(values) == SMALL.held_out for values in found.scores.values())
    assert all(0 <= value <= 1 for value in found.scores["utility"])
    assert found.figures["KL at look 0"] == pytest.approx(0, abs=1e-5)
    assert ("KL to where PPO began" in found.figures) == bool(asked)


def test_what_the_arms_learn_from(shared):
    world = World(SMALL, shared, seed=0)
    pairs = world.pairs()
    contexts = {pair.context.digest for pair in pairs}
    made = {arm: curriculum(arm, world) for arm in ("dpo-all", "ppo", "mpo-no-selection", "mpo")}
    texts = [(pair.chosen.text, pair.rejected.text) for pair in pairs]
    for arm in ("dpo-all", "mpo-no-selection"):
        assert [(pair.chosen.text, pair.rejected.text) for pair in made[arm].easy] == texts
    assert not made["dpo-all"].hard
    assert not made["ppo"].easy
    assert {context.digest for context in made["ppo"].hard} == contexts
    assert made["mpo-no-selection"].hard == made["ppo"].hard
    assert len(made["mpo"].easy) == pytest.approx(len(pairs) / 2, abs=1)
    assert {pair.context.digest for pair in made["mpo"].easy} | {one.digest for one in made["mpo"].hard} == contexts


def test_matched_is_the_last_look_before_the_first_that_is_too_far():
    near, far = MATCHED_KL / 2, MATCHED_KL * 2
    looks = [([0.1], [0.0]), ([0.3], [near]), ([0.9], [far]), ([0.4], [near])]
    assert matched(looks) == [0.3]
    assert matched(looks[:1]) == matched([looks[0], looks[2]]) == [0.1]


def test_the_budget_is_what_the_full_size_samples():
    assert STUDY.budget.samples == FULL.samples == 2 * 3200 + 32 * 64


@pytest.mark.parametrize(
    ("dpo", "ppo", "decision"),
    [
        (-0.05, -0.05, "holds"),
        (-0.05, 0.005, "holds"),  # no worse than PPO by 0.01
        (-0.05, 0.05, "does not hold"),
        (0.05, -0.05, "does not hold"),
        (0.0, -0.05, "inconclusive"),
    ],
)
def test_the_claim_needs_both_comparisons(dpo, ppo, decision):
    found = {}
    for seed in range(5):
        for arm in ARMS:
            value = 0.5 + {"dpo-all": dpo, "ppo": ppo}.get(arm, 0) + (0.002 * (seed - 2) if arm == "mpo" else 0)
            found[arm, seed] = TrialResult({"matched utility": [value] * 4, "unstable": [0.0] * 4}, 0, {})
    findings = STUDY.judge(Results(found))
    assert findings[0].decision == decision
    assert findings[0].claim == "at matched KL, MPO is above DPO on all pairs and no worse than PPO"
    assert findings[2].estimate.value == pytest.approx(-ppo)
