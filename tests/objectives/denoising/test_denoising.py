"""Denoising errors: their scales, Diffusion-DPO as DPO with a denoising log-ratio, and the official code's arithmetic."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.denoising.denoising import (
    denoising_beta,
    denoising_error,
    denoising_log_ratio,
    denoising_regression,
    diffusion_dpo,
    epsilon_equivalent_weight,
)
from plaudit.objectives.denoising.denoising_transitions import (
    NoiseLevel,
    from_epsilon,
    rectified_flow,
    to_v,
    to_velocity,
    variance_preserving,
)
from plaudit.objectives.preferences.pairwise import dpo

ERRORS = ("error_chosen", "error_rejected", "ref_error_chosen", "ref_error_rejected")
WEIGHT = uniform(5, seed=9, low=0.1)


def images(rows, **settings):
    return {"prediction": normal(5, 3, 2, seed=1)[:rows], "target": normal(5, 3, 2, seed=2)[:rows], **settings}


def pair_errors(rows, **settings):
    return {name: uniform(5, seed=seed)[:rows] for seed, name in enumerate(ERRORS)} | settings


def one_error(rows, **settings):
    return {"error": uniform(5, seed=1)[:rows], **settings}


CASES = [
    Case(
        denoising_error,
        images,
        differentiable=("prediction",),
        extreme=("prediction", "target"),
        invalid={"reduction": ["median"]},
    ),
    Case(
        denoising_error,
        lambda rows: images(rows, reduction="sum"),
        name="sum",
        differentiable=("prediction",),
        extreme=("prediction", "target"),
    ),
    *(
        Case(
            epsilon_equivalent_weight,
            lambda rows, kind=kind: {
                "signal": uniform(5, seed=1, low=0.1)[:rows],
                "noise": uniform(5, seed=2, low=0.1)[:rows],
                "prediction": kind,
            },
            name=kind,
            differentiable=() if kind == "epsilon" else ("signal", "noise"),
            invalid={"prediction": ["flow"]},
        )
        for kind in ("epsilon", "clean", "v", "velocity")
    ),
    Case(
        denoising_log_ratio,
        lambda rows: one_error(rows, ref_error=uniform(5, seed=2)[:rows]),
        differentiable=("error", "ref_error"),
        extreme=("error", "ref_error"),
        invalid={"weight": [-1.0, math.nan]},
    ),
    Case(
        denoising_log_ratio,
        lambda rows: one_error(rows, ref_error=uniform(5, seed=2)[:rows], weight=WEIGHT[:rows]),
        name="weight-per-row",
        differentiable=("error", "ref_error", "weight"),
        extreme=("error", "ref_error"),
    ),
    Case(denoising_regression, one_error, differentiable=("error",), extreme=("error",)),
    Case(
        denoising_regression,
        lambda rows: one_error(rows, weight=WEIGHT[:rows]),
        name="weighted",
        differentiable=("error",),
        extreme=("error", "weight"),
    ),
    Case(
        diffusion_dpo,
        lambda rows: pair_errors(rows, beta=3.0),
        differentiable=ERRORS,
        extreme=ERRORS,
        invalid={"beta": [0.0, -1.0, math.nan], "weight": [-1.0]},
    ),
    Case(
        diffusion_dpo,
        lambda rows: pair_errors(rows, beta=3.0, weight=WEIGHT[:rows]),
        name="weight-per-row",
        differentiable=(*ERRORS, "weight"),
        extreme=ERRORS,
    ),
    Case(
        denoising_beta,
        lambda rows: {
            "log_ratio_chosen": normal(5, seed=1)[:rows],
            "log_ratio_rejected": normal(5, seed=2)[:rows],
        },
        batch_statistics=True,
        invalid={"target": [0.0, -1.0, math.nan]},
    ),
]


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_error_is_the_mean_or_the_sum_over_dimensions():
    call = images(5)
    difference = (call["prediction"] - call["target"]).numpy().reshape(5, -1)
    np.testing.assert_allclose(denoising_error(**call), (difference**2).mean(1))
    torch.testing.assert_close(denoising_error(**call, reduction="sum"), 6 * denoising_error(**call))


def test_errors_are_counted_in_float32_where_half_precision_would_overflow():
    prediction = torch.full((1, 10), 400.0, dtype=torch.float16)
    assert denoising_error(prediction, torch.zeros_like(prediction), reduction="sum").item() == 10 * 400.0**2


@pytest.mark.parametrize("level", [variance_preserving, rectified_flow, lambda t: NoiseLevel(0.2 + t, 0.5 + 2 * t)])
def test_every_forms_error_is_a_multiple_of_the_noise_error(level):
    """|v̂ - v|² = |ε̂ - ε|²/a², |û - u|² = |ε̂ - ε|²/(1-t)², |x̂_0 - x_0|² = (s/a)²|ε̂ - ε|², all at one x_t."""
    level = level(uniform(5, seed=7, low=0.05, high=0.95))
    x, truth, guess = normal(5, 3, seed=1), normal(5, 3, seed=2), normal(5, 3, seed=3)
    target, prediction = from_epsilon(x, truth, level), from_epsilon(x, guess, level)
    forms = {
        "epsilon": (guess, truth),
        "clean": (prediction.clean, target.clean),
        "v": (to_v(prediction, level), to_v(target, level)),
        "velocity": (to_velocity(prediction), to_velocity(target)),
    }
    for kind, (ours, true) in forms.items():
        weight = epsilon_equivalent_weight(*level, prediction=kind)
        torch.testing.assert_close(weight * denoising_error(ours, true), denoising_error(guess, truth))


def test_the_weights_are_the_familiar_ones():
    share = uniform(5, seed=7, low=0.05, high=0.95)
    torch.testing.assert_close(epsilon_equivalent_weight(*variance_preserving(share), prediction="v"), share)
    torch.testing.assert_close(
        epsilon_equivalent_weight(*variance_preserving(share), prediction="clean"), share / (1 - share)
    )
    torch.testing.assert_close(
        epsilon_equivalent_weight(*rectified_flow(share), prediction="velocity"), (1 - share).square()
    )


def test_diffusion_dpo_is_dpo_with_a_denoising_log_ratio():
    call = pair_errors(5)
    chosen = -0.5 * (call["error_chosen"] - call["ref_error_chosen"])
    rejected = -0.5 * (call["error_rejected"] - call["ref_error_rejected"])
    torch.testing.assert_close(diffusion_dpo(**call, beta=7.0), dpo(chosen, rejected, beta=7.0))
    torch.testing.assert_close(denoising_log_ratio(call["error_chosen"], call["ref_error_chosen"]), chosen)


@pytest.mark.parametrize("beta", [100.0, 5000.0])
def test_the_official_codes_arithmetic(beta):
    """DiffusionDPO's train.py, transcribed in NumPy: mean errors, halves of a batch, and a factor -β/2 before the sigmoid."""
    rng = np.random.default_rng(0)
    target, prediction, ref_prediction = rng.normal(size=(3, 8, 4, 2))
    ref_prediction = prediction + 0.05 * ref_prediction
    model_losses = ((prediction - target) ** 2).mean((1, 2))
    ref_losses = ((ref_prediction - target) ** 2).mean((1, 2))
    model_diff = model_losses[:4] - model_losses[4:]
    ref_diff = ref_losses[:4] - ref_losses[4:]
    inside = -beta / 2 * (model_diff - ref_diff)
    expected = np.logaddexp(0, -inside)
    errors = denoising_error(torch.from_numpy(prediction), torch.from_numpy(target))
    ref_errors = denoising_error(torch.from_numpy(ref_prediction), torch.from_numpy(target))
    ours = diffusion_dpo(errors[:4], errors[4:], ref_errors[:4], ref_errors[4:], beta=beta)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_flow_dpo_with_the_exact_weight_is_diffusion_dpo_on_noise():
    """(1-t)²/2 in velocity space and 1/2 in noise space are the same loss; constant 1/2 in velocity space is another."""
    time = uniform(4, seed=7, low=0.05, high=0.95)
    level = rectified_flow(time)
    noise, velocity = [], []
    for image in (1, 2):
        x, truth = normal(4, 3, seed=image), normal(4, 3, seed=10)
        target = to_velocity(from_epsilon(x, truth, level))
        for model in (3, 4):
            guess = normal(4, 3, seed=10 * image + model)
            noise.append(denoising_error(guess, truth))
            velocity.append(denoising_error(to_velocity(from_epsilon(x, guess, level)), target))
    in_noise = diffusion_dpo(noise[0], noise[2], noise[1], noise[3], beta=3.0)
    in_velocity = (velocity[0], velocity[2], velocity[1], velocity[3])
    exact = epsilon_equivalent_weight(*level, prediction="velocity") / 2
    torch.testing.assert_close(diffusion_dpo(*in_velocity, beta=3.0, weight=exact), in_noise)
    assert not torch.allclose(diffusion_dpo(*in_velocity, beta=3.0), in_noise)


