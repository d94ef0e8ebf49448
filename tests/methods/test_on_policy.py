"""Learning from own samples on the tiny model: what is collected, what is left out, what is learned, and going on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output
from plaudit.methods import (
    GRPOConfig,
    OnPolicy,
    grpo,
)
from plaudit.methods.recipe import Experience, OnPolicyConfig, Recipe
from plaudit.methods.registry import ENTRIES
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.rewards import FunctionReward, NormalisedReward
from plaudit.sampling import Rollout
from plaudit.training import RunFolder, Step, TrainingConfig, train

CONTEXTS = [Context(content=text) for text in ("Hi", "Say a vowel.", "Count to three, please.", "Why?")]
TRAINING = TrainingConfig(
    learning_rate=0.02, schedule="constant", warmup_ratio=0, checkpoint_every=1, keep_checkpoints=9
)
SMALL = {"contexts_per_rollout": 2, "outputs_per_context": 4, "max_new_tokens": 6}


def low(context: Context, output: Output) -> float:
    """The share of tokens in the lower half of the vocabulary."""
    ids = output.content.ids
    return sum(token < 130 for token in ids) / len(ids)


def binary(context: Context, output: Output) -> float:
    return float(low(context, output) > 0.5)


def fresh(folder: Path) -> CausalLM:
    return CausalLM.load(folder, lora=LoRA(rank=4), dtype="float32")


def run(method: OnPolicy, folder: Path, steps: int, *, stop_after: int | None = None, resume: bool = False):
    run_folder = RunFolder.open(folder) if resume else RunFolder.create(folder, {})
    return train(method, run_folder, TRAINING, steps=steps, stop_after=stop_after, resume=resume)


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")


RECIPES = {row.name: row.making for row in ENTRIES if row.making is not None}
OWN = {"superhf": {"beta": 0.1}, "quark": {"beta": 0.1}}


def build(name: str, policy: CausalLM, reward=binary, **settings) -> OnPolicy:
    making = RECIPES[name]
    config = making.settings(**{**SMALL, **OWN.get(name, {}), **settings})
    return OnPolicy(policy, FunctionReward(reward), CONTEXTS, making.recipe(config), config)


@pytest.mark.parametrize("name", RECIPES)
def test_the_reward_rises(tiny_model, tmp_path, name):
    """Of the same fixed contexts, before and after 15 steps."""
    policy = fresh(tiny_model)

    def share() -> float:
        groups = policy.sample(CONTEXTS, 16, generator=torch.Generator().manual_seed(0))
        ids = [token for group in groups for sample in group for token in sample.token_ids]
        return sum(token < 130 for token in ids) / len(ids)

    before = share()
    graded = name in ("remax", "best-of-n", "superhf", "quark")  # the best of right and wrong ones are half of all
    many = 16 if name == "remax" else 8  # one greedy output is a noisy baseline
    method = build(name, policy, reward=low if graded else binary, outputs_per_context=many)
    assert method.name == name
    run(method, tmp_path / "run", 15)
    assert share() > before + 0.1


def test_what_is_collected_is_what_was_sampled_and_how_it_was_judged(tiny_model):
    policy = fresh(tiny_model)
    method = build("dr_grpo", policy, reward=low)
    found = method.collect(Step(0, 3, 16))
    assert len(found) == 2 * 4
    groups: dict[int, list] = {}
    for experience in found:
        rollout = experience.rollout
        groups.setdefault(rollout.group, []).append(experience)
        scored = policy.log_prob_of([rollout.sequence]).per_step[0]
        torch.testing.assert_close(torch.tensor(rollout.log_prob), scored.detach(), rtol=0, atol=1e-4)
        tokens = rollout.sequence.output
        assert rollout.reward == pytest.approx(sum(token < 130 for token in tokens) / len(tokens))
        assert rollout.components == {"low": rollout.reward}
        assert rollout.version == 0
        assert Rollout.from_json(rollout.as_json()) == rollout
    for members in groups.values():
        mean = sum(member.rollout.reward for member in members) / len(members)
        for member in members:
            assert member.signal["advantage"] == pytest.approx(member.rollout.reward - mean, abs=1e-6)
    assert method.collect(Step(0, 3, 16)) == found
    assert method.collect(Step(1, 3, 16)) != found


def test_several_updates_share_the_outputs_and_each_group_serves_once(tiny_model):
    method = build("grpo", fresh(tiny_model), reward=low, contexts_per_rollout=4, updates_per_rollout=2)
    parts = [method.collect(Step(index, 0, 16)) for index in (0, 1)]
    assert [len(part) for part in parts] == [8, 8]
    assert len({experience.rollout.group for part in parts for experience in part}) == 4
    for experience in parts[1]:
        assert experience.old == pytest.approx(experience.rollout.log_prob, abs=1e-4)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_goes_on_where_it_was_between_the_updates_of_one_asking(tiny_model, tmp_path, stop):
    """The outputs lie in the checkpoint: weights, and so samples, have moved since."""
    settings = {"contexts_per_rollout": 4, "updates_per_rollout": 2, "reward": low}
    run(build("grpo", fresh(tiny_model), **settings), tmp_path / "whole", 4)
    run(build("grpo", fresh(tiny_model), **settings), tmp_path / "parts", 4, stop_after=stop)
    run(build("grpo", fresh(tiny_model), **settings), tmp_path / "parts", 4, resume=True)
    whole, parts = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_a_reward_remembers_is_in_the_checkpoint(tiny_model, tmp_path):
    """A running normalisation, whose scale dr_grpo's advantages keep."""

    def made() -> OnPolicy:
        config = GRPOConfig(**SMALL, variant="dr_grpo")
        return OnPolicy(fresh(tiny_model), NormalisedReward(FunctionReward(low)), CONTEXTS, grpo(config), config)

    whole = made()
    run(whole, tmp_path / "whole", 4)
    run(made(), tmp_path / "parts", 4, stop_after=2)
    run(made(), tmp_path / "parts", 4, resume=True)
    weights, parts = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert all(torch.equal(weights[name], parts[name]) for name in weights)
    assert whole.state()["reward"]["count"] == 4 * 8


