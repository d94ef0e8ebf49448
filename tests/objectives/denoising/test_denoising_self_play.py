"""SPIN-Diffusion, Diffusion-DRO, SePPO: how they reduce to each other, and what their official settings really compute."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.denoising.denoising import denoising_error, denoising_regression, diffusion_dpo
from plaudit.objectives.denoising.denoising_self_play import (
    anchor_sign,
    diffusion_dro,
    diffusion_dro_active,
    seppo,
    spin_diffusion,
)

WEIGHT = uniform(5, seed=9, low=0.1)
SPIN = ("error_demonstration", "error_generated", "ref_error_demonstration", "ref_error_generated")
DRO = ("error_expert", "error_policy", "ref_error_expert", "ref_error_policy")
SEPPO = ("error_winner", "error_generated", "ref_error_winner", "ref_error_generated")


def errors(names, **settings):
    return lambda rows: (
        {name: uniform(5, seed=seed)[:rows] for seed, name in enumerate(names)}
        | {name: value[:rows] if isinstance(value, torch.Tensor) else value for name, value in settings.items()}
    )


SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0, 0.0], dtype=torch.float64)
CASES = [
    Case(
        spin_diffusion,
        errors(SPIN, beta=3.0),
        differentiable=SPIN,
        extreme=SPIN,
        invalid={"beta": [0.0, -1.0, math.nan], "weight": [-1.0]},
    ),
    Case(
        spin_diffusion,
        errors(SPIN, beta=3.0, weight=WEIGHT),
        name="weight-per-row",
        differentiable=(*SPIN, "weight"),
        extreme=SPIN,
    ),
    Case(diffusion_dro, errors(DRO, threshold=-0.3), differentiable=DRO, extreme=DRO),
    Case(diffusion_dro_active, errors(DRO, threshold=-0.3)),
    Case(anchor_sign, errors(("error_winner", "ref_error_winner"))),
    Case(
        seppo,
        errors(SEPPO, beta=3.0),
        differentiable=SEPPO,
        extreme=SEPPO,
        invalid={"beta": [0.0, -1.0, math.nan], "weight": [-1.0]},
    ),
    Case(
        seppo,
        errors(SEPPO, beta=3.0, sign=SIGNS, weight=WEIGHT),
        name="given-sign",
        differentiable=(*SEPPO, "weight"),
        extreme=SEPPO,
    ),
]
RANDOM = {name: normal(50, seed=seed).square() for seed, name in enumerate(SEPPO)}


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_spin_is_diffusion_dpo_against_the_last_checkpoint():
    call = errors(SPIN)(5)
    torch.testing.assert_close(spin_diffusion(**call, beta=20.0), diffusion_dpo(*call.values(), beta=20.0))


def test_spin_starts_at_log_2_and_follows_the_data():
    """At the checkpoint itself the gradient lowers the data's error and raises its own picture's."""
    data, own = uniform(4, seed=1).requires_grad_(), uniform(4, seed=2).requires_grad_()
    loss = spin_diffusion(data, own, data.detach(), own.detach(), beta=2.0)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)))
    loss.sum().backward()
    torch.testing.assert_close(data.grad, torch.full_like(data, 0.5))  # β w σ(0)
    torch.testing.assert_close(own.grad, torch.full_like(data, -0.5))


def test_paper_and_code_of_dro_differ_by_a_constant():
    """max(m, -L_L + L_R) of algorithm 1, and relu(diff + margin) of train.py."""
    call, m = errors(DRO)(5), -0.1
    gain_expert = (call["ref_error_expert"] - call["error_expert"]).numpy()  # L_L
    gain_policy = (call["ref_error_policy"] - call["error_policy"]).numpy()  # L_R
    ours = diffusion_dro(**call, threshold=m).numpy()
    np.testing.assert_allclose(ours, np.maximum(m, -gain_expert + gain_policy))
    code = (call["error_expert"] - call["ref_error_expert"]) - (call["error_policy"] - call["ref_error_policy"])
    np.testing.assert_allclose(ours - m, np.maximum(code.numpy() - m, 0))


def test_the_policys_branch_has_no_gradient_when_the_policy_is_fresh():
    """With the policy refreshed after each update, target and prediction are one: its error and its gradient are 0."""
    parameter = normal(4, 3, seed=1).requires_grad_()
    own = denoising_error(parameter, parameter)
    (slope,) = torch.autograd.grad(own.sum(), parameter)
    assert own.sum() == 0
    assert slope.norm() < 1e-6


def test_dro_with_a_fresh_policy_is_supervised_fine_tuning_with_a_stop_rule():
    """The gradient is SFT's on the experts whose gain is still below the policy's own drift plus |m|; on others 0."""
    threshold = -0.05
    predicted = normal(6, 3, seed=1).requires_grad_()
    drifted = normal(6, 3, seed=2).requires_grad_()
    target, ref_predicted = normal(6, 3, seed=3), predicted.detach() + 0.2 * normal(6, 3, seed=4)
    ref_drifted = drifted.detach() + 0.3 * normal(6, 3, seed=5)
    expert, ref_expert = denoising_error(predicted, target), denoising_error(ref_predicted, target)
    policy, ref_policy = denoising_error(drifted, drifted), denoising_error(ref_drifted, drifted)
    call = (expert, policy, ref_expert, ref_policy)
    active = diffusion_dro_active(*call, threshold=threshold)
    assert active.any()
    assert not active.all()
    gain, drift = ref_expert - expert, denoising_error(drifted, ref_drifted)
    assert torch.equal(active, gain < drift - threshold)
    (ours,) = torch.autograd.grad(diffusion_dro(*call, threshold=threshold).sum(), predicted, retain_graph=True)
    (sft,) = torch.autograd.grad(denoising_regression(expert).sum(), predicted, retain_graph=True)
    torch.testing.assert_close(ours, torch.where(active[:, None], sft, 0))
    assert not torch.autograd.grad(diffusion_dro(*call, threshold=threshold).sum(), drifted)[0].any()


def test_an_older_policys_predictions_push_the_model_away():
    """With a stale policy the branch has a gradient, and descent raises the distance from the old prediction."""
    now = normal(4, 3, seed=1).requires_grad_()
    before = now.detach() + 0.1
    policy = denoising_error(now, before)
    (slope,) = torch.autograd.grad(
        diffusion_dro(torch.ones(4).double(), policy, torch.zeros(4).double(), policy.detach()).sum(), now
    )
    later = denoising_error(now - 0.1 * slope, before)
    assert (later > policy).all()


def test_dro_active_is_where_the_loss_has_a_gradient():
    call = {name: value.clone().requires_grad_() for name, value in zip(DRO, RANDOM.values(), strict=True)}
    active = diffusion_dro_active(**call, threshold=-0.3)
    diffusion_dro(**call, threshold=-0.3).sum().backward()
    assert active.any()
    assert not active.all()
    torch.testing.assert_close(call["error_expert"].grad, active.double())


def test_seppo_with_sign_plus_1_is_diffusion_dpo():
    sign = torch.ones(50).double()
    torch.testing.assert_close(seppo(**RANDOM, beta=4.0, sign=sign), diffusion_dpo(*RANDOM.values(), beta=4.0))


def test_seppo_with_sign_minus_1_learns_from_both_pictures():
    """-log σ(-β w [σ_w + σ_r]): the loss falls when the model fits the reference's picture better."""
    sign = -torch.ones(50).double()
    winner = RANDOM["error_winner"] - RANDOM["ref_error_winner"]
    generated = RANDOM["error_generated"] - RANDOM["ref_error_generated"]
    loss = seppo(**RANDOM, beta=4.0, sign=sign)
    torch.testing.assert_close(loss, torch.nn.functional.softplus(2.0 * (winner + generated)))
    better = {**RANDOM, "error_generated": RANDOM["error_generated"] - 0.1}
    assert (seppo(**better, beta=4.0, sign=sign) < loss).all()
    assert (seppo(**better, beta=4.0, sign=-sign) > seppo(**RANDOM, beta=4.0, sign=-sign)).all()


