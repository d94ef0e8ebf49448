"""TRL's trainers on a case's model, with the same adapters and token ids, at the settings that are best on this machine.

Best: no gradient checkpointing (TRL's default, which costs a further forward pass), no padding to a multiple, micro-batches
within the same token budget as ours, bfloat16 under autocast over bfloat16 frozen weights and float32 adapters, as ours. TRL's
head, which builds no wide logits, scores every position where there is no Triton, prompts included: no setting changes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor

from plaudit.methods import EncodedPair
from plaudit.policies import Sequence

from .cases import ADAPTERS, Case, fill_adapters, load_base

PADDING = 0  # masked on all sides
Batch = dict[str, Tensor]


def dpo_trainer(case: Case) -> Any:
    """A DPOTrainer; what it is given to train on stands in for the batch that it will be asked about."""
    import trl

    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    trainer = _trainer(trl.DPOTrainer, trl.DPOConfig, case, *load_base(case), row, max_length=None, beta=0.1)
    trainer.precompute_ref_logps = case.reference == "beforehand"
    return trainer


def dpo_batch(trainer: Any, pairs: Rows[EncodedPair]) -> Batch:
    """What TRL's collator makes of pairs; with the reference's log-probabilities where they are computed beforehand."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows = [
        {
            "prompt_ids": list(pair.chosen.context),
            "chosen_ids": list(pair.chosen.output),
            "rejected_ids": list(pair.rejected.output),
        }
        for pair in pairs
    ]
    batch = DataCollatorForPreference(pad_token_id=PADDING)(rows)
    if trainer.precompute_ref_logps:
        chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
        batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    return batch


def reward_trainer(case: Case) -> tuple[Any, Tensor]:
    """A RewardTrainer with a classifier on the case's trunk, and the weight of its head."""
    import trl
    from transformers import AutoModelForSequenceClassification

    base, tokenizer = load_base(case)
    base.config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(base.config, dtype=case.torch_dtype)
    getattr(classifier, classifier.base_model_prefix).load_state_dict(
        getattr(base, base.base_model_prefix).state_dict()
    )
    row = {"chosen": "a", "rejected": "b"}
    trainer = _trainer(
        trl.RewardTrainer, trl.RewardConfig, case, classifier, tokenizer, row, task="SEQ_CLS", max_length=None
    )
    inner = trainer.model.get_base_model()
    inner.config.pad_token_id = PADDING
    return trainer, inner.score.modules_to_save.default.weight


def reward_batch(pairs: Rows[EncodedPair]) -> Batch:
    """What TRL's collator makes of pairs."""
    from trl.trainer.reward_trainer import DataCollatorForPreference

    rows = [
        {
            "chosen_ids": [*pair.chosen.context, *pair.chosen.output],
            "rejected_ids": [*pair.rejected.context, *pair.rejected.output],
        }
        for pair in pairs
    ]
    return DataCollatorForPreference(pad_token_id=PADDING)(rows)


def sft_trainer(case: Case) -> Any:
    """An SFTTrainer."""
    import trl

    row = {"prompt": "q", "completion": "a"}
    return _trainer(trl.SFTTrainer, trl.SFTConfig, case, *load_base(case), row, max_length=None)


def sft_batch(sequences: Rows[Sequence], *, padding_free: bool) -> Batch:
    """What TRL's collator makes of demonstrations: rows side by side, or one row with positions that start anew."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [
        {
            "input_ids": [*sequence.context, *sequence.output],
            "labels": [*[-100] * len(sequence.context), *sequence.output],
        }
        for sequence in sequences
    ]
    return DataCollatorForLanguageModeling(pad_token_id=PADDING, padding_free=padding_free)(rows)


def grpo_trainer(case: Case, prompts: Rows[tuple[int, ...]], reward: Callable[[list[int]], float], *, rows: int) -> Any:
    """A GRPOTrainer that samples all outputs at once and learns from them in micro-batches of so many rows.

    Outputs go on after an end of text, so that all are as long as the case says, on our side too. Prompts go by their numbers:
    their ids are given.
    """
    import trl

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward(ids) for ids in completion_ids]

    micro_batches = case.prompts * case.outputs // rows
    trainer = _trainer(
        trl.GRPOTrainer,
        trl.GRPOConfig,
        case,
        *load_base(case),
        {"prompt": "0"},
        reward_funcs=rewards,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=micro_batches,
        num_generations=case.outputs,
        max_completion_length=case.output_tokens,
        beta=0.0,
        loss_type="grpo",
        pad_to_multiple_of=None,
        generation_kwargs={"eos_token_id": None},
    )
    trainer.eos_token_ids = [-1]
    trainer.current_gradient_accumulation_steps = micro_batches
    trainer._tokenize_prompts = lambda numbers: ([list(prompts[int(number)]) for number in numbers], None, {})
    return trainer


def grpo_batch(group: Rows[Sequence], advantage: Tensor) -> Batch:
    """Outputs of one prompt as GRPOTrainer hands them to its loss after scoring them."""
    prompts = torch.tensor([sequence.context for sequence in group])
    outputs = torch.tensor([sequence.output for sequence in group])
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": outputs,
        "completion_mask": torch.ones_like(outputs),
        "advantages": advantage,
        "num_items_in_batch": torch.tensor(outputs.numel()),
    }


def _trainer(
    kind: Any,
    config: Any,
    case: Case,
    model: Any,
    tokenizer: Any,
    row: dict[str, str],
    *,
    task: str = "CAUSAL_LM",
    reward_funcs: Any = None,
    **settings: Any,
) -> Any:
    from datasets import Dataset

    adapters = ADAPTERS.peft_config()
    adapters.task_type = task
    with tempfile.TemporaryDirectory() as folder:
        trainer = kind(
            model=model,
            args=config(
                output_dir=folder,
                report_to=[],
                use_cpu=True,
                bf16=case.dtype == "bfloat16",
                gradient_checkpointing=False,
                disable_tqdm=True,
                **settings,
            ),
            train_dataset=Dataset.from_list([row]),
            processing_class=tokenizer,
            peft_config=adapters,
            **({} if reward_funcs is None else {"reward_funcs": reward_funcs}),
        )
    fill_adapters(trainer.model)
    trainer.model.train()
    return trainer


def loss_of(trainer: Any, batch: Batch) -> Tensor:
    """A trainer's loss under its own mixed precision."""
    with trainer.compute_loss_context_manager():
        loss: Tensor = trainer.compute_loss(trainer.model, dict(batch))
    return loss
