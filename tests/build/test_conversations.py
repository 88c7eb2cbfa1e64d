"""SFT rows as ledgers: which can be one, what of it is trained on, and whose tools it shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod.build.conversations import example_of
from sod.build.method import make_method
from sod.build.supervised import prepare_sft, prepare_supervised
from sod.chat.render import Chat
from sod.models.load import load_tokenizer, save_model
from sod.objective.batch import supervised_batch
from sod.recipe import Recipe
from sod.records import SodError
from sod.runlog.files import read_lines
from sod.tasks.base import Conversation
from sod.tasks.files import load_conversations
from sod.tasks.loaded import Loaded
from sod.training.sft import Example

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 2+2?"}
ASSISTANT = {"role": "assistant", "content": "4"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "python", "arguments": {"code": "1"}}]}
RESULT = {"role": "tool", "content": "1"}
PYTHON = {"name": "python", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}}
GOOD = {"messages": [USER, ASSISTANT]}
ALTERNATE = (
    "{% for m in messages %}{% if loop.index0 and m.role == 'user' and messages[loop.index0 - 1].role == 'user' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
"""How the templates of Gemma and Mistral begin."""
SHORT = "{% if messages[0].content | length > 90 %}{{ raise_exception('no question is that long') }}{% endif %}"


@pytest.fixture
def start(tmp_path: Path, chat: Any, acting_model: Any, clone: Any) -> Callable[..., list[str]]:
    """`start(row, ...)`: prepare a supervised run on these rows; what it told until its one step was done."""

    numbers = itertools.count()

    def prepare(*rows: dict[str, Any], template: str | None = None, **sections: Any) -> list[str]:
        save_model(clone(acting_model), chat.tokenizer, template or chat.template, chat.end_id, tmp_path / "model")
        (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        content = {
            "student": {"path": str(tmp_path / "model")},
            "chat": {"template": "tokenizer" if template else "hermes"},
            "sft": {"steps": 1, "batch_size": 1},
            **sections,
            "data": {**sections.get("data", {}), "sft": str(tmp_path / "sft.jsonl")},
        }
        told: list[str] = []
        job = prepare_sft(Recipe.model_validate(content), tmp_path / f"run-{next(numbers)}", False, told.append)
        job.start([])
        job.close()
        return told

    return prepare


AGAIN = {"role": "user", "content": "And 3+3?"}
SIX = {"role": "assistant", "content": "6"}
UNTRAINABLE = {
    "two assistant turns": ([USER, ASSISTANT, ASSISTANT], "message 2: role 'assistant' directly after an assistant"),
    "the assistant first": ([ASSISTANT, USER, ASSISTANT], "message 0: an assistant message before any user message"),
    "no user": ([SYSTEM, ASSISTANT], "message 1: an assistant message before any user message"),
}


@pytest.mark.parametrize(("messages", "reason"), UNTRAINABLE.values(), ids=list(UNTRAINABLE))
def test_a_row_of_another_shape_is_skipped_by_its_number(messages: list[Any], reason: str, start: Any) -> None:
    """Rows are counted as they stand in the file: one that was skipped at reading counts too."""
    broken = {"messages": [USER]}
    told = start(GOOD, broken, {"messages": messages, "tools": [PYTHON]}, GOOD)
    first, second = [line.partition("sft.jsonl: ")[2] for line in told]
    assert first == "3 rows, 1 skipped: row 1: no assistant message"
    assert second.startswith(f"2 rows, 1 skipped: row 2: {reason}")


def test_all_rows_are_of_another_shape(start: Any) -> None:
    rows = [{"messages": messages, "tools": [PYTHON]} for messages, _ in UNTRAINABLE.values()]
    with pytest.raises(SodError, match=r"no row that can be trained on: .* 3 skipped: row 0: message 2: "):
        start(*rows)


def test_a_row_that_the_template_refuses(start: Any, chat: Any) -> None:
    """Two user messages in a row are one where the template wants them so; what it refuses is skipped by its number."""
    twice = {"messages": [USER, USER, ASSISTANT]}
    assert start(twice) == start(GOOD, twice, template=ALTERNATE + chat.template) == []
    long = {"messages": [{"role": "user", "content": "1" * 99}, ASSISTANT]}
    (line,) = start(GOOD, long, template=SHORT + chat.template)
    assert "1 rows, 1 skipped: row 1: chat template: no question is that long" in line


def test_the_shapes_of_a_rollout_are_kept(start: Any) -> None:
    rows = [
        GOOD,
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"messages": [SYSTEM, USER, CALL, RESULT, CALL, RESULT, ASSISTANT], "tools": [PYTHON]},
        {"messages": [USER, CALL, RESULT], "tools": [{"name": "python"}]},
    ]
    assert start(*rows) == []


def read(tmp_path: Path, *rows: dict[str, Any]) -> Loaded[Conversation]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return load_conversations(str(tmp_path / "rows.jsonl"))


def texts(example: Example, chat: Any) -> tuple[str, list[str]]:
    """The whole text of an example, and that of each turn that counts in the loss."""
    batch = supervised_batch([(example.token_ids, example.turn_ids)], [example.weights])
    turn_T = batch.turn_BT[0].tolist()
    turns = [k for k in dict.fromkeys(turn_T) if k]
    return chat.tokenizer.decode(example.token_ids), [
        chat.tokenizer.decode([token for token, k in zip(example.token_ids, turn_T, strict=True) if k == turn])
        for turn in turns
    ]


END = "<|im_end|>"


class TestTurns:
    """What of a conversation is trained on."""

    def test_every_assistant_turn_of_several_user_turns(self, chat: Any, tmp_path: Path) -> None:
        [conversation] = read(tmp_path, {"messages": [USER, ASSISTANT, AGAIN, CALL, RESULT, SIX, USER]}).items
        whole, turns = texts(example_of(conversation, chat), chat)
        assert turns[0] == f"4{END}"
        assert '"code": "1"' in turns[1]
        assert turns[2] == f"6{END}"
        assert whole.count("And 3+3?") == 1
        assert whole.endswith(f"6{END}")  # nothing after the last turn

    def test_a_turn_of_weight_0_is_shown_and_not_trained_on(self, chat: Any, tmp_path: Path) -> None:
        rows = [{"messages": [USER, {**ASSISTANT, "weight": weight}, AGAIN, SIX]} for weight in (0, 0.5)]
        zero, half = [example_of(conversation, chat) for conversation in read(tmp_path, *rows).items]
        assert texts(zero, chat) == (texts(half, chat)[0], [f"6{END}"])
        assert texts(half, chat)[1] == [f"4{END}", f"6{END}"]
        assert (zero.weights, half.weights) == ((0.0, 1.0), (0.5, 1.0))

    def test_thoughts_are_trained_on(self, chat: Any, tmp_path: Path) -> None:
        [conversation] = read(tmp_path, {"messages": [USER, {**ASSISTANT, "reasoning_content": "Hm."}]}).items
        ids = [token for token, k in zip(*ledger(example_of(conversation, chat)), strict=True) if k]
        said = chat.parse(ids)
        assert (said.thinking.strip(), said.answer.strip()) == ("Hm.", "4")


def ledger(example: Example) -> tuple[Any, Any]:
    return example.token_ids, example.turn_ids


WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells the weather.", "parameters": {"type": "object"}},
}
ASKED = {"role": "assistant", "content": "", "tool_calls": [{"name": "get_weather", "arguments": {}}]}


class TestTools:
    """A row shows the tools that it declares, one that declares none the run's."""

    def test_what_is_shown(self, chat: Any, tmp_path: Path) -> None:
        own, both, none = read(
            tmp_path,
            {"messages": [USER, ASKED, RESULT, ASSISTANT], "tools": [WEATHER]},
            {"messages": [USER, CALL, RESULT, ASKED, RESULT, ASSISTANT], "tools": [WEATHER]},
            {"messages": [USER, CALL, RESULT, ASSISTANT]},
        ).items
        theirs, ours = "Tells the weather.", chat.tools[0]["function"]["description"]
        for conversation, declared in ((own, [theirs]), (both, [theirs, ours]), (none, [ours])):
            whole, _ = texts(example_of(conversation, chat), chat)
            assert [text for text in (theirs, ours) if text in whole] == declared

    def test_it_is_told_in_one_line(self, start: Any) -> None:
        declared = {"messages": [USER, ASSISTANT], "tools": [WEATHER, PYTHON]}
        called = {"messages": [USER, ASKED, RESULT, ASSISTANT], "tools": [WEATHER]}
        lent = {"messages": [USER, CALL, RESULT, ASSISTANT]}
        (line,) = start(GOOD, declared, called, called, lent)
        assert line.partition("sft.jsonl: ")[2] == (
            "tools shown in 3 rows their own that the run does not have: get_weather (3 rows); in 1 row the run's, "
            "which they call without declaring: python (1 row); episodes show the run's own (python)"
        )

    def test_a_tool_that_nobody_has(self, start: Any) -> None:
        unknown = {"messages": [USER, ASKED, RESULT, ASSISTANT]}
        (line,) = start(GOOD, unknown)
        assert "1 rows, 1 skipped: row 1: it calls 'get_weather', which neither its own tools nor the run's" in line
        (line,) = start(GOOD, {"messages": [USER, CALL, RESULT, ASSISTANT]}, tools={"python": None})
        assert "row 1: it calls 'python'" in line

    def test_tools_in_a_file_of_their_own(self, start: Any, tmp_path: Path) -> None:
        (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))
        unknown = {"messages": [USER, ASKED, RESULT, ASSISTANT]}
        (line,) = start(unknown, unknown, data={"tools": str(tmp_path / "tools.json")})
        assert "tools shown in 2 rows their own that the run does not have: get_weather (2 rows)" in line

    def test_a_run_without_tools(self, start: Any) -> None:
        (line,) = start({"messages": [USER, ASSISTANT], "tools": [PYTHON]}, tools={"python": None})
        assert "their own that the run does not have: python (1 row); episodes show none" in line

    @pytest.mark.parametrize("properties", [{}, {"program": {"type": "string"}}, {"code": {"type": "array"}}])
    def test_other_parameters(self, properties: Any, start: Any) -> None:
        other = {"name": "python", "parameters": {"type": "object", "properties": properties}}
        (line,) = start(GOOD, {"messages": [USER, ASSISTANT], "tools": [other]})
        assert "tools shown in 1 row a tool of the run's with parameters of their own: python (1 row)" in line

    def test_other_words_are_no_difference(self, start: Any) -> None:
        properties = {"code": {"type": "string", "description": "A program."}}
        worded = {"name": "python", "description": "Runs it.", "parameters": {"properties": properties}}
        assert start({"messages": [USER, ASSISTANT], "tools": [worded]}) == []


