"""The study of SuperHF: every arm does what it says at equal budget, and the claims are decided as declared."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from plaudit.feedback.records import Output, Text
from plaudit.studies import Results, Trial, TrialResult
from plaudit.studies import superhf as study
from plaudit.studies.counting import Counting
from plaudit.studies.superhf import ARMS, BETAS, FULL, QUICK, STUDY, SUPERHF
from plaudit.testbeds import topics
from plaudit.testbeds.decoders import DecoderConfig
from plaudit.testbeds.topic_judges import JudgesConfig

DECODER = DecoderConfig(layers=1, width=32, demonstrations=800, batch_size=32, learning_rate=1e-2)
SMALL = replace(
    QUICK, superbatches=2, outputs=4, decoder=DECODER, judges=JudgesConfig(pairs=40, batch_size=8, epochs=1.0)
)


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAUDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(study, "QUICK", SMALL)
        yield


@pytest.mark.parametrize("arm", ["feedme", "best-of-16", "ppo", "superhf-0", "superhf-0.35"])
def test_a_trial_measures_every_held_out_prompt_and_counts_what_it_sampled(tmp_path, arm):
    """The first one trains decoder and reward models for all of them: over 5 s on a busy core."""
    result = STUDY.run(Trial(arm, 0, True, tmp_path))
    assert result.samples == (0 if arm in ("feedme", "best-of-16") else SMALL.samples)
    held_out = len(topics.prompts("held out"))
    assert {len(values) for values in result.scores.values()} == {held_out}
    assert set(result.figures) == {f"{name} before" for name in result.scores}
    for name in ("similarity", "stock phrase", "likeness to the start"):
        assert all(0 <= value <= 1 for value in result.scores[name])
    assert all(0 <= value <= 2 for value in result.scores["true utility"])


def test_beta_is_twice_the_official_one_since_that_adds_up_two_outputs():
    """The first test that asks for the decoder waits for it: over 5 s on a busy core."""
    policy, known = study.start(SMALL, seed=0), None
    counting = Counting(None)
    made = {arm: study.learner(arm, policy, counting, known, SMALL) for arm in SUPERHF}
    assert [method.config.beta for method in made.values()] == [2 * beta for beta in BETAS]
    assert {0.0, 0.1, 0.35} < set(BETAS)
    assert made["superhf-0"].config.sampling.top_p == 0.95


def test_the_best_of_n_is_the_best_of_each_run_of_n():
    class Length:
        def reward(self, contexts, outputs, *, batch_size):
            return type("Found", (), {"value": np.array([float(len(output.text)) for output in outputs])})

    contexts = study.measured_on(0)
    count = len(contexts)
    assert study.best_of(contexts, [["a", "bb", "ccc", "dd"]] * count, Length(), 2) == [["bb", "ccc"]] * count
    assert study.best_of(contexts, [["aa", "bb"]] * count, Length(), 2) == [["aa"]] * count
    assert Output(content=Text(text="bb")).text == "bb"


def test_settings_are_chosen_with_other_prompts_than_those_that_are_measured_on():
    assert study.measured_on(0) == study.measured_on(4) == topics.prompts("held out")
    assert study.measured_on(90) == topics.prompts("pilot")


def test_no_superbatch_of_any_arm_is_short():
    contexts = [context.text for context in study.asked(FULL)]
    assert len(contexts) == FULL.samples
    assert len(contexts) % FULL.contexts == len(contexts) % (FULL.contexts * FULL.outputs) == 0
    counts = {text: contexts.count(text) for text in set(contexts)}
    assert counts.keys() == {context.text for context in topics.prompts()}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_budget_is_what_the_full_size_samples():
    assert STUDY.budget.samples == FULL.samples == FULL.superbatches * 2 * 16
    assert STUDY.arms == ARMS


def test_the_exact_test_counts_orders():
    assert study.exact_p_value(-1.0, 6) == pytest.approx(1 / 720)
    values = study._spearman(np.array(list(permutations(range(4)))))
    for found in set(values.tolist()):
        assert study.exact_p_value(found, 4) == pytest.approx(fmean(value <= found + 1e-9 for value in values))
    ties = np.array([3.0, 1.0, 1.0, 0.5])
    expected = stats.spearmanr(ties, range(4)).statistic
    assert study._spearman(np.stack([ties, np.ones(4)])) == pytest.approx([expected, 0])


def made(*, gain: float = 0.5, slope: float = -0.1, utility_at_0: float = 0.6, ppo_spread: float = 3.0) -> Results:
    """Five seeds; the true utility is best at beta 0.2, the optimised reward falls with beta."""
    found = {}
    for seed in range(5):
        noise = 0.02 * (seed - 2)
        for arm in ARMS:
            place = list(SUPERHF).index(arm) if arm in SUPERHF else 0
            truth = utility_at_0 if arm == "superhf-0" else 1 - 0.1 * abs(place - 3)
            level = {"feedme": 0.0, "ppo": ppo_spread * noise * 5}.get(arm, gain + noise)
            scores = {
                "test reward": [level] * 4,
                "train reward": [2 - 0.1 * place + noise] * 4,
                "true utility": [truth + noise] * 4,
                "similarity": [0.8 + slope * place + noise / 10] * 4,
            }
            found[arm, seed] = TrialResult(scores, 0, {})
    return Results(found)


def test_the_claims_are_decided_as_declared():
    found = STUDY.judge(made())
    assert [finding.decision for finding in found] == ["holds"] * 5
    assert found[1].estimate.value == pytest.approx(-1)
    assert "p = 0.0014" in found[1].estimate.method
    assert found[2].estimate.value == pytest.approx(0.4)  # at beta 0.2, which every seed's others choose
    assert found[3].estimate.value == pytest.approx(0.3)
    assert STUDY.judge(made(gain=-0.5))[0].decision == "does not hold"
    assert STUDY.judge(made(gain=0.0))[0].decision == "inconclusive"
    assert STUDY.judge(made(slope=0.1))[1].decision == "does not hold"
    assert STUDY.judge(made(slope=0.0))[1].decision == "does not hold"
    assert STUDY.judge(made(utility_at_0=2.0))[2].decision != "holds"


def test_the_spread_is_the_test_of_brown_and_forsythe():
    results = made(ppo_spread=3.0)
    rows = [[results.found[arm, seed].scores["test reward"][0] for seed in range(5)] for arm in ("ppo", study.MAIN)]
    estimate, exact = study.spread(results), stats.levene(*rows, center="median")
    t = estimate.value / ((estimate.high - estimate.value) / stats.t.ppf(0.975, 8))
    assert t**2 == pytest.approx(exact.statistic)
    assert estimate.excludes(0) == (exact.pvalue < 0.05)
    one = Results({key: value for key, value in results.found.items() if key[1] == 0})
    assert study.spread(one).low == -np.inf
