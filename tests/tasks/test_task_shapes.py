"""RL rows in the shapes of the field: what each becomes, what of it nobody used, what a row is skipped for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sod.records import Message, SodError, Task, ToolCall
from sod.tasks.files import load_conversations, load_tasks
from sod.tasks.formats.choices import CHOICES
from sod.tasks.formats.flat import FLAT
from sod.tasks.formats.shapes import TASK_SHAPES
from sod.tasks.loaded import Loaded, SkippedRow

USER = {"role": "user", "content": "2+2?"}
ASKED = (Message("user", "2+2?"),)
OBJECT = {"type": "object"}
VERL = {"prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "4"}}


def load(folder: Path, *rows: Any, **options: Any) -> Loaded[Task]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_tasks(str(path), **options)


def only(folder: Path, row: Any, **options: Any) -> Task:
    (task,) = load(folder, row, **options).items
    return task


SHAPES: dict[str, tuple[dict[str, Any], str, Task, set[str]]] = {
    "verl": (
        {
            **VERL,
            "data_source": "math_dapo",
            "ability": "MATH",
            "agent_name": "tool_agent",
            "extra_info": {"index": 3, "need_tools_kwargs": True, "tools_kwargs": {"code_interpreter": {"x": 1}}},
        },
        "verl",
        Task(
            "3",
            ASKED,
            "4",
            "math_dapo",
            {"index": 3, "need_tools_kwargs": True, "tools_kwargs": {"code_interpreter": {"x": 1}}},
        ),
        {"ability", "agent_name", "extra_info.need_tools_kwargs", "extra_info.tools_kwargs"},
    ),
    "Search-R1": (
        {"prompt": [USER], "reward_model": {"ground_truth": {"target": ["4", "four"]}}, "data_source": "nq"},
        "verl",
        Task("rows-0", ASKED, "4", "nq", {}, ("four",)),
        set(),
    ),
    "SkyRL": (
        {
            "prompt": [USER],
            "env_class": "gsm8k",
            "reward_spec": {"method": "rule", "ground_truth": "4"},
            "extra_info": {"split": "train"},
        },
        "skyrl",
        Task("rows-0", ASKED, "4", "gsm8k", {"split": "train"}),
        set(),
    ),
    "TRL, text": (
        {"prompt": "2+2?", "solution": "4"},
        "flat",
        Task("rows-0", ASKED, "4", extra={"solution": "4"}),
        set(),
    ),
    "TRL, messages": ({"prompt": [USER], "ground_truth": 4}, "flat", Task("rows-0", ASKED, "4"), set()),
    "TTRL": (
        {"prompt": "2+2?", "answer": "4", "source": "x", "id": "0"},
        "flat",
        Task("0", ASKED, "4", "x"),
        set(),
    ),
    "NeMo-Gym": (
        {
            "responses_create_params": {
                "instructions": "Be brief.",
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
                    {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 2}'},
                    {"type": "function_call_output", "call_id": "c", "output": "4"},
                ],
                "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}],
                "temperature": 0.5,
            },
            "expected_answer": "4",
            "verifier_metadata": {"level": 1},
            "agent_ref": {"type": "t", "name": "adder"},
        },
        "nemo-gym",
        Task(
            "rows-0",
            (
                Message("system", "Be brief."),
                *ASKED,
                Message("assistant", "", (ToolCall("add", {"a": 2}, "c"),)),
                Message("tool", "4", name="add"),
            ),
            "4",
            "adder",
            tools=(
                {"type": "function", "function": {"name": "add", "strict": True, "parameters": {"type": "object"}}},
            ),
        ),
        {"responses_create_params.temperature", "verifier_metadata", "agent_ref.type"},
    ),
    "NeMo-Gym, verifier": (
        {"responses_create_params": {"input": "2+2?"}, "verifier_metadata": {"answer": ["4", "four"]}},
        "nemo-gym",
        Task("rows-0", ASKED, "4", truths=("four",)),
        set(),
    ),
    "verifiers": (
        {"prompt": [USER], "answer": "4", "info": '{"level": 1}', "task": "gsm8k"},
        "flat",
        Task("rows-0", ASKED, "4", "gsm8k", {"level": 1}),
        set(),
    ),
    "AReaL": ({"messages": [USER], "answer": "4"}, "flat", Task("rows-0", ASKED, "4"), set()),
    "INTELLECT": (
        {
            "problem_id": "p1",
            "task_type": "verifiable_math",
            "prompt": "2+2?",
            "verification_info": '{"ground_truth": "4"}',
            "metadata": "{}",
        },
        "prime-rl",
        Task("p1", ASKED, "4", "verifiable_math"),
        set(),
    ),
    "OpenRLHF": ({"input": "2+2?", "label": "4"}, "flat", Task("rows-0", ASKED, "4"), set()),
    "slime": (
        {"prompt": [USER], "label": "4", "metadata": {"rm_type": "math"}},
        "flat",
        Task("rows-0", ASKED, "4", extra={"rm_type": "math"}),
        set(),
    ),
    "ROLL": (
        {"id": "r", "source": "s", "difficulty": "1", "prompt": "2+2?", "ground_truth": "4", "tag": "math"},
        "flat",
        Task("r", ASKED, "4", "s", {"difficulty": "1"}),
        {"tag"},
    ),
    "MATH-500": (
        {"problem": "2+2?", "solution": "Add: \\boxed{4}", "answer": "4", "unique_id": "a/1.json", "level": 1},
        "flat",
        Task("a/1.json", ASKED, "4", extra={"solution": "Add: \\boxed{4}", "level": 1}),
        set(),
    ),
    "AIME24": (
        {"ID": "2024-I-1", "Problem": "2+2?", "Solution": "Add.", "Answer": 4, "data_source": "AIME2024"},
        "flat",
        Task("2024-I-1", ASKED, "4", "AIME2024", {"solution": "Add."}),
        set(),
    ),
    "GPQA of Open-AgentRL": (
        {"problem": "2+2?", "solution": "C", "domain": "Physics", "data_source": "gpqa_diamond"},
        "flat",
        Task("rows-0", ASKED, "C", "gpqa_diamond", {"solution": "C"}),
        {"domain"},
    ),
    "LiveCodeBench of Open-AgentRL": (
        {
            "problem": "2+2?",
            "reward_model": '{"ground_truth": {"inputs": ["1"], "outputs": ["2"]}}',
            "extra_info": '{"index": 7}',
            "data_source": "LiveCodeBench_v6",
        },
        "verl",
        Task("7", ASKED, '{"inputs": ["1"], "outputs": ["2"]}', "LiveCodeBench_v6", {"index": 7}),
        set(),
    ),
    "OlympiadBench": (
        {"question": "2+2?", "solution": ["Add."], "final_answer": ["4", "IV"], "unit": None, "images": []},
        "flat",
        Task("rows-0", ASKED, "4", extra={"solution": ["Add."]}, truths=("IV",)),
        set(),
    ),
    "TriviaQA": (
        {"question": "2+2?", "answer": {"value": "4", "aliases": ["4", "four"], "normalized_value": "4"}},
        "flat",
        Task("rows-0", ASKED, "4", truths=("four",)),
        set(),
    ),
    "SQuAD": (
        {"id": "s", "context": "Sums.", "question": "2+2?", "answers": {"text": ["4", "four"], "answer_start": [0, 1]}},
        "flat",
        Task("s", (Message("user", "Sums.\n\n2+2?"),), "4", truths=("four",)),
        set(),
    ),
    "Open-Reasoner-Zero": (
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "assistant", "ground_truth": {"value": "4"}}]},
        "open-reasoner-zero",
        Task("rows-0", ASKED, "4"),
        set(),
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "2+2?", "output": "4"},
        "flat",
        Task("rows-0", (Message("user", "Add.\n\n2+2?"),), "4"),
        set(),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_of_the_field(name: str, tmp_path: Path) -> None:
    row, shape, task, unused = SHAPES[name]
    loaded = load(tmp_path, row)
    assert loaded.items == [task]
    assert loaded.shapes == {shape: 1}
    assert set(loaded.unused) == unused


def lettered(*options: str) -> tuple[Message, ...]:
    return (Message("user", "\n".join(["2+2?", "", *(f"{'ABCD'[n]}. {o}" for n, o in enumerate(options))])),)


@pytest.mark.parametrize(
    "more",
    [
        {"choices": ["3", "4", "5"], "answer": 1},
        {"options": ["3", "4", "5"], "answer": "B", "answer_index": 1},
        {"options": ["A)3", "B)4", "C)5"], "correct": "B"},
        {"options": {"A": "3", "B": "4", "C": "5"}, "answer": "4", "answer_idx": "B"},
        {"options": '["3", "4", "5"]', "label": "(b)"},
        {"choices": {"text": ["3", "4", "5"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {
            "choices": [{"label": "A", "text": "3"}, {"label": "B", "text": "4"}, {"label": "C", "text": "5"}],
            "answer": "B.",
        },
        {"options": [{"A": "3"}, {"B": "4"}, {"C": "5"}], "expected_answer": "B"},
        {"options": ["A ) 3", "B ) 4", "C ) 5"], "correct": "B"},
        {"target_scores": {"3": 0, "4": 1, "5": 0}},
        {"A": "3", "B": "4", "C": "5", "answer": "B"},
        {"opa": "3", "opb": "4", "opc": "5", "cop": 1},
        {"choices": [3, 4, 5], "answer": "4"},
    ],
)
def test_choices_are_lettered_below_the_question(more: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tmp_path, {"question": "2+2?", **more})
    assert [(task.prompt, task.ground_truth) for task in loaded.items] == [(lettered("3", "4", "5"), "B")]
    assert loaded.items[0].extra["choices"] == ["3", "4", "5"]
    assert (loaded.shapes, loaded.unused) == ({"choices": 1}, {})


def test_right_and_wrong_answers_apart_are_put_into_an_order_that_stays(tmp_path: Path) -> None:
    rows = [
        {"Question": f"{n}+2?", "Correct Answer": "r", **{f"Incorrect Answer {k}": f"w{k}" for k in (1, 2, 3)}}
        for n in range(40)
    ]
    tasks, again = load(tmp_path, *rows).items, load(tmp_path, *reversed(rows)).items
    for task in tasks:
        assert sorted(task.extra["choices"]) == ["r", "w1", "w2", "w3"]
        assert task.extra["choices"]["ABCD".index(task.ground_truth)] == "r"
    assert {task.ground_truth for task in tasks} == set("ABCD")
    assert [task.prompt for task in tasks] == [task.prompt for task in reversed(again)]


def test_choices_that_the_prompt_shows_are_not_shown_twice(tmp_path: Path) -> None:
    asked = "2+2?\n(A) 3\n(B) 4"
    loaded = load(tmp_path, {"question": asked, "options": ["3", "4"], "answer": "B"})
    assert loaded.items[0].prompt == (Message("user", asked),)
    assert loaded.remarks == {"the prompt shows its choices already": 1}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"choices": ["3", "4"], "answer": "E"}, "its answer 'E' is none of its 2 choices"),
        ({"choices": ["3", "4"], "answer": ["A", "B"]}, "2 of its choices are right; the choice verifier judges one"),
        ({"target_scores": {"3": 1, "4": 1}}, "2 of its choices are right; the choice verifier judges one"),
        ({"choices": ["3"], "answer": "A"}, "1 choices, there are to be 2 to 26"),
        ({"choices": "3 or 4", "answer": "A"}, "its choices are no list"),
        ({"choices": [["3"], ["4"]], "answer": "A"}, "a choice is no text"),
    ],
)
def test_choices_that_do_not_go_together_are_skipped(more: dict[str, Any], reason: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, {"question": "2+2?", **more}, VERL)
    assert loaded.skipped == [SkippedRow(0, reason)]


NAMES = [
    *("ground_truth", "expected_answer", "final_answer", "answer", "label", "solution"),
    *("ideal", "expected", "expected_output", "golden", "gt"),
]


@pytest.mark.parametrize("answer", NAMES)
@pytest.mark.parametrize("prompt", ["prompt", "problem", "question", "input", "instruction", "Question", "PROBLEM"])
def test_a_prompt_and_a_truth_by_any_of_their_names(prompt: str, answer: str, tmp_path: Path) -> None:
    task = only(tmp_path, {prompt: "2+2?", answer: "4"})
    assert (task.prompt, task.ground_truth) == (ASKED, "4")


def test_which_of_several_truths_is_taken_is_told(tmp_path: Path) -> None:
    loaded = load(tmp_path, *[{"problem": "2+2?", "answer": "4", "solution": "Add.", "output": "So 4."}] * 3)
    assert loaded.remarks == {"the truth is answer, not solution or output": 3}
    assert loaded.unused == {"output": 3}


def test_rows_of_several_shapes_in_one_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, VERL, {"question": "2+2?", "answer": "4"}, {"question": "2+2?"}, [1])
    assert loaded.shapes == {"verl": 1, "flat": 1}
    assert [str(skip.row) for skip in loaded.skipped] == ["2", "3"]


def test_messages_that_end_with_an_answer_are_a_prompt_without_it(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"messages": [USER, {"role": "assistant", "content": "4"}], "answer": "4"})
    assert loaded.items[0].prompt == ASKED
    assert loaded.remarks == {"the answer at the end of messages is left out of the prompt": 1}


# Media


@pytest.mark.parametrize(
    "more",
    [
        {"images": [{"bytes": "aGk="}]},
        {"image": "a.png"},
        {"videos": ["a.mp4"]},
        {"audio": {"path": "a.wav"}},
        {"multi_modal_data": {"image": ["x"]}},
        {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"prompt": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    ],
)
def test_a_row_with_media_is_skipped_with_the_reason(more: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tmp_path, {**VERL, **more}, VERL)
    (skip,) = loaded.skipped
    assert skip.row == 0
    assert "only text is trained on" in skip.reason
    assert next(iter(more)) in skip.reason


@pytest.mark.parametrize(
    "more", [{"images": []}, {"image": None}, {"image": ""}, {"images": [None]}, {"audio": {"path": None}}]
)
def test_empty_media_columns_are_fine(more: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tmp_path, {**VERL, **more})
    assert (len(loaded.items), loaded.skipped) == (1, [])


def test_conversations_with_media_are_skipped_too(tmp_path: Path) -> None:
    messages = [USER, {"role": "assistant", "content": "4"}]
    rows = [{"messages": messages, "images": ["a.png"]}, {"messages": messages}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [skip.row for skip in load_conversations(str(tmp_path / "a.jsonl")).skipped] == [0]


# What a recipe says of columns and adds to prompts


def test_columns_by_the_names_that_the_recipe_gives_them(tmp_path: Path) -> None:
    row = {"q": "2+2?", "meta": {"a": "4", "level": 1}, "from": "here", "choices.n": 3}
    columns = {"prompt": "q", "ground_truth": "meta.a", "data_source": "from", "id": "choices.n"}
    loaded = load(tmp_path, row, columns=columns)
    assert loaded.items == [Task("3", ASKED, "4", "here")]
    assert loaded.unused == {"meta.level": 1}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({**VERL, "reward_model": {"ground_truth": "5"}, "mine": "4"}, {"ground_truth": "mine"}),
        ({"reward_spec": {"ground_truth": "5"}, "prompt": "2+2?", "mine": "4"}, {"ground_truth": "mine"}),
        (
            {"responses_create_params": {"input": "3+3?"}, "mine": "4", "q": "2+2?"},
            {"ground_truth": "mine", "prompt": "q"},
        ),
        ({"verification_info": {"ground_truth": "5"}, "prompt": "2+2?", "mine": "4"}, {"ground_truth": "mine"}),
        ({"prompt": "2+2?", "answer": "5", "mine": ["4"]}, {"ground_truth": "mine.0"}),
        ({"prompt": "2+2?", "mine": '{"a": "4"}'}, {"ground_truth": "mine.a"}),
    ],
)
def test_the_recipe_goes_before_what_a_shape_would_take(row: Any, columns: dict[str, str], tmp_path: Path) -> None:
    task = only(tmp_path, row, columns=columns)
    assert (task.prompt, task.ground_truth) == (ASKED, "4")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"rows\.jsonl: data\.columns\.ground_truth=meta\.b: no row .* are q, meta\.a;"):
        load(tmp_path, {"q": "2+2?", "meta": {"a": "4"}}, columns={"prompt": "q", "ground_truth": "meta.b"})


@pytest.mark.parametrize(
    ("row", "guess"),
    [
        ({"q": "2+2?", "a": "4"}, "{prompt: q, ground_truth: a}"),
        ({"user_query": "2+2?", "meta": {"gold": "4", "n": 1}}, "{prompt: user_query, ground_truth: meta.gold}"),
        ({"x": "What is 2+2?", "y": "4"}, "{prompt: x, ground_truth: y}"),
    ],
)
def test_rows_of_no_known_shape_are_refused_with_the_columns_likely_meant(row: Any, guess: str, tmp_path: Path) -> None:
    with pytest.raises(SodError, match="its rows are of no known shape") as error:
        load(tmp_path, row)
    assert str(error.value).endswith(f"e.g. data.columns='{guess}'")


def test_data_of_the_other_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(SodError, match=r"its rows are conversations, as data\.sft takes them"):
        load(tmp_path, {"messages": [USER, {"role": "assistant", "content": "4"}]})
    (tmp_path / "a.jsonl").write_text(json.dumps(VERL))
    with pytest.raises(SodError, match=r"its rows are tasks, as data\.train takes them"):
        load_conversations(str(tmp_path / "a.jsonl"))


def test_a_system_message_and_a_suffix_are_added_and_told(tmp_path: Path) -> None:
    own = {
        **VERL,
        "prompt": [{"role": "system", "content": "Mine."}, USER, {"role": "user", "content": "Well? Box it."}],
    }
    loaded = load(tmp_path, VERL, own, system="Be brief.", suffix=" Box it.")
    assert [[(m.role, m.content) for m in task.prompt] for task in loaded.items] == [
        [("system", "Be brief."), ("user", "2+2? Box it.")],
        [("system", "Mine."), ("user", "2+2?"), ("user", "Well? Box it.")],
    ]
    assert set(loaded.remarks) == {
        "data.suffix is appended",
        "data.suffix is there already",
        "data.system is put in front",
        "data.system is left out, as the row has a system message of its own",
    }


def test_a_suffix_of_a_conversation_stands_before_its_first_answer(tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": "4"}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [USER, reply]}))
    (conversation,) = load_conversations(str(tmp_path / "a.jsonl"), system="Be brief.", suffix="!").items
    assert [message.content for message in conversation.messages] == ["Be brief.", "2+2?!", "4"]


# Anything at all

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["4", "[", '{"a": 1}']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "ground_truth", "input", "text", "label", "name", "type"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)
COLUMNS = (
    *("prompt", "question", "Problem", "messages", "input", "answer", "label", "choices", "options", "A", "B", "cop"),
    *("reward_model", "reward_spec", "responses_create_params", "verification_info", "extra_info", "metadata", "tools"),
    *("id", "data_source", "images", "Correct Answer", "Incorrect Answer 1", "solution", "system"),
)
rows = st.dictionaries(st.sampled_from(COLUMNS), values, max_size=6)


def never_a_traceback(folder: Path, found: list[Any], columns: dict[str, str]) -> None:
    (folder / "any.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    try:
        loaded = load_tasks(str(folder / "any.jsonl"), columns=columns, system="S", suffix="!")
    except SodError as error:
        said = str(error)
    else:
        said = loaded.summary()
        assert len(loaded.items) + len(loaded.skipped) == len(found)
        assert len({task.id for task in loaded.items}) == len(loaded.items)
        assert all(task.ground_truth and task.prompt for task in loaded.items)
    assert "\n" not in said


anything = given(
    st.lists(rows, min_size=1, max_size=4),
    st.dictionaries(
        st.sampled_from(["prompt", "ground_truth"]), st.sampled_from([*COLUMNS, "extra_info.text"]), max_size=2
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@anything
def test_any_row_is_a_task_or_skipped_or_one_line(tmp_path: Path, found: list[Any], columns: dict[str, str]) -> None:
    never_a_traceback(tmp_path, found, columns)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@anything
def test_many_rows_are_tasks_or_skipped_or_one_line(tmp_path: Path, found: list[Any], columns: dict[str, str]) -> None:
    never_a_traceback(tmp_path, found, columns)


def test_multiple_choice_goes_before_a_flat_reading() -> None:
    """The flat shape would take a choice's letter without showing the choices."""
    order = list(TASK_SHAPES)
    assert order.index(CHOICES) < order.index(FLAT)


