"""Rows of our own in the shapes of the published benchmarks and their mirrors."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MAXWELL_JIA = {"ID": "2024-II-4", "Problem": "How many sheep?", "Solution": "We count 204.", "Answer": 204}
H4_AIME = {
    "id": 60,
    "problem": "How many sheep?",
    "solution": "We count.",
    "answer": "204",
    "url": "https://example.org/2024_AIME_I_Problem_1",
    "year": "2024",
}
RETOOL = {"input": "How many sheep?", "output": "204"}
MATH_AI = {"problem": "How many goats?", "answer": "070", "id": "0"}
YENTINGLIN = {
    "id": "0",
    "problem": "How many goats?",
    "answer": "070",
    "solution": "",
    "url": "https://example.org/2025_AIME_I_Problem_1",
    "year": 2025,
}
OPENCOMPASS = {"question": "How many goats?", "answer": "070"}
MATH_500 = {
    "problem": "Halve $x$.",
    "solution": r"It is $\boxed{\frac{x}{2}}$.",
    "answer": r"\frac{x}{2}",
    "subject": "Algebra",
    "level": 2,
    "unique_id": "test/algebra/1.json",
}
GSM8K = {"question": "Three hens and two more?", "answer": "3+2 = <<3+2=5>>5 hens\n#### 1,005"}
GPQA = {
    "Question": "Which is blue? ",
    "Correct Answer": "the sky\n",
    "Incorrect Answer 1": "grass",
    "Incorrect Answer 2": "snow",
    "Incorrect Answer 3": "coal",
    "Explanation": "Look up.",
    "Pre-Revision Question": "Blue?",
    "Writer's Difficulty Estimate": "Easy undergraduate level (or easier)",
    "High-level domain": "Physics",
    "Record ID": "rec7",
}
GPQA_LISTED = {"question": "Which is blue?", "choices": ["grass", "the sky", "snow", "coal"], "answer": "B"}


def packed(cases: Sequence[Row]) -> str:
    """Private tests as LiveCodeBench packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(list(cases))))).decode()


LIVECODEBENCH = {
    "question_title": "Doubling",
    "question_content": "Print twice the number.",
    "platform": "atcoder",
    "question_id": "abc001_a",
    "contest_id": "abc001",
    "contest_date": "2025-01-04T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "3\n", "output": "6\n", "testtype": "stdin"}]),
    "metadata": "{}",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def twice(n):\n    """Twice n."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "def twice(n):\n    return 2 * n",
    "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": ["assert twice(1e9) == 2e9"],
}
MBPP_SANITIZED = {
    "task_id": 12,
    "prompt": "Write a function to double a number.",
    "code": "def twice(n):\n    return 2 * n",
    "test_list": ["assert twice(2) == 4"],
    "test_imports": [],
}
MBPP_PLUS = {
    "task_id": "Mbpp/2",
    "prompt": "Write a function to double a number.",
    "code": "def twice(n):\n    return 2 * n",
    "test_list": ["assert twice(2) == 4"],
    "test": "assert twice(2) == 4\nassert twice(-3) == -6\n",
}


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """A file of these rows, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".csv":
        path.write_text(_csv(rows), encoding="utf-8", newline="")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text(text, encoding="utf-8")
    return path


def _csv(rows: Sequence[Row]) -> str:
    import csv
    import io

    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
