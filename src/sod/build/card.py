"""A model card of a run: how it was trained, on what, and what its evaluations gave.

The licence is left to whoever publishes the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sod.hub import is_hub_id
from sod.models.zoo import hub_id_of
from sod.recipe import Recipe, parse_recipe
from sod.runlog import RunLog
from sod.runlog.files import read_json
from sod.tasks.sources import hub_source, names_of

LICENCE = "# license: to be chosen by whoever publishes this model, e.g. apache-2.0"
MEASURES = {"avg_at_k": "avg@{k}", "pass_at_k": "pass@{k}", "maj_at_k": "maj@{k}"}


@final
@dataclass(frozen=True)
class Figures:
    """An evaluation of the run: on what, after how many steps (None where the record does not say), and its record."""

    data: str
    step: int | None
    record: Mapping[str, Any]


def card_of(run: Path, title: str) -> str:
    """The text of a README.md for the model of `run`. Raises SodError where it is no run directory."""
    log = RunLog.open(run)
    recipe = parse_recipe(log.recipe(), str(run / "recipe.yaml"))
    stage, figures = _stage(log), _evaluations_of(run)
    parts = [
        _front(recipe, stage, title, figures),
        f"# {title}",
        _summary(recipe, stage),
        _section("Training", _training(recipe, stage, log)),
        _section("Data", _data(recipe, stage)),
        _evaluations(figures),
        _section("Where it comes from", _origin(log)),
        "## Licence\n\nNot chosen yet. The licences of the base model, the teacher and the data apply to what is made "
        "from them.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _evaluations_of(run: Path) -> list[Figures]:
    """What `sod eval` left in a run, by its directories' names."""
    found = []
    for file in sorted((run / "evaluations").glob("*/evaluation.json")):
        record = read_json(file)
        name = str(record.get("data") or file.parent.name)
        benchmark, style = record.get("benchmark"), record.get("style")
        if isinstance(benchmark, dict) and isinstance(style, dict):
            name = f"{benchmark['title']} (style {style['name']})"
        _, marked, step = file.parent.name.rpartition("-step")
        number = step.partition("-")[0]
        found.append(Figures(name, int(number) if marked and number.isdecimal() else None, record))
    return found


def _stage(log: RunLog) -> str:
    """`train` or `sft`: which command made the run."""
    return "sft" if any(row["kind"] == "sft" for row in log.metrics()[:1]) else "train"


