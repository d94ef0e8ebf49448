"""Workflows: what the command line does, as functions. Each joins a store, a model, a method, evaluation and a run folder."""

from plaudit.workflows.align import AlignResult, align
from plaudit.workflows.compare import compare
from plaudit.workflows.config import AlignConfig, EvaluateConfig, EvaluationConfig, TrainRewardConfig
from plaudit.workflows.evaluate import evaluate
from plaudit.workflows.resume import resume
from plaudit.workflows.train_reward import train_reward

__all__ = [
    "AlignConfig",
    "AlignResult",
    "EvaluateConfig",
    "EvaluationConfig",
    "TrainRewardConfig",
    "align",
    "compare",
    "evaluate",
    "resume",
    "train_reward",
]
