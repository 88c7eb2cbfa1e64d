"""APPS and TACO: `question`, perhaps `starter_code`, and `input_output`: inputs, outputs and perhaps `fn_name`."""

from __future__ import annotations

from sod.records import Task
from sod.tasks.formats.base import BadRowError, Fields, Shape, decoded
from sod.tasks.formats.code_base import asked, how, programming_task


def _read(fields: Fields, name: str) -> Task:
    tests = decoded(fields.use("input_output"), "input_output", dict)
    if not tests.get("inputs"):
        raise BadRowError("no tests in input_output")
    prompt = asked(fields, ("question", "problem", "description", "prompt"), how(fields, tests))
    return programming_task(fields, name, "apps", prompt, tests, ("solutions", "solution"))


APPS = Shape("APPS", lambda row: "input_output" in row, _read)
