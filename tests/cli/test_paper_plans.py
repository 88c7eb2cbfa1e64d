"""`sod plan` for recipes of the SOD paper's table, with configurations in place of models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.recipe import load_recipe, shipped_file, shipped_names

SIZES = {"0.6b": (1024, 28, 3072), "1.7b": (2048, 28, 6144), "4b": (2560, 36, 9728)}
"""Hidden size, layers and inner size of Qwen3's models, whose heads have 128 dimensions and share 8 for keys."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in shipped_names() if name.startswith("qwen3-") and "vanilla" not in name]
)
def test_recipes_are_planned_without_weights_or_network(name: str, chat: Any, sod: Any, tmp_path: Path) -> None:
    """By the command itself, from configurations alone."""
    size = next(size for size in SIZES if size in name)
    teacher = load_recipe(shipped_file(name)).teacher
    where = {"student.path": config_only(tmp_path / "student", chat, size)}
    where |= {"teacher.path": config_only(tmp_path / "teacher", chat, "4b")} if teacher else {}
    words = [f"{key}={value}" for key, value in where.items()]
    words += ["chat.template=hermes", "chat.template_kwargs={}"]
    ended = sod("plan", shipped_file(name), *words, *(["--sft"] if name.endswith("-sft") else []))
    assert (ended.code in (0, 1), ended.err) == (True, "")
    assert "student: moments" in ended.out
    assert "at its peak" in ended.out
    assert ("teacher: weights" in ended.out) == ("grpo" not in name and "sft" not in name)


def config_only(place: Path, chat: Any, size: str) -> str:
    """A directory with a model's configuration and a tokenizer, and no weights."""
    hidden, _, inner = SIZES[size]
    chat.tokenizer.save_pretrained(place)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": len(chat.tokenizer),
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    }
    (place / "config.json").write_text(json.dumps(config))
    return str(place)
