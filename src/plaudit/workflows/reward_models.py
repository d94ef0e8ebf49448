"""The reward models of a run: loaded from a folder, or trained on the learning side of its comparisons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plaudit.feedback.examples import Pair
from plaudit.methods import RewardConfig, encode_pairs
from plaudit.policies import CausalLM
from plaudit.rewards import RewardModel
from plaudit.sharing import from_main
from plaudit.training import RunFolder
from plaudit.workflows.config import AlignConfig, to_mapping
from plaudit.workflows.feedback_data import FeedbackData
from plaudit.workflows.measure import JudgeQuality
from plaudit.workflows.train_reward import fit_reward_model, measure_reward_model


def reward_model(
    where: str, path: Path, config: AlignConfig, policy: CausalLM, pairs: FeedbackData[Pair], *, resuming: bool
) -> tuple[RewardModel, JudgeQuality | None]:
    """A reward model, and what its word is worth on the held-out comparisons, where there are some.

    Args:
        where: its folder, or train.
        path: the run folder of one that is trained.
        config: the run's settings.
        policy: whose trunk one that is trained shares, where the policy has adapters.
        pairs: the comparisons.
        resuming: go on with a training that began.
    """
    seed = config.training.seed
    given = Path(where).expanduser() if where != "train" else path / "model"
    trained = (given / "reward.json").is_file()
    if trained and where == "train" and policy.has_adapters:  # as it was when it was trained: on the policy's trunk
        model = RewardModel.on(policy, config.lora, seed=seed)
        model.take(given)
    elif trained:
        model = RewardModel.load(given, dtype=config.dtype, device=config.device)
    if trained:
        held_out, _ = encode_pairs(pairs.held_out, model.encoder)
        return model, measure_reward_model(model, held_out, seed=seed)
    begun = from_main((path / "config.toml").is_file)
    run = RunFolder.open(path) if begun else RunFolder.create(path, to_mapping(config))
    if policy.has_adapters:  # the frozen weights serve both; the reward has adapters of its own
        model = RewardModel.on(policy, config.lora, seed=seed)
    else:
        model = RewardModel.load(config.model, **config.loading, seed=seed)
    training = replace(config.judge_training, seed=seed)
    quality = fit_reward_model(model, pairs, run, training, RewardConfig(), resuming=resuming and begun)
    return model, quality
