"""The study of AlpacaFarm: every method runs from one pool's comparisons, and the criterion is what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from plaudit.feedback.records import Output
from plaudit.studies import Results, Trial, TrialResult
from plaudit.studies import alpacafarm as study
from plaudit.studies.alpacafarm_methods import METHODS, POOLS, Farm
from plaudit.testbeds import instructions
from plaudit.testbeds.decoders import decoder

SMALL = replace(
    study.QUICK, pairs=12, askings=1, asked=8, imitated=8, best_of=2, held_out=6, curve=2, curve_samples=4,
    decoder=replace(study.QUICK.decoder, demonstrations=160),
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What the arms of seed 0 share."""
    folder = tmp_path_factory.mktemp("shared")
    Farm(decoder("instructions", SMALL.decoder), folder, SMALL, seed=0, folder=folder / "runs").share()
    return folder


def test_every_pool_has_a_reward_model_of_its_own_from_the_same_answers(shared):
    assert sorted(path.name for path in shared.iterdir()) == [
        "answers.json", "reward-human", "reward-simulated", "reward-single", "runs",
    ]  # fmt: skip
    farm = Farm(decoder("instructions", SMALL.decoder), shared, SMALL, seed=0, folder=shared)
    by_pool = {pool: farm.preferences(pool) for pool in POOLS}
    sides = {
        pool: {frozenset((pair.chosen.text, pair.rejected.text)) for pair in pairs} for pool, pairs in by_pool.items()
    }
    assert sides["simulated"] == sides["human"] == sides["single"]
    assert not {context.text for context in farm.compared} & {context.text for context in farm.unlabelled}


@pytest.mark.parametrize("arm", METHODS)
def test_every_method_answers_held_out_instructions_by_each_pool(shared, tmp_path, monkeypatch, arm):
    monkeypatch.setattr(study, "QUICK", SMALL)
    result = study.STUDY.run(Trial(arm, 0, True, tmp_path, shared))
    for name in ("simulated", "human", "utility, simulated", "utility, human"):
        assert len(result.scores[name]) == 6
        assert all(0 <= value <= 1 for value in result.scores[name])
    assert result.samples <= SMALL.samples
    own = {"sft": {"raw gain", "length-controlled gain"}}
    own["best-of-16"] = {f"best of {n}, {judge}" for n in (1, 4) for judge in ("simulated", "single")}
    assert set(result.scores) - {"simulated", "human", "utility, simulated", "utility, human"} == own.get(arm, set())
    assert (result.figures["price of labels, human"] > 0) == (arm != "sft")
    assert (result.samples > 0) == (arm != "sft")


def test_verbose_answers_are_longer_and_worth_no_more():
    contexts = instructions.instructions(60, seed=90)
    outputs = [example.output for example in instructions.answered(contexts, seed=90)]
    wordy = study.verbose(contexts, outputs, seed=0)
    for context, plain, more in zip(contexts, outputs, wordy, strict=True):
        assert more.text.endswith(plain.text)
        before, after = (instructions.features(context, output.text) for output in (plain, more))
        assert all(after[name] == before[name] for name in ("correctness", "form", "list"))
    extra = {len(more.text.split()) - len(plain.text.split()) for plain, more in zip(outputs, wordy, strict=True)}
    assert extra == set(range(study.MOST_FILLERS + 1))


def test_equal_answers_win_half_whoever_wrote_them():
    context = instructions.instructions(1, seed=0)[0]
    output = Output(content="1 2, low 1.")
    assert study.win_rates(instructions.human_pool(), [context], [output], [output]) == [0.5]


def results(*, order: list[int], drop: float = 0.1, left: float = 0.0) -> Results:
    """Methods whose human win rates lie in that order beside the simulated ones, which rise."""
    found = {}
    for seed in range(3):
        noise = 0.001 * (seed - 1)
        for rank, arm in enumerate(METHODS):
            simulated, human = 0.3 + 0.05 * rank + noise, 0.3 + 0.05 * order[rank] + noise * (rank + 1)
            scores = {"simulated": [simulated] * 4, "human": [human] * 4}
            if arm == "sft":
                scores |= {"raw gain": [0.06 + noise], "length-controlled gain": [left + noise]}
            if arm == "best-of-16":
                for judge, last in (("simulated", 0.6 - drop + noise), ("single", 0.7)):
                    scores |= {f"best of {n}, {judge}": [rate] * 2 for n, rate in ((1, 0.4), (4, 0.6), (16, last))}
            found[arm, seed] = TrialResult(scores, 0, {})
    return Results(found)


def decisions(given: Results) -> list[str]:
    return [finding.decision for finding in study.STUDY.judge(given)]


def test_the_criterion_is_the_rank_correlation_of_the_methods():
    same, mixed = list(range(8)), [7, 3, 1, 5, 0, 6, 2, 4]
    assert decisions(results(order=same)) == ["holds"] * 8
    assert decisions(results(order=mixed))[0] == "does not hold"
    first = study.STUDY.judge(results(order=same))[0]
    assert first.estimate.value == pytest.approx(1)
    assert "p = 2.5e-05" in first.claim  # one order of 8!


def test_the_other_claims_are_decided_by_their_own_figures():
    same = list(range(8))
    assert decisions(results(order=same, drop=-0.05))[5] == "inconclusive"  # neither falls
    assert decisions(results(order=same, left=0.05))[7] == "does not hold"
    assert decisions(results(order=list(reversed(same))))[2] == "does not hold"  # PPO below SFT by the people


def test_the_budget_is_what_the_full_size_samples():
    size = study.FULL
    assert study.STUDY.budget.samples == size.samples
    assert size.samples == 2 * (size.pairs + max(size.askings * size.asked, size.imitated * size.best_of))
    assert study.steps(1024) == [1, 4, 16, 64, 256, 1024]
