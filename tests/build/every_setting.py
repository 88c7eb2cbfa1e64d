"""What every key of the recipe does, by an example: the tables of `test_every_setting.py`.

A new key needs a line in one of them:

- in `CHANGES`, with a value that changes something. It is tried with every method, if not `apart`; `refused` names
  those with which it is refused or told by name, and `idle` those whose command never reads it (proven to change
  nothing there);
- in `EQUAL`, with the reason why it never changes what is computed. That is proven as above, weights included;
- in `SFT`, if it is a key of `sod sft`;
- in `ELSEWHERE`, with the test function that shows what it does, where a run of a step cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sod.objective.needs import SELF_TEACHER, Need
from sod.objective.presets import PRESETS

EVERY = frozenset(PRESETS)
DEMONSTRATIONS = frozenset(name for name in PRESETS if Need.DEMONSTRATIONS in PRESETS[name]().needs)
PLAYING = EVERY - DEMONSTRATIONS
NO_TEACHER = frozenset(name for name in PRESETS if Need.TEACHER not in PRESETS[name]().needs)
NO_OTHER_TEACHER = NO_TEACHER | {name for name in PRESETS if PRESETS[name]().needs & SELF_TEACHER}
CURRICULA = frozenset(name for name in PRESETS if PRESETS[name]().episodes.student_turns(1) is not None)
REPLAYING = frozenset(name for name in PRESETS if PRESETS[name]().episodes.refusal(["python"]) is not None)
TEACHER_PLAYS = frozenset(name for name in PRESETS if Need.TEACHER_EPISODES in PRESETS[name]().needs)
NONE: frozenset[str] = frozenset()


def shape(method: str) -> tuple[object, ...]:
    """What a run sees of a method before it learns: who plays, and what teacher there is."""
    made = PRESETS[method]()
    kinds = (Need.DEMONSTRATIONS in made.needs, Need.TEACHER in made.needs, bool(made.needs & SELF_TEACHER))
    return type(made.episodes), *kinds


REPRESENTATIVES = {shape(name): name for name in reversed(PRESETS)}
"""The first method of every shape: `sft`, `grpo`, `opd`, `opsd_gt`, `tcod_f2b`, `tcod_b2f`."""
PLAYED_AND_EVALUATED = ("opd", "sft")
"""Of the shapes one whose students play in the run, and one whose students play in its evaluation alone."""
READ_APART: Mapping[str, str] = dict.fromkeys(
    ("betas", "weight_decay", "clip_grad", "warmup_steps"), "training/optim.py"
)
"""Attributes that are read in one file only (but for lines that a person reads), which knows of no method."""
AFTER_A_STEP = ("evaluate_every", "trajectories_every", "checkpoint_every", "keep_checkpoints", "steps")
"""Parts of the plan by which `training/loop.py`, which knows of no method, goes on from step to step."""

ALMOST_STILL = {"optim.lr": 1e-6}
"""A student that still knows everything by heart after its steps."""
TOOL: Mapping[str, Any] = {
    **ALMOST_STILL,
    "student.path": "{speaker}",
    "data.train": "{programs}",
    "tools.python": {"workers": 1, "preload": [], "memory_mb": 256, "timeout_seconds": 10.0},
    "rollout.prompts": 6,
    "rollout.samples": 1,
    "rollout.max_turns": 5,
    "rollout.max_turn_tokens": 60,
    "rollout.max_response_tokens": 200,
    "reward.overlong_buffer": 0,
    "evaluation": {"k": 1, "tasks": 0},
}
"""Six episodes, each with a program of its own."""
FAULTS: Mapping[str, Any] = {**TOOL, "rollout.max_fault_rate": 1.0}
SAID: Mapping[str, Any] = {
    **ALMOST_STILL,
    "student.path": "{speaker}",
    "data.train": "{answers}",
    "rollout.prompts": 4,
    "reward.by_source": {"letters": "choice", "numbers": "math"},
    "reward.choice.answer_line": True,
    "reward.overlong_buffer": 0,
    "evaluation": {"k": 1, "tasks": 0},
}
"""Answers of numbers and of letters, some of them right."""
CODE: Mapping[str, Any] = {
    **ALMOST_STILL,
    "student.path": "{speaker}",
    "data.train": "{code}",
    "reward.verifier": "code",
    "tools.python": TOOL["tools.python"],
    "rollout.samples": 1,
    "rollout.max_turn_tokens": 60,
    "reward.overlong_buffer": 0,
    "evaluation": {"k": 1, "tasks": 0},
}
"""Answers that are programs, for tasks of which one has no tests."""
OWN: Mapping[str, Any] = {"reward.call": "operator:truth"}
"""A reward function that gives every episode 1."""
HELD_OUT: Mapping[str, Any] = {
    **ALMOST_STILL,
    "student.path": "{speaker}",
    "data.train": "{tosses}",
    "data.validation": "{tosses}",
    "train.evaluate_every": 1,
    "evaluation": {"k": 3, "tasks": 3},
}
"""Evaluations of which every second answer is right."""
DENSE: Mapping[str, Any] = {"method.divergence": {"kind": "jsd", "top_k": 4}}
UPDATES: Mapping[str, Any] = {
    "teacher.path": "{near}",
    "optim.mini_batch_prompts": 1,
    "optim.lr": 0.01,
    "rollout.prompts": 3,
}
MANY_UPDATES: Mapping[str, Any] = {"optim.mini_batch_prompts": 1, "optim.lr": 0.01, "rollout.prompts": 4}
TWO_STEPS: Mapping[str, Any] = {"train.steps": 2}
BESIDE: Mapping[str, Any] = {"train.steps": 2, "train.checkpoint_every": 2, "optim.lr": 0.01}
"""The second step's episodes can be played while the first learns."""
LORA: Mapping[str, Any] = {"student.lora": {"rank": 4}}
HUB: Mapping[str, Any] = {"data.train": "owner/tasks", "data.validation": None, "data.sft": "owner/conversations"}


