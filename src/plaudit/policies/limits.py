"""How long a model's sequences may be, and the error where settings ask for more."""

from __future__ import annotations

from typing import Any

from plaudit.errors import ConfigError
from plaudit.policies.scoring import causal_lm_of


def positions_of(model: Any) -> int | None:
    """How many positions a transformers model knows; None where nothing ends them: ALiBi, recurrent states."""
    config = causal_lm_of(model).config
    if getattr(config, "alibi", False) or config.model_type == "rwkv":
        return None
    known: int | None = getattr(config, "max_position_embeddings", None)
    rotary = getattr(config, "rope_parameters", None) or {}
    if known is not None and "factor" in rotary:  # YaRN and the like may state the length before stretching
        known = max(known, int(rotary.get("original_max_position_embeddings", 0) * rotary["factor"]))
    return known


def expect_positions(model: Any, *, context: int, output: int, output_name: str = "max_output_tokens") -> None:
    """Check that a context and an output of the longest lengths allowed fit into a model together.

    Raises:
        ConfigError: they do not.
    """
    known = positions_of(model)
    if known is not None and context + output > known:
        least = min(output, known // 2)
        raise ConfigError(
            f"max_context_tokens + {output_name}: expected at most {known} together, the positions that this "
            f"{causal_lm_of(model).config.model_type} model knows, got {context} + {output}. Lower one of them: "
            f"{known - least} + {least} would do."
        )
