"""Agents in the worlds of the ATOD paper, from nothing, on a CPU: a teacher, a student led astray, and methods from it.

    python scripts/worlds_study.py --out study [--worlds searchqa webshop] [--methods atod sod opd grpo] [--seeds 0 1 2]

For each world: traces of its scripted expert on training tasks, a tokenizer learned from them, and a teacher, by SFT
from random weights. For each seed: a student, which is the teacher after a little SFT on traces of a sloppy expert (the
cold start), then every method from that student, and success on the held-out tasks. With `--anew` a student is a
smaller model from random weights of its own, after SFT on as many sloppy traces as the teacher had good ones. Settings
begin with recipes/atod-WORLD.yaml; the world is a small one, and the models have less than a million parameters. In
stages: what OUT/study.json holds is not done again, so that the same command goes on where it was stopped, and
`--seconds` ends it between stages. OUT/summary.md has the table, with 95% intervals.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import sod
from sod.cli.allocator import reexecute_with_tunables
from sod.environments.playing import Move, Played
from sod.environments.replies import began_with, stepped_with
from sod.evaluation.statistics import spread
from sod.recipe import EnvironmentSpec, ScratchSpec, read_yaml
from sod.records import Task
from sod.seeds import derive
from sod.tasks.base import Conversation

RECIPES = Path(__file__).parents[1] / "recipes"
METHODS: dict[str, dict[str, Any]] = {
    "atod": {"name": "atod"},
    "sod": {"name": "sod", "epsilon": 0.5},  # as in recipes/quickstart.yaml, and for the reason told there
    "sod_paper": {"name": "sod"},
    "opd": {"name": "opd"},
    "grpo": {"name": "grpo"},
}
CONTEXT = 512  # tokens of the longest episode
MODEL_SEED, TEACHER_LR = 7, 3e-3
MICRO_BATCH = 8_192  # tokens of a forward and backward pass
RUN_OF_A_SEED = re.compile(rf"(\w+)/(start|{'|'.join(METHODS)})-(\d+)")


@dataclass(frozen=True)
class World:
    """A small version of a world, how its traces come to be, and the steps of SFT that teacher and students take.

    `apart` is what the tokenizer never merges with its neighbours (`train_tokenizer`): what a model has to copy.
    `slips` is how often the students' expert does something else in a turn.
    """

    environment: Mapping[str, Any]
    rollout: Mapping[str, int]
    apart: str
    vocabulary: int
    slips: float
    teacher_sft: int
    student_sft: int


SHOP_WORDS = (
    "shirt lamp cotton wool machine washable long sleeve slim fit loose quick drying hand made easy clean dimmable "
    "fire proof bamboo foldable heavy duty energy saving vintage red blue green black white yellow purple brown "
    "small medium extra large"
)
WORLDS = {
    "searchqa": World(
        {"people": 200, "hops": 2, "train": 1200, "validation": 200, "passages": 1},
        {"max_turns": 4, "max_prompt_tokens": 128, "max_turn_tokens": 32, "max_response_tokens": 256},
        r"[A-Z][a-z]+",
        1_100,
        slips=0.6,
        teacher_sft=400,
        student_sft=15,
    ),
    "webshop": World(
        {"products": 24, "kinds": 2, "in_title": 3, "results": 2, "train": 500, "validation": 150},
        {"max_turns": 8, "max_prompt_tokens": 128, "max_turn_tokens": 40, "max_response_tokens": 384},
        rf"\b(?:B[0-9]+|{SHOP_WORDS.replace(' ', '|')})\b",
        900,
        slips=0.5,
        teacher_sft=160,
        student_sft=15,
    ),
}


@dataclass(frozen=True)
class Size:
    """How much of everything. `sloppy` traces lead a student astray; `sft` bounds the steps of SFT.

    Shapes of models are layers and hidden size; `student` is that of one with random weights.
    """

    traces: int
    sloppy: int
    teacher: tuple[int, int]
    student: tuple[int, int]
    sft: int
    batch: int
    prompts: int
    samples: int
    steps: int
    lr: float
    tasks: int
    k: int


SIZES = {
    "cpu": Size(1_200, 480, (3, 128), (3, 96), 1_000, 32, 8, 8, 12, 1e-3, 0, 1),
    "toy": Size(12, 12, (2, 16), (1, 16), 1, 4, 2, 2, 1, 1e-3, 2, 1),
}


class Study:
    """The figures of the stages done so far."""

    def __init__(self, out: Path, seconds: float) -> None:
        self._out, self._ends = out, time.monotonic() + seconds
        self._path = out / "study.json"
        out.mkdir(parents=True, exist_ok=True)
        self.figures: dict[str, Any] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    def stage(self, name: str, make: Callable[[Path], Any]) -> Path:
        """Do a stage once, in a directory of its own, which is returned; what an earlier try left there is removed.

        What `make` returns is kept with the seconds it took. Ends the study where the time is over.
        """
        place = self._out / name
        if name in self.figures:
            return place
        if time.monotonic() > self._ends:
            sys.exit(f"the time is over before: {name}; the same command goes on from here")
        print(f"== {name}", flush=True)
        shutil.rmtree(place, ignore_errors=True)
        began, cpu = time.monotonic(), time.process_time()
        kept = make(place)
        self.figures[name] = {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            **(kept or {}),
        }
        self._path.write_text(json.dumps(self.figures, indent=1) + "\n")
        print(f"{name}: {self.figures[name]}", flush=True)
        return place


def main() -> None:
    """All stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["atod", "sod"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--anew", action="store_true", help="students begin with random weights, on more sloppy traces")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--seconds", type=float, default=1e9, help="no stage begins after so many (default: no end)")
    options = parser.parse_args()
    study, size = Study(options.out, options.seconds), SIZES[options.size]
    for world in options.worlds:
        play_world(study, world, size, options.seeds, options.methods, options.anew)
    summary = summarized(study.figures)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (options.out / "summary.md").write_text(table(summary))
    print(table(summary))


