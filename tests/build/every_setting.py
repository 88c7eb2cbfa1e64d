"""What every key of the recipe does, by an example: the table of `test_every_setting.py`.

A new key needs a line in exactly one of the tables here: in `CHANGES` with a value that changes something, in `EQUAL`
with the reason why it never changes what is computed, or in `ELSEWHERE` with the test that shows what it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PYTHON = {"workers": 1, "preload": [], "memory_mb": 256, "timeout_seconds": 10.0}
WITH_TOOL: Mapping[str, Any] = {"tools.python": PYTHON}
DENSE: Mapping[str, Any] = {"method.divergence": {"kind": "jsd", "top_k": 4}}
UPDATES: Mapping[str, Any] = {"optim.mini_batch_prompts": 1, "optim.lr": 0.1}
LORA: Mapping[str, Any] = {"student.lora": {"rank": 4}}


@dataclass(frozen=True)
class Example:
    """A key at another `value`, beside `base`, which is what it needs to matter.

    `{name}` in a value is a path of the test's. It is tried with every method, or else with the first that will do.
    """

    value: Any
    base: Mapping[str, Any] = field(default_factory=dict)
    every_method: bool = False
    method: str = "sod"


def on_all(value: Any, **base: Any) -> Example:
    """An example for every method; `a__b` in a name of `base` stands for `a.b`."""
    return Example(value, {name.replace("__", "."): given for name, given in base.items()}, every_method=True)


CHANGES: Mapping[str, Example] = {
    "seed": Example(1),
    "student.path": Example("{other}"),
    "student.dtype": Example("bfloat16"),
    "student.lora.rank": on_all(2, **LORA),
    "student.lora.alpha": Example(1, LORA),
    "student.lora.targets": Example(["q_proj"], LORA),
    "student.lora.dropout": on_all(0.5, **LORA),
    "teacher.path": on_all("{model}"),
    "teacher.dtype": on_all("bfloat16", teacher__path="{other}"),
    "chat.template": Example("tokenizer", {"student.path": "{templated}", "teacher.path": "{templated}"}),
    "chat.template_kwargs": Example({"enable_thinking": False}),
    "data.train": Example("{right}"),
    "data.sft": Example("{fewer}", method="sft"),
    "data.split": Example("test"),
    "data.overlong_prompts": Example("refuse", {"data.train": "{long}", "rollout.max_prompt_tokens": 100}),
    "tools.python.stateful": Example(True, WITH_TOOL),
    "tools.python.max_code_chars": Example(2, WITH_TOOL),
    "tools.python.failure_rate": Example(0.9, WITH_TOOL),
    "rollout.prompts": Example(1),
    "rollout.samples": Example(3),
    "rollout.max_turns": Example(1),
    "rollout.max_prompt_tokens": Example(100, {"data.train": "{long}"}),
    "rollout.max_turn_tokens": Example(4),
    "rollout.max_response_tokens": Example(72),
    "rollout.temperature": on_all(0.5),
    "rollout.top_p": Example(0.5),
    "rollout.top_k": Example(2),
    "rollout.distill_before_fault": Example(True, method="grpo"),
    "rollout.fault_window": Example(9, {"rollout.max_fault_rate": 1.0}),
    "reward.wrong": Example(-3.0),
    "reward.tool_bonus": Example(True, {"reward.wrong": -1.0}),
    "reward.overlong_buffer": Example(0),
    "reward.code_seconds": Example(1.0),
    "reward.code_memory_mb": Example(64),
    "method.name": Example("opd"),
    "method.loss_aggregation": on_all("seq-mean-token-mean"),
    "method.divergence": on_all("reverse_kl"),
    "method.divergence.kind": on_all("forward_kl", **DENSE),
    "method.divergence.beta": on_all(0.1, **DENSE),
    "method.divergence.top_k": on_all(2, **DENSE),
    "method.divergence.chosen_by": on_all("student", **DENSE),
    "method.clip_low": Example(1e-6, UPDATES, every_method=True),
    "method.clip_high": Example(1e-6, UPDATES, method="grpo"),
    "method.dual_clip": Example(1.0001, UPDATES),
    "optim.lr": on_all(1e-4),
    "optim.betas": Example([0.1, 0.2]),
    "optim.weight_decay": Example(0.5),
    "optim.clip_grad": Example(1e-6),
    "optim.warmup_steps": Example(2),
    "optim.schedule": Example("linear"),
    "optim.mini_batch_prompts": on_all(1),
    "train.steps": on_all(1),
    "train.checkpoint_every": on_all(1),
    "train.keep_checkpoints": on_all(1, train__checkpoint_every=1),
    "train.evaluate_every": on_all(2),
    "train.trajectories_every": on_all(2),
    "train.profile": on_all(True),
    "sft.max_tokens": Example(60, method="sft"),
}
"""Keys of `sod train`."""

SFT: Mapping[str, Example] = {
    "sft.steps": Example(1),
    "sft.batch_size": Example(1),
    "sft.max_tokens": Example(60),
    "sft.checkpoint_every": Example(1),
    "sft.optim.lr": Example(1e-4),
    "sft.optim.betas": Example([0.1, 0.2]),
    "sft.optim.weight_decay": Example(0.5),
    "sft.optim.clip_grad": Example(1e-6),
    "sft.optim.warmup_steps": Example(2),
    "sft.optim.schedule": Example("linear"),
    "sft.optim.mini_batch_prompts": Example(1),
}
"""Keys of `sod sft`."""

KNOBS: Mapping[str, Example] = {
    "kappa": Example(0.5),
    "rho": Example(0.5),
    "delta": Example(0.0, {"method.epsilon": 1e-3}),
    "epsilon": Example(10.0),
    "teacher_rule": Example("ema"),
    "teacher_every": Example(1, {"method.teacher_rule": "every"}),
    "teacher_decay": Example(0.5, {"method.teacher_rule": "ema"}),
    "beta_min": Example(0.1),
    "beta_max": Example(0.7),
    "gamma": Example(5.0),
    "decay": Example(0.1),
    "start": Example(2),
    "every": Example(1, {"optim.lr": 1e-6}),
    "threshold": Example(50.0),
}
"""Knobs of presets, each tried with every preset that has it."""

EQUAL: Mapping[str, tuple[Example, str]] = {
    "name": (Example("other"), "a label: of the run's default directory and of its figures"),
    "threads": (Example(1), "belongs to the machine; one thread is what the tests have"),
    "deterministic": (Example(False), "acts on CUDA alone: tests/build/test_devices.py"),
    "student.device": (Example("cpu"), "belongs to the machine; the CPU is what the tests have"),
    "teacher.device": (Example("cpu", {"teacher.path": "{other}"}), "as student.device"),
    "rollout.max_rows": (Example(1), "bounds memory"),
    "rollout.cache_share": (Example(0.5), "bounds the memory of a CUDA device; nothing on a CPU"),
    "rollout.decode_chunk": (Example(3), "when finished turns are looked at"),
    "rollout.fault_retries": (Example(0), "acts on faults of ours alone: tests/cli/test_chaos.py has some"),
    "rollout.max_fault_rate": (Example(0.5), "as rollout.fault_retries"),
    "reward.math_seconds": (Example(9), "acts on answers that take as long alone: tests/rewards/test_math_workers.py"),
    "reward.workers": (Example(1), "how many answers are checked at a time"),
    "tools.python.workers": (Example(2, WITH_TOOL), "how many programs run at a time"),
    "tools.python.memory_mb": (
        Example(128, WITH_TOOL),
        "acts on programs that want it: tests/tools/test_memory.py",
    ),
    "tools.python.processes": (Example(4, WITH_TOOL), "as memory_mb: tests/tools/test_isolation.py"),
    "tools.python.timeout_seconds": (Example(9.0, WITH_TOOL), "as memory_mb: tests/tools/test_local_sandbox.py"),
    "optim.micro_batch_tokens": (Example(4096), "bounds memory: how a mini-batch is split, here not at all"),
    "optim.recompute": (Example(True), "the same activations, computed twice"),
    "sft.optim.micro_batch_tokens": (Example(4096), "as optim.micro_batch_tokens"),
    "sft.optim.recompute": (Example(True), "as optim.recompute"),
}
"""Keys that never change what is computed, and why: the test asserts that nothing differs, times aside."""

ELSEWHERE: Mapping[str, str] = {
    "rollout.asynchronous": "tests/rollout/test_schedulers.py",  # not repeatable exactly, so nothing can be compared
    "tools.python.preload": "tests/tools/test_local_sandbox.py",
    "tools.python.unsafe": "tests/tools/test_isolation.py",
    "tools.python.fusion": "tests/tools/test_fusion_client.py",
    "tools.python.max_output_chars": "tests/tools/test_python_tool.py",
    "data.validation": "tests/cli/test_terminal.py",
    "evaluation": "tests/evaluation/test_runner.py",  # right answers take a student that gives some
    "reward.correct": "tests/rewards/test_shaping.py",
    "reward.choice.letters": "tests/rewards/test_choice.py",
    "reward.choice.answer_line": "tests/rewards/test_choice.py",
    "reward.code_check": "tests/build/test_proving.py",
    "reward.verifier": "tests/rollout/test_reward.py",
    "reward.by_source": "tests/rollout/test_reward.py",
    "optim.compile": "tests/models/test_compiled.py",  # equal up to rounding
    "sft.optim.compile": "tests/models/test_compiled.py",
    "world": "tests/quickstart/test_world.py",
    "compare": "tests/compare/test_order.py",
    "trackers": "tests/report/test_trackers.py",
}
"""Keys, each with all below it, whose effect another test shows: it takes answers, a service or another command."""
