"""How long a text may become under a model, as its configuration tells: asked before weights are read.

Three things end it. A model knows positions up to its context only. RoPE that changes with the length of the whole
text (dynamic NTK, longrope) turns every earlier token's distribution into another one when the text passes the original
length, so that what was sampled is no longer what is scored. And the fast engine attends to all that there is, so it
samples rightly from layers with a sliding window only while everything is inside the window; the plain one goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sod.records import SodError


@final
@dataclass(frozen=True)
class Bound:
    """Up to `tokens` all is well; `reason` says what is wrong with a longer text, `instead` what to use for it."""

    tokens: int
    reason: str
    instead: str


@final
@dataclass(frozen=True)
class Asked:
    """How long a run's texts may become, in tokens, and the keys that let them."""

    tokens: int
    keys: str


def refuse_longer(asked: Asked, bounds: list[Bound], where: str) -> None:
    """Raises SodError naming `where` and the lowest of the bounds that texts may pass."""
    passed = [bound for bound in bounds if asked.tokens > bound.tokens]
    if passed:
        bound = min(passed, key=lambda bound: bound.tokens)
        raise SodError(
            f"{where}: past {bound.tokens} tokens {bound.reason}, and {asked.keys} let a text reach {asked.tokens}; "
            f"lower that to {bound.tokens}, or use {bound.instead}"
        )


def context_bounds(config: Any) -> list[Bound]:
    """The length that a model was made for; nothing where its configuration names none.

    RoPE scaling that stretches an original length counts, also where `max_position_embeddings` was left as it was.
    """
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int) or longest <= 0:
        return []
    tokens = max([longest, *map(_stretched, _ropes(config))])
    return [Bound(tokens, "the model knows no positions (max_position_embeddings)", "a model of a longer context")]


def rope_bounds(config: Any) -> list[Bound]:
    """Where RoPE begins to depend on the length of the whole text; nothing where it never does."""
    bounds = []
    for rope in _ropes(config):
        kind = str(rope.get("rope_type"))
        # As transformers' `dynamic_rope_update` has it: the two kinds read their original length from different keys.
        if "dynamic" in kind:
            original = config.max_position_embeddings
        elif kind == "longrope":
            original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        else:
            continue
        reason = f"its RoPE (rope_type {kind}) changes for all tokens with the length of the text"
        bounds.append(Bound(original, reason, "a model or rope_parameters with a rope_type that does not, e.g. yarn"))
    return bounds


def window_bounds(config: Any) -> list[Bound]:
    """Where a sliding window begins to hide tokens; nothing where there is no window."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not isinstance(window, int) or window <= 0 or (kinds and "sliding_attention" not in kinds):
        return []
    reason = "its sliding window hides the first tokens, which the fast engine does not know"
    return [Bound(window, reason, "a model of full attention")]


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """The RoPE of a model, or of each kind of its layers."""
    found = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in found:
        return [found]
    return [rope for rope in found.values() if isinstance(rope, dict)]


def _stretched(rope: Mapping[str, Any]) -> int:
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if not isinstance(original, int) or not isinstance(factor, int | float):
        return 0
    return int(original * factor)
