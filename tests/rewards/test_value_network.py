"""Value networks: what they begin as, where their values lie, and that sharing a trunk mixes up nothing."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import PolicyError
from plaudit.policies import CausalLM, LoRA, Reference, Sequence
from plaudit.rewards import RewardModel, ValueNetwork

CONTEXT = tuple(range(10, 20))
SEQUENCES = [
    Sequence(CONTEXT, (30, 31, 32, 33), (True, False, True, True)),
    Sequence(CONTEXT, (30, 40), (True, True)),
    Sequence((7, 8), (50, 51, 52, 53, 54), (True,) * 5),
]


def moved(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


def adapted(folder, **options) -> CausalLM:
    return CausalLM.load(folder, lora=LoRA(rank=2), dtype="float32", **options)


def trained(module: torch.nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


def sources(folder) -> dict:
    on_policy = RewardModel.on(adapted(folder), LoRA(rank=2))
    return {
        "policy": CausalLM.load(folder, dtype="float32"),
        "policy-adapters": adapted(folder),
        "reward": RewardModel.load(folder, dtype="float32"),
        "reward-adapters": RewardModel.load(folder, lora=LoRA(rank=2), dtype="float32"),
        "reward-shared": on_policy,
    }


@pytest.mark.parametrize("kind", ["reward", "reward-adapters", "reward-shared"])
def test_from_a_reward_model_the_value_before_a_token_is_the_reward_of_what_stands_before_it(tiny_model, kind):
    reward = sources(tiny_model)[kind]
    with reward.active():
        moved(reward.scorer)
    reward.offset = 0.7
    expected = reward.reward_of(
        [Sequence(CONTEXT[:-1], CONTEXT[-1:], (True,)), Sequence(CONTEXT, (30, 31), (True, True))]
    )
    values = ValueNetwork.of(reward).values_of(SEQUENCES)
    assert [len(row) for row in values] == [3, 2, 5]
    torch.testing.assert_close(values[0][:2], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[1][0], values[0][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["policy", "policy-adapters"])
def test_from_a_policy_all_values_are_0(tiny_model, kind):
    values = ValueNetwork.of(sources(tiny_model)[kind]).values_of(SEQUENCES)
    assert all(torch.equal(row, torch.zeros_like(row)) for row in values)


@pytest.mark.parametrize("kind", ["policy", "policy-adapters", "reward", "reward-adapters", "reward-shared"])
def test_training_it_leaves_its_source_as_it_was(tiny_model, kind):
    source = sources(tiny_model)[kind]
    with source.active() if isinstance(source, RewardModel) else torch.enable_grad():
        moved(source.scorer)

    def says() -> torch.Tensor:
        with torch.no_grad():
            return (
                source.reward_of(SEQUENCES) if isinstance(source, RewardModel) else source.log_prob_of(SEQUENCES).sum()
            )

    before, value = says(), ValueNetwork.of(source)
    started = value.values_of(SEQUENCES)
    own = [
        weight for name, weight in value.scorer.named_parameters() if weight.requires_grad and ".default." not in name
    ]
    with torch.no_grad():
        for weight in own:
            weight.add_(0.05)
    assert len(own) > 10
    assert torch.equal(says(), before)
    assert not any(torch.equal(now, then) for now, then in zip(value.values_of(SEQUENCES), started, strict=True))
    assert not isinstance(source, RewardModel) or "head.weight" not in trained(source.scorer)


def test_policy_reward_and_value_share_a_trunk_and_what_is_trained_stays_trained(tiny_model):
    """peft freezes adapters whenever others are asked, or none."""
    policy = adapted(tiny_model)
    reward = RewardModel.on(policy, LoRA(rank=2))
    value = ValueNetwork.of(reward)
    learning = trained(value.scorer)
    assert {name.split(".")[-2] for name in learning} == {"default", "value", "head"}
    reward.reward_of(SEQUENCES)
    Reference(policy).log_prob_of(SEQUENCES)
    value.values_of(SEQUENCES)
    assert trained(value.scorer) == learning
    assert policy.model.active_adapter == "default"


def test_both_get_the_gradients_that_each_gets_alone(tiny_model):
    gradients = []
    for checkpointing in (False, True):
        policy = adapted(tiny_model, gradient_checkpointing=checkpointing)
        value = ValueNetwork.of(policy)
        moved(value.scorer)
        batch = policy.packer.batch(SEQUENCES, device=policy.device)
        for losses in (
            [lambda p=policy, b=batch: p.scorer(b)[0].sum()],
            [lambda v=value, b=batch: v.scorer(b).sum()],
            [lambda p=policy, b=batch: p.scorer(b)[0].sum(), lambda v=value, b=batch: v.scorer(b).sum()],
        ):
            sum(loss() for loss in losses).backward()
            gradients.append({n: w.grad.clone() for n, w in value.scorer.named_parameters() if w.grad is not None})
            value.scorer.zero_grad(set_to_none=True)
    alone, valued, both = gradients[:3]
    assert {name.split(".")[-2] for name in alone} == {"default"}
    assert {name.split(".")[-2] for name in valued} == {"value", "head"}
    for found in ({**alone, **valued}, {**gradients[3], **gradients[4]}, gradients[5]):
        assert found.keys() == both.keys()
        for name, gradient in both.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    assert min(float(gradient.abs().max()) for gradient in both.values()) > 1e-4


def test_a_trunk_has_one_value_network(tiny_model):
    policy = adapted(tiny_model)
    ValueNetwork.of(policy)
    with pytest.raises(PolicyError, match="The model has adapters called 'value' already"):
        ValueNetwork.of(policy)


def test_a_copied_trunk_computes_what_outputs_share_once_as_its_source_does(tiny_model, capsys):
    policy = CausalLM.load(tiny_model, dtype="float32")
    value = ValueNetwork.of(policy)
    assert policy.packer.packs
    assert value.packer.packs
    assert value.packer is not policy.packer
    assert capsys.readouterr().err == ""
