"""Servers in processes of their own that tests start, kill and start again: the stand-in, and vLLM where it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from sod.engines.vllm_options import WHOLE_PROMPTS, serve_environment, serve_options

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("vllm_stand_in.py")
UP_SECONDS = 600.0


def vllm_program() -> Path | None:
    """vLLM's command: of the environment in SOD_VLLM, of the project's, or of the machine's; None where it is not."""
    named = os.environ.get("SOD_VLLM")
    for place in [named] if named else [ROOT / ".venv-vllm", "/tmp/vllm-venv"]:
        program = Path(place) / "bin" / "vllm"
        if program.exists():
            return program
    return None


class Serving:
    """A server on a port of its own. Whatever it started dies with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers later."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + UP_SECONDS
        while time.monotonic() < until:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=5.0).status_code == 200:
                    return
            time.sleep(0.1)
        pytest.fail(f"the server did not come up:\n{self._log.read_text()[-4000:]}")

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def stand_in(model: Path, log: Path, seconds: float = 0.0) -> Serving:
    """The stand-in, a turn of which takes `seconds`."""
    return Serving([sys.executable, str(STAND_IN), str(model), "{port}", str(seconds)], {"OMP_NUM_THREADS": "1"}, log)


def vllm(model: Path, log: Path, longest: int) -> Serving:
    """vLLM on the CPU, in float32. Skips the test where it is not installed."""
    program = vllm_program()
    if program is None:
        pytest.skip("no environment with vLLM; `make vllm-env` makes one, and SOD_VLLM names another")
    options = serve_options(str(model), "float32", longest, "file", 16, [WHOLE_PROMPTS, "--enforce-eager"])
    environment = {
        **serve_environment("file"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    cache = ["--kv-cache-memory-bytes", str(2**27)]
    command = ["nice", str(program), "serve", *options, *cache, "--host", "127.0.0.1", "--port", "{port}"]
    return Serving(command, environment, log)
