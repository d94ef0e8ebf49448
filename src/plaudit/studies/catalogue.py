"""The studies by name."""

from __future__ import annotations

import difflib
import importlib

from plaudit.errors import ConfigError
from plaudit.studies.study import Study

STUDIES = {
    "alpacafarm": "plaudit.studies.alpacafarm",
    "games": "plaudit.studies.games",
    "lipo": "plaudit.studies.lipo",
    "mpo": "plaudit.studies.mpo",
    "nft": "plaudit.studies.nft",
    "rl_survey": "plaudit.studies.rl_survey",
    "summarize": "plaudit.studies.summarize",
    "superhf": "plaudit.studies.superhf",
}
"""The module that holds each study as STUDY."""


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f" Did you mean {near[0]}?" if near else " plaudit study lists them."
        raise ConfigError(f"There is no study {name!r}.{hint}")
    return load_study(STUDIES[name])


def load_study(module: str) -> Study:
    """The study that a module holds."""
    study = importlib.import_module(module).STUDY
    if not isinstance(study, Study):
        raise ConfigError(f"{module}.STUDY: expected a Study, got a {type(study).__name__}")
    return study
