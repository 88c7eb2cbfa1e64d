"""Data files of strangers: what would take the machine's memory ends in one line; each under a limit of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sod.records import SodError
from sod.tasks import tables
from sod.tasks.files import load_tasks

# A failure must not take the machine down: 5 GB of memory, 60 seconds of CPU time.
CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from sod.records import SodError
from sod.tasks.files import load_tasks
try:
    print("loaded", len(load_tasks(sys.argv[1]).items))
except SodError as error:
    print(error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
REWARD = pa.struct([("ground_truth", pa.string())])


def table_of(prompt: Any, count: int) -> pa.Table:
    """`count` tasks with these prompts."""
    return pa.table({"prompt": prompt, "reward_model": pa.array([{"ground_truth": "1"}] * count, REWARD)})


def one_long_string(path: Path) -> None:
    """A quarter of a gigabyte of the same letter."""
    pq.write_table(table_of(pa.array(["x" * (1 << 28)], pa.large_string()), 1), path, compression="zstd")


def repeated_strings(path: Path) -> None:
    """A megabyte in a dictionary, named by thirty thousand rows."""
    prompt = pa.DictionaryArray.from_arrays(pa.array([0] * 30_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    pq.write_table(table_of(prompt, 30_000), path, compression="zstd", store_schema=False)


def long_lists(path: Path) -> None:
    """A list of twenty million empty messages."""
    count = 20_000_000
    messages = pa.StructArray.from_arrays([pa.nulls(count, pa.string())], ["role"])
    prompt = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), messages)
    pq.write_table(table_of(prompt, 1), path, compression="zstd")


def many_rows(path: Path) -> None:
    """Ten million rows of nothing."""
    nothing = pa.nulls(10_000_000, pa.string())
    pq.write_table(pa.table({"prompt": nothing, "reward_model": nothing}), path, compression="zstd")


def json_lists(path: Path) -> None:
    """A line of a hundred megabytes of empty lists."""
    path.write_text('{"prompt": [' + "[]," * 25_000_000 + "[]]}\n")


BOMBS: dict[str, Callable[[Path], None]] = {
    "long.parquet": one_long_string,
    "repeated.parquet": repeated_strings,
    "lists.parquet": long_lists,
    "rows.parquet": many_rows,
    "lists.jsonl": json_lists,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_data_bomb_is_one_line(name: str, tmp_path: Path) -> None:
    """In bounded memory: what is read before it is seen for what it is takes less than 3 GB."""
    path = tmp_path / name
    BOMBS[name](path)
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True)
    path.unlink()
    said, peak = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-500:]
    assert said.startswith(f"{path}: ")
    assert int(peak) < 3 * 1024**2  # kB


@pytest.mark.parametrize(("levels", "said"), [(40, "deeper than 32 levels"), (200, "too deeply nested")])
def test_deep_types_are_refused(levels: int, said: str, tmp_path: Path) -> None:
    kind: Any = pa.string()
    for _ in range(levels):
        kind = pa.struct([("a", kind)])
    pq.write_table(pa.table({"prompt": pa.nulls(2, kind), "reward_model": pa.nulls(2, REWARD)}), tmp_path / "a.parquet")
    with pytest.raises(SodError, match=f"^{tmp_path}/a.parquet: .*{said}"):
        load_tasks(str(tmp_path / "a.parquet"))


def test_an_ordinary_file_reads_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several batches, with nested columns, in order; and the same is refused where it takes more than allowed."""
    count = 3 * tables.ROWS + 1
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}?"}], "reward_model": {"ground_truth": str(n)}}
        for n in range(count)
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [task.ground_truth for task in load_tasks(str(path)).items] == [str(n) for n in range(count)]
    monkeypatch.setattr(tables, "most_bytes", lambda path: 50_000)
    with pytest.raises(SodError, match="rows take more than"):
        load_tasks(str(path))


def test_a_line_nested_too_deep_is_skipped(tmp_path: Path) -> None:
    """It ends its own row, no other."""
    good = {"prompt": "How many?", "reward_model": {"ground_truth": "2"}}
    deep = '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n" + deep + "\n")
    loaded = load_tasks(str(tmp_path / "a.jsonl"))
    assert (len(loaded.items), [skip.row for skip in loaded.skipped]) == (1, [1])


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.csv.gz"])
def test_a_broken_compressed_file_is_one_line(name: str, tmp_path: Path) -> None:
    for content in (b"(\xb5/\xfd", b"\x1f\x8b\x08", b"plain text"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SodError, match=f"^{tmp_path}/{name}: .*(not readable|no rows)"):
            load_tasks(str(tmp_path / name))
