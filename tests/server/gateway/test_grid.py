"""The Grid over real gRPC and TLS: tasks out, answers back, nobody else's."""

from __future__ import annotations

import hashlib
import secrets

import edge
import grpc
import numpy as np
import pytest
from edge import Gateway
from flwr.app import Message

from tacit.configs import wire
from tacit.privacy.errors import ConfigError
from tacit.privacy.messages import EvaluateReply, EvaluateRequest
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.server.gateway.grid import FIRST_NODE, opened
from tacit.server.gateway.settings import Limits, Pace, Settings
from tacit.server.home import Home
from tacit.server.legs import Legs


def test_a_task_goes_to_its_device_and_its_answer_back(gateway: Gateway) -> None:
    with gateway() as place:
        with place.ready(place.device()) as stream:
            assert list(place.grid.get_node_ids()) == [FIRST_NODE]
            identifier = place.push(b"what", kind="query.advertise")
            task = stream.receive("task")
            assert (task.kind, task.body.inline, len(task.nonce)) == (
                "query.advertise",
                b"what",
                16,
            )
            answer = secrets.token_bytes(12_345)
            assert stream.answer(task, answer).accepted
            reply = place.pull(identifier)
            assert reply.metadata.src_node_id == FIRST_NODE
            assert wire.body(reply) == answer
            public = stream.device.identity.public
            wire.check(reply, (task.nonce, task.kind), 0, public)
        edge.until(place.empty)


