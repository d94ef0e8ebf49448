"""A learned reward: read at the last token, alone on its trunk or beside the policy, and found again as it was saved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plaudit.errors import CheckpointError, PolicyError
from plaudit.feedback.records import Context, Output, Text
from plaudit.policies import CausalLM, LoRA, Reference, Sequence
from plaudit.policies.batches import PaddedBatch
from plaudit.policies.scoring import causal_lm_of, decoder_of
from plaudit.rewards import RewardModel

KINDS = ["own-lora", "own-full", "shared"]
kinds = pytest.mark.parametrize("kind", KINDS)


def random_sequences(count: int, *, seed: int = 0) -> list[Sequence]:
    generator = torch.Generator().manual_seed(seed)

    def ids() -> tuple[int, ...]:
        length = int(torch.randint(1, 10, (), generator=generator))
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    return [Sequence(ids(), output := ids(), (True,) * len(output)) for _ in range(count)]


SEQUENCES = random_sequences(6)


def perturb(module: torch.nn.Module, *, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.fixture
def policy(tiny_model) -> CausalLM:
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    perturb(policy.scorer)
    return policy


def make(kind: str, tiny_model: Path, policy: CausalLM) -> RewardModel:
    """A reward model whose trained weights have moved."""
    if kind == "shared":
        model = RewardModel.on(policy, LoRA(rank=3))
    else:
        model = RewardModel.load(tiny_model, lora=LoRA(rank=3) if kind == "own-lora" else None, dtype="float32")
    with model.active():
        perturb(model.scorer, seed=1)
    return model


def learn(model: RewardModel, steps: int = 3) -> list[float]:
    """A few steps of pushing the first half of the sequences above the other."""
    losses = []
    with model.active():
        trained = [weight for weight in model.scorer.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        for _ in range(steps):
            chosen, rejected = model.raw(SEQUENCES).chunk(2)
            loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# --- values ---------------------------------------------------------------------------------------------------------


@kinds
@torch.no_grad()
def test_a_reward_is_the_head_on_the_last_tokens_state(kind, tiny_model, policy):
    model = make(kind, tiny_model, policy)
    found = model.reward_of(SEQUENCES)
    with model.active():
        for sequence, reward in zip(SEQUENCES, found, strict=True):
            ids = torch.tensor([sequence.context + sequence.output])
            state = decoder_of(causal_lm_of(model.scorer.model))(input_ids=ids).last_hidden_state[0, -1]
            torch.testing.assert_close(reward, model.scorer.head.weight[0] @ state, rtol=1e-5, atol=1e-5)


@kinds
@torch.no_grad()
def test_neighbours_padding_and_order_change_nothing(kind, tiny_model, policy):
    model = make(kind, tiny_model, policy)
    together = model.reward_of(SEQUENCES)
    close = {"rtol": 1e-5, "atol": 1e-5}
    for size in (1, 2, 4):
        torch.testing.assert_close(model.reward_of(SEQUENCES, batch_size=size), together, **close)
    order = [3, 0, 5, 1]
    torch.testing.assert_close(model.reward_of([SEQUENCES[index] for index in order]), together[order], **close)
    giant = Sequence(tuple(range(3, 63)), tuple(range(3, 63)), (True,) * 60)
    torch.testing.assert_close(model.reward_of([giant, *SEQUENCES])[1:], together, **close)
    assert together.std() > 0.1


def test_texts_are_scored_as_their_tokens(tiny_model, policy):
    model = make("own-lora", tiny_model, policy)
    contexts = [Context(content=Text(text=text)) for text in ("Hi", "2 + 2?")]
    outputs = [Output(content=Text(text=text)) for text in ("Hello", "four")]
    sequences = [model.encoder.sequence(*pair) for pair in zip(contexts, outputs, strict=True)]
    reward = model.reward(contexts, outputs)
    assert torch.equal(reward.value, model.reward_of(sequences))
    assert reward.per_step is None
    with pytest.raises(ValueError, match="shorter"):
        model.reward(contexts, outputs[:1])


def test_progress_counts_every_sequence(tiny_model, policy):
    told: list[int] = []
    make("own-lora", tiny_model, policy).reward_of(SEQUENCES, batch_size=4, progress=told.append)
    assert told == [4, 2]


def test_a_fresh_head_starts_rewards_near_0(tiny_model):
    """Standard deviation 0.1 / sqrt(width + 1), from the seed and nothing else."""
    state = torch.random.get_rng_state()
    heads = [RewardModel.load(tiny_model, dtype="float32", seed=seed).scorer.head.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    width = heads[0].shape[1]
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(heads[0], torch.randn(1, width, generator=generator) * (0.1 * (width + 1) ** -0.5))
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@kinds
def test_normalise_gives_mean_0_and_moves_nothing_else(kind, tiny_model, policy):
    model = make(kind, tiny_model, policy)
    before = model.reward_of(SEQUENCES)
    model.normalise(SEQUENCES[:4])
    after = model.reward_of(SEQUENCES)
    assert after[:4].mean().item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(before - after, before[:4].mean().expand(6))
    model.normalise(SEQUENCES[:4])  # it is there already
    torch.testing.assert_close(model.reward_of(SEQUENCES), after)


def test_bfloat16_products_give_float32_rewards(tiny_model):
    fast, exact = (RewardModel.load(tiny_model, dtype=dtype) for dtype in ("bfloat16", "float32"))
    rewards = fast.reward_of(SEQUENCES)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, exact.reward_of(SEQUENCES), rtol=0.05, atol=0.05)


# --- one trunk for reward and policy --------------------------------------------------------------------------------


def test_training_the_reward_leaves_the_policy_bit_identical(policy):
    log_prob = policy.log_prob_of(SEQUENCES).sum().detach()
    reference = Reference(policy).log_prob_of(SEQUENCES).sum()
    model = RewardModel.on(policy, LoRA(rank=3))
    assert torch.equal(policy.log_prob_of(SEQUENCES).sum(), log_prob)
    losses = learn(model)
    assert losses[-1] < losses[0]
    assert torch.equal(policy.log_prob_of(SEQUENCES).sum(), log_prob)
    assert torch.equal(Reference(policy).log_prob_of(SEQUENCES).sum(), reference)


def test_training_the_policy_leaves_the_reward_bit_identical(policy):
    model = RewardModel.on(policy, LoRA(rank=3))
    learn(model)
    rewards = model.reward_of(SEQUENCES)
    trained = [weight for weight in policy.scorer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    policy.log_prob_of(SEQUENCES).sum().sum().backward()
    optimizer.step()
    assert torch.equal(model.reward_of(SEQUENCES), rewards)


def test_inside_active_only_the_rewards_own_weights_are_trained(policy):
    model = RewardModel.on(policy, LoRA(rank=3))

    def trained(module: torch.nn.Module) -> set[str]:
        return {name for name, weight in module.named_parameters() if weight.requires_grad}

    def adapters(name: str) -> set[str]:
        return {full for full, _ in model.scorer.named_parameters() if f".{name}." in full}

    assert trained(policy.scorer) == adapters("default")
    with model.active():
        assert trained(model.scorer) == adapters("reward") | {"head.weight"}
    assert trained(policy.scorer) == adapters("default")
    with pytest.raises(RuntimeError, match="inside"), model.active():
        raise RuntimeError("inside")
    assert trained(policy.scorer) == adapters("default")
    model.reward_of(SEQUENCES)
    assert trained(policy.scorer) == adapters("default")
    assert len(adapters("default")) == len(adapters("reward")) == 28  # A and B of 7 layers in each of 2 blocks


def test_a_policy_without_adapters_has_no_trunk_to_share(tiny_model):
    with pytest.raises(PolicyError, match="share the trunk of a policy with LoRA only; give it a trunk of its own"):
        RewardModel.on(CausalLM.load(tiny_model, dtype="float32"), LoRA(rank=2))


def test_a_trunk_of_its_own_is_trained_without_the_vocabularys_head(tmp_path, tiny_model):
    """The head predicts tokens and is not read; were it to wait for a gradient, several processes would wait for ever."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "untied")
    fresh = RewardModel.load(tmp_path / "untied", dtype="float32")
    fresh.save(tmp_path / "saved")
    for reward in (fresh, RewardModel.load(tmp_path / "saved", dtype="float32")):
        reward.raw(SEQUENCES).sum().backward()
        waiting = [n for n, weight in reward.scorer.named_parameters() if weight.requires_grad and weight.grad is None]
        assert waiting == []
        assert not reward.scorer.model.lm_head.weight.requires_grad


