"""The plain policy gradient, TRPO's surrogate, CISPO, SAPO and the entropy bonus: gradients in closed form, TRL, and torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import HIDDEN, Case, normal
from objectives.policy_batches import EVERY_TOKEN, MASK, agree, ours, token_batch, trl_grpo
from plaudit.objectives.policy_gradient.policy_gradient import (
    cispo,
    entropy_bonus,
    policy_gradient,
    sapo,
    trpo_surrogate,
)


def without_old(rows, **settings):
    call = token_batch(rows, **settings)
    del call["old_token_log_prob"]
    return call


def case(function, *, per="token", name="", invalid=None, stops_gradients=False, **settings):
    return Case(
        function,
        lambda rows: token_batch(rows, per=per, **settings),
        name=name,
        differentiable=("token_log_prob",),
        stops_gradients=stops_gradients,
        extreme=(*EVERY_TOKEN, "advantage"),
        masks={"mask": (*EVERY_TOKEN, "advantage") if per == "token" else EVERY_TOKEN},
        invalid=invalid or {},
    )


LOGITS = normal(5, 6, 4, seed=5)
CASES = [
    Case(
        policy_gradient,
        without_old,
        differentiable=("token_log_prob",),
        extreme=("token_log_prob", "advantage"),
        masks={"mask": ("token_log_prob", "advantage")},
        invalid={"aggregation": ["mean", -1.0]},
    ),
    Case(
        policy_gradient,
        lambda rows: without_old(rows, per="output", aggregation="token-mean"),
        name="per output",
        differentiable=("token_log_prob",),
        extreme=("token_log_prob", "advantage"),
        masks={"mask": ("token_log_prob",)},
    ),
    case(trpo_surrogate),
    case(trpo_surrogate, per="output", name="per output", aggregation="sequence-mean"),
    case(
        cispo,
        clip_high=0.3,
        stops_gradients=True,
        invalid={"clip_low": [-0.1, 1.1], "clip_high": [-0.1, math.nan]},
    ),
    case(cispo, per="output", name="both bounds", clip_high=0.2, clip_low=0.2, stops_gradients=True),
    case(sapo, invalid={"temperature_positive": [0.0, -1.0], "temperature_negative": [0.0, math.nan]}),
    case(sapo, per="output", name="per output", temperature_positive=3.0, aggregation="token-mean"),
    Case(
        entropy_bonus,
        lambda rows: {"logits": LOGITS[:rows], "mask": MASK[:rows], "coefficient": 0.3},
        differentiable=("logits",),
        extreme=("logits",),
        invalid={"coefficient": [-1.0, math.nan]},
    ),
]

ONE = torch.ones(1, 1, dtype=torch.bool)
ratios, advantages = st.floats(0.05, 20), st.floats(-5, 5).filter(lambda a: abs(a) > 1e-3)


def single(function, ratio, advantage, old=-1.0, **settings):
    """Value and slope in log π of one token."""
    log_prob = torch.tensor([[math.log(ratio) + old]], dtype=torch.float64, requires_grad=True)
    before, known = torch.full_like(log_prob, old), torch.tensor([[advantage]], dtype=torch.float64)
    value, _ = function(log_prob, before.detach(), known, ONE, **settings)
    value.backward()
    return value.item(), log_prob.grad.item()


def test_the_docstrings_examples():
    log_prob = torch.tensor([[1 / 2, 1 / 4]], dtype=torch.float64).log()
    value, weight = policy_gradient(log_prob, torch.tensor([[2.0]]), ONE.expand(1, 2))
    assert (value.item(), weight.item()) == (pytest.approx(6 * math.log(2)), 1)
    assert single(trpo_surrogate, 2, 3, old=math.log(1 / 4)) == (pytest.approx(-6), pytest.approx(-6))
    value, slope = single(cispo, 3, 1, old=math.log(1 / 6), clip_high=1.0)
    assert (value, slope) == (pytest.approx(2 * math.log(2)), pytest.approx(-2))
    assert single(sapo, 1, 1) == (pytest.approx(-2), pytest.approx(-1))
    value, _ = entropy_bonus(torch.zeros(1, 1, 4), ONE, coefficient=1.0)
    assert value.item() == pytest.approx(-math.log(4))


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward():
    """The exact mean over a softmax policy's answers."""
    logits = normal(4, seed=7).requires_grad_()
    worth = torch.tensor([[0.0], [0.2], [1.0], [3.0]], dtype=torch.float64)
    log_prob = logits.log_softmax(0)
    value, _ = policy_gradient(log_prob[:, None], worth, ONE.expand(4, 1))
    mean_loss = (log_prob.detach().exp() * value).sum()
    expected_reward = (log_prob.exp() * worth[:, 0]).sum()
    ours_, true = (torch.autograd.grad(y, logits, retain_graph=True)[0] for y in (mean_loss, expected_reward))
    torch.testing.assert_close(ours_, -true)


