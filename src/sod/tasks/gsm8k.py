r"""GSM8K (Cobbe et al., arXiv 2110.14168) as tasks and as Python-tool conversations.

A GSM8K answer annotates its calculations, `48/2 = <<48/2=24>>24 clips`, and ends with `#### 24`. Each
annotation becomes a call: the assistant's turn stops where the annotation stands, the `python` tool
computes, and the next turn goes on with the result. Where a line states its result before the
annotation ("He eats 32 because 2 x 16 = <<2*16=32>>32"), the call moves to the start of the line, so
that no result is stated before its call. An annotation without an operation (`<<134=134>>`) is text.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from sod.records import Message, SodError, Task, ToolCall
from sod.seeds import derive
from sod.tasks.base import Conversation
from sod.tasks.files import write_conversations, write_tasks
from sod.tasks.sources import read_rows, refuse_missing

SYSTEM_PROMPT = r"Use the python tool for each calculation and give the final answer in \boxed{}."
DATA_SOURCE = "openai/gsm8k"

_ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
_OPERATION = re.compile(r"[0-9.)][-+*/%]")  # in a tidied expression
_NUMBER = re.compile(r"(?:[0-9][0-9,]*)?\.?[0-9]+")
_STATED = re.compile(rf"[ \t]*(-?)[$€£]?[ \t]*(-?{_NUMBER.pattern})")
_OPEN_CURRENCY = re.compile(r"[$€£](?=[ \t]*$)")

_LONGEST_EXPRESSION = 200  # characters
_LARGEST_EXPONENT = 64
_LARGEST_INT = 2**256
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class Unusable(Exception):  # noqa: N818  (a verdict on a row, not a failure)
    """Why a row cannot become a conversation or a task; the text is the category that is counted."""


@final
@dataclass(frozen=True)
class ConvertReport:
    """What `convert` wrote (rows per file), and the rows (from 0) it left out, by reason.

    `task_skipped` rows are in no file. `sft_skipped` rows are in `train.parquet` only.
    """

    rows: int
    sft: int
    train: int
    validation: int
    task_skipped: Mapping[str, tuple[int, ...]]
    sft_skipped: Mapping[str, tuple[int, ...]]

    def table_rows(self) -> list[tuple[str, int, str]]:
        """(what, count, first example rows) for printing."""
        table: list[tuple[str, int, str]] = [
            ("rows read", self.rows, ""),
            ("train.parquet", self.train, ""),
            ("validation.parquet", self.validation, ""),
            ("sft.parquet", self.sft, ""),
        ]
        for label, skipped in (("no task", self.task_skipped), ("no SFT", self.sft_skipped)):
            for reason, rows in sorted(skipped.items(), key=lambda item: -len(item[1])):
                first = ", ".join(str(row) for row in rows[:3])
                table.append((f"{label}: {reason}", len(rows), f"row {first}" + (", ..." if len(rows) > 3 else "")))
        return table


@final
@dataclass(frozen=True)
class _Problem:
    row: int
    question: str
    answer: str  # reasoning lines, without the final one
    truth: str

    @property
    def solution(self) -> str:
        """The answer as the data set has it, but for how it writes the truth."""
        return f"{self.answer}#### {self.truth}"


def convert(
    input: Path, out: Path, validation: int = 256, seed: int = 0, *, tool_schema: Mapping[str, Any]
) -> ConvertReport:
    """Write `train.parquet` and `validation.parquet` (tasks) and `sft.parquet` (conversations) to `out`.

    `input` has the columns `question` and `answer`. `validation` rows, drawn by `seed`, are held out
    of the other two files. `tool_schema` is what the conversations declare: a function `python` with
    a parameter `code`. Raises SodError when the input cannot be used or is too small.
    """
    rows, broken = read_rows(str(input))
    refuse_missing(str(input), rows, ("question", "answer"))
    task_skipped: dict[str, list[int]] = {}
    for skip in broken:
        task_skipped.setdefault("not a JSON object", []).append(skip.row)
    problems = _problems(rows, task_skipped)
    if not 0 < validation < len(problems):
        raise SodError(f"{input}: cannot hold {validation} of {len(problems)} usable rows out for validation")

    order = np.random.default_rng(derive(seed, "gsm8k", "validation")).permutation(len(problems))
    held_out = [problems[i] for i in order[:validation]]
    kept = [problems[i] for i in sorted(order[validation:])]
    conversations: list[Conversation] = []
    sft_skipped: dict[str, list[int]] = {}
    for problem in kept:
        try:
            messages = trajectory(problem.question, problem.answer, problem.truth)
            conversations.append(Conversation(f"{input.stem}-{problem.row}", messages, (tool_schema,)))
        except Unusable as reason:
            sft_skipped.setdefault(str(reason), []).append(problem.row)
    if not conversations:
        raise SodError(f"{input}: no row can become an SFT conversation ({'; '.join(sft_skipped)})")

    write_tasks(out / "train.parquet", [_task(p, input.stem, "train") for p in kept])
    write_tasks(out / "validation.parquet", [_task(p, input.stem, "validation") for p in held_out])
    write_conversations(out / "sft.parquet", conversations)
    return ConvertReport(
        rows=len(rows) + len(broken),
        sft=len(conversations),
        train=len(kept),
        validation=len(held_out),
        task_skipped={reason: tuple(numbers) for reason, numbers in task_skipped.items()},
        sft_skipped={reason: tuple(numbers) for reason, numbers in sft_skipped.items()},
    )


def _problems(rows: Sequence[tuple[int, Mapping[str, Any]]], skipped: dict[str, list[int]]) -> list[_Problem]:
    problems: list[_Problem] = []
    seen: set[str] = set()
    for number, row in rows:
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or not question.strip():
            skipped.setdefault("no question or answer text", []).append(number)
            continue
        body, mark, final = answer.rpartition("####")
        truth = re.sub(r"[$€£,\s]", "", final).rstrip(".")
        if not mark or not truth:
            skipped.setdefault("no '####' answer", []).append(number)
        elif question.strip() in seen:  # else it could stand in training and validation both
            skipped.setdefault("question seen before", []).append(number)
        else:
            seen.add(question.strip())
            problems.append(_Problem(number, question.strip(), body, truth))
    return problems


def _task(problem: _Problem, stem: str, split: str) -> Task:
    prompt = (Message("system", SYSTEM_PROMPT), Message("user", problem.question))
    extra = {"index": problem.row, "split": split, "answer": problem.solution}
    return Task(f"{stem}-{problem.row}", prompt, problem.truth, DATA_SOURCE, extra)


# Conversations


def trajectory(question: str, answer: str, truth: str) -> tuple[Message, ...]:
    """The conversation that solves `question` as `answer` does, one tool call per annotation.

    `answer` are the reasoning lines without the `####` line, `truth` is that line's value. Raises
    Unusable, with the category, when an annotation cannot be computed or does not hold.
    """
    messages = [Message("system", SYSTEM_PROMPT), Message("user", question)]
    body = _ANNOTATION.sub(lambda m: m.group() if _OPERATION.search(_tidied(m[1])) else "", answer)
    lead, position = "", 0
    known: set[float] = set()  # results so far: saying them again gives nothing away
    for match in _ANNOTATION.finditer(body):
        code, value = _calculation(match[1], match[2])
        start = max(position, body.rfind("\n", 0, match.start()) + 1)
        said = _numbers(body[start : match.start()]) - _numbers(_tidied(match[1])) - known
        cut = start if float(value) in said else match.start()
        text = lead + body[position:cut]
        currency = _OPEN_CURRENCY.search(text) if cut == match.start() else None
        if currency:  # "= $" would end the turn on half a number
            text = text[: currency.start()]
        call = ToolCall("python", {"code": f"print({code})"})
        messages.append(Message("assistant", text.strip(), (call,)))
        messages.append(Message("tool", str(value), name="python"))
        position = match.end()
        tail = body[position:]
        lead = currency[0] if currency and not tail.lstrip().startswith(currency[0]) else ""
        lead += body[cut : match.start()] + _unstated(tail, match[2])
        known.add(float(value))
    if not known:
        annotated = _ANNOTATION.search(answer) is not None
        raise Unusable("only annotations without an operation" if annotated else "no annotation")
    rest = (lead + body[position:]).strip()
    messages.append(Message("assistant", f"{rest}\nThe answer is \\boxed{{{truth}}}"))
    if any("<<" in message.content or ">>" in message.content for message in messages):
        raise Unusable("an annotation without '='")
    return tuple(messages)


def _unstated(tail: str, result: str) -> str:
    """What to say before `tail` so that it states `result`: nothing, if it does so itself."""
    stated = _STATED.match(tail)
    if stated is None:
        return result + (" " if tail[:1].isalnum() else "")
    if _number(stated[1] + stated[2]) != _number(result):
        raise Unusable("the text states another result than its annotation")
    return ""


def _numbers(text: str) -> set[float]:
    return {_number(number) for number in _NUMBER.findall(text)}


def _number(text: str) -> float:
    return float(text.replace(",", ""))


# Calculations


def _calculation(expression: str, result: str) -> tuple[str, int | float]:
    """Python code and its value, if that is the annotated result within the result's rounding."""
    if not re.fullmatch(rf"-?{_NUMBER.pattern}", result.strip()):
        raise Unusable("an annotated result is no number")
    expected = _number(result)
    code = _tidied(expression)
    value = evaluate(code)
    decimals = len(result.strip().partition(".")[2])
    # An integer result is exact; one with decimals may be rounded (by half a unit) or cut (by one).
    unit = 10.0**-decimals if decimals else 0.0
    slack = 1e-9 * max(1.0, abs(expected))
    if value * expected < 0 or not -unit / 2 - slack <= abs(value) - abs(expected) <= unit + slack:
        raise Unusable("an annotation does not evaluate to its result")
    if isinstance(value, float) and expected.is_integer() and "/" in code:
        whole = re.sub(r"/+", "//", code)
        exact = _evaluate(whole, exact=True)
        if isinstance(exact, int):  # every division is exact: the tool prints 24, not 24.0
            return whole, exact
    return code, value


