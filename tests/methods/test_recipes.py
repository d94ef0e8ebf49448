"""On-policy recipes by their identities, and what each of them leaves out, keeps and refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context
from plaudit.methods import (
    SFT,
    BestOfNConfig,
    OnlineDPO,
    OnlineDPOConfig,
    OnPolicy,
    QuarkConfig,
    REINFORCEConfig,
    REINFORCEPlusPlusConfig,
    ReMaxConfig,
    RLOOConfig,
    SFTConfig,
    SuperHFConfig,
    best_of_n,
    quark,
    reinforce,
    reinforce_plus_plus,
    remax,
    rloo,
    superhf,
)
from plaudit.methods.recipe import Groups, Terms
from plaudit.objectives.policy_gradient import policy_gradient, rloo_advantage
from plaudit.policies import CausalLM, Reference, Sampling
from plaudit.rewards import FunctionReward, Reward
from plaudit.sampling import gather
from plaudit.training import RunFolder, Step, train

from .test_on_policy import CONTEXTS, SMALL, TRAINING, build, fresh, last_weights, low, run

STEP = Step(0, 0, 16)


def groups(*rewards: list[float], greedy: list[float] | None = None, lengths: list[list[int]] | None = None) -> Groups:
    """Groups of unequal size; what is missing holds NaN."""
    most = max(map(len, rewards))
    reward = torch.tensor([[*row, *[float("nan")] * (most - len(row))] for row in rewards])
    mask = ~reward.isnan()
    length = torch.ones_like(mask, dtype=torch.long) if lengths is None else torch.tensor(lengths)
    return Groups(reward, mask, length, mask, None if greedy is None else torch.tensor(greedy))


def terms(policy: CausalLM, method: OnPolicy) -> tuple[Terms, list[Any]]:
    """What the objective reads of fresh samples, strictly on policy."""
    found = method.collect(STEP)
    log_prob = policy.log_prob_of([experience.rollout.sequence for experience in found])
    names = found[0].signal
    signal = {name: torch.tensor([experience.signal[name] for experience in found]) for name in names}
    return Terms(log_prob.per_step, log_prob.per_step.detach(), log_prob.mask, signal), found


def gradient(policy: CausalLM, value: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    weights = [weight for weight in policy.scorer.parameters() if weight.requires_grad]
    return list(torch.autograd.grad((value * weight).sum() / weight.sum(), weights))


# --- REINFORCE and RLOO ---------------------------------------------------------------------------------------------


def test_the_baseline_of_reinforce_is_the_mean_of_all_earlier_rewards():
    recipe = reinforce(REINFORCEConfig())
    first = recipe.signals(groups([1.0, 3.0], [5.0]))["advantage"]
    assert first.tolist() == [[1, 3], [5, 0]]  # 0 before the first asking
    assert recipe.memory == {"mean": 3.0, "askings": 1.0}
    assert recipe.signals(groups([7.0]))["advantage"].tolist() == [[4.0]]
    assert recipe.memory["mean"] == pytest.approx((3 + 7) / 2)
    recipe.signals(groups([8.0]))
    assert recipe.memory["mean"] == pytest.approx((3 + 7 + 8) / 3)


def test_reinforce_without_a_baseline_takes_the_reward():
    recipe = reinforce(REINFORCEConfig(baseline="none"))
    assert recipe.signals(groups([1.0, 3.0]))["advantage"].tolist() == [[1, 3]]
    assert not recipe.memory


def test_the_running_mean_lies_in_the_checkpoint(tiny_model, tmp_path):
    run(build("reinforce", fresh(tiny_model), reward=low), tmp_path / "whole", 3)
    run(build("reinforce", fresh(tiny_model), reward=low), tmp_path / "parts", 3, stop_after=1)
    again = build("reinforce", fresh(tiny_model), reward=low)
    run(again, tmp_path / "parts", 3, resume=True)
    assert again.recipe.memory["askings"] == 3
    whole, parts = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_on_policy_rloo_is_reinforce_with_the_mean_of_the_others_as_baseline(tiny_model):
    policy = fresh(tiny_model)
    ours, found = terms(policy, build("rloo", policy, reward=low))
    rewards = torch.tensor([experience.rollout.reward for experience in found]).view(2, 4)
    by_hand = [reward - (sum(group) - reward) / 3 for group in rewards.tolist() for reward in group]  # leave one out
    assert ours.signal["advantage"].tolist() == pytest.approx(by_hand, abs=1e-6)
    rloo_slope = gradient(policy, *rloo(RLOOConfig()).objective(ours))
    again, _ = terms(policy, build("rloo", policy, reward=low))
    advantage = rloo_advantage(rewards).reshape(-1, 1)
    plain = gradient(policy, *policy_gradient(again.log_prob, advantage, again.mask))
    torch.testing.assert_close(rloo_slope, plain, rtol=1e-4, atol=1e-6)


# --- ReMax ----------------------------------------------------------------------------------------------------------


def test_the_baseline_of_remax_is_the_greedy_outputs_reward():
    found = remax(ReMaxConfig()).signals(groups([1.0, 3.0], [5.0], greedy=[2.0, 4.0]))
    assert found["advantage"].tolist() == [[-1, 1], [1, 0]]


def test_one_greedy_output_of_each_context_is_judged_and_in_no_group(tiny_model):
    policy, asked = fresh(tiny_model), []

    def watched(context: Context, output) -> float:
        asked.append((context.digest, output.content.ids, output.producer.sampler))
        return low(context, output)

    found = gather(
        policy, CONTEXTS[:2], 3, FunctionReward(watched), generator=torch.Generator().manual_seed(0),
        sampling=Sampling(max_new_tokens=6), version=0, greedy=True,
    )  # fmt: skip
    assert len(asked) == 2 * 4
    assert [len(group) for group in found.groups()] == [3, 3]
    for number, group in enumerate(found.groups()):
        (likeliest,) = policy.sample(
            CONTEXTS[number : number + 1],
            1,
            generator=torch.Generator(),
            sampling=Sampling(max_new_tokens=6, temperature=0),
        )[0]
        assert asked[4 * number + 3][1] == likeliest.token_ids
        share = sum(token < 130 for token in likeliest.token_ids) / len(likeliest.token_ids)
        assert [rollout.greedy_reward for rollout in group] == pytest.approx([share] * 3)


def test_a_group_whose_greedy_output_could_not_be_judged_is_left_out_and_counted(tiny_model):
    calls = []

    def judge(context: Context, output) -> float | None:
        calls.append(output)
        return None if len(calls) == 4 else low(context, output)

    found = gather(
        fresh(tiny_model), CONTEXTS[:2], 3, FunctionReward(judge), generator=torch.Generator().manual_seed(0),
        sampling=Sampling(max_new_tokens=4), version=0, greedy=True,
    )  # fmt: skip
    assert {rollout.group for rollout in found.rollouts} == {1}
    assert +found.dropped == Counter({"beside a greedy output that could not be judged": 3})


# --- REINFORCE++ ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_plus_plus_whitens_over_tokens(baseline):
    """By hand: each output counts as often as it has tokens."""
    rewards, lengths = [[0.0, 2.0], [0.0, 4.0]], [[1, 2], [3, 4]]
    found = reinforce_plus_plus(REINFORCEPlusPlusConfig(baseline=baseline)).signals(groups(*rewards, lengths=lengths))
    centred = [-1.0, 1.0, -2.0, 2.0] if baseline else [0.0, 2.0, 0.0, 4.0]
    counts = torch.tensor(lengths).flatten()
    tokens = torch.tensor(centred).repeat_interleave(counts)
    expected = (torch.tensor(centred) - tokens.mean()) / tokens.std()
    torch.testing.assert_close(found["advantage"].flatten(), expected)


# --- the best of many -----------------------------------------------------------------------------------------------


def test_best_of_one_is_fine_tuning_on_the_samples(tiny_model):
    policy = fresh(tiny_model)
    method = build("best-of-n", policy, reward=low, outputs_per_context=1, contexts_per_rollout=4)
    found = method.collect(STEP)
    assert len(found) == 4
    ours = method.loss(found)
    sequences = [experience.rollout.sequence for experience in found]
    theirs = SFT(policy, sequences, SFTConfig()).loss(sequences)
    torch.testing.assert_close((ours.value, ours.weight), (theirs.value, theirs.weight))


def test_only_the_best_are_kept_and_the_metrics_tell_of_all(tiny_model):
    policy = fresh(tiny_model)
    all_of_them = build("rloo", policy, reward=low).collect(STEP)
    method = build("best-of-n", policy, reward=low, top_k=2)
    found = method.collect(STEP)
    kept = {experience.rollout.sequence for experience in found}
    for group in (0, 1):
        members = [one.rollout for one in all_of_them if one.rollout.group == group]
        border = sorted((rollout.reward for rollout in members), reverse=True)[1]
        assert {rollout.sequence for rollout in members if rollout.reward >= border} == {
            rollout.sequence for rollout in members if rollout.sequence in kept
        }
    metrics = method.loss(found).metrics
    means = {
        group: sum(one.rollout.reward for one in all_of_them if one.rollout.group == group) / 4 for group in (0, 1)
    }
    assert metrics["reward"].tolist() == pytest.approx([means[one.rollout.group] for one in found])
    assert metrics["reward_kept"].tolist() == pytest.approx([one.rollout.reward for one in found])


def test_superhf_with_fresh_adapters_diverges_from_nothing_and_is_imitation_of_the_best(tiny_model):
    policy = fresh(tiny_model)
    near, far = (build("superhf", policy, reward=low, beta=beta) for beta in (0.0, 5.0))
    found = near.collect(STEP)
    assert near.loss(found).metrics["divergence"].abs().max() < 1e-6
    torch.testing.assert_close(near.loss(found).value, far.loss(found).value, rtol=0, atol=1e-5)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    loose, tight = near.loss(found), far.loss(found)
    assert (loose.metrics["divergence"] > 0).all()
    per_token = tight.metrics["divergence"] / tight.metrics["length"]
    torch.testing.assert_close(tight.value - loose.value, 5 * per_token)


def test_superhf_keeps_exactly_the_best_and_of_equals_the_first():
    def kept(rewards: Groups, **settings) -> list[list[float]]:
        return superhf(SuperHFConfig(**settings)).signals(rewards)["kept"].tolist()

    several = groups([1.0, 3.0, 3.0, 2.0], [5.0, 5.0], lengths=[[2] * 4, [2] * 4])
    assert kept(several) == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert kept(several, top_k=2) == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert kept(several, top_k=3) == [[0, 1, 1, 1], [1, 1, 0, 0]]


def test_superhf_drops_empty_outputs_and_says_so_where_nothing_is_left(tiny_model):
    recipe = superhf(SuperHFConfig())
    ended = groups([9.0, 1.0], [9.0, 8.0], lengths=[[1, 2], [1, 1]])  # the best are an end token each
    assert recipe.signals(ended)["kept"].tolist() == [[0, 1], [0, 0]]
    cut = replace(ended, finished=torch.zeros(2, 2, dtype=torch.bool))  # one token, cut at a limit of one, is text
    assert recipe.signals(cut)["kept"].tolist() == [[1, 0], [1, 0]]
    policy = fresh(tiny_model)
    config = SuperHFConfig(**SMALL)
    nothing = replace(superhf(config), signals=lambda found: {"kept": torch.zeros_like(found.reward)})
    method = OnPolicy(policy, FunctionReward(low), CONTEXTS, nothing, config)
    with pytest.raises(RewardError, match="superhf keeps none of the outputs that were asked for"):
        method.collect(STEP)


def test_a_context_of_which_nothing_is_kept_leaves_no_part_empty(tiny_model):
    """One of two contexts keeps nothing, and each of two updates learns from the other's."""
    policy = fresh(tiny_model)
    config = SuperHFConfig(**{**SMALL, "updates_per_rollout": 2})
    half = replace(superhf(config), signals=lambda found: {"kept": torch.tensor([[0.0] * 4, [1.0] * 4])})
    method = OnPolicy(policy, FunctionReward(low), CONTEXTS, half, config)
    parts = [method.collect(Step(index, 0, 16)) for index in (0, 1)]
    assert [len(part) for part in parts] == [4, 4]
    assert {one.rollout.group for part in parts for one in part} == {1}


