"""PPO's clip and its children: where the gradient vanishes, what a token weighs, and TRL's own loss code on the same batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.policy_batches import EVERY_TOKEN, MASK, agree, ours, token_batch, trl_grpo
from plaudit.objectives.policy_gradient.advantages import grpo_advantage, informative_groups
from plaudit.objectives.policy_gradient.clipped_ratio import dapo, dr_grpo, grpo, ppo_clip, ppo_dual_clip
from plaudit.objectives.policy_gradient.divergences import kl_k3
from plaudit.objectives.policy_gradient.policy_gradient import policy_gradient, trpo_surrogate

HIDDEN = {"mask": (*EVERY_TOKEN, "advantage")}
CLIPS = {"clip_low": [-0.1, 1.1, math.nan], "clip_high": [-0.1, math.nan]}


def case(function, *, name="", reference=False, per="token", invalid=(), **settings):
    extra = ("ref_token_log_prob",) if reference else ()
    hidden = (*EVERY_TOKEN, *extra, *(("advantage",) if per == "token" else ()))
    return Case(
        function,
        lambda rows: token_batch(rows, per=per, reference=reference, **settings),
        name=name,
        differentiable=("token_log_prob",),
        extreme=(*EVERY_TOKEN, *extra, "advantage"),
        masks={"mask": hidden},
        invalid={**CLIPS, **dict(invalid)},
    )


CASES = [
    case(ppo_clip, invalid={"aggregation": ["mean", 0.0]}),
    case(ppo_clip, name="per output", per="output", aggregation="sequence-mean", clip_high=0.5),
    case(ppo_clip, name="sum", aggregation="sequence-sum", clip_low=1.0),
    case(ppo_dual_clip, ratio_limit=1.5, invalid={"ratio_limit": [1.2, 0.0, math.nan]}),
    case(grpo, reference=True, per="output", invalid={"beta": [-0.1, math.nan]}),
    case(dr_grpo, per="output", longest=9, invalid={"longest": [0, -3]}),
    case(dapo, per="output"),
]

ONE = torch.ones(1, 1, dtype=torch.bool)
ratios, advantages = st.floats(0.05, 20), st.floats(-5, 5).filter(lambda a: abs(a) > 1e-3)


def single(function, ratio, advantage, **settings):
    """Value and slope in log π of one token whose old log-probability is -1."""
    log_prob = torch.tensor([[math.log(ratio) - 1]], dtype=torch.float64, requires_grad=True)
    old, known = torch.full_like(log_prob, -1), torch.tensor([[advantage]], dtype=torch.float64)
    value, weight = function(log_prob, old.detach(), known, ONE, **settings)
    value.backward()
    assert weight.item() == 1
    return value.item(), log_prob.grad.item()


def test_the_docstrings_examples():
    assert single(ppo_clip, 2, 1) == (pytest.approx(-1.2), 0)
    assert single(ppo_clip, 2, -1)[0] == pytest.approx(2)
    assert single(ppo_dual_clip, 5, -1) == (pytest.approx(3), 0)
    assert single(ppo_dual_clip, 2, -1)[0] == pytest.approx(2)
    assert single(dapo, 1.25, 1)[0] == pytest.approx(-1.25)
    assert single(ppo_clip, 1.25, 1)[0] == pytest.approx(-1.2)
    policy, two = torch.tensor([[0.5]]).log(), torch.zeros(1, 2)
    value, _ = grpo(policy, policy, policy - math.log(2), torch.ones(1, 1), ONE, beta=1.0)
    assert value.item() == pytest.approx(-1 + 1 / 2 + math.log(2) - 1)
    value, weight = dr_grpo(two, two, torch.tensor([[3.0]]), ONE.expand(1, 2), longest=16)
    assert (value.item(), weight.item()) == (-3 * 2 / 16, 1)


@given(ratios, advantages, st.floats(0, 0.9), st.floats(0, 2))
def test_the_gradient_vanishes_just_beyond_the_clip_on_the_advantages_side(ratio, advantage, low, high):
    """The survey's fact: iff (A > 0 and ρ > 1 + ε_high) or (A < 0 and ρ < 1 - ε_low)."""
    if min(abs(ratio - 1 - high), abs(ratio - 1 + low)) < 1e-6:
        return
    beyond = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    value, slope = single(ppo_clip, ratio, advantage, clip_low=low, clip_high=high)
    assert slope == pytest.approx(0 if beyond else -advantage * ratio)
    pessimistic = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
    assert value == pytest.approx(pessimistic)


