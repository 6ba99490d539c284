"""A tiny federation that kills its own process at a named step; run by test_crash.

Imported once into a fork server, so that each of the many processes starts at once.
"""

from __future__ import annotations

import logging
import os
import signal

import torch._dynamo  # noqa: F401 - what a run would import late, once for all processes
from tiny import TINY, make_tiny

from tacit import simulate

SETTINGS = [*TINY, "rounds=4", "evaluation=federated", "optimizer=fedadam"]


class Killer(logging.Handler):
    """Kills the process, as the kernel would, when a step's line is logged.

    Args:
        line: what `tacit.server.coordinator` logs before it takes the step.
    """

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self.line:
            os.kill(os.getpid(), signal.SIGKILL)


def federation(home: str, line: str, resume: str | None = None) -> None:
    """Starts or resumes the federation, to be killed at ``line``."""
    logger = logging.getLogger("tacit.round")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Killer(line))
    if resume is not None:
        simulate(task=make_tiny(), home=home, resume=resume)
    else:
        simulate(SETTINGS, task=make_tiny(), home=home)
