"""Weights out of a directory of torch.distributed.checkpoint (DCP), as FSDP2 saves them, read in one process.

    .metadata          which tensors there are, and which file has which piece of them
    __0_0.distcp ...   the pieces, a file or more a rank

torch reads `.metadata` by a plain unpickler, which runs what the file says. Here it may name what such a file consists
of, and nothing else.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from sod.models.shard_file import why_unread, without_wrappers
from sod.models.source import first_line
from sod.records import SodError

METADATA = ".metadata"
_SEPARATOR = re.compile(r"[./]")
_MODELS = frozenset({"app", "model", "module", "state_dict", "state", "weight", "weights"})
_OF_TITAN = ("tok_embeddings.weight", "attention.wq.weight")
_OF_OPTIMIZERS = ("optim", "exp_avg", "moment", "ema")
_RECORDS = frozenset(
    {
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                *("Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
                *("TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"),
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("collections", "OrderedDict"),
        *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")),
    }
)


@final
class _Unpickler(pickle.Unpickler):
    """Knows the records of DCP and torch's dtypes; any other name is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


@final
class _Reader(FileSystemReader):
    """torch's reader, with its metadata read as here."""

    def __init__(self, directory: Path, metadata: Metadata) -> None:
        super().__init__(directory)
        self.metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata


def find_distributed(directory: Path) -> Path | None:
    """What torch.distributed.checkpoint wrote: `directory`, or one in it, but an optimizer's; None where there is none.

    accelerate writes two beside each other, `pytorch_model_fsdp_0` and `optimizer_0`.
    """
    if not directory.is_dir():
        return None
    inside = [path for path in sorted(directory.iterdir()) if path.is_dir() and not path.name.startswith("optim")]
    return next((path for path in (directory, *inside) if (path / METADATA).is_file()), None)


