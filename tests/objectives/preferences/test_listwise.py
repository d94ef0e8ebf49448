"""List objectives: the papers' sums in loops, what they become for two outputs, ties, and what other libraries compute."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import dcg_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from objectives.contract import Case, lengths_mask, normal, uniform
from objectives.trl_peer import trl_dpo_each
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.listwise import (
    lipo_lambda,
    list_mle,
    list_softmax,
    pair_hinge,
    pair_logistic,
    pointwise_sigmoid,
    pointwise_squared,
)
from plaudit.objectives.reward_models import bradley_terry

K = 5
MASK = lengths_mask(5, K, seed=0)
LABEL = torch.tensor(
    [
        [0.0, 0.25, 0.5, 0.75, 1.0],
        [0.5, 1.0, 0.5, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.3, 0.3, 0.3, 0.3, 0.3],
        [0.9, 0.1, 0.7, 0.7, 0.2],
    ],
    dtype=torch.float64,
)


def lists(rows, **call):
    return {"score": normal(5, K, seed=1)[:rows], "label": LABEL[:rows], "mask": MASK[:rows], **call}


def whole(make, rows):
    """The call without a mask."""
    call = make(rows)
    del call["mask"]
    return call


SCORED = {
    "differentiable": ("score",),
    "extreme": ("score",),
    "masks": {"mask": ("score", "label")},
    "exchangeable": "K",
}
CASES = [
    *(
        Case(function, lambda rows, how=how: lists(rows, outputs=how), name=how, **SCORED, invalid={"outputs": ["max"]})
        for function in (pointwise_squared, pointwise_sigmoid)
        for how in ("sum", "mean")
    ),
    *(
        Case(
            function,
            lambda rows, how=how: lists(rows, pairs=how),
            name=how,
            **SCORED,
            invalid={"pairs": ["max"]},
        )
        for function in (pair_logistic, pair_hinge, lipo_lambda)
        for how in ("sum", "mean")
    ),
    *(Case(function, lists, **SCORED) for function in (list_mle, list_softmax)),
    *(
        Case(
            function,
            lambda rows: whole(lists, rows),
            name="whole lists",
            differentiable=("score",),
            exchangeable="K",
        )
        for function in (pair_logistic, lipo_lambda, list_mle, list_softmax, pointwise_squared)
    ),
]

scores = st.lists(st.floats(-20, 20), min_size=2, max_size=6)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def trl_dpo(log_ratio_chosen, log_ratio_rejected, beta, loss_type="sigmoid"):
    """TRL's own loss of each pair, on outputs of a single token."""
    per_token = torch.cat([log_ratio_chosen, log_ratio_rejected])[:, None]
    mask = torch.ones_like(per_token, dtype=torch.bool)
    return trl_dpo_each(loss_type, per_token, torch.zeros_like(per_token), mask, beta=beta)


def rows_of(call):
    """Each list as NumPy arrays without the masked outputs."""
    first = next(iter(call.values()))
    mask = call.get("mask", torch.ones_like(first, dtype=torch.bool))
    names = [name for name, value in call.items() if isinstance(value, torch.Tensor) and name != "mask"]
    for index, keep in enumerate(mask):
        yield [call[name][index][keep].numpy() for name in names]


def expect(function, call, slow, **tolerance):
    expected = torch.tensor([slow(*arrays) for arrays in rows_of(call)], dtype=torch.float64)
    torch.testing.assert_close(function(**call), expected, **tolerance)


def pairs_of(label):
    return [(i, j) for i, j in itertools.permutations(range(len(label)), 2) if label[i] > label[j]]


# --- examples and definitions


