"""Checkpoints that were written on another device than the one that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.build.job import tell_other_device
from sod.records import SodError
from sod.training import checkpoint
from sod.training.checkpoint import Position

HASH = "abc"
STATE = {"optimizer": {"moments": torch.arange(5.0), "step": torch.tensor(3.0)}}


def save(directory: Path) -> Path:
    """A checkpoint of step 7."""
    checkpoint.save(directory, Position(7, HASH), STATE, lambda d: (d / "model").write_bytes(b"weights"))
    return directory


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Saves a checkpoint as a process does whose state is on a CUDA device: that is what its file says of it."""

    def saved(directory: Path) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            return save(directory)

    return saved


def test_what_was_written_on_cuda_is_read_where_there_is_none(
    tmp_path: Path, on_cuda: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, and it says where it comes from."""
    directory = on_cuda(tmp_path / "step-000007")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="CUDA"):  # so it does say that it was on such a device
        torch.load(directory / checkpoint.TRAINER, weights_only=True)
    point = checkpoint.load(directory, HASH)
    assert point.device == "cuda"
    for name, value in STATE["optimizer"].items():
        assert point.state["optimizer"][name].device == torch.device("cpu")
        assert torch.equal(point.state["optimizer"][name], value)
    assert checkpoint.load(save(tmp_path / "step-000008"), HASH).device == "cpu"


def test_a_run_that_goes_on_elsewhere_is_told(tmp_path: Path, on_cuda: Callable[[Path], Path]) -> None:
    """In one line with the key that keeps it where it was; on the same kind of device nothing is said."""
    there = checkpoint.load(on_cuda(tmp_path / "step-000007"), HASH)
    here = checkpoint.load(save(tmp_path / "step-000008"), HASH)
    told: list[str] = []
    tell_other_device(None, torch.device("cpu"), told.append)
    tell_other_device(here, torch.device("cpu"), told.append)
    tell_other_device(there, torch.device("cuda", 1), told.append)
    assert told == []
    tell_other_device(there, torch.device("cpu"), told.append)
    tell_other_device(here, torch.device("cuda", 0), told.append)
    assert "written on cuda, and the run goes on on cpu" in told[0]
    assert "student.device=cuda" in told[0]
    assert "student.device=cpu" in told[1]
    assert all("\n" not in text for text in told)


RNG = torch.arange(16, dtype=torch.uint8)


def test_random_states_of_cuda_devices_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the devices that are there; nothing is asked of CUDA where it was not in use."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        patch.setattr(torch.cuda, "get_rng_state_all", lambda: [RNG, RNG + 1, RNG + 2])
        save(tmp_path / "step-000007")
    restored: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, number: restored.__setitem__(number, state))
    checkpoint.load(tmp_path / "step-000007", HASH)
    assert restored.keys() == {0, 1}
    assert torch.equal(restored[1], RNG + 1)
    restored.clear()
    checkpoint.load(save(tmp_path / "step-000008"), HASH)
    assert restored == {}


@pytest.mark.parametrize("made_up", ["text", [RNG.float()], [RNG[:8]], [None], {"0": RNG}, RNG])
def test_random_states_that_are_none_are_refused(tmp_path: Path, made_up: Any) -> None:
    """In one line."""
    directory = save(tmp_path / "step-000007")
    content = dict(torch.load(directory / checkpoint.TRAINER, weights_only=True))
    torch.save({**content, "cuda_rng": made_up}, directory / checkpoint.TRAINER)
    marker = (directory / checkpoint.COMPLETE).read_text()
    entry = checkpoint._entry(directory / checkpoint.TRAINER)
    sizes = [line for line in marker.splitlines() if '"size"' in line or '"sha256"' in line]
    assert len(sizes) == 4
    for name in ("size", "sha256"):
        old = next(line for line in marker[marker.index(checkpoint.TRAINER) :].splitlines() if f'"{name}"' in line)
        value = entry[name] if name == "size" else f'"{entry[name]}"'
        marker = marker.replace(old, f'   "{name}": {value}' + ("," if old.endswith(",") else ""))
    (directory / checkpoint.COMPLETE).write_text(marker)
    with pytest.raises(SodError, match="cuda_rng is no list of states"):
        checkpoint.load(directory, HASH)
