"""Does the code verifier decide on HumanEval as its authors do? Every reference solution, and every stub.

    python benchmarks/humaneval.py HumanEval.jsonl.gz [TIMES]

Runs all 164 reference solutions (all must pass) and the same functions with `pass` for a body (all
must fail) through the local sandbox, each TIMES times. Exit code 1 unless it is so. How many programs
a minute that is depends on what else the machine does; the CPU time of one does not.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sod.records import Episode, Fault, Message, Said, StopReason, Task, Trajectory, Turn, Verdict
from sod.rewards.code import CodeVerifier
from sod.tools.sandbox.local import LocalSandbox


def load(path: Path) -> list[dict[str, Any]]:
    """The problems, one JSON object per line, gzipped or not."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def answer(problem: dict[str, Any], body: str) -> Episode:
    """What a model would write whose function has this body."""
    extra = {name: problem[name] for name in ("prompt", "entry_point", "test")}
    task = Task(problem["task_id"], (Message("user", problem["prompt"]),), "", extra=extra)
    text = f"```python\n{problem['prompt']}{body}\n```"
    turn = Turn(1, 0, 0, text, said=Said(answer=text))
    return Episode(task, Trajectory(task.id, 0, 0, (), (), (), (turn,), StopReason.ANSWER))


def report(name: str, problems: list[dict[str, Any]], verdicts: list[Verdict | Fault], expected: bool) -> int:
    """Print the counts and every verdict that is not as expected; how many those are."""
    surprises = 0
    for problem, verdict in zip(problems, verdicts, strict=True):
        if isinstance(verdict, Fault) or verdict.correct is not expected:
            surprises += 1
            print(f"  {problem['task_id']}: {verdict.detail or 'passed'}")
    passed = sum(isinstance(verdict, Verdict) and verdict.correct for verdict in verdicts)
    print(f"{name}: {passed} of {len(problems)} pass", flush=True)
    return surprises


def cpu_seconds() -> float:
    """CPU time of this process and of all that it started, those that run and those that ended (Linux)."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            seconds[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        total += seconds.get(process, 0.0)
        waiting += children.get(process, [])
    return total


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    times = int(sys.argv[2]) if len(sys.argv) == 3 else 1
    problems = load(Path(sys.argv[1])) * times
    sandbox = LocalSandbox()
    verifier = CodeVerifier(sandbox.execute, seconds=10.0)
    surprises = 0
    try:
        for name, expected in (("reference solutions", True), ("stubs", False)):
            bodies = [problem["canonical_solution"] if expected else "    pass\n" for problem in problems]
            verifier.verify([answer(problems[0], bodies[0])])  # the sandbox is started
            started, before = time.monotonic(), cpu_seconds()
            verdicts = verifier.verify([answer(*pair) for pair in zip(problems, bodies, strict=True)])
            seconds, cpu = time.monotonic() - started, cpu_seconds() - before
            surprises += report(name, problems, verdicts, expected)
            rate, each = 60 * len(problems) / seconds, 1000 * cpu / len(problems)
            print(f"  {seconds:.1f} s: {rate:,.0f} programs a minute, {each:.0f} ms of CPU time each")
    finally:
        verifier.close()
        sandbox.close()
    sys.exit(1 if surprises or not problems else 0)


if __name__ == "__main__":
    main()
