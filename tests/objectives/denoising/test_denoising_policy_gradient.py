"""Policy gradients on denoising chains: the score function, PPO's clipping, DPOK, Flow-GRPO, advantages per prompt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.denoising.denoising_policy_gradient import (
    ddpo_is,
    ddpo_sf,
    dpok,
    dpok_importance,
    flow_grpo,
    per_prompt_advantage,
)
from plaudit.objectives.denoising.denoising_transitions import transition_kl, transition_log_prob

ROWS, STEPS = 6, 5
MASK = lengths_mask(ROWS, STEPS, seed=3)
ADVANTAGE = torch.tensor([1.0, -0.5, 2.0, -1.5, 0.3, -0.2], dtype=torch.float64)
TENSORS = {
    "token_log_prob": normal(ROWS, STEPS, seed=1, scale=0.3),
    "old_token_log_prob": normal(ROWS, STEPS, seed=2, scale=0.3),
    "token_kl": uniform(ROWS, STEPS, seed=4),
    "value": normal(ROWS, STEPS, seed=5),
    "advantage": ADVANTAGE,
    "reward": ADVANTAGE,
    "mask": MASK,
}


def chains(*names, **settings):
    return lambda rows: {name: TENSORS[name][:rows] for name in names} | settings


def prompts(rows, **settings):
    return {
        "reward": normal(5, seed=1)[:rows],
        "prompt_mean": normal(5, seed=2)[:rows],
        "prompt_sd": uniform(5, seed=3, low=0.5)[:rows],
        "prompt_count": torch.tensor([16, 3, 20, 15, 16])[:rows],
        **settings,
    }


POSITIVE = [0.0, -1.0, math.nan]
PPO = ("token_log_prob", "old_token_log_prob", "advantage", "mask")
GRPO = ("token_log_prob", "old_token_log_prob", "token_kl", "advantage", "mask")
CASES = [
    Case(
        ddpo_sf,
        chains("token_log_prob", "advantage", "mask"),
        differentiable=("token_log_prob",),
        extreme=("token_log_prob", "advantage"),
        masks={"mask": ("token_log_prob",)},
        invalid={"aggregation": [-1.0, "median"]},
    ),
    Case(
        ddpo_is,
        chains(*PPO, clip_range=0.2),
        differentiable=("token_log_prob",),
        masks={"mask": ("token_log_prob", "old_token_log_prob")},
        invalid={"clip_range": POSITIVE, "aggregation": [-1.0, "median"]},
    ),
    Case(
        flow_grpo,
        chains(*GRPO, clip_range=0.2, beta=0.04),
        differentiable=("token_log_prob", "token_kl"),
        masks={"mask": ("token_log_prob", "old_token_log_prob", "token_kl")},
        invalid={"clip_range": POSITIVE, "beta": [-1.0, math.nan]},
    ),
    Case(
        dpok,
        chains("token_log_prob", "token_kl", "reward", "mask"),
        differentiable=("token_log_prob", "token_kl"),
        extreme=("token_log_prob", "token_kl", "reward"),
        masks={"mask": ("token_log_prob", "token_kl")},
        invalid={"reward_weight": POSITIVE, "beta": [-1.0, math.nan]},
    ),
    Case(
        dpok,
        chains("token_log_prob", "token_kl", "reward", "value", "mask", aggregation="sequence-mean"),
        name="value",
        differentiable=("token_log_prob", "token_kl"),
        extreme=("token_log_prob", "token_kl", "reward", "value"),
        masks={"mask": ("token_log_prob", "token_kl", "value")},
    ),
    Case(
        dpok_importance,
        chains("token_log_prob", "old_token_log_prob", "token_kl", "reward", "mask", clip_range=0.4, reward_weight=2.0),
        differentiable=("token_log_prob", "token_kl"),
        extreme=("token_log_prob", "old_token_log_prob", "token_kl", "reward"),
        masks={"mask": ("token_log_prob", "old_token_log_prob", "token_kl")},
        invalid={"reward_weight": POSITIVE, "beta": [-1.0], "clip_range": POSITIVE},
    ),
    Case(
        dpok_importance,
        chains("token_log_prob", "old_token_log_prob", "token_kl", "reward", "value", "mask", clip_range=0.4, beta=0.3),
        name="value",
        differentiable=("token_log_prob", "token_kl"),
        extreme=("token_log_prob", "old_token_log_prob", "token_kl", "reward", "value"),
        masks={"mask": ("token_log_prob", "old_token_log_prob", "token_kl", "value")},
    ),
    Case(
        per_prompt_advantage,
        prompts,
        extreme=("reward", "prompt_mean"),
        batch_statistics=True,
        invalid={"clip": POSITIVE, "epsilon": [-1.0, math.nan]},
    ),
]
ALL = torch.ones(1, 1, dtype=torch.bool)


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one(value: float) -> torch.Tensor:
    return number(value)[None]


def test_ddpo_sf_is_the_score_function():
    """For a Gaussian step of mean θ the score is (x' - θ)/σ²: dL/dθ = -r Σ_k (x'_k - θ)/σ²."""
    theta, taken, sd = number(0.3).requires_grad_(), normal(3, seed=1), number(0.5, 0.8, 1.0)
    log_prob = transition_log_prob(taken[:, None], theta.expand(3)[:, None], sd)
    value, _ = ddpo_sf(log_prob[None], number(1.7), torch.ones(1, 3, dtype=torch.bool))
    value.sum().backward()
    expected = -1.7 * ((taken - 0.3) / sd.square()).sum()
    assert theta.grad.item() == pytest.approx(expected.item())


def test_ddpo_sf_climbs_the_expected_reward():
    """In expectation (Gauss-Hermite) the gradient is that of -E r: for r(x) = x² and x ~ N(θ, σ²) it is -2θ."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    theta, sd = number(0.6).requires_grad_(), 0.5
    taken = torch.from_numpy(0.6 + sd * nodes)
    log_prob = transition_log_prob(taken[:, None], theta.expand(20)[:, None], torch.full((20,), sd).double())
    value, _ = ddpo_sf(log_prob[:, None], taken.square(), ALL.expand(20, 1))
    (value * torch.from_numpy(weights / weights.sum())).sum().backward()
    assert theta.grad.item() == pytest.approx(-2 * 0.6)