def test_superhf_samples_from_the_likeliest_tokens():
    assert SuperHFConfig().sampling == Sampling(max_new_tokens=256, top_p=0.95)
    with pytest.raises(ConfigError, match=r"top_p: expected a number in \(0, 1\], got 0"):
        SuperHFConfig(top_p=0)


# --- Quark ----------------------------------------------------------------------------------------------------------


def kept_by(rewards: Groups, **settings) -> list[list[float]]:
    return quark(QuarkConfig(**settings)).signals(rewards)["kept"].tolist()


def test_quark_keeps_the_best_quantile_of_the_whole_asking_not_of_each_context():
    rewards = groups([8.0, 7.0, 3.0], [2.0, 1.0], [6.0, 5.0, 4.0])  # the second context has none of the best
    assert kept_by(rewards, quantiles=4) == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert kept_by(rewards, quantiles=2) == [[1, 1, 0], [0, 0, 0], [1, 1, 0]]


def test_quark_with_one_quantile_or_equal_rewards_keeps_every_output_and_nothing_that_is_missing():
    rewards = groups([8.0, 7.0, 3.0], [2.0])
    assert kept_by(rewards, quantiles=1) == [[1, 1, 1], [1, 0, 0]]
    assert kept_by(groups([5.0, 5.0, 5.0], [5.0]), quantiles=4) == [[1, 1, 1], [1, 0, 0]]


