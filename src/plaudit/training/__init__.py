"""Training: the one loop, its configuration, and what a run leaves on disk."""

from plaudit.training.alarms import Alarm
from plaudit.training.config import TrainingConfig
from plaudit.training.loop import TrainingResult, train
from plaudit.training.method import ExampleLoss, Look, Method, Stateless, Step, Trainable
from plaudit.training.run_folder import RunFolder

__all__ = [
    "Alarm",
    "ExampleLoss",
    "Look",
    "Method",
    "RunFolder",
    "Stateless",
    "Step",
    "Trainable",
    "TrainingConfig",
    "TrainingResult",
    "train",
]
