"""What the owner sets, and when the device may be asked."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tacit.client.edge import config, data
from tacit.client.edge.policy import Eligibility
from tacit.privacy.errors import ConfigError, DataError, StorageError, TacitError

ALL = '{"idle": true, "charging": true, "unmetered": true}'


def read(tmp_path: Path, text: str) -> config.Config:
    (tmp_path / "agent.toml").write_text(text)
    return config.load(tmp_path / "agent.toml")


def met(eligibility: Eligibility) -> bool:
    return asyncio.run(eligibility.met())


def test_without_settings_a_device_is_careful(tmp_path: Path) -> None:
    made = config.load(tmp_path / "agent.toml")
    assert made.limits.secure
    assert not made.limits.seeded
    assert not met(made.eligibility)
    assert made.data is None


def test_settings_are_read(tmp_path: Path) -> None:
    made = read(
        tmp_path,
        """
        gateway = "gate:1"
        data = "my.npz"
        threads = 2
        [limits]
        rounds = 7
        epsilon = 3
        delta = 1e-6
        separation = 60.0
        [eligibility]
        require = ["idle"]
        file = "state.json"
        poll = 5
        [download]
        largest = 10
        cache = 20
        """,
    )
    assert (made.gateway, made.data, made.threads) == ("gate:1", tmp_path / "my.npz", 2)
    assert (made.limits.rounds, made.limits.epsilon, made.limits.secure) == (7, 3, True)
    assert (made.largest, made.cache) == (10, 20)
    assert made.eligibility.file == tmp_path / "state.json"


def test_the_settings_in_the_docs_are_settings(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "devices.md").read_text()
    made = read(tmp_path, text.partition("```toml\n")[2].partition("```")[0])
    assert made.limits.epsilon == 8.0
    assert made.eligibility.file == Path("/run/device/state.json")


@pytest.mark.parametrize(
    "text",
    [
        "limit = 3",
        "[limits]\nround = 3",
        "[limits]\nrounds = -1",
        "[limits]\nepsilon = 1.0",
        '[limits]\nrounds = "3"',
        "limits = 3",
        "data = 3",
        "threads = 0",
        "threads = true",
        "threads = 1.5",
        "[download]\nlargest = 0",
        "[download]\nlargest = 10\ncache = 5",
        '[eligibility]\nalways = "yes"',
        '[eligibility]\nrequire = ["idel"]',
        '[eligibility]\nrequire = "idle"',
        '[eligibility]\nalways = true\nfile = "x"',
        '[eligibility]\nfile = "x"\ncommand = ["y"]',
        "[eligibility]\nfile = 3",
        "[eligibility]\npoll = 0",
        "[eligibility]\npoll = true",
        "[eligibility]\ncommand = [3]",
        "[eligibility",
    ],
)
def test_settings_that_are_not_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TacitError):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (ALL, True),
        ('{"idle": true, "charging": true, "unmetered": false}', False),
        ('{"idle": true, "charging": true}', False),
        ('{"idle": 1, "charging": 1, "unmetered": 1}', False),
        ("[]", False),
        ("", False),
        ("{", False),
        ("[" * 50_000, False),
        (None, False),
    ],
)
def test_conditions_come_from_a_file(tmp_path: Path, report: str | None, expected: bool) -> None:
    path = tmp_path / "state.json"
    if report is not None:
        path.write_text(report)
    assert met(Eligibility(file=path)) is expected
    assert met(Eligibility(file=path, require=("idle",))) is (
        report is not None and '"idle": true' in report
    )


def test_conditions_come_from_a_command() -> None:
    def command(script: str) -> Eligibility:
        return Eligibility(command=(sys.executable, "-c", script))

    assert met(command(f"print('{ALL}')"))
    assert not met(command(f"print('{ALL}'); raise SystemExit(1)"))
    assert not met(command("print('x' * 100_000)"))
    assert not met(Eligibility(command=("/no/such/command",)))
    conditions = asyncio.run(command(json.dumps("x")).conditions())
    assert conditions == {"reported": False}


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tacit.client.edge.policy._SECONDS", 0.2)
    assert not met(Eligibility(command=("sleep", "60")))


# Records


def test_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    np.savez(path, inputs=np.zeros((3, 2), dtype=np.float32), targets=np.arange(3))
    assert len(data.load(path)) == 3


def test_files_that_are_no_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    with pytest.raises(DataError, match="FileNotFoundError"):
        data.load(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError):
        data.load(path)
    np.savez(path, inputs=np.zeros(3))
    with pytest.raises(DataError, match="KeyError"):
        data.load(path)
    np.savez(path, inputs=np.zeros(3), targets=np.array([{}] * 3))
    with pytest.raises(DataError, match="ValueError"):
        data.load(path)
    np.savez(path, inputs=np.zeros(3), targets=np.array(3))
    with pytest.raises(DataError, match="dimension"):
        data.load(path)


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").mkdir()
    with pytest.raises(StorageError):
        config.load(tmp_path / "agent.toml")
    with pytest.raises(ConfigError):
        Eligibility(poll=0)
