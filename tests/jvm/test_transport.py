"""What a JVM device does of keys it didn't pin, of a bad network, and of a gateway that stops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import edge
import numpy as np
import pytest
from devices import exported
from edge import Place
from java import Jvm
from proxy import Network, Proxy
from tiny import make_tiny

from tacit.privacy.messages import TrainRequest
from tacit.privacy.secagg.keys import Identity
from tacit.server.gateway.authority import Authority
from tacit.server.home import Home


@pytest.fixture
def place(home: Home) -> Iterator[Place]:
    with edge.serving(home, inline=1024, chunk=1024) as made:
        yield made


@contextlib.contextmanager
def running(device: Jvm) -> Iterator[Jvm]:
    device.start()
    try:
        yield device
    finally:
        device.stop()


def error(place: Place, body: bytes, kind: str = "query.advertise") -> str:
    """Why client 3 refuses a task."""
    return place.refusal(place.push(body, 3, kind))


def test_only_the_bundles_keys_are_trusted(path: str, place: Place, tmp_path: Path) -> None:
    device = Jvm(path, tmp_path / "device", 3)
    grid, token = place.grid, place.grid.devices.invite(600.0, 3)
    other, forged = Authority(Home(tmp_path / "other"), "tests"), Identity.generate().public
    with pytest.raises(RuntimeError, match="UNAVAILABLE"):
        device.enrol(grid, "tests", token=token, ca=other.certificate.decode())
    with pytest.raises(RuntimeError, match="authority"):
        device.enrol(grid, "tests", token=token, authority=forged.hex())
    with pytest.raises(RuntimeError, match="another population"):
        device.enrol(grid, "phones", token=token)
    with pytest.raises(RuntimeError, match="TOKEN_UNKNOWN"):
        device.enrol(grid, "tests", token="x" * 43)
    assert not (device.home / "device.json").exists()
    # As after replies that were lost: the same device.
    device.enrol(grid, "tests", token=token)
    assert (device.home / "device.json").exists()


def test_documents_of_others_are_refused(path: str, place: Place, tmp_path: Path) -> None:
    device = Jvm(path, tmp_path / "device", 3)
    device.enrol(place.grid, "tests")
    task, document, blobs = exported()
    device.configure(task, {document.step.graph: 1.0})
    with running(device):
        assert error(place, b"x") == "UNSIGNED: the task has no run document"
        place.grid.attach(document.encode(Identity.generate()), list(blobs.values()))
        assert error(place, b"x").startswith("UNSIGNED: the run document isn't signed")
        signed = document.encode(place.grid.authority.coordinator)
        place.grid.attach(signed, list(blobs.values()))
        assert error(place, b"x").startswith("MALFORMED: not a message")
        assert error(place, b"x", "query.gossip").startswith("UNSUPPORTED")
        assert place.empty()


def test_downloads_go_on_over_a_network_that_cuts(path: str, place: Place, tmp_path: Path) -> None:
    """A request of 400 kB, where no connection lives for more than 250 kB."""
    device = Jvm(path, tmp_path / "device", 3)
    device.enrol(place.grid, "tests")
    _, document, blobs = exported()
    device.configure(make_tiny(), {document.step.graph: 1.0})
    place.grid.attach(document.encode(place.grid.authority.coordinator), list(blobs.values()))
    vector = np.zeros(100_000, dtype=np.float32)
    request = TrainRequest(document.run, 1, 0, "0" * 64, document.frozen, 0.5, 0, b"", vector)
    with Proxy(place.port, Network(cut_after=250_000)) as proxy:
        device.gateway(proxy.port)
        with running(device):
            # It was read to its end: the plan in it is wrong.
            assert error(place, request.encode(), "train").startswith("PLAN: the plan isn't")
        assert proxy.moved.cut >= 1


def test_it_comes_back_to_a_gateway_that_was_stopped(path: str, home: Home, tmp_path: Path) -> None:
    device = Jvm(path, tmp_path / "device", 3)
    with edge.serving(home, retry=0.2, longest=1.0) as place:
        port = place.port
        device.enrol(place.grid, "tests")
        device.configure(make_tiny(), {})
        device.start()
        edge.until(lambda: place.grid.connected == 1)
    try:
        with edge.serving(home, listen=f"127.0.0.1:{port}") as place:
            edge.until(lambda: place.grid.connected == 1)
            assert error(place, b"x").startswith("UNSIGNED")
            place.grid.devices.revoke(3)
            # It stops for good: whoever runs it has to be asked.
            edge.until(device.ended)
            assert "REVOKED" in device.events("disconnected")[-1]["why"]
    finally:
        device.stop()


def test_a_certificate_that_ends_soon_is_renewed(path: str, home: Home, tmp_path: Path) -> None:
    device = Jvm(path, tmp_path / "device", 3)
    # It begins five minutes before it is made: less than a third of its life is left.
    with edge.serving(home, certificate=60.0) as place:
        device.enrol(place.grid, "tests")
        old = (device.home / "tls.pem").read_text()
        with running(device):
            edge.until(lambda: place.grid.connected == 1)
        assert len(device.events("renewed")) == 1
        assert (device.home / "tls.pem").read_text() != old
        with running(device):
            edge.until(lambda: place.grid.connected == 1)
