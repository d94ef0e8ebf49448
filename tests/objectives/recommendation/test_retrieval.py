"""DDRO, constrained identifiers and list-wide labels: DPO, a trie's probabilities, and RankFormer's losses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.imitation import negative_log_likelihood
from plaudit.objectives.preferences import dpo
from plaudit.objectives.recommendation.retrieval import (
    constrained_token_log_prob,
    ddro,
    list_quality,
    listwide_ordinal,
    pistis_alignment,
    rankformer_listwise,
)
from plaudit.objectives.reward_models import bradley_terry

CHOSEN, REF_CHOSEN = uniform(5, 4, seed=1, low=0.05).log(), uniform(5, 4, seed=2, low=0.05).log()
REJECTED, REF_REJECTED = uniform(5, 6, seed=3, low=0.05).log(), uniform(5, 6, seed=4, low=0.05).log()
MASK_CHOSEN, MASK_REJECTED = lengths_mask(5, 4, seed=1), lengths_mask(5, 6, seed=2)
SCORE, LOGITS = normal(5, 4, seed=5), normal(5, 3, seed=6)
GAIN = torch.tensor([[1, 0, 2, 0], [0, 0, 0, 0], [3, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
LEVEL = torch.tensor([3, 0, 2, 1, 3])
MASK = lengths_mask(5, 4, seed=7)
LIKELIHOOD = ("token_log_prob_chosen", "token_log_prob_rejected")
CONSTANT = ("ref_token_log_prob_chosen", "ref_token_log_prob_rejected")
VOCABULARY = normal(4, 3, 5, seed=8)
TOKEN = torch.tensor([[0, 3, 1], [2, 2, 2], [4, 0, 0], [1, 1, 3]])
ALLOWED = (uniform(4, 3, 5, seed=9) < 0.5).scatter(-1, TOKEN[..., None], True)
TOKENS = torch.tensor([[True, True, True], [True, True, False], [True, False, True], [False, False, False]])


def docids(rows, **more):
    return {
        "token_log_prob_chosen": CHOSEN[:rows],
        "ref_token_log_prob_chosen": REF_CHOSEN[:rows],
        "mask_chosen": MASK_CHOSEN[:rows],
        "token_log_prob_rejected": REJECTED[:rows],
        "ref_token_log_prob_rejected": REF_REJECTED[:rows],
        "mask_rejected": MASK_REJECTED[:rows],
        **more,
    }


def lists(rows, *, masked=True, **more):
    return {"score": SCORE[:rows], "gain": GAIN[:rows], "mask": MASK[:rows] if masked else None, **more}


def steps(rows):
    index = torch.arange(rows) % 4
    return {"logits": VOCABULARY[index], "token": TOKEN[index], "allowed": ALLOWED[index], "mask": TOKENS[index]}


quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
CASES = [
    *(
        Case(
            ddro,
            lambda rows, weight=weight: docids(rows, beta=0.3, likelihood_weight=weight),
            name=name,
            differentiable=LIKELIHOOD,
            extreme=(*LIKELIHOOD, *CONSTANT),
            masks={
                "mask_chosen": ("token_log_prob_chosen", "ref_token_log_prob_chosen"),
                "mask_rejected": ("token_log_prob_rejected", "ref_token_log_prob_rejected"),
            },
            invalid={"beta": [0.0, -1.0, math.nan], "likelihood_weight": [-0.1, math.nan]},
            low_precision=64.0,  # sums of differences of rounded log-probabilities
        )
        for name, weight in {"paper": 0.0, "likelihood": 0.5}.items()
    ),
    Case(constrained_token_log_prob, steps, differentiable=("logits",), extreme=("logits",)),
    *(
        Case(
            rankformer_listwise,
            lambda rows, masked=masked, how=how: lists(rows, masked=masked, item_reduction=how),
            name=f"{how}-{'masked' if masked else 'all'}",
            differentiable=("score",),
            extreme=("score",),
            masks={"mask": ("score", "gain")} if masked else {},
            exchangeable="K",
            invalid={"item_reduction": ["max"]},
        )
        for masked in (True, False)
        for how in ("mean", "sum")
    ),
    Case(
        listwide_ordinal,
        lambda rows: {"list_logit": LOGITS[:rows], "level": LEVEL[:rows]},
        differentiable=("list_logit",),
        extreme=("list_logit",),
    ),
    Case(
        list_quality,
        lambda rows: {"list_logit": LOGITS[:rows]},
        differentiable=("list_logit",),
        extreme=("list_logit",),
    ),
    *(
        Case(
            pistis_alignment,
            lambda rows, how=how: lists(
                rows, list_logit=LOGITS[:rows], level=LEVEL[:rows], listwide_weight=0.5, item_reduction=how
            ),
            name=how,
            differentiable=("score", "list_logit"),
            extreme=("score", "list_logit"),
            masks={"mask": ("score", "gain")},
            exchangeable="K",
            invalid={"listwide_weight": [-0.1, math.nan], "item_reduction": ["max"]},
        )
        for how in ("mean", "sum")
    ),
]


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_the_docstrings_examples():
    two, one = torch.tensor([[True, True]]), torch.tensor([[True]])
    loss = ddro(row(-0.5, -0.5), row(-1, -1), two, row(-2), row(-1), one, beta=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    allowed = torch.tensor([[[True, True, False]]])
    for token in (0, 1):
        index = torch.tensor([[token]])
        value = constrained_token_log_prob(row(0, 0, 5)[None], index, allowed, one)
        assert value.item() == pytest.approx(-math.log(2))
    value, weight = rankformer_listwise(row(0, 0), row(1, 0))
    assert value.item() == pytest.approx(math.log(2) / 2)
    assert weight.item() == 1
    for level in range(4):
        assert listwide_ordinal(row(0, 0, 0), torch.tensor([level])).item() == pytest.approx(math.log(2))
    assert list_quality(row(0, 0, 0)).item() == pytest.approx(3 / 2)
    both = pistis_alignment(row(0, 0), row(1, 0), row(0), torch.tensor([1]), listwide_weight=1.0)
    assert both.item() == pytest.approx(math.log(2) / 2 + math.log(2))


def test_ddro_is_dpo_on_summed_log_ratios():
    chosen = torch.where(MASK_CHOSEN, CHOSEN - REF_CHOSEN, 0).sum(-1)
    rejected = torch.where(MASK_REJECTED, REJECTED - REF_REJECTED, 0).sum(-1)
    torch.testing.assert_close(ddro(**docids(5, beta=0.4)), dpo(chosen, rejected, beta=0.4))
    torch.testing.assert_close(ddro(**docids(5)), dpo(chosen, rejected, beta=0.4))


def test_a_model_that_is_its_reference_has_loss_log_2():
    call = docids(5) | {"ref_token_log_prob_chosen": CHOSEN, "ref_token_log_prob_rejected": REJECTED}
    torch.testing.assert_close(ddro(**call), torch.full((5,), math.log(2)).double())


def test_the_likelihood_term_is_the_supervised_stages_loss():
    term, _ = negative_log_likelihood(CHOSEN, MASK_CHOSEN, aggregation="sequence-sum")
    torch.testing.assert_close(ddro(**docids(5, likelihood_weight=0.7)), ddro(**docids(5)) + 0.7 * term)


def test_ddros_gradient_is_the_papers():
    """-β σ(r̂⁻ - r̂⁺) on each token of d⁺, the opposite on each of d⁻."""
    call, beta = docids(5), 0.4
    call |= {name: call[name].clone().requires_grad_() for name in LIKELIHOOD}
    ddro(**call).sum().backward()
    chosen = torch.where(MASK_CHOSEN, CHOSEN - REF_CHOSEN, 0).sum(-1)
    rejected = torch.where(MASK_REJECTED, REJECTED - REF_REJECTED, 0).sum(-1)
    slope = beta * torch.sigmoid(beta * (rejected - chosen))[:, None]
    torch.testing.assert_close(call["token_log_prob_chosen"].grad, torch.where(MASK_CHOSEN, -slope, 0))
    torch.testing.assert_close(call["token_log_prob_rejected"].grad, torch.where(MASK_REJECTED, slope, 0))


def test_a_tries_identifiers_have_probabilities_that_add_up_to_one():
    """Every identifier of a small trie, scored under logits that depend on the prefix."""
    identifiers = [(0, 1), (0, 2), (2, 1), (2, 0), (2, 2)]
    generator = torch.Generator().manual_seed(0)
    logits = {prefix: torch.randn(3, generator=generator).double() for prefix in [(), (0,), (2,)]}
    total = 0.0
    for identifier in identifiers:
        prefixes = [identifier[:t] for t in range(2)]
        allowed = torch.tensor(
            [
                [
                    [any(other[: t + 1] == (*identifier[:t], v) for other in identifiers) for v in range(3)]
                    for t in range(2)
                ]
            ]
        )
        log_prob = constrained_token_log_prob(
            torch.stack([logits[prefix] for prefix in prefixes])[None],
            torch.tensor([identifier]),
            allowed,
            torch.ones(1, 2, dtype=torch.bool),
        )
        total += log_prob.sum().exp().item()
    assert total == pytest.approx(1)


def test_with_everything_allowed_it_is_the_usual_log_prob():
    everything = torch.ones_like(ALLOWED)
    usual = log_softmax(VOCABULARY, -1).gather(-1, TOKEN[..., None]).squeeze(-1)
    ours = constrained_token_log_prob(VOCABULARY, TOKEN, everything, TOKENS)
    torch.testing.assert_close(ours, torch.where(TOKENS, usual, 0))
    assert (constrained_token_log_prob(VOCABULARY, TOKEN, ALLOWED, TOKENS) >= ours - 1e-12).all()


@pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf])
def test_what_the_trie_or_the_mask_excludes_is_not_read(hidden):
    results = []
    for value in (0.0, hidden):
        logits = torch.where(ALLOWED & TOKENS[..., None], VOCABULARY, value).requires_grad_()
        loss = constrained_token_log_prob(logits, torch.where(TOKENS, TOKEN, -100), ALLOWED, TOKENS)
        loss.sum().backward()
        results.append((loss.detach(), logits.grad))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
        assert dirty.isfinite().all()


def test_a_token_outside_the_trie_is_an_error():
    with pytest.raises(ValueError, match=r"^allowed: expected every token of an identifier to be allowed"):
        constrained_token_log_prob(VOCABULARY, TOKEN, torch.zeros_like(ALLOWED), TOKENS)


def official_rankformer(scores, gains, list_logits, alpha):
    """loss.py and model.py over a batch of lists, as loops: mean over items, zero losses dropped, largest gain as label."""
    ranks = [-(torch.log_softmax(s, -1) * g).mean() for s, g in zip(scores, gains, strict=True)]
    ranks = [loss for loss in ranks if abs(loss) > 0]
    wide = []
    for logit, gain in zip(list_logits, gains, strict=True):
        target = torch.tensor([float(gain.max() > c) for c in range(len(logit))]).double()
        wide.append(binary_cross_entropy_with_logits(logit, target))
    return sum(ranks) / len(ranks) + alpha * sum(wide) / len(wide)


def test_the_parts_are_rankformers_loss():
    mask, alpha = lengths_mask(5, 4, seed=3, shortest=2), 0.3
    scores = [s[m] for s, m in zip(SCORE, mask, strict=True)]
    gains = [g[m] for g, m in zip(GAIN, mask, strict=True)]
    level = torch.tensor([int(g.max()) for g in gains])
    value, weight = rankformer_listwise(SCORE, GAIN, mask)
    ours = (value * weight).sum() / weight.sum() + alpha * listwide_ordinal(LOGITS, level).mean()
    torch.testing.assert_close(ours, official_rankformer(scores, gains, LOGITS, alpha))
    assert 0 < weight.sum() < 5


def test_alignment_is_the_sum_of_its_parts():
    for how in ("mean", "sum"):
        value, _ = rankformer_listwise(SCORE, GAIN, MASK, item_reduction=how)
        expected = value + 0.5 * listwide_ordinal(LOGITS, LEVEL)
        call = lists(5, list_logit=LOGITS, level=LEVEL, listwide_weight=0.5, item_reduction=how)
        torch.testing.assert_close(pistis_alignment(**call), expected)


def test_a_list_without_a_relevant_item_still_learns_from_its_label():
    score, logit = SCORE.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    pistis_alignment(score, torch.zeros_like(GAIN), logit, LEVEL).sum().backward()
    assert (score.grad == 0).all()
    assert (logit.grad != 0).all()


def test_one_level_is_a_logistic_loss_as_scikit_learn_has_it():
    logit, level = normal(6, 1, seed=1), torch.tensor([0, 1, 1, 0, 1, 0])
    loss = listwide_ordinal(logit, level).mean().item()
    assert loss == pytest.approx(log_loss(level.numpy(), torch.sigmoid(logit[:, 0]).numpy()))


def test_the_best_ordinal_fit_is_the_share_above_each_level():
    """At g_c = logit P(t > c) the expected gradient vanishes, and the quality is the mean label."""
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)  # P(t = 0 ... 3)
    above = torch.stack([share[c + 1 :].sum() for c in range(3)])
    logit = torch.logit(above)[None].requires_grad_()
    expected = sum(p * listwide_ordinal(logit, torch.tensor([t])) for t, p in enumerate(share))
    expected.sum().backward()
    torch.testing.assert_close(logit.grad, torch.zeros_like(logit), atol=1e-12, rtol=0)
    assert list_quality(logit).item() == pytest.approx((share * torch.arange(4)).sum().item())


@quick
@given(st.lists(st.floats(-6, 6), min_size=3, max_size=3), st.lists(st.floats(-6, 6), min_size=3, max_size=3))
def test_two_lists_are_compared_by_their_quality(kept, replaced):
    a, b = list_quality(row(*kept)), list_quality(row(*replaced))
    loss = bradley_terry(a, b).item()
    assert (loss < math.log(2)) == (a.item() > b.item()) or loss == pytest.approx(math.log(2))


@pytest.mark.parametrize("level", [-1, 4])
def test_a_level_has_its_range(level):
    with pytest.raises(ValueError, match=r"level: expected whole numbers in 0 \.\.\. 3"):
        listwide_ordinal(row(0, 0, 0), torch.tensor([level]))


def test_a_shift_of_all_scores_changes_no_list():
    for shift, how in itertools.product((-3.0, 5.0), ("mean", "sum")):
        moved, _ = rankformer_listwise(SCORE + shift, GAIN, MASK, item_reduction=how)
        torch.testing.assert_close(moved, rankformer_listwise(SCORE, GAIN, MASK, item_reduction=how)[0])