@dataclass(frozen=True)
class Example:
    """A key at another `value`, beside `base`, which is what it needs to matter.

    `{name}` in a value is a path of the test's world. A key that is read `apart` from the method, or before it comes
    into play (models, data, what is played and how it is judged: `test_what_is_played_is_the_same`; `READ_APART`), or
    when its step is over (`AFTER_A_STEP`), is tried with one method of every shape, the others with all. What only
    judges or answers what is `played` is the same code whoever plays: it is tried with two shapes. With the methods in
    `refused` the other value is refused or told of by name; with those in `idle` it changes nothing, as another
    command's key. `values` are other values of some methods, and `faults` says how often tools fail at a call before it
    gets through.
    """

    value: Any
    base: Mapping[str, Any] = field(default_factory=dict)
    refused: frozenset[str] = NONE
    idle: frozenset[str] = NONE
    values: Mapping[str, Any] = field(default_factory=dict)
    faults: int | None = None
    apart: bool = False
    played: bool = False

    @property
    def methods(self) -> list[str]:
        """The methods that it is tried with."""
        if not self.apart and not self.played:
            return list(PRESETS)
        shapes = PLAYED_AND_EVALUATED if self.played else REPRESENTATIVES.values()
        tried = {*shapes, *(NONE if self.refused == EVERY else self.refused)}
        return [name for name in PRESETS if name in tried]

    def value_of(self, method: str) -> Any:
        """The other value with this method."""
        return self.values.get(method, self.value)

    def base_of(self, method: str) -> dict[str, Any]:
        """The base, without what is refused with this method whatever the key is."""
        taken: dict[str, Any] = dict(self.base)
        if method in NO_OTHER_TEACHER:
            taken.pop("teacher.path", None)
        if method in DEMONSTRATIONS:
            taken.pop("train.evaluate_every", None)
        return taken


