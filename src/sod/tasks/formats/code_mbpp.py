"""MBPP and MBPP+: a statement in `text` or `prompt`, which only its assertions (`test_list`) tell how to call.

The prompt shows them, as the set's own does. MBPP+ has more tests in `test`. MBPP's `challenge_test_list` is no part
of what others count, and stays unused.
"""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.code_base import IN_A_BLOCK, asked, block, programming_task, used


def _read(fields: Fields, name: str) -> Task:
    shown = [str(line) for line in decoded(fields.use("test_list"), "test_list", list)]
    tests = used(fields, ("test", "test_setup_code", "test_imports"))
    if "test" not in tests:
        tests["test_list"] = shown
    if not shown and "test" not in tests:
        raise BadRowError("no tests in test_list")
    examples = f"The program must pass these tests:\n\n{block(chr(10).join(shown))}" if shown else ""
    prompt = asked(fields, ("text", "prompt", "question"), examples, IN_A_BLOCK)
    return programming_task(fields, name, "mbpp", prompt, tests, ("code", "canonical_solution"))


MBPP = Shape("MBPP", lambda row: "test_list" in row, _read)