def play_world(study: Study, world: str, size: Size, seeds: Sequence[int], methods: Sequence[str], anew: bool) -> None:
    """One world's stages: the teacher, then for each seed the student and the methods."""
    sloppy = size.traces if anew else size.sloppy
    traces = study.stage(f"{world}/traces", partial(written_traces, world, size, sloppy, seeds))
    model = study.stage(f"{world}/teacher-init", partial(new_model, traces, world, size.teacher, MODEL_SEED))
    recipe = sft_recipe(world, size, model, traces / "expert.parquet", (WORLDS[world].teacher_sft, TEACHER_LR), 0)
    teacher = study.stage(f"{world}/teacher", partial(tuned, recipe))
    for seed in seeds:
        start = cold_start(study, world, size, traces, teacher, seed, anew)
        for method in methods:
            recipe = method_recipe(world, size, method, start, teacher, seed)
            study.stage(f"{world}/{method}-{seed}", partial(trained, recipe))


def cold_start(study: Study, world: str, size: Size, traces: Path, teacher: Path, seed: int, anew: bool) -> Path:
    """The student of a seed: the teacher led astray, or a smaller model from random weights of its own."""
    sloppy = traces / f"sloppy-{seed}.parquet"
    if not sloppy.is_file():
        sys.exit(f"{sloppy}: not there; seeds are chosen when a study begins, so give another --out")
    model, sft = teacher, (WORLDS[world].student_sft, size.lr)
    if anew:
        make = partial(new_model, traces, world, size.student, derive(seed, "student"))
        model, sft = study.stage(f"{world}/student-init-{seed}", make), (WORLDS[world].teacher_sft, TEACHER_LR)
    recipe = sft_recipe(world, size, model, sloppy, sft, seed)
    return study.stage(f"{world}/start-{seed}", partial(tuned, recipe))


