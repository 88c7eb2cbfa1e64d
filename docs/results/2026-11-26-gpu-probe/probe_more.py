"""The second call: what the first one (`probe.py`) left open. Run the same way.

    PYTHONPATH=src:. python probe_more.py [--tiny] [--only PART,PART]

Decoding towards the bandwidth (attention kernels alone; layers written out with fused weights and compiled), the update
with everything compiled, shapes that change, strict determinism, FSDP2.

Legend: as in `probe.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import probe
import torch
from probe import (
    CUDA,
    DEVICE,
    DTYPE,
    FULL,
    HEAD,
    LAYERS,
    LONG,
    RAGGED,
    TINY,
    D,
    G,
    H,
    Rows,
    Slots,
    V,
    build,
    clock,
    decode_floor,
    draw_on_device,
    fresh_peak,
    graphed,
    guarded,
    kernels,
    layers_compiled,
    logp_of,
    noise_on_device,
    out,
    part,
    peak,
    place,
    project,
    recomputing,
    sync,
    tell,
    told_decode,
    told_train,
    train,
    wall,
)
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu

SHAPES = ((4, 64),) if TINY else ((128, 512), (128, 2048), (256, 512))
CEILINGS, FSDP = probe.PARTS["ceilings"], probe.PARTS["fsdp"]
probe.PARTS.clear()
probe.PARTS["ceilings"] = CEILINGS
flash = torch.ops.aten._flash_attention_forward


# --- decoding -----------------------------------------------------------------------------------------------------


def by_varlen(q: Tensor, k: Tensor, v: Tensor, length_B: Tensor) -> Tensor:
    """Query heads as they are: a key head is read once for each of its query heads. q: B, H, D; k, v: B, S, G, D."""
    rows, columns = k.shape[:2]
    cu_q = torch.arange(rows + 1, device=q.device, dtype=torch.int32)
    flat = (q, k.flatten(0, 1), v.flatten(0, 1), cu_q, cu_q * columns, 1, columns, 0.0, False, False)
    return flash(*flat, scale=HEAD**-0.5, seqused_k=length_B)[0]


def by_varlen_grouped(q: Tensor, k: Tensor, v: Tensor, length_B: Tensor) -> Tensor:
    """Query heads that share a key head as more queries of one row: a key head is read once."""
    (rows, columns), groups = k.shape[:2], H // G
    many = q.view(rows, G, groups, HEAD).transpose(1, 2).reshape(rows * groups, G, HEAD)
    cu_q = torch.arange(rows + 1, device=q.device, dtype=torch.int32)
    flat = (many, k.flatten(0, 1), v.flatten(0, 1), cu_q * groups, cu_q * columns, groups, columns, 0.0, False, False)
    mixed = flash(*flat, scale=HEAD**-0.5, seqused_k=length_B)[0]
    return mixed.view(rows, groups, G, HEAD).transpose(1, 2).reshape(rows, H, HEAD)


def by_sdpa(q: Tensor, k: Tensor, v: Tensor, length_B: Tensor) -> Tensor:
    """The fused kernel over all columns, without lengths: what it would cost were they equal."""
    args = (q[:, :, None], k.transpose(1, 2), v.transpose(1, 2))
    return scaled_dot_product_attention(*args, scale=HEAD**-0.5, enable_gqa=True)[:, :, 0]


def by_products(q: Tensor, keys_BGDS: Tensor, values_BGSD: Tensor, length_B: Tensor) -> Tensor:
    """Two products over all columns, as the engine's cache does it."""
    rows, columns = len(q), keys_BGDS.shape[-1]
    scores = torch.matmul((q * HEAD**-0.5).view(rows, G, H // G, HEAD), keys_BGDS).float()
    hidden_BS = torch.arange(columns, device=q.device) >= length_B[:, None]
    weights = torch.softmax(scores.masked_fill(hidden_BS[:, None, None], -torch.inf), dim=-1).to(q.dtype)
    return torch.matmul(weights, values_BGSD).reshape(rows, H, HEAD)


@part(60)
def attention() -> None:
    """Attention of one new token in a cache, alone: a sweep over as many caches as the model has layers."""
    ways: dict[str, Callable[..., Tensor]] = {"two products": by_products, "sdpa, no lengths": by_sdpa}
    if CUDA:
        ways |= {"varlen": by_varlen, "varlen, grouped queries": by_varlen_grouped}
    for rows, columns in SHAPES:
        caches = [torch.randn(2, rows, columns, G, HEAD, device=DEVICE, dtype=DTYPE) for _ in range(LAYERS)]
        query = torch.randn(rows, H, HEAD, device=DEVICE, dtype=DTYPE)
        moved = sum(cache.nbytes for cache in caches)
        ragged_B = torch.linspace(columns // 4, columns, rows, device=DEVICE).int()
        for kind, length_B in (("full", torch.full_like(ragged_B, columns)), ("ragged", ragged_B)):
            for name, way in ways.items():
                with guarded(f"attention.{rows} rows, {columns} columns, {name}"):
                    ms = clock(graphed(partial(sweep, way, query, caches, length_B)), 10)
                    figures = {"ms": round(ms, 3), "GB/s of the whole cache": round(moved / ms / 1e6)}
                    tell(f"attention.{rows} rows, {columns} columns, {kind}, {name}", figures)
        del caches
        fresh_peak()
    if CUDA:
        agreement(ways)


def sweep(way: Callable[..., Tensor], query: Tensor, caches: list[Tensor], length_B: Tensor) -> None:
    """One call for each layer's cache."""
    for keys, values in caches:
        if way is by_products:  # the same memory seen in that layout: contiguous in S for keys, in D for values
            rows, columns = keys.shape[:2]
            way(query, keys.view(rows, G, HEAD, columns), values.view(rows, G, columns, HEAD), length_B)
        else:
            way(query, keys, values, length_B)


def agreement(ways: dict[str, Callable[..., Tensor]]) -> None:
    """Every way against float64, relative, with ragged lengths."""
    rows, columns = 8, 192
    q = torch.randn(rows, H, HEAD, device=DEVICE, dtype=DTYPE)
    k, v = (torch.randn(rows, columns, G, HEAD, device=DEVICE, dtype=DTYPE) for _ in range(2))
    length_B = torch.linspace(5, columns, rows, device=DEVICE).int()
    seen = torch.arange(columns, device=DEVICE) < length_B[:, None]
    exact = scaled_dot_product_attention(
        q.double()[:, :, None],
        k.double().transpose(1, 2).repeat_interleave(H // G, 1),
        v.double().transpose(1, 2).repeat_interleave(H // G, 1),
        attn_mask=seen[:, None, None],
    )[:, :, 0]
    for name, way in ways.items():
        if way is not by_sdpa:
            args = (k.permute(0, 2, 3, 1), v.transpose(1, 2)) if way is by_products else (k, v)
            gap = float((way(q, *args, length_B).double() - exact).norm() / exact.norm())
            tell(f"attention.{name} against float64, relative", gap)


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm as the model does it."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def bare_layer(x_BD: Tensor, w: dict[str, Tensor], cos: Tensor, sin: Tensor, at: tuple[Tensor, ...]) -> Tensor:
    """A decoder layer for one new token a row: query, key and value in one product, gate and up in another."""
    row_B, position_B, length_B = at
    rows = len(x_BD)
    made = linear(normed(x_BD, w["before"], 1e-6), w["qkv"]).view(rows, H + 2 * G, HEAD)
    q, k, v = made.split([H, G, G], dim=1)
    q, k = turned(normed(q, w["q"], 1e-6), cos, sin), turned(normed(k, w["k"], 1e-6), cos, sin)
    if w["keys"].shape[1] == G:
        w["keys"][row_B, :, :, position_B] = k
        w["values"][row_B, :, position_B] = v
        mixed = by_products(q, w["keys"], w["values"], length_B)
    else:
        w["keys"][row_B, position_B] = k
        w["values"][row_B, position_B] = v
        mixed = by_varlen_grouped(q, w["keys"], w["values"], length_B)
    x_BD = x_BD + linear(mixed.reshape(rows, H * HEAD), w["o"])
    gate, up = linear(normed(x_BD, w["after"], 1e-6), w["gate_up"]).chunk(2, dim=-1)
    return x_BD + linear(silu(gate) * up, w["down"])


@dataclass
class Bare:
    """A model's decoding step written out. The caches are the slots' own buffers."""

    slots: Slots
    layer: Callable[..., Tensor]
    draw: Callable[..., tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        self.weights = [gathered(layer) for layer in self.slots.model.get_decoder().layers]

    def logits(self) -> Tensor:
        """As `Slots.logits`."""
        slots = self.slots
        decoder = slots.model.get_decoder()
        with torch.no_grad():
            x_BD = decoder.embed_tokens(slots.token_B1[:, 0])
            cos, sin = (t[:, 0, None] for t in decoder.rotary_emb(x_BD, slots.position_B[:, None]))
            at = (slots.row_B, slots.position_B, slots.length_B)
            for w in self.weights:
                x_BD = self.layer(x_BD, w, cos, sin, at)
            return linear(normed(x_BD, decoder.norm.weight, 1e-6), decoder.embed_tokens.weight)

    def step(self) -> None:
        """As `Slots.step`, the sampler compiled."""
        slots = self.slots
        with torch.no_grad():
            noise_B = noise_on_device(slots.key_B, slots.position_B)
            token_B, logp_B = self.draw(self.logits(), noise_B, slots.row_B)
            slots.token_B1.copy_(token_B[:, None])
            slots.logp_B.copy_(logp_B)


def gathered(layer: Any) -> dict[str, Tensor]:
    """A layer's weights, those that read the same input as one matrix, and its cache."""
    attn, mlp = layer.self_attn, layer.mlp
    return {
        "qkv": torch.cat([attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight]).detach(),
        "o": attn.o_proj.weight.detach(),
        "gate_up": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach(),
        "down": mlp.down_proj.weight.detach(),
        "before": layer.input_layernorm.weight.detach(),
        "after": layer.post_attention_layernorm.weight.detach(),
        "q": attn.q_norm.weight.detach(),
        "k": attn.k_norm.weight.detach(),
        "keys": attn.cache_keys,
        "values": attn.cache_values,
    }


@part(110)
def bare() -> None:
    """The decoding step written out, compiled, in a graph, with either attention; the sampler compiled."""
    model = build()
    for rows, columns in SHAPES:
        for kind in ("matmul", "flash") if CUDA else ("matmul",):
            label = f"bare.{rows} rows, {columns} columns, {kind}"
            with guarded(label, 40):
                torch._dynamo.reset()
                slots = Slots(model, kind, rows, columns, columns - 2)
                step = Bare(
                    slots, torch.compile(bare_layer, dynamic=False), torch.compile(draw_on_device, dynamic=False)
                )
                said, seconds = wall(step.logits)
                gap = float((said - slots.logits()).float().norm() / said.float().norm())
                tell(f"{label}: first call s, gap to the model", (round(seconds, 1), gap))
                told_decode(f"{label}, graph", clock(graphed(step.logits), 20), rows, columns)
                fresh_peak()
                before = peak()
                replay, seconds = wall(lambda step=step: graphed(step.step))
                tell(f"{label}: capture s, GiB", (round(seconds, 2), round(peak() - before, 2)))
                told_decode(f"{label}, graph with sampler", clock(replay, 20), rows, columns)
                tell(f"{label}: kernels", kernels(step.step, 8))
                slots.clear()
                del step, slots, replay
                fresh_peak()


@part(60)
def compiled_decode() -> None:
    """Transformers' own layers compiled, the engine's two products as attention, the sampler compiled."""
    model = build()
    for rows, columns in SHAPES:
        label = f"compiled_decode.{rows} rows, {columns} columns, matmul"
        slots = Slots(model, "matmul", rows, columns, columns - 2)
        with guarded(label, 30), layers_compiled(model):
            tell(f"{label}: first call s", round(wall(slots.logits)[1], 1))
            told_decode(f"{label}, graph", clock(graphed(slots.logits), 20), rows, columns)
        slots.clear()
        fresh_peak()


@part(40)
def engine() -> None:
    """The product's engine with its sampler in one pass; the sampler's truncation in one pass."""
    import sod.engines.sampler as ours
    from sod.engines.base import SampleRequest, Sampling
    from sod.engines.torch_engine import TorchEngine

    model = build()
    rows, new = (4, 8) if TINY else (128, 128)
    made = torch.Generator().manual_seed(1)
    prompts = torch.randint(2, V, (rows, 64), generator=made).tolist()
    asked = [SampleRequest(str(row), prompts[row], new, 100 + row) for row in range(rows)]
    kept, ours.CACHED_LOGITS = ours.CACHED_LOGITS, 1 << 62
    try:
        TorchEngine(model, frozenset({1}), rows).generate(asked[:4], Sampling())
        seconds = wall(lambda: TorchEngine(model, frozenset({1}), rows).generate(asked, Sampling()))[1]
        figures = {"tok/s": round(rows * new / seconds), "ms a step": round(seconds / new * 1e3, 2)}
        tell(f"engine.{rows} rows, 64 + {new} tokens, one pass", figures)
        logits_BV = torch.randn(rows, V, device=DEVICE, dtype=DTYPE) * 2
        key_B, position_B = np.arange(rows, dtype=np.uint64), np.full(rows, 77, dtype=np.uint64)
        for name, given in (("top-k 20", Sampling(top_k=20)), ("top-p 0.9", Sampling(top_p=0.9))):
            ms = clock(partial(ours.draw, logits_BV, given, key_B, position_B), 5)
            tell(f"engine.draw ms, one pass, {name}", round(ms, 3))
    finally:
        ours.CACHED_LOGITS = kept


# --- training -----------------------------------------------------------------------------------------------------


@contextmanager
def compiled_and_recomputing(model: Any, dynamic: bool = False) -> Iterator[None]:
    """Layers compiled inside the product's recomputation."""
    torch._dynamo.reset()
    for layer in model.get_decoder().layers:
        layer.forward = torch.compile(layer.forward, dynamic=dynamic)
    with recomputing(model):
        yield


@part(110)
def compiled_update() -> None:
    """Layers and projection compiled: 16 x 1024, 4 x 4096 and ragged rows, with and without recomputation."""
    model = build()
    fused = torch.compile(logp_of, dynamic=False)
    for name, lengths in (("16 x 1024", FULL), ("4 x 4096", LONG), ("16 ragged", RAGGED)):
        for packed in (False, True):
            model.set_attn_implementation("probe" if packed else "sdpa")
            rows = Rows.of(lengths, packed)
            label = f"compiled_update.{name}, {'packed varlen' if packed else 'padded sdpa'}"
            with guarded(label, 30), layers_compiled(model):
                tell(f"{label}: first call s", round(wall(lambda rows=rows: train(model, rows, 2048, fused))[1], 1))
                told_train(label, model, rows, 2048, 3, fused)
                if name == "16 x 1024":
                    tell(f"{label}: kernels", kernels(lambda rows=rows: train(model, rows, 2048, fused), 10))
            if not packed or name == "16 ragged":
                with guarded(f"{label}, recompute", 30), compiled_and_recomputing(model):
                    told_train(f"{label}, recompute", model, rows, 2048, 3, fused)


@part(40)
def long_row() -> None:
    """One row of 20,480 tokens, recomputed, layers and projection compiled."""
    model = build()
    fused = torch.compile(logp_of, dynamic=False)
    rows = Rows.of((256,) if TINY else (20480,), False)
    with guarded("long_row", 38), compiled_and_recomputing(model):
        told_train("long_row.20480 tokens, recompute, sdpa, compiled", model, rows, 2048, 2, fused)


@part(70)
def dynamic() -> None:
    """Shapes that change: one compilation with symbolic sizes, for other numbers of rows and tokens."""
    model = build()
    sets = ((80, 80), (90, 70, 75), (128,)) if TINY else ((1024,) * 16, (700,) * 20, (512, 900, 1300, 1800) * 3)
    for name, implementation, packed in (("packed varlen", "probe", True), ("padded sdpa", "sdpa", False)):
        model.set_attn_implementation(implementation)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        fused = torch.compile(logp_of, dynamic=True)
        with guarded(f"dynamic.{name}", 35):
            for layer in model.get_decoder().layers:
                layer.compile(dynamic=True)
            for lengths in sets:
                rows = Rows.of(lengths, packed)
                first = wall(lambda rows=rows, fused=fused: train(model, rows, 2048, fused))[1]
                label = f"dynamic.{name}, {len(lengths)} rows of {min(lengths)} to {max(lengths)}"
                told_train(label, model, rows, 2048, 2, fused)
                graphs = dict(torch._dynamo.utils.counters["stats"])
                tell(f"{label}: first call s, compilations", (round(first, 1), graphs.get("unique_graphs")))
        for layer in model.get_decoder().layers:
            layer._compiled_call_impl = None


@part(30)
def chunks() -> None:
    """The compiled projection by rows a chunk."""
    model = build()
    count = 512 if TINY else 16384
    hidden_ND = torch.randn(count, D, device=DEVICE, dtype=DTYPE, requires_grad=True)
    target_N = torch.randint(0, V, (count,), device=DEVICE)
    head = model.get_output_embeddings()
    for rows in (512, 1024, 4096):
        with guarded(f"chunks.{rows}", 10):
            torch._dynamo.reset()
            fused = torch.compile(logp_of, dynamic=False)
            project(head, hidden_ND, target_N, rows, fused)
            fresh_peak()
            ms = clock(partial(project, head, hidden_ND, target_N, rows, fused), 3, 1)
            rate = 6 * count * V * D / ms / 1e9
            tell(f"chunks.{rows} rows, compiled", {"ms": round(ms, 1), "GiB": peak(), "useful TFLOP/s": round(rate)})


# --- determinism --------------------------------------------------------------------------------------------------


@part(40)
def strict() -> None:
    """Under `torch.use_deterministic_algorithms(True)`: what raises, and what the update then costs."""
    import sod.engines.sampler as ours
    from sod.engines.base import Sampling

    wide = torch.rand(8, 4096, device=DEVICE)
    index = torch.randint(0, 4096, (8, 4096), device=DEVICE)
    logits_BV = torch.randn(8, V, device=DEVICE, dtype=DTYPE)
    key_B, position_B = np.arange(8, dtype=np.uint64), np.full(8, 7, dtype=np.uint64)
    table = torch.rand(64, 8, device=DEVICE, requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        for name, run in {
            "cumsum float32": lambda: wide.cumsum(-1),
            "cumsum float64": lambda: wide.double().cumsum(-1),
            "sampler.draw": lambda: ours.draw(logits_BV, Sampling(), key_B, position_B),
            "sampler.draw, top-k, top-p": lambda: ours.draw(logits_BV, Sampling(0.7, 0.9, 20), key_B, position_B),
            "scatter_add": lambda: torch.zeros_like(wide).scatter_add(1, index, wide),
            "index_put, accumulate": lambda: wide.clone().index_put_((index[:, 0] % 8,), wide, accumulate=True),
            "embedding, backward": lambda: table[index % 64].sum().backward(),
            "bincount": lambda: torch.bincount(index.flatten()),
            "median with indices": lambda: wide.median(dim=-1),
            "product": lambda: logits_BV @ logits_BV.T,
        }.items():
            try:
                run()
                sync()
                found = "ok"
            except RuntimeError as error:
                found = place(error)
            tell(f"strict.{name}", found)
        strict_update()
    finally:
        torch.use_deterministic_algorithms(False)


def strict_update() -> None:
    """The cost of the update, and whether its gradient repeats."""
    model = build()
    for name, implementation, packed in (("padded sdpa", "sdpa", False), ("packed varlen", "probe", True)):
        model.set_attn_implementation(implementation)
        with guarded(f"strict.update, {name}"):
            rows = Rows.of(FULL, packed)
            told_train(f"strict.update of 16 x 1024, {name}", model, rows)
            grads = []
            for _ in range(2):
                rows.loss(model, 2048).backward()
                grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
                model.zero_grad(set_to_none=True)
            tell(f"strict.gradient equal twice, {name}", bool(torch.equal(*grads)))


@part(30)
def loose() -> None:
    """Without deterministic algorithms: does the gradient of 16 x 1024 repeat; the compiled update's."""
    model = build()
    rows = Rows.of(FULL, False)
    for name, compiled in (("plain", False), ("compiled", True)):
        with guarded(f"loose.{name}"):
            grads = []
            for layer in model.get_decoder().layers if compiled else ():
                layer.compile(dynamic=False)
            for _ in range(3):
                rows.loss(model, 2048).backward()
                grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
                model.zero_grad(set_to_none=True)
            tell(f"loose.{name}: gradient equal in three runs", [bool(torch.equal(grads[0], g)) for g in grads[1:]])
    tell("loose.floor of 128 rows, 512 columns", decode_floor(128, 512))


probe.PARTS["fsdp"] = FSDP

if __name__ == "__main__":
    began = time.monotonic()
    probe.main()
    tell("seconds", round(time.monotonic() - began, 1))
    assert out
