"""Users' reactions: rates that survive thinned-out negatives, sums of rewards, and CGPO's three losses, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from objectives.contract import Case, normal, uniform
from plaudit.objectives.preferences import dpo
from plaudit.objectives.reward_models.user_feedback import (
    calibrated_reward,
    codpo,
    crpg,
    crraft,
    reaction_cross_entropy,
    standardised_sum,
    undo_negative_sampling,
)

LOGIT, REACTED = normal(5, seed=1), torch.tensor([True, False, False, True, False])
REWARDS, BASE, WEIGHT = normal(5, 3, seed=2), normal(7, 3, seed=3), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
LOG_PROB, LOG_RATIO, REWARD = -uniform(5, 4, seed=4, high=9.0), normal(5, 4, seed=5, scale=2.0), uniform(5, 4, seed=6)
FEASIBLE = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)


def reactions(rows, **settings):
    return {"logit": LOGIT[:rows], "reacted": REACTED[:rows], **settings}


def samples(rows):
    call = {
        "log_prob": LOG_PROB[:, 0],
        "log_ratio": LOG_RATIO[:, 0],
        "reward": REWARD[:, 0],
        "feasible": FEASIBLE[:, 0],
    }
    return {name: value[:rows] for name, value in call.items()} | {"max_log_ratio": 2.5}


def ranked(rows):
    call = {"log_prob": LOG_PROB, "log_ratio": LOG_RATIO, "reward": REWARD, "feasible": FEASIBLE}
    return {name: value[:rows] for name, value in call.items()} | {"max_log_ratio": 2.5}


def constrained_pairs(rows):
    call = {"log_ratio": LOG_RATIO, "mean_log_prob": LOG_PROB / 7, "reward": REWARD, "feasible": FEASIBLE}
    return {name: value[:rows] for name, value in call.items()} | {"beta": 0.3, "likelihood_weight": 0.2}


CASES = [
    Case(
        reaction_cross_entropy,
        lambda rows: reactions(rows, kept_negatives=0.2),
        differentiable=("logit",),
        extreme=("logit",),
        invalid={"kept_negatives": [0.0, -1.0, 1.1, math.nan]},
    ),
    Case(
        undo_negative_sampling,
        lambda rows: {"logit": LOGIT[:rows], "kept_negatives": 0.2},
        differentiable=("logit",),
        extreme=("logit",),
        invalid={"kept_negatives": [0.0, -1.0, 1.1, math.nan]},
    ),
    Case(
        standardised_sum,
        lambda rows: {"reward": REWARDS[:rows], "base_reward": BASE, "weight": WEIGHT},
        differentiable=("reward",),
        extreme=("reward",),
        exchangeable="J",
        low_precision=64.0,
    ),
    Case(
        calibrated_reward,
        lambda rows: {"reward": normal(5, seed=7)[:rows], "baseline_reward": normal(5, seed=8)[:rows]},
        differentiable=("reward", "baseline_reward"),
        extreme=("reward", "baseline_reward"),
    ),
    Case(
        crpg,
        samples,
        differentiable=("log_prob",),
        extreme=("log_prob", "log_ratio"),
        masks={"feasible": ("log_ratio", "reward")},
        batch_statistics=True,
        invalid={"max_log_ratio": [0.0, -1.0]},
        low_precision=64.0,
    ),
    Case(
        crraft,
        ranked,
        differentiable=("log_prob",),
        extreme=("log_prob", "log_ratio"),
        masks={"feasible": ("log_prob", "log_ratio", "reward")},
        exchangeable="K",
        invalid={"max_log_ratio": [0.0, -1.0]},
    ),
    Case(
        codpo,
        constrained_pairs,
        differentiable=("log_ratio", "mean_log_prob"),
        extreme=("log_ratio", "mean_log_prob"),
        exchangeable="K",
        invalid={"beta": [0.0], "likelihood_weight": [-1.0]},
    ),
]


def test_the_docstrings_examples():
    positive, negative = torch.tensor([True]), torch.tensor([False])
    best = torch.tensor([-math.log(99)], dtype=torch.float64, requires_grad=True)
    loss = reaction_cross_entropy(best, positive, kept_negatives=1 / 9)
    loss = loss + 11 * reaction_cross_entropy(best, negative, kept_negatives=1 / 9)
    loss.sum().backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-12)
    assert undo_negative_sampling(torch.zeros(1), kept_negatives=1 / 9).sigmoid().item() == pytest.approx(0.1)
    base = torch.tensor([[-1.0, 0.0], [3.0, 2.0]]) / math.sqrt(2) + torch.tensor([1.0, 1.0]) - 1 / math.sqrt(2)
    combined = standardised_sum(torch.tensor([[3.0, 1.0]]), base, torch.tensor([0.7, 0.3])).item()
    assert combined == pytest.approx(0.7)
    assert calibrated_reward(torch.tensor([math.log(3)]), torch.zeros(1)).item() == pytest.approx(3 / 4)
    log_prob, reward = torch.tensor([-2.0, -1.0]), torch.tensor([3 / 4, 1 / 4])
    losses = crpg(log_prob, torch.zeros(2), reward, torch.tensor([True, True]), max_log_ratio=1.0)
    assert losses.tolist() == pytest.approx([1 / 4 * 2, -1 / 4 * 1])
    value, weight = crraft(
        torch.tensor([[-2.0, -3.0]]),
        torch.zeros(1, 2),
        torch.tensor([[0.9, 0.6]]),
        torch.tensor([[False, True]]),
        max_log_ratio=1.0,
    )
    assert (value.item(), weight.item()) == (pytest.approx(1.8), 1)
    value, _ = codpo(
        torch.tensor([[1.0, 0.0, -1.0]]),
        torch.zeros(1, 3),
        torch.tensor([[2.0, 3.0, 1.0]]),
        torch.tensor([[True, False, True]]),
        beta=1.0,
        likelihood_weight=0.0,
    )
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1)))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.5), st.floats(0.01, 1))
def test_the_rate_of_reactions_is_found_among_all_turns(rate, kept):
    """Per reaction there are kept · (1 - rate) / rate turns without one; both ways of correction find the true log-odds."""
    positive, negative = torch.tensor([True]), torch.tensor([False])
    negatives = kept * (1 - rate) / rate
    truth = math.log(rate / (1 - rate))
    corrected = torch.tensor([truth], dtype=torch.float64, requires_grad=True)
    plain = torch.tensor([-math.log(negatives)], dtype=torch.float64, requires_grad=True)
    for logit, share in ((corrected, kept), (plain, 1.0)):
        loss = reaction_cross_entropy(logit, positive, kept_negatives=share)
        (loss + negatives * reaction_cross_entropy(logit, negative, kept_negatives=share)).sum().backward()
        assert logit.grad.item() == pytest.approx(0, abs=1e-9)
    assert undo_negative_sampling(plain, kept_negatives=kept).item() == pytest.approx(truth)


def test_with_all_turns_kept_it_is_cross_entropy():
    theirs = binary_cross_entropy_with_logits(LOGIT, REACTED.double(), reduction="none")
    torch.testing.assert_close(reaction_cross_entropy(LOGIT, REACTED), theirs)
    shifted = binary_cross_entropy_with_logits(LOGIT - math.log(0.2), REACTED.double(), reduction="none")
    torch.testing.assert_close(reaction_cross_entropy(LOGIT, REACTED, kept_negatives=0.2), shifted)


def test_the_correction_keeps_the_area_under_the_curve():
    score = uniform(200, seed=9)
    reacted = uniform(200, seed=10) < score
    corrected = undo_negative_sampling(score, kept_negatives=0.1)
    assert roc_auc_score(reacted, corrected) == pytest.approx(roc_auc_score(reacted, score))


def test_standardised_rewards_have_mean_zero_and_unit_spread_on_the_base_policy():
    for j in range(3):
        alone = standardised_sum(BASE, BASE, torch.eye(3).double()[j])
        assert alone.mean().item() == pytest.approx(0, abs=1e-12)
        assert alone.std().item() == pytest.approx(1)


def test_a_rewards_unit_and_offset_do_not_matter():
    scale, shift = torch.tensor([3.0, 0.1, 20.0]).double(), torch.tensor([1.0, -5.0, 0.0]).double()
    moved = standardised_sum(REWARDS * scale + shift, BASE * scale + shift, WEIGHT)
    torch.testing.assert_close(moved, standardised_sum(REWARDS, BASE, WEIGHT))
    expected = ((REWARDS - BASE.mean(0)) / BASE.std(0)) @ WEIGHT
    torch.testing.assert_close(standardised_sum(REWARDS, BASE, WEIGHT), expected)


def test_a_reward_that_never_varies_is_centred():
    base = torch.tensor([[2.0], [2.0]])
    assert standardised_sum(torch.tensor([[5.0]]), base, torch.ones(1)).item() == 3
    with pytest.raises(ValueError, match="base_reward: expected groups of at least 2 outputs, got 1"):
        standardised_sum(torch.tensor([[5.0]]), base[:1], torch.ones(1))


def test_calibrated_rewards_are_preferences_over_the_baseline():
    a, b = normal(5, seed=7), normal(5, seed=8)
    torch.testing.assert_close(calibrated_reward(a, b) + calibrated_reward(b, a), torch.ones_like(a))
    torch.testing.assert_close(calibrated_reward(a, b).log(), logsigmoid(a - b))


def test_crpg_is_the_trainers_loop():
    """TRL's pull request: verdict times calibrated reward times clamp(1 - u / threshold, min=0), less the mean."""
    call = samples(5)
    earned = []
    for u, reward, feasible in zip(*(call[name].tolist() for name in ("log_ratio", "reward", "feasible")), strict=True):
        earned.append(reward * max(0.0, 1 - u / 2.5) if feasible else 0.0)
    mean = sum(earned) / 5
    expected = [-log_prob * (e - mean) for log_prob, e in zip(call["log_prob"].tolist(), earned, strict=True)]
    assert crpg(**call).tolist() == pytest.approx(expected)


