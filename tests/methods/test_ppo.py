"""PPO on the tiny model: how tokens are credited, what is learned, what it reduces to, and going on where it was."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context
from plaudit.methods import PPO, PPOConfig
from plaudit.methods.recipe import Experience
from plaudit.objectives.policy_gradient import policy_gradient
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.rewards import FunctionReward, RewardModel, ValueNetwork
from plaudit.testbeds import arithmetic
from plaudit.testbeds.decoders import DecoderConfig, decoder
from plaudit.training import RunFolder, Step, TrainingConfig, train

from .test_on_policy import CONTEXTS, fresh, last_weights, low
from .worlds import perturb

TRAINING = TrainingConfig(
    learning_rate=0.02,
    schedule="constant",
    warmup_ratio=0,
    checkpoint_every=1,
    keep_checkpoints=99,
    micro_batch_size=64,
)
SMALL = {"contexts_per_rollout": 4, "outputs_per_context": 4, "epochs_per_rollout": 1, "max_new_tokens": 6}
PLAIN = {"kl_coefficient": 0.0, "whiten_rewards": False, "whiten_advantages": False}


def build(policy: CausalLM, reward=low, *, value: ValueNetwork | None = None, **settings) -> PPO:
    config = PPOConfig(**{**SMALL, **settings})
    value = value or ValueNetwork.of(policy)
    return PPO(policy, value, FunctionReward(reward), CONTEXTS, config, reference=Reference(policy))


def run(method: PPO, folder, steps: int, *, training=TRAINING, **options) -> list[dict[str, float]]:
    run_folder = RunFolder.open(folder) if options.get("resume") else RunFolder.create(folder, {})
    train(method, run_folder, training, steps=steps, **options)
    return [row for row in run_folder.metrics() if row["split"] == "train"]


def rows(found: list[Experience], name: str) -> list[torch.Tensor]:
    return [torch.tensor(experience.per_token[name]) for experience in found]


def moved(policy: CausalLM) -> CausalLM:
    perturb(policy.scorer, size=0.05)
    return policy


# --- credit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapters", [True, False])
def test_the_first_kl_is_exactly_0(tiny_model, adapters):
    """Reference and policy start equal, and both are computed in the same batches."""
    policy = fresh(tiny_model) if adapters else CausalLM.load(tiny_model, dtype="float32")
    found = build(policy, contexts_per_rollout=4, outputs_per_context=9).collect(Step(0, 0, 16))
    assert len(found) == 36
    assert {experience.signal["kl"] for experience in found} == {0.0}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_first_kl_is_exactly_0_whatever_the_reference_s_batches(tiny_model, batch_size):
    policy = CausalLM.load(tiny_model, dtype="float32")
    frozen = Reference(CausalLM.load(tiny_model, dtype="float32"), batch_size=batch_size)
    config = PPOConfig(**{**SMALL, "outputs_per_context": 9})
    method = PPO(policy, ValueNetwork.of(policy), FunctionReward(low), CONTEXTS, config, reference=frozen)
    assert {experience.signal["kl"] for experience in method.collect(Step(0, 0, 16))} == {0.0}


def test_the_token_that_ends_an_output_learns_although_it_may_also_be_the_padding():
    """A testbed's tokenizer pads with the end of text: what counts is told by place, never by token."""
    policy = CausalLM.load(decoder("arithmetic", DecoderConfig(layers=1, width=32, demonstrations=64)), dtype="float32")
    tokenizer = policy.encoder.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    contexts = arithmetic.problems(8, seed=0)
    config = PPOConfig(**{**SMALL, **PLAIN, "trace": 1.0, "max_new_tokens": 12, "contexts_per_rollout": 8})
    value = ValueNetwork.of(policy)
    found = PPO(policy, value, FunctionReward(lambda *_: 2.0), contexts, config).collect(Step(0, 0, 16))
    ended = [one for one in found if one.rollout.finished]
    assert len({len(one.rollout.sequence.output) for one in ended}) > 1
    for one in ended:
        assert one.rollout.sequence.output[-1] == tokenizer.eos_token_id
        assert one.per_token["advantage"] == (2.0,) * len(one.rollout.sequence.output)


