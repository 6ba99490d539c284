"""gRPC as the gateway uses it: bytes in, bytes out, statuses that name a reason.

Requests arrive as bytes and are parsed here, so that malformed ones are the gateway's to
refuse and to log, not the library's to trip over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError, Message

from tacit.protocol import edge_pb2 as pb
from tacit.server import telemetry
from tacit.server.gateway.devices import Device
from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.settings import KIB, Limits

log = logging.getLogger("tacit.gateway")
Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)
T = TypeVar("T")
Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
# What reading gives when the other side has nothing more to say.
EOF: object = grpc.aio.EOF  # type: ignore[attr-defined]

_CODES = {
    "MALFORMED": grpc.StatusCode.INVALID_ARGUMENT,
    "ORDER": grpc.StatusCode.INVALID_ARGUMENT,
    "KEY": grpc.StatusCode.INVALID_ARGUMENT,
    "TOO_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "BACKWARD": grpc.StatusCode.OUT_OF_RANGE,
    "VERSION": grpc.StatusCode.FAILED_PRECONDITION,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "TOO_SOON": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BUSY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOO_SLOW": grpc.StatusCode.DEADLINE_EXCEEDED,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "REPLACED": grpc.StatusCode.ABORTED,
}


# As `tacit.server.telemetry` counts them, where that isn't the same word.
_METERED = {
    "TOKEN_UNKNOWN": "token",
    "TOKEN_USED": "token",
    "TOKEN_EXPIRED": "token",
    "TAKEN": "token",
    "PROOF": "forged",
    "SIGNATURE": "forged",
    "KEY": "certificate",
    "IDENTITY": "duplicate",
    "SUPERSEDED": "certificate",
    "REPLACED": "duplicate",
    "TOO_LARGE": "oversized",
    "TOO_SLOW": "late",
    "TOO_SOON": "rate",
    "BUSY": "full",
    "NOT_FOUND": "unknown",
    "ORDER": "malformed",
    "BACKWARD": "malformed",
}


def code(reason: str) -> grpc.StatusCode:
    """The status that goes with a reason; what isn't listed is a lack of permission."""
    return _CODES.get(reason, grpc.StatusCode.PERMISSION_DENIED)


def parsed(kind: type[M], data: bytes) -> M:
    """A message of a kind.

    Raises:
        RefusedError: the bytes aren't one.
    """
    try:
        return cast("M", kind.FromString(data))
    except DecodeError as error:
        raise RefusedError("MALFORMED", f"not a {kind.DESCRIPTOR.name}") from error


def caller(context: Context) -> bytes:
    """The certificate of who calls, DER, as TLS has checked it.

    Raises:
        RefusedError: there is none.
    """
    found = list(context.auth_context().get("x509_pem_cert", []))
    if len(found) != 1:
        raise RefusedError("CERTIFICATE", "no certificate")
    return x509.load_pem_x509_certificate(bytes(found[0])).public_bytes(Encoding.DER)


def unary(behaviour: Callable[[bytes, Context], Awaitable[Message]]) -> Method:
    """A method of one request and one reply, in which a refusal is a status."""

    async def call(data: bytes, context: Context) -> bytes:
        reply = await refusing(behaviour(data, context), context)
        return bytes(reply.SerializeToString())

    return grpc.unary_unary_rpc_method_handler(call)


def streaming(behaviour: Callable[[bytes, Context], Awaitable[None]]) -> Method:
    """A method of one request that writes its replies itself; a refusal is a status."""

    async def call(data: bytes, context: Context) -> None:
        await refusing(behaviour(data, context), context)

    return grpc.unary_stream_rpc_method_handler(call)


def duplex(behaviour: Callable[[Context], Awaitable[None]]) -> Method:
    """A method that reads and writes by itself; a refusal is a status."""

    async def call(_: AsyncIterator[bytes], context: Context) -> None:
        await refusing(behaviour(context), context)

    return grpc.stream_stream_rpc_method_handler(call)


async def refusing(call: Awaitable[T], context: Context) -> T:
    """Awaits a method's work; a refusal is logged, and ends the call with its status."""
    try:
        return await call
    except RefusedError as refusal:
        refused(refusal)
        try:
            await context.abort(code(refusal.reason), refusal.why)
        except grpc.aio.InternalError as error:
            # The other side is gone: there is no call any more that could end otherwise.
            raise asyncio.CancelledError from error
        raise AssertionError from refusal  # abort raises


def attestation(device: Device) -> pb.Attestation:
    """Whose identity is which client's, as devices are told."""
    return pb.Attestation(
        client=device.client, identity=device.identity, signature=device.attestation
    )


def refused(refusal: RefusedError) -> None:
    """Logs and counts a refusal: the reason, never who or what."""
    log.warning("refused: %s", refusal.why, extra={"reason": refusal.reason})
    telemetry.refusal(_METERED.get(refusal.reason, refusal.reason))


def server(handlers: list[Handler], limits: Limits, calls: int) -> grpc.aio.Server:
    """A server with the limits that gRPC keeps by itself.

    Args:
        handlers: its services.
        limits: see `Limits`.
        calls: at once, in all.
    """
    options = [
        # What is a little too long is refused by name; more isn't read at all.
        ("grpc.max_receive_message_length", limits.max_frame + 64 * KIB),
        ("grpc.max_send_message_length", limits.max_frame),
        ("grpc.max_metadata_size", 8192),
        ("grpc.max_concurrent_streams", 8),
        ("grpc.max_allowed_incoming_connections", calls + 64),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake * 1000)),
        ("grpc.keepalive_time_ms", int(limits.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout * 1000)),
        ("grpc.max_connection_idle_ms", 120_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),
    ]
    return grpc.aio.server(handlers=handlers, options=options, maximum_concurrent_rpcs=calls)
