"""The generated world on disk: which traces are privileged, and that nothing else depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sod.chat.render import Chat
from sod.models.scratch import train_tokenizer
from sod.quickstart.world import make_data, privileges
from sod.recipe import WorldSpec
from sod.records import Task
from sod.seeds import derive
from sod.tasks import chain
from sod.tasks.base import Conversation
from sod.tasks.files import load_conversations, load_tasks
from sod.tasks.privileged import privileged_prompt
from sod.tools.python import SCHEMA, python_schema

SIZES = {"sft": 60, "train": 20, "validation": 5, "test": 5}


def made(directory: Path, privileged: float, seed: int = 4) -> list[Conversation]:
    return make_data(WorldSpec(slips=0.4, privileged=privileged, **SIZES), seed, directory)


def read(directory: Path, name: str) -> list[Conversation]:
    return load_conversations(str(directory / f"{name}.parquet")).items


def tasks(directory: Path, name: str) -> list[Task]:
    return load_tasks(str(directory / f"{name}.parquet")).items


def test_traces_call_the_tool_that_is_given(tmp_path: Path) -> None:
    tool = python_schema(False, "code_interpreter", "program")
    make_data(WorldSpec(**SIZES), 4, tmp_path / "w", tool)
    (first, *_) = read(tmp_path / "w", "sft")
    calls = [call for message in first.messages for call in message.tool_calls]
    assert {call.name for call in calls} == {"code_interpreter"}
    assert all(list(call.arguments) == ["program"] for call in calls)
    assert first.tools == (tool,)


def test_without_privileges_the_world_is_what_it_was(tmp_path: Path) -> None:
    """Every file as it was made before there were any: the same draws, and no hint in a task."""
    returned = made(tmp_path / "w", 0.0)
    chains = chain.splits(SIZES, 2, 5, 4)
    rng = np.random.default_rng(derive(4, "slips"))
    sloppy = [chain.as_conversation(c.misread(rng, 0.4), n, SCHEMA, c) for n, c in enumerate(chains["sft"])]
    clean = [chain.as_conversation(c, n, SCHEMA) for n, c in enumerate(chains["sft"])]
    assert read(tmp_path / "w", "sft") == sloppy
    assert read(tmp_path / "w", "sft-teacher") == clean == returned
    assert sloppy != clean
    for name in ("train", "validation", "test"):
        written = [(t.id, t.prompt[0].content, t.ground_truth, t.extra) for t in tasks(tmp_path / "w", name)]
        assert written == [
            (f"chain-{n}", c.expression, str(c.value), {"calls": len(c.operations)}) for n, c in enumerate(chains[name])
        ]


@pytest.mark.parametrize(("share", "truths", "hints"), [(0.25, 7, 8), (1.0, 30, 30)])
def test_a_share_of_the_students_traces_is_privileged(tmp_path: Path, share: float, truths: int, hints: int) -> None:
    """Exactly the share, half of each kind, with the clean expert; the rest is the trace without privileges."""
    made(tmp_path / "plain", 0.0)
    returned = made(tmp_path / "told", share)
    chains = chain.splits(SIZES, 2, 5, 4)["sft"]
    chosen = privileges(60, share, 4)
    assert sorted(chosen.values()) == ["ground_truth"] * truths + ["hint"] * hints
    plain, told = read(tmp_path / "plain", "sft"), read(tmp_path / "told", "sft")
    clean = read(tmp_path / "told", "sft-teacher")
    assert clean == read(tmp_path / "plain", "sft-teacher")
    for number, one in enumerate(chains):
        if number in chosen:
            prompt = privileged_prompt(chain.as_task(one, number), chosen[number])
            assert told[number].messages == (*prompt, *clean[number].messages[1:])
            assert returned[number] == told[number]
        else:
            assert told[number] == plain[number]
            assert returned[number] == clean[number]


def test_tasks_of_a_privileged_world_carry_hints(tmp_path: Path) -> None:
    made(tmp_path / "plain", 0.0)
    made(tmp_path / "told", 0.5)
    for name in ("train", "validation", "test"):
        before, after = tasks(tmp_path / "plain", name), tasks(tmp_path / "told", name)
        assert [(t.id, t.prompt, t.ground_truth) for t in after] == [(t.id, t.prompt, t.ground_truth) for t in before]
        assert all(privileged_prompt(t, "hint")[0].content.endswith(f"\n\nHint: {t.extra['hint']}") for t in after)


def test_the_choice_is_a_function_of_the_seed() -> None:
    assert privileges(100, 0.3, 1) == privileges(100, 0.3, 1)
    assert privileges(100, 0.3, 1).keys() != privileges(100, 0.3, 2).keys()
    assert privileges(100, 0.0, 1) == {}
    assert list(privileges(1, 1.0, 1).values()) == ["hint"]


def test_a_tokenizer_of_a_privileged_world_has_words_for_it(tmp_path: Path) -> None:
    """`Answer:` and `Hint:` are in what the tokenizer learns from, so that they cost few tokens."""
    blank = Chat(train_tokenizer([], 300), [SCHEMA], template="hermes")
    lengths = []
    for share in (0.0, 0.5):
        corpus = [blank.conversation_text(c.messages) for c in made(tmp_path / str(share), share)]
        tokenizer = train_tokenizer(corpus, 1024)
        lengths.append([len(tokenizer.encode(f"9\n\n{word}: 7")) for word in ("Answer", "Hint")])
    assert lengths[1] == [3, 3]
    assert min(lengths[0]) > 3


def test_failing_calls_in_the_students_traces_are_made_again(tmp_path: Path) -> None:
    """With the failed calls and their errors taken out, the traces are those of the reliable world."""
    made(tmp_path / "plain", 0.0)
    make_data(WorldSpec(slips=0.4, failures=0.3, **SIZES), 4, tmp_path / "failing")
    assert read(tmp_path / "failing", "sft-teacher") == read(tmp_path / "plain", "sft-teacher")
    failed = calls = 0
    for plain, failing in zip(read(tmp_path / "plain", "sft"), read(tmp_path / "failing", "sft"), strict=True):
        kept = list(failing.messages)
        while (at := next((n for n, m in enumerate(kept) if m.content == "Error: unavailable"), None)) is not None:
            assert kept[at - 1] == kept[at + 1]
            del kept[at : at + 2]
            failed += 1
        assert tuple(kept) == plain.messages
        calls += sum(m.role == "tool" for m in plain.messages)
    # Each call fails a geometric number of times, 3/7 on average; five standard errors.
    deviation = (0.3 / 0.7**2 / calls) ** 0.5
    assert abs(failed / calls - 3 / 7) < 5 * deviation
