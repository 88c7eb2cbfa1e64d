"""Small runs of recipes in this process, and what they leave: the bench of `test_every_setting.py`.

Reading models and tokenizers, asking git and waiting for the disk take most of the time of a run of a step: each model
is read once and copied. All else is what `sod train`, `sod sft` and `sod eval` do.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, final

import pyarrow.parquet as parquet
import pytest
import torch
import transformers
from every_setting import Example
from safetensors.torch import load_file
from torch import Tensor

from sod.build import evaluation as build_evaluation
from sod.build import stage as build_stage
from sod.build.evaluation import evaluate_model
from sod.build.job import Job
from sod.build.supervised import prepare_sft
from sod.build.tools import make_tools
from sod.build.training import prepare_train
from sod.front.tracking import trackers
from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS
from sod.recipe import Recipe
from sod.records import Fault, FaultKind, SodError, ToolResult
from sod.report.metrics import metric_of
from sod.runlog import manifest, trajectory_row
from sod.tasks import sources
from sod.tools.base import Tool, ToolRequest
from sod.training.report import StepReport

NO_CONTENT = ("trainer.pt", "COMPLETE.json", "profile.json", "recipe.yaml", "manifest.json", ".lock")
"""Files that count by being there: they hold times, or the recipe itself."""
SCORES = ("d_k", "w_k", "teacher_logps", "advantages")
WEIGHTS = "model.safetensors"


@final
@dataclass(frozen=True)
class Outcome:
    """What a run leaves: its files but for times and the recipe, by path; what was told; or why it was refused.

    `weights` are those of its last checkpoint. `played` is what `sod eval` of the run gave, where the method itself
    plays no episodes. `batches` are the numbers of calls that tools got together, where they were counted.
    """

    files: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    played: Sequence[Any] = ()
    told: tuple[str, ...] = ()
    refused: str = ""
    batches: tuple[int, ...] = ()

    @property
    def result(self) -> tuple[Any, Any, str]:
        """All that a key can change, but for what is told."""
        return self.files, self.played, self.refused

    @property
    def episodes(self) -> list[Any]:
        """The episodes of all steps, without what teacher and method make of them."""
        rows = [row for name, rows in self.files.items() if name.startswith("trajectories") for row in rows]
        return [unscored(row) for row in rows]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics, times left out."""
        return list(self.files["metrics.jsonl"])

    def names(self, key: str) -> bool:
        """Whether the key is refused, or told of, by its name or by that of its section or of another key of it."""
        return key in self.refused or any(key in line for line in self.told)


@final
class WatchedTool:
    """A tool whose calls of some code fault so many times before they get through; counts what it is given."""

    def __init__(self, tool: Tool, faults: int, batches: list[int]) -> None:
        self._tool = tool
        self._left: Counter[str] = Counter()
        self._faults = faults
        self._batches = batches
        self.name, self.schema, self.keeps_state = tool.name, tool.schema, tool.keeps_state
        self.start, self.finish, self.probe, self.close = tool.start, tool.finish, tool.probe, tool.close

    def run(self, requests: Sequence[ToolRequest]) -> list[ToolResult | Fault]:
        """See `Tool.run`."""
        self._batches.append(len(requests))
        return [self._fault(request) or self._tool.run([request])[0] for request in requests]

    def _fault(self, request: ToolRequest) -> Fault | None:
        code = str(request.call.arguments.get("code", ""))
        if "import" not in code or self._left[request.episode] >= self._faults:
            return None
        self._left[request.episode] += 1
        return Fault(FaultKind.SANDBOX, "down")


