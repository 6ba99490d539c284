"""A device of the tests' own: raw gRPC, no agent, so that it can break every rule."""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.app import Message

from tacit.configs import wire
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import edge_pb2_grpc as rpc
from tacit.protocol import statements
from tacit.server.gateway.grid import FIRST_NODE, GatewayGrid, opened
from tacit.server.gateway.settings import Limits, Pace, Settings
from tacit.server.home import Home

PATIENCE = 30.0
_CONNECT = "/tacit.edge.v1.Gateway/Connect"


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(private: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever")])
    algorithm = None if not isinstance(private, ec.EllipticCurvePrivateKey) else hashes.SHA256()
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(private, algorithm)
    return made.public_bytes(serialization.Encoding.DER)


def pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def request(token: str, identity: Identity, private: Any) -> pb.EnrolRequest:
    asked = csr(private)
    return pb.EnrolRequest(
        token=token,
        csr=asked,
        identity=identity.public,
        proof=identity.sign(statements.enrolment(token, asked)),
        agent="tests",
    )


@dataclass
class Credentials:
    """What a device has after it enrolled."""

    ca: bytes
    identity: Identity
    private: ec.EllipticCurvePrivateKey
    reply: pb.EnrolReply
    certificate: bytes = field(init=False)

    def __post_init__(self) -> None:
        der = self.reply.chain[0]
        loaded = x509.load_der_x509_certificate(der)
        self.certificate = loaded.public_bytes(serialization.Encoding.PEM)

    @property
    def client(self) -> int:
        return self.reply.client

    def channel(self, port: int, ca: bytes | None = None) -> grpc.Channel:
        made = grpc.ssl_channel_credentials(ca or self.ca, pem(self.private), self.certificate)
        # No two devices, and no two tries, share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"127.0.0.1:{port}", made, options)


def enrol(
    port: int, ca: bytes, token: str, identity: Identity | None = None, private: Any = None
) -> Credentials:
    identity, private = identity or Identity.generate(), private or key()
    reply = call_enrol(port, ca, request(token, identity, private))
    return Credentials(ca, identity, private, reply)


def call_enrol(port: int, ca: bytes, asked: pb.EnrolRequest) -> pb.EnrolReply:
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca)) as channel:
        reply: pb.EnrolReply = rpc.EnrolmentStub(channel).Enrol(asked, timeout=PATIENCE)
    return reply


def renew(port: int, device: Credentials) -> Credentials:
    private = key()
    asked = csr(private)
    proof = device.identity.sign(statements.renewal(asked))
    with device.channel(port) as channel:
        stub = rpc.GatewayStub(channel)
        reply = stub.Renew(pb.RenewRequest(csr=asked, proof=proof), timeout=PATIENCE)
    return Credentials(device.ca, device.identity, private, reply)


class Stream:
    """A live stream; frames are sent as they are, or as bytes."""

    def __init__(self, device: Credentials, port: int) -> None:
        self.device, self._out = device, queue.SimpleQueue[bytes | None]()
        self.channel = device.channel(port)
        call = self.channel.stream_stream(_CONNECT, None, pb.GatewayFrame.FromString)
        self.call = call(iter(self._out.get, None), timeout=PATIENCE)

    def send(self, frame: pb.DeviceFrame | bytes) -> None:
        self._out.put(frame if isinstance(frame, bytes) else frame.SerializeToString())

    def receive(self, kind: str) -> Any:
        """The next frame, which is of this kind."""
        frame = next(self.call)
        assert frame.WhichOneof("frame") == kind, frame
        return getattr(frame, kind)

    def hello(self, protocol: int = 1) -> pb.Welcome:
        self.send(pb.DeviceFrame(hello=pb.Hello(protocol=protocol, agent="tests")))
        found: pb.Welcome = self.receive("welcome")
        return found

    def ready(self, eligible: bool = True) -> pb.Accept:
        self.send(pb.DeviceFrame(check_in=pb.CheckIn(eligible=eligible)))
        found: pb.Accept = self.receive("accept")
        return found

    def begin(self) -> Stream:
        self.hello()
        self.ready()
        return self

    def sign(self, task: pb.Task, body: bytes) -> bytes:
        statement = statements.reply(task.nonce, task.kind, self.device.client, body)
        return self.device.identity.sign(statement)

    def parts(self, task: pb.Task, body: bytes, size: int = 1000) -> list[pb.AnswerPart]:
        made = [
            pb.AnswerPart(task=task.id, offset=at, total=len(body), data=body[at : at + size])
            for at in range(0, len(body), size)
        ]
        made[-1].signature = self.sign(task, body)
        return made

    def answer(self, task: pb.Task, body: bytes, size: int = 1000) -> pb.Received:
        for part in self.parts(task, body, size):
            self.send(pb.DeviceFrame(answer=part))
        found: pb.Received = self.receive("received")
        return found

    def refuse(self, task: pb.Task, reason: int, text: str, forged: bool = False) -> None:
        statement = statements.refusal(
            task.nonce, task.kind, self.device.client + forged, reason, text
        )
        said = pb.Refusal(
            task=task.id,
            reason=pb.Refusal.Reason.Name(reason),
            text=text,
            signature=self.device.identity.sign(statement),
        )
        self.send(pb.DeviceFrame(refusal=said))

    def body(self, task: pb.Task) -> bytes:
        if task.body.WhichOneof("where") == "inline":
            return bytes(task.body.inline)
        return self.download(task.body.ref.sha256)

    def download(self, digest: bytes, offset: int = 0) -> bytes:
        asked = pb.DownloadRequest(sha256=digest, offset=offset)
        stub = rpc.GatewayStub(self.channel)
        return b"".join(chunk.data for chunk in stub.Download(asked, timeout=PATIENCE))

    def ended(self) -> tuple[str, str]:
        """The rest of the stream: the goodbye's reason if there was one, and the status."""
        why = ""
        try:
            for frame in self.call:
                if frame.WhichOneof("frame") == "goodbye":
                    why = frame.goodbye.why
        except grpc.RpcError as error:
            return why, error.code().name  # type: ignore[attr-defined]
        return why, "OK"

    def close(self) -> None:
        self._out.put(None)
        self.call.cancel()
        self.channel.close()


