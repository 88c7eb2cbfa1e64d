"""`sod models merge` on what torch itself has sharded, in two processes, and on runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from commands import ROOT
from sod.chat.render import Chat
from sod.models.load import load_tokenizer, save_model

SCRIPT = ROOT / "tests" / "models" / "verl_shards.py"
OLD_RUN = ROOT / "tests" / "data" / "format2-run" / "run"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(directory, dtype="auto").state_dict())


@pytest.mark.slow
def test_what_torch_has_sharded_merges_to_the_same_weights(
    tmp_path: Path, random_model: Callable[..., Any], chat: Chat, sod: Any
) -> None:
    """FSDP2, FSDP1 with a device mesh and without, and a distributed checkpoint, written by a script."""
    whole, places = tmp_path / "whole", tmp_path / "global_step_1"
    save_model(random_model(seed=6), chat.tokenizer, chat.template, chat.end_id, whole)
    command = [sys.executable, SCRIPT, whole, places, free_port()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    expected = weights_of(whole)
    for place in sorted(places.iterdir()):
        out = tmp_path / f"merged-{place.name}"
        ended = sod("models", "merge", place, "--out", out)
        assert ended.code == 0, ended.err
        merged = weights_of(out)
        assert merged.keys() == expected.keys()
        assert [name for name in merged if not torch.equal(merged[name], expected[name])] == [], place.name
        assert load_tokenizer(str(out)).chat_template == chat.template
    assert len(list(tmp_path.glob("merged-*"))) == 4


def test_the_checkpoint_of_a_run_that_trains_all_weights_is_copied(tmp_path: Path, sod: Any) -> None:
    """Also of a format in which the trainer's state lay among the model's files."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(OLD_RUN, run)
    ended = sod("models", "merge", run, "--out", out)
    assert ended.code == 0, ended.err
    newest = run / "checkpoints" / "step-000002"
    names = {path.name for path in newest.iterdir()} - {"trainer.pt", "COMPLETE.json"}
    assert {path.name for path in out.iterdir()} == names
    assert "model.safetensors" in names
    assert all((out / name).read_bytes() == (newest / name).read_bytes() for name in names)
    halved = sod("models", "merge", newest, "--out", tmp_path / "halved", "--dtype", "bfloat16")
    assert halved.code == 0, halved.err
    ours, theirs = weights_of(tmp_path / "halved"), weights_of(out)
    assert all(torch.equal(ours[name], theirs[name].bfloat16()) for name in theirs)


def test_what_holds_nothing_to_merge_is_told_in_one_line(tmp_path: Path, sod: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "verl" / "global_step_7").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for asked, told in (
        ("empty", "neither a run, a checkpoint or an adapter, nor shards"),
        ("verl", "name the one to merge, e.g."),
        ("gone", "no such run or directory"),
        ("file", "no such run or directory"),
    ):
        ended = sod("models", "merge", tmp_path / asked, "--out", tmp_path / "out")
        assert ended.code == 1
        assert told in " ".join(ended.err.split())
        assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
