"""The tiny task as a command line names it: ``task=served:task``."""

from __future__ import annotations

from tiny import make_tiny

from tacit import Task
from tacit.configs.spec import RunSpec


def task(spec: RunSpec) -> Task:
    """Of the tests' devices."""
    return make_tiny()