def test_of_equals_at_the_top_quark_keeps_all():
    assert kept_by(groups([1.0, 1.0, 1.0, 0.0], [0.0, 1.0]), quantiles=4) == [[1, 1, 1, 0], [0, 1, 0, 0]]


def test_quark_imitates_what_it_keeps_and_stays_near_where_it_started(tiny_model):
    policy = fresh(tiny_model)
    near, far = (build("quark", policy, reward=low, beta=beta) for beta in (0.0, 5.0))
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    found = near.collect(STEP)
    loose, tight = near.loss(found), far.loss(found)
    imitation = SFT(policy, [], SFTConfig()).loss([experience.rollout.sequence for experience in found])
    torch.testing.assert_close(loose.value, imitation.value)
    per_token = tight.metrics["divergence"] / tight.metrics["length"]
    assert (per_token > 0).all()
    torch.testing.assert_close(tight.value - loose.value, 5 * per_token)


# --- online DPO -----------------------------------------------------------------------------------------------------


def online(policy: CausalLM, reward, **settings) -> OnlineDPO:
    config = OnlineDPOConfig(**{**SMALL, **settings})
    return OnlineDPO(policy, Reference(policy), reward, CONTEXTS, config)


def test_online_dpo_pairs_the_best_of_a_group_with_its_worst(tiny_model):
    policy = fresh(tiny_model)
    everything = build("grpo", policy, reward=low).collect(STEP)
    pairs = online(policy, FunctionReward(low)).collect(STEP)
    assert len(pairs) == 2
    for pair in pairs:
        members = [one.rollout for one in everything if one.rollout.sequence.context == pair.chosen.context]
        rewards = {rollout.sequence: rollout.reward for rollout in members}
        assert rewards[pair.chosen] == max(rewards.values())
        assert rewards[pair.rejected] == min(rewards.values())
        assert pair.margin == pytest.approx(rewards[pair.chosen] - rewards[pair.rejected])