def test_a_prompt_in_chatml_is_read_as_its_messages(tmp_path: Path) -> None:
    written = "<|im_start|>system\nBrief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    loaded = load(tmp_path, {"prompt": written, "answer": "4"}, {"prompt": written + "Let me", "answer": "4"})
    assert [task.prompt for task in loaded.items] == [(Message("system", "Brief."), *ASKED)]
    assert loaded.remarks == {"prompt is written in ChatML, and is read as the messages in it": 1}
    assert loaded.skipped == [SkippedRow(1, "its prompt is ChatML that begins the answer: 'Let me'")]


@pytest.mark.parametrize("truth", [{"ground_truth": "4"}, "{'ground_truth': '4'}", '{"target": ["4"]}'])
def test_a_mapping_of_the_truth_may_be_text(truth: Any, tmp_path: Path) -> None:
    assert only(tmp_path, {"prompt": "2+2?", "ground_truth": truth}).ground_truth == "4"


def test_a_nemo_gym_row_without_a_truth_says_how_to_name_it(tmp_path: Path) -> None:
    row = {"responses_create_params": {"input": "2+2?"}, "verifier_metadata": {"gold": "4"}}
    loaded = load(tmp_path, row, VERL)
    assert "data.columns='{ground_truth: COLUMN}'" in loaded.skipped[0].reason
    assert only(tmp_path, row, columns={"ground_truth": "verifier_metadata.gold"}).ground_truth == "4"


def test_an_empty_request_of_nemo_gym_leaves_the_row_to_another_shape(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"question": "2+2?", "answer": "4", "responses_create_params": {}})
    assert (loaded.shapes, loaded.unused) == ({"flat": 1}, {})
