"""Estimates of the KL: their exact means and gradients by enumeration, peers' formulas, and where the KL enters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.policy_batches import MASK, agree, ours, token_batch, trl_grpo
from plaudit.objectives.aggregation import aggregate
from plaudit.objectives.policy_gradient.clipped_ratio import ppo_clip
from plaudit.objectives.policy_gradient.divergences import (
    adaptive_kl_coefficient,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_k3_reweighted,
    kl_shaped_rewards,
)

BOTH = ("token_log_prob", "ref_token_log_prob")


def against_reference(rows, **settings):
    call = token_batch(rows, reference=True)
    return {name: call[name] for name in (*BOTH, "mask")} | settings


def reweighted(rows):
    call = token_batch(rows, reference=True)
    del call["advantage"]
    return call


def shaped(rows, **settings):
    return {
        "reward": normal(5, seed=6)[:rows],
        "token_kl": normal(5, 6, seed=7)[:rows],
        "mask": MASK[:rows],
        **settings,
    }


FIELDS = {"differentiable": ("token_log_prob",), "extreme": BOTH, "masks": {"mask": BOTH}}
CASES = [
    Case(kl_k1, against_reference, **FIELDS),
    Case(kl_k1, lambda rows: against_reference(rows, minimum=0.1, maximum=0.6), name="bounded", **FIELDS),
    Case(kl_k2, against_reference, **FIELDS),
    Case(kl_k2, lambda rows: against_reference(rows, maximum=0.1), name="bounded", **FIELDS),
    Case(kl_k3, against_reference, **FIELDS),
    Case(kl_k3, lambda rows: against_reference(rows, maximum=0.1), name="bounded", **FIELDS),
    Case(
        kl_k3_reweighted,
        reweighted,
        differentiable=("token_log_prob",),
        extreme=(*BOTH, "old_token_log_prob"),
        masks={"mask": (*BOTH, "old_token_log_prob")},
    ),
    Case(
        kl_shaped_rewards,
        lambda rows: shaped(rows, beta=0.3),
        extreme=("reward", "token_kl"),
        masks={"mask": ("token_kl",)},
        invalid={"beta": [-0.1, math.nan, math.inf]},
    ),
]

ONE = torch.ones(1, 1, dtype=torch.bool)
LOGITS, REFERENCE = normal(6, seed=1), normal(6, seed=2).log_softmax(0)


def test_the_docstrings_examples():
    policy, reference = torch.tensor([[1 / 2]]).double().log(), torch.tensor([[1 / 4]]).double().log()
    assert kl_k1(policy, reference, ONE).item() == pytest.approx(math.log(2))
    assert kl_k2(policy, reference, ONE).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_k3(policy, reference, ONE).item() == pytest.approx(1 / 2 + math.log(2) - 1)
    ours_ = kl_k3_reweighted(policy, reference, reference, ONE).item()
    assert ours_ == pytest.approx(2 * (1 / 2 + math.log(2) - 1))
    kl = torch.tensor([[0.5, 0.25]])
    assert kl_shaped_rewards(torch.tensor([1.0]), kl, ONE.expand(1, 2), beta=2.0).tolist() == [[-1, 0.5]]
    assert adaptive_kl_coefficient(1.0, 9.0, target=6.0) == pytest.approx(1.02)


def on_policy(estimate):
    """Exact mean over a softmax policy's answers, and the gradient that the mean of a sample's loss has (π itself held)."""
    logits = LOGITS.clone().requires_grad_()
    log_prob = logits.log_softmax(0)
    every = ONE.expand(6, 1)
    known = {"old_token_log_prob": log_prob.detach()[:, None]} if estimate is kl_k3_reweighted else {}
    values = estimate(
        token_log_prob=log_prob[:, None], ref_token_log_prob=REFERENCE[:, None], mask=every, **known
    ).squeeze(1)
    mean = (log_prob.detach().exp() * values).sum()
    return mean.detach(), torch.autograd.grad(mean, logits)[0]


def exact(forward=False):
    """KL(π ‖ ref), or KL(ref ‖ π), with its true gradient."""
    logits = LOGITS.clone().requires_grad_()
    log_prob = logits.log_softmax(0)
    terms = REFERENCE.exp() * (REFERENCE - log_prob) if forward else log_prob.exp() * (log_prob - REFERENCE)
    return terms.sum().detach(), torch.autograd.grad(terms.sum(), logits)[0]


@pytest.mark.parametrize("estimate", [kl_k1, kl_k3, kl_k3_reweighted])
def test_k1_and_k3_have_the_kl_as_their_mean(estimate):
    torch.testing.assert_close(on_policy(estimate)[0], exact()[0])


def test_k2_has_not():
    mean, kl = on_policy(kl_k2)[0].item(), exact()[0].item()
    assert abs(mean - kl) > 0.01


def test_k1_as_a_loss_has_no_gradient():
    torch.testing.assert_close(on_policy(kl_k1)[1], torch.zeros(6).double())


@pytest.mark.parametrize("estimate", [kl_k2, kl_k3_reweighted])
def test_k2_and_reweighted_k3_as_losses_have_the_reverse_kls_gradient(estimate):
    torch.testing.assert_close(on_policy(estimate)[1], exact()[1])


def test_k3_as_a_loss_has_the_forward_kls_gradient():
    gradient = on_policy(kl_k3)[1]
    torch.testing.assert_close(gradient, exact(forward=True)[1])
    assert (gradient - exact()[1]).abs().max() > 0.01


def test_off_policy_only_the_reweighted_estimate_keeps_mean_and_gradient():
    """Tokens drawn from another policy: ρ k3 is still the KL of the present one, k3 is not."""
    logits, old = LOGITS.clone().requires_grad_(), normal(6, seed=3).log_softmax(0)
    log_prob, every = logits.log_softmax(0), ONE.expand(6, 1)
    weighted = kl_k3_reweighted(log_prob[:, None], old[:, None], REFERENCE[:, None], every)
    mean = (old.exp() * weighted[:, 0]).sum()
    torch.testing.assert_close(mean.detach(), exact()[0])
    torch.testing.assert_close(torch.autograd.grad(mean, logits)[0], exact()[1])
    plain = (old.exp() * kl_k3(log_prob.detach()[:, None], REFERENCE[:, None], every)[:, 0]).sum()
    assert abs(plain - exact()[0]) > 0.01


@given(st.floats(-50, 50))
def test_k3_is_never_negative_and_k2_near_the_reference(log_ratio):
    policy = torch.tensor([[log_ratio]], dtype=torch.float64)
    k3 = kl_k3(policy, torch.zeros_like(policy), ONE).item()
    assert k3 >= 0
    bounded = max(log_ratio, -20)
    # two libraries' expm1 may differ in the last digit, and near 0 that is all that the difference leaves
    assert k3 == pytest.approx(math.expm1(-bounded) + bounded, rel=1e-12, abs=4e-16 * abs(log_ratio))


@pytest.mark.parametrize("log_ratio", [1e-6, -1e-9, 1e-12])
def test_k3_keeps_its_digits_near_the_reference(log_ratio):
    """e^-u + u - 1 would round to 0 or to noise; u²/2 - u³/6 is what it is."""
    policy = torch.tensor([[log_ratio]], dtype=torch.float64)
    k3 = kl_k3(policy, torch.zeros_like(policy), ONE).item()
    assert k3 == pytest.approx(log_ratio**2 / 2, rel=1e-3, abs=1e-16)


def test_far_below_the_reference_k3_is_bounded_and_has_no_gradient():
    policy = torch.tensor([[-30.0]], dtype=torch.float64, requires_grad=True)
    kl_k3(policy, torch.zeros(1, 1).double(), ONE).sum().backward()
    assert policy.grad.item() == 0


def test_a_log_ratio_clamped_at_zero_is_no_kl():
    """AlpacaFarm's max(0, log π - log π_ref): its mean is above the KL, three times here on fifty answers."""
    policy, reference = normal(50, seed=4, scale=0.2).log_softmax(0), normal(50, seed=5, scale=0.2).log_softmax(0)
    every = ONE.expand(50, 1)
    kl = (policy.exp() * kl_k1(policy[:, None], reference[:, None], every)[:, 0]).sum().item()
    clamped = (policy.exp() * kl_k1(policy[:, None], reference[:, None], every, minimum=0.0)[:, 0]).sum().item()
    assert clamped > 3 * kl > 0


