"""Connections of those who say little, or never end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from tacit.server.api.wire import HEAD, Wire


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers once the body is there, if it is asked for by POST."""
    more = scope["method"] == "POST"
    while more:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Hasty(Wire):
    """Waits for less than a test does."""

    patience = 0.3


@contextlib.contextmanager
def served(wire: type[Wire]) -> Iterator[socket.socket]:
    """A connection to a server."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    config = uvicorn.Config(app, http=wire, ws="none", lifespan="off", log_config=None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert ready.wait(30)
        try:
            with socket.create_connection(listener.getsockname(), timeout=20) as made:
                yield made
        finally:
            server.should_exit = True
            thread.join()


def closed(made: socket.socket) -> bool:
    """Whether the other side has ended; a timeout is an error."""
    try:
        return made.recv(100) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_who_never_ends_a_head_is_cut_off(said: bytes) -> None:
    with served(Hasty) as made:
        made.sendall(said)
        assert closed(made)


def test_who_trickles_a_second_head_is_cut_off() -> None:
    with served(Hasty) as made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert made.recv(1000).startswith(b"HTTP/1.1 204")
        made.sendall(b"GET / HTTP/1.1\r\n")
        assert closed(made)


def test_a_head_has_an_end() -> None:
    with served(Wire) as made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                made.sendall(b"X: " + b"a" * (HEAD // 16) + b"\r\n")
        assert closed(made)


def test_bodies_and_later_requests_pass() -> None:
    with served(Wire) as made:
        for _ in range(3):
            body = b"a" * (HEAD * 4)
            made.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
            made.sendall(body)
            assert made.recv(1000).startswith(b"HTTP/1.1 204")
        # Answered before it has come.
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert made.recv(1000).startswith(b"HTTP/1.1 204")
        made.sendall(body)
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert made.recv(1000).startswith(b"HTTP/1.1 204")