def test_a_policy_that_is_its_reference_has_loss_log_2():
    chosen, rejected = uniform(4, seed=1), uniform(4, seed=2)
    loss = diffusion_dpo(chosen, rejected, chosen, rejected, beta=5000.0)
    torch.testing.assert_close(loss, torch.full_like(chosen, math.log(2)))


def test_the_gradient_lowers_the_preferred_images_error():
    """dL/de_w = β w σ(-h): descent lowers it, and raises the other's by as much."""
    call = {name: value.requires_grad_() for name, value in pair_errors(5).items()}
    diffusion_dpo(**call, beta=3.0).sum().backward()
    with torch.no_grad():
        h = -1.5 * (
            call["error_chosen"] - call["ref_error_chosen"] - call["error_rejected"] + call["ref_error_rejected"]
        )
    torch.testing.assert_close(call["error_chosen"].grad, 1.5 * torch.sigmoid(-h))
    torch.testing.assert_close(call["error_rejected"].grad, -1.5 * torch.sigmoid(-h))


@given(st.floats(0.1, 100), st.floats(1e-3, 1e3))
@settings(max_examples=30)
def test_beta_undoes_the_scale_of_the_errors(beta, scale):
    """Errors in other units are another β: only their product counts."""
    call = pair_errors(3)
    scaled = {name: scale * value for name, value in call.items()}
    torch.testing.assert_close(diffusion_dpo(**scaled, beta=beta / scale), diffusion_dpo(**call, beta=beta))


