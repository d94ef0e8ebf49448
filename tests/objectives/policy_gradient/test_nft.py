"""NFT: its identities with GRPO and Dr. GRPO, its gradient in closed form, its optimum, and the official code's steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.policy_batches import EVERY_TOKEN, MASK, agree, ours, token_batch
from plaudit.objectives.imitation.likelihood import negative_log_likelihood
from plaudit.objectives.policy_gradient.advantages import dr_grpo_advantage, grpo_advantage
from plaudit.objectives.policy_gradient.nft import (
    nft,
    nft_advantage,
    nft_dr_grpo_weight,
    nft_grpo_weight,
    nft_sequence,
    straight_through_floor,
)
from plaudit.objectives.policy_gradient.policy_gradient import policy_gradient

CORRECT = torch.tensor([True, False, False, True, False])
RATE = torch.tensor([0.25, 0.6, 0.4, 0.8, 0.5], dtype=torch.float64)


def answers(rows, *, weighted=False, **settings):
    call = token_batch(rows)
    del call["advantage"]
    call |= {"correct": CORRECT[:rows], "correct_rate": RATE[:rows]}
    return {**call, "prompt_weight": 1 - RATE[:rows], **settings} if weighted else {**call, **settings}


def rarely_right(rows, **settings):
    """With a small r the implied policy stays positive: nothing is floored, and the gradient is the value's slope."""
    return answers(rows, weighted=True, floor=1e-9, correct_rate=0.05 * RATE[:rows], rate_margin=0.0, **settings)


RANGES = {
    "negative_weight": [-1.0, math.nan],
    "floor": [0.0, -1.0, math.nan],
    "rate_margin": [-0.1, 0.5],
    "log_ratio_limit": [0.0, math.inf],
}
FIELDS = {"extreme": EVERY_TOKEN, "masks": {"mask": EVERY_TOKEN}}
DIFFERENTIABLE = {"differentiable": ("token_log_prob",), **FIELDS}
CASES = [
    Case(nft, answers, stops_gradients=True, invalid={**RANGES, "aggregation": ["mean"]}, **DIFFERENTIABLE),
    Case(
        nft,
        lambda rows: rarely_right(rows, negative_weight=0.7, aggregation="sequence-sum"),
        name="unfloored",
        **DIFFERENTIABLE,
    ),
    Case(nft_sequence, answers, stops_gradients=True, invalid=RANGES, **DIFFERENTIABLE),
    Case(
        nft_sequence,
        rarely_right,
        name="unfloored",
        **DIFFERENTIABLE,
    ),
    Case(
        nft_advantage,
        lambda rows: answers(rows, floor=0.5),
        invalid={name: RANGES[name] for name in ("floor", "rate_margin", "log_ratio_limit")},
        **FIELDS,
    ),
    Case(nft_dr_grpo_weight, lambda rows: {"correct_rate": RATE[:rows]}, invalid={"rate_margin": [-0.1, 0.5]}),
    Case(nft_grpo_weight, lambda rows: {"correct_rate": RATE[:rows]}, invalid={"rate_margin": [-0.1, 0.5]}),
]

ONE = torch.ones(1, 1, dtype=torch.bool)


def single(ratio, correct, rate, **settings):
    """Value and slope in log π of one token whose old log-probability is -1."""
    log_prob = torch.tensor([[math.log(ratio) - 1]], dtype=torch.float64, requires_grad=True)
    old, share = torch.full((1, 1), -1.0).double(), torch.tensor([rate], dtype=torch.float64)
    value, _ = nft(log_prob, old, torch.tensor([correct]), share, ONE, **settings)
    value.sum().backward()
    return value.item(), log_prob.grad.item()


def test_the_docstrings_examples():
    assert single(1.5, True, 0.5) == (pytest.approx(-math.log(1.5)), pytest.approx(-1))
    assert single(1.5, False, 0.5) == (pytest.approx(0), pytest.approx(1.5))
    assert single(1.5, False, 0.5, floor=0.1) == (pytest.approx(math.log(2)), pytest.approx(3))
    pair = torch.tensor([[3, 1 / 2]], dtype=torch.float64).log()
    for correct, expected in ((True, -math.log(1.5)), (False, 0.0)):
        share, verdict = torch.tensor([0.5]).double(), torch.tensor([correct])
        value, weight = nft_sequence(pair, torch.zeros_like(pair), verdict, share, ONE.expand(1, 2))
        assert (value.item(), weight.item()) == (pytest.approx(expected), 1)
    zero, two = torch.zeros(2, 1), torch.tensor([0.75, 0.75])
    advantage = nft_advantage(zero, zero, torch.tensor([True, False]), two, ONE.expand(2, 1))
    torch.testing.assert_close(advantage, torch.tensor([[1.0], [-3.0]]))
    assert nft_dr_grpo_weight(torch.tensor([0.25])).item() == 0.75
    assert nft_grpo_weight(torch.tensor([0.2]).double()).item() == pytest.approx(2)


