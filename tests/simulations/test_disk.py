"""A disk that is full or read-only: a clear error, and nothing that was committed is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TACIT = [sys.executable, "-c", "from tacit.cli import main; main()"]
SETTINGS = "clients=100 cohort=20 rounds=12 model=pixels"


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script where it may mount file systems of its own."""
    return subprocess.run(
        ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_full_disk_stops_with_a_hint_and_resumes_when_there_is_room(tmp_path: Path) -> None:
    tacit = f"{sys.executable} -c 'from tacit.cli import main; main()'"
    done = in_namespace(f"""
        mount -t tmpfs -o size=420k tmpfs {tmp_path} || exit 99
        {tacit} simulate {SETTINGS} --home {tmp_path}/home
        echo "first $?" >&2
        mount -o remount,size=50m {tmp_path} || exit 99
        {tacit} ledger show --json --home {tmp_path}/home > {tmp_path}/ledger.json
        {tacit} simulate --resume last --json --home {tmp_path}/home > {tmp_path}/result.json
        echo "second $?" >&2
        cat {tmp_path}/ledger.json
        echo
        cat {tmp_path}/result.json
    """)
    assert "first 2" in done.stderr, done.stderr
    assert "free space and use --resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert "second 0" in done.stderr
    ledger, result = (json.loads(line) for line in done.stdout.splitlines() if line)
    kinds = [leaf["kind"] for leaf in ledger["leaves"]]
    assert kinds.count("CHARGE") >= kinds.count("RELEASE") > 0
    assert result["rounds"] == 12
    assert result["status"] == "finished"


def test_a_read_only_home_is_explained(tmp_path: Path) -> None:
    tacit = f"{sys.executable} -c 'from tacit.cli import main; main()'"
    done = in_namespace(f"""
        mount -t tmpfs -o ro tmpfs {tmp_path} || exit 99
        {tacit} simulate rounds=1 --home {tmp_path}/home
    """)
    assert done.returncode == 2
    assert "can't be written" in done.stderr
    assert "--home" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_share_a_home(tmp_path: Path) -> None:
    settings = [*SETTINGS.split(), "rounds=3", "--json", "--home", str(tmp_path)]
    processes = [
        subprocess.Popen([*TACIT, "simulate", *settings], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [json.loads(p.communicate(timeout=300)[0]) for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    # The same seed, whoever else is at work.
    assert results[0]["artifact_sha256"] == results[1]["artifact_sha256"]
    assert results[0]["run"] != results[1]["run"]
    listed = subprocess.run(
        [*TACIT, "models", "list", "--json", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [row["number"] for row in json.loads(listed.stdout)] == [1, 2, 3, 4, 5, 6]
