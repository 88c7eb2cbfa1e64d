"""`sod data inspect`: what it says of every kind of file, in this process and through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ASKS = {"role": "user", "content": "What is 6*7?"}
SAYS = {"role": "assistant", "content": "It is 42."}
CALL = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"word": "six"}'}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"properties": {"word": {"type": "string"}}}}}


def verl(truth: Any, prompt: str = "What is 6*7?", **more: Any) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "reward_model": {"ground_truth": truth}, **more}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def plain(text: str) -> str:
    return " ".join(text.split())


CHECK = json.dumps({"entry_point": "f", "test": "def check(f):\n    assert f(1) == 2\n", "prompt": "def f(x):\n"})
KINDS: dict[str, tuple[list[Any], list[str], list[str]]] = {
    "verl": ([verl("42")], [], ["RL tasks: 1 of 1 row; verl", "math reads the answer in \\boxed{}; right is '42'"]),
    "hash": ([verl("42", 'Put it after "####".')], [], ["reads the answer behind '####'"]),
    "line": ([verl("42", "The last line is Answer: $Answer.")], [], ["reads the answer behind 'Answer:'"]),
    "strict": ([verl("42", 'After "####".')], ["reward.answer=boxed"], ["set reward.answer=auto", "in \\boxed{}"]),
    "letters": ([verl("A"), verl("F")], ["reward.verifier=choice"], ["widened to ABCDEF", "choice reads the answer"]),
    "looks like letters": ([verl("A"), verl("C")], [], ["every truth is a letter: reward.verifier=choice"]),
    "alternatives": ([verl(["42", "x+1"])], [], ["right is '42' or 'x+1'"]),
    "together": (
        [verl(["3", "5"], extra_info={"is_multiple_answer": True})],
        [],
        ["right is '3, 5'", "meant together"],
    ),
    "solution": ([verl("6*7=42\n#### 42")], [], ["the truth is what stands behind '####'", "right is '42'"]),
    "program": ([verl(CHECK)], [], ["1 of 1 rows have tests", "code runs its tests"]),
    "unused": ([verl("42", rank=3), verl("1", rank=4)], [], ["unused rank (2 rows)"]),
    "skipped": (
        [verl("42"), {"prompt": [ASKS], "reward_model": {}}],
        [],
        ["skipped 1 row: no", "(1 row: 1)", "1 of 2 rows"],
    ),
    "messages": (
        [{"messages": [ASKS, CALLS, {"role": "tool", "content": "6"}, SAYS], "tools": [TOOL]}],
        [],
        ["SFT conversations: 1 of 1 row", "lookup(word) (1 row)", '⟦lookup({"word": "six"})⟧', "⟦It is 42.⟧"],
    ),
    "other names": (
        [{"q": "What is 6*7?", "meta": {"answer": "42"}}],
        ["data.columns={prompt: q, ground_truth: meta.answer}"],
        ["RL tasks: 1 of 1 row", "right is '42'"],
    ),
    "a call of no tool": (
        [{"messages": [ASKS, SAYS]}, {"messages": [ASKS, CALLS, {"role": "tool", "content": "6"}, SAYS]}],
        [],
        ["SFT conversations: 1 of 2 rows", "it calls 'lookup'", "the run's in 1 row"],
    ),
    "renamed": ([verl("42")], ["tools.python.name=code_interpreter"], ["code_interpreter(code)"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_a_file(kind: str, sod: Any, tmp_path: Path) -> None:
    rows, options, said = KINDS[kind]
    ended = sod("data", "inspect", write(tmp_path / "a.jsonl", *rows), *options)
    assert ended.code == 0, ended.err
    for text in said:
        assert text in plain(ended.out)


def test_without_a_tokenizer_lengths_are_characters(sod: Any, tmp_path: Path) -> None:
    ended = sod("data", "inspect", write(tmp_path / "a.jsonl", *[verl("1", "x" * n) for n in (10, 20, 40)]))
    assert "prompts min 10, median 20, 95% 40, max 40 characters (no tokenizer" in plain(ended.out)


@pytest.mark.parametrize(("rows", "shown"), [(0, 0), (2, 2), (9, 5)])
def test_so_many_rows_are_shown(rows: int, shown: int, sod: Any, tmp_path: Path) -> None:
    ended = sod("data", "inspect", write(tmp_path / "a.jsonl", *[verl(str(n)) for n in range(5)]), "--rows", str(rows))
    assert ended.out.count(", task a-") == shown


def test_long_rows_are_shortened_unless_they_are_asked_for(sod: Any, tmp_path: Path) -> None:
    long = write(tmp_path / "a.jsonl", verl("1", "begin " + "x" * 3000 + " end"))
    short, full = sod("data", "inspect", long), sod("data", "inspect", long, "--full")
    assert len(short.out) < 1500 < 3000 < len(full.out)
    assert "begin" in short.out
    assert "end" in short.out


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"a": 1}], [], "no row can be used; as RL tasks: "),
        ([verl("4", images=[{"bytes": "aGk="}])], [], "a.jsonl: no usable row, 1 skipped: row 0: images"),
        ([verl("42")], ["--as", "sft"], "its rows are tasks"),
        ([verl({"tests": ["x"]})], ["reward.verifier=math"], "is a JSON object"),
        ([[1]], [], "no usable row"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_ends_in_one_line(
    rows: list[Any], options: list[str], said: str, sod: Any, tmp_path: Path
) -> None:
    ended = sod("data", "inspect", write(tmp_path / "a.jsonl", *rows), *options)
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert said in line
    assert str(tmp_path / "a.jsonl") in line


def test_a_file_that_is_not_there_is_said_once(sod: Any, tmp_path: Path) -> None:
    ended = sod("data", "inspect", tmp_path / "no.jsonl")
    assert ended.code == 1
    assert ended.err.count("no.jsonl") == 1


def test_a_model_that_is_not_there_leaves_the_text(sod: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", verl("42"))
    ended = sod("data", "inspect", file, f"student.path={tmp_path / 'no-model'}")
    assert ended.code == 0
    assert "going on with text alone" in ended.err
    assert "right is '42'" in ended.out


def test_a_key_that_does_not_exist_is_refused(sod: Any, tmp_path: Path) -> None:
    ended = sod("data", "inspect", write(tmp_path / "a.jsonl", verl("42")), "reward.answr=hash")
    assert ended.code == 1
    assert "reward.answr" in ended.err


@pytest.mark.slow
def test_no_torch_without_a_model(tmp_path: Path) -> None:
    """It is quick: nothing heavy is imported for it."""
    file = write(tmp_path / "a.jsonl", verl("42"))
    code = (
        "import sys; from sod.cli.main import main; sys.argv = ['sod', 'data', 'inspect', sys.argv[1]]\n"
        "try: main()\n"
        "finally: print('heavy:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    env = os.environ | {"SOD_ALLOCATOR": "off"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, env=env, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert "heavy: []" in ended.stdout


@pytest.mark.slow
def test_a_recipe_shows_tokens(world: Any, recipe: Path, sod: Any) -> None:
    """With the tokenizer of its student, its template and its limits; of conversations and of tasks."""
    data = world.path / "data"
    sft = plain(sod("data", "inspect", data / "sft.parquet", "--recipe", recipe, "--rows", "1").out)
    assert "SFT conversations: 64 of 64 rows" in sft
    assert "tokens; all within sft.max_tokens=" in sft
    assert "⟦\\boxed{" in sft
    tasks = sod("data", "inspect", data / "train.parquet", "--recipe", recipe, "rollout.max_prompt_tokens=1")
    assert "24 over rollout.max_prompt_tokens=1" in plain(tasks.out)
    assert tasks.out.count("<|im_start|>user") >= 3
