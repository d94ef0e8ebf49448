"""Advantages of outputs: what is unbiased by exact enumeration and what is not, limits, and peers' formulas in NumPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.policy_gradient.advantages import (
    batch_scaled_grpo_advantage,
    dr_grpo_advantage,
    gpg_advantage,
    grpo_advantage,
    informative_groups,
    opo_advantage,
    reinforce_advantage,
    reinforce_plus_plus_baseline_advantage,
    rloo_advantage,
)

REWARD = normal(5, 4, seed=1)
LENGTH = torch.randint(1, 9, (5, 4), generator=torch.Generator().manual_seed(2))
MASK = lengths_mask(5, 4, seed=3)


def groups(rows, **settings):
    return {"reward": REWARD[:rows], "mask": MASK[:rows], **settings}


def with_lengths(rows, **settings):
    return groups(rows, length=LENGTH[:rows], **settings)


def scalars(rows):
    return {"reward": REWARD[:rows, 0], "running_mean": torch.tensor(0.3).double(), "decay": 0.75}


def group_case(function, make=groups, **fields):
    return Case(function, make, extreme=("reward",), masks={"mask": ("reward",)}, exchangeable="K", **fields)


CASES = [
    Case(
        reinforce_advantage,
        scalars,
        extreme=("reward", "running_mean"),
        invalid={"decay": [-0.1, 1.1, math.nan]},
        batch_statistics=True,
    ),
    group_case(rloo_advantage),
    group_case(dr_grpo_advantage),
    group_case(grpo_advantage, invalid={"ddof": [2, -1], "epsilon": [-1e-6, math.nan]}),
    group_case(grpo_advantage, lambda rows: groups(rows, ddof=0, epsilon=1e-4), name="population"),
    group_case(
        batch_scaled_grpo_advantage,
        invalid={"ddof": [2], "epsilon": [-1e-6]},
        batch_statistics=True,
    ),
    group_case(
        reinforce_plus_plus_baseline_advantage,
        with_lengths,
        invalid={"ddof": [2], "epsilon": [0.0]},
        batch_statistics=True,
    ),
    group_case(opo_advantage, with_lengths),
    group_case(gpg_advantage, invalid={"scale": [0.0, -1.0]}, batch_statistics=True),
    group_case(informative_groups),
]

FROM_THE_GROUP = (rloo_advantage, dr_grpo_advantage, grpo_advantage, batch_scaled_grpo_advantage, gpg_advantage)
POLICY = torch.softmax(normal(4, seed=7), 0)
WORTH = torch.tensor([0.0, 0.2, 1.0, 3.0], dtype=torch.float64)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def expected_gradient(advantage, size, worth=WORTH):
    """The exact mean of ``1/K Σ A_i ∇ log π(y_i)`` over all groups that a softmax policy on four answers can draw."""
    draws = torch.tensor(list(itertools.product(range(len(POLICY)), repeat=size)))
    chance = POLICY[draws].prod(-1)
    scores = torch.eye(len(POLICY), dtype=torch.float64)[draws] - POLICY  # ∇ log π(y) of a softmax
    return (chance[:, None] * (advantage(worth[draws])[..., None] * scores).mean(1)).sum(0)


def true_gradient(worth=WORTH):
    """∇ E[R] of the softmax policy."""
    return POLICY * (worth - (POLICY * worth).sum())


def test_the_docstrings_examples():
    three = rows((1, 0, 2))
    torch.testing.assert_close(rloo_advantage(three), rows((0, -1.5, 1.5)))
    torch.testing.assert_close(dr_grpo_advantage(three), rows((0, -1, 1)))
    torch.testing.assert_close(grpo_advantage(three), rows((0, -1, 1)))
    torch.testing.assert_close(grpo_advantage(three, ddof=0), rows((0, -1, 1)) / math.sqrt(2 / 3))
    ahead, following = reinforce_advantage(rows(3, 5), torch.tensor(2.0), decay=0.75)
    assert ahead.tolist() == [1, 3]
    assert following.item() == 2.5
    s = math.sqrt(20 / 3)
    torch.testing.assert_close(batch_scaled_grpo_advantage(rows((0, 2), (4, 6))), rows((-1, 1), (-1, 1)) / s)
    ones = torch.ones(2, 2, dtype=torch.long)
    whitened = reinforce_plus_plus_baseline_advantage(rows((0, 2), (0, 4)), ones)
    torch.testing.assert_close(whitened, rows((-1, 1), (-2, 2)) / math.sqrt(10 / 3), rtol=1e-7, atol=0)
    torch.testing.assert_close(opo_advantage(rows((1, 0)), torch.tensor([[3, 1]])), rows((1 / 4, -3 / 4)))
    torch.testing.assert_close(gpg_advantage(rows((1, 0), (1, 1))), rows((1, -1), (0, 0)))
    assert informative_groups(rows((1, 0), (1, 1), (0, 0))).tolist() == [True, False, False]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_leave_one_out_is_unbiased(size):
    torch.testing.assert_close(expected_gradient(rloo_advantage, size), true_gradient())


@pytest.mark.parametrize("size", [2, 3, 4])
def test_dr_grpo_has_k_minus_1_of_k_of_the_gradient(size):
    torch.testing.assert_close(expected_gradient(dr_grpo_advantage, size), (size - 1) / size * true_gradient())


def test_a_running_mean_is_unbiased_whatever_it_is():
    for mean in (-3.0, 0.0, 8.0):
        baseline = torch.tensor(mean).double()
        gradient = expected_gradient(
            lambda reward, b=baseline: reinforce_advantage(reward[:, 0], b, decay=0.9).advantage[:, None], 1
        )
        torch.testing.assert_close(gradient, true_gradient())


@pytest.mark.parametrize("ddof", [0, 1])
def test_grpo_points_elsewhere_than_the_gradient(ddof):
    """Dividing by each group's own deviation turns the expected gradient: the cosine is clearly below 1."""
    gradient = expected_gradient(lambda reward: grpo_advantage(reward, ddof=ddof), 3)
    cosine = torch.cosine_similarity(gradient, true_gradient(), 0).item()
    assert 0.8 < cosine < 0.99
    other = expected_gradient(dr_grpo_advantage, 3)
    assert torch.cosine_similarity(other, true_gradient(), 0).item() == pytest.approx(1)


