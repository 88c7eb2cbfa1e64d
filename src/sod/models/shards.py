"""A model in FSDP's shards, a file a rank, put together: what verl leaves in `global_step_N/actor`.

    model_world_size_8_rank_0.pt ... _rank_7.pt   a state dict each, of DTensors, ShardedTensors or plain tensors
    fsdp_config.json                              how many ranks there were (newer versions)
    huggingface/                                  config.json, the tokenizer and what else the model came with
    lora_train_meta.json                          rank and alpha of an adapter, where one was trained

Ranks are taken in their order: with `ddp` beside `fsdp` the first group of ranks holds everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sod.models.shard_file import Part, read_shard_file
from sod.models.source import first_line, read_object
from sod.records import SodError

HOME = "huggingface"
SETTINGS = "fsdp_config.json"
_NAME = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def find_shards(directory: Path) -> Path | None:
    """Where the shards are: in `directory` or its `actor`, as verl nests them; None where there are none."""
    places = (directory, directory / "actor")
    return next((place for place in places if any(map(_NAME.fullmatch, _names(place)))), None)


def shard_files(directory: Path) -> list[Path]:
    """The files of all ranks, in order. Raises SodError where one is missing, or several runs' shards are mixed."""
    found: dict[int, set[int]] = {}
    for name in _names(directory):
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    world = _world_size(directory, found)
    missing = [rank for rank in range(world) if rank not in found[world]]
    if missing:
        first = directory / f"model_world_size_{world}_rank_{missing[0]}.pt"
        raise SodError(
            f"{first}: missing ({len(missing)} of {world} ranks are); copy the files of all ranks into one directory, "
            "each from the machine that its rank ran on"
        )
    return [directory / f"model_world_size_{world}_rank_{rank}.pt" for rank in range(world)]


def read_shards(files: Sequence[Path], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The whole weights by name, in the precision that they were saved in.

    `shapes` are those that the model's configuration promises, by which tensors that do not say what they are part of
    are understood. Raises SodError naming a file or weight where the ranks' parts do not make a whole.
    """
    ranks = [read_shard_file(path) for path in files]
    for path, rank in zip(files, ranks, strict=True):
        if rank.keys() != ranks[0].keys():
            name = sorted(rank.keys() ^ ranks[0].keys())[0]
            raise SodError(f"{path}: has other weights than {files[0].name} ({name}); they are of different saves")
    whole = {}
    for name in list(ranks[0]):
        parts = [rank.pop(name) for rank in ranks]  # what was put together needs its parts no more
        where = f"{files[0].parent}: {name}"
        try:
            whole[name] = _joined(parts, shapes.get(name), where)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise SodError(f"{where}: the ranks' pieces do not fit together ({first_line(error):.160})") from error
    return whole


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


def _world_size(directory: Path, found: Mapping[int, set[int]]) -> int:
    """How many ranks there were; the settings decide where shards of several numbers of ranks lie side by side."""
    settings = directory / SETTINGS
    told = read_object(settings, str(settings)).get("world_size") if settings.is_file() else None
    if isinstance(told, int) and told in found:
        return told
    sizes = ", ".join(map(str, sorted(found)))
    if told is not None:
        raise SodError(f"{settings}: says world_size {told!r:.20}, and there are shards of {sizes} ranks; correct it")
    if len(found) > 1:
        raise SodError(
            f"{directory}: holds shards of {sizes} ranks; move those of all but one number of ranks elsewhere"
        )
    return next(iter(found))


def _joined(parts: Sequence[Part], promised: tuple[int, ...] | None, where: str) -> Tensor:
    first = parts[0]
    kinds = {(part.plain, part.dim, None if part.plain else part.shape) for part in parts}
    dtypes = {dtype for part in parts for dtype in part.dtypes}
    if len(kinds) > 1 or len(dtypes) > 1:
        raise SodError(f"{where}: the ranks disagree about it; their files are of different saves")
    if any(part.placed for part in parts):
        return _laid(parts, where)
    pieces = [part.local for part in parts if part.local is not None]
    if len(pieces) < len(parts):
        raise SodError(f"{where}: no rank's file has a piece of it; copy them anew")
    if first.plain:
        return _plain(pieces, promised)
    if first.dim is None:
        return pieces[0].clone()
    return _in_a_row(_in_order(parts, pieces, where), first.shape, first.dim, where)


def _plain(pieces: Sequence[Tensor], promised: tuple[int, ...] | None) -> Tensor:
    """Tensors that say nothing: each rank has all of it, or a piece of its rows."""
    if promised is None:
        same = all(torch.equal(piece, pieces[0]) for piece in pieces)
    else:
        same = tuple(pieces[0].shape) == tuple(promised)
    return pieces[0].clone() if same else torch.cat(list(pieces))


def _in_order(parts: Sequence[Part], pieces: Sequence[Tensor], where: str) -> list[Tensor]:
    """The pieces by their place in the row, where the files tell it, whatever the files are called."""
    if any(part.place is None for part in parts):
        return list(pieces)
    by_place: dict[int | None, Tensor] = {}
    for part, piece in zip(parts, pieces, strict=True):
        by_place.setdefault(part.place, piece)
    missing = sorted(set(range(len(by_place))) - set(by_place))
    if missing:
        raise SodError(f"{where}: no file has piece {missing[0]} of it; a rank's file is there under two names")
    return [by_place[place] for place in range(len(by_place))]


def _in_a_row(pieces: Sequence[Tensor], shape: tuple[int, ...], dim: int, where: str) -> Tensor:
    """The first pieces that fill the dimension; where groups of ranks are copies of each other, the rest is those."""
    taken, filled = [], 0
    for piece in pieces:
        if filled < shape[dim]:
            taken.append(piece)
            filled += piece.shape[dim] if piece.ndim else 0
    whole = torch.cat(taken, dim)
    if tuple(whole.shape) != shape:
        raise SodError(f"{where}: the pieces make {tuple(whole.shape)} instead of {shape}; the ranks' files do not fit")
    return whole


def _laid(parts: Sequence[Part], where: str) -> Tensor:
    """Pieces that say where they belong."""
    placed = [piece for part in parts for piece in part.placed]
    whole = torch.empty(parts[0].shape, dtype=placed[0][1].dtype)
    filled: dict[tuple[int, ...], int] = {}
    for offsets, piece in placed:
        slices = tuple(slice(start, start + size) for start, size in zip(offsets, piece.shape, strict=True))
        whole[slices] = piece
        filled[offsets] = piece.numel()
    if sum(filled.values()) != whole.numel():
        raise SodError(f"{where}: the pieces make {sum(filled.values())} of {whole.numel()} numbers; files are missing")
    return whole
