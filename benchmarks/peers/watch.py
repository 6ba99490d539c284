"""Memory of a process and all it started, sampled while it runs.

Proportional set sizes are summed, so a page that n processes share counts 1/n in each. What
starts and ends between two samples isn't seen. Reading the sizes takes time of the cores that
are being measured: samples are 50 ms apart, or 30 times what one takes if that is longer.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path

_EVERY, _SHARE = 0.05, 30


def tree(root: int) -> list[int]:
    """A process and its descendants that are alive."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children[parent].append(int(entry.parent.name))
    found = [root]
    for pid in found:
        found.extend(children[pid])
    return found


def megabytes(root: int) -> float:
    """Proportional set size of a process and its descendants together."""
    kilobytes = 0
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        sizes = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
        kilobytes += sum(map(int, sizes))
    return kilobytes / 1024


class Watch(threading.Thread):
    """Samples the memory of a tree until it is told to stop.

    Args:
        root: the process.

    Attributes:
        peak: the largest sample, in MB.
    """

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.peak, self._root, self._done = 0.0, root, threading.Event()

    def run(self) -> None:
        """Samples."""
        pause = 0.0
        while not self._done.wait(pause):
            began = time.perf_counter()
            self.peak = max(self.peak, megabytes(self._root))
            pause = max(_EVERY, _SHARE * (time.perf_counter() - began))

    def stop(self) -> float:
        """Ends the sampling and returns the peak."""
        self._done.set()
        self.join()
        return self.peak
