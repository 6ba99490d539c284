"""Pulls a second that a stock SuperLink answers on this machine, and what each costs it.

A real ``flower-superlink`` of flwr 1.41 in a process of its own, its Fleet API called as
SuperNodes do: registered and activated with Flower's own client, then ``PullMessages`` with
signed headers over connections that stay open. The pulls themselves come from bare asyncio
sockets, so that the calling side costs little; signatures are renewed once a second at most,
which spares the caller only. Nobody has a message: this is what waiting costs.

First a few nodes pull as fast as they are answered. Then more and more nodes pull every 3 s, as
SuperNodes do, until 5% of pulls take over a second: the last number before that is served.

Run: python benchmarks/peers/superlink_pulls.py [--tls] [--database] [--seconds S] [--most N]
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import ipaddress
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    RegisterNodeFleetRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

HOST = "127.0.0.1"
PATH = "/v1/fleet/pull-messages"
# What a SuperNode of flwr 1.41 sleeps between two pulls (`start_client_internal`).
POLL_SECONDS = 3.0
LATE_SECONDS = 1.0
STEPS = (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)


class Supernode:
    """A node's key, and its pull request as bytes."""

    def __init__(self, address: str, roots: bytes | None) -> None:
        keys = generate_key_pairs()
        self._chain = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(*keys),
        ]
        public = public_key_to_bytes(keys[1])
        with FleetHttpClient.from_server_address(
            address, roots is None, roots, interceptors=self._chain
        ) as client:
            client.RegisterNode(RegisterNodeFleetRequest(public_key=public))
            wanted = ActivateNodeRequest(
                public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
            )
            self._node = Node(node_id=client.ActivateNode(wanted).node_id)
        scheme = "http" if roots is None else "https"
        self._url = f"{scheme}://{address}{PATH}"
        self._signed, self._request = 0.0, b""

    def request(self) -> bytes:
        """The pull, signed within the last second."""
        if time.monotonic() - self._signed > 1.0:
            body = PullMessagesRequest(node=self._node).SerializeToString(deterministic=True)
            media = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
            made = httpx.Request("POST", self._url, content=body, headers=media)
            context = ProtobufRequestContext("/flwr.proto.Fleet/PullMessages", None, made)  # type: ignore[arg-type]
            for interceptor in self._chain:
                interceptor.intercept(context, lambda _: httpx.Response(200))
            lines = [f"POST {PATH} HTTP/1.1", *(f"{k}: {v}" for k, v in made.headers.items())]
            self._request = "\r\n".join([*lines, "", ""]).encode() + body
            self._signed = time.monotonic()
        return self._request


class Pulling:
    """One node's connection, which stays open."""

    def __init__(self, node: Supernode, port: int, context: ssl.SSLContext | None) -> None:
        self._node, self._port, self._context = node, port, context
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def until(self, end: float, pause: float) -> list[tuple[float, float]]:
        """When each pull began and how long it took, with ``pause`` seconds between two."""
        took: list[tuple[float, float]] = []
        await asyncio.sleep(random.uniform(0, pause))
        while (began := time.monotonic()) < end:
            try:
                await self._pull()
            except (asyncio.IncompleteReadError, ConnectionError):
                # Idle for longer than the server allows, while others were being registered.
                self._stream = None
                await self._pull()
            took.append((began, time.monotonic() - began))
            await asyncio.sleep(pause)
        return took

    async def _pull(self) -> None:
        if self._stream is None:
            self._stream = await asyncio.open_connection(HOST, self._port, ssl=self._context)
        reader, writer = self._stream
        writer.write(self._node.request())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = next(int(h.split(":")[1]) for h in head.split("\r\n") if "content-length" in h)
        body = await reader.readexactly(size)
        if head.split(" ", 2)[1] != "200":
            raise RuntimeError(f"SuperLink said {head} {body[:200]!r}")
        PullMessagesResponse.FromString(body)


