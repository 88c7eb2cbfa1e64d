"""`sod align` through the real command, between real families' tokenizers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import TELLS, saved

from npm_tokenizers import fetched
from sod.tasks.files import write_conversations
from warm import run_warm

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from alignment import made_up

pytestmark = pytest.mark.slow


def align(*arguments: str | Path, color: bool = False) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"COLUMNS": "160", "SOD_ALLOCATOR": "off", "TERM": "xterm"}
    env |= {"FORCE_COLOR": "1"} if color else {"NO_COLOR": "1"}
    return run_warm(["-m", "sod", "align", *arguments], env=env)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: Any) -> Path:
    """Forty conversations with calls."""
    file: Path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    write_conversations(file, made_up(40))
    return file


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> tuple[str, str]:
    """Two small models that cut text and write calls otherwise: what is shown of them is loaded in no time."""
    directory = tmp_path_factory.mktemp("models")
    return saved(directory, "prose"), saved(directory, "pieces", TELLS)


def test_a_conversation_with_its_coverage_and_that_of_the_rows(talks: Path) -> None:
    """Without colours what is left out stands between marks; every turn has its shares, and so have all rows."""
    ended = align(fetched("qwen3"), fetched("llama3_1"), talks)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    facts = " ".join(ended.stdout.partition("row 0")[0].split())
    assert re.search(r"student \S+: the tokenizer's own template, as .*; dialect hermes teacher", facts)
    assert re.search(r"teacher \S+: the tokenizer's own template with the tools told .*; dialect gemma3 rows", facts)
    assert facts.endswith("rows 32 of 40 conversations")
    assert "row 0, made-up-0" in lines
    turns = [line for line in lines if line.startswith("turn 1: ")]
    assert re.fullmatch(
        r"turn 1: coverage \d+\.\d%; \d+ of \d+ tokens matched, \d+ of them one to one; \d+ control, .*", turns[0]
    )
    assert any("[<tool_call>]" in line for line in lines if line.startswith(">"))
    assert any("⟨" in line for line in lines if line.startswith(">"))
    assert "\x1b[" not in ended.stdout
    (total,) = [line for line in lines if re.search(r"all +│", line)]
    assert float(re.findall(r"[\d.]+(?=%)", total)[0]) >= 95
    assert re.fullmatch(r"least is matched in row \d+, turn \d: \d+\.\d%", lines[-1])


def test_tokens_side_by_side_and_a_limit_that_is_not_met(talks: Path, small: tuple[str, str]) -> None:
    """The row that is named is shown, and the command ends with 1 in one line that says where least is matched."""
    ended = align(*small, talks, "--rows", "3", "--row", "17", "--tokens", "--min-coverage", "1")
    assert ended.returncode == 1
    assert re.search(r"^row 17, made-up-17$", ended.stdout, re.MULTILINE)
    assert re.search(r"^ *1:1 +\S+│\S+.* {2,}\S+│\S+", ended.stdout, re.MULTILINE)
    assert re.search(r"^ *control +<tool_call>", ended.stdout, re.MULTILINE)
    assert re.fullmatch(
        r"error: \S+: \d+\.\d% of what .* below --min-coverage=1; least in row \d+, turn \d .*",
        ended.stderr.splitlines()[-1],
    )


def test_colours_where_they_are_wanted(talks: Path, small: tuple[str, str]) -> None:
    ended = align(*small, talks, "--rows", "1", color=True)
    assert ended.returncode == 0, ended.stderr
    assert {"\x1b[32m", "\x1b[36m", "\x1b[35m"} <= set(re.findall(r"\x1b\[3\dm", ended.stdout))
    assert "⌊" not in ended.stdout