def test_two_samples_are_compared_by_a_preference(tiny_model):
    """A reward that knows each output's chance against the other one of its context, and nothing across contexts."""

    class Judge:
        def reward(self, contexts, outputs):
            lows = [low(context, output) for context, output in zip(contexts, outputs, strict=True)]
            others = [lows[place ^ 1] for place in range(len(lows))]
            return Reward.of(
                torch.tensor([0.5 + 0.4 * (a > b) - 0.4 * (a < b) for a, b in zip(lows, others, strict=True)])
            )

    pairs = online(fresh(tiny_model), Judge(), outputs_per_context=2, retries=3).collect(STEP)
    assert len(pairs) == 2
    for pair in pairs:
        shares = [sum(token < 130 for token in side.output) / len(side.output) for side in (pair.chosen, pair.rejected)]
        assert shares[0] > shares[1]
        assert pair.margin == pytest.approx(0.8, abs=1e-6)
        assert pair.reward == pytest.approx(0.5)


def test_online_dpo_learns_what_is_preferred(tiny_model, tmp_path):
    policy = fresh(tiny_model)
    method = online(policy, FunctionReward(low), outputs_per_context=8, contexts_per_rollout=4, beta=0.05)
    train(method, RunFolder.create(tmp_path / "run", {}), TRAINING, steps=15)
    rewards = [
        low(context, policy.output(sample, Sampling()))
        for context, group in zip(
            CONTEXTS, policy.sample(CONTEXTS, 16, generator=torch.Generator().manual_seed(0),
                                    sampling=Sampling(max_new_tokens=6)), strict=True)
        for sample in group
    ]  # fmt: skip
    assert sum(rewards) / len(rewards) > 0.65


