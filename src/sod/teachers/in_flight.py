"""How much a server is asked at a time: so many requests, and so many tokens in all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final


@final
class InFlight:
    """Lets requests through within the bounds; one that is larger than all of them goes alone. For one event loop."""

    def __init__(self, requests: int, tokens: int) -> None:
        self._requests, self._tokens = requests, tokens
        self._under_way = self._taken = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def taking(self, tokens: int) -> AsyncIterator[None]:
        """Wait until there is room for a request of so many tokens, and keep it until the block ends."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(tokens))
            self._under_way, self._taken = self._under_way + 1, self._taken + tokens
        try:
            yield
        finally:
            async with self._changed:
                self._under_way, self._taken = self._under_way - 1, self._taken - tokens
                self._changed.notify_all()

    def _fits(self, tokens: int) -> bool:
        if self._under_way == 0:
            return True
        return self._under_way < self._requests and self._taken + tokens <= self._tokens
