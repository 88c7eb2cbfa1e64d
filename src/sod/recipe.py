"""The recipe: one YAML file that fixes a run, checked before anything else happens."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sod.records import SodError


class Section(BaseModel):
    """A frozen part of the recipe that knows its keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(Section):
    """A model directory or hub id, and the precision it runs in."""

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"


class ChatSpec(Section):
    """How messages become tokens. `auto` takes the tokenizer's template when it knows tools, else ours."""

    template: Literal["auto", "tokenizer", "hermes"] = "auto"
    template_kwargs: dict[str, Any] = Field(default_factory=dict)


class DataSpec(Section):
    """Files (parquet, JSONL) or hub ids. RL rows in `train` and `validation`, conversations in `sft`."""

    train: str | None = None
    validation: str | None = None
    sft: str | None = None
    split: str = "train"
    overlong_prompts: Literal["skip", "refuse"] = "skip"


class FusionSpec(Section):
    """A SandboxFusion service (`sod sandbox serve` is one); the keys are those of `sandbox.fusion.FusionOptions`."""

    url: str
    concurrency: int = Field(32, ge=1)
    connect_seconds: float = Field(5.0, gt=0)
    grace_seconds: float = Field(15.0, gt=0)
    attempts: int = Field(4, ge=1)
    backoff_seconds: float = Field(0.5, ge=0)
    backoff_max_seconds: float = Field(8.0, ge=0)
    breaker_failures: int = Field(20, ge=1)
    breaker_seconds: float = Field(10.0, ge=0)


class PythonSpec(Section):
    """The Python tool's limits per call.

    `stateful` keeps one interpreter per episode; else every call stands alone. `fusion` runs the code on a service
    instead of this machine. `preload` is imported once, before any call; where it is empty, programs can import the
    standard library alone.
    """

    stateful: bool = False
    fusion: FusionSpec | None = None
    timeout_seconds: float = Field(5.0, gt=0)
    memory_mb: int = Field(512, ge=32)
    processes: int = Field(8, ge=1)
    max_code_chars: int = Field(20_000, ge=1)
    max_output_chars: int = Field(2_000, ge=16)
    workers: int = Field(2, ge=1)
    preload: list[str] = ["numpy", "sympy"]
    unsafe: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> PythonSpec:
        if self.stateful and self.fusion is not None:
            raise ValueError("tools.python: a SandboxFusion service keeps no state; set stateful or fusion, not both")
        return self


class ToolsSpec(Section):
    """The tools the model may call; null leaves one out."""

    python: PythonSpec | None = PythonSpec()


class RolloutSpec(Section):
    """What the student does in one step.

    `max_rows` episodes decode together; finished turns and tools are looked at every `round_tokens` tokens.
    `by_the_clock` never waits for a tool while there is something to sample: faster with slow tools, but then a run
    cannot be repeated exactly. The run stops when more than `max_fault_rate` of the last `fault_window` episodes
    faulted.
    `distill_before_fault` keeps the turns before a fault for the teacher's signal (never for rewards).
    """

    prompts: int = Field(16, ge=1)
    samples: int = Field(8, ge=1)
    max_turns: int = Field(8, ge=1)
    max_prompt_tokens: int = Field(2560, ge=1)
    max_turn_tokens: int = Field(1024, ge=1)
    max_response_tokens: int = Field(4096, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_rows: int = Field(128, ge=1)
    round_tokens: int = Field(16, ge=1)
    by_the_clock: bool = False
    fault_retries: int = Field(2, ge=0)
    max_fault_rate: float = Field(0.1, ge=0, le=1)
    fault_window: int = Field(64, ge=1)
    distill_before_fault: bool = False


VerifierName = Literal["math", "choice", "code"]


class RewardSpec(Section):
    """What an episode earns, and who decides.

    `by_source` names the verifier of a `data_source` where that is not `verifier`. `tool_bonus` and
    `overlong_buffer` (tokens; 0: off) are the paper's shaping. Limits of the verifiers: `math_seconds` of CPU time
    per answer, `code_seconds` per test, `code_memory_mb` per program.
    """

    correct: float = 1.0
    wrong: float = -1.0
    verifier: VerifierName = "math"
    by_source: dict[str, VerifierName] = Field(default_factory=dict)
    tool_bonus: bool = False
    overlong_buffer: int = Field(0, ge=0)
    math_seconds: int = Field(3, ge=1)
    code_seconds: float = Field(6.0, gt=0)
    code_memory_mb: int = Field(1024, ge=32)
    workers: int = Field(2, ge=1)

    @property
    def verifiers(self) -> set[VerifierName]:
        """Every verifier that a task may need."""
        return {self.verifier, *self.by_source.values()}


class MethodSpec(Section):
    """A preset of the objective; keys left out keep the preset's own value."""

    name: str = "sod"
    kappa: float | None = None
    rho: float | None = None
    delta: float | None = Field(None, ge=0)
    epsilon: float | None = Field(None, gt=0)
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)


class OptimSpec(Section):
    """AdamW. `mini_batch_prompts` groups make one update; null makes the whole batch one."""

    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    micro_batch_tokens: int = Field(2048, ge=1)
    mini_batch_prompts: int | None = Field(None, ge=1)


