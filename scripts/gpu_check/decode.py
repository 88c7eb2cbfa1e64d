"""Decoding on a GPU through the product's engine: rates, shares of the ceiling, and whether the tokens repeat.

    PYTHONPATH=src python scripts/gpu_check/decode.py [--tiny]

Qwen3-0.6B's shape with random weights in bfloat16; prints one JSON line. `--tiny` runs the same on a CPU at toy size,
in float32: for syntax, not for numbers. Needs nothing but torch, transformers and the project.

The ceiling is 75% of the bandwidth that a copy reaches; the floor of a step is the time in which the weights and all
cached columns are read at the copy's bandwidth.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import QWEN3_06B, TOY
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.engines.base import Sampled, SampleRequest, Sampling
from sod.engines.device_burst import BURST
from sod.engines.torch_engine import TorchEngine
from sod.models.meter import Cost


@dataclass(frozen=True)
class Work:
    """So many rows of a prompt each, and the tokens that are sampled after it."""

    rows: int
    prompt: int
    new: int

    @property
    def name(self) -> str:
        """Rows x context."""
        return f"{self.rows}x{self.prompt + self.new}"


FULL = (Work(128, 64, 448), Work(128, 1792, 256), Work(256, 64, 448))
SMALL = (Work(4, 8, 24), Work(2, 100, 40), Work(6, 8, 24))
FIXED = (Work(128, 432, 64), Work(4, 40, 12))  # alone at its size: compiled for that size and no other


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    device = torch.device("cpu" if tiny else "cuda")
    torch.use_deterministic_algorithms(True)  # as the product does
    model = built(tiny, device)
    told: dict[str, Any] = {"torch": torch.__version__, "device": name_of(device), "copy GB/s": copied(device)}
    for work in SMALL if tiny else FULL:
        told[work.name] = attempted(lambda work=work: measured(model, work, told["copy GB/s"]))
        print(work.name, json.dumps(told[work.name]), flush=True)
    torch._dynamo.reset()
    fixed = FIXED[1] if tiny else FIXED[0]
    told[f"{fixed.name}, of one size"] = attempted(lambda: measured(model, fixed, told["copy GB/s"]))
    print(json.dumps(told), flush=True)
    if any("FAILED" in figures for figures in told.values() if isinstance(figures, dict)):
        sys.exit(1)


def attempted(run: Callable[[], Any]) -> Any:
    """What a part tells, or how it failed: the others go on."""
    try:
        return run()
    except Exception as error:
        return {"FAILED": f"{type(error).__name__}: {str(error)[:400]}"}


def built(tiny: bool, device: torch.device) -> Any:
    """A random model, in eval mode."""
    config = Qwen3Config(**(TOY if tiny else QWEN3_06B), max_position_embeddings=40960, tie_word_embeddings=True)
    torch.manual_seed(0)
    with device:
        return Qwen3ForCausalLM(config).to(torch.float32 if tiny else torch.bfloat16).eval()


def measured(model: Any, work: Work, bandwidth: float) -> dict[str, Any]:
    """One engine: its first run, which compiles and captures, then two that are timed."""
    engine = TorchEngine(model, frozenset({1}), work.rows, cache_bytes=cache_bytes(model, work))
    asked = requests(work, model.config.vocab_size)
    _, first, _ = timed(engine, asked)
    runs = [timed(engine, asked) for _ in range(2)]
    turns, whole, admission = min(runs, key=lambda run: run[1])
    tokens = sum(len(turn.token_ids) for turn in turns)
    floor = floor_seconds(model, work, bandwidth)
    told = {
        "tok/s, admission included": round(tokens / whole),
        "tok/s, decoding alone": round((tokens - work.rows) / (whole - admission)),
        "admission s": round(admission, 3),
        "share of the ceiling, decoding alone": round(floor / 0.75 / (whole - admission), 3),
        "share of the ceiling, admission included": round(floor / 0.75 / whole, 3),
        "first run s": round(first, 1),
        "same tokens twice": runs[0][0] == runs[1][0],
        "steps": steps(engine, model, bandwidth),
        "kernels of a burst": launches(engine, asked),
    }
    engine.close()
    if model.device.type == "cuda":
        told["GiB at the highest"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        torch.cuda.empty_cache()
    return told


def cache_bytes(model: Any, work: Work) -> int:
    """A cache in which all rows fit at their longest."""
    return Cost.of(model).token_bytes * max(work.rows * (work.prompt + work.new + 256), 4096)


def requests(work: Work, vocabulary: int) -> list[SampleRequest]:
    """Prompts of random tokens, none like another."""
    made = torch.Generator().manual_seed(1)
    prompt_BT = torch.randint(2, vocabulary, (work.rows, work.prompt), generator=made)
    return [SampleRequest(str(row), ids, work.new, 100 + row) for row, ids in enumerate(prompt_BT.tolist())]


def timed(engine: TorchEngine, asked: list[SampleRequest]) -> tuple[list[Sampled], float, float]:
    """The turns, the seconds of all, and those up to the first tokens."""
    engine.forget([request.session for request in asked])
    wait(engine)
    began = time.perf_counter()
    engine.submit(asked, Sampling())
    turns = dict(engine.advance(1))
    admitted = time.perf_counter()
    while len(turns) < len(asked):
        turns |= dict(engine.advance(16))
    wait(engine)
    ended = time.perf_counter()
    return [turns[request.session] for request in asked], ended - began, admitted - began


def floor_seconds(model: Any, work: Work, bandwidth: float) -> float:
    """What decoding must take at a copy's bandwidth: weights and cached columns, step by step."""
    cost = Cost.of(model)
    lengths = range(work.prompt + 1, work.prompt + work.new)
    moved = sum(cost.bytes + cost.token_bytes * work.rows * length for length in lengths)
    return moved / (bandwidth * 1e9)