def test_the_docstrings_examples():
    assert pointwise_squared(row(1, 0), row(0.5, 0.5)).item() == pytest.approx(0.5)
    assert pointwise_sigmoid(row(0), row(0.3)).item() == pytest.approx(math.log(2))
    assert pointwise_sigmoid(row(math.log(3)), row(1)).item() == pytest.approx(-math.log(3 / 4))
    assert pair_logistic(row(1, 0, 0), row(1, 0, 0)).item() == pytest.approx(2 * math.log(1 + math.exp(-1)))
    assert pair_hinge(row(0.5, 0), row(1, 0)).item() == pytest.approx(0.5)
    assert list_mle(row(0, 0, 0), row(3, 1, 2)).item() == pytest.approx(math.log(6))
    assert list_softmax(row(1, 1, 1), row(1, 0, 5)).item() == pytest.approx(math.log(3))
    swap = 1 / math.log(2) - 1 / math.log(3)
    assert lipo_lambda(row(1, 0), row(1, 0)).item() == pytest.approx(swap * math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_pair_objectives_are_sums_over_pairs(how):
    call = lists(5, pairs=how)

    def over_pairs(term):
        def slow(score, label):
            terms = [term(score[i] - score[j]) for i, j in pairs_of(label)]
            return sum(terms) / (len(terms) if how == "mean" and terms else 1)

        return slow

    expect(pair_logistic, call, over_pairs(lambda d: math.log(1 + math.exp(-d))))
    expect(pair_hinge, call, over_pairs(lambda d: max(0.0, 1 - d)))


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_pointwise_objectives_are_torchs(how):
    call = lists(5, outputs=how)
    for index, (score, label) in enumerate(rows_of(call)):
        given_label = torch.tensor(label)
        squared = mse_loss(torch.tensor(score), given_label, reduction=how)
        torch.testing.assert_close(pointwise_squared(**call)[index], squared)
        logistic = binary_cross_entropy_with_logits(torch.tensor(score), given_label, reduction=how)
        torch.testing.assert_close(pointwise_sigmoid(**call)[index], logistic)


def test_list_softmax_is_torchs_cross_entropy_with_shares():
    def slow(score, label):
        return cross_entropy(torch.tensor(score), torch.tensor(label / label.sum())) if label.sum() else 0.0

    expect(list_softmax, lists(5), slow)
    assert list_softmax(row(3, -1), row(0, 0)).item() == 0


def test_negative_labels_are_no_shares():
    with pytest.raises(ValueError, match=r"label: expected labels >= 0, got -0.5"):
        list_softmax(row(3, -1), row(1, -0.5))


# --- lists of two: DPO


def test_a_list_of_two_is_dpo_and_trls():
    """K = 2: pair-logistic = list MLE = softmax on (1, 0) = DPO; LiPO-λ is it times a constant; hinge is TRL's hinge."""
    beta = 0.3
    log_ratio = normal(6, 2, seed=7, scale=3)
    label = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(6, 2)
    expected = dpo(log_ratio[:, 0], log_ratio[:, 1], beta=beta)
    torch.testing.assert_close(trl_dpo(log_ratio[:, 0], log_ratio[:, 1], beta), expected)
    for function in (pair_logistic, list_mle, list_softmax):
        torch.testing.assert_close(function(beta * log_ratio, label), expected)
        turned = function(beta * log_ratio.flip(1), label.flip(1))
        torch.testing.assert_close(turned, expected)
    hinge = trl_dpo(log_ratio[:, 0], log_ratio[:, 1], beta, loss_type="hinge")
    torch.testing.assert_close(pair_hinge(beta * log_ratio, label), hinge)


def test_with_two_grades_lambda_is_proportional_to_dpo():
    """Swapping two outputs always exchanges ranks 1 and 2: Δ = (2^a - 2^b) (1/log 2 - 1/log 3), whatever the scores."""
    log_ratio, (a, b) = normal(6, 2, seed=7, scale=3), (0.8, 0.1)
    log_ratio[0] = 0.0
    label = torch.tensor([[a, b]], dtype=torch.float64).expand(6, 2)
    constant = (2**a - 2**b) * (1 / math.log(2) - 1 / math.log(3))
    expected = constant * dpo(log_ratio[:, 0], log_ratio[:, 1], beta=0.3)
    torch.testing.assert_close(lipo_lambda(0.3 * log_ratio, label), expected)


def test_pair_means_are_instructgpts_reward_model_loss():
    """Bradley-Terry averaged over the K (K - 1) / 2 pairs of a strict ranking."""
    score, label = normal(1, 4, seed=3), row(3, 1, 2, 0)
    terms = [bradley_terry(score[:, i], score[:, j]) for i, j in pairs_of(label[0])]
    assert len(terms) == 4 * 3 / 2
    torch.testing.assert_close(pair_logistic(score, label, pairs="mean"), torch.stack(terms).mean(0))


# --- symmetries


@pytest.mark.parametrize("function", [pair_logistic, pair_hinge, list_mle, list_softmax, lipo_lambda])
@given(values=scores, shift=st.floats(-30, 30))
@settings(max_examples=25, deadline=None)
def test_only_differences_of_scores_matter(function, values, shift):
    score = row(*(round(value, 3) for value in values))  # a shift must not break or make ties
    label = torch.arange(len(values), dtype=torch.float64)[None] / len(values)
    torch.testing.assert_close(function(score + round(shift), label), function(score, label), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "function", [pointwise_squared, pair_logistic, pair_hinge, list_mle, list_softmax, lipo_lambda]
)
def test_permuting_the_list_permutes_the_gradients(function):
    order = [3, 0, 4, 1, 2]
    call = whole(lists, 5)
    gradient = []
    for arrangement in (list(range(K)), order):
        score = call["score"][:, arrangement].clone().requires_grad_()
        function(score, call["label"][:, arrangement]).sum().backward()
        gradient.append(score.grad)
    torch.testing.assert_close(gradient[1], gradient[0][:, order])


@pytest.mark.parametrize("function", [pair_logistic, pair_hinge, list_mle, lipo_lambda])
def test_equal_labels_say_nothing(function):
    score = row(3, -1, 2).requires_grad_()
    loss = function(score, row(0.5, 0.5, 0.5))
    loss.sum().backward()
    assert loss.item() == 0
    assert (score.grad == 0).all()


# --- Plackett and Luce


def test_list_mle_is_plackett_luce_on_strict_rankings():
    label = torch.tensor([[3.0, 1, 2, 5, 4]] * 5, dtype=torch.float64)
    call = {"score": normal(5, K, seed=1), "label": label, "mask": MASK}

    def slow(score, label):
        best_first = score[np.argsort(-label)]
        return -sum(s - np.log(np.exp(best_first[k:]).sum()) for k, s in enumerate(best_first))

    expect(list_mle, call, slow)


def test_plackett_luces_probabilities_of_all_rankings_add_up_to_one():
    score = normal(1, 4, seed=5).expand(24, 4)
    label = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.float64)
    assert torch.exp(-list_mle(score, label)).sum().item() == pytest.approx(1)