@pytest.mark.parametrize("function", [ddpo_is, flow_grpo])
def test_on_policy_the_gradient_is_the_score_functions(function):
    """At ρ = 1 importance sampling has DDPO_SF's gradient."""
    log_prob = TENSORS["token_log_prob"].clone().requires_grad_()
    extra = {"token_kl": TENSORS["token_kl"], "beta": 0.0} if function is flow_grpo else {}
    value, _ = function(
        log_prob,
        old_token_log_prob=log_prob.detach(),
        advantage=ADVANTAGE,
        mask=MASK,
        aggregation="sequence-sum",
        **extra,
    )
    (ours,) = torch.autograd.grad(value.sum(), log_prob)
    (score,) = torch.autograd.grad(ddpo_sf(log_prob, ADVANTAGE, MASK)[0].sum(), log_prob)
    torch.testing.assert_close(ours, score)


def clipped_loop(clip_range, kl=None, beta=0.0):
    """ddpo-pytorch's and flow_grpo's training step in plain loops, the mean over each trajectory's counted steps."""
    result = []
    for row in range(ROWS):
        losses = []
        for step in range(STEPS):
            if MASK[row, step]:
                gap = TENSORS["token_log_prob"][row, step] - TENSORS["old_token_log_prob"][row, step]
                ratio, advantage = math.exp(gap), ADVANTAGE[row].item()
                clipped = min(max(ratio, 1 - clip_range), 1 + clip_range)
                losses.append(max(-advantage * ratio, -advantage * clipped))
                losses[-1] += beta * kl[row, step].item() if kl is not None else 0.0
        result.append(sum(losses) / len(losses))
    return result


