"""MPO: the split by cross-fitted gaps, its limits, what each stage learns from, and going on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import ConfigError
from plaudit.feedback.examples import Pair
from plaudit.feedback.records import Context, Output
from plaudit.methods import DPO, GRPOConfig, OnPolicy, encode_pairs, grpo
from plaudit.methods.mpo import MPOConfig, by_gap, cross_fitted_gaps, learn_mpo
from plaudit.policies import CausalLM, Reference
from plaudit.rewards import FunctionReward
from plaudit.training import RunFolder, TrainingConfig, train

from .test_on_policy import fresh, last_weights

TRAINING = TrainingConfig(
    learning_rate=0.01, schedule="constant", warmup_ratio=0, batch_size=4, checkpoint_every=1, keep_checkpoints=9
)
SETTINGS = GRPOConfig(contexts_per_rollout=2, outputs_per_context=4, max_new_tokens=5, kl_coefficient=0.2)


def pairs(count: int = 6, *, tie: int | None = None) -> list[Pair]:
    """Two pairs of each context; the longer answer is better, by as many letters as the number of the pair."""
    return [
        Pair(
            Context(content=f"Question {number // 2}?"), Output(content="x" * (number + 2)), Output(content="y"), "s", (),
            tie=number == tie,
        )
        for number in range(count)
    ]  # fmt: skip


def length(context: Context, output: Output) -> float:
    return float(len(output.text))


# --- the split ------------------------------------------------------------------------------------------------------


def test_no_gap_comes_from_a_reward_that_saw_the_pairs_context():
    given_pairs, seen = pairs(12), []

    def fit(known, fold: int) -> FunctionReward:
        inside = {pair.context.digest for pair in known}
        seen.append(inside)

        def judge(context: Context, output: Output) -> float:
            assert context.digest not in inside
            return length(context, output)

        return FunctionReward(judge)

    gap = cross_fitted_gaps(given_pairs, fit, MPOConfig(folds=3), seed=0)
    assert len(seen) == 3
    assert (gap > 0).all()
    assert all(len(inside) == 4 for inside in seen)  # of six contexts


def test_gaps_of_different_folds_are_in_one_unit():
    """One reward model's units are a thousand times the other's; the means of their gaps are 1."""
    gap = cross_fitted_gaps(
        pairs(12),
        lambda known, fold: FunctionReward(lambda context, output: 1000.0**fold * length(context, output)),
        MPOConfig(),
        seed=0,
    )
    assert gap.max() < 3
    assert float(gap.mean()) == pytest.approx(1)


def test_a_pair_that_cannot_be_judged_is_hard():
    def judge(context: Context, output: Output) -> float | None:
        return None if output.text == "xx" else length(context, output)

    given_pairs = pairs(6)
    gap = cross_fitted_gaps(given_pairs, lambda known, fold: FunctionReward(judge), MPOConfig(), seed=0)
    assert gap[0] == 0
    assert given_pairs[0] not in by_gap(given_pairs, gap, MPOConfig(easy_share=0.5)).easy


def test_the_largest_gaps_are_easy_and_the_contexts_of_the_others_are_asked_once():
    given_pairs = pairs(6)
    found = by_gap(given_pairs, torch.tensor([0.1, 3.0, 0.2, 0.3, 2.0, 1.0]), MPOConfig(easy_share=0.5))
    assert found.easy == (given_pairs[1], given_pairs[4], given_pairs[5])
    assert [context.text for context in found.hard] == ["Question 0?", "Question 1?"]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_every_pair_is_easy_or_its_context_is_asked(gaps, share):
    """With share 1 it is DPO alone, with share 0 reinforcement alone; no easy gap lies below a hard one."""
    given_pairs, gap = pairs(len(gaps)), torch.tensor(gaps, dtype=torch.float32)
    found = by_gap(given_pairs, gap, MPOConfig(easy_share=share))
    asked = {context.digest for context in found.hard}
    rest = [number for number, pair in enumerate(given_pairs) if pair not in found.easy]
    assert asked == {given_pairs[number].context.digest for number in rest}
    assert len(found.easy) >= round(share * len(gaps))
    if rest and found.easy:
        assert max(gaps[number] for number in rest) < min(
            value for value, pair in zip(gaps, given_pairs, strict=True) if pair in found.easy
        )
    if share == 1:
        assert not found.hard
    if share == 0:
        assert not found.easy


def test_a_tie_is_never_easy():
    given_pairs = pairs(4, tie=3)
    found = by_gap(given_pairs, torch.arange(4.0), MPOConfig(easy_share=0.5))
    assert found.easy == (given_pairs[2],)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MPOConfig(easy_share=1.5), r"easy_share: expected a share in \[0, 1\], got 1.5"),
        (lambda: MPOConfig(folds=1), "folds: expected a whole number >= 2, got 1"),
        (lambda: MPOConfig(beta=0), "beta: expected a number > 0, got 0"),
        (
            lambda: by_gap(pairs(3), torch.zeros(2), MPOConfig()),
            r"gap: expected one for each of 3 pairs, got shape \[2\]",
        ),
        (
            lambda: cross_fitted_gaps(pairs(2), lambda known, fold: FunctionReward(length), MPOConfig(), seed=0),
            "folds: expected at most the number of contexts, 1, got 2",
        ),
    ],
)
def test_what_cannot_be_used(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# --- the stages -----------------------------------------------------------------------------------------------------


class Watched:
    """Makes the second stage, and keeps what it was given."""

    def __init__(self) -> None:
        self.pull: float | None = None
        self.asked: list[str] = []

    def __call__(self, policy: CausalLM, reference: Reference, contexts) -> OnPolicy:
        sequence = policy.encoder.sequence(contexts[0], Output(content="xyx"))
        with torch.no_grad():
            self.pull = float((policy.log_prob_of([sequence]).sum() - reference.log_prob_of([sequence]).sum()).abs())
        self.asked = [context.text for context in contexts]
        return OnPolicy(policy, FunctionReward(length), contexts, grpo(SETTINGS), SETTINGS, reference=reference)


def learn(policy: CausalLM, folder: Path, online, *, share: float = 0.5, steps: int = 2, start=None) -> None:
    given_pairs = pairs(6)
    config = MPOConfig(easy_share=share)
    curriculum = by_gap(given_pairs, torch.arange(6.0), config)
    learn_mpo(policy, curriculum, online, config, folder, first=TRAINING, second=TRAINING, steps=steps, start=start)


def weights(policy: CausalLM) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in policy.model.named_parameters() if weight.requires_grad}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("adapters", [True, False])
def test_the_second_stage_is_pulled_to_the_model_of_the_first_and_not_to_the_start(tmp_path, tiny_model, adapters):
    policy = fresh(tiny_model) if adapters else CausalLM.load(tiny_model, dtype="float32")
    online = Watched()
    learn(policy, tmp_path, online)
    assert online.pull == pytest.approx(0, abs=1e-5)
    assert online.asked == ["Question 0?", "Question 1?"]
    away = Watched()
    again = fresh(tiny_model) if adapters else CausalLM.load(tiny_model, dtype="float32")
    learn(again, tmp_path / "ablation", away, start=CausalLM.load(tiny_model, dtype="float32"))
    assert away.pull is not None
    assert away.pull > 1e-3


def test_with_share_1_it_is_dpo_on_all_pairs(tmp_path, tiny_model):
    policy, alone = fresh(tiny_model), fresh(tiny_model)
    learn(policy, tmp_path / "mpo", Watched(), share=1.0)
    encoded, _ = encode_pairs(pairs(6), alone.encoder)
    reference = Reference(alone, batch_size=64)
    reference.prepare([side for pair in encoded for side in (pair.chosen, pair.rejected)])
    method = DPO(alone, reference, encoded, MPOConfig().dpo)
    train(method, RunFolder.create(tmp_path / "dpo", {}), TRAINING, steps=TRAINING.steps(6))
    assert same(weights(policy), weights(alone))
    assert not (tmp_path / "mpo" / "hard").exists()


def test_with_share_0_it_is_the_second_stage_from_the_start(tmp_path, tiny_model):
    policy, alone = fresh(tiny_model), fresh(tiny_model)
    online = Watched()
    learn(policy, tmp_path / "mpo", online, share=0.0)
    assert len(online.asked) == 3
    assert not (tmp_path / "mpo" / "easy").exists()
    start = Reference(CausalLM.load(tiny_model, dtype="float32"), batch_size=64)
    method = OnPolicy(
        alone,
        FunctionReward(length),
        [pair.context for pair in pairs(6)[::2]],
        grpo(SETTINGS),
        SETTINGS,
        reference=start,
    )
    train(method, RunFolder.create(tmp_path / "grpo", {}), TRAINING, steps=2)
    ours, theirs = weights(policy), weights(alone)
    for name, weight in ours.items():  # merged adapters of zeros round nothing, but the references share no cache
        torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=1e-5)


def test_a_run_that_was_interrupted_in_its_second_stage_ends_alike(tmp_path, tiny_model):
    """The first stage is not done again, and the reference is the model that it made. It takes two trainings."""
    whole, parts = fresh(tiny_model), fresh(tiny_model)
    learn(whole, tmp_path / "whole", Watched(), steps=3)
    learn(parts, tmp_path / "parts", Watched(), steps=1)
    after = fresh(tiny_model)
    online = Watched()
    learn(after, tmp_path / "parts", online, steps=3)
    assert online.pull == pytest.approx(0, abs=1e-5)
    assert same(last_weights(tmp_path / "whole" / "hard"), last_weights(tmp_path / "parts" / "hard"))
