"""Steps of a denoising chain: conversions both ways, DDPM's posterior, the flow's marginals, densities."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from objectives.contract import Case, normal, uniform
from plaudit.objectives.denoising import denoising_transitions as transitions
from plaudit.objectives.denoising.denoising_transitions import (
    GaussianStep,
    NoiseLevel,
    Parts,
    ddim_step,
    flow_cps_step,
    flow_grpo_code_kl,
    flow_sde_step,
    from_clean,
    from_epsilon,
    from_score,
    from_v,
    from_velocity,
    noised,
    rectified_flow,
    to_score,
    to_v,
    to_velocity,
    transition_kl,
    transition_log_prob,
    variance_preserving,
)

SHAPE = (5, 3, 2)
SD, REF_SD = uniform(5, seed=4, low=0.5, high=1.5), uniform(5, seed=5, low=0.5, high=1.5)


def steps(rows, **settings):
    return {"mean": normal(*SHAPE, seed=1)[:rows], "sd": SD[:rows], **settings}


def sampled(rows, **settings):
    return {"sample": normal(*SHAPE, seed=2)[:rows], **steps(rows, **settings)}


def against(rows, **settings):
    return {"ref_mean": normal(*SHAPE, seed=3)[:rows], **steps(rows, **settings)}


CASES = [
    Case(
        transition_log_prob,
        sampled,
        differentiable=("mean", "sd"),
        extreme=("sample", "mean"),
        invalid={"reduction": ["median"]},
    ),
    Case(
        transition_log_prob,
        lambda rows: sampled(rows, reduction="mean"),
        name="mean",
        differentiable=("mean", "sd"),
        extreme=("sample", "mean"),
    ),
    Case(
        transition_kl,
        against,
        differentiable=("mean", "ref_mean", "sd"),
        extreme=("mean", "ref_mean"),
        invalid={"reduction": ["median"]},
    ),
    Case(
        transition_kl,
        lambda rows: against(rows, reduction="mean", ref_sd=REF_SD[:rows]),
        name="two-deviations",
        differentiable=("mean", "ref_mean", "sd", "ref_sd"),
        extreme=("mean", "ref_mean"),
    ),
    Case(
        flow_grpo_code_kl,
        lambda rows: against(rows, step=-uniform(5, seed=6, low=0.1)[:rows]),
        differentiable=("mean", "ref_mean", "sd", "step"),
        extreme=("mean", "ref_mean"),
    ),
]

times = st.floats(0.02, 0.98)


def levels():
    """Levels of DDPM and of a flow, and one of neither."""
    share = uniform(5, seed=7, low=0.05, high=0.95)
    return [variance_preserving(share), rectified_flow(share), NoiseLevel(0.3 + share, 0.2 + 2 * share)]


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("level", levels(), ids=["ddpm", "flow", "neither"])
def test_every_form_of_prediction_holds_the_same_image_and_noise(level):
    """Section 1 of the conventions: epsilon, image, v, velocity and score are one prediction in five coordinates."""
    clean, noise = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    x, parts = noised(clean, noise, level), Parts(clean, noise)
    for back in (
        from_epsilon(x, noise, level),
        from_clean(x, clean, level),
        from_v(x, to_v(parts, level), level),
        from_velocity(x, to_velocity(parts), level),
        from_score(x, to_score(parts, level), level),
    ):
        torch.testing.assert_close(back.clean, clean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(back.noise, noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", levels(), ids=["ddpm", "flow", "neither"])
def test_a_wrong_prediction_survives_the_way_through_every_form(level):
    """Not only the truth: any prediction at a fixed noised image comes back to 1e-6 from any other form."""
    x, epsilon = normal(*SHAPE, seed=1), normal(*SHAPE, seed=3)
    parts = from_epsilon(x, epsilon, level)
    torch.testing.assert_close(noised(*parts, level), x)
    for again in (
        from_clean(x, parts.clean, level),
        from_v(x, to_v(parts, level), level),
        from_velocity(x, to_velocity(parts), level),
        from_score(x, to_score(parts, level), level),
    ):
        torch.testing.assert_close(again.noise, epsilon, rtol=1e-6, atol=1e-6)


def test_conversions_are_the_textbooks():
    """DDPM: x_0 = a x - s v, ε = s x + a v. Flow: x_0 = x - t u, ε = x + (1 - t) u, score = -(x + (1 - t) u) / t."""
    share, x, y = uniform(5, seed=7, low=0.05, high=0.95), normal(5, 1, seed=1), normal(5, 1, seed=2)
    a, s, t = share.sqrt()[:, None], (1 - share).sqrt()[:, None], share[:, None]
    torch.testing.assert_close(from_v(x, y, variance_preserving(share)), Parts(a * x - s * y, s * x + a * y))
    flow = from_velocity(x, y, rectified_flow(share))
    torch.testing.assert_close(flow, Parts(x - t * y, x + (1 - t) * y))
    torch.testing.assert_close(to_score(flow, rectified_flow(share)), -(x + (1 - t) * y) / t)


def test_the_velocity_is_the_slope_of_the_straight_path():
    clean, noise, t, step = normal(5, 3, seed=1), normal(5, 3, seed=2), uniform(5, high=0.9), 1e-6
    slope = (noised(clean, noise, rectified_flow(t + step)) - noised(clean, noise, rectified_flow(t))) / step
    torch.testing.assert_close(slope, to_velocity(Parts(clean, noise)), rtol=1e-6, atol=1e-6)


def test_the_score_is_the_gradient_of_the_log_density():
    """For Gaussian images the density of x_t and the best prediction E[ε | x_t] are known."""
    mean, variance = 0.7, 0.4
    for level in levels()[:2]:
        x = normal(5, 1, seed=1).requires_grad_()
        a, s = level.signal[:, None], level.noise[:, None]
        total = a.square() * variance + s.square()
        log_density = Normal(a * mean, total.sqrt()).log_prob(x).sum()
        (slope,) = torch.autograd.grad(log_density, x)
        best = s * (x.detach() - a * mean) / total  # E[ε | x_t] by the rule for joint Gaussians
        torch.testing.assert_close(to_score(from_epsilon(x.detach(), best, level), level), slope)


def test_eta_1_is_ddpms_posterior():
    """Ho et al., equations 6 and 7: mean and variance of q(x_{t-1} | x_t, x_0)."""
    alpha_bar, alpha_bar_next = number(0.3, 0.5, 0.9), number(0.35, 0.8, 0.91)
    clean, noise = normal(3, 4, seed=1), normal(3, 4, seed=2)
    level, next_level = variance_preserving(alpha_bar), variance_preserving(alpha_bar_next)
    alpha = alpha_bar / alpha_bar_next
    step = ddim_step(Parts(clean, noise), level, next_level, eta=1.0)
    torch.testing.assert_close(step.sd.square(), (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha))
    x = noised(clean, noise, level)
    of_clean = (alpha_bar_next.sqrt() * (1 - alpha) / (1 - alpha_bar))[:, None]
    of_x = (alpha.sqrt() * (1 - alpha_bar_next) / (1 - alpha_bar))[:, None]
    torch.testing.assert_close(step.mean, of_clean * clean + of_x * x)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", [lambda t: variance_preserving(1 - t), rectified_flow], ids=["ddpm", "flow"])
def test_the_ddim_family_keeps_the_marginals(schedule, eta):
    """With the true parts, x_{t'} given x_0 is N(a' x_0, s'²) for every η: noise in the mean and fresh noise add up to s'²."""
    level, next_level = schedule(number(0.9, 0.5)), schedule(number(0.6, 0.1))
    nothing, unit = torch.zeros(2, 1).double(), torch.ones(2, 1).double()
    of_clean = ddim_step(Parts(unit, nothing), level, next_level, eta=eta)
    of_noise = ddim_step(Parts(nothing, unit), level, next_level, eta=eta)
    torch.testing.assert_close(of_clean.mean[:, 0], next_level.signal)
    torch.testing.assert_close(of_noise.mean[:, 0].square() + of_noise.sd.square(), next_level.noise.square())
    assert (of_noise.sd > 0).all() == (eta > 0)


def test_ddim_for_ddpm_has_the_root_of_the_codes():
    """σ = η √((1-ᾱ')/(1-ᾱ)) √(1 - ᾱ/ᾱ')."""
    alpha_bar, alpha_bar_next = number(0.3, 0.5), number(0.35, 0.8)
    parts = Parts(torch.zeros(2, 1).double(), torch.zeros(2, 1).double())
    step = ddim_step(parts, variance_preserving(alpha_bar), variance_preserving(alpha_bar_next), eta=0.5)
    root = ((1 - alpha_bar_next) / (1 - alpha_bar)).sqrt() * (1 - alpha_bar / alpha_bar_next).sqrt()
    torch.testing.assert_close(step.sd, 0.5 * root)


def test_ddim_ends_at_the_image():
    step = ddim_step(
        Parts(normal(2, 3), normal(2, 3, seed=1)), rectified_flow(number(0.5, 0.1)), rectified_flow(number(0, 0)), eta=1
    )
    torch.testing.assert_close(step, GaussianStep(normal(2, 3), number(0, 0)))


def test_without_noise_all_steps_are_eulers():
    """η = 0 and noise level 0 are x + u Δ on a flow."""
    x, u, t, t_next = normal(3, 2, seed=1), normal(3, 2, seed=2), number(1.0, 0.5, 0.3), number(0.9, 0.25, 0.0)
    euler = x + u * (t_next - t)[:, None]
    parts = from_velocity(x, u, rectified_flow(t))
    for step in (
        ddim_step(parts, rectified_flow(t), rectified_flow(t_next), eta=0.0),
        flow_sde_step(x, u, t, t_next, noise_level=0.0),
        flow_cps_step(x, u, t, t_next, noise_level=0.0),
    ):
        torch.testing.assert_close(step.mean, euler)
        assert (step.sd == 0).all()


def exact_flow(time, mean, variance):
    """Slope and intercept of the true velocity E[ε - x_0 | x_t] of Gaussian images, which is affine in x_t."""
    total = (1 - time) ** 2 * variance + time**2
    slope = (time - (1 - time) * variance) / total
    return slope, -mean - slope * (1 - time) * mean


def propagate(count, noise_level, mean=0.8, variance=0.3, start=1.0, end=0.0):
    """Mean and variance of the sampler's images after `count` equal steps, exactly: steps on affine velocities are affine."""
    times = torch.linspace(start, end, count + 1, dtype=torch.float64)
    first = (1 - start) * mean
    spread = (1 - start) ** 2 * variance + start**2
    for time, next_time in pairwise(times):
        slope, intercept = exact_flow(time.item(), mean, variance)
        points = number(0.0, 1.0)[:, None]
        step = flow_sde_step(
            points, slope * points + intercept, time.expand(2), next_time.expand(2), noise_level=noise_level
        )
        shift = step.mean[0].item()
        stretch = step.mean[1].item() - shift
        first, spread = stretch * first + shift, stretch**2 * spread + step.sd[0].item() ** 2
    return first, spread


@pytest.mark.parametrize("noise_level", [0.0, 0.7, 1.2])
def test_the_flows_sde_keeps_the_marginals(noise_level):
    """With the true velocity the images' mean and variance come out right as the steps get small, with any noise level."""
    mean, variance = 0.8, 0.3
    first, spread = propagate(1000, noise_level)
    assert first == pytest.approx(mean, abs=5e-3)
    assert spread == pytest.approx(variance, abs=1e-2)


@pytest.mark.parametrize("noise_level", [0.0, 0.7, 1.2])
def test_the_flows_sde_is_right_to_second_order_in_each_step(noise_level):
    """In the middle of the path: the mean, which moves straight, is exact; half the step, a quarter of the variance's error."""
    mean, variance, time = 0.8, 0.3, 0.6
    errors = []
    for size in (0.02, 0.01):
        first, spread = propagate(1, noise_level, start=time, end=time - size)
        later = time - size
        assert first == pytest.approx((1 - later) * mean, abs=1e-12)
        errors.append(abs(spread - (1 - later) ** 2 * variance - later**2))
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_a_wrong_sign_of_the_correction_would_not_keep_them():
    """The marginals are a sharp test: the same noise without the drift's correction ends far off."""
    mean, variance, count = 0.8, 0.3, 200
    spread, times = 1.0, torch.linspace(1, 0, count + 1, dtype=torch.float64).tolist()
    for time, next_time in pairwise(times):
        delta, noise = next_time - time, 0.49 * time / (1 - (time if time < 1 else next_time))
        slope, _ = exact_flow(time, mean, variance)
        spread = (1 + slope * delta) ** 2 * spread - noise * delta
    assert abs(spread - variance) > 0.1


def test_the_sde_step_at_pure_noise_takes_the_next_times_signal():
    step = flow_sde_step(number(0.0)[:, None], number(0.0)[:, None], number(1.0), number(0.9), noise_level=0.7)
    assert step.sd.item() == pytest.approx(0.7 * math.sqrt(1 / (1 - 0.9)) * math.sqrt(0.1))


@given(times, st.floats(0.05, 0.95), st.floats(0, 1))
@settings(max_examples=30)
def test_cps_is_ddim_with_its_deviation(time, share, noise_level):
    """Flow-CPS's step has DDIM's mean for the deviation t' sin(η π/2), and keeps the level of noise."""
    t, t_next = number(time), number(time * share)
    nothing, unit = number(0.0)[:, None], number(1.0)[:, None]
    of_noise = flow_cps_step(t[:, None], unit, t, t_next, noise_level=noise_level)  # x_0 = 0, ε = 1
    assert of_noise.mean.item() ** 2 + of_noise.sd.item() ** 2 == pytest.approx(t_next.item() ** 2)
    of_clean = flow_cps_step(1 - t[:, None], nothing - unit, t, t_next, noise_level=noise_level)  # x_0 = 1, ε = 0
    assert of_clean.mean.item() == pytest.approx(1 - t_next.item())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_prob_is_torchs(reduction):
    call = sampled(5)
    density = Normal(call["mean"], SD[:, None, None]).log_prob(call["sample"])
    expected = Independent(Normal(call["mean"], SD[:, None, None]), 2).log_prob(call["sample"])
    ours = transition_log_prob(**call, reduction=reduction)
    torch.testing.assert_close(ours, expected if reduction == "sum" else density.mean((1, 2)))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("ref_sd", [None, REF_SD])
def test_kl_is_torchs(reduction, ref_sd):
    call = against(5)
    of_reference = Normal(call["ref_mean"], (SD if ref_sd is None else ref_sd)[:, None, None])
    kl = kl_divergence(Normal(call["mean"], SD[:, None, None]), of_reference).flatten(1)
    expected = kl.sum(-1) if reduction == "sum" else kl.mean(-1)
    torch.testing.assert_close(transition_kl(**call, ref_sd=ref_sd, reduction=reduction), expected)


def test_the_codes_kl_is_the_exact_one_times_the_step():
    """Flow-GRPO's train_sd3.py: mean of the squared difference over 2σ², where the step's variance is σ²|Δ|."""
    x, u, ref_u = normal(3, 4, seed=1), normal(3, 4, seed=2), normal(3, 4, seed=3)
    t, t_next = number(0.9, 0.5, 0.3), number(0.8, 0.25, 0.1)
    step, reference = flow_sde_step(x, u, t, t_next), flow_sde_step(x, ref_u, t, t_next)
    sigma = 0.7 * (t / (1 - t)).sqrt()
    code = (step.mean - reference.mean).square().mean(-1) / (2 * sigma.square())
    ours = flow_grpo_code_kl(step.mean, reference.mean, step.sd, t_next - t)
    torch.testing.assert_close(ours, code)
    exact = transition_kl(step.mean, reference.mean, step.sd, reduction="mean")
    torch.testing.assert_close(ours, exact * (t - t_next))


def test_the_mean_over_dimensions_hides_the_number_of_dimensions():
    call = sampled(5)
    for function, arguments in ((transition_log_prob, call), (transition_kl, against(5))):
        torch.testing.assert_close(function(**arguments), 6 * function(**arguments, reduction="mean"))


def test_images_of_one_number_need_no_axis():
    """A row may be a scalar, as in one-dimensional worlds."""
    flat, column = number(1.0, 2.0), number(0.5, 0.5)
    ours = transition_log_prob(flat, column, number(1, 2))
    torch.testing.assert_close(ours, Normal(column, number(1, 2)).log_prob(flat))
    torch.testing.assert_close(noised(flat, column, rectified_flow(number(0, 1))), number(1.0, 0.5))


def test_the_docstrings_examples():
    parts = Parts(number(0)[:, None], number(0)[:, None])
    step = ddim_step(parts, NoiseLevel(number(0.6), number(0.8)), NoiseLevel(number(0.8), number(0.6)), eta=1)
    assert step.sd.item() ** 2 == pytest.approx((0.36 / 0.64) * (1 - 0.36 / 0.64))
    one = number(1.0)[:, None]
    step = flow_sde_step(one, one, number(0.5), number(0.25), noise_level=1)
    assert (step.mean.item(), step.sd.item()) == pytest.approx((0.375, 0.5))
    step = flow_cps_step(one, one, number(0.5), number(0.25), noise_level=1)
    assert (step.mean.item(), step.sd.item()) == pytest.approx((0.375, 0.25))
    two = transition_log_prob(number(1, 1)[None], number(0, 0)[None], number(1))
    assert two.item() == pytest.approx(2 * (-0.5 - math.log(math.sqrt(2 * math.pi))))
    assert transition_kl(number(1, 0)[None], number(0, 0)[None], number(0.5)).item() == pytest.approx(2)
    assert flow_grpo_code_kl(one, 0 * one, number(0.5), number(-0.25)).item() == pytest.approx(0.5)


def test_time_the_other_way_round_is_an_error():
    """Code that has the noise at t = 0 would sample nonsense; the step says so."""
    one = number(1.0)[:, None]
    with pytest.raises(ValueError, match="next_time: expected times below `time`"):
        flow_sde_step(one, one, number(0.25), number(0.5))
    with pytest.raises(ValueError, match="next_time: expected times below `time`"):
        flow_cps_step(one, one, number(0.5), number(0.5), noise_level=0.5)


def test_settings_out_of_range_are_errors():
    one = number(1.0)[:, None]
    with pytest.raises(ValueError, match=r"eta: expected a share in \[0, 1\], got 1.5"):
        ddim_step(Parts(one, one), rectified_flow(number(0.5)), rectified_flow(number(0.1)), eta=1.5)
    with pytest.raises(ValueError, match="noise_level: expected a number >= 0, got -1"):
        flow_sde_step(one, one, number(0.5), number(0.1), noise_level=-1)
    with pytest.raises(ValueError, match=r"noise_level: expected a share in \[0, 1\], got 2"):
        flow_cps_step(one, one, number(0.5), number(0.1), noise_level=2)


@pytest.mark.parametrize("name", ["transition_log_prob", "transition_kl"])
def test_shapes_that_broadcast_by_accident_are_errors(name):
    """Outside the tests no type checker stands before the function: it checks images' shapes itself."""
    function = inspect.unwrap(getattr(transitions, name))
    with pytest.raises(ValueError, match=r"(sample|ref_mean): expected the shape of mean, \[2, 3\], got \[1, 3\]"):
        function(*((normal(1, 3), normal(2, 3)) if name.endswith("prob") else (normal(2, 3), normal(1, 3))), SD[:2])
    with pytest.raises(ValueError, match=r"sd: expected one number per row, shape \[2\], got \[3\]"):
        function(normal(2, 3), normal(2, 3), SD[:3])
    torch.testing.assert_close(
        function(normal(2, 3), normal(2, 3), SD[:1]), function(normal(2, 3), normal(2, 3), SD[:1].expand(2))
    )


def test_half_precision_is_widened():
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    step = flow_sde_step(x, x, torch.tensor([0.5, 0.5]), torch.tensor([0.4, 0.4]))
    assert step.mean.dtype == step.sd.dtype == torch.float32
    assert from_v(x, x, variance_preserving(torch.tensor([0.5, 0.5]))).clean.dtype == torch.float32
