"""Process reward models: torch's cross-entropies on the labelled steps, and four ways from steps to an output's score."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.reward_models.process_rewards import (
    last_of_steps,
    mean_of_steps,
    minimum_of_steps,
    product_of_steps,
    step_classification,
    step_cross_entropy,
    step_regression,
    until_first_error,
)
from plaudit.objectives.reward_models.reward_models import outcome_cross_entropy

MASK = lengths_mask(5, 6)
LOGIT, LABEL, WEIGHT = normal(5, 6, seed=1), uniform(5, 6, seed=2), uniform(5, 6, seed=3)
LOGITS = normal(5, 6, 3, seed=4)
CLASSES = torch.randint(3, (5, 6), generator=torch.Generator().manual_seed(5))
CLASS_WEIGHT = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)
LOG_PROB = logsigmoid(LOGIT)
CORRECT = LABEL < 0.7


def steps(rows, **settings):
    return {"step_logit": LOGIT[:rows], "label": LABEL[:rows], "mask": MASK[:rows], **settings}


def classes(rows, **settings):
    return {"step_logits": LOGITS[:rows], "label": CLASSES[:rows], "mask": MASK[:rows], **settings}


def values(rows, weight=False, **settings):
    call = {"step_score": LOGIT[:rows], "target": LABEL[:rows], "mask": MASK[:rows], **settings}
    return {**call, "step_weight": WEIGHT[:rows]} if weight else call


AGGREGATIONS = ("token-mean", "sequence-mean", "sequence-sum", 3.0)
SCORES = (product_of_steps, minimum_of_steps, last_of_steps, mean_of_steps)
CASES = [
    *(
        Case(
            step_cross_entropy,
            lambda rows, how=how: steps(rows, aggregation=how),
            name=str(how),
            differentiable=("step_logit",),
            extreme=("step_logit",),
            masks={"mask": ("step_logit", "label")},
            invalid={"aggregation": ["mean", 0.0]},
        )
        for how in AGGREGATIONS
    ),
    Case(
        step_classification,
        classes,
        differentiable=("step_logits",),
        extreme=("step_logits",),
        invalid={"aggregation": ["mean", 0.0]},
    ),
    Case(
        step_classification,
        lambda rows: classes(rows, class_weight=CLASS_WEIGHT, aggregation="sequence-sum"),
        name="weighted",
        differentiable=("step_logits",),
        extreme=("step_logits",),
    ),
    Case(
        step_regression,
        values,
        differentiable=("step_score",),
        extreme=("step_score", "target"),
        masks={"mask": ("step_score", "target")},
        invalid={"aggregation": ["mean", 0.0]},
    ),
    Case(
        step_regression,
        lambda rows: values(rows, weight=True),
        name="weighted",
        differentiable=("step_score",),
        extreme=("step_score", "target"),
        masks={"mask": ("step_score", "target", "step_weight")},
    ),
    *(
        Case(
            score,
            lambda rows: {"step_log_prob": LOG_PROB[:rows], "mask": MASK[:rows]},
            differentiable=("step_log_prob",),
            extreme=("step_log_prob",),
            masks={"mask": ("step_log_prob",)},
            exchangeable=None if score is last_of_steps else "T",
        )
        for score in SCORES
    ),
    Case(until_first_error, lambda rows: {"correct": CORRECT[:rows], "mask": MASK[:rows]}),
]


def batch_loss(result):
    value, weight = result
    return (value * weight).sum() / weight.sum()


def test_the_docstrings_examples():
    both = torch.tensor([[True, True]])
    value, weight = step_cross_entropy(torch.tensor([[0.0, math.log(3)]]), torch.ones(1, 2), both)
    assert (value.item(), weight.item()) == (pytest.approx(math.log(8 / 3) / 2), 2)
    logits = torch.tensor([[[0.0, math.log(3)]] * 2])
    value, _ = step_classification(logits, torch.tensor([[1, 0]]), both, aggregation="sequence-sum")
    assert value.item() == pytest.approx(math.log(4 / 3) + math.log(4))
    value, weight = step_regression(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 1.0]]), both)
    assert (value.item(), weight.item()) == (0.625, 2)
    log_prob = torch.tensor([[1 / 2, 1 / 4]]).log()
    expected = (1 / 8, 1 / 4, 1 / 4, 3 / 8)
    assert [score(log_prob, both).exp().item() for score in SCORES] == pytest.approx(expected)
    kept = until_first_error(torch.tensor([[True, False, True, False]]), torch.ones(1, 4, dtype=torch.bool))
    assert kept.tolist() == [[True, True, False, False]]


def test_torch_agrees_on_the_labelled_steps():
    expected = binary_cross_entropy_with_logits(LOGIT[MASK], LABEL[MASK])
    torch.testing.assert_close(batch_loss(step_cross_entropy(**steps(5))), expected)
    squares = (LOGIT[MASK] - LABEL[MASK]).square()
    torch.testing.assert_close(batch_loss(step_regression(**values(5))), squares.mean())
    weighted = batch_loss(step_regression(**values(5, weight=True)))
    torch.testing.assert_close(weighted, (WEIGHT[MASK] * squares).mean())


def test_classification_is_transformers_token_classification():
    """What TRL's PRMTrainer did: labels of -100 wherever no step ends."""
    labels = CLASSES.masked_fill(~MASK, -100)
    expected = cross_entropy(LOGITS.flatten(0, 1), labels.flatten())
    ours = step_classification(LOGITS, labels, MASK)
    torch.testing.assert_close(batch_loss(ours), expected)