CHANGES: Mapping[str, Example] = {
    "seed": Example(1),
    "student.path": Example("{other}", apart=True),
    "student.dtype": Example("bfloat16", apart=True),
    "student.lora.rank": Example(2, LORA, apart=True),
    "student.lora.alpha": Example(1, LORA, apart=True),
    "student.lora.targets": Example(["q_proj"], LORA, apart=True),
    "student.lora.dropout": Example(0.5, LORA, apart=True),
    "teacher.path": Example("{model}", refused=NO_OTHER_TEACHER, apart=True),
    "teacher.dtype": Example("bfloat16", {"teacher": {"path": "{other}"}}, refused=NO_OTHER_TEACHER, apart=True),
    "chat.template": Example("tokenizer", {"student.path": "{templated}"}, apart=True),
    "chat.template_kwargs": Example(
        {"loud": 2}, {"student.path": "{templated}", "chat.template": "tokenizer"}, apart=True
    ),
    "data.train": Example("{right}", idle=DEMONSTRATIONS, apart=True),
    "data.validation": Example("{eights}", HELD_OUT, idle=DEMONSTRATIONS, played=True),
    "data.sft": Example("{fewer}", idle=PLAYING, apart=True),
    "data.split": Example("test", HUB, apart=True),
    "data.tools": Example(
        "{schemas}", {"data.sft": "{undeclared}", "tools.python": TOOL["tools.python"]}, idle=PLAYING, played=True
    ),
    "data.min_reward": Example(0.5, {"data.sft": "{earned}"}, idle=PLAYING, apart=True),
    "data.columns": Example({"ground_truth": "id"}, SAID, played=True),
    "data.system": Example("Be brief.", apart=True),
    "data.suffix": Example(" Now.", apart=True),
    "data.overlong_prompts": Example(
        "refuse", {"data.train": "{long}", "rollout.max_prompt_tokens": 100}, refused=EVERY, apart=True
    ),
    "tools.python.name": Example("run", TOOL, apart=True),
    "tools.python.argument": Example("program", TOOL, played=True),
    "tools.python.stateful": Example(True, TOOL, refused=REPLAYING, played=True),
    "tools.python.max_code_chars": Example(16, TOOL, played=True),
    "tools.python.max_output_chars": Example(16, TOOL, played=True),
    "tools.python.timeout_seconds": Example(0.2, TOOL, played=True),
    "tools.python.memory_mb": Example(64, TOOL, played=True),
    "tools.python.processes": Example(1, TOOL, played=True),
    "tools.python.preload": Example(["yaml"], TOOL, played=True),
    "tools.python.failure_rate": Example(0.9, TOOL, played=True),
    "rollout.prompts": Example(1, apart=True),
    "rollout.samples": Example(3, apart=True),
    "rollout.max_turns": Example(1, TOOL, refused=CURRICULA, apart=True),
    "rollout.max_prompt_tokens": Example(100, {"data.train": "{long}"}, apart=True),
    "rollout.max_turn_tokens": Example(4, apart=True),
    "rollout.max_response_tokens": Example(72, apart=True),
    "rollout.temperature": Example(0.5, refused=DEMONSTRATIONS),
    "rollout.top_p": Example(0.5, refused=DEMONSTRATIONS, apart=True),
    "rollout.top_k": Example(2, refused=DEMONSTRATIONS, apart=True),
    "rollout.max_staleness": Example(1, BESIDE, refused=DEMONSTRATIONS | TEACHER_PLAYS),
    "rollout.importance": Example(
        "sequence", {**BESIDE, "rollout.max_staleness": 1}, refused=DEMONSTRATIONS | TEACHER_PLAYS
    ),
    "rollout.fault_retries": Example(0, FAULTS, faults=2, played=True),
    "rollout.max_fault_rate": Example(0.01, FAULTS, refused=EVERY, faults=9, played=True),
    "rollout.fault_window": Example(5, {**TOOL, "rollout.max_fault_rate": 0.1}, refused=EVERY, faults=9, played=True),
    "rollout.distill_before_fault": Example(True, FAULTS, refused=NO_TEACHER, faults=9),
    "reward.call": Example("operator:truth", apart=True),
    "reward.call_right": Example(2.0, OWN, played=True),
    "reward.correct": Example(2.0, SAID, played=True),
    "reward.wrong": Example(-3.0, apart=True),
    "reward.verifier": Example("choice", SAID, played=True),
    "reward.by_source": Example({"letters": "choice", "numbers": "math", "plain": "choice"}, SAID, played=True),
    "reward.choice.letters": Example("ABCDE", SAID, played=True),
    "reward.choice.answer_line": Example(False, SAID, played=True),
    "reward.answer": Example("hash", SAID, played=True),
    "reward.truths": Example("all", {**SAID, "data.train": "{several}"}, played=True),
    "reward.tool_bonus": Example(True, apart=True),
    "reward.overlong_buffer": Example(0, apart=True),
    "reward.code_seconds": Example(0.001, CODE, played=True),
    "reward.code_memory_mb": Example(64, CODE, played=True),
    "reward.code_check": Example(False, CODE, played=True),
    "method.name": Example(
        "opd",
        values={
            "opd": "sod",
            "grpo": "sft",
            "sft": "grpo",
            "opsd_gt": "opsd_hint",
            "opsd_hint": "opsd_gt",
            "tcod_f2b": "tcod_b2f",
            "tcod_b2f": "tcod_f2b",
        },
    ),
    "method.loss_aggregation": Example("seq-mean-token-mean", refused=DEMONSTRATIONS),
    "method.divergence": Example("reverse_kl", refused=NO_TEACHER),
    "method.divergence.kind": Example("forward_kl", DENSE, refused=NO_TEACHER),
    "method.divergence.beta": Example(0.1, DENSE, refused=NO_TEACHER),
    "method.divergence.top_k": Example(2, DENSE, refused=NO_TEACHER),
    "method.divergence.chosen_by": Example("student", DENSE, refused=NO_TEACHER),
    "method.clip_low": Example(1e-6, UPDATES, refused=DEMONSTRATIONS),
    "method.clip_high": Example(1e-6, UPDATES, refused=DEMONSTRATIONS),
    "method.dual_clip": Example(1.0001, MANY_UPDATES, refused=DEMONSTRATIONS),
    "optim.lr": Example(1e-4, apart=True),  # as READ_APART: of it and the schedule `learning_rate` makes a step's rate
    "optim.betas": Example([0.1, 0.2], TWO_STEPS, apart=True),
    "optim.weight_decay": Example(0.5, apart=True),
    "optim.clip_grad": Example(1e-6, apart=True),
    "optim.warmup_steps": Example(2, apart=True),
    "optim.schedule": Example("linear", TWO_STEPS, apart=True),
    "optim.mini_batch_prompts": Example(1, refused=DEMONSTRATIONS),
    "train.steps": Example(2, apart=True),
    "train.checkpoint_every": Example(1, TWO_STEPS, apart=True),
    "train.keep_checkpoints": Example(1, {**TWO_STEPS, "train.checkpoint_every": 1}, apart=True),
    "train.evaluate_every": Example(1, refused=DEMONSTRATIONS, apart=True),
    "train.trajectories_every": Example(0, refused=DEMONSTRATIONS, apart=True),
    "train.profile": Example(True, refused=DEMONSTRATIONS, apart=True),
    "sft.max_tokens": Example(150, idle=PLAYING, apart=True),
    "evaluation.k": Example(4, HELD_OUT, played=True),
    "evaluation.tasks": Example(5, HELD_OUT, played=True),
    "evaluation.temperature": Example(0.0, HELD_OUT, played=True),
    "evaluation.top_p": Example(0.3, HELD_OUT, played=True),
    "evaluation.top_k": Example(1, HELD_OUT, played=True),
    "trackers": Example(["tensorboard"], apart=True),
}
"""Keys of `sod train`."""

