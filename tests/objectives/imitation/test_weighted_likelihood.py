"""Weighted likelihoods: the formulas in loops, clipping, and the policy gradient where there is one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.imitation import negative_log_likelihood
from plaudit.objectives.imitation.weighted_likelihood import (
    outcome_weighted,
    reward_weighted,
    step_weighted,
    verifier_weighted,
)

T = 6
MASK = lengths_mask(5, T, seed=0)
TOKENS = uniform(5, T, seed=1, low=0.01).log()
REWARDS = normal(5, seed=2)
STEPS = normal(5, T, seed=3)
HIDES = {"mask": ("token_log_prob",)}


def weighted(rows, name, **call):
    return {"token_log_prob": TOKENS[:rows], name: REWARDS[:rows], "mask": MASK[:rows], **call}


CASES = [
    *(
        Case(
            reward_weighted,
            lambda rows, how=how: weighted(rows, "advantage", temperature=0.7, aggregation=how),
            name=str(how),
            differentiable=("token_log_prob",),
            extreme=("token_log_prob", "advantage"),
            masks=HIDES,
            exchangeable="T",
            invalid={
                "temperature": [0.0, -1.0, math.nan],
                "max_weight": [0.0, -1.0, math.nan],
                "aggregation": ["mean", 0.0],
            },
            low_precision=64.0,
        )
        for how in ("token-mean", "sequence-sum")
    ),
    *(
        Case(
            function,
            lambda rows, name=name: weighted(rows, name),
            differentiable=("token_log_prob",),
            extreme=("token_log_prob", name),
            masks=HIDES,
            exchangeable="T",
            invalid={"aggregation": ["mean", 0.0]},
        )
        for function, name in ((outcome_weighted, "reward"), (verifier_weighted, "verifier_score"))
    ),
    *(
        Case(
            step_weighted,
            lambda rows, discount=discount: {
                "token_log_prob": TOKENS[:rows],
                "step_reward": STEPS[:rows],
                "mask": MASK[:rows],
                "discount": discount,
            },
            name=f"discount {discount}",
            differentiable=("token_log_prob",),
            extreme=("token_log_prob", "step_reward"),
            masks={"mask": ("token_log_prob", "step_reward")},
            exchangeable="T" if discount == 1 else None,
            invalid={"discount": [-0.1, 1.1, math.nan], "aggregation": ["mean", 0.0]},
        )
        for discount in (1.0, 0.8, 0.0)
    ),
]


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_the_docstrings_examples():
    two, both = row(1 / 2, 1 / 8).log(), torch.tensor([[True, True]])
    half = row(1 / 2).log()
    one = torch.tensor([[True]])
    value, _ = reward_weighted(half, row(math.log(3))[0], one, temperature=1.0)
    assert value.item() == pytest.approx(3 * math.log(2))
    assert outcome_weighted(two, row(2)[0], both)[0].item() == pytest.approx(2 * 4 * math.log(2))
    assert verifier_weighted(two, row(0.75)[0], both)[0].item() == pytest.approx(0.75 * 4 * math.log(2))
    value, _ = step_weighted(row(1 / 2, 1 / 2).log(), row(1, 2), both, discount=0.5)
    assert value.item() == pytest.approx(2 * math.log(2))


def test_weights_are_exponential_and_clipped():
    advantage = row(-1, 0, 1, 5, 1e4)[0]
    log_prob, every = torch.full((5, 1), -1.0, dtype=torch.float64), torch.ones(5, 1, dtype=torch.bool)
    value, weight = reward_weighted(log_prob, advantage, every, temperature=0.5, max_weight=20.0)
    assert value.tolist() == pytest.approx([math.exp(-2), 1, math.exp(2), 20, 20])
    assert weight.tolist() == [1] * 5


def test_at_a_high_temperature_all_outputs_are_imitated_alike():
    value, _ = reward_weighted(TOKENS, REWARDS, MASK, temperature=1e9)
    torch.testing.assert_close(value, negative_log_likelihood(TOKENS, MASK)[0])


@pytest.mark.parametrize("function", [outcome_weighted, verifier_weighted])
def test_outcomes_expected_gradient_is_that_of_the_expected_reward(function):
    """REINFORCE, over all outputs of two binary tokens."""
    logits, reward = normal(3, 2, seed=5).requires_grad_(), row(0.3, 1.2, -0.7, 0.9)[0]
    table = logits.log_softmax(-1)
    log_prob = torch.stack(
        [torch.stack([table[0, a], table[1 + a, b]]) for a, b in itertools.product((0, 1), repeat=2)]
    )
    chance = log_prob.sum(-1).exp()
    value, _ = function(log_prob, reward, torch.ones(4, 2, dtype=torch.bool))
    estimated = torch.autograd.grad((chance.detach() * value).sum(), logits, retain_graph=True)[0]
    exact = torch.autograd.grad(-(chance * reward).sum(), logits)[0]
    torch.testing.assert_close(estimated, exact)


@pytest.mark.parametrize("discount", [1.0, 0.8, 0.0])
def test_steps_in_loops(discount):
    """t counts the steps that the mask keeps."""
    value, _ = step_weighted(TOKENS, STEPS, MASK, discount=discount)
    for n in range(5):
        expected, t = 0.0, 0
        for log_prob, reward, counts in zip(TOKENS[n].tolist(), STEPS[n].tolist(), MASK[n].tolist(), strict=True):
            if counts:
                expected -= discount**t * reward * log_prob
                t += 1
        assert value[n].item() == pytest.approx(expected)


def test_the_same_reward_at_each_step_is_the_outcomes():
    everywhere = REWARDS[:, None].expand(5, T)
    for ours, theirs in zip(
        step_weighted(TOKENS, everywhere, MASK), outcome_weighted(TOKENS, REWARDS, MASK), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
