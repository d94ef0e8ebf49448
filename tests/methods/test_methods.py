"""What each method makes of its examples: values and metrics by formula, batches, and what is left out on the way to tokens."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from plaudit.feedback.examples import Demonstrated, Pair
from plaudit.feedback.records import Chat, Context, Message, Output, Text
from plaudit.methods import (
    DPO,
    SFT,
    DPOConfig,
    EncodedPair,
    RewardConfig,
    RewardModelling,
    SFTConfig,
    encode_demonstrations,
    encode_pairs,
)
from plaudit.policies import CausalLM, Encoder, Reference, Sequence
from plaudit.training import Step
from plaudit.training.randomness import batch_indices

from .worlds import demonstrations, pairs, policy, reward_model


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@torch.no_grad()
def log_probs(model: CausalLM, sequences) -> list[float]:
    return model.log_prob_of(sequences).sum().tolist()


# --- DPO ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_dpo_is_the_objective_on_log_ratios_with_its_metrics(tiny_model):
    learner, examples, beta = policy(tiny_model), pairs(), 0.3
    untrained = CausalLM.load(tiny_model, dtype="float32")
    loss = DPO(learner, Reference(learner), examples, DPOConfig(beta=beta)).loss(examples)
    sides = [[getattr(pair, side) for pair in examples] for side in ("chosen", "rejected")]
    ratios = [
        [one - other for one, other in zip(log_probs(learner, side), log_probs(untrained, side), strict=True)]
        for side in sides
    ]
    gaps = [beta * (chosen - rejected) for chosen, rejected in zip(*ratios, strict=True)]
    expected = {
        "accuracy": [float(gap > 0) for gap in gaps],
        "reward_chosen": [beta * ratio for ratio in ratios[0]],
        "reward_rejected": [beta * ratio for ratio in ratios[1]],
        "reward_margin": gaps,
        "log_prob_chosen": log_probs(learner, sides[0]),
    }
    assert loss.value.tolist() == pytest.approx([-log_sigmoid(gap) for gap in gaps], rel=1e-3, abs=1e-4)
    assert loss.weight.tolist() == [1.0] * len(examples)
    assert loss.metrics.keys() == expected.keys()
    for name, values in expected.items():
        assert loss.metrics[name].tolist() == pytest.approx(values, rel=1e-3, abs=1e-3), name
    assert 0 < sum(expected["accuracy"]) < len(examples)
    assert loss.tokens == sum(len(pair.chosen) + len(pair.rejected) for pair in examples)


def test_a_policy_that_is_its_reference_is_right_half_of_the_time(tiny_model):
    learner = CausalLM.load(tiny_model, dtype="float32")
    loss = DPO(learner, Reference(learner), pairs(), DPOConfig()).loss(pairs())
    assert loss.metrics["accuracy"].tolist() == [0.5] * len(pairs())
    assert loss.value.tolist() == pytest.approx([math.log(2)] * len(pairs()))


# --- SFT ------------------------------------------------------------------------------------------------------------


def test_sft_token_mean_is_transformers_own_loss_and_gradient(tiny_model):
    """Labels of -100 where the mask is False, the mean over the batch's other tokens."""
    examples = demonstrations()
    learner = policy(tiny_model)
    loss = SFT(learner, examples, SFTConfig()).loss(examples)
    total = (loss.value * loss.weight).sum() / loss.weight.sum()
    total.backward()
    trained = {name: weight for name, weight in learner.scorer.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad.clone() for name, weight in trained.items()}
    learner.scorer.zero_grad()
    longest = max(map(len, examples))
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = torch.tensor(example.context + example.output)
        own = torch.tensor(example.output).masked_fill(~torch.tensor(example.mask), -100)
        labels[row, len(example.context) : len(example)] = own
    attention = torch.tensor([[1] * len(example) + [0] * (longest - len(example)) for example in examples])
    theirs = learner.model(input_ids=ids, attention_mask=attention, labels=labels).loss
    theirs.backward()
    torch.testing.assert_close(total, theirs, rtol=1e-5, atol=1e-5)
    for name, weight in trained.items():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sft_reports_nats_per_token_of_what_counts(tiny_model):
    learner, examples = policy(tiny_model), demonstrations()
    loss = SFT(learner, examples, SFTConfig(aggregation="sequence-sum")).loss(examples)
    counts = [sum(example.mask) for example in examples]
    sums = log_probs(learner, examples)
    expected = [-total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]
    assert loss.metrics["nats_per_token"].tolist() == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert loss.weight.tolist() == [float(count > 0) for count in counts]
    assert math.isnan(expected[4])


