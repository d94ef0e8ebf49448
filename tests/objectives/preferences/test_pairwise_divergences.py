"""Links of f-divergences: derivatives of the divergences they are named for, limits, and TRL's losses with them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.trl_peer import summed_log_ratios, token_pairs, trl_dpo_each
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise import exo, hinge
from plaudit.objectives.preferences.pairwise_divergences import (
    alpha_link,
    chi_po,
    chi_squared_link,
    f_dpo,
    forward_kl_link,
    jensen_shannon_link,
)


def pairs(rows, **settings):
    return {
        "log_ratio_chosen": normal(5, seed=1)[:rows],
        "log_ratio_rejected": normal(5, seed=2)[:rows],
        "beta": 0.3,
        **settings,
    }


def outputs(rows, **settings):
    return {"log_ratio": normal(5, seed=1)[:rows], **settings}


SIDES = ("log_ratio_chosen", "log_ratio_rejected")
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
CASES = [
    *(
        Case(link, outputs, differentiable=("log_ratio",), extreme=("log_ratio",))
        for link in (forward_kl_link, jensen_shannon_link, chi_squared_link)
    ),
    Case(
        alpha_link,
        lambda rows: outputs(rows, alpha=0.5),
        differentiable=("log_ratio",),
        extreme=("log_ratio",),
        invalid={"alpha": NOT_POSITIVE},
    ),
    *(
        Case(
            f_dpo,
            lambda rows, link=link: pairs(rows, link=link),
            name=name,
            differentiable=SIDES,
            extreme=SIDES,
            invalid={"beta": NOT_POSITIVE},
        )
        for name, link in {
            "forward-kl": forward_kl_link,
            "jensen-shannon": jensen_shannon_link,
            "alpha": partial(alpha_link, alpha=0.5),
            "chi-squared": chi_squared_link,
        }.items()
    ),
    Case(
        chi_po,
        lambda rows: pairs(rows, largest_reward=2.0),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "largest_reward": NOT_POSITIVE},
    ),
]

log_ratios = st.floats(-5, 5)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def logistic(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_the_docstrings_examples():
    half, two = number(-math.log(2)), number(math.log(2))
    assert forward_kl_link(two).item() == pytest.approx(0.5)
    assert forward_kl_link(half).item() == pytest.approx(-1)
    assert jensen_shannon_link(number(math.log(3))).item() == pytest.approx(math.log(1.5))
    assert alpha_link(number(math.log(4)), alpha=0.5).item() == pytest.approx(1)
    assert chi_squared_link(two).item() == pytest.approx(2 + math.log(2))
    assert f_dpo(two, half, beta=1, link=forward_kl_link).item() == pytest.approx(logistic(1.5))
    assert chi_po(two, number(0), beta=1, largest_reward=100).item() == pytest.approx(logistic(1 + math.log(2)))


GENERATORS = {
    "forward KL": (forward_kl_link, lambda t: t - 1 - torch.log(t)),
    "Jensen-Shannon": (jensen_shannon_link, lambda t: t * torch.log(t) - (t + 1) * torch.log((t + 1) / 2)),
    "alpha 0.3": (
        partial(alpha_link, alpha=0.3),
        lambda t: (t ** (1 - 0.3) - (1 - 0.3) * t - 0.3) / (0.3 * (0.3 - 1)),
    ),
    "chi-squared and KL": (chi_squared_link, lambda t: (t - 1) ** 2 / 2 + t * torch.log(t)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_link_is_the_derivative_of_its_generator(name):
    """``f'`` of the f that the divergence ``E_ref f(π / π_ref)`` is made of, as the papers' tables have it."""
    link, generator = GENERATORS[name]
    ratio = torch.linspace(0.05, 8, 40, dtype=torch.float64).requires_grad_()
    derivative = torch.autograd.grad(generator(ratio).sum(), ratio)[0]
    torch.testing.assert_close(link(ratio.detach().log()), derivative)


@pytest.mark.parametrize(
    "link", [forward_kl_link, jensen_shannon_link, chi_squared_link, partial(alpha_link, alpha=0.7)]
)
def test_links_rise(link):
    values = link(torch.linspace(-60, 60, 500, dtype=torch.float64))
    assert (values.diff() >= 0).all()


@settings(max_examples=50, deadline=None)
@given(log_ratios)
def test_alphas_limits(log_ratio):
    """Reverse KL at 0, forward KL at 1."""
    assert alpha_link(number(log_ratio), alpha=1e-9).item() == pytest.approx(log_ratio, abs=1e-6)
    assert alpha_link(number(log_ratio), alpha=1.0).item() == pytest.approx(forward_kl_link(number(log_ratio)).item())


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, st.floats(0.05, 3))
def test_the_reverse_kls_link_is_the_identity(chosen, rejected, beta):
    ours = f_dpo(number(chosen), number(rejected), beta=beta, link=lambda log_ratio: log_ratio)
    assert torch.equal(ours, dpo(number(chosen), number(rejected), beta=beta))


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, st.floats(0.05, 3))
def test_chi_po_is_f_dpo_within_the_rewards(chosen, rejected, beta):
    whole = f_dpo(number(chosen), number(rejected), beta=beta, link=chi_squared_link)
    torch.testing.assert_close(chi_po(number(chosen), number(rejected), beta=beta, largest_reward=1e4), whole)
    cut = chi_po(number(chosen), number(rejected), beta=beta, largest_reward=0.5).item()
    assert cut == pytest.approx(min(max(whole.item(), logistic(1)), logistic(-1)))


def test_the_best_policy_of_a_divergence_has_its_rewards_gaps():
    """f-DPO's claim on three outputs: solve for the best policy, and the link gives back the reward up to a constant."""
    reference, reward, beta = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([1.0, 0.2, -0.5]).double(), 0.7
    for link, generator in GENERATORS.values():
        logits = reference.log().clone().requires_grad_()
        optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-13, tolerance_change=1e-15)

        def objective(logits=logits, generator=generator):
            policy = logits.softmax(-1)
            return -(policy * reward).sum() + beta * (reference * generator(policy / reference)).sum()

        def closure(optimiser=optimiser, objective=objective):
            optimiser.zero_grad()
            loss = objective()
            loss.backward()
            return loss

        optimiser.step(closure)
        implied = beta * link(logits.detach().log_softmax(-1) - reference.log())
        torch.testing.assert_close(implied - implied.mean(), reward - reward.mean(), rtol=1e-5, atol=1e-5)


