"""Reading and writing data files: what comes out, what is skipped by name, what stops the run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sod import hub
from sod.records import Message, SodError, Task, ToolCall
from sod.tasks import sources as reading
from sod.tasks.base import Conversation
from sod.tasks.files import (
    load_conversations,
    load_tasks,
    write_conversations,
    write_tasks,
)
from sod.tasks.loaded import Loaded, SkippedRow

USER = {"role": "user", "content": "How many?"}
REPLY = {"role": "assistant", "content": "Two."}
PYTHON = {"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}
SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
GOOD_TASK = {"prompt": "How many?", "reward_model": {"ground_truth": "2"}}


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def asks(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls), **more}


NO_CALL = "tool message with no preceding call: give the assistant's message before it its tool_calls"


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


# RL rows


def test_tasks_in_verls_schema(tmp_path: Path) -> None:
    rows = [
        {
            "data_source": "maths",
            "prompt": [{"role": "system", "content": "Be brief."}, USER],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"index": 17, "split": "train"},
        }
    ]
    [task] = load_tasks(parquet(tmp_path / "a.parquet", rows)).items
    assert task == Task(
        id="17",
        prompt=(Message("system", "Be brief."), Message("user", "How many?")),
        ground_truth="2",
        data_source="maths",
        extra={"index": 17, "split": "train"},
    )
    assert type(task.extra["index"]) is int


def test_a_prompt_may_be_plain_text_and_the_rest_left_out(tmp_path: Path) -> None:
    [task] = load_tasks(jsonl(tmp_path / "quiz.jsonl", GOOD_TASK)).items
    assert task == Task("quiz-0", (Message("user", "How many?"),), "2", "unknown", {})


def test_a_text_prompt_that_looks_like_a_list_stays_text(tmp_path: Path) -> None:
    [task] = load_tasks(jsonl(tmp_path / "a.jsonl", {**GOOD_TASK, "prompt": "[1, 2] has how many?"})).items
    assert task.prompt == (Message("user", "[1, 2] has how many?"),)
    [task] = load_tasks(jsonl(tmp_path / "b.jsonl", {**GOOD_TASK, "prompt": "[1, 2]"})).items
    assert task.prompt == (Message("user", "[1, 2]"),)


def test_nested_columns_may_be_json_text(tmp_path: Path) -> None:
    row = {
        "prompt": json.dumps([USER]),
        "reward_model": json.dumps({"ground_truth": 2}),
        "extra_info": json.dumps({"id": "q1", "hint": None}),
    }
    [task] = load_tasks(parquet(tmp_path / "a.parquet", [row])).items
    assert (task.id, task.prompt, task.ground_truth) == ("q1", (Message("user", "How many?"),), "2")
    assert task.extra == {"id": "q1", "hint": None}


@pytest.mark.parametrize(
    ("truth", "text"),
    [("x", "x"), (2, "2"), (2.5, "2.5"), ([["a", "é"]], '[["a", "é"]]'), ({"in": [1]}, '{"in": [1]}')],
)
def test_ground_truth_is_text(tmp_path: Path, truth: Any, text: str) -> None:
    row = {**GOOD_TASK, "reward_model": {"ground_truth": truth}}
    assert load_tasks(jsonl(tmp_path / "a.jsonl", row)).items[0].ground_truth == text
    assert load_tasks(parquet(tmp_path / "a.parquet", [row])).items[0].ground_truth == text


@pytest.mark.parametrize(
    ("truth", "texts"),
    [
        (["3", "5"], ["3", "5"]),
        ([3, 0.5], ["3", "0.5"]),
        (["3", "3", "5"], ["3", "5"]),
        (["5"], ["5"]),
        ('["3", "5"]', ["3", "5"]),
        ("[1, 2]", ["[1, 2]"]),
        ("[1, 2)", ["[1, 2)"]),
        ('["[1, 2]", "x"]', ["[1, 2]", "x"]),
        ([None, "5"], ["5"]),
    ],
)
def test_a_list_is_several_accepted_answers(tmp_path: Path, truth: Any, texts: list[str]) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**GOOD_TASK, "reward_model": {"ground_truth": truth}})
    [task] = load_tasks(path).items
    assert [task.ground_truth, *task.truths] == texts
    write_tasks(tmp_path / "b.parquet", [task])
    assert load_tasks(str(tmp_path / "b.parquet")).items == [task]


def test_a_list_in_parquet_is_several_accepted_answers(tmp_path: Path) -> None:
    rows = [{**GOOD_TASK, "reward_model": {"ground_truth": truths}} for truths in (["3", "5"], ["7"])]
    loaded = load_tasks(parquet(tmp_path / "a.parquet", rows))
    assert [(task.ground_truth, task.truths) for task in loaded.items] == [("3", ("5",)), ("7", ())]
    assert loaded.rows == [0, 1]


def test_a_text_that_looks_like_a_list_of_texts_survives_writing(tmp_path: Path) -> None:
    task = Task("t", (Message("user", "x"),), '["a"]', truths=('["b", "c"]',))
    write_tasks(tmp_path / "a.parquet", [task])
    assert load_tasks(str(tmp_path / "a.parquet")).items == [task]


@pytest.mark.parametrize("gap", [None, "", [], "[]", [None], ["", None], float("nan")])
def test_a_gap_is_no_truth(tmp_path: Path, gap: Any) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**GOOD_TASK, "reward_model": {"ground_truth": gap}}, GOOD_TASK)
    loaded = load_tasks(path)
    assert loaded.skipped == [SkippedRow(0, "no reward_model.ground_truth")]
    assert loaded.rows == [1]


def test_ids_are_unique(tmp_path: Path) -> None:
    names = ["a", "a", "a-2", None, "a"]
    rows = [{**GOOD_TASK, "extra_info": {"id": name}} for name in names]
    tasks = load_tasks(jsonl(tmp_path / "f.jsonl", *rows)).items
    assert [task.id for task in tasks] == ["a", "a-1", "a-2", "f-3", "a-4"]
    clash = [{**GOOD_TASK, "extra_info": {"id": name}} for name in ("a", "a-2", "a")]
    assert [task.id for task in load_tasks(jsonl(tmp_path / "g.jsonl", *clash)).items] == ["a", "a-2", "a-2-2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reward_model": {"style": "rule"}}, "no reward_model.ground_truth"),
        ({"reward_model": {"ground_truth": ""}}, "no reward_model.ground_truth"),
        ({"reward_model": None}, "no reward_model.ground_truth"),
        ({"reward_model": "2"}, "reward_model is not a dict but int"),
        ({"reward_model": "two"}, "reward_model is a string but not JSON"),
        ({"prompt": []}, "no prompt"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": ""}, "no prompt"),
        ({"prompt": [{"role": "usr", "content": "x"}]}, "unknown role 'usr': use system, user, assistant or tool"),
        ({"prompt": [{"role": "user"}]}, "user message without text content"),
        ({"prompt": [{"role": "user", "content": "\ud800"}]}, "user message is not valid Unicode"),
        ({"extra_info": [1]}, "extra_info is not a dict but list"),
    ],
)
def test_bad_task_rows_are_skipped_by_name(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    loaded = load_tasks(jsonl(tmp_path / "a.jsonl", GOOD_TASK, {**GOOD_TASK, **change}, GOOD_TASK))
    assert [task.id for task in loaded.items] == ["a-0", "a-2"]
    assert loaded.skipped == [SkippedRow(1, reason)]


def test_every_field_is_used_or_counted_as_unused(tmp_path: Path) -> None:
    rows = [
        {**GOOD_TASK, "ability": "math", "layer": 3, "reward_model": {"style": "rule", "ground_truth": "2"}},
        {**GOOD_TASK, "ability": "math", "images": [], "reward_model": '{"style": "model", "ground_truth": "2"}'},
        {**GOOD_TASK, "prompt": "", "lost": 1},
    ]
    loaded = load_tasks(jsonl(tmp_path / "a.jsonl", *rows))
    assert loaded.unused == {"ability": 2, "layer": 1, "reward_model.style": 1}
    assert loaded.unused_line() == "ability (2 rows), layer (1 row), reward_model.style (1 row)"
    assert loaded.shapes == {"verl": 2}


# SFT rows


def test_calls_in_every_form(tmp_path: Path) -> None:
    code = {"code": "print(1+1)"}
    forms = [call("python", code), call("python", json.dumps(code)), {"name": "python", "arguments": code}]
    messages = [
        USER,
        asks(*forms),
        *[{"role": "tool", "content": "2"}] * 3,
        asks(call("python", code, id="c1"), call("search", {"q": "x"}, id="c2"), content=None),
        {"role": "tool", "content": "found", "tool_call_id": "c2"},
        {"role": "tool", "content": "2", "name": "py"},
        REPLY,
    ]
    [conversation] = load_conversations(
        jsonl(tmp_path / "a.jsonl", {"messages": messages, "tools": [PYTHON, SEARCH]})
    ).items
    asked = ToolCall("python", code)
    assert conversation.messages == (
        Message("user", "How many?"),
        Message("assistant", "", (asked, asked, asked)),
        *[Message("tool", "2", name="python")] * 3,
        Message("assistant", "", (ToolCall("python", code, "c1"), ToolCall("search", {"q": "x"}, "c2"))),
        Message("tool", "found", name="search"),
        Message("tool", "2", name="py"),
        Message("assistant", "Two."),
    )
    assert conversation.tools == (PYTHON, SEARCH)


def test_arrow_does_not_mix_the_arguments_of_two_tools(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [USER, asks(call("python", {"code": "1"}), content=""), {"role": "tool", "content": "1"}],
            "tools": [PYTHON],
        },
        {"messages": [USER, asks(call("search", {"q": "x", "n": 3}), content="")], "tools": [SEARCH]},
    ]
    path = parquet(tmp_path / "a.parquet", rows)
    merged = pq.read_table(path).to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert merged == {"code": "1", "q": None, "n": None}  # the quirk is real
    first, second = load_conversations(path).items
    assert first.messages[1].tool_calls == (ToolCall("python", {"code": "1"}),)
    assert second.messages[1].tool_calls == (ToolCall("search", {"q": "x", "n": 3}),)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no messages"),
        (None, "no messages"),
        ("hello", "messages is a string but not JSON"),
        ([USER], "no assistant message"),
        ([{"role": "usr", "content": "x"}, REPLY], "unknown role 'usr': use system, user, assistant or tool"),
        (["x", REPLY], "unknown role None: use system, user, assistant or tool"),
        ([USER, asks(call("python", "print(1)"))], "the arguments of a call to 'python' are no JSON object"),
        ([USER, asks(call("python", [1]))], "the arguments of a call to 'python' are no JSON object"),
        ([USER, asks({"type": "function"})], "a tool call has no name"),
        (
            [USER, {"role": "tool", "content": "2"}, REPLY],
            NO_CALL,
        ),
        (
            [USER, asks(call("python", {})), {"role": "tool", "content": "2"}, {"role": "tool", "content": "3"}, REPLY],
            NO_CALL,
        ),
        (
            [USER, asks(call("python", {})), USER, {"role": "tool", "content": "2"}, REPLY],
            NO_CALL,
        ),
        ([{**USER, "tool_calls": [call("python", {})]}, REPLY], "user message with tool_calls"),
        ([USER, {"role": "assistant"}], "assistant message without text content"),
        ([USER, {"role": "assistant", "content": 3}], "assistant message without text content"),
        ([USER, {"role": "assistant", "content": [3]}], "assistant message without text content"),
    ],
)
def test_bad_conversations_are_skipped_by_name(tmp_path: Path, messages: Any, reason: str) -> None:
    good = {"messages": [USER, REPLY]}
    loaded = load_conversations(jsonl(tmp_path / "a.jsonl", good, {"messages": messages, "tools": [PYTHON]}))
    assert [conversation.id for conversation in loaded.items] == ["a-0"]
    assert loaded.skipped == [SkippedRow(1, reason)]


def test_a_call_need_not_be_declared_in_its_row(tmp_path: Path) -> None:
    """The run may have the tool: `build.conversations` knows."""
    [conversation] = load_conversations(
        jsonl(tmp_path / "a.jsonl", {"messages": [USER, asks(call("python", {}))]})
    ).items
    assert conversation.messages[1].tool_calls == (ToolCall("python", {}),)
    assert conversation.tools == ()


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("python", "tools is a string but not JSON"),
        ({"a": 1}, "tools is not a list but dict"),
        ([{"type": "function"}], "a declared tool has no name"),
    ],
)
def test_bad_declarations_are_skipped_by_name(tmp_path: Path, tools: Any, reason: str) -> None:
    rows = [{"messages": [USER, REPLY], "tools": "null"}, {"messages": [USER, REPLY], "tools": tools}]
    assert load_conversations(jsonl(tmp_path / "a.jsonl", *rows)).skipped == [SkippedRow(1, reason)]


# Sources


def test_summary_names_the_first_skips_and_counts_all() -> None:
    skips = [SkippedRow(row, "no assistant message") for row in (5, 6, 7, 8, 9)]
    assert Loaded([0] * 7400, skips[:1]).summary() == "7,400 rows, 1 skipped: row 5: no assistant message"
    assert Loaded([0], []).summary() == "1 rows"
    summary = Loaded([0] * 7400, skips).summary()
    assert summary.startswith("7,400 rows, 5 skipped: row 5: ")
    assert summary.endswith("; and 2 more")
    assert "\n" not in summary
    assert "row 8" not in summary


def test_broken_lines_are_skipped_with_their_line_number(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD_TASK, "", '{"prompt": ', "[1]", GOOD_TASK)
    loaded = load_tasks(path)
    assert [task.id for task in loaded.items] == ["a-0", "a-3"]
    assert loaded.skipped == [
        SkippedRow(1, "line 3 is not a JSON object"),
        SkippedRow(2, "line 4 is not a JSON object"),
    ]


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    row = {**GOOD_TASK, "prompt": "a\u2028b\x85c"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert load_tasks(str(path)).items[0].prompt[0].content == "a\u2028b\x85c"


def test_json_may_be_an_array_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD_TASK, 3]))
    loaded = load_tasks(str(tmp_path / "a.json"))
    assert (len(loaded.items), loaded.skipped) == (1, [SkippedRow(1, "not a JSON object")])
    assert len(load_tasks(jsonl(tmp_path / "b.json", GOOD_TASK, GOOD_TASK)).items) == 2


def sources(folder: Path) -> dict[str, tuple[str, str]]:
    """Case name -> (source, what the one-line error says)."""
    (folder / "a.txt").write_text("x")
    (folder / "sub").mkdir()
    (folder / "empty.jsonl").write_text("\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 not really")
    (folder / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    (folder / "array.json").write_text("[1,")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string()), "reward_model": []}), folder / "none.parquet")
    bad = jsonl(folder / "bad.jsonl", {**GOOD_TASK, "prompt": ""}, {**GOOD_TASK, "prompt": []})
    return {
        "missing": (str(folder / "no.parquet"), "no.parquet: no such data file"),
        "missing, relative": ("data/no.parquet", "data/no.parquet: no such data file"),
        "folder": (str(folder / "sub"), "no such data file, and as a folder it has none that ends in .parquet"),
        "glob": (str(folder / "*.tsv"), "*.tsv: no file matches"),
        "suffix": (str(folder / "a.txt"), "unknown suffix '.txt'"),
        "empty": (str(folder / "empty.jsonl"), "empty.jsonl: no rows"),
        "no rows": (str(folder / "none.parquet"), "none.parquet: no rows"),
        "corrupt": (str(folder / "broken.parquet"), "not a readable parquet file"),
        "not UTF-8": (str(folder / "latin.jsonl"), "not readable as JSON"),
        "bad array": (str(folder / "array.json"), "not readable as JSON"),
        "columns": (
            jsonl(folder / "cols.jsonl", {"q": "x", "a": "y"}),
            "cols.jsonl: its rows are of no known shape; columns: q, a; say which is which, e.g. "
            "data.columns='{prompt: q, ground_truth: a}'",
        ),
        "parquet columns": (
            parquet(folder / "q.parquet", [{"q": "x"}]),
            "q.parquet: its rows are of no known shape; columns: q",
        ),
        "all bad": (bad, "bad.jsonl: no usable row, 2 skipped: row 0: no prompt; row 1: no prompt"),
        "all broken": (
            jsonl(folder / "broken.jsonl", '{"a', "}"),
            "broken.jsonl: no usable row, 2 skipped: row 0: line 1 is not a JSON object",
        ),
    }


def test_unusable_sources_stop_the_run_in_one_line(tmp_path: Path) -> None:
    for case, (source, message) in sources(tmp_path).items():
        with pytest.raises(SodError) as error:
            load_tasks(source)
        assert message in str(error.value), case
        assert "\n" not in str(error.value), case


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str, trust_remote_code: bool) -> Any:
        assert trust_remote_code is False
        asked.append((name, split))
        rows = [
            {
                "messages": [USER, asks(call("python", {"code": "1"}), content="")],
                "tools": json.dumps([PYTHON]),
                "x": 1,
            },
            {"messages": [USER, asks(call("search", {"q": "y"}), content="")], "tools": json.dumps([SEARCH]), "x": 1},
        ]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(reading, "why_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    first, second = load_conversations("owner/name-v1.1", "test").items
    assert asked == [("owner/name-v1.1", "test")]
    assert (first.id, second.id) == ("name-v1.1-0", "name-v1.1-1")
    assert second.messages[1].tool_calls == (ToolCall("search", {"q": "y"}),)


def test_hub_failures_name_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(name: str, split: str, trust_remote_code: bool) -> Any:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(reading, "why_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(SodError, match=r"^owner/name: cannot load split 'train' from the Hub \(no route\); owner"):
        load_tasks("owner/name")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SodError, match=r"^owner/name: .*pip install 'sod-distill\[hub\]'"):
        load_tasks("owner/name")


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before the client is asked, which would try again and again."""
    monkeypatch.setitem(sys.modules, "datasets", ModuleType("datasets"))
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SodError, match=r"^owner/name: no such data file, and the hub cannot be reached \(http.*\)"):
        load_tasks("owner/name")


