"""How a rank meets the others, where something about its launcher is wrong."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from sod.models import parallel
from sod.records import SodError


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"RANK": "0"},
            r"RANK is set, and WORLD_SIZE is not; start all ranks with torchrun, or one process without RANK",
        ),
        ({"RANK": "zero", "WORLD_SIZE": "2"}, "RANK is 'zero'; start"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: of WORLD_SIZE=2 ranks the last is 1; start"),
        (
            {"RANK": "0", "WORLD_SIZE": "2"},
            r"cannot meet the other ranks \(.*MASTER_ADDR expected, but not set\); start",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"},
            r"cannot meet the other ranks \(port must have value from 0 to 65535",
        ),
    ],
)
def test_a_launcher_that_is_none_is_told(given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SodError, match=message):
        parallel.join()


@pytest.mark.parametrize(("number", "said"), [("0", "1/2 clients joined"), ("1", "timed out")])
def test_ranks_that_do_not_come_are_not_waited_for_as_long_as_a_rollout(
    number: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "MEETING", timedelta(seconds=1))
    environment = {"RANK": number, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SodError, match=rf"cannot meet the other ranks \(.*{said}.*\); start all ranks"):
        parallel.join()
