"""Losses of preference games: they minimise to the exact updates, follow the game in expectation, and hold IPO and DPO."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal, uniform
from objectives.preferences.test_games_tabular import ROCK, antisymmetric
from objectives.preferences.test_listwise import trl_dpo
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.games import egpo, inpo, nash_md, nash_mp, online_ipo, xpo
from plaudit.objectives.preferences.games_tabular import (
    extragradient_step,
    geometric_mixture,
    mirror_descent_step,
    nash_md_step,
    proximal_response,
    win_rates,
)

K, T = 4, 6
TOKENS = lengths_mask(5, T, seed=0)
SAMPLES = lengths_mask(5, K, seed=1)
PAIR = ("log_prob_chosen", "log_prob_rejected")
FROZEN = ("ref_log_prob_chosen", "ref_log_prob_rejected", "old_log_prob_chosen", "old_log_prob_rejected")
RATIOS = ("log_ratio_a", "log_ratio_b")


def numbers(rows, names, **call):
    return {name: normal(5, seed=seed)[:rows] for seed, name in enumerate(names)} | call


def sampled_tokens(rows, **call):
    return {
        "token_log_prob": uniform(5, T, seed=1, low=0.05)[:rows].log(),
        "ref_token_log_prob": uniform(5, T, seed=2, low=0.05)[:rows].log(),
        "preference": uniform(5, seed=3)[:rows],
        "mask": TOKENS[:rows],
        **call,
    }


def groups(rows, **call):
    names = ("log_prob", "ref_log_prob", "centre_log_prob")
    return {
        **{name: -uniform(5, K, seed=seed, high=9)[:rows] for seed, name in enumerate(names)},
        "win_rate": uniform(5, K, seed=7)[:rows],
        "mask": SAMPLES[:rows],
        "beta": 0.3,
        "eta": 2.0,
        **call,
    }


def without(call, name):
    return {key: value for key, value in call.items() if key != name}


CASES = [
    Case(
        inpo,
        lambda rows: numbers(rows, (*PAIR, *FROZEN), beta=0.2, eta=0.6),
        differentiable=PAIR,
        extreme=(*PAIR, *FROZEN),
        invalid={"beta": [0.0, -1.0, math.nan], "eta": [0.1, -1.0, math.nan, math.inf]},
    ),
    Case(
        online_ipo,
        lambda rows: numbers(rows, RATIOS, preference=uniform(5, seed=9)[:rows], beta=0.4),
        differentiable=RATIOS,
        extreme=RATIOS,
        invalid={"beta": [0.0, -1.0, math.nan]},
    ),
    Case(
        egpo,
        lambda rows: numbers(
            rows, RATIOS, win_rate_a=uniform(5, seed=8)[:rows], win_rate_b=uniform(5, seed=9)[:rows], beta=0.4
        ),
        differentiable=RATIOS,
        extreme=RATIOS,
        invalid={"beta": [0.0, -1.0, math.nan]},
    ),
    *(
        Case(
            nash_md,
            lambda rows, how=how: sampled_tokens(rows, beta=0.3, divergence=how),
            name=how,
            differentiable=("token_log_prob",),
            stops_gradients=True,
            extreme=("token_log_prob", "ref_token_log_prob"),
            masks={"mask": ("token_log_prob", "ref_token_log_prob")},
            exchangeable="T",
            invalid={"beta": [-1.0, math.nan], "divergence": ["none"]},
        )
        for how in ("sequence", "token")
    ),
    Case(
        nash_mp,
        groups,
        differentiable=("log_prob",),
        stops_gradients=True,
        extreme=("log_prob", "ref_log_prob", "centre_log_prob"),
        masks={"mask": ("log_prob", "ref_log_prob", "centre_log_prob", "win_rate")},
        exchangeable="K",
        invalid={"beta": [-1.0, math.nan], "eta": [0.0, -1.0, math.nan]},
        low_precision=64.0,
    ),
    Case(
        nash_mp,
        lambda rows: without(groups(rows), "mask"),
        name="whole groups",
        differentiable=("log_prob",),
        stops_gradients=True,
        low_precision=64.0,
    ),
    Case(
        xpo,
        lambda rows: numbers(
            rows, ("log_ratio_chosen", "log_ratio_rejected", "log_prob_explored"), beta=0.3, alpha=0.1
        ),
        differentiable=("log_ratio_chosen", "log_ratio_rejected", "log_prob_explored"),
        extreme=("log_ratio_chosen", "log_ratio_rejected", "log_prob_explored"),
        invalid={"beta": [0.0, -1.0, math.nan], "alpha": [-0.1, math.nan]},
    ),
]


def number(*values):
    return torch.tensor(values, dtype=torch.float64)


def ipo(d, beta):
    """Azar et al. 2023, arXiv 2310.12036, equation 17."""
    return (d - 1 / (2 * beta)) ** 2


def test_the_docstrings_examples():
    zero = number(0)
    assert inpo(zero, zero, zero, zero, zero, zero, beta=0.5, eta=0.5).item() == 1
    assert online_ipo(zero, zero, number(0.75), beta=0.5).item() == pytest.approx(0.25)
    assert egpo(zero, zero, number(0.7), number(0.5), beta=0.1).item() == pytest.approx(4)
    half, one = torch.tensor([[0.5]]).log(), torch.tensor([[True]])
    assert nash_md(half, half, torch.tensor([0.75]), one, beta=0.3).item() == pytest.approx(0.25 * math.log(2))
    log_prob = number(0.5, 0.5).log()[None].requires_grad_()
    same = log_prob.detach()
    loss = nash_mp(log_prob, same, same, number(0.7, 0.3)[None], beta=0.3, eta=2.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0)
    torch.testing.assert_close(log_prob.grad[0], number(-0.2, 0.2))
    assert xpo(zero, zero, number(-2), beta=0.3, alpha=0.1).item() == pytest.approx(math.log(2) - 0.2)


# --- INPO and online IPO


def test_inpo_with_equal_strengths_is_ipo_and_trls():
    """τ = η: nothing pulls to π_t, whatever its log-probabilities."""
    call = numbers(5, (*PAIR, *FROZEN), beta=0.6, eta=0.6)
    chosen = call["log_prob_chosen"] - call["ref_log_prob_chosen"]
    rejected = call["log_prob_rejected"] - call["ref_log_prob_rejected"]
    torch.testing.assert_close(inpo(**call), ipo(chosen - rejected, 0.6))
    torch.testing.assert_close(inpo(**call), trl_dpo(chosen, rejected, 0.6, loss_type="ipo"))


def minimiser(loss, size):
    """The exact minimiser of a quadratic in the log-policy, as log-probabilities; a constant is free."""
    zero = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(loss(zero), zero)[0]
    curvature = torch.autograd.functional.hessian(loss, zero.detach())
    return (-torch.linalg.pinv(curvature) @ slope).log_softmax(-1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_inpos_exact_minimiser_is_the_mirror_descent_step(seed):
    """All pairs from π_t x π_t, each label in the proportion of the preference; no win rate is used."""
    tau, eta, size = 0.2, 0.5, 6
    preference = antisymmetric(uniform(size, size, seed=seed, low=-1))
    log_old, log_mu = normal(size, seed=seed).log_softmax(-1), normal(size, seed=seed + 9).log_softmax(-1)
    first, second = (index.flatten() for index in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    share = (log_old[first] + log_old[second]).exp() * preference[first, second]  # first beats second

    def expected_loss(log_policy):
        sides = [values[index] for values in (log_policy, log_mu, log_old) for index in (first, second)]
        return 2 * (share * inpo(*sides, beta=tau, eta=eta)).sum()

    step = mirror_descent_step(log_old[None], log_mu[None], preference[None], beta=tau, eta=1 / eta)
    torch.testing.assert_close(minimiser(expected_loss, size)[None], step, rtol=0, atol=1e-6)


@given(st.floats(-20, 20), st.floats(0, 1), st.floats(0.05, 2))
@settings(max_examples=30, deadline=None)
def test_online_ipo_has_the_gradient_of_the_expectation_over_labels(d, p, beta):
    u = number(d).requires_grad_()
    online_ipo(u, number(0), number(p), beta=beta).sum().backward()
    v = number(d).requires_grad_()
    (p * ipo(v, beta) + (1 - p) * ipo(-v, beta)).sum().backward()
    assert u.grad.item() == pytest.approx(v.grad.item(), rel=1e-9, abs=1e-9)
    constant = p * (1 - p) / beta**2
    labels = p * ipo(d, beta) + (1 - p) * ipo(-d, beta)
    assert online_ipo(number(d), number(0), number(p), beta=beta).item() + constant == pytest.approx(labels)


def test_online_ipo_with_labels_is_trls():
    a, b = normal(5, seed=1), normal(5, seed=2)
    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(online_ipo(a, b, ones, beta=0.4), trl_dpo(a, b, 0.4, loss_type="ipo"))
    torch.testing.assert_close(online_ipo(b, a, 0 * ones, beta=0.4), online_ipo(a, b, ones, beta=0.4))


# --- EGPO


def full_support_loss(logits, log_mu, opponent, preference, beta):
    """The mean over all pairs of actions, each as likely."""
    wins = win_rates(opponent[None], preference[None])[0]
    size = len(logits)
    first, second = (index.flatten() for index in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    log_ratio = logits.log_softmax(-1) - log_mu
    return egpo(log_ratio[first], log_ratio[second], wins[first], wins[second], beta=beta).mean()


def test_two_sgd_steps_on_egpos_loss_are_the_extragradient_step():
    """Both gradients at θ_t, the second against the policy half a step ahead."""
    beta, eta = 0.1, 1.0
    log_mu = torch.tensor([1.0, 2, 3]).double().log().log_softmax(-1)
    theta = normal(3, seed=1).requires_grad_()
    rate = eta * beta * len(theta) / 4
    expected = extragradient_step(theta.detach()[None], log_mu[None], ROCK[None], beta=beta, eta=eta)[0]
    start = theta.detach().clone()
    optimiser = torch.optim.SGD([theta], lr=rate)
    full_support_loss(theta, log_mu, theta, ROCK, beta).backward()
    optimiser.step()
    half = theta.detach().clone()
    torch.testing.assert_close(
        half.log_softmax(-1),
        mirror_descent_step(start[None], log_mu[None], ROCK[None], beta=beta, eta=eta)[0],
    )
    with torch.no_grad():
        theta.copy_(start)
    optimiser.zero_grad()
    full_support_loss(theta, log_mu, half, ROCK, beta).backward()
    optimiser.step()
    torch.testing.assert_close(theta.detach().log_softmax(-1), expected)


def test_against_the_mixture_an_sgd_step_on_egpos_loss_is_nash_mds():
    beta, eta = 0.2, 0.7
    log_mu = torch.tensor([1.0, 2, 3]).double().log().log_softmax(-1)
    theta = normal(3, seed=1).requires_grad_()
    mixture = geometric_mixture(theta.detach()[None], log_mu[None], share=eta * beta)[0]
    full_support_loss(theta, log_mu, mixture, ROCK, beta).backward()
    moved = theta.detach() - eta * beta * 3 / 4 * theta.grad
    expected = nash_md_step(theta.detach()[None], log_mu[None], ROCK[None], beta=beta, eta=eta)[0]
    torch.testing.assert_close(moved.log_softmax(-1), expected)


def test_sampled_opponents_give_the_gradient_of_the_exact_win_rate():
    """The gradient is linear in the win rates: the mean over y'' of one oracle call each."""
    beta, opponent = 0.3, number(0.2, 0.5, 0.3)
    slopes = []
    for exact in (True, False):
        u = number(0.4, -0.1).requires_grad_()
        rates = (ROCK @ opponent)[:, None] if exact else ROCK
        weights = number(1.0) if exact else opponent
        for rate, weight in zip(rates.T, weights, strict=True):
            (weight * egpo(u[:1], u[1:], rate[:1], rate[1:2], beta=beta)).sum().backward()
        slopes.append(u.grad)
    torch.testing.assert_close(slopes[1], slopes[0])


# --- policy gradients


def test_nash_md_in_loops():
    """As the EGPO authors write the sequence's, and TRL the token's."""
    call = sampled_tokens(5)
    for how in ("sequence", "token"):
        leaf = call["token_log_prob"].clone().requires_grad_()
        values = nash_md(**{**call, "token_log_prob": leaf}, beta=0.3, divergence=how)
        values.sum().backward()
        for n in range(5):
            keep = TOKENS[n].tolist()
            lp = call["token_log_prob"][n].tolist()
            d = [a - b if m else 0.0 for a, b, m in zip(lp, call["ref_token_log_prob"][n].tolist(), keep, strict=True)]
            won = call["preference"][n].item() - 0.5
            per_token = [0.3 * (sum(d) if how == "sequence" else x) - won for x in d]
            expected = sum(w * x for w, x, m in zip(per_token, lp, keep, strict=True) if m)
            assert values[n].item() == pytest.approx(expected)
            slopes = [w if m else 0.0 for w, m in zip(per_token, keep, strict=True)]
            assert leaf.grad[n].tolist() == pytest.approx(slopes)


def test_nash_mds_expected_gradient_is_the_games():
    """Sequences of two binary tokens, all four enumerated; opponents with given win rates."""
    logits = normal(3, 2, seed=1).requires_grad_()  # first token; second after 0; second after 1
    log_mu, wins, beta = normal(3, 2, seed=2).log_softmax(-1), number(0.9, 0.3, 0.2, 0.6), 0.4
    sequences = list(itertools.product((0, 1), repeat=2))

    def tokens(table):
        return torch.stack([torch.stack([table[0, a], table[1 + a, b]]) for a, b in sequences])

    log_prob, ref_log_prob = tokens(logits.log_softmax(-1)), tokens(log_mu)
    everything = torch.ones(4, 2, dtype=torch.bool)
    pi = log_prob.sum(-1).exp()
    loss = nash_md(log_prob, ref_log_prob, wins, everything, beta=beta)
    estimated = torch.autograd.grad((pi.detach() * loss).sum(), logits, retain_graph=True)[0]
    kl = (pi * (log_prob - ref_log_prob).sum(-1)).sum()
    exact = torch.autograd.grad(beta * kl - (pi * wins).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(estimated, exact)
    by_token = nash_md(log_prob, ref_log_prob, wins, everything, beta=beta, divergence="token")
    biased = torch.autograd.grad((pi.detach() * by_token).sum(), logits)[0]
    assert (biased - exact).abs().max() > 1e-3


def expected_slope(logits, log_mu, log_centre, wins, beta, eta):
    """Nash-MP's gradient over all ordered pairs of samples."""
    leaf = logits.clone().requires_grad_()
    log_pi = leaf.log_softmax(-1)
    pairs = torch.tensor(list(itertools.product(range(len(logits)), repeat=2)))
    chance = log_pi.detach()[pairs].sum(-1).exp()
    loss = nash_mp(log_pi[pairs], log_mu[pairs], log_centre[pairs], wins[pairs], beta=beta, eta=eta)
    return torch.autograd.grad((chance * loss).sum(), leaf)[0]


