"""What one GPU gives, and where the code fails on it: the numbers that decide the single-GPU work.

    PYTHONPATH=src python probe.py [--tiny] [--only PART,PART] [--skip PART,PART]

Every part stands alone: it has a time budget, a failure is printed and the next part goes on. Where a failure leaves
the CUDA context unusable, the process starts itself again for the parts that remain. `--tiny` runs the same code at toy
size on a CPU: for syntax, not for numbers. Needs torch, transformers and `sod`; the parts of `product` that touch the
optimizer also pydantic. Results go to `$OUT/gpu.json` (here where OUT is not set) after every figure.

Legend: B rows, T tokens, N action tokens, D hidden size, V vocabulary, S columns of the cache, G key heads, H query
heads, K blocks of the vocabulary, W tokens in a block.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, Qwen3Config, Qwen3ForCausalLM, StaticCache

TINY = "--tiny" in sys.argv
CUDA = torch.cuda.is_available() and not TINY
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
QWEN3_06B = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
TOY = {
    "vocab_size": 1500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SHAPE = TOY if TINY else QWEN3_06B
V, D, LAYERS = SHAPE["vocab_size"], SHAPE["hidden_size"], SHAPE["num_hidden_layers"]
H, G, HEAD = SHAPE["num_attention_heads"], SHAPE["num_key_value_heads"], SHAPE["head_dim"]
RESULTS = Path(os.environ.get("OUT", ".")) / "gpu.json"
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
out: dict[str, Any] = {}


# --- running parts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of the check and the seconds that it may take."""

    run: Callable[[], None]
    budget: int


PARTS: dict[str, Part] = {}


