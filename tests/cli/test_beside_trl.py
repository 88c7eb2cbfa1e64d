"""One class trains here and in TRL's GRPOTrainer: the same conversations, results and rewards for the same actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from locked_box import LockedBox
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.score import action_logps
from sod.models.scratch import new_qwen3, train_tokenizer
from sod.objective.batch import supervised_batch
from sod.records import Message, ToolCall
from sod.runlog import RunLog

trl = pytest.importorskip("trl")
pytest.importorskip("datasets")

PROMPT, KEYS, STEPS = "Open the box. ", (1, 2, 3, 7), 2
Played = dict[tuple[Any, ...], tuple[Any, ...]]
"""What was read and earned, by what the model was asked and what it did."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that was shown the box, with a chat template that TRL knows."""
    from transformers.utils.chat_template_utils import get_json_schema

    folder = tmp_path_factory.mktemp("student") / "model"
    schemas = [get_json_schema(LockedBox().turn)]
    shown = [_shown(key, tried) for key in KEYS for tried in (key, 12)]
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    chat = _chat(train_tokenizer([], 300), schemas, template)
    chat = _chat(train_tokenizer([chat.conversation_text(each) for each in shown], 400), schemas, template)
    model = new_qwen3(chat.tokenizer, layers=2, hidden=48, heads=2, ffn=96, context=2048, seed=3)
    batch = supervised_batch([chat.encode_conversation(each) for each in shown])
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for _ in range(80):
        loss = -action_logps(model, batch).sum() / batch.action_tokens()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model, chat.tokenizer, template, chat.end_id, folder)
    return folder


def _chat(tokenizer: Any, schemas: list[Any], template: str) -> Chat:
    tokenizer.chat_template = template
    return Chat(tokenizer, schemas, template="tokenizer")


def _shown(key: int, tried: int) -> list[Message]:
    result = "Try 1: open." if tried == key else "{'error': 'the lock ends at 9'}"
    return [
        Message("user", f"{PROMPT}The key is {key}."),
        Message("assistant", "", (ToolCall("turn", {"number": tried}),)),
        Message("tool", result),
        Message("assistant", "Done."),
    ]


def trained_by_trl(student: Path, folder: Path) -> Played:
    """Two steps of GRPO with the class as `environment_factory`."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    seen: Played = {}

    def spy(prompts: list[Any], completions: list[Any], environments: list[Any], **columns: Any) -> list[float]:
        for prompt, completion, environment in zip(prompts, completions, environments, strict=True):
            calls = [
                (call["function"]["name"], json.dumps(call["function"]["arguments"]))
                for message in completion
                for call in message.get("tool_calls") or ()
            ]
            read = tuple(_text(message["content"]) for message in completion if message["role"] == "tool")
            asked = next(message["content"] for message in prompt if message["role"] == "user")
            seen[(asked, *calls)] = (read, pytest.approx(environment.get_reward()))
        return [0.0] * len(prompts)

    rows = [{"prompt": [{"role": "user", "content": PROMPT}], "key": key} for key in KEYS]
    options = {"per_device_train_batch_size": 8, "num_generations": 2, "max_steps": STEPS, "learning_rate": 1e-5}
    options |= {"max_completion_length": 160, "max_tool_calling_iterations": 3, "save_strategy": "no"}
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "seed": 5}
    trainer = trl.GRPOTrainer(
        model=str(student),
        args=trl.GRPOConfig(output_dir=str(folder / "trl"), **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(student),
        reward_funcs=[spy],
        environment_factory=LockedBox,
    )
    trainer.train()
    assert trainer.state.global_step == STEPS
    return seen


def _text(content: Any) -> str:
    """The text of a tool message, as the template renders it."""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def trained_by_sod(student: Path, folder: Path, sod: Any) -> Played:
    """Two steps of GRPO with the same class by import path, on the same rows."""
    rows = [{"id": f"key-{key}", "prompt": PROMPT, "key": key} for key in KEYS]
    (folder / "keys.jsonl").write_text("\n".join(map(json.dumps, rows)))
    limits = {"max_turns": 4, "max_prompt_tokens": 800, "max_turn_tokens": 60, "max_response_tokens": 400}
    content = {
        "student": {"path": str(student), "dtype": "float32"},
        "method": "grpo",
        "data": {"train": str(folder / "keys.jsonl")},
        "environment": {"call": "locked_box:LockedBox"},
        "rollout": {"prompts": 4, "samples": 2, **limits},
        "train": {"steps": STEPS, "trajectories_every": 1},
        "optim": {"lr": 1e-5},
    }
    (folder / "box.yaml").write_text(yaml.safe_dump(content))
    ended = sod("train", folder / "box.yaml", "--run", folder / "run")
    assert ended.code == 0, ended.err
    run = RunLog.open(folder / "run")
    seen: Played = {}
    for row in (row for step in range(1, STEPS + 1) for row in run.trajectories(step)):
        calls = [
            (call["name"], json.dumps(call["arguments"]))
            for turn in row["turns"]
            for call in turn["calls"]
            if "name" in call
        ]
        read = tuple(result["text"] for turn in row["turns"] for result in turn["results"])
        asked = next(message["content"] for message in row["prompt"] if message["role"] == "user")
        seen[(asked, *calls)] = (read, row["reward_parts"]["environment"])
    return seen


@pytest.mark.slow
def test_one_class_trains_here_and_in_trl(student: Path, tmp_path: Path, sod: Any) -> None:
    theirs, ours = trained_by_trl(student, tmp_path), trained_by_sod(student, tmp_path, sod)
    both = theirs.keys() & ours.keys()
    assert (
        {asked for asked, *_ in theirs} == {asked for asked, *_ in ours} == {f"{PROMPT}The key is {k}." for k in KEYS}
    )
    assert [each for each in both if len(each) > 1 and ours[each][1] > 1], (theirs, ours)
    assert [each for each in both if "{'error': 'the lock ends at 9'}" in ours[each][0]], (theirs, ours)
    for each in both:
        assert ours[each] == theirs[each], each
