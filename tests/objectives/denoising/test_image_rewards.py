"""Rewards of images: ReFL's hinge, DRaFT, IterComp's aspects and rankings, ID-Aligner's identity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, cross_entropy

from objectives.contract import Case, normal
from plaudit.objectives.denoising.image_rewards import (
    cosine_reward,
    draft,
    draft_lv,
    id_aligner,
    insertion_place,
    itercomp,
    itercomp_reward_model,
    log_sigmoid_reward_loss,
    mean_identity,
    refl,
    standardised_reward,
)
from plaudit.objectives.reward_models import bradley_terry

ROWS, COUNT = 5, 4
MASK = torch.tensor(
    [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]], dtype=torch.bool
)  # the fourth ranking has one image
NEW = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]], dtype=torch.bool)
FOUND = torch.tensor([True, False, True, True, False])
SIDES = ("appeal", "structure")


def rewards(rows, **settings):
    return {"reward": normal(ROWS, seed=1)[:rows], **settings}


def groups(rows, **settings):
    return {"reward": normal(ROWS, COUNT, seed=1)[:rows]} | {
        name: value[:rows] if isinstance(value, torch.Tensor) else value for name, value in settings.items()
    }


def faces(rows, **settings):
    return {
        "identity": normal(ROWS, seed=1)[:rows].tanh(),
        "appeal": normal(ROWS, seed=2)[:rows],
        "structure": normal(ROWS, seed=3)[:rows],
        "face_found": FOUND[:rows],
        **settings,
    }


POSITIVE = [0.0, -1.0, math.nan]
CASES = [
    Case(
        standardised_reward,
        lambda rows: rewards(rows, mean=0.2, sd=1.1),
        differentiable=("reward",),
        extreme=("reward",),
        invalid={"sd": POSITIVE},
    ),
    Case(
        cosine_reward,
        lambda rows: {"embedding": normal(ROWS, 3, seed=1)[:rows], "ref_embedding": normal(ROWS, 3, seed=2)[:rows]},
        differentiable=("embedding", "ref_embedding"),
        extreme=("embedding", "ref_embedding"),
        exchangeable="F",
        invalid={"scale": POSITIVE},
    ),
    Case(
        mean_identity,
        lambda rows: {"embedding": normal(ROWS, COUNT, 3, seed=1)[:rows]},
        differentiable=("embedding",),
        extreme=("embedding",),
    ),
    Case(
        mean_identity,
        lambda rows: {"embedding": normal(ROWS, COUNT, 3, seed=1)[:rows], "mask": MASK[:rows]},
        name="mask",
        differentiable=("embedding",),
        extreme=("embedding",),
    ),
    Case(
        refl,
        lambda rows: rewards(rows, target=0.5, scale=0.3),
        differentiable=("reward",),
        extreme=("reward",),
        invalid={"scale": POSITIVE},
    ),
    Case(
        itercomp,
        lambda rows: {"reward": normal(ROWS, 3, seed=1)[:rows], "target": 0.5, "scale": 0.3},
        differentiable=("reward",),
        extreme=("reward",),
        exchangeable="M",
        invalid={"scale": POSITIVE},
    ),
    Case(itercomp_reward_model, groups, differentiable=("reward",), extreme=("reward",)),
    Case(
        itercomp_reward_model,
        lambda rows: groups(rows, mask=MASK, is_new=NEW),
        name="new",
        differentiable=("reward",),
        extreme=("reward",),
        masks={"mask": ("reward",)},
    ),
    Case(
        insertion_place,
        lambda rows: {
            "ranked_reward": normal(ROWS, COUNT, seed=1)[:rows],
            "new_reward": normal(ROWS, seed=2)[:rows],
            "mask": MASK[:rows],
        },
        extreme=("ranked_reward", "new_reward"),
        masks={"mask": ("ranked_reward",)},
    ),
    Case(draft, rewards, differentiable=("reward",), extreme=("reward",)),
    Case(draft_lv, groups, differentiable=("reward",), extreme=("reward",), exchangeable="K"),
    Case(
        draft_lv,
        lambda rows: groups(rows, mask=MASK),
        name="mask",
        differentiable=("reward",),
        extreme=("reward",),
        exchangeable="K",
        masks={"mask": ("reward",)},
    ),
    Case(
        log_sigmoid_reward_loss,
        lambda rows: rewards(rows, target=0.5),
        differentiable=("reward",),
        extreme=("reward",),
    ),
    Case(
        id_aligner,
        lambda rows: faces(rows, identity_weight=0.7, aesthetic_weight=0.4),
        differentiable=("identity", *SIDES),
        extreme=("identity", *SIDES),
        masks={"face_found": ("identity",)},
        invalid={"identity_weight": [-1.0, math.nan], "aesthetic_weight": [-1.0, math.nan]},
    ),
]


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_refl_is_the_codes_hinge():
    """ImageReward's ReFL.py: relu(-r + 2) * 1e-3 on rewards standardised with its constants."""
    raw = normal(50, seed=1, scale=3)
    r = (raw.numpy() - 0.16717) / 1.03334
    expected = np.maximum(-r + 2, 0) * 1e-3
    np.testing.assert_allclose(refl(standardised_reward(raw, mean=0.16717, sd=1.03334)), expected)
    assert (expected == 0).any()