class TrainSpec(Section):
    """The length of the run and what it leaves behind; with `profile` also `profile.json`, where the time went."""

    steps: int = Field(100, ge=1)
    checkpoint_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    evaluate_every: int = Field(0, ge=0)
    trajectories_every: int = Field(1, ge=0)
    profile: bool = False


class SftSpec(Section):
    """Supervised fine-tuning on `data.sft`."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    max_tokens: int = Field(4096, ge=8)
    checkpoint_every: int = Field(200, ge=1)
    optim: OptimSpec = OptimSpec(lr=1e-5)


class EvaluationSpec(Section):
    """How `sod eval` and the evaluations during training sample; `tasks: 0` takes all there are."""

    k: int = Field(4, ge=1)
    tasks: int = Field(64, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)


class ScratchSpec(Section):
    """Shape of a Qwen3 model made from nothing."""

    layers: int = Field(4, ge=1)
    hidden: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    ffn: int = Field(256, ge=8)


class WorldSpec(Section):
    """The quickstart's generated world: task counts, and how teacher and student come to be.

    Tasks have `shortest` to `longest` operations. In the student's SFT traces each call misreads its operand
    with probability `slips`; the teacher's are clean.
    """

    shortest: int = Field(2, ge=1)
    longest: int = Field(5, ge=1)
    slips: float = Field(0.2, ge=0, lt=1)
    sft: int = Field(8_000, ge=1)
    train: int = Field(4_000, ge=1)
    validation: int = Field(128, ge=1)
    test: int = Field(256, ge=1)
    vocab_size: int = Field(1_024, ge=300)
    context: int = Field(2_048, ge=64)
    teacher: ScratchSpec = ScratchSpec()
    student: ScratchSpec = ScratchSpec()
    teacher_sft: SftSpec = SftSpec()


Tracker = Literal["wandb", "trackio", "tensorboard"]


def _method_by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Recipe(Section):
    """A run. `method: sod` is short for `method: {name: sod}`."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    student: ModelSpec
    teacher: ModelSpec | None = None
    chat: ChatSpec = ChatSpec()
    data: DataSpec = DataSpec()
    tools: ToolsSpec = ToolsSpec()
    rollout: RolloutSpec = RolloutSpec()
    reward: RewardSpec = RewardSpec()
    method: Annotated[MethodSpec, BeforeValidator(_method_by_name)] = MethodSpec()
    optim: OptimSpec = OptimSpec()
    train: TrainSpec = TrainSpec()
    sft: SftSpec = SftSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    world: WorldSpec | None = None
    trackers: list[Tracker] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rollout.max_turn_tokens > self.rollout.max_response_tokens:
            raise ValueError("rollout.max_turn_tokens is larger than rollout.max_response_tokens")
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides (dots reach into sections, values are YAML).

    Raises SodError naming file, key, value and, for an unknown key, the nearest valid one.
    """
    where = str(path)
    return parse_recipe(apply_overrides(read_yaml(where), overrides, where), where)


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # A scalar tagged as a mapping has no pairs; YAML's own loader says so below.
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(where: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SodError naming the file and the line."""
    try:
        content = yaml.load(Path(where).read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise SodError(f"{where}: no such recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SodError(f"{where}: cannot read the recipe: {error}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise SodError(f"{where}: not valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise SodError(f"{where}: a recipe is a mapping of keys, this file holds {type(content).__name__}")
    return content


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
    """`content` with each `a.b.c=value` put in its place. Raises SodError for a malformed override."""
    merged = _copied(content)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key or any(not part for part in key.split(".")):
            raise SodError(f"{where}: override {override!r} is not of the form key=value, e.g. optim.lr=1e-4")
        try:
            value = yaml.load(text, _UniqueKeys)
        except yaml.YAMLError:
            value = text
        *parents, last = key.split(".")
        node = merged
        for parent in parents:
            child = node.get(parent)
            if isinstance(child, str) and parent == "method":
                child = {"name": child}
            node[parent] = child if isinstance(child, dict) else {}
            node = node[parent]
        node[last] = value
    return merged


def parse_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """Check a mapping against the recipe's keys and types. Raises SodError (one line, every problem in it)."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise SodError("; ".join(_explain(problem, where) for problem in error.errors())) from None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain YAML-able values."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    return values


def _copied(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in content.items()}


def _explain(problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _all_keys(Recipe), n=1, cutoff=0.0)
        last = difflib.get_close_matches(key.rsplit(".", 1)[-1], _keys_of(problem["loc"][:-1]), n=1, cutoff=0.6)
        prefix = key.rpartition(".")[0]
        offer = f"{prefix}.{last[0]}".lstrip(".") if last else near[0]
        return f"{where}: unknown key {key} (value {shown}); did you mean {offer}?"
    if problem["type"] == "missing":
        return f"{where}: key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {key}={shown}: {message[0].lower()}{message[1:]}"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    if field is None:
        return None
    options = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _keys_of(path: Sequence[Any]) -> list[str]:
    model: type[BaseModel] | None = Recipe
    for part in path:
        model = _section(model, str(part)) if model else None
    return list(model.model_fields) if model else []


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in model.model_fields:
        keys.append(prefix + name)
        section = _section(model, name)
        if section:
            keys += _all_keys(section, f"{prefix}{name}.")
    return keys