# --- files ----------------------------------------------------------------------------------------------------------


@kinds
def test_a_saved_reward_model_comes_back(kind, tiny_model, policy, tmp_path):
    model = make(kind, tiny_model, policy)
    model.normalise(SEQUENCES)
    model.encoder.max_output_tokens = 77
    model.save(tmp_path)
    again = RewardModel.load(tmp_path, dtype="float32")
    torch.testing.assert_close(again.reward_of(SEQUENCES), model.reward_of(SEQUENCES), rtol=0, atol=1e-5)
    assert again.encoder.fingerprint == model.encoder.fingerprint
    assert (again.encoder.max_context_tokens, again.encoder.max_output_tokens) == (1024, 77)
    losses = learn(again)  # and can learn on
    assert losses[-1] < losses[0]


def test_a_reward_on_a_policy_that_was_adapters_itself_comes_back(tiny_model, policy, tmp_path):
    """Its trunk is the base with the first adapters merged."""
    policy.save(tmp_path / "policy")
    second = CausalLM.load(tmp_path / "policy", lora=LoRA(rank=2), dtype="float32")
    for number, model in enumerate(
        (
            RewardModel.on(second, LoRA(rank=3)),
            RewardModel.load(tmp_path / "policy", lora=LoRA(rank=3), dtype="float32"),
            RewardModel.load(tmp_path / "policy", dtype="float32"),
        )
    ):
        model.save(tmp_path / str(number))
        again = RewardModel.load(tmp_path / str(number), dtype="float32")
        torch.testing.assert_close(again.reward_of(SEQUENCES), model.reward_of(SEQUENCES), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "head.safetensors").unlink(), "is damaged: .*head.safetensors"),
        (lambda folder: (folder / "head.safetensors").write_bytes(b"xx"), "is damaged: .*header"),
        (lambda folder: (folder / "reward.json").write_text("{"), "is damaged"),
        (
            lambda folder: (folder / "reward.json").write_text(json.dumps({"offset": 0})),
            "is damaged: 'max_context_tokens'",
        ),
        (
            lambda folder: (folder / "reward" / "adapter_model.safetensors").unlink(),
            "is damaged: .*holds no adapter_model",
        ),
        (
            lambda folder: save_file({"weight": torch.zeros(1, 5)}, folder / "head.safetensors"),
            r"has a head of shape \(1, 5\), its trunk .* needs \(1, 32\)",
        ),
    ],
    ids=["no head", "half a head", "no json", "no limits", "no adapters", "another head"],
)
def test_a_damaged_folder_is_named(tiny_model, policy, tmp_path, damage, message):
    make("own-lora", tiny_model, policy).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=f"The reward model in {tmp_path} {message}"):
        RewardModel.load(tmp_path)