SFT: Mapping[str, Example] = {
    "sft.steps": Example(1),
    "sft.batch_size": Example(1),
    "sft.max_tokens": Example(150),
    "sft.checkpoint_every": Example(1),
    "sft.optim.lr": Example(1e-4),
    "sft.optim.betas": Example([0.1, 0.2]),
    "sft.optim.weight_decay": Example(0.5),
    "sft.optim.clip_grad": Example(1e-6),
    "sft.optim.warmup_steps": Example(2),
    "sft.optim.schedule": Example("linear"),
    "sft.optim.mini_batch_prompts": Example(1, refused=EVERY),
}
"""Keys of `sod sft`, which is the same whatever the method."""

KNOBS: Mapping[str, Example] = {
    "kappa": Example(0.5),
    "rho": Example(0.5),
    "delta": Example(0.0, {"method.epsilon": 1e-3}),
    "epsilon": Example(10.0),
    "teacher_rule": Example("ema", TWO_STEPS),
    "teacher_every": Example(1, {**TWO_STEPS, "method.teacher_rule": "every"}),
    "teacher_decay": Example(0.5, {**TWO_STEPS, "method.teacher_rule": "ema"}),
    "beta_min": Example(0.1),
    "beta_max": Example(0.7),
    "gamma": Example(5.0),
    "decay": Example(0.1),
    "start": Example(1),
    "every": Example(1),
    "threshold": Example(50.0),
}
"""Knobs of presets, each tried with every preset that has it."""