@pytest.mark.parametrize("clip_range", [1e-4, 0.2, 1.5])
def test_ddpo_is_and_flow_grpo_are_the_codes_loops(clip_range):
    call = chains(*PPO, clip_range=clip_range)(ROWS)
    value, weight = ddpo_is(**call)
    np.testing.assert_allclose(value, clipped_loop(clip_range))
    assert (weight == 1).all()
    call = chains(*GRPO, clip_range=clip_range, beta=0.04)(ROWS)
    np.testing.assert_allclose(flow_grpo(**call)[0], clipped_loop(clip_range, TENSORS["token_kl"], 0.04))


def test_the_gradient_vanishes_where_the_step_has_gone_far_enough():
    """Iff A > 0 and ρ > 1 + c, or A < 0 and ρ < 1 - c."""
    log_ratio, advantage = number(0.5, -0.5, 0.5, -0.5), number(1, 1, -1, -1)
    log_prob = log_ratio[:, None].requires_grad_()
    value, _ = ddpo_is(log_prob, torch.zeros(4, 1).double(), advantage, ALL.expand(4, 1), clip_range=0.2)
    (slope,) = torch.autograd.grad(value.sum(), log_prob)
    assert (slope[:, 0] == 0).tolist() == [True, False, False, True]
    torch.testing.assert_close(slope[[1, 2], 0], -advantage[[1, 2]] * log_ratio[[1, 2]].exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gap", "advantage"), [(1e4, 1.0), (1e4, 0.0), (-1e4, 1.0), (-1e4, -1.0)])
def test_far_ratios_stay_finite_where_the_loss_is_bounded(gap, advantage, dtype):
    """Only a step that became much likelier with A < 0 is unbounded, as in the paper."""
    log_prob = torch.tensor([[gap]], dtype=dtype, requires_grad=True)
    value, _ = ddpo_is(log_prob, torch.zeros(1, 1, dtype=dtype), torch.tensor([advantage], dtype=dtype), ALL)
    value.sum().backward()
    assert value.isfinite().all()
    assert log_prob.grad.isfinite().all()


def test_dpok_on_policy_is_ddpo_with_a_divergence():
    """With α = 1, β = 0 and no critic it is DDPO_SF; the rest is linear."""
    call = chains("token_log_prob", "reward", "mask")(ROWS)
    value, _ = dpok(**call, token_kl=TENSORS["token_kl"], reward_weight=1.0, beta=0.0)
    score, _ = ddpo_sf(call["token_log_prob"], call["reward"], MASK)
    torch.testing.assert_close(value, score)
    full, _ = dpok(**call, token_kl=TENSORS["token_kl"], reward_weight=10.0, beta=0.5)
    torch.testing.assert_close(full, 10 * score + 0.5 * torch.where(MASK, TENSORS["token_kl"], 0).sum(-1))


def test_dpoks_critic_is_a_baseline_of_each_step():
    call = chains("token_log_prob", "token_kl", "reward", "value", "mask")(ROWS)
    value, _ = dpok(**call)
    expected = [
        sum(
            -10 * (call["reward"][n] - call["value"][n, t]) * call["token_log_prob"][n, t]
            + 0.01 * call["token_kl"][n, t]
            for t in range(STEPS)
            if MASK[n, t]
        )
        for n in range(ROWS)
    ]
    torch.testing.assert_close(value, torch.stack(expected))


def test_dpoks_code_stops_at_the_range_on_both_sides():
    """No maximum with the unclipped term: outside the range the gradient is 0 whatever the reward's sign; PPO's is not."""
    log_prob = number(0.5, -0.5, 0.5, -0.5, 0.01)[:, None].requires_grad_()
    old, kl = torch.zeros(5, 1).double(), torch.zeros(5, 1).double()
    reward = number(1, 1, -1, -1, 1)
    value, _ = dpok_importance(log_prob, old, kl, reward, ALL.expand(5, 1), clip_range=0.2, reward_weight=1.0)
    torch.testing.assert_close(value.detach(), -reward * log_prob.detach()[:, 0].exp().clamp(0.8, 1.2))
    value.sum().backward()
    assert (log_prob.grad[:, 0] == 0).tolist() == [True, True, True, True, False]


def test_the_penalty_pulls_the_mean_to_the_reference():
    """Gaussian steps: the gradient of β KL is β (μ - μ_ref)/σ²."""
    mean, ref_mean, sd = normal(4, 3, seed=1).requires_grad_(), normal(4, 3, seed=2), uniform(4, low=0.5)
    kl = transition_kl(mean, ref_mean, sd)[:, None]
    zero = torch.zeros(4, 1).double()
    value, _ = flow_grpo(zero, zero, kl, torch.zeros(4).double(), ALL.expand(4, 1), beta=0.04)
    value.sum().backward()
    torch.testing.assert_close(mean.grad, 0.04 * (mean.detach() - ref_mean) / sd.square()[:, None])


def test_per_prompt_advantage_is_the_trackers():
    """ddpo-pytorch's PerPromptStatTracker in NumPy: stored rewards (this batch's too) where there are 16, else the batch's."""
    rng = np.random.default_rng(0)
    stored = {"a": rng.normal(1, 2, 14).tolist(), "b": rng.normal(size=5).tolist()}
    names, batch = ["a", "b", "a", "b"], rng.normal(size=4)
    for name, value in zip(names, batch, strict=True):
        stored[name].append(value)
    expected = []
    for name, value in zip(names, batch, strict=True):
        own = stored[name] if len(stored[name]) >= 16 else batch
        expected.append(np.clip((value - np.mean(own)) / (np.std(own) + 1e-6), -5, 5))
    ours = per_prompt_advantage(
        torch.from_numpy(batch),
        number(*(np.mean(stored[name]) for name in names)),
        number(*(np.std(stored[name]) for name in names)),
        torch.tensor([len(stored[name]) for name in names]),
    )
    np.testing.assert_allclose(ours, expected)
    assert [len(stored[name]) >= 16 for name in names] == [True, False, True, False]


def test_advantages_are_clipped_and_equal_rewards_have_none():
    count = torch.tensor([16, 16])
    far = per_prompt_advantage(number(100, -100), number(0, 0), number(1, 1), count)
    assert far.tolist() == [5, -5]
    equal = per_prompt_advantage(number(0.3, 0.3), number(9, 9), number(1, 1), torch.tensor([1, 1]), epsilon=0.0)
    assert equal.tolist() == [0, 0]
    ours = per_prompt_advantage(number(1, 3), number(math.nan, math.nan), number(math.nan, math.nan), count - 1)
    torch.testing.assert_close(ours, number(-1, 1), rtol=1e-5, atol=1e-5)


def test_an_empty_batch_of_rewards_has_no_advantages():
    none = number()
    assert per_prompt_advantage(none, none, none, torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_the_docstrings_examples():
    two = number(-1, -2)[None]
    assert ddpo_sf(two, number(0.5), ALL.expand(1, 2))[0].item() == pytest.approx(1.5)
    far = one(math.log(1.1))
    assert ddpo_is(far, one(0), number(2), ALL, clip_range=0.05)[0].item() == pytest.approx(-2.1)
    value, _ = flow_grpo(far, one(0), one(0.5), number(2), ALL, clip_range=0.05, beta=0.04)
    assert value.item() == pytest.approx(-2.08)
    assert dpok(one(-1), one(0.5), number(0.2), ALL)[0].item() == pytest.approx(2.005)
    value, _ = dpok_importance(far, one(0), one(0.5), number(2), ALL, reward_weight=1, clip_range=0.05)
    assert value.item() == pytest.approx(-2.095)
    counts = torch.tensor([16]), torch.tensor([10, 10])
    assert per_prompt_advantage(number(3), number(1), number(0.5), counts[0], epsilon=0).item() == pytest.approx(4)
    few = per_prompt_advantage(number(3, 1), number(1, 1), number(0.5, 0.5), counts[1], epsilon=0)
    torch.testing.assert_close(few, number(1, -1))
