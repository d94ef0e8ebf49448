"""Guidance: one combination in every form of prediction, and the β/w reading of RLG where it is exact and where it is not."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.denoising.denoising_transitions import (
    from_epsilon,
    from_score,
    rectified_flow,
    to_score,
    to_v,
    to_velocity,
    variance_preserving,
)
from plaudit.objectives.denoising.guidance import classifier_free_guidance, rl_guidance, several_rl_guidance

SHAPE = (5, 3, 2)


def two(first, second, **settings):
    return lambda rows: (
        {first: normal(*SHAPE, seed=1)[:rows], second: normal(*SHAPE, seed=2)[:rows]}
        | {name: value[:rows] if isinstance(value, torch.Tensor) else value for name, value in settings.items()}
    )


PER_ROW = uniform(5, seed=3, low=-1, high=4)
CFG, RLG = ("conditional", "unconditional"), ("tuned", "reference")
CASES = [
    Case(classifier_free_guidance, two(*CFG, scale=4.5), differentiable=CFG, extreme=CFG),
    Case(
        classifier_free_guidance,
        two(*CFG, scale=PER_ROW),
        name="scale-per-row",
        differentiable=(*CFG, "scale"),
        extreme=CFG,
    ),
    Case(rl_guidance, two(*RLG, weight=1.5), differentiable=RLG, extreme=RLG),
    Case(
        rl_guidance,
        two(*RLG, weight=PER_ROW),
        name="weight-per-row",
        differentiable=(*RLG, "weight"),
        extreme=RLG,
    ),
    Case(
        several_rl_guidance,
        lambda rows: {
            "tuned": normal(5, 2, 3, 2, seed=1)[:rows],
            "reference": normal(*SHAPE, seed=2)[:rows],
            "weight": (1.5, -0.4),
        },
        differentiable=RLG,
        extreme=RLG,
        invalid={"weight": [(1.0,), ()]},
    ),
]
SCHEDULES = {"ddpm": variance_preserving, "flow": rectified_flow}


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("guide", [classifier_free_guidance, rl_guidance])
@pytest.mark.parametrize("strength", [-0.5, 0.3, 1.0, 4.5])
def test_guidance_is_the_same_in_every_form_of_prediction(schedule, guide, strength):
    """Coefficients add up to 1, and at a fixed noised image all forms are affine in each other."""
    level = SCHEDULES[schedule](uniform(5, seed=7, low=0.05, high=0.95))
    x, epsilon, other = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2), normal(*SHAPE, seed=3)
    name = "scale" if guide is classifier_free_guidance else "weight"
    setting = {name: strength}
    ours, theirs = from_epsilon(x, epsilon, level), from_epsilon(x, other, level)
    guided = from_epsilon(x, guide(epsilon, other, **setting), level)
    for form in (
        lambda parts: parts.clean,
        lambda parts: to_v(parts, level),
        to_velocity,
        lambda parts: to_score(parts, level),
    ):
        torch.testing.assert_close(guide(form(ours), form(theirs), **setting), form(guided))


@given(st.floats(-2, 5))
@settings(max_examples=30)
def test_the_coefficients_add_up_to_1(strength):
    """Two equal predictions stay, whatever the strength; 0 and 1 are the two models themselves."""
    y, z = normal(2, 3, seed=1), normal(2, 3, seed=2)
    torch.testing.assert_close(rl_guidance(y, y, weight=strength), y)
    torch.testing.assert_close(rl_guidance(y, z, weight=strength), (1 - strength) * z + strength * y)
    torch.testing.assert_close(classifier_free_guidance(y, z, scale=strength), (1 - strength) * z + strength * y)
    torch.testing.assert_close(rl_guidance(y, z, weight=1.0), y)
    torch.testing.assert_close(rl_guidance(y, z, weight=0.0), z)


def gaussian_score(x, level, mean, covariance):
    """The exact score of noised Gaussian images: -(a²Σ + s²I)^{-1} (x - a μ), row by row."""
    rows = []
    for image, a, s in zip(x, *level, strict=True):
        total = a.square() * covariance + s.square() * torch.eye(len(mean)).double()
        rows.append(-torch.linalg.solve(total, image - a * mean))
    return torch.stack(rows)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("weight", [-1.0, 0.5, 1.0, 2.0, 3.0])
def test_for_gaussians_and_linear_rewards_weight_w_is_exactly_beta_over_w(schedule, weight):
    """p*_β = N(μ + Σa/β, Σ). At every noise level the guided score is that of the noised p*_{β/w}."""
    level = SCHEDULES[schedule](number(0.05, 0.3, 0.6, 0.95))
    root, mean, slope, beta = normal(3, 3, seed=1), normal(3, seed=2), normal(3, seed=3), 0.7
    covariance = root @ root.T + 0.1 * torch.eye(3).double()
    x = normal(4, 3, seed=4)
    reference = gaussian_score(x, level, mean, covariance)
    tuned = gaussian_score(x, level, mean + covariance @ slope / beta, covariance)
    expected = gaussian_score(x, level, mean + covariance @ slope / (beta / weight), covariance)
    torch.testing.assert_close(rl_guidance(tuned, reference, weight=weight), expected, rtol=1e-5, atol=1e-5)
    wrong = gaussian_score(x, level, mean + covariance @ slope / (beta * weight), covariance)
    assert weight in {1.0, -1.0} or not torch.allclose(wrong, expected)
    velocity = [to_velocity(from_score(x, score, level)) for score in (tuned, reference, expected)]
    torch.testing.assert_close(rl_guidance(*velocity[:2], weight=weight), velocity[2], rtol=1e-5, atol=1e-5)


def test_the_clean_images_density_is_that_of_beta_over_w_for_any_reward():
    """p_ref^{1-w} (p*_β)^w ∝ p_ref exp(w r/β): on a grid, with a curved reward, the log-densities' slopes agree."""
    x, beta, weight = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_(), 0.5, 2.5

    def log_density(strength):
        return -x.square() / 2 + strength * (torch.sin(3 * x) - x**4 / 10)

    reference, tuned, target = (
        torch.autograd.grad(log_density(strength).sum(), x)[0] for strength in (0.0, 1 / beta, weight / beta)
    )
    torch.testing.assert_close(rl_guidance(tuned, reference, weight=weight), target)