def test_the_sign_is_the_anchors():
    """+1 where the reference explains the winner worse than the policy; here half the rows flip."""
    sign = anchor_sign(RANDOM["error_winner"], RANDOM["ref_error_winner"])
    expected = [
        1 if ref > own else -1 for own, ref in zip(RANDOM["error_winner"], RANDOM["ref_error_winner"], strict=True)
    ]
    assert sign.tolist() == expected
    assert set(expected) == {1, -1}
    torch.testing.assert_close(seppo(**RANDOM, beta=4.0), seppo(**RANDOM, beta=4.0, sign=sign))


def test_the_indicator_learns_from_the_winner_alone_where_the_reference_is_better():
    indicator = (anchor_sign(RANDOM["error_winner"], RANDOM["ref_error_winner"]) + 1) / 2
    loss = seppo(**RANDOM, beta=4.0, sign=indicator)
    winner = RANDOM["error_winner"] - RANDOM["ref_error_winner"]
    alone = torch.nn.functional.softplus(2.0 * winner)
    pairs = diffusion_dpo(*RANDOM.values(), beta=4.0)
    torch.testing.assert_close(loss, torch.where(indicator == 1, pairs, alone))


def test_the_first_update_is_dpos():
    """θ = ref: all differences 0, loss log 2, sign +1 by convention, gradient β w (∇e_w - ∇e_r) / 2."""
    winner, generated = uniform(4, seed=1).requires_grad_(), uniform(4, seed=2).requires_grad_()
    assert (anchor_sign(winner, winner) == 1).all()
    loss = seppo(winner, generated, winner.detach(), generated.detach(), beta=2.0)
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(2)))
    loss.sum().backward()
    torch.testing.assert_close(winner.grad, torch.full_like(loss, 0.5))
    torch.testing.assert_close(generated.grad, torch.full_like(loss, -0.5))


@given(st.floats(0, 5), st.floats(0, 5), st.floats(0, 5), st.floats(0, 5), st.floats(0.01, 10))
@settings(max_examples=40)
def test_seppo_is_its_equation(winner, generated, ref_winner, ref_generated, beta):
    sign = 1 if ref_winner >= winner else -1
    inside = -beta * 0.5 * ((winner - ref_winner) - sign * (generated - ref_generated))
    loss = seppo(number(winner), number(generated), number(ref_winner), number(ref_generated), beta=beta)
    assert loss.item() == pytest.approx(np.logaddexp(0, -inside))


def test_the_docstrings_examples():
    same = diffusion_dpo(number(0.2), number(0.5), number(0.4), number(0.4), beta=10).item()
    assert spin_diffusion(number(0.2), number(0.5), number(0.4), number(0.4), beta=10).item() == pytest.approx(same)
    assert seppo(number(0.2), number(0.5), number(0.4), number(0.4), beta=10).item() == pytest.approx(
        math.log(1 + math.exp(-1.5))
    )
    gap = (number(0.2), number(0.5), number(0.4), number(0.4))
    assert diffusion_dro(*gap, threshold=-0.5).item() == pytest.approx(-0.3)
    assert diffusion_dro_active(*gap, threshold=-0.5).item()
    assert not diffusion_dro_active(*gap, threshold=-0.1).item()
    assert anchor_sign(number(0.2, 0.4), number(0.3, 0.3)).tolist() == [1, -1]
