"""The agent core for the JVM: it builds, and passes its own tests against the golden vectors."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_core_passes_its_tests() -> None:
    """No skip without Java: `make test` installs it."""
    built = subprocess.run(["sh", "jvm/build.sh"], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    path = (ROOT / "build/jvm/classpath").read_text()
    command = ["java", "-cp", path, "dev.tacit.edge.Tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "0 failed" in done.stdout
