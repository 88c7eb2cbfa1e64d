"""The HTTP server below the application: uvicorn, with a time limit for the header of a request."""

from __future__ import annotations

import asyncio
from typing import Any, final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # from a connection's first moment, or the first byte of a later header, to the header's end
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@final
class PunctualProtocol(H11Protocol):
    """Closes a connection whose next request has no complete header in time.

    Without it a client that sends a byte now and then keeps its connection for ever. h11 bounds the
    length of a header; what idles between requests is closed by uvicorn itself.
    """

    header_seconds = HEADER_SECONDS
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self._look_at_header()

    def data_received(self, data: bytes) -> None:
        """Stop counting where the header is complete, begin where a new one is not."""
        super().data_received(data)
        self._look_at_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no more."""
        self._stop_counting()
        super().connection_lost(exc)

    def _look_at_header(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_counting()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_counting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:  # its header came with the last one's answer
            return
        self.transport.write(_TOO_LATE)
        self.transport.close()


def make_server(app: ASGIApp, grace_seconds: int) -> uvicorn.Server:
    """A server of `app`; requests under way at its end have `grace_seconds` to be finished. Raises nothing."""
    config = uvicorn.Config(
        app,
        http=PunctualProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
    )
    return uvicorn.Server(config)
