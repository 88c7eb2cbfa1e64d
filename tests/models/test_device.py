"""Names of devices, and what is said of those that are not there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from sod.models.device import find_device
from sod.records import SodError

HERE = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "gpu", "cuda:", "cuda:-1", "CUDA", "mps", "")


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Sequence[str]:
    """As many CUDA devices as the test says, as far as PyTorch's questions about them go."""
    names: Sequence[str] = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: names[number])
    return names


FOUND = [
    ((), {"auto": "cpu", "cpu": "cpu"}),
    (("H100",), {"auto": "cuda:0", "cpu": "cpu", "cuda": "cuda:0", "cuda:0": "cuda:0"}),
    (("H100", "A10"), {"auto": "cuda:0", "cpu": "cpu", "cuda": "cuda:0", "cuda:0": "cuda:0", "cuda:1": "cuda:1"}),
]


@pytest.mark.parametrize(("cards", "found"), FOUND, indirect=["cards"], ids=["none", "one", "two"])
def test_a_name_is_the_device_that_is_there_or_is_refused(cards: Sequence[str], found: dict[str, str]) -> None:
    """CUDA devices always come with their number, as what compares devices wants it."""
    for name in HERE:
        if name in found:
            assert find_device(name, "student.device") == torch.device(found[name])
            assert found[name] == "cpu" or find_device(name, "student.device").index is not None
        else:
            with pytest.raises(SodError, match=r"^student\.device: "):
                find_device(name, "student.device")


REFUSED = [
    ((), "cuda", "student.device: there is no cuda: PyTorch sees the CPU alone; use auto or cpu, or "),
    ((), "cuda:3", "student.device: there is no cuda:3: PyTorch sees the CPU alone; use auto or cpu, or "),
    (
        ("H100", "A10"),
        "cuda:2",
        "student.device: there is no cuda:2: PyTorch sees cpu, cuda:0 (H100) and cuda:1 (A10); use one of these, or "
        "auto",
    ),
    (
        (),
        "gpu",
        "student.device: 'gpu' is no device; write auto, cpu, cuda or cuda:N (PyTorch sees the CPU alone)",
    ),
]


@pytest.mark.parametrize(("cards", "name", "said"), REFUSED, indirect=["cards"])
def test_a_refusal_says_what_there_is_and_what_to_do(cards: Sequence[str], name: str, said: str) -> None:
    """One line."""
    with pytest.raises(SodError) as refusal:
        find_device(name, "student.device")
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)
    if not cards and name.startswith("cuda"):
        assert "nvidia-smi" in str(refusal.value) or "built with CUDA" in str(refusal.value)