def test_nash_mps_expected_gradient_is_the_proximal_problems():
    beta, eta = 0.3, 2.0
    logits, log_mu, log_centre = (normal(4, seed=seed) for seed in (1, 2, 3))
    log_mu, log_centre, wins = log_mu.log_softmax(-1), log_centre.log_softmax(-1), uniform(4, seed=4)
    leaf = logits.clone().requires_grad_()
    log_pi = leaf.log_softmax(-1)
    kept = wins - beta * (log_pi - log_mu) - (log_pi - log_centre) / eta
    exact = torch.autograd.grad(-(log_pi.exp() * kept).sum(), leaf)[0]
    torch.testing.assert_close(expected_slope(logits, log_mu, log_centre, wins, beta, eta), exact)


def test_at_the_proximal_step_nash_mp_stands_still_on_average():
    beta, eta = 0.3, 2.0
    log_mu, log_centre, opponent = (normal(3, seed=seed).log_softmax(-1) for seed in (1, 2, 3))
    best = proximal_response(log_centre[None], opponent[None], log_mu[None], ROCK[None], beta=beta, eta=eta)[0]
    wins = win_rates(opponent[None], ROCK[None])[0]
    slope = expected_slope(best, log_mu, log_centre, wins, beta, eta)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_nash_mp_in_loops():
    call = groups(5)
    leaf = call["log_prob"].clone().requires_grad_()
    values = nash_mp(**{**call, "log_prob": leaf})
    values.sum().backward()
    for b, keep in enumerate(SAMPLES):
        pi, mu, centre, wins = (
            call[name][b][keep].tolist() for name in ("log_prob", "ref_log_prob", "centre_log_prob", "win_rate")
        )
        reward = [w - 0.3 * (p - m) - (p - c) / 2.0 for w, p, m, c in zip(wins, pi, mu, centre, strict=True)]
        n = len(reward)
        advantage = [r - (sum(reward) - r) / (n - 1) if n > 1 else 0.0 for r in reward]
        assert values[b].item() == pytest.approx(-sum(a * p for a, p in zip(advantage, pi, strict=True)) / n)
        assert leaf.grad[b][keep].tolist() == pytest.approx([-a / n for a in advantage])