def test_the_reward_lies_at_the_last_token_and_the_pull_at_every_token(tiny_model):
    """With λ = 1 and values of 0, the advantage is the sum of what is to come."""
    policy = moved(fresh(tiny_model))
    settings = {"whiten_rewards": False, "whiten_advantages": False, "trace": 1.0, "kl_coefficient": 0.3}
    found = build(policy, value=fresh_value(policy), **settings).collect(Step(0, 0, 16))
    reference = CausalLM.load(tiny_model, dtype="float32")
    for experience in found:
        sequence = experience.rollout.sequence
        with torch.no_grad():
            ratio = (policy.log_prob_of([sequence]).per_step - reference.log_prob_of([sequence]).per_step)[0]
        assert experience.signal["kl"] == pytest.approx(float(ratio.sum()), abs=1e-4)
        assert experience.signal["kl_coefficient"] == 0.3
        to_come = experience.rollout.reward - 0.3 * ratio.flip(0).cumsum(0).flip(0)
        assert experience.per_token["advantage"] == pytest.approx(to_come.tolist(), abs=1e-4)
        assert experience.per_token["value_target"] == experience.per_token["advantage"]
    assert max(abs(experience.signal["kl"]) for experience in found) > 0.1


def fresh_value(policy: CausalLM) -> ValueNetwork:
    """Of a trunk of its own, whose values are 0."""
    return ValueNetwork.of(CausalLM.load(policy.name, dtype="float32"))


def test_a_clamped_pull_never_rewards(tiny_model):
    settings = {
        "whiten_rewards": False,
        "whiten_advantages": False,
        "trace": 1.0,
        "kl_coefficient": 0.3,
        "clamp_kl": True,
    }
    policy = moved(fresh(tiny_model))
    found = build(policy, lambda *_: 0.0, value=fresh_value(policy), **settings).collect(Step(0, 0, 16))
    assert all(bool((row <= 0).all()) for row in rows(found, "advantage"))
    assert min(experience.signal["kl"] for experience in found) < 0
    sums = [-0.3 * experience.signal["kl"] for experience in found]
    assert any(row[0] < total - 1e-3 for row, total in zip(rows(found, "advantage"), sums, strict=True))


def test_an_output_without_an_end_gets_the_low_reward_whatever_was_judged(tiny_model):
    found = build(fresh(tiny_model), unfinished_reward=-1.0, max_new_tokens=64).collect(Step(0, 0, 16))
    scores = {(experience.rollout.finished, experience.signal["score"] == -1.0) for experience in found}
    assert scores == {(True, False), (False, True)}
    assert all(experience.rollout.reward >= 0 for experience in found)


def test_whitening_is_over_all_tokens_of_an_asking(tiny_model):
    method = build(moved(fresh(tiny_model)), kl_coefficient=0.3)
    advantage = torch.cat(rows(method.collect(Step(0, 0, 16)), "advantage"))
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantage.std()) == pytest.approx(1, abs=1e-4)


def test_rewards_keep_their_mean_when_they_are_whitened(tiny_model):
    """With λ = 1 and values of 0 the first advantages add up to the rewards' sum."""
    sums = []
    for whiten in (True, False):
        policy = moved(fresh(tiny_model))
        settings = {"whiten_rewards": whiten, "whiten_advantages": False, "trace": 1.0, "kl_coefficient": 0.3}
        found = build(policy, value=fresh_value(policy), **settings).collect(Step(0, 0, 16))
        tokens = [torch.cat([row[:-1] - row[1:], row[-1:]]) for row in rows(found, "advantage")]
        sums.append(torch.cat(tokens))
    assert float(sums[0].mean()) == pytest.approx(float(sums[1].mean()), abs=1e-4)
    assert float(sums[0].std()) == pytest.approx(1, abs=1e-3)
    assert float(sums[1].std()) != pytest.approx(1, abs=0.1)


# --- what it is in special cases ------------------------------------------------------------------------------------


