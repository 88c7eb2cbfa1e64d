"""Search-QA: a world made by its seed, questions that its passages answer, and answers compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sod.environments.base import Replays
from sod.environments.fiction import RELATIONS, fiction
from sod.environments.search_qa import SearchQA, answer_in
from sod.environments.short_answers import answer_score
from sod.records import Message, SodError, Task, ToolCall


def searched(world: SearchQA, query: Any) -> Any:
    (result,), reward, done = world.step((ToolCall("search", {"query": query}),))
    assert (reward, done) == (0.0, False)
    return result


def test_a_world_is_made_by_its_seed() -> None:
    assert fiction(30, 1) == fiction(30, 1)
    assert fiction(30, 1) != fiction(30, 2)


def test_every_thing_has_all_its_relations_and_a_name_of_its_own() -> None:
    world = fiction(60, 3)
    kinds = list(world.kinds.values())
    assert kinds.count("person") == 60
    for name, facts in world.facts.items():
        assert tuple(facts) == RELATIONS[world.kinds[name]]
        assert all(value in world.kinds and value != name for value in facts.values())


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_passages_of_the_lookups_lead_to_the_answer(hops: int) -> None:
    world = fiction(60, 3)
    told = {passage.title: passage.text for passage in world.passages()}
    questions = world.questions(40, hops, 5)
    assert len({question.text for question in questions}) == 40
    for question in questions:
        assert len(question.lookups) == hops
        for title, following in zip(question.lookups, (*question.lookups[1:], question.answer), strict=True):
            assert following in told[title]
        assert question.answer not in question.text


def test_more_questions_than_there_are_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="no 500 questions over 1 relations; ask for fewer, or add people"):
        fiction(3, 0).questions(500, 1, 0)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("I think <answer>Paris</answer> or <answer>Rome</answer>.", "Rome"),
        ("It took long.\nRome", "Rome"),
        ("", ""),
    ],
)
def test_where_an_answer_stands(said: str, answer: str) -> None:
    assert answer_in(said) == answer


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "overlap"),
    [
        ("the Goristad  Reach!", ("Goristad Reach",), 1.0, 1.0),
        ("Goristad", ("Goristad Reach",), 0.0, 2 / 3),
        ("Rome", ("Paris", "rome"), 1.0, 1.0),
        ("", ("",), 0.0, 0.0),
        ("the", ("Paris",), 0.0, 0.0),
    ],
)
def test_how_good_an_answer_is(answer: str, truths: tuple[str, ...], exact: float, overlap: float) -> None:
    assert answer_score(answer, truths, "em") == exact
    assert answer_score(answer, truths, "f1") == pytest.approx(overlap)


def test_the_plan_wins_and_a_player_that_does_not_search_loses() -> None:
    pytest.importorskip("bm25s")
    world = SearchQA(people=60, train=30, validation=10)
    tasks = {split: world.tasks(split) for split in ("train", "validation")}
    assert [len(tasks[split]) for split in tasks] == [30, 10]
    assert not {task.prompt for task in tasks["train"]} & {task.prompt for task in tasks["validation"]}
    for task in tasks["train"]:
        world.reset(task, 1)
        results = [searched(world, query) for query in task.extra["plan"]]
        assert task.ground_truth in results[-1].text.split("\n\n")[0]
        assert world.step(f"<answer>{task.ground_truth}</answer>") == ("", 1.0, True)
        world.reset(task, 1)
        assert world.step(f"<answer>{task.extra['plan'][0]}</answer>") == ("", 0.0, True)
    assert isinstance(world, Replays)


def test_a_query_that_is_none_is_a_tool_error() -> None:
    pytest.importorskip("bm25s")
    world = SearchQA(people=20, train=5, validation=5)
    world.reset(world.tasks("train")[0], 1)
    assert searched(world, 7).error == "wrong_arguments"
    assert searched(world, "zzz").text == "Nothing was found."


def test_passages_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    file = tmp_path / "corpus.json"
    file.write_text(json.dumps([{"title": "Moon", "text": "It has no air."}, {"title": "Sun", "text": "It is hot."}]))
    world = SearchQA(corpus=str(file))
    world.reset(Task("t", (Message("user", "Which has no air?"),), "Moon"), 1)
    assert searched(world, "air").text == "Moon: It has no air."
    assert world.step("moon.") == ("", 1.0, True)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(SodError, match=r"environment\.corpus: .*broken.json: no usable row"):
        SearchQA(corpus=str(broken))
