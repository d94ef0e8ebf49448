"""Methods learn what the preferences say: a planted preference is found on held-out pairs, shuffled labels teach nothing.

Each method is trained with five seeds on pairs whose chosen output holds the letter a and whose rejected one holds the letter
b, and with five on the same pairs with labels by a coin. A permutation test compares the two groups' held-out accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

from plaudit.methods import DPO, DPOConfig, EncodedPair, RewardConfig, RewardModelling
from plaudit.policies import CausalLM, LoRA, Reference, Sequence
from plaudit.rewards import RewardModel
from plaudit.training import RunFolder, TrainingConfig, train

SEEDS = range(5)
TRAINED, HELD_OUT = 48, 60


def planted_pairs(count: int, *, seed: int, shuffled: bool, encoder) -> list[EncodedPair]:
    """Random letters with an a somewhere in one output and a b in the other."""
    random = np.random.default_rng(seed)

    def output(letter: str) -> tuple[int, ...]:
        letters = random.choice(list("cdefgh"), size=random.integers(2, 6))
        letters[random.integers(len(letters))] = letter
        return (*encoder.tokenizer("".join(letters))["input_ids"], encoder.turn_end)

    pairs = []
    for _ in range(count):
        context = encoder.context(_asked("".join(random.choice(list("uvwxyz"), size=4))))
        sides = [Sequence(context, ids, (True,) * len(ids)) for ids in (output("a"), output("b"))]
        if shuffled and random.random() < 0.5:
            sides.reverse()
        pairs.append(EncodedPair(*sides))
    return pairs


def _asked(text: str):
    from plaudit.feedback.records import Context, Text

    return Context(content=Text(text=text))


def held_out_accuracy(kind: str, model: Path, folder: Path, *, seed: int, shuffled: bool) -> float:
    """Accuracy on held-out pairs with the planted labels, after training with these or with a coin's."""
    learner = (CausalLM if kind == "dpo" else RewardModel).load(model, lora=LoRA(rank=4), dtype="float32", seed=seed)
    pairs = planted_pairs(TRAINED, seed=seed, shuffled=shuffled, encoder=learner.encoder)
    held_out = planted_pairs(HELD_OUT, seed=1000 + seed, shuffled=False, encoder=learner.encoder)
    if kind == "dpo":
        method = DPO(learner, Reference(learner), pairs, DPOConfig(beta=0.5))
    else:
        method = RewardModelling(learner, pairs, RewardConfig())
    config = TrainingConfig(
        batch_size=16, micro_batch_size=16, learning_rate=2e-2, epochs=4, seed=seed, checkpoint_every=0
    )
    folder.mkdir()
    train(method, RunFolder(folder), config, steps=config.steps(len(pairs)))
    with torch.no_grad():
        return float(method.loss(held_out).metrics["accuracy"].mean())


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_planted_preferences_are_learned(tiny_model, tmp_path, kind):
    """All five runs above all five of the control has p = 1 / 252 under exchangeability."""
    found = {
        shuffled: [
            held_out_accuracy(kind, tiny_model, tmp_path / f"{shuffled}-{seed}", seed=seed, shuffled=shuffled)
            for seed in SEEDS
        ]
        for shuffled in (False, True)
    }

    def difference(one, other, axis):
        return np.mean(one, axis=axis) - np.mean(other, axis=axis)

    test = permutation_test((found[False], found[True]), difference, alternative="greater")
    assert test.pvalue < 0.01, found
    assert np.mean(found[False]) > 0.8
    assert 0.2 < np.mean(found[True]) < 0.8