def read_distributed(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights by name, in the precision that they were saved in; the model's have these `shapes`.

    A state dict may lie deeper in what was saved, under `model.` or `weight/`: it is looked for where most of the names
    are. What else is there, an optimizer's state, is not read.
    Raises SodError naming the directory where it cannot be read, or has none of these names.
    """
    metadata = _read_metadata(directory / METADATA)
    stored = metadata.state_dict_metadata
    kept = {
        without_wrappers(key): (key, entry) for key, entry in stored.items() if isinstance(entry, TensorStorageMetadata)
    }
    prefix = _prefix({name: tuple(entry.size) for name, (_, entry) in kept.items()}, shapes, directory)
    roots = {name.partition(".")[0] for name in shapes}
    names = [name for name in kept if name.startswith(prefix)]
    names = [name for name in names if name.removeprefix(prefix).partition(".")[0] in roots]
    whole: dict[str, Any] = {}
    for key, entry in (kept[name] for name in names):
        _check_whole(key, entry, directory)
        whole[key] = _empty(key, entry, directory)
    _load(directory, metadata, whole)
    return {name.removeprefix(prefix): whole[kept[name][0]] for name in names}


def refuse_other_weights(directory: Path) -> None:
    """Raises SodError for weights that are no model's of transformers by their names alone.

    Those of torchtitan have an order of numbers of their own, and an adapter lacks the weights that it changes.
    """
    names = _read_metadata(directory / METADATA).state_dict_metadata
    titan = next((name for name in names if name.endswith(_OF_TITAN)), None)
    if titan is not None:
        raise SodError(
            f"{directory}: weights under torchtitan's names ({titan:.80}), which are not merged here; convert it with "
            "torchtitan's scripts/checkpoint_conversion/convert_to_hf.py, and use what that writes"
        )
    adapter = next((name for name in names if ".lora_" in name), None)
    if adapter is not None and not any(".base_layer." in name for name in names):
        raise SodError(
            f"{directory}: holds an adapter alone ({adapter:.80}), without the weights that it changes; save it with "
            "peft's save_pretrained, and merge the directory that this gives"
        )


def _check_whole(key: str, entry: TensorStorageMetadata, directory: Path) -> None:
    """Raises SodError where the pieces are fewer than the tensor: torch would leave the rest as it found the memory."""
    pieces = {tuple(chunk.offsets): math.prod(chunk.sizes) for chunk in entry.chunks}
    told = sum(pieces.values())
    if told != math.prod(entry.size):
        raise SodError(
            f"{directory}/{METADATA}: knows of {told} of the {math.prod(entry.size)} numbers of {key:.80}; it is of a "
            "save that was not whole, so use an earlier checkpoint"
        )


def _empty(key: str, entry: TensorStorageMetadata, directory: Path) -> Tensor:
    try:
        return torch.empty(entry.size, dtype=entry.properties.dtype)
    except (RuntimeError, TypeError) as error:
        raise SodError(f"{directory}/{METADATA}: no room for {key:.80} ({first_line(error):.160})") from error


def _load(directory: Path, metadata: Metadata, into: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # what is wanted here
            load(into, storage_reader=_Reader(directory, metadata), no_dist=True)
    except CheckpointException as error:
        causes = [why_unread(cause) for cause, _ in error.failures.values()]
        raise SodError(
            f"{directory}: its pieces cannot be read ({(causes or ['unknown'])[0]:.200}); copy the files of all ranks "
            "into it, each from the machine that its rank ran on"
        ) from error


def read_description(path: Path) -> Metadata:
    """What is in the pieces beside the `.metadata` at `path`, which runs nothing here.

    Raises ValueError where it is damaged, no such description, or names files that lie elsewhere.
    """
    try:
        with open(path, "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata) or metadata.storage_data is None:
            raise ValueError(f"it holds a {type(metadata).__name__}")
        _check_names(metadata)
    except Exception as error:  # whatever a damaged pickle makes of the records
        raise ValueError(
            f"{path.name}: not what torch.distributed.checkpoint writes, or damaged ({first_line(error):.160})"
        ) from error
    return metadata


def _read_metadata(path: Path) -> Metadata:
    try:
        return read_description(path)
    except ValueError as error:
        raise SodError(f"{path.parent}/{error}; copy it anew") from error


def _check_names(metadata: Metadata) -> None:
    """Raises ValueError for a file that lies elsewhere."""
    for info in metadata.storage_data.values():
        if "/" in info.relative_path or info.relative_path.startswith("."):
            raise ValueError(f"it names the file {info.relative_path:.80}")


def _prefix(kept: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], directory: Path) -> str:
    """What stands before the names of the model's weights in most cases; `kept` are names and shapes of what is there.

    An optimizer keeps tensors of the same names and shapes; of several prefixes it is none that sounds like one, and
    the shallowest, as copies of a model lie deeper. Raises SodError where there is none, or it would be a guess.
    """
    found: Counter[str] = Counter()
    for name, shape in kept.items():
        for start in (0, *(match.end() for match in _SEPARATOR.finditer(name))):
            if shapes.get(name[start:]) == shape:
                found[name[:start]] += 1
    if not found:
        raise SodError(
            f"{directory}: holds no weights of the model that config.json describes (it has "
            f"{next(iter(kept), 'nothing'):.80}); put the config.json of its own model there"
        )
    ranked = sorted(found, key=lambda prefix: _unlikely(prefix, found[prefix]))
    best, rival = ranked[0], ranked[1] if len(ranked) > 1 else None
    if rival is not None and _unlikely(best, found[best]) == _unlikely(rival, found[rival]):
        raise SodError(
            f"{directory}: holds several models, at {best!r:.80} and {rival!r:.80}, and nothing says which is meant; "
            "save the one to merge by itself"
        )
    return best


def _unlikely(prefix: str, weights: int) -> tuple[int, bool, int, bool]:
    """What speaks against a prefix, the weightiest first."""
    parts = [part for part in _SEPARATOR.split(prefix) if part]
    return -weights, any(word in prefix for word in _OF_OPTIMIZERS), len(parts), not _MODELS.issuperset(parts)
