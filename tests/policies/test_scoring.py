"""Log-probabilities of given tokens: what transformers computes, whatever stands beside them, with the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plaudit.policies import CausalLM, LogProb, LoRA, Sequence, head
from plaudit.policies.batches import PaddedBatch
from plaudit.policies.scoring import TokenScorer, causal_lm_of, padded_log_prob

from .conftest import answer, ask, perturb, random_sequences
from .families import FAMILIES, build

SEQUENCES = random_sequences(6)
EXACT = {"rtol": 1e-5, "atol": 1e-5}  # float32; the order of additions depends on the shape of the batch


def plain_log_prob(model, sequence: Sequence) -> torch.Tensor:
    """Log-probability of each output token by one unpadded forward pass and a log-softmax of all logits."""
    ids = torch.tensor([sequence.context + sequence.output])
    log_prob = model(input_ids=ids).logits[0].float().log_softmax(-1)
    targets = ids[0, len(sequence.context) :]
    return log_prob[len(sequence.context) - 1 : -1].gather(-1, targets[:, None]).squeeze(-1)


def gradients(policy: CausalLM, batches: list[list[Sequence]]) -> dict[str, torch.Tensor]:
    """Gradient of the summed log-probability of all sequences, accumulated over batches."""
    policy.scorer.zero_grad()
    for batch in batches:
        policy.log_prob_of(batch).sum().sum().backward()
    found = {name: weight.grad.clone() for name, weight in policy.scorer.named_parameters() if weight.grad is not None}
    policy.scorer.zero_grad()
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- values ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_log_prob_is_transformers_forward_and_a_log_softmax(policy):
    found = policy.log_prob_of(SEQUENCES)
    for row, sequence in enumerate(SEQUENCES):
        expected = plain_log_prob(policy.model, sequence)
        mask = torch.tensor(sequence.mask)
        assert found.mask[row].tolist() == [*sequence.mask, *[False] * (found.mask.shape[1] - len(mask))]
        torch.testing.assert_close(found.per_step[row, : len(mask)][mask], expected[mask], **EXACT)
        torch.testing.assert_close(found.sum()[row], expected[mask].sum(), **EXACT)
    assert found.lengths.tolist() == [sum(sequence.mask) for sequence in SEQUENCES]


@torch.no_grad()
def test_texts_are_scored_as_their_tokens(policy):
    contexts, outputs = [ask("Hello?"), ask("2 + 2?")], [answer("Hi"), answer("four")]
    found = policy.log_prob(contexts, outputs)
    sequences = [policy.encoder.sequence(*pair) for pair in zip(contexts, outputs, strict=True)]
    torch.testing.assert_close(found.per_step, policy.log_prob_of(sequences).per_step)
    with pytest.raises(ValueError, match="as many contexts as outputs, got 2 and 1"):
        policy.log_prob(contexts, outputs[:1])


@torch.no_grad()
def test_probabilities_of_all_next_tokens_add_up_to_one(policy):
    vocabulary = policy.model.config.vocab_size
    everything = [Sequence((5, 6, 7), (token,), (True,)) for token in range(vocabulary)]
    assert policy.log_prob_of(everything).sum().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_what_the_mask_excludes_is_not_summed():
    per_step = torch.tensor([[-1.0, torch.nan, -2.0], [torch.inf, torch.nan, torch.nan]], requires_grad=True)
    log_prob = LogProb(per_step, torch.tensor([[True, False, True], [False, False, False]]))
    assert log_prob.sum().tolist() == [-3, 0]
    log_prob.sum().sum().backward()
    assert per_step.grad.tolist() == [[1, 0, 1], [0, 0, 0]]


# --- invariance -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_neighbours_and_their_order_change_nothing(policy):
    together = policy.log_prob_of(SEQUENCES).sum()
    for row, sequence in enumerate(SEQUENCES):
        torch.testing.assert_close(policy.log_prob_of([sequence]).sum()[0], together[row], **EXACT)
    order = [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(
        policy.log_prob_of([SEQUENCES[index] for index in order]).sum(), together[order], **EXACT
    )
    giant = Sequence(tuple(range(3, 63)), tuple(range(3, 63)), (True,) * 60)
    torch.testing.assert_close(policy.log_prob_of([*SEQUENCES, giant]).sum()[:-1], together, **EXACT)


@torch.no_grad()
def test_what_padding_holds_is_not_read(policy):
    batch = PaddedBatch.of(SEQUENCES, device=policy.device)
    other = replace(batch, input_ids=torch.where(batch.attention_mask.bool(), batch.input_ids, 77))
    assert not torch.equal(batch.input_ids, other.input_ids)
    torch.testing.assert_close(policy.scorer(batch), policy.scorer(other), **EXACT)


def test_gradients_do_not_depend_on_the_cut(policy):
    whole = gradients(policy, [SEQUENCES])
    for size in (1, 2, 4):
        parts = [SEQUENCES[start : start + size] for start in range(0, len(SEQUENCES), size)]
        assert_same(gradients(policy, parts), whole)


@torch.no_grad()
def test_empty_outputs_weigh_nothing(policy):
    empty, masked = Sequence((5, 6), (), ()), Sequence((5,), (6, 7), (False, False))
    beside = policy.log_prob_of([SEQUENCES[0], empty, masked])
    assert beside.sum()[1:].tolist() == [0, 0]
    torch.testing.assert_close(beside.sum()[0], policy.log_prob_of(SEQUENCES[:1]).sum()[0], **EXACT)
    assert policy.log_prob_of([empty]).per_step.shape == (1, 0)
    assert policy.log_prob_of([masked]).sum().tolist() == [0]


def test_log_probs_are_scattered_to_their_steps():
    sequences = [Sequence((3,), (4, 5, 6), (True, False, True)), Sequence((3, 4), (5,), (True,))]
    batch = PaddedBatch.of(sequences, device=torch.device("cpu"))
    assert batch.targets.tolist() == [4, 6, 5]
    assert batch.columns.tolist() == [0, 2, 1]
    found = padded_log_prob(torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]), batch, entropy=True)
    assert torch.where(found.mask, found.per_step, 9).tolist() == [[-1, 9, -2], [-3, 9, 9]]
    assert torch.where(found.mask, found.entropy, 9).tolist() == [[1, 9, 2], [3, 9, 9]]


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_the_size_of_a_chunk_of_logits_changes_nothing(policy, monkeypatch, chunk):
    whole = gradients(policy, [SEQUENCES])
    values = policy.log_prob_of(SEQUENCES).sum().detach()
    monkeypatch.setattr(head, "_FEWEST", chunk)
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)
    torch.testing.assert_close(policy.log_prob_of(SEQUENCES).sum().detach(), values, **EXACT)
    assert_same(gradients(policy, [SEQUENCES]), whole)


# --- gradients ------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_plain_forward(policy):
    ours = gradients(policy, [SEQUENCES])
    for sequence in SEQUENCES:
        (plain_log_prob(policy.model, sequence) * torch.tensor(sequence.mask)).sum().backward()
    plain = {name: weight.grad.clone() for name, weight in policy.scorer.named_parameters() if weight.grad is not None}
    policy.scorer.zero_grad()
    assert_same(ours, plain)


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "lora"])
def test_gradient_checkpointing_gives_the_same_gradients_with_a_second_forward(tiny_model, lora):
    kept = perturb(CausalLM.load(tiny_model, lora=lora, dtype="float32"))
    again = perturb(CausalLM.load(tiny_model, lora=lora, dtype="float32", gradient_checkpointing=True))
    calls = []
    for policy in (kept, again):
        count = [0]
        attention = causal_lm_of(policy.model).model.layers[0].self_attn
        attention.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        calls.append(count)
    assert_same(gradients(kept, [SEQUENCES]), gradients(again, [SEQUENCES]))
    assert calls == [[1], [2]]
    with torch.no_grad():  # nothing is computed twice where nothing is differentiated
        torch.testing.assert_close(kept.log_prob_of(SEQUENCES).sum(), again.log_prob_of(SEQUENCES).sum())
    assert calls == [[2], [3]]


def test_bfloat16_products_stay_near_float32(tiny_model, policy):
    """bfloat16 keeps 8 bits; trained weights and log-probabilities stay float32."""
    fast = CausalLM.load(tiny_model, dtype="bfloat16")
    values = fast.log_prob_of(SEQUENCES)
    assert values.per_step.dtype == torch.float32
    assert {weight.dtype for weight in fast.scorer.parameters()} == {torch.float32}
    torch.testing.assert_close(values.per_step, policy.log_prob_of(SEQUENCES).per_step, rtol=0.05, atol=0.05)


# --- model families -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chunked_head_is_the_models_own(family):
    """Soft caps and scalings after the head included; they are set so large that leaving them out would show."""
    model = build(family)
    scorer = TokenScorer(model)
    scorer.check_head(model.config.vocab_size)
    assert not scorer.whole_logits
    sequences = random_sequences(4, vocabulary=60)
    batch = PaddedBatch.of(sequences, device=torch.device("cpu"))
    with torch.no_grad():
        found = padded_log_prob(scorer(batch), batch)
        for row, sequence in enumerate(sequences):
            mask = torch.tensor(sequence.mask)
            expected = plain_log_prob(model, sequence)[mask]
            torch.testing.assert_close(found.per_step[row][found.mask[row]], expected, **EXACT)


def test_an_unknown_head_takes_the_plain_path():
    """A family that does something after the head that plaudit does not know of is found out, and still scored right."""
    model = build("llama")
    original = model.forward

    def strange(*args, **options):
        result = original(*args, **options)
        result.logits = 3 * result.logits
        return result

    model.forward = strange
    scorer = TokenScorer(model)
    scorer.check_head(model.config.vocab_size)
    assert scorer.whole_logits
    (sequence,) = random_sequences(1, vocabulary=60)
    batch = PaddedBatch.of([sequence], device=torch.device("cpu"))
    with torch.no_grad():
        expected = plain_log_prob(model, sequence)[torch.tensor(sequence.mask)]
        torch.testing.assert_close(scorer(batch)[0], expected, **EXACT)


def test_a_frozen_head_passes_gradients_on(tiny_model):
    """With adapters the head is frozen; its input's gradient must still arrive."""
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    found = gradients(policy, [SEQUENCES])
    assert all("lora" in name for name in found)
    assert any(isinstance(module, nn.Linear) and not module.weight.requires_grad for module in policy.model.modules())
    assert max(value.abs().max() for value in found.values()) > 0
