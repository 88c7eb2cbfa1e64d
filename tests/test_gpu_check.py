"""`scripts/gpu_check.sh` where there is no card: its parts run at toy size, and each leaves its figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ["ceilings", "decode", "update", "ranks"]


def gpu_check(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script with this Python, on one thread; its logs are in `out`."""
    env = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(ROOT / "scripts" / "gpu_check.sh"), *words]
    return subprocess.run(command, env=env, cwd=out, capture_output=True, text=True, check=False)


def last_line(log: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return found


@pytest.mark.slow
def test_every_part_leaves_its_figures(tmp_path: Path) -> None:
    """All but the tests that need a card. A figure that could not be had would be a text that says why."""
    done = gpu_check(tmp_path, "--tiny", *PARTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all parts done: ceilings decode update ranks\n")
    ceilings = (tmp_path / "ceilings.log").read_text()
    for name in ("copy, GB/s", "bfloat16 product, TFLOP/s", "float32 product, TFLOP/s"):
        assert re.search(rf"^{name} +[0-9.]+$", ceilings, re.MULTILINE), ceilings
    told = last_line(tmp_path / "decode.log")
    rates = {name: value for name, value in told.items() if name not in ("torch", "device", "copy GB/s")}
    assert list(rates) == ["4x32", "2x140", "6x32", "4x52, of one size"]
    for rate in rates.values():
        assert rate.get("tok/s, admission included", 0) > 0, rate
        assert rate["same tokens twice"]
    told = last_line(tmp_path / "update.log")
    assert told.pop("device") == "cpu"
    assert told.pop("torch")
    assert told.pop("packs") is True
    assert [name for name, value in told.items() if isinstance(value, str)] == []
    assert 0 <= told.pop("ragged, packed against padded")["nats a token"] < 0.1
    assert told.pop("product TFLOP/s") > 0
    both = [f"{rows}, {way}, plain" for rows in ("full", "ragged") for way in ("padded", "packed")]
    assert list(told) == [*both, "long, chosen, recompute", "ragged, packed, recompute"]
    assert min(figure["ms"] for figure in told.values()) > 0
    told = json.loads((tmp_path / "ranks.json").read_text())
    assert told["two ranks on one card"] == "met"  # there is none
    for kind in ("float32", "float32, dense", "bfloat16", "bfloat16, dense, recompute", "bfloat16, adapter"):
        assert told[kind]["weights"] < 1e-3, kind
    for kind in ("float32", "bfloat16"):
        assert max(told[f"{kind}, gone on with"][other] for other in ("sharded", "plain")) < 1e-3, kind


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    """Before anything runs, with the parts that there are."""
    done = gpu_check(tmp_path, "--tiny", "decoding")
    assert done.returncode == 2
    assert done.stderr == "unknown: decoding (parts: ceilings tests decode update ranks; before them --tiny)\n"
    assert list(tmp_path.iterdir()) == []
