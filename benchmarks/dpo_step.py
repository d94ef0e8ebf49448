"""One DPO step (loss and gradients of one batch with LoRA) of plaudit and of TRL's DPOTrainer, on the same pairs, in turn.

    python benchmarks/dpo_step.py [--pairs 8] [--prompt-words 0] [--output-words 48] [--rounds 7] [--dtype float32]

Work: N pairs of the demo's questions (with so many further words) with two answers of 48 words each, in the chat template.
Both compute the policy's forward and backward pass and the reference's forward pass; a second comparison has the reference's
log-probabilities beforehand (`precompute_ref_log_probs=True` in TRL, a prepared `Reference` here). Floor: a token costs 2
flops per weight forward and, with frozen weights, 2 more backward for the activations' gradients, so about 4 x 106 M x tokens
without the head, whose 2 x 28 M (forward, its recomputation, backward) count for the answers' tokens only; the reference adds
2 x 106 M.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch

from plaudit.feedback.records import Context, Output
from plaudit.methods import DPO, DPOConfig, EncodedPair
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.testbeds import plain_language


def answers(count: int, *, words: int, prompt_words: int) -> list[tuple[str, str, str]]:
    """(question, chosen, rejected): words of the questions themselves, drawn at random."""
    generator = random.Random(0)
    questions = [str(context.attributes["question"]) for context in plain_language.contexts("train")]
    vocabulary = " ".join(questions).split()
    return [
        (
            " ".join([questions[index], *generator.choices(vocabulary, k=prompt_words)]),
            *(" ".join(generator.choices(vocabulary, k=words)) for _ in range(2)),
        )
        for index in range(count)
    ]


def build_trl(policy: CausalLM, rows: list[tuple[str, str, str]], *, precompute: bool):
    """A DPOTrainer on a copy of the same model with the same adapters, and its one batch."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig as TRLConfig
    from trl import DPOTrainer

    def chat(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    data = Dataset.from_list(
        [
            {"prompt": chat("user", q), "chosen": chat("assistant", c), "rejected": chat("assistant", r)}
            for q, c, r in rows
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TRLConfig(
            output_dir=folder, per_device_train_batch_size=len(rows), report_to=[], use_cpu=True, max_length=None,
            gradient_checkpointing=False, precompute_ref_log_probs=precompute, disable_tqdm=True, beta=0.1,
            bf16=policy.compute_dtype == torch.bfloat16,
        )  # fmt: skip
        trainer = DPOTrainer(
            model=load_base(policy),
            args=arguments,
            train_dataset=data,
            processing_class=policy.encoder.tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    return trainer, batch


def load_base(policy: CausalLM):
    from plaudit.policies.loading import load_model

    return load_model(policy.name, dtype=policy.compute_dtype)[0]


def timed(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(policy: CausalLM, pairs: list[EncodedPair], rows, *, precompute: bool, rounds: int) -> dict[str, float]:
    trainer, batch = build_trl(policy, rows, precompute=precompute)
    prepared = Reference(policy)
    prepared.prepare([side for pair in pairs for side in (pair.chosen, pair.rejected)])

    def ours() -> None:
        reference = prepared if precompute else Reference(policy)
        DPO(policy, reference, pairs, DPOConfig(beta=0.1)).loss(pairs).value.mean().backward()
        policy.model.zero_grad(set_to_none=True)

    def theirs() -> None:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        trainer.model.zero_grad(set_to_none=True)

    ours(), theirs()
    times = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    mine, peer = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "plaudit_s": round(mine, 3),
        "trl_s": round(peer, 3),
        "ratio_trl_to_plaudit": round(statistics.median(b / a for a, b in times), 3),
        "lowest_ratio": round(min(b / a for a, b in times), 3),
        "highest_ratio": round(max(b / a for a, b in times), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--prompt-words", type=int, default=0)
    parser.add_argument("--output-words", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    policy = CausalLM.load(options.model, lora=LoRA(rank=16, alpha=32.0), dtype=options.dtype)
    rows = answers(options.pairs, words=options.output_words, prompt_words=options.prompt_words)
    pairs = [
        EncodedPair(*(policy.encoder.sequence(Context(content=q), Output(content=text)) for text in (c, r)))
        for q, c, r in rows
    ]
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "model": options.model,
        "dtype": options.dtype,
        "pairs": options.pairs,
        "prompt tokens": sum(len(pair.chosen.context) for pair in pairs) / len(pairs),
        "output tokens": sum(len(pair.chosen.output) + len(pair.rejected.output) for pair in pairs) / (2 * len(pairs)),
        "tokens": sum(len(side) for pair in pairs for side in (pair.chosen, pair.rejected)),
        "reference in the step": compare(policy, pairs, rows, precompute=False, rounds=options.rounds),
        "reference beforehand": compare(policy, pairs, rows, precompute=True, rounds=options.rounds),
    }
    file = Path(__file__).parent / "results" / f"dpo_step_{options.dtype}_{options.prompt_words}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
