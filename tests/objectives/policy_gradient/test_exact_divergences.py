"""Divergences of whole distributions: torch's and TRL's own, limits, choices ruled out, and masked steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div

from objectives.contract import HIDDEN, Case, normal
from objectives.policy_batches import MASK
from plaudit.objectives.aggregation import aggregate
from plaudit.objectives.policy_gradient.divergences import kl_k1
from plaudit.objectives.policy_gradient.exact_divergences import forward_kl, gaussian_kl, generalised_jsd, reverse_kl

LOGITS, OTHER = normal(5, 6, 4, seed=1), normal(5, 6, 4, seed=2)


def distributions(rows, **settings):
    return {"logits": LOGITS[:rows], "ref_logits": OTHER[:rows], "mask": MASK[:rows], **settings}


def distillation(rows, **settings):
    return {"logits": LOGITS[:rows], "teacher_logits": OTHER[:rows], "mask": MASK[:rows], **settings}


def gaussians(rows):
    names = ("mean", "log_deviation", "ref_mean", "ref_log_deviation")
    return {name: normal(5, 3, seed=seed, scale=0.7)[:rows] for seed, name in enumerate(names)}


CASES = [
    *(
        Case(function, distributions, differentiable=("logits",), extreme=("logits", "ref_logits"))
        for function in (reverse_kl, forward_kl)
    ),
    *(
        Case(
            generalised_jsd,
            lambda rows, m=mixture: distillation(rows, mixture=m, temperature=1.5),
            name=f"mixture {mixture}",
            differentiable=("logits",),
            extreme=("logits", "teacher_logits"),
            invalid={"mixture": [-0.1, 1.1, math.nan], "temperature": [0.0, -1.0], "aggregation": ["mean"]},
        )
        for mixture in (0.0, 0.3, 1.0)
    ),
    Case(
        gaussian_kl,
        gaussians,
        differentiable=("mean", "log_deviation"),
        extreme=("mean", "ref_mean"),
    ),
]

ONE = torch.ones(1, 1, dtype=torch.bool)


def log(*chances):
    return torch.tensor([[chances]], dtype=torch.float64).log()


def test_the_docstrings_examples():
    sharp, even = log(3 / 4, 1 / 4), log(1 / 2, 1 / 2)
    expected = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert reverse_kl(sharp, even, ONE).item() == pytest.approx(expected)
    expected = 1 / 2 * math.log(2 / 3) + 1 / 2 * math.log(2)
    assert forward_kl(sharp, even, ONE).item() == pytest.approx(expected)
    value, _ = generalised_jsd(even, log(1, 0), ONE)
    expected = math.log(4 / 3) / 2 + (math.log(2 / 3) / 2 + math.log(2) / 2) / 2
    assert value.item() == pytest.approx(expected)
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    assert gaussian_kl(one, zero, zero, zero).item() == pytest.approx(1 / 2)
    assert gaussian_kl(zero, one, zero, zero).item() == pytest.approx((math.exp(2) - 3) / 2)


def test_torchs_kl_div():
    policy, reference = LOGITS.log_softmax(-1), OTHER.log_softmax(-1)
    expected = kl_div(reference, policy, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(reverse_kl(LOGITS, OTHER, MASK), torch.where(MASK, expected, 0))
    expected = kl_div(policy, reference, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(forward_kl(LOGITS, OTHER, MASK), torch.where(MASK, expected, 0))


def test_superhfs_prior_is_the_forward_kls_mean_over_tokens():
    """KLDivLoss(log π, log π_0) with "batchmean" over an output's positions."""
    value, _ = aggregate(forward_kl(LOGITS, OTHER, MASK), MASK, "sequence-mean")
    for n in range(5):
        policy, start = LOGITS[n][MASK[n]].log_softmax(-1), OTHER[n][MASK[n]].log_softmax(-1)
        torch.testing.assert_close(value[n], kl_div(policy, start, reduction="batchmean", log_target=True))


def test_the_estimate_k1_has_the_exact_kl_as_its_mean():
    """Every choice as the sampled one, weighed by its probability."""
    policy, reference = LOGITS[:1, :1].log_softmax(-1), OTHER[:1, :1].log_softmax(-1)
    k1 = kl_k1(policy[0], reference[0], ONE.expand(1, 4))
    torch.testing.assert_close((policy[0].exp() * k1).sum(), reverse_kl(LOGITS[:1, :1], OTHER[:1, :1], ONE)[0, 0])


