"""All servers of a run: started side by side, ended together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

from sod.launch.server import Server


@final
@dataclass(frozen=True)
class Fleet:
    """Servers in the order in which they are started."""

    servers: Sequence[Server] = ()

    def start(self) -> None:
        """Start all; they may answer later. Raises SodError where one cannot start, and leaves none behind."""
        try:
            for server in self.servers:
                server.start()
        except BaseException:
            self.close()
            raise

    def wait_ready(self) -> None:
        """Return once all serve. Raises SodError for the first that does not."""
        for server in self.servers:
            server.wait_ready()

    def is_given_up(self, url: str) -> bool:
        """Whether one of them was at `url`, and has ended for good."""
        return any(server.url == url and server.is_given_up for server in self.servers)

    def restart(self, url: str) -> None:
        """End the one at `url`, which lives and does no good; it is started again. Nothing where there is none."""
        for server in self.servers:
            if server.url == url:
                server.restart()

    def close(self) -> None:
        """End all at the same time. Safe to call twice."""
        if not self.servers:
            return
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(Server.close, self.servers))
