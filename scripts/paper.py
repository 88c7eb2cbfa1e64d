"""The table of the SOD paper (arXiv 2605.07725), from data to figures: `make paper-0.6b`, `make paper-1.7b`.

    python scripts/paper.py --size 0.6b --out runs/paper-0.6b [--machine one-gpu-24gb] [--own-teacher] [--seconds 3600]
    python scripts/paper.py --toy --out runs/paper-toy

In stages, each a `sod` command with the recipes `qwen3-*.yaml`: cold start, its merge, hints, a run for each row of the
table (by the authors' released teacher, or with `--own-teacher` by one that is trained first), an evaluation of each on
the paper's benchmarks, and OUT/table.md, ours beside the paper's. What is there is not made again, and a run that was
stopped goes on from its newest checkpoint: the same command goes on where it was stopped. `--seconds` ends it between
stages. Data and models come from the Hugging Face hub; `--data-dir` names a folder with the benchmarks.

`--toy` takes the same way in minutes on two CPU cores: models from scratch, invented problems, the same recipes under
a few keys of its own (OUT/recipes/toy.yaml). Its figures say that every stage works, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from stages import Stages, goes_on

BENCHMARKS = {
    "aime24": "AIME 2024",
    "aime25": "AIME 2025",
    "gpqa_diamond": "GPQA-Diamond",
    "livecodebench_v6": "LiveCodeBench v6",
}
ROWS = {"SFT": "sft", "GRPO": "grpo", "OPD": "opd", "OPSD_gt": "opsd-gt", "OPSD_hint": "opsd-hint", "SOD": "sod"}
"""A row of the table by the last part of its recipe's name; Vanilla and the teacher stand beside them."""
VANILLA, TEACHER = "Vanilla", "Teacher (GRPO)"
RELEASED_TEACHER = "youngzhong/SOD-GRPO_teacher-4B"
TRAIN_DATA = "Gen-Verse/Open-AgentRL-30K"
MACHINES = ("8x80gb", "one-gpu-80gb", "one-gpu-24gb")
_TEACHERS = (67.60, 60.42, 55.19, 63.13)
REPORTED: Mapping[str, Mapping[str, Sequence[float]]] = {
    "0.6b": {
        TEACHER: _TEACHERS,
        VANILLA: (7.71, 12.81, 13.24, 14.89),
        "SFT": (5.67, 5.42, 15.20, 9.61),
        "GRPO": (4.06, 4.90, 20.38, 15.95),
        "OPD": (16.82, 22.95, 17.76, 22.65),
        "OPSD_gt": (12.63, 17.04, 17.32, 16.73),
        "OPSD_hint": (9.77, 14.12, 15.98, 12.65),
        "SOD": (20.84, 26.13, 22.19, 27.72),
    },
    "1.7b": {
        TEACHER: _TEACHERS,
        VANILLA: (9.90, 8.96, 26.80, 22.73),
        "SFT": (26.77, 22.40, 29.85, 24.63),
        "GRPO": (25.63, 21.67, 33.55, 20.70),
        "OPD": (43.86, 37.04, 31.73, 32.45),
        "OPSD_gt": (33.85, 24.69, 35.02, 22.73),
        "OPSD_hint": (34.42, 21.43, 33.46, 23.12),
        "SOD": (50.83, 41.72, 38.72, 40.63),
    },
}
"""The paper's Table 1: mean accuracy over 32 samples, in percent, in the order of `BENCHMARKS`."""


@dataclass(frozen=True)
class Setting:
    """What is run where: `teacher` is None for one that is trained here, `over` are recipes that lie over those of the
    table, `k` samples a problem (None: the style's 32), `asked` more words of every evaluation.
    """

    size: str
    out: Path
    rows: Sequence[str]
    base: str
    teacher_base: str
    teacher: str | None
    train: str
    over: Sequence[str] = ()
    benchmarks: Sequence[str] = tuple(BENCHMARKS)
    data_dir: Path | None = None
    k: int | None = None
    asked: Sequence[str] = ()

    def recipe(self, name: str, **keys: Any) -> Path:
        """A recipe of the table with this machine's keys and others over it, written down."""
        file = self.out / "recipes" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({"extends": [name, *self.over], **keys}, sort_keys=False))
        return file