@pytest.mark.parametrize("path", ["data/mine/x", "./x", "here/x", "a/b/", "~/x", "x"])
def test_a_path_is_no_hub_id(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More than two parts, a parent that exists, or a slash at the end: what is missing is a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(SodError, match=f"^{re.escape(path)}: no such data file$"):
        load_tasks(path)


def test_a_directory_with_a_script_is_no_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`datasets` would run `owner/name/name.py`."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "owner" / "name" / "name.py"
    script.parent.mkdir(parents=True)
    script.write_text("import pathlib\npathlib.Path('executed').touch()\n")
    for source in ("owner/name", str(script.parent), str(script), "owner/name/name.py"):
        with pytest.raises(SodError, match=r"no such data file|unknown suffix"):
            load_tasks(source)
    assert not (tmp_path / "executed").exists()


# Round trips

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)
scalars = st.text() | st.integers() | st.floats(allow_nan=False) | st.booleans()
plain_messages = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text())
tasks = st.builds(
    Task,
    id=st.text(min_size=1),
    prompt=st.lists(plain_messages, min_size=1, max_size=3).map(tuple),
    ground_truth=st.text(min_size=1),
    data_source=st.text(min_size=1),
    extra=objects | st.dictionaries(st.sampled_from(["index", "split"]), scalars),
)


