"""A student learns from a teacher of another tokenizer: every estimator in the quickstart's world, on a CPU.

    python scripts/tokenizers_study.py --out study [--seeds 1 2 3] [--arms chunk simct] [--size cpu|toy] [--lr LR]

For each seed: the world of `sod quickstart` (data, a teacher, a student with its tokenizer, and the cold start), and a
second teacher of the same shape and SFT whose tokenizer, chat template and call syntax are others. From the one cold
start every arm is a run of its own; an arm is a method, the teacher it asks and how the scores of that are aligned.
All models play the same held-out tasks.

OUT/results.jsonl has a line for each model, written as it is done. What stands there is not done again, so that the
same command goes on where it was stopped; processes with different seeds may write side by side, and `--seconds` ends
one between models. OUT/summary.md has the table, with 95% intervals, of all lines there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import sod
from sod.cli.allocator import reexecute_with_tunables
from sod.evaluation.statistics import spread
from sod.recipe import Recipe, load_recipe
from sod.seeds import derive

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"

SPECIAL = ("<|pad|>", "<|from|>", "<|over|>")
APART = r"[0-9]{1,3}|[-+*()]+|print|(?:user|tool|assistant)\n"
"""What the other tokenizer keeps apart: numbers in pieces of up to three digits, runs of operators, and two edges."""
TEMPLATE = """
{%- if tools %}{{ '<|from|>system\n# Tools\n' + (tools | tojson) + '\nCall one so:\n' }}
{{- '<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call><|over|>\n' }}
{%- endif %}
{%- for m in messages %}
{{- '<|from|>' + m.role + '\n' + m.content }}
{%- for c in m.tool_calls or [] %}
{{- ('\n\n' if loop.first and m.content else ('' if loop.first else '\n')) + '<tool_call>\n<function=' }}
{{- c.function.name + '>\n' }}
{%- for k, v in c.function.arguments | items %}
{{- '<parameter=' + k + '>\n' + (v if v is string else v | tojson) + '\n</parameter>\n' }}
{%- endfor %}
{{- '</function>\n</tool_call>' }}
{%- endfor %}
{{- '<|over|>\n' }}
{%- endfor %}
{{- '<|from|>assistant\n' if add_generation_prompt }}"""
"""The other teacher's chat template: calls in XML, other names of roles' marks, another end of turn."""


@dataclass(frozen=True)
class Arm:
    """A method and the teacher it asks: `equal` has the student's tokenizer, `other` another, "" is none."""

    teacher: str
    method: Mapping[str, Any]


def over_spans(kind: str, **more: Any) -> Arm:
    """Plain on-policy distillation from the other teacher by this estimator."""
    return Arm("other", {"name": "opd", "alignment": {"kind": kind, **more}})


SOD = {"name": "sod", "epsilon": 0.5}  # as in recipes/quickstart.yaml
ARMS = {
    "equal": Arm("equal", {"name": "opd"}),
    "equal_dense": Arm("equal", {"name": "opd", "divergence": "reverse_kl"}),
    "chunk": over_spans("chunk"),
    "simct": over_spans("simct"),
    "simct_logit": over_spans("simct", unit_score="logit"),
    "shared_tokens": over_spans("shared_tokens"),
    "strict_topk": over_spans("strict_topk"),
    "gold": over_spans("gold"),
    "uld": over_spans("uld"),
    "bpm": over_spans("bpm"),
    "sod_equal": Arm("equal", SOD),
    "sod_chunk": Arm("other", {**SOD, "alignment": "chunk"}),
    "sod_simct": Arm("other", {**SOD, "alignment": "simct"}),
    "sod_shared_tokens": Arm("other", {**SOD, "alignment": "shared_tokens"}),
    "grpo": Arm("", {"name": "grpo"}),
}
COLD, TEACHERS = "cold start", {"equal": "teacher, equal", "other": "teacher, other"}


@dataclass(frozen=True)
class Size:
    """How much of everything: the world's traces and training tasks, steps of SFT, the other tokenizer's `vocabulary`,
    and what a run takes."""

    traces: int
    teacher_sft: int
    student_sft: int
    vocabulary: int
    prompts: int
    samples: int
    steps: int
    lr: float
    test: int
    k: int


SIZES = {
    "cpu": Size(4_000, 400, 700, 640, 8, 8, 16, 2e-4, 256, 2),
    "toy": Size(64, 2, 4, 400, 2, 2, 1, 2e-4, 4, 1),
}


