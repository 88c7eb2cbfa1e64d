"""Writes what verl leaves of a run: a state dict a rank of a model that torch has really sharded, over gloo.

python verl_shards.py MODEL OUT PORT makes a directory in OUT for each way: fsdp2, fsdp1 (with a device mesh, as verl
has it), sharded (FSDP1 without one: ShardedTensor) and dcp (what torch.distributed.checkpoint makes of FSDP2).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardedStateDictConfig, StateDictType, fully_shard
from transformers import AutoModelForCausalLM

WORLD = 2
KINDS = ("fsdp2", "fsdp1", "sharded", "dcp")
BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def sharded_state(model: Any, kind: str) -> dict[str, Any]:
    """The model's state dict with the pieces of this rank."""
    mesh = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("fsdp",))
    if kind in ("fsdp2", "dcp"):
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return dict(model.state_dict())
    options = {"device_mesh": mesh} if kind == "fsdp1" else {}
    wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"), **options)
    with FullyShardedDataParallel.state_dict_type(
        wrapped, StateDictType.SHARDED_STATE_DICT, ShardedStateDictConfig(offload_to_cpu=False)
    ):
        return dict(wrapped.state_dict())


def work(rank: int, source: str, out: str, port: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    for kind in KINDS:
        state = sharded_state(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), kind)
        if kind == "dcp":
            save_distributed({"model": state}, checkpoint_id=str(Path(out) / kind))
        else:
            torch.save(state, Path(out) / kind / f"model_world_size_{WORLD}_rank_{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def main() -> None:
    source, out, port = sys.argv[1:]
    for kind in KINDS:
        home = Path(out) / kind / "huggingface"
        home.mkdir(parents=True)
        for name in BESIDE:
            shutil.copy(Path(source) / name, home)
        if kind != "dcp":
            settings = {"FSDP_version": 2 if kind == "fsdp2" else 1, "world_size": WORLD}
            (home.parent / "fsdp_config.json").write_text(json.dumps(settings), encoding="utf-8")
    multiprocessing.spawn(work, (source, out, port), nprocs=WORLD)


if __name__ == "__main__":
    main()
