"""The main job on a machine of one's own: a small model learns from simulated people to answer in plain language.

The people's true utility can be measured (see `plaudit.testbeds.plain_language`), so the report shows whether the model got
better at what they want, and not only at what they said.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from plaudit.feedback.store import FeedbackStore
from plaudit.methods import DPOConfig
from plaudit.policies import QUICKSTART_MODEL, CausalLM, LoRA
from plaudit.progress import console
from plaudit.sharing import expect_alone
from plaudit.testbeds import plain_language
from plaudit.training import RunFolder, TrainingConfig
from plaudit.training.config import check
from plaudit.workflows.align import AlignResult, align
from plaudit.workflows.answers import kept_answers
from plaudit.workflows.config import AlignConfig, EvaluationConfig, to_mapping
from plaudit.workflows.feedback_data import new_run_folder
from plaudit.workflows.profile import profiled_run


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of the demo.

    Attributes:
        run: folder of the run; by default a new one in runs/.
        model: the model to improve.
        contexts: questions to sample answers to and to collect feedback on, at most 196.
        outputs_per_context: answers to each question.
        rankings_per_context: how many of the people rank them; the best and the worst of each ranking make a pair.
        held_out_contexts: questions to measure with, at most 64; none of them is learned from.
        seed: of every random choice.
        device: cpu, cuda, ...; by default the GPU where there is one.
        profile: measure where the time goes, print it at the end, and write it into the metrics and the report.
    """

    run: Path | None = None
    model: str = QUICKSTART_MODEL
    contexts: int = 96
    outputs_per_context: int = 6
    rankings_per_context: int = 3
    held_out_contexts: int = 64
    seed: int = 0
    device: str | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        check(self, "contexts", 10 <= self.contexts <= 196, "a whole number from 10 to 196")
        check(self, "outputs_per_context", self.outputs_per_context >= 2, "a whole number >= 2")
        check(self, "rankings_per_context", self.rankings_per_context >= 1, "a whole number >= 1")
        check(self, "held_out_contexts", 4 <= self.held_out_contexts <= 64, "a whole number from 4 to 64")


SAMPLING = EvaluationConfig(outputs_per_context=3, max_new_tokens=64, temperature=0.8, batch_size=128)


def demo(config: DemoConfig, *, resuming: bool = False) -> AlignResult:
    """Sample, judge, store, learn, measure; the report is ``RUN/dpo/report.html``."""
    expect_alone("The demo")
    with profiled_run(config.profile, dtype="auto", device=config.device):
        return _demo(config, resuming=resuming)


def _demo(config: DemoConfig, *, resuming: bool) -> AlignResult:
    started = time.perf_counter()
    config = replace(config, run=config.run or new_run_folder("demo"))
    assert config.run is not None
    run = (
        RunFolder.open(config.run)
        if resuming
        else RunFolder.create(config.run, {"workflow": "demo", **to_mapping(config)})
    )
    settings = align_settings(config)
    console.print(
        f"[bold]{config.model} learns from the feedback of simulated people to answer in plain language.[/bold]\n"
        f"Everything goes into {config.run}. This takes about 8 minutes on two cores."
    )
    console.print(f"Loading {config.model} ...")
    policy = CausalLM.load(config.model, **settings.loading, seed=config.seed)
    contexts = plain_language.contexts("train")[: config.contexts]
    sampling = replace(SAMPLING, outputs_per_context=config.outputs_per_context)
    answers = kept_answers("to_judge", run, policy, contexts, sampling, seed=config.seed)
    pool = plain_language.annotators()
    records = [
        pool.rank(context, [policy.output(sample, sampling.sampling) for sample in samples], seed=config.seed + judge)
        for context, samples in zip(contexts, answers, strict=True)
        for judge in range(config.rankings_per_context)
    ]
    assert settings.feedback is not None
    with FeedbackStore.open(settings.feedback) as store:
        stored = store.add(records)
    console.print(f"{len(stored)} rankings by {len(pool.annotators)} simulated people lie in {settings.feedback}.")
    assert settings.run is not None
    result = align(
        settings,
        resuming=(settings.run / "config.toml").is_file(),
        policy=policy,
        utility=plain_language.utility,
        contexts=plain_language.contexts("held_out")[: config.held_out_contexts],
    )
    console.print(f"Done in {(time.perf_counter() - started) / 60:.1f} minutes.")
    return result


def align_settings(config: DemoConfig) -> AlignConfig:
    """The settings that the demo aligns with."""
    assert config.run is not None
    training = TrainingConfig(batch_size=16, micro_batch_size=8, checkpoint_every=10, seed=config.seed)
    return AlignConfig(
        model=config.model,
        feedback=str(config.run / "feedback.db"),
        run=config.run / "dpo",
        device=config.device,
        profile=config.profile,
        pairs_per_ranking=1,
        max_context_tokens=128,
        max_output_tokens=128,
        lora=LoRA(rank=16, alpha=32.0),
        training=replace(training, learning_rate=3e-4, epochs=2.0, max_steps=20),
        judge_training=replace(training, learning_rate=3e-4, max_steps=12),
        dpo=DPOConfig(beta=1.0),
        evaluation=replace(SAMPLING, contexts=config.held_out_contexts),
    )
