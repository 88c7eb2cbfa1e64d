"""The benchmark that scores published outputs again: what it changes of the problems, and what it makes of verdicts."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import rescored
from sod.records import SodError


def test_only_the_mapping_with_a_number_as_its_key_changes(tmp_path: Path) -> None:
    test = 'assert candidate({"p":"pineapple", 5:"banana"}) == False'
    rows = [{"task_id": f"HumanEval/{n}", "test": test} for n in (94, 95)]
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(packed)
    stored = rescored.as_json_stores_it(tmp_path, tmp_path)
    first, second = (json.loads(line)["test"] for line in (stored / "HumanEval.jsonl").read_text().splitlines())
    assert first == test
    assert second == test.replace("5:", '"5":')


def test_a_file_that_is_not_there_and_one_that_is_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SodError, match=r"gpt4_final_500c_long\.jsonl: no such file; get it from"):
        rescored.tell_others(tmp_path)
    for name in rescored.RECORDED:
        (tmp_path / name).write_text("{}\n")
    rescored.tell_others(tmp_path)
    assert capsys.readouterr().out.count("is not the file") == 2
    assert rescored.blob_name(tmp_path / name) == "0967ef424bce6791893e9a57bb952f80fd536e93"  # git's


def test_right_beside_what_was_published() -> None:
    verdicts = {f"HumanEval/{n}": None if n else "stopped after 3 s" for n in range(164)}
    row = rescored.row_of("gpt3_final_500c_long.jsonl", "programs", verdicts)
    assert (row["right"], row["published"], row["published_share"]) == (163, 113, 68.9)
    assert row["wrong"] == {"HumanEval/0": "stopped after 3 s"}