SIZE = 16


def on_policy(wins, **settings):
    """Gradient in a tabular policy's logits of NFT's sum over 16 answers, seven different ones, to one prompt, at R = 1."""
    logits = normal(7, seed=9).requires_grad_()
    drawn = torch.arange(SIZE) % 7
    log_prob = logits.log_softmax(0)[drawn][:, None]
    correct, rate = torch.arange(SIZE) < wins, torch.full((SIZE,), wins / SIZE, dtype=torch.float64)
    weight = settings.pop("weight", torch.ones_like)(rate)
    value, _ = nft(log_prob, log_prob.detach(), correct, rate, ONE.expand(SIZE, 1), prompt_weight=weight, **settings)
    return torch.autograd.grad(value.sum(), logits)[0]


def by_advantage(wins, advantage):
    """The same of the policy gradient with a group's advantage."""
    logits = normal(7, seed=9).requires_grad_()
    log_prob = logits.log_softmax(0)[torch.arange(SIZE) % 7][:, None]
    reward = (torch.arange(SIZE) < wins).double()[None]
    value, _ = policy_gradient(log_prob, advantage(reward).T, ONE.expand(SIZE, 1))
    return torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("wins", [1, 5, 11, 15])
@pytest.mark.parametrize("floor", [0.1, 0.5, 1.0])
class TestOnPolicy:
    """The identities, for any floor up to 1."""

    def test_the_root_weight_is_grpo_with_the_population_deviation(self, wins, floor):
        ours_ = on_policy(wins, weight=nft_grpo_weight, floor=floor)
        torch.testing.assert_close(ours_, by_advantage(wins, lambda reward: grpo_advantage(reward, ddof=0)))

    def test_grpo_with_ddof_1_is_smaller_by_root_k_over_k_minus_1(self, wins, floor):
        ours_ = on_policy(wins, weight=nft_grpo_weight, floor=floor)
        torch.testing.assert_close(ours_, math.sqrt(SIZE / (SIZE - 1)) * by_advantage(wins, grpo_advantage))

    def test_the_plain_weight_is_dr_grpo(self, wins, floor):
        ours_ = on_policy(wins, weight=nft_dr_grpo_weight, floor=floor)
        torch.testing.assert_close(ours_, by_advantage(wins, dr_grpo_advantage))

    def test_without_a_weight_it_is_dr_grpo_over_the_share_of_wrong_answers(self, wins, floor):
        expected = by_advantage(wins, dr_grpo_advantage) / (1 - wins / SIZE)
        torch.testing.assert_close(on_policy(wins, floor=floor), expected)

    def test_without_the_root_it_is_not_grpo(self, wins, floor):
        """Off by √((1 - r) / r): 0.674 at r = 11/16."""
        rate = wins / SIZE
        ours_ = on_policy(wins, weight=lambda r: (1 - r) / r, floor=floor)
        population = by_advantage(wins, lambda reward: grpo_advantage(reward, ddof=0))
        torch.testing.assert_close(ours_, math.sqrt((1 - rate) / rate) * population)
        assert abs(math.sqrt((1 - rate) / rate) - 1) > 0.1


def test_a_floor_of_2_halves_the_gradient_of_wrong_answers():
    value, slope = single(1.0, False, 0.5, floor=1.0)
    high_value, high_slope = single(1.0, False, 0.5, floor=2.0)
    assert (slope, high_slope) == (pytest.approx(1), pytest.approx(1 / 2))
    assert (value, high_value) == (pytest.approx(0), pytest.approx(-math.log(2)))


ratios, rates, floors = st.floats(0.05, 30), st.floats(0.03, 0.97), st.floats(1e-3, 1)


@given(ratios, st.booleans(), rates, floors)
def test_the_gradient_in_closed_form(ratio, correct, rate, floor):
    """-1 for right answers, ``r/(1-r) R / max(x, ε)`` for wrong ones, also where x < ε: the trap of a hard clamp."""
    x = (1 - rate * ratio) / (1 - rate)
    _, slope = single(ratio, correct, rate, floor=floor)
    assert slope == pytest.approx(-1 if correct else rate / (1 - rate) * ratio / max(x, floor))
    if not correct:
        assert slope > 0


@pytest.mark.parametrize("floor", [1.0, 0.3, 1e-6])
def test_its_advantage_gives_the_policy_gradient_the_same_gradient(floor):
    call = answers(5, floor=floor, prompt_weight=nft_grpo_weight(RATE))
    known = {name: value for name, value in call.items() if name != "prompt_weight"}
    advantage = nft_grpo_weight(RATE)[:, None] * nft_advantage(**known)
    plain = {"token_log_prob": call["token_log_prob"], "advantage": advantage, "mask": MASK}
    torch.testing.assert_close(ours(nft, call)[1], ours(policy_gradient, plain, aggregation="token-mean")[1])


