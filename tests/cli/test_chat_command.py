"""`sod chat` in a process of its own: text beside ids, what is sampled, what controls, and what was chosen."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from warm import run_warm

pytestmark = pytest.mark.slow

TELLS = "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor -%}"


def sod(*arguments: str, color: bool = False) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "200", "TERM": "xterm"}
    env |= {"FORCE_COLOR": "1"} if color else {"NO_COLOR": "1"}
    return run_warm(["-m", "sod", "chat", *arguments], env=env)


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, tokenizer: Any) -> Path:
    """A directory with a tokenizer and nothing else."""
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    own = copy.deepcopy(tokenizer)
    own.chat_template = TELLS
    own.save_pretrained(directory)
    return directory


def test_a_conversation_is_shown_with_its_ids(place: Path, tokenizer: Any) -> None:
    """Without colour: control tokens in brackets, sampled lines behind `>`, the ids of every line."""
    ended = sod(str(place))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == (
        "template: sod's hermes template, as the tokenizer's own does not do (it does not show the tools to the model)"
    )
    assert lines[1] == "dialect: hermes"
    assert "turns end in: <|im_end|>" in lines[2]
    titles = [line for line in lines if re.match(r"(prompt|turn \d|result)", line)]
    assert [re.sub(r"\d+ tokens", "N tokens", title) for title in titles] == [
        "prompt (N tokens)",
        "turn 1, sampled (N tokens)",
        "result and next prompt (N tokens)",
        "turn 2, sampled (N tokens)",
    ]
    assert 'read as: call python({"code": "print(6 * 7)"})' in lines
    assert 'read as: answer "\\\\boxed{42}"' in lines
    (last,) = [line for line in lines if line.startswith(">") and "boxed" in line]
    ids = tokenizer.encode("\\boxed{42}<|im_end|>", add_special_tokens=False)
    assert last.split() == [">", "\\boxed{42}[<|im_end|>]", *map(str, ids)]
    sampled = [line for line in lines if line.startswith(">")]
    assert not any("im_start" in line for line in sampled)
    assert "\x1b[" not in ended.stdout


def test_a_recipe_changes_what_is_shown(place: Path, tmp_path: Path) -> None:
    """Its tools and its template; a refusal is one line; nothing but the tokenizer is there to be loaded."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("student: {path: nowhere}\ntools: {python: null}\n", encoding="utf-8")
    ended = sod(str(place), "--recipe", str(recipe))
    assert ended.returncode == 0, ended.stderr
    assert "read as: call" not in ended.stdout
    refused = sod(str(place), "chat.template=tokenizer")
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        "error: chat template: it does not show the tools to the model; use chat.template=hermes"
    )
    assert sod(str(place), "chat.template=hermes").returncode == 0, "the advice works"


def test_colours_where_they_are_wanted(place: Path) -> None:
    ended = sod(str(place), color=True)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b[35m" in ended.stdout
    assert "\x1b[32m" in ended.stdout
