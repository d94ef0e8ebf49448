"""Inverse rewards: exact likelihoods by enumeration, feature matching at the optimum, and sklearn's cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from objectives.contract import Case, normal, uniform
from plaudit.objectives.values.inverse_reward import adversarial_imitation, choice_regret, max_entropy_irl, prompt_oirl

DEMONSTRATION, SAMPLE, RATIO = normal(6, seed=1), normal(6, 4, seed=2), normal(6, 4, seed=3)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
CORRECT = (uniform(6, 4, seed=4) < 0.5).double()

REWARDS = ("reward_demonstration", "reward_sample")
LOGITS = ("logit_demonstration", "logit_sample")
CASES = [
    Case(
        max_entropy_irl,
        lambda rows: {
            "reward_demonstration": DEMONSTRATION[:rows],
            "reward_sample": SAMPLE[:rows],
            "log_ref_over_sampler": RATIO[:rows],
            "mask": MASK[:rows],
            "beta": 0.5,
        },
        differentiable=REWARDS,
        extreme=(*REWARDS, "log_ref_over_sampler"),
        masks={"mask": ("reward_sample", "log_ref_over_sampler")},
        exchangeable="K",
        invalid={"beta": [0.0, -1.0, math.nan]},
    ),
    Case(
        adversarial_imitation,
        lambda rows: {"logit_demonstration": DEMONSTRATION[:rows], "logit_sample": SAMPLE[:rows], "mask": MASK[:rows]},
        differentiable=LOGITS,
        extreme=LOGITS,
        masks={"mask": ("logit_sample",)},
        exchangeable="K",
    ),
    Case(
        prompt_oirl,
        lambda rows: {"logit": SAMPLE[:rows], "correct": CORRECT[:rows], "mask": MASK[:rows]},
        differentiable=("logit",),
        extreme=("logit",),
        masks={"mask": ("logit", "correct")},
        exchangeable="K",
    ),
    Case(
        choice_regret,
        lambda rows: {"score": SAMPLE[:rows], "outcome": CORRECT[:rows], "mask": MASK[:rows]},
        extreme=("outcome",),
        masks={"mask": ("score", "outcome")},
        exchangeable="K",
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    assert max_entropy_irl(number(1), row(0, 0), row(0, 0), beta=1.0).item() == pytest.approx(-1)
    assert adversarial_imitation(number(0), row(0, 0)).item() == pytest.approx(2 * math.log(2))
    loss = prompt_oirl(row(0, math.log(3)), row(1, 1))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert choice_regret(row(1, 2), row(1, 0)).item() == 1


def test_all_outputs_once_give_the_exact_likelihood():
    """A uniform sampler over all K outputs, each drawn once: ``-log π_φ(y*) + log π_ref(y*)`` exactly."""
    reward, beta = SAMPLE[0], 0.5
    reference = normal(4, seed=9).log_softmax(-1)
    policy = (reference + reward / beta).log_softmax(-1)
    for chosen in range(4):
        ratio = reference + math.log(4)  # log π_ref - log(1/4)
        loss = max_entropy_irl(reward[chosen].reshape(1), reward[None], ratio[None], beta=beta)
        assert loss.item() == pytest.approx((reference - policy)[chosen].item())


def test_the_gradient_is_demonstration_less_policy():
    """Position paper: ``E_demo[∇r] - E_π[∇r]``; with samples of the policy itself all weights are equal."""
    beta = 0.5
    leaves = [x.clone().requires_grad_() for x in (DEMONSTRATION, SAMPLE)]
    on_policy = -SAMPLE / beta + 0.3  # log π_ref - log π_φ, up to the constant log Z
    max_entropy_irl(*leaves, on_policy, beta=beta).sum().backward()
    torch.testing.assert_close(leaves[0].grad, torch.full((6,), -1 / beta).double())
    torch.testing.assert_close(leaves[1].grad, torch.full((6, 4), 1 / beta / 4).double())


def test_features_match_at_the_optimum():
    """Fit a linear reward to demonstrations over six outputs; demonstration and policy features then agree."""
    feature, reference = normal(6, 2, seed=11), torch.full((6,), -math.log(6)).double()
    demonstrations = torch.tensor([0, 0, 1, 2, 2, 2, 5])
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        reward = feature @ weight
        count = len(demonstrations)
        loss = max_entropy_irl(
            reward[demonstrations], reward.expand(count, -1), torch.zeros(count, 6).double(), beta=1.0
        )
        loss.mean().backward()
        return loss.mean()

    optimiser.step(closure)
    policy = (reference + feature @ weight.detach()).softmax(-1)
    torch.testing.assert_close(policy @ feature, feature[demonstrations].mean(0), atol=1e-6, rtol=0)


def test_masked_samples_leave_the_mean_of_the_rest():
    loss = max_entropy_irl(DEMONSTRATION, SAMPLE, RATIO, MASK, beta=0.5)
    for i in range(6):
        exponent = (SAMPLE[i] / 0.5 + RATIO[i])[MASK[i]].numpy()
        expected = np.log(np.mean(np.exp(exponent))) - DEMONSTRATION[i].item() / 0.5
        assert loss[i].item() == pytest.approx(expected)


def test_the_best_discriminator_is_the_log_density_ratio():
    """For discrete densities p, q the expected loss has zero gradient at ``D = log p - log q``."""
    p, q = (normal(5, seed=seed).softmax(-1) for seed in (1, 2))
    logit = (p.log() - q.log()).requires_grad_()
    total = sum(
        p[a] * q[b] * adversarial_imitation(logit[a].reshape(1), logit[b].reshape(1, 1))
        for a in range(5)
        for b in range(5)
    )
    total.sum().backward()
    torch.testing.assert_close(logit.grad, torch.zeros(5).double(), atol=1e-12, rtol=0)


def test_prompt_oirl_is_sklearns_log_loss_a_question():
    ours = prompt_oirl(SAMPLE, CORRECT, MASK)
    for i in range(6):
        probability = torch.sigmoid(SAMPLE[i][MASK[i]]).numpy()
        expected = log_loss(CORRECT[i][MASK[i]].numpy().astype(int), probability, labels=[0, 1])
        assert ours[i].item() == pytest.approx(expected)


def test_prompt_oirls_gradient_is_probability_less_label():
    leaf = SAMPLE.clone().requires_grad_()
    prompt_oirl(leaf, CORRECT, MASK).sum().backward()
    share = MASK / MASK.sum(-1, keepdim=True)
    torch.testing.assert_close(leaf.grad, share * (torch.sigmoid(SAMPLE) - CORRECT))


def test_regret_is_the_loop_over_options():
    ours = choice_regret(SAMPLE, CORRECT, MASK)
    for i in range(6):
        options = [k for k in range(4) if MASK[i, k]]
        best = max(CORRECT[i, k].item() for k in options)
        choice = max(options, key=lambda k: SAMPLE[i, k].item())
        assert ours[i].item() == best - CORRECT[i, choice].item()
    assert (ours >= 0).all()


def test_choosing_by_the_outcome_leaves_no_regret():
    assert choice_regret(CORRECT, CORRECT, MASK).tolist() == [0] * 6


def test_groups_need_an_entry():
    with pytest.raises(ValueError, match="score: expected groups of at least 1 outputs, got 0"):
        choice_regret(torch.zeros(2, 0), torch.zeros(2, 0))
