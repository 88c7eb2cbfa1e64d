"""An outside figure reproduced: recorded outputs of a public repository, scored again to the number it published.

    python benchmarks/rescored.py FOLDER --data-dir HUMANEVAL --out RESULTS

FOLDER holds two files of github.com/my-other-github-account/llm-humaneval-benchmarks, folder `jsonl_examples`, as they
are: `gpt4_final_500c_long.jsonl` and `gpt3_final_500c_long.jsonl`. Its notebook `2_Parse_Results.ipynb` says what
evalplus made of them in 2023 (`total_base_success_count`). HUMANEVAL holds `HumanEval.jsonl.gz` of
github.com/openai/human-eval. Nothing of all that is part of this project. Every program runs in the sandbox.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from sod.front.scoring import Wanted, score
from sod.records import SodError

PROBLEMS = 164
STYLES = ("programs", "official", "lm-eval", "lm-eval-strict", "sod")
RECORDED = {
    "gpt4_final_500c_long.jsonl": ("bc9640f5c24a13bda8df49aace2b6134dacb9e91", 140),
    "gpt3_final_500c_long.jsonl": ("fb996dedd774b7999970b5f6397154818a0c3676", 113),
}
"""By file git's name for the content that was scored here, and how many of its programs were published as right."""
KEYED, PLAIN_KEY, STORED_KEY = "HumanEval/95", '5:"banana"', '"5":"banana"'
"""The problem with an input that JSON cannot hold, a mapping with a number as its key, and how JSON has it."""


def blob_name(path: Path) -> str:
    """What git calls a file with this content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def tell_others(folder: Path) -> None:
    """Say so where a file is not the one that was scored here. Raises SodError where it is missing."""
    for name, (expected, _) in RECORDED.items():
        if not (folder / name).is_file():
            raise SodError(f"{folder / name}: no such file; get it from the repository that this script names")
        if blob_name(folder / name) != expected:
            print(
                f"note: {folder / name} is not the file that docs/results/2026-11-27-rescored.md is about", flush=True
            )


def as_json_stores_it(data_dir: Path, target: Path) -> Path:
    """The benchmark as evalplus keeps it, in JSON: a number that is a key becomes a text."""
    with gzip.open(data_dir / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    for row in rows:
        if row["task_id"] == KEYED:
            row["test"] = row["test"].replace(PLAIN_KEY, STORED_KEY)
    path = target / "humaneval" / "HumanEval.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path.parent


def right_of(outputs: Path, style: str, data_dir: Path, to: Path) -> dict[str, str | None]:
    """By problem None where its program is right, and else what was said of it."""
    wanted = Wanted(str(outputs), "humaneval", style, data_dir, to=to)
    result = score(wanted, lambda _: None).result
    return {one.task_id: None if one.correct else one.verdict for one in result.trajectories}


def row_of(name: str, style: str, verdicts: dict[str, str | None]) -> dict[str, Any]:
    """A file in a style beside the published number."""
    right, published = sum(said is None for said in verdicts.values()), RECORDED[name][1]
    return {
        "file": name,
        "style": style,
        "right": right,
        "published": published,
        "share": round(100 * right / PROBLEMS, 2),
        "published_share": round(100 * published / PROBLEMS, 2),
        "wrong": {problem: said for problem, said in verdicts.items() if said is not None},
    }


def main() -> None:
    """Score both files in every style, and once more on the benchmark as JSON stores it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    tell_others(asked.folder)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        ways = [(style, style, asked.data_dir) for style in STYLES]
        ways.append(("programs-json", "programs", as_json_stores_it(asked.data_dir, Path(scratch))))
        for name, (label, style, data_dir) in itertools.product(RECORDED, ways):
            verdicts = right_of(asked.folder / name, style, data_dir, asked.out / f"{Path(name).stem}-{label}")
            row = row_of(name, label, verdicts)
            rows.append(row)
            print(f"{name} {label}: {row['right']} of {PROBLEMS}, published {row['published']}", flush=True)
    (asked.out / "rescored.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
