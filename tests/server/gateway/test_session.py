"""What a stream may say, and what becomes of one that says something else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import threading

import edge
import pytest
from edge import Gateway

from tacit.configs import wire
from tacit.protocol import edge_pb2 as pb
from tacit.server.gateway.flow import Bucket, Budget, Pacer
from tacit.server.gateway.settings import Pace


def test_welcome_says_the_limits(gateway: Gateway) -> None:
    with gateway(max_answer=5000) as place, place.stream(place.device()) as stream:
        welcome = stream.hello(protocol=7)
        assert (welcome.protocol, welcome.client) == (1, 0)
        assert (welcome.max_frame, welcome.max_answer) == (256 * 1024, 5000)
        assert 600_000 <= stream.ready().again_ms <= 750_000


def test_a_device_that_is_not_ready_gets_nothing_new(gateway: Gateway) -> None:
    with gateway() as place, place.stream(place.device()) as stream:
        stream.hello()
        begins = place.push(b"begins", kind="query.advertise")
        goes_on = place.push(b"goes on", kind="query.confirm")
        stream.ready(eligible=False)
        task = stream.receive("task")
        assert task.body.inline == b"goes on"
        stream.answer(task, b"1")
        stream.ready(eligible=True)
        stream.answer(stream.receive("task"), b"2")
        assert wire.body(place.pull(goes_on)) == b"1"
        assert wire.body(place.pull(begins)) == b"2"


def test_a_newer_stream_of_a_device_replaces_the_older(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        with place.ready(device) as older:
            identifier = place.push(b"what")
            task = older.receive("task")
            parts = older.parts(task, bytes(2000))
            older.send(pb.DeviceFrame(answer=parts[0]))
            with place.ready(device) as newer:
                why, code = older.ended()
                assert (why.split(":")[0], code) == ("REPLACED", "ABORTED")
                assert place.grid.connected == 1
                assert newer.receive("task").id == task.id
                newer.answer(task, b"that")
                assert wire.body(place.pull(identifier)) == b"that"
        edge.until(place.empty)


RULES = {
    "ORDER: a stream begins with hello": [pb.DeviceFrame(check_in=pb.CheckIn())],
    "VERSION": [pb.DeviceFrame(hello=pb.Hello())],
    "MALFORMED": [b"\xff\xff\xff"],
    "MALFORMED: agent": [pb.DeviceFrame(hello=pb.Hello(protocol=1, agent="x" * 65))],
    "ORDER: a second hello": [pb.DeviceFrame(hello=pb.Hello(protocol=1))] * 2,
    "MALFORMED: a refusal": [
        pb.DeviceFrame(hello=pb.Hello(protocol=1)),
        pb.DeviceFrame(refusal=pb.Refusal(task="x", text="x" * 201)),
    ],
    "TOO_LARGE: a lookup": [
        pb.DeviceFrame(hello=pb.Hello(protocol=1)),
        pb.DeviceFrame(lookup=pb.Lookup(clients=range(4097))),
    ],
    "TOO_LARGE: a frame": [
        pb.DeviceFrame(hello=pb.Hello(protocol=1)),
        pb.DeviceFrame(answer=pb.AnswerPart(data=bytes(256 * 1024))),
    ],
}


@pytest.mark.parametrize("why", RULES)
def test_who_breaks_a_rule_is_told_and_let_go(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    with gateway() as place:
        one, two = place.device(), place.device()
        with place.ready(two) as other:
            with place.stream(one) as stream:
                for frame in RULES[why]:
                    stream.send(frame)
                said, code = stream.ended()
                assert said.startswith(why)
                assert code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
            other.ready()
    assert f"refused: {why}" in caplog.text


def test_what_is_far_too_large_is_not_even_read(gateway: Gateway) -> None:
    with gateway() as place:
        one, two = place.device(), place.device()
        with place.ready(two) as other:
            with place.ready(one) as stream:
                stream.send(bytes(8 * 1024 * 1024))
                assert stream.ended()[1] in ("RESOURCE_EXHAUSTED", "CANCELLED", "UNKNOWN")
            edge.until(lambda: place.grid.connected == 1)
            other.ready()


def test_frames_of_a_later_version_are_ignored(gateway: Gateway) -> None:
    with gateway() as place, place.ready(place.device()) as stream:
        stream.send(b"")
        stream.send(b"\xf2\x06\x03abc")  # Field 110.
        stream.ready()


@pytest.mark.parametrize("fault", ["gap", "again", "total", "long", "empty", "early", "unsigned"])
def test_parts_come_in_order_and_signed_at_the_end(gateway: Gateway, fault: str) -> None:
    with gateway(max_answer=10_000) as place, place.ready(place.device()) as stream:
        place.push(b"what")
        parts = stream.parts(stream.receive("task"), bytes(3000))
        if fault == "gap":
            del parts[1]
        elif fault == "again":
            parts.insert(1, parts[0])
        elif fault == "total":
            parts[1].total = 2000
        elif fault == "long":
            parts[2].data = bytes(1001)
        elif fault == "empty":
            parts[1].data = b""
        elif fault == "early":
            parts[0].signature = bytes(64)
        else:
            parts[2].signature = b""
        for part in parts:
            stream.send(pb.DeviceFrame(answer=part))
        why, code = stream.ended()
        assert why.split(":")[0] == ("SIGNATURE" if fault in ("early", "unsigned") else "ORDER")
        assert code in ("INVALID_ARGUMENT", "PERMISSION_DENIED")


def test_an_answer_has_a_largest_size(gateway: Gateway) -> None:
    with gateway(max_answer=10_000) as place:
        device = place.device()
        for size in (0, 10_001, 2**63):
            with place.ready(device) as stream:
                identifier = place.push(b"what", ttl=1.0)
                part = pb.AnswerPart(task=stream.receive("task").id, total=size, data=b"x")
                stream.send(pb.DeviceFrame(answer=part))
                assert stream.ended() == (
                    f"TOO_LARGE: an answer has 1 to 10000 bytes, not {size}",
                    "INVALID_ARGUMENT",
                )
            assert place.pull(identifier).has_error()
        with place.ready(device) as stream:
            identifier = place.push(b"what")
            stream.answer(stream.receive("task"), bytes(10_000), size=9_999)
            assert len(wire.body(place.pull(identifier))) == 10_000


def test_an_answer_is_no_larger_than_its_request_leads_to(gateway: Gateway) -> None:
    with gateway() as place, place.ready(place.device()) as stream:
        place.push(b"what", kind="train")
        part = pb.AnswerPart(task=stream.receive("task").id, total=64 << 20, data=b"x")
        stream.send(pb.DeviceFrame(answer=part))
        assert stream.ended()[0].startswith("TOO_LARGE: an answer has 1 to 1048608 bytes")


def test_answers_wait_for_room(gateway: Gateway) -> None:
    """The coordinator that picks one up makes room for the next."""
    with gateway(max_answer=10_000, held=15_000) as place:
        devices = [place.device() for _ in range(3)]
        pushed = place.push_all(b"what", [0, 1, 2])
        streams = [edge.Stream(device, place.port).begin() for device in devices]
        for stream in streams:
            task = stream.receive("task")
            for part in stream.parts(task, bytes(10_000)):
                stream.send(pb.DeviceFrame(answer=part))
        came: set[str] = set()
        while len(came) < 3:
            assert place.grid.held <= 15_000
            for reply in place.grid.pull_messages(pushed):
                came.add(reply.metadata.reply_to_message_id)
        for stream in streams:
            assert stream.receive("received").accepted
            stream.close()
        edge.until(place.empty)


def test_who_dribbles_or_says_nothing_is_let_go(gateway: Gateway) -> None:
    with gateway(answer=0.3, hello=0.3) as place:
        device = place.device()
        with place.stream(device) as stream:
            assert stream.ended() == ("TOO_SLOW: no hello in time", "DEADLINE_EXCEEDED")
        with place.ready(device) as stream:
            identifier = place.push(b"what", ttl=5.0)
            stream.send(pb.DeviceFrame(answer=stream.parts(stream.receive("task"), bytes(2000))[0]))
            assert stream.ended() == ("TOO_SLOW: an answer took too long", "DEADLINE_EXCEEDED")
            assert place.grid.held == 0
        # Its task is still there.
        with place.ready(device) as stream:
            stream.answer(stream.receive("task"), b"that")
        assert place.pull(identifier).has_content()


def test_who_holds_room_and_sends_little_loses_it(gateway: Gateway) -> None:
    with gateway(max_answer=10_000, held=10_000, grace=0.5) as place:
        slow, honest = place.device(), place.device()
        identifiers = place.push_all(b"what", [0, 1])
        with place.ready(slow) as first, place.ready(honest) as second:
            part = pb.AnswerPart(task=first.receive("task").id, total=10_000, data=b"x")
            first.send(pb.DeviceFrame(answer=part))
            edge.until(lambda: place.grid.held == 10_000)
            second.answer(second.receive("task"), b"that")
            assert first.ended() == ("TOO_SLOW: an answer took too long", "DEADLINE_EXCEEDED")
            assert wire.body(place.pull(identifiers[1])) == b"that"


def test_what_is_answered_is_not_remembered(gateway: Gateway) -> None:
    with gateway() as place, place.ready(place.device()) as stream:
        (session,) = place.grid._service.hall._sessions.values()
        for _ in range(3):
            identifier = place.push(b"what")
            stream.answer(stream.receive("task"), b"that")
            place.pull(identifier)
        assert session._delivered == set()


def test_a_cancelled_wait_for_room_is_a_cancellation() -> None:
    async def run() -> None:
        budget = Budget(1)
        await budget.take(1)
        waiting = asyncio.create_task(budget.take(1))
        await asyncio.sleep(0)
        waiting.cancel()
        budget.give(1)
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        assert budget.held == 0

    asyncio.run(run())


def test_a_slow_reader_holds_up_nobody_and_fills_nothing(gateway: Gateway) -> None:
    """It asks and asks and never reads: the gateway stops reading, then lets it go."""
    with gateway(write=0.5, frames_rate=1e6, frames_burst=1e6) as place:
        slow, other = place.device(), place.device()
        for _ in range(40):
            place.device()
        lookup = pb.DeviceFrame(lookup=pb.Lookup(clients=range(40))).SerializeToString()
        with place.stream(slow) as stream, place.ready(other) as reads:
            stream.send(pb.DeviceFrame(hello=pb.Hello(protocol=1)))
            for _ in range(10_000):
                stream.send(lookup)
            edge.until(lambda: place.grid.connected == 1)
            identifier = place.push(b"what", client=1)
            reads.answer(reads.receive("task"), b"that")
            assert place.pull(identifier).has_content()


def test_a_fast_writer_is_read_slowly(gateway: Gateway) -> None:
    with gateway(frames_rate=20.0, frames_burst=5.0) as place, place.ready(place.device()) as fast:
        for _ in range(10):
            fast.ready()  # It is served, at the rate.
    clock = iter([0.0, 0.0, 0.0, 0.0, 10.0, 10.0]).__next__
    bucket = Bucket(2.0, 3.0, clock)
    assert [bucket.take(1), bucket.take(2), bucket.take(1)] == [0.0, 0.0, 0.5]
    assert [bucket.take(3), bucket.take(1)] == [0.0, 0.5]
    refusing = Bucket(1.0, 2.0, iter([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]).__next__)
    assert [refusing.allow(1) for _ in range(4)] == [True, True, False, False]
    assert [refusing.allow(1) for _ in range(2)] == [True, False]


def test_lookups(gateway: Gateway) -> None:
    with gateway(max_frame=8192, inline=1000, chunk=1000, lookup=500) as place:
        devices = [place.device() for _ in range(60)]
        with place.ready(devices[0]) as stream:
            stream.send(pb.DeviceFrame(lookup=pb.Lookup(clients=[3, 99, 1, 3])))
            found = stream.receive("entries")
            assert [e.client for e in found.entries] == [3, 1]
            assert list(found.unknown) == [99]
            assert found.entries[0] == devices[3].reply.attestation
            # A reply of more than one frame.
            stream.send(pb.DeviceFrame(lookup=pb.Lookup(clients=range(60))))
            entries: list[int] = []
            while len(entries) < 60:
                entries += [e.client for e in stream.receive("entries").entries]
            assert entries == list(range(60))
            place.grid.devices.revoke(3)

            def revoked() -> bool:
                stream.send(pb.DeviceFrame(lookup=pb.Lookup(clients=[3])))
                return list(stream.receive("entries").unknown) == [3]

            edge.until(revoked)


# Coming and going


def test_the_pace_of_return_is_the_rate() -> None:
    pacer = Pacer(Pace(retry=10.0, longest=100.0, rate=2.0), lambda: 0.0)
    waits = [pacer.after() for _ in range(100)]
    due = [10_000 + 500 * k for k in range(100)]
    assert all(low <= wait <= 1.25 * low for low, wait in zip(due, waits, strict=True))


def test_a_full_gateway_sends_the_idle_away(gateway: Gateway) -> None:
    with gateway(connections=2, retry=1.0) as place:
        devices = [place.device() for _ in range(4)]
        with place.ready(devices[0]), place.ready(devices[1]) as idle:
            with place.stream(devices[2]) as third:
                third.hello()
                third.send(pb.DeviceFrame(check_in=pb.CheckIn(eligible=True)))
                retry = third.receive("retry_at")
                assert retry.why == "full"
                assert 1000 <= retry.after_ms <= 1600
                assert third.ended() == ("", "OK")
            # Who is waited for takes the place of one who isn't.
            place.push_all(b"what", [0, 3])
            with place.ready(devices[3]) as busy:
                assert idle.receive("retry_at").why == "full"
                busy.answer(busy.receive("task"), b"that")


def test_a_drain_takes_the_answers_on_their_way(gateway: Gateway) -> None:
    with gateway(drain=20.0) as place:
        device = place.device()
        stream = edge.Stream(device, place.port).begin()
        identifier = place.push(b"what")
        parts = stream.parts(stream.receive("task"), bytes(3000))
        stream.send(pb.DeviceFrame(answer=parts[0]))
        edge.until(lambda: place.grid.held == 3000)
        pulled: list[bytes] = []

        def finish() -> None:
            for part in parts[1:]:
                stream.send(pb.DeviceFrame(answer=part))
            pulled.append(wire.body(place.pull(identifier)))

        # The gateway drains once this block ends, while the device goes on.
        late = threading.Timer(0.5, finish)
        late.start()
    late.join()
    assert pulled == [bytes(3000)]
    assert stream.receive("received").accepted
    goodbye = stream.receive("goodbye")
    assert goodbye.why.startswith("DRAINING")
    assert goodbye.after_ms > 0
    assert stream.ended()[1] == "UNAVAILABLE"
    stream.close()


def test_bye(gateway: Gateway) -> None:
    with gateway() as place, place.ready(place.device()) as stream:
        stream.send(pb.DeviceFrame(bye=pb.Bye()))
        assert stream.ended() == ("", "OK")


# Rubbish


def test_rubbish_ends_its_own_stream_and_nothing_else(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A few thousand frames over the real stack; tests/faults has many more."""
    source = random.Random(7)
    with gateway(frames_rate=1e6, frames_burst=1e6) as place:
        devices = [place.device() for _ in range(2)]
        with place.ready(devices[1]) as healthy:
            place.push_all(bytes(100), [0] * 4)
            for _ in range(60):
                rubbish(place, devices[0], source)
            identifier = place.push(b"what", client=1)
            healthy.answer(healthy.receive("task"), b"that")
            assert place.pull(identifier).has_content()
        edge.until(lambda: place.grid.held == 0)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def rubbish(place: edge.Place, device: edge.Credentials, source: random.Random) -> None:
    """A stream of some fifty frames, ever more of them wrong."""
    tasks = place.grid._desk.tasks(0)
    with place.stream(device) as stream:
        stream.send(pb.DeviceFrame(hello=pb.Hello(protocol=1)))
        stream.send(pb.DeviceFrame(check_in=pb.CheckIn(eligible=True)))
        for _ in range(50):
            task = source.choice([*(t.id for t in tasks), secrets.token_hex(4)])
            frame = bytearray(
                source.choice(
                    [
                        pb.DeviceFrame(check_in=pb.CheckIn(eligible=True)),
                        pb.DeviceFrame(lookup=pb.Lookup(clients=[0, 1, 2**32 - 1])),
                        pb.DeviceFrame(refusal=pb.Refusal(task=task, reason="FAILED", text="x")),
                        pb.DeviceFrame(
                            answer=pb.AnswerPart(task=task, offset=0, total=2000, data=bytes(1000))
                        ),
                    ]
                ).SerializeToString()
            )
            for _ in range(source.randrange(3)):
                at = source.randrange(len(frame) + 1)
                frame[at:at] = source.randbytes(source.randrange(4))
                if frame and source.random() < 0.5:
                    frame[source.randrange(len(frame))] = source.randrange(256)
            stream.send(bytes(frame))
        stream.send(pb.DeviceFrame(bye=pb.Bye()))
        stream.ended()