def test_best_of_a_list_is_softmax_cross_entropy():
    score = normal(6, 4, seed=5)
    best = torch.tensor([0, 1, 2, 3, 0, 1])
    label = torch.nn.functional.one_hot(best, 4).double()
    torch.testing.assert_close(list_mle(score, label), cross_entropy(score, best, reduction="none"))


# --- LiPO-λ


def slow_lambda(score, label):
    """In loops, with the mean of Δ over all ways to order tied scores."""
    orders = [order for order in itertools.permutations(range(len(score))) if all(np.diff(score[list(order)]) <= 0)]
    total = 0.0
    for i, j in pairs_of(label):
        gain = abs((2 ** label[i] - 1) - (2 ** label[j] - 1))
        swaps = [abs(1 / math.log(1 + 1 + order.index(i)) - 1 / math.log(1 + 1 + order.index(j))) for order in orders]
        total += gain * np.mean(swaps) * math.log(1 + math.exp(-(score[i] - score[j])))
    return total


def test_lambda_is_the_papers_sum():
    expect(lipo_lambda, lists(5), slow_lambda)


def test_a_pairs_weight_is_what_the_swap_changes_in_sklearns_dcg():
    """In natural logarithms: scikit-learn's discount is of base 2."""
    score, label = normal(1, 6, seed=8), uniform(1, 6, seed=9)
    gain, s = (2**label - 1).numpy(), score[0].tolist()
    expected = 0.0
    for i, j in pairs_of(label[0]):
        swapped = score.clone()
        swapped[0, [i, j]] = score[0, [j, i]]
        change = abs(dcg_score(gain, score.numpy()) - dcg_score(gain, swapped.numpy())) / math.log(2)
        expected += change * math.log(1 + math.exp(s[j] - s[i]))
    assert lipo_lambda(score, label).item() == pytest.approx(expected)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_tied_scores_share_the_mean_over_their_orders(values):
    label = np.arange(len(values)) / len(values)
    ours = lipo_lambda(row(*values), torch.tensor(label)[None])
    assert ours.item() == pytest.approx(slow_lambda(np.array(values), label))


def test_training_begins_although_all_scores_are_equal():
    """At the reference all scores are 0; average ranks would give every pair the weight 0."""
    score = row(0, 0, 0).requires_grad_()
    lipo_lambda(score, row(1, 0.5, 0)).sum().backward()
    assert score.grad[0, 0] < 0 < score.grad[0, 2]
    gains = (2**1 - 2**0.5, 2**1 - 2**0, 2**0.5 - 2**0)
    swap = np.mean([abs(1 / math.log(1 + a) - 1 / math.log(1 + b)) for a, b in itertools.combinations((1, 2, 3), 2)])
    assert score.grad[0, 0].item() == pytest.approx(-0.5 * swap * (gains[0] + gains[1]))


def test_lambdas_gradient_treats_the_weights_as_constants():
    """∂L/∂s_i of one pair is -Δ σ(-(s_i - s_j)): no term from the ranks."""
    score, label = row(0.3, 1.2, -0.7).requires_grad_(), row(1, 0.5, 0)
    lipo_lambda(score, label).sum().backward()
    expected = np.zeros(3)
    s, ranks = score.detach()[0].numpy(), [2, 1, 3]
    for i, j in pairs_of(label[0]):
        swap = abs(1 / math.log(1 + ranks[i]) - 1 / math.log(1 + ranks[j]))
        slope = abs(2 ** label[0, i].item() - 2 ** label[0, j].item()) * swap / (1 + math.exp(s[i] - s[j]))
        expected[i] -= slope
        expected[j] += slope
    torch.testing.assert_close(score.grad[0], torch.tensor(expected))


def test_ranks_come_from_the_scores_and_not_from_the_labels():
    """The best output on rank 2 of 3: its pairs are weighted by ranks 1, 2 and 2, 3."""
    first = (1 / math.log(2) - 1 / math.log(3)) * math.log(1 + math.exp(0.1))
    second = (1 / math.log(3) - 1 / math.log(4)) * math.log(1 + math.exp(-1.9))
    assert lipo_lambda(row(2, 0, 1.9), row(0, 0, 1)).item() == pytest.approx(first + second)


def test_empty_lists_have_loss_0():
    nothing = torch.zeros(2, 0, dtype=torch.float64)
    for function in (pair_logistic, list_mle, list_softmax, lipo_lambda, pointwise_squared):
        assert function(nothing, nothing).tolist() == [0, 0]