def test_rejection_sampling_is_likelihood_on_right_answers():
    call = answers(5, negative_weight=0.0)
    slope = ours(nft, call)[1]
    right = MASK & CORRECT[:, None]
    torch.testing.assert_close(slope, torch.where(right, -1.0, 0.0).double() / MASK.sum())
    value, _ = negative_log_likelihood(call["token_log_prob"], MASK)
    old, _ = negative_log_likelihood(call["old_token_log_prob"], MASK)
    torch.testing.assert_close(nft(**call)[0], torch.where(CORRECT, value - old, 0))


OLD = torch.softmax(normal(7, seed=11), 0)


def fitted(chance_right, floor):
    """What natural gradient descent makes of the population's loss: answers as OLD gives them, right with these chances."""
    rate = (OLD * chance_right).sum()
    verdict, every = torch.arange(14) < 7, ONE.expand(14, 1)
    chance, old = torch.cat([OLD * chance_right, OLD * (1 - chance_right)]), OLD.log().repeat(2)[:, None]
    logits = OLD.log().requires_grad_()
    for _ in range(300):
        log_prob = logits.log_softmax(0)
        value, _ = nft(log_prob.repeat(2)[:, None], old, verdict, rate.expand(14), every, floor=floor)
        slope = torch.autograd.grad((chance * value).sum(), logits)[0]
        logits = (logits - 0.1 * slope / log_prob.exp()).detach().requires_grad_()
    return logits.detach().softmax(0), OLD * chance_right / rate


@pytest.mark.parametrize("floor", [1.0, 1e-3])
def test_the_populations_optimum_is_the_policy_of_right_answers(floor):
    """Theorem 3.1 with a verifier that does not err: π₊, at a small floor and at 1 alike."""
    policy, right = fitted(torch.tensor([1, 0, 1, 0, 0, 1, 0]).double(), floor)
    assert (policy - right).abs().sum().item() < 1e-3


def test_with_a_verifier_that_errs_only_a_small_floor_leads_there():
    """π₊ ∝ π_old p(right) is stationary where the floor does not hold; a floor of 1 holds at every p > r."""
    chances = torch.tensor([0.9, 0.1, 0.6, 0.3, 0.2, 0.8, 0.5]).double()
    policy, right = fitted(chances, 1e-3)
    assert (policy - right).abs().sum().item() < 1e-3
    floored, _ = fitted(chances, 1.0)
    assert (floored - right).abs().sum().item() > 0.05


@given(st.floats(-5, 5), st.floats(0.01, 3))
def test_the_floor_is_straight_through(x, floor):
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    floored = straight_through_floor(leaf, floor)
    floored.backward()
    assert floored.item() == pytest.approx(max(x, floor))
    assert leaf.grad.item() == 1


def official(call, *, sequence, normalise, floor, negative_weight):
    """The steps of the official ``dp_actor.py`` in its order, scalar by scalar; sums over tokens, not yet divided by 1000."""
    losses = []
    for n in range(len(call["mask"])):
        kept = call["mask"][n]
        log_ratio = (call["token_log_prob"][n] - call["old_token_log_prob"][n])[kept].tolist()
        ratios = [math.exp(min(sum(log_ratio), 10))] if sequence else [math.exp(min(u, 10)) for u in log_ratio]
        rate = min(max(call["correct_rate"][n].item(), 0.02), 0.98)
        weight = {0: 1.0, 1: 1 - rate, 2: ((1 - rate) / rate) ** 0.5}[normalise]
        loss = 0.0
        for ratio in ratios:
            proxy = (1 - rate * ratio) / (1 - rate)
            right, wrong = -math.log(max(ratio, 0.0)), -math.log(max(proxy, floor))
            loss += weight * (right if call["correct"][n] else wrong * negative_weight)
        losses.append(loss)
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("normalise", [0, 1, 2])
@pytest.mark.parametrize(("floor", "negative_weight"), [(1.0, 1.0), (0.5, 0.5), (0.05, 1.0)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_official_codes_steps(normalise, floor, negative_weight, rate):
    share = torch.where(torch.arange(5) == 1, rate, RATE)
    weight = {0: None, 1: nft_dr_grpo_weight(share), 2: nft_grpo_weight(share)}[normalise]
    settings = {"floor": floor, "negative_weight": negative_weight}
    call = {**answers(5), "correct_rate": share}
    value, _ = nft(**call, prompt_weight=weight, aggregation=1000.0, **settings)
    torch.testing.assert_close(value, official(call, sequence=False, normalise=normalise, **settings) / 1000)
    value, _ = nft_sequence(**call, prompt_weight=weight, **settings)
    torch.testing.assert_close(value, official(call, sequence=True, normalise=normalise, **settings))


def test_answers_of_one_token_are_sequences():
    call = answers(5)
    call["mask"] = torch.arange(6).expand(5, 6) == 0
    agree(ours(nft_sequence, call, floor=0.5), ours(nft, call, floor=0.5))
