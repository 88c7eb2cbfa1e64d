"""What the documents name is there: linked files, paths, functions of the methods' equations, options of commands.

`docs/results/` keeps the paths and commands of its day; there only links are checked.
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer

from commands import DOCUMENTS, LIVING, ROOT, SOURCES, commands_in, name_of
from sod.cli.main import app

RECORDED = {"CHANGELOG.md", "extending.md"}  # name files that have gone, and files that a reader would write
PLACES = (ROOT, ROOT / "src" / "sod", ROOT / "tests")


def anchors(text: str) -> set[str]:
    """The names that headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = document.parent / target if target else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("document", [path for path in LIVING if path.name not in RECORDED], ids=name_of)
def test_paths_exist(document: Path) -> None:
    """A path is given from the root, from `src/sod` or `tests`, or as a bare file name where its room was named."""
    quoted = re.findall(r"`([^`\n]+)`", document.read_text(encoding="utf-8"))
    paths = [word.partition("::")[0] for word in quoted if re.fullmatch(r"[\w./-]+(\.py(::\w+)?|/)", word)]
    written = ("RUN/", "runs/", "dumps/", "logs/", "checkpoints/", "shards/", "model/")  # by runs
    paths = [path for path in paths if not path.startswith(written)]
    bare = {path.name for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    gone = [path for path in paths if path not in bare and not any((place / path).exists() for place in PLACES)]
    assert not gone


def test_equations_stand_beside_functions_that_exist() -> None:
    """The last column of the tables of `docs/methods.md`: `module.function` of the objective."""
    rows = re.findall(r"^\|.*\| ([^|]+) \|$", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for cell in rows for name in re.findall(r"`([a-z]+)\.(\w+)", cell)]
    assert len(named) > 12
    missing = [f"{room}.{name}" for room, name in named if not hasattr(import_module(f"sod.objective.{room}"), name)]
    assert not missing


def test_commands_are_taken_as_they_are_written() -> None:
    """No option that does not exist, and nothing where nothing is expected; values are not looked at."""
    found = [(path, line) for path in SOURCES for line in commands_in(path) if line.startswith("sod ")]
    assert len(found) > 20
    refused = []
    for path, line in found:
        command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
        try:
            while words and hasattr(command, "commands"):  # a group by itself is a name, no call
                command = command.commands[words.pop(0)]
            context = command.context_class(command)
            _, left, _ = command.make_parser(context).parse_args([word for word in words if word != "\\"])
        except Exception as error:
            left = [repr(error)]
        if left:
            refused.append(f"{name_of(path)}: {line}: {left}")
    assert not refused


def test_targets_of_make_exist() -> None:
    rules = re.findall(r"^([a-z][a-z0-9. -]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    shown = re.compile(r"(?:^|`)make ([a-z][a-z0-9.-]*)", re.MULTILINE)
    named = {target for path in LIVING for target in shown.findall(path.read_text(encoding="utf-8"))}
    assert {"test", "test-slow", "quickstart"} <= named <= targets