EARNED = [{"messages": [USER, ASSISTANT], "reward": reward} for reward in (0.0, 0.5, 1.0)]


class TestRewards:
    """Episodes, and what they earned."""

    def test_those_that_earned_less_are_left_out(self, start: Any) -> None:
        (line,) = start(*EARNED, data={"min_reward": 0.5})
        assert line.endswith("1 of 3 rows earned less than data.min_reward; left out")
        assert start(*EARNED) == []

    def test_a_bar_that_no_row_meets(self, start: Any) -> None:
        with pytest.raises(SodError, match=r"no row earned data\.min_reward=2; lower it"):
            start(*EARNED, data={"min_reward": 2})
        with pytest.raises(SodError, match=r"data\.min_reward=2, and no row says what reward it earned; leave it out"):
            start(GOOD, data={"min_reward": 2})


def test_an_episode_is_encoded_as_it_was_played() -> None:
    """Where every call could be read and was written as the dialect does, the ledger is the very same."""
    data = Path(__file__).parents[1] / "data"
    own = Chat(load_tokenizer(str(data / "format1-run" / "student")), template="hermes")
    run = data / "format2-run" / "run"
    rows = [row for file in sorted((run / "trajectories").glob("*.jsonl")) for _, row in read_lines(file)]
    episodes = load_conversations(str(run)).items
    assert len(episodes) == len(rows)
    for conversation, row in zip(episodes, rows, strict=True):
        example = example_of(conversation, own)
        assert list(example.token_ids) == row["token_ids"]
        assert list(example.turn_ids) == row["turn_ids"]
        assert set(example.weights) == {1.0}


def test_sft_as_a_method_weighs_turns_the_same(start: Any, tmp_path: Path) -> None:
    start({"messages": [USER, {**ASSISTANT, "weight": 0.5}, AGAIN, SIX]})
    content = {
        "student": {"path": str(tmp_path / "model")},
        "chat": {"template": "hermes"},
        "data": {"sft": str(tmp_path / "sft.jsonl")},
        "method": {"name": "sft"},
        "train": {"steps": 1},
        "rollout": {"prompts": 1, "samples": 1},
    }
    recipe = Recipe.model_validate(content)
    job = prepare_supervised(recipe, tmp_path / "method", False, lambda line: None, make_method(recipe.method))
    (example,) = job.take_step.args[2]  # type: ignore[attr-defined]
    assert example.weights == (0.5, 1.0)
    job.start([])
    job.close()
