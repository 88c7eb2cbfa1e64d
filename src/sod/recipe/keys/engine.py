"""`engine`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sod.recipe.keys.address import bare_address, same_place
from sod.recipe.keys.options import HIDING, refuse_options
from sod.recipe.keys.section import Section

KEY_VARIABLE = "SOD_ENGINE_API_KEY"


class EngineSpec(Section):
    """What samples the student's turns: this process, or vLLM servers (docs/vllm.md)."""

    kind: Literal["torch", "vllm"] = Field(
        "torch", description="torch: in the trainer's process; vllm: by vLLM servers, which get the weights every step"
    )
    urls: list[str] | None = Field(
        None,
        min_length=1,
        description="servers that run already, e.g. http://127.0.0.1:8000; null: the run starts its own",
    )
    servers: int = Field(1, ge=1, description="servers that the run starts where urls is null")
    environment: str | None = Field(
        None, description="virtual environment that vLLM is installed in; null: .venv-vllm (`make vllm-env`)"
    )
    options: list[str] = Field(
        default_factory=list, description="further options of `vllm serve`, e.g. [--tensor-parallel-size, '2']"
    )
    push: Literal["file", "nccl", "ipc"] = Field(
        "file", description="how weights get to the servers; nccl, ipc: between CUDA devices, with vLLM importable here"
    )
    push_dir: str | None = Field(
        None, description="folder for weights that servers read too; null: /dev/shm, or where temporary files go"
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="nats/token that a server may be off the trainer after a push; null: .001, .1 in bfloat16",
    )
    turn_seconds: float = Field(1800.0, gt=0, description="time limit of a turn (seconds), from when it is sent")
    restart_seconds: float = Field(
        300.0, ge=0, description="how long a server that died may take to come back (seconds)"
    )

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: list[str] | None) -> list[str] | None:
        if urls is None:
            return None
        secret = f"the environment variable {KEY_VARIABLE}"
        plain = [bare_address(url, "engine.urls", secret, "http://127.0.0.1:8000").removesuffix("/v1") for url in urls]
        if len(set(map(same_place, plain))) < len(plain):
            raise ValueError("engine.urls: names a server twice; leave one of them out")
        return plain

    @model_validator(mode="after")
    def _ours_to_say(self) -> EngineSpec:
        refuse_options(self.options, RESERVED, "engine.options")
        return self


RESERVED = HIDING | {"--model", "--dtype", "--logprobs-mode", "--enable-scale-out", "--served-model-name"}
RESERVED |= {"--max-model-len", "--weight-transfer-config"}
"""Options of `vllm serve` that a run sets itself."""
