"""Peak memory of a dense distillation loss: in chunks, and the naive way with the whole batch's logits.

    python benchmarks/dense_memory.py --live --json dense_memory.json

Forward and backward of one micro-batch on random Qwen3 models as student and teacher (2 layers, hidden size 256,
vocabulary 49,152; 8 trajectories, 4096 action tokens). Every way runs in a process of its own. What is reported is the
highest resident memory during the one measured pass, above what the process held before it: models, gradients and a
small warm-up are in it already, the decoder's activations are not. Seconds are of that one pass.

By default every process has the allocator settings of a training run, which keep freed memory and let it break into
pieces. With `--live`, large tensors go back to the system at once: slower, but what is counted is what is in use.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from random_model import random_qwen3
from side_by_side import machine
from sod.models.dense import dense_terms
from sod.models.score import action_logps
from sod.objective.batch import TokenBatch, supervised_batch
from sod.objective.divergence import Divergence, divergence

VOCABULARY, ROWS, PROMPT, RESPONSE = 49_152, 8, 64, 512
GIVE_BACK = "glibc.malloc.mmap_threshold=1048576"  # bytes; every larger block is a mapping of its own

Way = Callable[[Any, Any, TokenBatch], Tensor]


def naive(student: Any, teacher: Any, batch: TokenBatch) -> Tensor:
    """Mean reverse KL per action token, from the logits of every position."""
    logq_BTV = student(input_ids=batch.token_BT, use_cache=False).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        logp_BTV = teacher(input_ids=batch.token_BT, use_cache=False).logits[:, :-1].log_softmax(-1)
    kl_BT = (logq_BTV.exp() * (logq_BTV - logp_BTV)).sum(-1)
    mean: Tensor = kl_BT[batch.turn_BT[:, 1:] > 0].mean()
    return mean


def in_chunks(student: Any, teacher: Any, batch: TokenBatch, spec: Divergence) -> Tensor:
    """Mean divergence per action token, by `dense_terms`."""
    _, value_BT = dense_terms(student, teacher, batch, batch, partial(divergence, spec=spec))
    return value_BT.sum() / batch.action_tokens()


def sampled_only(student: Any, _teacher: Any, batch: TokenBatch) -> Tensor:
    """No dense loss at all: the log-probabilities of the sampled tokens, which every method needs."""
    return -action_logps(student, batch).sum() / batch.action_tokens()


WAYS: dict[str, Way] = {
    "naive reverse KL": naive,
    "reverse KL": partial(in_chunks, spec=Divergence("reverse_kl")),
    "jsd": partial(in_chunks, spec=Divergence("jsd")),
    "reverse KL, top 64": partial(in_chunks, spec=Divergence("reverse_kl", top_k=64)),
    "sampled tokens only": sampled_only,
}


def make_batch(rows: int, response: int) -> TokenBatch:
    """Random trajectories of one turn."""
    turns = [0] * PROMPT + [1] * response
    return supervised_batch([(torch.randint(VOCABULARY, (len(turns),)).tolist(), turns) for _ in range(rows)])


def resident_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (highest since it was reset) of this process."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def measure(name: str) -> dict[str, float]:
    """Added memory (MB), seconds and the loss (nats) of one pass."""
    torch.set_num_threads(2)
    student, teacher = random_qwen3(VOCABULARY, 2, seed=0), random_qwen3(VOCABULARY, 2, seed=1)
    WAYS[name](student, teacher, make_batch(1, 4)).backward()
    batch = make_batch(ROWS, RESPONSE)
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to what is resident now
    before = resident_mb("VmRSS")
    began = time.perf_counter()
    loss = WAYS[name](student, teacher, batch)
    loss.backward()
    seconds = time.perf_counter() - began
    return {"added_mb": resident_mb("VmHWM") - before, "seconds": seconds, "loss": float(loss.detach())}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--live", action="store_true", help="give large tensors back to the system at once")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    environment = os.environ | ({"GLIBC_TUNABLES": GIVE_BACK} if options.live else {})
    one_tensor_mb = ROWS * RESPONSE * VOCABULARY * 4 / 2**20
    table = Table(title=f"one tokens x vocabulary float32 tensor: {one_tensor_mb:.0f} MB")
    for heading in ("loss", "added MB", "of such tensors", "naive / this", "seconds", "nats/token"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    rows: dict[str, dict[str, float]] = {}
    for name in WAYS:
        command = [sys.executable, __file__, "--one", name]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        row = json.loads(ran.stdout)
        rows[name] = row
        row["naive_ratio"] = rows["naive reverse KL"]["added_mb"] / row["added_mb"]
        cells = (f"{row['added_mb']:.0f}", f"{row['added_mb'] / one_tensor_mb:.2f}", f"{row['naive_ratio']:.1f}")
        table.add_row(name, *cells, f"{row['seconds']:.1f}", f"{row['loss']:.5f}")
    Console().print(table)
    if options.json:
        found = {"machine": machine(), "live": options.live, "one_tensor_mb": one_tensor_mb, "ways": rows}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
