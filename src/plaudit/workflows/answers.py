"""Sampled answers of a run, kept in its folder so that a resumed run does not sample them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain

import torch

from plaudit.feedback.records import Context
from plaudit.policies import CausalLM, Sample
from plaudit.profiling import phase
from plaudit.progress import track
from plaudit.sharing import from_main, own_part, together
from plaudit.training import RunFolder
from plaudit.training.randomness import torch_generator
from plaudit.workflows.config import EvaluationConfig

Answered = tuple[tuple[Sample, ...], ...]


def sample_answers(
    policy: CausalLM, contexts: Sequence[Context], config: EvaluationConfig, *, seed: int, description: str
) -> Answered:
    """Sample answers to contexts, a portion at a time, so that there is progress to show; several processes share them."""
    portion = max(1, config.batch_size // config.outputs_per_context)
    starts = range(0, len(contexts), portion)
    own = [starts[index] for index in own_part(len(starts))]

    def sample() -> Answered:
        answers: list[tuple[Sample, ...]] = []
        with track(
            description, sum(min(portion, len(contexts) - start) for start in own) * config.outputs_per_context
        ) as bar:
            for start in own:
                found = policy.sample(
                    contexts[start : start + portion],
                    config.outputs_per_context,
                    generator=torch_generator(seed, "answers", start),
                    sampling=config.sampling,
                    batch_size=config.batch_size,
                )
                answers.extend(map(tuple, found))
                bar.advance(len(found) * config.outputs_per_context)
        return tuple(answers)

    with phase("sampling"):
        return tuple(chain.from_iterable(together(sample)))


def kept_answers(
    name: str, run: RunFolder, policy: CausalLM, contexts: Sequence[Context], config: EvaluationConfig, *, seed: int
) -> Answered:
    """The answers that the run's folder keeps under `name`, sampled now if it has none."""
    file = run.path / f"answers_{name}.jsonl"
    if from_main(file.is_file):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return tuple(
            tuple(Sample(tuple(s["token_ids"]), s["text"], tuple(s["log_prob"]), s["finished"]) for s in row["answers"])
            for row in rows
        )
    answers = sample_answers(policy, contexts, config, seed=seed, description=f"Answers {name}")
    lines = [
        json.dumps({"context": context.text, "answers": [asdict(sample) for sample in samples]}, ensure_ascii=False)
        for context, samples in zip(contexts, answers, strict=True)
    ]
    run.write(file.name, "".join(f"{line}\n" for line in lines))
    return answers


def distinct_contexts(contexts: Sequence[Context], count: int, *, seed: int) -> tuple[Context, ...]:
    """At most `count` different contexts, in an order that depends on the seed only."""
    different = sorted({context.digest: context for context in contexts}.items())
    order = torch.randperm(len(different), generator=torch_generator(seed, "contexts")).tolist()
    return tuple(different[index][1] for index in order[:count])