def test_for_curved_rewards_it_is_not_exact_at_noise():
    """r(x) = -x²/2 changes the variance: exact for the clean image, off in between. Noising and tilting do not commute."""
    beta, weight = 0.5, 2.0
    gaps = []
    for time in (1e-6, 0.5):
        level, x, zero = rectified_flow(number(time)), number(0.8)[:, None], number(0.0)
        scores = [
            gaussian_score(x, level, zero, number(1 / (1 + strength))[:, None])
            for strength in (1 / beta, 0.0, weight / beta)
        ]
        gaps.append((rl_guidance(scores[0], scores[1], weight=weight) - scores[2]).abs().item())
    assert gaps[0] < 1e-5
    assert gaps[1] > 0.05


def test_the_guided_score_is_that_of_the_geometric_mean():
    """Between two Gaussians at w = 1/2: precisions are averaged, as for p_ref^{1/2} p_tuned^{1/2}."""
    x = normal(4, 1, seed=1)
    reference, tuned = -(x - 1) / 0.5, -(x + 2) / 2.0
    precision = 0.5 / 0.5 + 0.5 / 2.0
    mean = (0.5 * 1 / 0.5 + 0.5 * -2 / 2.0) / precision
    torch.testing.assert_close(rl_guidance(tuned, reference, weight=0.5), -(x - mean) * precision)


def test_with_cfg_each_model_is_guided_first():
    """All of it is affine: with one scale the order does not matter, with the coefficients' product for each prediction."""
    tuned, tuned_free, base, base_free = (normal(2, 3, seed=seed) for seed in range(4))
    ours = rl_guidance(
        classifier_free_guidance(tuned, tuned_free, scale=4.5),
        classifier_free_guidance(base, base_free, scale=4.5),
        weight=1.5,
    )
    torch.testing.assert_close(ours, 1.5 * (4.5 * tuned - 3.5 * tuned_free) - 0.5 * (4.5 * base - 3.5 * base_free))
    swapped = classifier_free_guidance(
        rl_guidance(tuned, base, weight=1.5), rl_guidance(tuned_free, base_free, weight=1.5), scale=4.5
    )
    torch.testing.assert_close(ours, swapped)


def test_several_models_reduce_to_one():
    tuned, reference = normal(2, 3, seed=1), normal(2, 3, seed=2)
    pair = torch.stack([tuned, normal(2, 3, seed=3)], 1)
    torch.testing.assert_close(
        several_rl_guidance(pair, reference, weight=(1.7, 0.0)), rl_guidance(tuned, reference, weight=1.7)
    )
    torch.testing.assert_close(
        several_rl_guidance(torch.stack([tuned, tuned], 1), reference, weight=(1.0, 0.7)),
        rl_guidance(tuned, reference, weight=1.7),
    )
    torch.testing.assert_close(several_rl_guidance(pair[:, :0], reference, weight=()), reference)


def test_a_row_may_have_its_own_strength():
    y, z = normal(3, 2, seed=1), normal(3, 2, seed=2)
    strengths = number(0, 1, 2)
    ours = rl_guidance(y, z, weight=strengths)
    rows = [rl_guidance(y[i : i + 1], z[i : i + 1], weight=w) for i, w in enumerate(strengths.tolist())]
    torch.testing.assert_close(ours, torch.cat(rows))


def test_small_differences_survive_half_precision():
    """Combined in float32: extrapolating by 300 the difference of two bfloat16 numbers loses nothing."""
    base, tuned = torch.tensor([[1.0]]).bfloat16(), torch.tensor([[1.0078125]]).bfloat16()
    guided = rl_guidance(tuned, base, weight=300.3)
    assert guided.dtype == torch.float32
    assert guided.item() == pytest.approx(1 + 300.3 * 0.0078125)


def test_the_docstrings_examples():
    one, double = number(1)[None], number(2)[None]
    assert classifier_free_guidance(double, one, scale=4.5).item() == pytest.approx(5.5)
    assert rl_guidance(double, one, weight=1.5).item() == pytest.approx(2.5)
    assert several_rl_guidance(number(2, 4)[None, :, None], one, weight=(1, 0.5)).item() == pytest.approx(3.5)


def test_predictions_of_other_shapes_are_errors():
    """Outside the tests no type checker stands before the functions: they check images' shapes themselves."""
    cfg, rlg, several = (inspect.unwrap(f) for f in (classifier_free_guidance, rl_guidance, several_rl_guidance))
    y, z = normal(2, 3), normal(1, 3)
    with pytest.raises(ValueError, match=r"unconditional: expected the shape of conditional, \[2, 3\], got \[1, 3\]"):
        cfg(y, z, scale=1.0)
    with pytest.raises(ValueError, match=r"reference: expected the shape of tuned, \[2, 3\], got \[1, 3\]"):
        rlg(y, z, weight=1.0)
    with pytest.raises(ValueError, match=r"weight: expected one number per row, shape \[2\], got \[3\]"):
        rlg(y, y, weight=number(1, 2, 3))
    with pytest.raises(ValueError, match=r"tuned: expected \[B, K\] in front of reference's \[3\], got \[2, 3\]"):
        several(y, y, weight=(1.0, 1.0, 1.0))
