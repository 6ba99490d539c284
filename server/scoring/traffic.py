"""The decoy: what traffic looks like, never what is in it.

Records of each request how many records it had, how long it took, and how it ended; nothing of
inputs, outputs, callers or request ids. In memory, bounded, and lost with the process.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

import numpy as np

OUTCOMES = (
    *("answered", "canary", "fallback"),  # answers
    *("late", "busy", "failed", "refused"),  # no answer
)
_KEPT = 4096


class Decoy:
    """Counts of requests by outcome, and sizes and times of the newest `_KEPT`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._recent: deque[tuple[int, float]] = deque(maxlen=_KEPT)

    def note(self, outcome: str, records: int, seconds: float) -> None:
        """Notes a request.

        Args:
            outcome: one of `OUTCOMES`.
            records: that it had.
            seconds: that it took.
        """
        with self._lock:
            self._outcomes[outcome] += 1
            self._recent.append((records, seconds))

    def shape(self) -> dict[str, Any]:
        """Counts by outcome; quantiles of the newest requests' records and milliseconds."""
        with self._lock:
            outcomes, recent = dict(self._outcomes), np.array(self._recent, dtype=np.float64)
        found: dict[str, Any] = {"requests": {name: outcomes.get(name, 0) for name in OUTCOMES}}
        for at, name, factor in ((0, "records", 1.0), (1, "milliseconds", 1e3)):
            marks: list[float] = []
            if len(recent):
                marks = (np.quantile(recent[:, at], (0.5, 0.9, 0.99, 1)) * factor).tolist()
            names = ("p50", "p90", "p99", "max")
            found[name] = {n: round(m, 3) for n, m in zip(names, marks, strict=False)}
        return found


class Beside:
    """What came of a version that runs beside the champion.

    Attributes:
        agreed: records for which its largest output is the champion's too.
        differed: the others.
        failed: runs that failed.
        dropped: requests that it didn't get, since it lags.
    """

    def __init__(self) -> None:
        self.agreed = self.differed = self.failed = self.dropped = 0

    def to_json(self) -> dict[str, int]:
        """The counts."""
        return dict(vars(self))
