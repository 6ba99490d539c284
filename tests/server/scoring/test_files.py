"""Files of records: what is broken, or made to harm, is an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tacit.privacy.errors import ConfigError, DataError
from tacit.server.api.routes.score import _bounded
from tacit.server.scoring import files
from tacit.server.scoring.model import Served, as_records
from tacit.server.scoring.settings import Settings

FOUR = cast(
    "Served",
    SimpleNamespace(
        graph=SimpleNamespace(shape=(4,), dtype="float32"),
        records=lambda given: as_records(given, "float32", (4,)),
    ),
)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, inputs=np.ones((3, 4), np.float32))
    return file.getvalue()


def npy(header: str) -> bytes:
    text = header.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


HEAD = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("cut.npz", npz()[:60]),
        ("method.npz", npz().replace(b"\x08\x00", b"\x63\x00")),
        ("crc.npz", npz()[:60] + b"\x00\x01" + npz()[62:]),
        ("huge.npy", npy(HEAD % "(999999999999, 4)")),
        ("open.npy", npy("{'descr': '<f4', 'shape': (((")),
        ("deep.jsonl", b"[" * 100_000 + b"]" * 100_000),
        ("long.jsonl", b"[" + b"1" * 5_000 + b", 0, 0, 0]"),
        ("field.csv", b'"' + b"1" * 200_000 + b'",1,1,1\n'),
    ],
)
def test_what_is_broken_is_an_error_that_names_the_file(
    name: str, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        files.read(tmp_path / name, FOUR)


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz())
    assert files.read(tmp_path / "a.npz", FOUR).shape == (3, 4)


@pytest.mark.parametrize("odd", ["x", None, {"a": 1}])
def test_a_request_holds_numbers_before_anything_is_made_of_it(odd: Any) -> None:
    """An array of texts has the longest one's size for each."""
    for inputs in ([odd, 1.0], [[1.0, 2.0], [odd, 2]]):
        with pytest.raises(ConfigError, match="something else than numbers"):
            _bounded(inputs, Settings())
    _bounded([[1, 2.5], [True, 3]], Settings())
