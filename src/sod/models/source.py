"""Where a model comes from, and what its files claim, before transformers believes them.

A model directory or a hub id may be a stranger's. None of its code is ever run, and a `config.json` that promises more
than the weights beside it hold is refused before a network of that size is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from sod.bounded import read_bounded
from sod.hub import cached_model_file, is_hub_id, unreachable, why_unreachable
from sod.records import SodError

CONFIG_BYTES = 16 * 1024 * 1024
LAYERS = 4096
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDE = (
    "vocab_size",
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
)
"""Keys of which each counts rows of a matrix that is `hidden_size` wide."""
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


@final
@dataclass(frozen=True)
class Source:
    """A model that can be read: `path` as the user wrote it, and whether it may be fetched."""

    path: str
    here: bool

    @property
    def options(self) -> dict[str, Any]:
        """What every `from_pretrained` gets."""
        return {"trust_remote_code": False, "local_files_only": self.here}


def find_model(path: str, needed: str, weights: Sequence[Path] = ()) -> Source:
    """The local directory `path`, which must hold the file `needed`, or else the hub id.

    `weights` are the files of its weights where they lie elsewhere.

    Raises SodError naming `path` where it is neither, where the hub cannot be reached (in a few seconds), and where its
    files ask for code of their own or claim what is not there.
    """
    directory = Path(path)
    if directory.is_dir():
        if not (directory / needed).is_file():
            raise SodError(f"{path}: not a model directory ({needed} is missing)")
        for name in ("config.json", "tokenizer_config.json"):
            if (directory / name).is_file() and (name == needed or needed != "config.json"):
                _refuse_code(read_object(directory / name, f"{path}/{name}"), f"{path}/{name}")
        if needed == "config.json":
            own = [*directory.glob("*.safetensors"), *directory.glob("*.bin")]
            _refuse_claims(read_object(directory / needed, f"{path}/{needed}"), [*(weights or own)], path)
        return Source(path, here=True)
    if not is_hub_id(path):
        raise SodError(f"{path}: no such model directory")
    return _on_hub(path)


def _on_hub(path: str) -> Source:
    cached = cached_model_file(path, "config.json")
    reason = why_unreachable()
    if reason is not None and cached is None:
        raise unreachable(path, "model directory", reason)
    for name in ("config.json", "tokenizer_config.json"):
        file = cached_model_file(path, name) if reason is not None else fetched(path, name)
        if file is not None:
            _refuse_code(read_object(file, f"{path}/{name}"), f"{path}/{name}")
    return Source(path, here=reason is not None)


def fetched(path: str, name: str) -> Path | None:
    """A file of a model on the hub; None where it has none of that name. Raises SodError naming `path`."""
    try:
        return Path(hf_hub_download(path, name))
    except EntryNotFoundError:
        return None
    except Exception as error:  # the client raises many unrelated types
        raise SodError(
            f"{path}: no such model directory, nor a hub id that can be read: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_object(file: Path, where: str) -> Mapping[str, Any]:
    """The JSON object in a file of a model. Raises SodError naming `where`."""
    try:
        content = json.loads(read_bounded(file, CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise SodError(f"{where}: cut short or not JSON: {first_line(error)}; restore the file") from error
    if not isinstance(content, dict):
        raise SodError(f"{where}: not a JSON object; restore the file")
    return content


def _refuse_code(config: Mapping[str, Any], where: str) -> None:
    if config.get("auto_map"):
        raise SodError(
            f"{where}: auto_map asks to run Python code that came with the model, which is never done; use a model of "
            "an architecture that transformers has itself, or remove auto_map if this is one"
        )
    for section in (config, *_sections(config)):
        kernel = next((section[key] for key in _KERNELS if "/" in str(section.get(key))), None)
        if kernel is not None:
            raise SodError(
                f"{where}: asks for the code of the hub kernel {kernel!r:.80}, which is never run; remove the key"
            )


def _refuse_claims(config: Mapping[str, Any], files: Sequence[Path], path: str) -> None:
    """Raises SodError where the network of `config` could not be filled by the weight files, at 4 bits a number."""
    room = 2 * sum(file.stat().st_size for file in files)
    if not files:
        return  # transformers names the missing weights
    for section in (config, *_sections(config)):
        hidden, layers = _number(section, _HIDDEN), _number(section, _LAYERS)
        claims = {"layers": layers * hidden * hidden, **{key: _number(section, (key,)) * hidden for key in _WIDE}}
        too_much = next((name for name, numbers in claims.items() if numbers > room), None)
        if layers > LAYERS:
            raise SodError(
                f"{path}: cannot load a model: config.json says {layers} layers, at most {LAYERS} are read; correct it"
            )
        if too_much is not None:
            raise SodError(
                f"{path}: cannot load a model: config.json describes a larger network than the weight files hold "
                f"({too_much}); it belongs to other weights, or they are not whole"
            )


def _sections(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts of a config that describe a network of their own, e.g. `text_config`."""
    return [value for value in config.values() if isinstance(value, dict)]


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    found = (config.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), 0)