def test_going_on_asks_the_reference_in_the_same_batches(tiny_model, tmp_path, monkeypatch):
    """Outputs of one token come again and again; a value kept from another batch may differ in its last bit."""
    batches: list[list[str]] = []
    compute = Reference._compute

    def recorded(self, sequences):
        batches.append([sequence.key for sequence in sequences])
        return compute(self, sequences)

    def method() -> OnPolicy:
        policy = fresh(tiny_model)
        config = GRPOConfig(
            contexts_per_rollout=4, outputs_per_context=8, updates_per_rollout=2, max_new_tokens=1, kl_coefficient=0.5
        )
        return OnPolicy(policy, FunctionReward(low), CONTEXTS, grpo(config), config, reference=Reference(policy))

    monkeypatch.setattr(Reference, "_compute", recorded)
    run(method(), tmp_path / "whole", 6)
    whole = batches.copy()
    assert len({key for batch in whole for key in batch}) < sum(map(len, whole))
    batches.clear()
    run(method(), tmp_path / "parts", 6, stop_after=3)
    run(method(), tmp_path / "parts", 6, resume=True)
    assert batches == whole
    expected, found = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_strictly_on_policy_nft_and_dr_grpo_take_the_same_path(tiny_model, tmp_path):
    """Chen et al. 2025, section 4: with w = 1 - r the gradients are the same; 20 steps stay within 1e-5."""
    paths = []
    for name, settings in (("nft", {"aggregation": "token-sum"}), ("dr_grpo", {})):
        policy = fresh(tiny_model)
        policy.model.double()  # Adam makes steps of gradients that are rounding alone
        run(build(name, policy, outputs_per_context=8, **settings), tmp_path / name, 20)
        paths.append(last_weights(tmp_path / name))
    assert max(float((paths[0][key] - paths[1][key]).abs().max()) for key in paths[0]) < 1e-5
    assert max(float(weight.abs().max()) for key, weight in paths[0].items() if "lora_B" in key) > 0.02