def part(budget: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a part; they run in the order in which they are written."""

    def register(run: Callable[[], None]) -> Callable[[], None]:
        PARTS[run.__name__] = Part(run, budget)
        return run

    return register


def tell(key: str, value: Any) -> None:
    """Print a figure and keep it."""
    out[key] = value
    print(f"{key:66s} {value}", flush=True)
    RESULTS.write_text(json.dumps(out, indent=1, default=str), encoding="utf-8")


def place(error: BaseException) -> str:
    """The last line of ours that an exception passed, what it called, and what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/sod/" in frame.filename] or frames
    where = f"{shortened(ours[-1].filename)}:{ours[-1].lineno}"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{where} {type(error).__name__}: {first[:170]}"


def shortened(path: str) -> str:
    """A file's path from its package on."""
    for root in ("/src/", "site-packages/"):
        if root in path:
            return path.rpartition(root)[2]
    return Path(path).name


@contextmanager
def guarded(key: str, budget: int = 0) -> Iterator[None]:
    """A failure, or running past the budget, becomes a figure."""
    outer = signal.alarm(0)
    limit = min(budget, outer) if budget and outer else budget or outer
    began = time.monotonic()
    signal.alarm(limit)
    try:
        yield
    except Exception as error:
        tell(f"{key} FAIL", place(error))
        if CUDA:
            torch.cuda.synchronize()  # raises where the context is lost: the part ends, and `main` starts anew
            torch.cuda.empty_cache()
    finally:
        left = int(outer - (time.monotonic() - began)) if outer else 0
        signal.alarm(max(1, left) if outer else 0)


def out_of_time(*_: Any) -> None:
    """The alarm's handler."""
    raise TimeoutError("past the budget of this part")


def main() -> None:
    """Run the parts asked for, each guarded."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--skip", default="")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, out_of_time)
    done = [name for name in given.skip.split(",") if name]
    if "--again" in os.environ.get("PROBE", ""):
        out.update(json.loads(RESULTS.read_text(encoding="utf-8")))
    wanted = given.only.split(",") if given.only else list(PARTS)
    for name in [name for name in wanted if name not in done]:
        began = time.monotonic()
        print(f"--- {name}", flush=True)
        try:
            with guarded(name, PARTS[name].budget):
                PARTS[name].run()
            gc.collect()
            sync()
            fresh_peak()
        except Exception as error:
            tell(f"{name} LOST THE DEVICE", place(error))
            rest = [other for other in wanted if other not in {*done, name}]
            os.environ["PROBE"] = "--again"
            if rest:
                os.execv(sys.executable, [sys.executable, __file__, "--only", ",".join(rest)])
        done.append(name)
        tell(f"{name} seconds", round(time.monotonic() - began, 1))


# --- measuring ----------------------------------------------------------------------------------------------------


def clock(run: Callable[[], Any], times: int = 10, warm: int = 2) -> float:
    """Median milliseconds of a call: device events on CUDA, the wall clock elsewhere."""
    if TINY:
        times, warm = 1, 1
    for _ in range(warm):
        run()
    spent: list[float] = []
    for _ in range(times):
        if CUDA:
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            run()
            ended.record()
            ended.synchronize()
            spent.append(began.elapsed_time(ended))
        else:
            start = time.perf_counter()
            run()
            spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spent)


def wall(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds on the host's clock with the device waited for."""
    sync()
    start = time.perf_counter()
    result = run()
    sync()
    return result, time.perf_counter() - start


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
    """GiB allocated at the highest, since `fresh_peak`."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if CUDA else 0.0


def graphed(step: Callable[[], Any]) -> Callable[[], Any]:
    """A CUDA graph of a step; the step itself where there is no CUDA."""
    if not CUDA:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def kernels(run: Callable[[], Any], top: int = 14) -> dict[str, str]:
    """Device milliseconds by kernel, the longest first."""
    if not CUDA:
        return {}
    run()
    sync()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            sync()
    except RuntimeError as error:  # no profiler on this machine
        return {"no profile": place(error)}
    by_kind: Counter[str] = Counter()
    by_name: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for row in profile.key_averages():
        if row.self_device_time_total > 0:
            name = row.key.replace("void ", "").replace("at::native::", "").replace("(anonymous namespace)::", "")
            for label, count in ((kind_of(name), by_kind), (name[:110], by_name)):
                count[label] += row.self_device_time_total / 1e3
                calls[label] += row.count
    told = {"all kernels": f"{sum(by_kind.values()):.3f} ms in {sum(calls[kind] for kind in by_kind)}"}
    return told | {k: f"{ms:.3f} ms in {calls[k]}" for k, ms in (*by_kind.most_common(), *by_name.most_common(top))}


def kind_of(name: str) -> str:
    """What a kernel is for, by its name."""
    if any(word in name for word in ("flash", "sdpa", "fmha")):
        return "= attention"
    if any(word in name for word in ("nvjet", "gemm", "cutlass", "gemv", "splitKreduce")):
        return "= products"
    if name.startswith("triton"):
        return "= fused by the compiler"
    return "= copies" if "copy" in name.lower() else "= other small operations"


def config() -> Qwen3Config:
    """Qwen3-0.6B's shape, or the toy's."""
    return Qwen3Config(
        **SHAPE,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )


def build(dtype: torch.dtype = DTYPE, device: torch.device = DEVICE, shape: Qwen3Config | None = None) -> Any:
    """A random model on the device, in eval mode."""
    torch.manual_seed(0)
    with device:
        return Qwen3ForCausalLM(shape or config()).to(dtype).eval()


def weight_bytes() -> int:
    """Bytes of all matrices, the tied head once."""
    layer = D * H * HEAD * 2 + 2 * D * G * HEAD + 3 * D * SHAPE["intermediate_size"]
    return (layer * LAYERS + V * D) * DTYPE.itemsize


def decode_floor(rows: int, columns: int) -> tuple[float, float]:
    """Bytes that a decoding step must read (weights, keys, values), and its milliseconds at the measured bandwidth."""
    cache = 2 * LAYERS * G * HEAD * DTYPE.itemsize * rows * columns
    moved = weight_bytes() + cache
    return moved, moved / (out.get("ceilings.copy GB/s", 3000.0) * 1e9) * 1e3


# --- 1 ceilings ---------------------------------------------------------------------------------------------------


@part(40)
def ceilings() -> None:
    """Versions, the bandwidth of a copy, the rate of a product."""
    tell("ceilings.python", platform.python_version())
    tell("ceilings.torch", torch.__version__)
    tell("ceilings.transformers", transformers.__version__)
    if CUDA:
        tell("ceilings.device", torch.cuda.get_device_name())
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        tell("ceilings.nvidia-smi", subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    bandwidth()
    size = 256 if TINY else 8192
    left, right = (torch.randn(size, size, device=DEVICE, dtype=DTYPE) for _ in range(2))
    ms = clock(lambda: left @ right, 30, 5)
    tell("ceilings.product TFLOP/s", round(2 * size**3 / ms / 1e9, 1))
    for rows, inner, columns in ((16384, 1024, 3072), (16384, 3072, 1024), (2048, 1024, V)):
        a = torch.randn(min(rows, 256) if TINY else rows, inner, device=DEVICE, dtype=DTYPE)
        b = torch.randn(columns, inner, device=DEVICE, dtype=DTYPE)
        ms = clock(partial(torch.nn.functional.linear, a, b), 10)
        tell(f"ceilings.product {rows}x{inner}x{columns} TFLOP/s", round(2 * len(a) * inner * columns / ms / 1e9, 1))


def bandwidth() -> None:
    """Bytes read and written by a copy, bytes read by a sum; four gigabytes, many times the L2 cache."""
    source = torch.randn(2**20 if TINY else 2**31, device=DEVICE, dtype=DTYPE)
    target = torch.empty_like(source)
    ms = clock(lambda: target.copy_(source), 20)
    tell("ceilings.copy GB/s", round(2 * source.nbytes / ms / 1e6, 1))
    reading = clock(lambda: source.sum(dtype=torch.float32), 10)
    tell("ceilings.sum (read only) GB/s", round(source.nbytes / reading / 1e6, 1))


# --- 2 the noise and the sampler ----------------------------------------------------------------------------------


def signed(value: int) -> int:
    """The same 64 bits as a signed integer."""
    return value - 2**64 if value >= 2**63 else value


def shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: int64's own fills with the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mixed(key: Tensor, position: Tensor) -> Tensor:
    """SplitMix64 of (key, position) in int64, bit for bit `sod.seeds.uniforms` before it becomes a float."""
    z = key + (position + 1) * signed(GOLDEN)
    z = (z ^ shifted(z, 30)) * signed(FIRST)
    z = (z ^ shifted(z, 27)) * signed(SECOND)
    return z ^ shifted(z, 31)


def noise_on_device(key: Tensor, position: Tensor) -> Tensor:
    """`sod.seeds.uniforms` on the device, float64."""
    return shifted(mixed(key, position), 11).double() * 2.0**-53


def draw_on_device(logits_BV: Tensor, noise_B: Tensor, row_B: Tensor) -> tuple[Tensor, Tensor]:
    """`sod.engines.sampler._draw` at temperature 1 in one pass, with no index that comes from the host."""
    score_BV = logits_BV.float()
    highest_B1 = score_BV.amax(dim=-1, keepdim=True)
    mass_BV = (score_BV - highest_B1).exp()
    rows, vocabulary = mass_BV.shape
    blocks_BKW = pad(mass_BV, (0, -vocabulary % 256)).view(rows, -1, 256)
    sum_BK = blocks_BKW.sum(dim=-1).double()
    upto_BK = sum_BK.cumsum(dim=-1)
    total_B = upto_BK[:, -1]
    goal_B = torch.minimum(noise_B * total_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    block_B = torch.searchsorted(upto_BK, goal_B[:, None], right=True).squeeze(1).clamp(max=upto_BK.shape[1] - 1)
    before_B = (upto_BK - sum_BK).gather(1, block_B[:, None]).squeeze(1)
    inside_BW = blocks_BKW[row_B, block_B].double().cumsum(dim=-1)
    rest_B = (goal_B - before_B).clamp(min=0.0)
    rest_B = torch.minimum(rest_B, torch.nextafter(inside_BW[:, -1], torch.zeros_like(total_B)))
    token_B = block_B * 256 + torch.searchsorted(inside_BW, rest_B[:, None], right=True).squeeze(1)
    token_B = token_B.clamp(max=vocabulary - 1)
    logp_B = (score_BV - highest_B1).gather(1, token_B[:, None]).squeeze(1) - total_B.log()
    return token_B, logp_B.float()


def gumbel_on_device(logits_BV: Tensor, key_B: Tensor, position_B: Tensor) -> Tensor:
    """The other way: a number for each (row, token), and the highest sum of logit and Gumbel noise."""
    seed_B1 = mixed(key_B, position_B)[:, None]
    unit_BV = noise_on_device(seed_B1, torch.arange(logits_BV.shape[1], device=logits_BV.device)[None]).float()
    return (logits_BV.float() - (-(unit_BV.clamp_min(1e-20).log())).log()).argmax(dim=-1)


@part(40)
def sampler() -> None:
    """The product's sampler as it is, in one pass, on the device; the noise against numpy's."""
    import sod.engines.sampler as ours
    from sod.engines.base import Sampling
    from sod.seeds import uniforms

    rng = np.random.default_rng(1)
    key, position = rng.integers(0, 2**64, 2**20, dtype=np.uint64), rng.integers(0, 2**40, 2**20, dtype=np.uint64)
    as_int = [torch.from_numpy(a.view(np.int64)).to(DEVICE) for a in (key, position)]
    equal = np.array_equal(noise_on_device(*as_int).cpu().numpy(), uniforms(key, position))
    tell("sampler.noise of 2**20 (key, position), bits equal to numpy's", bool(equal))
    rows = 8 if TINY else 128
    logits_BV = torch.randn(rows, V, device=DEVICE, dtype=DTYPE) * 2
    key_B, position_B = key[:rows], np.full(rows, 77, dtype=np.uint64)
    plain = Sampling()
    tell("sampler.rows a pass, as it is", max(1, ours.CACHED_LOGITS // V))
    tell("sampler.draw ms, as it is", round(clock(lambda: ours.draw(logits_BV, plain, key_B, position_B)), 3))
    as_is = ours.draw(logits_BV, plain, key_B, position_B)
    cached, ours.CACHED_LOGITS = ours.CACHED_LOGITS, 1 << 62
    tell("sampler.draw ms, one pass", round(clock(lambda: ours.draw(logits_BV, plain, key_B, position_B)), 3))
    one = ours.draw(logits_BV, plain, key_B, position_B)
    ours.CACHED_LOGITS = cached
    tell("sampler.tokens equal, one pass", bool((as_is[0] == one[0]).all()))
    host = ours.draw(logits_BV.cpu(), plain, key_B, position_B)
    tell("sampler.tokens equal to the CPU's from the same logits", int((host[0] == one[0].cpu()).sum()) / rows)
    tell("sampler.log-prob gap to the CPU's", float((host[1] - one[1].cpu()).abs().max()))
    key_d, position_d, row_d = as_int[0][:rows], torch.full((rows,), 77, device=DEVICE), torch.arange(rows).to(DEVICE)

    def step() -> tuple[Tensor, Tensor]:
        return draw_on_device(logits_BV, noise_on_device(key_d, position_d), row_d)

    tell("sampler.tokens equal, noise on the device", bool((step()[0] == one[0]).all()))
    tell("sampler.draw ms, all on the device", round(clock(step), 3))
    tell("sampler.draw ms, all on the device, CUDA graph", round(clock(graphed(step), 20), 3))
    tell("sampler.kernels", kernels(step))
    tell("sampler.gumbel ms", round(clock(lambda: gumbel_on_device(logits_BV, key_d, position_d)), 3))
    for name, given in (("top-k 20", Sampling(top_k=20)), ("top-p 0.9", Sampling(top_p=0.9))):
        with guarded(f"sampler.{name}"):
            ms = clock(partial(ours.draw, logits_BV, given, key_B, position_B), 5)
            tell(f"sampler.draw ms, as it is, {name}", round(ms, 3))


# --- 3 the product on the device ----------------------------------------------------------------------------------


def token_batch(rows: int, tokens: int, prompt: int = 8) -> Any:
    """A batch as `sod.objective.batch.pack` makes them: on the CPU, right-padded."""
    from sod.objective.batch import TokenBatch

    made = torch.Generator().manual_seed(3)
    token_BT = torch.randint(2, V, (rows, tokens), generator=made)
    turn_BT = (torch.arange(tokens) >= prompt).long().expand(rows, tokens).contiguous()
    blank_BT = torch.zeros(rows, tokens)
    return TokenBatch(
        token_BT=token_BT,
        turn_BT=turn_BT,
        length_B=torch.full((rows,), tokens),
        group_B=torch.zeros(rows, dtype=torch.int64),
        reward_B=torch.zeros(rows),
        sampled_BT=blank_BT,
        prompt_B=torch.full((rows,), prompt),
        advantage_BT=turn_BT.float(),
        old_BT=blank_BT,
    )


def optimizer_of(model: Any) -> Any:
    """The product's optimizer; its recipe needs pydantic."""
    from sod.train.optim import Optimizer

    from sod.recipe import OptimSpec

    return Optimizer(model, OptimSpec(micro_batch_tokens=64), 10)


def update_once(model: Any, batch: Any) -> dict[str, float]:
    """Old log-probabilities and one update, by the product's own step."""
    from sod.train import step

    from sod.objective import make
    from sod.recipe import OptimSpec

    rollout = types.SimpleNamespace(temperature=1.0, top_p=1.0, top_k=5)  # so that old_logps scores
    recipe: Any = types.SimpleNamespace(optim=OptimSpec(micro_batch_tokens=64), rollout=rollout)
    nothing: Any = None
    optimizer = optimizer_of(model)
    method = make("opd", {})
    run = step.Run(recipe, [], model, nothing, nothing, method, optimizer, Path("."))
    ready = batch.filled(old_BT=step.old_logps(run, batch))
    return step.update(run, ready, 1)


def scenarios(model: Any, teacher: Any) -> dict[str, Callable[[], Any]]:
    """What a training step calls, each on its own, smallest first."""
    from sod.engines.base import SampleRequest, Sampling
    from sod.engines.torch_engine import TorchEngine
    from sod.models.dense import dense_terms
    from sod.models.score import action_logps, check_projection, score, score_with_confidence
    from sod.objective.divergence import Divergence, divergence
    from sod.teachers.local import LocalTeacher

    batch = token_batch(4, 24)
    requests = [SampleRequest(str(row), list(range(2, 10 + row)), 6, 99 + row) for row in range(4)]
    measure = partial(divergence, spec=Divergence("jsd"))

    def follow() -> None:
        local = LocalTeacher(teacher, 64)
        local.score(batch)
        local.follow(model, 0.5)
        local.load(local.state())

    def optimise() -> None:
        optimizer = optimizer_of(model)
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, 1e-3)
        optimizer.accumulate()
        optimizer.step(1)
        path = Path(os.environ.get("TMPDIR", "/tmp")) / "probe-optimizer.pt"
        torch.save(optimizer.state(), path)
        optimizer.load(torch.load(path, weights_only=True))
        path.unlink()
        optimizer.step(2)

    return {
        "check_projection": lambda: check_projection(model, "here"),
        "score": lambda: score(model, batch, 64),
        "score_with_confidence": lambda: score_with_confidence(model, batch, 64),
        "action_logps, backward": lambda: action_logps(model, batch).sum().backward(),
        "dense_terms, backward": lambda: dense_terms(model, teacher, batch, batch, measure)[1].sum().backward(),
        "TorchEngine()": lambda: TorchEngine(model, frozenset({1}), 4),
        "TorchEngine.generate": lambda: TorchEngine(model, frozenset({1}), 4).generate(requests, Sampling()),
        "generate, top-k 20, top-p 0.9": lambda: TorchEngine(model, frozenset({1}), 4).generate(
            requests, Sampling(0.7, 0.9, 20)
        ),
        "teacher scores and follows": follow,
        "optimizer: step, save, load": optimise,
        "train.step.old_logps and update": lambda: update_once(model, batch),
    }