def main() -> None:
    """All stages."""
    options = parsed()
    stages = Stages(options.out / "study.json", options.seconds)
    setting = toy_setting(options, stages) if options.toy else real_setting(options)
    merged = cold_start(stages, setting, f"qwen3-{setting.size}-sft", setting.base, setting.size)
    teacher = setting.teacher or trained_teacher(stages, setting)
    if "OPSD_hint" in setting.rows:
        writer = [] if options.toy else ["--model", teacher]  # invented problems have a rule
        stages.command("hints", "data", "hints", "--input", setting.train, *writer, "--out", hinted(setting))
    models = {TEACHER: teacher, VANILLA: setting.base, "SFT": str(merged)}
    for row in setting.rows:
        if row not in models:
            models[row] = str(distilled(stages, setting, row, merged, teacher))
        evaluated(stages, setting, row, models[row])
    text = table(setting, stages.figures, options.toy)
    (setting.out / "table.md").write_text(text)
    print(text)


def parsed() -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=REPORTED, default="0.6b")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--machine", choices=MACHINES, default="8x80gb")
    parser.add_argument("--rows", default=",".join([TEACHER, VANILLA, *ROWS]), help="of the table (default: all)")
    parser.add_argument("--own-teacher", action="store_true", help="train the teacher, too")
    parser.add_argument("--benchmarks", default=",".join(BENCHMARKS))
    parser.add_argument("--data-dir", type=Path, help="folder with the benchmarks (default: the hub)")
    parser.add_argument("-k", type=int, help="samples a problem (default: 32)")
    parser.add_argument("--seconds", type=float, default=1e9, help="no stage begins after so many (default: no end)")
    parser.add_argument("--toy", action="store_true", help="all stages small, from nothing, on a CPU")
    options = parser.parse_args()
    options.out = options.out.absolute()
    for name, known in (("rows", [TEACHER, VANILLA, *ROWS]), ("benchmarks", list(BENCHMARKS))):
        given = getattr(options, name).split(",")
        unknown = [each for each in given if each not in known]
        if unknown:
            parser.error(f"--{name} {', '.join(unknown)}: there are {', '.join(known)}")
        setattr(options, name, given)
    return options


def real_setting(options: argparse.Namespace) -> Setting:
    """Qwen3 from the hub."""
    return Setting(
        size=options.size,
        out=options.out,
        rows=options.rows,
        base=f"Qwen/Qwen3-{options.size.upper()}",
        teacher_base="Qwen/Qwen3-4B",
        teacher=None if options.own_teacher else RELEASED_TEACHER,
        train=TRAIN_DATA,
        over=[] if options.machine == "8x80gb" else [f"machines/{options.machine}"],
        benchmarks=options.benchmarks,
        data_dir=options.data_dir,
        k=options.k,
    )


def toy_setting(options: argparse.Namespace, stages: Stages) -> Setting:
    """Models from scratch and invented problems, which are made first."""
    import paper_toy

    out: Path = options.out
    stages.step("models and problems", lambda: paper_toy.make_world(out))
    return Setting(
        size=options.size,
        out=out,
        rows=options.rows,
        base=str(out / "student-init"),
        teacher_base=str(out / "teacher-init"),
        teacher=None,
        train=str(out / "data" / "train.parquet"),
        over=["machines/one-gpu-80gb", str(paper_toy.write_recipe(out))],
        benchmarks=options.benchmarks,
        data_dir=out / "benchmarks",
        k=options.k or 2,
        asked=paper_toy.LIMITS,
    )


def cold_start(stages: Stages, setting: Setting, recipe: str, base: str, size: str) -> Path:
    """SFT from a released model, merged into a plain directory: of an adapter, and of ranks, it has to be."""
    run, plain = setting.out / f"{size}-sft", setting.out / "models" / f"{size}-sft"
    file = setting.recipe(recipe, student={"path": base})
    stages.command(f"{size}, cold start", *goes_on("sft", run, file))
    stages.command(f"{size}, merge of the cold start", "models", "merge", run, "--out", plain)
    return plain


def trained_teacher(stages: Stages, setting: Setting) -> str:
    """The teacher: a cold start of its base, then GRPO."""
    name = "qwen3-4b-grpo-teacher"
    merged = cold_start(stages, setting, name, setting.teacher_base, "4b")
    run, plain = setting.out / "4b-grpo", setting.out / "models" / "4b-grpo"
    file = setting.recipe(name, student={"path": str(merged)}, data={"train": setting.train})
    stages.command("4b, GRPO", *goes_on("train", run, file))
    stages.command("4b, merge", "models", "merge", run, "--out", plain)
    return str(plain)


