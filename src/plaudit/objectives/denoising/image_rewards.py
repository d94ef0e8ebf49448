"""Differentiable rewards of images: what is made of them, and the losses that follow their gradient through the sampler.

The gradient reaches the generator through the image, so a loss here is a function of rewards alone; how many of the
sampler's steps keep their gradient (ReFL: one late step, read out as ``x_0``; DRaFT-K: the last K) is the sampler's affair.
Pairs for a reward model are learnt with `bradley_terry`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid

from plaudit.objectives.arguments import check_group, check_not_negative, check_positive, masked_mean, widened
from plaudit.objectives.catalogue import objective


@objective(
    role="reward",
    paper="Xu et al. 2023, arXiv 2304.05977",
    feedback="any",
    signal="reward",
    data="either",
    reference=False,
    modalities=("images",),
)
def standardised_reward(reward: Float[Tensor, " B"], *, mean: float, sd: float) -> Float[Tensor, " B"]:
    r"""A reward on the scale on which hinges and exponents mean something: ``(r - mean) / sd``.

    Args:
        reward: a reward model's raw output.
        mean: of that model's rewards on held-out images. Measure it anew for each reward model and aspect.
        sd: > 0, their standard deviation.

    Returns:
        The standardised reward of each image.

    Raises:
        ValueError: sd is not positive.

    Reference:
        Xu et al., "ImageReward", arXiv 2304.05977; its code's constants are mean 0.16717, sd 1.03334, which IterComp keeps
        for models that it retrained.

    Example:
        ``r = 3``, mean 1, sd 2: 1.
    """
    check_positive("sd", sd)
    return (widened(reward) - mean) / sd


@objective(
    role="reward",
    paper="Radford et al. 2021, arXiv 2103.00020; Chen et al. 2024, arXiv 2404.15449",
    feedback="none",
    signal="reward",
    data="either",
    reference=False,
    modalities=("images",),
)
def cosine_reward(
    embedding: Float[Tensor, "B F"], ref_embedding: Float[Tensor, "B F"], *, scale: float = 1.0
) -> Float[Tensor, " B"]:
    r"""Similarity to what was asked for: ``R = s cos(f, f_ref)``.

    With image and text embeddings it is CLIP's score, with those of two faces ID-Aligner's identity reward.

    Args:
        embedding: f of the generated image (of the face that was found in it).
        ref_embedding: of the prompt, or of the reference face; for several pictures of one person `mean_identity`.
        scale: s > 0; 1 is ID-Aligner's, CLIP's learnt temperature makes it 100.

    Returns:
        The reward of each image, in ±s; 0 for an embedding of zeros.

    Raises:
        ValueError: scale is not positive.

    Reference:
        Radford et al., "CLIP", arXiv 2103.00020; Chen et al., "ID-Aligner", arXiv 2404.15449, equation 4.

    Example:
        (1, 0) and (1, 1): ``1/√2 = 0.7071``.
    """
    check_positive("scale", scale)
    return scale * cosine_similarity(widened(embedding), widened(ref_embedding), dim=-1)


@objective(
    role="value",
    paper="Chen et al. 2024, arXiv 2404.15449",
    feedback="demonstration",
    signal="none",
    data="either",
    reference=False,
    modalities=("images",),
)
def mean_identity(
    embedding: Float[Tensor, "B K F"], *, mask: Bool[Tensor, "B K"] | None = None
) -> Float[Tensor, "B F"]:
    r"""The reference identity of a person with several pictures: the mean of their faces' embeddings.

    Args:
        embedding: of each picture's face; recognisers give unit vectors, so that each picture counts the same.
        mask: True where there is a picture in which a face was found.

    Returns:
        The mean embedding of each person; zeros for a person without a picture.

    Raises:
        ValueError: groups without pictures.

    Reference:
        Chen et al., arXiv 2404.15449, algorithm 2, line 4.

    Example:
        (1, 0) and (0, 1): (0.5, 0.5).
    """
    check_group("embedding", embedding.transpose(1, 2), at_least=1)
    return masked_mean(embedding, None if mask is None else mask.unsqueeze(-1), dim=1)


@objective(
    paper="Xu et al. 2023, arXiv 2304.05977",
    feedback="comparison",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def refl(reward: Float[Tensor, " B"], *, target: float = 2.0, scale: float = 1e-3) -> Float[Tensor, " B"]:
    r"""ReFL: a hinge on the reward of an image, ``L = λ relu(target - r)``.

    Args:
        reward: r of each image, standardised, with gradient through the reward model, the decoder and one late denoising step.
        target: from where on the reward is good enough and pushes no more.
        scale: λ > 0, against the denoising loss on real images that it alternates with.

    Returns:
        The loss of each image, >= 0.

    Raises:
        ValueError: scale is not positive.

    Reference:
        Xu et al., arXiv 2304.05977, section 3 on ReFL (equation number not checked); the hinge in THUDM/ImageReward ``ReFL.py``
        (``relu(-r + 2) * 1e-3``).

    Example:
        ``r = 0.5`` at scale 1: 1.5.
    """
    check_positive("scale", scale)
    return scale * (target - reward).clamp(min=0)


@objective(
    paper="Zhang et al. 2024, arXiv 2410.07171",
    feedback="ranking",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def itercomp(reward: Float[Tensor, "B M"], *, target: float = 2.0, scale: float = 1e-3) -> Float[Tensor, " B"]:
    r"""IterComp: ReFL with one reward per aspect, ``L = λ Σ_m relu(target - r_m)``.

    Args:
        reward: r_m of each image under each aspect's reward model, each standardised, with gradient through the image.
        target: from where on an aspect is good enough and pushes no more; others go on.
        scale: λ > 0, as in `refl`.

    Returns:
        The loss of each image, >= 0.

    Raises:
        ValueError: scale is not positive.

    Reference:
        Zhang et al., "IterComp", arXiv 2410.07171; checked against our specification of its ``feedback_train.py``. There the
        aspects are attribute binding, spatial and non-spatial relations.

    Example:
        Rewards 0.5, 3 and 1 at scale 1: ``1.5 + 0 + 1 = 2.5``.
    """
    check_positive("scale", scale)
    return scale * (target - widened(reward)).clamp(min=0).sum(-1)


@objective(
    paper="Zhang et al. 2024, arXiv 2410.07171",
    feedback="ranking",
    signal="preference",
    data="off-policy",
    reference=False,
    modalities=("images",),
)
def itercomp_reward_model(
    reward: Float[Tensor, "B K"],
    *,
    is_new: Bool[Tensor, "B K"] | None = None,
    mask: Bool[Tensor, "B K"] | None = None,
) -> Float[Tensor, " B"]:
    r"""IterComp's reward model: Bradley-Terry on all ordered pairs of a ranking, later on those with a new image only.

    ``L = mean over i < j, where i or j is new, of -log σ(r_i - r_j)``.

    Args:
        reward: r of each of a prompt's images, in the order of the ranking, the best first.
        is_new: True for images of models that joined in this iteration; None takes all pairs, as the first iteration does.
        mask: True where there is an image.

    Returns:
        The loss of each ranking, >= 0; 0 without gradient where no pair counts.

    Raises:
        ValueError: rankings of fewer than two images.

    Reference:
        Zhang et al., arXiv 2410.07171; its code takes the cross-entropy of ``[r_w, r_l]``, which is the same. Which pairs later
        iterations keep is our reading of ``make_data_iterative``, whose model numbers do not fit its data.

    Example:
        Rewards 1, 0 in order: ``log(1 + e^-1) = 0.3133``.
    """
    check_group("reward", reward, at_least=2)
    count = reward.shape[-1]
    here = torch.ones_like(reward, dtype=torch.bool) if mask is None else mask
    r = torch.where(here, widened(reward), 0)
    loss = -logsigmoid(r.unsqueeze(-1) - r.unsqueeze(-2))
    ahead = torch.ones(count, count, dtype=torch.bool, device=reward.device).triu(diagonal=1)
    counts = ahead & here.unsqueeze(-1) & here.unsqueeze(-2)
    if is_new is not None:
        counts = counts & (is_new.unsqueeze(-1) | is_new.unsqueeze(-2))
    return masked_mean(loss, counts, dim=(-2, -1))


@objective(
    role="statistic",
    paper="Zhang et al. 2024, arXiv 2410.07171",
    feedback="ranking",
    signal="reward",
    data="either",
    reference=False,
    modalities=("images",),
)
def insertion_place(
    ranked_reward: Float[Tensor, "B K"],
    new_reward: Float[Tensor, " B"],
    *,
    mask: Bool[Tensor, "B K"] | None = None,
) -> Int[Tensor, " B"]:
    r"""Where a new image enters a human ranking by reward: just below the last one that it does not beat.

    The place is ``1 + max{j : r_j >= r_new}``, or 0 where it beats all. People's order among the old images stays, also
    where the rewards contradict it.

    Args:
        ranked_reward: r of each ranked image, in people's order, the best first.
        new_reward: r of the new image under the same reward model.
        mask: True where there is an image; places count the masked ones.

    Returns:
        The place in 0..K at which to insert, 0 the best.

    Reference:
        Zhang et al., arXiv 2410.07171, the expansion of the gallery; the code's ``iterative_expand_gallery.py`` never
        compares with place 0, so that an image that beats all others becomes first even where the first is better.

    Example:
        Rewards (3, 1, 2) and a new one of 1.5: below the third, place 3; of 2.5: place 1; of 4: place 0.
    """
    unbeaten = ranked_reward >= new_reward.unsqueeze(-1)
    if mask is not None:
        unbeaten = unbeaten & mask
    places = torch.arange(1, ranked_reward.shape[-1] + 1, device=ranked_reward.device)
    return torch.cat([torch.zeros_like(unbeaten[:, :1], dtype=torch.long), unbeaten * places], -1).amax(-1)


@objective(
    paper="Clark et al. 2023, arXiv 2309.17400",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def draft(reward: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    r"""DRaFT: follow the reward's gradient through the last K steps of the sampler, ``L = -r``.

    Args:
        reward: r of each final image, with gradient through the last K steps; what comes before is a constant. K = 1 is
            DRaFT-1.

    Returns:
        The loss of each image.

    Reference:
        Clark et al., "Directly Fine-Tuning Diffusion Models on Differentiable Rewards", arXiv 2309.17400, section 4 (equation
        number not checked).

    Example:
        ``r = 0.5``: -0.5.
    """
    return -reward


@objective(
    paper="Clark et al. 2023, arXiv 2309.17400",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def draft_lv(reward: Float[Tensor, "B K"], *, mask: Bool[Tensor, "B K"] | None = None) -> Float[Tensor, " B"]:
    r"""DRaFT-LV: the last step's gradient over several re-noised copies of the image, ``L = -mean_k r_k``.

    Its variance is lower than that of `draft` with K = 1 at the cost of one step and one reward per copy.

    Args:
        reward: r of each copy: the final image is noised anew to the last step's level, and denoised with gradient.
        mask: True where there is a copy.

    Returns:
        The loss of each image; 0 where there is no copy.

    Raises:
        ValueError: no copies at all.

    Reference:
        Clark et al., arXiv 2309.17400, section 4, DRaFT-LV.

    Example:
        Rewards 0.5 and 1.5: -1.
    """
    check_group("reward", reward, at_least=1)
    return -masked_mean(reward, mask)


@objective(
    paper="(ours)",
    feedback="any",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def log_sigmoid_reward_loss(reward: Float[Tensor, " B"], *, target: float = 0.0) -> Float[Tensor, " B"]:
    r"""A soft hinge on the reward of an image: ``L = -log σ(r - target)``, between `draft` (far below) and no push (far above).

    Args:
        reward: r of each image, standardised, with gradient through the image.
        target: where the push is half of `draft`'s.

    Returns:
        The loss of each image, >= 0.

    Reference:
        (ours); the third of the usual readouts beside the identity and the hinge.

    Example:
        ``r = 1``: ``log(1 + e^-1) = 0.3133``.
    """
    return -logsigmoid(reward - target)


@objective(
    paper="Chen et al. 2024, arXiv 2404.15449",
    feedback="comparison",
    signal="reward",
    data="on-policy",
    reference=False,
    modalities=("images",),
)
def id_aligner(
    identity: Float[Tensor, " B"],
    appeal: Float[Tensor, " B"],
    structure: Float[Tensor, " B"],
    face_found: Bool[Tensor, " B"],
    *,
    identity_weight: float = 0.2,
    aesthetic_weight: float = 0.001,
) -> Float[Tensor, " B"]:
    r"""ID-Aligner: the person's identity and a picture that people like, ``L = α1 (1 - R_id) - α2 (R_appeal + R_struct)``.

    The LoRA variant adds `denoising_error` on the person's own pictures. The structure reward is learnt with `bradley_terry`
    on real images against images that were generated from twisted poses.

    Args:
        identity: R_id, `cosine_reward` of the generated face and the reference face, with gradient through the crop.
        appeal: R_appeal of each image.
        structure: R_struct of each image.
        face_found: True where a face was found; elsewhere there is nothing to compare, the identity term is left out, and
            `identity` not read. Count these images: their share is the first sign of a broken generator.
        identity_weight: α1 >= 0.
        aesthetic_weight: α2 >= 0; much smaller, as these rewards are unbounded and ``1 - R_id`` is at most 2.

    Returns:
        The loss of each image.

    Raises:
        ValueError: a weight is negative.

    Reference:
        Chen et al., "ID-Aligner", arXiv 2404.15449, equations 6 to 9.

    Example:
        R_id = 0.5, R_appeal = 2, R_struct = 1: ``0.1 - 0.003 = 0.097``; without a face -0.003.
    """
    check_not_negative("identity_weight", identity_weight)
    check_not_negative("aesthetic_weight", aesthetic_weight)
    away = torch.where(face_found, 1 - torch.where(face_found, identity, 0), 0)
    return identity_weight * away - aesthetic_weight * (appeal + structure)
