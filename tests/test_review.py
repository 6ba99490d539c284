"""docs/review.md: every command in it, in order, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What each block that shows something should say.
SAYS = {
    "broken.tacit": "exit status 1",
    "budget.wait=0": "exit status 2",
    "prove 1": "the proof holds",
    "prove --since": "the proof holds",
    "--resume last": "all holds",
    "audit one-run": "not refuted",
    "diff ledger.tacit": "leaves were appended",
    "tacit-verify ledger.tacit --key": "all holds",
}


@pytest.mark.slow
def test_a_reviewers_hour(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "review.md").read_text())
    assert len(blocks) >= 13
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("TACIT_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TACIT_HOME": "home",
        "COLUMNS": "200",
    }
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        for words, said in SAYS.items():
            if words in block:
                assert said in done.stdout, f"{block}\n{done.stdout}\n{done.stderr}"
    assert "waits for a review" in (tmp_path / "waiting.txt").read_text()
