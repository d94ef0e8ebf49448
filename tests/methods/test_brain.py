"""BRAIn: its special cases, the tabular posterior, the variance that the baseline takes away, and the loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context
from plaudit.methods import DPO, BRAIn, BRAInConfig, DPOConfig, EncodedPair
from plaudit.methods.brain import SampledGroup
from plaudit.objectives.preferences import brain, brain_without_baseline, posterior_weights
from plaudit.policies import CausalLM, Reference
from plaudit.rewards import FunctionReward
from plaudit.training import RunFolder, Step, TrainingConfig, train
from plaudit.training.randomness import torch_generator

from .worlds import pairs, perturb, policy, sampled_groups

ASKED = [Context(content=text) for text in ("Hi", "Why?", "Where is it?")]
LENGTH = FunctionReward(lambda context, output: float(len(output.text)))
SMALL = {"contexts_per_rollout": 3, "outputs_per_context": 4, "max_new_tokens": 6}


def made(model, **settings) -> BRAIn:
    learner = policy(model)
    return BRAIn(learner, Reference(learner), LENGTH, ASKED, BRAInConfig(**settings))


def gradients(method: BRAIn, groups) -> dict[str, torch.Tensor]:
    method.trainable.scorer.zero_grad()
    method.loss(groups).value.sum().backward()
    named = method.trainable.scorer.named_parameters()
    return {name: weight.grad.clone() for name, weight in named if weight.grad is not None}


@torch.no_grad()
def log_probs(model, sequences) -> tuple[float, ...]:
    return tuple(float(model.log_prob_of([sequence]).sum()) for sequence in sequences)


def test_two_samples_whose_winner_takes_all_are_dpo_against_the_proposal(tiny_model):
    """The rewards are so far apart that alpha is one-hot in float32."""
    start = CausalLM.load(tiny_model, dtype="float32")
    groups = [
        SampledGroup((pair.rejected, pair.chosen), log_probs(start, (pair.rejected, pair.chosen)), (0.0, 1e6))
        for pair in pairs()
    ]
    method = made(tiny_model)
    found = method.loss(groups)
    examples = [EncodedPair(pair.chosen, pair.rejected) for pair in pairs()]
    expected = DPO(method.trainable, method.reference, examples, DPOConfig(beta=1.0)).loss(examples)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-4, atol=1e-4)
    assert found.metrics["effective_samples"].tolist() == [1.0] * len(groups)


def test_a_constant_added_to_the_rewards_changes_nothing(tiny_model):
    method, groups = made(tiny_model), sampled_groups()
    shifted = [replace(group, reward=tuple(value + 7.0 for value in group.reward)) for group in groups]
    torch.testing.assert_close(method.loss(groups).value, method.loss(shifted).value, rtol=1e-4, atol=1e-5)


def test_constant_rewards_pull_to_the_base_policy(tiny_model):
    """With equal rewards the posterior is p: a policy that is p does not move, one that has moved does."""
    method = made(tiny_model)
    still = [SampledGroup(group.outputs, group.proposal, (3.0,) * len(group.outputs)) for group in sampled_groups()]
    assert max(value.abs().max() for value in gradients(method, still).values()) > 1e-3
    fresh = CausalLM.load(tiny_model, dtype="float32")
    reference = Reference(fresh)
    reference.prepare([output for group in still for output in group.outputs])
    unmoved = BRAIn(fresh, reference, LENGTH, ASKED, BRAInConfig())
    assert unmoved.loss(still).value.detach().tolist() == pytest.approx([0.0] * len(still), abs=1e-5)
    assert max(value.abs().max() for value in gradients(unmoved, still).values()) < 1e-4


def test_no_gradient_where_alpha_is_betahat(tiny_model):
    """Rewards that are the policy's own log-ratio to p make the posterior the policy; without the baseline it still moves."""
    method = made(tiny_model)
    groups = []
    for group in sampled_groups():
        own, base = (
            log_probs(method.trainable, group.outputs),
            tuple(float(one) for one in method.reference.log_prob_of(list(group.outputs)).sum()),
        )
        groups.append(replace(group, reward=tuple(a - b for a, b in zip(own, base, strict=True))))
    assert max(value.abs().max() for value in gradients(method, groups).values()) < 1e-2
    method.config = BRAInConfig(baseline=False)
    assert max(value.abs().max() for value in gradients(method, groups).values()) > 0.1


# --- tables ----------------------------------------------------------------------------------------------------------

ACTIONS = 20