def test_without_values_trace_1_and_no_pull_the_first_update_is_reinforce(tiny_model):
    policy = moved(fresh(tiny_model))
    method = build(policy, value=fresh_value(policy), trace=1.0, **PLAIN)
    found = method.collect(Step(0, 0, 16))
    loss = method.loss(found)
    ours = gradients(policy, (loss.value * loss.weight).sum() / loss.weight.sum())
    log_prob = policy.log_prob_of([experience.rollout.sequence for experience in found])
    reward = torch.tensor([experience.rollout.reward for experience in found])[:, None]
    value, weight = policy_gradient(log_prob.per_step, reward, log_prob.mask, aggregation="token-mean")
    theirs = gradients(policy, (value * weight).sum() / weight.sum())
    assert len(theirs) > 10
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in theirs.values()) > 1e-2


def gradients(policy: CausalLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    policy.scorer.zero_grad(set_to_none=True)
    loss.backward()
    return {name: weight.grad.clone() for name, weight in policy.scorer.named_parameters() if weight.grad is not None}


def test_credit_and_loss_are_trl_s_formulas(tiny_model):
    """TRL's PPOTrainer (up to 1.15) computed them inside its loop; 1.16 has none, so its formulas stand here.

    On outputs that fill the length limit: of shorter ones TRL gives the reward at the padding after the last token.
    """
    policy, beta, discount, trace = moved(fresh(tiny_model)), 0.2, 0.9, 0.8
    value = ValueNetwork.of(policy)
    perturb(value.scorer, seed=3, size=0.05)
    settings = {
        "kl_coefficient": beta,
        "discount": discount,
        "trace": trace,
        "max_new_tokens": 5,
        "value_coefficient": 0.3,
    }
    method = build(policy, value=value, clip=0.1, value_clip=0.02, **settings)
    found = [one for one in method.collect(Step(0, 0, 16)) if not one.rollout.finished]
    found = method._credited(found)
    assert len(found) > 8
    old, ref = (torch.stack(list(side)) for side in zip(*(log_probs(policy, one) for one in found), strict=True))
    values = torch.stack(value.values_of([one.rollout.sequence for one in found]))
    rewards = -beta * (old - ref)
    rewards[:, -1] += torch.tensor([one.rollout.reward for one in found])
    rewards = (rewards - rewards.mean()) * torch.rsqrt(rewards.var() + 1e-8) + rewards.mean()
    last, backwards = 0.0, []
    for step in reversed(range(5)):
        following = values[:, step + 1] if step < 4 else 0.0
        last = rewards[:, step] + discount * following - values[:, step] + discount * trace * last
        backwards.append(last)
    advantages = torch.stack(backwards[::-1], 1)
    returns = advantages + values
    advantages = (advantages - advantages.mean()) * torch.rsqrt(advantages.var() + 1e-8)
    torch.testing.assert_close(torch.stack(rows(found, "advantage")), advantages, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(rows(found, "value_target")), returns, rtol=1e-4, atol=1e-5)

    perturb(method.learner.scorer, seed=4, size=0.02)
    loss = method.loss(found)
    new = torch.stack([log_probs(policy, one)[0] for one in found])
    predicted = torch.stack(value.values_of([one.rollout.sequence for one in found]))
    ratio = (new - old).exp()
    policy_loss = torch.max(-advantages * ratio, -advantages * ratio.clamp(0.9, 1.1)).mean()
    near = torch.clamp(predicted, values - 0.02, values + 0.02)
    value_loss = 0.5 * torch.max((predicted - returns).square(), (near - returns).square()).mean()
    assert 0.1 < float(((ratio - 1).abs() > 0.1).float().mean()) < 0.9
    assert 0.1 < float((near != predicted).float().mean()) < 1.0
    mean = (loss.value * loss.weight).sum() / loss.weight.sum()
    torch.testing.assert_close(mean.detach(), policy_loss + 0.3 * value_loss, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def log_probs(policy: CausalLM, experience: Experience) -> tuple[torch.Tensor, torch.Tensor]:
    """Of its tokens, under the policy and under the weights below its adapters."""
    sequences = [experience.rollout.sequence]
    with policy.without_adapters():
        below = policy.log_prob_of(sequences).per_step[0]
    return policy.log_prob_of(sequences).per_step[0], below


def test_the_entropy_bonus_is_the_mean_entropy_of_the_tokens(tiny_model):
    policy = fresh(tiny_model)
    value = ValueNetwork.of(policy)
    plain, bonus = (build(policy, value=value, entropy_coefficient=strength) for strength in (0.0, 0.7))
    found = plain.collect(Step(0, 0, 16))
    log_prob = policy.log_prob_of([one.rollout.sequence for one in found], entropy=True)
    entropy = torch.where(log_prob.mask, log_prob.entropy, 0).sum(-1) / log_prob.lengths
    torch.testing.assert_close(bonus.loss(found).value, plain.loss(found).value - 0.7 * entropy)


# --- learning -------------------------------------------------------------------------------------------------------


def test_the_reward_rises(tiny_model, tmp_path):
    """Of the same fixed contexts, before and after 16 steps, which with their 8 askings take about 5 s."""
    policy = fresh(tiny_model)

    def share() -> float:
        groups = policy.sample(CONTEXTS, 16, generator=torch.Generator().manual_seed(0))
        ids = [token for group in groups for sample in group for token in sample.token_ids]
        return sum(token < 130 for token in ids) / len(ids)

    before = share()
    method = build(policy, outputs_per_context=8, epochs_per_rollout=2, kl_coefficient=0.01)
    assert method.name == "ppo"
    run(method, tmp_path / "run", 16)
    assert share() > before + 0.1


def test_the_value_network_learns_a_constant_reward(tiny_model, tmp_path):
    """In 24 steps: it moves at most by the clip in an asking of 4 steps."""
    policy = fresh(tiny_model)
    method = build(policy, lambda *_: 0.5, value_coefficient=1.0, epochs_per_rollout=4, **PLAIN)
    found = method.collect(Step(0, 0, 16))
    run(method, tmp_path / "run", 24)
    values = torch.cat(method.value.values_of([one.rollout.sequence for one in found]))
    assert float((values - 0.5).abs().max()) < 0.1


def test_the_controller_holds_the_kl_near_its_target_where_a_weak_pull_does_not(tiny_model, tmp_path):
    """36 askings and 20 take about 10 s: at first the pull is too weak, and a controller needs time to find that out."""
    slowly = replace(TRAINING, learning_rate=0.005, checkpoint_every=0)
    means = {}
    for name, steps, settings in (("held", 36, {"kl_target": 0.5, "kl_gain": 1.0}), ("free", 20, {})):
        method = build(fresh(tiny_model), outputs_per_context=8, **settings)
        found = run(method, tmp_path / name, steps, training=slowly)
        means[name] = sum(row["kl"] for row in found[-8:]) / 8
        assert found[0]["kl_coefficient"] == pytest.approx(0.05)
    assert 0.25 < means["held"] < 1.2
    assert means["free"] > 2


# --- several epochs, and going on -----------------------------------------------------------------------------------


def test_every_epoch_uses_every_output_once_in_another_order(tiny_model):
    method = build(fresh(tiny_model), outputs_per_context=1, epochs_per_rollout=3, updates_per_rollout=2)
    steps = [method.collect(Step(index, 0, 16)) for index in range(6)]
    assert [len(part) for part in steps] == [2] * 6
    epochs = [steps[start] + steps[start + 1] for start in (0, 2, 4)]
    assert all({one.rollout.group for one in epoch} == {0, 1, 2, 3} for epoch in epochs)
    assert len({tuple(one.rollout.group for one in epoch) for epoch in epochs}) > 1
    assert all(one in epochs[0] for epoch in epochs for one in epoch)
    assert method.collect(Step(6, 0, 16)) != steps[0]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_a_run_resumed_at_any_step_is_bit_identical(tiny_model, tmp_path, stop):
    """Two updates in two epochs: in the middle of an epoch, between epochs, and between askings."""
    settings = {"epochs_per_rollout": 2, "updates_per_rollout": 2, "kl_target": 0.1, "kl_gain": 2.0}
    whole = run(build(fresh(tiny_model), **settings), tmp_path / "whole", 7)
    run(build(fresh(tiny_model), **settings), tmp_path / "parts", 7, stop_after=stop)
    parts = run(build(fresh(tiny_model), **settings), tmp_path / "parts", 7, resume=True)
    expected, found = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(".value." in name for name in found)
    assert any("value.head" in name for name in found)
    assert [row["kl_coefficient"] for row in parts] == [row["kl_coefficient"] for row in whole]
    assert len({row["kl_coefficient"] for row in whole}) == 2


def test_the_state_is_plain_json(tiny_model):
    method = build(moved(fresh(tiny_model)), kl_target=0.1)
    found = method.collect(Step(0, 0, 16))
    state = json.loads(json.dumps(method.state()))
    other = build(fresh(tiny_model), kl_target=0.1)
    other.restore(state)
    assert other.kl_coefficient == method.kl_coefficient != 0.05
    assert other.state() == method.state()
    assert len(found) == 16


def test_the_checkpoint_of_a_policy_without_adapters_holds_both_trunks(tiny_model, tmp_path):
    policy = CausalLM.load(tiny_model, dtype="float32")
    value = ValueNetwork.of(RewardModel.load(tiny_model, dtype="float32"))
    frozen = Reference(CausalLM.load(tiny_model, dtype="float32"))
    config = PPOConfig(**SMALL, kl_coefficient=0.05)
    method = PPO(policy, value, FunctionReward(low), CONTEXTS, config, reference=frozen)
    rows = run(method, tmp_path / "run", 2)
    weights = load_file(sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")
    sides = [{name.split(".", 1)[1] for name in weights if name.startswith(side)} for side in ("policy.", "value.")]
    assert sides[0] == {name for name in sides[1] if not name.startswith("head.")}
    assert rows[0]["kl"] == 0.0
    assert rows[1]["kl"] != 0.0


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs_per_rollout": 0}, "epochs_per_rollout: expected a whole number >= 1, got 0"),
        ({"kl_target": 0.0}, "kl_target: expected a number > 0, or nothing, got 0.0"),
        ({"kl_target": 1.0, "kl_coefficient": 0.0}, "kl_coefficient: expected a number > 0 to begin with kl_target, got 0.0"),
        ({"kl_gain": 5.0}, r"kl_gain: expected a number in \[0, 5\), got 5.0"),
        ({"unfinished_reward": float("nan")}, "unfinished_reward: expected a finite number, or nothing, got nan"),
        ({"trace": 1.5}, r"trace: expected a number in \[0, 1\], got 1.5"),
        ({"discount": -0.1}, r"discount: expected a number in \[0, 1\], got -0.1"),
        ({"clip": 1.0}, r"clip: expected a number in \[0, 1\), got 1.0"),
        ({"value_clip": 0.0}, "value_clip: expected a number > 0, got 0.0"),
        ({"value_coefficient": -1.0}, "value_coefficient: expected a number >= 0, got -1.0"),
        ({"entropy_coefficient": -1.0}, "entropy_coefficient: expected a number >= 0, got -1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**settings)


def test_the_pull_needs_a_reference(tiny_model):
    policy = fresh(tiny_model)
    with pytest.raises(ConfigError, match=r"kl_coefficient: 0\.05 pulls to a reference, and none was given"):
        PPO(policy, ValueNetwork.of(policy), FunctionReward(low), [Context(content="Hi")], PPOConfig())


def test_a_value_network_with_another_tokenizer_is_refused(tiny_model, tiny_plain_model):
    policy, other = fresh(tiny_model), CausalLM.load(tiny_plain_model, lora=LoRA(rank=2), dtype="float32")
    with pytest.raises(ConfigError, match=r"value: expected a value network with the policy's tokenizer .*, got "):
        build(policy, value=ValueNetwork.of(other))