def written_traces(world: str, size: Size, sloppy: int, seeds: Sequence[int], place: Path) -> dict[str, Any]:
    """Traces of the expert on training tasks, for each seed those of a sloppy one. Returns how often they succeed."""
    from sod.build.worlds import environment_maker
    from sod.tasks.files import write_conversations

    environment = environment_maker(EnvironmentSpec(**base_recipe(world, size, 0)["environment"]))()
    tasks = environment.tasks("train")[: size.traces]
    place.mkdir(parents=True)
    succeeded = {}
    for name, slips, seed in [("expert", 0.0, 0), *((f"sloppy-{seed}", WORLDS[world].slips, seed) for seed in seeds)]:
        random = Random(derive(seed, "slips"))
        limit = WORLDS[world].rollout["max_turns"]
        chosen = tasks[:sloppy] if slips else tasks
        traces = [trace(environment, task, number, slips, random, limit) for number, task in enumerate(chosen)]
        write_conversations(place / f"{name}.parquet", traces)
        succeeded[name] = round(sum(one.reward == 1 for one in traces) / len(traces), 4)
    return {"traces": len(tasks), "succeeded": succeeded}


def trace(environment: Any, task: Task, number: int, slips: float, random: Random, limit: int) -> Conversation:
    """What the world's expert does in a task, as a conversation, of `limit` turns at most.

    With probability `slips` it does in a turn something else that can be done, and goes on from where that has led.
    The first of what can be done begins anew (the whole question again, back to the search): it is no slip.
    """
    from sod.build.traces import conversation_of

    began = began_with(environment.reset(task, number))
    moves: list[Move] = []
    while len(moves) < limit and not (moves and moves[-1].stepped.done):
        others = environment.choices()[1:] if random.random() < slips else []
        action = random.choice(others) if others else environment.expert()
        moves.append(Move(action, stepped_with(environment.step(action), action)))
    return conversation_of(Played(task, began, tuple(moves), sum(move.stepped.reward for move in moves)))


def new_model(traces: Path, world: str, shape: tuple[int, int], seed: int, place: Path) -> None:
    """A model with random weights, and a tokenizer that is learned from the world's traces."""
    from sod.quickstart.world import scratch_chat, write_scratch
    from sod.tasks.files import load_conversations

    small = WORLDS[world]
    chat = scratch_chat(load_conversations(str(traces / "expert.parquet")).items, small.vocabulary, small.apart)
    layers, hidden = shape
    write_scratch(chat, ScratchSpec(layers=layers, hidden=hidden, heads=4, ffn=2 * hidden), CONTEXT, seed, place)


def base_recipe(world: str, size: Size, seed: int) -> dict[str, Any]:
    """The world's recipe, with the small world, and settings for one thread of a CPU."""
    small = WORLDS[world]
    content = read_yaml(str(RECIPES / f"atod-{world}.yaml"))
    return content | {
        "seed": seed,
        "threads": 1,
        "chat": {"template": "hermes"},
        "environment": {"call": content["environment"]["call"], **small.environment},
        "rollout": {"prompts": size.prompts, "samples": size.samples, **small.rollout},
        "evaluation": {"k": size.k, "tasks": size.tasks},
    }


