"""Recipes over models of any shape with random weights, whose episodes reach every limit."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from sod.build.allocation import TUNABLES
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.models.scratch import train_tokenizer
from sod.tasks import chain
from sod.tasks.files import write_conversations, write_tasks
from sod.tools.python import SCHEMA

MORE_TOKENS = 4000
"""Tokens that stand for nothing: a random model then hardly ever ends a turn before its limit."""
FAMILIES: dict[str, Any] = {"qwen3": Qwen3Config, "llama": LlamaConfig}
PROGRAM = Path(__file__).with_name("measured_job.py")

Shape = dict[str, Any]


@pytest.fixture(scope="session")
def wide_chat(tokenizer: Any) -> Chat:
    """The tests' tokenizer with many more tokens."""
    wide = copy.deepcopy(tokenizer)
    wide.add_tokens([f"<nothing-{number}>" for number in range(MORE_TOKENS)])
    return Chat(wide, [SCHEMA], template="hermes")


@pytest.fixture(scope="session")
def word_chat(conversations: Any) -> Callable[[int], Chat]:
    """`word_chat(more)`: over thousands of tokens of made-up words, and those of prompts, which all spell alike."""
    rng = random.Random(0)
    words = {"".join(rng.choices("bcdfgklmnprst", k=3)) + rng.choice("aeiou") for _ in range(9000)}
    blank = Chat(train_tokenizer([], 300), [SCHEMA], template="hermes")
    prompts = [blank.conversation_text(talk.messages) for talk in conversations] * 9

    @cache
    def make(more: int) -> Chat:
        tokenizer = train_tokenizer([*prompts, *(f" {word}" for word in sorted(words))], MORE_TOKENS + more)
        return Chat(tokenizer, [SCHEMA], template="hermes")

    return make


@pytest.fixture
def make_model(wide_chat: Chat, word_chat: Callable[[int], Chat], tmp_path: Path) -> Callable[..., str]:
    """See `maker_of_models`."""
    return maker_of_models(wide_chat, word_chat, tmp_path)


def maker_of_models(wide_chat: Chat, word_chat: Callable[[int], Chat], directory: Path) -> Callable[..., str]:
    """`make(name, family, layers=..., hidden=..., ffn=..., tied=True)`: the directory of a random model.

    With `words` its tokenizer is one of words with so many more; else that of the tests.
    """

    def make(
        name: str, family: str, layers: int, hidden: int, ffn: int, tied: bool = True, words: int | None = None
    ) -> str:
        chat = wide_chat if words is None else word_chat(words)
        config = FAMILIES[family](
            vocab_size=len(chat.tokenizer),
            hidden_size=hidden,
            intermediate_size=ffn,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=hidden // 8,
            max_position_embeddings=8192,
            tie_word_embeddings=tied,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(config)
        save_model(model, chat.tokenizer, chat.template, chat.end_id, directory / name)
        return str(directory / name)

    return make


@pytest.fixture
def make_recipe(
    wide_chat: Chat, word_chat: Callable[[int], Chat], conversations: Any, tmp_path: Path
) -> Callable[..., Path]:
    """See `maker_of_recipes`."""
    return maker_of_recipes(wide_chat, word_chat, conversations, tmp_path)


def maker_of_recipes(
    wide_chat: Chat, word_chat: Callable[[int], Chat], conversations: Any, directory: Path
) -> Callable[..., Path]:
    """`make(student, teacher, response, **sections)`: a recipe file; the models are shapes for `maker_of_models`."""
    make_model = maker_of_models(wide_chat, word_chat, directory)

    def make(student: Shape, teacher: Shape | None, response: int, **sections: Any) -> Path:
        chains = chain.splits({"train": 12}, 2, 3, seed=1)["train"]
        tasks = [chain.as_task(c, number) for number, c in enumerate(chains)]
        write_tasks(directory / "train.parquet", tasks)
        write_conversations(directory / "sft.parquet", conversations)
        chat = word_chat(student["words"]) if "words" in student else wide_chat
        models = {"student": student} | ({} if teacher is None else {"teacher": teacher})
        dtypes = {role: shape.get("dtype", "float32") for role, shape in models.items()}
        content: dict[str, Any] = {
            **{
                role: {"path": make_model(role, **_without_dtype(shape)), "dtype": dtypes[role]}
                for role, shape in models.items()
            },
            "chat": {"template": "hermes"},
            "data": {name: str(directory / f"{name}.parquet") for name in ("train", "sft")},
            "tools": {"python": {"preload": []}},
            "rollout": {
                "prompts": 2,
                "samples": 8,
                "max_turns": 1,
                "max_prompt_tokens": max(len(chat.prompt_ids(task.prompt)) for task in tasks),
                "max_turn_tokens": response,
                "max_response_tokens": response,
            },
            "train": {"steps": 2, "checkpoint_every": 9, "trajectories_every": 0},
        }
        for name, section in sections.items():
            content[name] = section if not isinstance(section, dict) else content.get(name, {}) | section
        file = directory / "recipe.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return file

    return make


def _without_dtype(shape: Shape) -> Shape:
    return {name: value for name, value in shape.items() if name != "dtype"}


@pytest.fixture(scope="module")
def deep_recipe(
    wide_chat: Chat,
    word_chat: Callable[[int], Chat],
    conversations: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The recipe of several tests: what is rehearsed for one of them is known in the others."""
    make = maker_of_recipes(wide_chat, word_chat, conversations, tmp_path_factory.mktemp("deep"))
    deep = {"family": "qwen3", "layers": 4, "hidden": 64, "ffn": 128}
    return make(deep, deep, 600, optim={"micro_batch_tokens": 8192})


@pytest.fixture
def job_in_a_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`job_in_a_process(recipe, kind, *arguments)`: see `measured_job.py`; with the allocator's tunables."""

    def run(recipe: Path, kind: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = [sys.executable, str(PROGRAM), str(recipe), str(tmp_path / "run"), kind]
        env = os.environ | {"GLIBC_TUNABLES": TUNABLES, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=900, check=False
        )

    return run
