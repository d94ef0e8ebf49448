"""Ratios of whole outputs: GSPO and its kin against TRL's own loss code, their gradients, and how length weighs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case
from objectives.policy_batches import EVERY_TOKEN, MASK, agree, ours, token_batch, trl_grpo, trl_rloo
from plaudit.objectives.policy_gradient.clipped_ratio import ppo_clip
from plaudit.objectives.policy_gradient.policy_gradient import policy_gradient
from plaudit.objectives.policy_gradient.sequence_ratio import gmpo, gspo, gspo_token, luspo, sequence_ppo_clip, vespo

CLIPS = {"clip_low": [-0.1, 1.1, math.nan], "clip_high": [-0.1, math.nan]}
WIDE = {"clip_low": 0.1, "clip_high": 0.15}


def case(function, *, per="sequence", invalid=None, stops_gradients=False, name="", **settings):
    return Case(
        function,
        lambda rows: token_batch(rows, per=per, **settings),
        name=name,
        differentiable=("token_log_prob",),
        stops_gradients=stops_gradients,
        extreme=(*EVERY_TOKEN, "advantage"),
        masks={"mask": (*EVERY_TOKEN, "advantage") if per == "token" else EVERY_TOKEN},
        invalid=CLIPS if invalid is None else invalid,
    )


CASES = [
    case(sequence_ppo_clip, clip_high=0.5),
    case(gspo, **WIDE),
    case(gspo_token, per="token", stops_gradients=True, **WIDE),
    case(gspo_token, per="output", name="per output", stops_gradients=True, aggregation="token-mean", **WIDE),
    case(luspo, **WIDE),
    case(gmpo, invalid={"log_clip_low": [0.0, -1.0], "log_clip_high": [0.0, math.nan]}),
    case(
        vespo,
        stops_gradients=True,
        invalid={
            "power_positive": [-1.0],
            "power_negative": [math.nan],
            "decay_positive": [0.0],
            "decay_negative": [-1.0],
        },
    ),
]

PAIR = torch.ones(1, 2, dtype=torch.bool)


def pair(function, ratios, advantage, **settings):
    """Value and slopes of one output of two tokens whose old log-probabilities are -1."""
    log_prob = (torch.tensor([ratios], dtype=torch.float64).log() - 1).requires_grad_()
    known = torch.tensor(advantage, dtype=torch.float64)
    value, _ = function(log_prob, torch.full((1, 2), -1.0).double(), known, PAIR, **settings)
    value.sum().backward()
    return value.item(), log_prob.grad[0].tolist()


def test_the_docstrings_examples():
    assert pair(sequence_ppo_clip, (2, 1 / 2), [3.0]) == (pytest.approx(-3), pytest.approx([-3, -3]))
    assert pair(gspo, (4, 1), [1.0]) == (pytest.approx(-(1 + 4e-4)), [0, 0])
    assert pair(gspo, (4, 1), [-1.0]) == (pytest.approx(2), pytest.approx([1, 1]))
    assert pair(gspo_token, (4, 1), [[-1.0, -3.0]]) == (pytest.approx(4), pytest.approx([1, 3]))
    assert pair(luspo, (4, 1), [-1.0]) == (pytest.approx(4), pytest.approx([2, 2]))
    assert pair(gmpo, (math.e, 1), [1.0]) == (pytest.approx(-math.exp(0.2)), pytest.approx([0, -math.exp(0.2) / 2]))
    assert pair(gmpo, (math.e, 1), [-1.0])[0] == pytest.approx(math.exp(0.5))
    half, one = torch.tensor([[0.5]]).log(), PAIR[:, :1]
    assert vespo(half, half, torch.tensor([2.0]), one)[0].item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("clip", [3e-4, 0.1])
def test_gspo_token_is_gspo_for_one_advantage_per_output(clip):
    """Value and gradient, wherever the ratio lies (the paper's section 4.3)."""
    call = token_batch(5, per="sequence")
    per_output = {**call, "advantage": call["advantage"][:, None]}
    agree(ours(gspo_token, per_output, clip_low=clip, clip_high=clip), ours(gspo, call, clip_low=clip, clip_high=clip))


def test_gspo_tokens_gradient_in_closed_form():
    """-A_t s / |y| per token where the clip leaves it alone, else 0."""
    call = token_batch(5)
    log_ratio = torch.where(MASK, call["token_log_prob"] - call["old_token_log_prob"], 0)
    s = (log_ratio.sum(-1, keepdim=True) / MASK.sum(-1, keepdim=True)).exp()
    silent = ((call["advantage"] > 0) & (s > 1.15)) | ((call["advantage"] < 0) & (s < 0.9))
    slope = torch.where(MASK & ~silent, -call["advantage"] * s / MASK.sum(-1, keepdim=True), 0) / len(MASK)
    torch.testing.assert_close(ours(gspo_token, call, **WIDE)[1], slope)


def test_vespos_gradient_in_closed_form():
    """-φ(ρ) A for every token, φ(1) = 1."""
    call = token_batch(5, per="sequence")
    rho = torch.where(MASK, call["token_log_prob"] - call["old_token_log_prob"], 0).sum(-1).exp()
    k = torch.where(call["advantage"] >= 0, 2, 3)
    lam = torch.where(call["advantage"] >= 0, 3, 2)
    phi = rho**k * (lam * (1 - rho)).exp()
    slope = torch.where(MASK, -(phi * call["advantage"])[:, None], 0) / MASK.sum()
    torch.testing.assert_close(ours(vespo, call)[1], slope)


@given(st.floats(0.01, 30))
def test_vespos_bump_is_greatest_at_power_over_decay(ratio):
    bump = -pair(vespo, (ratio, 1), [1.0])[1][0] * 2
    peak = -pair(vespo, (2 / 3, 1), [1.0])[1][0] * 2
    assert bump <= peak + 1e-12
    assert bump == pytest.approx(ratio**2 * math.exp(3 * (1 - ratio)))


def test_luspo_is_gspo_times_length():
    call = token_batch(5, per="sequence")
    torch.testing.assert_close(luspo(**call, **WIDE)[0], MASK.sum(-1) * gspo(**call, **WIDE)[0])


def test_an_outputs_ratio_is_a_tokens_ratio_where_it_has_one_token():
    call = token_batch(5, per="sequence")
    call["mask"] = torch.arange(6).expand(5, 6) == 0
    per_output = {**call, "advantage": call["advantage"][:, None]}
    for function in (sequence_ppo_clip, gspo, luspo):
        agree(ours(function, call, **WIDE), ours(ppo_clip, per_output, **WIDE))


def test_on_policy_gradients():
    """Sums: the plain gradient; means: divided by the length."""
    call = token_batch(5, per="sequence")
    call["old_token_log_prob"] = call["token_log_prob"]
    plain = {"token_log_prob": call["token_log_prob"], "advantage": call["advantage"][:, None], "mask": MASK}
    for how, functions in (
        ("sequence-sum", (sequence_ppo_clip, luspo)),
        ("sequence-mean", (gspo, gmpo)),
        ("token-mean", (vespo,)),
    ):
        expected = ours(policy_gradient, plain, aggregation=how)[1]
        for function in functions:
            torch.testing.assert_close(ours(function, call)[1], expected)


@given(st.floats(0, 10))
def test_a_weight_multiplies_the_advantage(factor):
    call = token_batch(5, per="sequence")
    scaled = {**call, "advantage": factor * call["advantage"]}
    for function in (sequence_ppo_clip, gspo, luspo, gmpo, vespo):
        torch.testing.assert_close(function(**scaled)[0], factor * function(**call)[0])


def test_an_output_without_tokens_has_no_weight():
    call = token_batch(3, per="sequence")
    call["mask"] = call["mask"] & torch.tensor([[True], [False], [True]])
    for function in (sequence_ppo_clip, gspo, luspo, gmpo):
        value, weight = function(**call)
        assert value[1].item() == 0
        assert weight.tolist() == [1, 0, 1]


@pytest.mark.parametrize("clip", [4e-4, 0.15])
class TestTRL:
    """GRPOTrainer._compute_loss of TRL on the same numbers."""

    def test_gspo(self, clip):
        call = token_batch(5, per="sequence")
        theirs = trl_grpo(call, importance_sampling_level="sequence", epsilon_low=clip, epsilon_high=clip)
        agree(ours(gspo, call, clip_low=clip, clip_high=clip), theirs)

    def test_luspo(self, clip):
        call = token_batch(5, per="sequence")
        settings = {"loss_type": "luspo", "importance_sampling_level": "sequence"}
        theirs = trl_grpo(call, epsilon_low=clip, epsilon_high=clip, **settings)
        agree(ours(luspo, call, clip_low=clip, clip_high=clip), theirs)

    def test_gmpo(self, clip):
        from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

        call = token_batch(5, per="sequence")
        theirs = trl_grpo(call, trainer=GMPOTrainer, epsilon_low=clip, epsilon_high=clip)
        agree(ours(gmpo, call, log_clip_low=clip, log_clip_high=clip), theirs)

    def test_vespo(self, clip):
        agree(ours(vespo, token_batch(5, per="sequence")), trl_grpo(token_batch(5, per="sequence"), loss_type="vespo"))


def test_trls_rloo():
    """RLOOTrainer._compute_loss: PPO's clip on the product of all token ratios."""
    call = token_batch(5, per="sequence")
    theirs = trl_rloo(call, epsilon_low=0.2, epsilon_high=0.3)
    agree(ours(sequence_ppo_clip, call, clip_low=0.2, clip_high=0.3), theirs)
