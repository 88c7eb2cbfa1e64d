"""The repository itself: records that name real files and tests, and no source that git does not see."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
PARTS = ["The bug it comes from", "Decision", "Consequence", "Where", "Guarded by"]


def test_records_are_numbered_and_listed() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[\d{4}\]\((.+?)\)", index, re.MULTILINE) == [path.name for path in RECORDS]


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name[:4])
def test_a_record_is_whole_and_names_files_and_tests_that_exist(record: Path) -> None:
    """A record in force names at least one test; one that is planned may have none yet."""
    text = record.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == PARTS
    status = re.search(r"^Status: (.+)\.$", text, re.MULTILINE)
    assert status
    where, guards = (text.partition(f"## {part}")[2].partition("\n## ")[0] for part in PARTS[3:])
    files, tests = re.findall(r"`([^`]+)`", where), re.findall(r"`([^`]+)::(\w+)`", guards)
    assert files
    assert tests or status[1] == "planned"
    missing = [name for name in files if not (ROOT / name).is_file()]
    for name, test in tests:
        path = ROOT / name
        if not path.is_file() or not re.search(rf"def {test}\(", path.read_text(encoding="utf-8")):
            missing.append(f"{name}::{test}")
    assert not missing


def test_no_half_of_a_merge_is_left() -> None:
    """A page once went out with both sides of a conflict in it."""
    command = ["git", "grep", "-lE", "^(<<<<<<<|>>>>>>>) "]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        pytest.skip("no git")
    if found.returncode == 128:
        pytest.skip(f"no checkout: {found.stderr.strip()}")
    assert found.stdout == ""


def test_git_hides_no_source() -> None:
    """A pattern of .gitignore once hid `src/sod/build`, which every clone would have lacked."""
    sources = [str(p.relative_to(ROOT)) for d in ("src", "tests", "benchmarks") for p in (ROOT / d).rglob("*.py")]
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    try:
        asked = subprocess.run(command, input="\n".join(sources), capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        pytest.skip("no git")
    if asked.returncode == 128:
        pytest.skip(f"no checkout: {asked.stderr.strip()}")
    assert asked.stdout == ""