# --- reward modelling -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_reward_modelling_asks_for_margins_and_leaves_ties_out_of_its_metrics(tiny_model):
    examples = pairs(ties=True, margins=True)
    model, width, weight = reward_model(tiny_model), 0.4, 0.5
    loss = RewardModelling(model, examples, RewardConfig(tie_width=width, margin_weight=weight)).loss(examples)
    expected, right = [], []
    for pair in examples:
        chosen, rejected = model.reward_of([pair.chosen, pair.rejected]).tolist()
        gap = chosen - rejected
        tie = math.log(math.expm1(2 * width)) + log_sigmoid(gap - width) + log_sigmoid(-gap - width)
        expected.append(-tie if pair.tie else -log_sigmoid(gap - weight * (pair.margin or 0) - width))
        right.append(math.nan if pair.tie else float(gap > 0))
    assert loss.value.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert loss.metrics["accuracy"].tolist() == pytest.approx(right, nan_ok=True)
    assert loss.metrics["reward_margin"].isnan().tolist() == [pair.tie for pair in examples]
    assert loss.weight.tolist() == [1.0] * len(examples)


@torch.no_grad()
def test_without_ties_to_learn_from_held_out_ones_do_not_count(tiny_model):
    """The model gives them no probability; were they read as decisions, their loss would depend on which side comes first."""
    model = reward_model(tiny_model)
    decided, tied = pairs(), pairs(ties=True)
    method = RewardModelling(model, decided, RewardConfig())
    plain, mixed = method.loss(decided), method.loss(tied)
    ties = torch.tensor([pair.tie for pair in tied])
    assert mixed.weight.tolist() == (~ties).float().tolist()
    torch.testing.assert_close(mixed.value[~ties], plain.value[~ties])


def test_where_one_pair_is_a_tie_every_batch_knows_of_ties(tiny_model):
    """A batch without a tie must have the loss that it has beside one."""
    examples = pairs(ties=True)
    method = RewardModelling(reward_model(tiny_model), examples, RewardConfig())
    whole = method.loss(examples).value
    decided = [number for number, pair in enumerate(examples) if not pair.tie]
    alone = method.loss([examples[number] for number in decided]).value
    torch.testing.assert_close(alone, whole[decided], rtol=1e-5, atol=1e-5)


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda policy, examples: DPO(policy, Reference(policy), examples, DPOConfig()),
    lambda policy, examples: SFT(policy, examples, SFTConfig()),
    lambda policy, examples: RewardModelling(policy, examples, RewardConfig()),
], ids=["dpo", "sft", "reward"])  # fmt: skip
def test_a_steps_examples_come_from_the_seed_and_the_step(tiny_model, make):
    policy = CausalLM.load(tiny_model, dtype="float32")
    examples = [EncodedPair(Sequence((1,), (number,), (True,)), Sequence((1,), (0,), (True,))) for number in range(10)]
    method = make(policy, examples)
    for index in range(5):
        expected = [examples[number] for number in batch_indices(10, 4, index, seed=7)]
        assert method.collect(Step(index, 7, 4)) == expected


# --- from feedback to tokens ----------------------------------------------------------------------------------------


def pair(chosen: str | Chat, rejected: str | Chat, **fields) -> Pair:
    def output(content):
        return Output(content=content if isinstance(content, Chat) else Text(text=content))

    context = Context(content=Text(text="Question?"))
    return Pair(context, output(chosen), output(rejected), source="anna", record_ids=("1",), **fields)


@pytest.fixture
def encoder(tiny_model) -> Encoder:
    from transformers import AutoTokenizer

    return Encoder(AutoTokenizer.from_pretrained(tiny_model), max_context_tokens=60, max_output_tokens=10)


def test_pairs_become_tokens_and_what_cannot_is_counted(encoder):
    user = Chat(messages=(Message(role="user", content="no answer"),))
    kept = [pair("yes", "no", margin=2.0), pair("a", "b", tie=True), pair("c" * 30, "d" * 40)]
    lost = [pair("e" * 20 + "x", "e" * 20 + "y"), pair("f", user), pair(user, "f")]
    encoded, dropped = encode_pairs([*kept, *lost], encoder)
    assert encoded == [
        EncodedPair(
            encoder.sequence(one.context, one.chosen),
            encoder.sequence(one.context, one.rejected),
            one.tie,
            one.margin,
            "anna",
        )
        for one in kept
    ]
    assert dropped == Counter(
        {
            "equal after tokenisation and truncation": 1,
            "an output without tokens of the model": 2,
            "(kept, but truncated)": 1,  # one pair, though both of its outputs were cut
        }
    )
    assert encode_pairs(kept[:2], encoder)[1] == Counter()


def test_demonstrations_become_tokens_and_what_cannot_is_counted(encoder):
    context = Context(content=Text(text="Question?"))
    user = Chat(messages=(Message(role="user", content="no answer"),))
    outputs = [Output(content=content) for content in (Text(text="yes"), Text(text="long" * 5), user)]
    encoded, dropped = encode_demonstrations(
        [Demonstrated(context, output, "anna", ("1",)) for output in outputs], encoder
    )
    assert encoded == [encoder.sequence(context, output) for output in outputs[:2]]
    assert dropped == Counter({"an output without tokens of the model": 1, "(kept, but truncated)": 1})
