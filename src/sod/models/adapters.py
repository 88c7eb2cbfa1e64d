"""Adapters on disk: directories that hold a low-rank change of a model (LoRA), and name the model that they change.

A directory with an `adapter_config.json` is what peft writes and reads. It may be a stranger's: the model that it names
is looked up here and goes through the same checks as any other, and transformers never follows the file by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from sod.hub import cached_model_file, is_hub_id
from sod.models.source import Source, fetched, find_model, read_object
from sod.records import SodError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
INSTALL = "pip install 'sod-distill[lora]'"


@final
@dataclass(frozen=True)
class Adapter:
    """A saved adapter: its `directory` as the user wrote it, where its `base` model is, and its whole config."""

    directory: Path
    base: str
    config: Mapping[str, Any]


def is_adapter(path: str) -> bool:
    """Whether a local directory holds an adapter instead of a whole model."""
    return (Path(path) / CONFIG).is_file()


def refuse_missing_peft(where: str) -> None:
    """Raises SodError naming `where`, a key or a path, in an environment without peft."""
    if find_spec("peft") is None:
        raise SodError(f"{where}: adapters need the package peft, which is not installed; {INSTALL}")


def read_adapter(path: str) -> Adapter:
    """The adapter in a directory. Raises SodError naming it where it cannot be read, or its base model is not there."""
    refuse_missing_peft(path)
    directory = Path(path)
    config = read_object(directory / CONFIG, f"{path}/{CONFIG}")
    if config.get("peft_type") != "LORA":
        raise SodError(
            f"{path}/{CONFIG}: an adapter of type {config.get('peft_type')!r:.40}, and only LORA can be read; merge it "
            "into its model with peft (merge_and_unload), and name the directory that this gives"
        )
    if not (directory / WEIGHTS).is_file():
        raise SodError(f"{path}: an adapter without {WEIGHTS}; restore the file, or save the adapter as safetensors")
    return Adapter(directory, _base_of(directory, config), config)


def base_source(path: str) -> Source:
    """Where configuration and weights of the model at `path` are read: of an adapter, those of its base model.

    Raises SodError as `find_model` and `read_adapter`, and for an adapter on the hub or of another adapter.
    """
    if not is_adapter(path):
        source = find_model(path, "config.json")
        if not Path(path).is_dir() and _hub_adapter(source):
            raise SodError(f"{path}: an adapter on the hub; fetch it (hf download {path}) and name its directory")
        return source
    base = read_adapter(path).base
    if is_adapter(base):
        raise SodError(
            f"{path}/{CONFIG}: its base model {base} is an adapter itself; merge that with `sod models merge`"
        )
    return base_source(base)


def tokenizer_home(path: str) -> str:
    """Where the tokenizer of the model at `path` is: that of an adapter without one is its base model's."""
    own = not is_adapter(path) or (Path(path) / "tokenizer.json").is_file()
    return path if own else read_adapter(path).base


def same_place(one: str, other: str) -> bool:
    """Whether two paths or hub ids mean the same model."""
    return one == other or (Path(one).is_dir() and Path(one).resolve() == Path(other).resolve())


def _hub_adapter(source: Source) -> bool:
    return (cached_model_file(source.path, CONFIG) if source.here else fetched(source.path, CONFIG)) is not None


def _base_of(directory: Path, config: Mapping[str, Any]) -> str:
    """The base model's directory or hub id.

    A relative path is one from the working directory, as for peft; where nothing is there, one from a directory above
    the adapter, so that a project that was moved as a whole, or is used from elsewhere, finds its own.
    """
    name, where = config.get("base_model_name_or_path"), f"{directory}/{CONFIG}"
    if not isinstance(name, str) or not name:
        raise SodError(f"{where}: names no base model; set base_model_name_or_path to its directory or hub id")
    if config.get("revision") not in (None, "main"):
        raise SodError(
            f"{where}: wants revision {config['revision']!r:.60} of {name}; fetch that revision and set "
            "base_model_name_or_path to its directory, and revision to null"
        )
    above = [parent / name for parent in directory.resolve().parents]
    for place in (Path(name), *above):
        if place.is_dir():
            return str(place)
    if is_hub_id(name):
        return name
    raise SodError(f"{where}: its base model {name} is not there; put it back where it was")