def test_bounds_of_openrlhf_and_verl_in_numpy():
    call = against_reference(5)
    call["ref_token_log_prob"] = call["token_log_prob"] + normal(5, 6, seed=8, scale=8.0)
    difference = (call["token_log_prob"] - call["ref_token_log_prob"])[MASK]
    bounded = kl_k1(**call, minimum=-10.0, maximum=10.0)[MASK]
    torch.testing.assert_close(bounded, difference.clamp(-10, 10))
    torch.testing.assert_close(kl_k2(**call, maximum=10.0)[MASK], (difference**2 / 2).clamp(max=10))
    u = -difference.clamp(-20, 20)
    torch.testing.assert_close(kl_k3(**call, maximum=10.0)[MASK], (u.exp() - u - 1).clamp(-10, 10))


def test_trl_adds_k3_to_its_losses():
    """TRL's per-token KL in its own code, plain and with its bias correction."""
    call = token_batch(5, reference=True)
    known = {name: call[name] for name in ("token_log_prob", "old_token_log_prob", "advantage", "mask")}

    def with_penalty(**given):
        value, weight = ppo_clip(**{**known, "token_log_prob": given["token_log_prob"]})
        return value + aggregate(0.1 * given["penalty"](given["token_log_prob"]), MASK, "token-mean")[0], weight

    plain = ours(with_penalty, known, penalty=lambda lp: kl_k3(lp, call["ref_token_log_prob"], MASK))
    agree(plain, trl_grpo(call, loss_type="bnpo", beta=0.1))
    corrected = ours(
        with_penalty,
        known,
        penalty=lambda lp: kl_k3_reweighted(lp, call["old_token_log_prob"], call["ref_token_log_prob"], MASK),
    )
    agree(corrected, trl_grpo(call, loss_type="bnpo", beta=0.1, use_bias_correction_kl=True))


