"""`trainer.pt` and `COMPLETE.json` of a stranger: one line, nothing run, nothing changed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.recipe import OptimSpec
from sod.records import SodError
from sod.teachers.local import LocalTeacher
from sod.training import checkpoint
from sod.training.checkpoint import Position, restore
from sod.training.optim import Optimizer

HASH = "abc"


class Marker:
    """Pickled, it writes a file when it is read back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of step 7."""
    directory = tmp_path / "step-000007"
    state = {"optimizer": {"moments": torch.arange(5.0)}}
    checkpoint.save(directory, Position(7, HASH), state, lambda d: (d / "model").write_bytes(b"weights"))
    return directory


def put(directory: Path, data: bytes) -> None:
    """Replace `trainer.pt`, and its size in the marker."""
    (directory / checkpoint.TRAINER).write_bytes(data)
    marker = json.loads((directory / checkpoint.COMPLETE).read_text())
    marker["files"][checkpoint.TRAINER] = len(data)
    (directory / checkpoint.COMPLETE).write_text(json.dumps(marker))


def put_object(directory: Path, content: Any) -> None:
    """Replace `trainer.pt` by what torch writes of an object."""
    torch.save(content, directory / "scratch")
    data = (directory / "scratch").read_bytes()
    (directory / "scratch").unlink()
    put(directory, data)


def contents(directory: Path) -> dict[str, Any]:
    """What `trainer.pt` holds."""
    return dict(torch.load(directory / checkpoint.TRAINER, weights_only=True))


def refused(directory: Path, *named: str) -> str:
    """Loading ends in one line with the file and the fix, and leaves torch's random state alone."""
    before = torch.get_rng_state()
    with pytest.raises(SodError) as caught:
        checkpoint.load(directory, HASH)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    for name in (str(directory), "name another checkpoint", *named):
        assert name in said, said
    assert torch.equal(torch.get_rng_state(), before)
    return said


def test_pickled_code_does_not_run(saved: Path, tmp_path: Path) -> None:
    """In torch's own archive, and as a plain pickle."""
    mark = tmp_path / "executed"
    put_object(saved, contents(saved) | {"state": Marker(mark)})
    refused(saved, checkpoint.TRAINER)
    put(saved, pickle.dumps(Marker(mark)))
    refused(saved, checkpoint.TRAINER)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data", [b"", b"not a zip", b"PK\3\4" + bytes(100), pickle.dumps({"step": 7}, 2), b"\x80\x02" + b"(" * 100_000]
)
def test_what_is_no_archive(data: bytes, saved: Path) -> None:
    put(saved, data)
    refused(saved, checkpoint.TRAINER)


def test_a_compressed_archive_is_not_unpacked(saved: Path) -> None:
    """It would take a thousand times its size; this program writes none."""
    with zipfile.ZipFile(saved / checkpoint.TRAINER) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved / "scratch", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    data = (saved / "scratch").read_bytes()
    put(saved, data)
    refused(saved, "compressed")


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": "7"},
        {"step": -1},
        {"step": True},
        {"step": 8},
        {"format": "2"},
        {"format": 0},
        {"recipe_hash": 5},
        {"rng": None},
        {"rng": torch.zeros(3)},
        {"rng": torch.zeros(5056, dtype=torch.float32)},
        {"rng": [1, 2]},
        {"state": None},
        {"state": []},
        {"state": {}},
        {"state": {"optimizer": {}, "evil": 1}},
        {"format": 1},
    ],
)
def test_missing_keys_and_wrong_types(change: dict[str, Any], saved: Path) -> None:
    put_object(saved, contents(saved) | change)
    refused(saved)
    put_object(saved, [change])
    refused(saved, checkpoint.TRAINER)


@pytest.mark.parametrize(
    "marker",
    [
        "[" * 100_000,
        '{"step": 7, "files": [1]}',
        '{"step": true, "files": {}}',
        '{"step": -1, "files": {}}',
        '{"step": 7, "files": {"trainer.pt": "9"}}',
        '{"step": 7, "files": {"../../secret": 9}}',
        '{"step": 7, "files": {"/etc/passwd": 9}}',
        json.dumps({"step": 7, "files": {"a\0b": 9}}),
        json.dumps({"step": 7, "files": {"a" * 300: 9}}),
        '{"step": ' + "9" * 5_000 + "}",
    ],
)
def test_a_marker_of_another_shape(marker: str, saved: Path) -> None:
    (saved / checkpoint.COMPLETE).write_text(marker)
    refused(saved, checkpoint.COMPLETE)


