"""Clip-Cov and KL-Cov: which tokens are held back, by loops in NumPy, and what that does to their gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from objectives.contract import Case, uniform
from objectives.policy_batches import EVERY_TOKEN, MASK, agree, ours, token_batch
from plaudit.objectives.policy_gradient.clipped_ratio import ppo_clip
from plaudit.objectives.policy_gradient.covariance import clip_cov, kl_cov
from plaudit.objectives.policy_gradient.policy_gradient import trpo_surrogate


def fresh():
    return torch.Generator().manual_seed(0)


def every_candidate(rows, **settings):
    """With a share of 1 all tokens of high covariance are chosen, whatever the generator draws."""
    return token_batch(rows, generator=fresh(), share=1.0, lowest=0.2, highest=2.0, **settings)


FIELDS = {
    "differentiable": ("token_log_prob",),
    "extreme": (*EVERY_TOKEN, "advantage"),
    "masks": {"mask": (*EVERY_TOKEN, "advantage")},
    "batch_statistics": True,
}
CASES = [
    Case(
        clip_cov,
        every_candidate,
        invalid={"share": [-0.1, 1.1], "highest": [0.2, math.nan], "clip_low": [1.1], "clip_high": [-0.1]},
        **FIELDS,
    ),
    Case(
        kl_cov,
        lambda rows: token_batch(rows, share=0.3, coefficient=0.7),
        invalid={"share": [-0.1, 1.1], "coefficient": [-1.0, math.nan]},
        **FIELDS,
    ),
]


def covariance(call):
    """Centred advantage times centred log-probability of each token that counts, as a dictionary."""
    places = [tuple(place) for place in MASK.nonzero().tolist()]
    advantage = np.array([call["advantage"][place].item() for place in places])
    log_prob = np.array([call["token_log_prob"][place].item() for place in places])
    products = (advantage - advantage.mean()) * (log_prob - log_prob.mean())
    return dict(zip(places, products, strict=True))


def test_the_docstrings_examples():
    one = torch.ones(2, 1, dtype=torch.bool)
    log_prob = torch.tensor([[1 / 2], [1 / 32]], dtype=torch.float64).log()
    advantage = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)
    value, weight = clip_cov(log_prob, log_prob, advantage, one, generator=fresh(), share=1.0)
    assert value.tolist() == [0, 0]
    assert weight.tolist() == [1, 1]
    log_prob = torch.tensor([[1 / 2], [1 / 8]], dtype=torch.float64).log()
    old, advantage = log_prob - torch.tensor([[math.log(2)], [0]]), torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    value, weight = kl_cov(log_prob, old, advantage, one, share=1.0)
    assert ((value * weight).sum() / weight.sum()).item() == pytest.approx((-2 + math.log(2) + 1) / 2)


def test_clip_cov_in_numpy():
    """The official code's steps: in-between covariance, not clipped by PPO; those tokens' loss is 0, the mean is over all."""
    call = token_batch(5)
    total, held = 0.0, 0
    for (n, t), cov in covariance(call).items():
        ratio = math.exp(call["token_log_prob"][n, t].item() - call["old_token_log_prob"][n, t].item())
        advantage = call["advantage"][n, t].item()
        plain, bounded = -advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2)
        chosen = 0.2 < cov < 2.0 and not bounded > plain
        held += chosen
        total += 0 if chosen else max(plain, bounded)
    assert held >= 2
    loss = ours(clip_cov, every_candidate(5))[0].item()
    assert loss == pytest.approx(total / MASK.sum().item())


def test_chosen_tokens_lose_their_gradient_and_no_others_do():
    call = token_batch(5)
    slope = ours(clip_cov, every_candidate(5))[1]
    plain = ours(ppo_clip, call)[1]
    changed = (slope != plain).nonzero().tolist()
    assert len(changed) >= 2
    products = covariance(call)
    for n, t in changed:
        assert slope[n, t].item() == 0
        assert 0.2 < products[n, t] < 2.0


@pytest.mark.parametrize("share", [0.0, 2e-4, 0.1, 0.2])
def test_the_share_is_of_all_tokens_and_at_least_one(share):
    """The generator decides which; over draws every candidate comes up."""
    call = token_batch(5, share=share, lowest=0.2, highest=2.0)
    plain = ours(ppo_clip, token_batch(5))[1]
    all_changed = ours(clip_cov, every_candidate(5))[1] != plain
    expected = min(max(int(share * int(MASK.sum())), 1), int(all_changed.sum()))
    seen = torch.zeros_like(MASK)
    generator = fresh()
    for _ in range(60):
        changed = ours(clip_cov, call, generator=generator)[1] != plain
        assert changed.sum() == expected
        seen |= changed
    assert torch.equal(seen, all_changed)


def test_without_candidates_it_is_ppo():
    call = token_batch(5)
    agree(ours(clip_cov, call, generator=fresh(), lowest=50.0, highest=60.0), ours(ppo_clip, call))


@pytest.mark.parametrize("share", [2e-4, 0.1, 0.5, 1.0])
def test_kl_cov_in_numpy(share):
    """The official code's steps: the tokens of the greatest covariance get |log ρ| on top of the unclipped surrogate."""
    call = token_batch(5)
    products = covariance(call)
    number = max(1, int(share * len(products)))
    chosen = sorted(products, key=products.__getitem__)[-number:]
    total = 0.0
    for n, t in products:
        log_ratio = call["token_log_prob"][n, t].item() - call["old_token_log_prob"][n, t].item()
        total += -call["advantage"][n, t].item() * math.exp(log_ratio)
        total += 0.7 * abs(log_ratio) if (n, t) in chosen else 0
    loss = ours(kl_cov, call, share=share, coefficient=0.7)[0].item()
    assert loss == pytest.approx(total / len(products))


def test_kl_cov_without_a_penalty_is_the_surrogate():
    call = token_batch(5)
    agree(ours(kl_cov, call, coefficient=0.0, share=0.5), ours(trpo_surrogate, call))


def test_the_covariance_is_what_the_entropy_falls_by():
    """The paper's theorem: one step of the policy gradient changes a softmax policy's entropy by -η Cov(log π, π A)."""
    logits, advantage = uniform(5, seed=3, high=2.0), uniform(5, seed=4, low=-1.0)
    log_prob = logits.log_softmax(0)
    policy = log_prob.exp()
    advantage = advantage - (policy * advantage).sum()
    step = policy * advantage  # the exact gradient of E[A] in the logits
    h = 1e-6
    entropies = [torch.distributions.Categorical(logits=logits + sign * h * step).entropy() for sign in (1, -1)]
    slope = (entropies[0] - entropies[1]) / (2 * h)

    def mean(x):
        return (policy * x).sum()

    expected = -mean((log_prob - mean(log_prob)) * (step - mean(step)))
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)
