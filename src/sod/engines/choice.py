"""Which engine samples with a model: the fast one where its attention is plain, else the plain one, which is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sod.engines.plain_engine import PlainEngine
from sod.engines.torch_engine import CACHE_SHARE, TorchEngine
from sod.models.architecture import UnknownArchitectureError, named, unusual_attention
from sod.models.length import window_bounds
from sod.models.meter import Meter

SLOWER = "sampled by the plain engine, on transformers' own cache, which is slower"


def why_plain(config: Any, longest: int) -> str | None:
    """Why the fast engine cannot sample texts of up to `longest` tokens with models of a configuration; None where it
    can, as far as a configuration tells.
    """
    unusual = unusual_attention(config)
    if unusual is not None:
        return f"{named(config)} has {unusual}"
    window = min((bound.tokens for bound in window_bounds(config)), default=longest)
    if longest > window:
        return f"{named(config)} has a sliding window of {window:,} tokens, and texts may reach {longest:,}"
    return None


def choose_engine(
    model: Any,
    stop_ids: frozenset[int],
    longest: int,
    notice: Callable[[str], None],
    max_rows: int = 128,
    meter: Meter | None = None,
    cache_share: float = CACHE_SHARE,
) -> TorchEngine | PlainEngine:
    """The engine that samples texts of up to `longest` tokens with this model; `notice` hears of the plain one.

    Raises UnknownArchitectureError where neither can.
    """
    reason = why_plain(model.config, longest)
    if reason is None:
        attention = model.config._attn_implementation
        try:
            return TorchEngine(model, stop_ids, max_rows, meter=meter, cache_share=cache_share, longest=longest)
        except UnknownArchitectureError as error:
            # The fast engine's attention knows neither sinks nor caps: the model goes back to its own.
            model.set_attn_implementation(attention)
            reason = error.reason
    engine = PlainEngine(model, stop_ids, max_rows, meter=meter, cache_share=cache_share)
    notice(f"{model.name_or_path or 'student'}: {reason}; {SLOWER} ({engine.ways})")
    return engine
