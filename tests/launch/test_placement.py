"""Where the servers of a run are put: a table of machines, and of what cannot be."""

from __future__ import annotations

import re
import socket

import pytest

from sod.launch.placement import Placed, Wanted, placed, visible
from sod.records import SodError

STUDENT = Wanted("student", "launch.student", servers=2)
TEACHER = Wanted("teacher", "launch.teacher", servers=1)


def where(found: list[Placed]) -> dict[str, tuple[int, ...]]:
    return {each.name: each.gpus for each in found}


@pytest.mark.parametrize(
    ("wanted", "count", "trainer", "expected"),
    [
        ([STUDENT, TEACHER], 0, [], {"student-1": (), "student-2": (), "teacher": ()}),
        ([STUDENT, TEACHER], 4, [0], {"student-1": (1,), "student-2": (2,), "teacher": (3,)}),
        ([STUDENT], 4, [], {"student-1": (0,), "student-2": (1,)}),
        ([Wanted("student", "s", 2, gpus_each=2)], 8, [0, 1], {"student-1": (2, 3), "student-2": (4, 5)}),
        ([Wanted("student", "s", 2, gpus=[7, 6, 5, 4])], 8, [0], {"student-1": (7, 6), "student-2": (5, 4)}),
        (
            [STUDENT, Wanted("teacher", "t", 1, gpus=[1])],
            4,
            [0],
            {"student-1": (2,), "student-2": (3,), "teacher": (1,)},
        ),
        ([Wanted("student", "s", 1, gpus=[0], memory_share=0.4)], 1, [0], {"student": (0,)}),
    ],
)
def test_servers_get_the_gpus_that_are_named_or_left(
    wanted: list[Wanted], count: int, trainer: list[int], expected: dict[str, tuple[int, ...]]
) -> None:
    assert where(placed(wanted, count, trainer)) == expected


@pytest.mark.parametrize(
    ("wanted", "count", "trainer", "line"),
    [
        ([STUDENT], 2, [0], "launch.student: its servers need 2 GPUs, and 1 of 2 here are nobody's; start fewer"),
        ([Wanted("s", "launch.student", 1, gpus=[3])], 2, [], "launch.student.gpus: there is no GPU 3 here (0 to 1)"),
        ([Wanted("s", "launch.student", 1, gpus=[0])], 0, [], "launch.student.gpus: there is no GPU 0 here (none)"),
        ([Wanted("s", "launch.student", 1, gpus_each=2)], 0, [], "need 2 GPUs, and 0 of 0 here are nobody's"),
        (
            [Wanted("s", "launch.student", 2, gpus=[1, 1])],
            4,
            [],
            "launch.student.gpus: [1, 1] names a GPU twice; leave",
        ),
        ([Wanted("s", "launch.student", 2, gpus=[0, 1, 2])], 4, [], "3 GPUs cannot be shared out evenly to 2 servers"),
        (
            [Wanted("s", "launch.student", 2, gpus=[0])],
            4,
            [],
            "1 GPUs cannot be shared out evenly to 2 servers; name 2",
        ),
        (
            [Wanted("s", "launch.student", 1, 2, gpus=[0, 1, 2, 3])],
            4,
            [],
            "each server has 4 of them, and its options are",
        ),
        (
            [Wanted("s", "launch.student", 1, gpus=[0])],
            2,
            [0],
            "GPU 0 is used by the trainer too; set launch.student.mem",
        ),
        (
            [Wanted("s", "launch.student", 1, gpus=[1]), Wanted("t", "launch.teacher", 1, gpus=[1])],
            2,
            [0],
            "launch.teacher.gpus: GPU 1 is used by launch.student too; set launch.teacher.memory_share",
        ),
        (
            [Wanted("s", "launch.student", 2, port=9000), Wanted("t", "launch.teacher", 1, port=9001)],
            0,
            [],
            "launch.teacher.port: t and s-2 both have 9001; name another",
        ),
        ([Wanted("s", "launch.student", 9, port=65530)], 0, [], "9 ports from 65530 on go beyond 65535; begin lower"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_key(
    wanted: list[Wanted], count: int, trainer: list[int], line: str
) -> None:
    with pytest.raises(SodError, match=re.escape(line)):
        placed(wanted, count, trainer)


def test_ports_are_those_named_or_free_ones() -> None:
    named = placed([Wanted("student", "s", 3, port=9000)], 0, [])
    assert [each.url for each in named] == [f"http://127.0.0.1:{port}" for port in (9000, 9001, 9002)]
    for each in placed([STUDENT], 0, []):
        with socket.socket() as taker:
            taker.bind(("127.0.0.1", each.port))


def test_devices_are_named_as_the_servers_process_will_see_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible((1, 0)) == "1,0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7a")
    assert visible((1, 0)) == "GPU-7a,5"