def table(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p, rewards, and the posterior of tau 1/2."""
    generator = torch_generator(seed, "brain")
    log_p = torch.randn(ACTIONS, dtype=torch.float64, generator=generator).log_softmax(-1)
    reward = torch.randn(ACTIONS, dtype=torch.float64, generator=generator)
    return log_p, reward, (log_p + reward / 0.5).softmax(-1)


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_with_every_action_sampled_descent_ends_at_the_posterior(seed, uniform):
    """From p or from elsewhere. Each action once, as if from a uniform proposal, so that alpha is the posterior itself."""
    log_p, reward, posterior = table(seed)
    logits = (torch.zeros(ACTIONS, dtype=torch.float64) if uniform else log_p.clone()).requires_grad_()
    proposal = torch.full((1, ACTIONS), -np.log(ACTIONS), dtype=torch.float64)
    assert (logits.softmax(-1) - posterior).abs().sum() > 0.5
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = brain(logits.log_softmax(-1)[None], proposal, log_p[None], reward[None], temperature=0.5).sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert (logits.softmax(-1) - posterior).abs().sum() < 1e-3


def sampled_gradients(count: int, *, baseline: bool, draws: int = 4000, seed: int = 0) -> torch.Tensor:
    """Gradients with respect to the logits, one for each group drawn from q' = p; the policy is half way to the posterior."""
    log_p, reward, posterior = table(seed)
    log_q = (0.5 * log_p + 0.5 * posterior.log()).log_softmax(-1)
    actions = torch.multinomial(
        log_p.exp(), draws * count, replacement=True, generator=torch_generator(seed, "draws", count)
    ).view(draws, count)
    logits = log_q.repeat(draws, 1).requires_grad_()
    log_prob = logits.log_softmax(-1).gather(1, actions)
    objective = brain if baseline else brain_without_baseline
    value = objective(log_prob, log_p[actions], log_p[actions], reward[actions], temperature=0.5)
    (found,) = torch.autograd.grad(value.sum(), logits)
    return found


@pytest.mark.parametrize("count", [4, 8, 32])
def test_the_baseline_lowers_the_variance_of_the_gradient(count):
    """F test of the variance of the gradient's step towards the posterior's best action, on 4,000 independent groups each."""
    _, _, posterior = table(0)
    best = int(posterior.argmax())
    plain = sampled_gradients(count, baseline=False)
    subtracted = sampled_gradients(count, baseline=True, seed=0)
    assert subtracted.var(0).sum() < plain.var(0).sum()
    ratio = float(plain[:, best].var() / subtracted[:, best].var())
    degrees = len(plain) - 1
    assert stats.f.sf(ratio, degrees, degrees) < 1e-3, ratio


def test_the_gradient_is_that_of_the_cross_entropy():
    """Sum of (alpha - betahat) times the gradient of log q, with a sign."""
    log_p, reward, _ = table(1)
    actions = torch.tensor([[0, 3, 5, 3, 9]])
    logits = (log_p * 0.3).requires_grad_()
    log_prob = logits.log_softmax(-1)[actions]
    proposal = torch.linspace(-3, -1, 5, dtype=torch.float64)[None]
    alpha = posterior_weights(proposal, log_p[actions], reward[actions], temperature=0.7)
    betahat = (log_prob - proposal).softmax(-1).detach()
    (found,) = torch.autograd.grad(
        brain(log_prob, proposal, log_p[actions], reward[actions], temperature=0.7).sum(), logits, retain_graph=True
    )
    (expected,) = torch.autograd.grad(-((alpha - betahat) * log_prob).sum(), logits)
    torch.testing.assert_close(found, expected)


# --- the loop --------------------------------------------------------------------------------------------------------


def test_groups_stay_whole_and_know_what_they_were_sampled_with(tiny_model):
    method = made(tiny_model, **SMALL)
    groups = method.collect(Step(0, 7, 3))
    assert [len(group.outputs) for group in groups] == [4, 4, 4]
    assert len({group.outputs[0].context for group in groups}) == 3
    for group in groups:
        assert group.proposal == pytest.approx(log_probs(method.trainable, group.outputs), abs=1e-3)
        assert all(len({output.context for output in group.outputs}) == 1 for group in groups)
    found = method.loss(groups)
    assert found.value.shape == (3,)
    assert found.metrics["effective_samples_of_policy"].tolist() == pytest.approx([4.0] * 3, abs=1e-2)
    assert all(1 <= value <= 4 for value in found.metrics["effective_samples"].tolist())


def test_several_updates_use_the_samples_of_one_asking_and_a_checkpoint_keeps_them(tiny_model):
    method = made(tiny_model, **SMALL, updates_per_rollout=3)
    parts = [method.collect(Step(index, 7, 3)) for index in range(3)]
    assert [len(part) for part in parts] == [1, 1, 1]
    other = made(tiny_model, **SMALL, updates_per_rollout=3)
    other.restore(method.state())
    assert other.collect(Step(1, 7, 3)) == parts[1]


def test_learning_moves_to_what_is_rewarded(tiny_model, tmp_path):
    """Three seeds: the sampled reward at the end is above that at the start in all of them. Over 5 s on a busy core."""
    gains = []
    for seed in range(3):
        learner = CausalLM.load(tiny_model, dtype="float32")
        base = CausalLM.load(tiny_model, dtype="float32")
        reward = FunctionReward(lambda context, output: float(sum(letter in "aeiou" for letter in output.text)))
        config = BRAInConfig(contexts_per_rollout=3, outputs_per_context=12, max_new_tokens=6, reward_temperature=0.3)
        method = BRAIn(learner, Reference(base), reward, ASKED, config)
        training = TrainingConfig(
            batch_size=3, micro_batch_size=3, learning_rate=3e-3, schedule="constant", checkpoint_every=0, seed=seed
        )
        train(method, RunFolder.create(tmp_path / str(seed), {}), training, steps=12)
        rewards = [row["reward"] for row in RunFolder(tmp_path / str(seed)).metrics()]
        gains.append(np.mean(rewards[-3:]) - np.mean(rewards[:3]))
    assert min(gains) > 0, gains


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"reward_temperature": 0.0}, "reward_temperature: expected a number > 0, got 0.0"),
        ({"reward_temperature": float("nan")}, "reward_temperature: expected a number > 0, got nan"),
        ({"kl_coefficient": 0.1}, "kl_coefficient: expected 0: the target holds the pull to the base policy"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ConfigError, match=message):
        BRAInConfig(**bad)


def test_one_output_a_context_is_no_group(tiny_model):
    with pytest.raises(ConfigError, match="brain compares the outputs of a context and needs at least 2, got 1"):
        made(tiny_model, outputs_per_context=1)


def test_the_policy_is_moved_in_these_tests(tiny_model):
    method = made(tiny_model)
    before = method.loss(sampled_groups()).value
    perturb(method.trainable.scorer, seed=3)
    assert (before - method.loss(sampled_groups()).value).abs().max() > 1e-3