# --- what is left out -----------------------------------------------------------------------------------------------


def test_an_output_that_could_not_be_judged_is_left_out_and_its_group_renormalised(tiny_model):
    calls = []

    def sometimes(context: Context, output: Output) -> float | None:
        calls.append(output)
        if len(calls) % 4 == 1:
            return None
        if len(calls) % 4 == 2:
            raise ValueError("the engine crashed")
        return low(context, output) + 0.01 * len(calls)

    method = build("dr_grpo", fresh(tiny_model), reward=sometimes)
    found = method.collect(Step(0, 0, 16))
    assert len(calls) == 8
    assert len(found) == 4
    for group in (0, 1):
        members = [experience for experience in found if experience.rollout.group == group]
        assert sum(member.signal["advantage"] for member in members) == pytest.approx(0, abs=1e-6)


def test_the_figures_of_an_asking_are_over_all_that_was_sampled(tiny_model):
    """Of two contexts one is always answered well and not learned from, and every fourth answer is not judged."""
    first, calls = CONTEXTS[0].digest, []

    def reward(context: Context, output: Output) -> float | None:
        calls.append((context.digest, len(output.content.ids)))
        return None if len(calls) % 4 == 1 else 1.0 if context.digest == first else 0.01 * len(calls)

    method = build("grpo", fresh(tiny_model), reward=reward)
    step = next(index for index in range(4) if _asks(method, index, first, calls))
    calls.clear()
    found = method.collect(Step(step, 0, 16))
    judged = [(digest, length) for number, (digest, length) in enumerate(calls, start=1) if number % 4 != 1]
    rewards = [1.0 if digest == first else 0.01 * n for n, (digest, _) in enumerate(calls, start=1) if n % 4 != 1]
    assert len(found) == 3
    assert len(judged) == 6
    asking = found[0].asking
    assert asking["not_judged"] == 2 / 8
    assert asking["not_judged.could_not_judge"] == asking["left_out.could_not_be_judged"] == 2
    assert asking["left_out.in_too_small_a_group"] == 0
    assert asking["no_contrast"] == 1 / 2
    assert asking["sampled_reward"] == pytest.approx(sum(rewards) / 6)
    assert asking["sampled_length"] == pytest.approx(sum(length for _, length in judged) / 6)
    metrics = method.loss(found).metrics
    assert metrics["not_judged"].tolist() == [0.25] * 3
    assert Experience.from_json(found[0].as_json()) == found[0]


def _asks(method: OnPolicy, index: int, digest: str, calls: list) -> bool:
    calls.clear()
    method.collect(Step(index, 0, 16))
    return len({name for name, _ in calls}) == 2 and any(name == digest for name, _ in calls)


def test_groups_that_are_all_too_small_stop_the_run(tiny_model):
    calls = []

    def once_each(context: Context, output: Output) -> float | None:
        calls.append(context.digest)
        return 1.0 if calls.count(context.digest) == 1 else None

    with pytest.raises(RewardError, match="kept 2 outputs that could be judged, and grpo compares so many"):
        build("grpo", fresh(tiny_model), reward=once_each).collect(Step(0, 0, 16))


def test_a_group_of_which_one_output_remains_teaches_nothing(tiny_model):
    calls = []

    def rarely(context: Context, output: Output) -> float | None:
        calls.append(output)
        return float("nan") if len(calls) <= 3 else low(context, output)

    found = build("grpo", fresh(tiny_model), reward=rarely).collect(Step(0, 0, 16))
    assert {experience.rollout.group for experience in found} == {1}


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda *_: None, "None of 8 outputs could be judged. The first: .* could not judge"),
        (lambda *_: float("nan"), "gave nan, and a finite number was expected"),
        (lambda *_: 1 / 0, r"raised ZeroDivisionError \(division by zero\)"),
    ],
    ids=["silent", "nan", "raises"],
)
def test_a_reward_that_judges_nothing_stops_the_run_with_the_first_reason(tiny_model, reward, message):
    with pytest.raises(RewardError, match=message):
        build("grpo", fresh(tiny_model), reward=reward).collect(Step(0, 0, 16))