def sft_recipe(world: str, size: Size, model: Path, data: Path, sft: tuple[int, float], seed: int) -> dict[str, Any]:
    """SFT of a model on traces, of so many steps at this learning rate."""
    steps, lr = min(sft[0], size.sft), sft[1]
    section = {
        "steps": steps,
        "batch_size": size.batch,
        "max_tokens": CONTEXT,
        "checkpoint_every": steps,
        "optim": optim(lr, min(20, steps // 3)),
    }
    student = {"path": str(model), "dtype": "float32"}
    return base_recipe(world, size, seed) | {
        "student": student,
        "teacher": None,
        "data": {"sft": str(data)},
        "sft": section,
    }


def method_recipe(world: str, size: Size, method: str, start: Path, teacher: Path, seed: int) -> dict[str, Any]:
    """A method from a student's cold start."""
    recipe = base_recipe(world, size, seed)
    knobs = METHODS[method]
    if method == "atod":  # the recipe's own, annealed over this run
        own = recipe["method"]
        knobs = {**own, **{key: {**own[key], "steps": size.steps} for key in ("kappa", "rho")}}
    return recipe | {
        "student": {"path": str(start), "dtype": "float32"},
        "teacher": None if method == "grpo" else {"path": str(teacher), "dtype": "float32"},
        "method": knobs,
        "optim": optim(size.lr, 3),
        "train": {"steps": size.steps, "checkpoint_every": size.steps, "trajectories_every": 0},
    }


def optim(lr: float, warmup: int) -> dict[str, Any]:
    """AdamW for small models."""
    return {"lr": lr, "warmup_steps": warmup, "schedule": "cosine", "micro_batch_tokens": MICRO_BATCH}


def tuned(recipe: dict[str, Any], place: Path) -> dict[str, Any]:
    """SFT, and success after it."""
    return success(sod.sft(recipe, run=place, progress=False), recipe)


def trained(recipe: dict[str, Any], place: Path) -> dict[str, Any]:
    """A method's run, and success after it."""
    return success(sod.train(recipe, run=place, progress=False), recipe)


def success(run: sod.Run, recipe: dict[str, Any]) -> dict[str, Any]:
    """The share of held-out episodes that succeed, with its 95% interval; turns and tool errors."""
    result = sod.evaluate(run, recipe=recipe, to=run.path / "evaluation", progress=False).as_dict()
    return {
        "success": round(result["avg_at_k"], 4),
        "ci95": [round(end, 4) for end in result["ci95"]],
        "tasks": result["tasks"],
        "k": result["k"],
        "turns": round(result["turns"], 2),
        "tool_error_rate": round(result["tool_error_rate"], 4),
    }


def summarized(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Success by world and method, means over seeds, and gains over the cold start of the same seed."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, kept in figures.items():
        if match := RUN_OF_A_SEED.fullmatch(name):
            world, method, seed = match.groups()
            found.setdefault(world, {}).setdefault(method, {})[int(seed)] = kept["success"]
    return {
        world: {
            "teacher": figures[f"{world}/teacher"],
            "methods": {
                method: {
                    "success": spread(list(by_seed.values())).as_dict(),
                    "gain": spread([value - methods["start"][seed] for seed, value in by_seed.items()]).as_dict(),
                    "by_seed": by_seed,
                }
                for method, by_seed in methods.items()
            },
        }
        for world, methods in found.items()
    }


def table(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    lines = []
    for world, content in summary.items():
        teacher = content["teacher"]
        lines += [
            f"## {world}",
            "",
            f"Success in % of episodes, {teacher['tasks']} held-out tasks; mean over seeds and 95% t-interval. Gain: "
            "points over the cold start of the same seed.",
            "",
            "| model | seeds | success | 95% interval | each seed | gain | 95% interval |",
            "|---|---|---|---|---|---|---|",
            f"| teacher | 1 | {percent(teacher['success'])} | {ends(*teacher['ci95'])} (tasks) | | | |",
        ]
        for method, row in content["methods"].items():
            success, gain = row["success"], row["gain"]
            seeds = ", ".join(percent(value) for value in row["by_seed"].values())
            cells = [method, str(success["n"]), percent(success["mean"]), interval(success), seeds]
            cells += ["", ""] if method == "start" else [f"{100 * gain['mean']:+.1f}", interval(gain)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def interval(value: Mapping[str, Any]) -> str:
    """A 95% interval in points; a single seed has none."""
    return "-" if value["ci95"] is None else ends(*value["ci95"])


def ends(low: float, high: float) -> str:
    """Both ends in points."""
    return f"[{percent(low)}, {percent(high)}]"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    reexecute_with_tunables()
    main()