@pytest.mark.parametrize("correct", [0.1, 0.5, 0.8])
def test_grpo_ascends_2_arcsin_root_p_for_binary_rewards(correct):
    """E[1/K Σ A ∇ log π] = ∇p · E[ŝ] / (p (1 - p)) → ∇p / √(p (1 - p)) = ∇ 2 arcsin √p."""
    size = 2000
    wins = torch.arange(size + 1)
    reward = (torch.arange(size) < wins[:, None]).double()
    advantage = grpo_advantage(reward, ddof=0)
    right, wrong = (advantage * reward).mean(-1) / correct, (advantage * (1 - reward)).mean(-1) / (1 - correct)
    chance = torch.distributions.Binomial(size, torch.tensor(correct).double()).log_prob(wins.double()).exp()
    slope = (chance * (right - wrong)).sum().item()
    assert slope == pytest.approx(1 / math.sqrt(correct * (1 - correct)), rel=3 / size)
    h = 1e-6
    arcsin = [2 * math.asin(math.sqrt(p)) for p in (correct - h, correct + h)]
    assert slope == pytest.approx((arcsin[1] - arcsin[0]) / (2 * h), rel=2e-3)


rewards = st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=4)


@given(rewards, st.floats(-50, 50))
def test_shifting_all_rewards_changes_nothing(values, shift):
    reward = torch.tensor(values, dtype=torch.float64)
    if (reward.amax(-1) - reward.amin(-1) < 1e-3).any():
        return  # there a shift rounds the differences away
    length = torch.arange(1, 4).expand_as(reward)
    for advantage in FROM_THE_GROUP:
        torch.testing.assert_close(advantage(reward + shift), advantage(reward), rtol=1e-6, atol=1e-8)
    for advantage in (opo_advantage, reinforce_plus_plus_baseline_advantage):
        torch.testing.assert_close(advantage(reward + shift, length), advantage(reward, length), rtol=1e-6, atol=1e-8)