def test_crpg_earns_nothing_beyond_the_leash_or_past_a_judge():
    call = samples(5) | {"log_ratio": torch.full((5,), 2.5).double()}
    assert (crpg(**call) == 0).all()
    call = samples(5) | {"feasible": torch.zeros(5, dtype=torch.bool)}
    assert (crpg(**call) == 0).all()


def test_crraft_imitates_the_best_that_is_allowed():
    value, weight = crraft(**ranked(5))
    for row in range(5):
        allowed = [k for k in range(4) if FEASIBLE[row, k] and LOG_RATIO[row, k] <= 2.5]
        assert weight[row] == bool(allowed)
        best = max(allowed, key=lambda k: REWARD[row, k].item(), default=None)
        expected = 0.0 if best is None else -(REWARD[row, best] * LOG_PROB[row, best]).item()
        assert value[row].item() == pytest.approx(expected)


def test_crraft_allows_outputs_up_to_the_leash():
    reward, always = torch.tensor([[0.9, 0.5]]), torch.tensor([[True, True]])
    value, _ = crraft(torch.tensor([[-1.0, -1.0]]), torch.tensor([[2.5, 0.0]]), reward, always, max_log_ratio=2.5)
    assert value.item() == pytest.approx(0.9)


def test_crraft_falls_back_on_a_baseline_among_the_outputs():
    """The paper's rule: the baseline's answer, at 1/2, where no sample is feasible."""
    call = {
        "log_prob": torch.tensor([[-4.0, -6.0]]),
        "log_ratio": torch.zeros(1, 2),
        "reward": torch.tensor([[0.9, 0.5]]),
        "feasible": torch.tensor([[False, True]]),
    }
    value, weight = crraft(**call, max_log_ratio=1.0)
    assert (value.item(), weight.item()) == (0.5 * 6, 1)


