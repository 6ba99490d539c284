"""A run over the gateway with real agents: begun, stopped, killed, resumed."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import agents
import devices
import edge
import numpy as np
import pytest

from tacit.client.edge import enrol
from tacit.client.edge.home import Bundle
from tacit.client.edge.home import Home as DeviceHome
from tacit.configs import build
from tacit.privacy.errors import ConfigError
from tacit.privacy.gates import Gate
from tacit.server import check, rollouts, serving
from tacit.server.begin import RolloutFile
from tacit.server.gates import Gates
from tacit.server.gateway.grid import opened
from tacit.server.gateway.settings import Pace, Settings
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.serving import Job, Stop, Terms, Watch
from tacit.server.store import Row, Store

CLIENTS = 6
ROUNDS = 3


@pytest.fixture
def port() -> int:
    """Free just now, and the gateway's from start to start."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def settings(port: int) -> Settings:
    pace = Pace(retry=0.2, longest=1.0)
    listen = f"127.0.0.1:{port}"
    return Settings(devices.POPULATION, listen=listen, drain=1.0, look=0.2, pace=pace)


def job(resumed: Row | None = None) -> Job:
    spec = build.compose(devices.settings(f"rounds={ROUNDS}", f"population={devices.POPULATION}"))
    return Job(spec, devices.exported()[0], resumed)


@pytest.fixture
def folders(home: Home, tmp_path: Path, port: int) -> Mapping[int, Path]:
    """Of devices that are enrolled."""
    with opened(home, settings(port)) as grid:
        task = devices.exported()[0]
        return {k: agents.enrolled(grid, tmp_path / "devices", k, task) for k in range(CLIENTS)}


TERMS = Terms(deadline=60.0, devices=CLIENTS, drain=30.0)


def test_a_run_is_served_stopped_between_rounds_and_resumed(
    home: Home, folders: Mapping[int, Path], port: int
) -> None:
    stop, told, done = Stop(30.0), list[tuple[int, int, int]](), list[int]()

    def progress(result: Any) -> None:
        done.append(result.round)
        if result.round == 1:
            stop.wish()

    def waiting(*now: int) -> None:
        told.append(now)  # type: ignore[arg-type]

    watch = Watch(waiting=waiting, progress=progress)
    with agents.running(folders):
        row = serving.serve(job(), home, settings(port), TERMS, watch, stop)
        assert row is not None
        assert (row["status"], row["round"], done) == ("stopped", 1, [1])
        assert told[-1] == (CLIENTS, CLIENTS, CLIENTS)
        # The agents come again by themselves.
        row = serving.serve(job(row), home, settings(port), TERMS, watch)
    assert row is not None
    assert (row["status"], row["round"], done) == ("finished", ROUNDS, [1, 2, 3])
    store = Store(home)
    assert check.verify(store).holds
    assert [leaf["kind"] for leaf in store.spending(row["id"])] == ["CHARGE", "RELEASE"] * ROUNDS
    store.close()


def test_versions_are_evaluated_on_devices_and_the_alias_falls_back(
    home: Home, folders: Mapping[int, Path], port: int, tmp_path: Path
) -> None:
    """Agents answer a rollout as they answer a training's evaluations."""
    with agents.running(folders):
        row = serving.serve(job(), home, settings(port), TERMS, Watch())
        assert row is not None
        assert row["status"] == "finished"
        store = Store(home)
        life, name = Lifecycle(store), str(row["name"])
        life.move(name, "champion", 1, expected=None, actor="me", reason="the first")
        second = life.move(
            name,
            "champion",
            3,
            expected=life.current(name, "champion").leaf,  # type: ignore[union-attr]
            actor="me",
            reason="newer",
        )
        gate = Gate(model=name, alias="champion", at_least=0.999, fallback_rounds=1, confidence=0.5)
        Gates(store).set(gate, actor="me", reason="more than it can")
        made = rollouts.plan(store, name, "watch")
        terms = ["evaluation.noise_multiplier=0.01", "attempts=1"]
        spec = rollouts.spec(store, made, 2, terms)
        path = tmp_path / "rollout.toml"
        path.write_text(RolloutFile(spec, made).text())
        found = RolloutFile.read(path)
        assert (found.spec, found.rollout) == (spec, made)
        done = list[Any]()
        watching = Job(found.spec, devices.exported()[0], rollout=found.rollout)
        row = serving.serve(watching, home, settings(port), TERMS, Watch(progress=done.append))
    assert row is not None
    assert (row["status"], [result.round for result in done]) == ("stopped", [1]), row["message"]
    assert set(done[0].metrics) >= {"@3.accuracy", "@3.loss"}
    back = life.current(name, "champion")
    assert back is not None
    assert (back.kind, back.number, back.previous) == ("ROLLBACK", 1, second.leaf)
    assert [leaf["kind"] for leaf in store.spending(row["id"])] == ["CHARGE", "RELEASE"]
    report = check.verify(store)
    assert report.holds, report.findings
    store.close()


