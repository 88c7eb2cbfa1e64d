"""Weights from the trainer to vLLM servers, by a file that both can read.

vLLM loads weights anew out of a directory by itself (`reload_weights`), so nothing of ours runs on its side. Embeddings
that are tied are written as output embedding too: a server that is not sent one keeps what it made of the old one. But
some models of vLLM have none (Gemma 2, which projects by its embeddings themselves), and refuse it.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol, final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sod.engines.vllm_server import Server, ServerFaultError
from sod.models.lora import merged_state
from sod.models.source import first_line
from sod.recipe import EngineSpec
from sod.records import SodError

SHARED_MEMORY = Path("/dev/shm")
HEAD = "lm_head.weight"
NO_HEAD = "parameter named 'lm_head'"  # that there is none is how vLLM refuses it
WITH_HEAD = "with-head"  # the folder, in that of weights, which has their output embedding too
PREFIX = "sod-weights-"
LOCK = "lock"  # the file in a folder of weights that its run holds locked for as long as it lives
YOUNG_SECONDS = 60.0  # a folder that was made just now may not be locked yet
ONE_FILE = "100TB"  # with several there is an index, which has no output embedding where embeddings are tied


class Pusher(Protocol):
    """A way for weights to a server."""

    def prepare(self, model: Any, label: str) -> None:
        """Make the weights of `model` ready under the name `label`; those before are let go. Raises SodError."""
        ...

    async def push(self, server: Server, seconds: float) -> None:
        """Have a server take the weights that were prepared last. Raises ServerFaultError, and SodError."""
        ...

    def close(self) -> None:
        """Let go of what was prepared. Safe to call twice."""
        ...


def pusher_of(spec: EngineSpec) -> Pusher:
    """The way that a recipe asks for. Raises SodError where it is not there."""
    if spec.push == "file":
        return FilePusher(spec.push_dir)
    from sod.engines.vllm_device_push import DevicePusher  # where it is used alone: it looks for vLLM in this process

    return DevicePusher(spec.push)


@final
class FilePusher:
    """Writes a model directory below `folder`, and has servers read it."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._root: Path | None = None
        self._current: Path | None = None
        self._takes_head = True
        self._lock: IO[bytes] | None = None

    def prepare(self, model: Any, label: str) -> None:
        """See `Pusher.prepare`."""
        weights = merged_state(model)
        try:
            if self._root is None:
                self._root = self._made(sum(weight.nbytes for weight in weights.values()))
            before, self._current = self._current, self._root / label
            write_weights(model, weights, self._current)
            if before is not None:
                shutil.rmtree(before, ignore_errors=True)
        except (OSError, SafetensorError) as error:  # the latter where a disk is full
            where = self._root or self._folder
            said = (isinstance(error, OSError) and error.strerror) or first_line(error)
            raise SodError(
                f"engine.push_dir: {where}: the weights cannot be written ({said:.200}); name a folder "
                "with room for them that the servers read too"
            ) from error

    async def push(self, server: Server, seconds: float) -> None:
        """See `Pusher.push`."""
        assert self._current is not None
        whole = self._current / WITH_HEAD
        if self._takes_head and whole.is_dir():
            try:
                await self._read(server, whole, seconds)
                return
            except ServerFaultError as error:
                if NO_HEAD not in error.fault.detail:
                    raise
                self._takes_head = False
        await self._read(server, self._current, seconds)

    async def _read(self, server: Server, path: Path, seconds: float) -> None:
        asked = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
        await server.post("/collective_rpc", asked, seconds)

    def close(self) -> None:
        """See `Pusher.close`."""
        root, self._root, self._current = self._root, None, None
        if root is not None:
            shutil.rmtree(root, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _made(self, size: int) -> Path:
        """A folder of our own, in memory where the weights fit there: those before are let go only after."""
        folder = Path(tempfile.gettempdir()) if self._folder is None else self._folder
        folder.mkdir(parents=True, exist_ok=True)
        if self._folder is None and SHARED_MEMORY.is_dir():
            forget_orphans(SHARED_MEMORY)
            if shutil.disk_usage(SHARED_MEMORY).free > 3 * size:
                folder = SHARED_MEMORY
        forget_orphans(folder)
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
        self._lock = (root / LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return root


def forget_orphans(folder: Path) -> None:
    """Remove the weights of runs that were killed. Those of runs that live, here or elsewhere, are locked by them."""
    for root in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            known = root / LOCK if (root / LOCK).exists() else root  # that of the folder changes with every push
            if time.time() - known.stat().st_mtime < YOUNG_SECONDS:
                continue
            with (root / LOCK).open("ab") as lock:  # which leaves its time alone
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(root, ignore_errors=True)


def write_weights(model: Any, weights: dict[str, Tensor], directory: Path) -> None:
    """Write a model directory with these weights of `model`; where embeddings are tied, with a folder in it that has
    the output embedding too. May raise OSError.
    """
    model.save_pretrained(directory, state_dict=dict(weights), max_shard_size=ONE_FILE)
    head = weights.get(HEAD)
    if head is not None and model.config.get_text_config().tie_word_embeddings:
        whole = directory / WITH_HEAD
        whole.mkdir()
        (whole / "model.safetensors").symlink_to("../model.safetensors")
        save_file({HEAD: head.detach().cpu().contiguous().clone()}, whole / "head.safetensors", {"format": "pt"})
