"""The reference is the policy as it was: under adapters, without them, from the cache and from its file."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import CheckpointError, PolicyError
from plaudit.policies import CausalLM, LoRA, Reference, Sequence

from .conftest import perturb, random_sequences

SEQUENCES = random_sequences(7)
UNSEEN = Sequence((9, 8), (7, 6), (True, True))


def copy_of(model, **settings) -> CausalLM:
    return CausalLM.load(model, dtype="float32", **settings)


@torch.no_grad()
def sums(policy: CausalLM | Reference, sequences=SEQUENCES) -> torch.Tensor:
    return policy.log_prob_of(sequences).sum()


def test_below_adapters_lies_the_untrained_policy(lora_policy, policy):
    untrained = sums(policy)
    assert (sums(lora_policy) - untrained).abs().min() > 1e-3
    reference = Reference(lora_policy, batch_size=3)
    torch.testing.assert_close(sums(reference), untrained, rtol=0, atol=1e-4)
    perturb(lora_policy, seed=1)  # training goes on, and unseen sequences may still be asked for
    torch.testing.assert_close(sums(reference, [UNSEEN]), sums(policy, [UNSEEN]), rtol=0, atol=1e-4)
    with lora_policy.without_adapters(), torch.no_grad():
        torch.testing.assert_close(sums(lora_policy), untrained, rtol=0, atol=1e-4)
    assert (sums(lora_policy) - untrained).abs().min() > 1e-3


def test_a_sequences_value_does_not_depend_on_what_it_was_asked_with(lora_policy):
    together = Reference(lora_policy)
    alone = Reference(lora_policy, batch_size=1)
    expected = torch.cat([sums(alone, [sequence]) for sequence in SEQUENCES])
    torch.testing.assert_close(sums(together), expected, rtol=0, atol=1e-4)
    order = [4, 0, 6]
    assert torch.equal(sums(together, [SEQUENCES[index] for index in order]), sums(together)[order])


def test_steps_and_masks_are_the_policys(policy):
    reference, own = Reference(policy).log_prob_of(SEQUENCES), policy.log_prob_of(SEQUENCES)
    assert torch.equal(reference.mask, own.mask)
    torch.testing.assert_close(reference.per_step[own.mask], own.per_step[own.mask].detach(), rtol=0, atol=1e-4)
    assert not reference.per_step.requires_grad
    assert Reference(policy).log_prob_of([]).per_step.shape == (0, 0)


def test_under_full_fine_tuning_prepared_sequences_keep_their_value(tiny_model, policy):
    trained = copy_of(tiny_model)
    reference = Reference(trained)
    reference.prepare(SEQUENCES)
    perturb(trained)
    assert (sums(trained) - sums(policy)).abs().min() > 1e-3
    torch.testing.assert_close(sums(reference), sums(policy), rtol=0, atol=1e-4)


def test_under_full_fine_tuning_unseen_sequences_are_refused_once_weights_moved(tiny_model):
    trained = copy_of(tiny_model)
    reference = Reference(trained)
    reference.prepare(SEQUENCES)
    optimizer = torch.optim.AdamW(trained.scorer.parameters(), lr=0.0)
    reference.prepare([UNSEEN])  # nothing has moved yet
    trained.log_prob_of(SEQUENCES).sum().sum().backward()
    optimizer.step()
    with pytest.raises(PolicyError, match=r"weights have changed.*2 sequences were not prepared.*or use LoRA"):
        reference.prepare([*SEQUENCES, Sequence((9,), (7,), (True,)), Sequence((9,), (8,), (True,))])
    reference.prepare([*SEQUENCES, UNSEEN])


def test_nothing_is_computed_twice(policy, monkeypatch):
    computed = []
    original = policy.log_prob_of
    monkeypatch.setattr(policy, "log_prob_of", lambda batch: computed.append(len(batch)) or original(batch))
    reference = Reference(policy, batch_size=4)
    told: list[int] = []
    reference.prepare([*SEQUENCES, *SEQUENCES[:3]], progress=told.append)
    assert computed == [4, 3]
    assert sum(told) == len(SEQUENCES) + 3
    reference.prepare(SEQUENCES, progress=told.append)
    reference.log_prob_of(SEQUENCES[2:4])
    assert computed == [4, 3]


def test_the_cache_survives_its_file(tiny_model, tmp_path):
    first = copy_of(tiny_model)
    reference = Reference(first)
    reference.prepare(SEQUENCES)
    reference.save(tmp_path / "reference.safetensors")
    moved = perturb(copy_of(tiny_model))
    again = Reference(moved)
    again.load(tmp_path / "reference.safetensors")
    assert torch.equal(again.log_prob_of(SEQUENCES).per_step, reference.log_prob_of(SEQUENCES).per_step)


def test_another_models_file_is_refused(policy, tiny_plain_model, tmp_path):
    file = tmp_path / "reference.safetensors"
    Reference(policy).save(file)
    other = Reference(CausalLM.load(tiny_plain_model, dtype="float32"))
    with pytest.raises(CheckpointError, match=f"log-probabilities of another model than {tiny_plain_model}"):
        other.load(file)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_file_is_named(policy, tmp_path, damage):
    file = tmp_path / "reference.safetensors"
    reference = Reference(policy)
    reference.prepare(SEQUENCES)
    reference.save(file)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 60 if damage == "cut" else 0])
    with pytest.raises(CheckpointError, match=f"Cannot read the reference log-probabilities in {file}"):
        Reference(policy).load(file)


def test_only_adapters_can_be_taken_off(policy):
    message = r"no frozen weights below it; use plaudit\.policies\.Reference"
    with pytest.raises(PolicyError, match=message), policy.without_adapters():
        pass


def test_adapters_come_back_after_an_error(tiny_model):
    policy = perturb(copy_of(tiny_model, lora=LoRA(rank=2)))
    before = sums(policy)
    with pytest.raises(RuntimeError, match="inside"), policy.without_adapters():
        raise RuntimeError("inside")
    assert torch.equal(sums(policy), before)


# --- the whole distribution -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True], ids=["head in chunks", "the model's own head"])
def test_the_divergence_belongs_to_the_token_that_is_predicted(tiny_model, whole):
    """``KL(p0 || π)`` over the vocabulary at the position before each token, by two plain passes."""
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    perturb(policy)
    policy.scorer.whole_logits = whole
    sequences = random_sequences(4)
    found = policy.divergence_of(sequences)
    torch.testing.assert_close(found.per_step, policy.log_prob_of(sequences).per_step, rtol=1e-5, atol=1e-5)
    assert found.divergence is not None
    for row, sequence in enumerate(sequences):
        ids = torch.tensor([sequence.context + sequence.output])
        with torch.no_grad():
            own = policy.model(input_ids=ids).logits[0].log_softmax(-1)
            with policy.without_adapters():
                base = policy.model(input_ids=ids).logits[0].log_softmax(-1)
        expected = (base.exp() * (base - own)).sum(-1)[len(sequence.context) - 1 : -1]
        mask = torch.tensor(sequence.mask)
        torch.testing.assert_close(found.divergence[row, : len(mask)][mask], expected[mask], rtol=1e-4, atol=1e-5)
        assert not found.divergence[row][~found.mask[row]].any()


def test_a_policy_that_is_its_base_does_not_diverge_from_it(tiny_model):
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    assert policy.divergence_of(random_sequences(3)).divergence.abs().max() < 1e-6


def test_the_divergence_needs_adapters_below_a_frozen_head(tiny_model):
    with pytest.raises(PolicyError, match="without adapters has no frozen weights"):
        CausalLM.load(tiny_model, dtype="float32").divergence_of(random_sequences(1))
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    policy.model.get_output_embeddings().weight.requires_grad_()
    with pytest.raises(PolicyError, match="needs a head that is not trained"):
        policy.divergence_of(random_sequences(1))