def distilled(stages: Stages, setting: Setting, row: str, student: Path, teacher: str) -> Path:
    """The run of a row of the table."""
    name = f"qwen3-{setting.size}-{ROWS[row]}"
    run = setting.out / f"{setting.size}-{ROWS[row]}"
    keys: dict[str, Any] = {"student": {"path": str(student)}, "data": {"train": setting.train}}
    if row == "OPSD_hint":
        keys["data"] = {"train": str(hinted(setting))}
    if row in ("OPD", "SOD"):
        keys["teacher"] = {"path": teacher}
    stages.command(row, *goes_on("train", run, setting.recipe(name, **keys)))
    return run


def hinted(setting: Setting) -> Path:
    """The training tasks with hints."""
    return setting.out / "data" / "hinted.parquet"


def evaluated(stages: Stages, setting: Setting, row: str, model: str) -> None:
    """The figures of a row on every benchmark: its mean accuracy over samples with the interval."""
    target = setting.out / "evaluations" / ROWS.get(row, row.partition(" ")[0].lower())
    asked = ["--benchmark", ",".join(setting.benchmarks), "--style", "sod"]
    asked += ["--data-dir", str(setting.data_dir)] if setting.data_dir else []
    asked += ["-k", str(setting.k)] if setting.k else []
    recipe = setting.recipe("qwen3-vanilla")
    words = ("eval", model, "--recipe", recipe, *asked, "--out", target, *setting.asked)
    stages.command(f"{row}, evaluation", *words)
    for benchmark in setting.benchmarks:
        place = target / benchmark if len(setting.benchmarks) > 1 else target
        result = json.loads((place / "evaluation.json").read_text())
        stages.figures[f"{row} on {benchmark}"] = {key: result[key] for key in ("avg_at_k", "ci95", "k", "tasks")}


def table(setting: Setting, figures: Mapping[str, Any], toy: bool) -> str:
    """The paper's table with our figures in it, each over the paper's."""
    names = [BENCHMARKS[benchmark] for benchmark in setting.benchmarks]
    lines = [f"| Params | Method | {' | '.join(names)} | Average |", "|---|---|" + "---:|" * (len(names) + 1)]
    for row in setting.rows:
        ours = [figures[f"{row} on {benchmark}"] for benchmark in setting.benchmarks]
        reported = dict(zip(BENCHMARKS, REPORTED[setting.size][row], strict=True))
        papers = [reported[benchmark] for benchmark in setting.benchmarks]
        cells = [cell(figure, paper) for figure, paper in zip(ours, papers, strict=True)]
        mean = 100 * sum(figure["avg_at_k"] for figure in ours) / len(ours)
        average = f"{mean:.2f} ({sum(papers) / len(papers):.2f})"
        params = "4B" if row == TEACHER else setting.size.upper()
        lines.append(f"| {params} | {row} | {' | '.join(cells)} | {average} |")
    first = {BENCHMARKS[benchmark]: figures[f"{setting.rows[0]} on {benchmark}"] for benchmark in setting.benchmarks}
    about = ", ".join(f"{name} {figure['tasks']}" for name, figure in first.items())
    k = next(iter(first.values()))["k"]
    notes = [
        f"Accuracy in percent, mean of {k} samples a problem, with 95% intervals over problems; in brackets the "
        "paper's (32 samples, mean of five runs).",
        f"Problems: {about}.",
    ]
    if toy:
        notes.append(
            "**A toy**: models from scratch, invented problems. Nothing here compares with the paper's figures."
        )
    return "\n\n".join(["# The SOD paper's table, again", "\n".join(lines), *notes]) + "\n"


def cell(figure: Mapping[str, Any], reported: float) -> str:
    """`12.50 [3.1, 30.2] (7.71)`: ours with its interval, and the paper's."""
    low, high = figure["ci95"]
    return f"{100 * figure['avg_at_k']:.2f} [{100 * low:.1f}, {100 * high:.1f}] ({reported:.2f})"


if __name__ == "__main__":
    sys.exit(main())
