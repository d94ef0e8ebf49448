"""Imitation of chosen outputs: chains of hindsight, forgetting, SuperHF's facts, selection, quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.imitation import negative_log_likelihood
from plaudit.objectives.imitation.imitation import (
    best_of_n_divergence,
    chain_of_hindsight,
    past_token_mask,
    quark,
    rejection_fine_tuning,
    reward_quantile,
    superhf,
    top_outputs,
)

T = 6
MASK = lengths_mask(5, T, seed=0)
REWARD = torch.tensor([[1.0, 3, 3, 2], [0, 0, 0, 0], [4, 1, 2, 3], [2, 2, 1, 1], [0, 1, 0, 1]], dtype=torch.float64)
GROUPS = lengths_mask(5, 4, seed=1)


def tokens(rows, **call):
    return {"token_log_prob": uniform(5, T, seed=1, low=0.01)[:rows].log(), "mask": MASK[:rows], **call}


def with_divergence(rows, **call):
    return tokens(rows, token_divergence=uniform(5, T, seed=2)[:rows], **call)


PLAIN = torch.tensor([False, True, False, False, True])
DIVERGENT = ("token_log_prob", "token_divergence")
HIDES = {"mask": ("token_log_prob",)}
CASES = [
    Case(
        chain_of_hindsight,
        lambda rows: tokens(rows, pretraining=PLAIN[:rows]),
        differentiable=("token_log_prob",),
        extreme=("token_log_prob",),
        masks=HIDES,
        exchangeable="T",
        invalid={"pretraining_weight": [-1.0, math.nan], "aggregation": ["mean", 0.0]},
    ),
    Case(
        chain_of_hindsight,
        lambda rows: tokens(rows, aggregation="sequence-mean"),
        name="chains only",
        differentiable=("token_log_prob",),
        masks=HIDES,
    ),
    Case(
        past_token_mask,
        lambda rows: {"noise": uniform(5, T, T, seed=3)[:rows], "rate": 0.3},
        invalid={"rate": [-0.1, 1.1, math.nan]},
    ),
    *(
        Case(
            function,
            lambda rows, how=how: with_divergence(rows, beta=0.4, aggregation=how),
            name=str(how),
            differentiable=DIVERGENT,
            extreme=DIVERGENT,
            masks={"mask": DIVERGENT},
            exchangeable="T",
            invalid={"beta": [-0.1, math.nan], "aggregation": ["mean", 0.0]},
        )
        for function in (superhf, quark)
        for how in ("token-mean", "sequence-mean", 4.0)
    ),
    Case(best_of_n_divergence, lambda rows: {"samples": torch.tensor([1, 2, 16, 32, 5])[:rows]}),
    Case(
        top_outputs,
        lambda rows: {"reward": REWARD[:rows], "mask": GROUPS[:rows], "keep": 2},
        extreme=("reward",),
        masks={"mask": ("reward",)},
        exchangeable="K",
        invalid={"keep": [0, -1]},
    ),
    Case(top_outputs, lambda rows: {"reward": REWARD[:rows]}, name="whole groups", exchangeable="K"),
    Case(
        rejection_fine_tuning,
        lambda rows: tokens(rows, accepted=~PLAIN[:rows]),
        differentiable=("token_log_prob",),
        extreme=("token_log_prob",),
        masks=HIDES,
        exchangeable="T",
        invalid={"aggregation": ["mean", 0.0]},
    ),
    Case(
        reward_quantile,
        lambda rows: {"reward": REWARD.flatten()[:rows], "quantiles": 3},
        extreme=("reward",),
        invalid={"quantiles": [0, -1]},
        batch_statistics=True,
    ),
]


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def yes(*values):
    return torch.tensor([values])


def test_the_docstrings_examples():
    chain = row(1 / 2, 1 / 4, 1 / 8).log()
    assert chain_of_hindsight(chain, yes(True, False, True))[0].item() == pytest.approx(2 * math.log(2))
    first_and_itself = [[True, False, False], [True, True, False], [True, False, True]]
    assert past_token_mask(torch.rand(1, 3, 3), rate=1.0)[0].tolist() == first_and_itself
    two, divergence = row(1 / 2, 1 / 8).log(), row(0.1, 0.3)
    for function in (superhf, quark):
        value, _ = function(two, divergence, yes(True, True), beta=0.5)
        assert value.item() == pytest.approx(2 * math.log(2) + 0.5 * 0.2)
    assert best_of_n_divergence(torch.tensor([16])).item() == pytest.approx(1.835, abs=5e-4)
    reward = row(1, 3, 3, 2)
    assert top_outputs(reward).tolist() == top_outputs(reward, keep=2).tolist() == [[False, True, True, False]]
    assert top_outputs(reward, keep=3).tolist() == [[False, True, True, True]]
    samples = torch.tensor([[1 / 2], [1 / 4]]).log()
    value, weight = rejection_fine_tuning(samples, torch.ones(2, 1, dtype=torch.bool), torch.tensor([True, False]))
    assert value.tolist() == pytest.approx([math.log(2), 0])
    assert weight.tolist() == [1, 0]
    assert reward_quantile(torch.tensor([4.0, 1, 3, 2]), quantiles=2).tolist() == [0, 1, 0, 1]


# --- chain of hindsight


def test_a_chain_of_one_output_is_supervised_fine_tuning():
    call = tokens(5)
    for ours, sft in zip(chain_of_hindsight(**call), negative_log_likelihood(**call), strict=True):
        torch.testing.assert_close(ours, sft)


def test_with_one_output_it_is_trls_completion_only_loss():
    """SFTTrainer with a completion mask ends in transformers' causal loss with labels -100 on the prompt."""
    loss_utils = pytest.importorskip("transformers.loss.loss_utils")
    logits, ids = normal(3, 7, 11, seed=1), torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(1))
    completion = lengths_mask(3, 6, seed=2)  # of the tokens after the first
    labels = ids.clone()
    labels[:, 0] = -100
    labels[:, 1:][~completion] = -100
    peer = loss_utils.ForCausalLMLoss(logits.float(), labels, vocab_size=11)
    log_prob = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    value, weight = chain_of_hindsight(log_prob, completion)
    assert ((value * weight).sum() / weight.sum()).item() == pytest.approx(peer.item(), rel=1e-6)


