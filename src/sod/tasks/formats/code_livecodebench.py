"""LiveCodeBench: `question_content`, `starter_code`, and tests in JSON text; the private ones are packed.

LiveCodeBench packs them as a pickle, which the sandbox unpacks: here it is a text like another.
"""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape
from sod.tasks.formats.code_base import asked, how, programming_task, used

_CASES = ("public_test_cases", "private_test_cases")


def _read(fields: Fields, name: str) -> Task:
    tests = used(fields, _CASES)
    if not tests:
        raise BadRowError(f"no tests in {' or '.join(_CASES)}")
    tests |= used(fields, ("metadata", "starter_code", "fn_name", "func_name"))
    prompt = asked(fields, ("question_content", "problem", "question", "prompt"), how(fields, tests))
    return programming_task(fields, name, "livecodebench", prompt, tests)


LIVECODEBENCH = Shape("LiveCodeBench", lambda row: any(column in row for column in _CASES), _read)
