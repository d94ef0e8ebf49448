"""Rewards of segments and frames: cross-entropies, the noisy source's bounds, disagreement, and projections onto a line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn.functional import binary_cross_entropy_with_logits

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.reward_models import bradley_terry
from plaudit.objectives.values.segment_rewards import (
    goal_baseline_reward,
    preference_disagreement,
    preference_mean,
    segment_preference,
    segment_preference_with_errors,
    similarity_reward,
)

A, B = normal(6, 5, seed=1), normal(6, 7, seed=2)
MASK_A, MASK_B = lengths_mask(6, 5, seed=2), lengths_mask(6, 7, seed=3)
PREFERENCE = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.3, 0.0]).double()
DIFFERENCE = normal(6, 3, seed=3)
FRAME, GOAL, BASELINE = normal(6, 8, seed=4), normal(6, 8, seed=5), normal(6, 8, seed=6)


def segments(rows, **settings):
    return {
        "step_reward_a": A[:rows],
        "mask_a": MASK_A[:rows],
        "step_reward_b": B[:rows],
        "mask_b": MASK_B[:rows],
        "preference": PREFERENCE[:rows],
        **settings,
    }


SIDES = ("step_reward_a", "step_reward_b")
HIDES = {"mask_a": ("step_reward_a",), "mask_b": ("step_reward_b",)}
EMBEDDINGS = ("embedding", "goal", "baseline")
CASES = [
    Case(
        segment_preference,
        lambda rows: segments(rows, label_smoothing=0.1, discount=0.9),
        differentiable=(*SIDES, "preference"),
        extreme=SIDES,
        masks=HIDES,
        invalid={"label_smoothing": [-0.1, 0.5, math.nan], "discount": [0.0, 1.1, math.nan]},
    ),
    Case(
        segment_preference_with_errors,
        segments,
        differentiable=(*SIDES, "preference"),
        extreme=SIDES,
        masks=HIDES,
        invalid={"random_share": [-0.1, 1.0, math.nan], "discount": [0.0, 1.1]},
    ),
    Case(
        preference_mean,
        lambda rows: {"return_difference": DIFFERENCE[:rows]},
        differentiable=("return_difference",),
        extreme=("return_difference",),
        exchangeable="M",
    ),
    Case(
        preference_disagreement,
        lambda rows: {"return_difference": DIFFERENCE[:rows]},
        extreme=("return_difference",),
        exchangeable="M",
        invalid={"ddof": [-1]},
    ),
    Case(
        similarity_reward,
        lambda rows: {"embedding": FRAME[:rows], "goal": GOAL[:rows]},
        differentiable=("embedding", "goal"),
        extreme=("embedding",),
        exchangeable="D",
    ),
    Case(
        goal_baseline_reward,
        lambda rows: {
            "embedding": FRAME[:rows],
            "goal": GOAL[:rows],
            "baseline": BASELINE[:rows],
            "regularisation": 0.5,
        },
        differentiable=EMBEDDINGS,
        extreme=("embedding",),
        exchangeable="D",
        invalid={"regularisation": [-0.1, 1.1, math.nan]},
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def yes(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def differences(discount: float = 1.0) -> np.ndarray:
    """The difference of the segments' returns, by loops."""
    result = []
    for i in range(6):
        sides = []
        for reward, mask in ((A, MASK_A), (B, MASK_B)):
            sides.append(sum(discount**t * r for t, r in enumerate(reward[i][mask[i]].tolist())))
        result.append(sides[0] - sides[1])
    return np.array(result)


def with_errors(d: float, preference: float, share: float) -> float:
    loss = segment_preference_with_errors(row(d), yes(1), row(0), yes(1), number(preference), random_share=share)
    return loss.item()


def test_the_docstrings_examples():
    assert segment_preference(row(1, 1), yes(2), row(1), yes(1), number(1)).item() == pytest.approx(
        math.log(1 + math.exp(-1))
    )
    assert with_errors(0, 1, 0.3) == pytest.approx(math.log(2))
    assert with_errors(1, 1, 0.1) == pytest.approx(-math.log(0.9 / (1 + math.exp(-1)) + 0.05))
    log3 = math.log(3)
    assert preference_mean(row(log3, -log3)).item() == pytest.approx(0.5)
    assert preference_disagreement(row(log3, -log3)).item() == pytest.approx(0.25)
    assert similarity_reward(row(3, 4), row(1, 0)).item() == pytest.approx(0.6)
    line = {"goal": row(1, 0), "baseline": row(0, 1)}
    assert goal_baseline_reward(row(0, -1), **line, regularisation=1.0).item() == pytest.approx(1)
    assert goal_baseline_reward(row(0, -1), **line, regularisation=0.0).item() == pytest.approx(0)