def test_a_reward_that_is_good_enough_pushes_no_more():
    reward = number(1.9, 2.1).requires_grad_()
    refl(reward).sum().backward()
    torch.testing.assert_close(reward.grad, number(-1e-3, 0))


def test_itercomp_is_refl_summed_over_aspects():
    reward = normal(6, 3, seed=1, scale=2)
    torch.testing.assert_close(itercomp(reward), sum(refl(aspect) for aspect in reward.unbind(1)))


def test_the_readouts_slopes():
    """DRaFT pushes every reward alike, the soft hinge by σ(target - r), the hinge until the target."""
    reward = number(-3, 0, 0.5, 4).requires_grad_()
    for loss, expected in (
        (draft(reward), -torch.ones(4).double()),
        (log_sigmoid_reward_loss(reward, target=0.5), -torch.sigmoid(0.5 - reward.detach())),
        (refl(reward, target=0.7, scale=1.0), number(-1, -1, -1, 0)),
    ):
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), reward)[0], expected)


def test_draft_lv_is_the_mean_of_draft_over_the_copies_that_are_there():
    reward = normal(ROWS, COUNT, seed=1)
    expected = [draft(row[here]).mean() for row, here in zip(reward, MASK, strict=True)]
    torch.testing.assert_close(draft_lv(reward, mask=MASK), torch.stack(expected))


def test_draft_lv_has_lower_variance_than_draft():
    """One linear generator step, x = θ + σ ε, r = -x²: the gradient's variance falls with the number of copies."""
    noise = normal(2000, 8, seed=1)
    theta = torch.full((2000,), 0.5, dtype=torch.float64, requires_grad=True)
    reward = -(theta[:, None] + 0.3 * noise).square()
    (many,) = torch.autograd.grad(draft_lv(reward).sum(), theta, retain_graph=True)
    (single,) = torch.autograd.grad(draft(reward[:, 0]).sum(), theta)
    assert many.var() < single.var() / 4
    assert many.mean().item() == pytest.approx(2 * 0.5, abs=0.05)


def test_the_reward_models_loss_is_the_codes_cross_entropy():
    """train_reward_models.py: cross-entropy of [r_w, r_l] with class 0; for two images that is Bradley-Terry."""
    reward = normal(ROWS, 2, seed=1)
    expected = cross_entropy(reward, torch.zeros(ROWS, dtype=torch.long), reduction="none")
    torch.testing.assert_close(itercomp_reward_model(reward), expected)
    torch.testing.assert_close(itercomp_reward_model(reward), bradley_terry(*reward.unbind(1)))


@pytest.mark.parametrize("is_new", [None, NEW])
@pytest.mark.parametrize("mask", [None, MASK])
def test_the_reward_models_pairs(is_new, mask):
    """All pairs in the order of the ranking (15 for six images), later only those with a new image."""
    reward = normal(ROWS, COUNT, seed=1)
    expected = []
    for row in range(ROWS):
        losses = [
            bradley_terry(reward[row, i, None], reward[row, j, None]).item()
            for i in range(COUNT)
            for j in range(i + 1, COUNT)
            if (mask is None or (mask[row, i] and mask[row, j]))
            and (is_new is None or is_new[row, i] or is_new[row, j])
        ]
        expected.append(np.mean(losses) if losses else 0.0)
    np.testing.assert_allclose(itercomp_reward_model(reward, is_new=is_new, mask=mask), expected)


def test_six_images_make_fifteen_pairs():
    """At equal rewards each pair has slope 1/2: the best of six is ahead in 5 of 15 pairs, the worst in none."""
    reward = torch.zeros(1, 6).double().requires_grad_()
    (slope,) = torch.autograd.grad(itercomp_reward_model(reward).sum(), reward)
    torch.testing.assert_close(slope[0], number(-5, -3, -1, 1, 3, 5) / 2 / 15)