@pytest.mark.parametrize("mixture", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_trls_generalized_jsd_loss(mixture, temperature):
    """Value and gradient of GKDTrainer's static method; its "batchmean" is the mean over tokens that count."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    labels = torch.where(MASK, 0, -100)
    results = []
    for peer in (False, True):
        leaf = LOGITS.clone().requires_grad_()
        if peer:
            loss = GKDTrainer.generalized_jsd_loss(leaf, OTHER, labels=labels, beta=mixture, temperature=temperature)
        else:
            value, weight = generalised_jsd(leaf, OTHER, MASK, mixture=mixture, temperature=temperature)
            loss = (value * weight).sum() / weight.sum()
        results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("mixture", "limit"), [(1e-5, forward_kl), (1 - 1e-5, reverse_kl)])
def test_the_ends_are_the_limits_divided_by_m_times_1_minus_m(mixture, limit):
    value, _ = generalised_jsd(LOGITS, OTHER, MASK, mixture=mixture, aggregation="sequence-sum")
    expected = limit(LOGITS, OTHER, MASK).sum(-1)
    torch.testing.assert_close(value / (mixture * (1 - mixture)), expected, rtol=1e-3, atol=1e-6)
    at_end, _ = generalised_jsd(LOGITS, OTHER, MASK, mixture=round(mixture), aggregation="sequence-sum")
    torch.testing.assert_close(at_end, expected)


def test_half_is_symmetric_and_at_most_log_2():
    one, _ = generalised_jsd(LOGITS, OTHER, MASK)
    other, _ = generalised_jsd(OTHER, LOGITS, MASK)
    torch.testing.assert_close(one, other)
    apart, _ = generalised_jsd(log(1, 0), log(0, 1), ONE)
    assert apart.item() == pytest.approx(math.log(2))


logits = st.lists(st.floats(-30, 30), min_size=3, max_size=3)


@given(logits, logits, st.floats(0, 1))
def test_divergences_are_never_negative_and_zero_for_the_same(a, b, mixture):
    one, other = (torch.tensor([[x]], dtype=torch.float64) for x in (a, b))
    for value in (
        reverse_kl(one, other, ONE),
        forward_kl(one, other, ONE),
        generalised_jsd(one, other, ONE, mixture=mixture)[0],
    ):
        assert value.item() >= -1e-12
    torch.testing.assert_close(reverse_kl(one, one + 3, ONE), torch.zeros(1, 1).double())


def test_choices_that_are_ruled_out():
    """p = 0 adds nothing; both ruling out the same is no difference; the reference's 0 under the policy's p is infinite."""
    without = torch.tensor([[[0.0, 1.0, -torch.inf]]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[[0.5, 0.0, 1.0]]], dtype=torch.float64)
    value = reverse_kl(without, reference, ONE)
    value.sum().backward()
    policy = without.detach()[..., :2].softmax(-1)
    expected = (policy * (policy.log() - reference.log_softmax(-1)[..., :2])).sum()
    torch.testing.assert_close(value.detach()[0, 0], expected)
    assert without.grad.isfinite().all()
    assert forward_kl(without, reference, ONE).item() == math.inf
    both = reference.masked_fill(torch.tensor([False, False, True]), -torch.inf)
    torch.testing.assert_close(
        forward_kl(without, both, ONE), forward_kl(without[..., :2], both[..., :2], ONE), rtol=1e-12, atol=0
    )
    without.grad = None
    value, _ = generalised_jsd(without, both, ONE)
    value.sum().backward()
    assert without.grad.isfinite().all()
    torch.testing.assert_close(value, generalised_jsd(without[..., :2], both[..., :2], ONE)[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_masked_steps_have_no_influence(hidden):
    def loss(function, filler):
        ours, theirs = (torch.where(MASK[..., None], x, filler) for x in (LOGITS, OTHER))
        ours.requires_grad_()
        result = function(ours, theirs, MASK)
        value = result if isinstance(result, torch.Tensor) else result[0]
        value.sum().backward()
        return value.detach(), ours.grad

    for function in (reverse_kl, forward_kl, generalised_jsd):
        for clean, dirty in zip(loss(function, 0.0), loss(function, hidden), strict=True):
            torch.testing.assert_close(clean, dirty, rtol=0, atol=0)


def test_torchs_normal_distributions():
    call = gaussians(5)
    policy = torch.distributions.Normal(call["mean"], call["log_deviation"].exp())
    reference = torch.distributions.Normal(call["ref_mean"], call["ref_log_deviation"].exp())
    expected = torch.distributions.kl_divergence(policy, reference).sum(-1)
    torch.testing.assert_close(gaussian_kl(**call), expected)
