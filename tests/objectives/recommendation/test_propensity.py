"""Propensities and corrected estimates: exact expectations, invariances, and the official code's numbers."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import dcg_score

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.recommendation.propensity import (
    click_rate_propensity,
    doubly_robust,
    expomf_exposure,
    exposure_prior,
    inverse_propensity_weight,
    ips,
    off_policy_weight,
    popularity_propensity,
    snips,
)

CLICKED = torch.tensor([True, False, True, False, False])
OBSERVED = uniform(5, 4, seed=1) < 0.6
THETA = uniform(5, 4, seed=2, low=0.1)
VALUE, WEIGHT = normal(5, 4, seed=3), uniform(5, 4, seed=4, low=0.2, high=3)
GUESS, TARGET = normal(5, 4, seed=5), normal(5, 4, seed=6)
MASK = lengths_mask(5, 4, seed=7)


def counts(rows):
    return {"clicks": torch.tensor([4.0, 0.0, 9.0, 1.0, 25.0], dtype=torch.float64)[:rows]}


def estimate(rows, *names, **more):
    tensors = {"value": VALUE, "weight": WEIGHT, "predicted": GUESS, "predicted_target": TARGET, "mask": MASK}
    return {name: tensors[name][:rows] for name in names} | more


quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
OUT_OF_RANGE = {"exponent": [-0.1, math.nan], "floor": [0.0, 1.5, math.nan]}
DR = ("value", "weight", "predicted", "predicted_target")
CASES = [
    Case(popularity_propensity, counts, invalid=OUT_OF_RANGE, batch_statistics=True),
    Case(
        click_rate_propensity,
        lambda rows: counts(rows) | {"shown": torch.tensor([5.0, 3.0, 10.0, 0.0, 30.0], dtype=torch.float64)[:rows]},
        invalid=OUT_OF_RANGE,
    ),
    Case(
        expomf_exposure,
        lambda rows: {
            "score": normal(5, seed=1)[:rows],
            "clicked": CLICKED[:rows],
            "prior": uniform(5, seed=2, low=0.1, high=0.9)[:rows],
            "precision": 3.0,
        },
        extreme=("score",),
        invalid={"precision": [0.0, -1.0, math.nan]},
    ),
    Case(
        exposure_prior,
        lambda rows: {
            "exposure": uniform(5, 4, seed=1)[:rows],
            "mask": MASK[:rows],
            "prior_exposed": 2.0,
            "prior_hidden": 3.0,
        },
        differentiable=("exposure",),
        masks={"mask": ("exposure",)},
        exchangeable="K",
        invalid={"prior_exposed": [0.5, math.nan], "prior_hidden": [0.5]},
    ),
    Case(
        inverse_propensity_weight,
        lambda rows: {"observed": OBSERVED[:rows], "propensity": THETA[:rows], "clip": 0.2},
        exchangeable="K",
        invalid={"clip": [-0.1, 1.1, math.nan]},
    ),
    Case(
        off_policy_weight,
        lambda rows: {"log_prob": VALUE[:rows], "old_log_prob": GUESS[:rows], "cap": 2.0},
        differentiable=("log_prob",),
        extreme=("log_prob", "old_log_prob"),
        exchangeable="K",
        invalid={"cap": [0.0, -1.0, math.inf]},
        low_precision=64.0,  # an exponential of rounded log-probabilities
    ),
    *(
        Case(
            objective,
            lambda rows, names=names, mask=mask: estimate(rows, *names, *mask),
            name="masked" if mask else "all",
            differentiable=names,
            extreme=tuple(name for name in names if name != "weight"),
            masks={"mask": names} if mask else {},
            exchangeable="K",
        )
        for objective, names in ((ips, ("value", "weight")), (snips, ("value", "weight")), (doubly_robust, DR))
        for mask in ((), ("mask",))
    ),
]

shares = st.floats(0.05, 1.0)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_the_docstrings_examples():
    assert popularity_propensity(row(4, 1, 0)[0]).tolist() == pytest.approx([1, 1 / 2, 1e-6])
    assert click_rate_propensity(row(1)[0], row(4)[0]).item() == pytest.approx(1 / 2)
    prior = torch.tensor([0.5])
    even = expomf_exposure(torch.zeros(1), torch.tensor([False]), prior, precision=2 * math.pi)
    assert even.item() == pytest.approx(1 / 2)
    assert exposure_prior(row(1, 0.5)).item() == pytest.approx(3 / 4)
    seen = torch.tensor([[True, False]])
    assert inverse_propensity_weight(seen, row(0.25, 0.25)).tolist() == [[4, 0]]
    assert inverse_propensity_weight(seen, row(0.25, 0.25), clip=0.5).tolist() == [[2, 0]]
    log_probs = row(1 / 2).log(), row(1 / 8).log()
    assert off_policy_weight(*log_probs, cap=100.0).item() == pytest.approx(4)
    assert off_policy_weight(*log_probs, cap=3.0).item() == pytest.approx(3)
    assert ips(row(1, 3), row(2, 0)).item() == pytest.approx(2 / 2)
    assert snips(row(1, 3), row(2, 2)).item() == pytest.approx(2)
    assert doubly_robust(row(1), row(2), row(0.4), row(0.4)).item() == pytest.approx(0.4 + 2 * 0.6)
    assert doubly_robust(row(math.nan), row(0), row(0.4), row(0.4)).item() == pytest.approx(0.4)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_popularity_is_the_official_recipe_and_survives_items_without_clicks(exponent):
    """bincount, not np.unique: an item nobody clicked keeps its place."""
    items = torch.tensor([0, 2, 2, 2, 2, 4])
    clicks = torch.bincount(items, minlength=6).double()
    theta = popularity_propensity(clicks, exponent=exponent, floor=0.01)
    expected = [(n / 4) ** exponent if n else 0.01 for n in (1, 0, 4, 0, 1, 0)]
    assert theta.tolist() == pytest.approx(expected)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.floats(1, 100))
@quick
def test_popularity_is_known_up_to_scale(clicks, factor):
    counted = torch.tensor(clicks, dtype=torch.float64)
    theta = popularity_propensity(counted)
    torch.testing.assert_close(popularity_propensity(factor * counted), theta)
    assert ((theta > 0) & (theta <= 1)).all()
    if max(clicks):
        assert theta.max().item() == pytest.approx(1)


def test_coats_recipe():
    """np.clip(mean ** 0.5, 1e-6, 1) over users."""
    matrix = (uniform(7, 5, seed=1) < 0.4).double()
    matrix[:, 2] = 0
    expected = np.clip(matrix.mean(0).numpy() ** 0.5, 1e-6, 1.0)
    theta = click_rate_propensity(matrix.sum(0), torch.full((5,), 7.0).double())
    np.testing.assert_allclose(theta.numpy(), expected)


@given(st.floats(-3, 3), st.floats(0.01, 0.99), st.floats(0.1, 10))
@quick
def test_exposure_is_bayes_rule(score, prior, precision):
    density = math.sqrt(precision / (2 * math.pi)) * math.exp(-precision * score**2 / 2)
    expected = prior * density / (prior * density + 1 - prior)
    scores, priors = (torch.tensor([value, value], dtype=torch.float64) for value in (score, prior))
    found = expomf_exposure(scores, torch.tensor([False, True]), priors, precision=precision)
    assert found.tolist() == pytest.approx([expected, 1])


def test_the_flat_priors_update_is_the_mean_and_the_betas_mode():
    exposure = uniform(3, 5, seed=1)
    torch.testing.assert_close(exposure_prior(exposure), exposure.mean(-1))
    a, b = 3.0, 4.0
    expected = (a + exposure.sum(-1) - 1) / (a + b + 5 - 2)
    torch.testing.assert_close(exposure_prior(exposure, prior_exposed=a, prior_hidden=b), expected)
    assert exposure_prior(exposure, torch.zeros(3, 5, dtype=torch.bool)).tolist() == [0, 0, 0]


def expectations(theta, values, guess, assumed, estimator):
    """The estimator's exact mean over which entries were observed, with true and assumed propensities."""
    mean = 0.0
    for seen in product((False, True), repeat=len(values)):
        chance = math.prod(t if o else 1 - t for o, t in zip(seen, theta, strict=True))
        observed = torch.tensor([seen])
        shown = torch.where(observed, row(*values), math.nan)  # what was not observed is not known
        weight = inverse_propensity_weight(observed, row(*assumed))
        mean += chance * estimator(shown, weight, row(*guess)).item()
    return mean