def test_a_reward_of_the_wrong_length_is_an_error(tiny_model):
    class Short:
        def reward(self, contexts, outputs):
            return FunctionReward(low).reward(contexts[1:], outputs[1:])

    config = GRPOConfig(**SMALL)
    method = OnPolicy(fresh(tiny_model), Short(), CONTEXTS, grpo(config), config)
    with pytest.raises(RewardError, match=r"value: expected a reward of shape \[8\], got \[7\]"):
        method.collect(Step(0, 0, 16))


def test_groups_without_contrast_are_left_out_unless_all_are(tiny_model, tmp_path):
    """With retries others are asked in their place; a step of which nothing can be learned changes nothing."""
    first = CONTEXTS[0].digest
    half = build("grpo", fresh(tiny_model), reward=lambda c, o: 1.0 if c.digest == first else low(c, o))
    taught = {len(half.collect(Step(index, 0, 16))) for index in range(4)}
    assert taught == {4, 8}
    again = build("grpo", fresh(tiny_model), reward=lambda c, o: 1.0 if c.digest == first else low(c, o), retries=3)
    assert {len(again.collect(Step(index, 0, 16))) for index in range(4)} == {8}
    flat = build("grpo", fresh(tiny_model), reward=lambda *_: 1.0)
    run(flat, tmp_path / "run", 2)
    weights = last_weights(tmp_path / "run")
    assert not any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)


def test_nft_takes_right_and_wrong_only(tiny_model):
    with pytest.raises(RewardError, match="expected rewards 0 and 1, got 0"):
        build("nft", fresh(tiny_model), reward=low).collect(Step(0, 0, 16))


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs_per_context": 1}, "outputs_per_context: grpo compares the outputs of a context and needs at least 2, got 1"),
        ({"contexts_per_rollout": 0}, "contexts_per_rollout: expected a whole number >= 1, got 0"),
        ({"updates_per_rollout": 3}, "updates_per_rollout: expected at most contexts_per_rollout, 2, got 3"),
        ({"variant": "grop"}, "variant: expected one of grpo, dr_grpo, dapo, gspo, cispo, got 'grop'"),
        ({"kl_coefficient": 0.1}, "kl_coefficient: 0.1 pulls to a reference, and none was given"),
        ({"retries": -1}, "retries: expected a whole number >= 0, got -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_settings_that_cannot_be_used(tiny_model, settings, message):
    with pytest.raises(ConfigError, match=message):
        build("grpo", fresh(tiny_model), **settings)


def test_the_pull_to_the_reference_is_the_estimate_k3_per_token(tiny_model):
    policy = fresh(tiny_model)
    config = GRPOConfig(**SMALL, kl_coefficient=0.5)
    free = build("grpo", policy, reward=low)
    held = OnPolicy(policy, FunctionReward(low), CONTEXTS, grpo(config), config, reference=Reference(policy))
    examples = free.collect(Step(0, 0, 16))
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    alone, pulled = free.loss(examples), held.loss(examples)
    torch.testing.assert_close(pulled.value - alone.value, 0.5 * pulled.metrics["kl"] / pulled.metrics["length"])
    assert (pulled.metrics["kl"] > 0).all()


def test_a_recipe_of_ones_own_needs_no_more_than_two_functions(tiny_model, tmp_path):
    """Such as the plain policy gradient with the mean of all rewards as its baseline."""
    from plaudit.objectives.policy_gradient import policy_gradient

    recipe = Recipe(
        "mine",
        signals=lambda groups: {"advantage": groups.reward - groups.reward.mean()},
        objective=lambda terms: policy_gradient(terms.log_prob, terms.advantage, terms.mask),
        fewest=1,
        contrast=False,
    )
    config = OnPolicyConfig(**{**SMALL, "outputs_per_context": 1})
    method = OnPolicy(fresh(tiny_model), FunctionReward(low), CONTEXTS, recipe, config)
    assert run(method, tmp_path / "run", 2).step == 2