def try_all(stage: str, model: Any, teacher: Any) -> None:
    """Every scenario once; where it fails, the line of ours."""
    for name, run in scenarios(model, teacher).items():
        try:
            run()
            sync()
            found = "ok"
        except Exception as error:
            found = place(error)
        model.zero_grad(set_to_none=True)
        tell(f"product.{stage}: {name}", found)


def ids_to_device(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The first patch, a hook of the decoder: token ids follow the weights."""
    return args, kwargs | {"input_ids": kwargs["input_ids"].to(next(module.parameters()).device)}


def over_actions_on_device(model: Any, batch: Any, rows: int, project: Any, *more_N: Tensor) -> Tensor:
    """The second patch: `sod.models.score.over_actions` with ids, mask and targets moved; returns on the batch's."""
    device = model.device
    hidden_BTD = model.get_decoder()(input_ids=batch.token_BT.to(device), use_cache=False).last_hidden_state
    action_BT = batch.turn_BT > 0
    hidden_ND = hidden_BTD[:, :-1][action_BT[:, 1:].to(device)]
    target_N = batch.token_BT[action_BT].to(device)
    head, parts = model.get_output_embeddings(), []
    for chunk in zip(*(column.split(rows) for column in (hidden_ND, target_N, *more_N)), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(project, head, *chunk, use_reentrant=False))
        else:
            parts.append(project(head, *chunk))
    value_CN = torch.cat(parts, dim=1).to(batch.token_BT.device)
    return torch.zeros(len(value_CN), *action_BT.shape).masked_scatter(action_BT, value_CN)


@contextmanager
def patched() -> Iterator[None]:
    """Both modules that score use the second patch."""
    from sod.models import dense, score

    kept = score.over_actions
    score.over_actions = dense.over_actions = over_actions_on_device
    try:
        yield
    finally:
        score.over_actions = dense.over_actions = kept


@part(60)
def product() -> None:
    """Where the code fails on CUDA, stage by stage, and how fast its engine is once it does not."""
    small = config()
    small.num_hidden_layers = 2
    small.layer_types = small.layer_types[:2]
    model, teacher = build(shape=small), build(shape=small)
    try_all("as it is", model, teacher)
    hooks = [m.get_decoder().register_forward_pre_hook(ids_to_device, with_kwargs=True) for m in (model, teacher)]
    try_all("ids moved", model, teacher)
    with patched():
        try_all("ids, mask, targets moved", model, teacher)
    for hook in hooks:
        hook.remove()
    del model, teacher
    with guarded("product.devices agree"), patched():
        agree(small)


def agree(small: Any) -> None:
    """Float32 on both devices: the same tokens, log-probabilities, gradient."""
    from sod.engines.base import SampleRequest, Sampling
    from sod.engines.torch_engine import TorchEngine
    from sod.models.score import action_logps

    here, there = build(torch.float32, torch.device("cpu"), small), build(torch.float32, DEVICE, small)
    there.load_state_dict(here.state_dict())
    requests = [SampleRequest(str(row), list(range(2, 20 + row)), 12, 5 + row) for row in range(4)]
    turns = [TorchEngine(m, frozenset({1}), 8).generate(requests, Sampling()) for m in (here, there)]
    same = [a.token_ids == b.token_ids for a, b in zip(*turns, strict=True)]
    tell("product.float32 rows with the CPU's tokens", f"{sum(same)} of {len(same)}")
    logps = []
    for model in (here, there):
        model.set_attn_implementation("sdpa")
        logp_BT = action_logps(model, token_batch(2, 32))
        logp_BT.sum().backward()
        logps.append(logp_BT.detach())
    tell("product.float32 log-prob gap to the CPU", float((logps[0] - logps[1]).abs().max()))
    grads = [m.get_decoder().layers[0].self_attn.q_proj.weight.grad.cpu() for m in (here, there)]
    tell("product.float32 gradient gap to the CPU", float((grads[0] - grads[1]).norm() / grads[0].norm()))


@part(60)
def engine() -> None:
    """The engine with the scoring patched: tokens a second, host synchronisations, gap to the trainer."""
    from sod.engines.base import SampleRequest, Sampling
    from sod.engines.torch_engine import TorchEngine

    model = build()
    rows, new = (4, 8) if TINY else (128, 256)
    made = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, V, (rows, 64), generator=made).tolist()

    def ask(count: int) -> list[SampleRequest]:
        return [SampleRequest(str(row), prompts[row], count, 100 + row) for row in range(rows)]

    ours = TorchEngine(model, frozenset({1}), rows)
    ours.generate(ask(4), Sampling())
    turns, seconds = wall(lambda: TorchEngine(model, frozenset({1}), rows).generate(ask(new), Sampling()))
    count = sum(len(turn.token_ids) for turn in turns)
    tell(f"engine.{rows} rows, 64 + {new} tokens: tok/s", round(count / seconds))
    tell("engine.ms a step", round(seconds / new * 1e3, 2))
    short = [TorchEngine(model, frozenset({1}), rows).generate(ask(new // 8), Sampling()) for _ in range(2)]
    tell("engine.the same tokens twice", [t.token_ids for t in short[0]] == [t.token_ids for t in short[1]])
    if CUDA:
        host_syncs(TorchEngine(model, frozenset({1}), rows), ask(8), Sampling())
        one = TorchEngine(model, frozenset({1}), rows)
        one.submit(ask(64), Sampling())
        one.advance(8)
        tell("engine.kernels of a step", kernels(lambda: one.advance(1)))
    with guarded("engine.gap"):
        sampler_gap(model, prompts, turns)


def host_syncs(ours: Any, requests: Any, sampling: Any) -> None:
    """Where a decoding step waits for the device, by line."""
    ours.submit(requests, sampling)
    ours.advance(2)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours.advance(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{shortened(str(w.filename))}:{w.lineno}" for w in caught)
    tell("engine.host synchronisations of a step", dict(lines.most_common(14)))


def sampler_gap(model: Any, prompts: list[list[int]], turns: Any) -> None:
    """The engine's log-probabilities in bfloat16 against the trainer's forward, of the same tokens."""
    from sod.models.score import score

    rows = min(16, len(turns))
    tokens = torch.tensor([[*prompts[row], *turns[row].token_ids] for row in range(rows)])
    batch = token_batch(rows, tokens.shape[1], 64).filled(token_BT=tokens)
    model.set_attn_implementation("sdpa")
    with patched():
        scored_BT = score(model, batch, 1 << 14)
    gap = (scored_BT[:, 64:] - torch.tensor([turns[row].logps for row in range(rows)])).abs()
    tell("engine.gap to the trainer's forward, nats/token", {"mean": float(gap.mean()), "max": float(gap.max())})


# --- 4 decoding ---------------------------------------------------------------------------------------------------


def probe_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    slots: Any = None,
    cu_seq: Tensor | None = None,
    longest: int = 0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Packed rows (`cu_seq`), a cache in the module's own buffers (`slots`), or plain causal attention."""
    if slots is not None:
        attend = cached_flash if slots[0] == "flash" else cached_matmul
        return attend(module, query, key, value, scaling, *slots[1:]), None
    if cu_seq is not None:
        return packed_attention(query, key, value, scaling, cu_seq, longest), None
    mixed_BHTD = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return mixed_BHTD.transpose(1, 2).contiguous(), None


def packed_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, cu_seq: Tensor, longest: int) -> Tensor:
    """Variable-length causal attention over rows that sit one behind the other."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # T, heads, D
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, cu_seq, cu_seq, longest, longest, scale=scale, window_size=(-1, 0))[None]
    ends = cu_seq.tolist()
    parts = [
        scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, scale=scale, enable_gqa=True
        )
        for a, b in pairwise(ends)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def cached_flash(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    row_B: Tensor,
    position_B: Tensor,
    length_B: Tensor,
    cu_query: Tensor,
    cu_key: Tensor,
) -> Tensor:
    """Store and attend with the flash kernel, which reads each row's own length from the device."""
    keys, values = module.cache_keys, module.cache_values  # B, S, G, D
    keys[row_B, position_B] = key[:, :, 0]
    values[row_B, position_B] = value[:, :, 0]
    if not query.is_cuda:
        seen_BS = torch.arange(keys.shape[1], device=keys.device) < length_B[:, None]
        args = (query, keys.transpose(1, 2), values.transpose(1, 2))
        return scaled_dot_product_attention(
            *args, attn_mask=seen_BS[:, None, None], scale=scale, enable_gqa=True
        ).transpose(1, 2)
    flat = (keys.flatten(0, 1), values.flatten(0, 1))
    limits = (cu_query, cu_key, 1, keys.shape[1], 0.0, False, False)
    forward = torch.ops.aten._flash_attention_forward
    return forward(query[:, :, 0].contiguous(), *flat, *limits, scale=scale, seqused_k=length_B)[0][:, None]


def cached_matmul(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    row_B: Tensor,
    position_B: Tensor,
    length_B: Tensor,
    *_: Tensor,
) -> Tensor:
    """Store and attend as `sod.engines.cache` does: grouped queries, keys transposed, two products."""
    keys, values = module.cache_keys, module.cache_values  # B, G, D, S and B, G, S, D
    keys[row_B, :, :, position_B] = key[:, :, 0]
    values[row_B, :, position_B] = value[:, :, 0]
    rows, heads, _, dim = query.shape
    folded = (query * scale).reshape(rows, keys.shape[1], heads // keys.shape[1], dim)
    scores = torch.matmul(folded, keys).float()
    hidden_BS = torch.arange(keys.shape[-1], device=keys.device) >= length_B[:, None]
    weights = torch.softmax(scores.masked_fill(hidden_BS[:, None, None], -torch.inf), dim=-1).to(values.dtype)
    return torch.matmul(weights, values).reshape(rows, 1, heads, dim)


AttentionInterface.register("probe", probe_attention)  # no mask function of that name: transformers makes no mask


class Slots:
    """Static buffers for decoding `rows` rows of at most `columns` tokens; the cache sits in the attention modules."""

    def __init__(self, model: Any, kind: str, rows: int, columns: int, at: int) -> None:
        self.model, self.kind, self.columns = model, kind, columns
        model.set_attn_implementation("probe")
        shape = (rows, columns, G, HEAD) if kind == "flash" else (rows, G, columns, HEAD)
        key_shape = shape if kind == "flash" else (rows, G, HEAD, columns)
        for layer in model.get_decoder().layers:
            for name, sizes in (("cache_keys", key_shape), ("cache_values", shape)):
                filled = torch.zeros(sizes, device=DEVICE, dtype=DTYPE).normal_()
                layer.self_attn.register_buffer(name, filled, persistent=False)
        self.token_B1 = torch.ones(rows, 1, dtype=torch.long, device=DEVICE)
        self.row_B = torch.arange(rows, device=DEVICE)
        self.position_B = torch.full((rows,), at, device=DEVICE)
        self.length_B = (self.position_B + 1).int()
        self.key_B = self.row_B * 7919 + 12345
        self.cu_query = torch.arange(rows + 1, device=DEVICE, dtype=torch.int32)
        self.cu_key = self.cu_query * columns
        self.logp_B = torch.zeros(rows, device=DEVICE)

    def clear(self) -> None:
        """Give the memory back."""
        for layer in self.model.get_decoder().layers:
            del layer.self_attn.cache_keys, layer.self_attn.cache_values

    def hidden(self) -> Tensor:
        """One token of every row through the layers."""
        tables = (self.row_B, self.position_B, self.length_B, self.cu_query, self.cu_key)
        decoder = self.model.get_decoder()
        where_B1 = self.position_B[:, None]
        said = decoder(
            input_ids=self.token_B1, position_ids=where_B1, use_cache=False, slots=(self.kind, *tables),
            attention_mask=self.token_B1[:, None, None],
        )  # fmt: skip
        return said.last_hidden_state[:, -1]

    def logits(self) -> Tensor:
        """The same, and the projection."""
        with torch.no_grad():
            return self.model.get_output_embeddings()(self.hidden())

    def step(self, advance: bool = False) -> None:
        """The same, and the sampler; the drawn token is the next input. `advance`: every row is one longer after."""
        with torch.no_grad():
            token_B, logp_B = draw_on_device(self.logits(), noise_on_device(self.key_B, self.position_B), self.row_B)
            self.token_B1.copy_(token_B[:, None])
            self.logp_B.copy_(logp_B)
            if advance:
                self.position_B.add_(1).clamp_(max=self.columns - 1)
                self.length_B.copy_(self.position_B + 1)


def told_decode(key: str, ms: float, rows: int, columns: int) -> None:
    """A decoding step's milliseconds, tokens a second, and share of what the measured bandwidth allows."""
    floor = decode_floor(rows, columns)[1]
    share = round(floor / ms, 3)
    rate = round(rows / ms * 1e3)
    tell(key, {"ms": round(ms, 3), "tok/s": rate, "share": share, "share of 75%": round(share / 0.75, 3)})


@part(80)
def decode() -> None:
    """Decoding steps as CUDA graphs: transformers' static cache, the engine's attention, the flash kernel."""
    model = build()
    for rows, columns in ((4, 64),) if TINY else ((128, 512), (128, 2048), (256, 512)):
        label = f"decode.{rows} rows, {columns} columns"
        moved, floor = decode_floor(rows, columns)
        rate = round(rows / floor * 1e3)
        tell(f"{label}: floor", {"GB": round(moved / 1e9, 2), "ms": round(floor, 3), "tok/s": rate})
        with guarded(f"{label}, StaticCache"):
            static_cache(model, rows, columns, label)
        for kind in ("flash", "matmul"):
            with guarded(f"{label}, {kind}"):
                slots = Slots(model, kind, rows, columns, columns - 2)
                if kind == "flash" and columns == 512:
                    told_decode(f"{label}, {kind}, eager", clock(slots.logits, 5), rows, columns)
                told_decode(f"{label}, {kind}, graph", clock(graphed(slots.logits), 20), rows, columns)
                told_decode(f"{label}, {kind}, graph with sampler", clock(graphed(slots.step), 20), rows, columns)
                if rows == 128:
                    tell(f"{label}, {kind}: kernels", kernels(slots.step, 9))
                slots.clear()
        fresh_peak()
    with guarded("decode.loop"):
        decode_loop(model)
    with guarded("decode.agreement"):
        decode_agreement(model)


def static_cache(model: Any, rows: int, columns: int, label: str) -> None:
    """Transformers' own cache, its length set back every step, so that all columns but one are seen."""
    model.set_attn_implementation("sdpa")
    cache = StaticCache(config=model.config, max_cache_len=columns)
    ids_B1 = torch.ones(rows, 1, dtype=torch.long, device=DEVICE)
    where_B1 = torch.full((rows, 1), columns - 2, device=DEVICE)

    def step() -> Tensor:
        for layer in cache.layers:
            if layer.is_initialized:
                layer.cumulative_length.fill_(columns - 2)
        with torch.no_grad():
            return model(input_ids=ids_B1, position_ids=where_B1, past_key_values=cache, use_cache=True).logits

    told_decode(f"{label}, StaticCache, eager", clock(step, 5), rows, columns)
    told_decode(f"{label}, StaticCache, graph", clock(graphed(step), 20), rows, columns)


def decode_loop(model: Any) -> None:
    """The whole loop from 64 to 320 tokens, drawn tokens fed back, a stop flag read every 8: as `generate` is timed."""
    rows, columns, new = (4, 64, 8) if TINY else (128, 512, 256)
    slots = Slots(model, "flash", rows, columns, 32 if TINY else 64)
    replay = graphed(partial(slots.step, advance=True))
    slots.position_B.fill_(64 % columns)
    slots.length_B.fill_(64 % columns + 1)

    def loop() -> None:
        for number in range(new):
            replay()
            if number % 8 == 7:
                bool((slots.token_B1 == 1).all())

    seconds = wall(loop)[1]
    tell(f"decode.loop of {new} tokens, {rows} rows: tok/s", round(rows * new / seconds))
    slots.clear()


def decode_agreement(model: Any) -> None:
    """The flash kernel's and the two products' logits from the same cache."""
    rows, columns = 4, 96
    said: list[Tensor] = []
    for kind in ("flash", "matmul"):
        slots = Slots(model, kind, rows, columns, 70)
        slots.position_B.copy_(torch.tensor([70, 3, 41, 94]))
        slots.length_B.copy_(slots.position_B + 1)
        for number, layer in enumerate(model.get_decoder().layers):
            made = torch.Generator(device=DEVICE).manual_seed(number)
            sizes = (rows, columns, G, HEAD)
            keys, values = (torch.randn(sizes, generator=made, device=DEVICE, dtype=DTYPE) for _ in range(2))
            flash = kind == "flash"
            layer.self_attn.cache_keys.copy_(keys if flash else keys.permute(0, 2, 3, 1))
            layer.self_attn.cache_values.copy_(values if flash else values.transpose(1, 2))
        said.append(slots.logits().float())
        slots.clear()
    tell("decode.flash against two products, relative", float((said[0] - said[1]).norm() / said[1].norm()))


@part(45)
def generate() -> None:
    """Transformers' `generate`, dynamic cache and static cache without compilation."""
    model = build()
    run_generate(model, "dynamic cache", {})
    with guarded("generate.static"):
        run_generate(model, "static cache, not compiled", {"cache_implementation": "static", "disable_compile": True})


def run_generate(model: Any, label: str, options: dict[str, Any]) -> None:
    """64 prompt tokens and 256 new ones of 128 rows, sampled at temperature 1."""
    model.set_attn_implementation("sdpa")
    rows, new = (4, 8) if TINY else (128, 256)
    prompt_BT = torch.randint(2, V, (rows, 64), device=DEVICE)
    mask_BT = torch.ones_like(prompt_BT)
    plain = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "pad_token_id": 0, **options}

    def run(count: int) -> Tensor:
        with torch.no_grad():
            said: Tensor = model.generate(prompt_BT, attention_mask=mask_BT, max_new_tokens=count, **plain)
            return said

    _, first = wall(lambda: run(new if "static" in label else 8))
    said_BT, seconds = wall(lambda: run(new))
    count = (said_BT.shape[1] - 64) * rows
    figures = {"tok/s": round(count / seconds), "ms a step": round(seconds / new * 1e3, 2)}
    figures["first call s"] = round(first, 1)
    tell(f"generate.{rows} rows, 64 + {new} tokens, {label}", figures)


# --- 5 training ---------------------------------------------------------------------------------------------------


def logp_of(head: Any, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
    """The chunk of `sod.models.score`, temperature 1. Shape N."""
    logits_NV = head(hidden_ND).float()
    return logits_NV.gather(1, target_N[:, None]).squeeze(1) - logits_NV.logsumexp(1)


@dataclass(frozen=True)
class Rows:
    """Rows of tokens on the device, padded or packed into one, and what their log-probabilities need."""

    inputs: dict[str, Any]
    where_N: Tensor
    target_N: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: tuple[int, ...], packed: bool, prompt: int = 64) -> Rows:
        """Random tokens; all but the prompt are action tokens."""
        made = torch.Generator().manual_seed(5)
        rows = [torch.randint(2, V, (length,), generator=made) for length in lengths]
        width = sum(lengths) if packed else max(lengths)
        starts = np.cumsum([0, *lengths[:-1]]) if packed else np.arange(len(lengths)) * width
        where = [torch.arange(prompt - 1, n - 1) + int(s) for n, s in zip(lengths, starts, strict=True)]
        target = torch.cat([row[prompt:] for row in rows]).to(DEVICE)
        if not packed:
            padded = torch.zeros(len(rows), width, dtype=torch.long)
            for row, tokens in zip(padded, rows, strict=True):
                row[: len(tokens)] = tokens
            return cls({"input_ids": padded.to(DEVICE)}, torch.cat(where).to(DEVICE), target, lengths)
        inputs = {
            "input_ids": torch.cat(rows)[None].to(DEVICE),
            "position_ids": torch.cat([torch.arange(n) for n in lengths])[None].to(DEVICE),
            "cu_seq": torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=DEVICE),
            "longest": max(lengths),
        }
        return cls(inputs, torch.cat(where).to(DEVICE), target, lengths)

    def flop(self) -> float:
        """Of a forward and backward: 6 per weight and token, the products of attention; nothing computed twice."""
        layers = (weight_bytes() // DTYPE.itemsize - V * D) * sum(self.lengths)
        pairs = sum(n * (n + 1) // 2 for n in self.lengths)
        return 6.0 * (layers + V * D * len(self.target_N)) + 3.0 * 4 * H * HEAD * LAYERS * pairs

    def loss(self, model: Any, chunk: int, measure: Callable[..., Tensor] = logp_of) -> Tensor:
        """The mean log-probability of the action tokens, the projection in chunks that are made again."""
        hidden = model.get_decoder()(**self.inputs, use_cache=False).last_hidden_state
        hidden_ND = hidden.flatten(0, 1)[self.where_N]
        head, parts = model.get_output_embeddings(), []
        for pieces in zip(hidden_ND.split(chunk), self.target_N.split(chunk), strict=True):
            if torch.is_grad_enabled():
                parts.append(checkpoint(measure, head, *pieces, use_reentrant=False))
            else:
                parts.append(measure(head, *pieces))
        return -torch.cat(parts).mean()


def train(model: Any, rows: Rows, chunk: int = 2048, measure: Callable[..., Tensor] = logp_of) -> None:
    """One forward and backward; gradients are dropped."""
    rows.loss(model, chunk, measure).backward()
    model.zero_grad(set_to_none=True)


def told_train(
    key: str,
    model: Any,
    rows: Rows,
    chunk: int = 2048,
    times: int = 3,
    measure: Callable[..., Tensor] = logp_of,
) -> None:
    """Milliseconds, GiB, and share of the measured product rate."""
    fresh_peak()
    ms = clock(lambda: train(model, rows, chunk, measure), times, 1)
    rate = rows.flop() / ms / 1e9
    share = round(rate / (out.get("ceilings.product TFLOP/s", 800.0) or 1.0), 3)
    figures = {"ms": round(ms, 1), "GiB": peak(), "TFLOP/s": round(rate), "share": share}
    tell(key, figures | {"tok/s": round(sum(rows.lengths) / ms * 1e3)})


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """The product's recomputation, for a while."""
    from sod.models.recompute import recompute_layers

    recompute_layers(model)
    try:
        yield
    finally:
        for layer in model.get_decoder().layers:
            del layer.forward


FULL, LONG = ((64,) * 2, (128,) * 2) if TINY else ((1024,) * 16, (4096,) * 4)
RAGGED = (80, 100) if TINY else tuple(range(256, 1281, 64))[:16]  # the same 16 rows, half as long in the mean


@part(90)
def update() -> None:
    """Forward and backward of action log-probabilities, padded or packed, with and without recomputation."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = build()
    for name, lengths in (("16 x 1024", FULL), ("4 x 4096", LONG), ("16 ragged", RAGGED)):
        tell(f"update.{name}: TFLOP, tokens", (round(Rows.of(lengths, False).flop() / 1e12, 2), sum(lengths)))
        for packed in (False, True):
            model.set_attn_implementation("probe" if packed else "sdpa")
            rows = Rows.of(lengths, packed)
            label = f"update.{name}, {'packed varlen' if packed else 'padded sdpa'}"
            with guarded(label):
                told_train(label, model, rows)
            with guarded(f"{label}, recompute"), recomputing(model):
                told_train(f"{label}, recompute", model, rows)
    model.set_attn_implementation("sdpa")
    rows = Rows.of(FULL, False)
    if CUDA:
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            with guarded(f"update.16 x 1024, {backend.name}"), sdpa_kernel(backend):
                told_train(f"update.16 x 1024, padded sdpa, {backend.name}", model, rows)
        long = Rows.of(LONG, False)
        with guarded("update.4 x 4096, cuDNN"), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            told_train("update.4 x 4096, padded sdpa, CUDNN_ATTENTION", model, long)
    with torch.no_grad():
        tell("update.16 x 1024, forward alone ms", round(clock(lambda: rows.loss(model, 2048), 3), 1))
    with guarded("update.kernels"):
        tell("update.16 x 1024, padded sdpa: kernels", kernels(lambda: train(model, rows), 22))
    with guarded("update.gradients"):
        gradients_agree(model)


def gradients_agree(model: Any) -> None:
    """Padded against packed: the loss, and the gradient of a layer in the middle."""
    found = []
    for packed in (False, True, True):
        model.set_attn_implementation("probe" if packed else "sdpa")
        loss = Rows.of(RAGGED, packed).loss(model, 2048)
        loss.backward()
        grad = model.get_decoder().layers[LAYERS // 2].self_attn.q_proj.weight.grad.float().clone()
        model.zero_grad(set_to_none=True)
        found.append((float(loss.detach()), grad))
    gap = float((found[0][1] - found[1][1]).norm() / found[0][1].norm())
    tell("update.packed against padded", {"loss": found[1][0] - found[0][0], "gradient, relative": gap})
    tell("update.packed gradient equal twice", bool(torch.equal(found[1][1], found[2][1])))


@part(45)
def chunks() -> None:
    """The projection of 16,384 action tokens, forward and backward, by rows a chunk."""
    model = build()
    count = 512 if TINY else 16384
    made = torch.Generator(device=DEVICE).manual_seed(2)
    hidden_ND = torch.randn(count, D, device=DEVICE, dtype=DTYPE, generator=made).requires_grad_()
    target_N = torch.randint(0, V, (count,), device=DEVICE)
    head = model.get_output_embeddings()
    for rows in (64, 512, 2048, 4096):
        fresh_peak()
        with guarded(f"chunks.{rows}"):
            ms = clock(partial(project, head, hidden_ND, target_N, rows, logp_of), 3, 1)
            rate = 6 * count * V * D / ms / 1e9
            tell(f"chunks.{rows} rows", {"ms": round(ms, 1), "GiB": peak(), "useful TFLOP/s": round(rate)})


def project(head: Any, hidden_ND: Tensor, target_N: Tensor, rows: int, measure: Callable[..., Tensor]) -> None:
    """Forward and backward of the projection alone."""
    pieces = zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
    parts = [checkpoint(measure, head, *piece, use_reentrant=False) for piece in pieces]
    torch.cat(parts).sum().backward()
    head.weight.grad = hidden_ND.grad = None


@part(60)
def long_row() -> None:
    """One row of 20,480 tokens with recomputation, then with the optimizer's state beside it."""
    model = build()
    length = (256,) if TINY else (20480,)
    with recomputing(model):
        for name, attention in (("sdpa", "sdpa"), ("varlen", "probe")):
            model.set_attn_implementation(attention)
            with guarded(f"long_row.{name}"):
                rows = Rows.of(length, name == "varlen")
                told_train(f"long_row.20480 tokens, recompute, {name}", model, rows, 2048, 2)
        model.set_attn_implementation("sdpa")
        with guarded("long_row.optimizer"):
            rows = Rows.of(length, False)
            fresh_peak()
            optimizer = optimizer_of(model)

            def whole() -> None:
                rows.loss(model, 2048).backward()
                optimizer.accumulate()
                optimizer.step(1)

            seconds = [wall(whole)[1] for _ in range(2)][-1]
            tell("long_row.with the product's optimizer", {"ms": round(seconds * 1e3), "GiB": peak()})
            for weight in model.parameters():
                weight.grad = torch.full_like(weight, 1e-4)
            optimizer.accumulate()
            tell("long_row.optimizer.step alone ms", round(wall(lambda: optimizer.step(2))[1] * 1e3, 1))


@part(60)
def determinism() -> None:
    """Which operations object to deterministic algorithms, and whether results repeat without them."""
    import sod.engines.sampler as ours
    from sod.engines.base import Sampling

    model = build()
    logits_BV = torch.randn(8, V, device=DEVICE, dtype=DTYPE)
    key_B, position_B = np.arange(8, dtype=np.uint64), np.full(8, 7, dtype=np.uint64)
    rows, packed = Rows.of(RAGGED, False), Rows.of(RAGGED, True)

    def scored() -> None:
        with torch.no_grad():
            rows.loss(model, 2048)

    def varlen() -> None:
        model.set_attn_implementation("probe")
        train(model, packed)
        model.set_attn_implementation("sdpa")

    def cached() -> None:
        slots = Slots(model, "flash", 8, 64, 20)
        slots.step()
        slots.clear()
        model.set_attn_implementation("sdpa")

    for name, run in {
        "sampler.draw": lambda: ours.draw(logits_BV, Sampling(), key_B, position_B),
        "sampler.draw, top-k and top-p": lambda: ours.draw(logits_BV, Sampling(0.7, 0.9, 20), key_B, position_B),
        "engine step": lambda: engine_step(model),
        "forward": scored,
        "forward and backward, padded sdpa": lambda: train(model, rows),
        "forward and backward, packed varlen": varlen,
        "static flash step": cached,
        "masked_scatter on the device, backward": masked_scatter_backward,
    }.items():
        with guarded(f"determinism.{name}"):
            tell(f"determinism.{name}", objections(run))
    grads = []
    for _ in range(2):
        rows.loss(model, 2048).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad(set_to_none=True)
    tell("determinism.gradient of padded sdpa equal twice without them", bool(torch.equal(*grads)))
    tell("determinism.parameters whose gradient differs", int((grads[0] != grads[1]).sum()))


def engine_step(model: Any) -> None:
    """A short turn of the product's engine."""
    from sod.engines.base import SampleRequest, Sampling
    from sod.engines.torch_engine import TorchEngine

    TorchEngine(model, frozenset({1}), 4).generate([SampleRequest("a", list(range(2, 12)), 4, 5)], Sampling())
    model.set_attn_implementation("sdpa")


def masked_scatter_backward() -> None:
    """The last line of `over_actions`, were it on the device."""
    value_N = torch.ones(12, device=DEVICE, requires_grad=True)
    mask_BT = torch.ones(3, 4, dtype=torch.bool, device=DEVICE)
    torch.zeros(3, 4, device=DEVICE).masked_scatter(mask_BT, value_N).sum().backward()


def objections(run: Callable[[], Any]) -> list[str]:
    """The operations that would raise."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
            sync()
    finally:
        torch.use_deterministic_algorithms(False)
    said = Counter(
        str(w.message).split(",")[0].split(". ")[0][:120]
        for w in caught
        if "determinis" in str(w.message).lower()
    )  # fmt: skip
    return [f"{count} x {text}" for text, count in said.most_common()]


# --- 6 what compilation adds --------------------------------------------------------------------------------------


@part(60)
def compiled_small() -> None:
    """`torch.compile` of the projection chunk and of the sampler."""
    model = build()
    count = 512 if TINY else 16384
    hidden_ND = torch.randn(count, D, device=DEVICE, dtype=DTYPE, requires_grad=True)
    target_N = torch.randint(0, V, (count,), device=DEVICE)
    head = model.get_output_embeddings()
    fused = torch.compile(logp_of, dynamic=False)
    with guarded("compiled.chunk", 40):
        first = wall(lambda: project(head, hidden_ND, target_N, 2048, fused))[1]
        fresh_peak()
        ms = clock(lambda: project(head, hidden_ND, target_N, 2048, fused), 3, 1)
        rate = 6 * count * V * D / ms / 1e9
        figures = {"ms": round(ms, 1), "GiB": peak(), "useful TFLOP/s": round(rate), "first call s": round(first, 1)}
        tell("compiled.chunk of 2048 rows", figures)
    with guarded("compiled.sampler", 30):
        rows = 8 if TINY else 128
        logits_BV = torch.randn(rows, V, device=DEVICE, dtype=DTYPE) * 2
        row_B = torch.arange(rows, device=DEVICE)
        noise_B = noise_on_device(row_B, row_B)
        plain = draw_on_device(logits_BV, noise_B, row_B)
        fused_draw = torch.compile(draw_on_device, dynamic=False)
        first = wall(lambda: fused_draw(logits_BV, noise_B, row_B))[1]
        same = bool((fused_draw(logits_BV, noise_B, row_B)[0] == plain[0]).all())
        ms = clock(graphed(lambda: fused_draw(logits_BV, noise_B, row_B)), 20)
        tell("compiled.sampler", {"ms, graph": round(ms, 3), "first call s": round(first, 1), "same tokens": same})
        fused_gumbel = torch.compile(gumbel_on_device, dynamic=False)
        ms = clock(graphed(lambda: fused_gumbel(logits_BV, row_B, row_B)), 20)
        tell("compiled.gumbel ms, graph", round(ms, 3))


@contextmanager
def layers_compiled(model: Any) -> Iterator[None]:
    """Every decoder layer compiled; one compilation serves all."""
    torch._dynamo.reset()
    for layer in model.get_decoder().layers:
        layer.compile(dynamic=False)
    try:
        yield
    finally:
        for layer in model.get_decoder().layers:
            layer._compiled_call_impl = None


@part(60)
def compiled_update() -> None:
    """Whole layers compiled, one compilation for all of them: the update."""
    model = build()
    for name, attention, packed in (("padded sdpa", "sdpa", False), ("packed varlen", "probe", True)):
        model.set_attn_implementation(attention)
        with guarded(f"compiled_update.{name}", 45), layers_compiled(model):
            rows = Rows.of(FULL, packed)
            first = wall(lambda rows=rows: train(model, rows))[1]
            tell(f"compiled_update.{name}: first call s", round(first, 1))
            told_train(f"compiled_update.16 x 1024, {name}, layers compiled", model, rows)


@part(60)
def compiled_decode() -> None:
    """Whole layers compiled, in a CUDA graph: the decoding step."""
    model = build()
    rows, columns = (4, 64) if TINY else (128, 512)
    slots = Slots(model, "flash", rows, columns, columns - 2)
    with guarded("compiled_decode.layers", 45), layers_compiled(model):
        first = wall(slots.step)[1]
        tell("compiled_decode.first call s", round(first, 1))
        label = f"compiled_decode.{rows} rows, {columns} columns, flash"
        told_decode(f"{label}, graph", clock(graphed(slots.logits), 20), rows, columns)
        told_decode(f"{label}, graph with sampler", clock(graphed(slots.step), 20), rows, columns)
        tell(f"{label}: kernels", kernels(slots.step, 9))
    slots.clear()


@part(45)
def fsdp() -> None:
    """FSDP2 with one rank: float32 shards, bfloat16 compute, the scoring method registered as a forward."""
    import torch.distributed as dist
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29555", RANK="0", WORLD_SIZE="1")
    dist.init_process_group("nccl" if CUDA else "gloo", device_id=torch.device("cuda", 0) if CUDA else None)
    try:
        model = build(torch.float32)
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in model.get_decoder().layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        rows = Rows.of(FULL, False)
        model.score_actions = types.MethodType(lambda self, chunk: rows.loss(self, chunk), model)
        register_fsdp_forward_method(model, "score_actions")
        model.score_actions(2048).backward()
        model.zero_grad(set_to_none=True)
        fresh_peak()

        def step() -> None:
            model.score_actions(2048).backward()
            model.zero_grad(set_to_none=True)

        ms = clock(step, 3, 1)
        tell("fsdp.16 x 1024, one rank", {"ms": round(ms, 1), "GiB": peak()})
        model.score_actions(2048).backward()
        grad = next(model.parameters()).grad
        tell("fsdp.gradient", f"{type(grad).__name__} {grad.dtype}")
    finally:
        dist.destroy_process_group()


@part(100)
def generate_compiled() -> None:
    """Transformers' `generate` with a static cache, compiled by itself."""
    model = build()
    run_generate(model, "static cache, compiled", {"cache_implementation": "static"})


@part(60)
def flex() -> None:
    """Flex attention over one packed row, compiled: the way without `varlen_attn`."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    model = build()
    rows = Rows.of(FULL, True)
    total = sum(FULL)
    document_T = torch.repeat_interleave(torch.arange(len(FULL), device=DEVICE), torch.tensor(FULL, device=DEVICE))

    def visible(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (document_T[q] == document_T[k]) & (q >= k)

    block = create_block_mask(visible, 1, 1, total, total, device=DEVICE)
    fused = torch.compile(flex_attention, dynamic=False)

    def attend(_m: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, scaling: float, **_: Any) -> tuple[Tensor, None]:
        return fused(q, k, v, block_mask=block, scale=scaling, enable_gqa=True).transpose(1, 2), None

    AttentionInterface.register("probe_flex", attend)
    model.set_attn_implementation("probe_flex")
    first = wall(lambda: train(model, rows) if CUDA else rows.loss(model, 2048).detach())[1]
    tell("flex.first call s", round(first, 1))
    told_train("flex.16 x 1024, packed", model, rows)


@part(20)
def draw_in_graph() -> None:
    """The product's own draw captured as it is; last, as a failed capture may leave the allocator unusable."""
    import sod.engines.sampler as ours
    from sod.engines.base import Sampling

    logits_BV = torch.randn(8, V, device=DEVICE, dtype=DTYPE)
    noise_B = torch.rand(8, device=DEVICE, dtype=torch.float64)
    tell("draw_in_graph.ms", round(clock(graphed(lambda: ours._draw(logits_BV, Sampling(), noise_B)), 20), 3))


if __name__ == "__main__":
    main()
