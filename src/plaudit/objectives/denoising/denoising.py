"""Objectives on denoising errors: a diffusion or flow model's squared error stands in for its negative log-likelihood.

All of them take one error per image, as `denoising_error` gives it, of the network's own target (noise, v, image or
velocity). So one function serves DDPM and flows; whoever wants a flow's errors on the scale of noise errors multiplies by
`epsilon_equivalent_weight`.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from plaudit.objectives.arguments import check_choice, check_not_negative, check_positive, widened
from plaudit.objectives.catalogue import objective
from plaudit.objectives.denoising.denoising_transitions import Reduction, check_same_shape
from plaudit.objectives.preferences.pairwise import dpo


@objective(
    role="statistic",
    paper="Ho et al. 2020, arXiv 2006.11239; Lipman et al. 2022, arXiv 2210.02747",
    feedback="any",
    signal="none",
    data="either",
    reference=False,
    modalities=("images",),
)
def denoising_error(
    prediction: Float[Tensor, " B *D"], target: Float[Tensor, " B *D"], *, reduction: Reduction = "mean"
) -> Float[Tensor, " B"]:
    r"""Squared error of a denoising network's own target: ``e = |y - ŷ|²``, the mean or the sum over the D dimensions.

    Args:
        prediction: what the network says, in its own form.
        target: ε, v, x_0 or u; or another model's prediction, for a distance between two models. A constant, no gradient.
        reduction: over dimensions. ``"mean"`` is what all official code uses, ``"sum"`` what the papers write; the factor D
            between them hides in every β and margin.

    Returns:
        The error of each row, >= 0, in float32 at least.

    Raises:
        ValueError: the shapes differ.

    Reference:
        Ho et al., "Denoising Diffusion Probabilistic Models", arXiv 2006.11239, equation 14; Lipman et al., "Flow Matching",
        arXiv 2210.02747, equation 9.

    Example:
        Prediction (1, 2), target (0, 0): mean 2.5, sum 5.
    """
    check_choice("reduction", reduction, ("mean", "sum"))
    check_same_shape("target", target, "prediction", prediction)
    square = (widened(prediction) - widened(target.detach())).square().unsqueeze(-1).flatten(1)
    return square.mean(-1) if reduction == "mean" else square.sum(-1)


@objective(
    role="weight",
    paper="Ho et al. 2020, arXiv 2006.11239; Salimans and Ho 2022, arXiv 2202.00512",
    feedback="none",
    signal="none",
    data="either",
    reference=False,
    modalities=("images",),
)
def epsilon_equivalent_weight(
    signal: Float[Tensor, " B"],
    noise: Float[Tensor, " B"],
    *,
    prediction: Literal["epsilon", "v", "clean", "velocity"],
) -> Float[Tensor, " B"]:
    r"""What an error must be multiplied with to be the noise error of the same prediction: ``|ε̂ - ε|² = w |ŷ - y|²``.

    At a fixed ``x_t = a x_0 + s ε`` all forms are affine in each other, so the weight is exact::

        epsilon: 1      clean: (a/s)²      v: (a/(a² + s²))²      velocity: (a/(a + s))²

    The last two are ``a²`` for DDPM's levels and ``(1-t)²`` for a flow's. Practice with flows is weight 1 in velocity space,
    which counts noisy times more.

    Args:
        signal: a of each row.
        noise: s of each row; > 0 for ``"clean"``.
        prediction: the form in which the network predicts.

    Returns:
        The weight of each row, >= 0.

    Reference:
        Salimans and Ho, "Progressive Distillation", arXiv 2202.00512, section 4 (forms of prediction and their weights).

    Example:
        A flow at t = 0.25 (a = 0.75, s = 0.25): 0.5625.
    """
    check_choice("prediction", prediction, ("epsilon", "v", "clean", "velocity"))
    a, s = widened(signal), widened(noise)
    share = {"epsilon": a**0, "clean": a / s, "v": a / (a.square() + s.square()), "velocity": a / (a + s)}
    return share[prediction].square()


@objective(
    role="statistic",
    paper="Wallace et al. 2023, arXiv 2311.12908",
    feedback="any",
    signal="none",
    data="either",
    reference=True,
    modalities=("images",),
)
def denoising_log_ratio(
    error: Float[Tensor, " B"],
    ref_error: Float[Tensor, " B"],
    *,
    weight: Float[Tensor, " B"] | float = 0.5,
) -> Float[Tensor, " B"]:
    r"""A denoising model's stand-in for a log-ratio: ``log π/π_ref ≈ -w (e - e_ref)``, at one draw of time and noise.

    With it every objective on log-ratios (`dpo` and its kin) is one for diffusion and flow models.

    Args:
        error: ``e`` of the policy.
        ref_error: of the reference, at the same noised image.
        weight: w >= 0, the paper's ``T ω(λ_t)``, one number or one per row. 1/2 is the code's constant; times
            `epsilon_equivalent_weight` it measures any form's errors on the noise scale.

    Returns:
        The log-ratio of each row: > 0 where the policy explains the image better.

    Reference:
        Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization", arXiv 2311.12908, equation 14; the
        1/2 in SalesforceAIResearch/DiffusionDPO ``train.py`` (``scale_term = -0.5 * beta_dpo``).

    Example:
        Errors 0.2 and, of the reference, 0.6: 0.2.
    """
    if not isinstance(weight, Tensor):
        check_not_negative("weight", weight)
    return -weight * (error - ref_error)


@objective(
    paper="Ho et al. 2020, arXiv 2006.11239",
    feedback="demonstration",
    signal="none",
    data="off-policy",
    reference=False,
    modalities=("images",),
)
def denoising_regression(
    error: Float[Tensor, " B"], *, weight: Float[Tensor, " B"] | None = None
) -> Float[Tensor, " B"]:
    r"""Supervised fine-tuning of a denoising model: ``L = w e``.

    Args:
        error: `denoising_error` on a demonstration.
        weight: w >= 0 of each row, such as a weight of its time, or of its reward (then this is reward-weighted regression);
            None is 1. A constant, no gradient.

    Returns:
        The loss of each row, >= 0.

    Reference:
        Ho et al., arXiv 2006.11239, equation 14; reward-weighted: Lee et al., "Aligning Text-to-Image Models using Human
        Feedback", arXiv 2302.12192, and Flow-RWR in arXiv 2501.13918.

    Example:
        Error 0.4 with weight 2: 0.8.
    """
    return error if weight is None else weight.detach() * error


@objective(
    paper="Wallace et al. 2023, arXiv 2311.12908",
    feedback="comparison",
    signal="preference",
    data="off-policy",
    reference=True,
    modalities=("images",),
)
def diffusion_dpo(
    error_chosen: Float[Tensor, " B"],
    error_rejected: Float[Tensor, " B"],
    ref_error_chosen: Float[Tensor, " B"],
    ref_error_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    weight: Float[Tensor, " B"] | float = 0.5,
) -> Float[Tensor, " B"]:
    r"""Diffusion-DPO and Flow-DPO: `dpo` with denoising log-ratios.

    ``L = -log σ(-β w [(e_w - e_w,ref) - (e_l - e_l,ref)])``: the policy's error shall fall on the preferred image, relative
    to the reference, more than on the other one.

    Args:
        error_chosen: the policy's error on the preferred image. Both images are noised to the same time with the same noise.
        error_rejected: the policy's error on the other image.
        ref_error_chosen: the reference's on the preferred image.
        ref_error_rejected: the reference's on the other image.
        beta: > 0, strength of the pull to the reference. Its scale is that of the errors' inverse: 5000 for Stable Diffusion's
            mean noise errors, 100 for flow_grpo's velocity errors; see `denoising_beta`.
        weight: w, as in `denoising_log_ratio`: one number or one per row. For Flow-DPO, 1/2 in velocity space is the constant
            form that its authors recommend, ``(1-t)²/2`` the exact translation of the noise errors.

    Returns:
        The loss of each pair, >= 0; ``log 2`` where the policy is the reference.

    Raises:
        ValueError: beta or weight out of range.

    Reference:
        Wallace et al., arXiv 2311.12908, equation 14; flows: Liu et al., "Improving Video Generation with Human Feedback",
        arXiv 2501.13918 (its equations not checked), and yifan123/flow_grpo ``train_sd3_dpo.py``.

    Example:
        Errors 0.2 and 0.5, of the reference 0.4 and 0.4, β = 10: ``h = -5 (-0.2 - 0.1) = 1.5``,
        ``L = log(1 + e^-1.5) = 0.2014``.
    """
    chosen = denoising_log_ratio(error_chosen, ref_error_chosen, weight=weight)
    rejected = denoising_log_ratio(error_rejected, ref_error_rejected, weight=weight)
    return dpo(chosen, rejected, beta=beta)


@objective(
    role="statistic",
    paper="(ours)",
    feedback="comparison",
    signal="preference",
    data="either",
    reference=True,
    modalities=("images",),
)
def denoising_beta(
    log_ratio_chosen: Float[Tensor, " B"], log_ratio_rejected: Float[Tensor, " B"], *, target: float = 1.0
) -> Float[Tensor, ""]:
    r"""The β at which a batch's logits have the right size: ``β = h / median |log-ratio of chosen - log-ratio of rejected|``.

    Denoising errors have the scale of their data, so a published β means nothing on other data or at another resolution.
    Measure after a few updates: at the first one the policy is the reference and all differences are 0.

    Args:
        log_ratio_chosen: `denoising_log_ratio` of the preferred images.
        log_ratio_rejected: the same of the others.
        target: h > 0, the median size of the logits ``β (difference)``; 0.5 to 2 is a good range.

    Returns:
        β, one number for the batch, without gradient.

    Raises:
        ValueError: the median difference is 0, or there are no pairs.

    Reference:
        (ours); Diffusion-DPO's 5000 and flow_grpo's 100 are such values for their data.

    Example:
        Differences 0.1, -0.2 and 0.4: ``1 / 0.2 = 5``.
    """
    check_positive("target", target)
    size = (widened(log_ratio_chosen.detach()) - widened(log_ratio_rejected.detach())).abs()
    median = size.quantile(0.5) if size.numel() else size.new_zeros(())
    if median == 0:
        raise ValueError("log_ratio_chosen: expected pairs whose log-ratios differ, got a median difference of 0")
    return target / median