def test_messages_wait_for_a_device_that_is_not_there(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        identifiers = [place.push(b"first"), place.push(b"second")]
        short = place.push(b"short", client=5, ttl=0.3)
        assert "no answer" in place.pull(short).error.reason
        with place.ready(device) as stream:
            first, second = stream.receive("task"), stream.receive("task")
            stream.answer(first, b"one")
        # It went away in the middle of the second: the same task comes again.
        with place.ready(device) as stream:
            again = stream.receive("task")
            assert (again.id, again.nonce, again.body) == (second.id, second.nonce, second.body)
            stream.answer(again, b"two")
        assert [wire.body(place.pull(i)) for i in identifiers] == [b"one", b"two"]
        edge.until(place.empty)


def test_an_answer_whose_receipt_was_lost_may_be_sent_again(gateway: Gateway) -> None:
    with gateway() as place:
        device = place.device()
        with place.ready(device) as stream:
            identifier = place.push(b"what")
            task = stream.receive("task")
            assert stream.answer(task, b"that").accepted
            assert stream.answer(task, b"that").accepted
        with place.ready(device) as stream:
            assert stream.answer(task, b"that" * 1000).accepted
            assert not stream.answer(pb.Task(id="none", nonce=bytes(16)), b"that").accepted
        assert wire.body(place.pull(identifier)) == b"that"
        assert not list(place.grid.pull_messages([identifier]))


def test_a_task_that_expires_is_cancelled(gateway: Gateway) -> None:
    with gateway() as place, place.ready(place.device()) as stream:
        identifier = place.push(b"what", ttl=0.3)
        task = stream.receive("task")
        assert stream.receive("cancel").task == task.id
        received = stream.answer(task, b"late")
        assert not received.accepted
        assert "late" in received.why
        assert place.pull(identifier).has_error()
        # Also in the middle of its answer.
        identifier = place.push(b"what", ttl=0.5)
        task = stream.receive("task")
        parts = stream.parts(task, bytes(2000))
        stream.send(pb.DeviceFrame(answer=parts[0]))
        assert stream.receive("cancel").task == task.id
        stream.send(pb.DeviceFrame(answer=parts[1]))
        stream.ready()
        assert place.pull(identifier).has_error()
        edge.until(place.empty)


def test_a_device_can_not_answer_for_another(gateway: Gateway) -> None:
    with gateway() as place:
        first, second = place.device(), place.device()
        with place.ready(first) as one, place.ready(second) as two:
            mine = place.push(b"what", client=0)
            task = one.receive("task")
            assert not two.answer(task, b"forged").accepted
            two.refuse(task, 8, "forged")
            assert not two.receive("received").accepted
            assert one.answer(task, b"mine").accepted
            assert wire.body(place.pull(mine)) == b"mine"


def test_a_refusal_comes_as_its_device_signed_it(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway() as place, place.ready(place.device()) as stream:
        identifier = place.push(b"what")
        stream.refuse(stream.receive("task"), 2, "lifetime epsilon\nis spent")
        assert stream.receive("received").accepted
        assert place.refusal(identifier) == "EPSILON: lifetime epsilon?is spent"
        place.push(b"what")
        stream.refuse(stream.receive("task"), 2, "another's", forged=True)
        assert stream.ended() == (
            "SIGNATURE: a refusal that its device didn't sign",
            "PERMISSION_DENIED",
        )
    assert "refused: SIGNATURE" in caplog.text


# Bodies and documents


def test_long_bodies_are_kept_once_and_fetched_by_those_they_are_for(gateway: Gateway) -> None:
    with gateway(chunk=1000) as place:
        one, two, three = (place.device() for _ in range(3))
        body = secrets.token_bytes(100_000)
        with place.ready(one) as first, place.ready(two) as second, place.ready(three) as other:
            pushed = place.push_all(body, [0, 1], "train")
            assert place.grid._desk.size[2] == len(body)
            tasks = [first.receive("task"), second.receive("task")]
            for stream, task in zip([first, second], tasks, strict=True):
                assert task.body.ref.sha256 == hashlib.sha256(body).digest()
                assert task.body.ref.size == len(body)
                assert stream.body(task) == body
            digest = tasks[0].body.ref.sha256
            assert first.download(digest, 99_000) == body[99_000:]
            assert first.download(digest, 100_000) == b""
            assert status(lambda: first.download(digest, 100_001)) == "OUT_OF_RANGE"
            assert status(lambda: first.download(b"?")) == "NOT_FOUND"
            assert status(lambda: other.download(digest)) == "NOT_FOUND"
            first.answer(tasks[0], b"done")
            assert status(lambda: first.download(digest)) == "NOT_FOUND"
            assert second.download(digest) == body
            second.answer(tasks[1], b"done")
            assert place.grid._desk.size[2] == 0
            assert [place.pull(i).has_content() for i in pushed] == [True, True]


def test_tasks_refer_to_the_run_document_and_its_graphs(gateway: Gateway) -> None:
    document, graph = secrets.token_bytes(300), secrets.token_bytes(100_000)
    with gateway() as place, place.ready(place.device()) as stream:
        place.grid.attach(document, [graph])
        assert status(lambda: stream.download(hashlib.sha256(document).digest())) == "NOT_FOUND"
        place.push(b"what")
        task = stream.receive("task")
        assert task.run.size == len(document)
        assert stream.download(task.run.sha256) == document
        assert stream.download(hashlib.sha256(graph).digest()) == graph
        stream.answer(task, b"done")
        assert status(lambda: stream.download(task.run.sha256)) == "NOT_FOUND"


def test_a_device_has_two_downloads_at_once(gateway: Gateway) -> None:
    with gateway(chunk=1000) as place, place.ready(place.device()) as stream:
        place.push(bytes(10_000_000))
        digest = stream.receive("task").body.ref.sha256
        call = stream.channel.unary_stream(
            "/tacit.edge.v1.Gateway/Download", pb.DownloadRequest.SerializeToString
        )
        slow = [call(pb.DownloadRequest(sha256=digest), timeout=edge.PATIENCE) for _ in range(2)]
        for each in slow:
            next(each)  # And reads no more.
        assert status(lambda: stream.download(digest)) == "RESOURCE_EXHAUSTED"
        slow[0].cancel()
        edge.until(lambda: status(lambda: stream.download(digest)) == "OK")


def test_who_takes_a_download_slowly_loses_its_place(gateway: Gateway) -> None:
    """And while no place is free, a device has one."""
    # What the transport has room for counts as taken, so the rate is asked of what is beyond.
    quick = {"chunk": 1000, "downloads": 1, "grace": 2.0, "answer": 300.0, "write": 300.0}
    with gateway(**quick, limits={"rate": 1e9}) as place:
        one, two = place.device(), place.device()
        with place.ready(one) as slow, place.ready(two) as honest:
            body = bytes(10_000_000)
            place.push_all(body, [0, 1])
            digest = slow.receive("task").body.ref.sha256
            call = slow.channel.unary_stream(
                "/tacit.edge.v1.Gateway/Download",
                pb.DownloadRequest.SerializeToString,
                pb.Chunk.FromString,
            )
            taken = call(pb.DownloadRequest(sha256=digest), timeout=edge.PATIENCE)
            next(taken)  # And reads no more, until it has lost its place.
            assert status(lambda: slow.download(digest)) == "RESOURCE_EXHAUSTED"
            short = hashlib.sha256(body).digest()
            assert honest.download(short, len(body) - 1000) == bytes(1000)
            with pytest.raises(grpc.RpcError) as ended:
                list(taken)
            # The gateway's word, not this caller's own deadline.
            assert "the download takes too long" in str(ended.value)


def status(call: object) -> str:
    try:
        call()  # type: ignore[operator]
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


# The coordinator's side


def test_legs_run_over_it(gateway: Gateway) -> None:
    request = EvaluateRequest("run", 1, 0, "plan", "frozen", 0.0, 0, b"", np.zeros(3, np.float32))
    with gateway() as place, place.ready(place.device()) as stream:
        legs = Legs(place.grid, place.grid.nodes(2), deadline=1.0, poll=0.01)
        body = EvaluateReply("run", 1, 0, np.ones(3, np.float32)).encode()
        pushed = place.push(request.encode())
        task = stream.receive("task")
        stream.answer(task, body)
        assert wire.unpack(EvaluateReply, place.pull(pushed)).counts.tolist() == [1, 1, 1]
        # Its requests have no nonce, which a device needs: an error, not silence.
        replies = {r.client: r for r in legs.exchange("evaluate", dict.fromkeys([0, 1], request))}
        assert {r.problem for r in replies.values()} <= {"error", "no reply"}


def test_which_client_a_node_is_is_known_without_asking(gateway: Gateway) -> None:
    with gateway() as place:
        place.device()
        asked = Message(wire.ask_who(), FIRST_NODE + 7, "query")
        (reply,) = place.grid.send_and_receive([asked], timeout=edge.PATIENCE)
        assert wire.who(reply) == 7


def test_a_device_has_few_open_tasks(gateway: Gateway) -> None:
    with gateway(tasks=2, hold=0.5) as place:
        place.device()
        assert [bool(place.push(b"what", ttl=0.5)) for _ in range(4)] == [True, True, False, False]
        # Nobody pulls what comes of them: it is dropped.
        edge.until(place.empty)


def test_a_forgotten_answer_is_dropped(gateway: Gateway) -> None:
    with gateway(hold=0.3) as place, place.ready(place.device()) as stream:
        place.push(b"what", ttl=1.0)
        stream.answer(stream.receive("task"), bytes(100_000))
        assert place.grid.held == 100_000
        edge.until(place.empty)


def test_the_signature_is_the_devices_own(gateway: Gateway) -> None:
    """The gateway could alter an answer; whoever has the directory would see it."""
    with gateway() as place, place.ready(place.device()) as stream:
        identifier = place.push(b"what")
        task = stream.receive("task")
        stream.answer(task, b"that")
        reply = place.pull(identifier)
        statement = statements.reply(task.nonce, task.kind, 0, b"that")
        record = reply.content["tacit"]
        assert record["signature"] == stream.device.identity.sign(statement)


def test_an_address_in_use_is_said(home: Home) -> None:
    with opened(home, Settings("tests", drain=0.0)) as grid:
        taken = f"127.0.0.1:{grid.port}"
        with pytest.raises(ConfigError, match=taken), opened(home, Settings("tests", listen=taken)):
            pass


def test_limits_are_checked() -> None:
    for wrong in (
        {"connections": 0},
        {"frames_rate": float("nan")},
        {"max_frame": 100},
        {"max_frame": 2**30},
        {"inline": 256 * 1024},
        {"lookup": 10**6},
        {"held": 10},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"pace\.longest"):
        Pace(longest=1.0)
    for address in ("here", ":1", "here:x", "here:70000"):
        with pytest.raises(ConfigError, match="host:port"):
            Settings("tests", listen=address)