# What a failure would take is limited: memory (bytes) and CPU time (seconds).
CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from pathlib import Path
from sod.records import SodError
from sod.training import checkpoint
try:
    checkpoint.load(Path(sys.argv[1]), "abc")
except SodError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_deflated_gigabyte_takes_no_memory(saved: Path) -> None:
    """A gigabyte of zeros in a few megabytes, as torch's reader would unpack them."""
    with (
        zipfile.ZipFile(saved / "scratch", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("trainer/data.pkl", "w", force_zip64=True) as entry,
    ):
        for _ in range(1024):
            entry.write(bytes(1 << 20))
    (saved / "scratch").rename(saved / checkpoint.TRAINER)
    marker = json.loads((saved / checkpoint.COMPLETE).read_text())
    marker["files"][checkpoint.TRAINER] = (saved / checkpoint.TRAINER).stat().st_size
    (saved / checkpoint.COMPLETE).write_text(json.dumps(marker))
    done = subprocess.run([sys.executable, "-c", CHILD, str(saved)], capture_output=True, text=True)
    assert "it is compressed" in done.stdout, done.stderr[-500:]


class TestStateOfAnotherModel:
    """Each part refuses a state that is not its own, before anything of it has changed."""

    @pytest.fixture
    def stepped(self, random_model: Callable[..., Any]) -> Optimizer:
        """An optimizer of a bfloat16 model after one step."""
        model = random_model(seed=1).to(torch.bfloat16)
        optimizer = Optimizer(model, OptimSpec(lr=1e-3), 10)
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.accumulate()
        optimizer.step(1)
        return optimizer

    def refuse(self, load: Callable[[Any], None], state: Any) -> None:
        """One line naming the file."""
        point = checkpoint.ResumePoint(Path("run/step-000001"), 1, {"optimizer": state})
        with pytest.raises(SodError) as caught:
            restore(point, "optimizer", load)
        assert "run/step-000001/trainer.pt: the optimizer's state does not fit this run" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_the_optimizers(self, stepped: Optimizer) -> None:
        good = stepped.state()
        before = [master.clone() for master in good["masters"]]
        moments = good["adamw"]["state"]
        huge = torch.zeros(1).expand(10**12)
        bad: list[Any] = [
            None,
            {},
            {"adamw": {}, "masters": None},
            {"adamw": good["adamw"], "masters": None},
            {"adamw": good["adamw"], "masters": good["masters"][:-1]},
            {"adamw": good["adamw"], "masters": [huge] * len(before)},
            {"adamw": {"state": {**moments, 0: {**moments[0], "exp_avg": huge}}}, "masters": good["masters"]},
            {"adamw": {"state": {**moments, 0: {"step": 1}}}, "masters": good["masters"]},
            {"adamw": {"state": {**moments, 10**6: moments[0]}}, "masters": good["masters"]},
            {"adamw": {"state": {"x": 1}}, "masters": good["masters"]},
            {"adamw": {"state": 5}, "masters": good["masters"]},
        ]
        for state in bad:
            self.refuse(stepped.load, state)
        assert all(map(torch.equal, stepped.state()["masters"], before))

    def test_what_the_recipe_decides_is_not_taken_from_the_file(self, stepped: Optimizer) -> None:
        """Else a checkpoint could train with another decay, or upwards."""
        own = stepped.state()["adamw"]["param_groups"][0].copy()
        state = stepped.state()
        group = {**own, "maximize": True, "weight_decay": 9.0, "betas": (0.0, 0.0)}
        stepped.load({**state, "adamw": {**state["adamw"], "param_groups": [group]}})
        assert stepped.state()["adamw"]["param_groups"] == [own]

    def test_the_teachers(self, random_model: Callable[..., Any]) -> None:
        teacher = LocalTeacher(random_model(seed=1), 64)
        good = [weight.detach().clone() for weight in teacher.model.parameters()]
        for state in (
            3,
            [],
            good[:-1],
            [None] * len(good),
            [good[0]] * len(good),
            {"a": 1},
            [g.double() for g in good],
        ):
            self.refuse(teacher.load, state)
        teacher.load(good)
