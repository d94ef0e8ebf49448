"""Denoising models' steps: what a prediction says about image and noise, the next step's Gaussian, its density and divergence.

One convention: ``x_t = a x_0 + s ε`` with clean ``x_0``, noise ``ε ~ N(0, I)``; DDPM (variance preserving) has
``a² + s² = 1``, rectified flow ``a = 1 - t``, ``s = t``, with t = 1 the noise (as in SD3 and Flow-GRPO). Code that counts
the other way (torchcfm, ORW-CFM-W2: t = 0 noise, velocity ``x_1 - x_0``) is converted once at the border: ``t' = 1 - t``,
``u' = -u``. Everything is computed in float32 at least: bfloat16 overflows in the flow's steps.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.objectives.arguments import check_choice, check_not_negative, check_share, widened
from plaudit.objectives.catalogue import objective

Reduction = Literal["mean", "sum"]


class NoiseLevel(NamedTuple):
    """Of how much image and how much noise ``x_t`` is made: ``a`` and ``s``, one number per row."""

    signal: Float[Tensor, " B"]
    noise: Float[Tensor, " B"]


class Parts(NamedTuple):
    """What a noised image is made of, in a model's opinion: ``x_0`` and ``ε``."""

    clean: Float[Tensor, " B *D"]
    noise: Float[Tensor, " B *D"]


class GaussianStep(NamedTuple):
    """The distribution of the next, less noisy image: one standard deviation per row for all its dimensions."""

    mean: Float[Tensor, " B *D"]
    sd: Float[Tensor, " B"]


def check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless two images' tensors have one shape: broadcasting would go on with rows of other images."""
    if value.shape != other.shape:
        raise ValueError(f"{name}: expected the shape of {other_name}, {list(other.shape)}, got {list(value.shape)}")


def per_row(name: str, values: Tensor, images: Tensor) -> Tensor:
    """One number per row (or one for all), ready to be multiplied with images of any number of axes."""
    if values.dim() != 1 or values.shape[0] not in {1, images.shape[0]}:
        raise ValueError(f"{name}: expected one number per row, shape [{images.shape[0]}], got {list(values.shape)}")
    return widened(values).reshape(-1, *[1] * (images.dim() - 1))


def variance_preserving(alpha_bar: Float[Tensor, " B"]) -> NoiseLevel:
    """DDPM's levels: ``a = √ᾱ_t``, ``s = √(1 - ᾱ_t)``, with ``ᾱ_t`` in [0, 1] the product of the ``1 - β``."""
    return NoiseLevel(widened(alpha_bar).sqrt(), (1 - widened(alpha_bar)).sqrt())


def rectified_flow(time: Float[Tensor, " B"]) -> NoiseLevel:
    """The straight path's levels: ``a = 1 - t``, ``s = t``, with t in [0, 1] and t = 1 the noise."""
    return NoiseLevel(1 - widened(time), widened(time))


def noised(clean: Float[Tensor, " B *D"], noise: Float[Tensor, " B *D"], level: NoiseLevel) -> Float[Tensor, " B *D"]:
    """``x_t = a x_0 + s ε``."""
    check_same_shape("noise", noise, "clean", clean)
    return per_row("signal", level.signal, clean) * clean + per_row("noise", level.noise, clean) * noise


def from_epsilon(x: Float[Tensor, " B *D"], epsilon: Float[Tensor, " B *D"], level: NoiseLevel) -> Parts:
    """A noise prediction's parts: ``x_0 = (x_t - s ε) / a``. Where ``a = 0`` nothing is known of ``x_0``: it is not finite."""
    check_same_shape("epsilon", epsilon, "x", x)
    a, s = per_row("signal", level.signal, x), per_row("noise", level.noise, x)
    return Parts((widened(x) - s * epsilon) / a, widened(epsilon))


def from_clean(x: Float[Tensor, " B *D"], clean: Float[Tensor, " B *D"], level: NoiseLevel) -> Parts:
    """An image prediction's parts: ``ε = (x_t - a x_0) / s``. Where ``s = 0`` nothing is known of ``ε``: it is not finite."""
    check_same_shape("clean", clean, "x", x)
    a, s = per_row("signal", level.signal, x), per_row("noise", level.noise, x)
    return Parts(widened(clean), (widened(x) - a * clean) / s)


def from_v(x: Float[Tensor, " B *D"], v: Float[Tensor, " B *D"], level: NoiseLevel) -> Parts:
    """A v prediction's parts, ``v = a ε - s x_0``: ``x_0 = a x_t - s v``, ``ε = s x_t + a v``, over ``a² + s²`` (1 in DDPM)."""
    check_same_shape("v", v, "x", x)
    a, s = per_row("signal", level.signal, x), per_row("noise", level.noise, x)
    size = a.square() + s.square()
    return Parts((a * x - s * v) / size, (s * x + a * v) / size)