class Study:
    """The lines of the models done so far."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self._ends = out, time.monotonic() + seconds
        self.path = out / "results.jsonl"
        out.mkdir(parents=True, exist_ok=True)

    def lines(self) -> list[dict[str, Any]]:
        """What is on disk, of this and any other process."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def once(self, seed: int, name: str, make: Callable[[], Mapping[str, Any]]) -> None:
        """Make a model's figures, unless they are there. Ends the study where the time is over."""
        if any((line["seed"], line["model"]) == (seed, name) for line in self.lines()):
            return
        if time.monotonic() > self._ends:
            sys.exit(f"the time is over before: seed {seed}, {name}; the same command goes on from here")
        began, cpu = time.monotonic(), time.process_time()
        figures = make()
        seconds = {"seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
        line = {"seed": seed, "model": name, **figures, **seconds}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def main() -> None:
    """All models of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--steps", type=int, help="of every arm's run, in place of the size's own")
    parser.add_argument("--lr", type=float, help="of every arm's run, in place of the size's own")
    parser.add_argument("--seconds", type=float, default=1e9, help="no model begins after so many (default: no end)")
    options = parser.parse_args()
    study, size = Study(options.out, options.seconds), chosen_size(options)
    for seed in options.seeds:
        play_seed(study, size, seed, options.arms)
    summary = table(study.lines())
    (options.out / "summary.md").write_text(summary)
    print(summary)


def chosen_size(options: argparse.Namespace) -> Size:
    """The size with what the command line puts in its place."""
    size = SIZES[options.size]
    if options.steps is not None:
        size = replace(size, steps=options.steps)
    if options.lr is not None:
        size = replace(size, lr=options.lr)
    return size


def play_seed(study: Study, size: Size, seed: int, arms: Sequence[str]) -> None:
    """The world of a seed with its three models, then the arms."""
    recipe, place = world_recipe(size, seed), study.out / f"world-{seed}"
    study.once(seed, COLD, partial(made_world, recipe, place))
    study.once(seed, TEACHERS["equal"], partial(success, recipe, place, "teacher-sft"))
    study.once(seed, TEACHERS["other"], partial(made_other_teacher, recipe, place, size))
    for arm in arms:
        run = study.out / f"{arm}-{seed}"
        study.once(seed, arm, partial(trained, recipe, place, size, ARMS[arm], run))


def world_recipe(size: Size, seed: int) -> Recipe:
    """The quickstart's recipe with the study's sizes, and each model's own chat template."""
    return load_recipe(
        RECIPE,
        [
            f"seed={seed}",
            "threads=1",
            "chat.template=auto",
            f"sft.steps={size.student_sft}",
            f"world.teacher_sft.steps={size.teacher_sft}",
            f"world.sft={size.traces}",
            f"world.train={size.traces}",
            f"world.test={size.test}",
            f"evaluation.k={size.k}",
            "rollout.max_prompt_tokens=192",  # the other tokenizer may need more for the tools
            f"rollout.prompts={size.prompts}",
            f"rollout.samples={size.samples}",
            f"train.steps={size.steps}",
            f"train.checkpoint_every={size.steps}",
            "train.trajectories_every=0",
        ],
    )


def made_world(recipe: Recipe, place: Path) -> dict[str, Any]:
    """The data, the teacher with the student's tokenizer and the student's cold start; the success of the last."""
    from sod.front.showing import run_quietly
    from sod.quickstart.run import make_world
    from sod.report.console import notice

    shutil.rmtree(place, ignore_errors=True)
    make_world(recipe, place, partial(run_quietly, recipe), notice)
    return success(recipe, place, "student-sft")


def made_other_teacher(recipe: Recipe, place: Path, size: Size) -> dict[str, Any]:
    """SFT of the other teacher, from random weights on the first one's traces; its success."""
    from sod.models.load import save_model
    from sod.models.scratch import new_qwen3
    from sod.quickstart.run import in_world
    from sod.tasks.files import load_conversations

    traces = place / "data" / "sft-teacher.parquet"
    chat = other_chat(load_conversations(str(traces)).items, size.vocabulary)
    shape = recipe.world.teacher.model_dump()
    seed = derive(recipe.seed, "other teacher")
    model = new_qwen3(chat.tokenizer, **shape, context=recipe.world.context, seed=seed)
    start, run = place / "other-init", place / "other-sft"
    shutil.rmtree(run, ignore_errors=True)
    save_model(model, chat.tokenizer, str(chat.tokenizer.chat_template), chat.end_id, start)
    spec = in_world(recipe, place, "other-init")
    data = spec.data.model_copy(update={"sft": str(traces)})
    sod.sft(spec.model_copy(update={"sft": recipe.world.teacher_sft, "data": data}), run=run, progress=False)
    return success(recipe, place, "other-sft") | {"vocabulary": len(chat.tokenizer)}


def other_chat(conversations: Sequence[Any], vocabulary: int) -> Any:
    """The chat of the other tokenizer, which is learned from the conversations as its own template renders them."""
    from sod.chat.render import Chat

    tools = conversations[0].tools
    blank = Chat(other_tokenizer([], 300), tools)
    return Chat(
        other_tokenizer([blank.conversation_text(c.messages) for c in conversations[:2_000]], vocabulary), tools
    )


def other_tokenizer(corpus: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE with numbers of several digits, runs of operators and long words, and the other template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    apart = pre_tokenizers.Split(Regex("|".join(SPECIAL).replace("|>", r"\|>").replace("<|", r"<\|")), "isolated")
    pieces = pre_tokenizers.Split(Regex(APART), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, pieces, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    made.chat_template = TEMPLATE
    return made


def trained(recipe: Recipe, place: Path, size: Size, arm: Arm, run: Path) -> dict[str, Any]:
    """An arm's run from the cold start; success after it, and how much of what was said was scored."""
    shutil.rmtree(run, ignore_errors=True)
    done = sod.train(arm_recipe(recipe, place, size, arm), run=run, progress=False)
    rows = done.metrics
    covered = [row["coverage"] for row in rows if "coverage" in row]
    aligned = [row["aligned"] for row in rows if "aligned" in row]
    return success(recipe, place, str(done.model.absolute())) | {
        "lr": size.lr,
        "steps": len(rows),
        "coverage": round(fmean(covered), 4) if covered else None,
        "aligned": round(fmean(aligned), 4) if aligned else None,
        "accuracy": [round(row["accuracy"], 3) for row in rows],
    }


def arm_recipe(recipe: Recipe, place: Path, size: Size, arm: Arm) -> Recipe:
    """What an arm runs: the cold start, the arm's teacher and method."""
    from sod.quickstart.run import in_world
    from sod.recipe import parse_recipe

    spec = in_world(recipe, place).model_dump()
    paths = {"equal": place / "teacher-sft", "other": place / "other-sft"}
    spec["teacher"] = {"path": str(paths[arm.teacher]), "dtype": "float32"} if arm.teacher else None
    spec["method"] = dict(arm.method)
    spec["optim"]["lr"] = size.lr
    return parse_recipe({key: value for key, value in spec.items() if key not in ("world", "sft")}, str(RECIPE))


def success(recipe: Recipe, place: Path, model: str) -> dict[str, Any]:
    """avg@k of a model of the world, or at a path, on the held-out tasks, with its 95% interval over tasks."""
    from sod.quickstart.run import in_world

    spec = in_world(recipe, place, model).model_copy(update={"teacher": None, "world": None})
    test = place / "data" / "test.parquet"
    to = place / "evaluations" / Path(model).name
    shutil.rmtree(to, ignore_errors=True)
    result = sod.evaluate(place / model, test, recipe=spec, to=to, progress=False).as_dict()
    return {
        "success": round(result["avg_at_k"], 4),
        "ci95": [round(end, 4) for end in result["ci95"]],
        "tasks": result["tasks"],
        "k": result["k"],
        "tool_error_rate": round(result["tool_error_rate"], 4),
    }


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """All models: success of each seed, its mean and the gain over the cold start of the same seed, as Markdown."""
    by_model: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        by_model.setdefault(line["model"], {})[line["seed"]] = line
    rows = [
        "| model | coverage | each seed | avg@k | gain | 95% interval |",
        "|---|---|---|---|---|---|",
    ]
    known = [COLD, *TEACHERS.values(), *ARMS]
    rows += [row(name, by_model[name], by_model[COLD]) for name in known if name in by_model]
    return "\n".join(rows) + "\n"


def row(name: str, by_seed: Mapping[int, Mapping[str, Any]], cold: Mapping[int, Mapping[str, Any]]) -> str:
    """One model's line in the table; intervals are t-intervals over seeds."""
    seeds = sorted(by_seed)
    reached = [by_seed[seed]["success"] for seed in seeds]
    each = ", ".join(f"{100 * value:.1f}" for value in reached)
    covered = [by_seed[seed]["coverage"] for seed in seeds if by_seed[seed].get("coverage") is not None]
    cells = [name, f"{fmean(covered):.3f}" if covered else "", each, f"{100 * fmean(reached):.1f}"]
    if name in ARMS:
        gain = spread([by_seed[seed]["success"] - cold[seed]["success"] for seed in seeds])
        ends = "-" if gain.ci95 is None else f"[{100 * gain.ci95[0]:.1f}, {100 * gain.ci95[1]:.1f}]"
        cells += [f"{100 * gain.mean:+.1f}", ends]
    else:
        cells += ["", ""]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    reexecute_with_tunables()
    main()
