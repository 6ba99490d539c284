"""What an operator watches: metrics, health, and logs without personal data.

Guarantees: no label, field of a log or answer here names a client, and none has a value of a
client's data or a time of one client's doing. Labels take their values from fixed sets; any
other is "other". A reply is counted when its leg ends, so that no scrape tells when one client
answered. Until `serve` is called each function returns at once, and nothing is imported.

Doesn't guarantee that the metrics may be published: how many were asked and answered, and how
long a round took, are the coordinator's to know. Whoever reads them is to be held to the rows
against the coordinator, without amplification. So they are served on the loopback interface
unless another is named.

One process has one of these; it starts at zero when the process does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tacit.privacy.errors import ConfigError
from tacit.server.telemetry.logs import setup_logs

if TYPE_CHECKING:
    from tacit.server.store import Store
    from tacit.server.telemetry.http import Serving
    from tacit.server.telemetry.meters import Meters

HOST, PORT = "127.0.0.1", 9464
Check = Callable[[], bool]

_meters: Meters | None = None
_ready = threading.Event()
# Replies by kind and outcome that wait for their leg's end.
_held: Counter[tuple[str, str]] = Counter()
_lock = threading.Lock()


def serve(host: str = HOST, port: int = PORT, checks: Mapping[str, Check] | None = None) -> Serving:
    """Counts from now on, and serves ``/metrics``, ``/healthz`` and ``/readyz`` in a thread.

    Args:
        host: address to bind to.
        port: 0 takes a free one, which ``address`` of the result has.
        checks: by name, what must hold besides `ready`; run on each request of ``/readyz``.

    Returns:
        What stops it when called.

    Raises:
        ConfigError: the address can't be had, or this process serves already.
    """
    global _meters
    from tacit.server.telemetry.http import Serving
    from tacit.server.telemetry.meters import Meters

    with _lock:
        if _meters is not None:
            raise ConfigError("telemetry is served already", "one process has one of it")
        made = Meters()
        made.ready.set_function(_ready.is_set)
        serving = Serving(host, port, made.registry, _missing(checks or {}), _stopped)
        _meters = made
    return serving


def _stopped() -> None:
    global _meters
    with _lock:
        _meters = None
        _held.clear()
    _ready.clear()


def _missing(checks: Mapping[str, Check]) -> Callable[[], list[str]]:
    """Names of what isn't ready."""

    def missing() -> list[str]:
        found = [] if _ready.is_set() else ["gateway"]
        return found + [name for name, holds in checks.items() if not holds()]

    return missing


def ready(accepts: bool) -> None:
    """Whether clients are accepted: until it is said so, ``/readyz`` answers no."""
    if accepts:
        _ready.set()
    else:
        _ready.clear()


def store_opens(store: Store) -> Check:
    """A check that the ledger can be read."""

    def opens() -> bool:
        from tacit.privacy.errors import StorageError
        from tacit.server import log

        try:
            with store.database.reading() as c:
                return log.size(c) > 0
        except StorageError:
            return False

    return opens


# What the coordinator says


def round(seconds: float, accepted: int, outcome: str) -> None:
    """A round ended: released, shortfall, refused or failed.

    Args:
        seconds: wall time, which only a released round's is kept of.
        accepted: vectors in its sum; the same.
        outcome: one of these words.
    """
    if _meters is not None:
        _flush(_meters, None)
        _meters.round(seconds, accepted, outcome)


def epsilon(unit: str, adversary: str, value: float | None, amplified: bool = False) -> None:
    """What the run has been charged so far, at its delta; None where nothing is claimed."""
    if _meters is not None:
        _meters.epsilon(unit, adversary, value, amplified)


def budget(unit: str, remaining: float) -> None:
    """Epsilon that the run's own cap leaves."""
    if _meters is not None:
        _meters.budget(unit, remaining)


def leaves(count: int) -> None:
    """Leaves of the ledger."""
    if _meters is not None:
        _meters.leaves.set(count)


# What the legs say


def leg(kind: str, seconds: float, asked: int, answered: int) -> None:
    """A leg ended.

    Args:
        kind: as "query.share".
        seconds: wall time.
        asked: clients that were sent a request.
        answered: those whose answer was taken.
    """
    if _meters is not None:
        _flush(_meters, kind)
        _meters.leg(kind, seconds, asked, answered)


def reply(kind: str, outcome: str) -> None:
    """One client's request was answered, refused, or wasn't; shown when the leg ends."""
    if _meters is not None:
        with _lock:
            _held[kind, outcome] += 1


def resent(kind: str, count: int) -> None:
    """Requests that were sent again."""
    if _meters is not None:
        _meters.resent(kind, count)


def _flush(meters: Meters, kind: str | None) -> None:
    with _lock:
        due = {key: n for key, n in _held.items() if kind is None or key[0] == kind}
        for key in due:
            del _held[key]
    for (of, outcome), count in due.items():
        meters.replies(of, outcome, count)


# What the gateway says


def devices(connected: int) -> None:
    """Devices with an open stream."""
    if _meters is not None:
        _meters.devices.set(connected)


def check_in(outcome: str) -> None:
    """A device checked in: accepted, retry or ineligible."""
    if _meters is not None:
        _meters.check_in(outcome)


def refusal(reason: str) -> None:
    """A device refused a task, or was refused."""
    if _meters is not None:
        _meters.refusal(reason)


def bytes_moved(direction: str, count: int) -> None:
    """Bytes that went "in" or "out"."""
    if _meters is not None:
        _meters.bytes_moved(direction, count)


__all__ = [
    "HOST",
    "PORT",
    "budget",
    "bytes_moved",
    "check_in",
    "devices",
    "epsilon",
    "leaves",
    "leg",
    "ready",
    "refusal",
    "reply",
    "resent",
    "round",
    "serve",
    "setup_logs",
    "store_opens",
]