triples = st.lists(st.tuples(shares, st.floats(-3, 3), st.floats(-3, 3), shares), min_size=3, max_size=3)


@quick
@given(triples)
def test_ips_and_doubly_robust_are_unbiased_where_they_should_be(entries):
    """IPS needs right propensities; doubly robust needs these, or right guesses, and has a product of errors as bias."""
    theta, values, guess, assumed = (list(column) for column in zip(*entries, strict=True))
    truth = sum(values) / 3

    def plain(value, weight, _):
        return ips(value, weight)

    def robust(value, weight, predicted):
        return doubly_robust(value, weight, predicted, predicted)

    assert expectations(theta, values, guess, theta, plain) == pytest.approx(truth, abs=1e-9)
    assert expectations(theta, values, guess, theta, robust) == pytest.approx(truth, abs=1e-9)
    assert expectations(theta, values, values, assumed, robust) == pytest.approx(truth, abs=1e-9)
    bias = sum((t / a - 1) * (v - g) for t, v, g, a in zip(theta, values, guess, assumed, strict=True)) / 3
    assert expectations(theta, values, guess, assumed, robust) - truth == pytest.approx(bias, abs=1e-9)


def test_off_policy_estimates_are_unbiased():
    """Three actions, exact enumeration over the logged one: the new policy's mean reward; doubly robust with any guess."""
    new, old, reward, guess = row(0.2, 0.5, 0.3), row(0.5, 0.1, 0.4), row(1.0, -2.0, 0.5), row(0.3, 0.1, -1.0)
    truth = (new * reward).sum().item()
    weight = off_policy_weight(new.log(), old.log(), cap=1e6)
    target = (new * guess).sum().expand(1, 3)
    for estimates in (
        torch.stack([ips(reward[:, [a]], weight[:, [a]]) for a in range(3)]),
        torch.stack([doubly_robust(reward[:, [a]], weight[:, [a]], guess[:, [a]], target[:, [a]]) for a in range(3)]),
    ):
        assert (old * estimates.T).sum().item() == pytest.approx(truth)


