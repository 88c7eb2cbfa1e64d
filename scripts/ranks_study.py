"""Two ranks and a vLLM server against one process, in the quickstart's world: do they learn the same?

    python scripts/ranks_study.py --out study [--size cpu|toy] [--steps 30] [--seeds 5] [--vllm .venv-vllm]
        [--seconds 300]

The world is made once, with models of head size 64, which vLLM's build for CPUs has kernels for. From there on SOD runs
with so many seeds in one process, and once more with `parallel.shards=2` and its student sampled by a server that the
run starts. The question: is the mean reward of the last ten steps within two standard deviations of the seeds' mean?
Ends with 1 where it is not.

Each stage is a `sod` command with a run below `--out`: what is there is not made again, a run that was stopped goes on
from its newest checkpoint, and `--seconds` ends the study between stages. All figures are in OUT/study.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from stages import Stages, assigned, goes_on

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
LAST = 10
"""Steps at the end whose rewards are averaged."""
DEVIATIONS = 2.0
RANKED = "ranks"
TEACHER, STUDENT = "{layers: 3, hidden: 128, heads: 2, ffn: 256}", "{layers: 2, hidden: 128, heads: 2, ffn: 192}"

SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"world.validation": 16, "world.test": 16},
    "toy": {
        "world.sft": 64,
        "world.train": 24,
        "world.validation": 4,
        "world.test": 4,
        "world.longest": 3,
        "world.teacher_sft.steps": 8,
        "world.teacher_sft.batch_size": 8,
        "sft.steps": 8,
        "sft.batch_size": 8,
        "rollout.prompts": 2,
        "rollout.samples": 2,
        "rollout.max_turns": 2,
        "rollout.max_response_tokens": 96,
    },
}
"""Keys of the quickstart's recipe that are other than there."""


def main() -> int:
    """See above."""
    options = parsed()
    keys = SIZES[options.size]
    stages = Stages(options.out / "study.json", options.seconds)
    make_world(stages, options.out, keys)
    for seed in range(1, options.seeds + 1):
        name, own = f"seed-{seed}", trained_keys(options.out, keys, options.steps, seed)
        stages.command(name, *goes_on("train", options.out / name, RECIPE, *assigned(own)))
    ranks = trained_keys(options.out, keys, options.steps, 1) | ranked_keys(options.vllm)
    stages.command(RANKED, *goes_on("train", options.out / RANKED, RECIPE, *assigned(ranks)))
    names = [f"seed-{seed}" for seed in range(1, options.seeds + 1)]
    rewards = {name: last_reward(options.out / name) for name in (*names, RANKED)}
    for name, reward in rewards.items():
        stages.tell(f"{name}, reward of the last {LAST} steps", round(reward, 4))
    away = deviations([rewards[name] for name in names], rewards[RANKED])
    stages.tell("standard deviations between", round(away, 2))
    stages.tell("within", abs(away) <= DEVIATIONS)
    return 0 if abs(away) <= DEVIATIONS else 1


def parsed() -> argparse.Namespace:
    """The options."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where everything is written")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--steps", type=int, default=30, help="of each run")
    parser.add_argument("--seeds", type=int, default=5, help="runs in one process")
    parser.add_argument("--vllm", default=os.environ.get("SOD_VLLM", ".venv-vllm"), help="vLLM's environment")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no stage begins after so many")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: a standard deviation takes two at least")
    return options


def make_world(stages: Stages, out: Path, keys: Mapping[str, Any]) -> None:
    """Data, a teacher, and a student after SFT, by a quickstart whose own distillation is one step."""
    models = {"world.teacher": TEACHER, "world.student": STUDENT}
    quick = models | {"train.steps": 1, "evaluation.k": 1}
    stages.command("world", "quickstart", RECIPE, *assigned({**keys, **quick}), "--out", out / "world")


def trained_keys(out: Path, keys: Mapping[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """The keys of a run in that world."""
    world = out / "world"
    paths = {
        "student.path": world / "student-sft",
        "teacher.path": world / "teacher-sft",
        "data.train": world / "data" / "train.parquet",
        "data.validation": world / "data" / "validation.parquet",
    }
    own = {key: value for key, value in keys.items() if key.startswith("rollout.")}
    return {**own, **paths, "seed": seed, "train.steps": steps, "train.checkpoint_every": LAST}


def ranked_keys(vllm: str) -> dict[str, Any]:
    """What makes a run one of two ranks beside a server of its own."""
    options = "[--enforce-eager, --kv-cache-memory-bytes, '536870912']"
    return {
        "parallel.shards": 2,
        "engine.kind": "vllm",
        "engine.environment": Path(vllm).absolute(),
        "engine.options": options,
    }


def last_reward(run: Path) -> float:
    """The mean reward of a run's last steps."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.mean(row["reward"] for row in rows[-LAST:])


def deviations(seeds: Sequence[float], other: float) -> float:
    """How many standard deviations of the seeds another value is from their mean; of seeds that are alike 0 or inf."""
    away, deviation = other - statistics.mean(seeds), statistics.stdev(seeds)
    if deviation == 0.0:
        return math.copysign(math.inf, away) if away else 0.0
    return away / deviation


if __name__ == "__main__":
    sys.exit(main())