def test_feedback_words_are_no_targets():
    """Whatever the model gives to masked words, loss and gradient stay."""
    call = tokens(5)
    other = torch.where(MASK, call["token_log_prob"], -50 * uniform(5, T, seed=9))
    torch.testing.assert_close(chain_of_hindsight(other, MASK)[0], chain_of_hindsight(**call)[0])


def test_pretraining_rows_weigh_lambda():
    call = tokens(5)
    value, weight = chain_of_hindsight(**call, pretraining=PLAIN, pretraining_weight=3.0)
    plain, same = chain_of_hindsight(**call)
    torch.testing.assert_close(value, plain * torch.where(PLAIN, 3.0, 1.0))
    torch.testing.assert_close(weight, same)


def test_forgetting_hides_the_asked_share_of_the_past_only():
    size, rate = 200, 0.15
    noise = torch.rand(1, size, size, generator=torch.Generator().manual_seed(0))
    visible = past_token_mask(noise, rate=rate)[0]
    future = torch.ones(size, size, dtype=torch.bool).triu(1)
    assert not visible[future].any()
    assert visible.diagonal().all()
    assert visible[:, 0].all()
    past = torch.ones(size, size, dtype=torch.bool).tril(-1)
    past[:, 0] = False
    count = past.sum().item()
    hidden = 1 - visible[past].double().mean().item()
    assert hidden == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / count))
    assert torch.equal(past_token_mask(noise, rate=0.0)[0], ~future)


def test_one_number_per_token_forgets_it_for_all_later_ones():
    noise = torch.rand(2, 1, T, generator=torch.Generator().manual_seed(0)).expand(2, T, T)
    visible = past_token_mask(noise, rate=0.5)
    for s in range(1, T - 1):
        assert (visible[:, s + 1 :, s] == visible[:, -1:, s]).all()


# --- SuperHF


def vocabulary(seed, rows=2, steps=4, size=9):
    return normal(rows, steps, size, seed=seed).log_softmax(-1)


def forward_divergence(log_base, log_policy):
    return kl_div(log_policy, log_base, reduction="none", log_target=True).sum(-1)