weights = st.sampled_from([1.0, 0.0, 0.25])
reasonings = st.none() | st.text(min_size=1)


@st.composite
def exchanges(draw: st.DrawFn) -> list[Message]:
    """A plain message, or an assistant's calls with their answers."""
    calls = draw(st.lists(st.builds(ToolCall, st.sampled_from(["python", "search"]), objects), max_size=2))
    calls = [ToolCall(call.name, call.arguments, draw(st.none() | st.just(f"c{n}"))) for n, call in enumerate(calls)]
    if not calls:
        return [draw(plain_messages)]
    answers = [Message("tool", draw(st.text()), name=draw(st.just(call.name) | st.text(min_size=1))) for call in calls]
    said = draw(st.text())
    return [Message("assistant", said, tuple(calls), reasoning=draw(reasonings), weight=draw(weights)), *answers]


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    parts = draw(st.lists(exchanges(), max_size=3))
    messages = [message for part in parts for message in part] + [Message("assistant", draw(st.text(min_size=1)))]
    search = {"type": "function", "function": {"name": "search", "parameters": draw(objects)}}
    tools = ({**PYTHON, "x": draw(json_values)}, search)
    return Conversation(draw(st.text(min_size=1)), tuple(messages), tools, draw(st.none() | st.just(0.5)))