def test_codpo_pairs_the_best_that_passes_with_the_worst_that_does_not():
    value, weight = codpo(**constrained_pairs(5))
    for row in range(5):
        passed = [k for k in range(4) if FEASIBLE[row, k]]
        assert weight[row] == bool(passed)
        if not passed:
            assert value[row] == 0
            continue
        failed = [k for k in range(4) if not FEASIBLE[row, k]] or list(range(4))
        chosen = max(passed, key=lambda k: REWARD[row, k].item())
        rejected = min(failed, key=lambda k: REWARD[row, k].item())
        pair = dpo(LOG_RATIO[row, chosen][None], LOG_RATIO[row, rejected][None], beta=0.3).item()
        assert value[row].item() == pytest.approx(pair - 0.2 * (LOG_PROB[row, chosen] / 7).item())


def test_codpo_never_chooses_what_failed_though_rewards_are_negative():
    """The trainer's argmax over verdict times reward picks a failed output (0) before a good one at -1."""
    call = {
        "log_ratio": torch.tensor([[1.0, 5.0]]),
        "mean_log_prob": torch.zeros(1, 2),
        "reward": torch.tensor([[-1.0, -2.0]]),
        "feasible": torch.tensor([[True, False]]),
    }
    value, _ = codpo(**call, beta=1.0, likelihood_weight=0.0)
    assert value.item() == pytest.approx(math.log(1 + math.exp(4)), rel=1e-6)
