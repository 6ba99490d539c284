"""Slow, cut, wrong and repeating networks between real devices and a real gateway."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import crowd
import edge
import pytest
from checking import check_exposures, check_log
from proxy import Network, Proxy
from tiny import make_tiny

from tacit.client.edge.link import Answer, Link
from tacit.protocol import edge_pb2 as pb
from tacit.server.gateway.grid import GatewayGrid
from tacit.server.home import Home

DEEP = os.environ.get("TACIT_DEEP") == "1"
DEVICES = 20 if DEEP else 8
deep = pytest.mark.skipif(not DEEP, reason="TACIT_DEEP=1 runs it")
SETTINGS = crowd.settings(DEVICES, minimum=5, rounds=3 if DEEP else 1)


@pytest.fixture
def devices(grid: GatewayGrid, tmp_path: Path) -> Iterator[crowd.Crowd]:
    with crowd.Crowd(grid, make_tiny(DEVICES), DEVICES, tmp_path) as made:
        yield made


def whole(devices: crowd.Crowd, home: Home) -> None:
    """Every round is released, with everybody's vector in it, charged once."""
    store, _, results = crowd.rounds(devices, SETTINGS, home, deadline=90.0)
    assert [r.accepted for r in results] == [DEVICES] * len(results)
    check_exposures(store, check_log(store))
    store.close()
    for client in range(DEVICES):
        assert devices.ledger(client).spent().participations == len(results)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        Network(latency=0.15, jitter=0.05),
        Network(rate=60_000.0),
        pytest.param(Network(latency=0.05, jitter=0.3), marks=deep),
    ],
    ids=["far", "narrow", "unsteady"],
)
def test_slow_networks_cost_time(
    network: Network, grid: GatewayGrid, devices: crowd.Crowd, home: Home
) -> None:
    with Proxy(grid.port, network) as proxy:
        devices.ports = dict.fromkeys(range(DEVICES), proxy.port)
        devices.on()
        whole(devices, home)
        assert proxy.moved.connections == DEVICES


@pytest.mark.slow
def test_connections_that_are_cut_again_and_again_are_made_again(
    grid: GatewayGrid, devices: crowd.Crowd, home: Home
) -> None:
    over = threading.Event()
    with Proxy(grid.port) as proxy:
        devices.ports = dict.fromkeys(range(DEVICES), proxy.port)
        devices.on()

        before = proxy.moved.up

        def cutting() -> None:
            # Once the round is under way, however fast it is.
            while proxy.moved.up < before + 2000 and not over.wait(0.01):
                pass
            proxy.cut()
            while not over.wait(3.0):
                proxy.cut()

        cutter = threading.Thread(target=cutting)
        cutter.start()
        try:
            # An answer on its way is sent again; the very same one.
            whole(devices, home)
        finally:
            over.set()
            cutter.join()
        assert proxy.moved.cut >= DEVICES
        assert proxy.moved.connections > DEVICES


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        pytest.param("doubled", marks=deep),
        pytest.param("swapped", marks=deep),
        "corrupted",
    ],
)
def test_bytes_that_are_doubled_swapped_or_changed_end_a_connection_only(
    harm: str, grid: GatewayGrid, devices: crowd.Crowd, home: Home
) -> None:
    with Proxy(grid.port, Network(**{harm: 0.02})) as proxy:
        # Two of the devices have such a network; TLS notices, and they come back.
        devices.ports = dict.fromkeys((0, 1), proxy.port)
        devices.on()
        whole(devices, home)


@pytest.mark.slow
def test_a_network_that_hangs_costs_its_devices_their_place(
    grid: GatewayGrid, devices: crowd.Crowd, home: Home
) -> None:
    with Proxy(grid.port) as proxy:
        devices.ports = dict.fromkeys((0, 1), proxy.port)
        devices.on()
        proxy.network.stalled = True
        # Nobody says that they are gone: their connections stand.
        devices.away |= {0, 1}
        store, _, results = crowd.rounds(devices, [*SETTINGS, "rounds=1"], home)
        assert results[0].accepted == DEVICES - 2
        assert results[0].rejected == {"no reply": 2}
        check_exposures(store, check_log(store))
        store.close()
        proxy.network.stalled = False


@pytest.mark.slow
def test_answers_that_come_twice_count_once(
    devices: crowd.Crowd, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, sent = Link.answer, []

    async def twice(link: Link, answer: Answer) -> None:
        await honest(link, answer)
        await honest(link, answer)
        sent.append(answer.task)

    monkeypatch.setattr(Link, "answer", twice)
    devices.on()
    whole(devices, home)
    assert len(sent) >= 5 * DEVICES


def test_parts_out_of_order_end_the_stream_with_a_reason(
    grid: GatewayGrid, caplog: pytest.LogCaptureFixture
) -> None:
    device = edge.enrol(grid.enrol_port, grid.authority.certificate, grid.devices.invite(60.0))
    from flwr.app import Message

    from tacit.configs import wire

    node = grid.nodes(1)[device.client]
    content = wire.content(b"ask", bytes(16))
    (identifier,) = grid.push_messages([Message(content, node, "train", ttl=60.0)])
    for order in ((1, 0, 2), (0, 2, 1), (0, 0, 1, 2), (2, 1, 0)):
        with edge.stream(device, grid.port) as talk:
            talk.begin()
            task = talk.receive("task")
            assert task.id == identifier
            parts = talk.parts(task, bytes(2500))
            for place in order:
                talk.send(pb.DeviceFrame(answer=parts[place]))
            why, code = talk.ended()
            assert why.startswith(("ORDER", "SIGNATURE"))
            assert code in ("INVALID_ARGUMENT", "PERMISSION_DENIED")
    assert {r.__dict__["reason"] for r in caplog.records if "refused" in r.message} <= {
        "ORDER",
        "SIGNATURE",
    }
    assert list(grid.pull_messages([identifier])) == []
    with edge.stream(device, grid.port) as talk:
        talk.begin()
        assert talk.answer(talk.receive("task"), bytes(2500)).accepted
    (reply,) = grid.pull_messages([identifier])
    assert reply.content["tacit"]["body"] == bytes(2500)
