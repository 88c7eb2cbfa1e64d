"""What ranks keep of a run in pieces: trained weights in float32 and AdamW's moments, by torch.distributed.checkpoint.

Every rank writes its own pieces, and they are read into pieces of another number of ranks, or into one process. Files
may be a stranger's: the description of the pieces is a pickle, which is read here by names that are known before torch
reads it, and nothing but tensors is accepted in it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from sod.models.ranks import ALONE, Ranks
from sod.models.source import first_line
from sod.training.optim import Optimizer

SHARDS = "shards"
METADATA = ".metadata"


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
    """Raises ValueError for a description of anything but tensors, and of files elsewhere."""
    from sod.models.distributed_files import read_description

    entries = read_description(path).state_dict_metadata.values()
    if {type(entry).__name__ for entry in entries} - {"TensorStorageMetadata"}:
        raise ValueError(f"{path.name} describes more than tensors")


def _said(error: Any) -> str:
    """What failed on the first of the ranks where something did; torch puts a trace before it."""
    failures = [failure[0] for failure in error.failures.values()]
    return first_line(failures[0] if failures else error)[:200]
