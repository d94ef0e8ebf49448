"""The errors that a user of plaudit can meet: each message says what was expected, what came, and what to do next."""

from __future__ import annotations

import importlib
from types import ModuleType


class PlauditError(Exception):
    """Base of every error that is the user's to mend; the command line prints it as one sentence and exits with 2."""


class InvalidFeedback(PlauditError, ValueError):
    """A feedback record or a file of them does not say what its kind must say."""


class StoreError(PlauditError):
    """The feedback store cannot do what was asked: missing, locked, of another version, or out of space."""


class ConfigError(PlauditError, ValueError):
    """A setting has a name, a type or a value that cannot be used."""


class PolicyError(PlauditError):
    """A model cannot be loaded, or cannot do what was asked of it."""


class RewardError(PlauditError):
    """A reward does not fit the outputs, or could judge none of them."""


class TrainingError(PlauditError):
    """Training cannot go on: the loss is no number, or there is nothing to learn from."""


class CheckpointError(PlauditError):
    """A checkpoint is missing, damaged, or belongs to another model or configuration."""


class MissingExtra(PlauditError, ImportError):
    """An optional library is needed and is not installed."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or say which extra of plaudit brings it.

    Args:
        module: dotted name of the library's module.
        extra: the extra of plaudit that installs it.

    Raises:
        MissingExtra: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not module.startswith(error.name):
            raise
        message = f"{module.partition('.')[0]} is not installed. Install it with: pip install 'plaudit[{extra}]'"
        raise MissingExtra(message) from error
