"""Which architectures can be scored, and which engine samples with them, as far as a configuration tells: asked before
weights are read.

What a configuration does not tell is proven on the loaded model: `score.check_projection` for what all models need, the
engines' own proofs for what is sampled with (docs/architectures.md has the table of those that were tried).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from sod.models.memory import short_of_memory
from sod.models.source import Source, first_line
from sod.records import SodError

USE_ANOTHER = (
    "use a model of another family, e.g. Llama, Mistral, Qwen2, Qwen3, OLMo 2, SmolLM 2 or 3 (docs/architectures.md)"
)
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
_ATTENTION = {
    "kv_lora_rank": "latent attention",
    "attn_logit_softcapping": "soft-capped attention",
    "alibi": "ALiBi",
}
_LANGUAGE_NAMES = {
    r"^(model\.)?language_model\.model\.": "model.",
    r"^(model\.)?language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
"""How weights of the language model in one of text and images are called, and how in the language model alone."""
_DRAFTER = "_assistant"  # what drafts for a model has that model's configuration as a part, and is none
_WINDOWED = frozenset({"full_attention", "sliding_attention"})


@final
class UnknownArchitectureError(SodError):
    """An architecture that cannot be scored, or sampled by one of the engines; `reason` names it and says why."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)  # as they are, so that it can go from process to process
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}; {USE_ANOTHER}"


def read_config(source: Source) -> Any:
    """The configuration of a model; of one of text and images that of its language model, if that can be taken out.

    Raises SodError naming its path.
    """
    config = whole_config(source)
    return language_part(config) or config


def language_options(source: Source) -> dict[str, Any]:
    """What `from_pretrained` gets beside the source's options, so that it reads the language model alone.

    Nothing for a model that is nothing else. Raises SodError naming its path.
    """
    part = language_part(whole_config(source))
    return {} if part is None else {"config": part, "key_mapping": dict(_LANGUAGE_NAMES)}


def whole_config(source: Source) -> Any:
    """The configuration of a model as it is, all of its parts. Raises SodError naming its path."""
    try:
        return AutoConfig.from_pretrained(source.path, **source.options)
    except Exception as error:  # transformers raises whatever its classes make of the values
        raise SodError(f"{source.path}: cannot load a model: {first_line(error)}") from error


def language_part(config: Any) -> Any | None:
    """The language model's part of a configuration of several parts; None where there is none that stands alone."""
    part = getattr(config, "text_config", None)
    if config.model_type.endswith(_DRAFTER) or type(part) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    return part


def refuse_unscored(config: Any, where: str) -> None:
    """Raises SodError for a configuration whose models cannot be scored: no decoder that stands alone."""
    name = named(config)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise UnknownArchitectureError(where, f"{name} is not a decoder-only language model")
    if getattr(config, "text_config", None) is not None:
        raise UnknownArchitectureError(
            where, f"{name} is of several parts (text and images), of which transformers knows no language model alone"
        )
    missing = [key for key in _SIZES if not isinstance(getattr(config, key, None), int)]
    if missing:
        raise UnknownArchitectureError(where, f"{name} has no {missing[0]} in its config.json")


def unusual_attention(config: Any) -> str | None:
    """What keeps models of this configuration from the fast engine and from packed rows; None where nothing does.

    They have something else than plain causal attention through transformers' attention interface.
    """
    kinds = set(getattr(config, "layer_types", None) or []) - _WINDOWED
    if kinds:
        return f"layers of kind {', '.join(sorted(kinds))}"
    if not isinstance(getattr(config, "num_attention_heads", None), int):
        return "no attention"
    reasons = [what for key, what in _ATTENTION.items() if getattr(config, key, None)]
    if reasons:
        return reasons[0]
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        return None
    if not model_class._supports_attention_backend:
        return "attention of its own, not transformers' attention interface"
    return None if model_class._supports_sdpa else "attention that PyTorch's own does not know (sinks or soft caps)"


def refuse_unusual(config: Any, where: str) -> None:
    """Raises UnknownArchitectureError where attention is not plain."""
    reason = unusual_attention(config)
    if reason is not None:
        raise UnknownArchitectureError(where, f"{named(config)} has {reason}")


@contextmanager
def in_one_line(config: Any, where: str, what: str) -> Iterator[None]:
    """Turns whatever an architecture makes of calls that it does not know into one line: it `what`.

    Raises UnknownArchitectureError naming `where`. A SodError from inside passes, and so does a lack of memory.
    """
    try:
        yield
    except SodError:
        raise
    except Exception as error:
        if short_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UnknownArchitectureError(where, f"{named(config)} {what} ({reason})") from error


def named(config: Any) -> str:
    """The architecture as messages call it."""
    return f"architecture {config.model_type!r}"


def head_sizes(config: Any) -> tuple[int, int, int]:
    """Query heads, key heads and the size of a head, for estimates; 0 heads in a state space model.

    Where layers differ (Gemma 4), those of the configuration as a whole.
    """
    heads = _number(config, "num_attention_heads")
    size = _number(config, "head_dim") or int(config.hidden_size) // max(1, heads)
    return heads, _number(config, "num_key_value_heads") or heads, size


def _number(config: Any, key: str) -> int:
    """0 where there is no such number."""
    try:
        value = getattr(config, key, None)
    except Exception:  # transformers has errors of its own for what differs from layer to layer
        return 0
    return value if isinstance(value, int) else 0
