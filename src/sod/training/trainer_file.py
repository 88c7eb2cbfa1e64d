"""`trainer.pt` of a checkpoint that may be a stranger's: nothing of it is run, and all of it is checked first."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

CUDA_RNG_BYTES = 16  # seed and offset


@final
@dataclass(frozen=True)
class TrainerFile:
    """What `trainer.pt` holds: its format, the steps done, whose recipe it is, torch's random states and the rest.

    `cuda_rng` are those of the CUDA devices, by number; none where CUDA was not in use. `device` is `cuda` where some
    of its tensors were on such a device when they were written, else `cpu`; now all are on the CPU.
    """

    format: int
    step: int
    recipe_hash: str
    rng: Tensor
    cuda_rng: Sequence[Tensor]
    device: str
    content: Mapping[str, Any]


def read_trainer(path: Path) -> TrainerFile:
    """The checked file. Raises ValueError, in one line, for whatever is not what this program writes.

    `weights_only` unpickles tensors and plain values alone. What the file takes in memory is at most what it takes on
    disk: this program never compresses it.
    """
    try:
        _refuse_compressed(path)
        written_on: set[str] = set()

        def to_cpu(storage: Any, location: str) -> Any:
            written_on.add(location.partition(":")[0])
            return storage

        content = torch.load(path, weights_only=True, map_location=to_cpu)
        return _checked(content, "cuda" if "cuda" in written_on else "cpu")
    except Exception as error:  # pickle, zip and torch each raise kinds of their own, and torch over many lines
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise ValueError(f"not the state of a run, or damaged ({said:.200})") from error


def checked_state(state: Any, namespaces: Collection[str]) -> Mapping[str, Any]:
    """`state` by namespace. Raises ValueError where it is none, or has no optimizer's, or one that does not exist."""
    if isinstance(state, dict) and state.get("optimizer") is not None and set(namespaces).issuperset(state):
        return state
    raise ValueError("not the state of a run by namespace")


def _refuse_compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its parts are larger than the file")


def _checked(content: Any, device: str) -> TrainerFile:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a mapping")
    version, step, rng = content.get("format", 1), content.get("step"), content.get("rng")
    recipe_hash = content.get("recipe_hash")
    if type(version) is not int or version < 1 or type(step) is not int or step < 0:
        raise ValueError("format or step is no whole number")
    if not isinstance(recipe_hash, str):
        raise ValueError("recipe_hash is no text")
    own = torch.get_rng_state()
    if not isinstance(rng, Tensor) or (rng.dtype, rng.shape, rng.layout) != (own.dtype, own.shape, own.layout):
        raise ValueError("rng is no state of torch's random numbers")
    cuda_rng = content.get("cuda_rng", [])
    if not isinstance(cuda_rng, list) or not all(map(_is_cuda_rng, cuda_rng)):
        raise ValueError("cuda_rng is no list of states of CUDA's random numbers")
    return TrainerFile(version, step, recipe_hash, rng, cuda_rng, device, content)


def _is_cuda_rng(value: Any) -> bool:
    wanted = (torch.uint8, (CUDA_RNG_BYTES,), torch.strided)
    return isinstance(value, Tensor) and (value.dtype, tuple(value.shape), value.layout) == wanted