def test_class_weights_are_torchs_without_its_division_by_the_sum_of_weights():
    theirs = cross_entropy(LOGITS[MASK], CLASSES[MASK], weight=CLASS_WEIGHT, reduction="sum") / MASK.sum()
    torch.testing.assert_close(batch_loss(step_classification(**classes(5, class_weight=CLASS_WEIGHT))), theirs)


def test_what_a_mask_hides_has_no_influence_on_classification():
    """The contract's check covers arguments with the mask's own shape; these logits have one axis more."""
    for hidden in (math.nan, math.inf):
        logits = torch.where(MASK[..., None], LOGITS, hidden).requires_grad_()
        loss = batch_loss(step_classification(logits, CLASSES.masked_fill(~MASK, -100), MASK))
        loss.backward()
        torch.testing.assert_close(loss.detach(), batch_loss(step_classification(**classes(5))))
        assert (logits.grad[~MASK] == 0).all()
    value, weight = step_classification(torch.full_like(LOGITS, math.nan), CLASSES, torch.zeros_like(MASK))
    assert value.eq(0).all()
    assert weight.eq(0).all()


def test_two_classes_are_one_score():
    """OpenRLHF's soft labels: cross-entropy between the logits of two words and (y, 1 - y)."""
    logits = LOGITS[..., :2]
    one = step_cross_entropy(logits[..., 1] - logits[..., 0], (CLASSES == 1).double(), MASK)
    two = step_classification(logits, (CLASSES == 1).long(), MASK)
    torch.testing.assert_close(batch_loss(one), batch_loss(two))
    target = torch.stack([1 - LABEL, LABEL], -1)[MASK]
    soft = step_cross_entropy(logits[..., 1] - logits[..., 0], LABEL, MASK)
    torch.testing.assert_close(batch_loss(soft), cross_entropy(logits[MASK], target))


def test_one_step_is_an_outcome():
    value, weight = step_cross_entropy(LOGIT[:, :1], LABEL[:, :1], torch.ones(5, 1, dtype=torch.bool))
    torch.testing.assert_close(value, outcome_cross_entropy(LOGIT[:, 0], LABEL[:, 0]))
    assert (weight == 1).all()


def test_scores_are_those_of_the_probabilities():
    """Against plain products, minima, last ones and means of probabilities, row by row."""
    probability = LOG_PROB.exp()
    rows = [probability[row][MASK[row]] for row in range(5)]
    for score, plain in zip(SCORES, (torch.prod, torch.min, lambda kept: kept[-1], torch.mean), strict=True):
        expected = torch.stack([plain(kept) for kept in rows])
        torch.testing.assert_close(score(LOG_PROB, MASK).exp(), expected)


def test_the_product_is_at_most_the_minimum_and_that_at_most_the_mean():
    product, minimum, _, mean = (score(LOG_PROB, MASK) for score in SCORES)
    assert (product <= minimum + 1e-12).all()
    assert (minimum <= mean + 1e-12).all()


def test_long_outputs_do_not_underflow():
    """2,000 steps of probability 1e-4 have a product of 1e-8000."""
    log_prob = torch.full((1, 2000), math.log(1e-4))
    mask = torch.ones(1, 2000, dtype=torch.bool)
    assert product_of_steps(log_prob, mask).item() == pytest.approx(-2000 * math.log(1e4), rel=1e-5)
    assert mean_of_steps(log_prob, mask).item() == pytest.approx(math.log(1e-4), rel=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_an_output_without_steps_scores_zero_and_gets_no_gradient(score):
    log_prob = LOG_PROB.clone().requires_grad_()
    result = score(log_prob, torch.zeros_like(MASK))
    result.sum().backward()
    assert (result == 0).all()
    assert (log_prob.grad == 0).all()


def test_only_labels_up_to_the_first_error_are_kept():
    kept = until_first_error(CORRECT, MASK)
    for row in range(5):
        expected, failed = [], False
        for step in range(6):
            expected.append(bool(MASK[row, step]) and not failed)
            failed |= bool(MASK[row, step] and not CORRECT[row, step])
        assert kept[row].tolist() == expected
    assert kept.sum() < MASK.sum()
    assert torch.equal(until_first_error(torch.ones_like(MASK), MASK), MASK)
