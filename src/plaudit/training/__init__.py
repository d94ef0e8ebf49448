"""Training: the one loop, its configuration, and what a run leaves on disk."""

from plaudit.training.config import TrainingConfig
from plaudit.training.loop import TrainingResult, train
from plaudit.training.method import ExampleLoss, Method, Step, Trainable
from plaudit.training.run_folder import RunFolder

__all__ = ["ExampleLoss", "Method", "RunFolder", "Step", "Trainable", "TrainingConfig", "TrainingResult", "train"]