def test_the_gradient_of_a_reward_is_its_definitions(tiny_model, policy):
    """With a linear head the gradient of the summed reward with respect to the head is the sum of the last states."""
    model = make("own-lora", tiny_model, policy)
    model.raw(SEQUENCES).sum().backward()
    batch = PaddedBatch.of(SEQUENCES, device=torch.device("cpu"))
    with torch.no_grad():
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        states = decoder_of(causal_lm_of(model.scorer.model))(**inputs).last_hidden_state
    last = torch.stack([states[row, len(sequence) - 1] for row, sequence in enumerate(SEQUENCES)])
    torch.testing.assert_close(model.scorer.head.weight.grad[0], last.sum(0), rtol=1e-5, atol=1e-5)
    assert math.isfinite(model.scorer.head.weight.grad.sum())


def test_mean_pooling_is_the_mean_of_the_states_from_the_contexts_last_token_on(tiny_model, tmp_path):
    model = RewardModel.load(tiny_model, dtype="float32", pooling="mean")
    perturb(model.scorer, seed=1)
    found = model.raw(SEQUENCES).detach()
    for sequence, value in zip(SEQUENCES, found, strict=True):
        batch = PaddedBatch.of([sequence], device=torch.device("cpu"))
        with torch.no_grad():
            hidden = decoder_of(causal_lm_of(model.scorer.model))(**batch.inputs).last_hidden_state[0]
            expected = model.scorer.head(hidden[len(sequence.context) - 1 :].mean(0))
        torch.testing.assert_close(value, expected[0], rtol=0, atol=1e-5)
    last = RewardModel.load(tiny_model, dtype="float32")
    perturb(last.scorer, seed=1)
    assert not torch.allclose(last.raw(SEQUENCES), found, atol=1e-4)
    model.save(tmp_path / "reward")
    again = RewardModel.load(tmp_path / "reward", dtype="float32")
    torch.testing.assert_close(again.raw(SEQUENCES).detach(), found, rtol=0, atol=1e-6)
