"""Malformed and oversized messages: at least 100,000, and nothing but a refusal comes of them.

Seeds are fixed: 20261128 and up. In this process the handlers are called without a socket; 2,000
streams go over TLS to a real gateway. TACIT_DEEP=1 makes ten times as many of each.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import edge
import fuzzing
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from tacit.privacy.errors import MessageError
from tacit.privacy.messages import EncodedReply, EvaluateReply, Message, TrainReply
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.messages import Advertisement, Confirmation, Masked, Revealed, Shares
from tacit.protocol import edge_pb2 as pb
from tacit.server.gateway.grid import GatewayGrid, opened
from tacit.server.gateway.refused import REASONS
from tacit.server.gateway.settings import Settings
from tacit.server.home import Home

SEED = 20261128
TIMES = 10 if os.environ.get("TACIT_DEEP") == "1" else 1
STREAMS, REQUESTS, ANSWERS, SOCKETS = 60_000 * TIMES, 20_000 * TIMES, 30_000 * TIMES, 2_000 * TIMES
# Python's allocator keeps arenas; what leaks by input would be a multiple of this.
MOST_MEMORY = 64 * 2**20


class Reasons(logging.Filter):
    """Counts refusals, which have to have a reason, and keeps none of them, as pytest would."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.getMessage().startswith("refused:"):
            assert record.__dict__["reason"] in REASONS
            self.count += 1
            return False
        return True


@pytest.fixture
def logged() -> Iterator[Reasons]:
    log, found = logging.getLogger("tacit.gateway"), Reasons()
    log.addFilter(found)
    yield found
    log.removeFilter(found)


@pytest.mark.slow
def test_streams_of_wrong_frames_end_with_a_reason(tmp_path: Path, logged: Reasons) -> None:
    async def feed() -> tuple[fuzzing.Tally, int]:
        target = fuzzing.Target(tmp_path, SEED)
        before = 0
        for number in range(STREAMS):
            await target.stream(target.spoil.wrong(target.lay()))
            if number % 100 == 0:
                target.settle()
            if number == 2000:
                before = fuzzing.resident()
        # The device is as welcome as before.
        honest = [frame.SerializeToString() for frame in target.spoil.honest(target.lay())]
        call = await target.stream(honest)
        assert call.status is None
        assert len(call.heard) >= 2
        target.settle()
        grown = fuzzing.resident() - before
        target.close()
        return target.tally, grown

    tally, grown = asyncio.run(feed())
    refused = tally.reasons.total()
    assert STREAMS * 0.3 < refused < STREAMS
    assert tally.answered > STREAMS / 100
    assert {"MALFORMED", "ORDER", "TOO_LARGE", "VERSION", "SIGNATURE"} <= set(tally.reasons)
    assert logged.count == refused
    assert grown < MOST_MEMORY


@pytest.mark.slow
def test_requests_to_enrol_are_refused_with_a_reason(tmp_path: Path) -> None:
    async def feed() -> tuple[fuzzing.Tally, int]:
        target = fuzzing.Target(tmp_path, SEED + 1)
        before = fuzzing.resident()
        for number in range(REQUESTS):
            if number % 500 == 0:
                token = target.devices.invite(600.0)
                right = edge.request(token, target.identity, target.key).SerializeToString()
            data = target.spoil.bytes(right)
            while _same(data, right):
                data = target.spoil.bytes(right)
            await target.enrol(data)
        enrolled = len(target.devices.enrolled())
        grown = fuzzing.resident() - before
        target.close()
        assert enrolled == 1
        return target.tally, grown

    tally, grown = asyncio.run(feed())
    assert tally.answered == 0
    assert tally.reasons.total() == REQUESTS
    assert {"MALFORMED", "PROOF"} <= set(tally.reasons)
    assert grown < MOST_MEMORY


def _same(data: bytes, right: bytes) -> bool:
    """Whether bytes mean the same request: fields of later versions are to be ignored."""
    try:
        found = pb.EnrolRequest.FromString(data)
    except DecodeError:
        return False
    found.DiscardUnknownFields()
    wanted = pb.EnrolRequest.FromString(right)
    # The agent's name is nobody's business but the log's.
    found.agent = wanted.agent
    return found == wanted


