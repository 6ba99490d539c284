"""A tiny federation that kills its own process at a named step; run by test_crash.

Imported once into a fork server, so that each of the many processes starts at once.
"""

from __future__ import annotations

import logging
import os
import signal

import torch._dynamo  # noqa: F401 - what a run would import late, once for all processes
from tiny import TINY, TINY_SECURE, make_tiny

from tacit import simulate

MORE = ["rounds=4", "evaluation=federated", "optimizer=fedadam"]
SETTINGS = {"central": [*TINY, *MORE], "secure": [*TINY_SECURE, *MORE]}


class Killer(logging.Handler):
    """Kills the process, as the kernel would, when a step's line is logged.

    Args:
        line: what the coordinator or an aggregation logs before it takes the step.
        count: at which time it is logged, from 1.
    """

    def __init__(self, line: str, count: int) -> None:
        super().__init__()
        self.line, self.left = line, count

    def emit(self, record: logging.LogRecord) -> None:
        self.left -= record.getMessage() == self.line
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def federation(
    home: str, line: str, resume: str | None = None, kind: str = "central", count: int = 1
) -> None:
    """Starts or resumes the federation, to be killed when ``line`` comes for that time."""
    logger = logging.getLogger("tacit.round")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Killer(line, count))
    if resume is not None:
        simulate(task=make_tiny(), home=home, resume=resume)
    else:
        simulate(SETTINGS[kind], task=make_tiny(), home=home)