def from_velocity(x: Float[Tensor, " B *D"], velocity: Float[Tensor, " B *D"], level: NoiseLevel) -> Parts:
    """A flow's parts, ``u = ε - x_0``: ``x_0 = x_t - s u`` and ``ε = x_t + a u``, over ``a + s`` (1 on the straight path)."""
    check_same_shape("velocity", velocity, "x", x)
    a, s = per_row("signal", level.signal, x), per_row("noise", level.noise, x)
    return Parts((x - s * velocity) / (a + s), (x + a * velocity) / (a + s))


def from_score(x: Float[Tensor, " B *D"], score: Float[Tensor, " B *D"], level: NoiseLevel) -> Parts:
    """A score's parts: ``∇ log p_t(x_t) = -ε / s``."""
    check_same_shape("score", score, "x", x)
    return from_epsilon(x, -per_row("noise", level.noise, x) * score, level)


def to_v(parts: Parts, level: NoiseLevel) -> Float[Tensor, " B *D"]:
    """``v = a ε - s x_0``, the target of v prediction."""
    a, s = per_row("signal", level.signal, parts.clean), per_row("noise", level.noise, parts.clean)
    return a * parts.noise - s * parts.clean


def to_velocity(parts: Parts) -> Float[Tensor, " B *D"]:
    """``u = ε - x_0``, which is ``dx_t/dt`` on the straight path and a flow's target."""
    return widened(parts.noise) - widened(parts.clean)


def to_score(parts: Parts, level: NoiseLevel) -> Float[Tensor, " B *D"]:
    """``∇ log p_t(x_t) = -ε / s``; not finite where ``s = 0``."""
    return -widened(parts.noise) / per_row("noise", level.noise, parts.noise)


def ddim_step(parts: Parts, level: NoiseLevel, next_level: NoiseLevel, *, eta: float) -> GaussianStep:
    r"""A step of the DDIM family, for every kind of prediction: to the level ``a', s'`` with less noise.

    ``μ = a' x_0 + √(s'² - σ²) ε``, ``σ = η (s'/s) √(s² - (a/a')² s'²)``; with DDPM's levels the root is ``√(1 - a²/a'²)``.

    Args:
        parts: the prediction at the present level.
        level: the present level, ``s > 0``.
        next_level: the next one, ``a' > 0`` and ``s'/a' <= s/a``.
        eta: in [0, 1], how much of the noise is fresh: 0 is the deterministic DDIM step (a step of the ODE), 1 is ancestral
            sampling, whose variance is that of DDPM's posterior ``q(x_{t'} | x_t, x_0)``.

    Reference:
        Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502, equations 12 and 16. For flows the same formula
        with ``a = 1 - t``, ``s = t``.

    Example:
        ``a = 0.6, s = 0.8`` to ``a' = 0.8, s' = 0.6`` at η = 1: ``σ² = (0.36/0.64)(1 - 0.36/0.64) = 0.2461``.
    """
    check_share("eta", eta)
    a, s, a_next, s_next = (widened(part) for part in (*level, *next_level))
    sd = eta * s_next / s * (s.square() - (a / a_next * s_next).square()).clamp(min=0).sqrt()
    kept = (s_next.square() - sd.square()).clamp(min=0).sqrt()
    clean, noise = parts
    return GaussianStep(per_row("next signal", a_next, clean) * clean + per_row("next noise", kept, noise) * noise, sd)


def flow_sde_step(
    x: Float[Tensor, " B *D"],
    velocity: Float[Tensor, " B *D"],
    time: Float[Tensor, " B"],
    next_time: Float[Tensor, " B"],
    *,
    noise_level: float = 0.7,
) -> GaussianStep:
    r"""Flow-GRPO's step: Euler on the stochastic equation that has the same marginals as the flow's ODE.

    With ``Δ = t' - t < 0`` and ``σ = noise_level √(t/(1-t))``::

        μ = x (1 + σ²Δ/(2t)) + u (1 + σ²(1-t)/(2t)) Δ        sd = σ √(-Δ)

    Args:
        x: the present image.
        velocity: the flow's prediction ``u = ε - x_0`` there.
        time: t in (0, 1], 1 is noise. At t = 1, where σ is infinite, ``1 - t`` is taken at the next time, as the code does.
        next_time: t' in [0, t).
        noise_level: >= 0; 0 is the Euler step of the ODE, raising it explores more. 0.7 is the paper's.

    Raises:
        ValueError: a next time is not below its time: time is counted the other way.

    Reference:
        Liu et al., "Flow-GRPO", arXiv 2505.05470, section 4.2; checked against yifan123/flow_grpo
        ``sd3_sde_with_logprob.py`` (``sde_type="sde"``).

    Example:
        ``x = 1, u = 1, t = 0.5, t' = 0.25`` at noise level 1: σ² = 1, ``μ = 1 (1 - 0.25) - 0.25 (1 + 0.5) = 0.375``, sd = 0.5.
    """
    check_not_negative("noise_level", noise_level)
    check_same_shape("velocity", velocity, "x", x)
    t, delta = _times(time, next_time)
    variance = noise_level**2 * t / (1 - torch.where(t == 1, t + delta, t))
    keep = per_row("time", 1 + variance * delta / (2 * t), x)
    move = per_row("time", (1 + variance * (1 - t) / (2 * t)) * delta, x)
    return GaussianStep(keep * x + move * velocity, (-variance * delta).sqrt())


