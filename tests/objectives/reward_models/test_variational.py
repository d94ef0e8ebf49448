"""Variational preference learning: torch's divergences and entropies, the codes' variants, and what an answer tells."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.reward_models.preference_models import soft_bradley_terry
from plaudit.objectives.reward_models.variational import (
    information_gain,
    latent_kl,
    least_entropy,
    variance_gap,
    variational_preference,
    win_rate_reward,
)

MEAN, LOG_VARIANCE = normal(5, 3, seed=1), normal(5, 3, seed=2)
PRIOR_MEAN, PRIOR_LOG_VARIANCE = normal(3, seed=3), normal(3, seed=4)
MASK = lengths_mask(5, 4)
A, B, LABEL = normal(5, 4, seed=5), normal(5, 4, seed=6), (uniform(5, 4, seed=7) < 0.5).double()
LOGIT = normal(5, 8, seed=8, scale=2.0)
AFTER = normal(5, 4, 3, seed=9)


def beliefs(rows, prior=False, **settings):
    call = {"mean": MEAN[:rows], "log_variance": LOG_VARIANCE[:rows], **settings}
    return {**call, "prior_mean": PRIOR_MEAN, "prior_log_variance": PRIOR_LOG_VARIANCE} if prior else call


def sets(rows, mask=False, beta=0.3):
    call = {"reward_a": A[:rows], "reward_b": B[:rows], "preference": LABEL[:rows], "beta": beta}
    call["divergence"] = uniform(5, seed=3)[:rows]
    return {**call, "mask": MASK[:rows]} if mask else call


PAIRS = ("reward_a", "reward_b")
CASES = [
    Case(
        latent_kl,
        beliefs,
        differentiable=("mean", "log_variance"),
        extreme=("mean",),
        exchangeable="D",
        invalid={"factor": [0.0, -1.0]},
    ),
    Case(
        latent_kl,
        lambda rows: beliefs(rows, prior=True, factor=1.0),
        name="learned prior",
        differentiable=("mean", "log_variance", "prior_mean", "prior_log_variance"),
        extreme=("mean", "prior_mean"),
        low_precision=64.0,
    ),
    Case(
        variational_preference,
        sets,
        differentiable=(*PAIRS, "divergence"),
        extreme=(*PAIRS, "divergence"),
        exchangeable="K",
        invalid={"beta": [-1.0, math.nan]},
    ),
    Case(
        variational_preference,
        lambda rows: sets(rows, mask=True),
        name="masked",
        differentiable=(*PAIRS, "divergence"),
        extreme=PAIRS,
        masks={"mask": (*PAIRS, "preference")},
        exchangeable="K",
    ),
    Case(
        win_rate_reward,
        lambda rows: {"reward": normal(5, seed=1)[:rows], "rival_reward": LOGIT[:rows]},
        differentiable=("reward", "rival_reward"),
        extreme=("reward", "rival_reward"),
        exchangeable="C",
    ),
    Case(
        information_gain,
        lambda rows: {"logit": LOGIT[:rows]},
        differentiable=("logit",),
        extreme=("logit",),
        exchangeable="M",
    ),
    Case(
        variance_gap,
        lambda rows: {"log_variance": AFTER[:rows]},
        differentiable=("log_variance",),
        extreme=("log_variance",),
        exchangeable="D",
    ),
    Case(
        least_entropy,
        lambda rows: {"log_variance": AFTER[:rows]},
        differentiable=("log_variance",),
        extreme=("log_variance",),
        exchangeable="L",
    ),
]


def test_the_docstrings_examples():
    assert latent_kl(torch.ones(1, 1), torch.zeros(1, 1)).item() == 0.5
    zero = torch.zeros(1, 2)
    loss = variational_preference(zero, zero, torch.ones(1, 2), torch.tensor([0.5]), beta=1.0)
    assert loss.item() == pytest.approx(2 * math.log(2) + 0.5)
    reward = win_rate_reward(torch.zeros(1), torch.tensor([[-math.log(3), 0.0]]))
    assert reward.item() == pytest.approx(5 / 8)
    assert information_gain(torch.tensor([[100.0, -100.0]])).item() == pytest.approx(math.log(2))
    after = torch.tensor([[[1.0], [3.0]]]).log()
    assert variance_gap(after).item() == pytest.approx(math.log(2) - math.log(3) / 2)
    assert least_entropy(after).item() == pytest.approx((1 + math.log(2 * math.pi)) / 2)


def test_torch_distributions_agree_on_the_divergence():
    belief = Independent(Normal(MEAN, (LOG_VARIANCE / 2).exp()), 1)
    standard = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    torch.testing.assert_close(latent_kl(MEAN, LOG_VARIANCE), kl_divergence(belief, standard))
    learned = Independent(Normal(PRIOR_MEAN, (PRIOR_LOG_VARIANCE / 2).exp()), 1)
    torch.testing.assert_close(latent_kl(**beliefs(5, prior=True)), kl_divergence(belief, learned))


@pytest.mark.parametrize("prior", [False, True])
def test_vpls_code_for_control_has_twice_the_divergence(prior):
    """Its latent_loss, written out, has no factor 1/2; so β = 1 there is β = 2 in the formula."""
    centre = PRIOR_MEAN if prior else torch.zeros(3)
    width = PRIOR_LOG_VARIANCE if prior else torch.zeros(3)
    shifted = LOG_VARIANCE - width
    theirs = -(1 + shifted - shifted.exp() - (MEAN - centre).pow(2) / width.exp()).sum(-1)
    torch.testing.assert_close(latent_kl(**beliefs(5, prior=prior), factor=1.0), theirs)
    torch.testing.assert_close(2 * latent_kl(**beliefs(5, prior=prior)), theirs)


def test_a_belief_that_is_the_prior_diverges_by_nothing():
    kl = latent_kl(PRIOR_MEAN[None], PRIOR_LOG_VARIANCE[None], PRIOR_MEAN, PRIOR_LOG_VARIANCE)
    assert kl.item() == 0
    assert (latent_kl(MEAN, LOG_VARIANCE) > 0).all()


def test_a_nearly_exact_belief_keeps_its_digits():
    """l = 1e-4: the divergence is l²/4, which 1 + l - e^l loses in float32."""
    kl = latent_kl(torch.zeros(1, 1), torch.full((1, 1), 1e-4))
    assert kl.item() == pytest.approx(1e-8 / 4, rel=1e-2)


def test_the_bound_is_vpls_loss():
    """reconstruction + kl_weight · latent, both summed over the batch, as the code for control has it."""
    kl = latent_kl(MEAN, LOG_VARIANCE, factor=1.0)
    ours = variational_preference(A, B, LABEL, kl, beta=0.7).sum()
    latent = -(1 + LOG_VARIANCE - MEAN.pow(2) - LOG_VARIANCE.exp()).sum()
    theirs = binary_cross_entropy((A - B).sigmoid(), LABEL, reduction="sum") + 0.7 * latent
    torch.testing.assert_close(ours, theirs)


def test_a_set_is_the_sum_of_its_comparisons():
    call = sets(5, mask=True)
    for row in range(5):
        kept = MASK[row]
        evidence = soft_bradley_terry(A[row][kept], B[row][kept], LABEL[row][kept]).sum()
        expected = evidence + 0.3 * call["divergence"][row]
        torch.testing.assert_close(variational_preference(**call)[row], expected)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_bound_is_below_the_evidence(mean, log_variance):
    """Jensen: the mean negative bound over draws of z is at least the negative log evidence, for any belief.

    One dimension and r_a - r_b = z, with the integrals over z on a grid.
    """
    grid = torch.linspace(-40, 40, 8001, dtype=torch.float64)[:, None]
    step = 80 / 8000
    prior = Normal(0.0, 1.0).log_prob(grid).exp() * step
    belief = Normal(mean, math.exp(log_variance / 2)).log_prob(grid).exp() * step
    zero = torch.zeros_like(grid)
    likelihood = variational_preference(grid, zero, torch.ones_like(grid), zero[:, 0], beta=0.0)
    evidence = -(prior[:, 0] * (-likelihood).exp()).sum().log()
    kl = latent_kl(torch.tensor([[mean]]).double(), torch.tensor([[log_variance]]).double())
    assert ((belief[:, 0] * likelihood).sum() + kl).item() >= evidence.item() - 1e-6


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(0.1, 10), st.floats(0, 3))
def test_win_rates_lie_between_0_and_1_and_keep_the_order(shift, scale, ahead):
    rivals = LOGIT[:1]
    low, high = (
        win_rate_reward(torch.tensor([r * scale + shift]).double(), rivals * scale + shift) for r in (0, ahead)
    )
    assert 0 <= low.item() <= high.item() <= 1


def test_win_rates_are_means_of_preferences_and_ignore_a_persons_offset():
    reward = normal(5, seed=1)
    expected = [sum(1 / (1 + math.exp(r - reward[i].item())) for r in LOGIT[i].tolist()) / 8 for i in range(5)]
    assert win_rate_reward(reward, LOGIT).tolist() == pytest.approx(expected)
    torch.testing.assert_close(win_rate_reward(reward + 3, LOGIT + 3), win_rate_reward(reward, LOGIT))
    among_equals = win_rate_reward(reward, reward[:, None].expand(5, 4))
    torch.testing.assert_close(among_equals, torch.full_like(reward, 0.5))


def test_information_gain_is_torchs_entropies():
    probability = LOGIT.sigmoid()
    expected = Bernoulli(probability.mean(-1)).entropy() - Bernoulli(probability).entropy().mean(-1)
    torch.testing.assert_close(information_gain(LOGIT), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6))
def test_an_answer_tells_something_between_nothing_and_one_bit(logits):
    gain = information_gain(torch.tensor([logits], dtype=torch.float64)).item()
    assert -1e-12 <= gain <= math.log(2) + 1e-12


@pytest.mark.parametrize("logit", [-1e4, -2.0, 0.0, 3.0, 1e4])
def test_an_answer_tells_nothing_where_taste_makes_no_difference(logit):
    assert information_gain(torch.full((1, 7), logit)).item() == pytest.approx(0, abs=1e-6)


def test_the_codes_score_is_its_formula_and_a_jensen_gap_in_one_dimension():
    variance = AFTER.exp()
    term1 = torch.log(2 * math.pi * variance.sum(-1).mean(-1))
    term2 = torch.log(2 * math.pi * variance).sum(-1).mean(-1)
    torch.testing.assert_close(variance_gap(AFTER), term1 - term2)
    one = variance_gap(AFTER[..., :1])
    assert (one >= 0).all()
    same = variance_gap(AFTER[:, :1, :1].expand(5, 4, 1))
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)


def test_the_codes_score_is_no_information_in_more_dimensions():
    """Beliefs that no answer changes get any score: here minus 2 log 2π + log 3, for three unit variances."""
    score = variance_gap(torch.zeros(1, 4, 3))
    assert score.item() == pytest.approx(math.log(3) - 2 * math.log(2 * math.pi))
    assert score.item() < 0


def test_least_entropy_is_torchs():
    entropy = Independent(Normal(torch.zeros_like(AFTER), (AFTER / 2).exp()), 1).entropy()
    torch.testing.assert_close(least_entropy(AFTER), entropy.amin(-1))