def test_shaped_rewards_add_up_to_reward_minus_beta_log_ratio():
    """What TRL's RLOOTrainer subtracts from an output's reward: β times the sum of log-ratios."""
    call, reward = against_reference(5), normal(5, seed=6)
    row = kl_shaped_rewards(reward, kl_k1(**call), MASK, beta=0.3)
    log_ratio = torch.where(MASK, call["token_log_prob"] - call["ref_token_log_prob"], 0).sum(-1)
    torch.testing.assert_close(row.sum(-1), reward - 0.3 * log_ratio)


def test_the_reward_stands_at_the_last_token_that_counts():
    row = kl_shaped_rewards(torch.arange(1.0, 6.0), torch.zeros(5, 6), MASK, beta=1.0)
    for n in range(5):
        last = MASK[n].nonzero()[-1].item()
        assert row[n].tolist() == [n + 1 if t == last else 0 for t in range(6)]


def test_a_policy_that_is_its_reference_has_a_kl_of_exactly_zero():
    call = against_reference(5)
    call["ref_token_log_prob"] = call["token_log_prob"]
    for estimate in (kl_k1, kl_k2, kl_k3):
        assert (estimate(**call) == 0).all()


def test_no_gradient_flows_through_a_reward():
    call = against_reference(5)
    call["token_log_prob"] = call["token_log_prob"].clone().requires_grad_()
    assert not kl_shaped_rewards(normal(5), kl_k1(**call), MASK, beta=0.1).requires_grad


@given(st.floats(1e-3, 10), st.floats(-5, 100), st.floats(0.1, 20), st.floats(0, 1))
def test_the_controller_moves_towards_its_target(coefficient, kl, target, gain):
    following = adaptive_kl_coefficient(coefficient, kl, target=target, gain=gain)
    error = min(max(kl / target - 1, -0.2), 0.2)
    assert following == pytest.approx(coefficient * (1 + gain * error))
    assert following > 0


def test_the_controllers_fixed_point_is_its_target():
    assert adaptive_kl_coefficient(0.2, 6.0, target=6.0) == 0.2


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"coefficient": 0.0}, "coefficient"),
        ({"kl": math.nan}, "kl"),
        ({"target": 0.0}, "target"),
        ({"gain": -0.1}, "gain"),
        ({"gain": 5.0}, "gain"),
        ({"limit": 0.0}, "limit"),
    ],
)
def test_the_controllers_settings(settings, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        adaptive_kl_coefficient(**{"coefficient": 1.0, "kl": 1.0, "target": 1.0, **settings})