@final
class Bench:
    """Runs a small recipe with one key changed, and remembers what the unchanged ones gave."""

    def __init__(self, paths: Mapping[str, Path], runs: Path) -> None:
        self.paths = {name: str(path) for name, path in paths.items()}
        self.runs = runs
        self.numbers = itertools.count()
        self.known: dict[str, Outcome] = {}

    def both(self, method: str, key: str, example: Example, command: str = "train") -> tuple[Outcome, Outcome]:
        """What the example's base gives, and what it gives with the key changed."""
        base = example.base_of(method)
        before = self.unchanged(method, base, command, example.faults)
        changed = {**base, key: example.value_of(method)}
        return before, self.run(method, changed, command, example.faults, base.get("data.train", "{train}"))

    def unchanged(
        self, method: str, base: Mapping[str, Any], command: str = "train", faults: int | None = None
    ) -> Outcome:
        """What a base gives, which is run once."""
        name = json.dumps([method, base, command, faults], sort_keys=True)
        if name not in self.known:
            self.known[name] = self.run(method, base, command, faults)
        return self.known[name]

    def run(
        self,
        method: str,
        keys: Mapping[str, Any],
        command: str = "train",
        faults: int | None = None,
        evaluated_on: str | None = None,
    ) -> Outcome:
        """`sod COMMAND` of the recipe with these keys, and `sod eval` of the run where no episodes are played.

        With `faults` its tools fail so often at a call, and are counted.
        """
        recipe = self.recipe(method, keys)
        directory, told, batches = self.runs / f"run-{next(self.numbers)}", list[str](), list[int]()
        try:
            with ExitStack() as stack:
                if faults is not None:
                    stack.enter_context(watched_tools(faults, batches))
                prepare = prepare_sft if command == "sft" else prepare_train
                run_job(recipe, prepare(recipe, directory, False, told.append), directory)
                played: list[Any] = []
                if command == "train" and Need.DEMONSTRATIONS in PRESETS[method]().needs:
                    data = evaluated_on or keys.get("data.train", "{train}")
                    played = self.evaluated(recipe, directory, self.paths.get(data.strip("{}"), data), told)
            return Outcome(files_of(directory), weights_of(directory), played, tuple(told), batches=tuple(batches))
        except SodError as error:
            return Outcome(told=tuple(told), refused=str(error))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def recipe(self, method: str, keys: Mapping[str, Any]) -> Recipe:
        """The small recipe of a method with these keys; a teacher's are left out where the method itself has one."""
        content = small_recipe(method)
        for key, value in keys.items():
            put(content, key, value)
        text = json.dumps(content)
        for name, path in self.paths.items():
            text = text.replace(f'"{{{name}}}"', json.dumps(path))
        return Recipe.model_validate(json.loads(text))

    def student(self, base: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weights that the runs of a base begin with."""
        name = str(base.get("student.path", "{model}"))
        saved: dict[str, Tensor] = load_file(Path(self.paths[name.strip("{}")]) / WEIGHTS)
        return saved

    def evaluated(self, recipe: Recipe, directory: Path, data: str, told: list[str]) -> list[Any]:
        """What `sod eval` of the run says and writes, times left out."""
        student = recipe.student.model_copy(update={"path": str(directory)})
        result = evaluate_model(recipe.model_copy(update={"student": student}), data, told.append)
        return [result.as_dict(), *(timeless(trajectory_row(one)) for one in result.trajectories)]


def small_recipe(method: str) -> dict[str, Any]:
    """A step of two groups of two short episodes."""
    needs = PRESETS[method]().needs
    own = Need.TEACHER in needs and not needs & SELF_TEACHER
    curriculum = PRESETS[method]().episodes.student_turns(1) is not None
    return {
        "student": {"path": "{model}"},
        "teacher": {"path": "{other}"} if own else None,
        "chat": {"template": "hermes"},
        "data": {"train": "{train}", "validation": "{train}", "sft": "{sft}"},
        "tools": {"python": None},
        "rollout": {
            "prompts": 2,
            "samples": 2,
            "max_turns": 5 if curriculum else 2,
            "max_prompt_tokens": 200,
            "max_turn_tokens": 24,
            "max_response_tokens": 160 if curriculum else 80,
        },
        "reward": {"overlong_buffer": 70},  # by their lengths episodes earn different rewards
        "method": {"name": method} | ({"start": 3} if curriculum else {}),
        "optim": {"lr": 1e-2},
        "train": {"steps": 1, "checkpoint_every": 2},
        "evaluation": {"k": 2, "tasks": 2},
        "sft": {"steps": 2, "batch_size": 2, "optim": {"lr": 1e-2}},
    }


def run_job(recipe: Recipe, job: Job, directory: Path) -> None:
    """Run a job with the recipe's trackers, as the commands do."""
    with closing(job), trackers(recipe, directory.name, directory, directory.parent) as opened:

        def track(report: StepReport) -> None:
            for tracker in opened:
                tracker.log(report.metrics, report.step)

        job.start([track])


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *above, last = key.split(".")
    node = content
    for name in above:
        child = node.get(name)
        node[name] = dict(child) if isinstance(child, dict) else {}
        node = node[name]
    node[last] = value


def files_of(directory: Path) -> dict[str, Any]:
    """By its path each file of a run: its content, or a hash of it; of some only that they are there."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = str(path.relative_to(directory))
        if path.name in NO_CONTENT or "trackers" in path.parts:
            found[name.partition(".tfevents")[0]] = "there"
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = [timeless(row) for row in rows]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def weights_of(directory: Path) -> dict[str, Tensor]:
    """The weights of the last checkpoint; of an adapter, those."""
    saved: dict[str, Tensor] = load_file(max(directory.glob(f"checkpoints/*/model/*{WEIGHTS}")))
    return saved


def timeless(value: Any) -> Any:
    """A row without what is measured in seconds, or by the second."""
    if isinstance(value, Mapping):
        return {key: timeless(item) for key, item in value.items() if not is_time(key)}
    return [timeless(item) for item in value] if isinstance(value, list | tuple) else value


def unscored(value: Any) -> Any:
    """A row of an episode without what teacher and method make of it."""
    if isinstance(value, Mapping):
        return {key: unscored(item) for key, item in value.items() if key not in SCORES}
    return [unscored(item) for item in value] if isinstance(value, list) else value


def is_time(key: str) -> bool:
    """Whether the table of metrics says that this is a time or a speed; `seconds` of a tool's result is one too."""
    metric = metric_of(key)
    return key == "seconds" or (metric is not None and (metric.unit == "s" or metric.unit.endswith("/s")))


def watched_tools(faults: int, batches: list[int]) -> Any:
    """While this is open the tools of runs and evaluations are watched ones."""

    def watched(*made_with: Any) -> dict[str, Tool]:
        return {name: WatchedTool(tool, faults, batches) for name, tool in make_tools(*made_with).items()}

    patch = pytest.MonkeyPatch()
    for module in (build_stage, build_evaluation):
        patch.setattr(module, "make_tools", watched)
    stack = ExitStack()
    stack.callback(patch.undo)
    return stack


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Read every model, tokenizer and configuration once, ask git once, prove no forward, do not wait for the disk."""
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer, transformers.AutoConfig):
        patch.setattr(kind, "from_pretrained", remembered(kind.from_pretrained))
    state = manifest.git_state(Path.cwd())
    patch.setattr(manifest, "git_state", lambda directory: state)
    patch.setattr(os, "fsync", lambda descriptor: None)
    # What lives long is set apart once, by the tests (`imported_set_apart`); even to count it takes a tenth of a run.
    patch.setattr("sod.build.job.long_lived_set_apart", nullcontext)
    # What is proven of a model's forward, for the engine, the packing and the projection, is the same in every run.
    patch.setattr("sod.engines.torch_engine.prove", lambda *arguments: None, raising=False)
    patch.setattr("sod.models.forward._proves", lambda model: True)
    patch.setattr("sod.models.load.check_projection", lambda model, where: None)


def remembered(read: Callable[..., Any]) -> Callable[..., Any]:
    """The same reader, which reads what is no run's own only once, and gives copies."""
    known: dict[str, Any] = {}

    def again(path: Any, **options: Any) -> Any:
        if "run-" in str(path):
            return read(path, **options)
        name = f"{path} {options}"
        if name not in known:
            known[name] = read(path, **options)
        return copy.deepcopy(known[name])

    return again


def hub_of(patch: pytest.MonkeyPatch, splits: Mapping[tuple[str, str], Path]) -> None:
    """A Hugging Face Hub that has these data sets, by name and split, and nothing else."""

    def load_dataset(name: str, split: str, trust_remote_code: bool) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = parquet.read_table(splits[name, split]).to_pylist()
        return rows

    datasets: Any = ModuleType("datasets")
    datasets.load_dataset = load_dataset
    patch.setitem(sys.modules, "datasets", datasets)
    patch.setattr(sources, "why_unreachable", lambda: None)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The Euclidean distance of two models' weights."""
    squares = [(one[name].double() - other[name].double()).pow(2).sum() for name in one]
    return float(torch.stack(squares).sum().sqrt())
