"""Ports of this machine for servers of a run."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from sod.records import SodError

HOST = "127.0.0.1"
"""Where servers of a run listen: nothing outside this machine reaches them."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, each another."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def free_port() -> int:
    """A port that nobody listens on now."""
    return free_ports(1)[0]


def refuse_used(port: int, what: str) -> None:
    """Raises SodError, beginning with `what`, where a server cannot listen on `port`."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that ended just now is in nobody's way
        try:
            tried.bind((HOST, port))
        except PermissionError:
            raise SodError(f"{what}: port {port} is the system's; take one from 1024") from None
        except OSError:
            raise SodError(f"{what}: port {port} is in use; end what listens there, or take another") from None
