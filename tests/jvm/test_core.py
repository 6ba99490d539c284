"""The agent core for the JVM passes its own tests, against the golden vectors."""

from __future__ import annotations

import subprocess

from java import ROOT, command


def test_the_core_passes_its_tests(path: str) -> None:
    """No skip without Java: `make test` installs it."""
    done = subprocess.run(
        command(path, "dev.tacit.edge.Tests"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " 0 failed" in done.stdout