@contextlib.contextmanager
def stream(device: Credentials, port: int) -> Iterator[Stream]:
    made = Stream(device, port)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Place:
    """A gateway that runs."""

    grid: GatewayGrid
    asked: dict[str, tuple[tuple[bytes, str], int]] = field(default_factory=dict)

    @property
    def ca(self) -> bytes:
        return self.grid.authority.certificate

    @property
    def port(self) -> int:
        return self.grid.port

    def device(self, client: int | None = None) -> Credentials:
        token = self.grid.devices.invite(3600, client)
        return enrol(self.grid.enrol_port, self.ca, token)

    @contextlib.contextmanager
    def stream(self, device: Credentials) -> Iterator[Stream]:
        with stream(device, self.port) as made:
            yield made

    @contextlib.contextmanager
    def ready(self, device: Credentials) -> Iterator[Stream]:
        with stream(device, self.port) as made:
            yield made.begin()

    def push(
        self, body: bytes, client: int = 0, kind: str = "query.share", ttl: float = PATIENCE
    ) -> str:
        """Lays one task down; its id."""
        return self.push_all(body, [client], kind, ttl)[0]

    def push_all(
        self, body: bytes, clients: list[int], kind: str = "query.share", ttl: float = PATIENCE
    ) -> list[str]:
        nonces = [secrets.token_bytes(16) for _ in clients]
        messages = [
            Message(wire.content(body, nonce), FIRST_NODE + client, kind, ttl=ttl)
            for client, nonce in zip(clients, nonces, strict=True)
        ]
        made = list(self.grid.push_messages(messages))
        for identifier, nonce, client in zip(made, nonces, clients, strict=True):
            self.asked[identifier] = (nonce, kind), client
        return made

    def pull(self, identifier: str) -> Message:
        """The reply to a task, once there is one."""
        found: list[Message] = []

        def came() -> bool:
            found.extend(self.grid.pull_messages([identifier]))
            return bool(found)

        until(came)
        assert found[0].metadata.reply_to_message_id == identifier
        return found[0]

    def refusal(self, identifier: str) -> str:
        """Reason and text of a refusal, as the coordinator verifies it."""
        asked, client = self.asked[identifier]
        public = self.grid.devices.some([client])[client].identity
        said = wire.refusal(self.pull(identifier), asked, client, public)
        assert said is not None
        return str(said)

    def empty(self) -> bool:
        """Whether nothing is kept: no task, no reply, no body, no answer."""
        return self.grid._desk.size == (0, 0, 0) and self.grid.held == 0


Gateway = Callable[..., contextlib.AbstractContextManager[Place]]
_PACE = ("check_in", "retry", "longest", "rate")
_OWN = ("clients", "certificate", "drain", "look", "hosts", "listen", "enrol")


@contextlib.contextmanager
def serving(home: Home, **more: Any) -> Iterator[Place]:
    """A gateway on a home; limits, pace and other settings as keywords.

    ``limits`` has those whose names the pace has too.
    """
    named = more.pop("limits", {})
    settings = Settings(
        population="tests",
        **{
            "clients": 100,
            "drain": 2.0,
            "look": 0.2,
            **{k: more.pop(k) for k in _OWN if k in more},
        },
        pace=Pace(**{k: more.pop(k) for k in _PACE if k in more}),
        limits=Limits(**{**more, **named}),
    )
    with opened(home, settings) as grid:
        yield Place(grid)


def until(holds: Any, seconds: float = PATIENCE) -> None:
    """Waits for something that is to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)
