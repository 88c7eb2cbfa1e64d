"""One rank's part of a model, as FSDP's sharded state dicts are pickled, read without running anything that is in it.

Such a file names classes of torch: DTensor (FSDP2, and FSDP1 with a device mesh) or ShardedTensor (FSDP1 without), and
what they are made of. `torch.load(weights_only=True)` refuses all that it is not told to allow. Here every allowed name
means a record that keeps what it is given and does nothing: no process group is asked for, no device mesh is made, and
it does not matter under which path of a module torch 2.4 or 2.13 pickled it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sod.models.source import first_line
from sod.records import SodError


@final
@dataclass(frozen=True)
class Part:
    """What one rank holds of a weight of the whole `shape`.

    `local` is its piece. `dim` is the dimension along which the ranks' pieces lie behind one another, None where each
    rank has all of it; `placed` are pieces with their offsets, for tensors that say where theirs belong. `plain` is a
    tensor that says nothing.
    """

    shape: tuple[int, ...]
    local: Tensor | None = None
    dim: int | None = None
    place: int | None = None
    placed: tuple[tuple[tuple[int, ...], Tensor], ...] = ()
    plain: bool = False

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The precision of what there is of it."""
        here = [] if self.local is None else [self.local]
        return {piece.dtype for piece in (*here, *(piece for _, piece in self.placed))}


class _Kept:
    """Keeps the arguments and the state that a pickle gives one of torch's records."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Kept:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, {}
        return made

    def __init__(self, *arguments: Any) -> None:
        """The arguments are kept already, also where a pickle calls `__new__` alone."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:
        return id(self)

    def get(self, name: str) -> Any:
        """A field, None where the record has none of that name; slots stand behind the other fields."""
        sections = self.state if isinstance(self.state, tuple) else (self.state,)
        found = [section[name] for section in sections if isinstance(section, dict) and name in section]
        return found[-1] if found else None


class _Shard(_Kept):
    pass


class _Replicate(_Kept):
    pass


class _KeptTensor(Tensor):
    """Keeps the state of a tensor that is made of others; it has a shape and can do nothing."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(f"{function}: this tensor is a record of where its parts are")

    def __setstate__(self, state: Any) -> None:
        self.kept = state


class _DTensor(_KeptTensor):
    pass


class _ShardedTensor(_KeptTensor):
    pass


def _named(owner: Any, name: str) -> type[_Kept]:
    """In place of `getattr`, by which pickles name members of enumerations and classes within classes."""
    return _Kept


_TENSORS = {
    "torch.distributed.tensor.DTensor": _DTensor,
    "torch.distributed.tensor._api.DTensor": _DTensor,
    "torch.distributed._tensor.api.DTensor": _DTensor,
    "torch.distributed._shard.sharded_tensor.api.ShardedTensor": _ShardedTensor,
}
_PLACEMENTS = tuple(f"torch.distributed.{room}.placement_types" for room in ("tensor", "_tensor"))
_SHARDED = "torch.distributed._shard"
_OTHERS = (
    *(f"{module}.{name}" for module in _PLACEMENTS for name in ("Partial", "_Partial", "_StridedShard")),
    *(f"{module}.{name}" for module in _PLACEMENTS for name in ("DTensorSpec", "TensorMeta")),
    *(f"torch.distributed.tensor._dtensor_spec.{name}" for name in ("DTensorSpec", "TensorMeta", "ShardOrderEntry")),
    *(f"torch.distributed._mesh_layout.{name}" for name in ("_MeshLayout", "_FlatLayout")),
    "torch.distributed.device_mesh.DeviceMesh",
    "torch.distributed._tensor.device_mesh.DeviceMesh",
    "torch.distributed._pycute.layout.Layout",
    "torch.distributed.remote_device._remote_device",
    f"{_SHARDED}.metadata.ShardMetadata",
    f"{_SHARDED}.sharded_tensor.shard.Shard",
    f"{_SHARDED}.sharding_spec.chunk_sharding_spec.ChunkShardingSpec",
    f"{_SHARDED}.sharding_spec.api.EnumerableShardingSpec",
    *(
        f"{_SHARDED}.sharded_tensor.metadata.{name}"
        for name in ("TensorProperties", "ShardedTensorMetadata", "MEM_FORMAT_ENCODING")
    ),
)
_WRAPPERS = frozenset({"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"})
"""Parts of names that FSDP, recompute and torch.compile put into them."""
_POINTER = b"version https://git-lfs"
ALLOWED: Mapping[str, Any] = {
    **_TENSORS,
    **{f"{module}.Shard": _Shard for module in _PLACEMENTS},
    **{f"{module}.Replicate": _Replicate for module in _PLACEMENTS},
    **dict.fromkeys(_OTHERS, _Kept),
    "builtins.getattr": _named,
}
"""What a file may name beside tensors and plain values, and what is taken for it."""


def read_shard_file(path: Path) -> dict[str, Part]:
    """A rank's parts by the name of their weight. Weights stay on disk until they are used.

    Raises SodError naming the file where it cannot be read, names anything else than tensors and their shards, or holds
    shards that are cut along several dimensions.
    """
    with _only_allowed():
        try:
            content = torch.load(path, weights_only=True, map_location="cpu", mmap=_is_zip(path))
        except Exception as error:  # pickle, zip and torch each raise kinds of their own
            raise SodError(
                f"{path}: not the shards of a model, or damaged ({why_unread(error)}); copy it anew"
            ) from error
    if not isinstance(content, dict) or not content:
        raise SodError(f"{path}: holds no weights by name; it is not what FSDP's state dict saves")
    try:
        parts = {without_wrappers(str(name)): _part(value, f"{path}: {name}") for name, value in content.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SodError(f"{path}: not what FSDP's state dict saves ({first_line(error):.160})") from error
    if len(parts) < len(content):
        raise SodError(f"{path}: has weights twice, from within a wrapper and from outside; it is of no use as it is")
    return parts


@contextmanager
def _only_allowed() -> Iterator[None]:
    """Torch keeps one list of what may be unpickled, to which its own modules have added their classes on import."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(record, name) for name, record in ALLOWED.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def without_wrappers(name: str) -> str:
    """The name that a weight has in the model itself, where it was saved from within a wrapper, compiled or not."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS).removeprefix("module.")


def _is_zip(path: Path) -> bool:
    """Whether torch can leave the weights on disk. Raises ValueError for what is no file of torch's at all."""
    with open(path, "rb") as file:
        start = file.read(len(_POINTER))
    if not start:
        raise ValueError("it is empty")
    if start == _POINTER:
        raise ValueError("a pointer of git-lfs in its place: git lfs pull fetches it")
    return start.startswith(b"PK")