@given(rewards, st.floats(0.1, 10))
def test_scaling_all_rewards_scales_some_and_not_others(values, factor):
    reward = torch.tensor(values, dtype=torch.float64)
    if (reward.amax(-1) - reward.amin(-1) < 1e-3).any():
        return
    for advantage in (rloo_advantage, dr_grpo_advantage, gpg_advantage):
        torch.testing.assert_close(advantage(factor * reward), factor * advantage(reward), rtol=1e-9, atol=1e-9)
    for advantage in (grpo_advantage, batch_scaled_grpo_advantage):
        torch.testing.assert_close(advantage(factor * reward), advantage(reward), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.3, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(value, dtype):
    """The mean of equal numbers may differ from them in the last bit; a division by a deviation of 1e-17 would show it."""
    reward = torch.full((2, 7), value, dtype=dtype)
    for advantage in FROM_THE_GROUP:
        assert (advantage(reward) == 0).all(), advantage.__name__
    assert (opo_advantage(reward, torch.arange(1, 8).expand(2, 7)) == 0).all()
    assert not informative_groups(reward).any()


def test_leaving_out_groups_without_a_signal_only_rescales_the_mean():
    """Their outputs add nothing to the sum; GPG's α is the factor that the mean loses."""
    reward = rows((1, 0, 1), (1, 1, 1), (0, 1, 0), (0, 0, 0))
    kept = reward[informative_groups(reward)]
    assert len(kept) == 2
    for advantage in (rloo_advantage, dr_grpo_advantage, grpo_advantage):
        assert (advantage(reward)[[1, 3]] == 0).all()
        torch.testing.assert_close(advantage(reward)[[0, 2]], advantage(kept))
    torch.testing.assert_close(gpg_advantage(reward)[[0, 2]], 2 * dr_grpo_advantage(kept))
    torch.testing.assert_close(gpg_advantage(kept), dr_grpo_advantage(kept))
    score = normal(4, 3, seed=5)
    whole_mean = (gpg_advantage(reward) * score).mean()
    torch.testing.assert_close(whole_mean, (dr_grpo_advantage(kept) * score[[0, 2]]).mean())


def test_leave_one_out_is_k_over_k_minus_1_of_dr_grpo():
    for size in (2, 3, 4):
        reward = REWARD[:, :size]
        torch.testing.assert_close(rloo_advantage(reward), size / (size - 1) * dr_grpo_advantage(reward))


def test_both_deviations_differ_by_root_k_over_k_minus_1():
    torch.testing.assert_close(grpo_advantage(REWARD, ddof=0), math.sqrt(4 / 3) * grpo_advantage(REWARD, ddof=1))


def test_opo_is_dr_grpo_for_equal_lengths_and_has_the_least_weighted_square():
    torch.testing.assert_close(opo_advantage(REWARD, torch.full((5, 4), 3)), dr_grpo_advantage(REWARD))
    advantage = opo_advantage(REWARD, LENGTH)
    torch.testing.assert_close((LENGTH * advantage).sum(-1), torch.zeros(5).double())
    for shift in (-0.1, 0.1):
        assert ((LENGTH * (advantage + shift).square()).sum(-1) > (LENGTH * advantage.square()).sum(-1)).all()


def test_whitening_is_over_tokens():
    advantage = reinforce_plus_plus_baseline_advantage(REWARD, LENGTH)
    tokens = np.repeat(advantage.flatten().numpy(), LENGTH.flatten().numpy())
    assert tokens.mean() == pytest.approx(0, abs=1e-12)
    assert tokens.var(ddof=1) == pytest.approx(1, abs=1e-6)


def test_a_running_mean_with_growing_decay_is_the_mean_of_all_rewards():
    running = torch.tensor(0.0).double()
    for step in range(4):
        running = reinforce_advantage(REWARD[:, step], running, decay=step / (step + 1)).running_mean
    torch.testing.assert_close(running, REWARD.mean())
    torch.testing.assert_close(reinforce_advantage(REWARD[:0, 0], running, decay=0.5).running_mean, running)


def test_groups_with_one_output_left_have_no_advantage():
    mask = torch.tensor([[False, True, False, False]]).expand(5, 4)
    for advantage in FROM_THE_GROUP:
        assert (advantage(REWARD, mask) == 0).all()


@pytest.mark.parametrize("function", FROM_THE_GROUP)
def test_groups_need_two_outputs(function):
    with pytest.raises(ValueError, match="reward: expected groups of at least 2 outputs, got 1"):
        function(REWARD[:, :1])


def in_numpy(formula):
    """An advantage written out, output by output: from its reward, its group's rewards and lengths, and the others' rewards."""
    result = torch.zeros_like(REWARD)
    for b, k in MASK.nonzero().tolist():
        kept = MASK[b].numpy()
        group, tokens = REWARD[b].numpy()[kept], LENGTH[b].numpy()[kept]
        others = np.delete(REWARD[b].numpy(), [i for i in range(4) if i == k or not kept[i]])
        if len(others):
            result[b, k] = formula(REWARD[b, k].item(), group, tokens, others)
    return result


BATCH = REWARD[MASK].numpy()


@pytest.mark.parametrize(
    ("ours", "formula"),
    [
        (rloo_advantage(REWARD, MASK), lambda own, group, tokens, others: own - others.mean()),
        (dr_grpo_advantage(REWARD, MASK), lambda own, group, tokens, others: own - group.mean()),
        (
            grpo_advantage(REWARD, MASK, epsilon=1e-6),  # verl
            lambda own, group, tokens, others: (own - group.mean()) / (group.std(ddof=1) + 1e-6),
        ),
        (
            grpo_advantage(REWARD, MASK, epsilon=1e-4),  # TRL
            lambda own, group, tokens, others: (own - group.mean()) / (group.std(ddof=1) + 1e-4),
        ),
        (
            grpo_advantage(REWARD, MASK, ddof=0),
            lambda own, group, tokens, others: (own - group.mean()) / group.std(),
        ),
        (
            batch_scaled_grpo_advantage(REWARD, MASK, epsilon=1e-4),  # TRL
            lambda own, group, tokens, others: (own - group.mean()) / (BATCH.std(ddof=1) + 1e-4),
        ),
        (
            opo_advantage(REWARD, LENGTH, MASK),
            lambda own, group, tokens, others: own - (tokens * group).sum() / tokens.sum(),
        ),
    ],
    ids=["rloo", "dr_grpo", "verl", "trl", "population", "batch", "opo"],
)
def test_formulas_of_trl_and_verl_in_numpy(ours, formula):
    torch.testing.assert_close(ours, in_numpy(formula))


def test_trls_deviation_is_ours():
    from trl.trainer.utils import nanstd

    hidden = torch.where(MASK, REWARD, torch.nan)
    centred = hidden - hidden.nanmean(1, keepdim=True)
    theirs = torch.nan_to_num(centred / (nanstd(hidden, dim=1, keepdim=True) + 1e-4), nan=0.0)
    torch.testing.assert_close(grpo_advantage(REWARD, MASK, epsilon=1e-4), theirs)
    theirs = torch.nan_to_num(centred / (nanstd(hidden) + 1e-4), nan=0.0)
    torch.testing.assert_close(batch_scaled_grpo_advantage(REWARD, MASK, epsilon=1e-4), theirs)


def test_whitening_over_tokens_in_numpy():
    """verl's ``reinforce_plus_plus_baseline``: group means, then each token of the batch whitened."""
    reward, length, mask = REWARD.numpy(), LENGTH.numpy(), MASK.numpy()
    tokens, owners = [], []
    for b, k in zip(*mask.nonzero(), strict=True):
        tokens += [reward[b, k] - reward[b][mask[b]].mean()] * length[b, k]
        owners += [(b, k)] * length[b, k]
    tokens = np.array(tokens)
    whitened = (tokens - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
    advantage = reinforce_plus_plus_baseline_advantage(REWARD, LENGTH, MASK)
    for (b, k), value in zip(owners, whitened, strict=True):
        assert advantage[b, k].item() == pytest.approx(value, abs=1e-12)
    assert (advantage[~MASK] == 0).all()


def test_gpg_counts_groups_and_verl_counts_rewards_of_zero():
    """verl's α changes when 1 is added to all rewards; the paper's, which counts outputs without a gradient, does not."""
    reward = rows((1, 0), (1, 1))
    verl = reward.numel() / np.count_nonzero(reward.numpy())
    assert verl == pytest.approx(4 / 3)
    torch.testing.assert_close(gpg_advantage(reward), 4 / 2 * dr_grpo_advantage(reward))
    torch.testing.assert_close(gpg_advantage(reward + 1), gpg_advantage(reward))