@given(ratios, advantages, st.floats(1.3, 10))
def test_the_second_clip_bounds_the_loss_of_bad_tokens_only(ratio, advantage, limit):
    if abs(ratio - limit) < 1e-6:
        return
    once, slope_once = single(ppo_clip, ratio, advantage)
    twice, slope = single(ppo_dual_clip, ratio, advantage, ratio_limit=limit)
    bounded = advantage < 0 and ratio > limit
    assert twice == pytest.approx(-advantage * limit if bounded else once)
    assert slope == pytest.approx(0 if bounded else slope_once)


@given(st.floats(0, 10))
def test_a_weight_multiplies_the_advantage(factor):
    """Positive homogeneity: w L(A) = L(w A), so that importance weights enter through the advantage."""
    call = token_batch(5)
    scaled = {**call, "advantage": factor * call["advantage"]}
    for function in (ppo_clip, ppo_dual_clip, dapo):
        torch.testing.assert_close(function(**scaled)[0], factor * function(**call)[0])


@pytest.mark.parametrize(
    ("function", "settings", "short", "long"),
    [
        (ppo_clip, {"aggregation": "sequence-mean"}, 1 / 2 / 2, 1 / 8 / 2),
        (ppo_clip, {"aggregation": "token-mean"}, 1 / 10, 1 / 10),
        (dapo, {}, 1 / 10, 1 / 10),
        (dr_grpo, {"longest": 16}, 1 / 16 / 2, 1 / 16 / 2),
    ],
)
def test_what_a_token_weighs_in_outputs_of_2_and_8_tokens(function, settings, short, long):
    """The survey's fact: 0.25 and 0.0625 for GRPO, 0.1 for token means, 0.031 for Dr. GRPO with 16."""
    mask = torch.arange(8) < torch.tensor([[2], [8]])
    log_prob = torch.zeros(2, 8, dtype=torch.float64)
    call = {"token_log_prob": log_prob, "old_token_log_prob": log_prob, "mask": mask}
    call["advantage"] = -torch.ones(2, 1, dtype=torch.float64)
    slope = ours(function, call, **settings)[1]
    torch.testing.assert_close(slope, torch.where(mask, torch.tensor([[short], [long]]).double(), 0))


def test_groups_of_equal_rewards_have_no_gradient_and_leaving_them_out_rescales():
    reward = torch.tensor([[1, 0], [1, 1]], dtype=torch.float64)
    call = token_batch(4, advantage=grpo_advantage(reward).reshape(-1, 1))
    slope = ours(ppo_clip, call, aggregation="sequence-mean")[1]
    assert (slope[2:] == 0).all()
    assert slope[:2].abs().sum() > 0
    rows = informative_groups(reward).repeat_interleave(2)
    kept = {name: value[rows] for name, value in call.items()}
    torch.testing.assert_close(ours(ppo_clip, kept, aggregation="sequence-mean")[1], 2 * slope[:2])


def test_on_policy_every_surrogate_has_the_policy_gradient():
    call = token_batch(5)
    call["old_token_log_prob"] = call["token_log_prob"]
    plain = {name: value for name, value in call.items() if name != "old_token_log_prob"}
    expected = ours(policy_gradient, plain, aggregation="token-mean")[1]
    for function in (ppo_clip, ppo_dual_clip, dapo, trpo_surrogate):
        torch.testing.assert_close(ours(function, call)[1], expected)


