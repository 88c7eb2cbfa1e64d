"""How time and memory of a step grow with batch, turns, response length and vocabulary.

    python benchmarks/scaling.py --json scaling.json

A random Qwen3 model (6 layers, hidden size 256) plays episodes whose tool always answers 32 tokens, then scores them
and makes one update. One thing is varied at a time; every setting runs in a process of its own, so that its peak
memory is its own. Times are of one repetition after a warm-up.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()

import argparse
import datetime
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from random_model import random_qwen3
from side_by_side import machine
from sod.engines.base import SampleRequest, Sampling
from sod.engines.torch_engine import TorchEngine
from sod.models.score import action_logps
from sod.objective.batch import TokenBatch, supervised_batch

PROMPT, TOOL = 64, 32
MICRO_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Setting:
    """Episodes, turns of each, tokens sampled per turn, and the model's vocabulary."""

    episodes: int = 32
    turns: int = 2
    turn_tokens: int = 32
    vocabulary: int = 16_384


BASE = Setting()
VARIED: dict[str, list[Setting]] = {
    "episodes": [replace(BASE, episodes=n) for n in (8, 16, 32, 64, 128)],
    "turns": [replace(BASE, turns=n) for n in (1, 2, 4, 8)],
    "turn_tokens": [replace(BASE, turn_tokens=n) for n in (16, 32, 64, 128, 256)],
    "vocabulary": [replace(BASE, vocabulary=n) for n in (2_048, 16_384, 65_536, 151_936)],
}


def play(engine: TorchEngine, setting: Setting, seed: int) -> tuple[TokenBatch, int]:
    """All episodes to their end, as a batch; and the tokens sampled."""
    rng = random.Random(seed)
    ids = {f"e{n}": rng.choices(range(setting.vocabulary), k=PROMPT) for n in range(setting.episodes)}
    turn_ids = {name: [0] * PROMPT for name in ids}

    def ask(name: str) -> SampleRequest:
        return SampleRequest(name, tuple(ids[name]), setting.turn_tokens, seed * 100_000 + int(name[1:]))

    engine.submit([ask(name) for name in ids], Sampling())
    open_turns = setting.episodes
    while open_turns:
        again = []
        for name, sampled in engine.advance(16):
            turn = max(turn_ids[name]) + 1
            ids[name] += sampled.token_ids
            turn_ids[name] += [turn] * len(sampled.token_ids)
            if turn < setting.turns:
                ids[name] += rng.choices(range(setting.vocabulary), k=TOOL)
                turn_ids[name] += [0] * TOOL
                again.append(ask(name))
            else:
                open_turns -= 1
        engine.submit(again, Sampling())
    engine.forget(ids)
    batch = supervised_batch([(ids[name], turn_ids[name]) for name in ids])
    return batch, batch.action_tokens()


def measure(setting: Setting) -> dict[str, float]:
    """Seconds of rollout and of update, and the peak memory that they added (MB)."""
    torch.set_num_threads(2)
    model = random_qwen3(setting.vocabulary, layers=6)
    engine = TorchEngine(model, frozenset())
    small = replace(setting, episodes=2, turns=1, turn_tokens=4)
    play(engine, small, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    batch, tokens = play(engine, setting, 1)
    played = time.perf_counter()
    for micro in batch.split(MICRO_BATCH_TOKENS):
        (-action_logps(model, micro).sum() / tokens).backward()
    ended = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "tokens": tokens,
        "rollout_seconds": played - began,
        "update_seconds": ended - played,
        "added_mb": (after - before) / 1024,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(Setting(**json.loads(options.one)))))
        return
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found: dict[str, Any] = {"machine": machine(), "date": date}
    for name, settings in VARIED.items():
        table = Table(title=f"growing with {name}; else {asdict(BASE)}")
        for heading in (name, "tokens", "rollout s", "tokens/s", "update s", "tokens/s", "added MB"):
            table.add_column(heading, justify="right")
        found[name] = []
        for setting in settings:
            command = [sys.executable, __file__, "--one", json.dumps(asdict(setting))]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[name].append(asdict(setting) | row)
            rates = [f"{row['tokens'] / row[key]:.0f}" for key in ("rollout_seconds", "update_seconds")]
            seconds = [f"{row[key]:.2f}" for key in ("rollout_seconds", "update_seconds")]
            cells = (str(getattr(setting, name)), str(row["tokens"]), seconds[0], rates[0], seconds[1], rates[1])
            table.add_row(*cells, f"{row['added_mb']:.0f}")
        Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
