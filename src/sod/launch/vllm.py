"""vLLM's servers: where the program is, and how it is started where it was placed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sod.launch.placement import Placed, visible
from sod.launch.server import ServerPlan
from sod.recipe.keys.options import option_name
from sod.records import SodError

DEFAULT = ".venv-vllm"
VARIABLE = "SOD_VLLM"
"""Names vLLM's environment where a recipe does not: it belongs to the machine."""
VERSION_SECONDS = 60.0
PARALLEL = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp")
"""Options whose product is the number of GPUs of a server."""
MEMORY = ("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--kv-cache-memory")
CPU_CACHE = 2**30
"""Bytes for keys and values of a server on a CPU: by itself vLLM takes nine tenths of the machine's memory."""
SCORED_TOKENS = 2_048
"""Of a prompt that are scored at a time: log-probabilities over the whole vocabulary are made for all of these."""
LEAST_TOP = 20
"""vLLM's own limit of most probable tokens, which a probe may ask for."""
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Variables of a server that sends nothing anywhere."""
_ASKED = "import importlib.metadata; print(importlib.metadata.version('vllm'))"


def program(environment: str | None, where: str) -> Path:
    """The program `vllm` of a virtual environment: of this one, or of that which the machine names.

    Raises SodError, beginning with `where`, the key of the environment, where it is not there.
    """
    named = "" if environment else os.environ.get(VARIABLE, "")
    directory = Path(environment or named or DEFAULT).expanduser()
    where = f"{where} ({VARIABLE})" if named else where
    if directory.is_file() or (directory / "vllm").is_file():
        raise SodError(f"{where}: {directory} is a part of an environment; name the environment, the folder above bin")
    found = (directory / "bin" / "vllm").absolute()
    if shutil.which(found) is None:
        raise SodError(
            f"{where}: there is no vLLM in {directory} ({found} is missing); make it with `make vllm-env`, or name the "
            f"environment that has it, also by the variable {VARIABLE}"
        )
    return found


def version(found: Path, where: str) -> str:
    """The version of the vLLM that a program belongs to. vLLM itself is not imported, which would take seconds.

    Raises SodError, beginning with `where`, for an environment that is broken.
    """
    command = [str(found.with_name("python")), "-I", "-c", _ASKED]
    try:
        said = subprocess.run(command, capture_output=True, timeout=VERSION_SECONDS, check=True, text=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise SodError(
            f"{where}: its Python cannot tell of a vLLM ({said.strip().splitlines()[-1]:.200}); the environment is "
            "broken, make it anew with `make vllm-env`"
        ) from error
    return said.strip().partition("+")[0]


def gpus_of(options: Sequence[str], where: str) -> int:
    """How many GPUs a server with these options takes. Raises SodError for a number that is none."""
    product = 1
    for at, option in enumerate(options):
        _, is_joined, value = option.partition("=")
        name = option_name(option)
        if name not in PARALLEL:
            continue
        number = value if is_joined else next(iter(options[at + 1 :]), "")
        if not number.isdecimal() or number == "0":
            raise SodError(f"{where}: {name} is followed by a number of GPUs; write [{name}, '2']")
        product *= int(number)
    return product


def scoring_options(model: str, dtype: str, top_k: int, options: Sequence[str]) -> list[str]:
    """What follows `vllm serve` for a model that scores given tokens, as long texts as its memory allows. `options` are
    the user's.
    """
    own = ["--dtype", dtype, "--max-model-len", "auto", "--max-logprobs", str(max(LEAST_TOP, top_k))]
    own += ["--max-num-batched-tokens", str(SCORED_TOKENS), "--disable-uvicorn-access-log"]
    return [model, *own, *options]


def served(
    found: Path, model_and_options: Sequence[str], variables: Mapping[str, str], place: Placed, beside: int
) -> ServerPlan:
    """The server of a model with its options at a place; on a CPU, `beside` processes share the cores with it."""
    command = [str(found), "serve", *model_and_options, "--host", "127.0.0.1", "--port", str(place.port)]
    if len(place.gpus) > 1 and gpus_of(model_and_options, place.where) == 1:
        command += ["--tensor-parallel-size", str(len(place.gpus))]
    command += _memory(model_and_options, place)
    device = {"CUDA_VISIBLE_DEVICES": visible(place.gpus)} if place.gpus else _on_cpu(beside)
    return ServerPlan(
        place.name,
        tuple(command),
        place.port,
        {**device, **variables},
        where=f"{place.where}.port",
        devices=place.devices,
    )


def cpu_cache(options: Sequence[str]) -> int | None:
    """Bytes for keys and values of a server on a CPU; None where its options say that in another way."""
    for at, option in enumerate(options):
        _, is_joined, value = option.partition("=")
        name = option_name(option)
        if name in MEMORY:
            number = value if is_joined else next(iter(options[at + 1 :]), "")
            return int(number) if name != MEMORY[0] and number.isdecimal() else None
    return CPU_CACHE


def _memory(options: Sequence[str], place: Placed) -> list[str]:
    if place.memory_share is not None:
        return ["--gpu-memory-utilization", f"{place.memory_share:g}"]  # of the machine's memory where there is no GPU
    is_said = any(option_name(option) in MEMORY for option in options)
    return [] if place.gpus or is_said else [MEMORY[1], str(CPU_CACHE)]


def _on_cpu(beside: int) -> dict[str, str]:
    """Its share of the cores, where the user has not said which. By itself vLLM binds a thread to each of them, also
    where others have done so.
    """
    cores = len(os.sched_getaffinity(0))
    ours = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, cores // (beside + 1)))}
    return {name: value for name, value in ours.items() if name not in os.environ}