def answers() -> list[Message]:
    """What devices answer, whole."""
    place, session = ("r", 1, 0), "ab" * 32
    vector = np.ones(5, dtype=np.float32)
    signature = bytes(64)
    return [
        Advertisement(*place, session, 3, signature, bytes(32), bytes(32)),
        TrainReply(*place, vector, vector),
        EvaluateReply(*place, vector),
        EncodedReply(*place, bytes(20), bytes(16)),
    ]


KINDS = (
    Advertisement,
    Shares,
    Masked,
    Confirmation,
    Revealed,
    TrainReply,
    EvaluateReply,
    EncodedReply,
)


@pytest.mark.slow
def test_answers_that_are_none_are_no_message() -> None:
    # Signed by their device or not: the coordinator takes bytes apart that a device chose.
    spoil = fuzzing.Spoiler(SEED + 2, 0, Identity.generate())
    right = [message.encode() for message in answers()]
    before = fuzzing.resident()
    refused = 0
    for number in range(ANSWERS):
        data = spoil.bytes(spoil.coins.choice(right))
        try:
            KINDS[number % len(KINDS)].decode(data)
        except MessageError:
            refused += 1
    assert refused > 0.9 * ANSWERS
    assert fuzzing.resident() - before < MOST_MEMORY


# Over sockets


@pytest.fixture
def grid(home: Home) -> Iterator[GatewayGrid]:
    settings = Settings(population="fuzz", limits=fuzzing.LIMITS, drain=0.0)
    with opened(home, settings) as made:
        yield made


@pytest.mark.slow
def test_a_real_gateway_survives_them(grid: GatewayGrid, logged: Reasons) -> None:
    device = edge.enrol(grid.enrol_port, grid.authority.certificate, grid.devices.invite(600.0))
    spoil = fuzzing.Spoiler(SEED + 3, device.client, device.identity)
    tasks = [pb.Task(id="ab" * 8, kind=kind, nonce=bytes(16)) for kind in fuzzing.KINDS]
    codes: dict[str, int] = {}
    before = 0
    for number in range(SOCKETS):
        with edge.stream(device, grid.port) as talk:
            for data in spoil.wrong(tasks):
                talk.send(data)
            talk._out.put(None)
            _, code = talk.ended()
            codes[code] = codes.get(code, 0) + 1
        if number == SOCKETS // 4:
            before = fuzzing.resident()
    assert set(codes) <= {
        "OK",
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
    }
    assert codes["INVALID_ARGUMENT"] > SOCKETS / 10
    assert logged.count > SOCKETS / 10
    edge.until(lambda: grid.connected == 0)
    assert grid.held == 0
    assert fuzzing.resident() - before < MOST_MEMORY
    with edge.stream(device, grid.port) as talk:
        talk.begin()


@pytest.mark.slow
def test_bytes_that_are_no_tls_and_no_http_are_hung_up_on(grid: GatewayGrid) -> None:
    coins = random.Random(SEED + 4)
    openings = [
        lambda: coins.randbytes(coins.randrange(1, 2000)),
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + coins.randbytes(200),
        # A ClientHello's first bytes, and then noise.
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + coins.randbytes(400),
    ]
    for number in range(100 * TIMES):
        with socket.create_connection(("127.0.0.1", grid.port), timeout=10) as bare:
            bare.sendall(openings[number % len(openings)]())
            bare.shutdown(socket.SHUT_WR)
            try:
                while bare.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    device = edge.enrol(grid.enrol_port, grid.authority.certificate, grid.devices.invite(600.0))
    with edge.stream(device, grid.port) as talk:
        talk.begin()


@pytest.mark.slow
def test_a_frame_over_the_limit_ends_the_stream_and_no_more(grid: GatewayGrid) -> None:
    device = edge.enrol(grid.enrol_port, grid.authority.certificate, grid.devices.invite(600.0))
    other = edge.enrol(grid.enrol_port, grid.authority.certificate, grid.devices.invite(600.0))
    with edge.stream(other, grid.port) as steady:
        steady.begin()
        for size in (fuzzing.LIMITS.max_frame + 1, 2**20, 2**25):
            with edge.stream(device, grid.port) as talk:
                talk.begin()
                talk.send(bytes(size))
                _, code = talk.ended()
                # The gateway's word, or gRPC's where it didn't even look.
                assert code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
        steady.ready()
