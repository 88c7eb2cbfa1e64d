"""Benchmarks from a hub: its own client against a server of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmark_rows as rows
import pytest
from benchmark_rows import write_rows
from dataset_hub import REVISION, dataset_hub
from huggingface_hub import constants

from sod.evaluation.benchmarks.catalogue import BENCHMARKS
from sod.evaluation.benchmarks.loading import load_problems
from sod.records import SodError


def read(patch: pytest.MonkeyPatch, home: Path, hub: str, benchmark: str, token: str = "") -> dict[str, Any] | str:
    """What was read of a benchmark, or the line that says why it was not, by a user with this home and token."""
    patch.setattr(constants, "ENDPOINT", hub)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setenv("HF_TOKEN", token)
    try:
        return load_problems(BENCHMARKS[benchmark], None, lambda text: None).about()
    except SodError as error:
        return str(error)


@pytest.mark.slow
def test_published_files_are_fetched_once_and_named_by_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the benchmark's own files; what was fetched serves when the hub is gone."""
    wanted = write_rows(tmp_path / "test.parquet", [rows.GSM8K]).read_bytes()
    files = {"main/test-00000-of-00001.parquet": wanted, "main/train-00000-of-00001.parquet": b"?", "README.md": b"?"}
    with dataset_hub(files) as (hub, asked):
        about = read(monkeypatch, tmp_path, hub, "gsm8k")
    assert isinstance(about, dict), about
    assert about["source"] == "openai/gsm8k"
    assert about["revision"] == REVISION
    assert about["files"] == ["main/test-00000-of-00001.parquet"]
    assert not [path for path in asked if path.endswith(("train-00000-of-00001.parquet", "README.md"))]
    assert read(monkeypatch, tmp_path, hub, "gsm8k") == about
    other = read(monkeypatch, tmp_path, hub, "math500")
    assert isinstance(other, str)
    assert other.startswith("math500: HuggingFaceH4/MATH-500:")
    assert "--data-dir" in other


def test_a_gated_set_says_what_to_accept_and_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"gpqa_diamond.csv": write_rows(tmp_path / "gpqa.csv", [rows.GPQA]).read_bytes()}
    with dataset_hub(files, gated_with="hf_right") as (hub, _):
        without = read(monkeypatch, tmp_path / "a", hub, "gpqa_diamond")
        refused = read(monkeypatch, tmp_path / "b", hub, "gpqa_diamond", "hf_wrong")
        given = read(monkeypatch, tmp_path / "c", hub, "gpqa_diamond", "hf_right")
    for line in (without, refused):
        assert isinstance(line, str)
        assert "\n" not in line
        assert f"accept its conditions at {hub}/datasets/Idavidrein/gpqa" in line
        assert "set HF_TOKEN" in line
    assert "no token is set" in str(without)
    assert "not of an account that did" in str(refused)
    assert isinstance(given, dict), given
    assert given["problems"] == 1
