"""LiPO: its objectives on lists of unequal length, DPO at K = 2, TRL's DPO, and the lists that feedback makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback import views
from plaudit.feedback.examples import RankedList
from plaudit.feedback.records import Comparison, Context, Output, Producer, Ranking, Source
from plaudit.methods import DPO, DPOConfig, EncodedList, LiPO, LiPOConfig, encode_lists, judged_lists, mean_win_rates
from plaudit.methods.lipo import in_lists
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.rewards import FunctionReward
from plaudit.training import Step

from .worlds import pairs, perturb, policy, ranked_lists

OBJECTIVES = ("pointwise-squared", "pointwise-sigmoid", "pair-logistic", "pair-hinge", "list-mle", "softmax", "lambda")
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


def lipo(model, lists, objective, **settings) -> LiPO:
    learner = policy(model)
    return LiPO(learner, Reference(learner), lists, LiPOConfig(objective=objective, **settings))


def gradients(method, value) -> dict[str, torch.Tensor]:
    method.trainable.scorer.zero_grad()
    value.sum().backward()
    named = method.trainable.scorer.named_parameters()
    return {name: weight.grad.clone() for name, weight in named if weight.grad is not None}


@objectives
def test_a_list_in_a_batch_is_the_list_alone(tiny_model, objective):
    lists = ranked_lists()
    assert len({len(one.outputs) for one in lists}) > 2
    method = lipo(tiny_model, lists, objective, beta=0.5)
    together = method.loss(lists)
    alone = torch.cat([method.loss([one]).value for one in lists])
    torch.testing.assert_close(together.value, alone, rtol=1e-4, atol=1e-5)
    assert together.weight.tolist() == [1.0] * len(lists)
    assert together.tokens == sum(map(len, in_lists(lists)))


@objectives
def test_permuting_a_list_changes_nothing(tiny_model, objective):
    lists = ranked_lists()
    turned = [replace(one, outputs=one.outputs[::-1], labels=one.labels[::-1]) for one in lists]
    method = lipo(tiny_model, lists, objective, beta=0.5)
    first, second = method.loss(lists), method.loss(turned)
    torch.testing.assert_close(first.value, second.value, rtol=1e-4, atol=1e-5)
    expected = gradients(method, first.value)
    assert max(value.abs().max() for value in expected.values()) > 1e-2
    for name, value in gradients(method, second.value).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def of_two() -> list[EncodedList]:
    """The pairs, the chosen output in the first place or in the second."""
    return [
        EncodedList((pair.chosen, pair.rejected), (1.0, 0.0))
        if place % 2
        else EncodedList((pair.rejected, pair.chosen), (0.0, 1.0))
        for place, pair in enumerate(pairs())
    ]


@pytest.mark.parametrize(
    ("objective", "factor"),
    [("pair-logistic", 1.0), ("list-mle", 1.0), ("lambda", 1 / torch.tensor(2.0).log() - 1 / torch.tensor(3.0).log())],
)
def test_with_two_outputs_it_is_dpo(tiny_model, objective, factor):
    """LiPO-lambda's weight is the same for both orders of two: DPO times a constant."""
    learner = policy(tiny_model)
    reference = Reference(learner)
    dpo = DPO(learner, reference, pairs(), DPOConfig(beta=0.3))
    own = LiPO(learner, reference, of_two(), LiPOConfig(objective=objective, beta=0.3))
    expected, found = dpo.loss(pairs()), own.loss(of_two())
    torch.testing.assert_close(found.value, expected.value * factor, rtol=1e-5, atol=1e-6)
    for name in ("accuracy", "reward_margin"):
        torch.testing.assert_close(found.metrics[name], expected.metrics[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("objective", "loss_type"), [("pair-logistic", "sigmoid"), ("pair-hinge", "hinge")])
@pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")
def test_with_two_outputs_it_is_trl_s_dpo(tiny_model, tmp_path, objective, loss_type):
    """TRL imports and sets up for seconds: over 5 s on a busy core."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from .test_trl import arguments, as_trl

    learner = CausalLM.load(tiny_model, dtype="float32")
    reference = Reference(learner)
    reference.prepare(in_lists(of_two()))
    perturb(learner.scorer, size=0.02)
    ours = LiPO(learner, reference, of_two(), LiPOConfig(objective=objective, beta=0.1)).loss(of_two()).value.mean()
    model, frozen = (AutoModelForCausalLM.from_pretrained(tiny_model) for _ in range(2))
    model.load_state_dict(learner.model.state_dict())
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=frozen,
        args=arguments(trl.DPOConfig, tmp_path, beta=0.1, loss_type=[loss_type]),
        train_dataset=Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b"}]),
        processing_class=learner.encoder.tokenizer,
    )
    theirs = trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=0)(as_trl(pairs())))
    assert theirs.item() != pytest.approx({"sigmoid": 0.6931, "hinge": 1.0}[loss_type], abs=1e-3)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)


def test_lambda_moves_at_the_start_where_all_scores_are_equal(tiny_model):
    """With average ranks for ties all weights would be 0, and the policy would never begin to learn."""
    learner = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    method = LiPO(learner, Reference(learner), ranked_lists(), LiPOConfig())
    found = method.loss(ranked_lists())
    assert max(value.abs().max() for value in gradients(method, found.value).values()) > 1e-4


def test_the_context_of_a_list_is_computed_once(tiny_model):
    """The tokens that enter the model are the context once and every output's own."""
    (_, _, ranked) = ranked_lists()[:3]
    context = tuple(range(10, 110))
    ranked = replace(ranked, outputs=tuple(replace(one, context=context) for one in ranked.outputs))
    method = lipo(tiny_model, [ranked], "lambda")
    method.reference.prepare(ranked.outputs)
    seen = []
    embedding = next(m for m in method.trainable.scorer.modules() if isinstance(m, torch.nn.Embedding))
    embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numel()))
    method.loss([ranked])
    assert 100 < sum(seen) < 100 + 2 * sum(len(one.output) for one in ranked.outputs)


