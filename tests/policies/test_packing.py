"""Packed and shared computation equals the plain one: losses and every parameter's gradient, whatever the lengths."""

from __future__ import annotations

import pytest
import torch

from plaudit.policies import CausalLM, LoRA, Sequence
from plaudit.policies.batches import PackedBatch, PaddedBatch
from plaudit.policies.packing import Packer
from plaudit.policies.scoring import TokenScorer, padded_log_prob
from plaudit.rewards import RewardModel
from policies.families import FAMILIES, build

CPU = torch.device("cpu")


def group(prompt_length: int, lengths: list[int], *, seed: int = 0, vocabulary: int = 250) -> list[Sequence]:
    """A prompt with outputs of these lengths, some tokens of which do not count."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=generator).tolist())

    prompt = draw(prompt_length)
    return [
        Sequence(prompt, output, tuple((step + index) % 3 != 0 for step in range(len(output))))
        for index, output in enumerate(draw(length) for length in lengths)
    ]


BATCHES = {
    "one": group(9, [5]),
    "pair": group(9, [5, 7]),
    "group": group(20, [3, 9, 4, 4, 12, 1, 2, 8]),
    "sixteen": group(12, list(range(1, 17))),
    "single-token prompt": group(1, [4, 6]),
    "empty outputs": group(7, [0, 5, 0]),
    "several prompts": [*group(9, [5, 2], seed=1), *group(3, [6], seed=2), *group(14, [1, 7, 7], seed=3)],
}


def gradients(policy, batch):
    policy.scorer.zero_grad(set_to_none=True)
    log_prob = padded_log_prob(policy.scorer(batch), batch)
    weight = torch.linspace(0.5, 2.0, len(batch.mask)).double()
    loss = (torch.nn.functional.softplus(log_prob.sum().double() / 10) * weight).sum()
    loss.backward()
    named = policy.scorer.named_parameters()
    return loss.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


def check_equal(policy, sequences):
    """In float64: loss and every gradient of the packed batch against the padded one."""
    policy.scorer.double()
    packed, padded = (kind.of(sequences, device=CPU) for kind in (PackedBatch, PaddedBatch))
    ours, theirs = gradients(policy, packed), gradients(policy, padded)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-8)  # log-probabilities are float32
    assert ours[1].keys() == theirs[1].keys()
    for name, slope in theirs[1].items():
        torch.testing.assert_close(
            ours[1][name], slope, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, alpha=4.0)], ids=["full", "lora"])
@pytest.mark.parametrize("sequences", BATCHES.values(), ids=BATCHES.keys())
def test_packed_equals_plain(tiny_model, sequences, lora):
    policy = CausalLM.load(tiny_model, dtype="float32", lora=lora)
    assert policy.packer.packs
    if lora is not None:  # fresh adapters have B = 0 and A without a gradient
        for name, weight in policy.scorer.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(0))
    check_equal(policy, sequences)


def test_packed_equals_plain_when_layers_are_computed_again(tiny_model):
    policy = CausalLM.load(tiny_model, dtype="float32", gradient_checkpointing=True)
    check_equal(policy, BATCHES["several prompts"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_packs_or_says_that_it_cannot(family, capsys):
    """gemma2 caps its scores, and this mistral sees four tokens back: both are padded, and it is said once."""
    model = build(family)
    packer = Packer(model, compute_dtype=torch.float32)
    told = capsys.readouterr()
    assert ("cannot share a prompt" in " ".join((told.out + told.err).split())) == (not packer.packs)
    assert packer.packs == (family not in {"gemma2", "mistral"})
    sequences = [*group(9, [5, 2], seed=1, vocabulary=61), *group(3, [6], seed=2, vocabulary=61)]
    scorer = TokenScorer(model)
    scorer.check_head(61)
    found = packer.batch(sequences, device=CPU)
    torch.testing.assert_close(scorer(found), scorer(PaddedBatch.of(sequences, device=CPU)), rtol=1e-4, atol=1e-5)


def test_rewards_are_those_of_padded_sequences(tiny_model):
    model = RewardModel.load(tiny_model, dtype="float32")
    sequences = [sequence for sequence in BATCHES["several prompts"] if sequence.output]
    packed = model.scorer(model.packer.batch(sequences, device=CPU, whole=True))
    padded = model.scorer(PaddedBatch.of(sequences, device=CPU))
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-6)


def test_sequences_longer_than_the_attentions_window_are_padded(tiny_model):
    policy = CausalLM.load(tiny_model, dtype="float32")
    policy.packer.window = 12
    assert isinstance(policy.packer.batch(group(9, [3]), device=CPU), PackedBatch)
    assert isinstance(policy.packer.batch(group(9, [3, 4]), device=CPU), PaddedBatch)


def test_no_token_is_computed_that_nothing_reads():
    """The last token of an output predicts nothing; neither does what follows the last token that counts."""
    prompt = (5, 6, 7, 8)
    sequences = [
        Sequence(prompt, (1, 2, 3), (True, True, True)),
        Sequence(prompt, (9, 4, 4, 4), (True, False, False, False)),
    ]
    batch = PackedBatch.of(sequences, device=CPU)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 1, 2]]
    assert batch.targets.tolist() == [1, 2, 3, 9]
    assert batch.places.tolist() == [3, 4, 5, 3]
