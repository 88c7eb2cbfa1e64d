"""Weights out of a directory of torch.distributed.checkpoint (DCP), as FSDP2 saves them, read in one process.

    .metadata          which tensors there are, and which file has which piece of them
    __0_0.distcp ...   the pieces, a file or more a rank

torch reads `.metadata` by a plain unpickler, which runs what the file says. Here it may name what such a file consists
of, and nothing else.
"""

from __future__ import annotations

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

from sod.models.source import first_line
from sod.records import SodError

METADATA = ".metadata"
_SEPARATOR = re.compile(r"[./]")
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
    kept = {
        name: entry for name, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
    }
    prefix = _prefix(kept, shapes)
    if prefix is None:
        example = next(iter(kept), "nothing")
        raise SodError(
            f"{directory}: holds no weights of the model that config.json describes (it has {example:.80}); put the "
            "config.json of its own model there"
        )
    roots = {name.partition(".")[0] for name in shapes}
    names = [name for name in kept if name.startswith(prefix)]
    names = [name for name in names if name.removeprefix(prefix).partition(".")[0] in roots]
    whole: dict[str, Any] = {name: torch.empty(kept[name].size, dtype=kept[name].properties.dtype) for name in names}
    _load(directory, metadata, whole)
    return {name.removeprefix(prefix): tensor for name, tensor in whole.items()}


def _load(directory: Path, metadata: Metadata, into: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # what is wanted here
            load(into, storage_reader=_Reader(directory, metadata), no_dist=True)
    except CheckpointException as error:
        causes = [first_line(cause) for cause, _ in error.failures.values()]
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


def _prefix(kept: Mapping[str, TensorStorageMetadata], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What stands before the names of the model's weights in most cases.

    An optimizer keeps tensors of the same names and shapes; of several prefixes it is none that sounds like one, and
    the shortest, as copies of a model lie deeper.
    """
    found: Counter[str] = Counter()
    for key, entry in kept.items():
        for start in (0, *(match.end() for match in _SEPARATOR.finditer(key))):
            if shapes.get(key[start:]) == tuple(entry.size):
                found[key[:start]] += 1
    return min(
        found,
        key=lambda prefix: (-found[prefix], any(word in prefix for word in _OF_OPTIMIZERS), len(prefix)),
        default=None,
    )