def test_a_baseline_needs_two_samples():
    one = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="log_prob: expected groups of at least 2 outputs, got 1"):
        nash_mp(one, one, one, one, beta=0.3, eta=1.0)


# --- XPO


def test_xpo_is_dpo_with_a_bonus():
    chosen, rejected, explored = (normal(5, seed=seed) for seed in (1, 2, 3))
    torch.testing.assert_close(xpo(chosen, rejected, explored, beta=0.3, alpha=0.0), trl_dpo(chosen, rejected, 0.3))
    loss = xpo(chosen, rejected, explored, beta=0.3, alpha=0.2)
    torch.testing.assert_close(loss, dpo(chosen, rejected, beta=0.3) + 0.2 * explored)


def test_a_step_that_forgets_the_reference_is_an_error():
    zero = number(0)
    with pytest.raises(ValueError, match=r"eta: expected at least beta = 0.5, got 0.2"):
        inpo(zero, zero, zero, zero, zero, zero, beta=0.5, eta=0.2)


@pytest.mark.parametrize("seed", [1, 2])
def test_sppos_exact_minimiser_is_multiplicative_weights(seed):
    """SPPO-hard, ``(u_w - 1/(2β))² + (u_l + 1/(2β))²`` on log-ratios to π_t: mirror descent with step 1/β and no reference.

    It pins each log-ratio where INPO pins their difference; over all labelled pairs of π_t the two agree.
    """
    beta, size = 0.5, 5
    preference, log_old = antisymmetric(uniform(size, size, seed=seed, low=-1)), normal(size, seed=seed).log_softmax(-1)
    share = log_old.exp()[:, None] * log_old.exp() * preference  # the row's action beats the column's

    def expected_loss(log_policy):
        u = log_policy - log_old
        return (share * ((u[:, None] - 0.5 / beta) ** 2 + (u + 0.5 / beta) ** 2)).sum()

    unused = torch.zeros(1, size, dtype=torch.float64)
    step = mirror_descent_step(log_old[None], unused, preference[None], beta=0.0, eta=1 / beta)
    torch.testing.assert_close(minimiser(expected_loss, size)[None], step, rtol=0, atol=1e-9)
