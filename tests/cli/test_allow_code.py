"""The recipe inside a run directory may be a stranger's: what runs code or reaches out needs `--allow-code`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sod.recipe import parse_recipe, resolved
from sod.runlog import RunLog

REACHING = {
    "tools.python.unsafe": ({"tools": {"python": {"unsafe": True}}}, "True"),
    "tools.python.preload": ({"tools": {"python": {"preload": ["numpy", "evil"]}}}, "['numpy', 'evil']"),
    "tools.python.fusion.url": ({"tools": {"python": {"fusion": {"url": "http://evil"}}}}, "'http://evil'"),
    "reward.call": ({"reward": {"call": ["evil:f", {"call": "evil:g"}]}}, "evil:f, evil:g"),
    "reward.judge.url": ({"reward": {"judge": {"url": "http://evil", "model": "m"}}}, "'http://evil'"),
    "engine.urls": ({"engine": {"kind": "vllm", "urls": ["http://evil"]}}, "['http://evil']"),
    "engine.environment": ({"engine": {"kind": "vllm", "environment": "/evil"}}, "'/evil'"),
    "tools.sql.call": ({"tools": {"sql": {"call": "evil:sql"}}}, "'evil:sql'"),
    "environment.call": ({"environment": {"call": "evil:World"}}, "'evil:World'"),
    "environment": (
        {"environment": {"call": "alfworld", "games": "evil"}},
        "{'call': 'alfworld', 'games': 'evil'}",
    ),
    "tools.files.mcp": ({"tools": {"files": {"mcp": ["evil", "--now"]}}}, "['evil', '--now']"),
}
OF_A_TEACHER = {
    "teacher.url": ({"url": "http://evil", "model": "m"}, "'http://evil'"),
    "teacher.api_key_env": ({"url": "http://evil", "model": "m", "api_key_env": "HOME_KEY"}, "'HOME_KEY'"),
    "teacher.cache": ({"url": "http://evil", "model": "m", "cache": "/somewhere"}, "'/somewhere'"),
}
NEXT = "data.train is not set"
"""What the commands say where they get past the question."""


def a_run(directory: Path, content: dict[str, Any]) -> Path:
    """A run directory as somebody else might send it, without data or checkpoint."""
    recipe = resolved(parse_recipe({"student": {"path": "nowhere"}, "method": "grpo", **content}, "a test"))
    RunLog.create(directory, recipe, 0)
    return directory


def command(purpose: str, run: Path) -> list[str | Path]:
    """The command without a recipe of the user's own."""
    if purpose == "chat":
        return ["chat", run]
    if purpose == "compare":
        return ["compare", run, "--methods", "grpo", "--seeds", "0"]
    return ["train", "--resume", run] if purpose == "resume" else ["eval", run, "--data", "nowhere.jsonl"]


@pytest.mark.parametrize("purpose", ["resume", "evaluate", "compare", "chat"])
@pytest.mark.parametrize("key", REACHING)
class TestReachingKeys:
    """Each key of a run's own recipe that makes code run or sends something away."""

    def test_is_refused_by_name(self, purpose: str, key: str, tmp_path: Path, sod: Any) -> None:
        """One line with file, key, value and the option."""
        content, shown = REACHING[key]
        ended = sod(*command(purpose, a_run(tmp_path / "run", content)))
        assert ended.code == 1
        (line,) = ended.err.strip().splitlines()
        for part in (str(tmp_path / "run" / "recipe.yaml"), f"{key}={shown}", "--allow-code"):
            assert part in line

    def test_is_the_users_to_allow(self, purpose: str, key: str, tmp_path: Path, sod: Any) -> None:
        """With the option the command gets on to what else is wrong."""
        ended = sod(*command(purpose, a_run(tmp_path / "run", REACHING[key][0])), "--allow-code")
        assert ended.code == 1
        assert "--allow-code" not in ended.err

    def test_is_the_users_to_set(self, purpose: str, key: str, tmp_path: Path, sod: Any) -> None:
        """An override is the user's word, also where it names the section above."""
        run = a_run(tmp_path / "run", REACHING[key][0])
        own = ["tools.sql=null", "tools.files=null", "environment=null", "engine={kind: torch}"]
        own.append("reward={call: 'operator:truth', judge: null}")
        own.append("tools.python={unsafe: true, preload: [os], fusion: {url: 'http://mine'}}")
        ended = sod(*command(purpose, run), *own)
        assert ended.code == 1
        assert "--allow-code" not in ended.err


