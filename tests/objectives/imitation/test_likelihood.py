"""Aggregation and supervised fine-tuning's loss: worked sums, and torch's and transformers' own means."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from objectives.contract import Case, lengths_mask, uniform
from plaudit.objectives import aggregate
from plaudit.objectives.imitation import negative_log_likelihood

MASK = lengths_mask(5, 6)


def demonstrations(rows, **settings):
    log_prob = uniform(5, 6, seed=1).log()
    return {"token_log_prob": log_prob[:rows], "mask": MASK[:rows], **settings}


CASES = [
    Case(
        negative_log_likelihood,
        lambda rows, how=how: demonstrations(rows, aggregation=how),
        name=str(how),
        differentiable=("token_log_prob",),
        extreme=("token_log_prob",),
        masks={"mask": ("token_log_prob",)},
        invalid={"aggregation": ["mean", 0.0]},
    )
    for how in ("token-mean", "sequence-mean", "sequence-sum", 3.0)
]


@pytest.mark.parametrize(
    ("how", "values", "weights", "loss"),
    [
        ("token-mean", [(1 + 3) / 2, 5], [2, 1], (1 + 3 + 5) / 3),
        ("sequence-mean", [(1 + 3) / 2, 5], [1, 1], ((1 + 3) / 2 + 5) / 2),
        ("sequence-sum", [1 + 3, 5], [1, 1], (1 + 3 + 5) / 2),
    ],
)
def test_the_docstrings_example(how, values, weights, loss):
    value, weight = aggregate(torch.tensor([[1.0, 3.0], [5.0, -9.0]]), torch.tensor([[True, True], [True, False]]), how)
    assert value.tolist() == values
    assert weight.tolist() == weights
    assert ((value * weight).sum() / weight.sum()).item() == pytest.approx(loss)


def test_likelihoods_example():
    log_prob = torch.tensor([[math.log(1 / 2), math.log(1 / 8)]])
    value, weight = negative_log_likelihood(log_prob, torch.tensor([[True, True]]))
    assert value.item() == pytest.approx(2 * math.log(2))
    assert weight.item() == 2


def test_token_mean_is_torchs_mean_over_the_batchs_tokens():
    """What transformers computes with labels of -100 on the masked tokens."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (3, 6), generator=generator)
    mask = torch.rand(3, 6, generator=generator) < 0.6
    log_prob = logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    value, weight = negative_log_likelihood(log_prob, mask)
    expected = cross_entropy(logits.flatten(0, 1), targets.masked_fill(~mask, -100).flatten(), ignore_index=-100)
    torch.testing.assert_close((value * weight).sum() / weight.sum(), expected)


def test_weights_carry_no_gradient():
    per_token = torch.ones(2, 3, requires_grad=True)
    for how in ("token-mean", "sequence-mean", "sequence-sum"):
        assert not aggregate(per_token, torch.ones(2, 3, dtype=torch.bool), how)[1].requires_grad
