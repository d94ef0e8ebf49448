"""Shaping: the telescoping sum, the best policy that stays, and gains that add up to the final score."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.reward_terms.shaping import potential_shaping, score_gain_reward

MASK = lengths_mask(5, 6)
MASK[MASK.sum(-1) > 3, 0] = False  # an episode may begin late, too
POTENTIAL = normal(5, 6, seed=1)

examples = settings(deadline=None, max_examples=30)

CASES = [
    Case(
        potential_shaping,
        lambda rows: {"potential": POTENTIAL[:rows], "mask": MASK[:rows], "discount": 0.9},
        differentiable=("potential",),
        extreme=("potential",),
        masks={"mask": ("potential",)},
        invalid={"discount": [-0.1, 1.1, math.nan]},
    ),
    Case(
        potential_shaping,
        lambda rows: {"potential": POTENTIAL[:rows], "mask": MASK[:rows], "discount": 1.0, "terminal_potential": 2.0},
        name="terminal",
        differentiable=("potential",),
        extreme=("potential",),
        masks={"mask": ("potential",)},
    ),
    Case(
        score_gain_reward,
        lambda rows: {"score": POTENTIAL[:rows], "mask": MASK[:rows], "initial": 0.3},
        differentiable=("score",),
        extreme=("score",),
        masks={"mask": ("score",)},
    ),
]


def test_the_docstrings_examples():
    shaped = potential_shaping(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool), discount=0.5)
    assert shaped.tolist() == [[3 / 2 - 1, 0 - 3]]
    assert (shaped * torch.tensor([1, 0.5])).sum().item() == -1
    gains = score_gain_reward(torch.tensor([[0.25, 1.0, 0.5]]), torch.ones(1, 3, dtype=torch.bool))
    assert gains.tolist() == [[0.25, 0.75, -0.5]]


def episode(row):
    """A row's counted steps, as they follow one another."""
    return [POTENTIAL[row, t].item() for t in range(6) if MASK[row, t]]


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("end", [0.0, 2.0])
def test_shaping_by_loops(discount, end):
    ours = potential_shaping(POTENTIAL, MASK, discount=discount, terminal_potential=end)
    for row in range(5):
        states = [*episode(row), end]
        expected = [discount * after - before for before, after in itertools.pairwise(states)]
        np.testing.assert_allclose(ours[row][MASK[row]].numpy(), expected, rtol=1e-12)
        assert (ours[row][~MASK[row]] == 0).all()


@examples
@given(st.floats(0, 1), st.floats(-3, 3))
def test_the_discounted_sum_telescopes(discount, end):
    """Σ γ^t F_t = γ^T Φ(s_T) - Φ(s_0), whatever happens in between."""
    ours = potential_shaping(POTENTIAL, MASK, discount=discount, terminal_potential=end)
    for row in range(5):
        states = episode(row)
        total = sum(discount**t * f for t, f in enumerate(ours[row][MASK[row]].tolist()))
        assert total == pytest.approx(discount ** len(states) * end - states[0], abs=1e-9)


def best_values(transition, reward, discount):
    """Optimal Q by value iteration; the last state is the absorbing end."""
    value = np.zeros(transition.shape[0])
    for _ in range(2000):
        q = np.einsum("san,san->sa", transition, reward + discount * value)
        q[-1] = 0
        value = q.max(-1)
    return q


@examples
@given(st.integers(0, 10_000))
def test_shaping_leaves_the_best_policy_alone(seed):
    """In a random world with an end: Q' = Q - Φ, so the best action stays in every state; with another discount it does not."""
    generator = np.random.default_rng(seed)
    states, actions, discount = 5, 3, 0.8
    transition = generator.dirichlet(np.ones(states), (states, actions))
    transition[-1] = np.eye(states)[-1]
    reward = generator.normal(size=(states, actions, states))
    potential = 3 * generator.normal(size=states)
    potential[-1] = 0
    shaping = np.zeros((states, states))
    for before in range(states - 1):
        for after in range(states):
            two_steps = torch.tensor([[potential[before], potential[after]]])
            alive = torch.tensor([[True, True]])
            shaping[before, after] = potential_shaping(two_steps, alive, discount=discount)[0, 0]
    plain = best_values(transition, reward, discount)
    shaped = best_values(transition, reward + shaping[:, None], discount)
    np.testing.assert_allclose(shaped[:-1], plain[:-1] - potential[:-1, None], rtol=1e-6, atol=1e-6)
    assert (shaped.argmax(-1) == plain.argmax(-1)).all()


def test_a_bonus_that_is_no_potential_difference_changes_the_best_policy():
    """Ng's bicycle: paid for reaching a state and not charged for leaving it, one goes round in circles."""
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[1, 0, 0] = 1  # action 0 goes back and forth
    transition[0, 1, 2] = transition[1, 1, 2] = transition[2, :, 2] = 1  # action 1 ends
    reward = np.zeros((3, 2, 3))
    reward[:2, 1, 2] = 1
    potential = np.array([0.0, 1.0, 0.0])
    naive = np.tile(np.maximum(0.9 * potential[None] - potential[:, None], 0), (2, 1, 1)).transpose(1, 0, 2)
    plain = best_values(transition, reward, 0.9).argmax(-1)[:2]
    assert plain.tolist() == [1, 1]
    assert best_values(transition, reward + naive, 0.9).argmax(-1)[0] == 0


@pytest.mark.parametrize("initial", [0.0, 0.3])
def test_gains_by_loops_sum_to_the_final_score(initial):
    ours = score_gain_reward(POTENTIAL, MASK, initial=initial)
    for row in range(5):
        states = [initial, *episode(row)]
        expected = [after - before for before, after in itertools.pairwise(states)]
        np.testing.assert_allclose(ours[row][MASK[row]].numpy(), expected, rtol=1e-12, atol=1e-12)
        assert ours[row].sum().item() == pytest.approx(states[-1] - initial)


def test_gains_are_undiscounted_shaping_one_step_later():
    """With the score before each step as potential and the final score as the end's."""
    score = POTENTIAL[:1]
    everything = torch.ones(1, 6, dtype=torch.bool)
    before = torch.cat([torch.tensor([[0.3]], dtype=torch.float64), score[:, :-1]], -1)
    shaped = potential_shaping(before, everything, discount=1.0, terminal_potential=score[0, -1].item())
    torch.testing.assert_close(score_gain_reward(score, everything, initial=0.3), shaped)