def _front(recipe: Recipe, stage: str, title: str, figures: Sequence[Figures]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for each in figures:
        name = _data_name(each.data)
        for key, written in MEASURES.items():
            if key not in each.record:
                continue
            measure, value = written.format(k=each.record["k"]), round(100 * each.record[key], 2)
            results.append(EvalResult("text-generation", name, name, measure, value))
    base = hub_id_of(recipe.student.path)
    data = ModelCardData(
        base_model=base if is_hub_id(base) else None,
        datasets=_hub_names(_sources(recipe, stage)) or None,
        eval_results=results or None,
        library_name="transformers",
        model_name=title if results else None,
        pipeline_tag="text-generation",
        tags=["sod", "tool-use", *([] if stage == "sft" else ["on-policy-distillation", recipe.method.name])],
    )
    return f"---\n{LICENCE}\n{data.to_yaml()}\n---"


def _summary(recipe: Recipe, stage: str) -> str:
    if stage == "sft":
        return f"`{recipe.student.path}`, fine-tuned on conversations with tools."
    by = " and ".join(f"`{name}`" for name in _teachers(recipe))
    learned = f"from {by} by episodes of its own" if by else "by episodes of its own"
    return f"`{recipe.student.path}`, which learned {learned} (method `{recipe.method.name}`)."


def _teachers(recipe: Recipe) -> list[str]:
    """What they are called; the address of a server is nobody else's business."""
    return [str(spec.path or spec.model) for spec in recipe.teaching.values() if spec.path or spec.model]


def _training(recipe: Recipe, stage: str, log: RunLog) -> list[tuple[str, object]]:
    optim = recipe.sft.optim if stage == "sft" else recipe.optim
    rows = log.metrics()
    steps = rows[-1]["step"] if rows else 0
    shared: list[tuple[str, object]] = [
        ("began with", recipe.student.path),
        ("steps", f"{steps} of {recipe.sft.steps if stage == 'sft' else recipe.train.steps}"),
        ("learning rate", f"{optim.lr:g}, {optim.schedule}, {optim.warmup_steps} steps of warm-up"),
        ("weights trained", "all" if recipe.student.lora is None else f"adapter of rank {recipe.student.lora.rank}"),
        ("precision", recipe.student.dtype),
        ("seed", recipe.seed),
    ]
    if stage == "sft":
        return [*shared, ("conversations a step", recipe.sft.batch_size), ("longest (tokens)", recipe.sft.max_tokens)]
    rollout, method = recipe.rollout, recipe.method.model_dump(exclude_none=True, exclude_defaults=True)
    return [
        *shared,
        ("method", ", ".join(f"{key}={value}" for key, value in {"name": recipe.method.name, **method}.items())),
        ("teachers", ", ".join(_teachers(recipe)) or "none"),
        ("tasks x episodes a step", f"{rollout.prompts} x {rollout.samples}"),
        ("tasks an update", recipe.optim.mini_batch_prompts or rollout.prompts),
        ("turns, prompt and response at most", _limits(recipe)),
        ("sampling", f"temperature {rollout.temperature:g}, top-p {rollout.top_p:g}"),
        *_figures_of_steps(rows),
    ]


def _limits(recipe: Recipe) -> str:
    rollout = recipe.rollout
    return f"{rollout.max_turns}, {rollout.max_prompt_tokens} and {rollout.max_response_tokens} tokens"


def _figures_of_steps(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, object]]:
    """What the first and the last step with episodes of the run's own gave; nothing where there are none."""
    played = [row for row in rows if "accuracy" in row]
    if not played:
        return []
    first, last = played[0], played[-1]
    names = {"accuracy": "accuracy in training", "turns": "turns", "tool_calls": "tool calls an episode"}
    return [(f"{name}, first and last step", f"{first[key]:.3g}, {last[key]:.3g}") for key, name in names.items()]


def _data(recipe: Recipe, stage: str) -> list[tuple[str, object]]:
    named = {"data.sft": recipe.data.sft} if stage == "sft" else {"data.train": recipe.data.train}
    given = {key: names_of(source) for key, source in named.items() if source is not None}
    rows: list[tuple[str, object]] = [(key, ", ".join(names)) for key, names in given.items()]
    if recipe.environment is not None:
        rows.append(("environment", recipe.environment.call))
    return rows


def _sources(recipe: Recipe, stage: str) -> list[str]:
    source = recipe.data.sft if stage == "sft" else recipe.data.train
    return [] if source is None else names_of(source)


def _data_name(source: str) -> str:
    """A set of the hub by its id, a file by its name alone."""
    hub = hub_source(source)
    return Path(source).stem if hub is None else hub.id


def _hub_names(sources: Sequence[str]) -> list[str]:
    found = (hub_source(source) for source in sources)
    return list(dict.fromkeys(hub.id for hub in found if hub is not None))


def _evaluations(figures: Sequence[Figures]) -> str:
    if not figures:
        return "## Evaluation\n\nNone yet; `sod eval` makes some."
    titles = ("data", "after step", "problems", "samples each", "avg@k", "pass@k", "maj@k", "tool calls")
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * 7]
    for each in figures:
        shown = [_percent(each.record, key) for key in MEASURES]
        step = "-" if each.step is None else each.step
        calls = f"{each.record.get('tool_calls', 0.0):.2f}"
        cells = [_data_name(each.data), step, each.record["tasks"], each.record["k"], *shown, calls]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "## Evaluation\n\nIn percent, with 95% intervals over problems.\n\n" + "\n".join(lines)


def _percent(record: Mapping[str, Any], key: str) -> str:
    if key not in record:
        return "-"
    low, high = record.get("intervals", {}).get(key, (None, None))
    bounds = "" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * record[key]:.1f}{bounds}"


def _origin(log: RunLog) -> list[tuple[str, object]]:
    manifest = log.manifest()
    versions = ", ".join(f"{name} {value}" for name, value in manifest["versions"].items() if value)
    return [("started", manifest["started"]), ("recipe", f"sha256 {log.recipe_sha256()[:16]}"), ("versions", versions)]


def _section(title: str, rows: Sequence[tuple[str, object]]) -> str:
    return f"## {title}\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)