def _tidied(expression: str) -> str:
    """The expression in Python's spelling: no units, commas, leading zeros or implicit products."""
    text = re.sub(r"[\s$€£¢_]", "", expression)
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    for written, python in (("×", "*"), ("÷", "/"), ("\u2212", "-"), ("–", "-"), ("^", "**")):  # noqa: RUF001
        text = text.replace(written, python)
    text = re.sub(r"(?<=[0-9.)])[xX](?=[0-9.(])", "*", text)
    text = re.sub(r"([0-9]+\.?[0-9]*|\.[0-9]+)%(?![0-9.(])", r"(\1/100)", text)
    text = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", text)
    return re.sub(r"(?<=[0-9.)])(?=\()|(?<=\))(?=[0-9.])", "*", text)


def evaluate(code: str) -> int | float:
    """The value of an arithmetic expression, as CPython computes it; nothing else is executed.

    Allowed: numbers, + - * / // % **, parentheses. Raises Unusable for anything else, for division by
    zero, and for results that are too large or not real.
    """
    value = _evaluate(code, exact=False)
    if value is None:
        raise Unusable("an annotation is no arithmetic expression")
    return value


def _evaluate(code: str, exact: bool) -> int | float | None:
    if len(code) > _LONGEST_EXPRESSION:
        return None
    try:
        return _value(ast.parse(code, mode="eval").body, exact)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, exact: bool) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        operand = _value(node.operand, exact)
        value = -operand if isinstance(node.op, ast.USub) else operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left, exact), _value(node.right, exact)
        if isinstance(node.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
            raise ValueError("exponent too large")
        if exact and isinstance(node.op, ast.FloorDiv) and left % right:
            raise ValueError("not an exact division")
        value = _OPERATORS[type(node.op)](left, right)
    else:
        raise ValueError("not arithmetic")
    if not isinstance(value, int | float) or not abs(value) < _LARGEST_INT:
        raise ValueError("too large or not real")
    return value
