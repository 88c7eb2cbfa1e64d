"""What ranks keep of a run in pieces: trained weights in float32 and AdamW's moments, by torch.distributed.checkpoint.

Every rank writes its own pieces, and they are read into pieces of another number of ranks, or into one process. Files
may be a stranger's: the description of the pieces is a pickle, which is read here by names that are known before torch
reads it, and nothing but tensors is accepted in it.
"""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path
from typing import Any, final

from sod.models.ranks import ALONE, Ranks
from sod.training.optim import Optimizer

SHARDS = "shards"
METADATA = ".metadata"
_KNOWN = frozenset(
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
) | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
}
"""What torch's own descriptions name, beside values of the module `torch` such as `float32`."""


def has_shards(directory: Path) -> bool:
    """Whether ranks wrote the checkpoint in `directory`."""
    return (directory / SHARDS).is_dir()


def write_shards(directory: Path, optimizer: Optimizer, ranks: Ranks) -> None:
    """Write the pieces of all ranks, which all call it, below `directory`, a checkpoint that is being made.

    May raise OSError, and RuntimeError for what torch cannot write.
    """
    from torch.distributed import checkpoint

    ranks.shared(lambda: (directory / SHARDS).mkdir(parents=True, exist_ok=True))
    try:
        checkpoint.state_dict_saver.save(
            optimizer.tensors(), checkpoint_id=directory / SHARDS, no_dist=ranks.count == 1
        )
    except checkpoint.api.CheckpointException as error:
        raise RuntimeError(_said(error)) from error


def read_shards(directory: Path, optimizer: Optimizer, ranks: Ranks = ALONE) -> None:
    """Set weights and moments to those of a checkpoint that any number of ranks wrote; all ranks of this run call it.

    Raises ValueError where it is not of these weights, damaged, or holds anything but tensors.
    """
    from torch.distributed import checkpoint

    _check(directory / SHARDS / METADATA)
    tensors = optimizer.tensors()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is to be in one process
            checkpoint.state_dict_loader.load(tensors, checkpoint_id=directory / SHARDS, no_dist=ranks.count == 1)
    except checkpoint.api.CheckpointException as error:
        raise ValueError(_said(error)) from error
    optimizer.take(tensors)


def _check(path: Path) -> None:
    try:
        described = _Reader(io.BytesIO(path.read_bytes())).load()
        kinds = {type(entry).__name__ for entry in described.state_dict_metadata.values()}
        names = [info.relative_path for info in (described.storage_data or {}).values()]
    except Exception as error:  # whatever a pickle makes of bytes
        raise ValueError(f"{path.name} is damaged, or not a description of shards ({_first_line(error)})") from error
    if kinds - {"TensorStorageMetadata"}:
        raise ValueError(f"{path.name} describes more than tensors")
    if any("/" in name or name.startswith(".") for name in names):
        raise ValueError(f"{path.name} names files elsewhere")


@final
class _Reader(pickle.Unpickler):
    """Reads descriptions of shards: no other name of Python's is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return super().find_class(module, name)
        if module == "torch":
            import torch

            value = getattr(torch, name, None)
            if isinstance(value, torch.dtype | torch.layout):
                return value
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _said(error: Any) -> str:
    """What failed on the first of the ranks where something did; torch puts a trace before it."""
    failures = [failure[0] for failure in error.failures.values()]
    return _first_line(failures[0] if failures else error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
