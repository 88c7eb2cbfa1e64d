"""What a data key may name: files of every kind, packed or not, folders, globs, lists, sets of the Hub."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sod.records import SodError
from sod.tasks import sources, tables
from sod.tasks.files import load_conversations, load_tasks
from sod.tasks.loaded import SkippedRow
from sod.tasks.sources import HubSource, hub_source, ignores_split

ROWS = [{"prompt": f"{n}+2?\u2028\x85\n", "answer": f"0{n}"} for n in range(3)]
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def truths(source: Any, split: str = "train") -> list[str]:
    return [task.ground_truth for task in load_tasks(source, split).items]


def lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


LAYOUTS: dict[str, tuple[str, str]] = {
    "lines": ("a.jsonl", lines(ROWS)),
    "lines in .json": ("a.json", lines(ROWS)),
    "ndjson": ("a.ndjson", lines(ROWS)),
    "a list": ("a.json", json.dumps(ROWS)),
    "an indented list": ("a.json", json.dumps(ROWS, indent=2)),
    "an indented list in .jsonl": ("a.jsonl", json.dumps(ROWS, indent=2)),
    "a list on a line of .jsonl": ("a.jsonl", json.dumps(ROWS)),
    "indented objects one after another": ("a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "with commas between": ("a.json", ",\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "indented in .jsonl": ("a.jsonl", "\n\n".join(json.dumps(row, indent=1) for row in ROWS)),
    "wrapped": ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=2)),
    "wrapped on one line": ("a.json", json.dumps({"data": ROWS})),
    "wrapped as examples": ("a.json", json.dumps({"examples": ROWS})),
    "by split": ("a.json", json.dumps({"test": ROWS[:1], "train": ROWS})),
    "by id": ("a.json", json.dumps({f"k{n}": row for n, row in enumerate(ROWS)}, indent=2)),
    "with a byte order mark": ("a.json", "\ufeff" + json.dumps(ROWS)),
    "csv": ("a.csv", "prompt,answer,note\r\n" + "".join(f'"{n}, ""or""\n",0{n},\r\n' for n in range(3))),
    "tsv": ("a.tsv", "prompt\tanswer\n" + "".join(f"{n}\t0{n}\n" for n in range(3))),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_files(name: str, tmp_path: Path) -> None:
    """Each gives the same three rows, with their texts as they are."""
    file, text = LAYOUTS[name]
    (tmp_path / file).write_bytes(text.encode())
    loaded = load_tasks(str(tmp_path / file))
    assert ([task.ground_truth for task in loaded.items], loaded.skipped) == (["00", "01", "02"], [])
    if "sv" not in name:
        assert [task.prompt[0].content for task in loaded.items] == [row["prompt"] for row in ROWS]


def gz(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]))


def zst(path: Path, data: bytes) -> None:
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
        stream.write(data)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gz), (".zst", zst)])
@pytest.mark.parametrize("name", ["lines", "an indented list", "csv"])
def test_packed_files(name: str, suffix: str, pack: Callable[[Path, bytes], None], tmp_path: Path) -> None:
    file, text = LAYOUTS[name]
    pack(tmp_path / f"{file}{suffix}", text.encode())
    tasks = load_tasks(str(tmp_path / f"{file}{suffix}")).items
    assert [task.ground_truth for task in tasks] == ["00", "01", "02"]
    assert tasks[0].id == "a-0"


def test_one_object_may_be_a_row(tmp_path: Path) -> None:
    for row in ({"messages": MESSAGES}, MESSAGES):
        (tmp_path / "a.json").write_text(json.dumps(row, indent=2))
        assert len(load_conversations(str(tmp_path / "a.json")).items) == 1
    (tmp_path / "b.json").write_text(json.dumps({**ROWS[0], "examples": [{"x": 1}]}, indent=2))
    assert truths(str(tmp_path / "b.json")) == ["00"]


def test_reading_goes_on_behind_what_is_no_json(tmp_path: Path) -> None:
    broken = "\n".join([json.dumps(ROWS[0], indent=2), '{\n  "prompt": oops\n}', json.dumps(ROWS[1], indent=2)])
    (tmp_path / "a.json").write_text(broken)
    loaded = load_tasks(str(tmp_path / "a.json"))
    assert [task.ground_truth for task in loaded.items] == ["00", "01"]
    assert loaded.skipped == [SkippedRow(1, "what begins on line 5 is not a JSON object")]


def test_a_line_of_a_table_with_more_cells_than_columns_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,answer\nx,1\nx,2,3\nx,4\n")
    loaded = load_tasks(str(tmp_path / "a.csv"))
    assert loaded.skipped == [SkippedRow(1, "it has more cells than there are columns")]
    (tmp_path / "b.csv").write_text('prompt,answer\n"x,1\n')
    with pytest.raises(SodError, match=r"b\.csv: not readable as a table of text \(line \d: "):
        load_tasks(str(tmp_path / "b.csv"))


# Several files


def two_files(folder: Path) -> tuple[Path, Path]:
    first, second = folder / "a.jsonl", folder / "b.parquet"
    first.write_text(lines([ROWS[0], {"prompt": ""}, {**ROWS[1], "id": "x"}]))
    pq.write_table(pa.Table.from_pylist([{**ROWS[2], "id": "x"}, {"prompt": "?", "answer": None, "id": "y"}]), second)
    return first, second


def test_a_list_of_files_has_ids_of_its_own_and_names_rows_with_their_file(tmp_path: Path) -> None:
    first, second = two_files(tmp_path)
    loaded = load_tasks([str(first), str(second), str(first)])
    assert [task.id for task in loaded.items] == ["a-0", "x", "x-0", "a-0-0", "x-2"]
    assert len(set(loaded.rows)) == 5
    assert [str(row) for row in loaded.rows[1:3]] == [f"2 of {first}", "0 of b.parquet"]
    said = "5 rows, 3 skipped: row 1 of a.jsonl: no ground truth; row 1 of b.parquet: no ground truth"
    assert loaded.summary().replace(f"{tmp_path}/", "").startswith(said)


def test_globs_and_folders_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(lines([{"prompt": name, "answer": name}]))
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert truths(f"{tmp_path}/[ab].jsonl") == ["a", "b"]
    assert truths(f"{tmp_path}/**/*.jsonl") == ["a", "b", "c"]
    assert truths(str(tmp_path)) == ["a", "b", "c"]
    assert truths([f"{tmp_path}/c.jsonl", f"{tmp_path}/a*"]) == ["c", "a"]
    with pytest.raises(SodError, match=r"z\*\.jsonl: no file matches$"):
        load_tasks([str(tmp_path / "a.jsonl"), f"{tmp_path}/z*.jsonl"])


def test_a_folder_as_the_hub_lays_it_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, truth in (("train-00001-of-00002", "2"), ("train-00000-of-00002", "1"), ("test-00000-of-00001", "3")):
        rows = pa.Table.from_pylist([{"prompt": "?", "answer": truth}])
        pq.write_table(rows, tmp_path / "data" / f"{name}.parquet")
    assert truths(str(tmp_path)) == ["1", "2"]
    assert truths(str(tmp_path), "test") == ["3"]
    with pytest.raises(SodError, match=r"no file of split 'validation', there are test, train; set data\.split"):
        load_tasks(str(tmp_path), "validation")


def test_a_source_that_fails_among_several_is_named(tmp_path: Path) -> None:
    first, _ = two_files(tmp_path)
    for other, said in (("no.jsonl", "no such data file"), ("a.txt", "unknown suffix")):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(SodError, match=f"^{tmp_path}/{other}: {said}"):
            load_tasks([str(first), str(tmp_path / other)])
    (tmp_path / "w.jsonl").write_text('{"q": "x", "a": "y"}\n')
    with pytest.raises(SodError, match=f"^{tmp_path}/w.jsonl: its rows are of no known shape"):
        load_tasks([str(first), str(tmp_path / "w.jsonl")])
    with pytest.raises(SodError, match="the list is empty"):
        load_tasks([])


def test_columns_that_one_of_several_files_has(tmp_path: Path) -> None:
    """Files of another form beside it are read as they are."""
    first, _ = two_files(tmp_path)
    (tmp_path / "w.jsonl").write_text('{"q": "x", "a": "y"}\n')
    loaded = load_tasks([str(first), str(tmp_path / "w.jsonl")], columns={"prompt": "q", "ground_truth": "a"})
    assert [task.ground_truth for task in loaded.items] == ["00", "01", "y"]


# The Hub


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("openai/gsm8k", HubSource("openai/gsm8k")),
        ("openai/gsm8k:main", HubSource("openai/gsm8k", "main")),
        ("openai/gsm8k@test", HubSource("openai/gsm8k", None, "test")),
        ("openai/gsm8k:main@test", HubSource("openai/gsm8k", "main", "test")),
        ("Gen-Verse/Open-AgentRL-30K@train[:100]", HubSource("Gen-Verse/Open-AgentRL-30K", None, "train[:100]")),
        ("owner/name-v1.1", HubSource("owner/name-v1.1")),
        ("data/train.jsonl", None),
        ("data/train.jsonl@test", None),
        ("data/*", None),
        ("a/b/c:d", None),
        ("here/x", None),
    ],
)
def test_a_data_set_of_the_hub_by_one_text(
    source: str, found: HubSource | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub_source(source) == found


def test_sets_of_the_hub_are_read_by_configuration_and_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows in the shapes of the paper's sets, mixed with a file; only the client, which needs a network, is ours."""
    reached = {
        ("Gen-Verse/Open-AgentRL-30K", None, "train"): [
            {
                "data_source": "math_dapo",
                "prompt": [{"role": "user", "content": "2+2?", "name": None}],
                "ability": "MATH",
                "reward_model": {"ground_truth": "4", "style": "rule-lighteval/MATH_v2"},
                "extra_info": {"index": "9a-1"},
            }
        ],
        ("openai/gsm8k", "main", "test"): [{"question": "2+3?", "answer": "Add.\n#### 5"}],
        ("Maxwell-Jia/AIME_2024", None, "train"): [{"ID": "I-1", "Problem": "2+4?", "Solution": "Add.", "Answer": 6}],
    }

    def load_dataset(path: str, *, split: str, trust_remote_code: bool, name: str | None = None) -> Any:
        assert trust_remote_code is False
        return reached[path, name, split]

    client = ModuleType("datasets")
    client.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", client)
    monkeypatch.setattr(sources, "why_unreachable", lambda: None)
    file = tmp_path / "a.jsonl"
    file.write_text(lines(ROWS[:1]))
    names = ["Gen-Verse/Open-AgentRL-30K", "openai/gsm8k:main@test", "Maxwell-Jia/AIME_2024", str(file)]
    loaded = load_tasks(names)
    assert [(task.id, task.ground_truth) for task in loaded.items] == [
        ("9a-1", "4"),
        ("gsm8k-0", "Add.\n#### 5"),
        ("I-1", "6"),
        ("a-0", "00"),
    ]
    assert str(loaded.rows[1]) == "0 of gsm8k:main@test"
    assert dict(loaded.unused) == {"ability": 1}
    with pytest.raises(
        SodError, match=r"cannot load split 'dev' from the Hub .*; openai/gsm8k:CONFIG@SPLIT names another"
    ):
        load_tasks("openai/gsm8k:main@dev")


