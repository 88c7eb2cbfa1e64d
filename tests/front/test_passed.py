"""What Python passes in: its place in the recipe, what is written down of it, and what asks for it again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sod
from sod.build.evaluated import Evaluated
from sod.build.own_code import code_rows, tell_changed
from sod.front.evaluating import recipe_of
from sod.front.passed import Passed, refuse_unpassed, with_passed
from sod.front.recipes import given_recipe, runs_own
from sod.recipe import Recipe, code_in, parse_recipe, refuse_reaching, resolved
from sod.records import Episode, SodError
from sod.usercode import load


def sql(query: str) -> str:
    """Ask the database.

    Args:
        query: one statement
    """
    return query


def score(episode: Episode) -> float:
    """Every episode is as good."""
    return 1.0


class Maze:
    """An environment, as far as a recipe is concerned."""


ALL = Passed([sql], score, Maze)


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe({"student": {"path": "x"}, "tools": {"python": None}}, "a test")


def written_down(recipe: Recipe) -> Recipe:
    """As a run directory keeps it."""
    return parse_recipe(resolved(recipe), "RUN/recipe.yaml")


def test_objects_stand_where_import_paths_would(recipe: Recipe) -> None:
    whole = with_passed(recipe, ALL)
    assert list(code_in(whole)) == [("tools.sql.call", sql), ("reward.call", score), ("environment.call", Maze)]
    assert whole.reward.verifier is None  # a function stands alone, as it does in a file
    assert load(sql, Path.cwd()) is sql


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (Passed(sql), {"tools.sql.call": sql}),
        (Passed({"db": sql}), {"tools.db.call": sql}),
        (Passed({"db": {"call": sql, "timeout_seconds": 3}}), {"tools.db.call": sql}),
        (Passed(["./tools.py:ask"]), {"tools.ask.call": "./tools.py:ask"}),
        (Passed(reward=(score, {"call": sql, "weight": 0.5})), {"reward.call.0": score, "reward.call.1": sql}),
        (Passed(environment={"call": Maze, "size": 4}), {"environment.call": Maze}),
    ],
)
def test_ways_to_pass_them(recipe: Recipe, passed: Passed, expected: Mapping[str, Any]) -> None:
    assert dict(code_in(with_passed(recipe, passed))) == expected


def test_other_keys_of_a_section_stay(recipe: Recipe) -> None:
    first = with_passed(recipe, Passed({"sql": {"call": sql, "timeout_seconds": 3}}))
    assert with_passed(first, Passed([sql])).tools.own["sql"].timeout_seconds == 3
    assert with_passed(first, Passed({"sql": None})).tools.own == {}


def test_a_file_names_what_was_passed_and_passing_it_again_makes_the_same_recipe(recipe: Recipe) -> None:
    whole = with_passed(recipe, ALL)
    held = written_down(whole)
    names = [value for _, value in code_in(held)]
    assert names == ["passed-in:sql", "passed-in:score", "passed-in:Maze"]
    assert with_passed(held, ALL) == whole
    assert resolved(with_passed(held, ALL)) == resolved(held)


def test_a_function_keeps_its_weight_and_name_where_it_is_passed_again(recipe: Recipe) -> None:
    weighted = [{"call": score, "weight": 2.0, "name": "good"}, {"call": sql, "weight": 0.5}]
    held = written_down(with_passed(recipe, Passed(reward=weighted)))
    again = with_passed(held, Passed(reward=[score, sql]))
    assert resolved(again) == resolved(held)
    changed = with_passed(held, Passed(reward={"call": [score, sql]}))  # the section's own keys, as they are written
    assert [spec.weight for spec in changed.reward.call] == [1.0, 1.0]


def test_a_recipe_that_was_made_is_evaluated_as_it_is_trained(recipe: Recipe) -> None:
    """Own functions take the verifier's place in both, though a recipe has a verifier by default."""
    about = Evaluated("x")
    evaluated_as = recipe_of(about, recipe, [], False, print, Passed(reward=score))
    assert evaluated_as.reward == given_recipe(recipe, [], Passed(reward=score), print).reward
    assert evaluated_as.reward.verifier is None


@pytest.mark.parametrize(
    ("tools", "asked"),
    [
        ({"db": sql}, "sod.train(tools={'db': sql})"),
        ({"sql": sql, "place": Maze}, "sod.train(tools={'sql': sql, 'place': Maze})"),
        ([sql], "sod.train(tools=[sql])"),
    ],
)
def test_a_tool_is_asked_for_by_the_name_it_goes_by(recipe: Recipe, tools: Any, asked: str) -> None:
    held = written_down(with_passed(recipe, Passed(tools)))
    with pytest.raises(SodError, match=f"pass it again: {re.escape(asked)}$"):
        refuse_unpassed(held, "w", "sod.train({})")


