"""Weights from one CUDA device to others, by vLLM's own trainer side: NCCL, or CUDA IPC on the same machine.

It is part of vLLM, which must be importable in this process for it (`pip install --no-deps vllm==0.32.*` beside torch;
its pins exclude this project's transformers). Every push connects anew, so that a server that was started again is no
special case.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import socket
from collections.abc import Iterator
from typing import Any, Literal, final
from urllib.parse import urlsplit

import torch
from torch import Tensor

from sod.engines.vllm_server import Server, ServerFaultError, refuse_other_version
from sod.models.lora import merged_state
from sod.records import Fault, FaultKind, SodError


@final
class DevicePusher:
    """Sends weights by NCCL or CUDA IPC. Raises SodError where vLLM is not importable, or of another version."""

    def __init__(self, backend: Literal["nccl", "ipc"]) -> None:
        key = f"engine.push={backend}"
        if importlib.util.find_spec("vllm") is None:
            raise SodError(
                f"{key}: needs vLLM in this environment too, beside the servers'; pip install --no-deps vllm==0.32.*, "
                "or set engine.push=file"
            )
        refuse_other_version(importlib.metadata.version("vllm"), key)
        self._backend = backend
        self._weights: dict[str, Tensor] = {}

    def prepare(self, model: Any, label: str) -> None:
        """See `Pusher.prepare`."""
        if model.device.type != "cuda":
            raise SodError(f"engine.push={self._backend}: the student is on {model.device}; set engine.push=file")
        self._weights = merged_state(model)

    async def push(self, server: Server, seconds: float) -> None:
        """See `Pusher.push`."""
        workers = 1
        if self._backend == "nccl":
            workers = int((await server.get("/get_world_size")).json()["world_size"])
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self._send, server.url, workers)
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:  # requests' own errors are OSErrors
            detail = f"{server.url}: push by {self._backend}: {type(error).__name__}: {error}"
            raise ServerFaultError(Fault(FaultKind.SERVER, detail)) from error

    def close(self) -> None:
        """See `Pusher.close`."""
        self._weights = {}

    def _send(self, url: str, workers: int) -> None:
        """Connect, send all weights, and disconnect."""
        from vllm.distributed.weight_transfer import HTTPVLLMWeightSyncClient, WeightTransferTrainerFactory

        device = next(iter(self._weights.values())).device
        client = HTTPVLLMWeightSyncClient(url)
        with torch.cuda.device(device):
            sender = WeightTransferTrainerFactory.trainer_init(
                self._init_info(url, workers), client=client, source=source_of(self._weights)
            )
            try:
                sender.send_weights()
                torch.cuda.synchronize(device)
            finally:
                sender.shutdown()
                client.shutdown_weight_transfer_engine()

    def _init_info(self, url: str, workers: int) -> Any:
        if self._backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(rank=0)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        host, port = meeting_place(url)
        return NCCLTrainerInitInfo(host, port, workers + 1, rank=0)


def meeting_place(url: str) -> tuple[str, int]:
    """An address of this machine that the server at `url` reaches, with a port that nobody listens on."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((parts.hostname or "127.0.0.1", parts.port or 80))  # sends nothing
        host = str(route.getsockname()[0])
    with socket.socket() as free:
        free.bind((host, 0))
        return host, int(free.getsockname()[1])


def source_of(weights: dict[str, Tensor]) -> Any:
    """The weights as vLLM's trainer side takes them."""
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class Source(WeightSource):  # type: ignore[misc]  # whose package has no types here
        def metadata(self) -> list[Any]:
            return [ParamMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in weights.items()]

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            yield from weights.items()

    return Source()