def flow_cps_step(
    x: Float[Tensor, " B *D"],
    velocity: Float[Tensor, " B *D"],
    time: Float[Tensor, " B"],
    next_time: Float[Tensor, " B"],
    *,
    noise_level: float,
) -> GaussianStep:
    r"""Coefficients-preserving step of a flow: fresh noise takes the place of old noise, and the level stays the schedule's.

    ``μ = (1-t') x_0 + t' cos(η π/2) ε``, ``sd = t' sin(η π/2)``, with η the noise level: `ddim_step` with that deviation.

    Args:
        x: the present image.
        velocity: the flow's prediction ``u = ε - x_0`` there.
        time: t in (0, 1], 1 is noise.
        next_time: t' in [0, t).
        noise_level: η in [0, 1]; 0 is the ODE's Euler step, 1 replaces all noise.

    Raises:
        ValueError: a next time is not below its time: time is counted the other way.

    Reference:
        Wang et al., "Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching", arXiv 2509.05952; checked
        against yifan123/flow_grpo ``sd3_sde_with_logprob.py`` (``sde_type="cps"``; there the log-probability drops ``2 sd²``).

    Example:
        ``x = 1, u = 1, t = 0.5, t' = 0.25`` at η = 1: ``x_0 = 0.5``, so μ = 0.375, sd = 0.25.
    """
    check_share("noise_level", noise_level)
    parts = from_velocity(x, velocity, rectified_flow(time))
    t, delta = _times(time, next_time)
    t_next = t + delta
    clean, noise = per_row("next_time", 1 - t_next, x), per_row("next_time", t_next, x)
    mean = clean * parts.clean + math.cos(noise_level * math.pi / 2) * noise * parts.noise
    return GaussianStep(mean, math.sin(noise_level * math.pi / 2) * t_next)


def _times(time: Tensor, next_time: Tensor) -> tuple[Tensor, Tensor]:
    """Time and step, once it is clear that they go from noise to image."""
    check_same_shape("next_time", next_time, "time", time)
    if not bool((next_time < time).all()):
        raise ValueError(
            "next_time: expected times below `time` (t = 1 is noise, t = 0 the image), got some that are not"
        )
    return widened(time), widened(next_time) - widened(time)


@objective(
    role="statistic",
    paper="Black et al. 2023, arXiv 2305.13301",
    feedback="none",
    signal="none",
    data="either",
    reference=False,
    modalities=("images",),
)
def transition_log_prob(
    sample: Float[Tensor, " B *D"],
    mean: Float[Tensor, " B *D"],
    sd: Float[Tensor, " #B"],
    *,
    reduction: Reduction = "sum",
) -> Float[Tensor, " B"]:
    r"""Log-probability of a denoising step: ``log N(x_{t'}; μ, sd² I)``.

    Args:
        sample: the step that was taken, ``x_{t'}``; a constant, no gradient.
        mean: ``μ`` of the policy that is asked.
        sd: > 0, one per row or one for all. A deterministic step (sd = 0) has no density.
        reduction: over dimensions. ``"sum"`` is the log-density. ``"mean"`` is what ddpo-pytorch and flow_grpo use, smaller
            by the number D of dimensions: their clip range of 1e-4 belongs to it.

    Returns:
        The log-probability of each step.

    Reference:
        Black et al., "Training Diffusion Models with Reinforcement Learning" (DDPO), arXiv 2305.13301, section 4.3; the mean in
        kvablack/ddpo-pytorch ``ddim_with_logprob.py`` and yifan123/flow_grpo ``sd3_sde_with_logprob.py``.

    Example:
        Two dimensions at distance 1 with sd = 1: ``2 (-1/2 - log √(2π)) = -2.8379``; their mean -1.4189.
    """
    check_choice("reduction", reduction, ("mean", "sum"))
    check_same_shape("sample", sample, "mean", mean)
    deviation = (widened(sample.detach()) - widened(mean)) / per_row("sd", sd, mean)
    square = deviation.square().unsqueeze(-1).flatten(1)
    log_density = -square / 2 - widened(sd).log().unsqueeze(-1) - math.log(2 * math.pi) / 2
    return log_density.mean(-1) if reduction == "mean" else log_density.sum(-1)


