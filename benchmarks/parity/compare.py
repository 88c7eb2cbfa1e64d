"""Do our styles give identical outputs the score of the harnesses they are named after?

    python benchmarks/parity/compare.py --harnesses HARNESSES
    python benchmarks/parity/compare.py --harnesses HARNESSES --record benchmarks/parity/verdicts.json
    python benchmarks/parity/compare.py

Judges the invented outputs of `invented.py` in every style and prints a table: outputs, how many the harness takes for
right, on how many a plain comparison of strings errs, and on how many we differ. The harnesses' verdicts come from
`references.py`, run in the environment HARNESSES, else from the recorded ones. Exit code 1 where we differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from invented import COUNTS, Output, outputs

from sod.evaluation.benchmarks.problem import Problem
from sod.evaluation.styles.base import Means
from sod.evaluation.styles.catalogue import STYLES
from sod.records import Fault, Message, Task
from sod.rewards.code import CodeVerifier
from sod.rewards.code_blocks import last_block
from sod.rewards.math import last_boxed
from sod.tools.sandbox.local import LocalSandbox

HERE = Path(__file__).parent
RECORDED = HERE / "verdicts.json"
TESTS = {
    "humaneval": ("prompt", "test", "entry_point"),
    "mbpp": ("test_list",),
    "livecodebench_v6": ("inputs", "outputs"),
}


def problem_of(output: Output, number: int) -> Problem:
    """The problem of an output, as a benchmark would give it."""
    name, row = f"{output.benchmark}-{number}", dict(output.problem)
    if output.benchmark in TESTS:
        extra = {column: row[column] for column in TESTS[output.benchmark]}
        task = Task(name, (Message("user", name),), "", extra=extra)
        return Problem(name, output.benchmark, "code", str(row.get("prompt", "")), "", task=task, row=row)
    if "choices" in row:
        choices, right = tuple(row["choices"]), row["right"]
        return Problem(name, output.benchmark, "choice", "Which one?", choices[right], choices, right, row=row)
    return Problem(name, output.benchmark, "math", "How much?", row["answer"], row=row)


def ours(style: str, made: Sequence[Output], code: CodeVerifier) -> list[int]:
    """Our verdicts."""
    asked = [(problem_of(output, number), output.text) for number, output in enumerate(made)]
    verdicts = STYLES[style].scores(asked, Means(lambda: code, workers=2, seconds=5))
    faults = [verdict.detail for verdict in verdicts if isinstance(verdict, Fault)]
    if faults:
        raise SystemExit(f"{style}: {len(faults)} faults: {faults[0]}")
    return [int(not isinstance(verdict, Fault) and verdict.correct) for verdict in verdicts]


def theirs(made: Sequence[Output], harnesses: Path) -> list[int]:
    """The harnesses' verdicts, from their own environment."""
    found: list[int] = asked_of(harnesses, [output._asdict() for output in made])
    return found


def asked_of(harnesses: Path, given: Sequence[Mapping[str, Any]], *options: str) -> Any:
    """What `references.py` says of rows."""
    lines = "".join(json.dumps(row) + "\n" for row in given)
    command = [str(harnesses / "bin/python"), str(HERE / "references.py"), *options]
    done = subprocess.run(command, input=lines, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"references.py failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return json.loads(done.stdout)


def naive(output: Output) -> int:
    """A plain comparison of strings: the last box, else the last word, with the published answer."""
    problem, text = output.problem, output.text
    if output.benchmark in TESTS:
        right = problem["right"] if "right" in problem else f"{problem['signature']}{problem['body']}"
        return int((last_block(text) or text).strip() == right.strip())
    truth = problem["answer"] if "answer" in problem else "ABCD"[problem["right"]]
    words = re.findall(r"\S+", text)
    said = last_boxed(text) or (words[-1] if words else "")
    return int(said.strip(".*$()") == truth)


def fingerprint(made: Sequence[Output]) -> str:
    """What recorded verdicts are about."""
    return hashlib.sha256(json.dumps([output._asdict() for output in made]).encode()).hexdigest()[:16]


def recorded(style: str, made: Sequence[Output]) -> list[int]:
    """The recorded verdicts of a style's outputs."""
    entry: dict[str, Any] = json.loads(RECORDED.read_text())[style]
    if entry["outputs"] != fingerprint(made):
        raise SystemExit(f"{RECORDED.name} is about other outputs of {style}: run with --harnesses and --record")
    return [int(one) for one in entry["verdicts"]]


def rows(style: str, made: Sequence[Output], expected: Sequence[int], found: Sequence[int]) -> list[str]:
    """The lines of the table."""
    lines = []
    for benchmark in (*COUNTS[style], ""):
        at = [number for number, output in enumerate(made) if benchmark in ("", output.benchmark)]
        right = sum(expected[number] for number in at)
        errs = sum(naive(made[number]) != expected[number] for number in at)
        differ = sum(found[number] != expected[number] for number in at)
        lines.append(f"| {style} | {benchmark or '**all**'} | {len(at)} | {right} | {errs} | {differ} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harnesses", type=Path, help="environment that has the harnesses (references.py says how)")
    parser.add_argument("--record", type=Path, help="write the harnesses' verdicts into this file")
    arguments = parser.parse_args()
    record: dict[str, Any] = {}
    lines = ["| style | benchmark | outputs | right | plain strings err | we differ |", "|---|---|---|---|---|---|"]
    differences = 0
    with closing(LocalSandbox()) as sandbox:
        code = CodeVerifier(sandbox.execute, seconds=10.0)
        for style in COUNTS:
            made = outputs(style)
            expected = theirs(made, arguments.harnesses) if arguments.harnesses else recorded(style, made)
            found = ours(style, made, code)
            lines += rows(style, made, expected, found)
            record[style] = {"outputs": fingerprint(made), "verdicts": "".join(map(str, expected))}
            for output, one, other in zip(made, found, expected, strict=True):
                if one != other:
                    differences += 1
                    print(f"{style} {output.benchmark}: we say {one}, the harness {other}: {output}", file=sys.stderr)
    print("\n".join(lines))
    if arguments.record:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