def test_collect_takes_each_list_once_an_epoch(tiny_model):
    lists = ranked_lists()
    method = lipo(tiny_model, lists, "softmax")
    assert sorted(map(repr, method.collect(Step(0, 3, len(lists))))) == sorted(map(repr, lists))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": (0,)}, "outputs: expected a list of at least two to rank, got 1"),
        ({"labels": (0.5,)}, r"labels: expected one for each of \d outputs, got 1"),
        ({"labels": "tied"}, r"labels: expected at least two that differ, got \d times 0.5"),
        ({"labels": "nan"}, "labels: expected finite numbers, got nan"),
        ({"outputs": "contexts"}, "outputs: expected outputs of one context, got several contexts"),
    ],
)
def test_what_is_no_list_is_an_error_that_says_why(change, message):
    one = ranked_lists()[0]
    count = len(one.outputs)
    values = {
        "tied": (0.5,) * count,
        "nan": (float("nan"), *one.labels[1:]),
        "contexts": (replace(one.outputs[0], context=(9, 9)), *one.outputs[1:]),
    }
    ((name, value),) = change.items()
    value = values.get(value, value) if isinstance(value, str) else value
    with pytest.raises(ConfigError, match=message):
        replace(one, **{name: value})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"objective": "dpo"}, "objective: expected one of pointwise-squared, .*, lambda, got 'dpo'"),
        ({"beta": 0.0}, "beta: expected a number > 0"),
        ({"scaling": "max"}, "scaling: expected sum or mean"),
        ({"objective": "softmax", "scaling": "mean"}, "scaling: expected sum: softmax is one term a list"),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ConfigError, match=message):
        LiPOConfig(**bad)


def test_the_mean_gives_each_list_the_same_weight(tiny_model):
    lists = ranked_lists()
    total = lipo(tiny_model, lists, "pair-logistic").loss(lists).value
    mean = lipo(tiny_model, lists, "pair-logistic", scaling="mean").loss(lists).value
    counts = [sum(a > b for a in one.labels for b in one.labels) for one in lists]
    torch.testing.assert_close(total, mean * torch.tensor(counts), rtol=1e-4, atol=1e-5)


# --- labels ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=8), st.floats(-5, 5))
def test_mean_win_rates(rewards, shift):
    reward = torch.tensor(rewards, dtype=torch.float64)
    found = mean_win_rates(reward)
    assert found.mean().item() == pytest.approx(0.5)
    torch.testing.assert_close(found, mean_win_rates(reward + shift))
    by_hand = torch.stack(
        [torch.stack([(a - b).sigmoid() for j, b in enumerate(reward) if j != i]).mean() for i, a in enumerate(reward)]
    )
    torch.testing.assert_close(found, by_hand)


def test_mean_win_rates_need_others_and_numbers():
    with pytest.raises(RewardError, match="expected at least two outputs to compare, got 1"):
        mean_win_rates(torch.zeros(1))
    with pytest.raises(RewardError, match="expected finite numbers, got inf"):
        mean_win_rates(torch.tensor([0.0, torch.inf]))