EQUAL: Mapping[str, tuple[Example, str]] = {
    "name": (Example("other", apart=True), "a label: of the run's default directory and of its figures"),
    "threads": (Example(1, apart=True), "belongs to the machine, and tests have one: test_threads"),
    "deterministic": (Example(False, apart=True), "acts on CUDA alone: tests/build/test_devices.py"),
    "student.device": (Example("cpu", apart=True), "belongs to the machine; the CPU is what the tests have"),
    "teacher.device": (Example("cpu", refused=NO_OTHER_TEACHER, apart=True), "as student.device"),
    "rollout.max_rows": (Example(1, apart=True), "bounds memory"),
    "rollout.cache_share": (Example(0.5, apart=True), "bounds the memory of a CUDA device; nothing on a CPU"),
    "rollout.decode_chunk": (Example(3, apart=True), "when finished turns are looked at"),
    "rollout.asynchronous": (
        Example(True, TOOL, played=True),
        "who waits for whom: test_an_asynchronous_rollout_waits_for_no_call",
    ),
    "reward.math_seconds": (
        Example(9, apart=True),
        "acts on answers that take as long: test_seconds_of_the_math_verifier",
    ),
    "reward.call_seconds": (
        Example(50.0, OWN, played=True),
        "acts on calls that take as long: test_seconds_of_own_reward_functions",
    ),
    "reward.call_workers": (
        Example(1, OWN, played=True),
        "how many calls run at a time: test_workers_of_own_reward_functions",
    ),
    "reward.workers": (
        Example(1, apart=True),
        "how many answers are checked at a time: test_workers_of_the_math_verifier",
    ),
    "tools.python.workers": (
        Example(2, TOOL, played=True),
        "how many programs run at a time: test_workers_of_the_sandbox",
    ),
    "tools.python.unsafe": (
        Example(True, TOOL, played=True),
        "acts where isolation is not permitted: test_an_unsafe_sandbox",
    ),
    "optim.micro_batch_tokens": (Example(128), "bounds memory: how a mini-batch is split"),
    "optim.recompute": (Example(True, apart=True), "the same activations, computed twice"),
    "optim.compile": (Example(False, apart=True), "fuses operations on CUDA: tests/models/test_compiled.py"),
}
"""Keys that never change what is computed, and why: nothing differs but for rounding and times."""

EQUAL_IN_SFT: Mapping[str, tuple[Example, str]] = {
    "sft.optim.micro_batch_tokens": (Example(64), "as optim.micro_batch_tokens"),
    "sft.optim.recompute": (Example(True), "as optim.recompute"),
    "sft.optim.compile": (Example(False), "as optim.compile"),
}

OF_A_SERVED_TEACHER = (
    "url",
    "scores",
    "model",
    "tokenizer",
    "api_key_env",
    "concurrency",
    "tokens_in_flight",
    "max_request_tokens",
    "seconds",
    "attempts",
    "backoff_seconds",
    "backoff_max_seconds",
    "breaker_failures",
    "breaker_seconds",
    "cache",
    "cache_gb",
    "weight",
    "sources",
)

ELSEWHERE: Mapping[str, str] = {
    **{f"teacher.{key}": "test_a_key_of_a_served_teacher" for key in OF_A_SERVED_TEACHER},
    "teachers.NAME": "test_a_key_of_one_of_several_teachers",
    "tools.python.fusion": "test_a_key_of_a_service",
    "reward.judge": "test_a_key_of_the_judge",
    "engine": "test_a_key_of_the_engine",
    "launch": "test_a_key_of_launch",
    "environment": "test_a_key_of_an_environment",
    "world": "test_a_key_of_the_world",
    "compare": "test_a_key_of_compare",
    "tools.NAME": "test_a_key_of_a_tool_of_ones_own",
    "chat.dialect": "test_a_key_of_the_dialect",
    "method.alignment": "test_a_key_of_the_alignment",
    "parallel.shards": "test_a_key_of_the_ranks",
    "parallel.sequence": "test_a_key_of_the_ranks",
}
"""Keys of other commands and services, each with all below it: the function of `test_settings_elsewhere.py`."""
