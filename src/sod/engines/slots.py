"""Who is in the batch of the fast engine: the rows under way, and where the keys and values of every episode are.

A slot is one row of the cache. The rows under way fill the slots from 0 on without a gap, so that a decoding step
reads views of the cache and copies nothing. The keys and values of an episode are in one of two places:

- in its slot, while a turn of it is being sampled;
- offloaded, between its turns: copied out of the cache, as long as they fit the memory set aside for it. Its next turn
  prefills what is new only; an episode that no longer fits is prefilled from its first token.

Episodes that begin with the same tokens share the prefill of these: one runs them, the others copy its columns.
Nothing here reads a clock: who is where depends on the requests and on their order alone.

Legend: B rows, N new tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from torch import Tensor

from sod.engines.cache import Offloaded, SlotCache, SlotWindow, Storage
from sod.engines.turns import Row


@final
class Slots:
    """The rows under way (row i is in slot i), the cache, and what was offloaded from it.

    Of the episodes between two turns, so many keep their keys and values as fit `offload_bytes`.
    """

    def __init__(self, storage: Storage, offload_bytes: int) -> None:
        self.rows: list[Row] = []
        self._cache = SlotCache(storage)
        self._offload_bytes = offload_bytes
        self._offloaded: dict[str, Offloaded] = {}  # by session, those whose turn ended first in front
        self._shared_from: dict[tuple[int, ...], str] = {}  # the session that has the keys and values of a context

    def admit(self, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Give new rows the slots behind those under way: `(leaders, followers)`, in the order of their slots.

        A leader has to run its context, or what is new of it where the rest was offloaded, which is back in its slot
        when this returns. A follower's context is that of another episode: call `share_prefixes` for them once the
        leaders are prefilled, since that episode may be one of these.
        """
        self._drop_diverged(rows)
        leaders: list[Row] = []
        followers: list[Row] = []
        for row in rows:
            offloaded = self._offloaded.get(row.session)
            if offloaded is not None:
                # At least one token has to be run: its hidden state is what the first new token is sampled from.
                row.cached = min(offloaded.length, len(row.context) - 1)
                leaders.append(row)
            elif row.context in self._shared_from:
                followers.append(row)
            else:
                # The first with this context runs it, for itself and for all who come with the same one, now or later.
                # An episode that goes on from its own cache (above) has sampled tokens in it that no other has.
                self._shared_from[row.context] = row.session
                leaders.append(row)
        # Those with most to run in front: rows of one prefill are padded to its longest.
        leaders.sort(key=lambda row: row.cached - len(row.request.token_ids))
        first = len(self.rows)
        self.rows += leaders + followers
        for slot, row in enumerate(leaders, start=first):
            if row.cached:
                self._cache.restore(slot, self._offloaded.pop(row.session), row.cached)
        return leaders, followers

    def share_prefixes(self, first: int) -> None:
        """Fill the slots from `first` on, followers all, with their context: all but the last token, still to be run.

        The episode that it is shared from is offloaded or in a slot: when it leaves both, `forget` takes its context
        off the list.
        """
        slot_of = {row.session: slot for slot, row in enumerate(self.rows)}
        for slot, row in enumerate(self.rows[first:], start=first):
            row.cached = len(row.context) - 1
            sharer = self._shared_from[row.context]
            if sharer in self._offloaded:
                self._cache.restore(slot, self._offloaded[sharer], row.cached)
            else:
                self._cache.copy(slot_of[sharer], slot, row.cached)

    def window(self, first: int, position_BN: Tensor) -> SlotWindow:
        """The cache, for a forward of new tokens at these positions in the slots from `first` on."""
        return self._cache.window(first, position_BN)

    def retire(self, slot: int) -> Row:
        """Take a row out, offload what its episode has in the cache, and close the gap with the last row.

        Retire the highest slot first where several go: the last row is then always one that stays, or itself.
        """
        row = self.rows[slot]
        tokens = (*row.context, *row.token_ids)[: row.cached]
        self._offloaded[row.session] = self._cache.offload(slot, tokens)
        last = self.rows.pop()
        if last is not row:
            self._cache.copy(len(self.rows), slot, last.cached)
            self.rows[slot] = last
        self._drop_oldest()
        return row

    def forget(self, sessions: Iterable[str]) -> None:
        """These episodes are over: drop what was offloaded of them. Unknown names are ignored."""
        self._drop(sessions)
        if not self.rows:
            self._cache.clear()

    def clear(self) -> None:
        """Take all rows out, forget every episode, and give the memory back."""
        self.rows.clear()
        self._offloaded.clear()
        self._shared_from.clear()
        self._cache.clear()

    def _drop_diverged(self, rows: Sequence[Row]) -> None:
        """Drop what is offloaded of episodes whose new context does not begin with it.

        Before any row is admitted: nobody may follow an episode whose context is about to go.
        """
        for row in rows:
            offloaded = self._offloaded.get(row.session)
            if offloaded is not None and offloaded.token_ids != row.context[: offloaded.length]:
                self._drop([row.session])

    def _drop_oldest(self) -> None:
        """Drop episodes until the rest fits, those whose turn ended first before others.

        What has waited longest waits for a slow tool, or for nobody; and the order in which turns ended is a function
        of the tokens alone, so that a repeated run drops the same episodes and computes the same bits.
        """
        held = sum(offloaded.bytes for offloaded in self._offloaded.values())
        while held > self._offload_bytes:
            oldest = next(iter(self._offloaded))
            held -= self._offloaded[oldest].bytes
            self.forget([oldest])

    def _drop(self, sessions: Iterable[str]) -> None:
        """Drop offloaded episodes, and with them the contexts that nobody has any more."""
        for session in sessions:
            self._offloaded.pop(session, None)
        known = self._offloaded.keys() | {row.session for row in self.rows}
        self._shared_from = {context: holder for context, holder in self._shared_from.items() if holder in known}
