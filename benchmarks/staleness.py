"""What `rollout.max_staleness: 1` saves where sampling and training have cores of their own, on a CPU.

    taskset -c 0 .venv-vllm/bin/vllm serve WORLD/student-sft --port 8300 ...    # as docs/vllm.md says
    taskset -c 1 python benchmarks/staleness.py WORLD --url http://127.0.0.1:8300 --out OUT [--steps 10] [--rounds 2]

WORLD is what `sod quickstart` left, with models whose heads vLLM for CPUs can run (64 dimensions). Runs of both kinds
take turns, so that other work on the machine meets both. Prints the median wall time of a step for each run, and the
ratio of the two kinds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
WARMING_UP = 2
"""Steps at the beginning that are left out: the first compiles, and with staleness the second has nothing beside it."""


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number in range(options.rounds):
        for staleness, found in seconds.items():
            steps = step_seconds(options, staleness, options.out / f"staleness-{staleness}-{number}")
            found += steps
            print(f"max_staleness {staleness}: {statistics.median(steps):.2f} s a step (median of {len(steps)})")
    fresh, stale = (statistics.median(found) for found in seconds.values())
    print(f"together: {fresh:.2f} and {stale:.2f} s a step, ratio {stale / fresh:.2f}")


def step_seconds(options: argparse.Namespace, staleness: int, run: Path) -> list[float]:
    """Run so many steps, and give the wall times of all but the first."""
    world = options.world
    keys = {
        "student.path": world / "student-sft",
        "teacher.path": world / "teacher-sft",
        "data.train": world / "data" / "train.parquet",
        "data.validation": world / "data" / "validation.parquet",
        "engine.kind": "vllm",
        "engine.urls": f"[{options.url}]",
        "rollout.max_staleness": staleness,
        "train.steps": options.steps,
        "train.evaluate_every": 0,
        "train.checkpoint_every": options.steps,
        "threads": 1,
    }
    words = [f"{key}={value}" for key, value in keys.items()]
    subprocess.run([sys.executable, "-m", "sod", "train", str(RECIPE), *words, "--run", str(run)], check=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [float(row["seconds"]) for row in rows[WARMING_UP:]]


if __name__ == "__main__":
    main()
