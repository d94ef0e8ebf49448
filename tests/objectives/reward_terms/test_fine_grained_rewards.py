"""Rewards on tokens: segments put where they end, by loops, and the two penalties for leaving the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.reward_terms.fine_grained_rewards import (
    clamped_kl_penalised_reward,
    fgaif_segment_reward,
    kl_penalised_reward,
    outcome_on_last_token,
    segment_rewards_on_tokens,
)

MASK = lengths_mask(5, 6)
CLEAN, HAS_FACT = uniform(5, 4, 3, seed=1), uniform(5, 4, 3, seed=2) < 0.7
SEGMENT_REWARD = normal(5, 4, seed=3)
SEGMENT = torch.tensor(
    [[0, 0, 1, 1, 2, 3], [0, 1, 1, 2, -1, -1], [0, 0, 0, 0, 0, 0], [-1, 0, 0, 2, 2, 3], [3, 2, 1, 0, 1, 2]]
)
JUDGED = uniform(5, 4, seed=4) < 0.7
REWARD, RATIO = normal(5, 6, seed=5), normal(5, 6, seed=6)
WEIGHTS = (1.0, 2.0, 0.5)
examples = settings(deadline=None, max_examples=30)


def tokens(rows, **settings):
    return {"token_reward": REWARD[:rows], "token_log_ratio": RATIO[:rows], "mask": MASK[:rows], **settings}


CASES = [
    Case(
        fgaif_segment_reward,
        lambda rows: {"probability": CLEAN[:rows], "has_fact": HAS_FACT[:rows], "weights": WEIGHTS},
        differentiable=("probability",),
        extreme=("probability",),
        masks={"has_fact": ("probability",)},
        invalid={"weights": [(1.0, 1.0), (1.0, 1.0, math.nan)]},
    ),
    Case(
        segment_rewards_on_tokens,
        lambda rows: {"segment_reward": SEGMENT_REWARD[:rows], "segment": SEGMENT[:rows], "mask": MASK[:rows]},
        differentiable=("segment_reward",),
        extreme=("segment_reward",),
    ),
    Case(
        segment_rewards_on_tokens,
        lambda rows: {
            "segment_reward": SEGMENT_REWARD[:rows],
            "segment": SEGMENT[:rows],
            "mask": MASK[:rows],
            "judged": JUDGED[:rows],
        },
        name="judged",
        differentiable=("segment_reward",),
        extreme=("segment_reward",),
        masks={"judged": ("segment_reward",)},
    ),
    Case(
        outcome_on_last_token,
        lambda rows: {"reward": normal(5, seed=7)[:rows], "mask": MASK[:rows]},
        differentiable=("reward",),
        extreme=("reward",),
    ),
    Case(
        kl_penalised_reward,
        lambda rows: tokens(rows, beta=0.3),
        differentiable=("token_reward",),
        extreme=("token_reward", "token_log_ratio"),
        masks={"mask": ("token_reward", "token_log_ratio")},
        invalid={"beta": [-0.1, math.nan, math.inf]},
    ),
    Case(
        clamped_kl_penalised_reward,
        lambda rows: tokens(rows, beta=0.3),
        differentiable=("token_reward",),
        extreme=("token_reward", "token_log_ratio"),
        masks={"mask": ("token_reward", "token_log_ratio")},
        invalid={"beta": [-0.1, math.nan, math.inf]},
    ),
]


def test_the_docstrings_examples():
    clean = torch.tensor([[[1.0, 0.0, 0.3]]])
    reward = fgaif_segment_reward(clean, torch.tensor([[[True, True, False]]]), weights=(1.0, 2.0, 3.0))
    assert reward.item() == 1 - 2 + 0
    placed = segment_rewards_on_tokens(
        torch.tensor([[0.5, -0.5]]), torch.tensor([[0, 0, 1]]), torch.ones(1, 3, dtype=torch.bool)
    )
    assert placed.tolist() == [[0, 0.5, -0.5]]
    last = outcome_on_last_token(torch.tensor([2.0]), torch.tensor([[True, True, True, False]]))
    assert last.tolist() == [[0, 0, 2, 0]]
    there = torch.ones(1, 2, dtype=torch.bool)
    one, ratio = torch.ones(1, 2), torch.tensor([[0.5, -0.5]])
    assert kl_penalised_reward(one, ratio, there, beta=0.3)[0, 0].item() == pytest.approx(0.85)
    assert clamped_kl_penalised_reward(one, ratio, there, beta=0.1).tolist() == [[pytest.approx(0.95), 1]]


def test_typed_rewards_by_loops():
    ours = fgaif_segment_reward(CLEAN, HAS_FACT, weights=WEIGHTS)
    for i in range(5):
        for j in range(4):
            kinds = [c for c in range(3) if HAS_FACT[i, j, c]]
            expected = sum(WEIGHTS[c] * (2 * CLEAN[i, j, c].item() - 1) for c in kinds)
            assert ours[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_fine_grained_rlhfs_fixed_values_are_a_special_case():
    """+-0.3 for relevance and +-0.5 for facts: probabilities 0 or 1 with these weights."""
    for relevant in (0.0, 1.0):
        for factual in (0.0, 1.0):
            clean = torch.tensor([[[relevant, factual]]])
            ours = fgaif_segment_reward(clean, torch.ones(1, 1, 2, dtype=torch.bool), weights=(0.3, 0.5))
            assert ours.item() == pytest.approx((0.3 if relevant else -0.3) + (0.5 if factual else -0.5))


@examples
@given(st.data())
def test_placement_by_loops(data):
    """r_t = Σ_j R_j 1[t = T_j], whatever the order of the segments and wherever the mask has holes."""
    steps, segments = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    segment = data.draw(st.lists(st.integers(-1, segments - 1), min_size=steps, max_size=steps))
    mask = data.draw(st.lists(st.booleans(), min_size=steps, max_size=steps))
    judged = data.draw(st.lists(st.booleans(), min_size=segments, max_size=segments))
    reward = [float(2**j) for j in range(segments)]
    expected = [0.0] * steps
    for j in range(segments):
        places = [t for t in range(steps) if mask[t] and segment[t] == j]
        if places and judged[j]:
            expected[places[-1]] += reward[j]
    ours = segment_rewards_on_tokens(
        torch.tensor([reward]), torch.tensor([segment]), torch.tensor([mask]), torch.tensor([judged])
    )
    assert ours.tolist() == [expected]


def test_the_sum_over_tokens_is_the_sum_over_segments_that_have_a_token():
    everything = torch.ones_like(MASK)
    placed = segment_rewards_on_tokens(SEGMENT_REWARD, SEGMENT, everything).sum(-1)
    expected = [sum(SEGMENT_REWARD[i, j].item() for j in set(SEGMENT[i].tolist()) - {-1}) for i in range(5)]
    np.testing.assert_allclose(placed.numpy(), expected)


def test_a_segment_may_end_with_the_first_token():
    everything = torch.ones(1, 2, dtype=torch.bool)
    placed = segment_rewards_on_tokens(torch.ones(1, 2), torch.tensor([[0, 1]]), everything, everything)
    assert placed.tolist() == [[1, 1]]


def test_an_unknown_segment_is_an_error_where_it_counts_only():
    segment = torch.tensor([[0, 2]])
    reward = torch.ones(1, 2)
    with pytest.raises(ValueError, match="segment: expected numbers"):
        segment_rewards_on_tokens(reward, torch.tensor([[-2, 0]]), torch.tensor([[True, True]]))
    with pytest.raises(ValueError, match=r"segment: expected numbers in \[-1, 1\], one per segment"):
        segment_rewards_on_tokens(reward, segment, torch.tensor([[True, True]]))
    assert segment_rewards_on_tokens(reward, segment, torch.tensor([[True, False]])).tolist() == [[1, 0]]


def test_sequence_level_is_all_segments_at_the_last_token():
    """The ablation: the same total, without a place."""
    everything = torch.ones_like(MASK)
    dense = segment_rewards_on_tokens(SEGMENT_REWARD, SEGMENT, everything)
    sparse = outcome_on_last_token(dense.sum(-1), everything)
    torch.testing.assert_close(sparse.sum(-1), dense.sum(-1))
    assert (sparse[:, :-1] == 0).all()


def test_the_outcome_by_loops():
    reward = normal(5, seed=7)
    ours = outcome_on_last_token(reward, MASK)
    for i in range(5):
        last = max(t for t in range(6) if MASK[i, t])
        assert ours[i].tolist() == [reward[i].item() if t == last else 0 for t in range(6)]
    nobody = outcome_on_last_token(torch.tensor([math.nan]), torch.zeros(1, 3, dtype=torch.bool))
    assert nobody.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_both_penalties_by_numpy(beta):
    """FGAIF's equation: r_t = Σ_k Σ_j 1[t = T_j] w_k R_j^k - β (log π - log π_ref); AlpacaFarm's with max(0, .)."""
    segment_reward = fgaif_segment_reward(CLEAN, HAS_FACT, weights=WEIGHTS)
    dense = segment_rewards_on_tokens(segment_reward, SEGMENT, MASK)
    ours = kl_penalised_reward(dense, RATIO, MASK, beta=beta)
    clamped = clamped_kl_penalised_reward(dense, RATIO, MASK, beta=beta)
    for i in range(5):
        for t in range(6):
            expected = 0.0
            for j in range(4):
                ends = [s for s in range(6) if MASK[i, s] and SEGMENT[i, s] == j]
                if ends and ends[-1] == t:
                    expected += sum(WEIGHTS[c] * (2 * CLEAN[i, j, c].item() - 1) for c in range(3) if HAS_FACT[i, j, c])
            ratio = RATIO[i, t].item() if MASK[i, t] else 0
            assert ours[i, t].item() == pytest.approx(expected - beta * ratio, abs=1e-12)
            assert clamped[i, t].item() == pytest.approx(expected - beta * max(0, ratio), abs=1e-12)


def test_alpacafarms_strength_is_the_default():
    penalty = clamped_kl_penalised_reward(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1) == 1)
    assert penalty.item() == pytest.approx(-0.0067)


@examples
@given(st.integers(0, 1000))
def test_the_penalty_is_a_kl_divergence_and_the_clamped_one_is_more(seed):
    """By enumerating 50 actions: E[penalty] = KL, and E[max(0, .)] >= KL."""
    generator = np.random.default_rng(seed)
    policy, reference = (np.exp(x) / np.exp(x).sum() for x in 0.3 * generator.normal(size=(2, 50)))
    ratio = torch.from_numpy(np.log(policy) - np.log(reference))[None]
    nothing, there = torch.zeros_like(ratio), torch.ones_like(ratio, dtype=torch.bool)
    divergence = (policy * (np.log(policy) - np.log(reference))).sum()
    expected = -(kl_penalised_reward(nothing, ratio, there, beta=1.0)[0].numpy() * policy).sum()
    clamped = -(clamped_kl_penalised_reward(nothing, ratio, there, beta=1.0)[0].numpy() * policy).sum()
    assert expected == pytest.approx(divergence)
    assert clamped > 2 * divergence  # near the reference the positive half outweighs the difference
