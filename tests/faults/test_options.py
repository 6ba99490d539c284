"""gRPC ignores an option that it doesn't know: each name that is set has to be one that it does.

A ping interval under a wrong name once had the gateway hang up on every device at its third
keepalive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc

from tacit.client.edge import link
from tacit.server.gateway import wire
from tacit.server.gateway.settings import Limits

LIBRARY = Path(cygrpc.__file__).read_bytes()
# Of the Python layer, which takes it for itself.
OWN = {"grpc.enable_retries", "grpc.ssl_target_name_override"}


def names(monkeypatch: pytest.MonkeyPatch, where: str, make: Any) -> list[str]:
    seen: list[str] = []

    def noted(*_: Any, options: Any, **more: Any) -> None:
        seen.extend(name for name, _ in options)

    monkeypatch.setattr(grpc.aio, where, noted)
    make()
    return seen


def test_the_gateways_options_are_gRPCs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, "server", lambda: wire.server([], Limits(), 10))
    assert len(found) > 8
    assert [name for name in found if name.encode() + b"\x00" not in LIBRARY] == []


def test_a_devices_options_are_gRPCs(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = grpc.ssl_channel_credentials()
    make = lambda: link.channel("127.0.0.1:1", credentials, "gateway")  # noqa: E731
    found = names(monkeypatch, "secure_channel", make)
    assert len(found) > 5
    assert [n for n in found if n.encode() + b"\x00" not in LIBRARY and n not in OWN] == []
