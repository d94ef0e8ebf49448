"""BRAIn and MPO's split: the papers' weights and gradient, DPO as a limit, the posterior as the fixed point, and variance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal, uniform
from objectives.preferences.test_listwise import row, trl_dpo
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.posterior import (
    brain,
    brain_without_baseline,
    effective_sample_size,
    gap_threshold,
    is_easy,
    posterior_weights,
    reward_gap,
)

K = 5
MASK = lengths_mask(5, K, seed=0)


def samples(rows, *, policy=True, masked=True, **settings):
    call = {"log_prob": -uniform(5, K, seed=1, high=9)} if policy else {}
    call |= {
        "proposal_log_prob": -uniform(5, K, seed=2, high=9),
        "prior_log_prob": -uniform(5, K, seed=3, high=9),
        "reward": normal(5, K, seed=4),
    }
    call |= {"mask": MASK} if masked else {}
    return {name: value[:rows] for name, value in call.items()} | settings


INPUTS = ("proposal_log_prob", "prior_log_prob", "reward")
TEMPERATURES = {"temperature": [0.0, -1.0, math.nan, math.inf]}
GAPS = uniform(5, seed=6, high=3)
CASES = [
    *(
        Case(
            function,
            lambda rows: samples(rows, temperature=0.7),
            differentiable=("log_prob",),
            extreme=("log_prob", *INPUTS),
            masks={"mask": ("log_prob", *INPUTS)},
            exchangeable="K",
            invalid=TEMPERATURES,
            low_precision=64.0,
        )
        for function in (brain, brain_without_baseline)
    ),
    Case(brain, lambda rows: samples(rows, masked=False), name="whole groups", differentiable=("log_prob",)),
    Case(
        posterior_weights,
        lambda rows: samples(rows, policy=False),
        extreme=INPUTS,
        masks={"mask": INPUTS},
        exchangeable="K",
        invalid=TEMPERATURES,
    ),
    Case(
        effective_sample_size,
        lambda rows: {"log_weight": normal(5, K, seed=5)[:rows], "mask": MASK[:rows]},
        differentiable=("log_weight",),
        extreme=("log_weight",),
        masks={"mask": ("log_weight",)},
        exchangeable="K",
    ),
    Case(
        reward_gap,
        lambda rows: {"reward_chosen": normal(5, seed=1)[:rows], "reward_rejected": normal(5, seed=2)[:rows]},
        differentiable=("reward_chosen", "reward_rejected"),
        extreme=("reward_chosen", "reward_rejected"),
    ),
    Case(
        gap_threshold,
        lambda rows: {"gap": GAPS[:rows]},
        extreme=("gap",),
        exchangeable="B",
        invalid={"easy_share": [-0.1, 1.1, math.nan]},
        batch_statistics=True,
    ),
    Case(is_easy, lambda rows: {"gap": GAPS[:rows], "threshold": 1.0}, extreme=("gap",), exchangeable=None),
]


def test_the_docstrings_examples():
    zero = row(0, 0)
    reward = row(math.log(3), 0)
    torch.testing.assert_close(posterior_weights(zero, zero, reward), row(0.75, 0.25))
    expected = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert brain(zero, zero, zero, reward).item() == pytest.approx(expected)
    half_and_quarter = row(0.5, 0.25).log()
    loss = brain_without_baseline(half_and_quarter, zero, zero, zero)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert effective_sample_size(row(1, 1, 0.5).log()).item() == pytest.approx(2.5**2 / 2.25)
    assert reward_gap(torch.tensor([1.0]), torch.tensor([3.0])).item() == 2
    gaps = torch.tensor([0.1, 3, 0.5, 1])
    threshold = gap_threshold(gaps, easy_share=0.5)
    assert threshold.item() == 1
    assert is_easy(gaps, threshold).tolist() == [False, True, False, True]
    assert is_easy(gaps, 0.5).tolist() == [False, True, True, True]


def test_value_is_the_divergence_in_loops():
    call = samples(5, temperature=0.7)
    for index, loss in enumerate(brain(**call)):
        q, proposal, prior, r = (
            call[name][index][MASK[index]].tolist()
            for name in ("log_prob", "proposal_log_prob", "prior_log_prob", "reward")
        )
        a = [math.exp(p + x / 0.7 - o) for p, x, o in zip(prior, r, proposal, strict=True)]
        b = [math.exp(p - o) for p, o in zip(q, proposal, strict=True)]
        alpha, beta = [x / sum(a) for x in a], [x / sum(b) for x in b]
        assert loss.item() == pytest.approx(sum(x * math.log(x / y) for x, y in zip(alpha, beta, strict=True)))
        weights = posterior_weights(*(call[name] for name in INPUTS), MASK, temperature=0.7)[index]
        torch.testing.assert_close(weights[MASK[index]], torch.tensor(alpha, dtype=torch.float64))
        assert (weights[~MASK[index]] == 0).all()
        plain = brain_without_baseline(**call)[index].item()
        assert plain == pytest.approx(-sum(x * y for x, y in zip(alpha, q, strict=True)))


def test_gradient_is_weights_minus_baseline():
    """The paper's estimator: -Σ (α_i - β̂_i) ∇ log q_θ(y_i)."""
    call = samples(5)
    log_prob = call["log_prob"].clone().requires_grad_()
    brain(**{**call, "log_prob": log_prob}).sum().backward()
    alpha = posterior_weights(*(call[name] for name in INPUTS), MASK)
    log_b = torch.where(MASK, call["log_prob"] - call["proposal_log_prob"], -math.inf)
    torch.testing.assert_close(log_prob.grad, log_b.softmax(-1) - alpha)


