"""What an update takes on this device: forward and backward of the log-probabilities of a batch's action tokens.

    PYTHONPATH=src python scripts/gpu_check/update.py [--tiny]

Qwen3-0.6B's shape with random weights in bfloat16: 16 rows of 1,024 tokens, 16 ragged rows of 256 to 1,216, and one of
20,480 with recomputation; padded and packed, plain and (on CUDA) compiled. Each figure stands alone: where one fails,
its error is the figure. `--tiny` runs the same code at toy size on a CPU, for syntax.
The last line is JSON: milliseconds, peak GiB, and the share of the measured bfloat16 product rate that real tokens'
arithmetic amounts to (nothing counted twice).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from common import QWEN3_06B, TOY
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.models import forward
from sod.models.compiled import compile_model
from sod.models.meter import Cost
from sod.models.recompute import recompute_layers
from sod.models.score import action_logps
from sod.objective.batch import TokenBatch, supervised_batch

parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("--tiny", action="store_true", help="toy size, on a CPU")
TINY = parser.parse_args().tiny
DEVICE = torch.device("cpu" if TINY or not torch.cuda.is_available() else "cuda")
CUDA = DEVICE.type == "cuda"
SHARE = 16 if TINY else 1  # toy rows are so many times shorter
PROMPT = 64 // SHARE
FULL, RAGGED, LONG = ([n // SHARE for n in ns] for ns in ([1024] * 16, range(256, 1217, 64), [20480]))
figures: dict[str, Any] = {}
FAILED: list[str] = []


def main() -> None:
    """All figures, then one line of JSON."""
    if TINY:
        torch.set_num_threads(1)
    figures["torch"] = torch.__version__
    figures["device"] = torch.cuda.get_device_name() if CUDA else "cpu"
    figures["product TFLOP/s"] = rate = product_rate()
    model = new_model()
    figures["packs"] = forward.packs(model)  # where it does not, "packed" below is padded
    measure_all("plain", model, rate)
    with told("ragged, packed against padded"):
        figures["ragged, packed against padded"] = difference(model, RAGGED)
    if CUDA:  # on a CPU compiling takes minutes, and nothing there uses it
        with told("compiled"):
            compile_model(model)
            measure_all("compiled", model, rate)
    del model
    gc.collect()
    frugal = new_model()
    recompute_layers(frugal)
    measure("long, chosen, recompute", frugal, LONG, None, rate)
    measure("ragged, packed, recompute", frugal, RAGGED, True, rate)
    del frugal
    gc.collect()
    if CUDA:
        with told("recompute, compiled"):
            frugal = new_model()
            compile_model(frugal)
            recompute_layers(frugal)
            measure("long, chosen, recompute, compiled", frugal, LONG, None, rate)
            measure("ragged, packed, recompute, compiled", frugal, RAGGED, True, rate)
    print(json.dumps(figures))
    if FAILED:
        sys.exit(f"failed: {', '.join(FAILED)}")


def measure_all(kind: str, model: Any, rate: float) -> None:
    """Full and ragged rows, padded and packed."""
    for name, lengths in (("full", FULL), ("ragged", RAGGED)):
        for way in ("padded", "packed"):
            measure(f"{name}, {way}, {kind}", model, lengths, way == "packed", rate)


def measure(label: str, model: Any, lengths: Sequence[int], packed: bool | None, rate: float) -> None:
    """One line of figures; `packed` None leaves the choice to the product."""
    with told(label), choosing(packed):
        batch = batch_of(lengths)
        cost = Cost.of(model)
        fresh_peak()
        ms = milliseconds(lambda: gradient(model, batch))
        flop = 3.0 * cost.scoring(batch)
        figures[label] = {"ms": round(ms, 2), "GiB": peak(), "share": round(flop / ms / 1e9 / rate, 4)}
        print(f"{label:40s} {figures[label]}", flush=True)


def gradient(model: Any, batch: TokenBatch) -> float:
    """Forward and backward of the product's own scoring; the loss. Gradients are dropped."""
    loss = -action_logps(model, batch).sum() / batch.action_tokens()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return float(loss.detach())


def difference(model: Any, lengths: Sequence[int]) -> dict[str, float]:
    """How far loss, log-probabilities (nats, mean) and a middle layer's gradient (relative) are from those padded."""
    batch = batch_of(lengths)
    weight = model.get_decoder().layers[len(model.get_decoder().layers) // 2].mlp.up_proj.weight
    found = []
    for packed in (False, True):
        with choosing(packed):
            logp_BT = action_logps(model, batch)
            (slope,) = torch.autograd.grad(logp_BT.sum() / batch.action_tokens(), weight)
        found.append((logp_BT.detach(), slope.float()))
    (padded_BT, one), (packed_BT, other) = found
    away = (packed_BT - padded_BT)[batch.turn_BT > 0].abs().mean()
    return {"nats a token": float(away), "gradient, relative": float((other - one).norm() / one.norm())}


@contextmanager
def choosing(packed: bool | None) -> Iterator[None]:
    """Padded or packed whatever the product would choose; None leaves it its choice."""
    chosen: Any = forward.worth_packing
    if packed is not None:
        forward.worth_packing = lambda *_: packed
    try:
        yield
    finally:
        forward.worth_packing = chosen


@contextmanager
def told(label: str) -> Iterator[None]:
    """A failure becomes the figure."""
    try:
        yield
    except Exception as error:
        FAILED.append(label)
        figures[label] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        print(f"{label:40s} {figures[label]}", flush=True)


def new_model() -> Any:
    """Random weights of the shape, on the device, in eval mode."""
    shape = TOY if TINY else QWEN3_06B
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = Qwen3Config(**shape, **ends, max_position_embeddings=40960, tie_word_embeddings=True)
    torch.manual_seed(0)
    with DEVICE:
        return Qwen3ForCausalLM(config).to(torch.bfloat16).eval()


def batch_of(lengths: Sequence[int]) -> TokenBatch:
    """Random tokens; all but the prompts are the student's."""
    vocabulary = (TOY if TINY else QWEN3_06B)["vocab_size"]
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
    return supervised_batch([(row, [0] * PROMPT + [1] * (len(row) - PROMPT)) for row in rows])


def product_rate() -> float:
    """TFLOP/s of a square bfloat16 product."""
    size = 256 if TINY else 8192
    left, right = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    ms = milliseconds(lambda: left @ right, 10)
    return 2 * size**3 / ms / 1e9


def milliseconds(run: Callable[[], Any], times: int = 3, warm: int = 2) -> float:
    """Median milliseconds of a call, the device waited for."""
    for _ in range(warm):
        run()
    spent = []
    for _ in range(1 if TINY else times):
        sync()
        began = time.perf_counter()
        run()
        sync()
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent)


def sync() -> None:
    """Wait for the device."""
    if CUDA:
        torch.cuda.synchronize()


def fresh_peak() -> None:
    """Count peak memory from here."""
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """GiB allocated at the highest, since `fresh_peak`; 0 on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else 0.0


if __name__ == "__main__":
    main()
