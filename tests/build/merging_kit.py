"""Models cut into shards by hand, as the tests of merging need them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

Weights = dict[str, Tensor]


def put_home(whole: Path, place: Path) -> Path:
    """Put the configuration and tokenizer of the model in `whole` where verl does."""
    (place / "huggingface").mkdir(parents=True)
    for file in whole.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, place / "huggingface")
    return place


def weights_of(directory: Path | str, tied: bool = False) -> Weights:
    """By name, as they are on disk; the output embedding once where it is the input's."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    return {name: weight for name, weight in model.state_dict().items() if tied or name != "lm_head.weight"}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    differing = [
        name for name in one if one[name].dtype != other[name].dtype or not torch.equal(one[name], other[name])
    ]
    assert differing == []


def cut(weights: Weights, place: Path, shape: tuple[int, ...], dim: int = 0) -> None:
    """Save the weights as the ranks of a mesh of this shape would, sharded over its last dimension."""
    world, names = int(torch.Size(shape).numel()), ("ddp", "fsdp")[-len(shape) :]
    place.mkdir(parents=True, exist_ok=True)
    placements: list[Placement] = [*[Replicate()] * (len(shape) - 1), Shard(dim)]
    for rank in range(world):
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        state = {}
        for name, weight in weights.items():
            along = dim if weight.ndim > dim else 0
            pieces = list(weight.chunk(shape[-1], along))
            number = rank % shape[-1]
            piece = pieces[number] if number < len(pieces) else weight.narrow(along, 0, 0)
            state[name] = DTensor.from_local(
                piece.clone(),
                mesh,
                [*placements[:-1], Shard(along)],
                run_check=False,
                shape=weight.shape,
                stride=weight.stride(),
            )
        torch.save(state, place / f"model_world_size_{world}_rank_{rank}.pt")
        distributed.destroy_process_group()


def change_config(place: Path, **values: Any) -> None:
    path = place / "huggingface" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