def test_it_is_the_gradient_of_the_cross_entropy():
    call = samples(5, masked=False)
    log_prob = call["log_prob"].clone().requires_grad_()
    alpha = posterior_weights(*(call[name] for name in INPUTS))
    logits = log_prob - call["proposal_log_prob"]
    torch.nn.functional.cross_entropy(logits, alpha, reduction="sum").backward()
    again = call["log_prob"].clone().requires_grad_()
    brain(**{**call, "log_prob": again}).sum().backward()
    torch.testing.assert_close(again.grad, log_prob.grad)


def test_a_policy_that_is_the_posterior_does_not_move():
    call = samples(5, masked=False)
    posterior = (call["prior_log_prob"] + call["reward"] + 7.0).requires_grad_()  # any normalisation
    loss = brain(**{**call, "log_prob": posterior})
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-12, rtol=0)
    torch.testing.assert_close(posterior.grad, torch.zeros_like(posterior), atol=1e-12, rtol=0)
    moved = posterior.detach().clone().requires_grad_()
    brain_without_baseline(**{**call, "log_prob": moved}).sum().backward()
    assert (moved.grad < 0).all()


@given(st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_constant_in_the_rewards_changes_nothing(constant):
    call = samples(5)
    torch.testing.assert_close(brain(**{**call, "reward": call["reward"] + constant}), brain(**call))


def test_winner_takes_all_of_two_is_dpo_and_trls():
    """n = 2 and τ → 0: -log σ of the log-ratio difference against q', DPO with β = 1."""
    log_prob, proposal = -uniform(6, 2, seed=1, high=9), -uniform(6, 2, seed=2, high=9)
    prior, reward = -uniform(6, 2, seed=3, high=9), torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(6, 2)
    loss = brain(log_prob, proposal, prior, reward, temperature=1e-4)
    chosen, rejected = (log_prob - proposal).unbind(1)
    torch.testing.assert_close(loss, dpo(chosen, rejected, beta=1.0))
    torch.testing.assert_close(loss, trl_dpo(chosen, rejected, 1.0))


def test_gradient_descent_on_all_actions_reaches_the_posterior():
    """20 actions, all of them sampled once: q' uniform, the sums are exact."""
    prior, reward = normal(1, 20, seed=1).log_softmax(-1), normal(1, 20, seed=2)
    proposal = torch.full((1, 20), -math.log(20), dtype=torch.float64)
    logits = torch.zeros(1, 20, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=4.0)
    for _ in range(1000):
        optimiser.zero_grad()
        brain(logits.log_softmax(-1), proposal, prior, reward, temperature=0.8).sum().backward()
        optimiser.step()
    posterior = (prior + reward / 0.8).softmax(-1)
    assert (logits.softmax(-1) - posterior).abs().sum().item() < 1e-3


@pytest.mark.parametrize("n", [4, 32])
def test_the_baseline_lowers_the_gradients_variance(n):
    """On 400 groups of samples from the prior, with the policy close to the posterior: total variance at most half."""
    generator = torch.Generator().manual_seed(0)
    prior, reward = normal(20, seed=1).log_softmax(-1), normal(20, seed=2)
    policy = (prior + 0.7 * reward).log_softmax(-1)
    index = torch.multinomial(prior.exp().expand(400, 20), n, replacement=True, generator=generator)
    variance = []
    for function in (brain, brain_without_baseline):
        logits = policy.expand(400, 20).clone().requires_grad_()
        log_prob = logits.log_softmax(-1).gather(1, index)
        function(log_prob, prior[index], prior[index], reward[index]).sum().backward()
        variance.append(logits.grad.var(0).sum().item())
    assert variance[0] < 0.5 * variance[1]


def test_effective_sample_size_has_its_bounds():
    equal, single = torch.zeros(1, 8, dtype=torch.float64), row(0, -1e4, -1e4)
    assert effective_sample_size(equal).item() == pytest.approx(8)
    assert effective_sample_size(single).item() == pytest.approx(1)
    assert effective_sample_size(equal, torch.zeros(1, 8, dtype=torch.bool)).item() == 0
    log_weight = normal(4, K, seed=5)
    expected = [sum(w) ** 2 / sum(x * x for x in w) for w in log_weight.exp().tolist()]
    torch.testing.assert_close(effective_sample_size(log_weight + 300), torch.tensor(expected, dtype=torch.float64))


def test_a_threshold_of_0_is_dpo_alone_and_infinity_none():
    gaps = torch.tensor([0.0, 0.5, 2.0])
    assert is_easy(gaps, 0.0).all()
    assert not is_easy(gaps, math.inf).any()
    assert is_easy(gaps, gap_threshold(gaps, easy_share=1.0)).all()
    assert not is_easy(gaps, gap_threshold(gaps, easy_share=0.0)).any()
    assert gap_threshold(gaps[:0]).item() == math.inf


@given(st.lists(st.floats(0, 9), min_size=1, max_size=12, unique=True), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_asked_share_is_easy(gaps, share):
    gaps = torch.tensor(gaps, dtype=torch.float64)
    easy = is_easy(gaps, gap_threshold(gaps, easy_share=share))
    assert easy.sum().item() == round(share * len(gaps))
    if 0 < easy.sum() < len(gaps):
        assert gaps[easy].min() > gaps[~easy].max()


def test_an_empty_group_is_an_error():
    nothing = torch.zeros(2, 0, dtype=torch.float64)
    with pytest.raises(ValueError, match="reward: expected groups of at least 1 outputs, got 0"):
        brain(nothing, nothing, nothing, nothing)
