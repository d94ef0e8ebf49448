"""Comparisons of a decoder's texts about two topics, and the two reward models that learn from their halves; kept.

They lie in the cache under a hash of all that they come from, as decoders do: every arm of a seed takes the same ones.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from plaudit.disk_cache import cache_folder
from plaudit.feedback.examples import Demonstrated, Pair
from plaudit.feedback.records import Context, Output, Text
from plaudit.methods import RewardConfig, RewardModelling, encode_pairs
from plaudit.policies import CausalLM, Sampling
from plaudit.rewards import RewardModel
from plaudit.testbeds import topics
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.training.config import check, whole
from plaudit.training.randomness import derive, numpy_generator, torch_generator

_HALVES = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class JudgesConfig:
    """The comparisons, and how the reward models learn from them.

    Attributes:
        pairs: comparisons in all; one half for each reward model.
        batch_size: pairs in one step.
        epochs: passes over a half.
        learning_rate: peak step size.
    """

    pairs: int = 4000
    batch_size: int = 32
    epochs: float = 3.0
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        check(self, "pairs", whole(self.pairs, 4) and self.pairs % 2 == 0, "an even number >= 4")
        _ = self.training

    @property
    def training(self) -> TrainingConfig:
        """The loop's settings."""
        return TrainingConfig(
            epochs=self.epochs, batch_size=self.batch_size, micro_batch_size=self.batch_size,
            learning_rate=self.learning_rate, checkpoint_every=0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judges:
    """What learned from the comparisons.

    Attributes:
        train: the reward to optimise. The texts that were compared have mean reward 0.
        validation: the same from the other half, to judge with.
        winners: the preferred texts of the first half.
    """

    train: RewardModel
    validation: RewardModel
    winners: Rows[Demonstrated]


def judges(start: Path, config: JudgesConfig, *, seed: int) -> Judges:
    """Both reward models, each a copy of the decoder with a head; trained if need be.

    Args:
        start: folder of the decoder whose texts are compared.
        config: how many, and the training.
        seed: of the texts, the comparisons and the training.
    """
    origin = {
        "decoder": json.loads((start / "origin.json").read_text()),
        "judges": asdict(config),
        "seed": seed,
        "labels": hashlib.sha256(Path(topics.__file__).read_bytes()).hexdigest(),
    }
    address = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:32]
    target = cache_folder() / "judges" / f"topics-{address}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as scratch:
            made = Path(scratch) / "judges"
            _make(made, start, config, seed)
            (made / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():  # no other process was first
                    raise
    train_model, validation = (RewardModel.load(target / half, dtype="float32") for half in _HALVES)
    rows = json.loads((target / "winners.json").read_text())
    return Judges(train_model, validation, [_winner(prompt, text) for prompt, text in rows])


def compare(policy: CausalLM, count: int, *, seed: int) -> list[Pair]:
    """So many comparisons of two texts that a decoder samples for one prompt to learn from; two equal texts are no pair."""
    known, labels = topics.prompts(), numpy_generator(seed, "topics", "labels")
    asked = [known[i] for i in numpy_generator(seed, "topics", "asked").integers(len(known), size=count + count // 20)]
    groups = policy.sample(
        asked, 2, generator=torch_generator(seed, "topics", "compared"),
        sampling=Sampling(max_new_tokens=topics.MAX_NEW_TOKENS), batch_size=512,
    )  # fmt: skip
    pairs = list[Pair]()
    for context, (one, other) in zip(asked, groups, strict=True):
        if one.text == other.text or len(pairs) == count:
            continue
        better, worse = (one, other) if topics.preferred(context, one.text, other.text, labels) else (other, one)
        chosen, rejected = (Output(content=Text(text=sample.text)) for sample in (better, worse))
        pairs.append(Pair(context, chosen, rejected, source="topics", record_ids=()))
    return pairs


def _make(folder: Path, start: Path, config: JudgesConfig, seed: int) -> None:
    policy = CausalLM.load(start, dtype="float32")
    pairs = compare(policy, config.pairs, seed=seed)
    halves = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    folder.mkdir()
    for name, half in zip(_HALVES, halves, strict=True):
        model = RewardModel.load(start, dtype="float32", seed=derive(seed, "judges", name), pooling="mean")
        encoded, _ = encode_pairs(half, model.encoder)
        training = replace(config.training, seed=derive(seed, "judges", name) % 2**31)
        run = RunFolder.create(folder.parent / f"run-{name}", {"training": asdict(training)})
        train(RewardModelling(model, encoded, RewardConfig()), run, training, steps=training.steps(len(encoded)))
        model.normalise([side for pair in encoded for side in (pair.chosen, pair.rejected)])
        model.save(folder / name)
    winners = [(pair.context.text, pair.chosen.text) for pair in halves[0]]
    (folder / "winners.json").write_text(json.dumps(winners) + "\n")


def _winner(prompt: str, text: str) -> Demonstrated:
    return Demonstrated(
        Context(content=Text(text=prompt)), Output(content=Text(text=text)), source="topics", record_ids=()
    )