@quick
@given(st.floats(0.1, 10), st.floats(-5, 5), st.floats(-5, 5))
def test_snips_invariances(factor, scale, shift):
    """A factor in the weights cancels; the estimate goes along with a linear change of values; it stays among them."""
    base = snips(VALUE, WEIGHT)
    torch.testing.assert_close(snips(VALUE, factor * WEIGHT), base)
    torch.testing.assert_close(snips(scale * VALUE + shift, WEIGHT), scale * base + shift)
    assert (base >= VALUE.amin(-1) - 1e-12).all()
    assert (base <= VALUE.amax(-1) + 1e-12).all()


def test_reductions():
    ones = torch.ones_like(VALUE)
    torch.testing.assert_close(ips(VALUE, ones), VALUE.mean(-1))
    torch.testing.assert_close(snips(VALUE, ones), VALUE.mean(-1))
    torch.testing.assert_close(doubly_robust(VALUE, WEIGHT, 0 * ones, 0 * ones), ips(VALUE, WEIGHT))
    torch.testing.assert_close(doubly_robust(VALUE, 0 * ones, GUESS, TARGET), TARGET.mean(-1))
    torch.testing.assert_close(snips(VALUE, WEIGHT) * WEIGHT.mean(-1), ips(VALUE, WEIGHT))


def official_snips_dcg(labels, scores, theta, k, eps=0.01):
    """Rel-MF's metrics.py, re-written as a loop: rank 1 and 2 share a discount."""
    order = np.argsort(-scores)
    labels, theta = labels[order], np.maximum(theta[order], eps)
    total = labels[0] / theta[0]
    for i in range(1, min(k, len(labels))):
        total += labels[i] / (theta[i] * np.log2(i + 1))
    return total / np.sum(1 / theta[labels > 0])


@pytest.mark.parametrize("seed", range(3))
def test_snips_of_discounts_is_the_official_metric(seed):
    scores, theta = normal(6, seed=seed), uniform(6, seed=seed + 10, high=0.5)
    clicked = torch.tensor([True, False, True, True, False, False])
    rank = scores.argsort(descending=True).argsort() + 1
    rel_mf_discount = torch.where(rank <= 4, torch.where(rank == 1, 1, 1 / rank.clamp(min=2).double().log2()), 0)
    weight = inverse_propensity_weight(clicked[None], theta[None], clip=0.01)
    ours = snips(rel_mf_discount[None], weight).item()
    assert ours == pytest.approx(official_snips_dcg(clicked.double().numpy(), scores.numpy(), theta.numpy(), 4))
    # with equal propensities and the usual discount it is scikit-learn's DCG over the number of clicks
    usual = torch.where(rank <= 4, 1 / (rank + 1).double().log2(), 0)
    even = snips(usual[None], clicked[None].double()).item()
    expected = dcg_score(clicked[None].numpy(), scores[None].numpy(), k=4) / 3
    assert even == pytest.approx(expected)


def test_without_weights_there_is_neither_value_nor_gradient():
    weight = torch.zeros(1, 3, requires_grad=True)
    result = snips(torch.full((1, 3), math.nan), weight)
    assert result.item() == 0
    (slope,) = torch.autograd.grad(result.sum(), weight, allow_unused=True)
    assert slope is None or (slope == 0).all()


def test_ips_gradient_is_the_policy_gradient():
    """d/dθ mean(w r) = mean(w r d log π): per decision w r / K; nothing through a capped weight."""
    log_prob = GUESS.clone().requires_grad_()
    weight = off_policy_weight(log_prob, TARGET, cap=2.0)
    ips(VALUE, weight).sum().backward()
    ratio = (GUESS - TARGET).exp()
    assert (ratio > 2).any()
    torch.testing.assert_close(log_prob.grad, torch.where(ratio < 2, ratio, 0) * VALUE / 4)
