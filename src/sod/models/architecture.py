"""Which architectures can be scored and sampled, as far as a configuration tells: asked before weights are read.

What a configuration does not tell is proven on the loaded model: `score.check_projection` for what all models need, the
engine's own proof for what is sampled with (docs/architectures.md has the table of those that were tried).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from sod.models.memory import short_of_memory
from sod.models.source import Source, first_line
from sod.records import SodError

USE_ANOTHER = (
    "use a model of another family, e.g. Llama, Mistral, Qwen2, Qwen3, OLMo 2, SmolLM 2 or 3 (docs/architectures.md)"
)
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_LOGITS = {"final_logit_softcapping": None, "logits_scaling": 1, "logit_scale": 1, "lm_head_multiplier": 1}
"""Keys under which families change their logits after the projection, and the value at which they do not."""
_ATTENTION = {
    "kv_lora_rank": "latent attention",
    "attn_logit_softcapping": "soft-capped attention",
    "alibi": "ALiBi",
}
_WINDOWED = frozenset({"full_attention", "sliding_attention"})


def read_config(source: Source) -> Any:
    """The configuration of a model. Raises SodError naming its path."""
    try:
        return AutoConfig.from_pretrained(source.path, **source.options)
    except Exception as error:  # transformers raises whatever its classes make of the values
        raise SodError(f"{source.path}: cannot load a model: {first_line(error)}") from error


def refuse_unscored(config: Any, where: str) -> None:
    """Raises SodError for a configuration whose models cannot be scored: no decoder, or logits changed after it."""
    name = named(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        raise SodError(f"{where}: {name} is not a decoder-only language model; {USE_ANOTHER}")
    missing = [key for key in _SIZES if not isinstance(getattr(config, key, None), int)]
    if missing:
        raise SodError(
            f"{where}: {name} has no {missing[0]} in its config.json: it is without attention, or of several parts "
            f"(text and images); save its language model alone, or {USE_ANOTHER}"
        )
    for key, harmless in _LOGITS.items():
        value = getattr(config, key, None)
        if value is not None and value != harmless:
            raise SodError(
                f"{where}: {name} changes its logits after the output projection ({key} {value}), which chunked "
                f"scoring does not support; {USE_ANOTHER}"
            )


def refuse_unsampled(config: Any, where: str) -> None:
    """Raises SodError for a configuration whose models the torch engine cannot sample with."""
    name = named(config)
    kinds = set(getattr(config, "layer_types", None) or []) - _WINDOWED
    reasons = [f"layers of kind {', '.join(sorted(kinds))}"] if kinds else []
    reasons += [what for key, what in _ATTENTION.items() if getattr(config, key, None)]
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is not None and not model_class._supports_attention_backend:
        reasons.append("attention of its own, not transformers' attention interface")
    if reasons:
        raise SodError(f"{where}: {name} has {reasons[0]}, which the torch engine does not support; {USE_ANOTHER}")


@contextmanager
def in_one_line(config: Any, where: str, what: str) -> Iterator[None]:
    """Turns whatever an architecture makes of calls that it does not know into one line: it `what`.

    Raises SodError naming `where`. A SodError from inside passes, and so does a lack of memory.
    """
    try:
        yield
    except SodError:
        raise
    except Exception as error:
        if short_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise SodError(f"{where}: {named(config)} {what} ({reason}); {USE_ANOTHER}") from error


def named(config: Any) -> str:
    """The architecture as messages call it."""
    return f"architecture {config.model_type!r}"
