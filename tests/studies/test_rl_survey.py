"""The bench of the survey: it holds every method, gives each the same number of answers, and lists what fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plaudit.methods.registry import ENTRIES
from plaudit.policies import CausalLM
from plaudit.studies import Results, Trial, TrialResult
from plaudit.studies.arithmetic_start import Start
from plaudit.studies.counting import Counting
from plaudit.studies.rl_survey import ARMS, FULL, QUICK, STUDY, judged
from plaudit.testbeds import arithmetic
from plaudit.testbeds.decoders import DecoderConfig

NO_ARM = {
    "sft": "the start is made with it",
    "reward": "makes a judge",
    "preference": "makes a judge",
    "mpo": "has a study of its own",
    "lipo": "has a study of its own",
    "brain": "learns by how much rewards differ, and a verifier gives 0 and 1",
    **dict.fromkeys(("inpo", "sppo", "online-ipo", "nash-md", "nash-mp", "egpo"), "learns from duels"),
}
BASE = DecoderConfig(layers=1, width=32, demonstrations=320, batch_size=16, learning_rate=1e-2)
SMALL = replace(QUICK, rollouts=2, contexts=4, held_out=6, start=Start(base=BASE, unequal=64))


@pytest.fixture
def every_third(monkeypatch) -> None:
    """A decoder of a few examples is nearly always wrong: the verifier calls every third answer right."""
    calls = []

    def judge(context, output) -> float:
        calls.append(output)
        return float(len(calls) % 3 == 0)

    monkeypatch.setattr(arithmetic, "right", judge)


def test_every_method_is_an_arm_or_it_is_said_why_not():
    assert set(ARMS) == {row.name for row in ENTRIES} - set(NO_ARM)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_and_none_learns_from_more_answers_than_the_budget(tmp_path, monkeypatch, every_third, arm):
    monkeypatch.setattr("plaudit.studies.rl_survey.QUICK", SMALL)
    found = STUDY.run(Trial(arm, 0, True, tmp_path))
    assert found.samples == SMALL.samples == 2 * 4 * 8
    assert set(found.scores) == {"pass@1", "KL", "length", "gain"}
    assert all(len(values) == 6 for values in found.scores.values())
    before = sum(found.scores["pass@1"]) / 6 - sum(found.scores["gain"]) / 6
    assert found.figures["pass@1 before"] == pytest.approx(before)


def test_pairs_and_labels_are_what_the_verifier_says_of_the_same_answers(every_third):
    policy, reward = CausalLM.load(SMALL.start.folder(), dtype="float32"), Counting(arithmetic.verifier())
    found = judged(policy, reward, SMALL, seed=0)
    assert len(found.labelled) == reward.samples == SMALL.samples
    labels = {(one.context.digest, id(one.output)): one.desirable for one in found.labelled}
    assert sum(labels.values()) == SMALL.samples // 3
    assert found.pairs
    for pair in found.pairs:
        assert labels[pair.context.digest, id(pair.chosen)]
        assert not labels[pair.context.digest, id(pair.rejected)]


def test_the_budget_is_what_the_full_size_samples():
    assert STUDY.budget.samples == FULL.samples == 48 * 16 * 8


def results(failing: tuple[str, ...]) -> Results:
    found = {}
    for seed in range(3):
        for place, arm in enumerate(ARMS):
            gain = (-0.05 if arm in failing else 0.05 + 0.001 * place) + 0.002 * (seed - 1)
            found[arm, seed] = TrialResult({"gain": [gain] * 4, "pass@1": [0.2 + gain] * 4}, 0, {})
    return Results(found)


def test_the_claim_holds_if_every_method_is_better_than_the_start():
    findings = STUDY.judge(results(()))
    assert findings[0].decision == "holds"
    assert findings[0].claim == "every method ends above the start"
    assert [finding.claim.partition(" ")[0] for finding in findings[1:]] == list(ARMS[::-1])  # best first


def test_a_method_that_is_not_is_listed():
    findings = STUDY.judge(results(("kto", "gspo")))
    assert findings[0].decision == "does not hold"
    assert findings[0].claim.startswith("every method ends above the start; failing: ")
    assert {name for name in ("kto", "gspo", "dpo") if name in findings[0].claim.split("failing: ")[1]} == {
        "kto",
        "gspo",
    }