def test_a_round_that_takes_too_long_is_abandoned_and_its_charge_stands(
    home: Home, folders: Mapping[int, Path], port: int
) -> None:
    """Nobody answers: the devices are connected, but are the tests' own."""
    with opened(home, settings(port)) as grid:
        strangers = [
            edge.enrol(grid.enrol_port, grid.authority.certificate, grid.devices.invite(60))
        ]
    stop = Stop(0.3)
    watch = Watch(started=lambda run, spec: threading.Timer(1.0, stop.wish).start())
    found: list[Row | None] = []
    terms = Terms(deadline=60.0, devices=1, drain=0.3)
    thread = threading.Thread(
        target=lambda: found.append(serving.serve(job(), home, settings(port), terms, watch, stop))
    )
    thread.start()

    def connected() -> edge.Stream | None:
        with contextlib.suppress(Exception):
            return edge.Stream(strangers[0], port).begin()
        return None

    streams: list[edge.Stream] = []
    edge.until(lambda: bool(streams) or bool(streams.extend([s] if (s := connected()) else [])))
    thread.join(60)
    streams[0].close()
    (row,) = found
    assert row is not None
    assert (row["status"], row["round"]) == ("stopped", 0)
    assert "--resume" in row["message"]
    store = Store(home)
    assert [leaf["kind"] for leaf in store.spending(row["id"])] == ["CHARGE", "ABANDON"]
    assert check.verify(store).holds
    store.close()


def test_enough_devices_are_waited_for() -> None:
    spec = build.compose(devices.settings())
    task = devices.exported()[0]
    assert serving.fewest(Job(spec, task)) == 4  # all are asked, four are needed
    with pytest.raises(ConfigError, match="seed"):
        Job(build.compose(devices.settings("seed=1")), task)
    with pytest.raises(ConfigError, match="shortcut"):
        Job(build.compose(devices.settings("secure.protocol=shortcut")), task)


# The command line

TACIT = (sys.executable, "-c", "from tacit.cli import main; main()")


@contextlib.contextmanager
def tacit(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs until the block ends at the latest."""
    process = subprocess.Popen(
        [*TACIT, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def json_of(*command: str) -> Any:
    done = subprocess.run(
        [*TACIT, *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines_until(process: subprocess.Popen[str], holds: Callable[[str], bool]) -> str:
    """Reads progress until a line that is waited for."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if holds(line):
            return line
    raise AssertionError("".join(seen))


@pytest.mark.slow
def test_from_nothing_to_a_model_by_the_command_line(tmp_path: Path, port: int) -> None:
    """Enrols alone, is killed in the middle of a run, goes on, and ends."""
    home = str(tmp_path / "home")
    at = ("--home", home, "--listen", f"127.0.0.1:{port}", "--enrol", "127.0.0.1:0")
    with tacit("serve", "--enrol-only", "--population", devices.POPULATION, *at) as serve:
        lines_until(serve, lambda line: "0 enrolled" in line)
        made = json_of(
            "devices",
            "invite",
            "--count",
            str(CLIENTS),
            "--to",
            str(tmp_path / "i"),
            "--home",
            home,
        )
        folders = {}
        for bundle in made["bundles"]:
            path = tmp_path / Path(bundle).stem
            who = enrol.enrol(DeviceHome(path), Bundle.load(Path(bundle)))
            folders[who.client] = path
            (path / "agent.toml").write_text(agents.TOML)
            inputs, targets = devices.exported()[0].data(who.client)
            np.savez(path / "records.npz", inputs=np.asarray(inputs), targets=np.asarray(targets))
        assert sorted(folders) == list(range(CLIENTS))
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(30) == 0
    listed = json_of("devices", "list", "--home", home)
    assert [row["client"] for row in listed["devices"]] == list(range(CLIENTS))
    assert listed["invited"] == 0
    run = [
        *devices.settings(f"rounds={ROUNDS}", f"population={devices.POPULATION}"),
        "task=served:task",
    ]
    more = ("--devices", str(CLIENTS), "--deadline", "60", "--json")
    with agents.running(folders):
        with tacit("serve", *run, *at, *more) as serve:
            lines_until(serve, lambda line: "3 rounds" in line)
            assert serve.stdout is not None
            assert json.loads(serve.stdout.readline())["round"] == 1
            serve.kill()
        with tacit("serve", "--resume", "last", *at, *more) as serve:
            out, err = serve.communicate(timeout=300)
            assert serve.returncode == 0, err
    *rounds, last = [json.loads(line) for line in out.splitlines()]
    assert [r["round"] for r in rounds][-1] == ROUNDS
    assert (last["status"], last["round"]) == ("finished", ROUNDS)
    store = Store(Home(home))
    assert check.verify(store).holds
    store.close()
    assert json_of("devices", "revoke", "3", "--home", home)["revoked"] == 3