round_trip = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@round_trip
@given(st.lists(tasks, min_size=1, max_size=4, unique_by=lambda task: task.id))
def test_tasks_round_trip(tmp_path: Path, written: list[Task]) -> None:
    write_tasks(tmp_path / "t.parquet", written)
    assert load_tasks(str(tmp_path / "t.parquet")) == Loaded(written, [])


@round_trip
@given(st.lists(conversations(), min_size=1, max_size=3, unique_by=lambda c: c.id))
def test_conversations_round_trip(tmp_path: Path, written: list[Conversation]) -> None:
    write_conversations(tmp_path / "c.parquet", written)
    assert load_conversations(str(tmp_path / "c.parquet")) == Loaded(written, [])


def test_extra_info_is_a_struct_where_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_tasks(path, [Task(f"t{n}", (Message("user", "x"),), "1", extra={"index": n}) for n in range(2)])
    assert pq.read_table(path, columns=["extra_info"]).to_pylist()[1] == {"extra_info": {"index": 1}}


def test_extra_info_that_arrow_cannot_hold_is_kept_as_text(tmp_path: Path) -> None:
    for number, extra in enumerate([{"index": 2**70}, {"a.b": 1}, {"a": None}, {"a": [1, "x"]}]):
        path = tmp_path / f"{number}.parquet"
        write_tasks(path, [Task("t", (Message("user", "x"),), "1", extra=extra)])
        assert load_tasks(str(path)).items[0].extra == extra


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    task = Task("t", (Message("user", "x"),), "1")
    write_tasks(path, [task])

    def full_disk(table: pa.Table, where: Path) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(SodError, match=r"t\.parquet: cannot write \(No space left on device\)"):
        write_tasks(path, [task, task])
    assert [found.name for found in tmp_path.iterdir()] == ["t.parquet"]
    assert load_tasks(str(path)).items == [task]
