"""The same coordinator and clients on Flower's Ray simulation, started by `flwr run`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store

PROJECT = Path(__file__).parents[2] / "docs" / "flower"
NODES = 6
SETTINGS = (
    f"clients={NODES} cohort={NODES} rounds=2 model=pixels evaluation=federated "
    "privacy.record.noise_multiplier=1.0 seed=3"
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A SuperLink of this test's own, on loopback; what `flwr` needs to find it."""
    port = free_port()
    place = tmp_path / "flwr"
    place.mkdir()
    (place / "config.toml").write_text(
        f'[superlink]\ndefault = "mine"\n\n[superlink.mine]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    env = {
        **os.environ,
        "FLWR_HOME": str(place),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
    }
    command = [
        "flower-superlink",
        "--insecure",
        "--simulation",
        "--isolation",
        "subprocess",
        "--disable-runtime-dependency-installation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (tmp_path / "superlink.log").open("w") as log:
        link = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", link)
            yield env
        finally:
            link.terminate()
            link.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the SuperLink ended"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            assert time.monotonic() < end, "the SuperLink didn't come up"
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.ray
def test_flwr_run_gives_the_same_models_as_one_process(
    flower: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    config = tmp_path / "run.toml"
    config.write_text(f"overrides = {json.dumps(SETTINGS)}\nhome = {json.dumps(str(home))}\n")
    resources = f"num-supernodes={NODES} client-resources-num-cpus=1"
    run = ["flwr", "run", str(PROJECT), "mine", "--stream", "-c", str(config)]
    done = subprocess.run(
        [*run, "--federation-config", resources],
        env=flower,
        capture_output=True,
        text=True,
        timeout=400,
    )
    listed = subprocess.run(
        ["flwr", "ls", "mine", "--limit", "1", "--format", "json"],
        env=flower,
        capture_output=True,
        text=True,
        check=True,
    )
    status = json.loads(listed.stdout)["runs"][0]["status"]
    assert status == "finished:completed", done.stdout[-4000:] + done.stderr[-2000:]

    from tacit import simulate

    # A node trains alone: engines agree to rounding, this one to the bit.
    here = simulate([*SETTINGS.split(), "engine=serial"], home=tmp_path / "here")
    store = Store(Home(home))
    (row,) = store.runs()
    assert (row["status"], row["round"]) == ("finished", 2)
    rounds = store.rounds(row["id"])
    assert rounds[-1]["epsilon"] == pytest.approx(here.epsilon)
    assert rounds[-1]["accepted"] == NODES
    # Nobody saw a vector, and sums of integers don't depend on the order they came in.
    assert store.versions()[-1]["artifact"] == here.artifact_sha256
    assert ModelRegistry(Home(home), store).get(here.artifact_sha256)
    assert sorted(path.suffix for path in (home / "clients").iterdir()) == [
        ".json",
        *[".key"] * NODES,
        *[".vault"] * NODES,
    ]
    kinds = [leaf["kind"] for leaf in store.spending()]
    assert kinds.count("CHARGE") == kinds.count("RELEASE") == 4
