"""What the turn weights of a large step cost, and what a plain loop over tokens would.

    python benchmarks/weights.py --json weights.json

1,024 trajectories of 20,480 tokens each, 16 turns with tool output between them, random log-probabilities, two
threads. Timed are the turn statistics, the weights of SOD and of ATOD, and the spreading of both to the tokens; the
median of the repetitions after a warm-up. The loop in plain Python does the same for a slice of the batch's rows, from
lists that are made before the clock starts; its figures must agree, and the ratio is that of the times per token.
"""

from __future__ import annotations

from sod.cli.allocator import reexecute_with_tunables

if __name__ == "__main__":
    reexecute_with_tunables()

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side_by_side import machine
from sod.objective import TeacherScores, per_token, turn_stats, weights

GOAL_SECONDS = 1.0
DELTA, EPSILON, FLAT = 0.2, 1e-6, 1e-8


@dataclass(frozen=True)
class Size:
    """Trajectories, tokens of each (prompt and tool output included), turns, and rows that the loop gets."""

    rows: int = 1_024
    tokens: int = 20_480
    turns: int = 16
    loop_rows: int = 8


def make_batch(size: Size, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """`(student_BT, teacher_BT, turn_BT)`: of each turn's tokens three in four are sampled, the rest is context."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.rows, size.tokens)
    student_BT = -torch.rand(shape, generator=generator)
    teacher_BT = student_BT + 0.3 * torch.randn(shape, generator=generator)
    span = size.tokens // size.turns
    position_T = torch.arange(size.tokens)
    turn_T = torch.where(position_T % span >= span // 4, (position_T // span).clamp(max=size.turns - 1) + 1, 0)
    return student_BT, teacher_BT, turn_T.expand(shape).contiguous()


def vectorised(student_BT: Tensor, teacher_BT: Tensor, turn_BT: Tensor) -> tuple[Tensor, Tensor]:
    """SOD's and ATOD's weight of every token."""
    stats = turn_stats(student_BT, TeacherScores(teacher_BT), turn_BT)
    return per_token(weights.sod(stats, DELTA, EPSILON), turn_BT), per_token(weights.atod(stats), turn_BT)


def looped(student_T: list[float], teacher_T: list[float], turn_T: list[int]) -> tuple[list[float], list[float]]:
    """The same of one row, token by token in Python."""
    gap: dict[int, float] = {}
    surprise: dict[int, float] = {}
    count: dict[int, int] = {}
    for student, teacher, turn in zip(student_T, teacher_T, turn_T, strict=True):
        if turn:
            gap[turn] = gap.get(turn, 0.0) + abs(teacher - student)
            surprise[turn] = surprise.get(turn, 0.0) - student
            count[turn] = count.get(turn, 0) + 1
    d = {turn: gap[turn] / count[turn] for turn in sorted(count)}
    h = {turn: surprise[turn] / count[turn] for turn in sorted(count)}
    first = next(iter(d.values()))
    sod = {turn: min((first + EPSILON) / (value + EPSILON), 1.0 + DELTA) for turn, value in d.items()}
    sod[next(iter(d))] = 1.0
    scaled_d, scaled_h = scaled(d), scaled(h)
    atod = {turn: 1.0 - (1.0 - scaled_d[turn]) * (1.0 - scaled_h[turn]) for turn in d}
    return [sod[turn] if turn else 0.0 for turn in turn_T], [atod[turn] if turn else 0.0 for turn in turn_T]


def scaled(values: dict[int, float]) -> dict[int, float]:
    """Between the least and the most of the row."""
    low, high = min(values.values()), max(values.values())
    return {turn: (value - low) / (high - low) if high - low >= FLAT else 0.5 for turn, value in values.items()}


def measure(size: Size, repetitions: int) -> dict[str, Any]:
    """Seconds of the vectorised and of the looped way, their ratio per token, and how far they disagree.

    Raises SystemExit where the two differ by more than float32 sums may.
    """
    torch.set_num_threads(2)
    batch = make_batch(size)
    vectorised(*batch)
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        ours = vectorised(*batch)
        seconds.append(time.perf_counter() - began)
    rows = [[column[row].tolist() for column in batch] for row in range(size.loop_rows)]
    began = time.perf_counter()
    loop = [looped(*row) for row in rows]
    loop_seconds = time.perf_counter() - began
    apart = max(
        float((mine_BT[: size.loop_rows] - torch.tensor(theirs)).abs().max())
        for mine_BT, theirs in zip(ours, zip(*loop, strict=True), strict=True)
    )
    if apart > 1e-3:
        raise SystemExit(f"the loop and the package differ by {apart:.1e}")
    median = statistics.median(seconds)
    per_token = median / (size.rows * size.tokens)
    loop_per_token = loop_seconds / (size.loop_rows * size.tokens)
    return {
        "seconds": median,
        "seconds_all": seconds,
        "ratio_python_loop": loop_per_token / per_token,
        "loop_seconds": loop_seconds,
        "nanoseconds_per_token": {"sod": per_token * 1e9, "loop": loop_per_token * 1e9},
        "largest_difference": apart,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=Size.rows, help="trajectories")
    parser.add_argument("--tokens", type=int, default=Size.tokens, help="tokens of each")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    size = Size(options.rows, options.tokens, loop_rows=min(options.rows, Size.loop_rows))
    found = measure(size, options.repetitions)
    each = found["nanoseconds_per_token"]
    print(f"{size.rows} x {size.tokens} tokens, {size.turns} turns: {found['seconds']:.3f} s (goal {GOAL_SECONDS} s)")
    print(f"per token: {each['sod']:.1f} ns, plain Python loop {each['loop']:.0f} ns over {size.loop_rows} rows")
    print(f"ratio {found['ratio_python_loop']:.0f}; the two differ by at most {found['largest_difference']:.1e}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