def walk(rewards, new):
    """The repository's walk, over all places: up from the last, while the new reward is larger."""
    place = len(rewards)
    while place > 0 and new > rewards[place - 1]:
        place -= 1
    return place


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=50)
def test_a_new_image_enters_below_the_first_that_beats_it_from_below(ranked, new):
    place = insertion_place(number(*ranked)[None], number(new)).item()
    assert place == walk(ranked, new)


def test_the_champion_is_compared_too():
    """The released script stops before place 0 and would put 2.5 first here."""
    assert insertion_place(number(3, 2, 1)[None], number(2.5)).item() == 1
    assert insertion_place(number(3, 2, 1)[None], number(3.5)).item() == 0


def test_similarity_is_torchs_and_does_not_see_lengths():
    a, b = normal(ROWS, 3, seed=1), normal(ROWS, 3, seed=2)
    torch.testing.assert_close(cosine_reward(a, b, scale=100.0), 100 * cosine_similarity(a, b))
    torch.testing.assert_close(cosine_reward(7 * a, 0.1 * b), cosine_reward(a, b))
    assert (cosine_reward(0 * a, b) == 0).all()


def test_the_mean_identity_is_over_the_pictures_with_a_face():
    embedding = normal(ROWS, COUNT, 3, seed=1)
    expected = [faces[here].mean(0) for faces, here in zip(embedding, MASK, strict=True)]
    torch.testing.assert_close(mean_identity(embedding, mask=MASK), torch.stack(expected))
    hidden = torch.where(MASK[..., None], embedding, math.nan).requires_grad_()
    mean = mean_identity(hidden, mask=MASK)
    torch.testing.assert_close(mean, torch.stack(expected))
    mean.sum().backward()
    torch.testing.assert_close(hidden.grad[..., 0], MASK / MASK.sum(1, keepdim=True).double())
    assert (mean_identity(hidden, mask=torch.zeros_like(MASK)) == 0).all()


def test_id_aligner_is_equations_6_to_9():
    call = faces(ROWS)
    identity = 1 - call["identity"]
    aesthetic = -(call["appeal"] + call["structure"])
    expected = 0.2 * torch.where(FOUND, identity, 0) + 0.001 * aesthetic
    torch.testing.assert_close(id_aligner(**call), expected)


def test_without_a_face_only_the_picture_counts():
    call = {name: value.requires_grad_() if value.is_floating_point() else value for name, value in faces(ROWS).items()}
    id_aligner(**call).sum().backward()
    torch.testing.assert_close(call["identity"].grad, torch.where(FOUND, -0.2, 0.0).double())
    torch.testing.assert_close(call["appeal"].grad, torch.full((ROWS,), -0.001).double())


def test_the_docstrings_examples():
    assert standardised_reward(number(3), mean=1, sd=2).item() == pytest.approx(1)
    assert cosine_reward(number(1, 0)[None], number(1, 1)[None]).item() == pytest.approx(1 / math.sqrt(2))
    torch.testing.assert_close(mean_identity(torch.eye(2)[None].double()), number(0.5, 0.5)[None])
    assert refl(number(0.5), scale=1).item() == pytest.approx(1.5)
    assert itercomp(number(0.5, 3, 1)[None], scale=1).item() == pytest.approx(2.5)
    assert itercomp_reward_model(number(1, 0)[None]).item() == pytest.approx(math.log(1 + math.exp(-1)))
    places = [insertion_place(number(3, 1, 2)[None], number(new)).item() for new in (1.5, 2.5, 4)]
    assert places == [3, 1, 0]
    assert draft(number(0.5)).item() == -0.5
    assert draft_lv(number(0.5, 1.5)[None]).item() == -1
    assert log_sigmoid_reward_loss(number(1)).item() == pytest.approx(math.log(1 + math.exp(-1)))
    face = (number(0.5), number(2), number(1))
    assert id_aligner(*face, torch.tensor([True])).item() == pytest.approx(0.097)
    assert id_aligner(*face, torch.tensor([False])).item() == pytest.approx(-0.003)


def test_groups_that_are_too_small_are_errors():
    with pytest.raises(ValueError, match="reward: expected groups of at least 2 outputs, got 1"):
        itercomp_reward_model(normal(3, 1))
    with pytest.raises(ValueError, match="reward: expected groups of at least 1 outputs, got 0"):
        draft_lv(normal(3, 0))
    with pytest.raises(ValueError, match="embedding: expected groups of at least 1 outputs, got 0"):
        mean_identity(normal(3, 0, 2))