def test_superhf_is_cross_entropy_and_torchs_divergence():
    """torch's KLDivLoss with the base as the target, mean over an output's positions, as the official code has it."""
    log_base, log_policy = vocabulary(1), vocabulary(2)
    ids = torch.randint(9, (2, 4), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    log_prob = log_policy.gather(-1, ids[..., None]).squeeze(-1)
    value, weight = superhf(log_prob, forward_divergence(log_base, log_policy), mask, beta=0.35)
    for index in range(2):
        keep = mask[index]
        likelihood = cross_entropy(log_policy[index, keep], ids[index, keep])
        prior = kl_div(log_policy[index, keep], log_base[index, keep], reduction="batchmean", log_target=True)
        torch.testing.assert_close(value[index], likelihood + 0.35 * prior)
    assert weight.tolist() == [1, 1]


def test_at_the_base_policy_the_prior_is_flat():
    """The first step: divergence 0, and its gradient too; what is left is supervised learning."""
    logits = normal(2, 4, 9, seed=1).requires_grad_()
    log_base = logits.detach().log_softmax(-1)
    ids, mask = torch.zeros(2, 4, 1, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)
    gradients = []
    for beta in (0.0, 5.0):
        log_policy = logits.log_softmax(-1)
        log_prob = log_policy.gather(-1, ids).squeeze(-1)
        value, _ = superhf(log_prob, forward_divergence(log_base, log_policy), mask, beta=beta)
        torch.testing.assert_close(value, negative_log_likelihood(log_prob, mask)[0])
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_imitating_ones_own_samples_changes_nothing_on_average():
    """β = 0 and one sample: the expected gradient over all outputs of the policy is 0."""
    logits = normal(1, 7, seed=1).requires_grad_()
    log_prob = logits.log_softmax(-1).T
    every = torch.ones(7, 1, dtype=torch.bool)
    value, _ = superhf(log_prob, torch.zeros_like(log_prob), every, beta=0.0)
    (log_prob.detach().exp()[:, 0] * value).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "nats"), [(16, 1.835), (32, 2.497)])
def test_best_of_n_is_that_far_from_one_sample(n, nats):
    """Over M distinct scores P(the best is i) = (i/M)^n - ((i-1)/M)^n: the divergence rises to the bound with M."""
    bound = best_of_n_divergence(torch.tensor([n])).item()
    assert bound == pytest.approx(nats, abs=5e-4)
    divergences = []
    for m in (10, 100, 100_000):
        share = np.diff((np.arange(m + 1) / m) ** n)
        share = share[share > 0]
        divergences.append((share * np.log(share * m)).sum())
    assert divergences[0] < divergences[1] < divergences[2] < bound + 1e-6
    assert divergences[2] == pytest.approx(bound, abs=1e-3)


# --- selection


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_kept_outputs_have_fewer_better_ones_than_asked(rewards, keep):
    kept = top_outputs(torch.tensor([rewards]).double(), keep=keep)[0].tolist()
    assert kept == [sum(other > reward for other in rewards) < keep for reward in rewards]
    assert sum(kept) >= min(keep, len(rewards))


def test_rejected_samples_have_no_say():
    """The loss is that of the accepted samples alone."""
    call, accepted = tokens(5), ~PLAIN
    value, weight = rejection_fine_tuning(**call, accepted=accepted)
    alone, count = negative_log_likelihood(call["token_log_prob"][accepted], MASK[accepted])
    torch.testing.assert_close((value * weight).sum() / weight.sum(), (alone * count).sum() / count.sum())
    assert (value[~accepted] == 0).all()


def test_the_best_of_a_group_by_rejection_is_the_non_contrastive_arm():
    """Best-of-2 supervised learning: the better one of each pair has all the weight."""
    log_prob = uniform(3, 2, seed=4, low=0.1).log()
    best = top_outputs(row(1, 0).expand(3, 2)).flatten()
    value, weight = rejection_fine_tuning(log_prob.reshape(6, 1), torch.ones(6, 1, dtype=torch.bool), best)
    torch.testing.assert_close((value * weight).sum() / weight.sum(), -log_prob[:, 0].mean())


@pytest.mark.parametrize("quantiles", [1, 2, 3, 5])
def test_quantiles_have_equal_sizes_and_the_best_come_first(quantiles):
    reward = normal(30, seed=1)
    part = reward_quantile(reward, quantiles=quantiles)
    assert torch.bincount(part).tolist() == [30 // quantiles] * quantiles
    for better in range(quantiles - 1):
        assert reward[part == better].min() > reward[part == better + 1].max()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(reward_quantile(reward[order], quantiles=quantiles), part[order])


def test_equal_rewards_share_a_quantile():
    assert reward_quantile(torch.ones(7), quantiles=5).tolist() == [2] * 7
    assert reward_quantile(torch.ones(0), quantiles=5).tolist() == []
