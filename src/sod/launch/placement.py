"""Which server of a run is where: its GPUs and its port."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from sod.launch.ports import free_ports
from sod.records import SodError


@final
@dataclass(frozen=True)
class Wanted:
    """Servers of one model: how many, of how many GPUs each.

    `where` is the recipe's section with `gpus`, `memory_share` and `port`. With a `memory_share` they may share their
    GPUs with others.
    """

    name: str
    where: str
    servers: int
    gpus_each: int = 1
    gpus: Sequence[int] | None = None
    memory_share: float | None = None
    port: int | None = None


@final
@dataclass(frozen=True)
class Placed:
    """One server: without `gpus` it is on the CPU. `is_named`: the recipe names its port."""

    name: str
    where: str
    port: int
    gpus: tuple[int, ...] = ()
    memory_share: float | None = None
    is_named: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """Where it computes, as the recipe calls devices."""
        return tuple(f"cuda:{gpu}" for gpu in self.gpus) or ("cpu",)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


def placed(wanted: Sequence[Wanted], count: int, trainer: Collection[int]) -> list[Placed]:
    """Every server with its GPUs and port, on a machine with `count` GPUs of which the trainer has some.

    Raises SodError naming the key where there are too few, and where two would take the same memory.
    """
    named = {gpu for each in wanted for gpu in each.gpus or ()}
    left = [gpu for gpu in range(count) if gpu not in trainer and gpu not in named]
    taken = dict.fromkeys(trainer, "the trainer")
    found: list[Placed] = []
    for each in wanted:
        shares = _own_gpus(each, count) if each.gpus is not None else _of_those_left(each, left, count)
        _refuse_shared(each, shares, taken)
        taken |= {gpu: each.where for share in shares for gpu in share}
        for number, (share, port) in enumerate(zip(shares, _ports(each), strict=True), start=1):
            name = each.name if each.servers == 1 else f"{each.name}-{number}"
            found.append(Placed(name, each.where, port, share, each.memory_share, each.port is not None))
    _refuse_same_port(found)
    return found


def visible(gpus: Sequence[int]) -> str:
    """What CUDA_VISIBLE_DEVICES is for a process on these of the devices that this one sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if seen is None else [name.strip() for name in seen.split(",")]
    return ",".join(str(gpu) if names is None else names[gpu] for gpu in gpus)


def _own_gpus(each: Wanted, count: int) -> list[tuple[int, ...]]:
    assert each.gpus is not None
    missing = [gpu for gpu in each.gpus if gpu >= count]
    if missing:
        there = f"0 to {count - 1}" if count else "none"
        raise SodError(f"{each.where}.gpus: there is no GPU {missing[0]} here ({there}); name those that are there")
    if len(set(each.gpus)) < len(each.gpus):
        raise SodError(f"{each.where}.gpus: {list(each.gpus)} names a GPU twice; leave one of them out")
    size, rest = divmod(len(each.gpus), each.servers)
    if rest or not size:
        raise SodError(
            f"{each.where}.gpus: {len(each.gpus)} GPUs cannot be shared out evenly to {each.servers} servers; name "
            f"{each.servers * max(1, size)} or {each.servers * (size + 1)}"
        )
    if each.gpus_each not in (1, size):
        raise SodError(
            f"{each.where}.gpus: each server has {size} of them, and its options are for {each.gpus_each}; name "
            f"{each.servers * each.gpus_each}"
        )
    return [tuple(each.gpus[at * size : (at + 1) * size]) for at in range(each.servers)]


def _of_those_left(each: Wanted, left: list[int], count: int) -> list[tuple[int, ...]]:
    """Takes them out of `left`."""
    needed = each.servers * each.gpus_each
    if not count and each.gpus_each == 1:
        return [()] * each.servers
    if needed > len(left):
        raise SodError(
            f"{each.where}: its servers need {needed} GPUs, and {len(left)} of {count} here are nobody's; start fewer, "
            f"or set {each.where}.gpus, with {each.where}.memory_share where others use them too"
        )
    own, left[:needed] = left[:needed], []
    return [tuple(own[at : at + each.gpus_each]) for at in range(0, needed, each.gpus_each)]


def _refuse_shared(each: Wanted, shares: Sequence[tuple[int, ...]], taken: dict[int, str]) -> None:
    for share in shares:
        for gpu in share:
            if gpu in taken and each.memory_share is None:
                raise SodError(
                    f"{each.where}.gpus: GPU {gpu} is used by {taken[gpu]} too; set {each.where}.memory_share, e.g. "
                    "0.4, so that both fit, or name another"
                )


def _ports(each: Wanted) -> list[int]:
    if each.port is None:
        return free_ports(each.servers)
    if each.port + each.servers - 1 > 65535:
        raise SodError(f"{each.where}.port: {each.servers} ports from {each.port} on go beyond 65535; begin lower")
    return list(range(each.port, each.port + each.servers))


def _refuse_same_port(found: Sequence[Placed]) -> None:
    owners: dict[int, Placed] = {}
    for each in found:
        other = owners.setdefault(each.port, each)
        if other is not each:
            raise SodError(f"{each.where}.port: {each.name} and {other.name} both have {each.port}; name another")
