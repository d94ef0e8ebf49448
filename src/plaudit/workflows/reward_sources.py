"""What `--reward` names, as something that rewards outputs."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from collections.abc import Sequence as Rows
from pathlib import Path

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context, Output, Text, Tokens
from plaudit.policies import CausalLM
from plaudit.rewards import FunctionReward, Reward, RewardModel, RewardSource

_FUNCTION = re.compile(r"python:(?P<module>[\w.]+):(?P<name>\w+)")


def check_reward(reward: str, *, setting: str = "reward") -> None:
    """Raise what would keep the reward from judging, before a model is loaded.

    Raises:
        ConfigError: it is none of the three forms, or names a function that is not there or takes other arguments.
    """
    if reward.startswith("python:"):
        text_function(reward, setting=setting)
    elif reward != "train" and not is_reward_model(reward):
        raise ConfigError(
            f"{setting}: expected the folder of a reward model (RUN/model of `plaudit train reward`), train, or "
            f"python:MODULE:FUNCTION, got {reward!r}"
        )


def is_reward_model(folder: str) -> bool:
    """Whether a reward model lies there."""
    return (Path(folder).expanduser() / "reward.json").is_file()


def text_function(reward: str, *, setting: str = "reward") -> Callable[[str, str], float | None]:
    """The function that ``python:MODULE:FUNCTION`` names; modules of the current folder are found after installed ones.

    It is imported and called in this process, so it must be trusted.

    Raises:
        ConfigError: there is no such module or function, or it does not take two texts.
    """
    if (form := _FUNCTION.fullmatch(reward)) is None:
        raise ConfigError(
            f"{setting}: expected python:MODULE:FUNCTION, such as python:my_rewards:brevity, got {reward!r}"
        )
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - an entry of sys.path is a string
        sys.path.append(here)
    try:
        module = importlib.import_module(form["module"])
    except ModuleNotFoundError as error:
        if error.name is None or not f"{form['module']}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{setting}: {form['module']} needs the module {error.name}, which is not installed"
            ) from error
        raise ConfigError(
            f"{setting}: there is no module {form['module']!r} in {here} or among the installed ones"
        ) from error
    except Exception as error:  # whatever the user's module raises is the user's to mend
        raise ConfigError(f"{setting}: importing {form['module']} raised {type(error).__name__}: {error}") from error
    function = getattr(module, form["name"], None)
    if not callable(function):
        own = sorted(name for name, value in vars(module).items() if inspect.isfunction(value))
        raise ConfigError(
            f"{setting}: {form['module']} has no function {form['name']!r}; it has {', '.join(own) or 'none'}"
        )
    try:
        inspect.signature(function).bind("context", "output")
    except TypeError as error:
        raise ConfigError(
            f"{setting}: expected a function of two texts, the context and the output, "
            f"got {form['name']}{inspect.signature(function)}"
        ) from error
    return function  # type: ignore[no-any-return]


def function_reward(reward: str, *, setting: str = "reward") -> FunctionReward:
    """The same as a reward; an answer that is no number, like an exception, means that it could not judge."""
    function = text_function(reward, setting=setting)

    def judge(context: Context, output: Output) -> float | None:
        value = function(context.text, output.text)
        return None if value is None else float(value)

    return FunctionReward(judge, name=function.__name__)


def readable_by(model: RewardModel, policy: CausalLM) -> RewardSource:
    """A reward model for the policy's outputs: of their tokens where both have one tokenizer, of their text otherwise."""
    return model if model.encoder.fingerprint == policy.encoder.fingerprint else ReadAsText(model)


class ReadAsText:
    """A reward that is shown text in place of token ids. An output that was cut is read as if it had ended."""

    def __init__(self, source: RewardSource) -> None:
        self._source = source

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        asked = [
            Context(content=Text(text=context.text)) if isinstance(context.content, Tokens) else context
            for context in contexts
        ]
        return self._source.reward(asked, [Output(content=Text(text=output.text)) for output in outputs])