def test_it_is_asked_for_again_by_the_call_that_goes_on(recipe: Recipe) -> None:
    held = written_down(with_passed(recipe, ALL))
    refuse_reaching(held, "RUN/recipe.yaml", [])  # a name imports nothing, so that nobody has to allow it
    with pytest.raises(SodError) as error:
        refuse_unpassed(held, "RUN/recipe.yaml", 'sod.train(resume="RUN", {})')
    assert str(error.value) == (
        "RUN/recipe.yaml: tools.sql.call, reward.call, environment.call: passed in from Python, and in no file; pass "
        'it again: sod.train(resume="RUN", tools=[sql], reward=score, environment=Maze)'
    )
    refuse_unpassed(with_passed(held, ALL), "RUN/recipe.yaml", "{}")
    with pytest.raises(SodError, match="passed in from Python and is in no file; pass it again"):
        load("passed-in:sql", Path.cwd(), "tools.sql.call")


def test_a_part_of_it_is_not_enough(recipe: Recipe) -> None:
    content = resolved(with_passed(recipe, ALL))
    with pytest.raises(SodError, match=re.escape("again(reward=score)")):
        runs_own(content, [], "w", False, print, "again({})", Passed([sql], None, Maze))


def test_what_a_run_names_by_import_path_is_not_imported_unasked(recipe: Recipe, tmp_path: Path) -> None:
    """Importing the file would leave a mark."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndef f(a: str) -> str: return a\n")
    content = resolved(with_passed(recipe, Passed([f"{tmp_path}/evil.py:f"])))
    with pytest.raises(SodError, match=r"tools\.f\.call=.*--allow-code"):
        runs_own(content, [], "w", False, print, "{}")
    allowed = runs_own(content, [], "w", True, print, "{}")
    own = runs_own(content, [f"tools.f.call={tmp_path}/evil.py:f"], "w", False, print, "{}")
    assert not (tmp_path / "mark").exists()
    assert code_rows(allowed) == code_rows(own)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (Passed([sql, sql]), "tools: two of them are called sql; pass {name: tool, ...} to tell them apart"),
        (
            Passed([3]),
            "tools.int.call=3: write module:name or ./file.py:name; from Python, pass the function or class itself",
        ),
        (
            Passed(reward=0.5),
            "reward.call.0.call=0.5: write module:name or ./file.py:name; from Python, pass the function or class "
            "itself",
        ),
        (
            Passed([lambda: None]),
            "tools.<lambda>: a tool's name is a letter, then at most 63 letters, digits, _ and -",
        ),
        (Passed({"python": sql}), "tools: python is sod's own tool; pass yours by another name, {'other': python}"),
    ],
)
def test_what_cannot_be_passed_is_one_line(recipe: Recipe, passed: Passed, said: str) -> None:
    with pytest.raises(SodError) as error:
        with_passed(recipe, passed)
    assert str(error.value) == said


def test_overrides_are_for_recipes_that_are_read(recipe: Recipe) -> None:
    with pytest.raises(SodError, match="give them to load_recipe"):
        given_recipe(recipe, ["seed=1"], Passed(), print)


def test_the_record_tells_of_changed_sources(recipe: Recipe) -> None:
    whole = with_passed(recipe, ALL)
    rows = code_rows(whole)
    assert [(row["key"], row["name"].partition(":")[2]) for row in rows] == [
        ("tools.sql.call", "sql"),
        ("reward.call", "score"),
        ("environment.call", "Maze"),
    ]
    told: list[str] = []
    tell_changed({"code": rows}, whole, Path("RUN"), told.append)
    tell_changed({}, whole, Path("RUN"), told.append)  # of a version that recorded nothing
    assert told == []
    rows[1]["source_sha256"] = "0" * 64
    tell_changed({"code": rows}, whole, Path("RUN"), told.append)
    (line,) = told
    assert line.startswith("RUN: reward.call: the source of ")
    assert line.endswith(":score has changed since this run was started")


def test_a_mapping_is_read_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"student": {"path": "x"}, "tools": {"f": {"call": "./tools.py:f"}}}
    read = given_recipe(content, [], Passed(), print)
    assert dict(code_in(read)) == {"tools.f.call": f"{tmp_path.resolve()}/tools.py:f"}


def test_task_and_fault_are_the_same_classes_everywhere() -> None:
    from sod.records import Task, ToolFault

    assert (sod.Task, sod.ToolFault) == (Task, ToolFault)