def certificates(folder: Path) -> list[str]:
    """A certificate for 127.0.0.1 that is its own authority; the options that name it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SuperLink")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "server.pem").write_bytes(made.public_bytes(pem))
    form, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.key").write_bytes(key.private_bytes(pem, form, bare))
    (folder / "server.key").chmod(0o600)
    cert, secret = str(folder / "server.pem"), str(folder / "server.key")
    return ["--ssl-certfile", cert, "--ssl-keyfile", secret, "--ssl-ca-certfile", cert]


def start(folder: Path, port: int, tls: bool, database: bool) -> subprocess.Popen[bytes]:
    """A SuperLink that answers."""
    program = Path(sys.executable).parent / "flower-superlink"
    how = certificates(folder) if tls else ["--insecure"]
    if database:
        how += ["--database", str(folder / "superlink.db")]
    (folder / "secret").write_bytes(os.urandom(32))
    how += ["--superexec-auth-secret-file", str(folder / "secret")]
    made = subprocess.Popen(
        [program, *how, "--isolation", "process", "--host", HOST, "--port", str(port)],
        env={**os.environ, "FLWR_HOME": str(folder / "home"), "FLWR_TELEMETRY_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
    )
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                time.sleep(1.0)
                return made
        if made.poll() is not None:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        time.sleep(0.1)
    made.kill()
    raise RuntimeError("SuperLink didn't start in 30 s")


def cpu(process: psutil.Process) -> float:
    """Processor seconds of a process and its children so far."""
    times = [p.cpu_times() for p in [process, *process.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


class Load:
    """Nodes that pull from one SuperLink.

    Args:
        server: its process.
        port: where it listens.
        roots: its authority's certificate, or None without TLS.
    """

    def __init__(self, server: psutil.Process, port: int, roots: bytes | None) -> None:
        self._server, self._port, self._roots = server, port, roots
        self._context = ssl.create_default_context(cadata=roots.decode()) if roots else None
        self._nodes: list[Pulling] = []

    async def run(self, nodes: int, seconds: float, pause: float) -> dict[str, Any]:
        """What ``nodes`` nodes saw in ``seconds``, after connecting and pulling a while."""
        while len(self._nodes) < nodes:
            node = Supernode(f"{HOST}:{self._port}", self._roots)
            self._nodes.append(Pulling(node, self._port, self._context))

        start = time.monotonic() + 2.0 + 2 * pause
        pulls = [one.until(start + seconds, pause) for one in self._nodes[:nodes]]
        done = asyncio.gather(*pulls)
        await asyncio.sleep(start - time.monotonic())
        spent, own, began = cpu(self._server), time.process_time(), time.monotonic()
        found = [pull for one in await done for pull in one]
        took = sorted(length for at, length in found if at >= began)
        wall = time.monotonic() - began
        return {
            "nodes": nodes,
            "pulls_per_second": len(took) / wall,
            "cpu_ms_per_pull": 1e3 * (cpu(self._server) - spent) / len(took),
            "caller_cpu_ms_per_pull": 1e3 * (time.process_time() - own) / len(took),
            "p50_ms": 1e3 * took[len(took) // 2],
            "p95_ms": 1e3 * took[len(took) * 95 // 100],
        }


async def climb(load: Load, seconds: float, most: int) -> tuple[dict[str, Any], list[Any]]:
    """A few nodes flat out; then more and more that poll, until too many pulls are late."""
    flat_out, steps = await load.run(32, seconds, 0.0), []
    for nodes in (n for n in STEPS if n <= most):
        steps.append(await load.run(nodes, max(seconds, 3 * POLL_SECONDS), POLL_SECONDS))
        if steps[-1]["p95_ms"] > 1e3 * LATE_SECONDS:
            break
    return flat_out, steps


def measure(seconds: float, tls: bool, database: bool, most: int) -> dict[str, Any]:
    """Pulls as fast as they are answered, then of more and more nodes that poll."""
    with tempfile.TemporaryDirectory() as home, socket.socket() as probe:
        folder = Path(home)
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
        probe.close()
        server = start(folder, port, tls, database)
        try:
            roots = (folder / "server.pem").read_bytes() if tls else None
            load = Load(psutil.Process(server.pid), port, roots)
            flat_out, steps = asyncio.run(climb(load, seconds, most))
        finally:
            # It waits for idle connections when asked nicely.
            server.kill()
            server.wait(20)
    served = [s["nodes"] for s in steps if s["p95_ms"] <= 1e3 * LATE_SECONDS]
    return {
        "flwr": version("flwr"),
        "tls": tls,
        "database": database,
        "flat_out": flat_out,
        "polling": steps,
        "served": max(served, default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--database", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--most", type=int, default=STEPS[-1])
    options = parser.parse_args()
    print(json.dumps(measure(options.seconds, options.tls, options.database, options.most)))


if __name__ == "__main__":
    main()
