"""`sod teacher score` on damaged rows, and runs from damaged files of scores: one line, and what is whole is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from scoring_server import ScoringServer
from sod.build import scoring
from sod.build.scoring import Written, score_file
from sod.build.training import prepare_train
from sod.chat.render import Chat
from sod.models.load import save_model
from sod.recipe import Recipe
from sod.records import SodError
from sod.tasks.files import write_conversations
from sod.teachers.stored import read_scores

Row = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, chat: Chat, random_model: Any, conversations: Any) -> Path:
    """A student, which teaches itself, conversations, the scores of these, and the same as rows of episodes."""
    directory: Path = tmp_path_factory.mktemp("damaged")
    save_model(random_model(seed=3), chat.tokenizer, chat.template, chat.end_id, directory / "model")
    write_conversations(directory / "sft.parquet", conversations[:4])
    score_file(recipe_at(directory), str(directory / "sft.parquet"), directory / "scores.parquet", 2, print)
    rows = parquet.read_table(directory / "scores.parquet")["trajectory"].to_pylist()
    (directory / "episodes.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return directory


def recipe_at(place: Path, teacher: Any = None, **sections: Any) -> Recipe:
    model = {"path": str(place / "model")}
    method = {"name": "opd", "divergence": {"kind": "forward_kl", "top_k": 2}}
    rollout = {"prompts": 2, "samples": 1, "max_prompt_tokens": 300, "max_response_tokens": 300, "max_turn_tokens": 100}
    content = {
        "student": model,
        "teacher": teacher or model,
        "chat": {"template": "hermes"},
        "method": method,
        "rollout": rollout,
        "train": {"steps": 2},
    }
    return Recipe.model_validate({**content, **sections})


def first_id(value: Any) -> Callable[[Row], Row]:
    return lambda row: row | {"token_ids": [value, *row["token_ids"][1:]]}


ROWS: dict[str, tuple[Callable[[Row], Row], str]] = {
    "uneven": (lambda row: row | {"turn_ids": row["turn_ids"][:-3]}, "columns of unequal length"),
    "texts": (lambda row: row | {"token_ids": [str(one) for one in row["token_ids"]]}, "numbers from 0"),
    "negative": (first_id(-1), "numbers from 0"),
    "null": (first_id(None), "numbers from 0"),
    "beyond": (first_id(999_999), "its tokens are not those of student.path="),
    "no turns": (lambda row: {name: row[name] for name in row if name != "turns"}, "no field 'turns'"),
    "turns": (lambda row: row | {"turns": [1]}, "TypeError"),
    "reward": (lambda row: row | {"reward": "high"}, "reward 'high' is no number"),
    "prompt": (lambda row: row | {"prompt": [{"text": "hi"}]}, "no field 'role'"),
    "no prompt": (lambda row: row | {"turn_ids": [1] * len(row["turn_ids"])}, "no prompt before the first turn"),
    "stop": (lambda row: row | {"stop": "bored"}, "'bored' is not a valid StopReason"),
}


def test_damaged_rows_of_episodes_are_left_out_and_told_of(place: Path, tmp_path: Path) -> None:
    """A row of every kind among whole ones; where none is whole, that is the error."""
    rows = [json.loads(line) for line in (place / "episodes.jsonl").read_text().splitlines()]
    file = tmp_path / "some.jsonl"
    bad = [change(rows[1]) for change, _ in ROWS.values()]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in [rows[0], *bad, {}, *rows[2:]]))
    told: list[str] = []
    assert score_file(recipe_at(place), str(file), tmp_path / "scores.parquet", 0, told.append) == Written(
        3, 0, None, len(ROWS) + 1
    )
    assert [line for line in told if f"left out ({len(ROWS)}), the first: {file}:2: ledger of" in line] != []
    for name, (change, reason) in ROWS.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(change(rows[0])) + "\n")
        with pytest.raises(SodError) as error:
            score_file(recipe_at(place), str(file), tmp_path / "none.parquet", 0, print)
        assert reason in str(error.value), name
        assert str(error.value).startswith(f"{file}: {file}:1: "), name


def test_a_column_of_conversations_may_be_called_format(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]
    file.write_text(json.dumps({"format": "chatml", "messages": messages}) + "\n")
    assert score_file(recipe_at(place), str(file), tmp_path / "scores.parquet", 0, print).episodes == 1


def changed(table: pa.Table, name: str, change: Callable[[Any], Any]) -> pa.Table:
    values = table[name].to_pylist()
    values[1] = change(values[1])
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "cut": (lambda table: changed(table, "trajectory", lambda text: text[:-5]), "row 2 is damaged"),
    "null": (lambda table: changed(table, "trajectory", lambda text: None), r"row 2 is damaged \(no trajectory\)"),
    "list": (lambda table: changed(table, "trajectory", lambda text: "[]"), "row 2 is damaged"),
    "short": (lambda table: changed(table, "logps", lambda logps: logps[:-1]), "row 2 is damaged"),
    "none": (lambda table: changed(table, "logps", lambda logps: None), "row 2 is damaged"),
    "nan": (lambda table: changed(table, "logps", lambda logps: [float("nan"), *logps[1:]]), "is no log-probability"),
    "above": (lambda table: changed(table, "best", lambda logps: [5.0, *logps[1:]]), "is no log-probability"),
    "ids": (lambda table: changed(table, "ids", lambda ids: ids[:-1]), "row 2 is damaged"),
    "beyond": (lambda table: changed(table, "ids", lambda ids: [99_999, *ids[1:]]), "token 99999 is beyond its voc"),
    "column": (lambda table: table.drop_columns(["best"]), "holds no scores of a teacher"),
    "about": (lambda table: table.replace_schema_metadata({b"sod": b'{"format": 1}'}), "holds no scores of a teacher"),
    "empty": (lambda table: table.slice(0, 0), "holds no episodes"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_file_of_scores_is_refused_in_one_line(name: str, place: Path, tmp_path: Path) -> None:
    change, line = TABLES[name]
    parquet.write_table(change(parquet.read_table(place / "scores.parquet")), tmp_path / "bad.parquet")
    with pytest.raises(SodError, match=line):
        prepare_train(recipe_at(place, {"scores": str(tmp_path / "bad.parquet")}), tmp_path / "run", False, print)


def test_a_file_that_lacks_episodes_is_learned_from(place: Path, tmp_path: Path) -> None:
    parquet.write_table(parquet.read_table(place / "scores.parquet").slice(0, 3), tmp_path / "some.parquet")
    recipe = recipe_at(place, {"scores": str(tmp_path / "some.parquet")})
    with closing(prepare_train(recipe, tmp_path / "run", False, print)) as job:
        job.start([])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["faults"] for row in rows] == [0.0, 0.0]


def test_scoring_that_was_stopped_asks_nothing_twice(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any, random_model: Any
) -> None:
    """Of a served teacher; no file is there until all is."""
    monkeypatch.setattr(scoring, "PART", 1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "scores.parquet"
    with ScoringServer(random_model(seed=3), tokenizer) as server:
        recipe = recipe_at(place, {"url": server.url, "model": "t", "cache": str(tmp_path / "cache")})
        with pytest.raises(KeyboardInterrupt):
            score_file(recipe, str(place / "episodes.jsonl"), out, 2, print, stop)
        assert not out.exists()
        score_file(recipe, str(place / "episodes.jsonl"), out, 2, print)
        prompts = [tuple(body["prompt"]) for body in server.asked]
    episodes = [one.episode.trajectory.token_ids for one in read_scores(out)[1]]
    assert len(episodes) == 4
    assert [prompts.count(ids) for ids in episodes] == [1] * 4