def test_a_step_in_which_no_output_is_better_changes_nothing(tiny_model, tmp_path):
    method = online(fresh(tiny_model), FunctionReward(lambda *_: 1.0))
    train(method, RunFolder.create(tmp_path / "run", {}), TRAINING, steps=1)
    assert not any(bool(weight.any()) for name, weight in last_weights(tmp_path / "run").items() if "lora_B" in name)


@pytest.mark.parametrize("stop", [1, 2])
def test_online_dpo_goes_on_where_it_was(tiny_model, tmp_path, stop):
    def made() -> OnlineDPO:
        return online(fresh(tiny_model), FunctionReward(low), contexts_per_rollout=4, updates_per_rollout=2)

    train(made(), RunFolder.create(tmp_path / "whole", {}), TRAINING, steps=3)
    train(made(), RunFolder.create(tmp_path / "parts", {}), TRAINING, steps=3, stop_after=stop)
    train(made(), RunFolder.open(tmp_path / "parts"), TRAINING, steps=3, resume=True)
    whole, parts = last_weights(tmp_path / "whole"), last_weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: REINFORCEConfig(updates_per_rollout=2), "updates_per_rollout: expected 1: REINFORCE learns from fresh"),
        (lambda: REINFORCEConfig(baseline="mean"), "baseline: expected running-mean or none, got 'mean'"),
        (lambda: ReMaxConfig(updates_per_rollout=2), "updates_per_rollout: .* ReMax learns from fresh samples, got 2"),
        (lambda: RLOOConfig(clip_low=1.5), r"clip_low: expected a share in \[0, 1\], got 1.5"),
        (lambda: REINFORCEPlusPlusConfig(clip_high=-1.0), "clip_high: expected a number >= 0, got -1.0"),
        (lambda: BestOfNConfig(outputs_per_context=2, top_k=3), "top_k: expected at most outputs_per_context, 2, got 3"),
        (lambda: BestOfNConfig(aggregation="mean"), "aggregation: expected one of token-mean, .*, got 'mean'"),
        (lambda: SuperHFConfig(beta=-1.0), "beta: expected a number >= 0, got -1.0"),
        (lambda: QuarkConfig(beta=-1.0), "beta: expected a number >= 0, got -1.0"),
        (lambda: QuarkConfig(quantiles=0), "quantiles: expected a whole number >= 1, got 0"),
        (lambda: QuarkConfig(contexts_per_rollout=3), "quantiles: expected at most the outputs of an asking, 3, got 4"),
        (lambda: OnlineDPOConfig(kl_coefficient=0.1), "kl_coefficient: expected 0: beta is the pull to the reference, got 0.1"),
        (lambda: OnlineDPOConfig(beta=0.0), "beta: expected a number > 0, got 0.0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_needs_the_reference_on_new_outputs_needs_adapters(tiny_model):
    policy = CausalLM.load(tiny_model, dtype="float32")
    config = SuperHFConfig(**SMALL)
    with pytest.raises(ConfigError, match="policy: superhf reads the distribution of the reference"):
        OnPolicy(policy, FunctionReward(low), CONTEXTS, superhf(config), config)
    gentle = QuarkConfig(**SMALL, beta=0.0)
    assert OnPolicy(policy, FunctionReward(low), CONTEXTS, quark(gentle), gentle).name == "quark"
    with pytest.raises(ConfigError, match="policy: online DPO asks the reference about new outputs"):
        online(policy, FunctionReward(low))


def test_a_group_of_one_is_too_small_where_outputs_are_compared(tiny_model):
    config = RLOOConfig(**{**SMALL, "outputs_per_context": 1})
    with pytest.raises(
        ConfigError, match="outputs_per_context: rloo compares the outputs of a context and needs at least 2"
    ):
        OnPolicy(fresh(tiny_model), FunctionReward(low), CONTEXTS, rloo(config), config)
    alone = best_of_n(BestOfNConfig(outputs_per_context=1))
    assert alone.fewest == 1