@pytest.mark.parametrize("target", [0.5, 2.0])
@pytest.mark.parametrize("count", [4, 5])
def test_denoising_beta_gives_logits_of_the_asked_size(target, count):
    """The scale rule: with this β the median |h| of the batch is the target."""
    chosen, rejected = 0.01 * normal(count, seed=1), 0.01 * normal(count, seed=2)
    beta = denoising_beta(chosen, rejected, target=target)
    assert np.median((beta * (chosen - rejected)).abs().numpy()) == pytest.approx(target)


def test_denoising_beta_cannot_be_measured_at_the_first_update():
    zero = torch.zeros(3)
    with pytest.raises(ValueError, match="log_ratio_chosen: expected pairs whose log-ratios differ"):
        denoising_beta(zero, zero)
    with pytest.raises(ValueError, match="log_ratio_chosen: expected pairs whose log-ratios differ"):
        denoising_beta(zero[:0], zero[:0])


def test_regression_weights_are_constants():
    error, weight = number(0.4, 0.1).requires_grad_(), number(2.0, 0.0).requires_grad_()
    denoising_regression(error, weight=weight).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(error.grad, number(2.0, 0.0))


def test_the_docstrings_examples():
    prediction, zero = number(1, 2)[None], number(0, 0)[None]
    assert denoising_error(prediction, zero).item() == pytest.approx(2.5)
    assert denoising_error(prediction, zero, reduction="sum").item() == pytest.approx(5)
    assert epsilon_equivalent_weight(number(0.75), number(0.25), prediction="velocity").item() == pytest.approx(0.5625)
    assert denoising_log_ratio(number(0.2), number(0.6)).item() == pytest.approx(0.2)
    assert denoising_regression(number(0.4), weight=number(2)).item() == pytest.approx(0.8)
    loss = diffusion_dpo(number(0.2), number(0.5), number(0.4), number(0.4), beta=10)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert denoising_beta(number(0.1, -0.2, 0.4), number(0, 0, 0)).item() == pytest.approx(5)


def test_images_of_other_shapes_are_errors():
    function = inspect.unwrap(denoising_error)
    with pytest.raises(ValueError, match=r"target: expected the shape of prediction, \[2, 3\], got \[1, 3\]"):
        function(normal(2, 3), normal(1, 3))
