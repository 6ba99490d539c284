"""What holds devices back: rates, a budget of memory, and when to come again.

All of it is of one event loop; nothing here is safe to call from another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.settings import Pace


class Bucket:
    """A token bucket that may go into debt: what was read is paid for before the next read.

    Args:
        rate: units a second.
        burst: units at once.
        clock: seconds.
    """

    __slots__ = ("_burst", "_clock", "_level", "_rate", "_since")

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._level, self._since = burst, clock()

    def take(self, units: float) -> float:
        """Takes units; returns for how many seconds nothing more should be taken."""
        self._fill()
        self._level -= units
        return max(0.0, -self._level / self._rate)

    def allow(self, units: float) -> bool:
        """Takes units if they are there; else nothing, so that who is refused owes nothing."""
        self._fill()
        if units > self._level:
            return False
        self._level -= units
        return True

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._since) * self._rate)
        self._since = now


class Budget:
    """Bytes that may be held at once; who would exceed it waits, in order.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._free = self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Bytes that are taken."""
        return self._size - self._free

    async def take(self, size: int) -> None:
        """Waits until there is room, and takes it; ``size`` is at most the whole."""
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:
                # It isn't there if it was cancelled and passed over before it woke.
                with contextlib.suppress(ValueError):
                    self._waiting.remove((size, turn))
                self._next()
            raise

    def give(self, size: int) -> None:
        """Gives room back."""
        self._free += size
        self._next()

    def _next(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= size
                turn.set_result(None)


class Turns:
    """So many at once, so many that wait; the rest are refused.

    Args:
        places: at once.
        waiting: that may wait.
    """

    def __init__(self, places: int, waiting: int) -> None:
        self._places, self._room = asyncio.Semaphore(places), places + waiting

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return self._places.locked()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Holds a place.

        Raises:
            RefusedError: too many wait.
        """
        if self._room <= 0:
            raise RefusedError("BUSY", "too many wait; come again later")
        self._room -= 1
        try:
            async with self._places:
                yield
        finally:
            self._room += 1


class Pacer:
    """Tells devices when to come back, so that they come at a steady rate.

    Each is given the next free instant on a line whose instants are ``1 / rate`` apart, and
    then up to a quarter more at random, so that clocks that started together drift apart.

    Args:
        pace: least, most, and rate.
        clock: seconds.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace, self._clock, self._line = pace, clock, 0.0

    def after(self) -> int:
        """Milliseconds until a device that is sent away should come back."""
        now = self._clock()
        self._line = max(self._line + 1 / self._pace.rate, now + self._pace.retry)
        # A line that is full starts over: everybody later than the longest wait would be worse.
        if self._line > now + self._pace.longest:
            self._line = now + self._pace.retry
        return jittered(self._line - now)

    def again(self) -> int:
        """Milliseconds until a device that stays should check in again."""
        return jittered(self._pace.check_in)


def jittered(seconds: float) -> int:
    """Milliseconds, up to a quarter more than asked for."""
    return int(seconds * (1000 + secrets.randbelow(251)))
