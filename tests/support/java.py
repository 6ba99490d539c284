"""Devices that aren't Python: the agent of ``jvm/``, built once, a process each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tacit import Task
from tacit.server.gateway.grid import GatewayGrid

ROOT = Path(__file__).parents[2]
MAIN = "dev.tacit.edge.agent.Main"


def build() -> str:
    """Builds the agent and its tests; the class path. No skip without Java: make installs it."""
    done = subprocess.run(["sh", "jvm/build.sh"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return (ROOT / "build/jvm/classpath").read_text()


def command(path: str, main: str, *arguments: object) -> list[str]:
    """How a class is run; small, since machines that run tests are."""
    options = ["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return ["java", *options, "-cp", path, main, *map(str, arguments)]


class Jvm:
    """One device.

    Args:
        path: class path.
        folder: of its files.
        client: its number.
    """

    def __init__(self, path: str, folder: Path, client: int) -> None:
        self._path, self.home, self.client = path, folder / "home", client
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    def enrol(self, grid: GatewayGrid, population: str, **changes: str) -> None:
        """Enrols at a gateway, with a bundle as ``tacit devices invite`` makes them."""
        authority = grid.authority
        bundle = {
            "version": 1,
            "population": population,
            "enrol": f"127.0.0.1:{grid.enrol_port}",
            "gateway": f"127.0.0.1:{grid.port}",
            "ca": authority.certificate.decode(),
            "authority": authority.public.hex(),
            "coordinator": authority.coordinator.public.hex(),
            **changes,
        }
        if "token" not in changes:
            bundle["token"] = grid.devices.invite(600.0, self.client)
        path = self.home.parent / "bundle.json"
        path.write_text(json.dumps(bundle))
        made = command(self._path, MAIN, "enrol", path, self.home)
        done = subprocess.run(made, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def configure(self, task: Task, graphs: Mapping[str, float], **more: Any) -> None:
        """Its owner's settings, and its records."""
        inputs, targets = task.data(self.client)
        np.savez(self.home / "data.npz", inputs=np.asarray(inputs), targets=np.asarray(targets))
        settings = {"eligible": True, "softmax": graphs, "data": "data.npz", **more}
        (self.home / "agent.json").write_text(json.dumps(settings))

    def gateway(self, port: int) -> None:
        """Reaches its gateway by another port from now on: that of a proxy."""
        path = self.home / "device.json"
        held = json.loads(path.read_text())
        path.write_text(json.dumps({**held, "gateway": f"127.0.0.1:{port}"}))

    def start(self) -> None:
        """Switches it on."""
        with self._log.open("ab") as log:
            made = command(self._path, MAIN, "run", self.home)
            self._process = subprocess.Popen(made, stdin=subprocess.DEVNULL, stderr=log)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Switches it off."""
        if self._process is not None:
            if self._process.poll() is None:
                os.kill(self._process.pid, how)
            self._process.wait(30)
            self._process = None

    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.poll() == 0

    def log(self) -> list[dict[str, str]]:
        """What it wrote about itself."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self, event: str) -> list[dict[str, str]]:
        """Its lines about one kind of event."""
        return [line for line in self.log() if line["event"] == event]

    def ledger(self) -> list[dict[str, Any]]:
        """Its charges."""
        lines = (self.home / "ledger.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
