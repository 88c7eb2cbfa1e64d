"""Hints by rule: what they tell, that they never state the answer, and the file that they are written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.records import Message, SodError, Task
from sod.tasks import chain
from sod.tasks.files import load_tasks, write_tasks
from sod.tasks.hints import NoHint, Posed, rule_hint, rule_hints, steps_of, write_hints
from sod.tasks.leaks import gives_away
from sod.tasks.privileged import privileged_prompt

EGGS = "Six boxes of four make 6*4=<<6*4=24>>24 eggs.\nWith ten more she has 24+10=<<24+10=34>>34.\n"
EGGS += "She sells half, 34/2=<<34/2=17>>17.\n#### 17"


def posed(reference: str, truth: str, question: str = "How many?", source: str = "x") -> Posed:
    return Posed(0, Task("t", (Message("user", question),), truth, source), reference)


@pytest.mark.parametrize(
    ("reference", "truth", "hint"),
    [
        # the first half of the steps, without annotations
        (EGGS, "17", "Six boxes of four make 6*4=24 eggs.\nWith ten more she has 24+10=34."),
        # one step states the answer: the next one that does not takes its place
        (EGGS, "6", "With ten more she has 24+10=34."),
        # never the last of several, whatever the truth
        ("First add.\nThen there is so much.", "unheard of", "First add."),
        # all steps state it: the operations without their results
        ("She has 5*3=<<5*3=15>>15 apples.\n#### 15", "15", "5*3"),
        # sentences of a paragraph, a box, a drawing
        (r"We factor. Then $x=\frac12$. So $\boxed{\frac{1}{2}}$ [asy] draw(0.5); [/asy]", "1/2", "We factor."),
        # mathematics set apart is not cut, and stays with what leads to it
        ("We know\n\\[a = b.\n c\\]So we add.\nWe are done.", "9", "We know \\[a = b. c\\]So we add."),
    ],
    ids=["half", "around a leak", "never the last", "operations", "sentences", "set apart"],
)
def test_solutions_in_words(reference: str, truth: str, hint: str) -> None:
    assert rule_hint(posed(reference, truth)) == hint


@pytest.mark.parametrize(
    ("reference", "truth", "source", "reason"),
    [
        ("", "3", "x", "no reference solution"),
        ("It is 3.", "3", "x", "nothing is left"),
        ("It is three.\nYes, \\boxed{3}.", "3", "x", "nothing is left"),
        ("#include <iostream>\nint main() {}", "3", "x", "its program is not Python"),
        ("def f(n):\n    return n", "3", "x", "its program is not Python, or has nothing to tell of"),
        ("```python\nprint('answer: 3')\n# it gives 3\n```", "3", "x", "would state the answer"),
        ("", "3", "chain", "no expression of the chain world"),
    ],
)
def test_no_hint_and_why(reference: str, truth: str, source: str, reason: str) -> None:
    hint = rule_hint(posed(reference, truth, source=source))
    assert isinstance(hint, NoHint)
    assert reason in hint.reason


@pytest.mark.parametrize("fence", ["{}", "```python\n{}\n```"])
def test_programs_tell_what_they_use_but_no_line(fence: str) -> None:
    program = (
        "import heapq\n\ndef smallest(words, n):\n"
        '    """The n smallest.\n\n    >>> smallest([2], 1)\n    """\n'
        "    # keep a heap of the largest\n    # heap = []\n    heap = []\n"
        "    for word in words:\n        heapq.heappush(heap, len(word))\n    return smallest(heap, n - 1)\n"
    )
    hint = rule_hint(posed(fence.format(program), '{"inputs": []}'))
    assert hint == (
        "It imports heapq.\nIt calls heappush, len.\nIt has a recursion, a for loop.\n"
        "The n smallest.\nkeep a heap of the largest"
    )


def test_the_body_of_a_function_is_a_program() -> None:
    """As HumanEval has its solutions: indented, without the line that defines the function."""
    assert rule_hint(posed("    total = sum(x)\n    return total\n", "check")) == "It calls sum."


def test_the_text_of_the_right_option_is_not_told_either() -> None:
    question = "Which city?\nA) Rome\nB) Paris\n"
    hint = rule_hint(posed("Think of the Seine.\nIt flows through Paris.\nNote its tower.\nSo B.", "B", question))
    assert hint == "Think of the Seine.\nNote its tower."


def test_chains_get_the_worlds_own_hint() -> None:
    """Also where the files of a world have none, as the quickstart's."""
    for number, one in enumerate(chain.splits({"a": 40}, 2, 5, seed=3)["a"]):
        task = chain.as_task(one, number)
        bare = Task(task.id, task.prompt, task.ground_truth, task.data_source)
        hint = rule_hint(Posed(0, bare))
        assert hint == one.hint or isinstance(hint, NoHint)
        assert isinstance(hint, NoHint) == gives_away(one.hint, [task.ground_truth])


