"""Does the code verifier decide on HumanEval as its authors do? Every reference solution, and every stub.

    python benchmarks/humaneval.py HumanEval.jsonl.gz

Runs all 164 reference solutions (all must pass) and the same functions with `pass` for a body (all
must fail) through the local sandbox. Exit code 1 unless it is so.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

from sod.records import Episode, Fault, Message, StopReason, Task, Trajectory, Turn, Verdict
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
    turn = Turn(1, 0, 0, f"```python\n{problem['prompt']}{body}\n```")
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


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    problems = load(Path(sys.argv[1]))
    sandbox = LocalSandbox()
    verifier = CodeVerifier(sandbox.execute, seconds=10.0)
    surprises = 0
    try:
        for name, expected in (("reference solutions", True), ("stubs", False)):
            bodies = [problem["canonical_solution"] if expected else "    pass\n" for problem in problems]
            started = time.monotonic()
            verdicts = verifier.verify([answer(*pair) for pair in zip(problems, bodies, strict=True)])
            surprises += report(name, problems, verdicts, expected)
            print(f"  {time.monotonic() - started:.1f} s")
    finally:
        verifier.close()
        sandbox.close()
    sys.exit(1 if surprises or not problems else 0)


if __name__ == "__main__":
    main()