ASKED = Context(content="Which?")
A, B, C, D = (Output(content=text) for text in ("one", "three", "seventeen", "a"))


def test_a_reward_labels_lists():
    reward = FunctionReward(lambda context, output: float(len(output.text)))
    (found,) = judged_lists([ASKED], [[A, B, B, C]], reward)
    assert found.outputs == (A, B, C)
    assert found.gains == tuple(mean_win_rates(torch.tensor([3.0, 5.0, 9.0], dtype=torch.float64)).tolist())
    with pytest.raises(ConfigError, match=r"outputs\[1\]: expected at least two different ones to rank, got 1"):
        judged_lists([ASKED, ASKED], [[A, B], [C, C]], reward)
    with pytest.raises(ConfigError, match=r"outputs\[0\]: expected rewards that differ, got 2 times the same"):
        judged_lists([ASKED], [[A, B]], FunctionReward(lambda *_: 1.0))


def compare(a: Output, b: Output, choice: str, who: str = "ada") -> Comparison:
    source = Source(kind="person", name=who)
    return Comparison(context=ASKED, outputs=(a, b), choice=choice, source=source)


def test_comparisons_of_all_pairs_become_shares_of_wins():
    said = [
        compare(A, B, "a"), compare(A, C, "a"), compare(D, A, "b"), compare(B, C, "tie"), compare(D, B, "b"),
        compare(C, D, "a"), compare(A, D, "cannot_judge"), compare(A, B, "b", "ben"),
    ]  # fmt: skip
    view = views.lists(said, comparisons=True)
    first = next(one for one in view.examples if one.source == "ada")
    assert dict(zip(first.outputs, first.gains, strict=True)) == {A: 1.0, B: 0.5, C: 0.5, D: 0.0}
    assert len(first.record_ids) == 6
    assert view.dropped == {"cannot_judge": 1}
    assert len(view.examples) == 2
    assert views.lists(said).dropped == {"kind: comparison": 8}
    assert repr(views.lists(said[::-1], comparisons=True).examples[1].gains) == repr(first.gains)


def test_tied_comparisons_say_nothing():
    view = views.lists([compare(A, B, "tie"), compare(B, C, "tie")], comparisons=True)
    assert not view.examples
    assert view.dropped == {"all gains equal": 2}


def test_partial_rankings_with_ties_become_labels_in_the_unit_interval(tiny_model):
    """Of four outputs one is not ranked and two are tied; a longer ranking's places are divided by its tiers."""
    source = Source(kind="person", name="ada")
    said = Ranking(context=ASKED, outputs=(A, B, C, D), tiers=((2,), (0, 3), (1,)), source=source)
    encoder = policy(tiny_model).encoder
    encoded, dropped = encode_lists(views.lists([said]).examples, encoder)
    assert encoded[0].labels == (1.0, 0.5, 0.5, 0.0)
    assert not dropped
    partial = Ranking(context=ASKED, outputs=(A, B, C, D), tiers=((2,), (0,)), source=source)
    encoded, _ = encode_lists(views.lists([partial]).examples, encoder)
    assert encoded[0].labels == (1.0, 0.0)


def test_outputs_that_are_equal_to_the_model_count_once(tiny_model):
    encoder = policy(tiny_model).encoder
    twin = Output(content="one", producer=Producer(model="other"))
    lists = [
        RankedList(ASKED, (A, twin, B), (1.0, 0.0, 0.25), "ada", ()),
        RankedList(ASKED, (A, twin, B), (1.0, 0.0, 0.5), "ada", ()),
        RankedList(ASKED, (A, twin), (1.0, 0.0), "ada", ()),
    ]
    encoded, dropped = encode_lists(lists, encoder)
    assert [one.labels for one in encoded] == [(0.5, 0.25)]
    assert dropped == {
        "equal after tokenisation and truncation": 3,
        "a list whose labels are all equal": 1,
        "a list of fewer than two outputs": 1,
    }


def test_perturbed_policies_differ(tiny_model):
    """The lists above are told apart by a policy that has moved, so that equal losses are no accident."""
    method = lipo(tiny_model, ranked_lists(), "lambda", beta=0.5)
    before = method.loss(ranked_lists()).value
    perturb(method.trainable.scorer, seed=5)
    assert (before - method.loss(ranked_lists()).value).abs().min() > 1e-4