LINKS = {
    "forward_kl": forward_kl_link,
    "js_divergence": jensen_shannon_link,
    "alpha_divergence": partial(alpha_link, alpha=0.3),
}


@pytest.mark.parametrize("divergence", LINKS)
@pytest.mark.parametrize(
    ("loss_type", "ours", "smoothing"),
    [
        ("sigmoid", dpo, 0.0),
        ("hinge", hinge, 0.0),
        ("exo_pair", partial(exo, label_smoothing=0.2), 0.2),
    ],
)
def test_trl_agrees(divergence, loss_type, ours, smoothing):
    """In float32, the only type that TRL's α-divergence takes among ours; its coefficient is 1 - α."""
    policy, ref, mask = token_pairs()
    tokens = (0.3 * policy.float(), 0.3 * ref.float(), mask)
    settings = {"divergence": divergence, "divergence_coefficient": 0.7, "label_smoothing": smoothing}
    theirs = trl_dpo_each(loss_type, *tokens, beta=0.3, **settings)
    link = LINKS[divergence]
    chosen, rejected = summed_log_ratios(*tokens)
    torch.testing.assert_close(ours(link(chosen), link(rejected), beta=0.3), theirs, rtol=2e-6, atol=1e-6)
    if loss_type == "sigmoid":
        torch.testing.assert_close(f_dpo(chosen, rejected, beta=0.3, link=link), theirs, rtol=2e-6, atol=1e-6)
