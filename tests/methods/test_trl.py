"""TRL's DPOTrainer and RewardTrainer compute the same loss and the same gradient of every parameter on the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plaudit.methods import DPO, DPOConfig, EncodedPair, RewardConfig, RewardModelling
from plaudit.policies import CausalLM, Reference
from plaudit.rewards import RewardModel

from .worlds import pairs, perturb

trl = pytest.importorskip("trl")
# TRL calls transformers by names that transformers has since changed
pytestmark = pytest.mark.filterwarnings(r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning")
QUIET: dict[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": None,
    "disable_dropout": True,
}


def arguments(kind: type, folder: Path, **settings) -> Any:
    return kind(output_dir=str(folder), **QUIET, **settings)


def as_trl(examples: list[EncodedPair]) -> list[dict[str, Any]]:
    return [
        {
            "prompt_ids": list(pair.chosen.context),
            "chosen_ids": list(pair.chosen.output),
            "rejected_ids": list(pair.rejected.output),
        }
        for pair in examples
    ]


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}


def mean(loss) -> torch.Tensor:
    """What `plaudit.training` differentiates."""
    return (loss.value * loss.weight).sum() / loss.weight.sum()


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert max(value.abs().max() for value in ours.values()) > 1e-2
    scale = max(1.0, float(torch.nn.utils.get_total_norm(theirs.values())))
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-4, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture
def conversation():
    """A data set that TRL can be made with; its loss is then asked for with our own batch."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b"}])


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo(tiny_model, tmp_path, conversation, beta):
    """Full fine-tuning of a policy that has moved from its reference."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    examples = pairs()
    policy = CausalLM.load(tiny_model, dtype="float32")
    reference = Reference(policy)
    reference.prepare([side for pair in examples for side in (pair.chosen, pair.rejected)])
    perturb(policy.scorer, size=0.02)
    ours = mean(DPO(policy, reference, examples, DPOConfig(beta=beta)).loss(examples))
    ours.backward()

    model, frozen = (AutoModelForCausalLM.from_pretrained(tiny_model) for _ in range(2))
    model.load_state_dict(policy.model.state_dict())
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=frozen,
        args=arguments(trl.DPOConfig, tmp_path, beta=beta),
        train_dataset=conversation,
        processing_class=policy.encoder.tokenizer,
    )
    batch = DataCollatorForPreference(pad_token_id=0)(as_trl(examples))
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_same(gradients(policy.model), gradients(trainer.model))


@pytest.mark.parametrize("margins", [False, True])
def test_reward_modelling(tiny_model, tmp_path, conversation, margins):
    """TRL's classifier reads the last token that is no padding, as our head reads the last token."""
    from transformers import LlamaForSequenceClassification
    from trl.trainer.reward_trainer import DataCollatorForPreference

    examples = pairs(margins=margins)
    model = RewardModel.load(tiny_model, dtype="float32")
    ours = mean(RewardModelling(model, examples, RewardConfig(margin_weight=1.0)).loss(examples))
    ours.backward()

    classifier = LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    with torch.no_grad():
        classifier.score.weight.copy_(model.scorer.head.weight)
    trainer = trl.RewardTrainer(
        model=classifier,
        args=arguments(trl.RewardConfig, tmp_path),
        train_dataset=conversation.remove_columns("prompt"),
        processing_class=model.encoder.tokenizer,
    )
    classifier.config.pad_token_id = 1  # a token that no example holds
    rows = [
        {
            "chosen_ids": [*pair.chosen.context, *pair.chosen.output],
            "rejected_ids": [*pair.rejected.context, *pair.rejected.output],
            **({"margin": pair.margin or 0.0} if margins else {}),
        }
        for pair in examples
    ]
    batch = DataCollatorForPreference(pad_token_id=1)(rows)
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    own = {name.removeprefix("model."): value for name, value in gradients(model.scorer).items()}
    other = {name.replace("score.", "head."): value for name, value in gradients(trainer.model).items()}
    assert_same(own, other)
