"""GSM8K to tasks and conversations, on invented problems in its format."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.records import Message, SodError
from sod.rewards.math import verify
from sod.tasks.files import load_conversations, load_tasks
from sod.tasks.gsm8k import SYSTEM_PROMPT, Unusable, convert, evaluate, trajectory

SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "python",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    },
}

PLAIN = {
    "question": "Ines bakes 6 trays of 8 buns and sells half of them. How many buns are left?",
    "answer": "She bakes 6*8 = <<6*8=48>>48 buns.\nShe has 48/2 = <<48/2=24>>24 buns left.\n#### 24",
}
MONEY = {
    "question": "Tickets cost $7.50. What do 4 tickets cost after a $6 discount?",
    "answer": "The tickets cost 4 * $7.50 = $<<4*7.5=30>>30.\nAfter the discount: $30 - $6 = $<<30-6=24>>24.\n#### $24",
}
TWICE = {
    "question": "A crate holds 1,500 nails. How many nails are in 3 crates, and in 6?",
    "answer": "3 crates hold 3*1500 = <<3*1500=4500>>4,500 and 6 hold 2*4500 = <<2*4500=9000>>9,000 nails.\n#### 9,000",
}
EARLY = {
    "question": "Omar has 5 bags of 7 marbles and gives 3 away. How many remain?",
    "answer": "He has 35 marbles because 5 x 7 = <<5*7=35>>35\nHe keeps 32 because 35 - 3 = <<35-3=32>>32\n#### 32",
}
BARE = {"question": "What is 2 and 2?", "answer": "It is 4.\n#### 4"}
ALGEBRA = {"question": "Solve 3x = 27.", "answer": "x = <<9=9>>9\n#### 9"}
WRONG = {"question": "What is 6 plus 7?", "answer": "It is 6+7 = <<6+7=12>>12.\n#### 13"}
JUNK = {"question": "What is the 9th power of 9?", "answer": "It is <<9**9**9=1>>1.\n#### 1"}
UNANSWERED = {"question": "What is 5 minus 1?", "answer": "It is 5-1 = <<5-1=4>>4."}
GOOD = [PLAIN, MONEY, TWICE, EARLY]


def solve(row: dict[str, str]) -> tuple[Message, ...]:
    body, _, truth = row["answer"].rpartition("####")
    return trajectory(row["question"], body, truth.strip())


def told(answer: str) -> list[str]:
    """Contents after the question, with `code` calls in brackets."""
    shown = []
    for message in trajectory("?", answer, "0")[2:]:
        calls = "".join(f" [{call.arguments['code']}]" for call in message.tool_calls)
        shown.append(message.content + calls)
    return shown


def written(folder: Path, rows: list[dict[str, str]]) -> Path:
    path = folder / "quiz.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_the_whole_conversation() -> None:
    messages = solve(PLAIN)
    assert [message.role for message in messages] == [
        *("system", "user"),
        *("assistant", "tool", "assistant", "tool", "assistant"),
    ]
    assert messages[0].content == SYSTEM_PROMPT
    assert messages[1].content == PLAIN["question"]
    first, printed, second, halved, last = messages[2:]
    assert first.content == "She bakes 6*8 ="
    assert [(call.name, dict(call.arguments)) for call in first.tool_calls] == [("python", {"code": "print(6*8)"})]
    assert printed == Message("tool", "48", name="python")
    assert second.content == "48 buns.\nShe has 48/2 ="
    assert second.tool_calls[0].arguments == {"code": "print(48//2)"}
    assert halved.content == "24"
    assert last == Message("assistant", "24 buns left.\nThe answer is \\boxed{24}")


def test_a_currency_sign_goes_with_its_number() -> None:
    assert told(MONEY["answer"].rpartition("\n")[0]) == [
        "The tickets cost 4 * $7.50 = [print(4*7.5)]",
        "30.0",
        "$30.\nAfter the discount: $30 - $6 = [print(30-6)]",
        "24",
        "$24.\nThe answer is \\boxed{0}",
    ]
    assert told("It costs 2*3 = $<<2*3=6>>$6.")[2] == "$6.\nThe answer is \\boxed{0}"
    assert told("He owes 2-5 = <<2-5=-3>>-$3.")[2] == "-$3.\nThe answer is \\boxed{0}"


def test_several_annotations_in_one_line_are_several_calls() -> None:
    assert told(TWICE["answer"].rpartition("\n")[0]) == [
        "3 crates hold 3*1500 = [print(3*1500)]",
        "4500",
        "4,500 and 6 hold 2*4500 = [print(2*4500)]",
        "9000",
        "9,000 nails.\nThe answer is \\boxed{0}",
    ]


def test_a_result_stated_early_moves_its_call_to_the_line_start() -> None:
    assert told(EARLY["answer"].rpartition("\n")[0]) == [
        " [print(5*7)]",
        "35",
        "He has 35 marbles because 5 x 7 = 35 [print(35-3)]",
        "32",
        "He keeps 32 because 35 - 3 = 32\nThe answer is \\boxed{0}",
    ]


def test_a_result_may_be_said_again_before_another_call_gives_it() -> None:
    turns = told("So 2*5 = <<2*5=10>>10 and 20/2 = <<20/2=10>>10.")
    assert turns[2] == "10 and 20/2 = [print(20//2)]"


def test_a_result_the_text_leaves_out_is_stated() -> None:
    assert told("They are 2+3 = <<2+3=5>>cats.")[2].startswith("5 cats.")
    assert told("They are 2+3 = <<2+3=5>>.\n7 others left.")[2].startswith("5.\n7 others left.")


def test_an_annotation_without_an_operation_is_text() -> None:
    assert told("Then x = <<9=9>>9 and 9+1 = <<9+1=10>>10.")[0] == "Then x = 9 and 9+1 = [print(9+1)]"


@pytest.mark.parametrize(
    ("expression", "result", "code", "printed"),
    [
        ("0.1+0.2", "0.3", "0.1+0.2", "0.30000000000000004"),
        ("48/2", "24", "48//2", "24"),
        ("48/2", "24.00", "48//2", "24"),
        ("1/2", ".5", "1/2", "0.5"),
        ("80/100*10", "8", "80/100*10", "8.0"),
        ("7.5*2/3", "5", "7.5*2/3", "5.0"),
        ("(12+6)/(2+1)", "6", "(12+6)//(2+1)", "6"),
        ("100/3", "33.33", "100/3", "33.333333333333336"),
        ("2/3", "0.66", "2/3", "0.6666666666666666"),
        ("17//5", "3", "17//5", "3"),
        ("17%5", "2", "17%5", "2"),
        ("20%*50", "10", "(20/100)*50", "10.0"),
        ("1,200*2", "2400", "1200*2", "2400"),
        ("05*.5", "2.5", "5*.5", "2.5"),
        ("$3 x 4", "12", "3*4", "12"),
        ("3×4÷2", "6", "3*4//2", "6"),  # noqa: RUF001
        ("2^3", "8", "2**3", "8"),
        ("2(3+1)", "8", "2*(3+1)", "8"),
        ("(-17)+43", "26", "(-17)+43", "26"),
        ("3\u22125", "-2", "3-5", "-2"),
    ],
)
def test_code_and_what_it_prints(expression: str, result: str, code: str, printed: str) -> None:
    call, output, _ = trajectory("?", f"So <<{expression}={result}>>{result}", "0")[2:]
    assert call.tool_calls[0].arguments == {"code": f"print({code})"}
    assert output.content == printed
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        exec(f"print({code})", {})
    assert stdout.getvalue() == printed + "\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("It is 4.", "no annotation"),
        ("x = <<9=9>>9", "only annotations without an operation"),
        ("<<6+7=12>>12", "an annotation does not evaluate to its result"),
        ("<<7/2=3>>3", "an annotation does not evaluate to its result"),
        ("<<100/3=33.4>>33.4", "an annotation does not evaluate to its result"),
        ("<<6+7=thirteen>>13", "an annotated result is no number"),
        ("<<6+7=13>>14", "the text states another result than its annotation"),
        ("<<6+x=13>>13", "an annotation is no arithmetic expression"),
        ("<<1/0=1>>1", "an annotation is no arithmetic expression"),
        ("<<9**9**9=1>>1", "an annotation is no arithmetic expression"),
        ("2*3 = <<6>>6 and <<6+1=7>>7", "an annotation without '='"),
    ],
)
def test_unusable_annotations_are_named(answer: str, reason: str) -> None:
    with pytest.raises(Unusable) as error:
        trajectory("?", answer, "0")
    assert str(error.value) == reason


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os')",
        "print(1)",
        "1 if 1 else 2",
        "[1][0]",
        "'a'*9",
        "True+1",
        "1j*1j",
        "2**65",
        "10**9**9",
        "(2**64)**64",
        "1e308*10",
        "(-8)**.5",
        "1<<99",
        "(" * 150 + ")" * 150,
        "1+" * 5000 + "1",
        "",
    ],
)
def test_only_small_arithmetic_is_evaluated(code: str) -> None:
    with pytest.raises(Unusable):
        evaluate(code)


@given(
    st.recursive(
        st.integers(0, 9999).map(str) | st.floats(0, 999).map(lambda x: f"{x:.2f}"),
        lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
            lambda t: f"({''.join(t)})"
        ),
        max_leaves=6,
    )
)
def test_evaluation_is_cpythons(code: str) -> None:
    try:
        expected = eval(code)
    except ZeroDivisionError:
        with pytest.raises(Unusable):
            evaluate(code)
        return
    value = evaluate(code)
    assert (type(value), repr(value)) == (type(expected), repr(expected))


@given(
    st.lists(
        st.tuples(st.integers(2, 99), st.sampled_from("+-*"), st.integers(2, 99), st.booleans()), min_size=1, max_size=5
    )
)
def test_no_line_states_a_result_before_its_call(steps: list[tuple[int, str, int, bool]]) -> None:
    lines, results = [], []
    for left, sign, right, early in steps:
        result = eval(f"{left}{sign}{right}")
        results.append(result)
        boast = f"There are {abs(result)} because " if early else ""
        lines.append(f"{boast}{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result} things.")
    messages = trajectory("?", "\n".join(lines), "0")[2:]
    assert [message.content for message in messages[1::2]] == [str(result) for result in results]
    seen: set[str] = set()
    for turn, (left, _, right, _), result in zip(messages[0::2], steps, results, strict=False):
        # what this turn says after the last finished line, the previous result included
        line = turn.content.rpartition("things.")[2]
        numbers = set(re.findall(r"\d+", line)) - {str(left), str(right)} - seen
        assert result < 0 or str(result) not in numbers
        seen.add(str(result))
    spoken = "".join(message.content for message in messages[0::2])
    plain = re.sub("<<.*?>>", "", "\n".join(lines))
    assert re.sub(r"\s", "", spoken) == re.sub(r"\s", "", f"{plain}The answer is \\boxed{{0}}")


def test_convert_writes_three_files_that_load(tmp_path: Path) -> None:
    source = written(tmp_path, [*GOOD, BARE, ALGEBRA, WRONG, JUNK, UNANSWERED, PLAIN])
    report = convert(source, tmp_path / "out", validation=1, seed=3, tool_schema=SCHEMA)
    train = load_tasks(str(tmp_path / "out/train.parquet"))
    held = load_tasks(str(tmp_path / "out/validation.parquet"))
    sft = load_conversations(str(tmp_path / "out/sft.parquet"))
    assert train.skipped + held.skipped + sft.skipped == []
    assert (report.rows, report.train, report.validation, report.sft) == (
        10,
        len(train.items),
        len(held.items),
        len(sft.items),
    )
    assert report.task_skipped == {"no '####' answer": (8,), "question seen before": (9,)}

    ids = [task.id for task in train.items]
    assert ids == sorted(ids)
    assert set(ids).isdisjoint(task.id for task in held.items)
    assert {*ids, held.items[0].id} == {f"quiz-{row}" for row in range(8)}
    truths = ["24", "24", "9000", "32", "4", "9", "13", "1"]
    for task in train.items + held.items:
        row = task.extra["index"]
        assert (task.id, task.ground_truth) == (f"quiz-{row}", truths[row])
        assert [message.role for message in task.prompt] == ["system", "user"]
        assert task.prompt[0].content == SYSTEM_PROMPT

    skipped = {row for rows in report.sft_skipped.values() for row in rows}
    assert {conversation.id for conversation in sft.items} == set(ids) - {f"quiz-{row}" for row in skipped}
    assert skipped == {4, 5, 6, 7} - {held.items[0].extra["index"]}
    for conversation in sft.items:
        row = int(conversation.id.removeprefix("quiz-"))
        assert conversation.tools == (SCHEMA,)
        assert verify(conversation.messages[-1].content, truths[row]).correct


def test_reasons_are_counted_and_shown(tmp_path: Path) -> None:
    bare = [{**BARE, "question": f"What is 2 and 2, time {n}?"} for n in range(20)]
    source = written(tmp_path, [*bare, *GOOD, UNANSWERED])
    report = convert(source, tmp_path, validation=1, tool_schema=SCHEMA)
    [(reason, rows)] = report.sft_skipped.items()
    assert reason == "no annotation"
    assert len(rows) == report.train - report.sft
    table = {what: (count, rows) for what, count, rows in report.table_rows()}
    assert table["rows read"] == (25, "")
    assert table["sft.parquet"] == (report.sft, "")
    assert table["no task: no '####' answer"] == (1, "row 24")
    assert table["no SFT: no annotation"] == (len(rows), f"row {rows[0]}, {rows[1]}, {rows[2]}, ...")


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [{**PLAIN, "question": f"Question {n}?"} for n in range(40)]
    source = written(tmp_path, rows)

    def held(name: str, seed: int) -> list[str]:
        convert(source, tmp_path / name, validation=10, seed=seed, tool_schema=SCHEMA)
        return [task.id for task in load_tasks(str(tmp_path / name / "validation.parquet")).items]

    assert held("a", 1) == held("b", 1)
    assert set(held("c", 2)) != set(held("a", 1))
    assert len(set(held("a", 1))) == 10


@pytest.mark.parametrize(
    ("rows", "validation", "message"),
    [
        ([], 1, "quiz.jsonl: no rows"),
        ([{"q": "x", "a": "y"}], 1, "quiz.jsonl: no column 'question' (columns found: q, a)"),
        (GOOD, 4, "quiz.jsonl: cannot hold 4 of 4 usable rows out for validation"),
        (GOOD, 0, "quiz.jsonl: cannot hold 0 of 4 usable rows out for validation"),
        ([BARE, ALGEBRA], 1, "quiz.jsonl: no row can become an SFT conversation"),
    ],
)
def test_unusable_input_stops_in_one_line(
    tmp_path: Path, rows: list[dict[str, str]], validation: int, message: str
) -> None:
    with pytest.raises(SodError) as error:
        convert(written(tmp_path, rows), tmp_path / "out", validation, tool_schema=SCHEMA)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"no\.jsonl: no such data file"):
        convert(tmp_path / "no.jsonl", tmp_path / "out", tool_schema=SCHEMA)