def why_unread(error: BaseException) -> str:
    """The reason alone: torch puts advice before it, to read the file without this care."""
    lines = str(error).replace("WeightsUnpickler error:", "\n").strip().splitlines()
    reasons = [line.strip() for line in lines if line.startswith(("Unsupported", "Can only", "Trying"))]
    return f"{reasons[0] if reasons else first_line(error):.160}"


def _part(value: Any, where: str) -> Part:
    if isinstance(value, _DTensor):
        return _of_dtensor(value, where)
    if isinstance(value, _ShardedTensor):
        return _of_sharded_tensor(value, where)
    if isinstance(value, Tensor):
        return Part(tuple(value.shape), value, plain=True)
    raise SodError(f"{where}: a {type(value).__name__} where a weight should be; it is not a model's state dict")


def _of_dtensor(value: Any, where: str) -> Part:
    fields = dict(value.kept[1] if isinstance(value.kept, tuple) else value.kept)
    local, placements = fields["_local_tensor"], fields["_spec"].get("placements")
    *before, last = placements
    if not all(isinstance(placement, _Replicate) for placement in before):
        raise SodError(
            f"{where}: sharded over several dimensions of the device mesh (tensor parallelism), which cannot be put "
            "together here; merge it with verl's own merger"
        )
    if isinstance(last, _Replicate):
        return Part(tuple(value.shape), local)
    if not isinstance(last, _Shard):
        raise SodError(f"{where}: neither sharded nor replicated; save the state dict of the model, not of gradients")
    dim = last.get("dim")
    return Part(tuple(value.shape), local, dim if dim is not None else last.arguments[0], _place(fields["_spec"]))


def _place(spec: Any) -> int | None:
    """Which piece of its row this is, by the rank's coordinate in the mesh; None where the file does not tell."""
    mesh = spec.get("mesh")
    coordinate = mesh.get("_coordinate_on_dim") if isinstance(mesh, _Kept) else None
    last = coordinate[-1] if isinstance(coordinate, tuple | list) and coordinate else None
    return last if isinstance(last, int) else None


def _of_sharded_tensor(value: Any, where: str) -> Part:
    local_shards = value.kept[0]
    placed = []
    for shard in local_shards:
        offsets = shard.get("metadata").get("shard_offsets")
        placed.append((tuple(offsets), shard.get("tensor")))
    return Part(tuple(value.shape), placed=tuple(placed))