def test_which_sources_have_splits(tmp_path: Path) -> None:
    assert not ignores_split("owner/name")
    assert not ignores_split(str(tmp_path))
    assert not ignores_split("a.json.gz")
    assert ignores_split("a.parquet")
    assert ignores_split("a.jsonl")


# Files of strangers


def test_a_packed_bomb_is_refused_by_what_it_unpacks_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FLOOR", 1 << 20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b" " * (64 << 20)))
    with pytest.raises(SodError, match=r"a\.jsonl\.gz: not readable as JSON \(unpacks to more than 7 MiB"):
        load_tasks(str(tmp_path / "a.jsonl.gz"))


BOUNDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
from sod.records import SodError
from sod.tasks.files import load_tasks
try:
    print("loaded", len(load_tasks(sys.argv[1]).items))
except SodError as error:
    print(error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst", "a.csv"])
def test_a_bomb_is_one_line_in_bounded_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(b"[" * (1 << 29), compresslevel=1))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
            for _ in range(2048):
                stream.write(b" " * (1 << 20))
    else:  # a hundred thousand columns, and as many rows with nothing in them
        path.write_bytes(b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + b"x\n" * 100_000)
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    said, peak = done.stdout.splitlines()
    assert said.startswith(f"{path}: ")
    assert int(peak) < 3 * 1024**2  # kB


text = st.text(alphabet='{}[],:"\n\\ a1é\ufeff', max_size=40)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text | st.lists(st.sampled_from([json.dumps(ROWS[0]), json.dumps(ROWS[1], indent=1)]) | text).map("\n".join))
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_any_text_is_rows_or_one_line(name: str, tmp_path: Path, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    try:
        said = load_tasks(str(tmp_path / name)).summary()
    except SodError as error:
        said = str(error)
    assert said
    assert "\n" not in said


def test_no_device_or_pipe_is_read_for_a_file(tmp_path: Path) -> None:
    """A glob over them would wait for ever."""
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(SodError, match="no file matches"):
        load_tasks(f"{tmp_path}/*.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv"])
def test_a_pointer_of_git_lfs_is_told_from_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    with pytest.raises(SodError, match="is a pointer of Git LFS, not the data; run `git lfs pull`"):
        load_tasks(str(path))