def test_a_judge_of_the_users_own_still_writes_nowhere_else(tmp_path: Path, sod: Any) -> None:
    judge = {"url": "http://evil", "model": "m", "cache": "/somewhere"}
    run = a_run(tmp_path / "run", {"reward": {"judge": judge}})
    ended = sod("train", "--resume", run, "reward.judge.url=http://mine")
    assert "reward.judge.cache='/somewhere' writes into this folder" in ended.err


@pytest.mark.parametrize("key", OF_A_TEACHER)
def test_a_teacher_elsewhere_is_asked_with_leave_alone(key: str, tmp_path: Path, sod: Any) -> None:
    """A resumed run asks it, and so does `sod teacher score`; an evaluation does not read the section."""
    teacher, shown = OF_A_TEACHER[key]
    run = a_run(tmp_path / "run", {"teacher": teacher, "method": "opd"})
    own = [] if key == "teacher.url" else ["teacher.url=http://mine"]
    for arguments in (["train", "--resume", run, *own], ["teacher", "score", run, *own]):
        assert f"{key}={shown}" in sod(*arguments).err
        assert "--allow-code" not in sod(*arguments, "--allow-code").err
    assert "--allow-code" not in sod("eval", run, "--data", "nowhere.jsonl").err
    several = a_run(tmp_path / "several", {"teachers": {"a": teacher}, "method": "opd"})
    changed = [] if key == "teacher.url" else ["teachers.a.url=http://mine"]
    assert f"teachers.a.{key.partition('.')[2]}={shown}" in sod("train", "--resume", several, *changed).err


def test_another_override_allows_nothing(tmp_path: Path, sod: Any) -> None:
    run = a_run(tmp_path / "run", {"tools": {"python": {"unsafe": True}}})
    ended = sod("train", "--resume", run, "tools.python.workers=1", "threads=1")
    assert "tools.python.unsafe=True" in ended.err


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"tools": {"python": None}},
        {"tools": {"python": {"preload": ["sympy"]}}},
        {"trackers": ["trackio", "wandb"]},
    ],
)
def test_what_every_recipe_may_ask_for_needs_nothing(content: dict[str, Any], tmp_path: Path, sod: Any) -> None:
    ended = sod("train", "--resume", a_run(tmp_path / "run", content))
    assert NEXT in ended.err


def test_a_recipe_that_the_user_names_is_trusted(tmp_path: Path, sod: Any) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(yaml.safe_dump({"student": {"path": "x"}, "method": "grpo", "tools": {"python": {"unsafe": True}}}))
    assert NEXT in sod("train", own, "--run", tmp_path / "new").err


def test_the_recipe_of_a_run_can_be_no_bomb(tmp_path: Path, sod: Any) -> None:
    """Neither at resume nor at evaluation."""
    run = a_run(tmp_path / "run", {})
    names = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(12)]
    (run / "recipe.yaml").write_text("".join(names))
    for purpose in ("resume", "evaluate"):
        ended = sod(*command(purpose, run))
        assert ended.code == 1
        assert "more than 20,000 values" in ended.err
        assert len(ended.err.strip().splitlines()) == 1


def test_an_override_beside_a_tool_of_its_own_allows_nothing(tmp_path: Path, sod: Any) -> None:
    run = a_run(tmp_path / "run", {"tools": {"sql": {"call": "evil:sql"}}})
    assert "tools.sql.call='evil:sql'" in sod("train", "--resume", run, "tools.sql.concurrency=2").err


def test_code_of_a_run_is_not_imported_before_it_is_allowed(tmp_path: Path, sod: Any) -> None:
    """With the option it is."""
    evil, been_here = tmp_path / "evil_of_a_test.py", tmp_path / "been_here"
    evil.write_text(f"open({str(been_here)!r}, 'w').close()\n\ndef sql() -> str:\n    'Say x.'\n    return 'x'\n")
    run = a_run(tmp_path / "run", {"tools": {"sql": {"call": f"{evil}:sql"}}})
    sod("train", "--resume", run)
    assert not been_here.exists()
    ended = sod("train", "--resume", run, "--allow-code")
    assert been_here.exists(), ended.err
    assert NEXT in ended.err
