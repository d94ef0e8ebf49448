"""Methods on stored feedback besides DPO: each is its objective on the encoded data, and demonstrations made in hindsight."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import ConfigError
from plaudit.feedback.examples import Demonstrated, Labelled, Pair
from plaudit.feedback.records import Chat, Context, Message, Output, Tokens
from plaudit.methods import (
    KTO,
    ORPO,
    ConditioningConfig,
    EncodedLabel,
    KTOConfig,
    ORPOConfig,
    SimPO,
    SimPOConfig,
    conditioned,
    encode_labelled,
    feedme,
)
from plaudit.methods.kto import mismatched
from plaudit.objectives.preferences import kto, kto_baseline, orpo, simpo
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.training import RunFolder, Step, TrainingConfig, train

from .worlds import labelled, pairs, policy


@torch.no_grad()
def means(model: CausalLM, sequences) -> torch.Tensor:
    """Log-probability per token, one output at a time."""
    found = [model.log_prob_of([sequence]) for sequence in sequences]
    return torch.cat([one.per_step[one.mask].mean()[None] for one in found])


@torch.no_grad()
def test_orpo_and_simpo_are_their_objectives_on_means_per_token(tiny_model):
    learner, examples = policy(tiny_model), pairs()
    chosen, rejected = (means(learner, [getattr(pair, side) for pair in examples]) for side in ("chosen", "rejected"))
    found = ORPO(learner, examples, ORPOConfig(odds_weight=0.7)).loss(examples)
    torch.testing.assert_close(found.value, orpo(chosen, rejected, odds_weight=0.7), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.metrics["nats_per_token_chosen"], -chosen, rtol=1e-4, atol=1e-5)
    found = SimPO(learner, examples, SimPOConfig(beta=2.5, margin=0.5)).loss(examples)
    torch.testing.assert_close(found.value, simpo(chosen, rejected, beta=2.5, margin=0.5), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.metrics["reward_margin"], 2.5 * (chosen - rejected), rtol=1e-4, atol=1e-4)
    assert found.metrics["accuracy"].tolist() == (chosen > rejected).float().tolist()
    assert found.weight.tolist() == [1.0] * len(examples)


def log_ratios(learner: CausalLM, base: CausalLM, sequences) -> torch.Tensor:
    with torch.no_grad():
        return learner.log_prob_of(sequences).sum() - base.log_prob_of(sequences).sum()


def test_kto_is_its_objective_with_the_baseline_of_the_whole_batch(tiny_model):
    learner, base = policy(tiny_model), CausalLM.load(tiny_model, dtype="float32")
    examples = [one for one in labelled() if any(one.sequence.mask)]
    settings = {"beta": 0.02, "desirable_weight": 1.2, "undesirable_weight": 0.8}
    method = KTO(learner, Reference(learner), examples, KTOConfig(**settings))
    collected = method.collect(Step(0, 5, len(examples)))
    assert {one.sequence for one in collected} == {one.sequence for one in examples}
    assert collected != examples
    baseline = kto_baseline(log_ratios(learner, base, mismatched(collected)))
    assert baseline > 0.1
    assert [one.baseline for one in collected] == pytest.approx([float(baseline)] * len(examples), rel=1e-3)
    ratios = log_ratios(learner, base, [one.sequence for one in collected])
    desirable = torch.tensor([one.desirable for one in collected])
    expected = kto(ratios, desirable, torch.tensor(collected[0].baseline), **settings)
    torch.testing.assert_close(method.loss(collected).value, expected, rtol=1e-3, atol=1e-4)
    assert method.loss(collected[:1]).value.item() == pytest.approx(expected[0].item(), rel=1e-3)


def test_the_baseline_takes_each_context_with_the_output_before_it():
    one, two, three = (
        EncodedLabel(Sequence((context,), (output,), (True,)), desirable=True)
        for context, output in ((1, 10), (2, 20), (2, 30))
    )
    found = mismatched([one, two, three])
    assert [(sequence.context, sequence.output) for sequence in found] == [((1,), (30,)), ((2,), (10,))]
    assert mismatched([one]) == []


def test_kto_makes_good_outputs_likelier_and_bad_ones_less(tiny_model, tmp_path):
    """The bad outputs are the good ones of other contexts: only the labels tell them apart."""
    learner = policy(tiny_model)
    examples = [one for one in labelled() if any(one.sequence.mask)]
    method = KTO(learner, Reference(learner), examples, KTOConfig())
    config = TrainingConfig(learning_rate=0.01, batch_size=6, epochs=12, checkpoint_every=0)
    before = method.loss(examples).metrics
    train(method, RunFolder.create(tmp_path / "run", {}), config, steps=12)
    after = method.loss(examples).metrics
    for name, sign in (("reward_desirable", 1), ("reward_undesirable", -1)):
        change = (after[name] - before[name]).nanmean().item()
        assert sign * change > 0.1, name


# --- demonstrations in hindsight ------------------------------------------------------------------------------------

QUESTION = Context(content="Why?")
GOOD, BAD = Output(content="Because."), Output(content="No.")


def pair(**fields) -> Pair:
    return Pair(QUESTION, GOOD, BAD, source="anna", record_ids=("1",), **fields)


def test_feedme_imitates_each_preferred_output_once():
    again = Pair(QUESTION, GOOD, Output(content="Never."), source="ben", record_ids=("2",))
    found = feedme([pair(), again, pair(tie=True)])
    assert [(one.context, one.output) for one in found] == [(QUESTION, GOOD)]


def test_reward_conditioning_says_in_the_context_what_was_good():
    config = ConditioningConfig(desirable="+ ", undesirable="- ")
    label = Labelled(QUESTION, BAD, desirable=False, source="ben", record_ids=("2",))
    found = conditioned([pair(), pair(tie=True), label], config)
    assert found == [
        Demonstrated(Context(content="+ Why?"), GOOD, "anna", ("1",)),
        Demonstrated(Context(content="- Why?"), BAD, "anna", ("1",)),
        Demonstrated(Context(content="- Why?"), BAD, "ben", ("2",)),
    ]
    chat = Context(content=Chat(messages=(
        Message(role="user", content="A"), Message(role="assistant", content="B"), Message(role="user", content="C"),
    )))  # fmt: skip
    assert [message.content for message in config.asked(chat).content.messages] == ["A", "B", "+ C"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConditioningConfig(desirable=""), "desirable: expected words that tell good from bad, got ''"),
        (lambda: ConditioningConfig(undesirable="[good] "), "undesirable: expected other words than desirable"),
        (
            lambda: ConditioningConfig().asked(Context(content=Tokens(ids=(1,), tokenizer="t", text="a"))),
            "context: reward conditioning writes words into text or a chat, got tokens",
        ),
        (lambda: ORPOConfig(odds_weight=-1.0), "odds_weight: expected a number >= 0, got -1.0"),
        (lambda: SimPOConfig(beta=0.0), "beta: expected a number > 0, got 0.0"),
        (lambda: KTOConfig(undesirable_weight=-0.5), "undesirable_weight: expected a number >= 0, got -0.5"),
    ],
)
def test_settings_that_cannot_be_used(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_labelled_outputs_become_tokens_and_empty_ones_are_counted(tiny_model):
    encoder = CausalLM.load(tiny_model, dtype="float32").encoder
    silent = Output(content=Chat(messages=(Message(role="user", content="no answer"),)))
    examples = [
        Labelled(QUESTION, output, good, "anna", ("1",))
        for output, good in ((GOOD, True), (BAD, False), (silent, True))
    ]
    found, dropped = encode_labelled(examples, encoder)
    assert found == [
        EncodedLabel(encoder.sequence(QUESTION, GOOD), True),
        EncodedLabel(encoder.sequence(QUESTION, BAD), False),
    ]
    assert dropped == {"an output without tokens of the model": 1}
