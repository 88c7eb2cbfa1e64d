"""Proof of `b-tool.diff`: the model is shown both tools, and its episodes look a number up and compute with it."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path

from small import made, refused

from sod.build.tools import tool_schemas
from sod.build.training import prepare_train
from sod.recipe import Recipe, parse_recipe
from sod.records import Message, Task, ToolCall
from sod.tasks.base import Conversation
from sod.tools.base import ToolRequest
from sod.tools.lookup import LookupTool, read_table

TABLE = {"oak": "12", "elm": "31", "fir": "20", "ash": "44"}
TASKS = [Task(name, (Message("user", f"twice {name}"),), str(2 * int(number))) for name, number in TABLE.items()]


def demonstration(task: Task) -> Conversation:
    """Look the number up, double it, answer."""
    number = TABLE[task.id]
    return Conversation(
        task.id,
        (
            *task.prompt,
            Message("assistant", "", (ToolCall("lookup", {"key": task.id}),)),
            Message("tool", number, name="lookup"),
            Message("assistant", "", (ToolCall("python", {"code": f"print({number}*2)"}),)),
            Message("tool", task.ground_truth, name="python"),
            Message("assistant", f"\\boxed{{{task.ground_truth}}}"),
        ),
    )


# What the model does wrong is a tool error.
tool = LookupTool(TABLE)
asked = [{"key": "oak"}, {"key": "yew"}, {"key": 3}, {}, {"key": "oak", "more": 1}]
results = tool.run([ToolRequest("e", ToolCall("lookup", arguments), TASKS[0]) for arguments in asked])
errors = [getattr(result, "error", "a fault") for result in results]
assert errors == [None, "no_such_key", "bad_arguments", "bad_arguments", "bad_arguments"]

with tempfile.TemporaryDirectory() as name:
    file = Path(name) / "table.json"
    tools = {"python": {"workers": 1, "preload": []}, "lookup": {"file": str(file)}}
    # What the user does wrong is one line that names key and file.
    for text, told in (("{", "cannot read a JSON object"), ("[]", "not a JSON object"), ('{"a": 1}', "value of 'a'")):
        file.write_text(text)
        message = refused(lambda: read_table(str(file)))
        assert message.startswith(f"tools.lookup.file={file}: "), message
        assert told in message, message
    wrong = {"student": {"path": "s"}, "tools": {"lookup": {"fil": "x"}}}
    assert "tools.lookup.fil" in refused(lambda: parse_recipe(wrong, "r.yaml"))

    file.write_text(json.dumps(TABLE))
    schemas = tool_schemas(Recipe.model_validate({"student": {"path": "s"}, "tools": tools}))
    assert [schema["function"]["name"] for schema in schemas] == ["python", "lookup"]
    content = made(Path(name), TASKS, [demonstration(task) for task in TASKS], schemas, {"student": 150})
    recipe = Recipe.model_validate({**content, "tools": tools, "method": "grpo"})
    with closing(prepare_train(recipe, Path(name) / "run", False, print)) as job:
        job.start([])
    rows = job.log.trajectories(1)
    (metrics,) = job.log.metrics()

assert all([schema["function"]["name"] for schema in row["tools"]] == ["python", "lookup"] for row in rows)
used = [[call["name"] for turn in row["turns"] for call in turn["calls"]] for row in rows]
right = [calls for calls, row in zip(used, rows, strict=True) if row["correct"]]
assert right, (used, metrics)
assert all(calls == ["lookup", "python"] for calls in right), right
print(f"lookup: {len(right)} of {len(rows)} episodes right, {metrics['tool_calls']:.1f} calls each")
