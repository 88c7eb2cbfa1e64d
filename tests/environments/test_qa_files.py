"""Questions of files in their published layouts, and the passages that come with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sod.environments.qa_files import passages_of, read_passages, read_questions
from sod.environments.search_qa import SearchQA
from sod.environments.short_answers import answer_score, normalised
from sod.records import SodError, Task, ToolCall

SENTENCES = {
    "Orrin Vale": ["Orrin Vale is a film of 1931.", " It was directed by Tess Amber."],
    "Tess Amber": ["Tess Amber was born in Quillport.", " She made nine films."],
    "Quillport": ["Quillport is a harbour town."],
}
PAIRS = [[title, sentences] for title, sentences in SENTENCES.items()]
FACTS = [["Orrin Vale", 1], ["Tess Amber", 0], ["Tess Amber", 1]]
ASKED = {"question": "Where was the director of Orrin Vale born?", "answer": "Quillport"}
HOTPOT = {"_id": "a1", **ASKED, "type": "bridge", "level": "hard", "supporting_facts": FACTS, "context": PAIRS}
WIKI = HOTPOT | {"type": "compositional", "evidences": [["Orrin Vale", "director", "Tess Amber"]], "answer_id": "Q3"}
HUB = ASKED | {
    "id": "a1",
    "supporting_facts": {"title": [title for title, _ in FACTS], "sent_id": [number for _, number in FACTS]},
    "context": {"title": list(SENTENCES), "sentences": list(SENTENCES.values())},
}
HUB_2WIKI = HUB | {"context": {"title": list(SENTENCES), "content": list(SENTENCES.values())}}
AS_TEXT = WIKI | {"context": json.dumps(PAIRS), "supporting_facts": json.dumps(FACTS)}
MUSIQUE = ASKED | {
    "id": "a1",
    "answer_aliases": ["Port Quill"],
    "paragraphs": [
        {"idx": number, "title": title, "paragraph_text": " ".join(map(str.strip, texts)), "is_supporting": number < 2}
        for number, (title, texts) in enumerate(SENTENCES.items())
    ],
}
LAYOUTS = {
    "hotpot.json": HOTPOT,
    "2wiki.json": WIKI,
    "hub.parquet": HUB,
    "hub-2wiki.parquet": HUB_2WIKI,
    "text.parquet": AS_TEXT,
    "musique.jsonl": MUSIQUE,
}


def written(folder: Path, name: str, rows: Any) -> str:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps(rows))
    return str(path)


def many(count: int) -> list[dict[str, Any]]:
    return [HOTPOT | {"_id": f"q{number}", "question": f"Question {number}?"} for number in range(count)]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_layout_gives_the_question_its_plan_and_its_passages(name: str, tmp_path: Path) -> None:
    questions = read_questions(written(tmp_path, name, [LAYOUTS[name], LAYOUTS[name]]))
    first, second = (question.task for question in questions)
    assert (first.id, second.id) == ("a1", "a1-1")
    assert first.prompt[0].content == ASKED["question"]
    assert first.ground_truth == "Quillport"
    assert first.extra["plan"] == ["Orrin Vale", "Tess Amber"]
    assert first.truths == (("Port Quill",) if name.startswith("musique") else ())
    passages = passages_of(questions)
    assert [passage.title for passage in passages] == list(SENTENCES)
    assert passages[0].text == "Orrin Vale is a film of 1931. It was directed by Tess Amber."


def test_the_kind_of_a_question_is_kept(tmp_path: Path) -> None:
    (question,) = read_questions(written(tmp_path, "hotpot.json", [HOTPOT]))
    assert (question.task.extra["type"], question.task.extra["level"]) == ("bridge", "hard")


def test_the_world_of_a_file_is_played_by_its_expert(tmp_path: Path) -> None:
    world = SearchQA(questions=written(tmp_path, "hotpot.json", many(5)), passages=1)
    train, validation = world.tasks("train"), world.tasks("validation")
    assert (len(train), len(validation)) == (4, 1)
    assert sorted(task.id for task in (*train, *validation)) == [f"q{number}" for number in range(5)]
    world.reset(train[0], 0)
    queries = []
    while not isinstance(action := world.expert(), str):
        queries.append(action[0].arguments["query"])
        (result,), _, _ = world.step(action)
        assert result.text.startswith(f"{queries[-1]}: ")  # type: ignore[union-attr]
    assert queries == ["Orrin Vale", "Tess Amber"]
    assert world.step(action) == ("", 1.0, True)


def test_a_file_for_each_split_is_taken_in_its_order(tmp_path: Path) -> None:
    files = {"train": written(tmp_path, "train.json", many(5)), "validation": written(tmp_path, "dev.json", many(3))}
    world = SearchQA(questions=files, train=2)
    assert [task.id for task in world.tasks("train")] == ["q0", "q1"]
    assert [task.id for task in world.tasks("validation")] == ["q0", "q1", "q2"]


def test_one_file_is_split_by_the_seed(tmp_path: Path) -> None:
    file = written(tmp_path, "one.json", many(30))
    drawn = {seed: [task.id for task in SearchQA(questions=file, seed=seed).tasks("validation")] for seed in (0, 0, 1)}
    assert drawn[0] != drawn[1]
    assert len(drawn[0]) == 3
    assert [len(SearchQA(questions=file, validation=10).tasks(split)) for split in ("train", "validation")] == [20, 10]


def test_rows_without_passages_are_asked_about_a_corpus(tmp_path: Path) -> None:
    """As FlashRAG and Search-R1 have it: several answers, and a corpus with the title in the first line."""
    rows = [
        {"id": f"nq-{number}", "question": "Where?", "golden_answers": ["Quillport", "the port"]} for number in (0, 1)
    ]
    questions = written(tmp_path, "nq.jsonl", rows)
    contents = [{"id": "0", "contents": '"Quillport"\nIt is a harbour town.'}, {"id": "1", "contents": "Moon\nFar."}]
    corpus = written(tmp_path, "corpus.jsonl", contents)
    world = SearchQA(questions=questions, corpus=corpus)
    (task,) = world.tasks("train")
    world.reset(task, 0)
    (found,), _, _ = world.step((ToolCall("search", {"query": "harbour"}),))
    assert found.text == "Quillport: It is a harbour town."  # type: ignore[union-attr]
    assert world.step("<answer>The Port</answer>") == ("", 1.0, True)
    with pytest.raises(SodError, match=r"its rows bring no passages \(context\); name environment.corpus"):
        SearchQA(questions=questions)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "Where?", "context": PAIRS}], "row 0 has no answer"),
        ([HOTPOT, {"answer": "x"}], "row 1 has no question; rows need question and answer, columns: answer"),
        ([HOTPOT | {"context": [["title", "text"]]}], r"row 0: context is no list of \[title"),
        ([HOTPOT | {"context": {"title": ["a", "b"], "sentences": [["c"]]}}], r"row 0: context is no list of \[title"),
        ([HOTPOT | {"context": "no JSON"}], "bring no passages"),
        ([MUSIQUE | {"paragraphs": [{"title": "t"}]}], "row 0: paragraphs is no passage; it needs title and text"),
        ([HOTPOT, 3], "row 1: not a JSON object"),
        ([], "no rows"),
    ],
)
def test_what_is_wrong_in_a_file_of_questions_is_told(rows: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SodError, match=said):
        SearchQA(questions=written(tmp_path, "broken.json", rows))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"questions": "nowhere.json"}, "environment.questions: nowhere.json: no such data file"),
        ({"corpus": "nowhere.json"}, "environment.corpus: nowhere.json: no such data file"),
        ({"questions": {"test": "a.json"}}, r"name one file, or \{train: FILE, validation: FILE\}"),
        ({"questions": {}}, r"name one file, or \{train: FILE, validation: FILE\}"),
    ],
)
def test_files_that_are_not_there_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SodError, match=said):
        SearchQA(**arguments)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = written(tmp_path, "grows.json", many(3))
    assert len(read_questions(file)) == 3
    assert len(read_questions(written(tmp_path, "grows.json", many(4)))) == 4


def test_a_corpus_alone_has_no_questions_and_too_few_are_told(tmp_path: Path) -> None:
    corpus = written(tmp_path, "corpus.json", [{"title": "Moon", "text": "Far."}])
    with pytest.raises(SodError, match="has passages and no questions; name a file"):
        SearchQA(corpus=corpus).tasks("train")
    with pytest.raises(SodError, match="row 0 is no passage; it needs title and text, or contents; columns: name"):
        read_passages(written(tmp_path, "names.json", [{"name": "Moon"}]))
    file = written(tmp_path, "few.json", many(3))
    with pytest.raises(SodError, match="has 2 questions for train, not 9"):
        SearchQA(questions=file, train=9).tasks("train")
    with pytest.raises(SodError, match="has no file for validation"):
        SearchQA(questions={"train": file}).tasks("validation")


@pytest.mark.parametrize(
    ("said", "reply", "reward", "done"),
    [
        ("<search>air</search>", "<information>\nMoon: It has no air.\n</information>", 0.0, False),
        ("I look. <search> air </search> <answer>Sun</answer>", "<information>\nMoon: It has", 0.0, False),
        ("<search>zzz</search>", "<information>\nNothing was found.\n</information>", 0.0, False),
        ("<answer>moon</answer> <search>air</search>", "", 1.0, True),
        ("<answer>Sun</answer>", "", 0.0, True),
        ("The moon", "Write <search>", 0.0, False),
    ],
)
def test_in_text_the_first_tags_count(said: str, reply: str, reward: float, done: bool, tmp_path: Path) -> None:
    world = SearchQA(
        corpus=written(tmp_path, "corpus.json", [{"title": "Moon", "text": "It has no air."}]), tools=False
    )
    observation, tools = world.reset(Task("t", (), "Moon"), 0)
    assert (tools, "<search>" in observation) == ([], True)
    text, earned, over = world.step(said)
    assert isinstance(text, str)
    assert (text.startswith(reply), earned, over) == (True, reward, done)
    assert bool(text) == bool(reply)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The U.S.  Navy", "us navy"),
        ("an apple-pie, a day", "applepie day"),
        ("Theatre of the Absurd", "theatre of absurd"),
        ("It's 1,000", "its 1000"),
        ("A", ""),
    ],
)
def test_answers_are_compared_as_squad_does(text: str, plain: str) -> None:
    assert normalised(text) == plain


@pytest.mark.parametrize(
    ("answer", "truth", "overlap"),
    [
        ("New York City", "New York", 0.8),
        ("the city of York", "York", 0.5),
        ("york york", "York", 2 / 3),
        ("yes, it is", "yes", 0.0),
        ("Yes.", "yes", 1.0),
        ("no", "No man's land", 0.0),
        ("", "A", 0.0),
    ],
)
def test_overlap_of_words(answer: str, truth: str, overlap: float) -> None:
    assert answer_score(answer, [truth], "f1") == pytest.approx(overlap)
