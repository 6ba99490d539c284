"""`edge_pb2*`: what `make protocol` makes of `edge.proto` is what is committed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tacit.protocol

HERE = Path(tacit.protocol.__file__).parent
MADE = ("edge_pb2.py", "edge_pb2.pyi", "edge_pb2_grpc.py")


def test_generated_modules_are_the_protos(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    place = tmp_path / "tacit" / "protocol"
    place.mkdir(parents=True)
    shutil.copy(HERE / "edge.proto", place)
    outputs = ("--python_out=.", "--pyi_out=.", "--grpc_python_out=.")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs]
    subprocess.run([*command, "tacit/protocol/edge.proto"], cwd=tmp_path, check=True, timeout=60)
    for name in MADE:
        assert (place / name).read_text() == (HERE / name).read_text(), f"{name}: make protocol"