WORDS = st.sampled_from(["so", "apples", "three", "12", "a", "7", "1/2", "half", "$x=7$", "50%", "seven", "\\boxed{7}"])


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.lists(WORDS, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=6),
    ends=st.sampled_from(["\n", ". ", ".\n\n"]),
    truth=st.sampled_from(["7", "12", "1/2", "0.5", "3", "apples", "so", "a", "x=7"]),
)
def test_no_hint_ever_states_the_answer(steps: list[str], ends: str, truth: str) -> None:
    """Nor is it anything but steps of the solution in their order."""
    reference = ends.join(steps)
    hint = rule_hint(posed(reference, truth))
    if isinstance(hint, NoHint):
        return
    assert not gives_away(hint, [truth])
    assert truth not in hint.split()
    remaining = iter(steps_of(reference))
    assert all(step in remaining for step in hint.split("\n"))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def row(answer: str | None, truth: str, **columns: Any) -> dict[str, Any]:
    extra = {} if answer is None else {"answer": answer}
    return {"prompt": "How many?", "reward_model": {"ground_truth": truth}, "extra_info": extra, **columns}


def test_written_tasks_are_what_opsd_hint_reads(tmp_path: Path) -> None:
    """Rows with a hint keep theirs, rows that cannot have one are left out and named by their numbers in the source."""
    rows = [
        row(EGGS, "17"),
        row(None, "5"),
        {"prompt": "no truth"},
        row(None, "24", canonical_solution="First add. Then there are 24."),
        row(EGGS, "17") | {"extra_info": {"hint": "mine", "answer": EGGS}},
        row("It is 3.", "3"),
    ]
    source, out = write(tmp_path / "tasks.jsonl", rows), tmp_path / "out" / "hinted.parquet"
    report = write_hints(source, out, rule_hints)
    tasks = load_tasks(str(out)).items
    assert [task.extra["hint"][:9] for task in tasks] == ["Six boxes", "First add", "mine"]
    assert all(privileged_prompt(task, "hint") for task in tasks)
    assert (report.made, report.kept) == (2, 1)
    assert sorted(report.left_out.values()) == [(1,), (5,)]
    assert ("hints that were there", 1, "") in report.table_rows()


def test_where_solutions_are_can_be_named(tmp_path: Path) -> None:
    source = write(tmp_path / "tasks.jsonl", [row(EGGS, "17", why="Count first. Then sum."), row(None, "3")])
    for key, hint in (("why", "Count first."), ("extra_info.answer", "Six boxes"), ("answer", "Six boxes")):
        write_hints(source, tmp_path / "out.parquet", rule_hints, key)
        (task,) = load_tasks(str(tmp_path / "out.parquet")).items
        assert task.extra["hint"].startswith(hint)
    write(tmp_path / "tasks.jsonl", [row("17", "17", solution="Count first. Then sum.")])
    write_hints(
        source, tmp_path / "out.parquet", rule_hints
    )  # a bare answer is no solution: the next place is looked at
    assert load_tasks(str(tmp_path / "out.parquet")).items[0].extra["hint"] == "Count first."
    write(tmp_path / "tasks.jsonl", [row(EGGS, "17")])
    with pytest.raises(
        SodError, match=r"tasks\.jsonl: no row has a text in proof \(--from\); row 0 has extra_info\.ans"
    ):
        write_hints(source, tmp_path / "out.parquet", rule_hints, "proof")


def test_what_is_refused(tmp_path: Path) -> None:
    """One line with file, row and fix; nothing is written."""
    source = write(tmp_path / "tasks.jsonl", [row(None, "3")])
    with pytest.raises(SodError, match=r"tasks\.jsonl: no row gets a hint, row 0: no reference solution.*--from"):
        write_hints(source, tmp_path / "out.parquet", rule_hints)
    with pytest.raises(SodError, match=r"out\.jsonl: --out is a \.parquet file other than --input"):
        write_hints(source, tmp_path / "out.jsonl", rule_hints)
    own = tmp_path / "own.parquet"
    write_tasks(own, [Task("t", (Message("user", "?"),), "3", extra={"answer": EGGS})])
    with pytest.raises(SodError, match="other than --input"):
        write_hints(str(own), own, rule_hints)
    assert not (tmp_path / "out.parquet").exists()