def test_the_general_reduces_to_the_special():
    call = token_batch(5)
    with_reference = token_batch(5, reference=True)
    agree(ours(ppo_clip, call, clip_high=0.28), ours(dapo, call))
    agree(ours(ppo_dual_clip, call, ratio_limit=1e9), ours(ppo_clip, call))
    agree(ours(grpo, with_reference, beta=0.0), ours(ppo_clip, call, aggregation="sequence-mean"))
    agree(ours(dr_grpo, call, longest=7), ours(ppo_clip, call, aggregation=7.0))
    agree(ours(ppo_clip, call, clip_low=1.0, clip_high=1e9), ours(trpo_surrogate, call))


def test_grpo_adds_beta_times_k3():
    call = token_batch(5, reference=True)
    without = grpo(**call, beta=0.0)[0]
    divergence = kl_k3(call["token_log_prob"], call["ref_token_log_prob"], MASK)
    torch.testing.assert_close(grpo(**call, beta=0.3)[0], without + 0.3 * divergence.sum(-1) / MASK.sum(-1))


@pytest.mark.parametrize("per", ["token", "output"])
@pytest.mark.parametrize("clip_high", [0.2, 0.28])
class TestTRL:
    """GRPOTrainer._compute_loss of TRL on the same numbers; TRL has no bound on log-ratios, which ours do not reach here."""

    def test_grpo(self, per, clip_high):
        call = token_batch(5, per=per, reference=True)
        theirs = trl_grpo(call, loss_type="grpo", beta=0.04, epsilon_high=clip_high)
        agree(ours(grpo, call, clip_high=clip_high), theirs)

    def test_bnpo(self, per, clip_high):
        call = token_batch(5, per=per)
        agree(ours(ppo_clip, call, clip_high=clip_high), trl_grpo(call, loss_type="bnpo", epsilon_high=clip_high))

    def test_dr_grpo(self, per, clip_high):
        call = token_batch(5, per=per)
        theirs = trl_grpo(call, loss_type="dr_grpo", epsilon_high=clip_high, max_completion_length=16)
        agree(ours(dr_grpo, call, longest=16, clip_high=clip_high), theirs)

    def test_dapo(self, per, clip_high):
        call = token_batch(5, per=per)
        agree(ours(dapo, call, clip_high=clip_high), trl_grpo(call, loss_type="dapo", epsilon_high=clip_high))

    def test_two_sided_clipping_is_the_dual_clip(self, per, clip_high):
        call = token_batch(5, per=per)
        theirs = trl_grpo(call, loss_type="bnpo", delta=1.5, epsilon_high=clip_high)
        agree(ours(ppo_dual_clip, call, ratio_limit=1.5, clip_high=clip_high), theirs)


def loops(call, *, low, high, limit):
    """verl's and OpenRLHF's dual-clip loss, token by token in NumPy's float64, averaged over tokens."""
    total, count = 0.0, 0
    for n, t in call["mask"].nonzero().tolist():
        log_ratio = call["token_log_prob"][n, t].item() - call["old_token_log_prob"][n, t].item()
        ratio = math.exp(min(max(log_ratio, -20.0), 20.0))
        advantage = call["advantage"][n, t].item()
        loss = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
        total += min(loss, -advantage * limit) if advantage < 0 else loss
        count += 1
    return total / count


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_verl_and_openrlhf_in_numpy(spread):
    """With a spread of 30 some log-ratios lie beyond the bound of 20, which both have."""
    call = token_batch(5)
    call["old_token_log_prob"] = call["token_log_prob"] + normal(5, 6, seed=8, scale=spread)
    loss = ours(ppo_dual_clip, call, clip_high=0.3)[0].item()
    assert loss == pytest.approx(loops(call, low=0.2, high=0.3, limit=3.0))
    loss = ours(ppo_clip, call, clip_high=0.3)[0].item()
    assert loss == pytest.approx(loops(call, low=0.2, high=0.3, limit=math.inf))