@pytest.mark.parametrize("discount", [0.9, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_is_cross_entropy_of_the_returns(discount, smoothing):
    ours = segment_preference(**segments(6, label_smoothing=smoothing, discount=discount))
    target = (1 - 2 * smoothing) * PREFERENCE + smoothing
    d = torch.tensor(differences(discount))
    torch.testing.assert_close(ours, binary_cross_entropy_with_logits(d, target, reduction="none"))


def test_decided_pairs_are_bradley_terry_on_returns():
    call = segments(6)
    call["preference"] = torch.ones(6).double()
    returns = [torch.where(mask, reward, 0).sum(-1) for reward, mask in ((A, MASK_A), (B, MASK_B))]
    torch.testing.assert_close(segment_preference(**call), bradley_terry(*returns))


def test_gradient_of_a_step_is_predicted_less_stated_preference():
    leaves = {name: segments(6)[name].clone().requires_grad_() for name in SIDES}
    segment_preference(**{**segments(6), **leaves}).sum().backward()
    slope = torch.tensor(1 / (1 + np.exp(-differences()))) - PREFERENCE
    torch.testing.assert_close(leaves["step_reward_a"].grad, MASK_A * slope[:, None])
    torch.testing.assert_close(leaves["step_reward_b"].grad, MASK_B * -slope[:, None])


def test_smoothing_has_its_minimum_at_finite_difference():
    share = 0.1
    best = row(math.log((1 - share) / share)).requires_grad_()
    segment_preference(best, yes(1), row(0), yes(1), number(1), label_smoothing=share).sum().backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.floats(-20, 20), st.floats(0, 1), st.floats(0, 0.9))
def test_errors_mix_the_probability(d, preference, share):
    p = (1 - share) / (1 + math.exp(-d)) + share / 2
    q = (1 - share) / (1 + math.exp(d)) + share / 2
    expected = -preference * math.log(p) - (1 - preference) * math.log(q)
    assert with_errors(d, preference, share) == pytest.approx(expected, abs=1e-9)


def test_without_errors_it_is_the_plain_loss():
    ours = segment_preference_with_errors(**segments(6, random_share=0.0))
    torch.testing.assert_close(ours, segment_preference(**segments(6)))


def test_a_wrong_label_costs_at_most_log_two_over_e():
    assert with_errors(1e4, 0, 0.1) == pytest.approx(math.log(2 / 0.1))
    sure = row(60.0).requires_grad_()
    segment_preference_with_errors(sure, yes(1), row(0), yes(1), number(0)).sum().backward()
    assert abs(sure.grad.item()) < 1e-20


@pytest.mark.parametrize("ddof", [0, 1])
def test_disagreement_is_numpys_standard_deviation(ddof):
    probability = 1 / (1 + np.exp(-DIFFERENCE.numpy()))
    ours = preference_disagreement(DIFFERENCE, ddof=ddof)
    assert ours.tolist() == pytest.approx(probability.std(-1, ddof=ddof).tolist())
    assert preference_mean(DIFFERENCE).tolist() == pytest.approx(probability.mean(-1).tolist())


def test_members_of_one_mind_do_not_disagree():
    assert preference_disagreement(torch.full((2, 4), 1.3)).tolist() == pytest.approx([0, 0], abs=1e-7)


def test_too_few_members():
    with pytest.raises(ValueError, match="return_difference: expected at least 2 members, got 1"):
        preference_disagreement(torch.zeros(2, 1), ddof=1)
    with pytest.raises(ValueError, match="return_difference: expected at least 1 member, got 0"):
        preference_mean(torch.zeros(2, 0))


def test_similarity_is_sklearns_cosine():
    expected = np.diag(cosine_similarity(FRAME.numpy(), GOAL.numpy()))
    assert similarity_reward(FRAME, GOAL).tolist() == pytest.approx(expected.tolist())


def test_one_goal_serves_all_frames():
    repeated = GOAL[:1].expand(6, -1)
    torch.testing.assert_close(similarity_reward(FRAME, GOAL[:1]), similarity_reward(FRAME, repeated))
    ours = goal_baseline_reward(FRAME, GOAL[:1], BASELINE[:1], regularisation=0.5)
    torch.testing.assert_close(
        ours, goal_baseline_reward(FRAME, repeated, BASELINE[:1].expand(6, -1), regularisation=0.5)
    )


def test_without_regularisation_it_is_the_similarity():
    """For unit vectors ``1 - |x - g|²/2 = x · g``."""
    ours = goal_baseline_reward(FRAME, GOAL, BASELINE, regularisation=0.0)
    torch.testing.assert_close(ours, similarity_reward(FRAME, GOAL))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_baseline_reward_is_the_definition_with_a_projection_onto_the_line(alpha):
    """The foot of x on the line through b and g, found by least squares."""
    ours = goal_baseline_reward(FRAME, GOAL, BASELINE, regularisation=alpha)
    for i in range(6):
        x, g, b = (part[i].numpy() / np.linalg.norm(part[i].numpy()) for part in (FRAME, GOAL, BASELINE))
        along = np.linalg.lstsq((g - b)[:, None], x - b, rcond=None)[0]
        foot = b + along[0] * (g - b)
        expected = 1 - np.linalg.norm(alpha * foot + (1 - alpha) * x - g) ** 2 / 2
        assert ours[i].item() == pytest.approx(expected)


def test_full_regularisation_ignores_what_is_across_the_line():
    g, b = row(1, 0, 0), row(0, 1, 0)
    one, other = row(0.6, 0, 0.8), row(0.6, 0, -0.8)
    settings = {"goal": g, "baseline": b, "regularisation": 1.0}
    torch.testing.assert_close(goal_baseline_reward(one, **settings), goal_baseline_reward(other, **settings))


def test_a_baseline_equal_to_the_goal_leaves_no_line():
    ours = goal_baseline_reward(FRAME, GOAL, GOAL, regularisation=0.25)
    expected = 1 - 0.75**2 * (1 - similarity_reward(FRAME, GOAL))
    torch.testing.assert_close(ours, expected)
    frame = FRAME.clone().requires_grad_()
    goal_baseline_reward(frame, GOAL, GOAL, regularisation=0.25).sum().backward()
    assert frame.grad.isfinite().all()