def test_the_surrogate_is_the_expected_reward_off_policy():
    """E_old[ρ A] = E_π[A], exactly, for any two policies."""
    policy, old = (normal(4, seed=seed).log_softmax(0) for seed in (7, 8))
    worth = torch.tensor([[0.0], [0.2], [1.0], [3.0]], dtype=torch.float64)
    value, _ = trpo_surrogate(policy[:, None], old[:, None], worth, ONE.expand(4, 1))
    torch.testing.assert_close((old.exp() * value).sum(), -(policy.exp() * worth[:, 0]).sum())


@given(ratios, advantages, st.floats(0, 1), st.floats(0, 5))
def test_cispo_keeps_every_tokens_gradient(ratio, advantage, low, high):
    """Its slope in log π is the clipped weight times the advantage: never zero by clipping."""
    _, slope = single(cispo, ratio, advantage, clip_low=low, clip_high=high)
    assert slope == pytest.approx(-min(max(ratio, 1 - low), 1 + high) * advantage)


@given(ratios, advantages, st.floats(0.2, 5))
def test_sapos_slope_is_the_papers_gate(ratio, advantage, tau):
    """The paper's section 3: the policy gradient times ``4 p (1 - p)`` with ``p = σ(τ (ρ - 1))``; 1 on policy."""
    _, slope = single(sapo, ratio, advantage, temperature_positive=tau, temperature_negative=tau)
    p = 1 / (1 + math.exp(-tau * (ratio - 1)))
    assert slope == pytest.approx(-advantage * ratio * 4 * p * (1 - p), abs=1e-12)


@given(st.floats(0, 10))
def test_a_weight_multiplies_the_advantage(factor):
    call = token_batch(5)
    scaled = {**call, "advantage": factor * call["advantage"]}
    for function, settings in ((trpo_surrogate, {}), (cispo, {"clip_high": 0.3}), (sapo, {})):
        torch.testing.assert_close(function(**scaled, **settings)[0], factor * function(**call, **settings)[0])


@pytest.mark.parametrize("per", ["token", "output"])
def test_trl_cispo(per):
    """TRL's epsilon_high is the greatest weight itself, and it has no lower bound."""
    call = token_batch(5, per=per)
    agree(ours(cispo, call, clip_high=0.3), trl_grpo(call, loss_type="cispo", epsilon_high=1.3))


@pytest.mark.parametrize("per", ["token", "output"])
@pytest.mark.parametrize("temperatures", [(1.0, 1.05), (3.0, 0.5)])
def test_trl_sapo(per, temperatures):
    """To 1e-6: TRL's ``torch.where`` of two Python numbers rounds the temperatures to float32."""
    call = token_batch(5, per=per)
    positive, negative = temperatures
    theirs = trl_grpo(call, loss_type="sapo", sapo_temperature_pos=positive, sapo_temperature_neg=negative)
    agree(ours(sapo, call, temperature_positive=positive, temperature_negative=negative), theirs, tolerance=1e-6)


def test_verls_cispo_in_numpy():
    """verl clips on both sides, by 0.2 unless told."""
    call = token_batch(5)
    total = 0.0
    for n, t in MASK.nonzero().tolist():
        log_prob = call["token_log_prob"][n, t].item()
        ratio = math.exp(log_prob - call["old_token_log_prob"][n, t].item())
        total -= min(max(ratio, 0.8), 1.2) * call["advantage"][n, t].item() * log_prob
    loss = ours(cispo, call, clip_low=0.2, clip_high=0.2)[0].item()
    assert loss == pytest.approx(total / MASK.sum().item())


def test_gpgs_loss_is_the_mean_over_tokens():
    call = without_old(5)
    expected = -(call["token_log_prob"] * call["advantage"])[MASK].mean()
    torch.testing.assert_close(ours(policy_gradient, call, aggregation="token-mean")[0], expected)


def test_entropy_is_torchs():
    value, weight = entropy_bonus(LOGITS, MASK, coefficient=0.3)
    entropy = torch.distributions.Categorical(logits=LOGITS).entropy()
    torch.testing.assert_close((value * weight).sum() / weight.sum(), -0.3 * entropy[MASK].mean())


def test_entropy_with_choices_ruled_out():
    """-inf is probability 0: the entropy of the others, and no NaN in the gradient."""
    logits = torch.tensor([[[0.0, 0.0, -torch.inf]]], dtype=torch.float64, requires_grad=True)
    value, _ = entropy_bonus(logits, ONE, coefficient=1.0)
    value.sum().backward()
    assert value.item() == pytest.approx(-math.log(2))
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_entropy_of_masked_tokens_has_no_influence(hidden):
    results = []
    for filler in (0.0, hidden):
        logits = torch.where(MASK[..., None], LOGITS, filler).requires_grad_()
        value, _ = entropy_bonus(logits, MASK, coefficient=0.3)
        value.sum().backward()
        results.append((value.detach(), logits.grad))
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(clean, dirty, rtol=0, atol=0)
