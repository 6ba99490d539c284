"""One process of a side, measured from outside: its time, its memory, what it says.

A script of this folder takes one JSON object as its argument and prints one last. Those that
train mark the end of every round on the system's monotonic clock, so that the first can be
counted from the start of the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.watch import Watch

HERE = Path(__file__).resolve().parent


class SideError(Exception):
    """A side didn't run to its end."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one process of a side did.

    Attributes:
        updates_per_second: over the rounds after the first.
        start_up_seconds: from the start of the process to the end of the first round, less a
            later round.
        peak_mb: of the process and all it started.
        seconds_per_round: mean of the rounds after the first.
        rounds: measured, the first included.
        pace: seconds a round in the first tenth and in the last, after the first round.
        memory: MB after some rounds.
        versions: of a peer's packages.
    """

    updates_per_second: float
    start_up_seconds: float
    peak_mb: float
    seconds_per_round: float
    rounds: int
    pace: tuple[float, float]
    memory: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def call(python: str | Path, script: str, asked: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Runs a script.

    Args:
        python: of the environment.
        script: its name in this folder.
        asked: its argument; "timeout" is how many seconds it may take, 600 if not given.

    Returns:
        What it said, and the peak of its memory in MB.

    Raises:
        SideError: it failed or took too long.
    """
    command = [str(python), str(HERE / script), json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "FLWR_TELEMETRY_ENABLED": "0"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        watch = Watch(process.pid)
        watch.start()
        try:
            out, _ = process.communicate(timeout=asked.get("timeout", 600))
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            raise SideError(f"{script}: not done after {error.timeout:.0f} s") from error
        finally:
            peak = watch.stop()
        if process.returncode != 0:
            errors.seek(0)
            last = [line for line in errors.read().splitlines() if line.strip()][-1:]
            raise SideError(f"{script}: exit {process.returncode}: {' '.join(last)}")
    return dict(json.loads(out.splitlines()[-1])), peak


def measure(python: str | Path, script: str, asked: dict[str, Any]) -> Found:
    """One process of a side that marks its rounds.

    Raises:
        SideError: it ended otherwise, or with fewer than two rounds.
    """
    began = time.monotonic()
    said, peak = call(python, script, asked)
    marks, updates = said["marks"], said["updates"]
    if len(marks) < 2:
        raise SideError(f"{script}: {len(marks)} rounds, which is too few")
    tenth = max(1, len(marks) // 10)
    steady = (marks[-1] - marks[0]) / (len(marks) - 1)
    return Found(
        updates_per_second=sum(updates[1:]) / (marks[-1] - marks[0]),
        start_up_seconds=marks[0] - began - steady,
        peak_mb=peak,
        seconds_per_round=steady,
        rounds=len(marks),
        pace=((marks[tenth] - marks[0]) / tenth, (marks[-1] - marks[-1 - tenth]) / tenth),
        memory=said.get("memory", {}),
        versions=said.get("versions", {}),
    )
