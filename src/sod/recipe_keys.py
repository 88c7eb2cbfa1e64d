"""The keys of the recipe: frozen sections that know their keys and no others. `sod.recipe` reads files into them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


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
    standard library alone. `failure_rate` is the share of calls that the world answers with an error although nothing
    is wrong with them: a world with an unreliable tool, not a fault of ours.
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
    failure_rate: float = Field(0.0, ge=0, lt=1)

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


class ScheduleSpec(Section):
    """A coefficient over the run: from `start` at step 1 to `end` after `steps` steps. A number is a constant."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    start: float = Field(allow_inf_nan=False)
    end: float = Field(allow_inf_nan=False)
    steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleSpec:
        if self.schedule != "constant" and self.steps is None:
            raise ValueError(f"a {self.schedule} schedule needs steps: the length of its way from start to end")
        return self


class DivergenceSpec(Section):
    """A dense divergence in place of the sampled estimator; `top_k` 0 takes the full vocabulary.

    `divergence: jsd` is short for `divergence: {kind: jsd}`.
    """

    kind: Literal["forward_kl", "reverse_kl", "jsd"]
    beta: float = Field(0.5, gt=0, lt=1)
    top_k: int = Field(0, ge=0)
    chosen_by: Literal["teacher", "student"] = "teacher"


def _constant_schedule(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"schedule": "constant", "start": value, "end": value}
    return value


def _divergence_by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Coefficient = Annotated[ScheduleSpec | None, BeforeValidator(_constant_schedule)]


class MethodSpec(Section):
    """A preset of the objective (`sod methods` lists them) and its knobs; those left out keep the preset's own value.

    `normaliser`, `divergence` and the clip range go with every preset.
    """

    name: str = "sod"
    kappa: Coefficient = None
    rho: Coefficient = None
    delta: float | None = Field(None, ge=0)
    epsilon: float | None = Field(None, gt=0, allow_inf_nan=False)
    decay: float | None = Field(None, ge=0, le=1)
    threshold: float | None = Field(None, ge=0, allow_inf_nan=False)
    beta_min: float | None = Field(None, ge=0, allow_inf_nan=False)
    beta_max: float | None = Field(None, ge=0, allow_inf_nan=False)
    gamma: float | None = Field(None, allow_inf_nan=False)
    start: int | None = Field(None, ge=1)
    every: int | None = Field(None, ge=1)
    teacher_rule: Literal["frozen", "every", "ema"] | None = None
    teacher_every: int | None = Field(None, ge=1)
    teacher_decay: float | None = Field(None, ge=0, lt=1)
    normaliser: Literal["token", "sequence", "turn"] = "token"
    divergence: Annotated[DivergenceSpec | None, BeforeValidator(_divergence_by_name)] = None
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)


class OptimSpec(Section):
    """AdamW. `mini_batch_prompts` groups make one update; null makes the whole batch one.

    `recompute` keeps no activations of the layers but computes them again for the backward pass: slower, less memory.
    """

    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    micro_batch_tokens: int = Field(2048, ge=1)
    mini_batch_prompts: int | None = Field(None, ge=1)
    recompute: bool = False


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
    with probability `slips`; the teacher's are clean. A share `privileged` of the student's traces has the ground truth
    or a hint in the prompt, and no misreadings. In all of the student's traces a share `failures` of the calls gets the
    error of an unreliable tool first, and is made again.
    """

    shortest: int = Field(2, ge=1)
    longest: int = Field(5, ge=1)
    slips: float = Field(0.2, ge=0, lt=1)
    privileged: float = Field(0.0, ge=0, le=1)
    failures: float = Field(0.0, ge=0, lt=1)
    sft: int = Field(8_000, ge=1)
    train: int = Field(4_000, ge=1)
    validation: int = Field(128, ge=1)
    test: int = Field(256, ge=1)
    vocab_size: int = Field(1_024, ge=300)
    context: int = Field(2_048, ge=64)
    teacher: ScratchSpec = ScratchSpec()
    student: ScratchSpec = ScratchSpec()
    teacher_sft: SftSpec = SftSpec()


class CompareSpec(Section):
    """How `sod compare` finds each method's learning rate: the one of `lrs` that is best on validation tasks.

    `tuning_steps` is the length of each trial, `tuning_seed` a seed that takes no part in the comparison.
    """

    lrs: list[Annotated[float, Field(gt=0)]] = Field([1e-6], min_length=1)
    tuning_steps: int = Field(50, ge=1)
    tuning_seed: int = Field(1_000, ge=0)


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
    compare: CompareSpec = CompareSpec()
    trackers: list[Tracker] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.rollout.max_turn_tokens > self.rollout.max_response_tokens:
            raise ValueError("rollout.max_turn_tokens is larger than rollout.max_response_tokens")
        return self
