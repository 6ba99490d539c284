"""``tacit models export --device`` and ``--verify``, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tacit.cli import main

FAST = ["experiment=digits", "model=pixels", "evaluation=federated"]


def here(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit status and what was said, of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["tacit", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_graphs_are_exported_checked_and_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    to, home = tmp_path / "graphs", str(tmp_path / "home")
    command = ["models", "export", "--device", *FAST, "--to", str(to), "--home", home]
    code, out, _ = here([*command, "--json", "--microbatch", "3"], monkeypatch, capfd)
    assert code == 0
    said = json.loads(out)
    assert said["step"]["error"] <= 1e-5
    assert said["evaluation"]["error"] <= 1e-5
    assert (said["step"]["microbatch"], said["step"]["parameters"]) == (3, 650)
    names = ["evaluation.onnx", "manifest.json", "signature", "step.onnx"]
    assert said["files"] == sorted(path.name for path in to.iterdir()) == names

    code, _, err = here(command, monkeypatch, capfd)
    assert code != 0
    assert "is there already" in err
    # By a process that has no torch.
    code_text = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None;"
        "from tacit.cli import main; main()"
    )
    check = ["models", "export", "--verify", str(to), "--json", "--key"]
    run = [sys.executable, "-c", code_text, *check]
    done = subprocess.run([*run, said["coordinator"]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"]["graph"] == said["step"]["graph"]

    (to / "step.onnx").write_bytes(b"other")
    code, _, err = here([*check, said["coordinator"]], monkeypatch, capfd)
    assert code != 0
    assert "isn't the manifest's" in err
    code, _, err = here([*check, "00" * 32], monkeypatch, capfd)
    assert code != 0
    assert "isn't signed by" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", *FAST], "--to is missing"),
        (["--to", "x"], "must be one version"),
        (["a", "b", "--to", "x"], "must be one version"),
        (["--verify", "x"], "64 digits in hex"),
        (["--verify", "x", "--key", "zz"], "64 digits in hex"),
        (["--verify", "nowhere", "--key", "00" * 32], "can't be read"),
        (["--device", "task=none_such", "--to", "x"], "none_such"),
        (["--device", "experiment=digits", "--microbatch", "0", "--to", "x"], "microbatch=0"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = here(["models", "export", *arguments], monkeypatch, capfd)
    assert code != 0
    assert said in err
    assert "Traceback" not in err


TASK = """
import torch
from torch import nn
from tacit import Task

class Bessel(nn.Linear):
    def forward(self, x):
        return super().forward(x) * torch.special.bessel_j0(x).mean()

def data(client):
    return torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)

task = Task(name="odd", model=lambda: Bessel(4, 2), data=data, examples_per_client=2)
"""


def test_an_unsupported_operator_is_named_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["experiment=none", "task=odd_task:task", "clients=4", "cohort=4"]
    more = ["mechanism=central", "aggregation=plain", "evaluation=none", "--to", "out"]
    command = ["models", "export", "--device", *overrides, *more, "--home", "home"]
    code, _, err = here(command, monkeypatch, capfd)
    assert code != 0
    assert "operator prims.bessel_j0 can't run on a device" in err
    assert "use another layer" in err
    assert not (tmp_path / "out").exists()