def steps(engine: TorchEngine, model: Any, bandwidth: float) -> dict[str, Any]:
    """Milliseconds of each captured step, and the share of the ceiling where every column is in use."""
    bursts, cost = engine._bursts, Cost.of(model)
    if bursts is None or not bursts._ready:
        return {}
    told = {}
    for bucket, step in bursts._ready.items():
        ms = graph_ms(bursts, step, bucket.columns)
        floor = (cost.bytes + cost.token_bytes * bucket.rows * bucket.columns) / bandwidth / 1e6
        told[f"{bucket.rows}x{bucket.columns}"] = {
            "ms": round(ms, 3),
            "tok/s": round(bucket.rows / ms * 1e3),
            "share of the ceiling": round(floor / 0.75 / ms, 3),
        }
    told["way"] = f"without {bursts._ways[0].beyond}" if len(bursts._ways) < 3 else "all compiled"
    return told


def graph_ms(bursts: Any, step: Callable[[], None], columns: int) -> float:
    """Median of five bursts of a step, whose rows are all over: they run, but stay where they are."""
    buffers = bursts._buffers
    buffers.left_B.zero_()
    buffers.position_B.fill_(columns - 1)  # as the last burst left them they may be beyond a smaller step's columns
    spent = []
    for _ in range(5):
        buffers.number_1.zero_()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(BURST):
            step()
        ended.record()
        ended.synchronize()
        spent.append(began.elapsed_time(ended) / BURST)
    return statistics.median(spent)


def launches(engine: TorchEngine, asked: list[SampleRequest]) -> dict[str, Any]:
    """Kernels and graph launches of one burst in the middle of a run, and the longest kernels."""
    if engine.model.device.type != "cuda":
        return {}
    engine.forget([request.session for request in asked])
    engine.submit(asked, Sampling())
    engine.advance(asked[0].max_new_tokens - 3 * BURST)
    wait(engine)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        engine.advance(BURST)
        wait(engine)
    rows = profile.key_averages()
    device = sorted((row for row in rows if row.self_device_time_total > 0), key=lambda r: -r.self_device_time_total)
    told: dict[str, Any] = {
        "graph launches": sum(row.count for row in rows if row.key == "cudaGraphLaunch"),
        "other launches": sum(row.count for row in rows if row.key == "cudaLaunchKernel"),
        "kernels": sum(row.count for row in device),
        "kernels ms": round(sum(row.self_device_time_total for row in device) / 1e3, 2),
        "longest": {row.key[:70]: f"{row.self_device_time_total / 1e3:.2f} ms in {row.count}" for row in device[:12]},
    }
    engine.advance(10 * BURST)
    return told


def copied(device: torch.device) -> float:
    """GB/s read and written by a copy of four gigabytes; on a CPU of a few megabytes."""
    source = torch.zeros(2**31 if device.type == "cuda" else 2**20, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    spent = []
    for _ in range(6):
        wait_for(device)
        began = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        spent.append(time.perf_counter() - began)
    return round(2 * source.nbytes / statistics.median(spent[1:]) / 1e9, 1)


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def wait(engine: TorchEngine) -> None:
    """For the engine's device."""
    wait_for(engine.model.device)


def wait_for(device: torch.device) -> None:
    """Until all that was launched has run."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