@objective(
    role="divergence",
    paper="Fan et al. 2023, arXiv 2305.16381",
    feedback="none",
    signal="none",
    data="either",
    reference=True,
    modalities=("images",),
)
def transition_kl(
    mean: Float[Tensor, " B *D"],
    ref_mean: Float[Tensor, " B *D"],
    sd: Float[Tensor, " #B"],
    *,
    ref_sd: Float[Tensor, " #B"] | None = None,
    reduction: Reduction = "sum",
) -> Float[Tensor, " B"]:
    r"""Divergence of a denoising step from the reference's: ``KL(N(μ, sd² I) ‖ N(μ_ref, sd_ref² I))``.

    ``|μ - μ_ref|² / (2 sd²)`` where both have one deviation, as all samplers with a fixed schedule have; in general
    ``(sd² + |μ - μ_ref|²) / (2 sd_ref²) - 1/2 + log(sd_ref/sd)`` per dimension.

    Args:
        mean: ``μ`` of the policy.
        ref_mean: ``μ_ref`` of the reference, at the same image and time.
        sd: > 0, the step's deviation: for `flow_sde_step` that is ``σ √|Δ|``.
        ref_sd: > 0, the reference's where it differs; None is `sd`.
        reduction: over dimensions; ``"sum"`` is the divergence, ``"mean"`` flow_grpo's, smaller by the number of dimensions.

    Returns:
        The divergence of each step, >= 0.

    Reference:
        Fan et al., "DPOK", arXiv 2305.16381, section 4.2; Liu et al., "Flow-GRPO", arXiv 2505.05470, section 4.2. The code of
        DPOK takes the plain squared difference of the noise predictions, that of Flow-GRPO `flow_grpo_code_kl`.

    Example:
        Means (1, 0) and (0, 0), sd = 0.5: ``1 / (2 · 0.25) = 2``.
    """
    check_choice("reduction", reduction, ("mean", "sum"))
    check_same_shape("ref_mean", ref_mean, "mean", mean)
    reference = per_row("ref_sd", sd if ref_sd is None else ref_sd, mean)
    kl = ((widened(mean) - widened(ref_mean)) / reference).square() / 2
    if ref_sd is not None:
        log_share = per_row("sd", sd, mean).log() - reference.log()
        kl = kl + (2 * log_share).expm1() / 2 - log_share
    flat = kl.unsqueeze(-1).flatten(1)
    return flat.mean(-1) if reduction == "mean" else flat.sum(-1)


@objective(
    role="divergence",
    paper="Liu et al. 2025, arXiv 2505.05470 (code)",
    feedback="none",
    signal="none",
    data="either",
    reference=True,
    modalities=("images",),
)
def flow_grpo_code_kl(
    mean: Float[Tensor, " B *D"],
    ref_mean: Float[Tensor, " B *D"],
    sd: Float[Tensor, " #B"],
    step: Float[Tensor, " #B"],
    *,
    reduction: Reduction = "mean",
) -> Float[Tensor, " B"]:
    r"""The penalty in Flow-GRPO's code: `transition_kl` times the length ``|Δ|`` of the step.

    The code divides ``|μ - μ_ref|²`` by ``2σ²`` where the step's variance is ``σ²|Δ|``. Its ``beta`` is therefore comparable
    with the exact divergence's only after this factor. Here for comparisons with published runs; use `transition_kl`.

    Args:
        mean: ``μ`` of the policy.
        ref_mean: ``μ_ref`` of the reference, at the same image and time.
        sd: > 0, the step's deviation ``σ √|Δ|``, as `flow_sde_step` gives it.
        step: ``Δ = t' - t``; only its size counts.
        reduction: over dimensions; ``"mean"`` is the code's.

    Returns:
        The penalty of each step, >= 0.

    Reference:
        yifan123/flow_grpo ``scripts/train_sd3.py``, ``kl_loss``; the paper's section 4.2 has the exact divergence.

    Example:
        Means 1 and 0 in one dimension, sd = 0.5, Δ = -0.25: ``0.25 · 1 / (2 · 0.25) = 0.5``.
    """
    return widened(step).abs() * transition_kl(mean, ref_mean, sd, reduction=reduction)
