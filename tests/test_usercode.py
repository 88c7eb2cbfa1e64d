"""The user's own code by import path, and what is said where a part of the path is wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sod import usercode
from sod.records import SodError
from sod.usercode import load, source_hash

SOURCE = """\
from __future__ import annotations
from dataclasses import dataclass

import beside_the_tool

@dataclass
class Kept:
    value: int = beside_the_tool.VALUE

def search(query: str) -> str:
    return query
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "beside_the_tool.py").write_text("VALUE = 7\n")
    (tmp_path / "own_tools_of_a_test.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("x = 1\ny = undefined_name\n")
    (tmp_path / "needs.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    return tmp_path


def test_a_file_is_found_from_the_folder_and_imports_what_stands_beside_it(folder: Path) -> None:
    assert load("./own_tools_of_a_test.py:search", folder)("word") == "word"
    assert load(f"{folder}/own_tools_of_a_test.py:Kept", Path("/"))().value == 7


def test_a_file_is_run_once_however_it_is_named(folder: Path) -> None:
    one = load("own_tools_of_a_test.py:Kept", folder)
    assert load(f"{folder}/../{folder.name}/own_tools_of_a_test.py:Kept", Path("/")) is one


def test_a_module_is_found_on_the_path_and_in_the_folder(folder: Path) -> None:
    assert load("json.decoder:JSONDecoder.decode", folder).__name__ == "decode"
    assert load("own_tools_of_a_test:search", folder)("word") == "word"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("own_tools.search", "is not an import path; write module:name or ./file.py:name"),
        ("./own_tools_of_a_test.py:", "is not an import path"),
        (":search", "is not an import path"),
        ("./absent.py:search", r"there is no file .*/absent\.py; a recipe's are looked for from its own folder"),
        ("./own_tools_of_a_test.py:serch", r"own_tools_of_a_test\.py has no 'serch'; did you mean 'search'\?"),
        ("json:zzzzzz", r"has no 'zzzzzz'; check the name after the colon"),
        ("absent_module.inner:search", r"there is no module 'absent_module' on Python's path.*\./absent_module\.py:"),
        ("json.absent:search", r"there is no module 'json\.absent'"),
        ("./broken.py:search", r"importing broken\.py failed: NameError: .*undefined_name.*, broken\.py line 2"),
        ("broken:search", r"importing broken failed: NameError: .*, broken\.py line 2"),
        ("needs:search", "importing needs failed: ModuleNotFoundError: No module named 'a_package_nobody_has'"),
        ("./leaves.py:search", r"importing leaves\.py failed: SystemExit: 3"),
    ],
)
def test_what_is_wrong_with_a_path_is_said_in_one_line(folder: Path, path: str, said: str) -> None:
    with pytest.raises(SodError) as caught:
        load(path, folder, "tools.search.call")
    line = str(caught.value)
    assert line.startswith(f"tools.search.call={path!r}: ")
    assert "\n" not in line
    assert re.search(said, line), line


def test_a_file_that_failed_is_run_again_once_it_is_mended(folder: Path) -> None:
    with pytest.raises(SodError):
        load("./broken.py:x", folder)
    (folder / "broken.py").write_text("x = 'mended now'\n")
    assert load("./broken.py:x", folder) == "mended now"


def test_the_hash_is_that_of_the_source(folder: Path) -> None:
    search, kept = (load(f"./own_tools_of_a_test.py:{name}", folder) for name in ("search", "Kept"))
    assert len({source_hash(search), source_hash(kept), source_hash(print)}) == 3
    assert source_hash(kept()) == source_hash(kept)
    assert re.fullmatch("[0-9a-f]{64}", source_hash(search))
    (folder / "changed.py").write_text(SOURCE.replace("return query", "return query.upper()"))
    (folder / "moved.py").write_text(SOURCE)
    assert source_hash(load("./changed.py:search", folder)) != source_hash(search)
    assert source_hash(load("./moved.py:search", folder)) == source_hash(search)
    assert usercode.name_of(kept()).endswith(":Kept")
