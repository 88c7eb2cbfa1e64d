"""The benchmarks that there are, by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from sod.evaluation.benchmarks.aime24 import AIME24
from sod.evaluation.benchmarks.aime25 import AIME25
from sod.evaluation.benchmarks.base import Benchmark
from sod.evaluation.benchmarks.gpqa_diamond import GPQA_DIAMOND
from sod.evaluation.benchmarks.gsm8k import GSM8K
from sod.evaluation.benchmarks.humaneval import HUMANEVAL
from sod.evaluation.benchmarks.livecodebench_v6 import LIVECODEBENCH_V6
from sod.evaluation.benchmarks.math500 import MATH500
from sod.evaluation.benchmarks.mbpp import MBPP
from sod.records import SodError

_ALL = (AIME24, AIME25, GPQA_DIAMOND, LIVECODEBENCH_V6, MATH500, GSM8K, HUMANEVAL, MBPP)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def benchmarks_named(text: str) -> list[Benchmark]:
    """The benchmarks of a list with commas, in order, each once. Raises SodError for one that there is not."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise SodError(f"--benchmark names none; there are {', '.join(BENCHMARKS)}")
    return [_named(name) for name in names]


def _named(name: str) -> Benchmark:
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    begun = [known for known in BENCHMARKS if _plain(known).startswith(_plain(name))]  # `aime` may be either
    near = get_close_matches(_plain(name), [_plain(known) for known in BENCHMARKS], n=1, cutoff=0.5)
    meant = begun or [known for known in BENCHMARKS if _plain(known) in near]
    raise SodError(f"--benchmark {name}: {_did_you_mean(meant)}there are {', '.join(BENCHMARKS)}")


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}? " if names else ""


def _plain(name: str) -> str:
    """A name as people write it: `AIME-2024`, `GPQA`, `LiveCodeBench`."""
    return name.lower().replace("_", "").replace("-", "").replace("2024", "24").replace("2025", "25")
