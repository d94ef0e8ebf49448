"""A report as a run would make it, from simulated judgements, lengths and log-ratios."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from plaudit.evaluation import (
    bootstrap_mean,
    brier_score,
    divergence_from_reference,
    length_change,
    length_controlled_win_rate,
    length_histogram,
    overconfidence,
    paired_difference,
    preference_accuracy,
    reliability_curve,
    win_rate,
)
from plaudit.evaluation.report import Curve, FeedbackSummary, Row, RunReport, Sample, find_warnings


def example_report(seed: int = 7, contexts: int = 240) -> RunReport:
    generator = np.random.default_rng(seed)
    before = generator.gamma(6.0, 22.0, contexts).round() + 12
    after = (before * generator.lognormal(0.25, 0.25, contexts)).round() + 3
    chance = 1 / (1 + np.exp(-(0.35 + 0.8 * np.tanh((after - before) / (after - before).std()))))
    preferences = [None if generator.random() < 0.02 else float(generator.random() < p) for p in chance]
    differences = generator.normal(0.9, 1.4, 320)
    outcomes = (generator.random(320) < 1 / (1 + np.exp(-0.55 * differences))).astype(float)
    rate = length_controlled_win_rate(preferences, after, before, generator=generator)
    wins = win_rate(preferences, generator=generator)
    change = length_change(before, after, unit="tokens", generator=generator)
    kl = divergence_from_reference(generator.normal(6.1, 3.4, contexts), token_counts=after, generator=generator)
    loops = bootstrap_mean(
        (generator.random(contexts) < 0.06).astype(float), generator=generator, bounds=(0, 1), unit="share"
    )
    reward = paired_difference(
        generator.normal(1.4, 1.0, contexts), generator.normal(0.8, 1.0, contexts), generator=generator
    )
    refusals = replace(
        paired_difference(
            (generator.random(contexts) < 0.05).astype(float),
            (generator.random(contexts) < 0.11).astype(float),
            generator=generator,
        ),
        unit="points",
    )
    headline = (
        Row("Win rate", wins, "up", 0.5, "How often a judge from another family prefers the new answer; both orders."),
        Row("Win rate at equal length", rate.estimate, "up", 0.5, "The same, without the judge's taste for length."),
        Row("Reward", reward, "up", 0.0, "After minus before, by the reward model that was optimised."),
        Row("Refusals", refusals, "down", 0.0, "After minus before, on questions that should be answered."),
        Row("Length", change.difference, None, 0.0, "Tokens after minus before, the same questions."),
        Row("Distance from the start", kl.k1, None, None, "KL(policy || reference), nats per answer."),
        Row("Repetition loops", loops, None, None, "New answers that repeat a line three times or more."),
        Row(
            "Held-out accuracy",
            preference_accuracy(differences, outcomes, generator=generator),
            "up", None, "Held-out pairs whose preferred answer gets the higher reward; chance is 50 %.",
        ),
    )  # fmt: skip
    feedback = FeedbackSummary(
        {"comparison": 1840, "reaction": 612, "edit": 97, "verdict": 350},
        {"support-team": 1310, "app-users": 709, "unit-tests": 350, "ana": 330, "björn": 200},
        1840, 402, 2_133, 320,
        {"tie": 402, "unparsable verdict": 31, "same text twice": 12},
    )  # fmt: skip
    steps = tuple(float(step) for step in range(0, 401, 10))
    decay = np.exp(-np.array(steps) / 120)
    loss = 0.42 + 0.27 * decay + generator.normal(0, 0.012, len(steps))
    accuracy = 0.5 + 0.21 * (1 - decay) + generator.normal(0, 0.008, len(steps))
    curves = {
        "Training loss": Curve(steps, tuple(loss), "nats", explanation="DPO loss, mean of each batch. Down is better."),
        "Held-out accuracy": Curve(
            steps, tuple(100 * accuracy), "%", tuple(100 * accuracy - 5), tuple(100 * accuracy + 5),
            "Share of held-out pairs told apart. Up is better.",
        ),
        "Distance from the start": Curve(
            steps[::4], tuple(6.1 * (1 - decay[::4])), "nats per answer", explanation="KL to the reference, 64 samples."
        ),
    }  # fmt: skip
    over = overconfidence(differences, outcomes, generator=generator)
    assert brier_score(differences, outcomes, generator=generator).value < 0.25
    return RunReport(
        title="support-answers, third round",
        created=datetime(2026, 11, 24, 9, 40, tzinfo=UTC),
        method="DPO",
        model="SmolLM2-360M-Instruct, LoRA rank 16",
        verdict=f"The new model is preferred in {100 * wins.value:.0f} of 100 answers, but part of that is length.",
        headline=headline,
        feedback=feedback,
        curves=curves,
        reliability=reliability_curve(differences, outcomes, generator=generator),
        lengths=(length_histogram(before, after, unit="tokens"),),
        samples=SAMPLES,
        warnings=find_warnings(
            headline=headline, feedback=feedback, proxy_reward_change=reward, utility=headline[0], divergence=kl,
            lengths=change, length_controlled=rate, overconfidence=over,
        ),
        environment={
            "plaudit": "0.1.0", "torch": "2.13.0", "Python": "3.11.7", "machine": "2 x Intel Xeon, 16 GB, no GPU",
            "seed": "7", "wall time": "21 min 14 s",
        },
        commands=("plaudit learn support.sqlite --method dpo --model SmolLM2-360M-Instruct --seed 7",),
        config={"method": "dpo", "beta": 0.1, "learning_rate": 1e-5, "batch": 64, "lora": {"rank": 16, "alpha": 32}},
    )  # fmt: skip


SAMPLES = (
    Sample(
        "My invoice shows the wrong company name. How can I change it?",
        "You can change your name in the settings.",
        "Open Settings > Billing > Company details, correct the name and save. New invoices carry it at once.\n\n"
        "For an invoice that was already sent, choose it under Invoices and press “Reissue”: we cancel the old one and "
        "send the corrected one to the same address.",
        -0.31, 1.72,
    ),
    Sample(
        "def median(xs): ...  # why does this fail for an empty list?",
        "Because the list is empty.",
        "`sorted(xs)[len(xs) // 2]` asks for element 0 of a list that has none, so Python raises IndexError.\n\n"
        "    def median(xs):\n        if not xs:\n            raise ValueError(\"median of nothing\")\n"
        "        ...\n\n<script>alert('never runs')</script> is shown as text.",
        0.12, 1.05,
    ),
    Sample(
        "ما هي مواعيد الدعم؟",
        "الدعم متاح من الأحد إلى الخميس.",
        "الدعم متاح من الأحد إلى الخميس، من التاسعة صباحًا حتى الخامسة مساءً بتوقيت الرياض. file\u202etxt.exe",
        0.44, 0.61,
    ),
    Sample("Cancel my account.", "", "Under Settings > Account, press “Close account”. Goodbye!", None, 0.9),
)  # fmt: skip
