"""TRL's `DistillationTrainer` on command: what `trl_step.py` and `trl_multi_turn.py` share.

Runs in TRL's own environment. The trainer is the installed one; a subclass puts a clock and a counter round its
generation, and a callback waits for `go` where an optimizer step begins.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from protocol import Line
from transformers import AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer

ENDLESS = 1_000_000  # optimizer steps; the run ends when no `go` comes any more


class ClockedTrainer(DistillationTrainer):  # type: ignore[misc]  # TRL is no dependency of ours
    """Notes how long generation takes, tools included, and what came of it."""

    def _generate(self, prompts: list[Any]) -> Any:
        began = time.perf_counter()
        result = super()._generate(prompts)
        prompt_ids, completion_ids, tool_mask = result[:3]
        sampled = sum(map(len, completion_ids)) if tool_mask is None else sum(map(sum, tool_mask))
        self.rollout = {
            "rollout_seconds": time.perf_counter() - began,
            "tokens": sampled,
            "all_tokens": sum(map(len, prompt_ids)) + sum(map(len, completion_ids)),
        }
        return result


class OnCommand(TrainerCallback):
    """One repetition is one optimizer step, from its first micro-batch to the moved weights."""

    def __init__(self, line: Line, figures: Callable[[], dict[str, Any]]) -> None:
        self._line = line
        self._figures = figures

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._line.wait()
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._line.answer({"seconds": time.perf_counter() - self._began} | self._figures())


def train_on_command(
    settings: Mapping[str, Any],
    tokenizer: Any,
    tools: Sequence[Callable[..., Any]],
    figures: Callable[[], dict[str, Any]] = dict,
    **config: Any,
) -> None:
    """Load, report ready, and train for as long as there is a `go`; `figures` are added to every answer.

    Everything that is not named here is TRL's default: among others reverse KL over the whole vocabulary (`beta` 1,
    the cheapest that the trainer has: 0 and 1 need one pass over the logits, a mixture two), bfloat16 autocast,
    AdamW as transformers chooses it, gradient clipping at 1, learning rate 1e-6.
    """
    line = Line()
    dtype = {"dtype": "bfloat16"}
    prompts = [{"prompt": [{"role": "user", "content": text}]} for text in settings["prompts"]]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DistillationConfig(
            output_dir=scratch,
            use_cpu=True,
            model_init_kwargs=dtype,
            teacher_model_init_kwargs=dtype,
            per_device_train_batch_size=settings["trl_batch"],
            gradient_accumulation_steps=len(prompts) // settings["trl_batch"],
            gradient_checkpointing=settings["trl_checkpointing"],
            temperature=settings["temperature"],
            max_steps=ENDLESS,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **config,
        )
        trainer = ClockedTrainer(
            model=settings["model"],
            teacher_model=settings["model"],
            args=arguments,
            train_dataset=Dataset.from_list(prompts),
            processing_class=tokenizer,
            tools=list(tools) or None,
        )
        trainer.add_callback(OnCommand(line, lambda: trainer.rollout | figures()))
        line.ready("trl", "transformers", "torch")
        trainer.train()


def read_settings() -> dict[str, Any]:
    """The settings file named on the command line, with what this side overrides (JSON) after it."""
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    overridden: dict[str, Any] = json.loads(sys.argv[2])
    return settings | overridden


def load_tokenizer(path: str) -> Any:
    """As the trainer itself would load it."""
    return AutoTokenizer.from_pretrained(path, truncation_side="left", padding_side="left")
