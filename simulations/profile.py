"""Where a simulation's time and memory go, by phase: ``tacit simulate --profile``.

A phase is what a function of tacit does that runs while no other of the list does; what none of
them does is "other". The clock is the wall's, of this process: with worker processes, waiting
for them is a phase. Memory is the resident set at the end of a phase, at its highest.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Where each phase is: module, class, method.
_PHASES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "clients' training": (
        ("tacit.simulations.cohort.trainer", "CohortTrainer", "expect"),
        ("tacit.client.trainer", "Trainer", "train"),
    ),
    "evaluation": (
        ("tacit.client.trainer", "Trainer", "counts"),
        ("tacit.server.model", "GlobalModel", "public_metrics"),
    ),
    "clip, encode, noise, mask": (("tacit.client.app", "Member", "train"),),
    "messages to and from clients": (("tacit.simulations.grid", "InProcessGrid", "_call"),),
    "waiting for workers": (("tacit.simulations.workers", "Pool", "_awaited"),),
    "sums": (
        ("tacit.server.coordinator", "Coordinator", "_noised"),
        ("tacit.server.coordinator", "Coordinator", "_moved"),
    ),
    "accounting and ledger": (
        ("tacit.server.charges", "Charges", "charge"),
        ("tacit.server.charges", "Charges", "project"),
        ("tacit.server.charges", "Charges", "epsilon"),
        ("tacit.server.charges", "Charges", "release"),
    ),
    "database and files": (
        ("tacit.server.store", "Store", "release"),
        ("tacit.server.store", "Store", "append"),
        ("tacit.server.registry", "ModelRegistry", "put"),
        ("tacit.server.state", "State", "save"),
    ),
}


@dataclass
class Profile:
    """What was measured.

    Attributes:
        seconds: of each phase, its own.
        peak_mb: resident memory after each phase, at its highest.
        total: seconds from beginning to end.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)
    total: float = 0.0

    def rows(self) -> list[dict[str, Any]]:
        """A row for each phase, the longest first."""
        seconds = {**self.seconds, "other": max(0.0, self.total - sum(self.seconds.values()))}
        return [
            {
                "phase": name,
                "seconds": spent,
                "share": spent / self.total if self.total else 0.0,
                "peak_mb": self.peak_mb.get(name),
            }
            for name, spent in sorted(seconds.items(), key=lambda item: -item[1])
        ]


@contextlib.contextmanager
def profiled() -> Iterator[Profile]:
    """Measures what runs inside; the functions are themselves again afterwards."""
    made, running = Profile(), [[0.0]]
    with contextlib.ExitStack() as undo:
        for phase, places in _PHASES.items():
            for module, kind, name in places:
                owner = getattr(importlib.import_module(module), kind)
                original = owner.__dict__[name]
                setattr(owner, name, _timed(original, phase, made, running))
                undo.callback(setattr, owner, name, original)
        began = time.perf_counter()
        try:
            yield made
        finally:
            made.total = time.perf_counter() - began


def _timed(
    original: Callable[..., Any], phase: str, made: Profile, running: list[list[float]]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def timed(*args: Any, **kwargs: Any) -> Any:
        # What inner phases take isn't this one's.
        inner = [0.0]
        running.append(inner)
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent = time.perf_counter() - began
            running.pop()
            running[-1][0] += spent
            made.seconds[phase] = made.seconds.get(phase, 0.0) + spent - inner[0]
            made.peak_mb[phase] = max(made.peak_mb.get(phase, 0.0), _resident())

    return timed


def _resident() -> float:
    """Resident memory of this process now, in MB; its highest where that isn't known."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    # In kilobytes, but for macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
